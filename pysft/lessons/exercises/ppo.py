"""PPO: the reward and the advantage of each token, and the clipped loss of the policy."""

import numpy as np

from pysft.lessons.problem import Problem

IGNORE = -100

# -------------------------------------------------------------------------------- the rewards


def rewards_arguments(rng, sizes) -> dict:
    """Tokens that have become likelier since the reference, and others that have not."""
    nll, sign = rng.uniform(0.3, 3, sizes["T"]), rng.choice([-1, 1], sizes["T"])
    nll_ref = nll + sign * rng.uniform(0.2, 1, sizes["T"])
    return {"score": sizes["score"], "nll": nll, "nll_ref": nll_ref, "beta": sizes["beta"]}


def rewards(arguments: dict, wrong: frozenset) -> dict:
    """token_rewards, with these mistakes."""
    score, nll, nll_ref, beta = arguments.values()
    T, u = len(nll), nll_ref - nll
    if "reference-left-out" in wrong:
        u = -nll
    elif "probabilities-for-logarithms" in wrong:
        u = np.exp(-nll) - np.exp(-nll_ref)
    if "price-with-the-wrong-sign" in wrong:
        u = -u
    if "price-never-negative" in wrong:
        u = np.expm1(-u) + u
    if "mean-price" in wrong:
        u = u / T
    if "whole-price-at-the-last-token" in wrong:
        u = np.append(np.zeros(T - 1), u.sum())
    elif "price-of-the-last-token-alone" in wrong:
        u = np.append(np.zeros(T - 1), u[-1])
    if "beta-left-out" in wrong:
        beta = 1.0
    found = -beta * u
    if "beta-times-score" in wrong:
        score = beta * score
    if "score-at-every-token" in wrong:
        found = found + score
    elif "score-shared-out" in wrong:
        found = found + score / T
    elif "score-at-the-first-token" in wrong:
        found[0] += score
    elif "price-of-the-last-token-lost" in wrong:
        found[-1] = score
    else:
        found[-1] += score
    return {"rewards": found}


REWARDS = Problem(
    function="token_rewards",
    skeleton='''def token_rewards(score, nll, nll_ref, beta):
    """Return rewards (T,) of the T tokens of a reply with this score. nll, nll_ref (T,): under the
    policy that wrote them and under the reference."""
''',
    arguments=rewards_arguments,
    answer=rewards,
    sizes=({"T": 6, "score": 1.7, "beta": 0.2}, {"T": 4, "score": -0.9, "beta": 0.45}),
    returns=("rewards",),
    mistakes=(
        "price-with-the-wrong-sign",
        "score-at-every-token",
        "score-shared-out",
        "score-at-the-first-token",
        "price-of-the-last-token-lost",
        "price-of-the-last-token-alone",
        "whole-price-at-the-last-token",
        "mean-price",
        "price-never-negative",
        "reference-left-out",
        "probabilities-for-logarithms",
        "beta-left-out",
        "beta-times-score",
    ),
)

# ------------------------------------------------------------------------------ the advantages


def gae_arguments(rng, sizes) -> dict:
    """No value is near 0, where nobody sees that it was left out."""
    rewards, sign = rng.standard_normal(sizes["T"]), rng.choice([-1, 1], sizes["T"])
    arrays = {"rewards": rewards, "values": sign * rng.uniform(0.5, 1.5, sizes["T"])}
    return arrays | {"gamma": sizes["gamma"], "lam": sizes["lam"]}


def gae(arguments: dict, wrong: frozenset) -> dict:
    """gae, with these mistakes."""
    rewards, values, gamma, lam = arguments.values()
    after = np.append(values[1:], values[-1] if "value-after-the-end" in wrong else 0.0)
    before = values
    if "values-one-early" in wrong:
        before, after = np.append(0.0, values[:-1]), values
    if "next-value-left-out" in wrong:
        after = 0 * after
    if "own-value-left-out" in wrong:
        before = 0 * before
    decay = gamma * lam
    if "gamma-and-lam-swapped" in wrong:
        gamma = lam
    if "gamma-left-out-of-delta" in wrong:
        gamma = 1.0
    deltas = rewards + gamma * after - before
    if "gamma-left-out-of-the-sum" in wrong:
        decay = lam
    elif "lam-left-out" in wrong:
        decay = arguments["gamma"]
    elif "deltas-alone" in wrong:
        decay = 0.0
    forward = "forward-in-time" in wrong
    found, sum_so_far = np.empty_like(deltas), 0.0
    for t in range(len(deltas)) if forward else reversed(range(len(deltas))):
        found[t] = sum_so_far = deltas[t] + decay * sum_so_far
    if "value-added" in wrong:
        found = found + values
    if "whitened" in wrong:
        found = (found - found.mean()) / found.std()
    return {"advantage": found}


GAE = Problem(
    function="gae",
    skeleton='''def gae(rewards, values, gamma=1.0, lam=0.95):
    """Return advantage (T,) of the T tokens of a reply, given rewards and values (T,)."""
''',
    arguments=gae_arguments,
    answer=gae,
    sizes=({"T": 6, "gamma": 0.9, "lam": 0.7}, {"T": 4, "gamma": 0.8, "lam": 0.95}),
    returns=("advantage",),
    mistakes=(
        "forward-in-time",
        "deltas-alone",
        "next-value-left-out",
        "own-value-left-out",
        "values-one-early",
        "value-after-the-end",
        "gamma-and-lam-swapped",
        "gamma-left-out-of-delta",
        "gamma-left-out-of-the-sum",
        "lam-left-out",
        "value-added",
        "whitened",
    ),
)

