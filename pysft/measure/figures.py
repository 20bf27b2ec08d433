"""Draw figures as SVG text with matplotlib, an optional package that is imported only when a figure
is drawn.

A figure stands inline in a page. Its background is transparent and its ink is the page's own text
colour, so one figure serves light and dark pages. The same data give the same bytes. A figure has
no ids, so any number of them can stand in one page."""

import re
import textwrap
import warnings
from dataclasses import dataclass
from html import escape
from io import StringIO

import numpy as np

from pysft.errors import UsageError
from pysft.measure.page import printable

NEEDED = (
    "figures need matplotlib; install it with pip install 'pysft[plot]', or with 'make train' in"
    " the source. It also needs a folder that it can write to; MPLCONFIGDIR names one"
)
INK = "#010203"  # stands for currentColor while matplotlib draws
# The colours of Okabe and Ito, which colour-blind readers can tell apart; their black is the ink.
# The two that are pale on white come last. Series differ by marker and line too, so colour is
# never the only difference.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", INK, "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = (
    "-",
    (0, (6, 2)),
    (0, (2, 1.5)),
    (0, (7, 2, 2, 2)),
    (0, (1, 1)),
    (0, (12, 3)),
    (0, (7, 2, 2, 2, 2, 2)),
    (0, (1, 3)),
)
MARKED = 12  # points of a line that are marked at most. A longer line has no markers
# Data are neither clipped nor measured by the layout: the axes always have room for them.
DATA = {"clip_on": False, "in_layout": False}
WIDTH, HEIGHT = 460, 230  # points: the width of a figure, and the height of its axes
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
    """A line of a figure: its name, x (n,), and ys, a list of y (n,) for each seed. A value that
    cannot be drawn (None, nan, inf) leaves a gap."""

    name: str
    x: list
    ys: list[list]


def available() -> bool:
    """True if matplotlib can be imported. It makes folders of its own when it is, in the home or
    among the temporary files. If it can write to neither, an OSError comes out of its import."""
    try:
        import matplotlib.figure  # noqa: F401
    except (ImportError, OSError):
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
    """A line for each series: the mean over its seeds, with a band from the lowest to the highest.

    marks: [(x, label)], thin vertical lines. level: (y, label), a dashed horizontal line."""

    def paint(axes):
        for i, s in enumerate(series):
            x = _numbers(s.x, log_x)
            ys = np.array([_numbers(y, log_y) for y in s.ys or [[None] * len(s.x)]])
            least, mean, most = (f(ys, axis=0) for f in (np.nanmin, np.nanmean, np.nanmax))
            yield s.name, _line(axes, x, mean, i, **_markers(x + mean))
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
    """A trade-off: the path of each seed through the plane, with a marker at each point and a
    larger one at its end. series: [(name, [(xs, ys) of each seed])]."""

    def paint(axes):
        for i, (name, seeds) in enumerate(series):
            line = axes.plot([], [], **_look(i))[0]
            for xs, ys in seeds:
                points = np.array([_numbers(xs, log_x), _numbers(ys, log_y)])
                points = points[:, np.isfinite(points).all(axis=0)]
                _line(axes, *points, i, markersize=3.5, alpha=0.9)
                _line(axes, *points[:, -1:], i, markersize=10)
            yield name, line
        end = _look(0) | {"color": INK, "linestyle": "", "markersize": 10}
        yield "large: the end of a path", axes.plot([], [], **end)[0]

    return _drawn(title, paint, x_label, y_label, log_x, log_y, (), level)


