"""Figures of preference training: how often a reward model puts two replies in the right order, how
often a tuned model answers better than the one it was begun from, and how far it has moved."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pysft.batch import Batch
from pysft.measure.evaluate import ROWS
from pysft.text.agreement import Judgements
from pysft.text.ranking import Ranking, ranks_of

BINS = 5  # of pairs by their margin


# ---------------------------------------------------------------------------- a reward model


def split_scores(rankings: list[Ranking], scores: np.ndarray) -> list[np.ndarray]:
    """The scores of all replies, one after the other, as an array for each ranking."""
    ends = np.cumsum([len(r.replies) for r in rankings])
    return np.split(scores, ends[:-1])


def order_figures(
    trained: list[Ranking], heldout: list[Ranking], scores: list[np.ndarray], points=None
) -> dict:
    """How well scores order the replies of held-out rankings. scores: an array for each.

    pairs               pairs of replies that a ranking puts in an order
    accuracy            share of them whose better reply has the higher score; equal scores count
                        half
    accuracy_low, accuracy_high   its interval of 95 %; pairs of one ranking count as dependent
    length_accuracy     the share that the length of a reply would order right: the longer or the
                        shorter first, whichever is right more often in `trained`
    gold_accuracy       the same share of pairs whose points differ; None without points, which are
                        those of the exact judge for each reply of each ranking
    gold_pairs          how many these are
    labeler_agreement   the share of pairs on which two labelers agree, in all rankings; None if no
                        pair was judged twice
    by_margin           [{"pairs", "margin", "accuracy", "predicted"}], rising by the difference of
                        the scores: its mean, the share that is right, and what the reward model
                        says that share is, the mean of sigmoid(difference). A calibrated model has
                        both alike"""
    right, margins, counts = _order(heldout, scores)
    sign = _length_sign(trained)
    lengths = [sign * np.array([len(reply) for reply in r.replies]) for r in heldout]
    by_length, _, _ = _order(heldout, lengths)
    judged = Judgements()
    for r in [*trained, *heldout]:
        judged.add(r)
    agreement = judged.agreement()
    low, high = _interval_of_share(right, counts)
    figures = {
        "pairs": len(right),
        "accuracy": _mean(right),
        "accuracy_low": low,
        "accuracy_high": high,
        "length_accuracy": _mean(by_length),
        "gold_accuracy": None,
        "gold_pairs": None,
        "labeler_agreement": (
            agreement["agreed"] / agreement["comparisons"] if agreement["comparisons"] else None
        ),
        "by_margin": _by_margin(right, margins),
    }
    if points is not None:
        golden = [replace(r, ranks=tuple(ranks_of(p))) for r, p in zip(heldout, points)]
        by_gold, _, _ = _order(golden, scores)
        figures |= {"gold_accuracy": _mean(by_gold), "gold_pairs": len(by_gold)}
    return figures


def _order(rankings, scores) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(1, 1/2 or 0 of each pair, the difference of its scores, the number of pairs of each
    ranking)."""
    each = [[float(s[i] - s[j]) for i, j in r.pairs()] for r, s in zip(rankings, scores)]
    margins = np.array([d for some in each for d in some])
    return (np.sign(margins) + 1) / 2, margins, [len(some) for some in each]


def _interval_of_share(right: np.ndarray, counts: list[int]) -> tuple[float | None, float | None]:
    """The interval of 95 % of the mean of `right`, whose entries belong to rankings of so many
    pairs each. The pairs of a ranking are not independent of each other; rankings are."""
    counts = [n for n in counts if n]
    if len(counts) < 2:
        return None, None
    off = right - right.mean()
    sums = np.add.reduceat(off, np.cumsum([0, *counts[:-1]]))
    error = math.sqrt((sums**2).sum() * len(counts) / (len(counts) - 1)) / len(right)
    return _within(right.mean(), error)


def _within(mean, error) -> tuple[float, float]:
    """The interval of 95 % of a share, whose standard error is known."""
    return max(0.0, float(mean - 1.96 * error)), min(1.0, float(mean + 1.96 * error))


def _length_sign(rankings: list[Ranking]) -> int:
    """1 if the longer reply is the better one more often, else -1."""
    lengths = [np.array([len(reply) for reply in r.replies]) for r in rankings]
    right, _, _ = _order(rankings, lengths)
    return 1 if _mean(right) is None or _mean(right) >= 0.5 else -1


def _by_margin(right: np.ndarray, margins: np.ndarray) -> list[dict]:
    order = np.argsort(np.abs(margins), kind="stable")
    rows = []
    for part in np.array_split(order, BINS):
        if len(part):
            size = np.abs(margins[part])
            rows.append(
                {
                    "pairs": len(part),
                    "margin": float(size.mean()),
                    "accuracy": float(right[part].mean()),
                    "predicted": float((1 / (1 + np.exp(-size))).mean()),
                }
            )
    return rows


def _mean(x) -> float | None:
    return float(np.mean(x)) if len(x) else None


def interval(each: Sequence[float]) -> tuple[float | None, float | None]:
    """The interval of 95 % of a mean of independent observations, by their spread."""
    if len(each) < 2:
        return None, None
    mean, error = float(np.mean(each)), float(np.std(each, ddof=1)) / math.sqrt(len(each))
    return mean - 1.96 * error, mean + 1.96 * error


# ------------------------------------------------------------------------------ a tuned model


