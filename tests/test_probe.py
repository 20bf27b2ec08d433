"""The texts that a model is measured with: which shipped prompts are asked, and the sealed ones."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from texts import grown, one_line, say

from pysft.errors import DataError
from pysft.measure.probe import Probe, make_probe, plain_prompt
from pysft.text.conversation import Conversation
from pysft.text.corpora import shipped
from pysft.text.facts import town
from pysft.text.formats import last_text, read_conversations, read_prompts
from pysft.text.heldout import prompt_key
from pysft.text.render import render_prompt
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE
from pysft.text.transcripts import FOLLOWED

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
