"""Mistaken exercises that were written without the catalogue of mistakes (tests/learners/).

A few of them are checked here. tests/heavy/learners.py checks all and says how they came about;
tests/heavy/learner_mutants.py mutates the right ones."""

import ast
from types import SimpleNamespace

import pytest
from conftest import ROOT

from pysft.lessons import book, check

# One of most exercises. Three have two mistakes, one a mistake that any function can have.
MISTAKEN = ("m02", "m22", "m31", "m39", "m44", "m54", "m63", "m67", "m71", "m76", "m78", "m80")
RIGHT = ("right_matmul_2", "right_floating_point_1")
GENERAL = ("added-instead", "multiplied", "nothing-written")


@pytest.fixture
def heavy(monkeypatch):
    """The modules of tests/heavy/ that this is about."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "heavy"))
    import learner_mutants
    import learners

    return SimpleNamespace(learners=learners, mutants=learner_mutants)


@pytest.mark.parametrize("name", [*MISTAKEN, *RIGHT])
def test_what_is_wrong_with_a_file_is_said_and_a_right_one_passes(heavy, name, exercises_here):
    learner = next(x for x in heavy.learners.learners() if x.name == name)
    finding = check.check(learner.exercise, learner.path)
    assert learner.fits(finding), (finding.mistake, finding.finding)


def test_every_file_is_known_and_what_is_to_be_said_of_it_can_be_said(heavy):
    every, exercises = heavy.learners.learners(), {x.exercise for x in book.lessons()}
    assert {x.path for x in every} == set(heavy.learners.FOLDER.glob("*.py"))
    assert len(every) == 110 and all(x.exercise in exercises for x in every)
    for learner in every:
        ast.parse(learner.path.read_text())
        row = learner.row
        if row is None:
            continue
        assert row.keys() - {"says"} == {"exercise", "function", "words", "also", "named"}
        problem = {p.function: p for p in book.problems(row["exercise"])}[row["function"]]
        names, says = row["named"].split(" + "), row.get("says", [])
        if "/" in row["named"]:
            known = [check.name_of(problem, [mistake]) for mistake in problem.mistakes]
            assert set(names) <= set(known) and names == sorted(names, key=known.index), row
        else:
            assert row["named"] in GENERAL and says, row
            names = []  # `says` has the words that count
        assert not row["also"] or len(names) + len(says) == 2, row


def test_mutants_depend_on_the_seed_alone_and_are_other_programs(heavy):
    few, many = heavy.mutants.drawn(5, "1"), heavy.mutants.drawn(15, "1")
    assert many[:5] == few and heavy.mutants.drawn(5, "2") != few
    assert len({m.text for m in many}) == 15 and len({m.kind for m in many}) > 3
    for m in many:
        ast.parse(m.text)
        assert m.before != m.after and m.after in m.text


def test_a_mutant_is_right_or_its_name_fits_by_what_it_computes(heavy):
    text = (heavy.learners.FOLDER / "right_matmul_2.py").read_text()

    def mutant(*changes):
        changed = text
        for old, new in changes:
            assert old in changed
            changed = changed.replace(old, new)
        return heavy.mutants.Mutant("right_matmul_2", "matmul", "", "", "", changed)

    def fit(mutant, mistake):
        name = f"matmul_backward/{mistake}"
        finding = check.Finding(False, True, "catalogue", "matmul_backward", "", mistake=name)
        return heavy.mutants.name_fits(mutant, finding)

    mean, twice = ("db[k] += dy[n, k]", "db[k] += dy[n, k] / N"), ("* x[n]", "* x[n] * x[n]")
    assert heavy.mutants.is_right(mutant(("total += b[k]", "total = total + b[k]")))
    assert not heavy.mutants.is_right(mutant(("b[k]", "b[0]")))
    assert not heavy.mutants.is_right(mutant(mean))
    assert fit(mutant(mean), "mean-in-db") == "wholly"
    assert fit(mutant(mean), "mean-over-rows") == "wrongly"
    assert fit(mutant(mean, twice), "mean-in-db") == "in part"
