"""AdamW and the clipping of gradients."""

import numpy as np
import pytest
from test_training import model_of, step

from pysft.nn.model import GPT
from pysft.nn.optim import AdamW, clip
from pysft.nn.shapes import GPTConfig


@pytest.mark.parametrize("decay_all", [False, True])
def test_weight_decay_shrinks_matrices_alone_or_all_tensors(decay_all):
    model = model_of()
    model.params.flat[:] = 1
    model.grads.clear()
    adam = AdamW(model, decay=0.5, decay_all=decay_all)
    adam.step(0.1)
    for name, w in model.params.items():
        decays = w.ndim == 2 or decay_all
        assert np.allclose(w, 0.95 if decays else 1.0, atol=1e-6), name
    assert adam.steps == 1


def test_the_moments_are_of_the_gradient_and_of_its_square():
    model = GPT(GPTConfig(5, 4, 1, 1, 4), rng=np.random.default_rng(0))
    adam = AdamW(model, betas=(0.9, 0.99))
    g = np.random.default_rng(1).standard_normal(len(model.grads.flat)).astype(np.float32)
    model.grads.flat[:] = g
    adam.step(1e-3)
    assert np.allclose(adam.m.flat, 0.1 * g, rtol=1e-5)
    assert np.allclose(adam.v.flat, 0.01 * g * g, rtol=1e-4)


def test_clipping_scales_down_to_the_limit_and_leaves_smaller_gradients_alone():
    model = model_of(dtype=np.float64)
    for name, g in model.grads.items():
        g[:] = np.random.default_rng(len(name)).standard_normal(g.shape)
    before = model.grads.flat.copy()
    norm = np.linalg.norm(before)
    for limit in (0, 2 * norm):
        assert clip(model, limit) == pytest.approx(norm)
        assert (model.grads.flat == before).all()
    assert clip(model, 1.0) == pytest.approx(norm)
    assert np.allclose(model.grads.flat, before / norm, rtol=1e-12)


def test_the_reported_norm_is_that_before_clipping():
    norm = step(model_of()).norm
    clipped = model_of()
    assert step(clipped, limit=norm / 10).norm == norm
    assert np.linalg.norm(clipped.grads.flat) == pytest.approx(norm / 10, rel=1e-5)
