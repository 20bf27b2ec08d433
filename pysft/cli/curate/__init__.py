"""`pysft curate STEP`: make a data set out of few written examples, step by step.

A step reads a file of rows and writes another (text/curated.py). Each is a module of this folder
with HELP, EXAMPLES, add_arguments(p) and run(args), like a verb."""

import argparse

from pysft.cli.arguments import add_command
from pysft.cli.curate import distil, expand, judge, prune, revise

HELP = "make a data set step by step: expand, judge, prune, distil, revise"
EXAMPLES = (
    "curate expand seeds.jsonl --teacher runs/teacher --out expanded.jsonl",
    "curate judge expanded.jsonl --seeds seeds.jsonl --out judged.jsonl",
    "curate prune judged.jsonl --run runs/mine --by judge.py --keep 0.1 --out hard.jsonl",
    "curate STEP --help",
)
STEPS = {m.__name__.rpartition(".")[2]: m for m in (expand, judge, prune, distil, revise)}


def add_arguments(p):
    steps = p.add_subparsers(dest="step", required=True, metavar="STEP")
    for name, module in STEPS.items():
        # Without a default, a --json before the step stays.
        q = add_command(steps, name, module, json_default=argparse.SUPPRESS)
        q.set_defaults(run_step=module.run)


def run(args):
    return args.run_step(args)
