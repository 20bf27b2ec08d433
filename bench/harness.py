"""What the benchmarks share: worker processes that take turns, the machine's peak, and the report.

A benchmark's runners (pysft, PyTorch, NumPy) each live in a process of their own, the same script
with --worker, and are told over a pipe what to run and how often. The parent lets them take turns,
with a pause between, so that the waiting threads of one have gone to sleep before another begins,
and so that a drift of the machine's speed meets all alike. A new process has its memory laid out
anew, so several of each are measured.

Every figure is a median with its quartiles over all rounds of all processes (a round is one turn of
each runner; of the steps in a turn the median counts); a ratio is formed inside each round before
the median is taken, and above 1 means that pysft is faster."""

import argparse
import ctypes
import datetime
import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from functools import lru_cache, partial
from pathlib import Path

if sys.argv[1:2] == ["--worker"] and json.loads(sys.argv[2])["runner"].startswith(
    ("PyTorch", "tuned")
):
    import torch  # noqa: F401  before pysft, so that OpenMP is loaded as PyTorch's users have it, nothing set

import numpy as np

try:
    from pysft.errors import BuildError, PysftError, UsageError
    from pysft.nn import _build, ops
    from pysft.nn.model import GPTConfig
    from pysft.recipe import peak_memory
except ModuleNotFoundError as error:
    sys.exit(
        f"{Path(sys.argv[0]).name}: {error}: run 'make build', and this script with"
        " .venv/bin/python"
    )
except Exception as error:
    if not hasattr(error, "exit_code"):
        raise
    print(
        f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr
    )  # an unknown PYSFT_ISA, a stale build
    sys.exit(error.exit_code)

ROOT = Path(__file__).resolve().parents[1]
PAUSE = 0.1  # seconds between turns; OpenBLAS's threads spin for some tens of milliseconds
INSTALL_TORCH = (
    "PyTorch is not installed here, so there is nothing to compare with (pip install torch==2.13.0)"
)

# glibc gives large blocks back to the system at once, and each step then faults all their pages in
# again: a sixth of PyTorch's gpt2 step (nothing at seed). PyTorch's guides advise another malloc;
# these settings do the same.
TUNED_ENV = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}

# name: (the model, sequences of its full context in a step)
SIZES = {
    "seed": (GPTConfig(vocab=68, context=64, layers=4, heads=4, channels=64), 32),
    "small": (GPTConfig(vocab=68, context=256, layers=6, heads=6, channels=384), 8),
    "gpt2": (GPTConfig(vocab=50257, context=256, layers=12, heads=12, channels=768), 2),
}
# Asked for by name only.
LONG = {"gpt2-1024": (GPTConfig(vocab=50257, context=1024, layers=12, heads=12, channels=768), 1)}


# ------------------------------------------------------------------------------------- the workers


