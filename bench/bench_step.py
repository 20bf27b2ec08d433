"""How long a training step takes (forward, backward, AdamW), against PyTorch.

    python bench/bench_step.py                          # all sizes and steps
    python bench/bench_step.py --short                  # two minutes, to see that all is well
    python bench/bench_step.py --sizes seed --steps sft --plot sft.png
    python bench/bench_step.py --end-to-end             # the seed preset's 5,000 and 1,000 steps,
                                                        both sides
    python bench/bench_step.py --end-to-end --fraction 0.05
    python bench/bench_step.py --sizes gpt2-1024        # GPT-2's own context, one sequence: time
                                                        and memory
    python bench/bench_step.py --accuracy               # float32 gradients against the float64 twin
                                                        instead

Steps: pretrain, at every size (seed 32 x 64 rows, small 8 x 256, gpt2 2 x 256); sft, at seed: 16 of
the 40 pairs, which PyTorch pads to the context, as the source text does. PyTorch runs the same
model in float32, eagerly and compiled, with torch.optim.AdamW as the source text calls it and
nothing set: what somebody gets who installs it and writes that loop. The ratio is to the better of
both. Beside them stand the same two tuned: fused AdamW, and a malloc that keeps what it has.
pysft's step has more in it: the gradient's norm is taken, and loss and norm are checked. Peak MiB
are of the whole process, the runner's own libraries included."""

import time

import harness
import numpy as np
from harness import (
    LONG,
    SIZES,
    TUNED_ENV,
    Worker,
    ratios,
    spread,
    take_turns,
    useful_flops,
    with_quartiles,
)

from pysft.errors import UsageError
from pysft.nn import ops
from pysft.nn.model import GPT, GPTConfig, expand_vocab
from pysft.nn.optim import AdamW
from pysft.rng import rng
from pysft.text.dataset import (
    Batch,
    draw_windows,
    encode_conversation,
    read_corpus,
    shipped,
    split_corpus,
)
from pysft.text.formats import read_conversations
from pysft.text.template import CHAT
from pysft.text.tokenizer import CharTokenizer
from pysft.training.loop import train, train_step
from pysft.training.objectives import sft
from pysft.training.stages import finetune, pretrain, resolve

MODELS = SIZES | LONG
STEPS = {"pretrain": list(MODELS), "sft": ["seed"]}
PEERS = ["PyTorch eager", "PyTorch compile", "tuned eager", "tuned compile"]


# ------------------------------------------------------------------------------------- the runners


def pairs40(tokenizer, context):
    return [
        encode_conversation(c, tokenizer, context)
        for c in read_conversations(shipped("pairs40.jsonl"))
    ]


def examples_of(size, step):
    """The sequences of a step: windows of the plays (of noise at gpt2), or 16 conversations."""
    config, count = MODELS[size]
    text = read_corpus("plays")
    tokenizer = CharTokenizer.of(text).grow(CHAT.tokens)
    if step == "sft":
        return pairs40(tokenizer, config.context)[:16]
    g = rng(1, "bench", "windows")
    corpus = (
        tokenizer.encode(text)
        if config.vocab == len(tokenizer)
        else g.integers(0, config.vocab, 10000, np.int32)
    )
    return draw_windows(corpus, count, config.context, g)


def padded(examples, context):
    """tokens, labels (S,T): torch tensors, padded with 0 and -100."""
    import torch

    tokens, labels = (
        torch.zeros(len(examples), context, dtype=torch.long),
        torch.full((len(examples), context), -100),
    )
    for s, e in enumerate(examples):
        tokens[s, : len(e.labels)] = torch.from_numpy(e.input_ids.astype(np.int64))
        labels[s, : len(e.labels)] = torch.from_numpy(e.labels.astype(np.int64))
    return tokens, labels


def build(runner, step, size, threads):
    """A worker's functions."""
    config, _ = MODELS[size]
    if runner != "pysft":
        import torch

        torch.set_num_threads(threads)
    if step == "end-to-end":
        return whole_run(threads) if runner == "pysft" else torch_whole_run(runner)
    examples = examples_of(size, step)
    if runner == "pysft":
        model = GPT(config, ops.on_threads(threads), rng(1, "bench", "init"))
        adam, batch = (
            AdamW(model, decay=0.01, decay_all=True),
            Batch.of(examples, config.vocab, config.context),
        )

        def one():
            train_step(model, adam, [batch], sft, 3e-4)

        return {"step": one, "clock": lambda steps: clocked(model, one, steps)}
    from torch_gpt import TorchGPT, trainer

    update, (tokens, labels) = (
        trainer(TorchGPT(config), runner, 3e-4),
        padded(examples, config.context),
    )
    return {"step": lambda: update(tokens, labels)}


