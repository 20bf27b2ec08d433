"""The random numbers of training, of generated data and of measurements: each draw follows from a
seed, a stage, a purpose and a step. Sampling of replies has its own generators
(inference/generate.py)."""

import zlib

import numpy as np


def rng(seed: int, stage: str, purpose: str, step: int = 0) -> np.random.Generator:
    """Return the random generator for one purpose in one step.

    The same four arguments give the same draws, whatever was drawn before. No generator outlives
    the step that made it. So a resumed run does not have to repeat earlier draws, and evaluation
    never disturbs training. The generator is NumPy's Philox, seeded with all four arguments."""
    words = [seed, zlib.crc32(stage.encode()), zlib.crc32(purpose.encode()), step]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
