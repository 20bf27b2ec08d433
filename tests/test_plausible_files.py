"""What the checker says about files that readers of lessons 4, 6, 8 and 15 write: mistakes in
styles that are not those of the catalogue. They run in this process, without a file."""

from functools import cache

import numpy as np
import pytest

from pysft.lessons import check
from pysft.lessons.cases import cases_of
from pysft.lessons.exercises import attention, cross_entropy, dpo, layernorm
from pysft.lessons.problem import ADDED, WRITTEN, Fact, Problem
from pysft.lessons.running import Ran

PROBLEMS = {p.function: p for m in (attention, cross_entropy, dpo, layernorm) for p in m.PROBLEMS}


@cache
def cases(function):
    return cases_of(PROBLEMS[function])


def finding(problem, own_cases, code, **names) -> check.Finding:
    """The finding on a function in `code`. names: more of what it may use."""
    space = {"np": np} | names
    exec(code, space)
    results = []
    for case in own_cases:
        filled = {name: x.copy() for name, x in case.before.items()}
        with np.errstate(all="ignore"):
            value = space[problem.function](*filled.values(), *case.passed().values())
        values = value if isinstance(value, tuple) else (value,)
        results.append(filled or dict(zip(problem.returns, map(np.asarray, values))))
    calls = [{"changed": [], "returned": not problem.outputs} for _ in results]
    return check.judged(problem, own_cases, Ran(None, calls, results))


def said(function, code, *changes) -> check.Finding:
    for old, new in changes:
        assert old in code, old
        code = code.replace(old, new)
    return finding(PROBLEMS[function], cases(function), code)


def text(found) -> str:
    return " ".join([found.finding, *found.hints])


# -------------------------------------------------------------------------------------- attention

BACKWARD = """def attention_backward(dqkv, dy, qkv, y, lse, cu_seqlens):
    H = lse.shape[1]
    D = y.shape[1] // H
    Q, K, V = (part.reshape(len(y), H, D) for part in np.split(qkv, 3, axis=1))
    for a, b in zip(cu_seqlens, cu_seqlens[1:]):
        q, k, v = Q[a:b], K[a:b], V[a:b]
        score = np.einsum("thd,jhd->htj", q, k) / np.sqrt(D)
        mask = np.tri(b - a, dtype=bool)
        P = np.where(mask, np.exp(score - lse[a:b].T[:, :, None]), 0)
        g = dy[a:b].reshape(-1, H, D)
        dv = np.einsum("htj,thd->jhd", P, g)
        dP = np.einsum("thd,jhd->htj", g, v)
        total = SUM
        ds = P * (dP - total)
        dq = np.einsum("htj,jhd->thd", ds, k) / np.sqrt(D)
        dk = np.einsum("htj,thd->jhd", ds, q) / np.sqrt(D)
        dqkv[a:b] = np.concatenate([x.reshape(b - a, -1) for x in (dq, dk, dv)], axis=1)
"""
SUMS = {
    "of y": "(y[a:b].reshape(-1, H, D) * g).sum(axis=2).T[:, :, None]",
    "of P": "(P * dP).sum(axis=2, keepdims=True)",
}
WEIGHTS = "P = np.where(mask, np.exp(score - lse[a:b].T[:, :, None]), 0)"
BARE = "P = np.exp(score - lse[a:b].T[:, :, None])"
ALL = "P = np.exp(score - score.max(2, keepdims=True)); P /= P.sum(2, keepdims=True)"
IN_DQ = ("ds, k) / np.sqrt(D)", "ds, k)")
IN_DK = ("ds, q) / np.sqrt(D)", "ds, q)")
IN_SCORES = ('thd,jhd->htj", q, k) / np.sqrt(D)', 'thd,jhd->htj", q, k)')
AFTER = "ds = P * (dP - total)"
MISTAKES = {
    "no-mask": [(WEIGHTS, BARE)],
    "mask-on-score-gradient-alone": [(WEIGHTS, BARE), (AFTER, AFTER + " * mask")],
    "mask-in-dv-alone": [(WEIGHTS, BARE), ("jhd\", P, g", "jhd\", P * mask, g")],
    "softmax-without-mask": [(WEIGHTS, ALL)],
    "mask-after-softmax": [(WEIGHTS, ALL + "; P = P * mask")],
    "row-does-not-see-itself": [("np.tri(b - a,", "np.tri(b - a, k=-1,")],
    "scale-left-out-of-scores": [IN_SCORES],
    "scale-left-out-of-dq-and-dk": [IN_DQ, IN_DK],
    "scale-twice-in-dq-and-dk": [("ds, k) / np.sqrt(D)", "ds, k) / D"),
                                 ("ds, q) / np.sqrt(D)", "ds, q) / D")],
    "delta-added": [("(dP - total)", "(dP + total)")],
    "delta-left-out": [(" - total", "")],
    "probability-left-out": [(AFTER, "ds = dP - total")],
    "scale-left-out-of-scores + attention_backward/scale-left-out-of-dq-and-dk": [
        IN_SCORES, IN_DQ, IN_DK],
    "next-row-seen": [("np.tri(b - a,", "np.tri(b - a, k=1,")],
    "scale-of-all-channels": [("/ np.sqrt(D)", "/ np.sqrt(D * H)")],
    "scale-of-all-channels-in-dq-and-dk": [
        ("ds, k) / np.sqrt(D)", "ds, k) / np.sqrt(D * H)"),
        ("ds, q) / np.sqrt(D)", "ds, q) / np.sqrt(D * H)")],
    "queries-in-dq": [("ds, k)", "ds, q)")],
    "keys-in-dk": [('jhd", ds, q)', 'jhd", ds, k)')],
    "keys-for-values-in-dp": [("g, v)", "g, k)")],
    "output-for-dy-in-dv": [("P, g)", "P, y[a:b].reshape(-1, H, D))")],
    "no-mask + attention_backward/delta-added": [(WEIGHTS, BARE), ("dP - tot", "dP + tot")],
}  # fmt: skip


