"""How the next token of a sequence is chosen."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pysft.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    temperature: 0 takes the most likely token; otherwise the logits are divided by it.
    top_k: keep the k most likely tokens; 0 keeps all.
    top_p: keep the smallest set of tokens whose probabilities add up to p; 1 keeps all.
    seed: the same seed gives the same text.
    repetition: above 1, a reply is less likely to repeat its own words. The logarithm of the
        probability of each token that would begin or continue a word that the reply already has is
        multiplied by this number, so a token that the model is sure of stays. From the first call
        of a tool on there is no penalty, because an answer copies what was found.

    A value out of range raises a UsageError that names it."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    repetition: float = 1.0

    def __post_init__(self):
        if not self.temperature >= 0:
            raise UsageError(f"temperature = {self.temperature} must be 0 (greedy) or more")
        if self.top_k < 0:
            raise UsageError(f"top-k = {self.top_k} must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p = {self.top_p} must be above 0 and at most 1")
        if not 1 <= self.repetition < 1e6:
            raise UsageError(
                f"repetition = {self.repetition} must be 1 (no penalty) or more, below a million"
            )
        if not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"seed = {self.seed!r} must be a whole number, not negative")

    def rules(self) -> tuple[float, float, float]:
        """Return temperature, top_p and repetition as kernels.sample takes them, in float32. Where
        the first two are too small or too large for it, they become the nearest that fit."""
        temperature = min(self.temperature, 1e38)
        temperature = max(temperature, 1e-30) if temperature else 0.0
        return temperature, max(self.top_p, 1e-30), self.repetition

    def most(self) -> int:
        """Return top_k as kernels.sample takes it, in int32."""
        return min(self.top_k, 2**31 - 1)

    def key(self, number: int) -> np.ndarray:
        """Return the key (4,) int32 of the random numbers of sequence `number`."""
        return _key(self.seed, number)


@lru_cache(4096)
def _key(seed: int, number: int) -> np.ndarray:
    sequence = np.random.SeedSequence(seed, spawn_key=(number,))
    return sequence.generate_state(4, np.uint32).view(np.int32)


GREEDY = Sampling()
# How `chat` writes by default. bench/sampling.py measures it beside other settings.
CHAT = Sampling(repetition=2.0)
