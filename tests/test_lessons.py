"""The lessons: their form, their code, their numbers, and the mistakes of their exercises.

Everything here runs over the lessons and exercises that exist."""

import ast
import contextlib
import doctest
import io
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from command_line import pysft, refusal, succeeds
from conftest import ROOT
from lesson_worker import here

from pysft.errors import DataError
from pysft.lessons import book, check, faults
from pysft.lessons.cases import agree, cases_of, catalogue
from pysft.lessons.problem import ADDED, CHANGED, NONE, WRITTEN
from pysft.lessons.running import Ran
from pysft.lessons.walk import walk
from pysft.nn import reference
from pysft.nn.gradcheck import TOLERANCE, relative_error

LESSONS = book.lessons()
EXERCISES = sorted(
    path.stem for path in (book.FOLDER / "exercises").glob("*.py") if path.stem != "__init__"
)
PROBLEMS = {
    f"{exercise}: {problem.function}": problem
    for exercise in EXERCISES
    for problem in book.problems(exercise)
}
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.M | re.S)
FENCE = re.compile(r"^```.*?^```\n", re.M | re.S)
# Of a problem's pairs of mistakes so many are looked at, at most. PYSFT_EVERY=1: all.
PAIRS = 10**6 if os.environ.get("PYSFT_EVERY") else 100
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?![\w.]*\w)")

every_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.file)
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


@cache
def cases(name):
    return cases_of(PROBLEMS[name])


def name_of(problem):
    return next(name for name, p in PROBLEMS.items() if p is problem)


# ----------------------------------------------------------------------------------- their form


@every_lesson
def test_a_lesson_has_its_parts_in_order_and_is_short(lesson):
    assert tuple(lesson.sections) == book.SECTIONS
    assert lesson.idea and all(body.strip() for body in lesson.sections.values())
    assert len(lesson.text.split()) <= 700
    assert all(len(line) <= 100 for line in lesson.text.splitlines())
    assert 5 <= lesson.minutes <= 120
    assert all(n < lesson.number for n in lesson.needs)
    assert lesson.exercise in EXERCISES
    questions = re.findall(r"^(\d)\. ", lesson.sections["Questions"], re.M)
    assert questions == re.findall(r"^(\d)\. ", lesson.sections["Answers"], re.M)
    assert questions in (["1", "2"], ["1", "2", "3"])


def test_all_lessons_together_are_short_and_each_has_a_number_and_an_exercise_of_its_own():
    assert sum(len(lesson.text.split()) for lesson in LESSONS) <= 12_000
    for values in ([x.number for x in LESSONS], [x.title for x in LESSONS]):
        assert len(set(values)) == len(values)
    assert sorted(x.exercise for x in LESSONS) == sorted(set(x.exercise for x in LESSONS))


@every_lesson
def test_what_is_shown_gives_the_solution_only_when_it_is_asked_for(lesson):
    shown, whole = book.shown(lesson), book.shown(lesson, derive=True)
    for heading in book.SECTIONS:
        assert (f"\n## {heading}\n" in shown) == (heading not in book.HIDDEN)
        assert f"\n## {heading}\n" in whole
    assert "{derivation" not in whole and "{derivation" not in shown
    for name in book.DERIVATION.findall(lesson.sections["Derivation"]):
        assert book.derivation(name) in whole and book.derivation(name) not in shown
    assert not book.DERIVATION.search(shown)


def test_a_derivation_is_the_docstring_and_the_lines_of_the_function():
    text = book.derivation("layernorm_backward")
    assert "in pysft/nn/reference.py" in text
    assert "through the mean:  - rstd / C," in text
    assert "        mean_g = g.mean(axis=1, keepdims=True)\n".rstrip("\n") in text
    assert text.count("depends on x[j] in three ways") == 1
    assert "clip" in book.derivation("pysft.training.objectives.Ppo")
    for name in ("nothing", "pysft.nowhere.f"):
        with pytest.raises(DataError, match=name):
            book.derivation(name)


