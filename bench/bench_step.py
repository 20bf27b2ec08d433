"""Measure how long a training step takes (forward, backward, AdamW), against PyTorch.

    python bench/bench_step.py                          # all sizes and steps
    python bench/bench_step.py --short                  # two minutes, to see that everything works
    python bench/bench_step.py --sizes seed --steps sft --plot sft.png
    python bench/bench_step.py --end-to-end             # all 5,000 and 1,000 steps of the seed
                                                        # preset, both sides
    python bench/bench_step.py --end-to-end --fraction 0.05
    python bench/bench_step.py --sizes gpt2-1024        # GPT-2's own context, one sequence
    python bench/bench_step.py --accuracy               # float32 gradients against float64

The steps are "pretrain", at every size (seed 32 x 64 rows, small 8 x 256, gpt2 2 x 256), and "sft",
at seed: 16 of the 40 pairs, which PyTorch pads to the context as the source text does.

PyTorch runs the same model eagerly and compiled, in float32 and with bf16 autocast, with
torch.optim.AdamW as the source text calls it and nothing else set. People who install it and write
that loop get this speed. The tuned runners are the same with a fused AdamW and a malloc that keeps
its memory. First each of these eight takes a few steps alone; the KEPT fastest then take turns with
ours. (All ten together do not fit into the memory of a small machine at gpt2.) Each of our two is
compared with the fastest of them. "pysft bf16" is left out where the processor lacks bf16. A step
of pysft does more: it takes the gradient's norm, and checks
loss and norm. Peak MiB are of the whole process, with the libraries of the runner."""

import argparse
import time
from dataclasses import replace

import end_to_end
import harness
import numpy as np
import report
from end_to_end import pairs40
from harness import LONG, SIZES, TUNED_ENV, Worker, ratios, spread, take_turns, useful_flops
from report import with_quartiles

from pysft.batch import Batch
from pysft.errors import UsageError
from pysft.nn import gate, kernels
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.rng import rng
from pysft.text.corpora import read_corpus
from pysft.text.templates import CHAT
from pysft.text.tokenizer import CharTokenizer
from pysft.text.windows import draw_windows
from pysft.training.loop import train_step
from pysft.training.objectives import Sft

MODELS = SIZES | LONG
STEPS = {"pretrain": list(MODELS), "sft": ["seed"]}
PEERS = ["PyTorch eager", "PyTorch compile", "tuned eager", "tuned compile"]
PEERS += [f"{peer} bf16" for peer in PEERS]
OURS = ["pysft", "pysft bf16"][: len(gate.precisions())]
KEPT = 3  # peers that take turns with ours


# ------------------------------------------------------------------------------------- the runners


def examples_of(size, step):
    """The sequences of a step: windows of the plays (of noise at gpt2), or 16 conversations."""
    config, count = MODELS[size]
    text = read_corpus("plays")
    tokenizer = CharTokenizer.of(text).grow(CHAT.tokens)
    if step == "sft":
        return pairs40(tokenizer, config.context)[:16]
    g = rng(1, "bench", "windows")
    if config.vocab == len(tokenizer):
        corpus = tokenizer.encode(text)
    else:
        corpus = g.integers(0, config.vocab, 10000, np.int32)
    return draw_windows(corpus, count, config.context, g)


def batch_of(size, step):
    config, _ = MODELS[size]
    return Batch.of(examples_of(size, step), config.vocab, config.context)


def build(runner, step, size, threads):
    """A worker's functions."""
    if runner not in OURS:
        import torch

        torch.set_num_threads(threads)
    if step == "end-to-end":
        return end_to_end.build(runner, threads)
    config, _ = MODELS[size]
    if runner not in OURS:
        from torch_gpt import TorchGPT, padded, trainer

        update = trainer(TorchGPT(config), runner, 3e-4)
        tokens, labels = padded(examples_of(size, step), config.context)
        return {"step": lambda: update(tokens, labels)}
    batch = batch_of(size, step)
    precision = "bf16" if "bf16" in runner else "float32"
    config = replace(config, precision=precision)
    model = GPT(config, kernels.on_threads(threads), rng(1, "bench", "init"))
    adam = AdamW(model, decay=0.01, decay_all=True)

    def one():
        train_step(model, adam, [batch], Sft(), 3e-4)

    return {"step": one, "clock": lambda steps: clocked(model, one, steps)}


