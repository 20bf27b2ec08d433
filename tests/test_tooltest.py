"""The tool test: the figures that it gives to models whose answers are known beforehand."""

import os

import numpy as np
import pytest
from pair_tokenizer import PairTokenizer
from texts import transcripts

from pysft.inference.generate import Reply
from pysft.inference.sampling import GREEDY, Sampling
from pysft.inference.search import Document, Search
from pysft.inference.tool_calls import answer_calls
from pysft.measure import calltest, tooltest
from pysft.measure.probe import Probe
from pysft.rng import rng
from pysft.text.corpora import read_corpus, split_corpus
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.training.presets import TOOLS
from pysft.world.ask import refusal
from pysft.world.lexicon import REFUSAL
from pysft.world.town import Words, invent, town
from pysft.world.transcripts import (
    FOLLOWED,
    HELD_OUT,
    HELD_OUT_FOLLOWED,
    PRONOUNS,
    about,
)

T = CharTokenizer(SHAKESPEARE, CHAT.tokens).grow(CHAT.tool_tokens)
# The names of the test are looked for in the first one in EVERY of the transcripts that the recipe
# trains on. `make torture` looks in all.
EVERY = int(os.environ.get("PYSFT_EVERY", 10))
CONTEXT = 256
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


def figures_of(monkeypatch, answer, tokenizer=T, sampling=GREEDY):
    """The figures of the tool test for a model that answers by answer(question, search) -> reply.

    question: what is asked; of a second question, the turns as a list of texts. search(query) gives
    the result that is injected, or None if no tool answers; the reply is then None too."""
    questions, given = {}, sampling
    start, end = (tokenizer.special[f"<|search_{which}|>"] for which in ("start", "end"))
    real = calltest.render_prompt

    def rendered(messages, *rest):
        ids = real(messages, *rest)
        said = [message["content"] for message in messages]
        questions[ids.tobytes()] = said if len(said) > 1 else said[0]
        return ids

    def reply_to(question, inject, room):
        written = []

        def search(query):
            call = [start, *tokenizer.encode(query).tolist(), end]
            result = inject(call, room - len(call)) or []
            written.extend(call + result)
            text = [i for i in result if not tokenizer.is_special(i)]
            return tokenizer.decode(text) if result else None

        text = answer(question, search)
        ids = np.array([*written, *tokenizer.encode(text or "").tolist()], np.int32)
        return Reply(ids, "tool" if written and text is None else "end")

    def generate(model, prompts, most, stop, sampling, inject, again):
        assert sampling == given and again(tokenizer.encode("Aye. ").tolist())
        return [reply_to(questions[p.tobytes()], inject, CONTEXT - len(p)) for p in prompts]

    class Chat:  # leaves the history out if a result needs its room, so all of it fits
        def __init__(self, model, tokenizer, template, sampling, tools, text_history):
            assert sampling == given and text_history
            self.inject = answer_calls(tokenizer, template, tools)

        def say(self, text):
            said = [*(message["content"] for message in self.messages), text]
            return text, reply_to(said, self.inject, CONTEXT), 0

    monkeypatch.setattr(tooltest, "Session", Chat)
    monkeypatch.setattr(calltest, "render_prompt", rendered)
    monkeypatch.setattr(calltest, "generate", generate)
    more = {} if sampling == GREEDY else {"sampling": sampling}
    return tooltest.tool_test(None, tokenizer, CHAT, PROBE, (1, 2), **more)


def searched_for(question):
    """(query, name) of a question about a name; (None, None) for others."""
    if isinstance(question, str):
        return name_in(question), name_in(question)
    first, _, second = question
    for kind, wordings in HELD_OUT_FOLLOWED.items():
        if second in [w.format(**pronouns) for w in wordings for pronouns in PRONOUNS]:
            return about(kind, name_in(first)), name_in(first)
    return None, None


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
        query, name = searched_for(question)
        if name is None:
            return "Well met."
        found = search(query)
        return None if found is None else found if found.startswith(name + " ") else refusal(name)

    f = figures_of(monkeypatch, perfect, tokenizer)
    shares = ("called", "queried", "answered", "town_answered", "followed")
    shares += ("refused", "refused_first", "refused_last", "quiet", "quiet_after")
    assert [f[name] for name in shares] == [1] * 10 and f["answered_without"] == 0
    assert (f["answered_of"], f["refused_of"], f["quiet_of"]) == (320, 200, 2)
    assert f["followed_of"] == 2 * 60


