"""The texts that a model is measured with: which shipped prompts are asked, and the sealed ones."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from texts import grown, one_line, say

from pysft.errors import DataError, MissingInput
from pysft.measure.probe import Probe, before_reply, make_probe, plain_prompt, stored_probe
from pysft.text.conversation import Conversation
from pysft.text.corpora import shipped
from pysft.text.formats import last_text, read_conversations, read_prompts
from pysft.text.heldout import prompt_key
from pysft.text.render import render_prompt
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE
from pysft.world.town import town
from pysft.world.transcripts import FOLLOWED

SEALED = read_prompts(shipped("sealed_prompts.jsonl"))
ROSE = Conversation(say("Speak of the rose", "A rose is red."), "mine.jsonl", 1)


def probe_of(*trained, **changes):
    """The probe of a training on these conversations."""
    usual = {"trained": list(trained), "recalled": [], "heldout": [], "can_ask": lambda text: True}
    return make_probe("To be or not. " * 9, "That is it. " * 9, **usual | changes)


# ------------------------------------------------------------------------------- the sealed file
# Its prompts are not for reading, so no assertion here shows one.


def test_the_sealed_prompts_are_120_in_three_domains():
    assert Counter(p["domain"] for p in SEALED) == {"in": 60, "near": 30, "out": 30}


def test_no_sealed_prompt_comes_twice():
    assert len({prompt_key(plain_prompt(p["prompt"])) for p in SEALED}) == len(SEALED)


def test_some_sealed_prompts_are_chats_that_end_with_a_question_of_the_user():
    several = [p["prompt"] for p in SEALED if not isinstance(p["prompt"], str)]
    assert Counter(map(len, several)) == {3: 20, 5: 2}
    for turns in several:
        roles = [turn["role"] for turn in turns]
        assert roles == ["user", "assistant"] * (len(turns) // 2) + ["user"]


def test_no_sealed_prompt_is_one_of_training_or_one_that_recipes_were_chosen_by():
    rows = read_conversations(shipped("conversations.jsonl"))
    rows += read_conversations(shipped("pairs40.jsonl"))
    texts = [m["content"] for c in rows for m in c.messages if m["role"] == "user"]
    texts += [p["prompt"] for p in read_prompts(shipped("heldout_prompts.jsonl"))]
    texts += [text for wordings in FOLLOWED.values() for text in wordings]  # of transcripts
    keys = set(map(prompt_key, texts))
    common = [p for p in SEALED if prompt_key(last_text(p["prompt"])) in keys]
    assert len(common) == 0


def test_no_sealed_prompt_asks_about_the_town():
    titles = [fact.title for half in (True, False) for fact in town(trained=half)]
    asked = [plain_prompt(p["prompt"]) for p in SEALED]
    assert len(titles) == 240 and not sum(title in text for title in titles for text in asked)


def test_every_sealed_prompt_can_be_asked_of_the_shipped_presets():
    """It is written in the 65 characters, and a context of 256 has room for its reply."""
    tokenizer = grown(CHAT, SHAKESPEARE)
    unknown = [p for p in SEALED if not tokenizer.can_write(plain_prompt(p["prompt"]))]
    assert len(unknown) == 0
    longest = max(
        len(render_prompt(say(p) if isinstance(p, str) else p, tokenizer, CHAT))
        for p in (row["prompt"] for row in SEALED)
    )
    assert longest + 120 <= 256


# ------------------------------------------------------------------------------------ make_probe


def test_all_shipped_prompts_are_asked_in_their_domains():
    probe = probe_of(ROSE)
    assert probe.sealed == SEALED
    assert probe.prompts == read_prompts(shipped("heldout_prompts.jsonl"))


def test_after_training_on_ones_own_data_all_shipped_prompts_are_out_of_their_domain():
    probe = probe_of(ROSE, own_data=True)
    assert {p["domain"] for p in probe.prompts + probe.sealed} == {"out"}
    assert (len(probe.prompts), len(probe.sealed)) == (61, 120)


def test_a_prompt_that_was_trained_on_is_not_asked():
    """Also if it is the last of several turns."""
    alone = next(p["prompt"] for p in SEALED if isinstance(p["prompt"], str))
    several = next(p["prompt"] for p in SEALED if not isinstance(p["prompt"], str))
    for text in (alone, several[-1]["content"]):
        trained = Conversation(say(text, "Aye."), "mine.jsonl", 1)
        left = probe_of(trained).sealed
        assert len(left) < len(SEALED)
        assert not sum(last_text(p["prompt"]) == text for p in left)
    earlier = Conversation(say(several[0]["content"], "Aye."), "mine.jsonl", 1)
    assert sum(p["prompt"] == several for p in probe_of(earlier).sealed) == 1


def test_a_prompt_is_asked_only_if_all_of_its_turns_can_be_written():
    several = next(p["prompt"] for p in SEALED if not isinstance(p["prompt"], str))
    first = several[0]["content"]
    left = probe_of(can_ask=lambda text: first not in text).sealed
    assert len(left) < len(SEALED) and not sum(p["prompt"] == several for p in left)


def test_recall_is_measured_on_the_first_forty_replies():
    rows = [Conversation(say(f"Name {n}", "Aye."), "mine.jsonl", n) for n in range(41)]
    for count in (39, 40, 41):
        pairs = probe_of(recalled=rows[:count]).pairs
        assert [prompt for prompt, _ in pairs] == [f"Name {n}" for n in range(min(count, 40))]


def test_each_part_of_a_probe_comes_from_its_own_conversations_and_texts():
    made = replace(ROSE, messages=say("Who is Ann?", "Ann sews."), last_only=True)
    plain = replace(ROSE, messages=[{"role": "text", "content": "Zounds, a plain row."}])
    several = replace(ROSE, messages=say("Hail", "Well met.", "Whither?", "To Rome."))
    kept = replace(ROSE, messages=say("Sing", "A song."))
    probe = make_probe(
        "Caesar came. ",
        "Brutus went.",
        trained=[ROSE, made, plain, several],
        recalled=[several],
        heldout=[kept, plain],
        can_ask=lambda text: False,
    )
    assert (probe.corpus_text, probe.heldout_text) == ("Caesar came. ", "Brutus went.")
    assert probe.training_replies == ["A rose is red.", "Well met.", "To Rome."]
    assert probe.heldout == [kept.messages]
    assert probe.prompts == probe.sealed == []
    known = "a brutus caesar came hail is met of red rome rose speak the to well went whither"
    assert probe.known_words == known.split()


def test_the_reply_that_is_graded_is_recalled_with_all_turns_before_it():
    turns = say("Hail", "Well met.", "Whither?", "To Rome.")
    called = say("Who is Ann?", [{"type": "search", "text": "Ann"}])
    ungraded = [m | ({"train": False} if m["role"] == "assistant" else {}) for m in turns]
    rows = [replace(ROSE, messages=m) for m in (turns, called, ungraded)]
    assert probe_of(recalled=rows).pairs == [["Hail", "Well met."]]
    assert probe_of(recalled=rows, grade="last").pairs == [[turns[:3], "To Rome."]]


def test_the_prompt_of_a_reply_is_the_users_text_or_all_turns_before_it():
    turns = say("Hail", "Well met.", "Whither?", "To Rome.")
    assert before_reply(turns) == before_reply(turns, 1) == "Hail"
    assert before_reply(turns, 3) == turns[:3]
    assert plain_prompt("Hail") == "Hail" and plain_prompt(turns[:2]) == "HailWell met."
    system = say("Hail", "Well met.", system="Be kind")
    assert before_reply(system) == system[:2]


# ---------------------------------------------------------------------------------- evaluation.json


def test_a_probe_survives_json():
    probe = probe_of(ROSE, recalled=[ROSE])
    document = json.loads(json.dumps(probe.to_json()))
    assert Probe.from_json(document, "evaluation.json", CHAT) == probe


def test_an_older_probe_has_no_sealed_prompts():
    probe = probe_of(ROSE)
    document = json.loads(json.dumps(probe.to_json()))
    del document["sealed"]
    assert Probe.from_json(document, "evaluation.json", CHAT) == replace(probe, sealed=[])


@pytest.mark.parametrize(
    "sealed",
    [
        3,
        None,
        ["Hi"],
        [{"prompt": "Hi"}],
        [{"domain": "in"}],
        [{"prompt": 3, "domain": "in"}],
        [{"prompt": [], "domain": "in"}],
        [{"prompt": ["Hi"], "domain": "in"}],
        [{"prompt": [{"role": "user"}], "domain": "in"}],
        [{"prompt": say("Hi", "Ho"), "domain": "in"}],
    ],
)
def test_sealed_prompts_of_another_form_are_refused_with_the_name_of_the_file(sealed):
    document = probe_of(ROSE).to_json() | {"sealed": sealed}
    with pytest.raises(DataError) as error:
        Probe.from_json(document, "a/evaluation.json", CHAT)
    assert "a/evaluation.json" in one_line(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"heldout_text": 5},
        {"heldout_text": "x"},
        {"corpus_text": None},
        {"pairs": "x"},
        {"pairs": ["xy"]},
        {"pairs": [["x", "y", "z"]]},
        {"pairs": [["x"]]},
        {"pairs": [[3, "y"]]},
        {"pairs": [["x", 3]]},
        {"pairs": [[[], "y"]]},
        {"pairs": [[say("x", "y"), "z"]]},
        {"prompts": [3]},
        {"prompts": [{"prompt": "x"}]},
        {"prompts": [{"domain": "in"}]},
        {"prompts": [{"prompt": say("x"), "domain": "in"}]},
        {"heldout": {}},
        {"heldout": [[]]},
        {"heldout": [say("x")]},
        {"known_words": "x"},
        {"known_words": [3]},
        {"training_replies": [None]},
        {"training_replies": "x"},
        {"more": []},
    ],
)
def test_a_probe_with_a_field_of_another_form_is_refused(changes):
    document = probe_of(ROSE, recalled=[ROSE], heldout=[ROSE]).to_json()
    Probe.from_json(document, "a/evaluation.json", CHAT)
    with pytest.raises(DataError) as error:
        Probe.from_json(document | changes, "a/evaluation.json", CHAT)
    assert "a/evaluation.json" in one_line(error)


def test_a_probe_without_one_of_its_fields_is_refused_but_for_the_two_newest():
    document = probe_of(ROSE).to_json()
    for name in document:
        rest = {other: value for other, value in document.items() if other != name}
        if name in ("corpus_text", "sealed"):
            assert getattr(Probe.from_json(rest, "x", CHAT), name) == type(document[name])()
        else:
            with pytest.raises(DataError, match="x: not as this program writes it"):
                Probe.from_json(rest, "x", CHAT)
    for other in (None, [], "x"):
        with pytest.raises(DataError, match="x: not as this program writes it"):
            Probe.from_json(other, "x", CHAT)


def test_the_words_of_other_scripts_are_known_to_a_probe_of_an_earlier_version():
    """It knew words of ASCII alone."""
    fields = ("heldout_text", "corpus_text", "training_replies")
    for name in fields:
        document = probe_of(ROSE).to_json() | {"known_words": ["rose"]}
        assert Probe.from_json(dict(document), "x", CHAT).known_words == ["rose"]
        document[name] = (
            ["\u0420\u043e\u0437\u0430"] if name == fields[2] else "\u0420\u043e\u0437\u0430 is"
        )
        found = Probe.from_json(document, "x", CHAT).known_words
        assert {"rose", "\u0440\u043e\u0437\u0430"} <= set(found) and found == sorted(set(found))


def test_without_a_stored_probe_there_is_nothing_to_measure_with(tmp_path):
    with pytest.raises(MissingInput, match="evaluation.json: missing, so there is nothing to"):
        stored_probe(tmp_path, CHAT)
    probe = probe_of(ROSE)
    (tmp_path / "evaluation.json").write_text(json.dumps(probe.to_json()))
    assert stored_probe(tmp_path, CHAT) == probe