def clocked(model, one, steps):
    """Seconds of C by kernel in so many steps, and of all ("step"). The head's kernels, adamw and
    sum_squares pass the gate one by one, which the clock counts with them: some 10 us of Python a
    call."""
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


# ------------------------------------------------------------------------------------- end to end


def seed_material():
    """settings, the corpus and its vocabulary, the pairs and the grown vocabulary, of the seed
    preset."""
    settings, text = resolve("seed"), read_corpus("plays")
    tokenizer = CharTokenizer.of(text)
    grown = tokenizer.grow(CHAT.tokens)
    corpus, pairs = tokenizer.encode(split_corpus(text)[0]), pairs40(grown, settings.context)
    return settings, corpus, len(tokenizer), pairs, len(grown)


def whole_run(threads):
    """The seed preset as recipe.py has it, step by step."""
    settings, corpus, vocab, pairs, grown = seed_material()
    state = {}

    def begin(stage, model, plan):
        adam = AdamW(model, **settings.adam(stage))
        state["model"] = model
        state["warm"] = lambda: train_step(model, AdamW(model), plan.draw(0), plan.objective, 0.0)
        state["steps"] = train(
            model, adam, plan.draw, plan.objective, plan.rate, plan.steps, settings.clip
        )

    def grow():
        model = expand_vocab(
            state["model"], grown, settings.new_rows, rng(settings.seed, "sft", "rows")
        )
        begin("sft", model, finetune(settings, [], pairs, corpus, grown))

    def step():
        state["loss"] = next(state["steps"]).loss

    config = GPTConfig(vocab, settings.context, settings.layers, settings.heads, settings.channels)
    begin(
        "base",
        GPT(config, ops.on_threads(threads), rng(settings.seed, "base", "init")),
        pretrain(settings, corpus, vocab),
    )
    return {
        "step": step,
        "grow": grow,
        "warm": lambda: state["warm"](),
        "loss": lambda: state["loss"],
    }


def torch_whole_run(runner):
    """The same in PyTorch: the same windows and conversations in the same order; conversations are
    padded once, and a step's are picked from that."""
    import torch
    from torch_gpt import TorchGPT, trainer

    settings, corpus, vocab, pairs, grown = seed_material()
    text, T = torch.from_numpy(corpus.astype(np.int64)), settings.context
    talk, state = padded(pairs, T), {"at": 0}

    def windows(at):
        first = rng(settings.seed, "base", "windows", at).integers(
            0, len(corpus) - T, settings.base_windows[0][1]
        )
        found = text[torch.from_numpy(first)[:, None] + torch.arange(T + 1)]
        return found[:, :-1], found[:, 1:]

    def conversations(at):
        which = torch.from_numpy(
            rng(settings.seed, "sft", "pairs", at).integers(0, len(pairs), settings.sft_pairs)
        )
        return talk[0][which], talk[1][which]

    def begin(model, lr, decay, draw):
        idle = trainer(model, runner, 0.0, 0.0)
        state["warm"] = lambda: idle(*draw(0))
        state.update(model=model, update=trainer(model, runner, lr, decay), draw=draw, at=0)

    def step():
        state["loss"] = state["update"](*state["draw"](state["at"]))
        state["at"] += 1

    def grow():
        begin(state["model"].grown(grown), settings.sft_lr, settings.sft_decay, conversations)

    begin(
        TorchGPT(GPTConfig(vocab, T, settings.layers, settings.heads, settings.channels)),
        settings.base_lr,
        settings.base_decay,
        windows,
    )
    return {
        "step": step,
        "grow": grow,
        "warm": lambda: state["warm"](),
        "loss": lambda: float(state["loss"]),
    }