def test_a_second_question_comes_behind_the_first_and_the_answer_of_the_model(monkeypatch):
    asked = []

    def curious(question, search):
        if isinstance(question, str):
            return f"You ask: {question}"
        if searched_for(question)[0]:
            asked.append(question)
        return "Aye."

    f = figures_of(monkeypatch, curious, sampling=Sampling(repetition=2.0))
    assert f["followed"] == 0 and f["followed_of"] == len(asked) == 120
    people = {fact.title for fact in town(False) if fact.kind == "person"}
    for first, answer, _ in asked:
        assert answer == f"You ask: {first}" and name_in(first) in people
    queries = [searched_for(question)[0] for question in asked]
    assert set(queries) == {fact.title for fact in town(False) if fact.kind in FOLLOWED}


def test_a_model_that_searches_for_the_name_alone_answers_no_second_question(monkeypatch):
    def forgetful(question, search):
        query, name = searched_for(question)
        return "Nay." if name is None else search(name)

    f = figures_of(monkeypatch, forgetful)
    assert (f["answered"], f["followed"]) == (1, 0)


def test_a_model_that_searches_whenever_something_was_said_before_is_quiet_only_at_first(
    monkeypatch,
):
    def stuck(question, search):
        return search("Wenna Dunnock") if isinstance(question, list) else "Well met."

    f = figures_of(monkeypatch, stuck)
    assert (f["quiet"], f["quiet_after"], f["quiet_of"], f["followed"]) == (1, 0, 2, 0)


def test_a_model_that_repeats_whatever_it_finds_refuses_no_near_miss(monkeypatch):
    def gullible(question, search):
        return search(searched_for(question)[0] or "".join(question))

    f = figures_of(monkeypatch, gullible)
    assert f["answered"] == 1 and f["refused"] == 0 and f["quiet"] == 0


@pytest.mark.parametrize("reply", [refusal, lambda name: REFUSAL, lambda name: "Aye."])
def test_a_model_that_never_asks_answers_and_refuses_nothing(monkeypatch, reply):
    f = figures_of(monkeypatch, lambda question, search: reply(searched_for(question)[1] or "Who"))
    shares = ("called", "queried", "answered", "followed", "refused")
    assert [f[name] for name in shares] == [0] * 5 and f["quiet"] == 1


def test_a_model_that_asks_and_refuses_everything_answers_nothing(monkeypatch):
    def sour(question, search):
        query, name = searched_for(question)
        return "Nay." if name is None else search(query) and refusal(name)

    f = figures_of(monkeypatch, sour)
    assert (f["queried"], f["answered"], f["followed"]) == (1, 0, 0)
    assert (f["refused"], f["quiet"]) == (1, 1)


def test_a_model_that_knows_the_facts_by_heart_is_caught(monkeypatch):
    """It asks, and answers by heart whatever was found. Without the search it answers as many."""
    facts = {f.title: f.text for f in town(False)}

    def learned(question, search):
        query, _ = searched_for(question)
        return "Nay." if query is None else search(query) and facts.get(query, "Aye.")

    f = figures_of(monkeypatch, learned)
    assert f["town_answered"] == 1 and f["answered_without"] == f["answered"] == 60 / 160


