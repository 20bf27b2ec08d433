"""What the checker of the lessons says about files that are wrong in ways that any file can be.

The mistakes of the catalogue are in test_lessons.py."""

import json
import re
from contextlib import nullcontext

import numpy as np
import pytest
from lesson_worker import here

from pysft.errors import DataError, MissingInput
from pysft.lessons import check, progress, running
from pysft.lessons.cases import cases_of
from pysft.lessons.exercises import cross_entropy, gelu, layernorm, matmul
from pysft.lessons.problem import CHANGED, WRITTEN, Problem

FORWARD = """def layernorm_forward(y, mean, rstd, x, w, b, eps=1e-5):
    mean[:] = x.mean(axis=1)
    rstd[:] = 1 / np.sqrt(x.var(axis=1) + eps)
    y[:] = (x - mean[:, None]) * rstd[:, None] * w + b
"""
BACKWARD = """def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    norm = (x - mean[:, None]) * rstd[:, None]
    g = dy * w
    mean_g_norm = (g * norm).mean(axis=1, keepdims=True)
    dx += rstd[:, None] * (g - g.mean(axis=1, keepdims=True) - norm * mean_g_norm)
    dw += (dy * norm).sum(axis=0)
    db += dy.sum(axis=0)
"""
RIGHT = "import numpy as np\n\n\n" + FORWARD + "\n\n" + BACKWARD
LIMIT = 10.0


@pytest.fixture
def file(tmp_path):
    """A function that writes a file, by default the right one, with some of its text replaced."""

    def write(*changes, text=RIGHT):
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "mine.py"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def found(path, time_limit=LIMIT):
    finding = check.check("layernorm", path, time_limit)
    for text in (finding.finding, *finding.hints):
        assert not re.search(r"\b(just|obviously|simply|your?)\b", text, re.I), text
    return finding


def backward(path, time_limit=LIMIT):
    """The finding on layernorm_backward alone, which takes half the time."""
    return check.check_function(layernorm.BACKWARD, path.read_bytes(), path, time_limit)


# ------------------------------------------------------------------------------------ right files


def test_a_right_file_passes(file):
    finding = found(file())
    assert finding.passed and finding.forward is True and finding.kind == "right"
    assert finding.mistake is None and finding.hint is None
    assert finding.worst_relative_error <= 1e-7
    assert [(r.function.partition("_")[2], r.result) for r in finding.rows] == [
        *[("forward", name) for name in ("y", "mean", "rstd")],
        *[("backward", name) for name in ("dx", "dw", "db")],
    ]
    assert all(row.passed and row.worst <= 1e-7 for row in finding.rows)


OTHER_STYLES = {
    "jacobian": """def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    norm = (x - mean[:, None]) * rstd[:, None]
    C = x.shape[1]
    for n in range(len(x)):
        jacobian = rstd[n] * (np.eye(C) - 1 / C - np.outer(norm[n], norm[n]) / C)
        dx[n] += jacobian @ (dy[n] * w)
    np.add(dw, np.einsum("nc,nc->c", dy, norm), out=dw)
    db[...] = db + np.ones(len(dy)) @ dy
""",
    "other names, annotations, and a helper": """from numpy import ndarray
def row(g, n, r):
    return r * (g - g.mean() - n * (g * n).mean())
def layernorm_backward(dinp: ndarray, dweight, dbias, dout, inp, weight, mu, rs) -> None:
    for d, o, i, m, r in zip(dinp, dout, inp, mu, rs):
        n = (i - m) * r
        d += row(o * weight, n, r)
        for c in range(len(n)):
            dweight[c] += o[c] * n[c]
            dbias[c] += o[c]
""",
    "one loop, an extra argument with a default": """
def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd, eps=1e-5, *, loops=True):
    N, C = x.shape
    for n in range(N):
        s = t = 0.0
        for c in range(C):
            h = (x[n, c] - mean[n]) * rstd[n]
            dw[c] += dy[n, c] * h
            db[c] += dy[n, c]
            s += dy[n, c] * w[c]
            t += dy[n, c] * w[c] * h
        for c in range(C):
            h = (x[n, c] - mean[n]) * rstd[n]
            dx[n, c] += rstd[n] * (C * dy[n, c] * w[c] - s - h * t) / C
    return dx, dw, db
""",
    "the module's and the class's names": """
class Ops:
    def __call__(self, dx, dw, db, dy, x, w, mean, rstd):
        centred = x - mean[:, None]
        g = dy * w
        through_rstd = -(rstd**3)[:, None] * centred * (g * centred).sum(1, keepdims=True)
        direct = g * rstd[:, None] + through_rstd / x.shape[1]
        dx += direct - (g * rstd[:, None]).mean(1, keepdims=True)
        dw += (dy * centred * rstd[:, None]).sum(0)
        db += dy.sum(0)
layernorm_backward = Ops()
""",
}


