"""Figures of many numbers or kinds: how they spread."""

import math
from collections import Counter

import numpy as np


def spread(values) -> dict:
    """min, median, p95 and max of some whole numbers; each None if there is no number."""
    values = np.asarray(values)
    if not len(values):
        return {"min": None, "median": None, "p95": None, "max": None}
    return {
        "min": int(values.min()),
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": int(values.max()),
    }


def diversity(counts: Counter, top: int = 5) -> dict:
    """How concentrated a distribution is.

    kinds: how many there are. effective: exp of the entropy, the number of equally frequent kinds
    with the same entropy. top: [kind, share] of the most frequent ones."""
    total = sum(counts.values())
    shares = [n / total for n in counts.values()]
    return {
        "kinds": len(counts),
        "effective": math.exp(-sum(p * math.log(p) for p in shares)) if total else 0.0,
        "top": [[kind, n / total] for kind, n in counts.most_common(top)],
    }