@pytest.mark.parametrize("form", SUMS)
def test_a_mistake_in_attentions_backward_is_named_whatever_its_sum_is_formed_from(form):
    code = BACKWARD.replace("SUM", SUMS[form])
    assert said("attention_backward", code).passed
    for mistake, changes in MISTAKES.items():
        found = said("attention_backward", code, *changes)
        assert found.mistake == f"attention_backward/{mistake}", (mistake, found)


@pytest.mark.parametrize(
    "total, mistake",
    [
        ("dP.sum(axis=2, keepdims=True)", "plain-sum-for-delta"),
        ("np.where(mask, dP, 0).sum(axis=2, keepdims=True)", "plain-sum-for-delta"),
        ("dP.mean(axis=2, keepdims=True)", "plain-mean-for-delta"),
        ("(P * dP).mean(axis=2, keepdims=True)", "mean-in-delta"),
        ("P * dP", "own-score-alone"),
        ("y[a:b].reshape(-1, H, D).sum(axis=2).T[:, :, None]", "dy-left-out-of-delta"),
    ],
)
def test_another_sum_in_the_gradient_of_the_scores_is_named(total, mistake):
    found = said("attention_backward", BACKWARD.replace("SUM", total))
    assert found.mistake == f"attention_backward/{mistake}", found


def test_of_an_unknown_mistake_the_parts_that_are_wrong_are_said():
    code = BACKWARD.replace("SUM", SUMS["of P"])
    found = said("attention_backward", code, ("x.reshape(b - a, -1)", "x.reshape(b - a, -1) * 2"),
                 ("(dq, dk, dv)", "(dq / 2, dk, dv / 6)"))  # fmt: skip
    assert found.mistake is None
    assert found.finding.endswith("dqkv is not the right one. dk and dv are wrong. dq is right.")
    assert found.hints == ("dk is 2 times the right one.", "dv is 0.3333 times the right one.")
    code = code.replace("P, g)", "P**2, g)")
    found = said("attention_backward", code)
    assert found.finding.endswith(" dv is wrong. dq and dk are right.")


FORWARD = """def attention_forward(y, lse, qkv, cu_seqlens):
    H = lse.shape[1]
    D = y.shape[1] // H
    for a, b in zip(cu_seqlens, cu_seqlens[1:]):
        for h in range(H):
            q, k, v = (qkv[a:b, i * H * D + h * D :][:, :D] for i in range(3))
            for t in range(b - a):
                score = k[: t + 1] @ q[t] / np.sqrt(D)
                top = score.max()
                e = np.exp(score - top)
                y[a + t, h * D : h * D + D] = e @ v[: t + 1] / e.sum()
                lse[a + t, h] = top + np.log(e.sum())
"""
MATRIX = (
    FORWARD.partition("            for t in")[0]
    + """            score = q @ k.T / np.sqrt(D)
            score = np.where(np.tri(b - a, k=SHIFT), score, HIDDEN)
            e = np.exp(score - score.max(axis=1, keepdims=True))
            y[a:b, h * D : h * D + D] = e / e.sum(axis=1, keepdims=True) @ v
            lse[a:b, h] = score.max(axis=1) + np.log(e.sum(axis=1))
"""
)