def serve(build):
    """The worker's side. build(**spec) -> {name: function}; "step" is what is timed. Requests come
    as lines of JSON, {"run": name, "steps": k} or {"ask": name, ...}, and are answered with the
    seconds of each of the k calls, or with what the function returned."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    spec = json.loads(sys.argv[2])
    functions = {
        "memory": peak_memory,
        "pin": lambda work: pin(spec["threads"], functions[work]),
        **(_ceilings(**spec) if spec["runner"] == "ceilings" else build(**spec)),
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
    """A process of this script that runs what build(**spec) makes. env: more environment for it."""

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
            if status > 0:  # it has said why
                sys.exit(status)
            raise PysftError(
                f"the process of {self.spec} was killed (signal {-status}): not enough memory?"
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
        return self._request({"ask": name, **arguments})

    def pin(self, name="step"):
        """Spread its threads over the processors, once."""
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
    """Give each of the `threads` threads of this process that are busy while work() runs a
    processor of its own (on Linux). The scheduler of some virtual machines leaves all threads of a
    process on one processor for as long as it lives, and what it does then takes twice as long, in
    another process not. Every runner is treated alike. (Processors are taken by number: where
    neighbours are two threads of one core, use --unpinned.)"""

    def ticks():
        return {
            int(task): int(
                Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()[11]
            )
            for task in os.listdir("/proc/self/task")
        }

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
    """Floating-point operations that a training step cannot do without, for sequences of these
    lengths.

    Products: 6 x their weights x rows (2 forward, 4 backward). Attention: 2 products forward and 4
    backward of 2 C operations for each pair of a row and one it sees (itself and those before it:
    half of T x T); that all here make the scores again in the backward is not counted. What no
    wanted row (N,) bool needs is not counted: of the last block only keys and values need every
    row. Lookups, norms, GELU, softmax and AdamW are left out: some hundredths."""
    C, L, V = config.channels, config.layers, config.vocab
    seen = np.concatenate([np.arange(1, n + 1) for n in lengths])
    wanted = np.ones(len(seen), bool) if wanted is None else wanted
    N, M = len(seen), int(wanted.sum())
    weights = N * ((L - 1) * 12 + 2) * C * C + M * (10 * C * C + V * C)
    return 6.0 * weights + 12.0 * C * ((L - 1) * int(seen.sum()) + int(seen[wanted].sum()))


def take_turns(workers: dict, rounds: int, seconds: float, name: str = "step") -> dict:
    """{runner: [the median seconds of a call, for each round]}. A turn is about `seconds` long, at
    least one call, after one that is not timed if calls are short (the caches were another's). Who
    begins changes with the round."""
    calls, medians, order = {}, {who: [] for who in workers}, list(workers)
    for who, w in workers.items():
        w.run(1, name)
        w.pin(name)
        long = min(w.run(2, name))
        calls[who] = max(1, round(seconds / max(1e-7, long))), int(long < 0.5)
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
    """The spread of theirs[i] / ours[i]: how many times as long they take in the same round."""
    return spread(np.array(theirs) / np.array(ours))


# ------------------------------------------------------------------------------------- the machine


@lru_cache(None)
def _peak_library():
    """peak.c, compiled as the kernels that run here are."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if not shutil.which(compiler[0]):
        raise BuildError(
            f"the peak cannot be measured: no C compiler ({compiler[0]}); install gcc, or name one"
            " in CC"
        )
    folder = tempfile.TemporaryDirectory(prefix="pysft-bench-")
    target = f"{folder.name}/peak.so"
    done = subprocess.run(
        [
            *compiler,
            *_build.FLAGS,
            *_build.ISAS[ops.ISA],
            "-shared",
            str(ROOT / "bench/peak.c"),
            "-o",
            target,
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BuildError(
            f"the peak cannot be measured: {compiler[0]} cannot compile bench/peak.c"
            f" ({done.stderr})"
        )
    library = ctypes.CDLL(target)
    library.peak_operations.restype = ctypes.c_int64
    return library


def _ceilings(runner, threads):
    """The functions of a worker that measures them. fp32: GFLOP/s of multiply-adds in registers,
    the best of many short tries, so that it is the processor's even where another program takes a
    turn. copy: GB/s, read and written, of copying total/2 bytes over and over."""
    library, sink = _peak_library(), (ctypes.c_float * threads)()

    def once(rounds):
        start = time.perf_counter()
        library.peak(sink, ctypes.c_int64(rounds), ctypes.c_float(1), ctypes.c_float(1), threads)
        return time.perf_counter() - start

    def fp32():
        rounds = int(10_000 * max(1.0, 0.01 / once(10_000)))
        return (
            threads
            * library.peak_operations(ctypes.c_int64(rounds))
            / min(once(rounds) for _ in range(50))
            / 1e9
        )

    def copy(total):
        n = max(64, total // 2)
        to, source = np.zeros(n, np.uint8), np.ones(n, np.uint8)
        rounds, best = max(1, 100_000_000 // n), float("inf")
        for _ in range(6):
            start = time.perf_counter()
            library.copy(
                to.ctypes.data_as(ctypes.c_void_p),
                source.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_int64(n),
                ctypes.c_int64(rounds),
                threads,
            )
            best = min(best, time.perf_counter() - start)
        return 2 * n * rounds / best / 1e9

    pin(threads, lambda: once(1_000_000))
    return {"fp32": fp32, "copy": copy}


def ceilings(threads: int) -> Worker:
    """A worker to ask for "fp32" and "copy"."""
    return Worker(runner="ceilings", threads=threads)


def fp32_peaks(threads: int) -> dict:
    """On one thread and on all. Measured again, a few times, where they do not fit each other: then
    something else had the processor."""
    best = {1: 0.0, threads: 0.0}
    for _ in range(5):
        for n in best:
            worker = ceilings(n)
            best[n] = max(best[n], worker.ask("fp32"))
            worker.close()
        if 0.9 < best[threads] / best[1] / threads < 1.1:
            break
    else:
        say(
            "the peaks on one thread and on all do not fit each other: the machine is busy, or has"
            " fewer processors"
        )
    return {"fp32_peak_1": best[1], "fp32_peak": best[threads]}


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def machine(threads: int) -> dict:
    """What the figures depend on, and the peaks, measured now."""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True
        ).stdout.strip()

    cpu = {}
    if Path("/proc/cpuinfo").exists():
        for line in open("/proc/cpuinfo"):
            name, _, value = line.partition(":")
            cpu.setdefault(name.strip(), value.strip())
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    commit = git("rev-parse", "--short", "HEAD") if shutil.which("git") else ""
    return {
        "cpu": " ".join(
            [
                cpu.get("model name", "unknown"),
                *(f"{k} {cpu[k]}" for k in ("cpu family", "model") if k in cpu),
            ]
        ),
        "cores": (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "isa": ops.ISA,
        "compiler": ops.COMPILER,
        "threads": threads,
        "pinned": Worker.pins,
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "torch": importlib.metadata.version("torch") if has_torch() else None,
        "commit": commit + ("+" if commit and git("status", "--porcelain") else ""),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        **fp32_peaks(threads),
    }


# -------------------------------------------------------------------------------------- the report


def arguments(description: str) -> argparse.ArgumentParser:
    """The flags that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--threads", type=positive, default=None, help="of every runner (default: pysft's default)"
    )
    parser.add_argument(
        "--rounds", type=positive, default=None, help="turns of each runner in a process"
    )
    parser.add_argument(
        "--processes", type=positive, default=None, help="how often every process is started anew"
    )
    parser.add_argument(
        "--unpinned", action="store_true", help="let the system choose where a thread runs"
    )
    parser.add_argument(
        "--short", action="store_true", help="less of everything, to see that all is well"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--plot", metavar="FILE.png", help="a bar chart (needs matplotlib: the extra 'plot')"
    )
    return parser


def positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1024")
    return int(text)


def one_of(names):
    """An argparse type: a list of some of `names`, separated by commas."""

    def parse(text):
        chosen = text.split(",")
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(names)}")
        return [name for name in names if name in chosen]

    return parse


def settle(args, short: tuple[int, int], full: tuple[int, int]):
    """Fill in threads, rounds and processes, and see at once that what --plot needs is there."""
    args.threads = args.threads or ops.default_threads()
    Worker.pins = not args.unpinned
    rounds, processes = short if args.short else full
    args.rounds, args.processes = args.rounds or rounds, args.processes or processes
    if args.plot:
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError(
                "--plot needs matplotlib, which is not installed here: pip install matplotlib"
                " (pysft's extra 'plot')"
            )
        if not Path(args.plot).resolve().parent.is_dir():
            raise UsageError(f"--plot {args.plot}: there is no such folder")
    return args


def run(main, build) -> None:
    """Be a worker, or the benchmark; an error that a user can cause is one sentence."""
    try:
        if sys.argv[1:2] == ["--worker"]:
            serve(build)
        else:
            main()
    except PysftError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def begin(args):
    """(machine, show): what the figures depend on, and the function that shows text where no JSON
    is wanted."""
    m, show = (
        machine(args.threads),
        ((lambda text: None) if args.json else partial(print, flush=True)),
    )
    show(describe(m))
    return m, show


def finish(args, result: dict, panels: list) -> None:
    """What --json and --plot ask for."""
    if args.json:
        print(json.dumps(result))
    if args.plot:
        plot(args.plot, describe(result["machine"]), panels)


def say(text: str) -> None:
    """What is going on: to standard error."""
    print(text, file=sys.stderr, flush=True)


def describe(m: dict) -> str:
    """machine() in three lines."""
    return (
        f"{m['cpu']}, {m['cores']} cores; {m['isa']}, {m['threads']} threads, "
        f"{'pinned' if m['pinned'] else 'unpinned'}, {m['compiler']}; "
        f"numpy {m['numpy']} with {m['blas']}, "
        + (f"torch {m['torch']}" if m["torch"] else "no torch")
        + f"\ncommit {m['commit'] or 'unknown'}, {m['date']}: {m['command']}\nfp32 peak in"
        f" registers: {m['fp32_peak_1']:.0f} GFLOP/s on one thread, {m['fp32_peak']:.0f} on"
        f" {m['threads']}"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Aligned columns, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]
        )
        for row in [head, *rows]
    )


def with_quartiles(s: dict, digits: int = 2, scale: float = 1.0) -> str:
    """A spread as "median (low..high)"."""
    return (
        f"{scale * s['median']:.{digits}f} ({scale * s['quartiles'][0]:.{digits}f}.."
        f"{scale * s['quartiles'][1]:.{digits}f})"
    )


def plot(path: str, title: str, panels: list) -> None:
    """Bars. A panel is (what the axis measures, {group: {bar: a number or a spread}})."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heights = [1.2 + 0.22 * sum(map(len, groups.values())) for _, groups in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        figsize=(11, 1 + sum(heights)),
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    names = list(
        dict.fromkeys(
            ["pysft", *(bar for _, groups in panels for group in groups.values() for bar in group)]
        )
    )
    for axis, (label, groups) in zip(axes[:, 0], panels):
        y, places = 0.0, []
        for group in groups.values():
            places.append(y + (len(group) - 1) / 2)
            for bar, value in group.items():
                s = (
                    value
                    if isinstance(value, dict)
                    else {"median": value, "quartiles": [value, value]}
                )
                drawn = axis.barh(
                    y,
                    s["median"],
                    xerr=np.abs([[q - s["median"]] for q in s["quartiles"]]),
                    capsize=2,
                    color=f"C{names.index(bar)}",
                    label=bar,
                )
                axis.bar_label(drawn, fmt=" %.3g", fontsize=7)
                y += 1
            y += 0.5
        axis.set_yticks(places, list(groups), fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel(label)
        axis.legend(
            *zip(
                *{
                    bar: (handle, bar) for handle, bar in zip(*axis.get_legend_handles_labels())
                }.values()
            ),
            fontsize=8,
            loc="upper left",
            bbox_to_anchor=(1, 1),
        )
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)
    say(f"chart: {path}")
