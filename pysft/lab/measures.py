"""Measurements that only the lab makes: how far weights moved, the share of the gradient that the
user's tokens have, and the loss by kind of token."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pysft import IGNORE
from pysft.batch import Batch, Example

OLD, NEW = "old rows", "new rows"
EXAMPLES = 16  # in one batch


def moved(start: dict, params, old_vocab: int) -> dict[str, float | None]:
    """Relative change of each tensor, |W - W0| / |W0| (Frobenius); None if W0 is zero. If the
    vocabulary has grown, embedding and head have one figure for the old rows and one for the
    new."""
    found = {}
    for name, w in params.items():
        pieces = {name: slice(None)}
        if name in ("wte", "head") and len(w) > old_vocab:
            pieces = {
                f"{name}, {OLD}": slice(0, old_vocab),
                f"{name}, {NEW}": slice(old_vocab, None),
            }
        for label, rows in pieces.items():
            before = float(np.linalg.norm(start[name][rows].astype(np.float64)))
            change = float(np.linalg.norm(w[rows].astype(np.float64) - start[name][rows]))
            found[label] = round(change / before, 6) if before else None
    return found


def user_share(model, examples: list[Example]) -> dict[str, float]:
    """The user's share of the targets ("user_targets") and of the gradient ("user_gradient") if
    nothing were masked; {} without examples.

    examples: masked as they should be. The user's targets are those that they do not grade. The
    share of the gradient is of its 1-norm at the logits. Row n has the norm 2 (1 - p_n), where p_n
    is the probability of its target."""
    totals = {"targets": np.zeros(2), "gradient": np.zeros(2)}
    for first in range(0, len(examples), EXAMPLES):
        some = examples[first : first + EXAMPLES]
        user = np.concatenate([e.labels == IGNORE for e in some])
        unmasked = [replace(e, labels=np.append(e.input_ids[1:], e.labels[-1:])) for e in some]
        batch = Batch.of(unmasked, model.config.vocab, model.config.context)
        nll = model.forward(batch).nll
        weights = {"targets": np.ones(len(nll)), "gradient": 1 - np.exp(-nll.astype(np.float64))}
        for name, weight in weights.items():
            totals[name] += weight[user].sum(), weight.sum()
    return {f"user_{name}": float(part / whole) for name, (part, whole) in totals.items() if whole}


TOKEN_KINDS = ("first", "content", "end")  # of graded tokens; LossByKind has a figure for each


@dataclass(frozen=True)
class LossByKind:
    """An objective with three more figures: the mean loss on the first tokens of replies ("first"),
    on their end tokens ("end"), and on the content between ("content").

    Loss and gradients are those of the objective that it wraps. end: the id of the end token; None
    if the vocabulary has none."""

    objective: Callable
    end: int | None

    def counts(self, batch) -> dict[str, float]:
        """Return the counts of the objective that it wraps."""
        return self.objective.counts(batch)

    def __call__(self, batch, out, totals):
        loss, dnll, dvalue, figures = self.objective(batch, out, totals)
        first = batch.graded & ~np.concatenate([[False], batch.graded[:-1]])
        end = batch.graded & (batch.labels == self.end)
        for kind, rows in zip(TOKEN_KINDS, (first, batch.graded & ~first & ~end, end)):
            figures[kind] = float(out.nll[rows].sum(dtype=np.float64)), int(rows.sum())
        return loss, dnll, dvalue, figures