@pytest.mark.usefixtures("exercises_here")
@pytest.mark.parametrize("style", OTHER_STYLES)
def test_a_right_answer_in_another_style_passes(file, style):
    finding = backward(file(text="import numpy as np\n" + OTHER_STYLES[style]))
    assert finding.passed, (finding.finding, finding.hints)


def test_what_a_file_prints_is_kept_up_to_a_limit(file):
    finding = backward(file(("    g = dy * w\n", "    g = dy * w\n    print('x' * 3000)\n")))
    assert finding.passed and finding.printed.startswith("xxx")
    assert 3000 < len(finding.printed) <= 4000


# ----------------------------------------------------------------- files that cannot be compared

BROKEN = {
    # name: (kind, the line, what is replaced, words of the finding and the hints)
    "syntax": ("syntax", 12, ("g = dy * w", "g = dy * * w"), ["mine.py, line 12"]),
    "indentation": ("syntax", 12, ("    g = dy", "   g = dy"), ["line 12"]),
    "null byte": ("syntax", None, ("g = dy", "g = \0dy"), ["mine.py", "null"]),
    "import": ("file-exception", 1, ("numpy as", "numpyy as"), ["line 1", "numpyy"]),
    "in the file": ("file-exception", 4, ("\n\ndef layernorm_f", "\n\n1 / 0\ndef layernorm_f"),
                    ["ZeroDivisionError", "line 4"]),
    "exit": ("file-exception", 1, ("import numpy as np", "raise SystemExit(0)"), ["SystemExit"]),
    "missing": ("missing", None, ("layernorm_backward", "layernorm_backwards"),
                ["no function layernorm_backward", "layernorm_backwards"]),
    "no function": ("no-function", None, (BACKWARD, "layernorm_backward = 3\n"), ["int"]),
    "an argument is missing": ("signature", None, ("w, mean, rstd)", "w, mean)"), ["rstd"]),
    "one too many": ("signature", None, ("w, mean, rstd)", "w, mean, rstd, eps)"), ["eps"]),
    "another order": ("signature", None, ("dw, db, dy", "db, dw, dy"), ["db is argument 2"]),
    "not written": ("not-written", 12, ("g = dy * w", "raise NotImplementedError"), ["not wri"]),
    "only dots": ("not-written", None, (BACKWARD, BACKWARD.split("\n")[0] + "\n    'x'\n    ..."),
                  ["not written"]),
    "exception": ("exception", 12, ("dy * w", "dy @ w[:, None, None] @ dy"),
                  ["ValueError", "line 12", "dx ("]),
    "exception below": ("exception", 12, ("g = dy * w", "g = (lambda x: x[99])(dy)"), ["IndexErr"]),
    "keyboard": ("exception", 12, ("g = dy * w", "raise KeyboardInterrupt"), ["KeyboardInterrupt"]),
    "input": ("exception", 12, ("g = dy * w", "g = dy * float(input())"), ["EOFError"]),
    "killed": ("ended", 12, ("g = dy * w", "import os; os.abort()"), ["ended", "-6"]),
    "exits": ("ended", None, ("g = dy * w", "import os; os._exit(0)"), ["ended"]),
}  # fmt: skip


# Those whose process makes a difference, and one of the others.
IN_A_PROCESS = ("killed", "exits", "exit", "input", "keyboard", "exception")


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_used_is_named_with_its_line(file, name):
    kind, line, change, words = BROKEN[name]
    with nullcontext() if name in IN_A_PROCESS else here():
        finding = backward(file(change))
    assert (finding.kind, finding.line) == (kind, line), finding
    text = " ".join([finding.finding, *finding.hints])
    assert all(word in text for word in words), text
    assert not finding.passed and finding.mistake is None and finding.worst_relative_error is None
    assert "Traceback" not in text and "\n" not in text