def test_scores_are_large_enough_that_exp_of_them_overflows():
    assert said("attention_forward", FORWARD).passed
    found = said("attention_forward", FORWARD, ("top = score.max()", "top = 0"))
    assert found.mistake == "attention_forward/maximum-not-subtracted"
    for case in cases("attention_forward"):
        scores = case.answer(frozenset({"no-mask"}))["lse"]
        assert np.isclose(case.answer()["lse"].max(), 900) and scores.max() < 1000
        assert (scores - case.answer()["lse"]).max() > 800  # of a hidden score


def test_a_maximum_of_hidden_scores_is_named_however_the_weights_are_formed():
    code = MATRIX.replace("SHIFT", "0").replace("HIDDEN", "-np.inf")
    top = ("score = q @ k.T / np.sqrt(D)", "score = q @ k.T / np.sqrt(D); top = score.max(axis=1)")
    uses = [
        ("score.max(axis=1, keepdims=True)", "top[:, None]"),
        ("h] = score.max(axis=1)", "h] = top"),
    ]
    weights = (
        "e / e.sum(axis=1, keepdims=True)",
        "np.exp(score - (top + np.log(e.sum(1)))[:, None])",
    )
    for changes in ([*uses, top], [*uses, weights, top]):
        found = said("attention_forward", code, *changes)
        assert found.mistake == "attention_forward/maximum-of-hidden-scores"


@pytest.mark.parametrize("hidden", ["-np.inf", "-1e9"])
def test_a_row_that_does_not_see_itself_is_named_whatever_hides_a_score(hidden):
    code = MATRIX.replace("HIDDEN", hidden)
    assert said("attention_forward", code, ("SHIFT", "0")).passed
    found = said("attention_forward", code, ("SHIFT", "-1"))
    assert found.mistake == "attention_forward/row-does-not-see-itself"
    assert said("attention_forward", code, ("SHIFT", "1")).mistake.endswith("/next-row-seen")


def test_a_row_that_does_not_see_itself_is_named_where_the_weights_come_from_lse():
    code = MATRIX.replace("SHIFT", "-1").replace("HIDDEN", "-1e300")
    code = code.replace("e / e.sum(axis=1, keepdims=True) @ v", "WEIGHTS @ v")
    code = code.replace("WEIGHTS", "np.exp(score - (score.max(1) + np.log(e.sum(1)))[:, None])")
    found = said("attention_forward", code)
    assert found.mistake == "attention_forward/row-does-not-see-itself"


ALL_HEADS = """def attention_forward(y, lse, qkv, cu_seqlens):
    N, C, H = *y.shape, lse.shape[1]
    Q, K, V = (part.reshape(N, H, -1) for part in np.split(qkv, 3, axis=1))
    for a, b in zip(cu_seqlens, cu_seqlens[1:]):
        score = np.einsum("thd,jhd->htj", Q[a:b], K[a:b]) / np.sqrt(C // H)
        score = np.where(np.tri(b - a, dtype=bool), score, -np.inf)
        top = score.max(axis=2, keepdims=True)
        e = np.exp(score - top)
        total = e.sum(axis=2, keepdims=True)
        y[a:b] = np.einsum("htj,jhd->thd", e / total, V[a:b]).reshape(b - a, C)
        lse[a:b] = (top + np.log(total))[:, :, 0].T
"""


@pytest.mark.parametrize(
    "change, mistake",
    [
        (("->thd", "->htd"), "heads-not-put-back"),
        (("Q, K, V =", "K, Q, V ="), "queries-and-keys-swapped"),
        (("e / total,", "e,"), "weights-not-divided"),
        (("/ np.sqrt(C", "* np.sqrt(C"), "scale-multiplied"),
        (("/ np.sqrt(C // H)", "/ np.sqrt(C)"), "scale-of-all-channels"),
    ],
)
def test_a_mistake_in_attention_of_all_heads_at_once_is_named(change, mistake):
    assert said("attention_forward", ALL_HEADS).passed
    assert said("attention_forward", ALL_HEADS, change).mistake == f"attention_forward/{mistake}"


