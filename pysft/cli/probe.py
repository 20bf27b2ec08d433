"""`pysft probe`: map what a model knows, and write rows that teach it to refuse the rest."""

from pathlib import Path

from pysft.cli.arguments import (
    add_computing,
    add_judge,
    add_run_folder,
    positive,
    print_json,
    whole,
)

HELP = "map what a model knows, and write conversations that teach it to refuse the rest"
EXAMPLES = (
    "probe runs/world --out runs/map",
    "probe runs/world --questions world:train --share 0.1 --out runs/map",
    "probe runs/mine --questions questions.jsonl --judge http://localhost:8000/v1 --judge-model"
    " NAME --out runs/map",
    "probe runs/other --against runs/map/map.jsonl --out runs/map2",
)


def add_arguments(p):
    add_computing(p)
    add_run_folder(p)
    p.add_argument(
        "--questions",
        default="world",
        metavar="FILE|world:SPLIT",
        help="what is asked: a .txt with a question on each line, conversations whose replies are"
        " true, or questions about the world that the run learned (default world: those of reward"
        " and ppo, which no fine-tuning asks)",
    )
    p.add_argument(
        "-k", type=positive, default=8, metavar="K", help="replies to each, 1 to 9 (default 8)"
    )
    p.add_argument(
        "--judge",
        default="world",
        metavar="WHO",
        help="who says what is right: world (the exact judge, the default), FILE.py with a function"
        " judge(question, answer, reply), or the URL of an endpoint",
    )
    add_judge(p)
    p.add_argument(
        "--known",
        type=float,
        default=0.6,
        metavar="SHARE",
        help="a question is known if at least this share of its replies is right (default 0.6)",
    )
    p.add_argument(
        "--unknown",
        type=float,
        default=0.125,
        metavar="SHARE",
        help="it is unknown if at most this share is (default 0.125); between them it is mixed",
    )
    p.add_argument(
        "--share",
        type=float,
        default=0.08,
        metavar="SHARE",
        help="refusals among all that is trained on afterwards (default 0.08; the source text says"
        " 5 to 10%%; at most 0.5)",
    )
    p.add_argument(
        "--recall",
        type=positive,
        nargs="?",
        const=10000,
        metavar="N",
        help="write rows that recall first, as a thought, and then look whom it is about; N pairs"
        " of rows teach to compare (default 10,000)",
    )
    p.add_argument(
        "--refusal",
        default="I do not know that.",
        metavar="TEXT",
        help="the refusal that is taught for questions of a file (default: %(default)s)",
    )
    p.add_argument(
        "--against", metavar="MAP", help="the map.jsonl of another model, to see how far they agree"
    )
    p.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder")
    p.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="the same seed gives the same map"
    )


def run(args):
    from pysft.console import Screen
    from pysft.jobs.probe import Orders, probe
    from pysft.nn.computing import computing_ops

    screen = Screen(args.json)
    orders = Orders(
        args.questions,
        args.judge,
        args.judge_model,
        args.judge_budget,
        Path(args.judge_cache),
        args.k,
        args.known,
        args.unknown,
        args.refusal,
        args.share,
        args.recall or 0,
        None if args.against is None else Path(args.against),
        args.seed,
    )
    ops = computing_ops(args.ops, args.threads)
    document = probe(args.run_folder, ops, orders, Path(args.out), screen.say, screen.progress)
    screen.end_line()
    if args.json:
        print_json(document)
    else:
        _show(document, args.run_folder)


def _show(d: dict, run: str) -> None:
    """Print the figures of a map, and what to do next."""
    asked, rows = d["questions"], d["rows"]
    print(f"{asked:,} questions, {d['k']} replies to each at temperature 1, judged by {d['judge']}")
    for kind in ("known", "mixed", "unknown", "malformed"):
        print(f"{kind:<24}{d[kind]:>7,}  {d[kind] / asked:.0%}")
    if d["not_judged"]:
        print(f"{'not judged':<24}{d['not_judged']:>7,}")
    for row in d["by_tellings"]:
        kinds = ", ".join(f"{row[kind]:.0%} {kind}" for kind in ("known", "mixed", "unknown"))
        what = f"told {row['tellings']:,} times"
        print(f"  {what:<22}{row['questions']:>7,}  {row['right']:.0%} right: {kinds}")
    if d["balanced_accuracy"] is not None:
        print(f"{'the map is right in':<24}{d['balanced_accuracy']:>7.1%}  of told and never told")
    if d["surprise"] is not None:
        nats = "{known:.2f} nats a token for known questions, {unknown:.2f} for unknown".format(
            **d["surprise"]
        )
        print(f"{'its own surprise':<24}{nats} (AUC {d['surprise']['auc']:.2f})")
    if d["agreement"] is not None:
        print(f"{'agrees with the other':<24}{d['agreement']:>7.1%}  (by chance {d['chance']:.0%})")
    if isinstance(d["data"], list):
        for path, count in zip(d["data"], rows.values()):
            print(f"{path}: {count:,} rows")
        print(f"Train on them: {_next(d, run)}")
        return
    print(
        f"{d['data']}: {rows['answers']:,} answers of its own and {rows['refusals']:,} refusals,"
        f" {rows['share']:.1%} of all with the {d['trained']:,} conversations that it was tuned on"
    )
    if rows["refusals"] < rows["wanted"]:
        print(f"  (too few questions are unknown for {rows['wanted']:,} refusals; ask more)")
    print(f"Train on it, beside the old data: {_next(d, run)}")


def _next(d: dict, run: str) -> str:
    """The command that tunes a model on the rows: the run's own on rows that recall, the base under
    it on others, beside the old data."""
    from pysft.console import command
    from pysft.jobs.probe import beside, recalling
    from pysft.run.stage import find_stage

    arguments = recalling if isinstance(d["data"], list) else beside
    return command("train", *arguments(find_stage(run), d))
