"""Questions that a policy learns to answer with the search: what is asked, and what is right."""

import numpy as np
import pytest

from pysft.inference.tools import run_tool
from pysft.measure import tooltask
from pysft.measure.tooltask import tool_task
from pysft.text.corpora import read_corpus
from pysft.text.templates import CHAT
from pysft.text.tokenizer import CharTokenizer
from pysft.world.lexicon import REFUSAL
from pysft.world.town import town
from pysft.world.transcripts import HELD_OUT

TEXT = read_corpus("plays")[:60_000]
TOKENIZER = CharTokenizer.of(read_corpus("plays")).grow(CHAT.tokens + CHAT.tool_tokens)


@pytest.fixture(scope="module")
def task():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tooltask, "FACTS", 40)
        patch.setattr(tooltask, "ROUNDS", 1)
        yield tool_task(TEXT, TOKENIZER, 1, "ppo")


def user(question):
    return [{"role": "user", "content": question}]


def searched(query, result, text):
    given = ("search", query), ("result", result), ("text", text)
    return [{"type": kind, "text": words} for kind, words in given]


def by_kind(task):
    """(a question whose answer a document has, one whose answer is a refusal)."""
    known = [q for q in task.questions if REFUSAL not in task.expected[q]]
    strange = [q for q in task.questions if q not in known]
    return known[0], strange[0]


def test_known_names_and_strangers_are_asked_about(task):
    strange = [q for q, right in task.expected.items() if REFUSAL in right]
    facts = 40 + sum(f.kind in ("person", "place", "thing") for f in town(trained=True))
    assert len(strange) == 75 and len(task.questions) == facts + 75


def test_neither_the_held_out_facts_nor_the_wordings_of_the_test_are_asked(task):
    held = {f.title for f in town(trained=False)}
    assert not any(title in q for q in task.questions for title in held)
    begins = {wording.partition("{}")[0] for some in HELD_OUT.values() for wording in some}
    assert not any(q.startswith(tuple(begins)) for q in task.questions)


def test_the_search_finds_the_facts_that_are_asked_for(task):
    known, _ = by_kind(task)
    right = task.expected[known]
    title = next(f.title for f in town(trained=True) if right.startswith(f.title))
    assert run_tool(task.tools["search"], title, TOKENIZER) == right


@pytest.mark.parametrize(
    "parts, ended, points",
    [
        (lambda right, no: searched("x", "y", right), True, 3),
        (lambda right, no: searched("x", "y", no), True, 1),  # a refusal
        (lambda right, no: searched("x", "y", right + " "), True, 1),
        (lambda right, no: [{"type": "text", "text": right}], True, 1),  # without a search
        (lambda right, no: [{"type": "text", "text": no}], True, 1),
        (lambda right, no: searched("x", "y", right)[:2] * 2, True, 0),  # no word of its own
        (lambda right, no: searched("x", "y", right), False, 0),
        (lambda right, no: [], True, 0),
    ],
)
def test_a_reply_about_a_known_name_gets_these_points(task, parts, ended, points):
    known, _ = by_kind(task)
    reply = parts(task.expected[known], f"Elka? {REFUSAL}")
    assert task.golds([user(known)], [reply], [ended]) == [points]


@pytest.mark.parametrize(
    "parts, points",
    [
        (lambda no: searched("x", "nothing found", no), 3),
        (lambda no: [{"type": "text", "text": no}], 1),  # it did not look
        (lambda no: searched("x", "nothing found", "She keeps bees."), 1),
    ],
)
def test_a_reply_about_a_stranger_gets_these_points(task, parts, points):
    _, strange = by_kind(task)
    assert task.golds([user(strange)], [parts(task.expected[strange])], [True]) == [points]


def test_the_seed_and_the_stage_decide_what_is_asked():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tooltask, "FACTS", 5)
        patch.setattr(tooltask, "ROUNDS", 1)
        asked = [
            tool_task(TEXT, TOKENIZER, seed, name).questions
            for seed, name in ((1, "ppo"), (1, "ppo"), (2, "ppo"), (1, "ppo-2"))
        ]
    assert asked[0] == asked[1] != asked[2] != asked[3] != asked[0]


def test_injected_tokens_of_a_reply_are_not_graded():
    from pysft.text.examples import reply_example

    prompt, reply = np.array([1, 2]), np.array([3, 4, 5, 6])
    injected = np.array([False, True, True])  # of the reply without its end
    example = reply_example(prompt, reply, injected=injected)
    assert example.labels.tolist() == [-100, 3, -100, -100, 6]
