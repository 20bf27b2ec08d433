"""The mask on the screen and as a picture."""

import html
import re
import xml.dom.minidom

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import grown, say, steady

from pysft.console import columns
from pysft.text import view
from pysft.text.examples import shift
from pysft.text.render import render
from pysft.text.templates import CHAT
from pysft.text.tokenizer import CharTokenizer

WIDE = CharTokenizer("ab \n\t\u738b\u0301\x07", ("<|end|>",))


def test_the_plain_view_puts_a_mark_under_each_graded_character():
    tokenizer = grown(CHAT)
    input_ids, labels = shift(*render(say("Hi", "Ho"), tokenizer, CHAT))
    text, marks = view.coloured(input_ids, labels, tokenizer, False).split("\n")
    assert text == "<|user|>Hi<|end|><|assistant|>Ho<|end|>"
    assert "".join(c for c, m in zip(text, marks.ljust(len(text))) if m == "^") == "Ho<|end|>"


def test_the_coloured_view_says_the_same():
    tokenizer = grown(CHAT)
    input_ids, labels = shift(*render(say("Hi", "Ho", "Go", "No"), tokenizer, CHAT))
    text = view.coloured(input_ids, labels, tokenizer, True)
    assert re.findall(re.escape(view.GRADED) + r"([^\x1b]*)", text) == ["Ho<|end|>", "No<|end|>"]
    assert re.sub(r"\x1b\[[\d;]*m", "", text).startswith("<|user|>Hi<|end|>")


def test_the_rows_name_each_position_and_the_picture_draws_it():
    tokenizer = grown(CHAT)
    input_ids, labels = shift(*render(say("Hi", "Ho"), tokenizer, CHAT))
    lines = view.rows(input_ids, labels, tokenizer, False).split("\n")
    assert len(lines) == 1 + len(labels) and lines[1].split() == [
        "0",
        "<|user|>",
        "65",
        "-100",
        "skipped",
    ]
    assert lines[5].split() == ["4", "<|assistant|>", "66", "20", "H", "graded"]
    drawn = xml.dom.minidom.parseString(view.picture(input_ids, labels, tokenizer, "a < b"))
    assert len(drawn.getElementsByTagName("rect")) == 3 + 2 * len(labels)


def example(ids, graded):
    """(input_ids, labels) of some ids, of which those behind the first may be graded."""
    return shift(np.array(ids, np.int32), np.array(graded, bool))


some_ids = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 3, 5, 8]), st.booleans()), min_size=2, max_size=300
)


def test_a_token_that_cannot_be_seen_is_shown_by_a_name():
    assert view.names(range(9), WIDE) == [
        *("a", "b", " ", "\\n", "\\t", "\u738b", "\u0301", "U+0007", "<|end|>")
    ]


@pytest.mark.parametrize("seed", range(8))
def test_a_line_of_the_view_is_as_full_as_it_may_be_and_no_token_is_lost(seed):
    """It ends where the next token does not fit, or is a line break and the line is half full."""
    g = np.random.default_rng(seed)
    names = g.choice(["a", "\u738b", "\\n", "<|end|>"], 2000, p=[0.8, 0.15, 0.03, 0.02])
    shown = [(str(name), bool(graded)) for name, graded in zip(names, g.random(2000) < 0.5)]
    lines = view._lines(shown)
    assert [token for line in lines for token in line] == shown
    for line, (token, _) in zip(lines, [line[0] for line in lines[1:]]):
        used = sum(columns(t) for t, _ in line)
        assert used + columns(token) > 96 or (used > 48 and token == "\\n")
    for line in lines:
        used = 0
        for i, (token, _) in enumerate(line):
            assert i == 0 or not (used > 48 and token == "\\n")
            used += columns(token)
        assert used <= 96


