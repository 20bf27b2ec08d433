"""Make a new model from an old one: with more symbols, other outputs, or another precision."""

from dataclasses import replace

import numpy as np

from pysft.errors import UsageError
from pysft.nn.model import GPT
from pysft.nn.shapes import INIT_STD


def expand_vocab(
    model: GPT, vocab: int, rows: str = "random", rng: np.random.Generator | None = None
) -> GPT:
    """Return a new model with `vocab` symbols. Every old weight is copied exactly, so the logits of
    the old symbols keep their bits.

    rows: how to fill the rows of the new symbols in the embedding and, unless it is tied, in the
    head. "random" (needs rng) draws them as at initialisation. "mean" takes the mean of the old
    rows. A UsageError if the vocabulary does not grow, or if an argument does not fit.

    Growth costs something on text without new symbols: softmax has more terms. Let p be the
    probability that all new symbols have together in a row. Each old one keeps 1 - p of its own:

        lse = ln sum_old exp(logit)        p = sum_new exp(logit) / (exp(lse) + sum_new exp(logit))
        the new lse is lse - ln(1 - p), so nll = lse - logit rises by -ln(1 - p) for an old label

    The head has no bias, so the logit of a mean row is the mean of the old logits. The exponential
    of a mean is at most the mean of the exponentials. So n mean rows beside V old ones have
    p <= n / (V + n), and the loss rises by at most ln(1 + n / V).

    The gradient at a new logit is dnll p of this symbol, less dnll where it is the label
    (cross_entropy_backward). So base text pushes the head's new rows down, and only text that has
    the symbols pulls them up. A new row of the embedding gets no gradient until its symbol is
    read."""
    old = model.config
    if vocab <= old.vocab:
        raise UsageError(
            f"the vocabulary has {old.vocab} symbols already; growing it to {vocab} "
            "would not add any"
        )
    if rows not in ("random", "mean"):
        raise UsageError(f"rows = {rows!r}: new rows are 'random' or 'mean'")
    if rows == "random" and rng is None:
        raise UsageError("random rows need a random generator")
    grown = GPT(replace(old, vocab=vocab), model.ops, dtype=model.dtype)
    for name, w in grown.params.items():
        source = model.params[name]
        w[: len(source)] = source
        if len(source) < len(w):
            new = (len(w) - len(source), w.shape[1])
            drawn = rng.normal(0, INIT_STD, new) if rows == "random" else source.mean(axis=0)
            w[len(source) :] = drawn
    return grown


def with_outputs(model: GPT, outputs: str, rng: np.random.Generator) -> GPT:
    """Return a new model that gives `outputs` (shapes.OUTPUTS). Every weight that both models have
    is copied exactly.

    What the old model does not have is drawn from `rng` as at initialisation. Matrices (value.w, or
    the head of a model that gave values alone) have the deviation 0.02, and value.b is 0. A
    UsageError if `outputs` is unknown."""
    made = GPT(replace(model.config, outputs=outputs), model.ops, dtype=model.dtype)
    for name, w in made.params.items():
        if name in model.params:
            w[:] = model.params[name]
        elif w.ndim == 2:
            w[:] = rng.normal(0, INIT_STD, w.shape)
    return made


def copied(model: GPT, precision: str) -> GPT:
    """Return a new model with the same weights, and products in a precision."""
    made = GPT(replace(model.config, precision=precision), model.ops, dtype=model.dtype)
    made.params.flat[:] = model.params.flat
    return made
