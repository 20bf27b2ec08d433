"""Near copies: rows that say nothing new."""

import random
from collections import Counter

import pytest

from pysft.measure.near_copies import NearCopies, asks, form, is_same
from pysft.text.corpora import shipped
from pysft.text.formats import read_conversations
from pysft.text.near_duplicates import jaccard
from pysft.world.ask import questions
from pysft.world.facts import WorldSettings, make

TOAD = ("What pet has Ada Brook?", "Ada Brook keeps a toad.")


def copies(rows, near=0.8):
    """{row: the earlier row that it is a near copy of}, by their numbers."""
    found, seen = {}, NearCopies(rows, near)
    for number, row in enumerate(rows):
        first = seen.of(*row)
        if first is None:
            seen.add(*row, str(number))
        else:
            found[number] = int(first)
    return found


@pytest.fixture(scope="module")
def asked():
    settings = WorldSettings(people=20, places=4, things=4, days=20, relations=3, tellings=(0, 4))
    world = make(settings)
    every = [q for split in ("reward", "sealed") for q in questions(world, split)]
    return list({q.prompt: q for q in every}.values())


def test_no_two_facts_of_a_world_are_copies(asked):
    found = copies([(q.prompt, q.answer) for q in asked])
    for a, b in ((asked[i], asked[j]) for i, j in found.items()):
        assert (a.about, a.fact, a.hops, a.answer) == (b.about, b.fact, b.hops, b.answer)
    assert len(found) < 0.02 * len(asked)  # nor are most wordings of one


def test_however_long_the_wording_and_low_the_threshold_names_make_new_rows(asked):
    before = "Pray tell me in one whole sentence, as a friend would: "
    found = copies([(before + q.prompt, before + q.answer) for q in asked], 0.4)
    assert len(found) > 50  # so it is low
    for second, first in found.items():
        assert asked[second].about == asked[first].about


@pytest.mark.parametrize(
    "prompt, reply",
    [
        ("What pet has Ada Reed?", "Ada Reed keeps a toad."),  # another name
        ("What pet has Ada Brook?", "Ada Brook keeps a goat."),  # another answer
        ("Who is Ada Brook?", "Ada Brook keeps a toad."),  # another question
    ],
)
def test_a_new_name_a_new_answer_and_a_new_question_make_a_new_row(prompt, reply):
    assert not copies([TOAD, (prompt, reply)])


@pytest.mark.parametrize(
    "a, b",
    [
        ("first", "second"), ("first", "last"), ("7", "9"), ("+", "-"), ("one", "two"),
        ("not sad", "never sad"), ("Ada", "Ivo"), ("3rd", "4th"), ("Bo", "Al"),
    ],
)  # fmt: skip
def test_one_other_word_in_a_long_prompt_can_make_another_question(a, b):
    long = (
        "Pray tell me in a whole sentence or two, as a good friend would do it, what is {} to thee."
    )
    rows = [(long.format(word), "I know not what it is to me, good friend.") for word in (a, b)]
    assert jaccard(rows[0][0], rows[1][0]) > 0.8 and not copies(rows)


@pytest.mark.parametrize(
    "prompt, reply",
    [
        TOAD,
        ("what pet has  Ada Brook", "Ada Brook keeps a toad"),
        ("So what pet has Ada Brook?", "Ada Brook keeps a toad now!"),
    ],
)
def test_case_stops_blanks_and_small_words_make_no_new_row(prompt, reply):
    assert copies([TOAD, (prompt, reply)]) == {1: 0}


def test_long_replies_that_differ_in_a_word_are_copies():
    tale = "A dragon lived by the sea, and each night it counted the ships and {} as they passed."
    asked = "Could you tell me a tale about a dragon?"
    rows = [(asked, tale.format("sang")), (asked.replace("Could", "Would"), tale.format("sighed"))]
    assert copies(rows) == {1: 0}


def test_texts_shorter_than_a_shingle_are_copies_if_they_are_equal():
    assert copies([("Hi", "Ho."), ("hi!", "Ho"), ("Hi", "Ha."), ("Oh", "Ho.")]) == {1: 0}


def test_no_shipped_conversation_is_a_copy_of_another():
    rows = read_conversations(shipped("conversations.jsonl"))[:600]
    assert not copies([(c.messages[-2]["content"], c.messages[-1]["content"]) for c in rows])


@pytest.mark.parametrize("near", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_the_index_finds_what_comparing_all_pairs_finds(near):
    g = random.Random(int(100 * near))
    some = "a of the moon king river bread sings sleeps Ada Brook two".split()

    def text():
        return " ".join(g.choices(some, k=g.randint(1, 7)))

    def altered(text):
        i = g.randrange(len(text))
        return text[:i] + g.choice(["", "x", text[i].upper()]) + text[i + 1 :]

    rows = [(text(), text()) for _ in range(40)]
    for _ in range(140):
        prompt, reply = g.choice(rows)
        rows.append((altered(prompt), reply) if g.random() < 0.5 else (prompt, altered(reply)))
    rows = [row for row in rows if all(row)]
    found, kept = {}, []
    for number, row in enumerate(rows):
        for first in kept:
            pairs = [(form(x), form(y)) for x, y in zip(row, rows[first])]
            if is_same(asks(row[0]), asks(rows[first][0])) and all(
                x == y or jaccard(x, y) >= near for x, y in pairs
            ):
                found[number] = first
                break
        else:
            kept.append(number)
    assert copies(rows, near) == found and 9 < len(found) < len(rows) - 9


def test_words_numbers_and_signs_of_a_prompt_are_counted():
    assert asks("What pet has the neighbour of the neighbour of Ada Brook?") == Counter(
        {"neighbour": 2, "the": 2, "of": 2, "ada": 1, "brook": 1, "pet": 1, "what": 1, "has": 1}
    )
    assert asks("Is 7 + 12 Toads?") == Counter({"is": 1, "7": 1, "+": 1, "12": 1, "toad": 1})
