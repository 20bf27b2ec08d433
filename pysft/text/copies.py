"""Which new rows copy one of the seeds that they were written from."""

import re

from pysft.text.near_duplicates import jaccard

WORD = re.compile(r"[^\W\d_]{3,}|\d+")  # a word of three letters or more, or a number


class Copies:
    """Tells the copies of some seeds.

    seeds: [(prompt, reply)]. near: the share of common shingles (near_duplicates.jaccard) from
    which a row is near to a seed.

    A row copies a seed in two cases:

    - its prompt and its reply are those of the seed, word for word;
    - it is near to the seed, and has no word of three letters or more and no number that the seed
      lacks: "Sing of the moon, sing!" beside "Sing of the moon".

    A row that differs from a seed in a name is near to it by its characters, and is still new: in
    an invented world, "What pet has Ada Brook?" and "What pet has Ivo Brook?" ask for different
    facts. So one new word makes a row new. The case of letters does not count."""

    def __init__(self, seeds: list[tuple[str, str]], near: float):
        self._near = near
        self._whole = {_stripped(*seed) for seed in seeds}
        self._seeds = [(_joined(*seed), _words(*seed)) for seed in seeds]

    def has(self, prompt: str, reply: str) -> bool:
        """True if this row copies a seed."""
        if _stripped(prompt, reply) in self._whole:
            return True
        words, text = _words(prompt, reply), _joined(prompt, reply)
        return any(  # words first: that is quick, and rules out nearly all seeds
            words <= known and jaccard(text, seed) >= self._near for seed, known in self._seeds
        )


def _stripped(prompt: str, reply: str) -> tuple[str, str]:
    return prompt.strip(), reply.strip()


def _joined(prompt: str, reply: str) -> str:
    return "\n".join(_stripped(prompt, reply)).casefold()


def _words(prompt: str, reply: str) -> frozenset[str]:
    return frozenset(WORD.findall(_joined(prompt, reply)))
