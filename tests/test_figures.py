"""Figures and pages: any text is shown and never executed, in light and in dark, and the same data
give the same bytes."""

import base64
import hashlib
import re
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from html.parser import HTMLParser

import pytest
from conftest import python

from pysft.errors import UsageError
from pysft.measure import figures
from pysft.measure.figures import COLOURS, INK, Series, curves, dots, paths
from pysft.measure.page import (
    badge,
    bullets,
    code,
    details,
    figure,
    heading,
    number,
    page,
    paragraph,
    stack,
    table,
)

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='x",
    "</title></style><b>",
    "&lt;b&gt; &amp;",
    "$x_1$ \\frac",
    "_hidden",
    "a\nb",
    "\u202eabc",
    "\u4f60 \U0001f600",
    ' id="x" style="y"',
    "-->",
    "]]>",
]
DARK, LIGHT = "prefers-color-scheme: dark", "color-scheme: light dark"


class Reader(HTMLParser):
    """The tags and attributes of a document, and its text."""

    def __init__(self, document):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = set(), [], "", []
        self.feed(document)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in ("meta", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def everything(text):
    """A page with this text in every place that takes one."""
    return page(
        text,
        [
            heading(text),
            paragraph(text, badge(text, "good")),
            table([text, "n"], [[text, 1], [stack(text, text), 2]]),
            code(text),
            details(text, [paragraph(text)]),
            bullets([text]),
            text,
        ],
        text,
    )


# ------------------------------------------------------------------------------------------ pages


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup_and_all_of_it_is_shown(text):
    document = everything(text)
    plain, read = Reader(everything("harmless")), Reader(document)
    assert read.tags == plain.tags
    assert [name for name, _ in read.attributes] == [name for name, _ in plain.attributes]
    assert read.text.count(text) == plain.text.count("harmless") == 15


def test_characters_that_a_document_cannot_hold_become_visible_signs():
    document = everything("a\x00b\x1b[31m\x7f\ud800c\r")
    document.encode("utf-8")
    assert "a\u2400b\u241b[31m\u2421\\ud800c\u240d" in document


def test_a_page_serves_light_and_dark_and_loads_nothing():
    document = everything("text")
    assert DARK in document and LIGHT in document
    assert '<meta charset="utf-8">' in document and 'name="viewport"' in document
    assert "default-src 'none'" in document
    assert not re.search(r"https?:|src=|href=|url\(|@import|<script|<link", document)


def test_a_page_runs_no_script_but_its_own():
    document = page("t", ["<script>1</script>"], script="let a = '<b>';")
    [script] = re.findall(r"<script>(.*?)</script>", document)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert script == "let a = '<b>';"
    assert f"script-src 'sha256-{digest}'\"" in document
    assert "script-src" not in page("t", [], style="p { color: red; }")


def test_the_html_of_a_builder_is_not_escaped_again():
    assert "<p>a &lt;b&gt;</p>" in page("t", [details("more", [paragraph("a <b>")])])


def test_numbers_in_a_table_are_aligned_right_and_written_for_people():
    text = table(["name", "a", "b"], [["x", 1234567, 0.123456], ["y", None, float("nan")]])
    row = '<td class="left">x</td><td class="right">1,234,567</td><td class="right">0.1235</td>'
    assert row in text
    assert text.count('<td class="right">\u2013</td>') == 2 and '<div class="wide">' in text
    assert number(-0.5) == "\u22120.5" and number(True) == "yes" and number(float("inf")) == "inf"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError):
        table(["a", "b"], [[1, 2, 3]])


def test_a_table_without_rows_has_its_headings():
    assert "<th" in table(["a", "b"], [])


def test_verdicts_differ_by_word_and_sign_as_well_as_by_colour():
    shown = {re.sub("<[^>]*>", "", badge("holds", kind)) for kind in ("good", "partly", "bad")}
    assert shown == {"\u2713 good: holds", "\u25d1 partly: holds", "\u2717 bad: holds"}
    with pytest.raises(KeyError):
        badge("holds", "fine")


