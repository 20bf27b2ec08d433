"""Memory: what this process holds, and what a training will hold."""

import resource
import sys

from pysft.batch import ROWS
from pysft.errors import UsageError
from pysft.nn import machine
from pysft.nn.shapes import GPTConfig, decoder_bytes, sizes

HELD = ("weights", "gradients", "moments", "activations")  # in memory together during training


def _proc_status(name: str) -> int | None:
    """The bytes that a line of /proc/self/status gives; None where there is no such line."""
    try:
        return next(
            int(line.split()[1]) * 1024
            for line in open("/proc/self/status")
            if line.startswith(name + ":")
        )
    except (OSError, StopIteration):
        return None


def peak_memory() -> int:
    """The largest number of bytes of memory that this process has held so far.

    On Linux this is VmHWM, because ru_maxrss there starts at the peak of the parent process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _proc_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def say_memory(screen, *stages) -> None:
    """Say how much memory the process will hold at most, before training begins.

    stages: (config, rows of a batch, bytes of other models, such as the one that it is tuned from,
    replies that are written side by side to measure it). Each counts with at
    least ROWS rows, because measuring needs them."""
    now = _proc_status("VmRSS") or peak_memory()
    held = []
    for config, rows, base, replies in stages:
        rows = max(rows, ROWS)
        size = sizes(config, rows)
        writing = decoder_bytes(config, replies) if replies else 0
        held.append((sum(size[k] for k in HELD) + base + writing, size, rows, base, writing))
    most, size, rows, base, writing = max(held, key=lambda stage: stage[0])

    def mib(n):
        return f"{n / 2**20:.0f}"

    screen.say(
        f"memory: at most {mib(now + most)} MiB: {mib(now)} now, {mib(size['weights'])} of weights,"
        " three times that of gradients and moments,"
        f" {mib(size['activations'])} of activations for {rows:,} rows"
        + (f", {mib(base)} of other models" if base else "")
        + (f", {mib(writing)} to write replies" if writing else "")
    )


def refuse_too_large(config: GPTConfig, rows: int) -> None:
    """Raise a UsageError if the memory that this process may use cannot hold the model with batches
    of `rows` rows. Nothing is allocated."""
    size = sizes(config, rows)
    needed = sum(size[k] for k in HELD)
    allowed, limit = machine.memory()
    if needed > allowed:
        raise UsageError(
            f"context = {config.context}, layers = {config.layers}, channels = {config.channels}"
            f" with batches of {rows:,} rows need {_gib(needed)} GiB; {limit} {_gib(allowed)}."
            " Choose a smaller model, context or batch"
        )


def _gib(n: int) -> str:
    return f"{n / 2**30:,.0f}" if n >= 10 * 2**30 else f"{n / 2**30:.2g}"