def end_to_end(args, runners):
    """Total seconds of the preset's steps for each runner, in slices that take turns. "warm" is a
    step that moves nothing: what is compiled or allocated in it is not timed."""
    settings, slice_steps = resolve("seed"), 50
    workers = {r: start(r, "end-to-end", "seed", args) for r in runners}
    times = {r: [] for r in runners}
    losses = {r: [] for r in runners}
    for total in (settings.base_steps, settings.sft_steps):
        if losses["pysft"]:
            for w in workers.values():
                w.ask("grow")
        for w in workers.values():
            w.run(2, "warm")
            w.pin("warm")
        left, turn = max(1, round(args.fraction * total)), 0
        while left:
            steps, turn = min(left, slice_steps), turn + 1
            for r in runners[turn % len(runners) :] + runners[: turn % len(runners)]:
                time.sleep(harness.PAUSE)
                times[r].append(sum(workers[r].run(steps)))
            left -= steps
        for r, w in workers.items():
            losses[r].append(w.ask("loss"))
    result = {
        r: {
            "seconds": sum(times[r]),
            "ratio": sum(times[r]) / sum(times["pysft"]),
            "ratio_of_slices": ratios(times[r], times["pysft"]),
            "last_losses": losses[r],
            "peak_bytes": w.ask("memory"),
        }
        for r, w in workers.items()
    }
    for w in workers.values():
        w.close()
    return {"fraction": args.fraction, "slice": slice_steps, "runners": result}


# --------------------------------------------------------------------------------------- accuracy


def accuracy(size, threads):
    """How far float32's loss and gradients are from those of the same weights and batch in float64:
    relative L2 distance of the whole gradient, and of the worst tensor."""
    config, _ = MODELS[size]
    batch, grads, losses = (
        Batch.of(examples_of(size, "pretrain"), config.vocab, config.context),
        {},
        {},
    )
    first = GPT(config, ops.on_threads(threads), rng(1, "bench", "init"))
    for dtype in (np.float32, np.float64):
        model = first if dtype == np.float32 else GPT(config, ops.on_threads(threads), dtype=dtype)
        model.params.flat[:] = first.params.flat
        nll, value = model.forward(batch)
        losses[dtype], dnll, dvalue = sft(batch, nll, value, sft.count(batch))
        model.backward(dnll, dvalue)
        grads[dtype] = model.grads
    distance = {
        name: float(
            np.linalg.norm(g - grads[np.float64][name]) / np.linalg.norm(grads[np.float64][name])
        )
        for name, g in grads[np.float32].items()
    }
    every, worst = grads[np.float64].flat, max(distance, key=distance.get)
    return {
        "size": size,
        "loss": abs(losses[np.float32] / losses[np.float64] - 1),
        "gradient": float(np.linalg.norm(grads[np.float32].flat - every) / np.linalg.norm(every)),
        "worst_tensor": worst,
        "worst": distance[worst],
    }


def tell_accuracy(rows):
    return harness.table(
        [
            "float32 against float64",
            "loss (relative)",
            "gradient (relative L2)",
            "worst tensor",
            "",
        ],
        [
            [
                r["size"],
                f"{r['loss']:.1e}",
                f"{r['gradient']:.1e}",
                r["worst_tensor"],
                f"{r['worst']:.1e}",
            ]
            for r in rows
        ],
    )


# -------------------------------------------------------------------------------------- the report


def start(runner, step, size, args):
    env = TUNED_ENV if "tuned" in runner else {}
    return Worker(env, runner=runner, step=step, size=size, threads=args.threads)


def measure(step, size, runners, args, peak):
    """One row of the report."""
    medians, memory, clock = {r: [] for r in runners}, {r: [] for r in runners}, {}
    for _ in range(args.processes):
        workers = {r: start(r, step, size, args) for r in runners}
        for r, values in take_turns(workers, args.rounds, 0.1 if args.short else 0.4).items():
            medians[r].append(values)
        steps = max(2, round(0.3 / np.median(medians["pysft"][-1])))
        for name, seconds in workers["pysft"].ask("clock", steps=steps).items():
            clock[name] = clock.get(name, 0.0) + seconds
        for r, w in workers.items():
            memory[r].append(w.ask("memory"))
            w.close()
    batch = Batch.of(examples_of(size, step), MODELS[size][0].vocab, MODELS[size][0].context)
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
        }
        row["runners"][r] |= {
            "gflops": flops / middle / 1e9,
            "share_of_peak": flops / middle / 1e9 / peak,
        }
    for key, kind in (("ratio", "PyTorch"), ("ratio_tuned", "tuned")):
        found = {r: row["runners"][r] for r in runners if kind in r}
        if found:
            row[key] = {
                "to": (best := min(found, key=lambda r: found[r]["seconds"]["median"])),
                **found[best]["ratio"],
            }
    whole = clock.pop("step")
    row["kernels"] = {
        name: s / whole for name, s in sorted(clock.items(), key=lambda item: -item[1])
    }
    row["python_share"] = 1 - sum(row["kernels"].values())
    return row


