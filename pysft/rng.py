"""Where every random number comes from."""

import zlib

import numpy as np


def rng(seed: int, stage: str, purpose: str, step: int = 0) -> np.random.Generator:
    """A generator for one purpose of one step: the same four arguments give the same draws, in any
    order and after any interruption. No generator lives longer than the step that made it, so
    resuming replays nothing and evaluation never disturbs training. (Philox: counter-based.)"""
    words = [seed, zlib.crc32(stage.encode()), zlib.crc32(purpose.encode()), step]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
