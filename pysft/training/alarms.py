"""What goes wrong while a policy is trained on a reward, seen from the figures of its iterations.

Most alarms compare the mean of the last WINDOW iterations with that of the first WINDOW. A figure
has risen or fallen if the difference is above LIMIT standard errors: so it needs no unit, and a
noisy figure needs a larger change. What a reply is worth is also compared with the best WINDOW
iterations so far, because it may rise before it falls."""

import math

import numpy as np

WINDOW = 10  # iterations of a mean
LIMIT = 3.0  # standard errors of a difference that counts
LOST = 0.95  # of its first mean: what a reply is worth has fallen below this
FROM_BEST, BEST = 0.9, 5.0  # the same since its best, in parts of it and in standard errors
SHRUNK = 0.5  # of its first mean: so few tokens of a reply are left
GONE = 0.25  # of its first mean: so few prompts get a reply of their own
SURE = 0.05  # of its first mean: so little entropy is left; where one answer is right, 0.1 is usual
# What a reply can lose while the reward rises, if the reward does not see it: figure -> its name.
WORTH = {
    "gold": "the gold points",
    "compliance": "the share of replies in format",
    "real_words": "the share of real words",
    "distinct_words": "the share of different words",
}


def change(rows: list[dict], name: str, at: int = 0) -> tuple[float, float, float] | None:
    """(mean of a figure in the WINDOW rows from `at`, in the last WINDOW rows, their difference in
    standard errors). None if a row lacks it, or if the two parts overlap."""
    if len(rows) < at + 2 * WINDOW:
        return None
    some = [[row.get(name) for row in part] for part in (rows[at:][:WINDOW], rows[-WINDOW:])]
    if any(x is None for part in some for x in part):
        return None
    first, last = map(np.array, some)
    error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / WINDOW)
    difference = float(last.mean() - first.mean())
    # Between figures that do not vary at all, any difference counts.
    score = difference / max(error, 1e-9 * abs(difference)) if difference else 0.0
    return float(first.mean()), float(last.mean()), score


def loss_of(rows: list[dict], name: str) -> tuple[float, float] | None:
    """(a mean of a figure, its last mean), if it has fallen while the reward has not: since the
    first rows, or since its best WINDOW rows, of which every WINDOW-th are tried. None else."""
    since = change(rows, name)
    if since is None:
        return None
    if since[1] < LOST * since[0] and since[2] < -LIMIT:
        return since[:2]
    starts = range(0, len(rows) - 2 * WINDOW + 1, WINDOW)
    tried = [(change(rows, name, at), at) for at in starts]
    best, at = max((x, at) for x, at in tried if x is not None)
    fell = best[1] < FROM_BEST * best[0] and best[2] < -BEST
    return best[:2] if fell and change(rows, "reward", at)[2] > -LIMIT else None


def alarms(rows: list[dict], kl_limit: float) -> dict[str, str]:
    """{name: sentence with its figures} of what is wrong after the last of some iterations.

    rows: the figures of each. kl_limit: nats per reply that the KL may have; 0 is no limit.

    kl               the KL from the reference is above its limit
    reward hacking   the reward has risen, and something in WORTH has fallen (loss_of)
    short replies    replies have shrunk below SHRUNK of their length
    entropy          the entropy has fallen below SURE
    same replies     the share of prompts with a first reply of their own has fallen below GONE"""
    found = {}
    last = rows[-WINDOW:]
    kl = float(np.mean([row["kl"] for row in last])) if last else 0.0
    if kl_limit and len(last) == WINDOW and kl > kl_limit:
        found["kl"] = f"the KL from the reference is {kl:.1f} nats a reply, above {kl_limit:g}"
    if (reward := change(rows, "reward")) and reward[2] > LIMIT:
        seen = {what: loss_of(rows, name) for name, what in WORTH.items()}
        lost = [f"{what} fell from {x[0]:.2f} to {x[1]:.2f}" for what, x in seen.items() if x]
        if lost:
            found["reward hacking"] = (
                f"the reward rose from {reward[0]:.2f} to {reward[1]:.2f}, but {', '.join(lost)}"
            )
    shrinks = [
        ("short replies", "length", SHRUNK, "replies have {1:.1f} tokens, {0:.1f} at first"),
        ("entropy", "entropy", SURE, "the entropy is {1:.2f} nats a token, {0:.2f} at first"),
        ("same replies", "distinct_first", GONE, "{1:.0%} of the prompts get a reply of their own"),
    ]
    for name, figure, share, sentence in shrinks:
        seen = change(rows, figure)
        if seen and seen[1] < share * seen[0] and seen[2] < -LIMIT:
            found[name] = sentence.format(*seen)
    return found