def test_a_lesson_without_a_head_is_an_error_that_names_the_file(tmp_path):
    for text in ("", "# Title\n\nText\n", "# Title\n\nneeds: 1\nminutes: x\nexercise: a\n\nText\n"):
        (tmp_path / "03-broken.md").write_text(text)
        with pytest.raises(DataError, match=r"03-broken\.md"):
            book.parse(tmp_path / "03-broken.md")


# ----------------------------------------------------------------------- their code and numbers


def output_of(lesson) -> str:
    """Run the code of a lesson. Its output must be what the lesson says."""
    space, runner = {}, doctest.DocTestRunner(verbose=False)
    parser, said, problems = doctest.DocTestParser(), "", io.StringIO()
    with np.errstate(), contextlib.redirect_stderr(io.StringIO()):
        for block in BLOCK.findall(lesson.text):
            examples = parser.get_doctest(block, space, lesson.file, lesson.file, 0)
            assert examples.examples, f"no `>>> ` in a block of {lesson.file}:\n{block}"
            runner.run(examples, out=problems.write, clear_globs=False)
            space = examples.globs
            said += "".join(example.want for example in examples.examples)
    assert not problems.getvalue(), problems.getvalue()
    return said


@every_lesson
def test_the_code_prints_what_the_lesson_says_and_so_do_the_numbers_in_its_prose(lesson):
    began = time.process_time()
    said = output_of(lesson)
    assert time.process_time() - began < 3
    printed = set(NUMBER.findall(said)) | {n.lstrip("-") for n in NUMBER.findall(said)}
    prose = FENCE.sub("", lesson.text)
    for number in NUMBER.findall(prose):
        assert number in printed, f"{lesson.file}: no block prints {number}"


@every_lesson
def test_the_code_needs_numpy_and_pysft_only(lesson):
    for block in BLOCK.findall(lesson.text):
        for example in doctest.DocTestParser().get_examples(block):
            for node in ast.walk(ast.parse(example.source)):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                assert {name.split(".")[0] for name in names} <= {"numpy", "pysft"}, lesson.file


@every_lesson
def test_files_in_backticks_exist(lesson):
    for path in re.findall(r"`([\w/.-]+\.(?:py|c|h|md|jsonl|toml))`", lesson.text):
        rooms = (ROOT, ROOT / "pysft")
        known = any((room / path).exists() for room in rooms) or path == "mine.py"
        assert known or list((ROOT / "pysft").rglob(path)), f"{lesson.file}: there is no {path}"


# --------------------------------------------------------------------------------- the problems


@every_problem
def test_a_problem_keeps_its_contract(problem):
    assert problem.skeleton.startswith(f"def {problem.function}(")
    [function] = ast.parse(problem.skeleton).body
    assert ast.get_docstring(function) and len(function.body) == 1
    assert all(len(line) <= 100 for line in problem.skeleton.splitlines())
    assert bool(problem.outputs) != bool(problem.returns)
    assert set(problem.outputs.values()) <= {ADDED, WRITTEN, CHANGED}
    assert len(set(problem.mistakes)) == len(problem.mistakes) >= 3
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in problem.mistakes)
    assert problem.sizes
    parameters = [a.arg for a in function.args.args]
    for case in cases(name_of(problem)):
        numbers = [x for x in case.sizes.values() if isinstance(x, int)]
        assert len(set(numbers)) == len(numbers)
        assert parameters == [*case.before, *case.passed()]
        assert [*case.before] == [*problem.outputs]
        right = case.answer()
        assert tuple(right) == problem.results
        for name, x in right.items():
            is_about_float32 = problem in book.problems("floating_point")
            assert x.dtype.kind != "f" or x.dtype == np.float64 or is_about_float32
            assert x.dtype.kind not in "fc" or np.isfinite(x).all()
            kind = problem.outputs.get(name)
            assert (name in case.arguments) == (kind == CHANGED), name
        assert set(problem.of) <= set(right) and bool(problem.of) == (problem.loss is not None)


