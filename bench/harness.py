"""The common part of all benchmarks: sizes, worker processes that take turns, medians and ratios.

Each runner of a benchmark (pysft, PyTorch, NumPy) has a process of its own, called a worker: the
same script with --worker. The parent tells it over a pipe what to run and how often. Workers take
turns, so a drift of the machine's speed affects all of them alike. A pause between turns lets the
waiting threads of one runner go to sleep before the next begins. Each runner is measured in several
processes, because a new process has another memory layout.

A round is one turn of each runner, and its value is the median of the steps in the turn. A figure
is the median with quartiles of these values over all rounds of all processes. A ratio is formed in
each round before the median is taken; above 1 means that pysft is faster."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

if sys.argv[1:2] == ["--worker"] and json.loads(sys.argv[2])["runner"].startswith(
    ("PyTorch", "tuned")
):
    # Before pysft, so that PyTorch loads OpenMP with the settings that its users have.
    import torch  # noqa: F401

import numpy as np

try:
    from pysft.errors import PysftError
    from pysft.measure.memory import peak_memory
    from pysft.nn.shapes import GPTConfig
except ModuleNotFoundError as error:
    sys.exit(
        f"{Path(sys.argv[0]).name}: {error}. Run 'make build', then this script with"
        " .venv/bin/python"
    )
except Exception as error:
    if not hasattr(error, "exit_code"):
        raise
    # For example an unknown PYSFT_ISA, or a stale build.
    print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

PAUSE = 0.1  # seconds between turns; OpenBLAS's threads spin for some tens of milliseconds

# glibc returns large blocks to the system at once, and each step then faults all their pages in
# again. This takes a sixth of PyTorch's gpt2 step (nothing at seed). PyTorch's guides advise
# another malloc; these settings have the same effect.
TUNED_ENV = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}

# name: (the model, sequences in a step, each as long as the context)
SIZES = {
    "seed": (GPTConfig(vocab=68, context=64, layers=4, heads=4, channels=64), 32),
    "small": (GPTConfig(vocab=68, context=256, layers=6, heads=6, channels=384), 8),
    "gpt2": (GPTConfig(vocab=50257, context=256, layers=12, heads=12, channels=768), 2),
}
# Measured only if named on the command line. The micro ones have the shapes of EEmicroGPT, whose
# samples are names of some eight letters.
LONG = {"gpt2-1024": (GPTConfig(vocab=50257, context=1024, layers=12, heads=12, channels=768), 1)}
LONG |= {
    f"micro-{C}": (GPTConfig(vocab=27, context=8, layers=1, heads=4, channels=C), 512)
    for C in (16, 64)
}


# ------------------------------------------------------------------------------------- the workers


def serve(build):
    """Be a worker: answer the parent's requests until it closes the pipe.

    build(**spec) -> {name: function}; "step" is the one that is usually timed. A request is a line
    of JSON. {"run": name, "steps": k} is answered with the seconds of each of k calls, {"ask":
    name, ...} with what the function returns."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    spec = json.loads(sys.argv[2])
    functions = {
        "memory": peak_memory,
        "pin": lambda work: pin(spec["threads"], functions[work]),
        **build(**spec),
    }
    answer("ready")
    for line in sys.stdin:  # ends when the parent does
        request = json.loads(line)
        if "ask" in request:
            answer(functions[request.pop("ask")](**request))
            continue
        function, times = functions[request["run"]], []
        for _ in range(request["steps"]):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        answer(times)


