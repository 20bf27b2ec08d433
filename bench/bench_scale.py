"""How time and memory of a training step grow with channels, layers, context, vocabulary and rows.

    python bench/bench_scale.py                         # all six
    python bench/bench_scale.py --short                 # one minute, to see that all is well
    python bench/bench_scale.py --axes context,rows --plot scale.png

One thing grows at a time, from the base: 64 channels, 4 layers, 4 heads, context 64, 68 symbols,
2,048 rows. An exponent is the slope of a straight line through the logarithms (least squares) over
the upper half of the points: doubling what grows multiplies the time by 2 to the exponent. The
expected one is the slope of the FLOP formula of harness.py through the same points, for memory that
of what the model says it will hold. Every point is measured in fresh processes, which take turns;
memory is the process's peak less its peak before there was a model. threads has the same work on 1,
2, ... of them."""

from dataclasses import replace

import harness
import numpy as np
from harness import Worker, spread, take_turns, useful_flops, with_quartiles

from pysft.nn import model, ops
from pysft.nn.model import GPT, GPTConfig
from pysft.nn.optim import AdamW
from pysft.rng import rng
from pysft.text.dataset import Batch, draw_windows
from pysft.training.loop import train_step
from pysft.training.objectives import sft

BASE, ROWS = GPTConfig(vocab=68, context=64, layers=4, heads=4, channels=64), 2048
AXES = {
    "channels": [32, 64, 128, 256, 384, 512],
    "layers": [1, 2, 4, 8, 16, 24],
    "context": [32, 64, 128, 256, 512, 1024],
    "vocab": [64, 256, 1024, 4096, 8192, 16384],
    "rows": [256, 512, 1024, 2048, 4096, 8192],
    "threads": [1 << i for i in range(ops.default_threads().bit_length())],
}
SHORT = 4  # points, the first


def point(axis, value):
    """(config, rows) with one thing changed."""
    if axis in ("rows", "threads"):
        return BASE, value if axis == "rows" else ROWS
    return replace(BASE, **{axis: value}), ROWS


def batch_of(config, rows):
    g = rng(1, "bench", "windows")
    noise = g.integers(0, config.vocab, 4 * config.context, np.int32)
    return Batch.of(
        draw_windows(noise, rows // config.context, config.context, g), config.vocab, config.context
    )


def build(runner, axis, value, threads):
    """A worker's functions: a step, and the bytes that training took."""
    config, rows = point(axis, value)
    batch, before = batch_of(config, rows), harness.peak_memory()
    gpt = GPT(config, ops.on_threads(threads), rng(1, "bench", "init"))
    adam = AdamW(gpt)

    def one():
        train_step(gpt, adam, [batch], sft, 1e-3)

    return {"step": one, "training": lambda: harness.peak_memory() - before}


def measure(axis, values, args):
    """The points of one axis."""
    points = {v: {"value": v, "times": [], "bytes": []} for v in values}
    for _ in range(args.processes):
        workers = {
            v: Worker(
                runner="pysft", axis=axis, value=v, threads=v if axis == "threads" else args.threads
            )
            for v in values
        }
        for v, times in take_turns(workers, args.rounds, 0.1 if args.short else 0.3).items():
            points[v]["times"] += times
            points[v]["bytes"].append(workers[v].ask("training"))
            workers[v].close()
    for v, p in points.items():
        config, rows = point(axis, v)
        batch, said = batch_of(config, rows), model.sizes(config, rows)
        p |= {
            "seconds": spread(p.pop("times")),
            "bytes": float(np.median(p["bytes"])),
            "gflop": useful_flops(config, batch.lengths) / 1e9,
            "expected_bytes": sum(
                said[k] for k in ("weights", "gradients", "moments", "activations")
            ),
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
    """The slope over the upper half of the points (of two points, over both)."""
    upper = points[min(len(points) // 2, len(points) - 2) :]
    return float(
        np.polyfit(np.log([p["value"] for p in upper]), np.log([of(p) for p in upper]), 1)[0]
    )


def tell(row, peak):
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
    return (
        harness.table(
            [row["axis"], "ms (quartiles)", "GFLOP", "of peak", "MiB", "MiB expected"], rows
        )
        + f"\nexponent of time {row['time_exponent']:.2f}, expected"
        f" {row['expected_time_exponent']:.2f}; of memory {row['memory_exponent']:.2f}, expected"
        f" {row['expected_memory_exponent']:.2f}"
    )


def main():
    args = harness.arguments(__doc__)
    args.add_argument(
        "--axes", type=harness.one_of(AXES), default=list(AXES), help="of " + ",".join(AXES)
    )
    args = harness.settle(args.parse_args(), short=(2, 1), full=(5, 3))
    machine, show = harness.begin(args)
    result = {"machine": machine, "rows": []}
    for axis in [a for a in args.axes if len(AXES[a]) > 1]:  # one processor: no axis of threads
        harness.say(f"{axis} ...")
        result["rows"].append(measure(axis, AXES[axis][:SHORT] if args.short else AXES[axis], args))
        show("\n" + tell(result["rows"][-1], machine["fp32_peak"]))
    harness.finish(
        args,
        result,
        [
            (
                f"exponent of {what}",
                {
                    row["axis"]: {
                        "measured": row[f"{what}_exponent"],
                        "expected": row[f"expected_{what}_exponent"],
                    }
                    for row in result["rows"]
                },
            )
            for what in ("time", "memory")
        ],
    )


if __name__ == "__main__":
    harness.run(main, build)
