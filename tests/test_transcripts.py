"""Made transcripts of tool use, and the facts that they are about."""

from collections import Counter

import numpy as np
import pytest
from texts import grown, transcripts

from pysft import IGNORE
from pysft.errors import DataError
from pysft.inference.session import Session
from pysft.inference.tools import Tool
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.text.conversation import check_messages, plain
from pysft.text.corpora import read_corpus
from pysft.text.examples import encode_conversation
from pysft.text.render import render_prompt
from pysft.text.templates import CHAT
from pysft.world.lexicon import REFUSAL
from pysft.world.town import Words, invent, name, town
from pysft.world.transcripts import (
    ASKED,
    FOLLOWED,
    GOES_ON,
    HELD_OUT,
    HELD_OUT_FOLLOWED,
    NOTHING,
    PRONOUNS,
    about,
    miss,
)

T = grown(CHAT)
TEXT = read_corpus("plays")[:50_000]
LEXICON = Words(TEXT)
ORDINARY = [("Speak of love", "Love is kind."), ("I am sad", "Take heart."), ("Sing", "La.")]
MADE = transcripts(3000, town(trained=True), LEXICON, 1, ordinary=ORDINARY)
SEARCHED = [c for c in MADE if c.has_calls]


def parts(conversation):
    """(call, result, answer) of a transcript that ends with a search."""
    return tuple(part["text"] for part in conversation.messages[-1]["content"])


def name_and_kind(call):
    """The name that a call searches for, and "home", "friend" or "" for what is asked about it."""
    for kind in FOLLOWED:
        if call.startswith(about(kind, "")):
            return call.removeprefix(about(kind, "")), kind
    return call, ""


def second_questions(wordings):
    """Wordings of a second question, with each pronoun."""
    return {wording.format(**pronouns) for wording in wordings for pronouns in PRONOUNS}


def kind_of(question):
    """The kind that a second question asks for; "" for another question."""
    return "".join(kind for kind in FOLLOWED if question in second_questions(FOLLOWED[kind]))


def test_transcripts_fit_the_context_and_need_no_new_characters():
    assert len(MADE) == 3000 and len({c.line for c in MADE}) == 3000
    assert set(Counter(len(c.messages) for c in MADE)) == {2, 4, 6}
    for c in MADE:
        check_messages(c.messages, c.where, CHAT)
        encode_conversation(c, T, 256)


@pytest.mark.parametrize("grade", ["all", "last", "flags"])
def test_of_a_transcript_the_last_reply_alone_is_graded(grade):
    for c in MADE[:400]:
        labels = encode_conversation(c, T, 256, grade=grade).labels
        before = len(render_prompt(c.messages[:-1], T, CHAT)) - 1
        assert (labels[:before] == IGNORE).all() and labels[before] != IGNORE
        call, _, answer = parts(c) if c.has_calls else ("", "", c.messages[-1]["content"])
        # The call with both its tokens, and the answer with its end.
        assert (labels != IGNORE).sum() == (len(call) + 2) * c.has_calls + len(answer) + 1
        assert c.graded_turn(grade) == len(c.messages) - 1
    kinds = {(len(c.messages), c.has_calls) for c in MADE[:400]}
    assert kinds >= {(2, True), (4, True), (4, False)}


def test_without_a_mask_all_of_a_transcript_is_graded():
    for c in MADE[:9]:
        assert (encode_conversation(c, T, 256, grade="everything").labels != IGNORE).all()


def test_the_same_seed_makes_the_same_transcripts_and_another_makes_others():
    a, b, c = (transcripts(60, [], LEXICON, seed) for seed in (1, 1, 2))
    assert [x.messages for x in a] == [x.messages for x in b] != [x.messages for x in c]


def test_an_answer_repeats_what_was_found_about_the_name_or_else_refuses():
    kinds = Counter()
    for c in transcripts(500, [], LEXICON, 3):
        call, result, answer = parts(c)
        title, _ = name_and_kind(call)
        is_known = result.startswith(title + " ")
        assert answer == (result if is_known else f"{title}? {REFUSAL}")
        kinds["known" if is_known else "nothing" if result == NOTHING else "near"] += 1
    assert 200 < kinds["known"] < 300 and kinds["near"] > 125 and kinds["nothing"] > 12


