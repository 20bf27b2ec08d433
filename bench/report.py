"""The command line of the benchmarks, and how they report: as text, --json and --plot."""

import argparse
import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
from harness import Worker, say, serve
from machine import about, ceiling_functions, describe

from pysft.errors import PysftError, UsageError
from pysft.nn import gate

# ------------------------------------------------------------------------------ the command line


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the flags that the benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--threads", type=positive, help="threads of every runner (default: as pysft chooses)")
    add("--rounds", type=positive, help="turns of each runner in a process")
    add("--processes", type=positive, help="processes of each runner, one after another")
    add("--unpinned", action="store_true", help="let the system choose where a thread runs")
    add("--short", action="store_true", help="measure less, to see that everything works")
    add("--json", action="store_true", help="one JSON document on standard output")
    add("--plot", metavar="FILE.png", help="draw a bar chart (needs matplotlib: extra 'plot')")
    return parser


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 to 1024."""
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1024")
    return int(text)


def one_of(names):
    """An argparse type: a list of some of `names`, separated by commas."""

    def parse(text):
        chosen = text.split(",")
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(names)}")
        return [name for name in names if name in chosen]

    return parse


def settle(args, short: tuple[int, int], full: tuple[int, int]):
    """Fill in the default threads, rounds and processes; refuse a --plot that cannot be drawn.

    short, full: (rounds, processes) with and without --short."""
    args.threads = args.threads or gate.default_threads()
    Worker.pins = not args.unpinned
    rounds, processes = short if args.short else full
    args.rounds, args.processes = args.rounds or rounds, args.processes or processes
    if args.plot:
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError(
                "--plot needs matplotlib, which is not installed: pip install matplotlib"
                " (pysft's extra 'plot')"
            )
        folder = Path(args.plot).resolve().parent
        if not folder.is_dir():
            raise UsageError(f"--plot {args.plot}: there is no folder {folder}. Make it first")
    return args


def run(main, build) -> None:
    """Be a worker whose functions build(**spec) makes, or the benchmark `main`. An error that a
    user can cause is printed as one sentence."""

    def build_all(runner, **spec):
        if runner == "ceilings":
            return ceiling_functions(**spec)
        return build(runner, **spec)

    try:
        if sys.argv[1:2] == ["--worker"]:
            serve(build_all)
        else:
            main()
    except PysftError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


# ------------------------------------------------------------------------------------ the output


def begin(args):
    """(the result of machine.about, a function that prints text unless --json is given)."""
    machine = about(args.threads)
    show = (lambda text: None) if args.json else partial(print, flush=True)
    show(describe(machine))
    return machine, show


def finish(args, result: dict, panels: list) -> None:
    """Print the document of --json and draw the chart of --plot."""
    if args.json:
        print(json.dumps(result))
    if args.plot:
        plot(args.plot, describe(result["machine"]), panels)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Aligned columns, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row):
        cells = [cell.rjust(width) for cell, width in zip(row, widths)]
        return "  ".join([row[0].ljust(widths[0]), *cells[1:]])

    return "\n".join(line(row) for row in [head, *rows])


def with_quartiles(s: dict, digits: int = 2, scale: float = 1.0) -> str:
    """A spread as "median (low..high)"."""
    middle, low, high = (f"{scale * value:.{digits}f}" for value in (s["median"], *s["quartiles"]))
    return f"{middle} ({low}..{high})"


def plot(path: str, title: str, panels: list) -> None:
    """Draw bars to a file. A panel is (what its axis measures, {group: {bar: a number or a
    spread}})."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heights = [1.2 + 0.22 * sum(map(len, groups.values())) for _, groups in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        figsize=(11, 1 + sum(heights)),
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    bars = [bar for _, groups in panels for group in groups.values() for bar in group]
    names = list(dict.fromkeys(["pysft", *bars]))  # a bar has one colour in all panels
    for axis, (label, groups) in zip(axes[:, 0], panels):
        y, places = 0.0, []
        for group in groups.values():
            places.append(y + (len(group) - 1) / 2)
            for bar, value in group.items():
                s = value
                if not isinstance(value, dict):
                    s = {"median": value, "quartiles": [value, value]}
                drawn = axis.barh(
                    y,
                    s["median"],
                    xerr=np.abs([[q - s["median"]] for q in s["quartiles"]]),
                    capsize=2,
                    color=f"C{names.index(bar)}",
                    label=bar,
                )
                axis.bar_label(drawn, fmt=" %.3g", fontsize=7)
                y += 1
            y += 0.5
        axis.set_yticks(places, list(groups), fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel(label)
        once = {bar: handle for handle, bar in zip(*axis.get_legend_handles_labels())}
        axis.legend(once.values(), once.keys(), fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)
    say(f"chart: {path}")
