"""Sampling replies to many prompts: what they depend on, and what is refused."""

import json
from collections import Counter

import numpy as np
import pytest
from command_line import pysft, read_lines, refusal, succeeds

from pysft.errors import DataError, UsageError
from pysft.inference.engine import Engine
from pysft.jobs import collect
from pysft.jobs.collect import sample_replies
from pysft.run.stage import load_stage
from pysft.text.render import render_prompt
from pysft.text.sampled import Sampled, is_usable, read_sampled
from pysft.text.templates import CHAT
from pysft.world.ask import questions
from pysft.world.facts import make


@pytest.fixture(scope="module")
def stage(world_run):
    return load_stage(world_run[0])


def said(text):
    return [{"role": "user", "content": text}]


PROMPTS = [said(text) for text in ("Who sings?", "Hi", "What pet has Ada?", "Go on.", "Who?")]


# ------------------------------------------------------------------------------- what is sampled


def test_a_prompt_s_replies_depend_on_its_place_and_the_seed_alone(stage, monkeypatch):
    found = sample_replies(stage, PROMPTS, 4, 7, max_new=12)
    assert [len(replies) for replies in found] == [4] * 5
    assert found == sample_replies(stage, PROMPTS, 4, 7, max_new=12)
    others = [said("Other"), *PROMPTS[1:3]]  # those before and after it do not count
    assert sample_replies(stage, others, 4, 7, max_new=12)[1:] == found[1:3]
    fewer = sample_replies(stage, PROMPTS, 2, 7, max_new=12)
    assert fewer == [replies[:2] for replies in found]
    assert sample_replies(stage, PROMPTS, 4, 8, max_new=12) != found
    monkeypatch.setattr(collect, "AT_ONCE", 8)  # nor what is written beside it
    assert sample_replies(stage, PROMPTS, 4, 7, max_new=12) == found


def test_replies_are_drawn_with_the_model_s_own_probabilities(world_run):
    stage = load_stage(world_run[0])
    # So far from even that a temperature would show.
    np.multiply(stage.model.params["lnf.w"], 8, out=stage.model.params["lnf.w"])
    prompt, places, k = said("Who sings?"), 400, 9
    ids = render_prompt(prompt, stage.tokenizer, stage.template)
    logits = stage.model.decoder(1).read([ids], [0])[0].astype(np.float64)
    expected = np.exp(logits - np.logaddexp.reduce(logits))
    assert expected.max() > 0.2
    found = sample_replies(stage, [prompt] * places, k, 3, max_new=1)
    drawn = Counter(text for replies in found for text, _ in replies)
    n, end = places * k, stage.tokenizer.special[stage.template.end]
    for i, p in enumerate(expected):
        text = "" if i == end else stage.tokenizer.decode([i])
        assert abs(drawn[text] - n * p) < 4.5 * np.sqrt(n * p * (1 - p)) + 1, text
    ended = sum(end for replies in found for _, end in replies)
    assert ended == drawn[""]


def test_a_reply_has_ended_only_if_the_model_ended_it(stage):
    found = sample_replies(stage, PROMPTS, 9, 1, max_new=5)
    for text, ended in (reply for replies in found for reply in replies):
        ids = len(stage.tokenizer.encode(text)) if is_usable(text) else 0
        assert ids <= 5 and (ended or ids in (0, 5))


def test_prompts_without_room_and_wrong_numbers_are_refused(stage):
    with pytest.raises(DataError, match="prompt 1: it takes 1.. tokens and leaves no room"):
        sample_replies(stage, [PROMPTS[0], said("a" * 130)], 2, 0)
    for k in (0, 10):
        with pytest.raises(UsageError, match=f"k = {k}: expected 1 to 9"):
            sample_replies(stage, PROMPTS, k, 0)
    assert sample_replies(stage, [], 4, 0) == []


# ---------------------------------------------------------------------------------- the command


def generate(run, *flags):
    return succeeds("generate", run, "--tokens", "8", *flags, "--json").document


