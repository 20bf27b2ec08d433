"""The checks in tests/heavy/ fit the project: the faults that `make faults` plants or draws, and
the tests that Makefile and the scripts name."""

import ast
import re
from types import SimpleNamespace

import pytest
from conftest import ROOT

HEAVY = ROOT / "tests" / "heavy"


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(HEAVY))
    import faults

    return faults


@pytest.fixture
def project(tmp_path):
    """A project of one source file and one file of tests."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_sums.py").touch()
    (tmp_path / "sums.py").write_text("def total(a, b):\n    return f(\n        a + b,\n    )\n")
    return tmp_path


def table(old, new="a - b", file="sums.py", tests="sums"):
    """A table of one fault, which begins in line 3."""
    marked = [*(f"- {line}" for line in old.split("\n")), *(f"+ {x}" for x in new.split("\n") if x)]
    return "\n".join(["# a table", f"{file}: {tests}", *marked, "", ""])


def test_every_planted_text_stands_in_its_file_exactly_once(faults):
    found = faults.read_table(faults.TABLE.read_text())
    assert len(found) > 200
    assert not faults.problems(found), "\n".join(["", *faults.problems(found)])


@pytest.mark.parametrize("old", ["a + b", "a+b", "f(a + b,)", "return f(\n  a + b"])
def test_whitespace_and_line_breaks_do_not_matter(faults, project, old):
    assert len(faults.occurrences((project / "sums.py").read_text(), old)) == 1


def test_a_fault_replaces_its_text_and_nothing_else(faults, project):
    [fault] = faults.read_table(table("a +\nb", "a - b"))
    assert not faults.problems([fault], project)
    text = (project / "sums.py").read_text()
    assert faults.planted(text, fault) == text.replace("a + b", "a - b")


@pytest.mark.parametrize(
    "row, problem",
    [
        (table("a * b"), "stands there 0 times"),
        (table("a"), "stands there 3 times"),
        (table("a + b", "a  +  b"), "whitespace alone"),
        (table("a + b", "a +"), "no Python"),
        (table("a + b", file="other.py"), "no such file"),
        (table("a + b", tests="sums other"), "no tests/test_other.py"),
        (table("a + b", tests=""), "no test"),
    ],
)
def test_a_fault_that_cannot_be_planted_is_named_with_its_line(faults, project, row, problem):
    [found] = faults.problems(faults.read_table(row), project)
    assert found.startswith("faults.txt, line 3: ") and problem in found, found


def test_every_test_that_makefile_or_a_script_names_exists():
    text = "".join(path.read_text() for path in [ROOT / "Makefile", *HEAVY.glob("*.sh")])
    named = re.findall(r"tests/(test_\w+\.py|guarded\.py|heavy/\w+\.\w+)(?:::(\w+))?", text)
    assert len(named) > 10
    for file, test in named:
        path = ROOT / "tests" / file
        assert path.is_file(), file
        assert not test or f"def {test}(" in path.read_text(), (file, test)


# -------------------------------------------------------------------------- faults drawn at random

SOURCE = '''"""A page: 1 + 2."""

LIMIT = 3  # at most 4


def total(a: int, b: "1 + 1" = 2) -> "1 < 2":
    """The sum: a + b."""
    if not a:
        raise ValueError("nothing: a < 5" + str(a))
    print(f"{a + b}", "6")
    row["é"] = row["key"], -a
    a += b
    return a < LIMIT and "text" != b


class Page:
    size: int = 7

    def __repr__(self):
        return "a" * 8
'''


@pytest.fixture
def heavy(faults):
    """The modules of tests/heavy/ that draw faults at random, as attributes."""
    import c_mutants
    import covered
    import mutants
    import random_faults

    return SimpleNamespace(c=c_mutants, covered=covered, python=mutants, random=random_faults)


def changes(found, text):
    """{(line, kind): what the mutants of it put in the place of what}"""
    every = {}
    for m in found:
        every.setdefault((m.line, m.kind), []).append((text[m.start : m.end], m.new))
    return every


def test_faults_of_python_are_in_code_and_never_in_texts_for_people(heavy):
    assert changes(heavy.python.python_mutants("a.py", SOURCE), SOURCE) == {
        (3, "constant"): [("3", "2"), ("3", "4")],
        (6, "constant"): [("2", "1"), ("2", "3")],
        (8, "negated condition"): [("not", "")],
        (9, "deleted statement"): [('raise ValueError("nothing: a < 5" + str(a))', "pass")],
        (9, "operator"): [("+", "-")],
        (10, "deleted statement"): [('print(f"{a + b}", "6")', "pass")],
        (11, "deleted statement"): [('row["é"] = row["key"], -a', "pass")],
        (11, "key"): [("", "_")],
        (11, "name"): [("row", "a"), ("row", "a"), ("a", "row")],
        (11, "sign"): [("-", "+")],
        (12, "deleted statement"): [("a += b", "pass")],
        (12, "operator"): [("+", "-")],
        (13, "comparison"): [("<", "<="), ("<", ">"), ("!=", "==")],
        (13, "key"): [("", "_")],
        (13, "name"): [("a", "b"), ("b", "a")],
        (13, "operator"): [("and", "or")],
        (17, "constant"): [("7", "6"), ("7", "8")],
    }


def test_every_fault_of_python_is_python_and_another_program(heavy):
    for path in sorted((ROOT / "pysft" / "inference").rglob("*.py")):
        text = path.read_text()
        tree = ast.dump(ast.parse(text))
        for m in heavy.python.python_mutants(path.name, text)[::9]:
            assert ast.dump(ast.parse(m.planted(text))) != tree, m.shown(text)


def test_faults_of_c_are_in_functions_and_never_in_comments_or_texts(heavy):
    text = """#define F(x) (x + 1)
