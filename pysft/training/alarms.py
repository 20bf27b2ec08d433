"""What goes wrong while a policy is trained on a reward, seen from the figures of its iterations.

Each alarm compares the mean of the last WINDOW iterations with that of the first WINDOW, which are
nearly the model that the training begins from. A figure has risen or fallen if the difference is
above LIMIT standard errors: so it needs no unit, and a noisy figure needs a larger change."""

import math

import numpy as np

WINDOW = 10  # iterations of a mean
LIMIT = 3.0  # standard errors of a difference that counts
LOST = 0.95  # of its first mean: what a reply is worth has fallen below this
SHRUNK = 0.5  # of its first mean: so few tokens of a reply are left
GONE = 0.25  # of its first mean: so few different replies are left
SURE = 0.05  # of its first mean: so little entropy is left; where one answer is right, 0.1 is usual
# What a reply can lose while the reward rises, if the reward does not see it: figure -> its name.
WORTH = {
    "gold": "the gold points",
    "compliance": "the share of replies in format",
    "real_words": "the share of real words",
    "distinct_words": "the share of different words",
}


def change(rows: list[dict], name: str) -> tuple[float, float, float] | None:
    """(mean of a figure in the first WINDOW rows, in the last, their difference in standard
    errors). None if a row lacks it or if there are fewer than 2 WINDOW rows."""
    if len(rows) < 2 * WINDOW:
        return None
    some = [[row.get(name) for row in part] for part in (rows[:WINDOW], rows[-WINDOW:])]
    if any(x is None for part in some for x in part):
        return None
    first, last = map(np.array, some)
    error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / WINDOW)
    difference = float(last.mean() - first.mean())
    # Between figures that do not vary at all, any difference counts.
    score = difference / max(error, 1e-9 * abs(difference)) if difference else 0.0
    return float(first.mean()), float(last.mean()), score


def alarms(rows: list[dict], kl_limit: float) -> dict[str, str]:
    """{name: sentence with its figures} of what is wrong after the last of some iterations.

    rows: the figures of each. kl_limit: nats per reply that the KL may have; 0 is no limit.

    kl               the KL from the reference is above its limit
    reward hacking   the reward has risen, and something in WORTH has fallen below LOST
    short replies    replies have shrunk below SHRUNK of their length
    entropy          the entropy has fallen below SURE
    same replies     the share of different replies has fallen below GONE"""
    found = {}
    last = rows[-WINDOW:]
    kl = float(np.mean([row["kl"] for row in last])) if last else 0.0
    if kl_limit and len(last) == WINDOW and kl > kl_limit:
        found["kl"] = f"the KL from the reference is {kl:.1f} nats a reply, above {kl_limit:g}"
    if (reward := change(rows, "reward")) and reward[2] > LIMIT:
        lost = []
        for name, what in WORTH.items():
            worth = change(rows, name)
            if worth and worth[1] < LOST * worth[0] and worth[2] < -LIMIT:
                lost.append(f"{what} fell from {worth[0]:.2f} to {worth[1]:.2f}")
        if lost:
            found["reward hacking"] = (
                f"the reward rose from {reward[0]:.2f} to {reward[1]:.2f}, but {', '.join(lost)}"
            )
    shrinks = [
        ("short replies", "length", SHRUNK, "replies have {1:.1f} tokens, {0:.1f} at first"),
        ("entropy", "entropy", SURE, "the entropy is {1:.2f} nats a token, {0:.2f} at first"),
        ("same replies", "distinct", GONE, "{1:.0%} of the replies differ, {0:.0%} at first"),
    ]
    for name, figure, share, sentence in shrinks:
        seen = change(rows, figure)
        if seen and seen[1] < share * seen[0] and seen[2] < -LIMIT:
            found[name] = sentence.format(*seen)
    return found
