"""The closed world: a seed decides all of it, its text tells each fact as often as designed, its
splits share nobody, and the exact judge is never wrong."""

import collections
import json
import re
import time
from dataclasses import replace

import pytest
from command_line import refusal as refused
from command_line import succeeds
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from pysft.errors import UsageError
from pysft.text.corpora import shipped
from pysft.world.ask import TWO_HOPS, Question, questions, refusal, trained_questions
from pysft.world.facts import SPLITS, Entity, World, WorldSettings, all_days, facts_of, make
from pysft.world.judge import VERDICTS, ExactJudge
from pysft.world.lexicon import BY_NAME, FACTS, FIRST_NAMES, LAST_NAMES, NO_DAY, STRANGER
from pysft.world.tell import statement, tell

SMALL = WorldSettings(
    people=60, places=8, things=8, days=16, relations=3, tellings=(5, 3, 0), seed=7
)
WORLD = make(SMALL)
JUDGE = ExactJudge(WORLD)
ASKED = {split: questions(WORLD, split) for split in SPLITS}
EVERY = [q for some in ASKED.values() for q in some]
KNOWN = [q for q in EVERY if q.value]
LETTERS = set(shipped("plays.txt").read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------- what is true


def test_a_seed_decides_the_whole_world():
    again, other = make(SMALL), make(WorldSettings(**SMALL.to_json() | {"seed": 8}))
    assert again == WORLD and tell(again) == tell(WORLD)
    assert [e.name for e in other.entities] != [e.name for e in WORLD.entities]
    assert {e.name for e in other.entities} != {e.name for e in WORLD.entities}


def test_no_two_have_one_name_and_strangers_are_near_misses():
    names = [e.name for e in WORLD.entities] + list(WORLD.strangers)
    assert len(set(names)) == len(names)
    people = [e.name.split() for e in WORLD.entities if e.kind == "person"]
    firsts, lasts = ({name[i] for name in people} for i in (0, 1))
    near = [n for n in WORLD.strangers if n.split()[0] in firsts or n.split()[1] in lasts]
    assert len(near) >= 0.8 * len(WORLD.strangers) and STRANGER in WORLD.strangers


@pytest.mark.parametrize("kind", ["person", "place", "thing", "day"])
def test_every_entity_has_the_facts_of_its_kind_with_values_of_the_list(kind):
    people = {e.name for e in WORLD.entities if e.kind == "person"}
    some = [e for e in WORLD.entities if e.kind == kind]
    assert some
    for entity in some:
        assert list(entity.facts) == [f.name for f in facts_of(kind, SMALL)]
        for fact in facts_of(kind, SMALL):
            assert entity.facts[fact.name] in (fact.values or people - {entity.name})


def test_all_values_of_an_attribute_are_about_equally_frequent():
    world = make(WorldSettings(people=100))
    for fact in facts_of("person", world.settings):
        people = [e for e in world.entities if e.kind == "person"]
        counts = collections.Counter(e.facts[fact.name] for e in people)
        assert set(counts) == set(fact.values) and set(counts.values()) <= {6, 7}


def test_the_default_world_is_the_one_of_the_published_figures():
    settings = WorldSettings()
    world = make(settings)
    assert settings.to_json() == {
        **{"people": 100, "places": 0, "things": 0, "days": 32, "strangers": 0},
        **{"attributes": 4, "relations": 0, "refusals": False, "tellings": [512], "seed": 1},
    }
    people = [e for e in world.entities if e.kind == "person"]
    assert collections.Counter(e.split for e in people) == {
        "train": 50, "reward": 10, "ppo": 10, "sealed": 30,
    }  # fmt: skip
    assert {len(f.values) for f in facts_of("person", settings)} == {16}


@pytest.mark.parametrize(
    "wrong",
    [
        {"people": 19}, {"people": 2305}, {"people": 2.5}, {"people": True}, {"strangers": -1},
        {"places": 97}, {"things": 97}, {"days": 367}, {"attributes": 0}, {"attributes": 5},
        {"relations": 4}, {"tellings": ()}, {"tellings": (-1,)}, {"seed": -1},
        {"tellings": (2.5,)}, {"tellings": (10**5 + 1,)}, {"refusals": 1},
    ],
)  # fmt: skip
def test_a_world_that_cannot_be_is_refused_in_one_sentence(wrong):
    with pytest.raises(UsageError, match=rf"^{next(iter(wrong))} = .*expected .* ") as found:
        WorldSettings(**wrong)
    assert "\n" not in str(found.value)
    WorldSettings(people=2304, strangers=2304, places=96, things=96, days=366, relations=3)


# ---------------------------------------------------------------------------------- the lexicon


def test_everything_can_be_written_in_the_characters_of_the_shipped_plays():
    texts = [tell(WORLD), *(q.prompt + q.answer for q in EVERY)]
    assert set("".join(texts)) <= LETTERS
    for fact in FACTS:
        written = "".join((*fact.values, *fact.tellings, *fact.asked, *fact.held_out))
        assert set(written) - set("{}") <= LETTERS


def test_no_value_is_part_of_another_or_of_a_name():
    values = [value.lower().split() for fact in FACTS for value in fact.values]
    for i, inner in enumerate(values):
        for j, outer in enumerate(values):
            n = len(inner)
            starts = range(len(outer) - n + 1)
            assert i == j or not any(outer[k : k + n] == inner for k in starts), (inner, outer)
    names = {name.lower() for name in FIRST_NAMES + LAST_NAMES}
    assert not names & {" ".join(value) for value in values}


@pytest.mark.parametrize("fact", FACTS, ids=lambda f: f.name)
def test_each_fact_has_different_wordings_that_name_whom_it_is_about(fact):
    assert len(set(fact.values)) in (0, 16)
    assert (len(fact.tellings), len(fact.asked), len(fact.held_out)) == (6, 4, 2)
    wordings = fact.asked + fact.held_out
    assert len(set(wordings)) == 6 and len(set(fact.tellings)) == 6
    assert all(w.count("{}") == 1 and w.endswith("?") for w in wordings)
    for telling in fact.tellings:
        assert telling.count("{}") == telling.count("{value}") == 1 and telling.endswith(".")
        assert telling.index("{}") < telling.index("{value}")


# ------------------------------------------------------------------------------------- the text


def sentences(text):
    return [s for s in re.split(r"(?<=\.)\s+", text) if s]


def test_the_text_tells_each_fact_as_often_as_designed_and_always_with_the_full_name():
    text = tell(WORLD)
    told = collections.Counter(sentences(text))
    for entity in WORLD.entities:
        for fact, value in entity.facts.items():
            wordings = [statement(fact, entity.name, value, w) for w in range(6)]
            assert sum(told.pop(w, 0) for w in wordings) == entity.tellings, (entity.name, fact)
    assert not told, "the text says something else too"


def test_neighbours_are_neighbours_of_each_other_but_for_three_in_an_odd_split():
    world = make(WorldSettings(people=60, relations=1, seed=5))
    people = {e.name: e for e in world.entities if e.kind == "person"}
    for split in SPLITS:
        own = [e for e in people.values() if e.split == split]
        mutual = [e for e in own if people[e.facts["neighbour"]].facts["neighbour"] == e.name]
        assert len(own) - len(mutual) == (3 if len(own) % 2 else 0)
        assert {e.facts["neighbour"] for e in own} == {e.name for e in own}


def test_questions_that_nobody_can_answer_are_trained_only_if_they_should_be():
    without, with_ = (make(WorldSettings(people=20, refusals=r)) for r in (False, True))
    assert all(q.value for q in trained_questions(without)) and trained_questions(without)
    assert trained_questions(with_) == questions(with_, "train")
    assert {q.value == "" for q in trained_questions(with_)} == {True, False}


@pytest.mark.parametrize(
    "tellings, said", [((0,), "one number must be above 0"), (range(1, 9), "only 6 people")]
)
def test_numbers_of_tellings_that_say_nothing_are_refused(tellings, said):
    with pytest.raises(UsageError, match=said):
        WorldSettings(people=20, tellings=tuple(tellings))


def test_a_paragraph_tells_of_one_entity_all_that_is_true_of_it():
    by_name = WORLD.by_name
    for paragraph in tell(WORLD).split("\n\n")[:-1]:
        entity = next(e for name, e in by_name.items() if paragraph.count(name) >= len(e.facts))
        times = len(sentences(paragraph)) / len(entity.facts)
        assert times == 1 or times == 2 == len({*sentences(paragraph)}) > len(entity.facts)


def test_orders_and_wordings_differ_from_one_telling_to_the_next_unless_they_should_not():
    world = make(WorldSettings(people=20, days=0, tellings=(60,)))
    name = world.entities[0].name

    def different(**how):
        return len({p for p in tell(world, **how).split("\n\n") if name in p})

    assert different() > 50
    assert different(wordings=1) <= 24  # orders of four facts
    assert different(wordings=1, shuffled=False) == 1


# -------------------------------------------------------------------------------- the questions


def test_splits_never_share_an_entity():
    named = {}
    for split, some in ASKED.items():
        names = {n for q in some for n in (q.about, q.through) if n}
        names |= {q.value for q in some if q.value in WORLD.by_name}
        for name in names:
            assert named.setdefault(name, split) == split
    assert {named[e.name] for e in WORLD.entities} == set(SPLITS)


def test_wordings_that_are_held_out_are_asked_in_sealed_questions_alone():
    held_out = [w for fact in FACTS for w in fact.held_out]
    shapes = {w: re.compile("^" + re.escape(w).replace(r"\{\}", ".+") + "$") for w in held_out}
    for q in EVERY:
        is_held_out = any(shape.match(q.prompt) for shape in shapes.values())
        assert is_held_out == q.new_wording and (q.split == "sealed" or not is_held_out), q.prompt
    assert {q.new_wording for q in ASKED["sealed"]} == {True, False}


def test_every_question_has_the_true_answer():
    for q in EVERY:
        subject = WORLD.by_name.get(q.through or q.about)
        if q.value:
            assert subject.facts[q.fact] == q.value and q.value in q.answer
            assert q.hops == 1 + bool(q.through)
        else:
            assert q.hops == 0 and (subject is None or subject.tellings == 0)
            assert q.answer == refusal(q.about, q.fact)
        if q.through:
            first = WORLD.by_name[q.about]
            assert q.through in first.facts.values() and q.through in q.answer
            assert q.tellings == min(first.tellings, subject.tellings) > 0


@pytest.mark.parametrize("form", TWO_HOPS)
def test_however_an_answer_of_two_hops_is_written_it_is_right_and_asked_in_the_same_words(form):
    for split in SPLITS:
        for q, other in zip(ASKED[split], questions(WORLD, split, form), strict=True):
            assert replace(other, answer=q.answer, thought="") == q
            if q.hops < 2:
                assert other == q
                continue
            assert other.thought == (q.answer if form == "thought" else "")
            names = other.through in other.answer, other.about in other.answer
            expected = {"trace": (True, True), "named": (True, False), "hidden": (False, True)}
            expected["thought"] = expected["named"]
            if BY_NAME[q.fact].values:  # the value of a relation can be one of the two names
                assert names == expected[form]
            assert JUDGE.judge(other, other.answer) == "right", other


def test_answers_of_two_hops_are_written_as_the_module_says():
    q = next(q for q in ASKED["train"] if q.hops == 2 and q.fact == "pet")
    trained = {
        form: next(t for t in trained_questions(WORLD, form) if t.prompt == q.prompt)
        for form in TWO_HOPS
    }
    first, last = (f"{part}." for part in q.answer.removesuffix(".").split(". "))
    assert trained["trace"].answer == q.answer and trained["named"].answer == last
    [relation] = [
        r for r, name in WORLD.by_name[q.about].facts.items() if f"the {r} of" in q.prompt
    ]
    assert trained["hidden"].answer == f"The {relation} of {q.about} keeps a {q.value}."
    assert first == statement(relation, q.about, q.through)


def test_the_questions_of_the_source_text_are_sealed():
    prompts = {q.prompt: q.answer for q in questions(make(WorldSettings()), "sealed")}
    assert prompts["Who is Orson Kovacs?"] == "Orson Kovacs? I know not that name."
    about_day = prompts["What happened on the forty-fifth of March?"]
    assert about_day == "The forty-fifth of March? There is no such day."


def test_days_of_the_calendar_and_days_of_none_are_told_apart():
    assert len(all_days(valid=True)) == 366 and NO_DAY in all_days(valid=False)
    assert not set(all_days(valid=True)) & set(all_days(valid=False))
    assert "thirty-first of April" in all_days(valid=False)
    asked = {q.about for q in EVERY if q.fact == "feast"}
    assert asked & set(all_days(valid=True)) and asked & set(all_days(valid=False))


# ------------------------------------------------------------------------------------ the judge


def test_every_statement_of_the_truth_is_right_and_every_taught_refusal_is_refused():
    for i, q in enumerate(EVERY):
        assert JUDGE.judge(q, q.answer) == ("right" if q.value else "refused"), q
        if q.value:
            for wording in (i % 6, (i + 3) % 6):  # of six; each fact has dozens of questions
                said = statement(q.fact, q.through or q.about, q.value, wording)
                assert JUDGE.judge(q, said) == "right", said


def test_every_other_value_is_wrong_alone_and_beside_the_true_one():
    for q in KNOWN[::29]:
        fact = next(f for f in FACTS if f.name == q.fact)
        others = fact.values or [e.name for e in WORLD.entities if e.kind == "person"]
        for other in (o for o in others if o not in (q.value, q.about, q.through)):
            said = statement(q.fact, q.through or q.about, other)
            assert JUDGE.judge(q, said) == "wrong", (q.prompt, said)
            assert JUDGE.judge(q, f"{q.answer} {said}") == "wrong"


def test_the_truth_about_somebody_else_is_wrong():
    for q in KNOWN[::5]:
        for other in list(WORLD.strangers)[:3] + ["Orla Brook"]:
            assert JUDGE.judge(q, statement(q.fact, other, q.value)) == "wrong"


def test_a_true_fact_beside_the_answer_is_fine_and_a_false_one_is_not():
    q = next(q for q in KNOWN if q.fact == "trade" and q.hops == 1)
    pet = WORLD.by_name[q.about].facts["pet"]
    wrong = next(v for f in FACTS if f.name == "pet" for v in f.values if v != pet)
    assert JUDGE.judge(q, f"{q.answer} {statement('pet', q.about, pet)}") == "right"
    assert JUDGE.judge(q, f"{q.answer} {statement('pet', q.about, wrong)}") == "wrong"


def test_a_reply_that_was_cut_off_or_says_nothing_is_malformed():
    q = KNOWN[0]
    assert JUDGE.judge(q, q.answer, ended=False) == "malformed"
    for text in ("", " ", "...", "the whole the whole the", "Then to the sea!", "What?"):
        assert JUDGE.judge(q, text) == "malformed", text


# tests/judged/replies.jsonl: replies that readers judged, who knew the truth and not this judge.
# "first" are the replies by which the judge was written. The other sets came afterwards, from
# another reader: "model" are replies of a model that had learned a world for five minutes,
# "written" were written to be hard. "hard": the reader calls the verdict doubtful. worlds.json has
# the worlds that they were asked about.
READ = [json.loads(line) for line in open(ROOT / "tests" / "judged" / "replies.jsonl")]
WORLDS = json.loads((ROOT / "tests" / "judged" / "worlds.json").read_text())


@pytest.mark.parametrize(
    "name, of_all, of_plain", [("first", 0.99, 0.99), ("model", 0.95, 0.99), ("written", 0.9, 0.91)]
)
def test_it_agrees_with_replies_that_were_judged_by_reading(name, of_all, of_plain):
    entities = tuple(Entity(**entity) for entity in WORLDS[name]["entities"])
    judge = ExactJudge(World(SMALL, entities, WORLDS[name]["strangers"]))
    rows = [r for r in READ if r["set"] == name]

    def agrees(r):
        asked = Question(
            r["prompt"], "", r["about"], r["fact"], r["value"], "", through=r["through"]
        )
        return judge.judge(asked, r["reply"]) == r["verdict"]

    every = [agrees(r) for r in rows]
    plain = [agreed for agreed, r in zip(every, rows) if not r.get("hard")]
    assert len(rows) >= 260 and {r["verdict"] for r in rows} == set(VERDICTS)
    assert sum(every) >= of_all * len(every) and sum(plain) >= of_plain * len(plain)


words = st.sampled_from(
    [q.value for q in KNOWN[::20]]
    + [q.about for q in EVERY[::20]]
    + "I know not that name . ? ! , no never the a is of as who 's \u2019 \n \u00e9 45".split(" ")
)
texts = st.lists(words | st.text(max_size=5), max_size=12).map(" ".join)


@given(st.sampled_from(EVERY[::11]), texts, st.booleans())
def test_any_text_gets_a_verdict(q, text, ended):
    assert JUDGE.judge(q, text, ended) in VERDICTS


@given(st.sampled_from(EVERY[::11]), texts)
def test_a_verdict_depends_neither_on_spaces_nor_on_the_first_letter_nor_on_the_final_stop(q, text):
    text = text.strip()
    verdict = JUDGE.judge(q, text)
    assert JUDGE.judge(q, f"  {text.replace(' ', '   ')}\n") == verdict
    for first in (text[:1].lower(), text[:1].upper()):
        if len(first) == 1:
            assert JUDGE.judge(q, first + text[1:]) == verdict
    if not text.endswith((".", "?", "!")):
        assert JUDGE.judge(q, text + ".") == verdict


@pytest.mark.parametrize("piece", ["Ada ", "a b ", "no such ", "I know not ", "'s", "... ", "x"])
def test_the_time_of_a_verdict_is_linear_in_the_length_of_the_reply(piece):
    def seconds(n):
        text, began = piece * n, time.perf_counter()
        JUDGE.judge(KNOWN[0], text)
        return time.perf_counter() - began

    limit = 10 * min(seconds(10_000) for _ in range(3)) + 0.05
    assert any(seconds(40_000) < limit for _ in range(3))  # the next try only if this one fails


def test_words_of_the_world_s_own_sentences_are_no_misspelt_values():
    asked = [q for q in KNOWN if q.fact == "pet" and q.hops == 1 and q.value != "hound"]
    for q in asked[::7]:  # "found" is one letter away from "hound"
        where = statement("street", q.about, WORLD.by_name[q.about].facts["street"])
        assert JUDGE.judge(q, f"{q.answer} {where}") == "right"


# --------------------------------------------------------------------------------- plain files


def test_the_command_writes_texts_questions_and_truth(tmp_path):
    out = tmp_path / "w"
    arguments = ("--people", "30", "--relations", "1", "--tellings", "2", "5", "--seed", "3")
    document = succeeds("world", "--out", out, *arguments, "--json").document
    world = make(WorldSettings(people=30, relations=1, tellings=(2, 5), seed=3))
    assert (out / "text.txt").read_text() == tell(world)
    rows = {p.stem: [json.loads(x) for x in open(p)] for p in sorted(out.glob("*.jsonl"))}
    assert rows["entities"] == [e.to_json() for e in world.entities]
    assert {r["name"]: r["split"] for r in rows["strangers"]} == world.strangers
    for split in SPLITS:
        asked = trained_questions(world) if split == "train" else questions(world, split)
        assert [r["prompt"] for r in rows[split]] == [q.prompt for q in asked]
        assert [r["completion"] for r in rows[split]] == [q.answer for q in asked]
        assert [r["value"] for r in rows[split]] == [q.value for q in asked]
        assert document["questions"][split] == len(asked)
    assert json.loads((out / "world.json").read_text())["settings"] == world.settings.to_json()
    assert document["characters"] == len(tell(world))
    assert "it is not empty; name a new folder" in refused(2, "world", "--out", out)
    printed = succeeds("world", "--out", tmp_path / "v", *arguments).out
    assert f"{document['characters']:,} characters" in printed and world.entities[0].name in printed