def test_generate_writes_a_row_for_each_line_of_a_text(world_run, workdir):
    workdir.write("prompts.txt", "Who sings?\r\n\n  Hi \nWho?\n")
    found = generate(world_run[0], "--prompts", "prompts.txt", "--seed", "5")
    rows = read_lines("replies.jsonl")
    assert [row["prompt"] for row in rows] == [said("Who sings?"), said("Hi"), said("Who?")]
    assert all(len(row["replies"]) == len(row["ended"]) == 4 for row in rows)
    assert (found["replies"], found["prompts"], found["k"]) == ("replies.jsonl", 3, 4)
    replies = [text for row in rows for text in row["replies"]]
    assert found["unusable"] == sum(not is_usable(text) for text in replies)
    assert found["cut_off"] == sum(not end for row in rows for end in row["ended"])
    again = ("--prompts", "prompts.txt", "--seed", "5", "--out", "again.jsonl")
    generate(world_run[0], *again)
    assert read_lines("again.jsonl") == rows
    shown = succeeds("generate", world_run[0], "--prompts", "prompts.txt", "--out", "third.jsonl")
    assert "4 replies to each of 3 prompts" in shown.out and "rate third.jsonl" in shown.out


def test_rows_of_json_keep_their_turns_and_their_source(world_run, workdir):
    talk = [*said("Hi"), {"role": "assistant", "content": "Ho."}, *said("Who?")]
    rows = [{"prompt": talk, "source": "persona"}, {"prompt": "Go"}]
    workdir.write("prompts.jsonl", rows)
    generate(world_run[0], "--prompts", "prompts.jsonl", "-k", "2")
    found = read_lines("replies.jsonl")
    assert [row["prompt"] for row in found] == [talk, said("Go")]
    assert [row.get("source") for row in found] == ["persona", None]


@pytest.mark.parametrize("split", ["reward", "ppo", "train"])
def test_the_word_world_asks_all_questions_of_a_split(world_run, workdir, stage, split):
    names = ["world:" + split, *(["world"] if split == "reward" else [])]
    for name in names:
        out = f"{name.replace(':', '-')}.jsonl"
        generate(world_run[0], "--prompts", name, "-k", "2", "--out", out)
        rows = read_lines(out)
        asked = questions(make(stage.world), split)
        assert [row["prompt"] for row in rows] == [said(q.prompt) for q in asked]
        assert {row["source"] for row in rows} == {f"world:{split}"}


def test_an_interrupt_leaves_no_file(world_run, workdir, monkeypatch):
    workdir.write("prompts.txt", "Hi\n")

    def stopped(engine):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "run", stopped)
    done = pysft("generate", world_run[0], "--prompts", "prompts.txt")
    assert done.code == 130 and workdir.is_unchanged()


BAD_PROMPTS = {
    "": "no prompt in it; write one on each line",
    "\n \n": "no prompt in it",
    "Hi\n" + "a" * 130: "prompts.txt, line 2: it takes 1",
    "Hi\nWho \u00a7 \u20ac?": "prompts.txt, line 2, turn 1",
}
BAD_ROWS = {
    '{"text": "Hi"}': 'no "prompt" in it',
    '{"prompt": ""}': 'no "prompt" in it',
    '{"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}': "system",
    '{"prompt": "Hi"}\n{': "not JSON",
    "": "no prompt in it",
}


@pytest.mark.parametrize(
    "name, content, expected",
    [("prompts.txt", *row) for row in BAD_PROMPTS.items()]
    + [("prompts.jsonl", *row) for row in BAD_ROWS.items()],
)
def test_prompts_that_cannot_be_answered_are_one_sentence(
    world_run, workdir, name, content, expected
):
    workdir.write(name, content)
    text = refusal(65, "generate", world_run[0], "--prompts", name)
    assert expected in text and name in text and "--unknown" not in text
    assert workdir.is_unchanged()


