"""The tool test: the figures that it gives to models whose answers are known beforehand."""

import numpy as np
import pytest
from pair_tokenizer import PairTokenizer

from pysft.inference.generate import Reply
from pysft.inference.search import Document, Search
from pysft.measure import tooltest
from pysft.measure.probe import Probe
from pysft.rng import rng
from pysft.text.corpora import read_corpus, split_corpus
from pysft.text.facts import Lexicon, invent, town
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.text.transcripts import HELD_OUT, REFUSAL, refusal, transcripts
from pysft.training.presets import TOOLS

T = CharTokenizer(SHAKESPEARE, CHAT.tokens).grow(CHAT.tool_tokens)
TEXT = read_corpus("plays")[:50_000]
PAIRS = PairTokenizer.of(SHAKESPEARE + TEXT).grow(CHAT.tokens + CHAT.tool_tokens)
PROBE = Probe(
    TEXT,
    [],
    [{"prompt": "Speak of love", "domain": "in"}],
    [[{"role": "user", "content": "Who art thou?"}, {"role": "assistant", "content": "I."}]],
    [],
    [],
)


def figures_of(monkeypatch, answer, tokenizer=T):
    """The figures of the tool test for a model that answers by answer(question, search) -> reply.

    search(query) gives the result that is injected, or None if no tool answers; the reply is then
    None too."""
    questions = {}
    start, end = (tokenizer.special[f"<|search_{which}|>"] for which in ("start", "end"))
    real = tooltest.render_prompt

    def rendered(messages, *rest):
        ids = real(messages, *rest)
        questions[ids.tobytes()] = messages[0]["content"]
        return ids

    def generate(model, prompts, most, stop, inject):
        replies = []
        for prompt in prompts:
            written = []

            def search(query):
                call = [start, *tokenizer.encode(query).tolist(), end]
                result = inject(call, 200) or []
                written.extend(call + result)
                text = [i for i in result if not tokenizer.is_special(i)]
                return tokenizer.decode(text) if result else None

            text = answer(questions[prompt.tobytes()], search)
            ids = np.array([*written, *tokenizer.encode(text or "").tolist()], np.int32)
            replies.append(Reply(ids, "tool" if written and text is None else "end"))
        return replies

    monkeypatch.setattr(tooltest, "render_prompt", rendered)
    monkeypatch.setattr(tooltest, "generate", generate)
    return tooltest.tool_test(None, tokenizer, CHAT, PROBE, (1, 2))


def name_in(question):
    for asked in sum(HELD_OUT.values(), ()):
        head, tail = asked.split("{}")
        if question.startswith(head) and question.endswith(tail):
            return question[len(head) : len(question) - len(tail)]
    return None


@pytest.mark.parametrize("tokenizer", [T, PAIRS], ids=["characters", "pairs"])
def test_a_model_that_asks_compares_and_copies_gets_all_and_nothing_without_search(
    monkeypatch, tokenizer
):
    def perfect(question, search):
        name = name_in(question)
        if name is None:
            return "Well met."
        found = search(name)
        return None if found is None else found if found.startswith(name + " ") else refusal(name)

    f = figures_of(monkeypatch, perfect, tokenizer)
    shares = ("called", "queried", "answered", "town_answered")
    shares += ("refused", "refused_first", "refused_last", "quiet")
    assert [f[name] for name in shares] == [1] * 8 and f["answered_without"] == 0
    assert (f["answered_of"], f["refused_of"], f["quiet_of"]) == (320, 200, 2)


def test_a_model_that_repeats_whatever_it_finds_refuses_no_near_miss(monkeypatch):
    def gullible(question, search):
        return search(name_in(question) or question)

    f = figures_of(monkeypatch, gullible)
    assert f["answered"] == 1 and f["refused"] == 0 and f["quiet"] == 0


@pytest.mark.parametrize("reply", [refusal, lambda name: REFUSAL, lambda name: "Aye."])
def test_a_model_that_never_asks_answers_and_refuses_nothing(monkeypatch, reply):
    f = figures_of(monkeypatch, lambda question, search: reply(name_in(question) or "Who"))
    assert (f["called"], f["queried"], f["answered"], f["refused"], f["quiet"]) == (0, 0, 0, 0, 1)


def test_a_model_that_asks_and_refuses_everything_answers_nothing(monkeypatch):
    def sour(question, search):
        name = name_in(question)
        return "Nay." if name is None else search(name) and refusal(name)

    f = figures_of(monkeypatch, sour)
    assert (f["queried"], f["answered"], f["refused"], f["quiet"]) == (1, 0, 1, 1)


def test_a_model_that_knows_the_facts_by_heart_is_caught(monkeypatch):
    """It asks, and answers by heart whatever was found. Without the search it answers as many."""
    facts = {f.title: f.text for f in town(False)}

    def learned(question, search):
        name = name_in(question)
        return "Nay." if name is None else search(name) and facts.get(name, "Aye.")

    f = figures_of(monkeypatch, learned)
    assert f["town_answered"] == 1 and f["answered_without"] == f["answered"] == 60 / 160


def test_no_fact_or_unknown_name_of_the_test_was_trained_on():
    train, heldout = split_corpus(read_corpus("plays"))
    made = transcripts(TOOLS["data"]["transcripts"], town(True), Lexicon(train), 1)
    parts = [[part["text"] for part in c.messages[1]["content"]] for c in made]
    asked = {call for call, _, _ in parts}
    seen = {text for _, result, answer in parts for text in (result, answer)}
    coincide = 0
    for draw in tooltest.DRAWS:
        g, lexicon = rng(draw, "tools", "test"), Lexicon(heldout)
        facts = [*town(False), *(invent(g, lexicon) for _ in range(tooltest.INVENTED))]
        known = [*town(True), *facts]
        search = Search([Document(f.title, f.text) for f in known])
        first, last, far = tooltest.strangers(g, known, search, lexicon)
        assert not seen & {f.text for f in facts}
        assert not asked & {f.title for f in town(False)} and not asked & {*first, *last, *far}
        coincide += len(asked & {f.title for f in facts})
        people = [f.title.split() for f in known if f.kind == "person"]
        assert all(t.split()[0] in {p[0] for p in people} for t in first)
        assert all(t.split()[-1] in {p[-1] for p in people} for t in last)
        assert (len(first), len(last), len(far)) == (25, 25, 50)
        assert not any(search.find(t) for t in far)
    # Of 400 invented names of the test. In training, another fact was told of them.
    assert coincide <= 2
