"""Measure how long it takes to generate tokens with a cache of keys and values, against PyTorch,
and what a token costs as the context fills.

    python bench/bench_decode.py                  # the models of the seed and tiny presets
    python bench/bench_decode.py --short          # half a minute, to see that everything works
    python bench/bench_decode.py --sizes tiny --plot decode.png
    python bench/bench_decode.py --sizes gpt2 --threads 2

Decoding is greedy, from one token until the context is full, at batch 1. It runs on one thread
unless --threads says otherwise: small models are slower on two. The runners:

    pysft decoder     nn.decode.Decoder alone
    pysft decoder bf16    the same with products in bf16, where the processor has them
    pysft chat        the decoder inside inference.generate.stream, as a chat uses it: it looks for
                      the end token and for tool calls, and yields an event for each token. All
                      replies use one decoder. Nothing is printed.
    PyTorch eager     modules, with a cache that is updated in place
    tuned functional  the same without the calls of modules; "bf16": with a model in bf16

Ratios are to pysft chat, because people use that. Further tables show microseconds per token by
place in the context, with the cache and with a full forward of all tokens so far (the way without a
cache), and tokens per second with 24 replies generated side by side."""

import time

import harness
import numpy as np
import report
from harness import SIZES, TUNED_ENV, Worker, ratios, spread, take_turns
from report import with_quartiles

from pysft.inference.engine import SLOTS
from pysft.inference.generate import stream
from pysft.inference.tool_calls import answer_calls
from pysft.inference.tools import tools
from pysft.nn import gate, kernels
from pysft.nn.decode import Decoder
from pysft.nn.grow import copied
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng
from pysft.text.templates import CHAT
from pysft.text.tokenizer import CharTokenizer

MODELS = {
    "seed": SIZES["seed"][0],
    "tiny": GPTConfig(vocab=68, context=256, layers=4, heads=4, channels=64),
    "gpt2": SIZES["gpt2"][0],  # measured only if named
}
OURS = ["pysft decoder", "pysft chat"] + ["pysft decoder bf16"] * gate.HAS_BF16
PEERS = ["PyTorch eager", "tuned functional", "tuned functional bf16"]
PARTS = 8  # parts of the context; the cost of a token is reported for each


# ------------------------------------------------------------------------------------- the runners


def build(runner, size, threads):
    """A worker's functions."""
    config = MODELS[size]
    count = config.context - 1  # tokens after the first
    if not runner.startswith("pysft"):
        import torch
        from torch_gpt import decoder

        torch.set_num_threads(threads)
        decode = decoder(config, "functional" in runner, "bf16" in runner)
        return {"step": lambda: decode(1, count)}
    model = GPT(config, kernels.on_threads(threads), rng(1, "bench", "init"))
    if "bf16" in runner:
        model = copied(model, "bf16")
    return chat_functions(model, count) if runner == "pysft chat" else decoder_functions(model)


def chat_functions(model, count):
    """The functions of "pysft chat": write one reply, or SLOTS replies side by side."""
    characters = "".join(map(chr, range(model.config.vocab)))
    tokenizer = CharTokenizer(characters).grow(CHAT.tokens + CHAT.tool_tokens)
    kept = model.decoder()  # as in a Session, which keeps its decoder from reply to reply
    end = tokenizer.special[CHAT.end]  # not in the model's vocabulary: every reply is full length

    def chat(prompts=1):
        events = stream(
            model,
            [np.array([1])] * prompts,
            count,
            end,
            inject=answer_calls(tokenizer, CHAT, tools()),
            decoder=kept if prompts == 1 else None,
        )
        return sum(1 for _ in events)

    return {"step": chat, "side_by_side": lambda: chat(SLOTS)}


def decoder_functions(model):
    """The functions of "pysft decoder": fill the context, and measure the cost by place."""
    decoder = Decoder(model)

    def fill():
        decoder.reset()
        token = 1
        for _ in range(model.config.context - 1):
            token = int(decoder.step(token).argmax())

    return {"step": fill, "places": lambda rounds: places(model, decoder, rounds)}


def places(model, decoder, rounds):
    """[[first place, last place, seconds per token with the cache, seconds of a full forward of the
    tokens up to the last place], ...], a row for each part of the context."""
    context = model.config.context
    edges = np.linspace(0, context, PARTS + 1).astype(int)
    cached, full = np.zeros((2, rounds, PARTS))
    ids = np.arange(context, dtype=np.int32) % model.config.vocab
    for r in range(rounds):
        decoder.reset()
        for i, (a, b) in enumerate(zip(edges, edges[1:])):
            start = time.perf_counter()
            for t in ids[a:b]:
                decoder.step(t).argmax()
            cached[r, i] = (time.perf_counter() - start) / (b - a)
            start = time.perf_counter()
            model.logits(ids[:b], np.array([0, b], np.int32), [b - 1])
            full[r, i] = time.perf_counter() - start
    return [
        [int(a) + 1, int(b), c, f]
        for a, b, c, f in zip(edges, edges[1:], np.median(cached, 0), np.median(full, 0))
    ]