def dots(title: str, groups: list[tuple], x_label: str, level=None, log=False) -> str:
    """A row for each group: a dot for each seed, and a bar at their mean if there are several.

    groups: [(name, [value of each seed])]. level: (x, label), a dashed vertical line."""
    every = [x[np.isfinite(x)] for x in (_numbers(values, log) for _, values in groups)]
    names = [
        textwrap.wrap(printable(name), 26) + ["(not measured)"] * (not len(x))
        for (name, _), x in zip(groups, every)
    ]
    dot = {"color": COLOURS[0], "markersize": 7, "markeredgewidth": 0, **DATA}
    bar = {"color": INK, "linewidth": 2.4, "zorder": 1.9, **DATA}

    def paint(axes):
        seed = mean = None
        for row, x in enumerate(every):
            beside = row + np.linspace(-0.18, 0.18, len(x)) if len(x) > 1 else np.full(len(x), row)
            seed = axes.plot(x, beside, "o", **dot)[0]
            if len(x) > 1:
                mean = axes.plot([x.mean()] * 2, [row - 0.34, row + 0.34], **bar)[0]
        axes.set_yticks(range(len(groups)), ["\n".join(lines) for lines in names])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        handles = [("one seed", seed), ("mean of the seeds", mean)]
        return [(name, handle) for name, handle in handles if handle is not None]

    height = 50 + len(names) * (12 + 13 * max(map(len, names), default=0))
    return _drawn(title, paint, x_label, "", log, False, (), level, height=height, rows=True)


def _numbers(values, log) -> np.ndarray:
    """(n,) floats, nan where a value cannot be drawn: None, not finite, of size 1e30 or more, or on
    a logarithmic axis 1e-30 or less."""
    x = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    return np.where((np.abs(x) < 1e30) & ((x > 1e-30) | (not log)), x, np.nan)


def _markers(points: np.ndarray) -> dict:
    """Which points of a line are marked: all, or on a long line none but those between two gaps,
    which would not be seen. points: (n,), nan for a gap."""
    if len(points) <= MARKED:
        return {}
    gaps = np.isnan(np.concatenate([[np.nan], points, [np.nan]]))
    alone = np.flatnonzero(gaps[:-2] & ~gaps[1:-1] & gaps[2:])
    return {"markevery": alone.tolist()} if len(alone) else {"marker": ""}


