"""Damage checkpoints at random, as often as asked: each is read as it was meant, or refused in a
sentence, within a bound of memory.

    python tests/mutate.py [FILES (100000)] [SEED (0)]"""

import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pysft import run
from pysft.errors import PysftError
from pysft.nn import safetensors
from pysft.nn.model import GPT, GPTConfig
from pysft.nn.optim import AdamW

ROOM = 64 << 20  # bytes that reading a damaged file of 10 kB may take beside what the process had
WORDS = [
    b'"dtype"',
    b'"shape"',
    b'"data_offsets"',
    b'"F32"',
    b'"F64"',
    b"[",
    b"]",
    b"{",
    b"}",
    b"-1",
    b"1e400",
    b"99999999999999999999",
    b"null",
    b'"__metadata__"',
    b'"sha256"',
    b'"steps"',
    b"\0",
    b"\xff",
    b",",
    b"NaN",
    b"[" * 3000,
]


def mutated(data: bytes, dice: random.Random) -> bytes:
    """One to four changes: a bit, a piece cut out, doubled or moved, a word of the format put in,
    the end cut off or grown."""
    for _ in range(dice.randint(1, 4)):
        header = (
            min(len(data), 8 + int.from_bytes(data[:8], "little")) if len(data) >= 8 else len(data)
        )
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
        else:  # the header's length says something else, or what follows it has moved
            data = (
                dice.choice(
                    [2**63, 2**64 - 1, 0, 7, header, max(0, header - 9), len(data)]
                ).to_bytes(8, "little")
                + data[8:]
            )
    return data


def main(files=100_000, seed=0):
    dice, began = random.Random(seed), time.monotonic()
    model = GPT(GPTConfig(5, 3, 1, 1, 2), rng=np.random.default_rng(0))
    adam = AdamW(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adam.steps, adam.m.flat[:] = 3, 0.5
        run.save_checkpoint(folder / "before", model, adam)
        adam.steps, adam.m.flat[:] = 7, 0.25
        path = run.save_checkpoint(folder, model, adam) / "state.safetensors"
        whole, older = (
            path.read_bytes(),
            (folder / "before" / "checkpoints" / "3" / "state.safetensors").read_bytes(),
        )
        meant = {n: a.tobytes() for n, a in safetensors.load(path)[0].items()}
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + ROOM, resource.RLIM_INFINITY))
        read, back, refused, untouched = 0, 0, {}, {9.0}
        for number in range(files):
            data = mutated(whole, dice)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            beside = (
                folder / "checkpoints" / "3"
            )  # every second time there is a whole one to go back to
            if number % 2:
                beside.mkdir(exist_ok=True)
                (beside / "state.safetensors").write_bytes(older)
            elif beside.exists():
                shutil.rmtree(beside)
            for arena in (model.params, adam.m, adam.v):
                arena.flat[:] = 9
            adam.steps = 0
            try:
                assert run.load_checkpoint(folder, model, adam)
                if adam.steps == 3 and number % 2:
                    assert (
                        (adam.m.flat[:2] == 0.5).all()
                        and not path.exists()
                        and path.parent.with_name("7.damaged").exists()
                    )
                    back += 1
                    continue
                read += 1
                now = {
                    f"{part}.{n}": a.tobytes()
                    for part, arena in (("w", model.params), ("m", adam.m), ("v", adam.v))
                    for n, a in arena.items()
                }
                assert now == meant and adam.steps == 7, "other numbers were read"
            except PysftError as error:
                text = str(error)
                assert text and "\n" not in text, text
                assert not number % 2, "a whole one lay beside it"
                assert all(
                    set(arena.flat) == untouched for arena in (model.params, adam.m, adam.v)
                ), "half of a file was read"
                refused[type(error).__name__] = refused.get(type(error).__name__, 0) + 1
        print(
            f"{files:,} damaged checkpoints in {time.monotonic() - began:.0f} s: {read:,} read as"
            f" they were meant, {back:,} left for the one before, refused "
            + ", ".join(f"{n:,} ({kind})" for kind, n in refused.items())
            + f"; memory bounded to {ROOM >> 20} MiB more"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
