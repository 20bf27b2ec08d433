"""The exercise of lesson 9: its 26 gradients against the model's own backward and against finite
differences."""

import numpy as np
import pytest

from pysft.batch import Batch, Example
from pysft.lessons.exercises.whole_backward import MEASURED, NAMES, WHOLE
from pysft.nn import reference
from pysft.nn.gradcheck import TOLERANCE, numeric_gradient, relative_error
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig

SIZES = WHOLE.sizes[0]
ARGUMENTS = WHOLE.arguments(np.random.default_rng(0), SIZES)
RIGHT = WHOLE.answer(ARGUMENTS, frozenset())


def test_there_are_26_gradients_each_of_the_shape_of_its_array():
    assert len(NAMES) == len(set(NAMES)) == 26
    for name in NAMES:
        assert RIGHT[name].shape == (ARGUMENTS["p"] | ARGUMENTS["a"])[name].shape
    assert tuple(RIGHT) == NAMES


def test_the_skeleton_names_them_in_order():
    names = WHOLE.skeleton.partition("logits")[1:]
    assert "".join(names).rstrip('"\n ').split() == list(NAMES)


def test_a_model_of_one_block_gives_the_same():
    config = GPTConfig(SIZES["V"], SIZES["T"], 1, SIZES["H"], SIZES["C"], tied=True)
    model = GPT(config, reference, dtype=np.float64)
    inside = {name: name.removeprefix("h0.") for name in model.params}
    model.params.fill({name: ARGUMENTS["p"][inside[name]] for name in model.params})
    cu = ARGUMENTS["cu_seqlens"]
    wanted = np.ones(cu[-1], bool)
    pieces = zip(*(np.split(ARGUMENTS[n], cu[1:-1]) for n in ("tokens", "labels")))
    examples = [Example(t, y, wanted=wanted[: len(t)]) for t, y in pieces]
    out = model.forward(Batch.of(examples, config.vocab, config.context))
    assert out.nll == pytest.approx(ARGUMENTS["a"]["nll"])
    model.backward(ARGUMENTS["dnll"])
    for name, gradient in model.grads.items():
        assert relative_error(gradient, RIGHT[inside[name]]) < 1e-12, name
    rest = {"dx": "x", "logits": "logits"}  # what the backward leaves in the model's arrays
    for name, of in rest.items():
        assert relative_error(model._activations[name], RIGHT[of]) < 1e-12, name


@pytest.mark.parametrize("name", NAMES)
def test_finite_differences_give_the_same(name):
    """numeric_gradient moves what loss() adds to the array of this name."""
    moved = ARGUMENTS[f"_{name}"]
    assert not moved.any()
    numeric = numeric_gradient(lambda: WHOLE.loss(ARGUMENTS), moved)
    assert relative_error(RIGHT[name], numeric) <= TOLERANCE


def test_a_check_measures_the_stream_and_the_tables():
    assert set(WHOLE.of) == set(MEASURED) <= set(NAMES)


def test_a_row_without_a_label_and_repeated_tokens_and_positions_are_in_the_batch():
    tokens, cu = ARGUMENTS["tokens"], ARGUMENTS["cu_seqlens"]
    assert reference.IGNORE in ARGUMENTS["labels"]
    assert len(set(tokens.tolist())) < len(tokens)
    assert len(cu) > 2 and np.diff(cu).min() >= 1
