"""The memory of a process: what it holds, and what is said before a training and refused."""

import io
import re

import pytest
from command_line import raising

from pysft.errors import UsageError
from pysft.measure import memory
from pysft.nn import machine
from pysft.nn.shapes import GPTConfig, decoder_bytes, sizes

MIB, GIB = 2**20, 2**30
SMALL, LARGE = GPTConfig(68, 64, 2, 2, 32), GPTConfig(68, 256, 4, 4, 64)


def test_the_peak_memory_is_known_where_the_system_has_no_proc(monkeypatch):
    peak = memory.peak_memory()
    monkeypatch.setattr(memory, "open", raising(FileNotFoundError("/proc")), raising=False)
    assert memory._proc_status("VmHWM") is None
    assert peak / 4 < memory.peak_memory() < 4 * peak


def test_the_system_counts_memory_in_kibibytes_and_that_of_a_mac_in_bytes(monkeypatch):
    status = "Name:\tx\nVmHWM:\t    20 kB\nVmRSS:\t    10 kB\n"
    monkeypatch.setattr(memory, "open", lambda path: io.StringIO(status), raising=False)
    assert (memory.peak_memory(), memory._proc_status("VmRSS")) == (20 * 1024, 10 * 1024)
    assert memory._proc_status("VmH") is None
    monkeypatch.setattr(memory, "_proc_status", lambda name: None)
    usage = type("Usage", (), {"ru_maxrss": 7})
    monkeypatch.setattr(memory.resource, "getrusage", lambda who: usage)
    for platform, unit in (("linux", 1024), ("darwin", 1)):
        monkeypatch.setattr(memory.sys, "platform", platform)
        assert memory.peak_memory() == 7 * unit


def said(monkeypatch, *stages, now=100 * MIB):
    """What is said of these stages in a process that holds `now` bytes."""
    lines = []
    screen = type("Screen", (), {"say": staticmethod(lines.append)})
    monkeypatch.setattr(memory, "_proc_status", lambda name: now if name == "VmRSS" else None)
    memory.say_memory(screen, *stages)
    [line] = lines
    return line


def test_before_training_the_largest_stage_is_added_to_what_is_held_now(monkeypatch):
    def mib(n):
        return f"{n / MIB:.0f}"

    size = sizes(LARGE, 4096)
    held = sum(size[k] for k in ("weights", "gradients", "moments", "activations"))
    assert size["gradients"] + size["moments"] == 3 * size["weights"]
    middle = f"{mib(size['weights'])} of weights, three times that of gradients and moments,"
    middle += f" {mib(size['activations'])} of activations for 4,096 rows"
    line = f"memory: at most {mib(held + 100 * MIB)} MiB: 100 now, {middle}"
    large, small = (LARGE, 4096, 0, 0), (SMALL, 4096, 0, 0)
    assert said(monkeypatch, large) == said(monkeypatch, small, large) == line
    writing = decoder_bytes(LARGE, 40)
    line = f"memory: at most {mib(held + writing + 150 * MIB)} MiB: 100 now, {middle},"
    line += f" 50 of other models, {mib(writing)} to write replies"
    assert said(monkeypatch, large, (LARGE, 4096, 50 * MIB, 40)) == line
    # The base's weights and the replies count in which stage is the largest.
    assert ", 5000 of other models" in said(monkeypatch, large, (SMALL, 1, 5000 * MIB, 0))
    assert "to write" in said(monkeypatch, (SMALL, 1, 0, 0), (SMALL, 1, 0, 400))


def test_measuring_needs_2048_rows_whatever_a_batch_has(monkeypatch):
    for rows, counted in ((1, "2,048"), (2048, "2,048"), (2049, "2,049")):
        line = said(monkeypatch, (SMALL, rows, 0, 0))
        assert line.endswith(f" for {counted} rows")
        activations = sizes(SMALL, int(counted.replace(",", "")))["activations"]
        assert f" {activations / MIB:.0f} of activations" in line
    monkeypatch.setattr(memory, "peak_memory", lambda: 7 * MIB)
    assert ": 7 now," in said(monkeypatch, (SMALL, 1, 0, 0), now=None)


def test_a_model_is_refused_if_it_needs_a_byte_more_than_is_allowed(monkeypatch):
    size = sizes(LARGE, 512)
    needed = sum(size[k] for k in ("weights", "gradients", "moments", "activations"))
    monkeypatch.setattr(machine, "memory", lambda: (needed, "the machine has"))
    memory.refuse_too_large(LARGE, 512)
    monkeypatch.setattr(machine, "memory", lambda: (needed - 1, "the machine has"))
    text = re.escape(
        "context = 256, layers = 4, channels = 64 with batches of 512 rows need"
        f" {needed / GIB:.2g} GiB; the machine has {needed / GIB:.2g}. Choose a smaller"
    )
    with pytest.raises(UsageError, match=text):
        memory.refuse_too_large(LARGE, 512)


def test_ten_gibibytes_and_more_are_written_without_a_fraction():
    sizes = (GIB // 2, int(9.94 * GIB), 10 * GIB, 1234 * GIB)
    assert [memory._gib(n) for n in sizes] == ["0.5", "9.9", "10", "1,234"]