def test_only_an_svg_element_is_taken_as_a_figure():
    with pytest.raises(ValueError):
        figure("<script>alert(1)</script>")


# ---------------------------------------------------------------------------------------- figures


@pytest.fixture
def drawn():
    pytest.importorskip("matplotlib")


@lru_cache
def named(name):
    """A figure of curves with this name in every place that takes one."""
    return curves(
        name,
        [Series(name, [0, 1, 2], [[1, 2, 3], [2, 3, 4]]), Series("other", [0, 2], [[1, 1]])],
        name,
        name,
        marks=[(1, name)],
        level=(2.5, name),
    )


@lru_cache
def samples(name="a series"):
    """One figure of each kind, with this name in every place that takes one."""
    return [
        named.__wrapped__(name),
        curves(
            "logs",
            [Series("one", list(range(1, 400)), [[1 / n for n in range(1, 400)]])],
            "x",
            "y",
            log_x=True,
            log_y=True,
        ),
        dots(name, [(name, [1, 2, 4]), ("none", [None]), ("one", [3])], name, level=(2, name)),
        paths(
            name, [(name, [([0, 1, 2], [0, 2, 3]), ([0, 2], [1, 2])])], name, name, level=(1, name)
        ),
        curves("empty", [], "x", "y"),
    ]


def points(svg, colour):
    """The corners of the lines of a colour: [(x, y), ...] for each unbroken piece."""
    found = []
    for d in re.findall(rf'<path d="([^"]*)" style="fill: none; stroke: {colour}', svg):
        for piece in d.split("M")[1:]:
            corners = re.split("[LC]", piece.replace("z", ""))
            found.append([tuple(map(float, corner.split())) for corner in corners])
    return found


def texts(svg):
    """{text: (x, y)} of the texts in a figure."""
    space = "{http://www.w3.org/2000/svg}"
    found = {}
    for e in ElementTree.fromstring(svg).iter(space + "text"):
        at = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", e.get("transform", ""))
        place = at.groups() if at else (e.get("x", 0), e.get("y", 0))
        found["".join(e.itertext()).strip()] = tuple(map(float, place))
    return found


def test_a_figure_can_stand_inline_in_any_page_and_has_the_ink_of_the_page(drawn):
    for svg in samples():
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("}svg") and root.get("role") == "img"
        assert root.get("width") == "100%" and root.get("viewBox")
        assert root.get("aria-label") == root[0].text and root[0].tag.endswith("title")
        assert set(re.findall(r"#\w{3,6}\b", svg)) <= set(COLOURS) - {INK} and "currentColor" in svg
        own = r"<style|<defs|<use|url\(|DOCTYPE|<\?xml|<metadata|font-family: "
        assert "<text" in svg and not re.search(own, svg)
        assert not re.search(r"stroke: (?!none|#|currentColor)|fill: (?!none|#|currentColor)", svg)
        assert re.findall(r"https?:[^\"]*", svg) == ["http://www.w3.org/2000/svg"]


def test_figures_have_no_ids_so_no_two_in_a_page_share_one(drawn):
    document = page("t", [figure(svg, "caption") for svg in samples() + samples("other")])
    assert not re.search(r'\bid="', document)
    assert Reader(document).tags >= {"svg", "figure", "figcaption"}


def test_the_same_data_give_the_same_bytes_in_every_process_and_style(drawn):
    import matplotlib

    program = (
        "import sys; sys.path.insert(0, 'tests'); from test_figures import samples;"
        " print(hash('a')); print(*samples())"
    )
    runs = [python("-c", program, PYTHONHASHSEED=seed).stdout.partition("\n") for seed in "12"]
    assert runs[0][0] != runs[1][0] and runs[0][2] == runs[1][2]
    with matplotlib.rc_context(
        {"font.size": 22, "axes.grid": True, "lines.linewidth": 9, "svg.fonttype": "path"}
    ):
        before = dict(matplotlib.rcParams)
        assert " ".join(samples.__wrapped__()) + "\n" == runs[0][2]
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_becomes_markup_or_a_formula(drawn, text):
    svg = named(text)
    read, plain = Reader(svg), Reader(named("plain"))
    assert read.tags == plain.tags
    assert {name for name, _ in read.attributes} == {name for name, _ in plain.attributes}
    shown = " ".join(text.split())
    assert texts(svg).keys() >= {shown} and read.text.count(shown) >= 6