def test_the_name_in_a_query_stands_in_the_question_or_before_it_in_the_chat():
    kinds = set()
    for c in SEARCHED:
        *before, last = (m["content"] for m in c.messages[:-1])
        title, kind = name_and_kind(parts(c)[0])
        if kind:
            assert kind_of(last) == kind and title not in last
            assert any(title in text for text in before)
        else:
            assert last.replace(title, "{}") in sum(ASKED.values(), ())
            assert not any(title in text for text in before)
        kinds.add((kind, len(before) // 2))
    second = {(kind, n) for kind in FOLLOWED for n in (1, 2)}
    assert kinds - {("", 2)} == {("", 0), ("", 1), *second}


def test_what_was_said_before_is_about_one_person_or_ordinary_and_the_oldest_may_be_left_out():
    begins = set()
    for c in MADE:
        before = [m["content"] for m in c.messages[:-2]]
        names, asked = set(), [kind_of(question) for question in before[::2]]
        for question, answer, kind in zip(before[::2], before[1::2], asked):
            if (question, answer) not in ORDINARY:
                title = " ".join(answer.split()[:2]).rstrip("?")
                names.add(title)
                assert kind or question.replace(title, "{}") in ASKED["person"]
        assert len(names) == min(len(before), 1)
        assert kind_of(c.messages[-2]["content"]) not in filter(None, asked)
        if before:
            begins.add("ordinary" if (before[0], before[1]) in ORDINARY else bool(asked[0]))
    assert begins == {"ordinary", True, False}


def test_an_ordinary_question_behind_one_about_a_name_is_answered_without_a_search():
    for c in MADE:
        if not c.has_calls:
            *before, question, answer = (m["content"] for m in c.messages)
            assert before and (question, answer) in ORDINARY
    assert all(c.has_calls for c in transcripts(300, [], LEXICON, 1))


def test_a_share_of_the_invented_questions_goes_on_from_earlier_ones_in_three_ways():
    gone_on = [
        c for c in transcripts(1000, [], LEXICON, 2, ordinary=ORDINARY) if len(c.messages) > 2
    ]
    assert abs(len(gone_on) / 1000 - GOES_ON) < 0.05
    ways = Counter(bool(name_and_kind(parts(c)[0])[1]) if c.has_calls else None for c in gone_on)
    # The home or friend of the person, somebody else, or what needs no search.
    assert all(ways[way] > len(gone_on) / 10 for way in (True, False, None))


def test_a_chat_shows_a_second_question_as_training_did():
    model = GPT(GPTConfig(len(T), 256, 1, 2, 16))
    having = {"search": Tool("search", lambda call: "")}
    shown = 0
    for c in [c for c in MADE if len(c.messages) == 4][:20]:
        first, answer, question, _ = c.messages
        call = [{"type": "search", "text": "a"}, {"type": "result", "text": "b"}]
        as_written = {**answer, "content": [*call, {"type": "text", "text": answer["content"]}]}
        chat = Session(model, T, CHAT, tools=having, text_history=True)
        chat.messages = [first, as_written]
        ids, dropped = chat.prompt(question["content"])
        if not dropped:
            shown += 1
            trained = encode_conversation(c, T, 256).input_ids
            assert trained[: len(ids)].tolist() == ids.tolist()
    assert shown > 15


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
        Words("ab " * 50)


def test_what_is_asked_in_the_test_was_never_trained_on():
    assert len(town(True)) == len(town(False)) == 120
    assert not {f.title for f in town(True)} & {f.title for f in town(False)}
    assert all(not set(ASKED[kind]) & set(HELD_OUT[kind]) for kind in ASKED)
    held_out = second_questions(sum(HELD_OUT_FOLLOWED.values(), ()))
    assert HELD_OUT_FOLLOWED.keys() == FOLLOWED.keys()
    assert not held_out & second_questions(sum(FOLLOWED.values(), ()))
    asked = {m["content"] for c in MADE for m in c.messages if m["role"] == "user"}
    assert not held_out & asked


def test_nothing_of_the_held_out_half_of_the_town_occurs_in_a_transcript():
    said = "\n".join(plain(m["content"]) for c in MADE for m in c.messages)
    for half, occurs in ((town(True), True), (town(False), False)):
        for fact in half:
            assert (fact.text in said) == occurs, fact
            if fact.kind != "place":  # a home may be beside a place of the other half
                assert (name_and_kind(fact.title)[0] in said) == occurs, fact
    assert not {f.title for f in town(False)} & {parts(c)[0] for c in SEARCHED}


def test_each_fact_that_is_trained_on_is_asked_for_in_several_wordings():
    facts = {f.title: (f.text, f.text) for f in town(True)}
    known = [c for c in SEARCHED if facts.get(parts(c)[0]) == parts(c)[1:]]
    times = Counter(parts(c)[0] for c in known)
    assert len({(parts(c)[0], c.messages[-2]["content"]) for c in known}) == len(known)
    for fact in town(True):
        assert times[fact.title] == 8 if fact.kind in ASKED else 3 <= times[fact.title] <= 5


def test_the_prompt_of_a_question_is_what_training_rendered():
    c = transcripts(1, [], LEXICON, 1)[0]
    prompt = render_prompt(c.messages[:1], T, CHAT)
    assert encode_conversation(c, T, 256).input_ids[: len(prompt)].tolist() == prompt.tolist()