def clocked(model, one, steps):
    """{kernel: seconds of C in `steps` steps, "step": seconds of the steps}. The head's kernels,
    adamw and sum_squares are checked at every call, and their seconds include the checks: some 10
    us of Python a call."""
    model.clock, plain = {}, dict(vars(model.ops))

    def timed(name):
        def call(*arguments):
            start = time.perf_counter()
            result = plain[name](*arguments)
            model.clock[name] = model.clock.get(name, 0.0) + time.perf_counter() - start
            return result

        return call

    for name in ("adamw", "sum_squares"):
        setattr(model.ops, name, timed(name))
    start = time.perf_counter()
    for _ in range(steps):
        one()
    times, model.clock = {**model.clock, "step": time.perf_counter() - start}, None
    vars(model.ops).update(plain)
    return times


# --------------------------------------------------------------------------------------- accuracy


def accuracy(size, threads):
    """The distance of float32's loss and gradients from those in float64, for the same weights and
    batch: relative L2 distance of the whole gradient, and of the worst tensor."""
    config, _ = MODELS[size]
    batch, grads, losses = batch_of(size, "pretrain"), {}, {}
    ops = kernels.on_threads(threads)
    first = GPT(config, ops, rng(1, "bench", "init"))
    for dtype in (np.float32, np.float64):
        model = first if dtype == np.float32 else GPT(config, ops, dtype=dtype)
        model.params.flat[:] = first.params.flat
        objective = Sft()
        out = model.forward(batch)
        losses[dtype], dnll, dvalue, _ = objective(batch, out, objective.counts(batch))
        model.backward(dnll, dvalue)
        grads[dtype] = model.grads
    single, double = grads[np.float32], grads[np.float64]

    def distance(a, b):
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    distances = {name: distance(g, double[name]) for name, g in single.items()}
    worst = max(distances, key=distances.get)
    return {
        "size": size,
        "loss": abs(losses[np.float32] / losses[np.float64] - 1),
        "gradient": distance(single.flat, double.flat),
        "worst_tensor": worst,
        "worst": distances[worst],
    }


def accuracy_as_text(rows):
    head = [
        *("float32 against float64", "loss (relative)"),
        *("gradient (relative L2)", "worst tensor", ""),
    ]
    cells = []
    for r in rows:
        loss, gradient, worst = (f"{r[name]:.1e}" for name in ("loss", "gradient", "worst"))
        cells.append([r["size"], loss, gradient, r["worst_tensor"], worst])
    return report.table(head, cells)


# -------------------------------------------------------------------------------------- the report


def start(runner, step, size, args):
    env = TUNED_ENV if "tuned" in runner else {}
    return Worker(env, runner=runner, step=step, size=size, threads=args.threads)


def fastest(step, size, peers, args):
    """{peer: seconds of its best step alone}, of the KEPT fastest first."""
    found = {}
    for r in peers:
        worker = start(r, step, size, args)
        worker.run(1)
        worker.pin()
        found[r] = min(worker.run(1)[0] for _ in range(3 if args.short else 7))
        worker.close()
    return dict(sorted(found.items(), key=lambda item: item[1]))


def measure(step, size, runners, args, peak):
    """One row of the report. peak: {"fp32", "bf16"} in GFLOP/s; shares of bf16 are of its own."""
    medians, memory = {r: [] for r in runners}, {r: [] for r in runners}
    ours = [r for r in runners if r in OURS]
    clocks = {r: {} for r in ours}
    for _ in range(args.processes):
        workers = {r: start(r, step, size, args) for r in runners}
        for r, values in take_turns(workers, args.rounds, 0.1 if args.short else 0.4).items():
            medians[r].append(values)
        for r in ours:
            steps = max(2, round(0.3 / np.median(medians[r][-1])))
            for name, seconds in workers[r].ask("clock", steps=steps).items():
                clocks[r][name] = clocks[r].get(name, 0.0) + seconds
        for r, w in workers.items():
            memory[r].append(w.ask("memory"))
            w.close()
    batch = batch_of(size, step)
    tokens, flops = len(batch.tokens), useful_flops(MODELS[size][0], batch.lengths, batch.wanted)
    flat = {r: np.concatenate(values) for r, values in medians.items()}
    row = {"step": step, "size": size, "tokens": tokens, "gflop": flops / 1e9, "runners": {}}
    for r, values in flat.items():
        middle = float(np.median(values))
        row["runners"][r] = {
            "seconds": spread(values),
            "process_seconds": [float(np.median(v)) for v in medians[r]],
            "tokens_per_s": tokens / middle,
            "ratio": ratios(values, flat["pysft"]),
            "peak_bytes": max(memory[r]),
            "gflops": flops / middle / 1e9,
            "share_of_peak": flops / middle / 1e9 / (peak["bf16"] if "bf16" in r else peak["fp32"]),
        }
    peers = [r for r in runners if r not in ours]
    if peers:
        best = min(peers, key=lambda r: row["runners"][r]["seconds"]["median"])
        row["best_peer"] = best
        row["ratios"] = {r: ratios(flat[best], flat[r]) for r in ours}
    for r, clock in clocks.items():
        whole = clock.pop("step")
        longest_first = sorted(clock.items(), key=lambda item: -item[1])
        shares = {name: seconds / whole for name, seconds in longest_first}
        row["runners"][r] |= {"kernels": shares, "python_share": 1 - sum(shares.values())}
    return row


