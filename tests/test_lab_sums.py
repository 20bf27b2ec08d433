"""Sums with their steps: what the lab's arms train on, and what is measured."""

from types import SimpleNamespace

import numpy as np
import pytest
from thinking import THINKS, answering, ids_of

from pysft.lab import sums
from pysft.lab.experiments.sums import sums as arms_of
from pysft.lab.thoughts import Size, thought_of
from pysft.text.conversation import with_thought
from pysft.text.tokenizer import CharTokenizer

pytestmark = pytest.mark.usefixtures("small_lab")


@pytest.mark.parametrize(
    "a, b, steps",
    [
        (472, 385, "2+5=7, 7+8=15, 4+3+1=8"),
        (100, 100, "0+0=0, 0+0=0, 1+1=2"),
        (999, 999, "9+9=18, 9+9+1=19, 9+9+1=19"),
        (605, 105, "5+5=10, 0+0+1=1, 6+1=7"),
    ],
)
def test_the_steps_of_a_sum_go_from_the_right_and_carry(a, b, steps):
    assert sums.steps_of(a, b) == steps
    digits = [step.rpartition("=")[2][-1] for step in steps.split(", ")[:2]]
    assert int(steps.rpartition("=")[2] + "".join(reversed(digits))) == a + b


def test_no_sealed_sum_is_trained_in_either_order():
    trained, sealed = sums.asked_sums(1)
    assert (len(trained), len(sealed)) == (sums.TRAINED, sums.SEALED)
    every = [tuple(sorted(pair)) for pair in (*trained, *sealed)]
    assert len({*every}) == len(every) and min(map(min, every)) >= 100
    assert any(a > b for a, b in trained) and any(a < b for a, b in trained)
    assert sums.asked_sums(1) == (trained, sealed) != sums.asked_sums(2)


def test_a_row_asks_in_turn_and_thinks_the_steps(lab):
    pairs = [(472, 385), (100, 200), (605, 105), (999, 999), (123, 456)]
    rows = sums.rows_of(pairs)
    prompts = [row.prompt for row in rows]
    assert prompts[:4] == ["What is 472+385?", "How much is 100 plus 200?", "Add 605 and 105.",
                           "999+999"]  # fmt: skip
    assert prompts[4] == "What is 123+456?"
    for row, (a, b) in zip(rows, pairs, strict=True):
        assert sums.is_right(row.prompt, row.replies()[0])
        assert row.messages[1]["content"] == with_thought(sums.steps_of(a, b), f"It is {a + b}.")
    for thinks in (False, True):
        tokenizer = sums.vocabulary(rows, lab.tokenizer, thinks)
        assert (tokenizer.encode("To be") == lab.tokenizer.encode("To be")).all()
        assert tokenizer.can_write("0123456789+=")  # the pairs have every digit
        assert ("<|thought_start|>" in tokenizer.special) is thinks


def test_only_the_sum_itself_is_right():
    assert sums.is_right("How much is 472 plus 385?", "It is 857.")
    for wrong in ("It is 856.", "It is 8570.", "It is 472, 857.", "It is.", "", "It is 85 7."):
        assert not sums.is_right("How much is 472 plus 385?", wrong)


def test_sums_are_counted_with_and_without_their_steps(monkeypatch):
    trained, sealed = sums.asked_sums(1)
    arm = SimpleNamespace(probe=sums.probe_of("To be.", trained, sealed))
    prompts = [p["prompt"] for p in arm.probe.prompts]
    assert prompts == sums.prompts_of(sealed)
    digits = THINKS.characters + "012456789+="
    vocabulary = CharTokenizer(digits).grow(THINKS.specials)

    def reply(prompt):
        a, b = sums.numbers_in(prompt)
        place = prompts.index(prompt) % 4 if prompt in prompts else 1
        thought = sums.steps_of(a, b) if place < 2 else ""
        return thought, f"It is {a + b if place in (1, 2) else 7}."

    monkeypatch.setattr(sums, "answer", answering(reply))
    monkeypatch.setattr(sums, "corpus_loss", lambda model, tokenizer, text: len(text))
    monkeypatch.setattr(sums, "FOLLOWED", 4)
    found = sums.adding(None, vocabulary, arm, 1)
    lengths = [len(ids_of(*reply(prompt), vocabulary)) for prompt in prompts]
    assert found == {
        "right": 1 / 2, "steps": 1 / 2, "founded": 1 / 4, "length": pytest.approx(np.mean(lengths))
    }  # fmt: skip
    figures, replies = sums.judge_of_sums(None, vocabulary, arm)
    assert figures == {"tuned_base_loss": 6, "right": 1 / 2}
    assert [row[0] for row in replies["prompts"]] == prompts[:4]
    assert [row[0] for row in replies["pairs"]] == sums.prompts_of(trained[:6])
    assert all(sums.is_right(p, answer) for p, answer in arm.probe.pairs)


def test_arms_on_sums_train_on_the_same_sums_and_differ_in_their_thoughts_and_steps(lab):
    asked, long, again, steps = arms_of(lab, 1)
    trained, sealed = sums.asked_sums(1)
    for arm in (asked, long, again, steps):
        assert [c.prompt for c in arm.conversations] == sums.prompts_of(trained)
        assert [p["prompt"] for p in arm.probe.prompts] == sums.prompts_of(sealed)
        assert arm.preset == "tiny" and arm.told is None
        thinks = "<|thought_start|>" in arm.tokenizer.special
        assert thinks is (arm in (again, steps))
    thoughts = [
        [thought_of(c.messages[1]["content"]) for c in arm.conversations]
        for arm in (asked, long, again, steps)
    ]
    rows = again.conversations
    assert thoughts[3] == [sums.steps_of(a, b) for a, b in trained]
    assert {*thoughts[0], *thoughts[1]} == {""}
    assert all((f"{c.prompt} " * 9).startswith(t) for t, c in zip(thoughts[2], rows))
    assert asked.settings["steps"] == again.settings["steps"] == steps.settings["steps"]
    assert again.settings == steps.settings
    ratio = long.settings["steps"] / asked.settings["steps"]
    sizes = [Size.of(arm.conversations, again.tokenizer, 256) for arm in (asked, steps)]
    assert ratio == pytest.approx(sizes[1].graded / sizes[0].graded, rel=0.01)
