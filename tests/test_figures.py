"""Figures and pages: any text is shown and never executed, in light and in dark, and the same data
give the same bytes."""

import re
import sys
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
def samples(name="a series"):
    """One figure of each kind, with this name in every place that takes one."""
    return [
        curves(
            name,
            [Series(name, [0, 1, 2], [[1, 2, 3], [2, 3, 4]]), Series("other", [0, 2], [[1, 1]])],
            name,
            name,
            marks=[(1, name)],
            level=(2.5, name),
        ),
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
    svg = samples(text)[0]
    read, plain = Reader(svg), Reader(samples("plain")[0])
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
    assert len({look[1:] for look in looks[:8]}) == 8


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
