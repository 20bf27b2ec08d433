"""`pysft lab`: test the source text's claims by experiments."""

from pysft.cli.arguments import add_computing, available_threads, positive, print_json, share
from pysft.errors import UsageError

HELP = "test the source text's claims by experiments, each with table, figures and verdict"
EXAMPLES = (
    "lab",
    "lab first-token",
    "lab forgetting --seeds 3 --corpus shakespeare",
    "lab all --seeds 3",
    "lab figures",
)

FIGURES = "figures"  # stands for the experiments that draw the source text's figures


def add_arguments(p):
    add_computing(p)
    p.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help="experiments to carry out, or all, or figures: those that draw the source text's six"
        " figures (default: list them)",
    )
    p.add_argument(
        "--seeds",
        type=positive,
        default=3,
        metavar="N",
        help="number of seeds (default 3); they vary the fine-tuning on one base, and in"
        " experiments on an invented world the world and its base too",
    )
    p.add_argument(
        "--retrain-base", action="store_true", help="train a separate base for each seed"
    )
    p.add_argument(
        "--corpus",
        default="plays",
        metavar="PATH|plays|shakespeare",
        help="the base text (default plays)",
    )
    p.add_argument(
        "--out",
        default="runs/lab",
        metavar="DIR",
        help="folder of records, figures and the page (default runs/lab); after an interruption the"
        " same command continues",
    )
    p.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="experiments to carry out side by side, one thread each (default: the number of"
        " threads, if more than one experiment is named)",
    )
    p.add_argument(
        "--scale",
        type=share,
        default=1.0,
        metavar="F",
        help="multiply every number of steps by F, to try the lab out in seconds; verdicts then"
        " mean nothing",
    )


def run(args):
    from pathlib import Path

    from pysft.console import Screen
    from pysft.lab.experiments import EXPERIMENTS
    from pysft.lab.experiments.precision import can_run
    from pysft.lab.lab import Lab
    from pysft.lab.overview import write_page
    from pysft.lab.source_figures import write_figures
    from pysft.lab.study import study
    from pysft.lab.table import text
    from pysft.nn.computing import computing_ops, in_precision

    if not args.names:
        return _list(args.json)
    names = _chosen(args.names)
    screen = Screen(args.json)
    ops = computing_ops(args.ops, args.threads)
    if "precision" in names and not can_run(ops):
        if "all" not in args.names:
            in_precision(ops, "bf16")  # raises the error that says why
        screen.say("precision: left out, because this processor has no products in bf16")
        names.remove("precision")
    lab = Lab(Path(args.out), args.corpus, ops, args.scale, args.retrain_base, screen.progress)
    jobs = args.jobs or (available_threads(args.threads) if len(names) > 1 else 1)
    if jobs > 1:
        _side_by_side(lab, names, args, jobs, screen)
    # If processes ran, all records exist by now, and only tables and figures are made here.
    documents = []
    for i, name in enumerate(names, 1):
        screen.say(f"[{i} of {len(names)}] {name}")
        documents.append(study(EXPERIMENTS[name], lab, args.seeds))
        screen.say(("\r\x1b[K" if screen.live else "") + text(documents[-1]) + "\n")
    path = write_page(lab.folder)
    drawn = write_figures(lab) if FIGURES in args.names else None
    verdicts = "".join(f"{d['verdict']:<20} {d['title']}\n" for d in documents)
    screen.say(f"{verdicts}\nThe page: {path}")
    if drawn:
        screen.say(f"The source text's figures: {drawn}")
    if args.json:
        more = {"figures": str(drawn)} if drawn else {}
        print_json({"experiments": documents, "page": str(path), **more})


def _list(json: bool) -> int:
    """Print the list of experiments and return the exit code."""
    from pysft.lab.experiments import EXPERIMENTS

    if json:
        print_json({"experiments": {e.name: e.claim for e in EXPERIMENTS.values()}})
    else:
        for e in EXPERIMENTS.values():
            print(f"{e.name:<16} {e.title}")
    return 0


def _chosen(names: list[str]) -> list[str]:
    """The experiments to carry out, each once. A UsageError for an unknown name."""
    from pysft.lab import source_figures
    from pysft.lab.experiments import EXPERIMENTS

    groups = {"all": list(EXPERIMENTS), FIGURES: list(source_figures.EXPERIMENTS)}
    for name in names:
        if name not in EXPERIMENTS and name not in groups:
            raise UsageError(
                f"no experiment is called {name!r}. Choose from {', '.join(EXPERIMENTS)}, or all,"
                f" or {FIGURES}"
            )
    chosen = [e for name in names for e in groups.get(name, [name])]
    return list(EXPERIMENTS) if "all" in names else list(dict.fromkeys(chosen))


def _side_by_side(lab, names: list[str], args, jobs: int, screen) -> None:
    """Make the records of the experiments, in at most `jobs` processes at a time."""
    from pysft.lab.experiments import COSTLY_FIRST, EXPERIMENTS
    from pysft.lab.parallel import Part, prepare_bases, side_by_side

    if not all(EXPERIMENTS[name].on_world for name in names):
        prepare_bases(lab, args.seeds)
    shared = dict.fromkeys(EXPERIMENTS[name].prepare for name in names)
    for prepare in filter(None, shared):
        for seed in range(1, args.seeds + 1):
            prepare(lab, seed)
    parts = [
        Part(e.name, args.out, args.corpus, args.ops, args.scale, args.retrain_base, args.seeds)
        for e in COSTLY_FIRST
        if e.name in names
    ]
    side_by_side(parts, jobs, screen.say)
