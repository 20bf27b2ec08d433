"""The lab's arms on what a model knows: whose map says what is refused, and what is measured."""

from collections import Counter

import pytest
from small_lab import lab_at

from pysft.lab import pipelines, preferring, probing_tasks
from pysft.lab.experiments.probing import OWN_MAPS, RECALLING
from pysft.lab.preferring import Subject
from pysft.lab.probing_tasks import (
    BEFORE,
    COMPARED,
    GUESSED,
    OTHER,
    OWN,
    PLAIN,
    RECALLED,
    Judged,
    asked_about_people,
    before,
    by_person,
    files_of,
    half_trained,
    is_measured,
    kinds_of,
    of_maps,
    probed,
    probed_world,
    refuse_by_map,
    refuse_new_names,
    sealed_figures,
)
from pysft.run.stage import load_stage
from pysft.text.conversation import plain
from pysft.text.curated import answer_of
from pysft.world.ask import questions
from pysft.world.facts import make

pytestmark = pytest.mark.usefixtures("small_lab")


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def lab(tmp_path_factory, corpus, small_lab):
    return lab_at(tmp_path_factory.mktemp("probing") / "lab", corpus)


@pytest.fixture(scope="module")
def subject(lab):
    return Subject(lab, probed_world(1), 1)


@pytest.fixture(scope="module")
def own(subject):
    """(the folder, the document) of the model's own map."""
    return probed(subject, before(subject, quiet), quiet)


@pytest.fixture(scope="module")
def other(subject):
    return probed(subject, half_trained(subject, quiet), quiet)


class Trained(Exception):
    """Raised in place of a training, with its files of conversations."""


@pytest.fixture
def trained(subject, own, other, monkeypatch):
    """trained(refusals): {prompt: replies} of the rows that an arm of own-map trains on."""
    usual = probing_tasks.tuned

    def tuned(subject, start, files, changes, note, mix=()):
        if changes == BEFORE:
            return usual(subject, start, files, changes, note, mix)
        raise Trained(files, changes)

    monkeypatch.setattr(probing_tasks, "tuned", tuned)

    def rows(refusals):
        with pytest.raises(Trained) as found:
            refuse_by_map(subject, {"refusals": refusals, "steps": 100}, quiet)
        [conversations] = found.value.args[0]
        assert found.value.args[1] == {"steps": 100}
        replies = {}
        for c in conversations:
            replies.setdefault(c.prompt, []).extend(c.replies())
        return replies

    return rows


# ------------------------------------------------------------------------------ a map of one's own


def test_the_other_model_read_half_as_much_of_the_same_text(subject):
    names = {}
    for model, steps in ((before, 48), (half_trained, 24)):
        stage = model(subject, quiet)
        assert stage.settings["sft"]["steps"] == 4 and stage.world == subject.told.world
        names[steps] = stage.folder.name
    assert len({*names.values()}) == 2
    settings = [load_stage(p).settings for p in (subject.lab.folder / "bases").iterdir()]
    assert sorted(s["base"]["steps"] for s in settings if "base" in s) == [24, 48]


def test_two_maps_are_compared_on_questions_about_people(subject, own, other):
    asked = asked_about_people(subject)
    kinds, others = kinds_of(own[0]), kinds_of(other[0])
    assert {q.prompt for q in asked} < kinds.keys() == others.keys()
    assert {q.about for q in asked} <= make(subject.told.world).by_name.keys()
    found, count = of_maps(asked, own, other), len(asked)
    assert found["agreement"] * count == sum(kinds[q.prompt] == others[q.prompt] for q in asked)
    of_own, of_other = (Counter(some[q.prompt] for q in asked) for some in (kinds, others))
    by_chance = sum(of_own[kind] * of_other[kind] for kind in ("known", "unknown"))
    assert of_own["known"] + of_own["unknown"] == count and found["agreement"] < 1
    assert found["chance"] == pytest.approx(by_chance / count**2)
    known = [others[q.prompt] for q in asked if kinds[q.prompt] == "known"]
    assert found["known_to_own_alone"] == known.count("unknown") / len(known) > 0
    for prefix, (_, document) in (("", own), ("other_", other)):
        row = document["by_tellings"][-1]
        assert row["tellings"] == 600 and found[f"{prefix}known_share_600"] == row["known"]
        assert found[f"{prefix}right_share_600"] == row["right"]
        assert found[f"{prefix}balanced_accuracy"] == document["balanced_accuracy"]


def test_one_wording_of_each_question_is_measured_and_never_trained(subject, trained):
    asked = asked_about_people(subject)
    measured = {q.prompt for q in asked if is_measured(q)}
    assert 4 * len(measured) == len(asked) and len({(q.about, q.fact) for q in asked}) == len(
        measured
    )
    for whose in (None, OWN, OTHER, GUESSED):
        assert not measured & trained(whose).keys()


