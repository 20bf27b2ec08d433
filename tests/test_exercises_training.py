"""The exercises on training: their right results are those of the project's own functions. Of these
and of the exercises of the later lessons each mistake can be told from the right result and from
every other mistake."""

from itertools import combinations

import numpy as np
import pytest
from conftest import ROOT, distance

from pysft.batch import Batch, Example
from pysft.lessons.exercises import (
    adamw,
    bradley_terry,
    dpo,
    finetuning,
    floating_point,
    growth,
    lora,
    ppo,
)
from pysft.lessons.problem import CHANGED, NONE
from pysft.measure.ratio import rise
from pysft.nn import reference
from pysft.nn.gradcheck import numeric_gradient
from pysft.nn.grow import expand_vocab
from pysft.nn.lora import adapter_backward, adapter_forward
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.training.objectives import Sft

MODULES = (adamw, growth, finetuning, lora, bradley_terry, dpo, ppo, floating_point)
PROBLEMS = [p for module in MODULES for p in module.PROBLEMS]
EVERY = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.function)
SEEDS = range(3)
OVERFLOWS = "exponential-overflows"


def cases(problem):
    """Arguments of each case, with several seeds."""
    for sizes in problem.sizes:
        for seed in SEEDS:
            yield problem.arguments(np.random.default_rng(seed), sizes)


def is_close(one, two, tolerance=1e-12):
    scale = np.max(np.abs(two), where=np.isfinite(two), initial=0)
    return np.allclose(one, two, rtol=0, atol=tolerance * scale)


def differ(one, two) -> bool:
    """Whether some result differs by a millionth of the largest element."""
    return any(
        one[name].shape != two[name].shape or not is_close(one[name], two[name], 1e-6)
        for name in one
    )


@EVERY
def test_every_mistake_differs_from_the_right_result_and_from_every_other(problem):
    for given in cases(problem):
        found = {wrong: problem.answer(given, frozenset([wrong])) for wrong in problem.mistakes}
        found[""] = problem.answer(given, NONE)
        if all(np.isfinite(x).all() for result in found.values() for x in result.values()):
            found.pop(OVERFLOWS, None)  # only some cases have numbers that are large enough
        for one, two in combinations(found, 2):
            assert differ(found[one], found[two]), (one, two)


def test_what_overflows_does_so_in_some_case():
    for problem in (bradley_terry.PAIRS, dpo.BACKWARD):
        results = [problem.answer(given, frozenset([OVERFLOWS])) for given in cases(problem)]
        assert any(np.isinf(result["loss"]) for result in results)


@EVERY
def test_two_mistakes_at_once_give_finite_numbers_and_change_no_argument(problem):
    given = problem.arguments(np.random.default_rng(0), problem.sizes[0])
    before = {name: np.copy(x) for name, x in given.items()}
    for pair in combinations(problem.mistakes, 2):
        found = problem.answer(given, frozenset(pair))
        assert tuple(found) == problem.results
        assert all(np.isfinite(x).all() for x in found.values()), pair
    assert all(np.copy(given[name]).tobytes() == x.tobytes() for name, x in before.items())


@EVERY
def test_every_mistake_has_a_message_of_short_paragraphs(problem):
    folder = ROOT / "pysft" / "lessons" / "mistakes" / problem.function
    assert {path.stem for path in folder.glob("*.md")} == set(problem.mistakes)
    for path in folder.glob("*.md"):
        paragraphs = path.read_text().strip().split("\n\n")
        assert 3 <= len(paragraphs) <= 4, path
        assert all(len(p.split()) <= 40 for p in paragraphs), path


@EVERY
def test_the_derivatives_are_the_finite_differences(problem):
    for given in cases(problem):
        right = problem.answer(given, NONE)
        for name, by in problem.of.items():
            numeric = numeric_gradient(lambda: problem.loss(given), given[by])
            assert distance(right[name], numeric) <= 1e-8


def test_adamw_is_the_references():
    [problem] = adamw.PROBLEMS
    for given in cases(problem):
        right, after = problem.answer(given, NONE), {name: np.copy(x) for name, x in given.items()}
        step = int(after.pop("step"))
        w, m, v, g, *scalars = after.values()
        reference.adamw(w, m, v, g, step, *map(float, scalars))
        assert set(problem.outputs.values()) == {CHANGED}
        for name in problem.outputs:
            assert is_close(right[name], after[name])