def test_an_endless_loop_ends_after_the_time_limit_and_its_line_is_named(file):
    finding = backward(file(("g = dy * w", "g = dy * w\n    while True:\n        print(1)")), 0.5)
    # The default is ten seconds; the loop is the same for a shorter time.
    assert running.TIME_LIMIT == 10
    assert finding.kind == "endless" and finding.line in (13, 14)
    assert finding.printed.startswith("1\n1\n") and len(finding.printed) <= 4000


def test_a_file_that_is_missing_or_a_folder_is_an_error(tmp_path):
    with pytest.raises(MissingInput, match=r"none\.py"):
        check.check("layernorm", tmp_path / "none.py")
    with pytest.raises(DataError, match="folder"):
        check.check("layernorm", tmp_path)


# ------------------------------------------------------------------------ results of other kinds

DX = "dx += rstd[:, None] * (g - g.mean(axis=1, keepdims=True) - norm * mean_g_norm)"
WRONG = {
    # name: (kind, the line, changes, words)
    "bound": ("nothing-written", 14, [("    dx +=", "    dx = dx +")],
              ["dx is the same", "line 14", "dx += ..."]),
    "all returned": ("nothing-written", 14, [("    dx +=", "    dx = "), ("    dw +=", "    dw ="),
                     ("    db +=", "    db =")], ["dx, dw and db are the same after", "line 14"]),
    "returned": ("nothing-written", None, [("    " + DX, "    return dy, w, w")], ["returns"]),
    "forgotten": ("nothing-written", None, [("    db += dy.sum(axis=0)\n", "")], ["db", "No line"]),
    "a part": ("partly-written", None, [("dx += rstd[:, None] * (g - g.mean(axis=1, keepdims=True)"
               " - norm * mean_g_norm)", "dx[1:] += (rstd[:, None] * (g - g.mean(axis=1,"
               " keepdims=True) - norm * mean_g_norm))[1:]")], ["row 0"]),
    "written for added": ("written-instead", None, [("dx +=", "dx[:] =")],
                          ["dx is overwritten", "dx += ..."]),
    "all written": ("written-instead", None, [("dx +=", "dx[:] ="), ("dw +=", "dw[:] ="),
                    ("db +=", "db[:] =")], ["dx, dw and db are overwritten"]),
    "an input": ("input-changed", 12, [("g = dy * w", "x -= mean[:, None]; g = dy * w"),
                 ("(x - mean[:, None]) *", "(x - mean[:, None]) * 1 *")], ["input x", "line 12"]),
    "nan": ("not-finite", None, [("rstd[:, None] * (g", "np.log(-1.0) * (g")], ["nan"]),
    "infinite": ("not-finite", None, [("dy.sum(axis=0)", "dy.sum(axis=0) / 0.0")], ["db"]),
    "negated": ("negated", None, [("dx +=", "dx -=")], ["dx", "sign"]),
    "times C": ("multiplied", None, [("dx += rstd", "dx += x.shape[1] * rstd")],
                ["dx is C times the right one. There is a sum where a mean belongs.", "`mean`"]),
    "by N": ("multiplied", None, [("(dy * norm).sum", "(dy * norm).mean")],
             ["dw is 1/N times the right one. There is a mean where a sum belongs.", "`sum`"]),
    "by -N": ("multiplied", None, [("dw += (dy * norm).sum", "dw -= (dy * norm).mean")],
              ["dw is -1/N times", "a mean where a sum belongs, and the sign is wrong."]),
    "by 2 N": ("multiplied", None, [("dw += (dy * norm).sum", "dw += 0.5 * (dy * norm).mean")],
               ["dw is 1/(2 N) times the right one.", "a factor too much"]),
    "overwritten too": ("multiplied", None, [("dx +=", "dx[:] ="), ("norm).sum", "norm).mean")],
                        ["Two mistakes.", "dw is 1/N times", "dx is overwritten"]),
    "twice": ("multiplied", None, [("db += dy", "db += 2 * dy")], ["db", "2 times"]),
    "a row of its own": ("other", None, [("dx += rstd[:, None]", "dx += rstd[:, None]**2")],
                         ["Every element of dx", "number of its own, which is rstd"]),
    "off by a row's number": ("other", None, [("norm * mean_g_norm)", "norm * mean_g_norm + 0.1)")],
                              ["In each row", "the same in every column"]),
    "proportional": ("other", None, [("- norm * mean_g_norm)", "- norm * mean_g_norm) + 3 * dy")],
                     ["dx is off by 3 times dy"]),
    "twice a mean": ("other", None, [("g - g.mean(", "g - 2 * g.mean(")], ["off by -1/C times"
                     " the sum of dy w rstd over the columns"]),
    "other factors": ("other", None, [("(dy * norm).sum", "(dy * x * x).sum")],
                      ["dw is the sum of dy x x over the rows"]),
    "a column": ("other", None, [("db +=", "dx[:, 2] += 1.0; db +=")], ["column 2"]),
    "an element": ("other", None, [("db +=", "db[3] += 1.0; db +=")], ["element 3"]),
}  # fmt: skip


