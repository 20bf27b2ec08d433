"""Figures as SVG text. matplotlib draws them: an optional extra, loaded only when a figure is asked
for.

A figure stands inline in a page: its ground is transparent and its ink is the page's own text
colour, so that one figure serves light and dark pages; the same data give the same bytes; and it
has no ids, so that however many stand in one page, none can be confused with another."""

import re
import textwrap
import warnings
from dataclasses import dataclass
from html import escape
from importlib import import_module
from io import StringIO

import numpy as np

from pysft.errors import UsageError
from pysft.lab.page import printable

NEEDED = (
    "figures need matplotlib: pip install 'pysft[plot]', or 'make train' in the source, which"
    " installs it"
)
INK = "#010203"  # stands for currentColor while matplotlib draws
# Okabe and Ito's colours, which those who see few colours can tell apart; their black is the ink.
# The two that are pale on white come last. Marker and line differ too, so that nothing is told by
# colour alone.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", INK, "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 2, 2)), (0, (1, 1)))
DATA = {"clip_on": False, "in_layout": False}  # the axes are always wide enough for them
WIDTH, HEIGHT = 460, 230  # points, of a figure and of the room for its axes
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.linewidth": 0.8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
}


@dataclass
class Series:
    """x (n,), and for each seed its ys (n,); where there is no number that can be drawn, there is a
    gap."""

    name: str
    x: list
    ys: list[list]


def available() -> bool:
    """Whether matplotlib can be loaded here."""
    try:
        import_module("matplotlib.figure")
    except ImportError:
        return False
    return True


def curves(
    title: str,
    series: list[Series],
    x_label: str,
    y_label: str,
    log_x=False,
    log_y=False,
    marks=(),
    level=None,
) -> str:
    """A line for each series: the mean over its seeds, with a band from the least to the most of
    them. marks: [(x, label)], thin vertical lines; level: (y, label), a dashed horizontal one."""

    def paint(axes):
        for i, s in enumerate(series):
            x, ys = (
                _numbers(s.x, log_x),
                np.array([_numbers(y, log_y) for y in s.ys or [[None] * len(s.x)]]),
            )
            least, mean, most = (f(ys, axis=0) for f in (np.nanmin, np.nanmean, np.nanmax))
            few = (
                len(x) <= 12
            )  # a marker at each point, else some that stand apart from those of other series
            yield (
                s.name,
                _line(axes, x, mean, i, markevery=1 if few else (0.02 + 0.03 * (i % 4), 0.12)),
            )
            if len(ys) > 1:
                axes.fill_between(
                    x, least, most, color=COLOURS[i % len(COLOURS)], alpha=0.2, linewidth=0, **DATA
                )

    return _drawn(title, paint, x_label, y_label, log_x, log_y, marks, level)


def paths(
    title: str,
    series: list[tuple],
    x_label: str,
    y_label: str,
    log_x=False,
    log_y=False,
    level=None,
) -> str:
    """Trade-offs: for each (name, [(xs, ys) of each seed]) the way that each seed takes, a marker
    at each of its points and a larger one where it ends."""

    def paint(axes):
        for i, (name, ways) in enumerate(series):
            line = axes.plot([], [], **_look(i))[0]
            for xs, ys in ways:
                points = np.array([_numbers(xs, log_x), _numbers(ys, log_y)])
                points = points[:, np.isfinite(points).all(axis=0)]
                _line(axes, *points, i, markersize=3.5, alpha=0.9)
                _line(axes, *points[:, -1:], i, markersize=10)
            yield name, line
        yield (
            "large: where a way ends",
            axes.plot([], [], **_look(0) | {"color": INK, "linestyle": "", "markersize": 10})[0],
        )

    return _drawn(title, paint, x_label, y_label, log_x, log_y, (), level)


def dots(title: str, groups: list[tuple], x_label: str, level=None, log=False) -> str:
    """A row for each (name, the value of each seed): every seed a dot, and a bar at their mean
    where there are several. level: (x, label), a dashed vertical line."""
    every = [x[np.isfinite(x)] for x in (_numbers(values, log) for _, values in groups)]
    names = [
        textwrap.wrap(printable(name), 26) + ["(not measured)"] * (not len(x))
        for (name, _), x in zip(groups, every)
    ]

    def paint(axes):
        seed = mean = None
        for row, x in enumerate(every):
            beside = row + np.linspace(-0.18, 0.18, len(x)) if len(x) > 1 else np.full(len(x), row)
            seed = axes.plot(
                x, beside, "o", color=COLOURS[0], markersize=7, markeredgewidth=0, **DATA
            )[0]
            if len(x) > 1:
                mean = axes.plot(
                    [x.mean()] * 2,
                    [row - 0.34, row + 0.34],
                    color=INK,
                    linewidth=2.4,
                    zorder=1.9,
                    **DATA,
                )[0]
        axes.set_yticks(range(len(groups)), ["\n".join(lines) for lines in names])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return [
            (name, handle)
            for name, handle in (("one seed", seed), ("mean of the seeds", mean))
            if handle is not None
        ]

    height = 50 + len(names) * (12 + 13 * max(map(len, names), default=0))
    return _drawn(title, paint, x_label, "", log, False, (), level, height=height, rows=True)


def _numbers(values, log) -> np.ndarray:
    """(n,) floats, NaN where an axis has no place for one: none, not finite, beyond all measure, no
    logarithm."""
    x = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    return np.where((np.abs(x) < 1e30) & ((x > 1e-30) | (not log)), x, np.nan)


def _look(i: int) -> dict:
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i % len(LINES)],
        **DATA,
    }


def _line(axes, x, y, i, **more):
    return axes.plot(x, y, **_look(i), **more)[0]


