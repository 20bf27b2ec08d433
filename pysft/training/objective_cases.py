"""The cases of the gradient check (nn/gradcheck.py) for objectives: their derivatives by nll and
by value. They stand here because nn/ knows no objective.

A case is one step of several micro-batches, so a total of one of them alone is wrong. No two
sequences have equally many rows. The number of every row is moved, also of rows that must not
count: a row of a prompt, or a value in the middle of a reply.

Where a clip begins, a loss has a kink, and no difference shows a derivative there. So the columns
in NEAR are drawn as distances from the numbers that are moved, all of them far from a kink."""

import numpy as np

from pysft import IGNORE
from pysft.batch import BASE, CONVERSATION, WORLD, Batch, Example, Output
from pysft.training.objectives import BradleyTerry, ClippedValue, Dpo, Ppo, Sft

VOCAB, CONTEXT, PIECES = 7, 9, 3
NEAR = {"nll_old", "value_old", "return"}


def check_derivatives(ops, rng, objective, draw, reads):
    """Check dnll or dvalue of an objective over the micro-batches of one step. It needs no ops.

    draw(rng): the batch. reads: "nll" or "value", which the objective reads."""
    whole = draw(rng)
    x = rng.standard_normal(len(whole.tokens))
    for name in NEAR & whole.columns.keys():
        whole.columns[name] += x
    parts = whole.split(PIECES)
    ends = np.cumsum([len(part.tokens) for part in parts])
    outputs = [Output(**{reads: piece}) for piece in np.split(x, ends[:-1])]  # views of x
    totals = {}
    for part in parts:
        for term, count in objective.counts(part).items():
            totals[term] = totals.get(term, 0) + count

    def results():
        return [objective(part, out, totals) for part, out in zip(parts, outputs)]

    place = 1 if reads == "nll" else 2
    analytic = np.concatenate([result[place] for result in results()])
    yield reads, analytic, x, lambda: sum(result[0] for result in results())


def _sequence(rng, rows, source=CONVERSATION, group=None, **columns) -> Example:
    """Return a sequence of random tokens. A conversation begins with a row that is not graded, if
    it has more than one. Of the others about 0.7 are graded, the last one always."""
    tokens, labels = rng.integers(0, VOCAB, (2, rows)).astype(np.int32)
    is_graded = rng.random(rows) < 0.7
    is_graded[0] &= source != CONVERSATION
    is_graded[-1] = True
    labels[~is_graded] = IGNORE
    return Example(tokens, labels, source=source, group=group, columns=columns)


def texts(rng) -> Batch:
    """Return sequences of all sources, with random weights."""
    sources = (CONVERSATION, BASE, WORLD, CONVERSATION, BASE)
    examples = [_sequence(rng, n, source) for n, source in zip((4, 1, 6, 3, 8), sources)]
    return Batch.of(examples, VOCAB, CONTEXT, rng.random(len(examples)))


def rankings(rng) -> Batch:
    """Return rankings of three, two and four replies, with ties. The second has ties alone."""
    lengths, examples = iter((4, 1, 6, 3, 8, 2, 7, 5, 9)), []
    for group, ranks in enumerate([(2, 1, 2), (1, 1), (3, 1, 3, 4)]):
        for rank in ranks:
            rows = next(lengths)
            column = np.full(rows, float(rank))
            examples.append(_sequence(rng, rows, group=group, rank=column))
    return Batch.of(examples, VOCAB, CONTEXT)


def pairs(rng) -> Batch:
    """Return three pairs, then base text and text of a world."""
    lengths = [(3, 6), (5, 2), (4, 8)]  # of the chosen and of the rejected reply
    replies = [(n, CONVERSATION, group) for group, pair in enumerate(lengths) for n in pair]
    examples = [
        _sequence(rng, n, source, group, reference=rng.standard_normal(n))
        for n, source, group in [*replies, (7, BASE, None), (1, WORLD, None)]
    ]
    return Batch.of(examples, VOCAB, CONTEXT)


def rollouts(rng) -> Batch:
    """Return replies with columns of Ppo, and text of other sources between them."""
    sources = (CONVERSATION, CONVERSATION, BASE, CONVERSATION, WORLD, CONVERSATION)
    examples = [
        _sequence(rng, n, source, nll_old=_inside_or_beyond(rng, n), advantage=_signed(rng, n))
        for n, source in zip((9, 4, 3, 7, 2, 8), sources)
    ]
    return Batch.of(examples, VOCAB, CONTEXT)


def valued(rng) -> Batch:
    """Return replies with columns of ClippedValue."""
    columns = {"value_old": _inside_or_beyond, "return": _signed}
    examples = [
        _sequence(rng, n, **{name: drawn(rng, n) for name, drawn in columns.items()})
        for n in (9, 4, 7, 2, 8)
    ]
    return Batch.of(examples, VOCAB, CONTEXT)


def _inside_or_beyond(rng, n) -> np.ndarray:
    """(n,): distances inside a clip of 0.2 and beyond it, on both sides: 0.02 to 0.15, or 0.3 to
    0.8."""
    size = np.where(rng.random(n) < 0.4, rng.uniform(0.02, 0.15, n), rng.uniform(0.3, 0.8, n))
    return size * rng.choice([-1, 1], n)


def _signed(rng, n) -> np.ndarray:
    """(n,): numbers of 0.5 to 1.5 of both signs."""
    return rng.uniform(0.5, 1.5, n) * rng.choice([-1, 1], n)


CASES = {  # name: (check, sizes), as in nn/gradcases.py
    name: (check_derivatives, dict(objective=objective, draw=draw, reads=reads))
    for name, objective, draw, reads in [
        ("Sft", Sft(), texts, "nll"),
        ("BradleyTerry", BradleyTerry(), rankings, "value"),
        ("BradleyTerry, ties half", BradleyTerry("half"), rankings, "value"),
        ("BradleyTerry, Davidson", BradleyTerry("davidson", 0.7), rankings, "value"),
        ("Dpo", Dpo(0.3, base=0.0), pairs, "nll"),
        ("Dpo, smoothing", Dpo(0.3, smoothing=0.2, base=0.0), pairs, "nll"),
        ("Dpo, nll and base text", Dpo(0.3, nll=0.4, base=0.7), pairs, "nll"),
        ("Dpo, ipo", Dpo(0.3, "ipo", base=0.0), pairs, "nll"),
        ("Dpo, ipo, nll and base text", Dpo(0.3, "ipo", nll=0.4, base=0.7), pairs, "nll"),
        ("Ppo", Ppo(base=0.0), rollouts, "nll"),
        ("Ppo, base text", Ppo(base=0.7), rollouts, "nll"),
        ("Ppo, cispo", Ppo(kind="cispo", base=0.7), rollouts, "nll"),
        ("Ppo, no clip", Ppo(kind="none", base=0.7), rollouts, "nll"),
        ("ClippedValue", ClippedValue(), valued, "value"),
        ("ClippedValue, no clip", ClippedValue(0.0), valued, "value"),
    ]
}
