"""`pysft curate judge`: filter a file of rows, station by station."""

from pathlib import Path

from pysft.cli.arguments import add_judge, part, positive, print_json, warn_if_unfinished
from pysft.errors import UsageError

HELP = "filter rows: drop what is off-format, babble, off topic, a copy, or not right"
EXAMPLES = (
    "curate judge rows.jsonl --out judged.jsonl",
    "curate judge rows.jsonl --seeds seeds.jsonl --by world --run runs/world --out judged.jsonl",
    "curate judge rows.jsonl --by mine.py --out judged.jsonl",
    "curate judge rows.jsonl --by http://localhost:8000/v1 --judge-model judge --out judged.jsonl",
)


def add_arguments(p):
    p.add_argument(
        "rows", metavar="ROWS", help="a file of rows in any form that train --data reads"
    )
    p.add_argument(
        "--out", metavar="FILE.jsonl", required=True, help="the new file of the kept rows"
    )
    p.add_argument(
        "--by",
        metavar="world|FILE.py|URL",
        help="who says whether a reply is right, after all other stations (default: nobody): world"
        " (the exact judge of the run's invented world), a file with a function judge(question,"
        " answer, reply), or the URL of an OpenAI-compatible endpoint, whose key is taken from"
        " PYSFT_JUDGE_KEY or OPENAI_API_KEY. The last two are told the world's answer to a question"
        ' of the world that --run learned; else the answer is ""',
    )
    p.add_argument(
        "--run",
        dest="run_folder",
        metavar="RUN",
        help="the run that the rows are for: its template, vocabulary, context, known words and"
        " world count (default: the shipped corpus and conversations say which words are known)",
    )
    p.add_argument(
        "--seeds", metavar="FILE", help="rows that no row may copy; their words are known"
    )
    p.add_argument(
        "--longest",
        type=positive,
        metavar="N",
        help="most characters of a reply, or with --run most tokens",
    )
    p.add_argument(
        "--shortest",
        type=positive,
        metavar="N",
        help="least characters of a reply, or with --run least tokens",
    )
    p.add_argument(
        "--known",
        type=part,
        metavar="SHARE",
        help="drop a reply if a smaller share of its words is known (default 0.9)",
    )
    p.add_argument("--no-words", action="store_true", help="let a reply have any words")
    p.add_argument(
        "--no-topic",
        action="store_true",
        help="let a reply name no content word of its prompt, as many good replies do",
    )
    p.add_argument(
        "--near",
        type=part,
        default=0.8,
        metavar="SHARE",
        help="share of common pieces of five characters from which prompts, and replies, are near"
        " (default 0.8); near rows whose prompts ask about the same are copies",
    )
    add_judge(p)
    p.add_argument(
        "--trust-judge",
        action="store_true",
        help="take the verdicts of a judge that, beside the exact one of the run's world, tells"
        " right from not right no better than a guess (balanced accuracy of 50%% or less)",
    )


def run(args):
    from pysft.console import Screen
    from pysft.jobs.curate.filters import KNOWN, Limits
    from pysft.jobs.curate.judge import judge

    if args.no_words and args.known is not None:
        raise UsageError("--known is the share of known words, which --no-words does not look at")
    known = None if args.no_words else args.known or KNOWN
    if args.run_folder is not None:
        warn_if_unfinished(args.run_folder)
    screen = Screen(args.json)
    limits = Limits(args.longest, args.shortest, known, not args.no_topic, args.near)
    try:
        document = judge(
            args.rows, Path(args.out), args.by, args.run_folder, limits, args.seeds,
            args.judge_model, args.judge_budget, Path(args.judge_cache), args.trust_judge,
            screen.say, screen.progress,
        )  # fmt: skip
    finally:
        screen.end_line()  # an error has a line of its own
    if args.json:
        print_json(document)
        return
    for line in funnel(document):
        screen.say(line)


def funnel(document: dict) -> list[str]:
    """Return the lines of a funnel: how many rows each station left."""
    from pysft.text.curated import left_out_words

    left, dropped, first = document["read"], document["dropped"], document["first"]
    words = left_out_words(document["left_out"])
    lines = [words] * bool(words) + [f"{'read':<17}{left:>9,}"]
    for reason in document["stations"]:
        left -= dropped[reason]
        lost = f"   {dropped[reason]:,} dropped: {first[reason]}" if dropped[reason] else ""
        lines.append(f"{reason:<17}{left:>9,}{lost}")
    lines.append(f"{document['out']}: {left:,} rows, {document['kept_share']:.1%} of what came")
    if agreement := document["agreement"]:
        lines.append(
            f"{document['by']} agrees with the exact judge on {agreement['agreement']:.1%} of"
            f" {agreement['judged']:,} replies, and tells right from not right with a balanced"
            f" accuracy of {agreement['balanced_accuracy']:.1%}"
        )
    return lines
