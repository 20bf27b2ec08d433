"""Measure how time and memory of a training step grow with channels, layers, context, vocabulary,
rows and threads.

    python bench/bench_scale.py                         # all six
    python bench/bench_scale.py --short                 # one minute, to see that everything works
    python bench/bench_scale.py --axes context,rows --plot scale.png

Each of the six is an axis. One grows at a time; the others stay at 64 channels, 4 layers, context
64, 68 symbols, 2,048 rows and all threads, always with 4 heads. On the axis of threads the work
stays the same.

An exponent is the slope of a straight line through the logarithms (least squares), over the upper
half of the points: doubling the quantity multiplies the time by 2 to the exponent. The expected
exponent of time is the slope of harness.useful_flops through the same points, that of memory the
slope of nn.shapes.sizes. Every point is measured in new processes, which take turns. Memory is the
process's peak minus its peak before there was a model."""

from dataclasses import replace

import harness
import numpy as np
import report
from harness import Worker, spread, take_turns, useful_flops
from report import with_quartiles

from pysft.batch import Batch
from pysft.nn import gate, kernels, shapes
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng
from pysft.text.windows import draw_windows
from pysft.training.loop import train_step
from pysft.training.objectives import Sft

BASE, ROWS = GPTConfig(vocab=68, context=64, layers=4, heads=4, channels=64), 2048
AXES = {
    "channels": [32, 64, 128, 256, 384, 512],
    "layers": [1, 2, 4, 8, 16, 24],
    "context": [32, 64, 128, 256, 512, 1024],
    "vocab": [64, 256, 1024, 4096, 8192, 16384],
    "rows": [256, 512, 1024, 2048, 4096, 8192],
    "threads": [1 << i for i in range(gate.default_threads().bit_length())],
}
SHORT = 4  # points of an axis with --short


def point(axis, value):
    """(config, rows) of the base with one value changed."""
    if axis in ("rows", "threads"):
        return BASE, value if axis == "rows" else ROWS
    return replace(BASE, **{axis: value}), ROWS


def batch_of(config, rows):
    """A batch of noise."""
    g = rng(1, "bench", "windows")
    noise = g.integers(0, config.vocab, 4 * config.context, np.int32)
    windows = draw_windows(noise, rows // config.context, config.context, g)
    return Batch.of(windows, config.vocab, config.context)


def build(runner, axis, value, threads):
    """A worker's functions: a step, and the bytes that training has taken."""
    config, rows = point(axis, value)
    batch, before = batch_of(config, rows), harness.peak_memory()
    gpt = GPT(config, kernels.on_threads(threads), rng(1, "bench", "init"))
    adam = AdamW(gpt)

    def one():
        train_step(gpt, adam, [batch], Sft(), 1e-3)

    return {"step": one, "training": lambda: harness.peak_memory() - before}


def measure(axis, values, args):
    """The points of one axis."""
    points = {v: {"value": v, "times": [], "bytes": []} for v in values}
    for _ in range(args.processes):
        workers = {}
        for v in values:
            threads = v if axis == "threads" else args.threads
            workers[v] = Worker(runner="pysft", axis=axis, value=v, threads=threads)
        for v, times in take_turns(workers, args.rounds, 0.1 if args.short else 0.3).items():
            points[v]["times"] += times
            points[v]["bytes"].append(workers[v].ask("training"))
            workers[v].close()
    for v, p in points.items():
        config, rows = point(axis, v)
        batch, sizes = batch_of(config, rows), shapes.sizes(config, rows)
        held = ("weights", "gradients", "moments", "activations")
        p |= {
            "seconds": spread(p.pop("times")),
            "bytes": float(np.median(p["bytes"])),
            "gflop": useful_flops(config, batch.lengths) / 1e9,
            "expected_bytes": sum(sizes[k] for k in held),
        }
    points = list(points.values())
    return {
        "axis": axis,
        "points": points,
        "time_exponent": exponent(points, lambda p: p["seconds"]["median"]),
        "expected_time_exponent": exponent(
            points, lambda p: p["gflop"] / (p["value"] if axis == "threads" else 1)
        ),
        "memory_exponent": exponent(points, lambda p: p["bytes"]),
        "expected_memory_exponent": exponent(points, lambda p: p["expected_bytes"]),
    }


def exponent(points, of):
    """The slope of log of(point) over the upper half of the points; with two or three points, over
    the last two."""
    upper = points[min(len(points) // 2, len(points) - 2) :]
    values, results = [p["value"] for p in upper], [of(p) for p in upper]
    return float(np.polyfit(np.log(values), np.log(results), 1)[0])


def as_text(row, peak):
    """One axis as text. peak: GFLOP/s."""
    rows = [
        [
            f"{p['value']:,}",
            with_quartiles(p["seconds"], scale=1e3),
            f"{p['gflop']:.2f}",
            f"{p['gflop'] / p['seconds']['median'] / peak:.0%}",
            f"{p['bytes'] / 2**20:,.0f}",
            f"{p['expected_bytes'] / 2**20:,.0f}",
        ]
        for p in row["points"]
    ]
    head = [row["axis"], "ms (quartiles)", "GFLOP", "of peak", "MiB", "MiB expected"]
    return (
        f"{report.table(head, rows)}\n"
        f"exponent of time {row['time_exponent']:.2f},"
        f" expected {row['expected_time_exponent']:.2f};"
        f" of memory {row['memory_exponent']:.2f},"
        f" expected {row['expected_memory_exponent']:.2f}"
    )


def main():
    args = report.arguments(__doc__)
    names = ",".join(AXES)
    args.add_argument(
        "--axes", type=report.one_of(AXES), default=list(AXES), help=f"some of {names}"
    )
    args = report.settle(args.parse_args(), short=(2, 1), full=(5, 3))
    machine, show = report.begin(args)
    result = {"machine": machine, "rows": []}
    for axis in [a for a in args.axes if len(AXES[a]) > 1]:  # one processor: no axis of threads
        harness.say(f"{axis} ...")
        row = measure(axis, AXES[axis][:SHORT] if args.short else AXES[axis], args)
        result["rows"].append(row)
        show("\n" + as_text(row, machine["fp32_peak"]))
    panels = []
    for what in ("time", "memory"):
        exponents = {
            row["axis"]: {
                "measured": row[f"{what}_exponent"],
                "expected": row[f"expected_{what}_exponent"],
            }
            for row in result["rows"]
        }
        panels.append((f"exponent of {what}", exponents))
    report.finish(args, result, panels)


if __name__ == "__main__":
    report.run(main, build)
