"""Lessons 1 to 5: the right results of their exercises are what pysft itself computes."""

import math
from collections import Counter

import numpy as np
import pytest

from pysft import IGNORE
from pysft.batch import Batch, Example, Output
from pysft.lessons.exercises import bigram, cross_entropy, mask, matmul, render
from pysft.lessons.problem import NONE
from pysft.nn import reference
from pysft.text import render as text_render
from pysft.text.examples import shift
from pysft.text.templates import CHAT
from pysft.text.tokenizer import CharTokenizer
from pysft.training.objectives import Sft

SEEDS = range(3)
KERNELS = (*cross_entropy.PROBLEMS[:2], *matmul.PROBLEMS)


def cases(problem):
    """Yield (arguments, right results) of each of the problem's sizes, several times."""
    for sizes in problem.sizes:
        for seed in SEEDS:
            arguments = problem.arguments(np.random.default_rng(seed), sizes)
            yield arguments, problem.answer(arguments, NONE)


@pytest.mark.parametrize("problem", KERNELS, ids=lambda p: p.function)
def test_kernels_right_results_are_those_of_the_reference(problem):
    for arguments, right in cases(problem):
        found = {name: np.zeros_like(right[name]) for name in problem.outputs}
        given = [x for name, x in arguments.items() if not name.startswith("_")]
        getattr(reference, problem.function)(*found.values(), *given)
        for name in problem.outputs:
            np.testing.assert_allclose(found[name], right[name], rtol=1e-12, atol=1e-12)


def test_the_product_is_asked_for_with_and_without_bias_and_residual():
    absent = {
        (arguments["b"] is None, arguments["residual"] is None)
        for arguments, _ in cases(matmul.FORWARD)
    }
    assert absent == {(True, True), (False, False)}


def test_nll_of_pairs_is_that_of_counts_by_hand():
    for arguments, right in cases(bigram.NLL):
        corpus, text = arguments["corpus"].tolist(), arguments["text"].tolist()
        V = arguments["V"]
        pairs, before = Counter(zip(corpus, corpus[1:])), Counter(corpus[:-1])
        p = [(pairs[a, b] + 1) / (before[a] + V) for a, b in zip(text, text[1:])]
        np.testing.assert_allclose(right["nll"], [-math.log(x) for x in p], rtol=1e-12)
        np.testing.assert_array_equal(right["nll"], bigram.bigram_nll(*arguments.values()))


def test_a_token_is_drawn_as_sample_draws_it():
    rules, top_k = np.array([1.0, 1.0, 1.0]), np.array([0])
    key, chosen = np.array([3, 1, 4, 1], np.int32), np.empty(1, np.int32)
    for arguments, _ in cases(bigram.DRAW):
        for counter, p in enumerate(arguments["p"] + 1e-9):  # the logarithm of 0 is not finite
            reference.sample(
                chosen, None, None, np.log(p[None]), rules, top_k, key, np.array([counter])
            )
            bits = np.random.Philox(key=key.view(np.uint64), counter=[counter, 0, 0, 0])
            u = np.array([(bits.random_raw() >> 11) * 2.0**-53])
            given = {"p": (p / p.sum())[None], "u": u}
            assert bigram.DRAW.answer(given, NONE)["tokens"] == bigram.draw(**given) == chosen


def test_a_token_of_probability_0_is_not_drawn():
    for arguments, right in cases(bigram.DRAW):
        rows = np.arange(len(right["tokens"]))
        assert (arguments["u"] == 0).any()
        assert (arguments["p"][rows, right["tokens"]] > 0).all()
        np.testing.assert_array_equal(right["tokens"], bigram.draw(*arguments.values()))


@pytest.mark.parametrize("problem", render.PROBLEMS, ids=lambda p: p.function)
def test_turns_are_rendered_as_the_template_renders_them(problem):
    tokenizer = CharTokenizer("".join(render.CHARACTERS), render.SPECIALS)
    assert render.SPECIALS == CHAT.tokens
    for arguments, right in cases(problem):
        turns = zip(arguments["roles"].tolist(), arguments["texts"].tolist())
        messages = [{"role": role, "content": text} for role, text in turns]
        expected = getattr(text_render, problem.function)(messages, tokenizer, CHAT)
        expected = expected[0] if isinstance(expected, tuple) else expected
        np.testing.assert_array_equal(right["tokens"], expected)
        plain = getattr(render, problem.function)(*arguments.values())
        np.testing.assert_array_equal(plain, expected)


def test_tokens_are_marked_as_the_template_marks_them():
    tokenizer = CharTokenizer("a", CHAT.tokens)
    for arguments, right in cases(mask.MARK):
        messages = [
            {"role": "assistant" if is_reply else "user", "content": "a" * length}
            for is_reply, length in zip(*arguments.values())
        ]
        _, trained = text_render.render(messages, tokenizer, CHAT)
        np.testing.assert_array_equal(right["trained"], trained)
        np.testing.assert_array_equal(mask.mark_trained(*arguments.values()), trained)


def test_the_shift_is_that_of_examples():
    for arguments, right in cases(mask.SHIFT):
        for found, expected in zip(right.values(), shift(*arguments.values()), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_the_mean_is_the_loss_of_fine_tuning():
    for arguments, right in cases(cross_entropy.MEAN):
        nll, labels, offsets = arguments.values()
        examples = [
            Example(np.zeros(b - a, np.int32), labels[a:b]) for a, b in zip(offsets, offsets[1:])
        ]
        batch = Batch.of(examples, vocab=68, context=len(labels))
        assert 0 in nll[labels != IGNORE]
        objective = Sft()
        loss, dnll, _, _ = objective(batch, Output(nll=nll), objective.counts(batch))
        plain = cross_entropy.mean_nll(nll, labels, offsets)
        for found in (right["loss"], right["dnll"]), plain:
            np.testing.assert_allclose(found[0], loss, rtol=1e-12)
            np.testing.assert_allclose(found[1], dnll, rtol=1e-12)