def win_figures(after: np.ndarray, before: np.ndarray) -> dict:
    """How often replies are better than those of another model to the same prompts.

    after, before (P, n): the points of n replies to each of P prompts. Each reply of the one is
    compared with each of the other.

    win_rate            share of comparisons that are won; a tie counts half
    win_rate_low, win_rate_high   its interval of 95 %, where a prompt counts as one observation
    ties                share of comparisons that tie
    gold, gold_before   the mean points of both"""
    d = np.sign(after[:, :, None] - before[:, None, :])
    each = ((d + 1) / 2).mean(axis=(1, 2))
    low, high = interval(each.tolist())
    return {
        "win_rate": float(each.mean()),
        "win_rate_low": low,
        "win_rate_high": high,
        "ties": float((d == 0).mean()),
        "gold": float(after.mean()),
        "gold_before": float(before.mean()),
    }


def exact_kl(policy, reference, examples: list) -> float:
    """The KL divergence of the policy from the reference in nats per reply: the mean over replies
    of the sum over their tokens, exact over the vocabulary at each. So it is never negative.

    examples: replies that the policy wrote at temperature 1, whose labels grade them."""
    vocab, context = policy.config.vocab, policy.config.context
    total = 0.0
    per_batch = max(1, ROWS // context)
    for first in range(0, len(examples), per_batch):
        batch = Batch.of(examples[first : first + per_batch], vocab, context)
        rows = np.flatnonzero(batch.graded)
        p, q = (
            _log_softmax(model.logits(batch.tokens, batch.cu_seqlens, rows).astype(np.float64))
            for model in (policy, reference)
        )
        total += float((np.exp(p) * (p - q)).sum())
    return total / len(examples)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


# ------------------------------------------------------------------------------- the short tables

LEAST = 0.6  # accuracy on held-out pairs below which a reward model is not worth training with


def is_good_enough(reward: dict) -> tuple[bool, str]:
    """(whether a reward model is good enough to train with, the reason). reward: what
    order_figures() gives."""
    low, length = reward["accuracy_low"], reward["length_accuracy"]
    if low is None:
        return False, "too few held-out pairs to say"
    least = max(LEAST, length)
    what = "the length of a reply" if length > LEAST else "the least that is asked for"
    return low > least, (
        f"its accuracy on held-out pairs is above {low:.1%} with 95 % certainty, and {what} is"
        f" {least:.1%}"
    )


def _percent(x: float | None) -> str:
    return "-" if x is None else f"{x:.1%}"


def reward_rows(reward: dict) -> list[tuple[str, str]]:
    """The rows of a reward model's table: (what, its value)."""
    rows = []
    if "rankings" in reward:  # not if only the held-out ones are known
        many = f"{reward['comparisons']:,} in {reward['rankings']:,} rankings"
        rows.append(("comparisons", many))
    rows += [
        (
            "held-out pairs in the right order",
            _with_interval(reward),
        ),
        ("  by the length alone", _percent(reward["length_accuracy"])),
        ("  two labelers agree", _percent(reward["labeler_agreement"])),
    ]
    if reward["gold_accuracy"] is not None:
        rows.append(
            (
                "  by the exact judge",
                f"{_percent(reward['gold_accuracy'])} of {reward['gold_pairs']:,} pairs",
            )
        )
    return rows


def scored_rows(found: dict) -> list[tuple[str, str]]:
    """The rows of the table of comparisons from files that a model scored: (what, its value)."""
    by = {"value": "scores of the reward model", "log-probability": "log-probability of the reply"}
    rows = [
        (
            "comparisons",
            f"{found['rankings']:,} rankings of {found['replies']:,} replies to"
            f" {found['prompts']:,} prompts",
        ),
        ("ordered by", by[found["by"]]),
        ("pairs in the right order", _with_interval(found)),
        ("  by the length alone", _percent(found["length_accuracy"])),
        ("  two labelers agree", _percent(found["labeler_agreement"])),
    ]
    if found["gold_accuracy"] is not None:
        gold = f"{_percent(found['gold_accuracy'])} of {found['gold_pairs']:,} pairs"
        rows.append(("  by the exact judge", gold))
    if len(found["by_file"]) > 1:
        rows += [(f"  {row['file']}", _with_interval(row)) for row in found["by_file"]]
    return rows


def _with_interval(figures: dict) -> str:
    low, high = (_percent(figures[f"accuracy_{end}"]) for end in ("low", "high"))
    return f"{_percent(figures['accuracy'])} of {figures['pairs']:,} ({low} to {high})"


def dpo_rows(report: dict) -> list[tuple[str, str]]:
    """The rows of the table of a DPO stage: (what, its value)."""
    dpo, rows = report["dpo"], []
    if "win_rate" in dpo:
        for name, some in (("at temperature 1", dpo), ("greedy", dpo["greedy"])):
            rows.append(
                (
                    f"win rate {name}",
                    f"{_percent(some['win_rate'])} ({_percent(some['win_rate_low'])} to"
                    f" {_percent(some['win_rate_high'])}), ties {_percent(some['ties'])}",
                )
            )
            rows.append(
                ("  points by the exact judge", f"{some['gold_before']:.2f} -> {some['gold']:.2f}")
            )
    kl = "-" if dpo["kl"] is None else f"{dpo['kl']:.2f} nats a reply"
    return [
        *rows,
        ("KL from the parent", kl),
        ("tokens of a reply", f"{dpo['length_before']:.1f} -> {dpo['length']:.1f}"),
        ("replies in format", _percent(dpo["format_compliance"])),
        ("forgetting", _percent(report["forgetting"])),
    ]
