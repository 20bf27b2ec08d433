"""The mask at work in a model: the loss at each position, and a proof that masked positions have
neither loss nor gradient."""

import dataclasses

import numpy as np

from pysft import IGNORE
from pysft.batch import Batch, Example, Output
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng
from pysft.text.render import graded_targets
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer
from pysft.training.objectives import Sft

SFT = Sft()


def walk(model, example: Example) -> tuple[np.ndarray, np.ndarray]:
    """(probability, nll), both (L,): the model's probability of each label, and its loss in nats.
    Both are 0 where the label is -100."""
    batch = Batch.of([example], model.config.vocab, model.config.context)
    nll = model.forward(batch).nll
    return np.where(batch.graded, np.exp(-nll.astype(np.float64)), 0.0), nll


def small_model(vocab: int, rows: int, ops) -> GPT:
    """A small model with random weights, for proofs that hold in any model."""
    return GPT(GPTConfig(vocab, max(64, rows), 2, 2, 32), ops, rng(1, "mask", "init"))


def prove(
    model, example: Example, messages, template: Template, tokenizer: Tokenizer, grade: str
) -> dict:
    """Measure in `model` what the mask does. If it promises a value, the value follows the colon.

    rows, masked, graded  numbers of positions
    formula               graded targets, counted from the lengths of the replies: equal to graded.
                          None unless all turns are graded
    masked_dlogits        the largest |d loss / d logits| on all rows whose label is -100: exactly 0
    graded_dlogits        the largest |d loss / d logits| of a graded row, for the row where it is
                          smallest: above 0
    loss                  the loss of the example, in nats per graded token
    loss_change           its change if every logit of the masked rows moves at random: exactly 0
    gradient_difference   relative L2 distance between the gradients of all weights with and without
                          computing the logits of the masked rows: rounding only
    gradient_unmasked     relative L2 distance between the gradients of all weights with and without
                          the mask. It has no limit; it shows how much the mask keeps out
    """
    batch = Batch.of([example], model.config.vocab, model.config.context)
    masked = batch.labels == IGNORE
    return {
        "rows": len(masked),
        "masked": int(masked.sum()),
        "graded": int((~masked).sum()),
        "formula": graded_targets(messages, template, tokenizer) if grade == "all" else None,
        **_through_logits(model, batch, masked),
        **_through_weights(model, batch),
    }


def _through_logits(model, batch: Batch, masked: np.ndarray) -> dict:
    labels = batch.labels
    logits = model.logits(batch.tokens, batch.cu_seqlens)
    N = len(labels)
    nll, lse, dlogits = np.empty(N, model.dtype), np.empty(N, model.dtype), np.empty_like(logits)
    model.ops.cross_entropy_forward(nll, lse, logits, labels)
    totals = SFT.counts(batch)
    loss, dnll, *_ = SFT(batch, Output(nll), totals)
    model.ops.cross_entropy_backward(dlogits, dnll, logits, lse, labels)
    moved = logits.copy()
    shape = int(masked.sum()), logits.shape[1]
    moved[masked] += rng(1, "mask", "move").normal(0, 3, shape).astype(model.dtype)
    other = np.empty_like(nll)
    model.ops.cross_entropy_forward(other, np.empty_like(lse), moved, labels)
    return {
        "masked_dlogits": float(np.abs(dlogits[masked]).max(initial=0)),
        "graded_dlogits": float(np.abs(dlogits[~masked]).max(axis=1).min()),
        "loss": loss,
        "loss_change": SFT(batch, Output(other), totals)[0] - loss,
    }


def _through_weights(model, batch: Batch) -> dict:
    def gradient(b):
        model.grads.clear()
        model.backward(SFT(b, model.forward(b), SFT.counts(b))[1])
        return model.grads.flat.astype(np.float64)

    all_rows = np.ones(len(batch.labels), bool)
    few = gradient(batch)
    every = gradient(dataclasses.replace(batch, wanted=all_rows))
    # Without the mask each row's target is the next token. The last row's next token is not in the
    # batch, except as a label if it is graded. If it is not, the row stays masked.
    targets = np.append(batch.tokens[1:], batch.labels[-1]).astype(np.int32)
    unmasked = gradient(dataclasses.replace(batch, labels=targets, wanted=all_rows))
    size = float(np.linalg.norm(few))
    return {
        "gradient_difference": float(np.linalg.norm(every - few)) / size,
        "gradient_unmasked": float(np.linalg.norm(unmasked - few)) / size,
    }


def holds(proof: dict) -> bool:
    """True if the proof shows everything that the mask promises."""
    return (
        proof["masked_dlogits"] == 0
        and proof["loss_change"] == 0
        and proof["graded_dlogits"] > 0
        and proof["gradient_difference"] < 1e-5
        and proof["formula"] in (None, proof["graded"])
    )
