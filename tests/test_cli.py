"""The command line as a whole: its help, `info`, `gradcheck`, and errors that no verb expects."""

import argparse
import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import pysft, raising, refusal, succeeds

from pysft import __version__
from pysft.cli import arguments, guide, info, reading
from pysft.cli import gradcheck as cli_gradcheck
from pysft.cli.main import parser
from pysft.errors import PysftError
from pysft.inference.sampling import CHAT, Sampling
from pysft.jobs import reader as reader_job
from pysft.jobs import train as train_job
from pysft.nn import computing, gate, gradcheck
from pysft.run import stage
from pysft.training import objective_cases

VERBS = (
    "train pretrain chat generate eval mask audit gradcheck info select rate diagnose merge report"
    " lab lesson guide".split()
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
    monkeypatch.setattr(gradcheck, "run", lambda ops, seed, _: run(ops, seed, cases))


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


WRONG_FORWARD = """import numpy as np
def layernorm_forward(y, mean, rstd, x, w, b, eps=0.1):
    mean[:] = x.mean(1)
    rstd[:] = 1 / np.sqrt(x.var(1) + eps)
    y[:] = (x - mean[:, None]) * rstd[:, None] * w + b
def gelu_backward(dx, dy, x):
    raise NotImplementedError
"""


def test_gradcheck_fails_a_wrong_forward_and_names_what_is_not_written(three_cases, workdir):
    workdir.write("mine.py", WRONG_FORWARD)
    result = pysft("gradcheck", "--ops", "mine.py", "--json")
    assert result.code == 1 and result.document["not_written"] == ["gelu_backward"]
    failed = [row for row in result.document["rows"] if not row["passed"]]
    assert {row["tensor"] for row in failed} == {"y (forward)", "rstd (forward)"}
    assert all(row["worst"] > 1e-3 for row in failed)
    shown = pysft("gradcheck", "--ops", "mine.py")
    assert "not written yet: gelu_backward" in shown.out
    assert "look first at layernorm, one row: y (forward)" in shown.out


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


def checked(name, tensor, worst, elements=6):
    return gradcheck.Row(name, tensor, worst, elements, worst <= gradcheck.TOLERANCE)


def test_the_printed_check_has_a_line_for_each_tensor_and_a_sum(monkeypatch):
    rows = [checked("a, b", "x", 3e-9), checked("a, b", "w", 2e-8, 1234), checked("c", "x", 1e-10)]
    monkeypatch.setattr(gradcheck, "run", lambda ops, seed, cases: rows)
    moments = iter([10.0, 12.26])
    monkeypatch.setattr(cli_gradcheck, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    shown = succeeds("gradcheck", "--ops", "reference").out.splitlines()
    assert shown == [
        "reference: float64, five-point differences, every element",
        "",
        "case                          tensor           elements  worst relative error",
        "a, b                          x                       6               3.0e-09",
        "a, b                          w                    1234               2.0e-08",
        "c                             x                       6               1.0e-10",
        "",
        "3 tensors of 2 cases, worst 2.0e-08, allowed 1e-07, 2.3 s: all passed",
    ]


def test_a_failed_check_is_marked_counted_and_the_first_one_is_named(monkeypatch):
    rows = [checked("a", "x", 0.0), checked("b", "y", 0.5), checked("c", "z", np.inf)]
    monkeypatch.setattr(gradcheck, "run", lambda ops, seed, cases: rows)
    result = pysft("gradcheck")
    assert result.code == 1
    shown = result.out.splitlines()
    assert [line.endswith("   FAILED") for line in shown[3:6]] == [False, True, True]
    assert shown[7].endswith(" s: 2 FAILED")
    assert shown[8] == "look first at b: y, 5.0e-01"
    document = pysft("gradcheck", "--json").document
    assert document == {
        "worst_relative_error": None,
        "cases": 3,
        "failed": 2,
        "rows": [
            {"name": n, "tensor": t, "elements": 6, "worst": w, "passed": p}
            for n, t, w, p in (("a", "x", 0.0, True), ("b", "y", 0.5, False), ("c", "z", None, 0))
        ],
    }


def test_a_check_has_the_seed_that_was_given_and_the_cases_of_models_and_objectives(monkeypatch):
    seen = []
    rows = [checked("a", "x", 0.0)]
    monkeypatch.setattr(gradcheck, "run", lambda ops, *more: seen.append(more) or rows)
    for flags in ((), ("--seed", 7)):
        succeeds("gradcheck", *flags)
    every = gradcheck.CASES | objective_cases.CASES
    assert seen == [(0, every), (7, every)]


# -------------------------------------------------------------------- values of flags, and colours


@pytest.mark.parametrize(
    "read, taken, refused",
    [
        (arguments.threads, {"1": 1, "1024": 1024}, ["0", "1025", "-1", "1.0", "", "x"]),
        (arguments.positive, {"1": 1, "99999": 99999}, ["0", "-1", "1.0", "", "x"]),
        (arguments.whole, {"0": 0, "7": 7}, ["-1", "0.0", "", "x"]),
        (
            arguments.seconds,
            {"0": 0.0, "0.5": 0.5, "999999": 999999.0},
            ["-0.5", "1000000", "nan", "x"],
        ),
        (arguments.share, {"0.001": 0.001, "1": 1.0, "10": 10.0}, ["0", "-1", "10.01", "nan", "x"]),
        (reading.names, {"a": ["a"], " a, b ": ["a", "b"]}, ["", ",", "a,", "a, ,b"]),
    ],
)
def test_a_value_is_taken_up_to_its_limits_and_not_beyond(read, taken, refused):
    for text, value in taken.items():
        found = read(text)
        assert (found, type(found)) == (value, type(value)), text
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError, match=re.escape(repr(text))):
            read(text)


@pytest.mark.parametrize(
    "is_terminal, environment, coloured",
    [
        (True, {}, True),
        (True, {"TERM": "xterm"}, True),
        (True, {"NO_COLOR": ""}, True),  # it counts as not set
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"TERM": "dumb", "NO_COLOR": "1"}, False),
        (False, {}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colours_are_for_terminals_that_can_show_them(
    monkeypatch, is_terminal, environment, coloured
):
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: is_terminal))
    assert bool(arguments.use_colour()) is coloured


