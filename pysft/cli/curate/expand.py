"""`pysft curate expand`: let a teacher write thousands of rows like some dozens of seeds."""

from pathlib import Path

from pysft.cli.arguments import (
    add_computing,
    add_precision,
    positive,
    print_json,
    warn_if_unfinished,
    whole,
)

HELP = "let a teacher write new prompts and replies, like those of some written examples"
EXAMPLES = (
    "curate expand seeds.jsonl --teacher runs/teacher --out expanded.jsonl",
    "curate expand seeds.jsonl --teacher runs/tiny --prompts prompts.txt --out expanded.jsonl",
    "curate expand seeds.jsonl --teacher https://api.example.com/v1 --teacher-model NAME"
    " --out expanded.jsonl",
)


def add_arguments(p):
    add_computing(p)
    add_precision(p, "(default: as the teacher was trained)")
    p.add_argument(
        "seeds",
        metavar="SEEDS",
        help="a file of conversations, in any form that train --data reads; the first exchange of"
        " each counts",
    )
    p.add_argument(
        "--teacher",
        required=True,
        metavar="RUN|URL",
        help="a run that was trained on the seeds without a mask (train --data SEEDS --grade"
        " everything), so that it writes both sides; or the URL of an OpenAI-compatible endpoint,"
        " whose key is taken from PYSFT_JUDGE_KEY or OPENAI_API_KEY",
    )
    p.add_argument("--teacher-model", metavar="NAME", help="the model of the endpoint")
    p.add_argument(
        "--teacher-budget",
        type=positive,
        metavar="N",
        help="at most N calls of the endpoint; what came until then is written",
    )
    p.add_argument(
        "--teacher-cache",
        metavar="DIR",
        help="where the endpoint's answers are kept, so that nothing is asked twice (default"
        " taught)",
    )
    p.add_argument("--rows", type=positive, metavar="N", help="rows to write (default 2000)")
    p.add_argument(
        "--prompts",
        metavar="FILE|world:SPLIT",
        help="of a run, which may then be any that talks: it only answers these prompts, each as"
        " often as --rows needs, as generate --prompts reads them",
    )
    p.add_argument(
        "--near",
        type=float,
        metavar="SHARE",
        help="share of common pieces of five characters from which prompts, and replies, are near"
        " (default 0.8); a row near to a seed, whose prompts ask about the same, is a copy",
    )
    p.add_argument(
        "--most-copied",
        type=float,
        metavar="SHARE",
        help="refuse a teacher that copies a larger share of its rows from the seeds (default 0.5)",
    )
    p.add_argument("--out", required=True, metavar="FILE.jsonl", help="the new file of rows")
    p.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="the same seed gives the same rows"
    )
    p.add_argument(
        "--tokens",
        type=positive,
        metavar="N",
        help="at most N tokens of a run's prompt and of its reply, ends included (default 120), or"
        " of an endpoint's answer (default 2048)",
    )


def run(args):
    from pysft.console import Screen, command
    from pysft.jobs.curate.expand import MOST_COPIED, ROWS, expand
    from pysft.measure.raters import is_endpoint
    from pysft.nn.computing import computing_ops
    from pysft.text.conversation import short
    from pysft.text.curated import left_out_words
    from pysft.text.near_duplicates import NEAR

    if not is_endpoint(args.teacher):
        warn_if_unfinished(args.teacher)
    screen, out = Screen(args.json), Path(args.out)
    found, first = expand(
        args.seeds, args.teacher, out, args.rows or ROWS, args.prompts,
        NEAR if args.near is None else args.near,
        MOST_COPIED if args.most_copied is None else args.most_copied,
        args.seed, args.tokens, computing_ops(args.ops, args.threads, args.precision),
        args.teacher_model, args.teacher_budget, args.teacher_cache, screen.say, screen.progress,
    )  # fmt: skip
    screen.end_line()
    if args.json:
        print_json(found)
        return
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in found["dropped"].items())
    print(
        f"{out}: {found['written']:,} of {found['wanted']:,} rows, of {found['tries']:,} tries from"
        f" {found['read']:,} seeds; {found['distinct_prompts']:,} different prompts"
    )
    print(f"dropped: {dropped}")
    if words := left_out_words(found["left_out"]):
        print(f"seeds {words}")
    print(f"copied: {found['copied']:.1%} of the tries that have an end and a form")
    print(f"for example: {short(first.asked)} -> {short(first.reply)}")
    judged = out.with_name(f"{out.stem}-judged.jsonl")
    # Rows that ask about what is sealed are dropped with the run that knows it alone.
    run = ("--run", Path(args.teacher)) if found["teacher_has_world"] else ()
    words = ("judge", out, "--seeds", Path(args.seeds), *run, "--out", judged)
    print(f"Filter them: {command('curate', *words)}")
