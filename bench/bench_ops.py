"""Measure the speed of every kernel alone: GFLOP/s of the products and attention, GB/s of the
others.

    python bench/bench_ops.py                       # all sizes
    python bench/bench_ops.py --short               # one minute, to see that everything works
    python bench/bench_ops.py --sizes gpt2 --json
    python bench/bench_ops.py --plot roofline.png   # every kernel under the ceilings

A call is repeated on the same arrays, so data that fits into a cache is read from there ("hot").
Inside a training step most data comes from further away. GB/s count the bytes that must move at
least, each array once in or out, and are compared with a plain copy of as many bytes. The roof is
what the kernel could reach, and what bounds it: multiply-adds (fp32, bf16), or the memory that
holds its arrays (roofline.py).

The products have the shapes of a training step of the size. They are y = x wT, dx = dy w and
dw = dyT x. They are compared with NumPy's matmul (its BLAS, with as many threads), which runs in a
process of its own and takes turns with pysft. pysft adds dw to the gradient, NumPy writes it.
Products in bf16 follow where the processor has them; the conversions of their factors count. If
PyTorch is installed, they are compared with its products, which are oneDNN's. Its factors are bf16
from the start, and so is what it writes: its conversions do not count."""

import math

import harness
import numpy as np
import report
import roofline
from harness import SIZES, Worker, ratios, spread, take_turns
from machine import ceilings, describe
from report import with_quartiles

from pysft.nn import gate, kernels

PRODUCTS = ["y", "dx", "dw"]
PEERS = {"fp32": "NumPy", "bf16": "oneDNN"}  # what products are compared with


def shapes(size):
    """{name: (N, C, K)} of the products of a training step."""
    config, count = SIZES[size]
    N, C, V = count * config.context, config.channels, config.vocab
    return {
        "qkv": (N, C, 3 * C),
        "attproj": (N, C, C),
        "fc": (N, C, 4 * C),
        "fcproj": (N, 4 * C, C),
        "head": (N, C, V),
    }


def arrays(*sizes):
    """One float32 array of noise for each shape."""
    g = np.random.default_rng(1)
    return [0.1 * g.standard_normal(s, np.float32) for s in sizes]


def numpy_products(size):
    """{"y qkv": function, ...}, the products by NumPy."""
    found = {}
    for name, (N, C, K) in shapes(size).items():
        x, w, dy = arrays((N, C), (K, C), (N, K))
        y, dx, dw = np.empty_like(dy), np.empty_like(x), np.empty_like(w)
        found |= {
            f"y {name}": lambda x=x, w=w, y=y: np.matmul(x, w.T, out=y),
            f"dx {name}": lambda dy=dy, w=w, dx=dx: np.matmul(dy, w, out=dx),
            f"dw {name}": lambda dy=dy, x=x, dw=dw: np.matmul(dy.T, x, out=dw),
        }
    return found


def onednn_products(size, threads):
    """{"y qkv bf16": function, ...}, the products in bf16 by PyTorch."""
    import torch

    torch.set_num_threads(threads)
    found = {}
    for name, (N, C, K) in shapes(size).items():
        x, w, dy = (torch.from_numpy(a).bfloat16() for a in arrays((N, C), (K, C), (N, K)))
        y, dx, dw = torch.empty_like(dy), torch.empty_like(x), torch.empty_like(w)
        found |= {
            f"y {name} bf16": lambda x=x, w=w, y=y: torch.mm(x, w.T, out=y),
            f"dx {name} bf16": lambda dy=dy, w=w, dx=dx: torch.mm(dy, w, out=dx),
            f"dw {name} bf16": lambda dy=dy, x=x, dw=dw: torch.mm(dy.T, x, out=dw),
        }
    return found


def products(size):
    """{"y qkv": (kernel, arguments, GFLOP, GB, unit), ...}, the products by pysft."""
    found = {}
    for name, (N, C, K) in shapes(size).items():
        x, w, dy = arrays((N, C), (K, C), (N, K))
        y, dx, dw = np.empty_like(dy), np.empty_like(x), np.zeros_like(w)
        work, read = (2e-9 * N * C * K, 4e-9 * (N * C + K * C + N * K)), 4e-9 * K * C
        found |= {
            f"y {name}": ("matmul_forward", (y, x, w), *work, "GFLOP/s"),
            f"dx {name}": ("matmul_backward", (dx, None, None, dy, x, w), *work, "GFLOP/s"),
            f"dw {name}": (
                "matmul_backward",
                (None, dw, None, dy, x, w),
                work[0],
                work[1] + read,
                "GFLOP/s",
            ),
        }
    return found


