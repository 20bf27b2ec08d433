"""The mask on the screen and as a picture."""

import re
import xml.dom.minidom

from texts import grown, say

from pysft.text import view
from pysft.text.examples import shift
from pysft.text.render import render
from pysft.text.templates import CHAT


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