# ------------------------------------------------------------------------------------- layer norm


def test_of_a_forward_what_it_keeps_is_told_first():
    code = """def layernorm_forward(y, mean, rstd, x, w, b, eps):
    mean[:] = x.mean(axis=1)
    rstd[:] = (np.abs(x - mean[:, None]).mean(axis=1) ** 2 + eps) ** -0.5
    y[:] = (x - mean[:, None]) * rstd[:, None] * w + b
"""
    found = said("layernorm_forward", code)
    assert found.finding == "layernorm_forward: rstd is not the right one."


def test_a_variance_that_overflows_is_named_however_it_is_formed():
    code = """def layernorm_forward(y, mean, rstd, x, w, b, eps):
    mean[:] = x.mean(axis=1)
    rstd[:] = (VARIANCE + eps) ** -0.5
    y[:] = (x - mean[:, None]) * rstd[:, None] * w + b
"""
    for right in ("x.var(axis=1)", "np.einsum('nc,nc->n', *2 * [x - mean[:, None]]) / x.shape[1]"):
        assert said("layernorm_forward", code, ("VARIANCE", right)).passed
    for square in ("(x**2).mean(axis=1)", "(x * x).sum(axis=1) / x.shape[1]"):
        found = said("layernorm_forward", code, ("VARIANCE", f"{square} - mean**2"))
        assert found.mistake == "layernorm_forward/mean-square-minus-squared-mean"


def test_a_case_for_an_overflow_does_not_hide_what_the_others_show():
    code = """def layernorm_forward(y, mean, rstd, x, w, b, eps):
    mean[:] = x.sum(axis=1)
    rstd[:] = (x.var(axis=1) + eps) ** -0.5
    y[:] = (x - x.mean(axis=1, keepdims=True)) * rstd[:, None] * w + b
"""
    found = said("layernorm_forward", code)
    assert "mean is C times the right one. There is a sum where a mean belongs." in found.finding


NORM = """def layernorm_backward(dx, dw, db, dy, x, w, mean, rstd):
    C = x.shape[1]
    for n in range(len(x)):
        dev, r = x[n] - mean[n], rstd[n]
        norm, g = dev * r, dy[n] * w
        dw += dy[n] * norm
        db += dy[n]
        dmean = -r * g.sum()
        TERM
        dx[n] += r * g + dmean / C + third
"""
TERMS = {
    # the term through the variance: the mistake
    "dvar = -0.5 * r**3 * (g * dev).sum(); third = dvar * 2 * dev / C": None,
    "third = -r * norm * (g * norm).mean()": None,
    "third = -r * dev * (g * norm).mean()": "rstd-missing-from-variance-term",
    "third = -norm * (g * norm).mean()": "rstd-missing-from-variance-term",
    "third = -r * dev * (g * dev).mean()": "rstd-missing-twice-from-variance-term",
    "dvar = -0.5 * r * (g * dev).sum(); third = dvar * 2 * dev / C":
        "rstd-missing-twice-from-variance-term",
    "dvar = -0.5 * r**3 * (g * norm).sum(); third = dvar * 2 * dev / C":
        "rstd-once-too-often-in-variance-term",
    "third = -(r**3) * norm * (g * norm).mean()": "rstd-twice-too-often-in-variance-term",
    "third = -0.5 * r**3 * (g * dev).sum() * dev / C": "half-too-many-in-variance-term",
    "third = -(r**3) * (g * dev).sum() * 2 * dev / C": "half-left-out-of-variance-term",
    "third = -r * g * norm * norm / C": "sum-left-out-of-variance-term",
    "third = -r * norm * g.mean()": "gradient-alone-in-variance-term",
    "third = -r * norm * (g * norm).mean(); dmean *= C": "sum-in-mean-term",
    "r **= 3; dmean *= r / rstd[n]; third = -r * norm * (g * norm).mean()": "rstd-cubed",
}  # fmt: skip


@pytest.mark.parametrize("term", TERMS)
def test_a_wrong_factor_in_the_term_through_the_variance_is_named(term):
    found = said("layernorm_backward", NORM, ("TERM", term))
    mistake = TERMS[term]
    assert found.passed if mistake is None else found.mistake == f"layernorm_backward/{mistake}"