@pytest.mark.usefixtures("exercises_here")
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_result_is_described(file, name):
    kind, line, changes, words = WRONG[name]
    finding = backward(file(*changes))
    text = " ".join([finding.finding, *finding.hints])
    assert (finding.kind, finding.line) == (kind, line), finding
    assert all(word in text for word in words), text
    assert not finding.passed and finding.mistake is None, finding
    assert len(finding.rows) == 3


@pytest.mark.usefixtures("exercises_here")
def test_a_mistake_of_the_catalogue_is_named_although_the_result_was_written_too(file):
    finding = backward(file((" - norm * mean_g_norm", ""), ("dx +=", "dx[:] =")))
    assert finding.mistake == "layernorm_backward/variance-term-left-out"
    assert "dx is overwritten" in finding.finding and finding.kind == "catalogue"


@pytest.mark.usefixtures("exercises_here")
def test_results_with_a_mistake_each_are_named_together_and_an_unknown_one_is_not(file):
    mistakes = [(" - norm * mean_g_norm", ""), ("(dy * norm).sum", "(dy * x).sum"),
                ("db += dy.", "db += (dy * w).")]  # fmt: skip
    names = "variance-term-left-out", "x-for-norm-in-dw", "weight-in-db"
    finding = backward(file(*mistakes))
    assert finding.mistake == " + ".join(f"layernorm_backward/{name}" for name in names)
    finding = backward(file(("dx +=", "dx += 0.37 * dy +"), *mistakes[1:]))
    assert finding.mistake == " + ".join(f"layernorm_backward/{name}" for name in names[1:])
    finding = backward(file(("dx +=", "dx += 0.37 * dy +")))
    assert finding.mistake is None


@pytest.mark.usefixtures("exercises_here")
def test_a_mistake_is_not_named_for_a_result_that_may_not_have_it(tmp_path):
    """db is a mean, and dw is neither right nor the mean that `mean-over-rows` makes of it."""
    code = """def matmul_backward(dx, dw, db, dy, x, w):
    dx[:] = dy @ w
    dw += (dy**2).T @ x
    db += dy.mean(axis=0)
"""
    finding = check.check_function(matmul.BACKWARD, code.encode(), tmp_path / "mine.py")
    assert finding.mistake == "matmul_backward/mean-in-db"


GRADED = """import numpy as np
def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    graded = labels != -100
    dlogits[:] = np.exp(logits - lse[:, None])
    dlogits[graded, labels[graded]] -= 1
    dlogits *= (dnll * graded * FACTOR)[:, None]
"""


@pytest.mark.usefixtures("exercises_here")
@pytest.mark.parametrize(
    "factor, words",
    [
        ("graded.sum()", "G times the right one. There is a sum where a mean belongs. G is the nu"),
        (
            "-1.0 / len(labels)",
            "-1/N times the right one. There is a mean where a sum belongs, and",
        ),
        ("np.sqrt(logits.shape[1]) / len(labels)", "is sqrt(V)/N times the right one."),
    ],
)
def test_a_factor_is_told_by_what_it_counts(tmp_path, factor, words):
    code = GRADED.replace("FACTOR", f"({factor})").encode()
    finding = check.check_function(cross_entropy.BACKWARD, code, tmp_path / "mine.py")
    assert finding.kind == "multiplied" and words in finding.finding, finding


