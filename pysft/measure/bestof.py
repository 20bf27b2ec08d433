"""What the best of n replies gains: by the score that it was chosen by (the proxy), and in truth
(the gold)."""

import numpy as np

from pysft.inference.best import expected_best, kl_bound
from pysft.measure.alignment import interval

FITS = 0.9  # R^2 from which a curve is said to describe the points
POINTS = 4  # the fewest rows that a curve is fitted to; it has two numbers to choose


def best_of_figures(
    scores: list[list[float | None]],
    sound: list[list[bool]],
    golds: list[list[float]],
    subjects: list[str],
) -> dict:
    """Return the figures of best of n for n = 1, 2, 4, ..., N.

    scores, sound: of N replies to each of P prompts, as candidates.Best has them. golds: what each
    reply is worth in truth. All three (P, N). subjects (P,): whom or what each prompt is about. A
    reply that is not sound is chosen only if no sound one is there, as in a chat. Its proxy is its
    score, or without a score the lowest one of all.

    prompts, samples   P and N
    unsound            share of replies that were cut off, are empty or hold a control token
    rows               [{"n", "kl_bound", "proxy", "proxy_low", "proxy_high", "gold", "gold_low",
                       "gold_high"}]: the expected proxy and gold of the best of n, means over
                       prompts, with intervals of 95 % in which a subject counts as one observation
    fit                gao_fit() of the rows"""
    sound, golds = np.asarray(sound, bool), np.asarray(golds, np.float64)
    known = np.array([[np.nan if s is None else s for s in row] for row in scores], np.float64)
    has_score = ~np.isnan(known)
    low, high = (known[has_score].min(), known[has_score].max()) if has_score.any() else (0.0, 0.0)
    proxy = np.where(has_score, known, low)
    # Three ranges, one above the other: without a score, cut off, sound.
    order = proxy + (has_score.astype(int) + sound) * (high - low + 1)
    P, N = golds.shape
    rows = []
    for n in (2**i for i in range(N.bit_length())):
        row = {"n": n, "kl_bound": kl_bound(n)}
        for name, values in (("proxy", proxy), ("gold", golds)):
            each = [expected_best(key, value, n) for key, value in zip(order, values)]
            row[name] = float(np.mean(each))
            row[f"{name}_low"], row[f"{name}_high"] = interval(each, subjects)
        rows.append(row)
    return {
        "prompts": P,
        "samples": N,
        "unsound": float(1 - sound.mean()),
        "rows": rows,
        "fit": gao_fit([r["kl_bound"] for r in rows], [r["gold"] for r in rows]),
    }


def gao_fit(kl, gold) -> dict | None:
    """Return the least-squares fit of gold - gold[0] = d (alpha - beta d), where d = sqrt(kl).

    kl, gold: of rising n, from n = 1 on, so that kl[0] = 0. The curve is that of best of n in Gao
    et al. (Scaling laws for reward model overoptimization, 2022). None for fewer than POINTS rows.

    alpha, beta   of the curve
    r2            share of the spread of the gold that the curve explains; None if the gold is the
                  same for all n
    peak          the d at which the curve is highest, None if it never falls"""
    if len(kl) < POINTS:
        return None
    d, gain = np.sqrt(kl), np.asarray(gold, np.float64) - gold[0]
    terms = np.stack([d, -(d**2)], axis=1)
    alpha, beta = np.linalg.lstsq(terms, gain, rcond=None)[0].tolist()
    left = float(((gain - terms @ [alpha, beta]) ** 2).sum())
    total = float(((gain - gain.mean()) ** 2).sum())
    return {
        "alpha": alpha,
        "beta": beta,
        "r2": 1 - left / total if total else None,
        "peak": alpha / (2 * beta) if alpha > 0 and beta > 0 else None,
    }


def best_of_lines(figures: dict) -> list[str]:
    """Return the table for people, line by line."""
    lines = [
        f"best of n: {figures['samples']:,} replies to each of {figures['prompts']:,} sealed"
        f" questions, of which {figures['unsound']:.1%} are cut off, empty or hold a control token",
        f"{'n':>5} {'KL at most':>11}   {'proxy':<24} gold",
    ]
    for row in figures["rows"]:
        shown = [_mean(row, name) for name in ("proxy", "gold")]
        lines.append(f"{row['n']:>5} {row['kl_bound']:>11.3f}   {shown[0]:<24} {shown[1]}")
    return [*lines, _fit_line(figures["fit"])]


def _mean(row: dict, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    spread = "" if low is None else f" ({low:.3f} to {high:.3f})"
    return f"{row[name]:.3f}{spread}"


def _fit_line(fit: dict | None) -> str:
    if fit is None:
        return f"no curve is fitted to fewer than {POINTS} rows; draw more replies"
    curve = f"gold - gold of one = d (alpha - beta d), d = sqrt(KL): alpha {fit['alpha']:.4f}, beta"
    curve += f" {fit['beta']:.4f}"
    if fit["r2"] is None:
        return f"{curve}; the gold is the same for all n"
    if fit["r2"] < FITS:
        return f"{curve}, R^2 {fit['r2']:.3f}: the curve does not fit"
    if fit["peak"] is None:
        return f"{curve}, R^2 {fit['r2']:.3f}; it never falls"
    top = fit["peak"] ** 2
    return f"{curve}, R^2 {fit['r2']:.3f}; the curve is highest at a KL of {top:.2f} nats"