def others(size):
    """{kernel: (arguments, GFLOP, GB, unit), ...} of all other kernels."""
    config, count = SIZES[size]
    T, C, V, H = config.context, config.channels, config.vocab, config.heads
    N = count * T
    cu_seqlens = np.arange(0, N + 1, T, dtype=np.int32)
    g = np.random.default_rng(1)
    tokens, labels = g.integers(0, V, (2, N), np.int32)
    x, y, dy = arrays((N, C), (N, C), (N, C))
    qkv, dqkv, wide, dydx, dwide = arrays(*2 * [(N, 3 * C)], *3 * [(N, 4 * C)])
    logits, wte, wpe = arrays((N, V), (V, C), (T, C))
    w, b, dw, db, mean, rstd, nll, lse = arrays(*4 * [C], *4 * [N])
    (lse_heads,) = arrays((N, H))
    # The backward needs a true log-sum-exp.
    kernels.attention_forward(y.copy(), lse_heads, qkv, cu_seqlens)
    parameters = 12 * config.layers * C * C + (2 * V + T) * C
    weights, m, v, gradient = (np.full(parameters, 1e-3, np.float32) for _ in range(4))
    pairs, seen = count * T * (T + 1) / 2, len(np.unique(tokens)) * C

    forward = (y, lse_heads, qkv, cu_seqlens)
    backward = (dqkv, x, qkv, y, lse_heads, cu_seqlens)
    found = {
        "attention_forward": (forward, 4e-9 * C * pairs, 16e-9 * N * C, "GFLOP/s"),
        "attention_backward": (backward, 10e-9 * C * pairs, 32e-9 * N * C, "GFLOP/s"),
    }
    norm, norm_back = (y, mean, rstd, x, w, b), (y, dw, db, dy, x, w, mean, rstd)
    read, read_back = (y, tokens, cu_seqlens, wte, wpe), (wte, wpe, x, tokens, cu_seqlens)
    moved = {  # kernel: (arguments, elements, floats that must move at least)
        "layernorm_forward": (norm, N * C, 2 * N * C + 2 * N),
        "layernorm_backward": (norm_back, N * C, 4 * N * C + 2 * N),
        "gelu_forward": ((dwide, wide, dydx), 4 * N * C, 12 * N * C),
        "gelu_backward": ((dwide, wide, None, dydx), 4 * N * C, 12 * N * C),
        "embedding_forward": (read, N * C, N * C + seen + T * C),
        "embedding_backward": (read_back, N * C, N * C + 2 * seen + 2 * T * C),
        "cross_entropy_forward": ((nll, lse, logits, labels), N * V, N * V),
        "cross_entropy_backward": ((logits, nll, logits, lse, labels), N * V, 2 * N * V),
        "adamw": ((weights, m, v, gradient, 1, 1e-3), parameters, 7 * parameters),
        "sum_squares": ((gradient,), parameters, parameters),
    }
    for name, (arguments, elements, floats) in moved.items():
        operations = roofline.OPERATIONS[name] * elements
        found[name] = (arguments, 1e-9 * operations, 4e-9 * floats, "GB/s")
    return found


def bind(kernel, arguments, size, threads, precision="float32"):
    """A function that calls a kernel without checks, as the model does: the arguments are checked
    here, once. adamw and sum_squares are checked at every call, as in training."""
    config, count = SIZES[size]
    here = kernels.on_threads(threads, precision)
    if kernel in ("adamw", "sum_squares"):
        return lambda: getattr(here, kernel)(*arguments)
    calls, N = here.calls(config.context), count * config.context
    getattr(calls.noting(), kernel)(*arguments)
    return lambda: calls.run(N, count)


def build(runner, size, threads):
    """A worker's functions: one for each case, and "cases" with their work and units."""
    if runner == "NumPy":
        return numpy_products(size)
    if runner == "oneDNN":
        return onednn_products(size, threads)
    cases = products(size)
    if gate.HAS_BF16:
        cases |= {f"{name} bf16": case for name, case in cases.items()}
    cases |= {name: (name, *case) for name, case in others(size).items()}
    bound = {
        name: bind(kernel, arguments, size, threads, "bf16" if "bf16" in name else "float32")
        for name, (kernel, arguments, *_) in cases.items()
    }
    return {"cases": lambda: {name: case[2:] for name, case in cases.items()}, **bound}


def peer_of(case):
    """The name of what a case is compared with; "" if it is compared with nothing."""
    kind = "bf16" if "bf16" in case else "fp32"
    return PEERS[kind] if case.split()[0] in PRODUCTS else ""


