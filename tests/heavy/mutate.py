"""Damage checkpoints at random: each must be read exactly as it was written, or refused with one
sentence, within a bound of memory.

    python tests/heavy/mutate.py [FILES (100000)] [SEED (0)]

Every second damaged checkpoint has an undamaged one of an earlier step beside it, which must be
taken instead."""

import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from pysft.errors import PysftError
from pysft.nn import safetensors
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.run import checkpoints

ROOM = 64 << 20  # bytes that the process may grow by while it reads damaged files of 10 kB
STEP, BEFORE = 7, 3  # steps of the damaged checkpoint, and of the undamaged one beside it
UNTOUCHED = 9.0  # what weights and moments hold before a checkpoint is read into them

# fmt: off
WORDS = [
    b'"dtype"', b'"shape"', b'"data_offsets"', b'"F32"', b'"F64"', b'"__metadata__"', b'"sha256"',
    b'"steps"', b"[", b"]", b"{", b"}", b",", b"-1", b"1e400", b"99999999999999999999", b"null",
    b"NaN", b"\0", b"\xff", b"[" * 3000,
]
# fmt: on


def damage(data: bytes, dice: random.Random) -> bytes:
    """A copy with one to four changes, most of them in the header: a flipped bit, a piece removed,
    repeated or replaced by a word of the format, the end cut off or repeated, or another header
    length."""
    for _ in range(dice.randint(1, 4)):
        header = len(data)
        if len(data) >= 8:
            header = min(header, 8 + int.from_bytes(data[:8], "little"))
        at = dice.randrange(max(1, header if dice.random() < 0.7 else len(data)))
        length, way = dice.choice([1, 1, 2, 8, 40]), dice.randrange(7)
        if way == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]
        elif way == 1:
            data = data[:at] + data[at + length :]
        elif way == 2:
            data = data[:at] + data[at : at + length] * 2 + data[at + length :]
        elif way == 3:
            data = data[:at] + dice.choice(WORDS) + data[at + dice.choice([0, length]) :]
        elif way == 4:
            data = data[:at]
        elif way == 5:
            data += data[-length:]
        else:
            lengths = [2**63, 2**64 - 1, 0, 7, header, max(0, header - 9), len(data)]
            data = dice.choice(lengths).to_bytes(8, "little") + data[8:]
    return data


class Subject:
    """A small model with its moments, and its checkpoints in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = GPT(GPTConfig(5, 3, 1, 1, 2), rng=np.random.default_rng(0))
        self.adam = AdamW(self.model)
        self.arenas = {"w": self.model.params, "m": self.adam.m, "v": self.adam.v}
        self.adam.steps, self.adam.m.flat[:] = BEFORE, 0.5
        older = checkpoints.save_checkpoint(folder / "before", self.model, self.adam)
        self.older = (older / "state.safetensors").read_bytes()
        self.adam.steps, self.adam.m.flat[:] = STEP, 0.25
        self.path = checkpoints.save_checkpoint(folder, self.model, self.adam) / "state.safetensors"
        self.whole = self.path.read_bytes()
        self.expected = {n: a.tobytes() for n, a in safetensors.load(self.path)[0].items()}

    def write(self, data: bytes, older_beside: bool) -> None:
        """Put `data` in the checkpoint's place, and an undamaged older one beside it if asked."""
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_bytes(data)
        beside = self.folder / "checkpoints" / str(BEFORE)
        if older_beside:
            beside.mkdir(exist_ok=True)
            (beside / "state.safetensors").write_bytes(self.older)
        elif beside.exists():
            shutil.rmtree(beside)

    def read(self, older_beside: bool) -> str:
        """Read the checkpoint. What became of it: "read", "left" (the older one was taken) or the
        name of the error that refused it; an AssertionError if none of these went as it should."""
        for arena in self.arenas.values():
            arena.flat[:] = UNTOUCHED
        self.adam.steps = 0
        try:
            assert checkpoints.load_checkpoint(self.folder, self.model, self.adam)
        except PysftError as error:
            text = str(error)
            assert text and "\n" not in text, text
            assert not older_beside, f"refused, with an undamaged checkpoint beside it: {text}"
            for arena in self.arenas.values():
                assert (arena.flat == UNTOUCHED).all(), "a part of a refused file was read"
            return type(error).__name__
        if self.adam.steps == BEFORE and older_beside:
            assert (self.adam.m.flat[:2] == 0.5).all(), "other moments than the older checkpoint's"
            damaged = self.path.parent.with_name(f"{STEP}.damaged")
            assert not self.path.exists() and damaged.exists(), "the damaged one still stands there"
            return "left"
        found = {
            f"{k}.{n}": a.tobytes() for k, arena in self.arenas.items() for n, a in arena.items()
        }
        assert found == self.expected and self.adam.steps == STEP, "other numbers were read"
        return "read"


def main(files=100_000, seed=0):
    dice, began, counts = random.Random(seed), time.monotonic(), Counter()
    with tempfile.TemporaryDirectory() as name:
        subject = Subject(Path(name))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for number in range(files):
            older_beside = number % 2 == 1
            subject.write(damage(subject.whole, dice), older_beside)
            counts[subject.read(older_beside)] += 1
    read, left = counts.pop("read", 0), counts.pop("left", 0)
    print(
        f"{files:,} damaged checkpoints in {time.monotonic() - began:.0f} s: {read:,} read exactly"
        f" as written, {left:,} replaced by the one before, refused "
        + ", ".join(f"{n:,} ({kind})" for kind, n in counts.items())
        + f"; the process grew by at most {ROOM >> 20} MiB"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