@pytest.mark.parametrize(
    "flags, expected",
    [
        (("-k", "1"), "-k 1: expected 2 to 9"),
        (("-k", "10"), "-k 10: expected 2 to 9"),
        (("-k", "0"), "not a whole number above 0"),
        (("-p", "Hi"), "give one of the two"),
        (("--temperature", "0.8"), "temperature 1 without cuts"),
        (("--top-k", "5"), "temperature 1 without cuts"),
        (("--repetition", "2"), "temperature 1 without cuts"),
        (("--out", "prompts.txt"), "it exists already"),
        (("--out", "nowhere/a.jsonl"), "there is no folder nowhere"),
        (("--prompts", "world:sealed"), "for reports alone"),
        (("--prompts", "world:all"), "expected world:train, world:reward, world:ppo"),
    ],
)
def test_flags_that_do_not_fit_are_usage_errors(world_run, workdir, flags, expected):
    workdir.write("prompts.txt", "Hi\n")
    assert expected in refusal(2, "generate", world_run[0], "--prompts", "prompts.txt", *flags)
    assert workdir.is_unchanged()


def test_what_is_for_many_prompts_is_refused_for_one_text(world_run, workdir):
    for flags in (("-k", "3"), ("--out", "a.jsonl")):
        assert "for --prompts FILE" in refusal(2, "generate", world_run[0], *flags)
    missing = refusal(66, "generate", world_run[0], "--prompts", "none.txt")
    assert "none.txt: no such file of prompts" in missing


def test_a_base_and_a_run_without_a_world_say_what_they_lack(world_run, trained, workdir):
    workdir.write("prompts.txt", "Hi\n")
    base = world_run[0] / "base"
    assert "a base model" in refusal(2, "generate", base, "--prompts", "prompts.txt")
    text = refusal(2, "generate", trained.run, "--prompts", "world")
    assert "learned no invented world" in text


# ------------------------------------------------------------------------------ files of replies


def test_unusable_replies_are_left_out_and_equal_ones_are_taken_once():
    replies = ("Ho.", "", "  \n", "Ho.", f"A {CHAT.end}", "<|search_start|>x", "Hm", "\ud800")
    ended = (False, True, True, True, True, True, False, True)
    kept = Sampled(said("Hi"), replies, ended).usable()
    assert (kept.replies, kept.ended) == (("Ho.", "Hm"), (True, False))


GOOD = {"prompt": "Hi", "replies": ["Ho.", "Hm"]}


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"prompt": "Hi"}, 'no "replies" in it'),
        ({"replies": ["a", "b"]}, 'no "prompt" in it'),
        (GOOD | {"replies": ["a"]}, '"replies" is a list of 1; write a list of 2 to 9'),
        (GOOD | {"replies": ["a"] * 10}, '"replies" is a list of 10'),
        (GOOD | {"replies": "ab"}, '"replies" is a text'),
        (GOOD | {"replies": ["a", 3]}, "reply 2"),
        (GOOD | {"ended": [True]}, '"ended" does not fit'),
        (GOOD | {"ended": [1, 0]}, '"ended" does not fit'),
        (GOOD | {"ranks": [1, 2]}, "an order already"),
        (GOOD | {"prompt": " "}, "empty text"),
        (GOOD | {"prompt": []}, "no turn in its prompt"),
        (GOOD | {"prompt": [{"role": "assistant", "content": "x"}]}, "expected 'user'"),
        (GOOD | {"tools": ["x"]}, "tools"),
    ],
)
def test_a_row_of_replies_that_cannot_be_used_is_named(tmp_path, row, expected):
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match="line 2") as found:
        read_sampled(path)
    assert expected in str(found.value) and "\n" not in str(found.value)


def test_a_key_that_is_not_read_has_a_remedy_that_exists(world_run, workdir):
    workdir.write("a.jsonl", json.dumps({"prompt": "Who sings?", "completion": "Nobody."}) + "\n")
    said = refusal(65, "generate", world_run[0], "--prompts", "a.jsonl", "--out", "b.jsonl")
    assert "its key 'completion' is not read" in said and "--ignore" not in said