def test_of_an_unknown_mistake_it_is_said_which_facts_of_the_page_hold():
    right = "third = -r * norm * (g * norm).mean()"
    for change, zero, of_x in (
        (("+ third", "+ 0.7 * third"), "In each row dx adds up to 0", "times x does not add"),
        (("r * g +", "1.3 * r * g +"), "dx does not add up to 0", "times x does not add"),
        (("dmean / C", "2 * dmean / C"), "dx does not add up to 0", "times x adds up to nearly 0"),
    ):
        found = said("layernorm_backward", NORM, ("TERM", right), change)
        assert found.mistake is None
        assert zero in found.finding and of_x in found.finding, found.finding
    code = "def cross_entropy_backward(dlogits, *given):\n    dlogits[:] = given[1]"
    assert "dlogits does not add up to 0" in said("cross_entropy_backward", code).finding


SOFTMAX = """def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    graded = labels != -100
    p = np.exp(logits - lse[:, None])
    p[graded, labels[graded]] -= 1
    dlogits[:] = dnll[:, None] * p
    dlogits[~graded] = 0
"""


def test_a_softmax_that_overflows_in_the_backward_is_named():
    assert said("cross_entropy_backward", SOFTMAX).passed
    plain = "e = np.exp(logits); p = e / e.sum(axis=1, keepdims=True)"
    found = said("cross_entropy_backward", SOFTMAX, ("p = np.exp(logits - lse[:, None])", plain))
    assert found.mistake == "cross_entropy_backward/lse-not-used"


def test_added_for_written_is_found_although_some_rows_are_written_later():
    found = said("cross_entropy_backward", SOFTMAX, ("dlogits[:] =", "dlogits +="))
    assert found.kind == "added-instead", found
    assert found.finding.startswith("dlogits is added to. The result must replace")
    both = [("dlogits[:] =", "dlogits +="), ("    p[graded, labels[graded]] -= 1\n", "")]
    found = said("cross_entropy_backward", SOFTMAX, *both)
    assert found.mistake == "cross_entropy_backward/label-not-subtracted"
    assert "dlogits is added to." in found.finding


def test_rows_that_are_0_do_not_hide_what_the_others_have_in_common():
    code = """def cross_entropy_backward(dlogits, dnll, logits, lse, labels):
    graded = labels != -100
    dlogits[:] = np.exp(logits - lse[:, None])
    dlogits[graded, labels[graded]] -= 1
    dlogits *= (graded * FACTOR)[:, None]
"""
    own = "Each row of dlogits is the right one times a number of its own"
    for factor, more in (("dnll.mean()", "."), ("dnll**2", ", which is dnll.")):
        found = said("cross_entropy_backward", code, ("FACTOR", factor))
        assert own + more in found.hints, found.hints


# -------------------------------------------------------------------------------------------- DPO

DPO = """def dpo_backward(nll, reference, labels, cu_seqlens, chosen, rejected, beta):
    sums = [(reference - nll)[a:b][labels[a:b] != -100].sum() for a, b in
            zip(cu_seqlens, cu_seqlens[1:])]
    P, loss, dnll = len(chosen), 0.0, np.zeros(len(nll))
    for c, r in zip(chosen, rejected):
        h = beta * (sums[c] - sums[r])
        loss += np.logaddexp(0, -h) / P
        for s, sign in ((c, 1), (r, -1)):
            rows = np.arange(cu_seqlens[s], cu_seqlens[s + 1])
            n = len(rows)
            rows = rows[labels[rows] != -100]
            dnll[rows] += sign * beta / (1 + np.exp(h)) / P
    return loss, dnll
"""


@pytest.mark.parametrize(
    "mistakes, changes",
    [
        (["loss-of-minus-h"], [("(0, -h)", "(0, h)")]),
        (["pairs-not-averaged"], [("np.exp(h)) / P", "np.exp(h))")]),
        (["pairs-summed"], [("np.exp(h)) / P", "np.exp(h))"), ("-h) / P", "-h)")]),
        (["pairs-not-averaged", "beta-left-out-of-dnll"],
         [("beta / (1 + np.exp(h)) / P", "1 / (1 + np.exp(h))")]),
        (["pairs-not-averaged", "gradient-in-rows-without-label"],
         [("np.exp(h)) / P", "np.exp(h))"), ("rows[labels[rows] != -100]", "rows")]),
        (["divided-by-length-in-dnll"], [("np.exp(h)) / P", "np.exp(h)) / P / len(rows)")]),
        (["divided-by-all-rows-in-dnll"], [("np.exp(h)) / P", "np.exp(h)) / P / n")]),
    ],
)  # fmt: skip
def test_a_mistake_in_dpos_derivative_is_named(mistakes, changes):
    assert said("dpo_backward", DPO).passed
    found = said("dpo_backward", DPO, *changes)
    assert found.mistake == " + ".join(f"dpo_backward/{name}" for name in mistakes), found