class Worker:
    """A worker process, as the parent uses it. It runs the functions of build(**spec). env:
    variables to add to its environment."""

    pins = True  # False: --unpinned

    def __init__(self, env=None, **spec):
        self.process = subprocess.Popen(
            [sys.executable, sys.argv[0], "--worker", json.dumps(spec)],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )
        self.spec, self.pinned = spec, False
        self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            if status > 0:  # it has printed the reason
                sys.exit(status)
            raise PysftError(
                f"the process of {self.spec} was killed (signal {-status}). Perhaps memory ran out"
            )
        return json.loads(line)

    def _request(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def run(self, steps, name="step"):
        """The seconds of each of `steps` calls."""
        return self._request({"run": name, "steps": steps})

    def ask(self, name, **arguments):
        """What the function returns."""
        return self._request({"ask": name, **arguments})

    def pin(self, name="step"):
        """Give each of its threads a processor of its own; the first call counts."""
        if Worker.pins and not self.pinned:
            self.ask("pin", work=name)
        self.pinned = True

    def close(self):
        """End the process; a second call does nothing."""
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait()
        self.process.stdout.close()


def pin(threads: int, work, seconds: float = 0.2) -> None:
    """Give each of the `threads` busiest threads of this process a processor of its own (on Linux).
    Busiest: while work() is repeated for `seconds`.

    Some virtual machines leave all threads of a process on one processor for as long as it lives,
    which doubles the time of one process and not of another. All runners are treated alike.
    Processors are taken in the order of their numbers. Use --unpinned where two neighbours are
    threads of one core."""

    def ticks():
        """{thread: processor time it has used so far}."""
        found = {}
        for task in os.listdir("/proc/self/task"):
            status = Path(f"/proc/self/task/{task}/stat").read_text()
            found[int(task)] = int(status.rpartition(")")[2].split()[11])
        return found

    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if not len(processors) >= threads > 1:
        return
    before, end = ticks(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        work()
    after = ticks()
    busy = sorted(after, key=lambda task: before.get(task, 0) - after[task])
    for task, processor in zip(busy[:threads], processors):
        os.sched_setaffinity(task, {processor})


def useful_flops(config: GPTConfig, lengths, wanted=None) -> float:
    """Floating-point operations that a training step on sequences of these lengths needs at least.

    Products: 6 x weights x rows (2 forward, 4 backward). Attention: 2 products forward and 4
    backward, of 2 C operations for each pair of a row and a row that it sees (itself and the
    earlier ones: half of T x T). All runners compute the scores again in the backward; that is not
    counted. Neither is work that no wanted row needs (wanted (N,) bool; default: all rows): in the
    last block only keys and values need every row. Lookups, norms, GELU, softmax and AdamW are left
    out; they are some hundredths."""
    C, L, V = config.channels, config.layers, config.vocab
    seen = np.concatenate([np.arange(1, n + 1) for n in lengths])
    wanted = np.ones(len(seen), bool) if wanted is None else wanted
    N, M = len(seen), int(wanted.sum())
    weights = N * ((L - 1) * 12 + 2) * C * C + M * (10 * C * C + V * C)
    return 6.0 * weights + 12.0 * C * ((L - 1) * int(seen.sum()) + int(seen[wanted].sum()))


def take_turns(workers: dict, rounds: int, seconds: float, name: str = "step") -> dict:
    """{runner: [median seconds of a call, for each round]}.

    A turn lasts about `seconds` and has at least one call. If calls are shorter than half a second,
    one untimed call comes first, because the caches hold another runner's data. Each round begins
    with another runner."""
    calls, medians, order = {}, {who: [] for who in workers}, list(workers)
    for who, w in workers.items():
        w.run(1, name)
        w.pin(name)
        one = min(w.run(2, name))  # seconds of a call
        calls[who] = max(1, round(seconds / max(1e-7, one))), int(one < 0.5)
    for i in range(rounds):
        for who in order[i % len(order) :] + order[: i % len(order)]:
            time.sleep(PAUSE)
            timed, untimed = calls[who]
            medians[who].append(float(np.median(workers[who].run(untimed + timed, name)[untimed:])))
    return medians


def spread(values) -> dict:
    """{"median", "quartiles"} of a list."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": float(middle), "quartiles": [float(low), float(high)]}


def ratios(theirs, ours) -> dict:
    """The spread of theirs[i] / ours[i], the ratio of their time to ours in the same round."""
    return spread(np.array(theirs) / np.array(ours))


# ---------------------------------------------------------------------------- small conveniences


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def compares(args) -> bool:
    """True if PyTorch is to be compared with: it is installed, and there is no --no-torch."""
    if args.no_torch:
        return False
    if not has_torch():
        say("PyTorch is not installed, so pysft is measured alone. To compare: make test-torch")
    return has_torch()


def say(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)