int g(int a, int b); /* a + b */
static int f(int a, int b) { // a - b
    if (a < b) threads = 1;
    /* 1
       2 */
    a += b;
    if (ok(a)) b = 0;
    return "a + 1"[b];
}
"""
    found = changes(heavy.c.c_mutants("a.c", text), text)
    assert found == {
        (7, "operator"): [("+=", "-=")],
        (7, "deleted statement"): [("a += b;", ";")],
        (7, "name"): [("a", "b"), ("b", "a")],
        (8, "negated condition"): [("(ok(a))", "(!(ok(a)))")],
        (8, "constant"): [("0", "1")],
        (8, "name"): [("a", "b"), ("b", "a")],
    }


def test_a_fault_is_shown_with_its_line_before_and_after(heavy):
    [m] = [
        m
        for m in heavy.python.python_mutants("a.py", SOURCE)
        if (m.line, m.kind) == (12, "operator")
    ]
    assert m.shown(SOURCE) == "a.py:12: a += b  ->  a -= b"
    assert m.planted(SOURCE) == SOURCE.replace("a += b", "a -= b")


def test_draws_depend_on_the_seed_alone_and_take_a_line_once(heavy):
    every = heavy.random.python_sources(ROOT / "pysft" / "inference")
    few, many = (heavy.random.draw(every, n, "1") for n in (20, 300))
    assert many[:20] == few == heavy.random.draw(every, 20, "1")
    assert heavy.random.draw(every, 20, "2") != few
    assert len({(m.file, m.line) for m in many}) == 300
    assert {m.kind for m in many} == {m.kind for m in every}
    assert all((ROOT / file).is_file() for file in heavy.random.NOT_TRIED)


def test_a_fault_is_tried_with_the_tests_that_run_it_or_use_what_it_defines(heavy, monkeypatch):
    """Lines 3 and 6 are run when the module is loaded."""
    tests = {("a.py", 8): {"t::f"}, ("a.py", 11): {"t::f", "t::g"}, ("a.py", 13): {"t::f"}}
    tests |= {("a.py", 3): {"t::g"}}  # the test that happened to load the module
    found = heavy.covered.Covered(tests, {"t::f": 1.0, "t::g": 0.5, "s::h": 0.1})
    trial = heavy.random.PythonTrial(found)
    monkeypatch.setattr(trial, "_users", lambda names: {"LIMIT": {"s::h"}}.get(*names, set()))
    chosen = {
        m.line: trial.tests_of(m, SOURCE) for m in heavy.python.python_mutants("a.py", SOURCE)
    }
    assert chosen[3] == {"s::h", "t::g"} and chosen[6] == chosen[11] == {"t::f", "t::g"}
    assert chosen[8] == chosen[13] == {"t::f"} and chosen[17] == set()
    assert found.ordered({"t::f", "t::g", "s::h"}) == ["s::h", "t::g", "t::f"]


def test_a_test_that_fails_without_the_fault_too_does_not_count(heavy, tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text(SOURCE)
    seconds = {"tests/t.py::f[a b]": 1.0, "tests/t.py::g": 2.0}
    found = heavy.covered.Covered({("a.py", 12): set(seconds)}, dict(seconds))
    trial = heavy.random.PythonTrial(found)
    [m] = [
        m
        for m in heavy.python.python_mutants("a.py", SOURCE)
        if (m.line, m.kind) == (12, "operator")
    ]

    def run(copy, chosen):
        """f fails always, g only with the fault."""
        is_sound = (tmp_path / "a.py").read_text() == SOURCE
        if "tests/t.py::f[a b]" in chosen:
            return "t.py::f[a"  # as pytest's short summary is read: up to the first blank
        return "" if is_sound else "t.py::g"

    monkeypatch.setattr(trial, "_run", run)
    outcome = trial(SimpleNamespace(folder=tmp_path, stale=False), m)
    assert (outcome.noticed, outcome.tests) == ("t.py::g", 1)
    assert list(found.seconds) == ["tests/t.py::g"]
    assert (tmp_path / "a.py").read_text() == SOURCE


def test_three_in_four_of_the_faults_are_of_python_unless_both_numbers_are_given(
    faults, heavy, monkeypatch
):
    asked = []
    monkeypatch.setattr(heavy.random, "main", lambda arguments: asked.append(arguments) or 7)
    commands = ["--random 60 --seed 3", "--python 4 --c 2", "--c 5", "--random=8"]
    assert [faults.main(command.split()) for command in commands] == [7] * 4
    options = map(heavy.random._options, asked)
    assert [(o.python, o.c, o.seed) for o in options] == [
        (45, 15, 3),
        (4, 2, 0),
        (0, 5, 0),
        (6, 2, 0),
    ]


@pytest.mark.parametrize("killed, status", [(19, 0), (18, 1)])
def test_at_least_95_in_a_hundred_must_be_killed(heavy, capsys, killed, status):
    [m, *_] = heavy.python.python_mutants("pysft/a.py", SOURCE)
    outcomes = [heavy.random.Outcome(m, "t.py::f") for _ in range(killed - 1)]
    outcomes += [heavy.random.Outcome(m, "hangs: not finished after 60 s")]
    outcomes += [heavy.random.Outcome(m, "", 3) for _ in range(20 - killed)]
    assert heavy.random._summary(outcomes, 1.0) == status
    shown = capsys.readouterr().out
    assert f"Python: {killed} of 20 killed ({killed / 20:.1%}, 95 % interval" in shown
    assert "1 of them because a test did not end in time" in shown


def test_the_interval_of_a_share_is_wilsons(heavy):
    assert heavy.random.wilson(50, 60) == pytest.approx((0.7196, 0.9069), abs=1e-4)
    assert heavy.random.wilson(0, 0) == (0.0, 1.0)
    low, high = heavy.random.wilson(40, 40)
    assert high == pytest.approx(1.0) and low == pytest.approx(40 / (40 + 1.96**2))