def test_no_fact_or_unknown_name_of_the_test_was_trained_on():
    train, heldout = split_corpus(read_corpus("plays"))
    made = transcripts(TOOLS["data"]["transcripts"] // EVERY, town(True), Words(train), 1)
    parts = [[part["text"] for part in c.messages[-1]["content"]] for c in made]
    asked, seen = {call for call, _, _ in parts}, {text for row in parts for text in row[1:]}
    asked |= {call.removeprefix(about(kind, "")) for call in asked for kind in FOLLOWED}
    seen |= {m["content"] for c in made for m in c.messages[1:-1:2]}
    coincide = 0
    for draw in tooltest.DRAWS:
        g, lexicon = rng(draw, "tools", "test"), Words(heldout)
        held = [f for f in town(False) if f.kind not in FOLLOWED]
        facts = [*held, *(invent(g, lexicon) for _ in range(tooltest.INVENTED))]
        known = [f for f in [*town(True), *facts] if f.kind not in FOLLOWED]
        every = [*town(True), *town(False), *facts]
        search = Search([Document(f.title, f.text) for f in every])
        first, last, far = tooltest.strangers(g, known, search, lexicon)
        assert not seen & {f.text for f in [*facts, *town(False)]}
        assert not asked & {f.title for f in town(False)} and not asked & {*first, *last, *far}
        coincide += len(asked & {f.title for f in facts})
        people = [f.title.split() for f in known if f.kind == "person"]
        assert all(t.split()[0] in {p[0] for p in people} for t in first)
        assert all(t.split()[-1] in {p[-1] for p in people} for t in last)
        assert (len(first), len(last), len(far)) == (25, 25, 50)
        assert not any(search.find(t) for t in far)
    # Of 400 invented names of the test. In training, another fact was told of them.
    assert coincide <= 2


def test_the_published_draws_are_four_and_not_the_one_that_recipes_were_chosen_with():
    """Figures that were published are those of these seeds."""
    assert tooltest.DRAWS == (1, 2, 3, 4)


def test_a_model_that_knows_by_heart_what_it_cannot_search_for_is_caught(monkeypatch):
    """It answers by heart only where the search is switched off."""
    facts = {f.title: f.text for f in town(False)}

    def proud(question, search):
        query, _ = searched_for(question)
        return "Nay." if query is None else "Aye." if search(query) else facts.get(query, "Aye.")

    f = figures_of(monkeypatch, proud)
    assert f["answered_without"] == 60 / 160
    assert (f["answered"], f["called"], f["queried"]) == (0, 1, 1)


def test_the_call_must_be_exactly_the_name(monkeypatch):
    def chatty(question, search):
        name = searched_for(question)[0]
        return "Nay." if name is None else search(f"Who is {name}")

    f = figures_of(monkeypatch, chatty)
    assert (f["called"], f["queried"]) == (1, 0)


def test_refusals_are_counted_by_what_a_name_shares_with_a_known_one(monkeypatch):
    lists, real = [], tooltest.strangers

    def strangers(*arguments):
        lists.append(real(*arguments))
        return lists[-1]

    monkeypatch.setattr(tooltest, "strangers", strangers)
    for which, shares in ((0, (0.25, 1, 0)), (1, (0.25, 0, 1)), (2, (0.5, 0, 0))):
        lists.clear()

        def picky(question, search, which=which):
            query, name = searched_for(question)
            if name is None:
                return "Nay."
            found = search(query)
            return refusal(name) if any(name in names[which] for names in lists) else found

        f = figures_of(monkeypatch, picky)
        assert tuple(f[f"refused{kind}"] for kind in ("", "_first", "_last")) == shares


def test_ordinary_questions_are_asked_once_alone_and_once_behind_one_about_the_town(monkeypatch):
    asked = []

    def listening(question, search):
        asked.append(question)
        return "Well met."

    figures_of(monkeypatch, listening)
    texts = {fact.title: fact.text for fact in town(False) if fact.kind == "person"}
    ordinary = ["Speak of love", "Who art thou?"]
    assert [asked.count(question) for question in ordinary] == [1, 1]
    behind = [turns for turns in asked if isinstance(turns, list) and turns[2] in ordinary]
    assert [turns[2] for turns in behind] == ordinary
    titles = [turns[0].removeprefix("Who is ").removesuffix("?") for turns in behind]
    assert [turns[1] for turns in behind] == [texts[title] for title in titles]
    assert len(set(titles)) == 2


def test_an_answer_is_one_search_its_result_and_a_text():
    kinds = ("search", "result", "text")
    parts = [{"type": kind, "text": f"a {kind}"} for kind in kinds]
    answer = calltest.Answer(parts, True, True)
    assert answer.is_fact("a text") and not answer.is_fact("a result")
    assert not answer._replace(ended=False).is_fact("a text")
    for others in (parts[::-1], parts[:2], parts[2:], [*parts, parts[2]], [parts[0], *parts], []):
        assert not answer._replace(parts=others).is_fact("a text")
    assert answer.states("text") and not answer.states("a search")
    assert answer.query() == "a search" and answer._replace(parts=parts[1:]).query() is None


def test_a_call_is_begun_by_the_token_that_opens_a_search_or_a_result():
    for token, begun in (
        ("<|search_start|>", True),
        ("<|result_start|>", True),
        ("<|search_end|>", False),
        ("<|user|>", False),
    ):
        ids = np.array([*T.encode("Aye"), T.special[token]], np.int32)
        assert calltest.read_reply(Reply(ids, "end"), T, CHAT).began_call is begun
    for stop in ("end", "length"):
        assert calltest.read_reply(Reply(T.encode("Aye"), stop), T, CHAT).ended is (stop == "end")


def test_the_rows_of_an_earlier_tool_test_leave_out_what_it_did_not_measure():
    figures = dict.fromkeys(("answered", "town_answered", "answered_without", "called"), 0.5)
    figures |= dict.fromkeys(("queried", "refused", "refused_first", "refused_last"), 0.25)
    figures |= {"quiet": 1.0, "answered_of": 1, "refused_of": 2, "quiet_of": 3}
    old = dict(tooltest.tool_rows(figures))
    assert len(old) == 3 and old["tools: ordinary prompts"] == "100% of 3 without a call"
    new = dict(tooltest.tool_rows(figures | {"followed": 0.5, "followed_of": 4, "quiet_after": 0}))
    assert new.keys() - old.keys() == {"tools: second questions"}
    assert new["tools: second questions"] == "50% of 4 answered right"
    assert new["tools: ordinary prompts"].endswith(", 0% behind a question about the town")