@pytest.mark.parametrize(
    "encoding, printed",
    [("utf-8", '{"a": "\u00e9"}'), ("ascii", '{"a": "\\u00e9"}'), ("latin-1", '{"a": "\u00e9"}')],
)
def test_a_document_escapes_what_the_output_cannot_encode(monkeypatch, encoding, printed):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr("sys.stdout", stream)
    arguments.print_json({"a": "\u00e9"})
    stream.flush()
    assert stream.buffer.getvalue() == (printed + "\n").encode(encoding)
    for document in ({"a": float("nan")}, {"\u20ac": float("inf")}):
        with pytest.raises(ValueError):
            arguments.print_json(document)


COMPUTING = ("--ops", "reference", "--threads", 3)


@pytest.mark.parametrize(
    "command, precision",
    [
        (("chat", "none"), True),
        (("generate", "none"), True),
        (("eval", "none"), True),
        (("mask", "--run", "none"), True),
        (("mask", "--prove"), False),
        (("gradcheck",), False),
        (("lab", "masking"), False),
        (("train",), False),
        (("pretrain",), False),
    ],
)
def test_a_verb_computes_with_the_functions_threads_and_precision_that_were_asked_for(
    workdir, monkeypatch, command, precision
):
    def computing_ops(*arguments):
        raise PysftError(f"computes with {arguments}")

    for module in (computing, reader_job, train_job):
        monkeypatch.setattr(module, "computing_ops", computing_ops)
    asked = ("--precision", "bf16") if precision else ()
    said = "('reference', 3, 'bf16')" if precision else "('reference', 3)"
    assert refusal(1, *command, *COMPUTING, *asked).endswith(f"computes with {said}")
    without = "('kernels', None, None)" if precision else "('kernels', None)"
    assert refusal(1, *command).endswith(f"computes with {without}")


def test_tokens_are_drawn_as_the_flags_say(monkeypatch):
    loaded = []
    monkeypatch.setattr(stage, "load_stage", lambda folder, ops: loaded.append((folder, ops)))
    flags = "--temperature 0.5 --top-k 3 --top-p 0.75 --seed 7 --repetition 1.5".split()
    args = parser().parse_args(["chat", "run", "--ops", "reference", *flags])
    assert arguments.talker(args) == (None, Sampling(0.5, 3, 0.75, 7, 1.5))
    [(folder, ops)] = loaded
    assert folder == "run" and computing.precision_of(ops) == "float32"
    for verb, usual in (("chat", CHAT), ("generate", Sampling(0.8, 0, 1.0, 0, 1.0))):
        assert arguments.talker(parser().parse_args([verb, "run"]))[1] == usual


# ------------------------------------------------------------------------- lists, and the build


def test_the_build_has_a_line_for_each_entry_in_this_order(monkeypatch):
    monkeypatch.setattr(gate, "ISAS", ["a", "b"])
    document = succeeds("info", "--json").document
    lines = succeeds("info").out.splitlines()
    order = "version isa isas precisions threads openmp compiler numpy python".split()
    assert [line[:11].strip() for line in lines] == order and lines[2] == "isas        a, b"
    for name, line in zip(order, lines):
        value = document[name]
        assert line[12:] == (", ".join(value) if isinstance(value, list) else str(value))
    assert document["python"] == ".".join(map(str, sys.version_info[:3]))
    assert document["threads"] == gate.default_threads()
    assert document["openmp"] == gate.OPENMP


def test_the_guide_lists_its_pages_shows_one_and_names_all_for_a_wrong_name():
    pages = guide.read_pages()
    lines = succeeds("guide").out.splitlines()
    titles = {name: text.splitlines()[0].removeprefix("# ") for name, text in pages.items()}
    assert lines[:-2] == [f"{name:<14} {title}" for name, title in titles.items()]
    assert lines[-2:] == ["", "Show one: python -m pysft guide NAME"]
    listed = [{"name": name, "title": title} for name, title in titles.items()]
    assert succeeds("guide", "--json").document == {"pages": listed}
    for name, text in pages.items():
        assert succeeds("guide", name).out == text
        document = succeeds("guide", name, "--json").document
        assert document == {"name": name, "title": titles[name], "text": text}
    assert refusal(2, "guide", "none").endswith(
        f"no page is called 'none'. There are {', '.join(sorted(pages))}"
    )


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
