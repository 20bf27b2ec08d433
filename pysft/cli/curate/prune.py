"""`pysft curate prune`: keep the hardest share of a file of rows."""

from pathlib import Path

from pysft.cli.arguments import (
    add_computing,
    add_judge,
    add_precision,
    positive,
    print_json,
    warn_if_unfinished,
    whole,
)

HELP = "keep the hardest rows: those whose prompts a run answers wrongly most often"
EXAMPLES = (
    "curate prune judged.jsonl --run runs/world --keep 0.1 --out hard.jsonl --map map.jsonl",
    "curate prune map.jsonl --by random --keep 0.1 --out control.jsonl",
    "curate prune judged.jsonl --by loss --base runs/tiny --keep 0.1 --out hard.jsonl",
    "curate prune judged.jsonl --run runs/tiny --by mine.py --keep 0.1 --out hard.jsonl",
)


def add_arguments(p):
    add_computing(p)
    add_precision(p, "(default: as the run was trained)")
    p.add_argument(
        "rows", metavar="ROWS", help="a file of rows in any form that train --data reads"
    )
    p.add_argument(
        "--keep",
        type=float,
        required=True,
        metavar="SHARE",
        help="the share of the rows that is kept, above 0 and at most 1",
    )
    p.add_argument(
        "--out", metavar="FILE.jsonl", required=True, help="the new file of the kept rows"
    )
    p.add_argument(
        "--by",
        default="world",
        metavar="world|FILE.py|URL|loss|random",
        help="who says how hard a row is. The first three judge k replies of RUN to its prompt, as"
        " in curate judge, and the difficulty is the share that is not right (default: world);"
        " FILE.py and URL are told the world's answer to a question of RUN's world, else the row's"
        " own reply as the right answer;"
        " loss: the loss of the row's reply; random: nobody, the control that belongs beside every"
        " pruning, and is drawn from its map, so that rows that could not be judged are in neither",
    )
    p.add_argument(
        "--run",
        dest="run_folder",
        metavar="RUN",
        help="the run whose replies are judged, or with --by loss whose loss counts. With --by"
        " random, rows are drawn from those that it can answer",
    )
    p.add_argument(
        "--base",
        metavar="RUN",
        help="with --by loss: the base whose loss counts, of the row as plain text",
    )
    p.add_argument(
        "-k", type=positive, metavar="K", help="replies to each prompt, 1 to 9 (default: 8)"
    )
    p.add_argument("--easiest", action="store_true", help="keep the easiest rows instead")
    p.add_argument(
        "--map", metavar="FILE.jsonl", help="a new file of all rows, each with its difficulty"
    )
    p.add_argument(
        "--seed",
        type=whole,
        default=0,
        metavar="N",
        help="seed of the replies, of the order among rows that are equally hard, and of random"
        " (default 0)",
    )
    add_judge(p)


def run(args):
    from pysft.console import Screen
    from pysft.jobs.curate.prune import Order, prune
    from pysft.nn.computing import computing_ops

    order = Order(
        args.keep, args.by, args.run_folder, args.base, args.k, args.easiest, args.seed,
        args.judge_model, args.judge_budget, Path(args.judge_cache),
    )  # fmt: skip
    if args.run_folder is not None:
        warn_if_unfinished(args.run_folder)
    screen = Screen(args.json)
    table = None if args.map is None else Path(args.map)
    ops = computing_ops(args.ops, args.threads, args.precision)
    try:
        document = prune(args.rows, Path(args.out), order, table, ops, screen.say, screen.progress)
    finally:
        screen.end_line()  # an error has a line of its own
    if args.json:
        print_json(document)
        return
    for line in _lines(document):
        screen.say(line)


def _lines(d: dict) -> list[str]:
    from pysft.text.curated import left_out_words

    lost = ", ".join(f"{n:,} {reason}" for reason, n in d["dropped"].items() if n)
    lines = [f"{d['out']}: {d['written']:,} of {d['read']:,} rows" + (f" ({lost})" if lost else "")]
    lines += [words] if (words := left_out_words(d["left_out"])) else []
    if d["difficulty"] is not None:
        unit = "not right" if d["k"] else "nats a token"
        mean, kept = (d["difficulty"][name] for name in ("mean", "of_kept"))
        shown = [f"{x:.1%}" if d["k"] else f"{x:.3f}" for x in (mean, kept)]
        lines.append(f"difficulty: {shown[0]} {unit} on average, {shown[1]} of what was kept")
    if d["histogram"] is not None:
        lines.append(f"rows by how many of {d['k']} replies are right:")
        lines += [f"{n:>3} {rows:>9,}" for n, rows in enumerate(d["histogram"])]
    return lines
