"""What bounds a kernel: its arithmetic, or the memory that its data come from.

The roofline model (Williams, Waterman and Patterson, 2009): a kernel with F operations on B bytes
that must move can reach at most min(peak, F / B x bandwidth) operations a second. The bandwidth is
that of a copy of as many bytes, so it is that of the cache that holds them, or of memory."""

import math

import numpy as np
from harness import say

# Bytes that a copy reads and writes to measure the bandwidth of each level. Each core has an L1 and
# an L2 of its own, so there it is so many on each thread.
LEVELS = {"L1": 24 << 10, "L2": 512 << 10, "L3": 8 << 20, "DRAM": 512 << 20}

# Floating-point operations for each element, counted in the sources; exp counts as 20.
OPERATIONS = {
    "layernorm_forward": 8,
    "layernorm_backward": 17,
    "gelu_forward": 40,
    "gelu_backward": 1,
    "embedding_forward": 1,
    "embedding_backward": 2,
    "cross_entropy_forward": 23,
    "cross_entropy_backward": 23,
    "adamw": 13,
    "sum_squares": 2,
}


def bandwidths(copier, threads: int) -> dict:
    """{level: GB/s} of copies on all threads. copier: the worker of machine.ceilings."""
    return {
        level: copier.ask("copy", total=size * (threads if level in ("L1", "L2") else 1))
        for level, size in LEVELS.items()
    }


def bound(row: dict, machine: dict, speeds: dict) -> dict:
    """{"intensity": operations a byte, "gflops": reached, "roof": GFLOP/s that it could reach,
    "by": "fp32", "bf16" or a level, "roof_share"} of a row of bench_ops.py. speeds: those of
    bandwidths(). The level is the one whose copy is nearest to a copy of the kernel's bytes."""
    peak = "bf16" if row["case"].endswith("bf16") else "fp32"
    level = min(speeds, key=lambda name: abs(math.log(speeds[name] / row["copy"])))
    intensity = row["gflop"] / row["gbyte"]
    reached = row["gflop"] / row["seconds"]["median"]
    roof = min(machine[f"{peak}_peak"], intensity * row["copy"])
    return {
        "intensity": intensity,
        "gflops": reached,
        "roof": roof,
        "by": peak if roof == machine[f"{peak}_peak"] else level,
        "roof_share": reached / roof,
    }


def plot(path: str, title: str, rows: list, machine: dict, speeds: dict) -> None:
    """Draw the kernels of each size under the ceilings, to a file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = list(dict.fromkeys(r["size"] for r in rows))
    figure, axes = pyplot.subplots(
        1,
        len(sizes),
        figsize=(7 * len(sizes), 6.5),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    x = np.logspace(-2, 3.2, 200)
    for axis, size in zip(axes[0], sizes):
        for i, (level, speed) in enumerate(speeds.items()):
            axis.plot(x, np.minimum(speed * x, machine["fp32_peak"]), color=f"C{i}", lw=0.8)
            axis.annotate(
                f"{level} {speed:.0f} GB/s", (x[2], speed * x[2]), fontsize=7, color=f"C{i}"
            )
        for peak in ("fp32", "bf16"):
            if machine[f"{peak}_peak"]:
                axis.axhline(machine[f"{peak}_peak"], color="0.5", lw=0.8, ls="--")
                axis.annotate(
                    f"{peak} {machine[f'{peak}_peak']:.0f} GFLOP/s",
                    (x[0], machine[f"{peak}_peak"] * 1.04),
                    fontsize=7,
                )
        for kind, marker in (("product", "o"), ("product, bf16", "s"), ("other", "^")):
            some = [r for r in rows if r["size"] == size and kind_of(r) == kind]
            xs, ys = [r["intensity"] for r in some], [r["gflops"] for r in some]
            axis.scatter(xs, ys, marker=marker, s=18, label=kind, zorder=3)
            if kind == "other":
                for r in some:
                    axis.annotate(
                        r["case"],
                        (r["intensity"], r["gflops"]),
                        fontsize=6,
                        xytext=(3, 3),
                        textcoords="offset points",
                    )
        axis.set(xscale="log", yscale="log", xlabel="operations a byte", title=size)
        axis.legend(loc="lower right", fontsize=8)
    axes[0][0].set_ylabel("GFLOP/s")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)
    say(f"chart: {path}")


def kind_of(row: dict) -> str:
    """ "product", "product, bf16" or "other"."""
    if row["case"].split()[0] not in ("y", "dx", "dw"):
        return "other"
    return "product, bf16" if row["case"].endswith("bf16") else "product"
