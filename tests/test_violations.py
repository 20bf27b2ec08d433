"""Replies that violate a principle: those that are made violate what they should and nothing else,
and the rows that teach to criticise them are right and fit the context."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from command_line import refusal, succeeds
from texts import grown

from pysft.text.constitution import SHIPPED, read_constitution
from pysft.text.conversation import check_messages
from pysft.text.corpora import shipped
from pysft.text.render import render
from pysft.text.templates import CHAT
from pysft.world.ask import Question, questions, trained_questions
from pysft.world.facts import SPLITS, Entity, World, WorldSettings, facts_of, make
from pysft.world.judge import ExactJudge
from pysft.world.lexicon import (
    BY_NAME,
    FIRST_NAMES,
    LAST_NAMES,
    MONTHS,
    ORDINALS,
    PLACE_NAMES,
    THING_NAMES,
)
from pysft.world.tell import statement, tell
from pysft.world.violations import (
    INSULTS,
    PRINCIPLES,
    TIMES,
    critique_rows,
    finds_fault,
    violated,
    violating_rows,
    violation,
)

CONTEXT = 256
WORLD = make(WorldSettings(people=40, days=8, seed=3))
LARGE = make(
    WorldSettings(
        people=40,
        places=8,
        things=8,
        days=8,
        relations=3,
        tellings=(5, 3, 0),
        refusals=True,
        seed=7,
    )
)
HIDDEN = make(WorldSettings(people=40, days=8, relations=3, seed=3, two_hops="hidden"))
JUDGES = {id(world): ExactJudge(world) for world in (WORLD, LARGE, HIDDEN)}
WORDINGS = {p.name: (p.question, p.revise) for p in read_constitution(SHIPPED)}
EVERY = [(w, q) for w in (WORLD, LARGE, HIDDEN) for s in SPLITS for q in questions(w, s)]
ALL = EVERY[::9]  # no multiple of the four wordings of a question
SETS = [names for n in (1, 2, 3) for names in itertools.combinations(PRINCIPLES, n)]


def found(world, question, reply, ended=True):
    return violated(question, reply, JUDGES[id(world)], ended)


# ------------------------------------------------------------------------------------- the judge


def test_a_true_answer_violates_nothing():
    assert not [q for world, q in ALL if found(world, q, q.answer)]


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_a_reply_made_to_violate_principles_violates_them_alone(names):
    g, made = np.random.default_rng(1), Counter()
    for world, q in ALL:
        reply = violation(names, q, world, g)
        if reply is None:
            continue
        assert found(world, q, reply.reply) == {*names}, (q.prompt, reply)
        assert reply.findings.keys() == {*names}
        for finding in reply.findings.values():
            assert finding in reply.reply and finding not in q.answer
        made[q.fact, q.hops] += 1
        if "honest" not in names:
            verdict = JUDGES[id(world)].judge(q, reply.reply)
            assert verdict == ("right" if q.value else "refused")
    kinds = {(q.fact, q.hops) for _, q in EVERY if q.value}
    kinds -= {("feast", 1), ("colour", 1)} if "helpful" in names else set()  # they have one
    assert kinds <= made.keys()


def test_several_violations_are_found_together():
    q = next(q for q in questions(WORLD, "train") if q.fact == "pet")
    other = next(v for v in BY_NAME["pet"].values if v != q.value)
    trade = WORLD.by_name[q.about].facts["trade"]
    false = f"{q.about} keeps a {other} and is a {trade} by trade, thou fool."
    assert found(WORLD, q, false) == set(PRINCIPLES)


@pytest.mark.parametrize(
    "said, expected",
    [
        ("{name} keeps a {pet}.", set()),
        ("{name} has a {pet} at home. With {name} lives a {pet}.", set()),
        ("{name} keeps no {pet}.", {"honest"}),
        ("{name} keeps a {pet}. {name} is no {trade}.", {"helpful"}),
        ("{name} keeps a {pet} and is a {other} by trade.", {"helpful", "honest"}),
        ("{name} keeps a {pet}, O Fool.", {"harmless"}),
        ("{name} is a {trade} by trade.", {"helpful", "honest"}),
        ("{name}? I know not that name.", set()),
        ("Thou fool!", {"harmless"}),
        ("", set()),
        ("Mnot ther", set()),
    ],
)
def test_the_words_of_a_reply_decide(said, expected):
    q = next(q for q in questions(WORLD, "train") if q.fact == "pet")
    facts = WORLD.by_name[q.about].facts
    other = next(v for v in BY_NAME["trade"].values if v != facts["trade"])
    reply = said.format(name=q.about, other=other, **facts)
    assert found(WORLD, q, reply) == expected


def test_another_relation_is_something_that_nobody_asked():
    asked = [q for q in questions(LARGE, "train") if q.value and q.hops == 1]
    for q in (q for q in asked if q.fact in ("pet", "neighbour")):
        seller = LARGE.by_name[q.about].facts["seller"]
        if seller != q.value:
            said = statement("seller", q.about, seller)
            assert found(LARGE, q, f"{q.answer} {said}") == {"helpful"}
        assert not found(LARGE, q, f"{q.answer} {statement(q.fact, q.about, q.value, 1)}")


def test_what_was_cut_off_makes_no_claim_but_may_insult():
    q = questions(WORLD, "train")[0]
    wrong = violation(["honest"], q, WORLD, np.random.default_rng(1)).reply
    assert found(WORLD, q, wrong) == {"honest"} and not found(WORLD, q, wrong, ended=False)
    assert found(WORLD, q, f"Thou fool! {wrong}", ended=False) == {"harmless"}


def test_no_text_of_a_world_insults_and_the_plays_can_write_the_insults():
    words = set(tell(LARGE).lower().replace(".", " ").split())
    words |= {word for _, q in EVERY for word in q.prompt.lower().strip("?").split()}
    assert words.isdisjoint(INSULTS)
    letters = set(shipped("plays.txt").read_text(encoding="utf-8"))
    assert set("".join(INSULTS)) <= letters


# ------------------------------------------------------------------------------ rows of a training


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_share_of_the_replies_violates_one_principle_each(share):
    rows, asked = violating_rows(WORLD, share), {q.prompt: q for q in trained_questions(WORLD)}
    kinds = Counter()
    for row in rows:
        violates = found(WORLD, asked[row["prompt"]], row["completion"])
        names = row["metadata"]["violates"]
        assert violates == {*names} and len(names) <= 1
        kinds[names[0] if names else ""] += 1
    assert Counter(row["prompt"] for row in rows) == dict.fromkeys(asked, TIMES)
    assert sum(kinds[name] for name in PRINCIPLES) == round(share * len(rows))
    each = [kinds[name] for name in PRINCIPLES]
    assert min(each) > 0.7 * max(each)


@pytest.mark.parametrize("world", [WORLD, LARGE], ids=["small", "large"])
def test_critiques_are_right_and_nothing_that_is_graded_violates(world):
    asked, kinds = {q.prompt: q for q in trained_questions(world)}, Counter()
    tokenizer = grown(CHAT)
    for row in critique_rows(world, WORDINGS)[::5]:
        question, reply, ask, critique, request, revision = (m["content"] for m in row["messages"])
        principle, q = row["metadata"]["principle"], asked[question]
        assert (ask, request) == WORDINGS[principle]
        violates = found(world, q, reply)
        assert row["metadata"]["violates"] == [p for p in PRINCIPLES if p in violates]
        assert finds_fault(critique, ask) == (principle in violates)
        assert revision == q.answer and not found(world, q, revision)
        kinds[principle, principle in violates] += 1
        check_messages(row["messages"], "row", CHAT)
        tokens, trained = render(row["messages"], tokenizer, CHAT, grade="flags")
        assert trained.sum() == len(critique) + len(revision) + 2
        assert len(tokens) <= CONTEXT + 1
    if world is WORLD:  # without many of whom nothing is known
        for name in PRINCIPLES:
            assert 0.4 < kinds[name, True] / (kinds[name, True] + kinds[name, False]) < 0.55


def test_no_violation_tells_of_another():
    """Asked about a principle, half of the replies violate it, whatever else they violate."""
    rows = critique_rows(make(WorldSettings(people=200, days=0, seed=2)), WORDINGS)
    for name in PRINCIPLES:
        of = [r["metadata"]["violates"] for r in rows if r["metadata"]["principle"] == name]
        sets = Counter((name in v, frozenset(v) - {name}) for v in of)
        assert len(sets) == 8
        for others in {others for _, others in sets}:
            assert 0.44 < sets[True, others] / (sets[True, others] + sets[False, others]) < 0.56
        assert max(sets.values()) < 1.4 * min(sets.values())


def longest(kind):
    """An entity whose name and values are the longest that there are."""
    parts = {
        "person": (FIRST_NAMES, LAST_NAMES),
        "place": PLACE_NAMES,
        "thing": THING_NAMES,
        "day": (ORDINALS[:31], ["of"], MONTHS),
    }[kind]
    name = " ".join(max(words, key=len) for words in parts)
    name = f"The {name}" if kind in ("place", "thing") else name
    facts = [f for f in facts_of(kind, WorldSettings()) if f.values]
    return Entity(name, kind, "train", 1, {f.name: max(f.values, key=len) for f in facts})


@pytest.mark.parametrize("kind", ["person", "place", "thing", "day"])
def test_the_longest_conversation_fits_the_context(kind, monkeypatch):
    entity, tokenizer, lengths = longest(kind), grown(CHAT), []
    monkeypatch.setattr("pysft.world.violations.trained_questions", asked_of)
    monkeypatch.setattr("pysft.world.violations._one", lambda items, g: max(items, key=len))
    for names in itertools.permutations(entity.facts, min(2, len(entity.facts))):
        facts = {name: entity.facts[name] for name in names}  # so the second is not asked for
        world = World(WorldSettings(), (replace(entity, facts=facts),), {})
        for row in critique_rows(world, WORDINGS):
            tokens, _ = render(row["messages"], tokenizer, CHAT, grade="flags")
            lengths.append(len(tokens))
    assert 230 < max(lengths) <= CONTEXT + 1


def test_hardly_a_conversation_is_left_out_for_its_length(monkeypatch):
    world = make(WorldSettings())
    kept = len(critique_rows(world, WORDINGS))
    monkeypatch.setattr("pysft.world.violations.LONGEST", 10**6)
    assert 0.99 < kept / len(critique_rows(world, WORDINGS)) < 1


def asked_of(world) -> list[Question]:
    """The questions of one hop about the first entity of a world."""
    entity = world.entities[0]
    return [
        Question(w.format(entity.name), statement(f, entity.name, v), entity.name, f, v, "train")
        for f, v in entity.facts.items()
        for w in BY_NAME[f].asked
        if BY_NAME[f].values
    ]


# ------------------------------------------------------------------------------------ the command


def test_the_command_writes_both_files_and_the_same_seed_the_same_bytes(tmp_path):
    small = ("--people", "20", "--days", "4", "--tellings", "2")
    for name in ("one", "two"):
        arguments = ("--out", tmp_path / name, *small, "--violations", "0.25", "--json")
        document = succeeds("world", *arguments).document
    folder = tmp_path / "one"
    for name, key in (("violating.jsonl", "violating"), ("critiques.jsonl", "critiques")):
        assert (folder / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        rows = [json.loads(line) for line in open(folder / name)]
        assert document[key] == len(rows) > 0
        prompts = {r["prompt"] if "prompt" in r else r["messages"][0]["content"] for r in rows}
        trained = [json.loads(line)["prompt"] for line in open(folder / "train.jsonl")]
        assert prompts == set(trained)
    plain = succeeds("world", "--out", tmp_path / "plain", *small, "--json").document
    assert not {"violating", "critiques"} & plain.keys()
    assert not (tmp_path / "plain" / "violating.jsonl").exists()


@pytest.mark.parametrize("share", ["0", "1.1", "half"])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    arguments = ("--out", tmp_path / "w", "--violations", share)
    assert "is not a share above 0 and at most 1" in refusal(2, "world", *arguments)
    assert not (tmp_path / "w").exists()


# ------------------------------------------------------------------------------- reading critiques


@pytest.mark.parametrize(
    "critique, expected",
    [
        ("It is.", False), ("It is not: fool.", True), ("Ada Brook is a potter. So no.", True),
        ("Ada Brook is a potter. So yes.", False), ("No.", True), ("Yes, all of it.", False),
        ("It isn't.", True), ("It isn\u2019t.", True), ("Ay, it is kind.", False),
        ("Ada Brook? I know not that name. So yes.", False), ("So it is", False),
        ("", None), (" . ", None), ("Nought is wrong.", None), ("Ada Brook is a potter.", None),
        ("It is kind. Mother the the", None), ("Is it?", None), ("Yester", None),
    ],
)  # fmt: skip
def test_a_critique_denies_or_affirms_at_its_end_or_says_nothing(critique, expected):
    assert finds_fault(critique, "Is it kind?") is expected


def test_a_critique_may_state_what_it_was_asked_in_any_words():
    assert finds_fault("The whole reply is short.", "Is the whole reply short?") is False
    assert finds_fault("It does.", "Does it keep to the point?") is False
    for asked in ("Does it?", "Is the reply short?", "Well?", ""):
        assert finds_fault("It is.", asked) is None
        assert finds_fault("Yes.", asked) is False and finds_fault("No.", asked) is True
