"""How fast every kernel is, alone: GFLOP/s of the products and attention, GB/s of the others.

    python bench/bench_ops.py                       # all sizes
    python bench/bench_ops.py --short               # one minute, to see that all is well
    python bench/bench_ops.py --sizes gpt2 --json

A call is repeated on the same arrays, so what fits into a cache is read from there ("hot"); inside
a step most data comes from further away. GB/s count the bytes that must move at the least, each
array once in and once out; beside them stands how fast a plain copy of as many bytes is. The
products, with the shapes that a step of the size has, stand beside NumPy's matmul (its BLAS, as
many threads), which takes turns with pysft in its own process: y = x wT, dx = dy w, and dw, which
pysft adds to what is there and NumPy writes."""

import math

import harness
import numpy as np
from harness import SIZES, Worker, ratios, spread, take_turns, with_quartiles

from pysft.nn import ops

PRODUCTS = ["y", "dx", "dw"]


def shapes(size):
    """{name: (N, C, K)} of the products of a step."""
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
    """{"y qkv": function, ...} with NumPy."""
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


def products(size):
    """{"y qkv": (kernel, arguments, work, unit), ...} of pysft; work in GFLOP."""
    found = {}
    for name, (N, C, K) in shapes(size).items():
        x, w, dy = arrays((N, C), (K, C), (N, K))
        y, dx, dw, work = np.empty_like(dy), np.empty_like(x), np.zeros_like(w), 2e-9 * N * C * K
        found |= {
            f"y {name}": ("matmul_forward", (y, x, w), work, "GFLOP/s"),
            f"dx {name}": ("matmul_backward", (dx, None, None, dy, x, w), work, "GFLOP/s"),
            f"dw {name}": ("matmul_backward", (None, dw, None, dy, x, w), work, "GFLOP/s"),
        }
    return found


def others(size):
    """The same for every other kernel; work in GFLOP (attention) or GB."""
    config, count = SIZES[size]
    T, C, V, H = config.context, config.channels, config.vocab, config.heads
    N, M = count * T, count * T // 2
    cu_seqlens = np.arange(0, N + 1, T, dtype=np.int32)
    g = np.random.default_rng(1)
    tokens, labels = g.integers(0, V, (2, N), np.int32)
    rows = np.arange(0, N, 2, dtype=np.int32)
    x, y, dy, few = arrays((N, C), (N, C), (N, C), (M, C))
    qkv, dqkv, wide, dydx, dwide = arrays(*2 * [(N, 3 * C)], *3 * [(N, 4 * C)])
    logits, wte, wpe, parameters = (
        *arrays((N, V), (V, C), (T, C)),
        12 * config.layers * C * C + (2 * V + T) * C,
    )
    w, b, dw, db, mean, rstd, nll, lse = arrays(*4 * [C], *4 * [N])
    (lse_heads,) = arrays((N, H))
    weights, m, v, gradient = (np.full(parameters, 1e-3, np.float32) for _ in range(4))
    pairs, seen = count * T * (T + 1) / 2, len(np.unique(tokens)) * C
    ops.attention_forward(
        y.copy(), lse_heads, qkv, cu_seqlens
    )  # the backward needs a true log-sum-exp

    def floats(n):
        return 4e-9 * n

    return {
        "attention_forward": ((y, lse_heads, qkv, cu_seqlens), 4e-9 * C * pairs, "GFLOP/s"),
        "attention_backward": (
            (dqkv, x, qkv, y, lse_heads, cu_seqlens),
            10e-9 * C * pairs,
            "GFLOP/s",
        ),
        "layernorm_forward": ((y, mean, rstd, x, w, b), floats(2 * N * C + 2 * N), "GB/s"),
        "layernorm_backward": (
            (y, dw, db, dy, x, w, mean, rstd),
            floats(4 * N * C + 2 * N),
            "GB/s",
        ),
        "gelu_forward": ((dwide, wide, dydx), floats(12 * N * C), "GB/s"),
        "gelu_backward": ((dwide, wide, None, dydx), floats(12 * N * C), "GB/s"),
        "embedding_forward": (
            (y, tokens, cu_seqlens, wte, wpe),
            floats(N * C + seen + T * C),
            "GB/s",
        ),
        "embedding_backward": (
            (wte, wpe, x, tokens, cu_seqlens),
            floats(N * C + 2 * seen + 2 * T * C),
            "GB/s",
        ),
        "take_rows_forward": ((few, x, rows), floats(2 * M * C), "GB/s"),
        "take_rows_backward": ((y, few, rows), floats(3 * M * C), "GB/s"),
        "cross_entropy_forward": ((nll, lse, logits, labels), floats(N * V), "GB/s"),
        "cross_entropy_backward": ((logits, nll, logits, lse, labels), floats(2 * N * V), "GB/s"),
        "adamw": ((weights, m, v, gradient, 1, 1e-3), floats(7 * parameters), "GB/s"),
        "sum_squares": ((gradient,), floats(parameters), "GB/s"),
    }


