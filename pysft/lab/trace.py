"""The mask at work in a model: what each position costs, and the proof that masked ones cost
nothing."""

import dataclasses

import numpy as np

from pysft import IGNORE
from pysft.nn.model import GPT, GPTConfig
from pysft.rng import rng
from pysft.text.dataset import Batch, Example
from pysft.text.template import Template, graded_targets
from pysft.training.objectives import sft


def walk(model, example: Example) -> tuple[np.ndarray, np.ndarray]:
    """(probability, nll), both (L,): the model's probability of each label and the loss in nats; 0
    and 0 where the label is -100."""
    batch = Batch.of([example], model.config.vocab, model.config.context)
    nll, _ = model.forward(batch)
    return np.where(batch.wanted, np.exp(-nll.astype(np.float64)), 0.0), nll


def small_model(vocab: int, rows: int, ops) -> GPT:
    """A little model with random weights, for proofs that hold in any."""
    return GPT(GPTConfig(vocab, max(64, rows), 2, 2, 32), ops, rng(1, "mask", "init"))


def prove(model, example: Example, messages, template: Template, grade: str) -> dict:
    """What the mask promises, measured in `model`:

    masked_dlogits       the largest |d loss / d logits| on any row whose label is -100: exactly 0
    graded_dlogits       the smallest of the graded rows' largest: above 0
    loss_change          of the loss, when every logit of the masked rows is moved at random:
                         exactly 0
    gradient_difference  between the gradient of all weights with the masked rows' logits computed,
                         and without
                         (relative L2): rounding only
    gradient_unmasked    relative L2 between the gradient with the mask and the one without: what
                         the mask keeps out
    graded, formula      graded targets by the labels, and by the lengths of the replies (None
                         unless all are graded)
    """
    batch = Batch.of([example], model.config.vocab, model.config.context)
    labels, masked = batch.labels, batch.labels == IGNORE
    logits = model.logits(batch.tokens, batch.cu_seqlens)
    N = len(labels)
    nll, lse, dlogits = np.empty(N, model.dtype), np.empty(N, model.dtype), np.empty_like(logits)
    model.ops.cross_entropy_forward(nll, lse, logits, labels)
    total = sft.count(batch)
    loss, dnll, _ = sft(batch, nll, None, total)
    model.ops.cross_entropy_backward(dlogits, dnll, logits, lse, labels)
    moved = logits.copy()
    moved[masked] += (
        rng(1, "mask", "move")
        .normal(0, 3, (int(masked.sum()), logits.shape[1]))
        .astype(model.dtype)
    )
    other = np.empty_like(nll)
    model.ops.cross_entropy_forward(other, np.empty_like(lse), moved, labels)

    def gradient(b):
        model.grads.clear()
        part, _ = model.forward(b)
        model.backward(sft(b, part, None, sft.count(b))[1])
        return model.grads.flat.astype(np.float64)

    few = gradient(batch)
    every = gradient(dataclasses.replace(batch, wanted=np.ones(N, bool)))
    targets = np.append(batch.tokens[1:], labels[-1]).astype(
        np.int32
    )  # what an ungraded last token is, no row says
    unmasked = gradient(dataclasses.replace(batch, labels=targets, wanted=np.ones(N, bool)))
    size = float(np.linalg.norm(few))
    return {
        "rows": N,
        "masked": int(masked.sum()),
        "graded": int((~masked).sum()),
        "formula": graded_targets(messages, template) if grade == "all" else None,
        "masked_dlogits": float(np.abs(dlogits[masked]).max(initial=0)),
        "graded_dlogits": float(np.abs(dlogits[~masked]).max(axis=1).min()),
        "loss": loss,
        "loss_change": sft(batch, other, None, total)[0] - loss,
        "gradient_difference": float(np.linalg.norm(every - few)) / size,
        "gradient_unmasked": float(np.linalg.norm(unmasked - few)) / size,
    }


def holds(proof: dict) -> bool:
    """Whether all that was promised is so."""
    return (
        proof["masked_dlogits"] == 0
        and proof["loss_change"] == 0
        and proof["graded_dlogits"] > 0
        and proof["gradient_difference"] < 1e-5
        and proof["formula"] in (None, proof["graded"])
    )