# ------------------------------------------------------------------------ the policy's loss


def loss_arguments(rng, sizes) -> dict:
    """Three replies to prompts of two rows, one and two. The first six graded rows, in a random
    order, have a ratio above, below and inside its bounds, each with an advantage of both signs. No
    ratio is near a bound, where the loss has a kink. Rows that are not graded hold numbers too, but
    for nll."""
    lengths = np.array(sizes["lengths"])
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    N = int(cu_seqlens[-1])
    labels = rng.integers(0, 9, N).astype(np.int32)
    for start, n in zip(cu_seqlens, (2, 1, 2)):
        labels[start : start + n] = IGNORE
    rows = rng.permutation(np.flatnonzero(labels != IGNORE))
    gained = rng.uniform(0.35, 0.8, N) * rng.choice([-1, 1], N)  # ln of the ratio
    advantage = rng.uniform(0.5, 1.5, N) * rng.choice([-1, 1], N)
    advantage[rows[:6]] = np.abs(advantage[rows[:6]]) * [1, 1, 1, -1, -1, -1]
    for i, low, high in ((0, 0.35, 0.8), (1, -0.8, -0.35), (2, -0.12, 0.12)):
        gained[rows[[i, i + 3]]] = rng.uniform(low, high, 2)
    nll = np.where(labels == IGNORE, 0.0, rng.uniform(0.5, 3, N))
    given = {"nll": nll, "nll_old": nll + gained, "advantage": advantage, "labels": labels}
    return given | {"cu_seqlens": cu_seqlens, "clip": sizes["clip"]}


def policy_loss(arguments: dict, wrong: frozenset) -> dict:
    """policy_loss, with these mistakes."""
    nll, nll_old, A, labels, cu_seqlens, clip = arguments.values()
    rows = labels != IGNORE
    if "advantage-negated" in wrong:
        A = -A
    gained = 0 * nll if "old-nll-recomputed" in wrong else nll_old - nll
    if "ratio-inverted" in wrong:  # and the slope as if it were right
        gained = -gained
    ratio, low, high = np.exp(gained), 1 - clip, 1 + clip
    slope = -np.ones_like(ratio) if "ratio-left-out-of-dnll" in wrong else -ratio
    if "derivative-by-logp" in wrong:
        slope = -slope
    if "clipped-from-above-alone" in wrong:
        low = -np.inf
    plain, bounded = -A * ratio, -A * np.clip(ratio, low, high)
    inside = (ratio >= low) & (ratio <= high)
    losses, goes_on = np.maximum(plain, bounded), plain >= bounded
    if "minimum-for-maximum" in wrong:
        losses, goes_on = np.minimum(plain, bounded), inside | (plain < bounded)
    elif "clipped-term-alone" in wrong:
        losses, goes_on = bounded, inside
    elif "clip-left-out" in wrong:
        losses, goes_on = plain, np.ones_like(inside)
    if "minimum-in-the-loss-alone" in wrong:
        losses = np.minimum(plain, bounded)
    if "gradient-not-clipped" in wrong:
        goes_on = np.ones_like(inside)
    elif "no-gradient-outside-the-bounds" in wrong:
        goes_on = inside
    elif "no-gradient-inside-the-bounds" in wrong:  # where both terms are equal
        goes_on = plain > bounded
    share = rows / rows.sum()
    if "mean-of-each-reply" in wrong:
        graded = np.add.reduceat(rows, cu_seqlens[:-1], dtype=np.int64)
        share = rows / np.repeat(graded * len(graded), np.diff(cu_seqlens))
    dnll = np.where(goes_on, -A * slope, 0.0) * share
    return {"loss": np.array(losses @ share), "dnll": dnll}


LOSS = Problem(
    function="policy_loss",
    skeleton='''def policy_loss(nll, nll_old, advantage, labels, cu_seqlens, clip=0.2):
    """Return (loss, dnll): the mean over all graded rows, a number, and its derivative (N,) by nll
    (N,). nll_old, advantage, labels (N,); cu_seqlens (S+1,) of the replies."""
''',
    arguments=loss_arguments,
    answer=policy_loss,
    sizes=(
        {"N": 17, "graded": 12, "lengths": (5, 8, 4), "clip": 0.2},
        {"N": 19, "graded": 14, "lengths": (9, 4, 6), "clip": 0.25},
    ),
    returns=("loss", "dnll"),
    loss=lambda arguments: float(policy_loss(arguments, frozenset())["loss"]),
    of={"dnll": "nll"},
    mistakes=(
        "advantage-negated",
        "derivative-by-logp",
        "ratio-inverted",
        "old-nll-recomputed",
        "clip-left-out",
        "clipped-term-alone",
        "minimum-for-maximum",
        "minimum-in-the-loss-alone",
        "clipped-from-above-alone",
        "gradient-not-clipped",
        "no-gradient-outside-the-bounds",
        "no-gradient-inside-the-bounds",
        "ratio-left-out-of-dnll",
        "mean-of-each-reply",
    ),
)

PROBLEMS = (REWARDS, GAE, LOSS)