def test_a_gap_in_the_data_is_a_gap_in_the_line(drawn):
    for gap, log_y in ((None, False), (float("nan"), False), (float("inf"), False), (0, True)):
        line = Series("a", [0, 1, 2, 3, 4], [[1, 2, gap, 2, 1]])
        svg = curves("t", [line], "x", "y", log_y=log_y)
        assert [len(piece) for piece in points(svg, COLOURS[0])[:2]] == [2, 2]


def test_the_line_is_the_mean_of_the_seeds_and_the_band_is_their_range(drawn):
    svg = curves("t", [Series("a", [0, 1, 2], [[0, 3, 0], [0, 1, None], [6, 2, 4]])], "x", "y")
    line = [y for _, y in points(svg, COLOURS[0])[0]]
    assert len(line) == 3 and max(line) - min(line) < 0.02  # all means are 2
    ((path, shift),) = re.findall(
        r'<path d="([^"]*)"(?: transform="translate\(0 ([\d.]+)\)")? style="fill: #0072b2;'
        r" fill-opacity",
        svg,
    )
    corners = re.split("[ML]", path.replace("z", ""))[1:]
    band = [float(corner.split()[1]) + float(shift or 0) for corner in corners]
    above, below = line[0] - min(band), max(band) - line[0]
    assert above > 0 and below > 0
    assert above / below == pytest.approx(2, abs=0.02)  # from 2 up to 6, and down to 0
    assert "fill-opacity" not in curves("t", [Series("a", [0, 1], [[0, 1]])], "x", "y")


def test_numbers_at_the_axes_are_written_for_people(drawn):
    linear = curves("t", [Series("a", [0, 20000], [[-1, 1]])], "x", "y")
    assert texts(linear).keys() >= {"\u22121", "0", "20,000"}
    log = curves("t", [Series("a", [1, 2], [[1e-4, 2]])], "x", "y", log_y=True)
    assert texts(log).keys() >= {"0.0001", "0.01", "1"}


def test_every_series_has_a_look_of_its_own_and_not_by_colour_alone():
    looks = [
        (look["color"], look["marker"], str(look["linestyle"]))
        for look in map(figures._look, range(30))
    ]
    assert len(set(looks)) == 30
    assert len({line for _, _, line in looks[:8]}) == 8  # a long line has no markers


def test_the_legend_is_below_all_data(drawn):
    names = [
        f"series {i}, whose name is so long that it takes more than a single line of the figure"
        for i in range(5)
    ]
    svg = curves(
        "t",
        [Series(n, [0, 1], [[0, i]]) for i, n in enumerate(names)],
        "the x axis",
        "y",
        level=(2, "a level"),
    )
    place = texts(svg)
    lowest = max(y for colour in COLOURS[:4] for piece in points(svg, colour)[:1] for _, y in piece)
    below = [y for text, (_, y) in place.items() if text.startswith("series") or text == "a level"]
    assert len(below) == 6 and lowest < place["the x axis"][1] < min(below)
    assert max(below) < float(re.search(r'viewBox="0 0 \d+ ([\d.]+)"', svg)[1])


def test_names_of_marks_that_are_close_are_written_one_above_the_other(drawn):
    marks = [(50, "fine-tuning begins"), (52, "replay ends"), (99, "z")]
    place = texts(curves("t", [Series("a", [0, 100], [[0, 1]])], "x", "y", marks=marks))
    height = {name: y for name, (_, y) in place.items()}
    assert height["fine-tuning begins"] != height["replay ends"]
    assert height["fine-tuning begins"] == height["z"]