# ---------------------------------------------------------------------------------- the comparison


def measure(size, runners, args):
    """One row of the report."""
    medians, costs, beside = {r: [] for r in runners}, [], []
    for _ in range(args.processes):
        workers = {
            r: Worker(TUNED_ENV if "tuned" in r else {}, runner=r, size=size, threads=args.threads)
            for r in runners
        }
        for r, values in take_turns(workers, args.rounds, 0.1 if args.short else 0.4).items():
            medians[r] += values
        rounds = 1 if size == "gpt2" else 5 if args.short else 40
        costs.append(workers["pysft decoder"].ask("places", rounds=rounds))
        if size != "gpt2":  # it would take minutes
            beside.append(float(np.median(workers["pysft chat"].run(3, "side_by_side"))))
        for w in workers.values():
            w.close()
    tokens = MODELS[size].context - 1
    row = {"size": size, "tokens": tokens, "runners": {}}
    for r, values in medians.items():
        row["runners"][r] = {
            "seconds": spread(values),
            "tokens_per_s": tokens / float(np.median(values)),
            "ratio": ratios(values, medians["pysft chat"]),
        }
    row["places"] = [
        [*rows[0][:2], *np.median([r[2:] for r in rows], 0).tolist()] for rows in zip(*costs)
    ]
    if beside:
        rate = SLOTS * tokens / float(np.median(beside))
        row["side_by_side"] = {"replies": SLOTS, "tokens_per_s": rate}
    return row


def as_text(row):
    """One row of the report as text."""
    head = [
        *(f"{row['size']}: {row['tokens']} tokens", "ms (quartiles)"),
        *("tokens/s", "us a token", "x pysft chat"),
    ]
    rows = [
        [
            r,
            with_quartiles(m["seconds"], scale=1e3),
            f"{m['tokens_per_s']:,.0f}",
            f"{1e6 / m['tokens_per_s']:.1f}",
            with_quartiles(m["ratio"], 1) if r != "pysft chat" else "",
        ]
        for r, m in row["runners"].items()
    ]
    places, beside = row["places"], row.get("side_by_side")
    costs = report.table(
        ["place in the context", *(f"{a}-{b}" for a, b, _, _ in places)],
        [
            ["us a token, with the cache", *(f"{1e6 * c:.1f}" for _, _, c, _ in places)],
            ["us a token, a full forward", *(f"{1e6 * f:.0f}" for _, _, _, f in places)],
        ],
    )
    first, last = places[0], places[-1]
    return (
        f"{report.table(head, rows)}\n\n{costs}\n"
        f"a token in the last {last[1] - last[0] + 1} places costs {last[2] / first[2]:.2f} times"
        " as much as one in the first;"
        f" there a full forward costs {last[3] / last[2]:.0f} times as much as the cache"
    ) + (
        f"\n{beside['replies']} replies side by side: {beside['tokens_per_s']:,.0f} tokens/s"
        if beside
        else ""
    )


def main():
    args = report.arguments(__doc__)
    names = ",".join(MODELS)
    args.add_argument(
        "--sizes", type=report.one_of(MODELS), default=["seed", "tiny"], help=f"some of {names}"
    )
    args.add_argument("--no-torch", action="store_true", help="measure pysft alone")
    args = args.parse_args()
    args.threads = args.threads or 1
    args = report.settle(args, short=(3, 1), full=(7, 5))
    machine, show = report.begin(args)
    runners = [*OURS, *PEERS] if harness.compares(args) else OURS
    result = {"machine": machine, "rows": []}
    for size in args.sizes:
        harness.say(f"{size} ...")
        row = measure(size, runners, args)
        result["rows"].append(row)
        show("\n" + as_text(row))
    report.finish(args, result, panels(result["rows"]))


def panels(rows):
    """The panels that --plot draws."""
    times, costs = {}, {}
    for row in rows:
        runners = {r: m["ratio"] for r, m in row["runners"].items() if r != "pysft chat"}
        times[row["size"]] = runners
        costs[row["size"]] = {f"{a}-{b}": 1e6 * c for a, b, c, _ in row["places"]}
    return [
        ("time, as a multiple of pysft chat's", times),
        ("microseconds a token, with the cache", costs),
    ]


if __name__ == "__main__":
    report.run(main, build)
