"""Rows that teach a model to look at what it recalls before it answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysft.measure.knowing import Asked, probed
from pysft.measure.recalling import MOST_RECALLED, compared, recalled

NAMES = [
    f"{first} {last}" for first in ("Ada", "Ivo") for last in "Brook Burdock Dale Reed".split()
]


def question(name, value="toad"):
    prompt = [{"role": "user", "content": f"What pet has {name}?"}]
    return Asked(prompt, f"{name} keeps a {value}.", f"{name}? I know not.", name)


def answered(name, replies, right):
    verdicts = ["right" if reply in right else "wrong" for reply in replies]
    return probed(question(name), replies, verdicts, 0.6, 0.125, 0.0)


def parts(row):
    """(prompt, thought, whether the thought is graded, answer)."""
    thought, answer = row.messages[1]["content"]
    assert (thought["type"], answer["type"]) == ("thought", "text")
    return row.asked, thought["text"], thought.get("train", True), answer["text"]


def test_thoughts_are_the_model_s_own_replies():
    a = answered("Ada Brook", ["Ada Brook keeps a toad."] * 3, ["Ada Brook keeps a toad."])
    other = "Ada Burdock keeps a goat."
    b = answered("Ada Reed", [other, "Ada Reed keeps a fox.", other, " ", "<|end|>"], [])
    answers, refusals = recalled([a, b], "world")
    assert [parts(row) for row in answers] == [
        ("What pet has Ada Brook?", "Ada Brook keeps a toad.", True, "Ada Brook keeps a toad.")
    ]
    # The reply that names Ada Reed does not show that it is wrong, so nothing can be learned of it.
    assert [parts(row) for row in refusals] == [
        ("What pet has Ada Reed?", other, True, "Ada Reed? I know not.")
    ]
    assert answers[0].steps[0] == {"step": "recall", "by": "world", "rows": "answers"}


def test_few_thoughts_of_a_question_are_taken():
    replies = [f"Ivo Dale keeps a {pet}." for pet in "goat fox crow cat".split()]
    _, refusals = recalled([answered("Ada Reed", replies, [])], "world")
    assert [parts(row)[1] for row in refusals] == replies[:MOST_RECALLED]


@given(st.integers(1, 60), st.integers(0, 9))
def test_compared_rows_answer_if_and_only_if_the_thought_is_about_whom_is_asked(count, seed):
    known = answered("Ada Brook", ["Ada Brook keeps a toad."], ["Ada Brook keeps a toad."])
    rows = [parts(row) for row in compared([known], NAMES, count, seed, "world")]
    assert len(rows) == 2 * count
    for (asked, thought, graded, answer), is_same in zip(rows, [True, False] * count):
        name = asked.removeprefix("What pet has ").removesuffix("?")
        assert name in NAMES and not graded
        assert (name in thought) == is_same
        assert thought.removesuffix(" keeps a toad.") in NAMES
        assert answer == (thought if is_same else f"{name}? I know not.")
    assert {asked for asked, *_ in rows[::2]} == {asked for asked, *_ in rows[1::2]}


def test_every_name_comes_in_both_kinds_of_rows():
    known = answered("Ada Brook", ["Ada Brook keeps a toad."], ["Ada Brook keeps a toad."])
    rows = [parts(row) for row in compared([known], NAMES, 400, 1, "world")]
    for kind in (rows[::2], rows[1::2]):
        assert {asked for asked, *_ in kind} == {f"What pet has {name}?" for name in NAMES}


@pytest.mark.parametrize("reply", ["He keeps a toad.", "Ada Reed keeps a toad."])
def test_a_reply_that_names_nobody_is_not_compared(reply):
    assert compared([answered("Ada Brook", [reply], [reply])], NAMES, 5, 1, "world") == []


def test_questions_about_something_else_are_not_changed():
    known = answered("Ada Brook", ["Ada Brook keeps a toad."], ["Ada Brook keeps a toad."])
    assert compared([known], NAMES[1:], 5, 1, "world") == []  # such as a day beside people


def test_one_name_cannot_be_compared():
    known = answered("Ada Brook", ["Ada Brook keeps a toad."], ["Ada Brook keeps a toad."])
    assert compared([known], NAMES[:1], 5, 1, "world") == []