def _drawn(
    title, paint, x_label, y_label, log_x, log_y, marks, level, height=HEIGHT, rows=False
) -> str:
    """The document. paint(axes) draws and gives (name, handle) for the legend, which stands below,
    clear of all data."""
    if not available():
        raise UsageError(NEEDED)
    matplotlib, ticker = import_module("matplotlib"), import_module("matplotlib.ticker")
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # letters that its own font lacks: the page's font will draw them
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        plot = import_module("matplotlib.figure").Figure(layout="constrained")
        axes = plot.add_subplot()
        entries = list(paint(axes))
        if not np.isfinite(axes.dataLim.get_points()).all():
            axes.text(0.5, 0.5, "nothing was measured", transform=axes.transAxes, ha="center")
        if level is not None:
            line = axes.axvline if rows else axes.axhline
            entries.append(
                (level[1], line(level[0], color=INK, linewidth=1, linestyle=(0, (5, 3))))
            )
        for axis, log, scale in (
            (axes.xaxis, log_x, axes.set_xscale),
            (axes.yaxis, log_y, axes.set_yscale),
        ):
            if log:
                scale("log", nonpositive="mask")
                least, most = axis.get_view_interval()
                axis.set_major_locator(
                    ticker.LogLocator(
                        subs=(1, 2, 5) if most > 10 * least else range(1, 10), numticks=8
                    )
                )
                axis.set_minor_formatter(ticker.NullFormatter())
            if not (rows and axis is axes.yaxis):
                axis.set_major_formatter(
                    ticker.FuncFormatter(lambda v, _: f"{v:,.10g}".replace("-", "\u2212"))
                )
        over = _mark(axes, marks)
        axes.set_xlabel(printable(x_label))
        axes.set_ylabel(textwrap.fill(printable(y_label), 40))
        axes.grid(axis="x" if rows else "both", color=INK, alpha=0.14, linewidth=0.7)
        axes.set_axisbelow(True)
        heading = textwrap.wrap(printable(title), 68)
        below, wrapped, columns = _legend_room([name for name, _ in entries])
        tall = height + 13 * len(heading) + 12 * over + below
        plot.set_size_inches(WIDTH / 72, tall / 72)
        plot.suptitle("\n".join(heading), x=0.004, ha="left", fontsize=11)
        plot.get_layout_engine().set(rect=(0, below / tall, 1, 1 - below / tall))
        legend = plot.legend(
            [handle for _, handle in entries],
            [str(i) for i in range(len(entries))],
            loc="lower left",
            bbox_to_anchor=(0, 0),
            ncols=columns,
            frameon=False,
            fontsize=9.5,
            handlelength=3.2,
        )
        for text, name in zip(legend.get_texts(), wrapped):
            text.set_text(name)  # not given above: a name that begins with _ would be left out
        document = StringIO()
        plot.savefig(
            document, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return _inline(document.getvalue(), title, WIDTH, tall)


def _mark(axes, marks) -> int:
    """Thin vertical lines, named above the axes; in how many rows, so that no name runs into
    another."""
    ends = []
    for x, label in sorted(marks):
        axes.axvline(x, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    for x, label in sorted(marks):
        label = textwrap.shorten(printable(label), 40)
        at, half = axes.transData.transform((x, 1))[0] / axes.bbox.width * WIDTH, 3 * len(label)
        row = next((r for r, end in enumerate(ends) if at - half > end), len(ends))
        ends[row : row + 1] = [at + half]
        axes.annotate(
            label,
            (x, 1),
            (0, 3 + 12 * row),
            ("data", "axes fraction"),
            "offset points",
            ha="center",
            fontsize=9,
        )
    return len(ends)


def _legend_room(names) -> tuple[float, list[str], int]:
    """(points of height, the names wrapped, columns)."""
    columns = max(1, min(len(names), 76 // (max(map(len, names), default=0) + 9)))
    wrapped = ["\n".join(textwrap.wrap(printable(name), 66)) for name in names]
    lines = sum(text.count("\n") + 1 for text in wrapped)
    return 14.5 * -(-lines // columns) + 12 if names else 0, wrapped, columns


def _inline(svg: str, title: str, width: float, height: float) -> str:
    """matplotlib's document, fit to stand in a page: no prologue, metadata, style sheet, ids or
    fonts of its own."""
    shapes = {
        a["id"]: a["d"] for a in map(_attributes, re.findall(r"<path [^>]*>", svg)) if "id" in a
    }
    body = re.sub(
        r"<metadata>.*?</metadata>|<defs>.*?</defs>", "", svg[svg.index("<svg") :], flags=re.S
    )
    body = body[body.index(">") + 1 :]

    def place(use):
        a = _attributes(use[0])
        return (
            f'<path d="{shapes[a["xlink:href"][1:]]}" transform="translate({a["x"]} {a["y"]})"'
            f' style="{a["style"]}"/>'
        )

    body = re.sub(r"<use [^>]*>", place, body)

    def tidy(tag):  # only inside tags: texts stay as they are
        text = re.sub(
            r' (id|clip-path)="[^"]*"| transform="rotate\(-0 [^"]*"|font-family: [^;"]*;? ?',
            "",
            tag[0],
        )
        text = text.replace(INK, "currentColor")
        return re.sub(
            r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}".rstrip("0").rstrip("."), text
        )

    body = re.sub(r"\s*\n\s*", " ", re.sub(r"<[^>]*>", tidy, body))
    label = escape(" ".join(printable(title).split()))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="100%"'
        f' role="img" aria-label="{label}" font-family="system-ui, sans-serif"'
        f' stroke-linejoin="round"><title>{label}</title>{body}'
    )


def _attributes(tag: str) -> dict[str, str]:
    return dict(re.findall(r'([\w:-]+)="([^"]*)"', tag))