def test_arms_refuse_as_many_questions_each_of_its_own_list(subject, own, other, trained):
    asked = {q.prompt: q.answer for q in asked_about_people(subject) if not is_measured(q)}
    unknown, to_the_other = (
        {p for p in asked if kinds[p] == "unknown"} for kinds in map(kinds_of, (own[0], other[0]))
    )
    demonstrations = {c.prompt: c.replies() for c in subject.demonstrations()}
    lists = {}
    for whose in (None, OWN, OTHER, GUESSED):
        rows = trained(whose)
        assert all(rows.pop(p) == replies for p, replies in demonstrations.items())
        lists[whose] = {p for p, replies in rows.items() if "I know not" in replies[0]}
        assert all(len(rows[p]) == 1 for p in lists[whose])
        # What is known is answered, and as the world has it, unless it is refused.
        assert rows.keys() == asked.keys() - unknown | lists[whose]
        assert all(rows[p] == [asked[p]] for p in rows.keys() - lists[whose])
    assert lists[None] == set() and lists[OWN] == unknown
    assert lists[OTHER] <= to_the_other and not lists[OTHER] <= unknown
    assert not lists[GUESSED] <= unknown and not lists[GUESSED] <= to_the_other
    assert len(lists[GUESSED]) == len(unknown) > 0
    assert len(lists[OTHER]) == min(len(unknown), len(to_the_other)) > 0


def test_all_about_one_person_is_refused_before_the_next(subject):
    asked = asked_about_people(subject)
    some = by_person(asked, 20, 1)
    assert len(some) == 20 and by_person(asked, 1000, 1)[:20] == some != by_person(asked, 20, 2)
    every, found = (Counter(q.about for q in rows) for rows in (asked, some))
    assert sum(found[name] < every[name] for name in found) == 1 < len(found)


# --------------------------------------------------------------------------------------- new names


def test_rows_without_thoughts_are_otherwise_those_with_them(own):
    with_thoughts, without = files_of(own[0], RECALLED), files_of(own[0], PLAIN)
    every = files_of(own[0], COMPARED)
    assert files_of(own[0], None) == [] and every[:2] == with_thoughts and len(every) == 3
    for some, others in zip(with_thoughts, without, strict=True):
        said = [(c.prompt, answer_of(c.messages[-1]["content"])) for c in some]
        assert others and all("thought" in c.parts for c in some)
        assert [(c.prompt, c.replies()[0]) for c in others] == list(dict.fromkeys(said))
    assert all(c.replies()[0].endswith("I know not that name.") for c in without[1])


def test_no_row_is_about_anybody_who_is_asked_about_afterwards(subject, own):
    sealed = {q.about for q in questions(make(subject.told.world), "sealed")}
    rows = [c for some in files_of(own[0], COMPARED) for c in some]
    texts = [plain(m["content"]) for c in rows for m in c.messages]
    assert texts and not [text for text in texts if any(name in text for name in sealed)]


# -------------------------------------------------------------------------------- what is measured


def test_shares_are_of_what_is_told_often_and_of_what_is_never_told(subject, monkeypatch):
    """Trades that are told 600 times are answered right, all else is refused; in new wordings
    nothing is either."""

    def judged(subject, stage, asked):
        def verdict(q):
            if q.new_wording:
                return "wrong"
            return "right" if q.tellings == 600 and q.fact == "trade" else "refused"

        return [Judged(q, "so", "end", verdict(q)) for q in asked]

    monkeypatch.setattr(probing_tasks, "judged", judged)
    found, samples = sealed_figures(subject, subject.base.stage)
    assert (found["known_right"], found["known_refused"], found["unknown_refused"]) == (0.5, 0.5, 1)
    assert found["mean"] == 0.75 and found["unknown_wrong"] == 0 and found["new_unknown_wrong"] == 1
    assert found["new_mean"] == found["new_known_right"] == found["new_unknown_refused"] == 0
    assert (found["right_600"], found["right_100"], found["right_0"]) == (0.5, 0, 0)
    assert (found["refused_600"], found["refused_100"], found["refused_0"]) == (0.5, 1, 1)
    assert found["wrong"] == 0 and found["right"] + found["refused"] == 1
    assert found["forgetting"] == 0 and len(samples) == 6 and samples[0][1:] == ("so", "end")


def test_what_processes_share_has_all_models_and_maps(lab, subject, monkeypatch):
    OWN_MAPS.prepare(lab, 1)
    RECALLING.prepare(lab, 1)

    def refuse(*_, **__):
        raise AssertionError("made again")

    for module, name in (
        (pipelines, "finetune"),
        (preferring, "finetune"),
        (probing_tasks, "probe"),
    ):
        monkeypatch.setattr(module, name, refuse)
    for model in (before, half_trained):
        probed(subject, model(subject, quiet), quiet)
    with pytest.raises(AssertionError, match="made again"):
        refuse_new_names(subject, {"rows": PLAIN, "mix": [1, 1], "steps": 100}, quiet)