@every_problem
def test_an_answer_changes_none_of_its_arguments_and_is_the_same_again(problem):
    for case in cases(name_of(problem))[:1]:
        kept = {n: x.copy() for n, x in case.arguments.items() if isinstance(x, np.ndarray)}
        for wrong in catalogue(problem):
            first, again = case.answer(wrong), problem.answer(dict(case.arguments), wrong)
            assert first.keys() == again.keys() == case.answer().keys()
            assert all(np.array_equal(first[n], again[n], equal_nan=True) or
                       first[n].dtype.kind not in "biufUS" for n in first)  # fmt: skip
        for name, x in kept.items():
            assert np.array_equal(x, case.arguments[name], equal_nan=x.dtype.kind == "f"), name


@every_problem
def test_a_gradient_is_that_of_the_loss_by_finite_differences(problem):
    for case in cases(name_of(problem)):
        for name, numeric in case.numeric().items():
            assert relative_error(case.answer()[name], numeric) <= TOLERANCE, name


@every_problem
def test_a_right_answer_is_that_of_the_reference(problem):
    """Where there is a kernel of this name."""
    function = getattr(reference, problem.function, None)
    if function is None:
        return
    for case in cases(name_of(problem)):
        filled = {name: x.copy() for name, x in case.before.items()}
        function(*filled.values(), *case.passed().values())
        for name, x in filled.items():
            gained = x - case.before[name] if problem.outputs[name] == ADDED else x
            assert agree(gained, case.answer()[name]), name


# --------------------------------------------------------------------------------- the messages


def test_every_mistake_has_a_message_and_every_message_a_mistake():
    expected = {(p.function, mistake) for p in PROBLEMS.values() for mistake in p.mistakes}
    found = {(path.parent.name, path.stem) for path in faults.MISTAKES.glob("*/*")}
    assert found == expected, (sorted(expected - found), sorted(found - expected))


@every_problem
def test_a_message_has_a_finding_and_hints_that_end_with_the_lesson(problem):
    for mistake in problem.mistakes:
        message = faults.of_catalogue(problem.function, mistake)
        # In a message on two mistakes, the other one may have spoiled what is right with this one.
        assert not re.search(r"\b(is|are) right\.", message.finding), (mistake, message.finding)
        assert 2 <= len(message.hints) <= 3, mistake
        assert len(set(message.hints)) == len(message.hints)
        for paragraph in (message.finding, *message.hints):
            assert len(paragraph.split()) <= 40, (mistake, paragraph)
            assert not re.search(r"\b(just|obviously|simply|your?)\b", paragraph, re.I), paragraph
            assert "=" not in paragraph or "def " not in paragraph
        place = r'Lesson (\d+), (?:"([^"]+)"|the first paragraph|question \d)'
        found = re.search(place, message.hints[-1])
        assert found, (mistake, message.hints[-1])
        assert found[2] in {None, *book.SECTIONS} - set(book.HIDDEN), (mistake, found[2])
        of = [lesson for lesson in LESSONS if problem in book.problems(lesson.exercise)]
        known = {n for lesson in of for n in (lesson.number, *lesson.needs)}
        assert int(found[1]) in known or not known, (mistake, found[1])


# ----------------------------------------------------------------------------- planted mistakes


def planted(name, wrong):
    """The finding on a function that makes the mistakes in `wrong`."""
    problem, results = PROBLEMS[name], []
    for case in cases(name):
        added = {n for n, kind in problem.outputs.items() if kind == ADDED}
        answer = case.answer(wrong)
        results.append({n: x + case.before[n] if n in added else x for n, x in answer.items()})
    calls = [{"changed": [], "returned": False} for _ in results]
    return check.judged(problem, cases(name), Ran(None, calls, results))


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_mistake_of_the_catalogue_is_named(name):
    problem = PROBLEMS[name]
    finding = planted(name, NONE)
    assert finding.passed and finding.mistake is None and finding.worst_relative_error <= TOLERANCE
    for mistake in problem.mistakes:
        finding = planted(name, frozenset([mistake]))
        assert not finding.passed and finding.mistake == f"{problem.function}/{mistake}"
        assert all(" + " in other for other in finding.also), (mistake, finding.also)
        message = faults.of_catalogue(problem.function, mistake)
        assert (finding.finding, finding.hints) == (message.finding, message.hints)
        assert finding.kind == "catalogue"
        if finding.worst_relative_error is not None:
            assert finding.worst_relative_error > 1e-6, mistake


