"""Figures of preference training: how often a reward model puts two replies in the right order, how
often a tuned model answers better than the one it was begun from, and how far it has moved."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pysft.batch import in_batches
from pysft.text.agreement import Judgements
from pysft.text.formats import first_text
from pysft.text.heldout import prompt_key
from pysft.text.ranking import Ranking, ranks_of
from pysft.training.objectives import sigmoid
from pysft.training.rollouts import divergence

BINS = 5  # of pairs by their margin


# ---------------------------------------------------------------------------- a reward model


def split_scores(rankings: list[Ranking], scores: np.ndarray) -> list[np.ndarray]:
    """The scores of all replies, one after the other, as an array for each ranking."""
    ends = np.cumsum([len(r.replies) for r in rankings])
    return np.split(scores, ends[:-1])


def order_figures(
    trained: list[Ranking],
    heldout: list[Ranking],
    scores: list[np.ndarray],
    points=None,
    scale: float | None = 1.0,
    subjects: Sequence | None = None,
) -> dict:
    """How well scores order the replies of held-out rankings.

    scores: an array for each. points: those of the exact judge for each reply of each ranking.
    scale: by what the scores were divided after the training; None if that is not known. subjects:
    what each held-out ranking is about; None takes its prompt.

    pairs               pairs of replies that a ranking puts in an order
    accuracy            share of them whose better reply has the higher score; equal scores count
                        half
    accuracy_low, accuracy_high   its interval of 95 %, where a subject counts as one observation;
                        None with fewer than two subjects
    length_accuracy     the share that the length of a reply would order right: the longer or the
                        shorter first, whichever is right more often in `trained`
    gold_accuracy       the share of pairs whose points differ that the scores order as the points
                        do; None without points
    gold_pairs          how many these are
    labeler_agreement   the share of pairs on which two labelers agree, in all rankings; None if no
                        pair was judged twice
    scale               as it was given
    by_margin           [{"pairs", "margin", "accuracy", "predicted"}], rising by the difference of
                        the scores: its mean, the share that is right, and what the reward model
                        says that share is, the mean of sigmoid(scale * difference). A calibrated
                        model has both alike. None if the scale is not known"""
    right, margins = _order(heldout, scores)
    sign = _length_sign(trained)
    lengths = [sign * np.array([len(reply) for reply in r.replies]) for r in heldout]
    by_length, _ = _order(heldout, lengths)
    judged = Judgements()
    for r in [*trained, *heldout]:
        judged.add(r)
    agreement = judged.agreement()
    low, high = interval_of_share(right, _of_pairs(heldout, subjects))
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
        "scale": scale,
        "by_margin": _by_margin(right, margins, scale),
    }
    if points is not None:
        golden = [replace(r, ranks=tuple(ranks_of(p))) for r, p in zip(heldout, points)]
        by_gold, _ = _order(golden, scores)
        figures |= {"gold_accuracy": _mean(by_gold), "gold_pairs": len(by_gold)}
    return figures


def _order(rankings, scores) -> tuple[np.ndarray, np.ndarray]:
    """(1, 1/2 or 0 of each pair, the difference of its scores)."""
    margins = [float(s[i] - s[j]) for r, s in zip(rankings, scores) for i, j in r.pairs()]
    return (np.sign(margins) + 1) / 2, np.array(margins)


def interval_of_share(right: np.ndarray, subjects: Sequence) -> tuple[float | None, float | None]:
    """The interval of 95 % of the mean of `right`, whose entries are 0, 1/2 or 1. subjects: what
    each is about.

    Pairs of one prompt are not independent of each other, also if different labelers ranked them,
    and neither are questions about one person; subjects are. So it is Wilson's interval for the
    number of independent pairs whose mean would have the standard error that subjects show (as Korn
    and Graubard 1998 do for surveys), with Student's t in the place of 1.96. If the subjects show
    no error, because all pairs are right, it is the interval for as many pairs as there are
    subjects."""
    count, variance = _spread(right, subjects)
    if count < 2:
        return None, None
    mean = float(np.mean(right))
    n = min(mean * (1 - mean) / variance, len(right)) if variance > 1e-12 else count
    t2 = _student(count - 1) ** 2
    middle = (mean + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2 * (mean * (1 - mean) / n + t2 / (4 * n * n))) / (1 + t2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _spread(values: np.ndarray, subjects: Sequence) -> tuple[int, float]:
    """(how many subjects there are, the variance of the mean of the values if each subject is one
    independent observation)."""
    numbers = {}
    which = [numbers.setdefault(subject, len(numbers)) for subject in subjects]
    count = len(numbers)
    if count < 2:
        return count, math.nan
    sums = np.bincount(which, values - np.mean(values))
    return count, float((sums**2).sum()) * count / (count - 1) / len(values) ** 2


def _student(freedom: int) -> float:
    """The quantile of Student's t for an interval of 95 %, by its expansion (Abramowitz and Stegun
    26.7.5). From 3 degrees of freedom on it is right to 1 %; for 1 it is 9.7 instead of 12.7."""
    z, v = 1.959964, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def _length_sign(rankings: list[Ranking]) -> int:
    """1 if the longer reply is the better one more often, else -1."""
    lengths = [np.array([len(reply) for reply in r.replies]) for r in rankings]
    right, _ = _order(rankings, lengths)
    return 1 if _mean(right) is None or _mean(right) >= 0.5 else -1


def _by_margin(right: np.ndarray, margins: np.ndarray, scale: float | None) -> list[dict]:
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
                    "predicted": None if scale is None else float(sigmoid(scale * size).mean()),
                }
            )
    return rows


def _mean(x) -> float | None:
    return float(np.mean(x)) if len(x) else None


def interval(each: Sequence[float], subjects: Sequence) -> tuple[float | None, float | None]:
    """The interval of 95 % of a mean, in which a subject counts as one independent observation.
    subjects: of each value. None with fewer than two."""
    values = np.asarray(each, np.float64)
    count, variance = _spread(values, subjects)
    if count < 2:
        return None, None
    mean, half = float(values.mean()), _student(count - 1) * math.sqrt(variance)
    return mean - half, mean + half


# ------------------------------------------------------------------------------ a tuned model


def win_figures(after: np.ndarray, before: np.ndarray, subjects: Sequence) -> dict:
    """How often replies are better than those of another model to the same prompts.

    after, before (P, n): the points of n replies to each of P prompts. Each reply of the one is
    compared with each of the other. subjects (P,): whom or what each prompt is about.

    win_rate            share of comparisons that are won; a tie counts half
    win_rate_low, win_rate_high   its interval of 95 %, where a subject counts as one observation;
                    None with fewer than two subjects
    ties                share of comparisons that tie
    gold, gold_before   the mean points of both"""
    d = np.sign(after[:, :, None] - before[:, None, :])
    won = ((d + 1) / 2).ravel()
    low, high = interval_of_share(won, np.repeat(subjects, d[0].size).tolist())
    return {
        "win_rate": float(won.mean()),
        "win_rate_low": low,
        "win_rate_high": high,
        "ties": float((d == 0).mean()),
        "gold": float(after.mean()),
        "gold_before": float(before.mean()),
    }


def gain_figures(
    rankings: list[Ranking], gains: list[np.ndarray], subjects: Sequence | None = None
) -> dict:
    """Which replies of some rankings a tuned model has come to prefer. gains: of each reply of each
    ranking, the nats by which it is likelier than under the model that was tuned. subjects: as in
    order_figures().

    accuracy         share of the pairs whose better reply gained more; equal gains count half, so
                     50 % is no change
    accuracy_low, accuracy_high   its interval of 95 %, as in order_figures()
    chosen_logp, rejected_logp   the mean gain of the better and of the worse reply of a pair. Both
                     may fall: then the probability goes to replies that nobody compared"""
    right, _ = _order(rankings, gains)
    pairs = [(g[i], g[j]) for r, g in zip(rankings, gains) for i, j in r.pairs()]
    low, high = interval_of_share(right, _of_pairs(rankings, subjects))
    return {
        "accuracy": _mean(right),
        "accuracy_low": low,
        "accuracy_high": high,
        "chosen_logp": _mean([better for better, _ in pairs]),
        "rejected_logp": _mean([worse for _, worse in pairs]),
    }


def _of_pairs(rankings: list[Ranking], subjects: Sequence | None) -> list:
    """What each pair of each ranking is about. subjects: of each ranking; None takes its prompt."""
    if subjects is None:
        subjects = [prompt_key(first_text(r.prompt)) for r in rankings]
    return [subject for subject, r in zip(subjects, rankings) for _ in r.pairs()]


def exact_kl(policy, reference, examples: list) -> float:
    """The KL divergence of the policy from the reference in nats per reply: the mean over replies
    of the sum over their tokens, exact over the vocabulary at each. So it is never negative.

    examples: replies that the policy wrote at temperature 1, whose labels grade them."""
    total = 0.0
    for batch in in_batches(examples, policy.config.vocab, policy.config.context):
        rows = np.flatnonzero(batch.graded)
        p, q = (model.logits(batch.tokens, batch.cu_seqlens, rows) for model in (policy, reference))
        total += float(divergence(p, q)[0].sum())
    return total / len(examples)


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


def ppo_rows(report: dict) -> list[tuple[str, str]]:
    """The rows of the table of a PPO stage: (what, its value)."""
    ppo = report["ppo"]
    rows = _won(ppo)
    if ppo.get("proxy") is not None:
        rows.append(("reward", f"{ppo['proxy_before']:.2f} -> {ppo['proxy']:.2f}"))
    rows += _moved(ppo) if "kl" in ppo else []  # a single prompt leaves none to judge by
    rows.append(("forgetting", _percent(report.get("forgetting"))))
    if ppo.get("ratio_first_exact") is not None:
        exact = "exactly 1" if ppo["ratio_first_exact"] else "not exactly 1"
        rows.append(("ratios of the first updates", exact))
    alarms = ppo.get("alarms") or []
    return [*rows, *[(f"alarm, iteration {a['step']:,}", a["text"]) for a in alarms]]


def dpo_rows(report: dict) -> list[tuple[str, str]]:
    """The rows of the table of a DPO stage: (what, its value)."""
    dpo = report["dpo"]
    rows = _won(dpo)
    if dpo.get("accuracy") is not None:
        chosen, rejected = dpo["chosen_logp"], dpo["rejected_logp"]
        rows += [
            (
                "held-out pairs: better reply gained more",
                f"{_percent(dpo['accuracy'])} ({_percent(dpo.get('accuracy_low'))} to"
                f" {_percent(dpo.get('accuracy_high'))})",
            ),
            ("  nats gained, better and worse", f"{chosen:+.2f}, {rejected:+.2f}"),
        ]
    return [*rows, *_moved(dpo), ("forgetting", _percent(report["forgetting"]))]


def _won(figures: dict) -> list[tuple[str, str]]:
    """The rows about who answers better; none without a world."""
    rows = []
    if "win_rate" in figures:
        for name, some in (("at temperature 1", figures), ("greedy", figures["greedy"])):
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
    return rows


def _moved(figures: dict) -> list[tuple[str, str]]:
    """The rows about how far a model has moved from its parent."""
    kl = "-" if figures["kl"] is None else f"{figures['kl']:.2f} nats a reply"
    return [
        ("KL from the parent", kl),
        ("tokens of a reply", f"{figures['length_before']:.1f} -> {figures['length']:.1f}"),
        ("replies in format", _percent(figures["format_compliance"])),
    ]