def test_pairs_of_other_replies_and_an_overflow_are_named_in_dpo():
    for changes, mistake in (
        ([("h = beta * (sums[c] - sums[r])", "h = beta * (sums[c] + sums[r])")], "gains-added"),
        ([("in zip(chosen, rejected)", "in zip(range(0, 2 * P, 2), range(1, 2 * P, 2))")],
         "pairs-in-order"),
        ([("np.logaddexp(0, -h)", "-np.log(1 / (1 + np.exp(-h)))")], "exponential-overflows"),
    ):  # fmt: skip
        assert said("dpo_backward", DPO, *changes).mistake == f"dpo_backward/{mistake}"


def test_of_a_single_number_it_is_said_whether_it_is_too_large():
    found = said("dpo_backward", DPO, ("np.logaddexp(0, -h)", "np.logaddexp(1, -h)"))
    assert found.hints == ("loss is too large in every case.",) and not found.rows[0].passed


# ---------------------------------------------------------------------------------- in all lessons


def test_no_mistake_is_named_that_changes_a_part_which_is_right():
    """dk alone lacks its factor, so the mistake that leaves out both is not named."""
    problem, own_cases = PROBLEMS["attention_backward"], cases("attention_backward")
    results = []
    for case in own_cases:
        dq, dk, dv = np.split(case.answer()["dqkv"], 3, axis=1)
        scaled = case.answer(frozenset({"scale-left-out-of-dq-and-dk"}))["dqkv"]
        results.append({"dqkv": np.hstack([dq, np.split(scaled, 3, axis=1)[1], dv])})
    calls = [{"changed": [], "returned": False} for _ in results]
    found = check.judged(problem, own_cases, Ran(None, calls, results))
    assert found.mistake == "attention_backward/scale-left-out-of-dk"


def test_no_mistake_is_named_that_changes_a_result_which_is_right():
    """Both mistakes change the sign of b. Together they leave it, and give a third of a."""

    def answer(given, wrong):
        a = given["x"] * (1 if "one" not in wrong else 0.5) + (2 if "two" in wrong else 0)
        return {"a": a, "b": given["x"] * (-1) ** len(wrong)}

    problem = Problem(
        function="f",
        skeleton='def f(x):\n    """Return a and b."""\n',
        arguments=lambda rng, sizes: {"x": rng.standard_normal(sizes["N"])},
        answer=answer,
        sizes=({"N": 3}, {"N": 4}),
        returns=("a", "b"),
        mistakes=("one", "two"),
    )
    of = {"both": "x / 2 + 2, x", "one": "x / 2, -x", "none": "x, x"}
    found = {name: finding(problem, cases_of(problem), f"def f(x): return {r}")
             for name, r in of.items()}  # fmt: skip
    assert found["none"].passed and found["one"].mistake == "f/one"
    assert found["both"].mistake is None and "a is not the right one" in found["both"].finding
    assert [row.passed for row in found["both"].rows] == [False, True]


def test_a_fact_counts_for_its_result_alone():
    fact = Fact("b", "Holds.", "Fails.", lambda given, x: x.sum())
    problem = Problem(
        function="f",
        skeleton='def f(a, b, x):\n    """Write a and b."""\n',
        arguments=lambda rng, sizes: {"x": rng.standard_normal(sizes["N"])},
        answer=lambda given, wrong: {"a": given["x"], "b": given["x"] ** 2},
        sizes=({"N": 3}, {"N": 4}),
        outputs={"a": WRITTEN, "b": ADDED},
        facts=(fact,),
    )
    code = "def f(a, b, x):\n    a[:] = {}\n    b += {}\n"
    rolled = "np.roll(x, 1)**2"
    for a, b, word in (("x**3", "x**2", "one."), ("x", "x**3", "Fails."), ("x", rolled, "Holds.")):
        found = finding(problem, cases_of(problem), code.format(a, b))
        assert found.finding.endswith(word), found.finding
