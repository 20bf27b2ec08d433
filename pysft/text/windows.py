"""Windows of base text: stretches of a corpus as examples, of which every row is graded."""

import numpy as np

from pysft.batch import BASE, Example


def window(corpus: np.ndarray, start: int, length: int) -> Example:
    """`length` rows of base text from `start`; the label of each is the token after it."""
    return Example(
        corpus[start : start + length],
        corpus[start + 1 : start + length + 1],
        f"corpus, token {start}",
        BASE,
    )


def draw_windows(
    corpus: np.ndarray, count: int, length: int, rng: np.random.Generator
) -> list[Example]:
    """`count` windows of `length` rows, drawn uniformly, with replacement."""
    return [window(corpus, int(s), length) for s in rng.integers(0, len(corpus) - length, count)]


def tile_windows(corpus: np.ndarray, length: int) -> list[Example]:
    """The whole text in windows of `length` rows that do not overlap, so every target comes exactly
    once. The last window is shorter."""
    return [
        window(corpus, s, min(length, len(corpus) - 1 - s))
        for s in range(0, len(corpus) - 1, length)
    ]