@steady
@given(some_ids)
def test_both_views_mark_what_is_graded_and_nothing_else(tokens):
    ids, graded = zip(*tokens)
    graded = (False, *graded[1:])
    input_ids, labels = example(ids, graded)
    expected = view.names(ids if graded[-1] else ids[:-1], WIDE)
    flags = [g for token, g in zip(expected, graded) for _ in range(columns(token))]
    marks, shown = [], ""
    plain = view.coloured(input_ids, labels, WIDE, False).split("\n")
    while plain:
        line = plain.pop(0)
        below = plain.pop(0) if plain and set(plain[0]) <= {"^", " "} and "^" in plain[0] else ""
        shown += line
        marks += [c == "^" for c in below.ljust(columns(line))]
    assert shown == "".join(expected) and marks == flags
    state, painted = None, []
    for code, text in re.findall(
        r"(\x1b\[[\d;]*m)|([^\x1b\n]+)", view.coloured(input_ids, labels, WIDE, True)
    ):
        state = code or state
        painted += [state == view.GRADED] * columns(text)
        assert code or state in (view.GRADED, view.MASKED)
    assert painted == flags


def test_the_rows_show_the_probability_and_the_loss_of_what_is_graded():
    input_ids, labels = example([0, 2, 1, 0], [False, False, True, True])
    text = view.rows(
        input_ids, labels, WIDE, False, np.array([0.5, 0.25, 1]), np.array([9, 1.386294, 0])
    )
    assert text.split("\n") == [
        "position  input     id  label         probability    loss",
        "       0  a          0   -100                   -       0  skipped",
        "       1  ' '        2      1 b            0.2500   1.386  graded",
        "       2  b          1      0 a            1.0000   0.000  graded",
    ]
    painted = view.rows(input_ids, labels, WIDE, True).split("\n")
    assert painted[0] == "position  input     id  label"
    assert painted[1] == view.MASKED + "       0  a          0   -100          skipped" + view.PLAIN
    assert painted[2] == view.GRADED + "       1  ' '        2      1 b        graded" + view.PLAIN


@steady
@given(some_ids)
def test_the_rows_stand_below_each_other_whatever_the_width_of_their_tokens(tokens):
    ids, graded = zip(*tokens)
    input_ids, labels = example(ids, graded)
    some = np.linspace(0, 1, len(labels))
    head, *lines = view.rows(input_ids, labels, WIDE, False, some, some).split("\n")
    places = {columns(line[: line.rindex("  ")]) for line in lines}
    assert places == {columns(head)} and len(lines) == len(labels)


# --------------------------------------------------------------------------------- the picture


def said(element):
    """The texts of an element."""
    return [node.data for node in element.childNodes]


def boxes(svg):
    """(x, y, width, height, colour, the texts in it) of each box of a picture, in its order; the
    texts outside of all; the width and the height of the whole."""
    root = xml.dom.minidom.parseString(svg).documentElement

    def numbers(element, *names):
        return [float(element.getAttribute(name)) for name in names]

    found = [
        (*numbers(r, "x", "y", "width", "height"), r.getAttribute("fill"), [])
        for r in root.getElementsByTagName("rect")[1:]
    ]
    outside = []
    for text in root.getElementsByTagName("text"):
        x, y = numbers(text, "x", "y")
        inside = [b for b in found if b[0] < x < b[0] + b[2] and b[1] < y < b[1] + b[3]]
        written = "".join(said(text))
        if text.getAttribute("text-anchor") == "middle":
            (box,) = inside
            assert x == box[0] + box[2] / 2
            box[5].append(written)
        else:
            assert not inside
            outside.append((x, y, written))
    return found[2:], outside, numbers(root, "width", "height")