SHARED = """import numpy as np
def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    softmax = np.exp(logits - lse[:, None])
    for n in np.flatnonzero(labels != -100):
        dlogits[n] = dnll[n] * softmax[n]
        dlogits[n, labels[n]] = dnll[n] * (PROBABILITY - 1)
    dlogits[labels == -100] = 0
"""


def test_an_output_that_may_be_an_input_is_tried_as_that_array(tmp_path):
    path, shared = tmp_path / "mine.py", cross_entropy.BACKWARD.shared
    late = "np.exp(logits[n, labels[n]] - lse[n])"
    for probability, passed in (("softmax[n, labels[n]]", True), (late, False)):
        code = SHARED.replace("PROBABILITY", probability)
        finding = check.check_function(cross_entropy.BACKWARD, code.encode(), path)
        assert finding.passed == passed, finding
        [own, also] = finding.rows
        assert own.passed and (also.result, also.passed) == ("dlogits in logits", passed)
    assert finding.kind == "shared-array" and shared == {"dlogits": "logits"}
    assert "in an array of its own, but wrong when it is the array of logits" in finding.finding
    assert finding.worst_relative_error == also.worst > 1e-3


def test_the_first_hint_on_an_exception_is_a_question_and_no_line(file):
    with here():
        for change, word in (
            ("dy * w[:2]", "shape"),
            ("dy[99]", "axis"),
            ("dy * weight", "name"),
            ("dy * float('x')", ""),
        ):
            finding = backward(file(("g = dy * w", f"g = {change}")))
            assert finding.kind == "exception"
            if word:
                assert finding.hints[0].endswith("?") and word in finding.hints[0]
            assert any(hint.startswith("The line is: g =") for hint in finding.hints)


def test_a_label_that_is_no_index_is_named_as_such(tmp_path):
    code = SHARED.replace("np.flatnonzero(labels != -100)", "range(8)").replace("PROBABILITY", "1")
    finding = check.check_function(cross_entropy.BACKWARD, code.encode(), tmp_path / "mine.py")
    assert finding.kind == "exception" and "label -100 have no label to look" in finding.finding


@pytest.mark.usefixtures("exercises_here")
@pytest.mark.parametrize(
    "more, kind, words",
    [
        ("dx[: len(w) == 11] = before[: len(w) == 11]", "partly-written", "as before: row 0"),
        ("dx += len(w) == 11", "other", "dx is wrong in some calls, and right in others."),
    ],
)
def test_a_result_may_be_right_in_some_calls(file, more, kind, words):
    """The second of the two sizes has C = 11."""
    finding = backward(file((DX, f"before = dx.copy(); {DX}; {more}")))
    text = " ".join([finding.finding, *finding.hints])
    assert finding.kind == kind and words in text, finding


@pytest.mark.usefixtures("exercises_here")
def test_a_plain_reason_comes_before_two_mistakes(tmp_path):
    """A slope of 0 is also what two forgotten terms give."""
    code = "import numpy as np\ndef gelu_backward(dx, dy, x):\n    "
    for line, kind, words in (
        ("dx[:] = 0", "constant", "dx is 0 everywhere."),
        ("dx = 2 * dy", "nothing-written", "dx is the same after the call as before."),
    ):
        path = tmp_path / "mine.py"
        finding = check.check_function(gelu.BACKWARD, (code + line).encode(), path)
        assert finding.kind == kind and finding.mistake is None, finding
        assert words in finding.finding


@pytest.mark.usefixtures("exercises_here")
def test_a_result_is_described_although_an_argument_is_not_given_in_every_call(tmp_path):
    """Neither b nor residual is given in the last one."""
    code = """def matmul_forward(y, x, w, b=None, residual=None):
    y[:] = x @ w.T + (0 if b is None else b) + (0 if residual is None else residual)
    y += x.sum(axis=1, keepdims=True)
"""
    finding = check.check_function(matmul.FORWARD, code.encode(), tmp_path / "mine.py")
    assert finding.kind == "other" and "In each row, y is off by one number" in finding.hints[1]
    assert "In each row, y is off by the sum of x over the columns." in finding.hints


