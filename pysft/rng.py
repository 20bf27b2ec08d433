"""Where every random number comes from."""

import zlib

import numpy as np


def rng(seed: int, stage: str, purpose: str, step: int = 0) -> np.random.Generator:
    """Return the random generator for one purpose in one step.

    The same four arguments give the same draws, in any order and after any interruption. No
    generator outlives the step that made it, so resuming has nothing to replay, and evaluation
    never disturbs training. The generator is Philox, which is counter-based."""
    words = [seed, zlib.crc32(stage.encode()), zlib.crc32(purpose.encode()), step]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