def bind(kernel, arguments, size, threads):
    """A call of a kernel that is checked once, as in the model; adamw and sum_squares always pass
    the gate."""
    config, count = SIZES[size]
    kernels = ops.on_threads(threads)
    if kernel in ("adamw", "sum_squares"):
        return lambda: getattr(kernels, kernel)(*arguments)
    calls, N = kernels.calls(config.context), count * config.context
    getattr(calls.on("N"), kernel)(*arguments)
    return lambda: calls.run(N, count, N // 2)


def build(runner, size, threads):
    """A worker's functions, by the names of the cases."""
    if runner == "NumPy":
        return numpy_products(size)
    cases = products(size) | {name: (name, *case) for name, case in others(size).items()}
    bound = {
        name: bind(kernel, arguments, size, threads)
        for name, (kernel, arguments, _, _) in cases.items()
    }
    return {"cases": lambda: {name: case[2:] for name, case in cases.items()}, **bound}


def measure(size, args, machine):
    """The rows of one size."""
    seconds, found = (0.02, {}) if args.short else (0.1, {})
    for _ in range(args.processes):
        workers = {
            "pysft": Worker(runner="pysft", size=size, threads=args.threads),
            "NumPy": Worker(
                {
                    "OPENBLAS_NUM_THREADS": str(args.threads),
                    "OMP_NUM_THREADS": str(args.threads),
                    "MKL_NUM_THREADS": str(args.threads),
                },
                runner="NumPy",
                size=size,
                threads=args.threads,
            ),
        }
        cases = workers["pysft"].ask("cases")
        for name in cases:
            turns = workers if name.split()[0] in PRODUCTS else {"pysft": workers["pysft"]}
            for who, values in take_turns(turns, args.rounds, seconds, name).items():
                found.setdefault(name, {}).setdefault(who, []).extend(values)
        for w in workers.values():
            w.close()
    rows, ceilings = [], harness.ceilings(args.threads)
    for name, (work, unit) in cases.items():
        times = found[name]
        rate = spread(work / np.array(times["pysft"]))
        row = {
            "size": size,
            "case": name,
            "unit": unit,
            "seconds": spread(times["pysft"]),
            "rate": rate,
        }
        if unit == "GFLOP/s":
            row["of"] = machine["fp32_peak"]
        else:
            row["of"] = ceilings.ask("copy", total=round(work * 1e9))
        row["share"] = rate["median"] / row["of"]
        if "NumPy" in times:
            row |= {
                "numpy_rate": spread(work / np.array(times["NumPy"])),
                "ratio": ratios(times["NumPy"], times["pysft"]),
            }
        rows.append(row)
    ceilings.close()
    return rows


def geometric_means(rows):
    """{"y", "dx", "dw", "all": how many times as fast as NumPy, over a size's shapes}."""

    def mean(kinds):
        return math.exp(
            np.mean([math.log(r["ratio"]["median"]) for r in rows if r["case"].split()[0] in kinds])
        )

    return {**{kind: mean([kind]) for kind in PRODUCTS}, "all": mean(PRODUCTS)}


def tell(size, rows, means):
    """The rows of one size as text."""

    def line(r):
        what = f"{r['share']:.0%} of " + (
            "peak" if r["unit"] == "GFLOP/s" else f"copy {r['of']:.0f}"
        )
        return [
            r["case"],
            f"{1e6 * r['seconds']['median']:,.1f}",
            with_quartiles(r["rate"], 0),
            r["unit"],
            what,
            *(
                [f"{r['numpy_rate']['median']:.0f}", with_quartiles(r["ratio"])]
                if "ratio" in r
                else ["", ""]
            ),
        ]

    means = ", ".join(f"{kind} {value:.2f}" for kind, value in means.items())
    return (
        harness.table(
            [size, "us", "rate (quartiles)", "", "share", "NumPy", "x NumPy (quartiles)"],
            [line(r) for r in rows],
        )
        + f"\ngeometric mean over the products, x NumPy: {means}"
    )


def main():
    args = harness.arguments(__doc__)
    args.add_argument(
        "--sizes", type=harness.one_of(SIZES), default=list(SIZES), help="of seed,small,gpt2"
    )
    args = harness.settle(args.parse_args(), short=(2, 1), full=(7, 3))
    machine, show = harness.begin(args)
    result = {"machine": machine, "rows": [], "geometric_means": {}}
    for size in args.sizes:
        harness.say(f"{size} ...")
        rows = measure(size, args, machine)
        missing = (
            {k.__name__ for k in ops.KERNELS}
            - {r["case"] for r in rows}
            - {"matmul_forward", "matmul_backward"}
        )
        if missing:
            harness.say(f"no case here for {', '.join(sorted(missing))}")
        result["rows"] += rows
        result["geometric_means"][size] = geometric_means(rows)
        show("\n" + tell(size, rows, result["geometric_means"][size]))
    harness.finish(
        args,
        result,
        [
            (
                f"{size}: share of peak, or of a copy",
                {
                    r["case"]: {
                        "pysft": r["share"],
                        **({"NumPy": r["numpy_rate"]["median"] / r["of"]} if "ratio" in r else {}),
                    }
                    for r in result["rows"]
                    if r["size"] == size
                },
            )
            for size in args.sizes
        ],
    )


if __name__ == "__main__":
    harness.run(main, build)