@pytest.mark.usefixtures("exercises_here")
def test_three_mistakes_in_one_result_are_named(file):
    finding = backward(
        file(("g - g.mean(axis=1, keepdims=True) -", "g +"), ("dx += rstd[:, None] *", "dx +="))
    )
    names = "mean-term-left-out", "variance-term-added", "rstd-left-out"
    assert finding.mistake == " + ".join(f"layernorm_backward/{name}" for name in names)
    assert finding.finding.startswith("Three mistakes.")


# -------------------------------------------------------------------- forward before the backward


@pytest.mark.usefixtures("exercises_here")
def test_a_wrong_forward_is_found_first_although_the_backward_fits_it(file):
    finding = found(
        file(("x.var(axis=1)", "x.var(axis=1, ddof=1)"), (" - norm *", " - norm * 0 *"))
    )
    assert finding.forward is False and finding.mistake == "layernorm_forward/unbiased-variance"
    assert {row.function for row in finding.rows} == {"layernorm_forward"}


@pytest.mark.usefixtures("exercises_here")
def test_added_for_written_is_found(file):
    finding = found(file(("y[:] = ", "y += ")))
    assert finding.forward is False and finding.kind == "added-instead"
    assert finding.function == "layernorm_forward" and "y is added to" in finding.finding


@pytest.mark.usefixtures("exercises_here")
def test_a_default_that_differs_is_found_by_the_signature(file):
    finding = found(file(("eps=1e-5", "eps=0.1")))
    assert finding.forward is False and finding.kind == "signature" and "1e-05" in finding.finding


@pytest.mark.usefixtures("exercises_here")
def test_a_forward_that_is_not_there_yet_holds_nobody_up(file):
    finding = found(file(text="import numpy as np\n" + BACKWARD))
    assert not finding.passed and finding.forward is False
    assert (finding.kind, finding.function) == ("missing", "layernorm_forward")
    wrong = BACKWARD.replace(" - norm * mean_g_norm", "")
    finding = found(file(text="import numpy as np\n" + wrong))
    assert finding.mistake == "layernorm_backward/variance-term-left-out"
    assert finding.forward is False


# ------------------------------------------------------------------- functions that return results


def returning(**changes):
    settings = {
        "function": "softmax",
        "skeleton": 'def softmax(x, axis=1):\n    """Return p (N,V) and lse (N,)."""\n',
        "arguments": lambda rng, sizes: {"x": rng.standard_normal((sizes["N"], sizes["V"])),
                                         "axis": 1},
        "answer": lambda given, wrong: {
            "p": np.exp(given["x"]) / np.exp(given["x"]).sum(1 - ("axis" in wrong), keepdims=True),
            "lse": np.log(np.exp(given["x"]).sum(axis=1)),
        },
        "sizes": ({"N": 3, "V": 4}, {"N": 5, "V": 2}),
        "returns": ("p", "lse"),
        "mistakes": ("axis",),
    }  # fmt: skip
    return Problem(**(settings | changes))


RETURNED = {
    "p, lse": "right",
    "[p, lse]": "right",
    "{'p': p, 'lse': lse}": "right",
    "p, lse.tolist()": "right",
    "p": "returned-number",
    "p, lse, 1": "returned-number",
    "None": "returned-nothing",
    "p, None": "returned-type",
    "p, lse * 1j": "returned-type",
    "p, [lse, 1]": "returned-type",
    "p.T, lse": "form",
    "p, lse[:, None]": "form",
    "lse, p": "form",
    "p.astype('f'), lse": "form",
    "p.astype(int), lse": "form",
    "np.exp(x) / np.exp(x).sum(0), lse": "catalogue",
    "-p, lse": "negated",
    "0 * p, lse": "constant",
    "p, 0 * lse - 3": "constant",
    "p, lse * lse.sum()": "multiplied",
}


@pytest.mark.usefixtures("exercises_here")
@pytest.mark.parametrize("value", RETURNED)
def test_a_function_that_returns_its_results_is_checked_too(tmp_path, value):
    code = (
        "import numpy as np\ndef softmax(x, axis=1):\n    p = np.exp(x)\n    s = p.sum(axis=1)\n"
        f"    p, lse = p / s[:, None], np.log(s)\n    return {value}\n"
    )
    finding = check.check_function(returning(), code.encode(), tmp_path / "mine.py")
    assert finding.kind == RETURNED[value], finding
    if finding.kind == "form":
        assert "It must" in finding.finding
    if value == "lse, p":
        assert (
            finding.finding
            == "softmax returns its results in another order. It must return p, lse."
        )
    if value == "p.T, lse":
        assert "(3,4), which is (N,V)" in finding.finding and "other order" in finding.hints[0]


