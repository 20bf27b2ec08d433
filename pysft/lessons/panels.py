"""The graph of one training step as HTML: a drawing, and a panel of numbers and lines for each
node."""

import inspect
from pathlib import Path

import numpy as np

from pysft.lessons import listing
from pysft.lessons.graph import Array, Call, Node, Step, small_step
from pysft.lessons.markdown import to_html
from pysft.measure.page import Html, as_html, code, heading, paragraph

# Of the drawing: the distance of two rows, the size of a box, the radius of a sum, x of the stream,
# of the middle of a branch and of its left side, and the width of it all.
ROW, WIDE, HIGH, RADIUS = 31, 118, 22, 9
STREAM, MIDDLE = 84, 235
LEFT, ACROSS = MIDDLE - WIDE // 2, MIDDLE + WIDE // 2 + 8
HEAD = (
    '<marker id="arrow" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6"'
    ' orient="auto"><path d="M0 0L6 3L0 6"/></marker>'
)
PACKAGE = Path(__file__).resolve().parents[2]
NO_C = "The C sources are not on this machine. They stand in csrc/ of pysft's source tree."


def graph(lessons: set[int]) -> list:
    """The parts of the section about one training step: the drawing, and a panel for each node.
    Without the script all panels are shown. lessons: the numbers of those on the page, for
    links."""
    step = small_step()
    tokens = step.node("embedding").forward.arrays["tokens"].tolist()
    labels = step.node("loss").forward.arrays["labels"].tolist()
    about = (
        "A GPT with 2 blocks, 4 channels, 2 heads and 6 symbols takes one training step. The batch"
        f" is one sequence of 4 rows: tokens {tokens}, labels {labels}. Row 0 is not graded. The"
        f" loss is the mean nll of the 3 graded rows, {step.loss:.2f}. Choose a node to see its"
        " arrays on the way forward and back, the derivative in words, and the lines that compute"
        " it."
    )
    panels = "\n".join(_panel(step, i, lessons) for i in range(len(step.nodes)))
    return [
        paragraph(about),
        Html(f'<div class="step">\n{_drawing(step)}\n<div class="panels">\n{panels}\n</div></div>'),
    ]


def _drawing(step: Step) -> str:
    """The graph as SVG, from the top to the bottom in the order of the forward. Each node is a link
    to its panel. The residual stream runs down the left side, and the branches on the right."""
    back, front, row = [], [], 0
    above = lower = None  # the node before on the stream, and before in the branch: y of its end
    for node in step.nodes:
        is_sum, is_start = node.is_sum, node.part in ("ln1", "ln2")
        row += not is_sum  # a sum stands beside the product that it adds
        y = row * ROW
        half = RADIUS if is_sum else HIGH / 2
        if node.part == "ln1":
            back.append(_frame(node.block, y))
        if is_sum or node.block is None:
            x = STREAM
            front += [_edge(x, above, x, y - half)] if above else []
            front += [_edge(LEFT, y, x + half, y)] if is_sum else []
            above = y + half
        else:
            x = MIDDLE
            front.append(_edge(STREAM, y, LEFT, y) if is_start else _edge(x, lower, x, y - half))
            lower = y + half
        if is_start or node.part == "lnf":
            size = np.linalg.norm(node.backward.arrays["dx"])
            end = STREAM - 8 if is_start else STREAM + WIDE / 2 + 36
            front.append(f'<text class="norm" x="{end:g}" y="{y + 4}">{size:.2f}</text>\n')
        front.append(_link(node, x, y))
    return (
        f'<figure class="graph"><svg viewBox="0 0 {ACROSS} {(row + 0.6) * ROW:g}" role="group"'
        f' aria-label="the graph of the model">\n{HEAD}\n{"".join(back + front)}</svg>\n'
        "<figcaption>Arrows: the forward. The backward runs against them. Small numbers: the length"
        " of the gradient of the residual stream, where a layer norm reads it.</figcaption>"
        "</figure>"
    )


def _link(node: Node, x: float, y: float) -> str:
    """A node: a circle for a sum, a box for all others."""
    if node.is_sum:
        shape, label = f'<circle cx="{x}" cy="{y}" r="{RADIUS}"/>', "+"
    else:
        left, top, label = x - WIDE / 2, y - HIGH / 2, node.label
        shape = f'<rect x="{left:g}" y="{top:g}" width="{WIDE}" height="{HIGH}" rx="5"/>'
    return (
        f'<a href="#{node.name}" aria-label="{_title(node)}">{shape}'
        f'<text x="{x}" y="{y + 4}">{label}</text></a>\n'
    )