def as_text(row):
    """One row of the report as text."""
    head = [
        *(f"{row['size']} {row['step']}", "ms (quartiles)", "tokens/s", "GFLOP/s", "of peak"),
        *("x pysft", "peak MiB"),
    ]
    rows = [
        [
            r,
            with_quartiles(m["seconds"], scale=1e3),
            f"{m['tokens_per_s']:,.0f}",
            f"{m['gflops']:.0f}",
            f"{m['share_of_peak']:.0%}",
            with_quartiles(m["ratio"]) if r != "pysft" else "",
            f"{m['peak_bytes'] / 2**20:,.0f}",
        ]
        for r, m in row["runners"].items()
    ]
    lines = [report.table(head, rows)]
    if row["alone"]:
        times = ", ".join(f"{r} {1e3 * s:.1f}" for r, s in row["alone"].items())
        lines.append(f"PyTorch alone, best step in ms: {times}")
    for r, ratio in row.get("ratios", {}).items():
        lines.append(f"{r} is {with_quartiles(ratio)} times as fast as {row['best_peer']}")
    for r, m in row["runners"].items():
        if "kernels" in m:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in m["kernels"].items())
            lines.append(f"{r}, share of time: {shares}; Python {m['python_share']:.1%}")
    return "\n".join(lines)


def panels(rows):
    """The panels that --plot draws."""
    times, shares = {}, {}
    for row in rows:
        name, runners = f"{row['size']} {row['step']}", row["runners"]
        times[name] = {r: m["ratio"] for r, m in runners.items() if r != "pysft"}
        shares[name] = {r: m["share_of_peak"] for r, m in runners.items()}
    found = [("time, as a multiple of pysft's", times), ("share of fp32 peak", shares)]
    return [panel for panel in found if any(panel[1].values())]  # pysft alone: no times


# ------------------------------------------------------------------------------------ the command


def arguments():
    parser = report.arguments(__doc__)
    add = parser.add_argument
    sizes, steps = ",".join(MODELS), ",".join(STEPS)
    add("--sizes", type=report.one_of(MODELS), default=list(SIZES), help=f"some of {sizes}")
    add("--steps", type=report.one_of(STEPS), default=list(STEPS), help=f"some of {steps}")
    add("--no-torch", action="store_true", help="measure pysft alone")
    add("--accuracy", action="store_true", help="compare gradients with those in float64 instead")
    add("--end-to-end", action="store_true", help="run all steps of the seed preset instead")
    add("--fraction", type=fraction, help="share of the steps of --end-to-end to run (default 1)")
    args = report.settle(parser.parse_args(), short=(3, 1), full=(7, 5))
    if args.fraction and not args.end_to_end:
        raise UsageError("--fraction is a share of the steps of --end-to-end. Give both")
    args.fraction = args.fraction or (0.02 if args.short else 1.0)
    return args


def fraction(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return value


def main():
    args = arguments()
    machine, show = report.begin(args)
    peers = PEERS if harness.compares(args) else []
    result, drawn = {"machine": machine}, []
    if args.accuracy:
        result["accuracy"] = [accuracy(size, args.threads) for size in args.sizes]
        show("\n" + accuracy_as_text(result["accuracy"]))
    elif args.end_to_end:
        workers = {r: start(r, "end-to-end", "seed", args) for r in ["pysft", *peers[:2]]}
        result["end_to_end"] = end_to_end.measure(workers, args.fraction)
        show("\n" + end_to_end.as_text(result["end_to_end"]))
        seconds = {r: m["seconds"] for r, m in result["end_to_end"]["runners"].items()}
        drawn = [("seconds", {"seed preset": seconds})]
    else:
        result["rows"] = []
        peak = {p: machine[f"{p}_peak"] or machine["fp32_peak"] for p in ("fp32", "bf16")}
        chosen = [(step, size) for step in args.steps for size in STEPS[step] if size in args.sizes]
        for step, size in chosen:
            some = peers
            if args.short and (step, size) != ("pretrain", "seed"):
                some = [r for r in peers if "compile" not in r]  # the slowest part
            harness.say(f"{size} {step} ...")
            alone = fastest(step, size, some, args)
            row = measure(step, size, [*OURS, *list(alone)[:KEPT]], args, peak)
            row["alone"] = alone
            result["rows"].append(row)
            show("\n" + as_text(row))
        drawn = panels(result["rows"])
    report.finish(args, result, drawn)


if __name__ == "__main__":
    report.run(main, build)