def test_every_seed_is_a_dot_and_a_row_without_values_says_so(drawn):
    svg = dots("t", [("three", [1, 2, 3]), ("none", [None, float("nan")]), ("one", [2])], "x")
    found = re.findall(r'transform="translate\([^)]*\)" style="fill: #0072b2', svg)
    assert len(found) == 4 + 1  # one is in the legend
    assert "(not measured)" in texts(svg) and "mean of the seeds" in texts(svg)
    assert "mean of the seeds" not in texts(dots("t", [("one", [2])], "x"))


def test_a_row_of_names_takes_the_next_name_that_has_room_in_it(drawn):
    """Two pairs of names that overlap need two rows, and a third name at a place needs a third."""

    def drawing(xs):
        marks = [(x, f"the mark at {x}") for x in xs]
        return curves("t", [Series("a", [0, 100], [[0, 1]])], "x", "y", marks=marks)

    def heights(xs):
        place = texts(drawing(xs))
        return [place[f"the mark at {x}"][1] for x in xs]

    def room(xs):
        return re.search(r'viewBox="([\d. ]+)"', drawing(xs))[1]

    assert room([20, 22]) == room([20, 22, 70, 72]) != room([20, 70])
    first, second, third, fourth = heights([20, 22, 70, 72])
    assert first == third and second == fourth != first
    assert len(set(heights([20, 22, 24, 80]))) == 3 and len(set(heights([10, 50, 90]))) == 1


def test_a_path_ends_in_a_larger_marker(drawn):
    svg = paths("t", [("a", [([0, 1, None], [0, 1, 9])])], "x", "y")
    places = re.findall(
        r'<path d="([^"]*)" transform="translate\(([^)]*)\)" style="fill: #0072b2', svg
    )
    sizes = {}
    for d, at in places:
        sizes.setdefault(at, []).append(max(float(n) for n in re.findall(r"-?[\d.]+", d)))
    ends = [at for at, found in sizes.items() if max(found) > 4]
    assert len(ends) == 1 and float(ends[0].split()[0]) == max(float(at.split()[0]) for at in sizes)


def test_a_figure_without_data_says_so(drawn):
    for svg in (
        curves("t", [], "x", "y"),
        curves("t", [Series("a", [1], [[None]])], "x", "y", log_x=True),
        curves("t", [Series("a", [], [])], "x", "y"),
        paths("t", [("a", [([], [])])], "x", "y"),
        dots("t", [], "x"),
    ):
        assert "nothing was measured" in texts(svg)


def test_without_matplotlib_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not figures.available()
    with pytest.raises(UsageError, match=r"pip install 'pysft\[plot\]'.*make train"):
        curves("t", [], "x", "y")


def test_matplotlib_is_loaded_only_when_something_is_drawn():
    program = "import sys, pysft.measure.report; print('matplotlib' in sys.modules)"
    assert python("-c", program).stdout == "False\n"


def test_the_name_of_a_mark_may_have_40_characters_and_a_longer_one_is_shortened():
    for end, is_whole in (("d", True), ("de", False)):
        name = " ".join(["abc"] * 10) + end
        assert len(name) == 39 + len(end)
        svg = curves("t", [Series("a", [0, 100], [[0, 1]])], "x", "y", marks=[(50, name)])
        assert (name in texts(svg)) is is_whole
        assert any("[...]" in text for text in texts(svg)) is not is_whole


# ------------------------------------------------------------------------------- what is drawn how


def paths_of(svg):
    """[(d, style as a dict, place)] of the paths in a figure, in their order."""
    found = []
    for tag in re.findall("<path [^>]*>", svg):
        a = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        at = re.findall(r"[-\d.]+", a.get("transform", "0 0"))
        style = dict(item.split(": ") for item in a["style"].split("; "))
        found.append((a["d"].strip(), style, tuple(map(float, at))))
    return found


