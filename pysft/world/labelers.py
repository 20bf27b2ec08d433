"""Simulated labelers: they see the truth about a reply, with the errors that people make.

    scores("ann", [3, 1, 3], [20, 31, 24], seed=1, number=0)    [3, 1, 3], or [1, 3, 1] by mistake

A labeler is attentive or guesses, once for each prompt. Attentive, she sees the gold points as they
are. Guessing, she shuffles the different points among the kinds of replies that have them. Replies
of equal gold look equal to her in both cases.

Let q be the share of prompts that she is attentive to. Of two replies that differ in gold she then
prefers the better one with probability p = q + (1 - q) / 2, however far apart they are and whatever
else she is shown: a uniform shuffle puts each two in either order equally often. Two labelers agree
on such a pair with probability p^2 + (1 - p)^2 = (1 + q^2) / 2. InstructGPT's labelers agreed in
72.6 % (Ouyang et al. 2022), so q = 0.672 and p = 0.836. Her errors about one prompt come together:
that is the price of p being exact for every pair."""

import math

from pysft.rng import rng

AGREEMENT = 0.726  # how often two labelers prefer the same one of two replies that differ in gold
ATTENTION = math.sqrt(2 * AGREEMENT - 1)  # q above
RIGHT = (1 + ATTENTION) / 2  # p above
LABELERS = ("ann", "ben", "cora", "lena")
LONG = "lena"  # prefers the longer reply
CHARACTERS = 20  # so many more count for her as much as a point of gold
TWICE = 10  # one prompt in so many goes to two labelers

ANSWERABLE = {"right": 3, "refused": 2, "wrong": 1, "malformed": 0}
UNANSWERABLE = {"refused": 3, "wrong": 1, "malformed": 0}


def gold(verdict: str, answerable: bool) -> int:
    """Return the points of a verdict of the exact judge, 0 to 3. answerable: False for a question
    that nobody can answer, to which a refusal is the right reply."""
    return (ANSWERABLE if answerable else UNANSWERABLE)[verdict]


def seen(golds: list[int], g) -> list[int]:
    """Return the points that a labeler sees in replies with these gold points. g: her random
    generator for this prompt."""
    points = sorted(set(golds))
    if g.random() < ATTENTION:
        return list(golds)
    shuffled = dict(zip(points, (points[i] for i in g.permutation(len(points)).tolist())))
    return [shuffled[point] for point in golds]


def scores(name: str, golds: list[int], lengths: list[int], seed: int, number: int) -> list[int]:
    """Return what a labeler thinks of each reply to a prompt. Higher is better, and replies with
    equal scores tie.

    lengths: of the replies, in characters. They count for LONG alone, who ties only replies of
    equal length. number: that of the prompt. The same seed, labeler and number give the same
    scores."""
    points = seen(golds, rng(seed, "labelers", name, number))
    if name != LONG:
        return points
    most = max(lengths, default=0) + 1
    # Where points and length weigh the same, the longer reply is the better one.
    return [(CHARACTERS * p + n) * most + n for p, n in zip(points, lengths)]


def turn(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Return which of the labelers rank prompt `number`: one of them in turn, and for one prompt in
    TWICE a second one too, so that their agreement can be measured. In the long run each two meet
    equally often."""
    tens = number // TWICE
    first = (number + tens) % len(names)
    if number % TWICE or len(names) == 1:
        return (names[first],)
    second = (first + 1 + tens // len(names) % (len(names) - 1)) % len(names)
    return names[first], names[second]
