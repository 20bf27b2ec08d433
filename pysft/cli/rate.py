"""`pysft rate`: mark the replies of several checkpoints, blind and in random order."""

import sys

from pysft.cli.arguments import add_run_folder, positive, print_json, tuned_stage, whole

HELP = "mark the replies of several checkpoints, blind and in random order"
EXAMPLES = ("rate runs/tiny", "rate runs/tiny --steps 850 8500 --prompts 12")


def add_arguments(p):
    add_run_folder(p)
    p.add_argument(
        "--steps",
        type=positive,
        nargs="+",
        action="extend",
        metavar="STEP",
        help="the checkpoints (default: up to four, those that the criteria of select pick first)",
    )
    p.add_argument(
        "--prompts",
        type=positive,
        default=10,
        metavar="N",
        help="mark the replies to N prompts (default 10)",
    )
    p.add_argument("--seed", type=whole, metavar="N", help="seed of the order (default: a new one)")


def run(args):
    from pysft.measure.rate import rate

    stream = sys.stderr if args.json else sys.stdout

    def ask(question):
        print(question, end="", file=stream, flush=True)
        if sys.stdin is None:
            raise EOFError
        return input()

    def say(text=""):
        print(text, file=stream)

    document = rate(tuned_stage(args.run_folder), args.steps, args.prompts, args.seed, ask, say)
    if args.json:
        print_json(document)