@np.errstate(over="ignore")  # np.round multiplies by a power of ten
def fingerprint(name, wrong):
    """What a set of mistakes gives in all cases, to seven digits of the right result."""
    found = []
    for case in cases(name):
        for result, x in case.answer(wrong).items():
            if x.dtype.kind in "biuf":
                scale = max(np.abs(case.answer()[result]).max(initial=0), 1e-6)
                x = np.round(x.astype(np.float64) / scale, 7) + 0.0  # no -0.
            found.append((x.shape, x.tobytes()))
    return hash(tuple(found))


@pytest.mark.parametrize("name", PROBLEMS)
def test_nine_in_ten_pairs_that_nothing_else_gives_are_named(name):
    """Of the problems with most mistakes, only each second pair, or third, and so on, is looked at.
    Neighbours in this order share a mistake."""
    problem = PROBLEMS[name]
    marks = {wrong: fingerprint(name, wrong) for wrong in catalogue(problem)}
    often = list(marks.values())
    unique = [w for w, mark in marks.items() if len(w) == 2 and often.count(mark) == 1]
    others = [w for w in marks if len(w) == 2 and often.count(marks[w]) > 1]
    unique, others = (pairs[:: 1 + len(pairs) // PAIRS] for pairs in (unique, others))
    named = [w for w in unique if planted(name, w).mistake == check.name_of(
        problem, [m for m in problem.mistakes if m in w])]  # fmt: skip
    assert len(named) >= 0.9 * len(unique), [set(w) for w in unique if w not in named][:5]
    for wrong in others:
        assert planted(name, wrong).passed == (marks[wrong] == marks[NONE])


@every_problem
def test_the_right_results_pass_through_a_process_of_their_own(problem, tmp_path):
    """A file that has them passes: all arguments and results can go there and back. The process is
    started for the first function of each exercise; the others exchange the same files."""
    own = cases(name_of(problem))
    kept = [[case.answer()[name] for name in problem.results] for case in own]
    (tmp_path / "right.pickle").write_bytes(pickle.dumps(kept))
    kinds = [problem.outputs.get(name) for name in problem.results]
    (tmp_path / "mine.py").write_text(
        f"import pickle\n"
        f"with open({str(tmp_path / 'right.pickle')!r}, 'rb') as f:\n"
        f"    calls = iter(2 * pickle.load(f))  # again for outputs that are inputs too\n"
        f"def {problem.function}(*arguments):\n"
        f"    right = next(calls)\n"
        f"    if {not problem.outputs}:\n"
        f"        return tuple(right)\n"
        f"    for kind, array, x in zip({kinds}, arguments, right):\n"
        f"        array[...] = array + x if kind == {ADDED!r} else x\n"
    )
    path = tmp_path / "mine.py"
    starts = problem in [book.problems(exercise)[0] for exercise in EXERCISES]
    with contextlib.nullcontext() if starts else here():
        finding = check.check_function(problem, path.read_bytes(), path)
    assert finding.passed, (finding.finding, finding.hints)


# --------------------------------------------------------------------------- the page for teachers

SHELL = re.compile(r"^```sh\n(.*?)^```\n", re.M | re.S)


def test_the_page_for_teachers_is_short_and_tells_what_each_lesson_needs():
    text = succeeds("lesson", "teachers").out
    assert text == book.teachers() == succeeds("lesson", "teachers", "--json").document["text"]
    assert len(text.split()) <= 500 and book.TABLE not in text
    assert all(len(line) <= 100 for line in text.splitlines())
    for lesson in LESSONS:
        needs = " ".join(map(str, lesson.needs))
        row = rf"^ *{lesson.number}  {lesson.title} +{lesson.minutes} *{needs}$"
        assert re.search(row, text, re.M), lesson.file
    needed = {n for lesson in LESSONS for n in lesson.needs}
    others = sorted({lesson.number for lesson in LESSONS} - needed)
    assert f"No lesson needs {', '.join(map(str, others[:-1]))} or {others[-1]}," in text
    known = sum(len(problem.mistakes) for problem in PROBLEMS.values())
    assert "some 490 known" in " ".join(text.split()) and 475 <= known < 500


def test_the_loop_of_the_page_grades_a_folder(tmp_path):
    [loop] = SHELL.findall(book.teachers())
    learners = ROOT / "tests" / "learners"
    (tmp_path / "solutions").mkdir()
    for name in ("m02", "right_layernorm_1"):
        shutil.copy(learners / f"{name}.py", tmp_path / "solutions")
    (tmp_path / "solutions" / "a b.py").write_text("import numpy as np\n")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    env["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{env['PATH']}"
    done = subprocess.run(["sh", "-c", loop], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == done.stderr == "", done
    assert (tmp_path / "grades.tsv").read_text().splitlines() == [
        "solutions/a b.py\tmissing",
        "solutions/m02.py\tlayernorm_backward/sum-in-variance-term",
        "solutions/right_layernorm_1.py\tright",
    ]


def test_one_file_is_enough_for_a_lesson(tmp_path):
    [example] = re.findall(r"^```\n(# .*?)^```\n", book.teachers(), re.M | re.S)
    (tmp_path / "18-my-lesson.md").write_text(example)
    [lesson] = book.lessons(tmp_path)
    assert (lesson.number, lesson.title, lesson.needs) == (18, "My lesson", (5, 6))
    assert tuple(lesson.sections) == book.SECTIONS and lesson.exercise in EXERCISES
    assert book.shown(lesson).startswith("# 18. My lesson\n")


# ------------------------------------------------------------------------------------- the verb


def test_the_verb_lists_the_lessons_and_marks_those_that_are_done(workdir):
    document = succeeds("lesson", "--json").document
    assert [row["number"] for row in document["lessons"]] == [x.number for x in LESSONS]
    names = {"number", "title", "minutes", "needs", "exercise", "functions", "done"}
    assert all(row.keys() == names and row["done"] is False for row in document["lessons"])
    out = succeeds("lesson").out
    assert all(f"{x.number:>2}  {x.title}" in out for x in LESSONS)
    assert not re.search(r"min  done", out)


@every_lesson
def test_the_verb_shows_a_lesson(lesson):
    shown = succeeds("lesson", lesson.number).out
    assert shown.startswith(book.shown(lesson))
    assert f"lesson {lesson.number} --start mine.py" in shown
    document = succeeds("lesson", lesson.number, "--derive", "--json").document
    assert document["text"] == book.shown(lesson, derive=True)
    assert document["title"] == lesson.title


@pytest.mark.parametrize("lesson", LESSONS[-1:], ids=lambda lesson: lesson.file)
def test_an_exercise_begins_red_and_what_was_written_stays(workdir, lesson):
    names = [problem.function for problem in book.problems(lesson.exercise)]
    assert succeeds("lesson", lesson.number, "--start", "--json").document["added"] == names
    text = (workdir.path / "mine.py").read_text()
    defined = [f.name for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)]
    assert defined == names and text.count("raise NotImplementedError") == len(names)
    result = pysft("lesson", lesson.number, "--check", "mine.py", "--json")
    assert result.code == 1 and result.document["kind"] == "not-written"
    assert result.document["passed"] is False and result.document["mistake"] is None
    assert result.document["function"] == names[0]
    again = succeeds("lesson", lesson.number, "--start", "mine.py", "--json").document
    assert again["added"] == [] and (workdir.path / "mine.py").read_text() == text


def test_the_functions_that_a_file_lacks_are_appended(workdir):
    mine = "import numpy as np\n\n\ndef layernorm_forward(*a):\n    pass  # mine, without an end"
    workdir.write("mine.py", mine)
    document = succeeds("lesson", 6, "--start", "mine.py", "--json").document
    assert document == {"file": "mine.py", "added": ["layernorm_backward"]}
    text = (workdir.path / "mine.py").read_text()
    assert text.startswith(mine + "\n") and text.count("import numpy") == 1
    workdir.write("bare.py", "x = 1\n")
    succeeds("lesson", 6, "--start", "bare.py")
    assert (workdir.path / "bare.py").read_text().startswith("x = 1\n\nimport numpy as np\n")
    workdir.write("broken.py", "def f(:\n")
    assert "broken.py, line 1" in refusal(65, "lesson", 6, "--start", "broken.py")
    assert workdir.is_unchanged() or (workdir.path / "broken.py").read_text() == "def f(:\n"


WRONG = """import numpy as np

def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    mean[:] = x.mean(axis=1)
    rstd[:] = 1 / np.sqrt(x.var(axis=1) + eps)
    y[:] = (x - mean[:, None]) * rstd[:, None] * w + b

def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    norm = (x - mean[:, None]) * rstd[:, None]
    g = dy * w
    dx += rstd[:, None] * (g - norm * (g * norm).mean(axis=1, keepdims=True))
    dw += (dy * norm).sum(axis=0)
    db += dy.sum(axis=0)
"""


def test_each_check_of_the_same_mistake_shows_another_hint_and_the_right_file_is_done(workdir):
    path = workdir.write("mine.py", WRONG)
    mistake = "layernorm_backward/mean-term-left-out"
    message = faults.of_catalogue(*mistake.split("/"))
    for hint in (*message.hints, message.hints[-1]):
        result = pysft("lesson", 6, "--check", "mine.py", "--json")
        assert result.code == 1 and result.document["mistake"] == mistake
        assert result.document["hint"] == f"{message.finding} {hint}"
        assert (result.document["passed"], result.document["forward"]) == (False, True)
        assert 0.01 < result.document["worst_relative_error"] < 2
    shown = pysft("lesson", 6, "--check", "mine.py").out
    assert message.finding in shown and message.hints[-1] in shown and "WRONG" in shown
    path.write_text(WRONG.replace("(g - norm", "(g - g.mean(axis=1, keepdims=True) - norm"))
    document = succeeds("lesson", 6, "--check", "mine.py", "--json").document
    assert document["passed"] and document["hint"] is None and document["mistake"] is None
    row = next(x for x in succeeds("lesson", "--json").document["lessons"] if x["number"] == 6)
    assert row["done"] is True and "done" in succeeds("lesson").out
    assert path.read_text().startswith("import numpy")


def test_all_lessons_can_be_written_as_one_page(workdir):
    document = succeeds("lesson", "--html", "page.html", "--json").document
    text = Path(document["page"]).read_text()
    assert all(lesson.title in text for lesson in LESSONS)
    assert "exists already" in pysft("lesson", "--html", "page.html").err


def test_the_walk_is_printed_for_its_lesson_alone():
    text = walk(reference)
    assert succeeds("lesson", 9, "--walk").out == text
    document = succeeds("lesson", 9, "--walk", "--json").document
    assert document["text"] == text and document["number"] == 9
    assert "lesson 9" in refusal(2, "lesson", 6, "--walk")
    assert "lesson 9 --walk" in next(x for x in LESSONS if x.number == 9).text


def test_a_check_works_where_nothing_can_be_written(workdir, monkeypatch):
    from command_line import disk_full, raising

    from pysft import disk

    workdir.write("mine.py", WRONG)
    monkeypatch.setattr(disk, "replace", raising(disk_full()))
    result = pysft("lesson", 6, "--check", "mine.py", "--json")
    assert result.code == 1 and result.document["mistake"] and "mine.py.progress.json" in result.err


@pytest.mark.parametrize(
    "code, arguments, words",
    [
        (2, ["99"], "no lesson 99"),
        (2, ["--check", "mine.py"], "which lesson"),
        (2, ["6", "--check", "mine.py", "--time-limit", "0"], "--time-limit"),
        (66, ["6", "--check", "none.py"], "none.py"),
        (65, ["6", "--check", "."], "folder"),
        (2, ["six"], "whole number"),
        (2, ["--walk"], "which lesson"),
        (2, ["teachers", "--check", "mine.py"], "page for teachers has no exercise"),
        (65, ["6", "--start", "mine.txt"], "mine.txt"),
        (2, ["3", "--html", "page.html"], "leave 3 out"),
        (2, ["--html", "page.txt"], "ends with .html"),
        (2, ["--run", "runs/tiny"], "--run is for --html"),
        (66, ["--html", "page.html", "--run", "none"], "none"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_one_sentence(workdir, code, arguments, words):
    assert words in refusal(code, "lesson", *arguments)
