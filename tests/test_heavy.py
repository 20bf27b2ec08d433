"""The checks in tests/heavy/ fit the project: the faults that `make faults` plants, and the tests
that Makefile and the scripts name."""

import re

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