def measure(size, args, machine, speeds):
    """The rows of one size. speeds: those of roofline.bandwidths."""
    seconds, found = 0.02 if args.short else 0.1, {}
    onednn = gate.HAS_BF16 and harness.compares(args)
    spec = {"size": size, "threads": args.threads}
    blas = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    for _ in range(args.processes):
        workers = {
            "pysft": Worker(runner="pysft", **spec),
            "NumPy": Worker(dict.fromkeys(blas, str(args.threads)), runner="NumPy", **spec),
        }
        if onednn:
            workers["oneDNN"] = Worker(runner="oneDNN", **spec)
        cases = workers["pysft"].ask("cases")
        for name in cases:
            turns = {who: workers[who] for who in ("pysft", peer_of(name)) if who in workers}
            for who, values in take_turns(turns, args.rounds, seconds, name).items():
                found.setdefault(name, {}).setdefault(who, []).extend(values)
        for w in workers.values():
            w.close()
    copier, rows = ceilings(args.threads), []
    for name, (gflop, gbyte, unit) in cases.items():
        times, work = found[name], gflop if unit == "GFLOP/s" else gbyte
        rate = spread(work / np.array(times["pysft"]))
        row = {"size": size, "case": name, "unit": unit, "gflop": gflop, "gbyte": gbyte}
        row |= {"seconds": spread(times["pysft"]), "rate": rate}
        row["copy"] = copier.ask("copy", total=round(gbyte * 1e9))
        row["of"] = machine["bf16_peak" if "bf16" in name else "fp32_peak"]
        if unit == "GB/s":
            row["of"] = row["copy"]
        row["share"] = rate["median"] / row["of"]
        row |= roofline.bound(row, machine, speeds)
        if (peer := peer_of(name)) in times:
            row |= {"peer": peer, "peer_rate": spread(work / np.array(times[peer]))}
            row["ratio"] = ratios(times[peer], times["pysft"])
        rows.append(row)
    copier.close()
    return rows


def geometric_means(rows):
    """Over a size's shapes: {"y", "dx", "dw", "all": times as fast as NumPy, "bf16 x oneDNN": times
    as fast as oneDNN, "fp32 of peak", "bf16 of peak": shares}."""

    def mean(values):
        return math.exp(np.mean(np.log(values)))

    found, products = {}, [r for r in rows if r["case"].split()[0] in PRODUCTS]
    faster = [r for r in products if r.get("peer") == "NumPy"]
    for kind in PRODUCTS:
        of_kind = [r["ratio"]["median"] for r in faster if r["case"].split()[0] == kind]
        found[kind] = mean(of_kind)
    found["all"] = mean([r["ratio"]["median"] for r in faster])
    others = [r["ratio"]["median"] for r in products if r.get("peer") == "oneDNN"]
    if others:
        found["bf16 x oneDNN"] = mean(others)
    for peak in ("fp32", "bf16"):
        some = [r["share"] for r in products if ("bf16" in r["case"]) == (peak == "bf16")]
        if some:
            found[f"{peak} of peak"] = mean(some)
    return found


def as_text(size, rows, means):
    """The rows of one size as text."""

    def line(r):
        whole = "peak" if r["unit"] == "GFLOP/s" else f"copy {r['of']:.0f}"
        peer = ["", "", ""]
        if "ratio" in r:
            peer = [r["peer"], f"{r['peer_rate']['median']:.0f}", with_quartiles(r["ratio"])]
        return [
            r["case"],
            f"{1e6 * r['seconds']['median']:,.1f}",
            with_quartiles(r["rate"], 0),
            r["unit"],
            f"{r['share']:.0%} of {whole}",
            f"{r['intensity']:.2g}",
            f"{r['roof_share']:.0%} of {r['roof']:.0f}, {r['by']}",
            *peer,
        ]

    head = [size, "us", "rate (quartiles)", "", "share", "flop/B", "of its roof, GFLOP/s"]
    head += ["peer", "its rate", "x peer (quartiles)"]
    against = ", ".join(f"{kind} {means[kind]:.2f}" for kind in (*PRODUCTS, "all"))
    shares = [f"{name} {value:.0%}" for name, value in means.items() if "peak" in name]
    if "bf16 x oneDNN" in means:
        against += f"; bf16, x oneDNN: {means['bf16 x oneDNN']:.2f}"
    return (
        f"{report.table(head, [line(r) for r in rows])}\n"
        f"geometric mean over the products, x NumPy: {against}; {', '.join(shares)}"
    )


def main():
    args = report.arguments(__doc__)
    names = ",".join(SIZES)
    args.add_argument(
        "--sizes", type=report.one_of(SIZES), default=list(SIZES), help=f"some of {names}"
    )
    args.add_argument("--no-torch", action="store_true", help="do not measure oneDNN's products")
    args = report.settle(args.parse_args(), short=(2, 1), full=(7, 3))
    machine, show = report.begin(args)
    copier = ceilings(args.threads)
    speeds = roofline.bandwidths(copier, args.threads)
    copier.close()
    result = {"machine": machine, "copy": speeds, "rows": [], "geometric_means": {}}
    show("copy, GB/s: " + ", ".join(f"{level} {speed:.0f}" for level, speed in speeds.items()))
    for size in args.sizes:
        harness.say(f"{size} ...")
        rows = measure(size, args, machine, speeds)
        known = {r["case"] for r in rows} | {"matmul_forward", "matmul_backward"}
        missing = {k.__name__ for k in kernels.KERNELS} - known
        if missing:
            harness.say(f"not measured: {', '.join(sorted(missing))}")
        result["rows"] += rows
        result["geometric_means"][size] = geometric_means(rows)
        show("\n" + as_text(size, rows, result["geometric_means"][size]))
    chart, args.plot = args.plot, None
    report.finish(args, result, [])
    if chart:
        roofline.plot(chart, describe(machine), result["rows"], machine, speeds)


if __name__ == "__main__":
    report.run(main, build)