def tell(row):
    """A row as text."""
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
    head = [
        f"{row['size']} {row['step']}",
        "ms (quartiles)",
        "tokens/s",
        "GFLOP/s",
        "of peak",
        "x pysft",
        "peak MiB",
    ]
    lines = [harness.table(head, rows)]
    if "ratio" in row:
        lines.append(
            "pysft is "
            + ", ".join(
                f"{with_quartiles(row[key])} times as fast as {row[key]['to']}"
                for key in ("ratio", "ratio_tuned")
            )
        )
    lines.append(
        "share of time: "
        + ", ".join(f"{k} {s:.1%}" for k, s in row["kernels"].items())
        + f"; Python {row['python_share']:.1%}"
    )
    return "\n".join(lines)


def tell_whole(result):
    rows = [
        [
            r,
            f"{m['seconds']:.1f}",
            f"{m['ratio']:.2f}",
            with_quartiles(m["ratio_of_slices"]),
            ", ".join(f"{v:.3f}" for v in m["last_losses"]),
            f"{m['peak_bytes'] / 2**20:,.0f}",
        ]
        for r, m in result["runners"].items()
    ]
    return harness.table(
        [
            f"seed preset, {result['fraction']:.0%} of its steps",
            "seconds",
            "x pysft",
            f"slices of {result['slice']} (quartiles)",
            "last losses",
            "peak MiB",
        ],
        rows,
    )


def fraction(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise harness.argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return value


def main():
    args = harness.arguments(__doc__)
    args.add_argument(
        "--sizes", type=harness.one_of(MODELS), default=list(SIZES), help="of " + ",".join(MODELS)
    )
    args.add_argument(
        "--accuracy", action="store_true", help="compare gradients with the float64 twin's instead"
    )
    args.add_argument(
        "--steps", type=harness.one_of(STEPS), default=list(STEPS), help="of pretrain,sft"
    )
    args.add_argument("--no-torch", action="store_true", help="pysft alone")
    args.add_argument(
        "--end-to-end", action="store_true", help="the seed preset's steps instead, start to end"
    )
    args.add_argument(
        "--fraction", type=fraction, default=None, help="of the steps of --end-to-end (default 1)"
    )
    args = harness.settle(args.parse_args(), short=(3, 1), full=(7, 5))
    if args.fraction and not args.end_to_end:
        raise UsageError("--fraction is of the steps of --end-to-end: name that too")
    args.fraction = args.fraction or (0.02 if args.short else 1.0)
    machine, show = harness.begin(args)
    torch = harness.has_torch() and not args.no_torch
    if not harness.has_torch() and not args.no_torch:
        harness.say(harness.INSTALL_TORCH)
    result = {"machine": machine}
    if args.accuracy:
        result["accuracy"], panels = [accuracy(size, args.threads) for size in args.sizes], []
        show("\n" + tell_accuracy(result["accuracy"]))
    elif args.end_to_end:
        result["end_to_end"] = end_to_end(args, ["pysft", *(PEERS[:2] if torch else [])])
        show("\n" + tell_whole(result["end_to_end"]))
        panels = [
            (
                "seconds",
                {
                    "seed preset": {
                        r: m["seconds"] for r, m in result["end_to_end"]["runners"].items()
                    }
                },
            )
        ]
    else:
        result["rows"] = []
        for step, size in [
            (step, size) for step in args.steps for size in STEPS[step] if size in args.sizes
        ]:
            runners = ["pysft", *(PEERS if torch else [])]
            if args.short and (step, size) != (
                "pretrain",
                "seed",
            ):  # compiling takes longer than the rest
                runners = [r for r in runners if "compile" not in r]
            harness.say(f"{size} {step} ...")
            result["rows"].append(measure(step, size, runners, args, machine["fp32_peak"]))
            show("\n" + tell(result["rows"][-1]))
        panels = plots(result["rows"])
    harness.finish(args, result, panels)


def plots(rows):
    """The panels of the bar chart."""
    times = {
        f"{row['size']} {row['step']}": {
            r: m["ratio"] for r, m in row["runners"].items() if r != "pysft"
        }
        for row in rows
    }
    shares = {
        f"{row['size']} {row['step']}": {r: m["share_of_peak"] for r, m in row["runners"].items()}
        for row in rows
    }
    return [
        panel
        for panel in (("time, as a multiple of pysft's", times), ("share of fp32 peak", shares))
        if any(panel[1].values())
    ]


if __name__ == "__main__":
    harness.run(main, build)
