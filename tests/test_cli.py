"""The command line as a whole: its help, `info`, `gradcheck`, and errors that no verb expects."""

import numpy as np
import pytest
from command_line import pysft, raising, refusal, succeeds

from pysft import __version__
from pysft.cli import info
from pysft.nn import gradcheck

VERBS = (
    "train pretrain chat generate eval mask audit gradcheck info select rate diagnose merge report"
    " lab guide".split()
)


# ------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_an_example_and_the_exit_codes(verb):
    out = succeeds(verb, "--help").out
    assert f"python -m pysft {verb}" in out
    assert "exit codes" in out


def test_the_help_names_every_verb():
    out = succeeds("--help").out
    assert all(verb in out for verb in VERBS)
    assert "examples" in out


def test_the_version_is_printed():
    assert __version__ in succeeds("--version").out


# ------------------------------------------------------------------------------------------- info


def test_info_shows_the_build_and_the_versions():
    document = succeeds("info", "--json").document
    assert document.keys() >= set("version isa isas threads openmp compiler numpy".split())
    assert document["version"] == __version__
    assert document["isa"] in document["isas"]
    assert document["numpy"] == np.__version__
    assert document["compiler"] in succeeds("info").out


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", "1025"])
def test_a_bad_number_of_threads_in_the_environment_is_a_usage_error(monkeypatch, value):
    monkeypatch.setenv("PYSFT_NUM_THREADS", value)
    assert f"PYSFT_NUM_THREADS={value}" in refusal(2, "info")


# -------------------------------------------------------------------------------------- gradcheck


@pytest.fixture
def three_cases(monkeypatch):
    """gradcheck checks three small cases instead of all."""
    names = ("matmul, one row", "layernorm, one row", "gelu, one element")
    cases, run = {name: gradcheck.CASES[name] for name in names}, gradcheck.run
    monkeypatch.setattr(gradcheck, "run", lambda ops, seed: run(ops, seed, cases))


@pytest.mark.parametrize("ops", ["kernels", "reference"])
def test_gradcheck_passes_correct_derivatives(three_cases, ops):
    document = succeeds("gradcheck", "--ops", ops, "--json").document
    assert document.keys() >= {"worst_relative_error", "cases", "failed", "rows"}
    assert (document["cases"], document["failed"]) == (3, 0)
    assert document["worst_relative_error"] <= 1e-7
    assert all(row.keys() >= {"name", "tensor", "worst", "elements"} for row in document["rows"])
    assert "all passed" in succeeds("gradcheck", "--ops", ops).out


# A layernorm whose dx lacks the two means; a layernorm and a gelu that write nothing.
WRONG_LAYERNORM = """def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    h = (x - mean[:, None]) * rstd[:, None]
    dx += dy * w * rstd[:, None]
    dw += (dy * h).sum(0)
    db += dy.sum(0)
"""
NO_LAYERNORM = "def layernorm_backward(*_):\n    pass\n"
NO_GELU = "def gelu_backward(dx, dy, x):\n    pass\n"


@pytest.mark.parametrize(
    "function, code, worst",
    [
        ("layernorm", WRONG_LAYERNORM, pytest.approx(1, abs=0.5)),
        ("layernorm", NO_LAYERNORM, pytest.approx(1, abs=0.5)),
        ("gelu", NO_GELU, None),  # dx stays what it was, nan
    ],
)
def test_gradcheck_fails_a_wrong_derivative_of_a_readers_file(
    three_cases, workdir, function, code, worst
):
    workdir.write("mine.py", code)
    result = pysft("gradcheck", "--ops", "mine.py", "--json")
    assert result.code == 1
    assert result.document["failed"] >= 1
    assert result.document["worst_relative_error"] == worst
    failed = [row["name"] for row in result.document["rows"] if not row["passed"]]
    assert {name.split(",")[0] for name in failed} == {function}
    shown = pysft("gradcheck", "--ops", "mine.py")
    assert shown.code == 1
    assert "FAILED" in shown.out
    assert f"{function}_backward" in shown.out


@pytest.mark.parametrize(
    "content",
    [
        "x = 1\n",
        "def (:\n",
        "1 / 0\n",
        b"\xff\0",
        "def gelu_backward(dx, dy):\n    dx[:] = dy\n",
        "def gelu_backward(dx, dy, x):\n    raise NotImplementedError\n",
        "def gelu_backward(dx, dy, x):\n    dx[:] = [1.0] * 7\n",
    ],
    ids="no-function syntax exception no-text arguments raises shape".split(),
)
def test_a_readers_file_that_cannot_be_used_is_named(three_cases, workdir, content):
    workdir.write("mine.py", content)
    assert "mine.py" in refusal(65, "gradcheck", "--ops", "mine.py")


def test_a_readers_file_that_is_missing_is_named(workdir):
    assert "none.py" in refusal(66, "gradcheck", "--ops", "none.py")


# ----------------------------------------------------------------------- errors that nobody expects


def test_out_of_memory_is_one_sentence(monkeypatch):
    monkeypatch.setattr(info, "run", raising(MemoryError("Unable to allocate 9 GiB")))
    assert "not enough memory (Unable to allocate 9 GiB)" in refusal(1, "info")


def test_a_missing_package_is_named(monkeypatch):
    error = ModuleNotFoundError("No module named 'numpy'", name="numpy")
    monkeypatch.setattr(info, "run", raising(error))
    assert "has no numpy" in refusal(1, "info")


def test_a_missing_module_of_our_own_is_a_bug_and_gets_its_traceback(monkeypatch):
    error = ModuleNotFoundError("No module named 'pysft.none'", name="pysft.none")
    monkeypatch.setattr(info, "run", raising(error))
    with pytest.raises(ModuleNotFoundError):
        pysft("info")


def test_an_interrupt_is_one_sentence(monkeypatch):
    monkeypatch.setattr(info, "run", raising(KeyboardInterrupt))
    result = pysft("info")
    assert (result.code, result.out) == (130, "")
    [line] = result.err.strip().splitlines()  # the terminal shows ^C on a line of its own
    assert "interrupted" in line