def lines_drawn(svg):
    """{(colour, width, dashes, their start, opacity)} of all lines: all that is not filled."""
    return {
        tuple(style.get(f"stroke{name}", default) for name, default in LINE.items())
        for _, style, _ in paths_of(svg)
        if style["fill"] == "none" and "stroke" in style
    }


LINE = {"": "", "-width": "1", "-dasharray": "", "-dashoffset": "0", "-opacity": "1"}
GRID, AXIS = ("currentColor", "0.7", "", "0", "0.14"), ("currentColor", "0.8", "", "0", "1")
LEVEL = ("currentColor", "1", "5,3", "0", "1")
MARK = ("currentColor", "0.8", "0.8,1.6", "0", "1")
FIRST = (COLOURS[0], "1.8", "", "0", "1")


def test_each_kind_of_line_has_its_width_and_its_dashes(drawn):
    lines, logs, rows, ways, empty = map(lines_drawn, samples())
    second = (COLOURS[1], "1.8", "10.8,3.6", "0", "1")
    assert lines == {GRID, AXIS, LEVEL, FIRST, second, MARK}
    assert logs == {GRID, AXIS, FIRST}
    assert rows == {GRID, AXIS, LEVEL, ("currentColor", "2.4", "", "0", "1")}  # a bar at the mean
    assert ways == {GRID, AXIS, LEVEL, FIRST, (COLOURS[0], "1.8", "", "0", "0.9")}
    assert empty == {GRID, AXIS}


def test_five_series_have_five_kinds_of_dashes_which_begin_with_the_line(drawn):
    svg = curves("t", [Series(c, [0, 1], [[i, i]]) for i, c in enumerate("abcde")], "x", "y")
    looks = [style for _, style, _ in paths_of(svg) if style.get("stroke-width") == "1.8"]
    dashes = ["", "10.8,3.6", "3.6,2.7", "12.6,3.6,3.6,3.6", "1.8,1.8"]  # in widths of the line
    assert list(dict.fromkeys(look.get("stroke-dasharray", "") for look in looks)) == dashes
    assert {look.get("stroke-dashoffset", "0") for look in looks} == {"0"}


def test_a_level_lies_across_the_values_of_a_figure(drawn):
    """On curves and paths at a height, on rows of dots at a place from left to right."""
    for svg, name, axis in (
        (curves("t", [Series("a", [0, 1], [[1, 4]])], "x", "y", level=(2, "l")), "2", 1),
        (paths("t", [("a", [([0, 1], [1, 4])])], "x", "y", level=(2, "l")), "2", 1),
        (dots("t", [("a", [1, 4])], "x", level=(2, "l")), "2", 0),
    ):
        [d] = [d for d, style, _ in paths_of(svg) if style.get("stroke-dasharray") == "5,3"][:1]
        ends = [tuple(map(float, end.split())) for end in d.removeprefix("M ").split("L")]
        both = list(zip(*ends))
        (one, other), (begin, end) = both[axis], both[1 - axis]
        assert one == other and abs(begin - end) > 30
        assert abs(one - texts(svg)[name][axis]) < 5 and "l" in texts(svg)


