"""`pysft curate STEP`: make a data set out of few written examples, step by step.

A step reads a file of rows and writes another (text/curated.py). Each is a module of this folder
with HELP, EXAMPLES, add_arguments(p) and run(args), like a verb."""

import argparse

from pysft.cli.arguments import EXIT_CODES
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
        q = steps.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog="\n".join(
                ["examples:", *("  python -m pysft " + e for e in module.EXAMPLES), EXIT_CODES]
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        q.set_defaults(run_step=module.run)
        q.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,  # so that `curate --json STEP` keeps its own
            help="one JSON document on standard output, messages on standard error",
        )
        module.add_arguments(q)


def run(args):
    return args.run_step(args)
