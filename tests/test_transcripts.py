"""Made transcripts of tool use, and the test of a model that was trained on them."""

import numpy as np
import pytest

from pysft.errors import DataError
from pysft.inference.generate import Reply
from pysft.inference.tools import Document, Search
from pysft.lab import tooltest
from pysft.lab.evaluate import Probe
from pysft.rng import rng
from pysft.text.dataset import encode_conversation, read_corpus, split_corpus
from pysft.text.template import CHAT, render_prompt
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.text.transcripts import (
    ASKED,
    HELD_OUT,
    NOTHING,
    REFUSAL,
    Lexicon,
    invent,
    miss,
    name,
    refusal,
    town,
    transcripts,
)
from pysft.training.stages import TOOLS

T = CharTokenizer(SHAKESPEARE, CHAT.tokens).grow(CHAT.tool_tokens)
TEXT = read_corpus("plays")[:50_000]
LEXICON = Lexicon(TEXT)
END = T.special["<|end|>"]


def test_transcripts_fit_the_context_and_are_written_with_the_letters_there_are():
    made = transcripts(600, town(trained=True), LEXICON, 1)
    assert len(made) == 600 and len({c.line for c in made}) == 600
    for c in made:
        e = encode_conversation(c, T, 256)
        parts = c.messages[1]["content"]
        assert (e.labels != -100).sum() == len(parts[0]["text"]) + 2 + len(
            parts[2]["text"]
        ) + 1  # the call with both its ends, the reply


def test_the_same_seed_makes_the_same_and_another_others():
    a, b, c = (transcripts(60, [], LEXICON, seed) for seed in (1, 1, 2))
    assert [x.messages for x in a] == [x.messages for x in b] != [x.messages for x in c]


def test_an_answer_is_what_was_found_if_it_is_about_the_name_and_the_refusal_if_not():
    kinds = {"known": 0, "near": 0, "nothing": 0}
    for c in transcripts(400, [], LEXICON, 3):
        call, result, answer = (p["text"] for p in c.messages[1]["content"])
        assert call in c.messages[0]["content"]
        about = result.startswith(call + " ")
        assert answer == (result if about else f"{call}? {REFUSAL}")
        kinds["known" if about else "nothing" if result == NOTHING else "near"] += 1
    assert 160 < kinds["known"] < 240 and kinds["near"] > 100 and kinds["nothing"] > 10


def test_a_near_miss_shares_a_word_and_is_about_another():
    g = np.random.default_rng(0)
    for _ in range(300):
        fact = invent(g, LEXICON)
        found = miss(g, fact, LEXICON)
        assert found == NOTHING or not found.startswith(fact.title + " ")
        assert found == NOTHING or set(fact.title.split()) & set(found.rstrip(".").split())


def test_facts_are_of_many_kinds_and_none_is_too_long():
    g = np.random.default_rng(0)
    facts = [invent(g, LEXICON) for _ in range(2000)]
    assert {f.kind for f in facts} == {"person", "place", "thing"} and len(
        {f.title for f in facts}
    ) > 1980
    assert all(
        f.text.startswith(f.title + " ")
        and f.text.endswith(".")
        and len(f.text) - len(f.title) <= 51
        for f in facts
    )
    assert (
        sum("," in f.text for f in facts) > 100
        and np.mean([f.text.count(" the ") > 1 for f in facts]) > 0.2
    )
    running = " " + " ".join(LEXICON.running) + " "
    assert (
        0.3
        < np.mean(
            [
                f" {f.text[len(f.title) + 1 : -1]} " in running.replace(",", "")
                or f.text[len(f.title) : -1] in running
                for f in facts
            ]
        )
        < 0.5
    )
    names = {name(g, LEXICON) for _ in range(500)}
    assert len(names) > 480 and all(n[0].isupper() and n[1:].islower() for n in names)


def test_a_text_of_few_words_is_refused_in_a_sentence():
    with pytest.raises(DataError, match="longer corpus"):
        Lexicon("ab " * 50)


def test_what_is_asked_in_the_test_was_never_trained_on():
    assert (
        not {f.title for f in town(True)} & {f.title for f in town(False)}
        and len(town(True)) == len(town(False)) == 60
    )
    assert all(not set(ASKED[kind]) & set(HELD_OUT[kind]) for kind in ASKED)


# --------------------------------------------------------------------------------------- the test o

PROBE = Probe(
    TEXT,
    [],
    [{"prompt": "Speak of love", "domain": "in"}],
    [[{"role": "user", "content": "Who art thou?"}, {"role": "assistant", "content": "I."}]],
    [],
    [],
)