def test_letters_that_the_font_of_matplotlib_lacks_give_no_warning(drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "\u4f60" in texts(curves("t", [Series("\u4f60", [0, 1], [[0, 1]])], "x", "y"))


def test_a_figure_is_as_wide_as_all_others_and_as_high_as_what_it_holds(drawn):
    """In points: the axes 230, a line of the title 13, a row of names of marks 12, and below them
    12 and 14.5 for each row of the legend. A row of dots has 12 and 13 for each line of the longest
    name, and all rows together 50 more."""
    legend = [12 + 14.5 * rows for rows in (1, 1, 2, 2)]
    high = [230 + 12 + legend[0], 230 + legend[1], 50 + 3 * (12 + 2 * 13) + legend[2]]
    high += [230 + legend[3], 230]
    found = [tuple(map(float, re.search('viewBox="([^"]*)"', s)[1].split())) for s in samples()]
    assert found == [(0, 0, 460, 13 + h) for h in high]
    title = " ".join(["eleven char"] * 6)  # 71 characters are two lines
    for name, lines in ((title[:68], 1), (title, 2)):
        svg = curves(name, [], "x", "y")
        assert re.search(r'viewBox="0 0 460 (\d+)"', svg)[1] == str(230 + 13 * lines)


def test_each_kind_of_text_has_its_size(drawn):
    svg = curves("title", [Series("name", [0, 1], [[0, 1]])], "x", "y", marks=[(1, "mark")])
    sizes = {
        "".join(e.itertext()): re.search(r"font-size: ([\d.]+)px", e.get("style"))[1]
        for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    }
    numbers = {name: size for name, size in sizes.items() if name[-1].isdigit()}
    assert set(numbers.values()) == {"10"}
    rest = {"title": "11", "name": "9.5", "x": "10", "y": "10", "mark": "9"}
    assert sizes == numbers | rest


def markers(svg, colour=COLOURS[0]):
    """[(half of its width, (x, y))] of the markers of a colour, in their order."""
    return [
        (max(float(n) for n in re.findall(r"-?[\d.]+", d)), at)
        for d, style, at in paths_of(svg)
        if style["fill"] == colour and at != (0, 0) and style.get("fill-opacity", "0.9") == "0.9"
    ]


def axes_of(svg):
    """The two ends of the axes, from the lower left to the upper right, as (x, y)."""
    ends = [
        tuple(map(float, corner.split()))
        for d, style, _ in paths_of(svg)
        if style.get("stroke-linejoin") == "miter" and style["fill"] == "none"
        for corner in d.removeprefix("M ").split("L")
    ]
    (left, right), (top, bottom) = ((min(v), max(v)) for v in zip(*ends))
    return (left, bottom), (right, top)


def test_each_kind_of_marker_has_its_size(drawn):
    """Of a line 5.5 points, of a seed's dot 7, on a path 3.5 and at its end 10."""
    lines, _, rows, ways, _ = samples()
    assert {size for size, _ in markers(lines)} == {2.75}
    assert {size for size, _ in markers(rows)} == {3.5}
    assert sorted(size for size, _ in markers(ways)) == [1.75] * 5 + [2.75] + [5] * 2
    [(size, _)] = markers(ways, "currentColor")[-1:]  # in the legend
    assert size == 5


def test_a_line_is_marked_at_all_points_or_if_it_is_long_at_none(drawn):
    for n in (12, 13):
        x = list(range(n))
        svg = curves("t", [Series(c, x, [x]) for c in "ab"], "x", "y")
        first, second = ([at for _, at in markers(svg, c)[:-1]] for c in COLOURS[:2])
        assert len(first) == len(second) == (n if n == 12 else 0)
    assert not markers(svg)  # nor in the legend


def test_a_point_between_two_gaps_of_a_long_line_is_marked(drawn):
    y = [None, 5, None, *range(20), None, 7]
    *found, _ = markers(curves("t", [Series("a", range(len(y)), [y])], "x", "y"))
    assert len(found) == 2 and found[0][1] < found[1][1]


def test_the_dots_of_a_row_lie_beside_each_other_over_a_bar_at_their_mean(drawn):
    svg = dots("t", [("a", [1, 2, 6]), ("b", [4]), ("c", [2, 2])], "x")
    place = texts(svg)
    row = {name: place[name][1] for name in "abc"}
    apart = row["b"] - row["a"]
    assert row["c"] - row["b"] == pytest.approx(apart, abs=0.02) and apart > 0
    found = [at for _, at in markers(svg)[:-1]]
    unit = (place["6"][0] - place["1"][0]) / 5
    assert [x - found[0][0] for x, _ in found] == pytest.approx(
        [unit * n for n in (0, 1, 5, 3, 1, 1)], abs=0.05
    )
    middle = found[1][1]
    beside = [(y - middle) / apart for _, y in found]
    assert beside == pytest.approx([-0.18, 0, 0.18, 1, 1.82, 2.18], abs=0.01)
    bars = [
        [tuple(map(float, corner.split())) for corner in d.removeprefix("M ").split("L")]
        for d, style, _ in paths_of(svg)
        if style.get("stroke-width") == "2.4"
    ][:-1]
    for (bar, mean), at in zip(zip(bars, (2, 1)), (0, 2)):
        expected = [found[0][0] + mean * unit] * 2
        assert [x for x, _ in bar] == pytest.approx(expected, abs=0.05)
        ends = sorted((y - middle) / apart for _, y in bar)
        assert ends == pytest.approx([at - 0.34, at + 0.34], abs=0.01)
    assert len(bars) == 2 and svg.rindex("stroke-width: 2.4", 0, svg.index("fill: #0072b2")) > 0
    assert svg.index("stroke-width: 0.7") < svg.index("fill: #0072b2")  # the grid is behind


def test_a_legend_has_as_many_columns_as_its_longest_name_leaves_room_for():
    """76 characters, of which each column takes nine beside the name; a name has 66 in a line."""
    room = figures._legend_room
    assert room([]) == (0, [], 1)
    for length, columns in ((29, 2), (30, 1), (16, 3), (17, 2)):
        names = ["x" * length] * 5
        assert room(names) == (12 + 14.5 * -(-5 // columns), names, columns)
    assert room(["a", "b"])[2] == 2  # no more columns than names
    words = " ".join(["eleven char"] * 6)
    assert room([words[:66]]) == (26.5, [words[:66].strip()], 1)
    high, [name], columns = room([words])
    assert (high, name.count("\n"), columns) == (41, 1, 1)


def test_a_number_too_large_or_too_small_to_draw_is_left_out():
    def kept(log):
        values = [None, 1e30, -1e30, 9e29, -9e29, 0, 1e-30, 2e-30, -1.5, float("nan")]
        x = figures._numbers(values, log)
        return [value for value, found in zip(values, x) if found == value]

    assert kept(False) == [9e29, -9e29, 0, 1e-30, 2e-30, -1.5]
    assert kept(True) == [9e29, 2e-30]


def test_names_and_labels_are_broken_where_they_would_not_fit(drawn):
    words = " ".join(["abcd"] * 9)  # 44 characters
    for length, whole in ((26, True), (29, False)):
        assert (words[:length].strip() in texts(dots("t", [(words[:length], [1])], "x"))) is whole
    for length, whole in ((39, True), (44, False)):
        assert (words[:length].strip() in texts(curves("t", [], "x", words[:length]))) is whole


def test_a_logarithmic_axis_has_more_numbers_where_its_range_is_less_than_ten_fold(drawn):
    for most, more in ((8, True), (12, False)):
        svg = curves("t", [Series("a", [0, 1], [[1, most]])], "x", "y", log_y=True)
        assert ({"3", "4", "6", "7"} <= texts(svg).keys()) is more
        assert ({"3", "4", "6", "7"} & texts(svg).keys() == set()) is not more
        assert {"1", "2", "5"} <= texts(svg).keys()


def test_names_of_marks_stand_in_as_few_rows_as_keep_them_apart(drawn):
    def rows(*marks):
        svg = curves("t", [Series("a", [0, 100], [[0, 1]])], "x", "y", marks=marks)
        place = texts(svg)
        assert MARK in lines_drawn(svg)
        return {name: place[name] for _, name in marks}

    place = rows((80, "right"), (20, "left"), (22, "also left"), (24, "third"))
    y = {name: at[1] for name, at in place.items()}
    assert y["left"] == y["right"] == y["also left"] + 12 == y["third"] + 24
    assert place["left"][0] < place["also left"][0] < place["third"][0] < place["right"][0]
    # A character takes six points: two names of ten need 60 of the 460 points of the figure, of
    # which the axes give 460 / 1.1 to the 100 steps, with a margin at either side.
    for apart, together in ((14.2, False), (14.5, True)):
        place = rows((10, "a" * 10), (10 + apart, "b" * 10))
        assert (place["a" * 10][1] == place["b" * 10][1]) is together