@pytest.mark.usefixtures("exercises_here")
def test_a_number_and_a_text_can_be_results(tmp_path):
    problem = returning(
        answer=lambda given, wrong: {
            "p": np.array(float(given["x"][0, 0])),
            "lse": np.array("a" if wrong else "b"),
        }
    )
    for number, text, kind in (
        ("x[0, 0]", "b", "right"),
        ("x[0, 0]", "a", "catalogue"),
        ("x[0, 0]", "c", "other"),
        ("3 * x[0, 0]", "b", "multiplied"),
        ("x[0, 1]", "b", "other"),
    ):
        code = f"def softmax(x, axis=1):\n    return {number}, {text!r}\n"
        finding = check.check_function(problem, code.encode(), tmp_path / "mine.py")
        assert finding.kind == kind, finding


@pytest.mark.usefixtures("exercises_here")
def test_an_array_that_is_changed_begins_with_its_values(tmp_path):
    problem = Problem(
        function="step",
        skeleton='def step(w, g, lr):\n    """Change w (n,) in place."""\n',
        arguments=lambda rng, sizes: {
            "w": rng.standard_normal(sizes["n"]),
            "g": rng.standard_normal(sizes["n"]),
            "lr": 0.1,
        },
        answer=lambda given, wrong: {
            "w": given["w"] + (1 if "uphill" in wrong else -1) * given["lr"] * given["g"]
        },
        sizes=({"n": 4}, {"n": 7}),
        outputs={"w": CHANGED},
        mistakes=("uphill",),
    )
    for body, kind in (
        ("w -= lr * g", "right"),
        ("w[:] = w - lr * g", "right"),
        ("w += lr * g", "catalogue"),
        ("w = w - lr * g", "nothing-written"),
        ("w[1:] -= lr * g[1:]", "partly-written"),
    ):
        code = f"def step(w, g, lr):\n    {body}\n"
        finding = check.check_function(problem, code.encode(), tmp_path / "mine.py")
        assert finding.kind == kind, (body, finding)


# ---------------------------------------------------------------------------------- the cases


def test_no_array_that_is_filled_holds_a_right_element_before():
    for problem in layernorm.PROBLEMS:
        for case in cases_of(problem):
            assert case.before.keys() == problem.outputs.keys()
            for name, before in case.before.items():
                right = case.answer()[name]
                assert before.shape == right.shape and not (before == right).any()
                assert np.isfinite(before).all()
    assert WRITTEN in layernorm.FORWARD.outputs.values()


# --------------------------------------------------------------------------------- the progress


def test_hints_go_on_while_the_mistake_is_the_same_and_begin_again_with_another(tmp_path):
    one = check.Finding(False, None, "catalogue", "f", "A.", mistake="f/a", hints=("1", "2", "3"))
    two = check.Finding(False, None, "catalogue", "f", "B.", mistake="f/b", hints=("1", "2"))
    path, seen = progress.path_of(tmp_path / "mine.py"), []
    assert path.name == "mine.py.progress.json"
    for finding in (one, one, one, one, two, one):
        content, step = progress.noted(progress.read(path), "layernorm", finding)
        progress.write(path, content)
        seen.append(step)
    assert seen == [0, 1, 2, 3, 0, 0]
    assert progress.done_in(tmp_path) == set()
    right = check.Finding(True, None, "right", "f", "f is right.")
    progress.write(path, progress.noted(progress.read(path), "layernorm", right)[0])
    assert progress.done_in(tmp_path) == {"layernorm"}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"layernorm": 3}', '{"layernorm": {"checks": "x"}}']
)
def test_progress_that_another_program_spoiled_begins_again(tmp_path, content):
    path = tmp_path / "mine.py.progress.json"
    path.write_text(content)
    finding = check.Finding(False, None, "catalogue", "f", "A.", mistake="f/a")
    content, step = progress.noted(progress.read(path), "layernorm", finding)
    assert step == 0 and json.loads(json.dumps(content))["layernorm"]["checks"] == 1
