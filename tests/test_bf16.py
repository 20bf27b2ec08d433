"""Products in bf16: what a factor is rounded to, what the instruction adds up, and the promises
about bits that hold in float32 too."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from command_line import refusal, succeeds
from conftest import distance, python

from pysft.batch import Batch, Example
from pysft.errors import GateError, UsageError
from pysft.nn import gate, kernels, reference
from pysft.nn.computing import computing_ops, precision_of
from pysft.nn.decode import Decoder
from pysft.nn.grow import copied
from pysft.nn.lora import LoRA
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng

needs_bf16 = pytest.mark.skipif(not gate.HAS_BF16, reason="this processor lacks AVX512-BF16")
F32 = np.float32
BF16 = dict(precision="bf16")

# (N, C, K) around every size of a block: MR = 6 rows, NR = 64 columns, KC = 384 and KC_OUTER = 3072
# terms of y and dx, KC_DW = 512 terms of dw, MC = 192 rows of dw. Some sums have an odd number of
# terms.
SIZES = [(n, c, k) for n in (1, 6, 13) for c in (1, 2, 63, 65) for k in (1, 16, 67)]
SIZES += [(7, c, 70) for c in (191, 383, 384, 385, 769)] + [(5, 3073, 3), (3, 5, 3077)]
SIZES += [(n, 66, 195) for n in (255, 511, 512, 513, 1025)]


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(F32)


def forward(N, C, K, threads=2, **options):
    """y of a product with bias and residual, and the arrays that it was made of."""
    x, w, b, residual = numbers(N, C), numbers(K, C), numbers(K), numbers(N, K, seed=1)
    y = np.full((N, K), np.nan, F32)
    kernels.matmul_forward(y, x, w, b, residual, threads=threads, **BF16 | options)
    return y, (x, w, b, residual)


def backward(N, C, K, threads=2):
    """dx, dw, db, and the arrays that they were made of. dw and db are added to ones."""
    dy, x, w = numbers(N, K, seed=2), numbers(N, C), numbers(K, C)
    dx, dw, db = np.full((N, C), np.nan, F32), np.ones((K, C), F32), np.ones(K, F32)
    kernels.matmul_backward(dx, dw, db, dy, x, w, threads=threads, **BF16)
    return (dx, dw, db), (dy, x, w)


# ----------------------------------------------------------------------------------- one product


def test_a_factor_is_the_nearest_bf16_and_of_two_the_even_one():
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    grid = np.sort(upper.view(F32)[np.isfinite(upper.view(F32))].astype(np.float64))
    exact = np.concatenate([grid[::7], (grid[:-1] + grid[1:])[::5] / 2])  # bf16s, and middles
    near = np.random.default_rng(0).uniform(-3, 3, 20000)
    x = np.concatenate([exact, near]).astype(F32).astype(np.float64)
    x = x[np.abs(x) <= grid.max()]
    above = np.searchsorted(grid, x)
    low, high = grid[np.maximum(above - 1, 0)], grid[np.minimum(above, len(grid) - 1)]
    even = (low.astype(F32).view(np.uint32) >> 16) % 2 == 0
    expected = np.where(x - low == high - x, np.where(even, low, high), high)
    expected = np.where(x - low < high - x, low, expected)
    expected = np.where(high == x, x, expected)
    expected[np.abs(x) < np.finfo(F32).tiny] = 0
    assert np.array_equal(reference.factor(x.astype(F32), "bf16"), expected.astype(F32))
    odd = np.array([np.inf, -np.inf, np.nan, 3.4e38], F32)
    assert np.array_equal(
        reference.factor(odd, "bf16"), np.array([np.inf, -np.inf, np.nan, np.inf], F32), True
    )


@needs_bf16
def test_the_kernel_rounds_factors_as_the_reference_does():
    x = np.concatenate([numbers(4000) * F32(10.0) ** e for e in (-30, -3, 0, 5, 30)])
    x = np.concatenate([x, np.array([0, 1e-39, -1e-45, np.inf, 3.4e38], F32)])
    y = np.empty((len(x), 1), F32)
    kernels.matmul_forward(y, x[:, None].copy(), np.ones((1, 1), F32), **BF16)
    assert np.array_equal(y[:, 0], reference.factor(x, "bf16"))


@needs_bf16
def test_a_sum_is_two_fused_multiply_adds_for_each_pair_the_second_element_first():
    C = 12
    for seed in range(200):
        x, w = numbers(1, C, seed=seed), numbers(1, C, seed=seed + 1000)
        y = np.empty((1, 1), F32)
        kernels.matmul_forward(y, x, w, **BF16)
        a, b = (reference.factor(v, "bf16")[0].astype(np.longdouble) for v in (x, w))
        total = F32(0)
        for p in range(0, C, 2):  # 64 bits hold each product and each of these sums exactly
            for i in (p + 1, p):
                total = F32(np.longdouble(total) + a[i] * b[i])
        assert y[0, 0] == total, seed


@needs_bf16
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products_are_those_of_rounded_factors(sizes):
    y, (x, w, b, residual) = forward(*sizes)
    x, w = (reference.factor(a, "bf16").astype(np.float64) for a in (x, w))
    assert distance(y, x @ w.T + b + residual) < 2e-6
    (dx, dw, db), (dy, x, w) = backward(*sizes)
    plain = dy.astype(np.float64)
    dy, x, w = (reference.factor(a, "bf16").astype(np.float64) for a in (dy, x, w))
    assert distance(dx, dy @ w) < 2e-6
    assert distance(dw, 1 + dy.T @ x) < 2e-6
    assert distance(db, 1 + plain.sum(axis=0)) < 2e-6  # no product, so nothing is rounded


@needs_bf16
@pytest.mark.parametrize("sizes", [(600, 130, 201), (130, 800, 70), (40, 3200, 65)], ids=str)
def test_bits_are_the_same_for_1_2_3_and_4_threads(sizes):
    y, (gradients, _) = forward(*sizes, threads=1)[0], backward(*sizes, threads=1)
    for threads in (2, 3, 4):
        assert np.array_equal(forward(*sizes, threads=threads)[0], y)
        for got, expected in zip(backward(*sizes, threads=threads)[0], gradients):
            assert np.array_equal(got, expected)


@needs_bf16
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it():
    C, K = 389, 131
    y, (x, w, b, residual) = forward(300, C, K)
    for n in [*range(1, 30), 100, 128, 257]:
        start = 300 - n
        few = np.empty((n, K), F32)
        rows = x[start:].copy(), w, b, residual[start:].copy()
        kernels.matmul_forward(few, *rows, threads=2, **BF16)
        assert np.array_equal(few, y[start:]), n


@needs_bf16
def test_dw_in_parts_of_512_rows_has_the_bits_of_the_whole():
    (_, dw, _), (dy, x, w) = backward(1200, 65, 130)
    parts = np.ones_like(dw)
    for first in range(0, 1200, 512):
        part = slice(first, first + 512)
        arrays = dy[part].copy(), x[part].copy(), w
        kernels.matmul_backward(None, parts, None, *arrays, threads=2, **BF16)
    assert np.array_equal(parts, dw)


@needs_bf16
def test_logits_in_parts_give_the_bits_of_the_whole():
    config = GPTConfig(40, 1100, 1, 2, 16, **BF16)
    batch, found = batch_for(config), []
    for limit in (1 << 20, 40 * 4 * 512):
        model = GPT(config, kernels.on_threads(2), rng(1, "test", "init"), logits_bytes=limit)
        found.append(gradient_of(model, batch))
        parts = len(model._activations["logits"])
    assert parts == 512 < len(batch.tokens) and np.array_equal(*found)


# ------------------------------------------------------------------------------------- the model

SHAPES = [
    GPTConfig(11, 24, 2, 2, 12, **BF16),
    GPTConfig(68, 70, 2, 4, 64, **BF16),
    GPTConfig(5, 3, 1, 1, 1, **BF16),
    GPTConfig(7, 140, 1, 3, 21, tied=True, **BF16),
    GPTConfig(300, 8, 1, 8, 520, **BF16),  # threads share these matrices
]


def lively(config, functions):
    """A model whose activations do not vanish."""
    model = GPT(config, functions, rng(3, "test", "init"))
    for _, w in model.params.items():
        w += 0.1 * np.random.default_rng(0).standard_normal(w.shape)
    return model


def batch_for(config):
    g = np.random.default_rng(0)
    lengths = config.context, 1, config.context // 2 + 1
    tokens = [g.integers(0, config.vocab, n + 1).astype(np.int32) for n in lengths]
    return Batch.of([Example(t[:-1], t[1:]) for t in tokens], config.vocab, config.context)


def gradient_of(model, batch):
    model.forward(batch)
    model.grads.flat[:] = 0
    model.backward(np.full(len(batch.tokens), 1 / len(batch.tokens), model.dtype))
    return model.grads.flat.astype(np.float64)


@needs_bf16
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_decoding_has_the_bits_of_the_forward(config):
    for threads in (1, 2, 3):
        model = lively(config, kernels.on_threads(threads))
        tokens = np.random.default_rng(1).integers(0, config.vocab, config.context)
        offsets = np.array([0, len(tokens)], np.int32)
        expected = model.logits(tokens.astype(np.int32), offsets)
        decoder = Decoder(model, 9)
        for t, token in enumerate(tokens):
            rows = decoder.steps([token] * 9, range(9))
            assert np.array_equal(rows, np.repeat(expected[t : t + 1], 9, axis=0)), t


@needs_bf16
def test_kernels_and_reference_agree_on_a_model_in_bf16():
    """Their sums differ in the last bits, and where a sum is rounded to another bf16 the rest
    follows. So they are near each other, and both are as far from float32."""
    config = SHAPES[1]
    batch = batch_for(config)
    models = [lively(config, f) for f in (kernels.on_threads(2), reference)]
    assert [precision_of(m.ops) for m in models] == ["bf16", "bf16"]
    ours, theirs = (gradient_of(m, batch) for m in models)
    exact = gradient_of(copied(models[0], "float32"), batch)
    apart = [
        np.linalg.norm(a - b) / np.linalg.norm(exact) for a, b in ((ours, theirs), (ours, exact))
    ]
    assert apart[0] < 0.5 * apart[1] and 1e-4 < apart[1] < 3e-2
    nll, same = (m.forward(batch).nll for m in models)
    assert distance(nll, same) < 1e-3
    decoders = [Decoder(m) for m in models]
    for token in range(20):
        assert distance(*(d.step(token) for d in decoders)) < 2e-2


@needs_bf16
def test_a_whole_step_has_the_same_bits_for_1_2_3_and_4_threads():
    config = dataclasses.replace(SHAPES[1], context=256)
    found = [
        gradient_of(lively(config, kernels.on_threads(t)), batch_for(config)) for t in (1, 2, 3, 4)
    ]
    assert all(np.array_equal(found[0], other) for other in found[1:])


@needs_bf16
def test_the_same_weights_compute_in_either_precision():
    model = lively(SHAPES[1], kernels.on_threads(1))
    other = copied(model, "float32")
    assert np.array_equal(model.params.flat, other.params.flat)
    assert (model.config.precision, other.config.precision) == ("bf16", "float32")
    batch = batch_for(SHAPES[1])
    plain = lively(dataclasses.replace(SHAPES[1], precision="float32"), kernels.on_threads(1))
    assert np.array_equal(other.forward(batch).nll, plain.forward(batch).nll)
    assert not np.array_equal(model.forward(batch).nll, plain.forward(batch).nll)
    fixed = GPT(SHAPES[1], computing_ops("kernels", 1, "float32"))
    fixed.params.flat[:] = model.params.flat
    assert np.array_equal(fixed.forward(batch).nll, plain.forward(batch).nll)


@needs_bf16
@pytest.mark.parametrize("own, bases", [("bf16", "float32"), ("float32", "bf16")])
def test_adapters_merge_to_the_bits_of_the_training_whatever_the_precision_of_the_base(own, bases):
    config = dataclasses.replace(SHAPES[1], precision="float32")
    plain = lively(config, kernels.on_threads(2))
    merged = []
    for precision in (own, bases):
        model = copied(plain, precision)
        lora = LoRA(model, 4, old_vocab=config.vocab, rng=rng(1, "test", "lora"))
        for _, w in lora.params.items():
            w += 0.1 * np.random.default_rng(0).standard_normal(w.shape)
        merged.append(lora.merge().params.flat.copy())
    assert np.array_equal(*merged) and not np.array_equal(merged[0], plain.params.flat)


# ------------------------------------------------------------------------------------- bad input


@needs_bf16
def test_float64_arrays_are_refused():
    y = np.zeros((2, 2))
    for call in (
        partial(kernels.matmul_forward, y, y.copy(), y.copy()),
        partial(kernels.decode_sizes, 2, 2, 2, 2, 2, np.float64),
    ):
        with pytest.raises(GateError, match="float64, expected float32 for products in bf16"):
            call(**BF16)


def test_a_processor_without_bf16_says_so_and_names_the_remedy(monkeypatch):
    monkeypatch.setattr(gate, "HAS_BF16", False)
    assert gate.precisions() == ["float32"]
    for ask in (
        lambda: kernels.on_threads(1, "bf16"),
        lambda: GPT(SHAPES[0], kernels.on_threads(1)),
    ):
        with pytest.raises(UsageError, match="Use --precision float32 or --ops reference"):
            ask()


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="precision = 'fp8' must be one of float32, bf16"):
        GPTConfig(5, precision="fp8")
    with pytest.raises(UsageError, match="'fp8' is not one of float32, bf16"):
        kernels.on_threads(1, "fp8")


def test_a_run_asks_for_bf16_before_it_makes_a_folder(tmp_path):
    command = "-m", "pysft", "pretrain", "--precision", "bf16", "--out", tmp_path / "run"
    done = python(*command, "--steps", "1", PYSFT_ISA="base")
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert done.stderr.splitlines() == [
        "pysft: precision bf16: this processor runs the instruction set base, without the products"
        " of bf16 (AVX512-BF16). Use --precision float32 or --ops reference, or resume such a"
        " training on a processor that has them"
    ]


# ----------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(trained):
    """A run in bf16, of a few steps: (its folder, its report)."""
    folder = trained.folder / "bf16"
    flags = ("--precision", "bf16", "--out", folder, "--json")
    return folder, succeeds("train", *trained.inputs, *flags).document


@needs_bf16
def test_a_run_keeps_its_precision_and_shows_it(run):
    folder, report = run
    assert report["precision"] == "bf16"
    assert succeeds("info", folder).out.count("products in bf16") == 2
    evaluated = succeeds("eval", folder, "--json").document
    assert evaluated["precision"] == "bf16"
    assert evaluated["tuned_base_loss"] == report["tuned_base_loss"]
    plain = succeeds("eval", folder, "--json", "--precision", "float32").document
    assert plain["precision"] == "float32"
    assert plain["weights_sha256"] == evaluated["weights_sha256"]
    assert plain["tuned_base_loss"] != evaluated["tuned_base_loss"]
    assert abs(plain["tuned_base_loss"] - evaluated["tuned_base_loss"]) < 1e-3


@needs_bf16
@pytest.mark.parametrize("asked", [[], ["--precision", "float32"]], ids=["kept", "asked"])
def test_a_tuning_begins_from_a_base_of_either_precision(run, trained, tmp_path, asked):
    folder, _ = run
    command = ("train", *trained.inputs, "--base", folder, "--out", tmp_path / "run", "--json")
    report = succeeds(*command, *asked).document
    assert report["precision"] == ("float32" if asked else "bf16")


@needs_bf16
def test_a_resumed_run_keeps_its_precision(run):
    folder, report = run
    (folder / "sft" / "model.safetensors").unlink()
    resume = ("train", "--resume", "--out", folder)
    error = refusal(2, *resume, "--precision", "float32")
    assert "--resume uses the run's own settings; leave out --precision" in error
    again = succeeds(*resume, "--json").document
    assert again["precision"] == "bf16"
    assert again["weights_sha256"] == report["weights_sha256"]
