"""Made transcripts of tool use, and the facts that they are about."""

import numpy as np
import pytest

from pysft import IGNORE
from pysft.errors import DataError
from pysft.text.corpora import read_corpus
from pysft.text.examples import encode_conversation
from pysft.text.facts import Lexicon, invent, name, town
from pysft.text.render import render_prompt
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.text.transcripts import ASKED, HELD_OUT, NOTHING, REFUSAL, miss, transcripts

T = CharTokenizer(SHAKESPEARE, CHAT.tokens).grow(CHAT.tool_tokens)
TEXT = read_corpus("plays")[:50_000]
LEXICON = Lexicon(TEXT)


def test_transcripts_fit_the_context_and_need_no_new_characters():
    made = transcripts(600, town(trained=True), LEXICON, 1)
    assert len(made) == 600 and len({c.line for c in made}) == 600
    for c in made:
        example = encode_conversation(c, T, 256)
        call, _, answer = (part["text"] for part in c.messages[1]["content"])
        # The call with both its tokens, and the answer with its end.
        assert (example.labels != IGNORE).sum() == len(call) + 2 + len(answer) + 1


def test_the_same_seed_makes_the_same_transcripts_and_another_makes_others():
    a, b, c = (transcripts(60, [], LEXICON, seed) for seed in (1, 1, 2))
    assert [x.messages for x in a] == [x.messages for x in b] != [x.messages for x in c]


def test_an_answer_repeats_what_was_found_about_the_name_or_else_refuses():
    kinds = {"known": 0, "near": 0, "nothing": 0}
    for c in transcripts(400, [], LEXICON, 3):
        call, result, answer = (p["text"] for p in c.messages[1]["content"])
        assert call in c.messages[0]["content"]
        is_known = result.startswith(call + " ")
        assert answer == (result if is_known else f"{call}? {REFUSAL}")
        kinds["known" if is_known else "nothing" if result == NOTHING else "near"] += 1
    assert 160 < kinds["known"] < 240 and kinds["near"] > 100 and kinds["nothing"] > 10


def test_a_near_miss_shares_a_word_with_the_name_and_is_about_another():
    g = np.random.default_rng(0)
    for _ in range(300):
        fact = invent(g, LEXICON)
        found = miss(g, fact, LEXICON)
        assert found == NOTHING or not found.startswith(fact.title + " ")
        assert found == NOTHING or set(fact.title.split()) & set(found.rstrip(".").split())


def test_facts_are_of_many_kinds_and_none_is_too_long():
    g = np.random.default_rng(0)
    facts = [invent(g, LEXICON) for _ in range(2000)]
    assert {f.kind for f in facts} == {"person", "place", "thing"}
    assert len({f.title for f in facts}) > 1980
    for f in facts:
        assert f.text.startswith(f.title + " ") and f.text.endswith(".")
        assert len(f.text) - len(f.title) <= 51
    assert sum("," in f.text for f in facts) > 100
    assert np.mean([f.text.count(" the ") > 1 for f in facts]) > 0.2
    running = " " + " ".join(LEXICON.running) + " "
    copied = [
        f" {f.text[len(f.title) + 1 : -1]} " in running.replace(",", "")
        or f.text[len(f.title) : -1] in running
        for f in facts
    ]
    assert 0.3 < np.mean(copied) < 0.5
    names = {name(g, LEXICON) for _ in range(500)}
    assert len(names) > 480 and all(n[0].isupper() and n[1:].islower() for n in names)


def test_a_text_of_few_words_is_refused_in_a_sentence():
    with pytest.raises(DataError, match="longer corpus"):
        Lexicon("ab " * 50)


def test_what_is_asked_in_the_test_was_never_trained_on():
    assert len(town(True)) == len(town(False)) == 60
    assert not {f.title for f in town(True)} & {f.title for f in town(False)}
    assert all(not set(ASKED[kind]) & set(HELD_OUT[kind]) for kind in ASKED)


def test_the_prompt_of_a_question_is_what_training_rendered():
    c = transcripts(1, [], LEXICON, 1)[0]
    prompt = render_prompt(c.messages[:1], T, CHAT)
    assert encode_conversation(c, T, 256).input_ids[: len(prompt)].tolist() == prompt.tolist()
