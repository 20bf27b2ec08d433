"""`pysft curate revise`: a model criticises its answers by a constitution, and revises them."""

from pathlib import Path

from pysft.cli.arguments import (
    add_computing,
    add_precision,
    add_run_folder,
    positive,
    print_json,
    warn_if_unfinished,
    whole,
)
from pysft.errors import UsageError

HELP = "let a model criticise its answers by the principles of a constitution, and revise them"
EXAMPLES = (
    "curate revise runs/rude --constitution world --out revised.jsonl --pairs own.jsonl",
    "curate revise runs/mine --constitution my.toml --prompts asked.txt --out revised.jsonl",
    "curate revise runs/rude --measure --prompts world:sealed",
)
OF_REVISIONS = ("constitution", "rounds", "out", "pairs")  # flags that --measure has no use for


def add_arguments(p):
    add_run_folder(p, "a run's folder, or one stage of it, that can answer")
    p.add_argument(
        "--constitution",
        metavar="FILE.toml|world",
        help="the principles: a file with a table for each, or world, the file that ships for"
        " invented worlds",
    )
    p.add_argument(
        "--prompts",
        metavar="FILE|world:SPLIT",
        default="world",
        help="what is answered: each line of a text, each row of a .jsonl, or the questions of the"
        " world that the run learned (default: world:reward)",
    )
    p.add_argument(
        "-k",
        type=positive,
        default=1,
        metavar="K",
        help="answers to each prompt, at temperature 1, 1 to 9 (default: 1)",
    )
    p.add_argument(
        "--rounds",
        type=positive,
        metavar="N",
        help="criticise and revise N times, each time by another principle (default: 1)",
    )
    p.add_argument(
        "--out", metavar="REVISED.jsonl", help="the new file of prompts and their last revisions"
    )
    p.add_argument(
        "--pairs",
        metavar="PAIRS.jsonl",
        help="also write a new file of preferences: each revision over the answer that it changed"
        " (dpo --data reads it)",
    )
    p.add_argument(
        "--measure",
        action="store_true",
        help="only answer, and report how often the answers violate the principles of the run's"
        " world; sealed questions may be asked so",
    )
    p.add_argument(
        "--seed",
        type=whole,
        default=0,
        metavar="N",
        help="seed of the answers and of the principles that are drawn (default: 0)",
    )
    add_computing(p)
    add_precision(p, "(default: as the run was trained)")


def run(args):
    from pysft.console import Screen
    from pysft.nn.computing import computing_ops

    _check(args)
    warn_if_unfinished(args.run_folder)
    screen = Screen(args.json)
    ops = computing_ops(args.ops, args.threads, args.precision)
    if args.measure:
        from pysft.jobs.curate.revise import measure

        document = measure(args.run_folder, ops, args.prompts, args.k, args.seed, screen.progress)
    else:
        from pysft.jobs.curate.revise import revise

        document = revise(
            args.run_folder, ops, args.constitution, args.prompts, Path(args.out),
            None if args.pairs is None else Path(args.pairs), args.k, args.rounds or 1, args.seed,
            screen.progress,
        )  # fmt: skip
    screen.end_line()
    if args.json:
        print_json(document)
        return
    for line in _lines(document):
        print(line)
    if document.get("pairs") == 0:
        print(f"{Path(args.pairs)}: not written, because no revision differs from its answer")
    if not args.measure:
        _print_next(args, document)


def _check(args):
    """Raise a UsageError if a flag is missing, names no file, or has no meaning beside
    --measure."""
    from pysft.text.files import refuse_name

    given = [name for name in OF_REVISIONS if getattr(args, name) is not None]
    if args.measure and given:
        raise UsageError(f"--measure revises nothing and writes no file; leave --{given[0]} out")
    for name in () if args.measure else ("constitution", "out"):
        if getattr(args, name) is None:
            raise UsageError(f"--{name} is missing; --measure alone works without it")
    for name in (args.constitution, args.out, args.pairs):
        if name is not None:
            refuse_name(name)


def _lines(d: dict) -> list[str]:
    """The document as lines of text."""
    answers = f"{d['k']} answers to each of {d['prompts']:,} prompts"
    lines = [f"{d['by']}: {answers}, {d['format_compliance']:.1%} of them in form"]
    if "revised" in d:
        dropped = ", ".join(f"{n:,} {reason}" for reason, n in d["dropped"].items())
        lines.append(f"{d['revised']}: {d['written']:,} rows ({dropped} dropped)")
        lines.append(f"changed: {d['changed']:,}, unchanged: {d['unchanged']:,}")
        if d["pairs_file"]:
            lines.append(f"{d['pairs_file']}: {d['pairs']:,} preferences")
    if d["violations_before"] is None:
        return [*lines, "no question of a known world: nobody knows what violates a principle"]
    lines.append(f"violations of {d['answers']:,} answers: {_way(d, 'violations')}")
    forbids = d.get("principles", {})
    lines += [
        f"  {name}: {_percent(row['before'])}"
        + (f" -> {_percent(row['after'])}" if "after" in row else "")
        + (f" ({forbids[name]})" if name in forbids else "")
        for name, row in d["by_principle"].items()
    ]
    lines += [f"{name}: {_way(d, name)}" for name in ("right", "malformed")]
    if "critiques_right" in d:
        right = _percent(d["critiques_right"])
        lines.append(f"critiques that are right: {right} (balanced; chance is 50 %)")
    return lines


def _way(d: dict, name: str) -> str:
    """A share of the answers, and of the revisions if there are any."""
    before, after = d[f"{name}_before"], d.get(f"{name}_after")
    return _percent(before) + ("" if after is None else f" -> {_percent(after)}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _print_next(args, document: dict) -> None:
    """Print the commands that train on what was written."""
    from pysft.console import command

    stage, out = Path(document["by"]), Path(args.out)
    print(f"Train on them: {command('train', '--base', stage, '--data', out)}")
    if document["pairs"]:
        print(f"Or prefer them: {command('dpo', stage, '--data', Path(args.pairs))}")