@pytest.mark.parametrize("length", [1, 2, 18, 19, 37])
def test_a_picture_draws_each_position_as_two_boxes_in_lines_of_18(length):
    ids = [i % 2 for i in range(length + 1)]
    graded = [i % 3 == 0 for i in range(length + 1)]
    input_ids, labels = example(ids, graded)
    found, outside, (width, height) = boxes(view.picture(input_ids, labels, WIDE, "a < b"))
    assert len(found) == 2 * length
    assert {(w, h) for _, _, w, h, _, _ in found} == {(45, 45)}
    for i, (above, below) in enumerate(zip(found[::2], found[1::2])):
        assert above[4:] == (view.WHITE, ["ab"[ids[i]], str(ids[i])])
        if graded[i + 1]:
            assert below[4:] == (view.BLUE, ["ab"[ids[i + 1]], str(ids[i + 1])])
        else:
            assert below[4:] == (view.GREY, ["-100", ""])
        row, column = divmod(i, 18)
        first, start = found[0], found[36 * row]
        assert above[0] == below[0] == first[0] + 50 * column and above[1] == start[1]
        assert below[1] == above[1] + 50
        assert start[1] - first[1] == row * (found[36][1] - first[1] if row else 0)
        assert not row or start[1] > found[36 * row - 1][1] + 45  # below the line before
    # The margins are the same whatever is drawn.
    right, bottom = (max(b[i] + 45 for b in found) for i in (0, 1))
    assert (width - right, height - bottom) == (24.5, 52.5)
    lines = sorted({b[1] for b in found})
    heads = [(y, text) for _, y, text in outside if text in ("input", "label")]
    assert [text for _, text in heads] == ["input", "label"] * (-(-length // 18))
    assert all(top < y < top + 45 for top, (y, _) in zip(lines, heads))
    assert all(x < found[0][0] for x, _, text in outside if text in ("input", "label"))


def test_a_picture_of_two_positions_is_drawn_to_the_point():
    """Whoever moves something looks at the picture, and writes its new numbers down here."""
    input_ids, labels = example([2, 1, 8], [False, False, True])
    root = xml.dom.minidom.parseString(view.picture(input_ids, labels, WIDE, "a < b"))
    names = ("x", "y", "font-size", "width", "fill")
    drawn = [
        " ".join(filter(None, (e.tagName, *map(e.getAttribute, names), *said(e))))
        for e in root.documentElement.childNodes
        if e.nodeName != "#text"
    ]
    assert drawn == [
        "rect 196 #ffffff",
        "text 16 26 15 #222222 a < b",
        "rect 16 38 12 #d7d9dc",
        "text 34 49 12 #222222 masked: label -100, no loss, no gradient",
        "rect 346 38 12 #2f6fd0",
        "text 364 49 12 #222222 graded",
        "text 16 92 12 #222222 input",
        "text 16 142 12 #222222 label",
        "rect 76.5 64.5 45 #ffffff",
        f"text 99.0 86 15 #222222 {view.OPEN_BOX}",
        "text 99.0 103 9 #222222 2",
        "rect 76.5 114.5 45 #d7d9dc",
        "text 99.0 136 10 #555b62 -100",
        "text 99.0 153 9 #555b62",
        "rect 126.5 64.5 45 #ffffff",
        "text 149.0 86 15 #222222 b",
        "text 149.0 103 9 #222222 1",
        "rect 126.5 114.5 45 #2f6fd0",
        "text 149.0 136 10 #ffffff <|end|>",
        "text 149.0 153 9 #ffffff 8",
    ]


@pytest.mark.parametrize(
    "name, shown, size",
    [
        ("ab", "ab", "15"),
        ("abc", "abc", "10"),
        ("abcdefg", "abcdefg", "10"),
        ("<|user|>", "<|user|>", "8"),
        ("<|abcde|>", "<|abcde|>", "7"),
        ("<|abcdef|>", "abcdef", "10"),
        ("<<abcdefghij>>", "abcdefghij", "7"),
        ("[abcdefghijk]", "abcdefghijk", "6"),
        ("abcdefghijklmnop", "abcdefghijklmnop", "6"),
    ],
)
def test_a_long_name_is_written_smaller_and_without_its_brackets(name, shown, size):
    tokenizer = CharTokenizer("ab", (name,))
    input_ids, labels = example([2, 0], [False, False])
    (text,) = re.findall(
        r'font-size="(\d+)"[^>]* xml:space="preserve">([^<]*)<',
        view.picture(input_ids, labels, tokenizer),
    )[:1]
    assert text == (size, html.escape(shown))
