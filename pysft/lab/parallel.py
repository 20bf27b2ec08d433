"""Run experiments side by side, each in a process with one thread: small models gain more by that
than by threads. The processes leave their records in the lab's folder."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pysft.errors import PysftError
from pysft.lab.experiments.arms import SMALL, WIDE
from pysft.lab.lab import Lab


@dataclass(frozen=True)
class Part:
    """One experiment of a lab, carried out by one process. ops: "kernels" or "reference"."""

    name: str
    folder: str
    corpus: str
    ops: str
    scale: float
    retrain: bool
    seeds: int

    def command(self) -> list[str]:
        """The command line of its process, which part.py reads."""
        return [sys.executable, "-m", "pysft.lab.part", json.dumps(asdict(self))]


def prepare_bases(lab: Lab, seeds: int) -> None:
    """Train the bases with all threads, before several processes need them."""
    for preset in (SMALL, WIDE):
        for seed in range(1, seeds + 1 if lab.retrain else 2):
            lab.base(preset, seed)


def side_by_side(parts: list[Part], jobs: int, say: Callable[[str], None]) -> None:
    """Carry out the parts in their order, at most `jobs` at a time; say(line) how long each took.

    If a part fails, the others go on, and a PysftError at the end gives the reason. If this process
    is interrupted, it ends all others."""
    waiting, running, failed = list(parts), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                part = waiting.pop(0)
                process = subprocess.Popen(
                    part.command(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
                )
                running[part.name] = process, time.monotonic()
            for name, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                if process.returncode:
                    why = process.stderr.read().strip()[-500:]
                    failed.append(f"lab {name}: {why or f'exit status {process.returncode}'}")
                say(f"{name}: {time.monotonic() - began:.0f} s")
            time.sleep(0.2)
        if failed:
            raise PysftError("; ".join(failed))
    finally:
        for process, _ in running.values():
            process.terminate()
            process.wait()