def test_new_rows_and_their_cost_are_those_of_a_grown_model():
    V, count, tokens = 11, 3, np.arange(8, dtype=np.int32)
    cu_seqlens, labels = np.array([0, 8], np.int32), np.arange(3, 11, dtype=np.int32)
    base = GPT(GPTConfig(V, 8, 1, 1, 6), reference, np.random.default_rng(0), np.float64)
    base.params["head"][:] += np.random.default_rng(1).standard_normal((V, 6))
    grown = expand_vocab(base, V + count, "mean")
    rows = growth.EXPAND.answer({"w": base.params["head"], "count": count}, NONE)["grown"]
    assert is_close(rows, grown.params["head"])

    logits, wide = (model.logits(tokens, cu_seqlens) for model in (base, grown))
    (nll, lse), (new_nll, new_lse) = np.empty((2, 8)), np.empty((2, 8))
    reference.cross_entropy_forward(nll, lse, logits, labels)
    reference.cross_entropy_forward(new_nll, new_lse, wide, labels)
    cost = growth.COST.answer({"logits": logits, "lse": lse, "count": count}, NONE)
    assert is_close(cost["extra"], new_nll - nll)
    assert is_close(cost["mass"], np.exp(wide[:, V:] - new_lse[:, None]).sum(axis=1))
    assert (cost["mass"] <= count / (V + count)).all()


def test_the_gradient_of_new_rows_is_that_of_the_head():
    for given in cases(growth.BACKWARD):
        x, labels, lse, old = (given[name] for name in ("x", "labels", "lse", "old"))
        head = np.concatenate([given["_w"], given["new"]])
        logits, dhead = x @ head.T, np.zeros_like(head)
        dlogits = np.empty_like(logits)
        reference.cross_entropy_backward(dlogits, given["dnll"], logits, lse, labels)
        reference.matmul_backward(None, dhead, None, dlogits, x, head)
        assert is_close(growth.BACKWARD.answer(given, NONE)["dnew"], dhead[old:])


def test_the_loss_of_a_micro_batch_is_that_of_sft():
    for given in cases(finetuning.LOSS):
        nll, labels, cu_seqlens, weight, total = given.values()
        spans = list(zip(cu_seqlens[:-1], cu_seqlens[1:]))
        examples = [Example(np.maximum(labels[a:b], 0), labels[a:b]) for a, b in spans]
        batch = Batch.of(examples, 9, 8, weight)
        counted = finetuning.TOTAL.answer(
            {"labels": labels, "cu_seqlens": cu_seqlens, "weight": weight}, NONE
        )
        assert is_close(counted["total"], Sft().counts(batch)["graded"])
        out = type("Out", (), {"nll": nll})
        loss, dnll, _, _ = Sft()(batch, out, {"graded": total})
        right = finetuning.LOSS.answer(given, NONE)
        assert is_close(right["loss"], loss) and is_close(right["dnll"], dnll)


def test_forgetting_is_the_rise_of_the_mean_loss():
    for given in cases(finetuning.FORGETTING):
        base, tuned, continued = (nll.mean() for nll in given.values())
        right = finetuning.FORGETTING.answer(given, NONE)
        assert is_close(right["forgetting"], rise(tuned, base))
        assert is_close(right["matched"], rise(tuned, continued))


def test_the_layer_with_an_adapter_is_the_merged_one():
    for given in cases(lora.BACKWARD):
        dy, x, w, A, B, alpha = given.values()
        merged, At, scale = np.empty_like(w), np.ascontiguousarray(A.T), alpha / len(A)
        adapter_forward(reference, merged, w, At, B, scale)
        y, forward = np.empty_like(dy), {n: a for n, a in given.items() if n != "dy"}
        reference.matmul_forward(y, x, merged)
        assert is_close(lora.FORWARD.answer(forward, NONE)["y"], y)

        dx, dw, dAt, dB = np.empty_like(x), np.zeros_like(w), np.zeros_like(At), np.zeros_like(B)
        reference.matmul_backward(dx, dw, None, dy, x, merged)
        adapter_backward(reference, dAt, dB, dw, At, B, scale)
        right = lora.BACKWARD.answer(given, NONE)
        for name, found in {"dx": dx, "dA": dAt.T, "dB": dB}.items():
            assert is_close(right[name], found)