def _edge(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<path class="edge" d="M{x0:g} {y0:g}L{x1:g} {y1:g}"/>\n'


def _frame(block: int, y: float) -> str:
    """The background of a block whose first node is at y."""
    top = y - ROW / 2 + 1
    return (
        f'<rect class="frame" x="2" y="{top:g}" width="{ACROSS - 4}" height="{8 * ROW - 2}" rx="6"'
        f'/><text class="block" x="8" y="{top + 15:g}">block {block}</text>\n'
    )


# -------------------------------------------------------------------------------------- panels


def _panel(step: Step, i: int, lessons: set[int]) -> Html:
    """All that is known of a node. i: its place in the step."""
    node = step.nodes[i]
    forward, backward = node.forward, node.backward
    parts = [
        heading(_title(node), 3),
        _ways(step, i, lessons),
        *_way("Forward", node.notes[0], forward),
        *_way("Backward", node.notes[1], backward),
        heading("The derivative in words", 4),
        to_html(listing.words(backward.worded)),
        heading("Python and C" if node.is_sum else "NumPy and C", 4),
        Html(
            f'<div class="sides">{_sides("forward", forward)}{_sides("backward", backward)}</div>'
        ),
    ]
    inside = "\n".join(map(as_html, parts))
    return Html(f'<section class="node" id="{node.name}">\n{inside}\n</section>')


def _title(node: Node) -> str:
    return node.label if node.block is None else f"{node.label}, block {node.block}"


def _ways(step: Step, i: int, lessons: set[int]) -> Html:
    """Links from a panel: to the nodes before and after it, to its lesson, and to the drawing."""
    links = []
    if i > 0:
        links.append((step.nodes[i - 1].name, f"\u2190 {step.nodes[i - 1].label}"))
    if i + 1 < len(step.nodes):
        links.append((step.nodes[i + 1].name, f"{step.nodes[i + 1].label} \u2192"))
    if (number := step.nodes[i].lesson) in lessons:
        links.append((f"lesson-{number}", f"Lesson {number}"))
    made = [f'<a href="#{to}">{name}</a>' for to, name in links]
    return Html(f'<p class="ways">{"".join(made)}<a class="up" href="#graph">The graph</a></p>')


def _way(title: str, note: str, call: Call) -> list:
    """The part of a panel about one direction: what happens, the call, and its arrays."""
    return [
        heading(title, 4),
        paragraph(note),
        *([code(call.text)] if call.text else []),
        _arrays("reads", call.reads),
        _arrays("writes", call.writes),
    ]


def _arrays(title: str, arrays: list[Array]) -> Html:
    inside = "\n".join(map(_array, arrays))
    return Html(f'<div class="arrays"><h5>{title}</h5><div>\n{inside}\n</div></div>')


def _array(array: Array) -> str:
    """An array as a table. Its colours show sign and size. A tall matrix is transposed."""
    values, name = np.atleast_2d(array.values), array.name
    if len(values) > 4:
        values, name = values.T, f"{name}.T"
    largest = np.abs(values).max() or 1
    is_whole = values.dtype.kind == "i"
    rows = []
    for row in values:
        cells = []
        for x in row.tolist():
            shown = str(x) if is_whole else f"{round(x, 2) + 0.0:.2f}".replace("-", "\u2212")
            sign = "" if is_whole or not x else f' class="{"plus" if x > 0 else "minus"}"'
            share = f' style="--v:{abs(x) / largest:.2f}"' if sign else ""
            cells.append(f"<td{sign}{share}>{shown}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    shape = str(array.values.shape).replace(" ", "")
    return (
        f"<figure><figcaption><b>{as_html(name)}</b> <code>{as_html(array.source)}</code> {shape}"
        f'</figcaption><div class="wide"><table>{"".join(rows)}</table></div></figure>'
    )


def _sides(direction: str, call: Call) -> str:
    """The lines of a function in Python and in C."""
    file = Path(inspect.getsourcefile(call.lined)).relative_to(PACKAGE).as_posix()
    lines, path = listing.in_c(call.kernel), listing.c_file(call.kernel)
    c = code(lines) if lines else paragraph(NO_C)
    where = f"csrc/{path.name}" if path else "C"
    return (
        f"<div><h5>{direction}: {file}</h5>{code(listing.in_numpy(call.lined))}</div>"
        f"<div><h5>{direction}: {where}</h5>{c}</div>"
    )