def figures_of(monkeypatch, answer):
    """The figures of a model that answers a question by answer(question, search) -> (call or None,
    reply); search(query) gives the result that is injected, or None where nothing answers."""
    questions = {}
    real = tooltest.render_prompt

    def rendered(messages, *rest):
        ids = real(messages, *rest)
        questions[ids.tobytes()] = messages[0]["content"]
        return ids

    def generate(model, prompts, most, stop, pause):
        replies = []
        for prompt in prompts:
            got = []

            def search(query):
                said = [
                    T.special["<|search_start|>"],
                    *T.encode(query).tolist(),
                    T.special["<|search_end|>"],
                ]
                more = pause(said, 200)
                got.extend(said + (more or []))
                return T.decode([i for i in more or [] if i < len(T.characters)]) if more else None

            text = answer(questions[prompt.tobytes()], search)
            stopped = bool(got) and text is None
            replies.append(
                Reply(
                    np.array([*got, *(T.encode(text or "").tolist())], np.int32),
                    "tool" if stopped else "end",
                )
            )
        return replies

    monkeypatch.setattr(tooltest, "render_prompt", rendered)
    monkeypatch.setattr(tooltest, "generate", generate)
    return tooltest.tool_test(None, T, CHAT, PROBE, (1, 2))


def name_in(question):
    for asked in sum(HELD_OUT.values(), ()):
        head, tail = asked.split("{}")
        if question.startswith(head) and question.endswith(tail):
            return question[len(head) : len(question) - len(tail)]
    return None


def test_one_that_asks_compares_and_copies_has_all_of_it_and_nothing_without_the_search(
    monkeypatch,
):
    def perfect(question, search):
        name = name_in(question)
        if name is None:
            return "Well met."
        found = search(name)
        return None if found is None else found if found.startswith(name + " ") else refusal(name)

    f = figures_of(monkeypatch, perfect)
    assert (
        f["called"],
        f["queried"],
        f["answered"],
        f["town_answered"],
        f["refused"],
        f["refused_first"],
        f["refused_last"],
        f["quiet"],
    ) == (1,) * 8
    assert f["answered_without"] == 0 and (f["answered_of"], f["refused_of"], f["quiet_of"]) == (
        320,
        200,
        2,
    )


def test_one_that_repeats_whatever_it_finds_refuses_no_near_miss(monkeypatch):
    def gullible(question, search):
        return search(name_in(question) or question)

    f = figures_of(monkeypatch, gullible)
    assert f["answered"] == 1 and f["refused"] == 0 and f["quiet"] == 0


@pytest.mark.parametrize("reply", [refusal, lambda name: REFUSAL, lambda name: "Aye."])
def test_one_that_never_asks_answers_and_refuses_nothing(monkeypatch, reply):
    f = figures_of(monkeypatch, lambda question, search: reply(name_in(question) or "Who"))
    assert (f["called"], f["queried"], f["answered"], f["refused"], f["quiet"]) == (0, 0, 0, 0, 1)


def test_one_that_asks_and_refuses_everything_answers_nothing(monkeypatch):
    def sour(question, search):
        name = name_in(question)
        return "Nay." if name is None else search(name) and refusal(name)

    f = figures_of(monkeypatch, sour)
    assert (f["queried"], f["answered"], f["refused"], f["quiet"]) == (1, 0, 1, 1)


def test_one_that_knows_the_facts_by_heart_is_caught(monkeypatch):
    """It asks, and tells what it knows whatever was found: without the search it knows as much."""
    facts = {f.title: f.text for f in town(False)}

    def learned(question, search):
        name = name_in(question)
        return "Nay." if name is None else search(name) and facts.get(name, "Aye.")

    f = figures_of(monkeypatch, learned)
    assert f["town_answered"] == 1 and f["answered_without"] == f["answered"] == 60 / 160


def test_facts_and_unknown_names_of_the_test_are_none_that_were_trained_on():
    train, heldout = split_corpus(read_corpus("plays"))
    made = [
        c.messages[1]["content"]
        for c in transcripts(TOOLS["transcripts"], town(True), Lexicon(train), 1)
    ]
    asked, told = (
        {parts[0]["text"] for parts in made},
        {text for parts in made for text in (parts[1]["text"], parts[2]["text"])},
    )
    coincide = 0
    for draw in tooltest.DRAWS:
        g, lexicon = rng(draw, "tools", "test"), Lexicon(heldout)
        facts = [*town(False), *(invent(g, lexicon) for _ in range(tooltest.INVENTED))]
        search = Search([Document(f.title, f.text) for f in [*town(True), *facts]])
        first, last, far = tooltest.strangers(g, [*town(True), *facts], search, lexicon)
        assert (
            not told & {f.text for f in facts}
            and not asked & {f.title for f in town(False)}
            and not asked & {*first, *last, *far}
        )
        coincide += len(asked & {f.title for f in facts})
        people = [f.title.split() for f in [*town(True), *facts] if f.kind == "person"]
        assert all(t.split()[0] in {p[0] for p in people} for t in first) and all(
            t.split()[-1] in {p[-1] for p in people} for t in last
        )
        assert (len(first), len(last), len(far)) == (25, 25, 50) and not any(
            search.find(t) for t in far
        )
    assert (
        coincide <= 2
    )  # of 400 invented names of the test: in training something else was said of them


def test_the_prompt_of_a_question_is_what_training_rendered():
    c = transcripts(1, [], LEXICON, 1)[0]
    prompt = render_prompt(c.messages[:1], T, CHAT)
    assert encode_conversation(c, T, 256).input_ids[: len(prompt)].tolist() == prompt.tolist()