def _look(i: int) -> dict:
    """Colour, marker and line of series i."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i % len(LINES)],
        **DATA,
    }


def _line(axes, x, y, i, **more):
    return axes.plot(x, y, **_look(i) | more)[0]


def _drawn(
    title, paint, x_label, y_label, log_x, log_y, marks, level, height=HEIGHT, rows=False
) -> str:
    """The SVG document of a figure. paint(axes) draws the data and gives (name, handle) for each
    entry of the legend, which stands below the data. rows: the y axis has names, not numbers."""
    if not available():
        raise UsageError(NEEDED)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # matplotlib warns of letters that its own font lacks. The font of the page has them.
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        plot = Figure(layout="constrained")
        axes = plot.add_subplot()
        entries = list(paint(axes))
        if not np.isfinite(axes.dataLim.get_points()).all():
            axes.text(0.5, 0.5, "nothing was measured", transform=axes.transAxes, ha="center")
        if level is not None:
            line = axes.axvline if rows else axes.axhline
            dashed = {"color": INK, "linewidth": 1, "linestyle": (0, (5, 3))}
            entries.append((level[1], line(level[0], **dashed)))
        _scale(axes.xaxis, axes.set_xscale, log_x)
        _scale(axes.yaxis, axes.set_yscale, log_y, numbers=not rows)
        over = _mark(axes, marks)
        axes.set_xlabel(printable(x_label))
        axes.set_ylabel(textwrap.fill(printable(y_label), 40))
        axes.grid(axis="x" if rows else "both", color=INK, alpha=0.14, linewidth=0.7)
        axes.set_axisbelow(True)
        heading = textwrap.wrap(printable(title), 68)
        below, names, columns = _legend_room([name for name, _ in entries])
        tall = height + 13 * len(heading) + 12 * over + below
        plot.set_size_inches(WIDTH / 72, tall / 72)
        plot.suptitle("\n".join(heading), x=0.004, ha="left", fontsize=11)
        plot.get_layout_engine().set(rect=(0, below / tall, 1, 1 - below / tall))
        _legend(plot, [handle for _, handle in entries], names, columns)
        document = StringIO()
        metadata = {"Date": None, "Creator": None}
        plot.savefig(document, format="svg", transparent=True, metadata=metadata)
    return _inline(document.getvalue(), title, WIDTH, tall)


def _scale(axis, set_scale, log: bool, numbers: bool = True) -> None:
    """Make an axis linear or logarithmic, and write its numbers for people: 20,000, and a real
    minus sign. It stays linear if nothing positive stands on it."""
    from matplotlib import ticker

    if log and np.isfinite(axis.get_minpos()):
        set_scale("log", nonpositive="mask")
        least, most = axis.get_view_interval()
        digits = (1, 2, 5) if most > 10 * least else range(1, 10)
        axis.set_major_locator(ticker.LogLocator(subs=digits, numticks=8))
        axis.set_minor_formatter(ticker.NullFormatter())
    if numbers:

        def written(value, _):
            return f"{value:,.10g}".replace("-", "\u2212")

        axis.set_major_formatter(ticker.FuncFormatter(written))


def _mark(axes, marks) -> int:
    """Draw thin vertical lines with their names above the axes. Names that would overlap go into
    separate rows. Returns the number of rows."""
    ends = []  # where the last name in each row ends
    for x, _ in sorted(marks):
        axes.axvline(x, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    for x, label in sorted(marks):
        label = textwrap.shorten(printable(label), 40)
        at, half = axes.transData.transform((x, 1))[0] / axes.bbox.width * WIDTH, 3 * len(label)
        row = next((r for r, end in enumerate(ends) if at - half > end), len(ends))
        ends[row : row + 1] = [at + half]
        above, at_axes = (0, 3 + 12 * row), ("data", "axes fraction")
        axes.annotate(label, (x, 1), above, at_axes, "offset points", ha="center", fontsize=9)
    return len(ends)


def _legend_room(names) -> tuple[float, list[str], int]:
    """(height of the legend in points, the names with line breaks, number of columns)."""
    columns = max(1, min(len(names), 76 // (max(map(len, names), default=0) + 9)))
    wrapped = ["\n".join(textwrap.wrap(printable(name), 66)) for name in names]
    lines = sum(text.count("\n") + 1 for text in wrapped)
    return 14.5 * -(-lines // columns) + 12 if names else 0, wrapped, columns


def _legend(plot, handles: list, names: list[str], columns: int) -> None:
    # The names are set afterwards: matplotlib would leave out a name that begins with "_".
    numbers = [str(i) for i in range(len(handles))]
    legend = plot.legend(
        handles,
        numbers,
        loc="lower left",
        bbox_to_anchor=(0, 0),
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        handlelength=3.2,
    )
    for text, name in zip(legend.get_texts(), names):
        text.set_text(name)


def _inline(svg: str, title: str, width: float, height: float) -> str:
    """matplotlib's SVG document, made fit for a page: without prologue, metadata, style sheet, ids
    and fonts."""
    paths = map(_attributes, re.findall(r"<path [^>]*>", svg))
    shapes = {a["id"]: a["d"] for a in paths if "id" in a}
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<defs>.*?</defs>", "", body, flags=re.S)
    body = body[body.index(">") + 1 :]

    def place(use):  # the shape itself, instead of a reference to its id
        a = _attributes(use[0])
        return (
            f'<path d="{shapes[a["xlink:href"][1:]]}" transform="translate({a["x"]} {a["y"]})"'
            f' style="{a["style"]}"/>'
        )

    body = re.sub(r"<use [^>]*>", place, body)

    unwanted = r' (id|clip-path)="[^"]*"| transform="rotate\(-0 [^"]*"|font-family: [^;"]*;? ?'

    def short(number):
        return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")

    def tidy(tag):  # only tags: texts stay as they are
        text = re.sub(unwanted, "", tag[0]).replace(INK, "currentColor")
        return re.sub(r"-?\d+\.\d{3,}", short, text)

    body = re.sub(r"\s*\n\s*", " ", re.sub(r"<[^>]*>", tidy, body))
    label = escape(" ".join(printable(title).split()))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="100%"'
        f' role="img" aria-label="{label}" font-family="system-ui, sans-serif"'
        f' stroke-linejoin="round"><title>{label}</title>{body}'
    )


def _attributes(tag: str) -> dict[str, str]:
    return dict(re.findall(r'([\w:-]+)="([^"]*)"', tag))
