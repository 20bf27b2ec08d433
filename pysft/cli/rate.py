"""`pysft rate`: mark the replies of several checkpoints, or put sampled replies in an order."""

import sys
from pathlib import Path

from pysft.cli.arguments import (
    add_computing,
    add_judge,
    add_precision,
    positive,
    print_json,
    tuned_stage,
    whole,
)
from pysft.errors import UsageError

HELP = (
    "mark the replies of several checkpoints, or put sampled replies in order, blind and shuffled"
)
EXAMPLES = (
    "rate runs/tiny",
    "rate runs/tiny --steps 850 8500 --prompts 12",
    "rate replies.jsonl",
    "rate replies.jsonl --by labelers --run runs/world --out rankings.jsonl",
    "rate replies.jsonl --by http://localhost:8000/v1 --judge-model judge",
)
OF_MARKS = ("steps", "prompts")  # flags that are for a run's folder alone
OF_ORDERS = ("by", "run_of_world", "out", "labeler", "judge_model", "judge_budget")


def add_arguments(p):
    add_computing(p)
    add_precision(p, "(default: as the reward model of --by was trained)")
    p.add_argument(
        "what",
        metavar="RUN|FILE",
        help="a run's folder, or one stage of it: mark the replies of its checkpoints from 1 to 5."
        " A file that generate --prompts has written: put the replies to each prompt in order",
    )
    p.add_argument(
        "--steps",
        type=positive,
        nargs="+",
        action="extend",
        metavar="STEP",
        help="of a run: the checkpoints (default: up to four, those that the criteria of select"
        " pick first)",
    )
    p.add_argument(
        "--prompts",
        type=positive,
        metavar="N",
        help="of a run: mark the replies to N prompts (default: 10)",
    )
    p.add_argument(
        "--seed",
        type=whole,
        metavar="N",
        help="seed of the order in which a person sees things (default: a new one), and of what"
        " --by draws (default: 0)",
    )
    p.add_argument(
        "--by",
        metavar="NAME",
        help="who orders the replies in the place of a person: world (the exact judge of an"
        " invented world), labelers (simulated people; ann,lena are two of them), the folder of a"
        " reward model, FILE.py:function, or the URL of an OpenAI-compatible endpoint, whose key is"
        " taken from PYSFT_JUDGE_KEY or OPENAI_API_KEY",
    )
    p.add_argument(
        "--run",
        dest="run_of_world",
        metavar="RUN",
        help="the run that learned the world, for --by world and --by labelers",
    )
    p.add_argument(
        "--out",
        metavar="FILE",
        help="the file of rankings, to which is added (default: FILE.ratings beside the replies)",
    )
    p.add_argument(
        "--labeler", metavar="NAME", help="the name of the person who orders (default: person)"
    )
    add_judge(p)


def run(args):
    is_file = Path(args.what).is_file()
    meant = is_file or args.what.endswith((".jsonl", ".json")) or _given(args, OF_ORDERS)
    refused = _given(args, OF_MARKS if meant else OF_ORDERS)
    if refused:
        flag = "--run" if refused[0] == "run_of_world" else f"--{refused[0].replace('_', '-')}"
        what = "a run's folder" if meant else "a file of replies"
        raise UsageError(f"{flag} is for {what}; leave it out")
    document = _orders(args) if meant else _marks(args)
    if args.json:
        print_json(document)


def _given(args, names) -> list[str]:
    return [name for name in names if getattr(args, name) is not None]


def _marks(args) -> dict:
    from pysft.measure.rate import rate

    return rate(
        tuned_stage(args.what), args.steps, args.prompts or 10, args.seed, *_person(args.json)
    )


def _person(is_json: bool):
    """Return (ask, say), which talk to the person at the terminal."""
    stream = sys.stderr if is_json else sys.stdout

    def ask(question):
        print(question, end="", file=stream, flush=True)
        if sys.stdin is None:
            raise EOFError
        return input()

    def say(text=""):
        print(text, file=stream)

    return ask, say


def _orders(args) -> dict:
    from pysft.console import Screen, command
    from pysft.measure.orders import document_lines, rank_by_person
    from pysft.text.sampled import read_sampled

    if Path(args.what).is_dir():
        raise UsageError(f"{args.what}: a folder; name a file that generate --prompts has written")
    sampled = read_sampled(args.what)
    out = Path(f"{args.what}.ratings" if args.out is None else args.out)
    screen = Screen(args.json)
    if args.by is None:
        for name in ("run_of_world", "judge_model", "judge_budget"):
            if getattr(args, name) is not None:
                flag = "--run" if name == "run_of_world" else f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} needs --by, which says who orders the replies")
        labeler = "person" if args.labeler is None else args.labeler
        found = rank_by_person(sampled, out, labeler, args.seed, *_person(args.json))
    else:
        from pysft.jobs.collect import rank
        from pysft.nn.computing import computing_ops

        if args.labeler is not None:
            raise UsageError("--labeler is the name of a person; with --by leave it out")
        ops = computing_ops(args.ops, args.threads, args.precision)
        found = rank(
            sampled, out, args.by, args.run_of_world, ops, args.seed or 0, args.judge_model,
            args.judge_budget, Path(args.judge_cache), screen.say, screen.progress,
        )  # fmt: skip
        screen.end_line()
    for line in document_lines(found):
        screen.say(line)
    if found["rated"] and not args.json:
        screen.say(f"Check them: {command('audit', out)}")
    return found
