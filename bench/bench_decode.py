"""How long it takes to write, with a cache of keys and values, against PyTorch; and what a token
costs as the context fills.

    python bench/bench_decode.py                  # the seed and the tiny preset's models
    python bench/bench_decode.py --short          # half a minute, to see that all is well
    python bench/bench_decode.py --sizes tiny --plot decode.png

Greedy, from one token until the context is full, at batch 1 on one thread, which at one row is
fastest for all. Runners: pysft decoder, the bare Decoder; pysft chat, the same through
inference.generate.write with what a chat has around it (the end token, a look for calls of its
tools, an event a token; the decoder of the reply before), but for the printing; PyTorch eager,
modules with a cache kept in place; tuned functional, the same without the calls of modules. Ratios
are to pysft chat: it is what people use.

Below: microseconds a token by its place in the context, with the cache and by a full forward of all
tokens so far (which is what there is without one), and tokens a second with 24 replies written side
by side."""

import time

import harness
import numpy as np
from harness import SIZES, TUNED_ENV, Worker, ratios, spread, take_turns, with_quartiles

from pysft.errors import UsageError
from pysft.inference.generate import SLOTS, write
from pysft.inference.session import pause
from pysft.inference.tools import tools
from pysft.nn import ops
from pysft.nn.decode import Decoder
from pysft.nn.model import GPT, GPTConfig
from pysft.rng import rng
from pysft.text.template import CHAT
from pysft.text.tokenizer import CharTokenizer

MODELS = {
    "seed": SIZES["seed"][0],
    "tiny": GPTConfig(vocab=68, context=256, layers=4, heads=4, channels=64),
}
RUNNERS = ["pysft decoder", "pysft chat", "PyTorch eager", "tuned functional"]
PARTS = 8  # of the context, in which a token's cost is told


# ------------------------------------------------------------------------------------- the runners


def build(runner, size, threads):
    """A worker's functions."""
    config = MODELS[size]
    count = config.context - 1  # tokens after the first
    if not runner.startswith("pysft"):
        import torch
        from torch_gpt import decoder

        torch.set_num_threads(threads)
        decode = decoder(config, "functional" in runner)
        return {"step": lambda: decode(1, count)}
    model = GPT(config, ops.on_threads(threads), rng(1, "bench", "init"))
    if runner == "pysft chat":
        tokenizer = CharTokenizer("".join(map(chr, range(config.vocab)))).grow(
            CHAT.tokens + CHAT.tool_tokens
        )

        kept = model.decoder()  # as a Session keeps it from reply to reply

        def chat(prompts=1):
            never = tokenizer.special[
                CHAT.end
            ]  # beyond the vocabulary: no reply ends before the others
            return sum(
                1
                for event in write(
                    model,
                    [np.array([1])] * prompts,
                    count,
                    never,
                    pause=pause(tokenizer, CHAT, tools()),
                    decoder=kept if prompts == 1 else None,
                )
            )

        return {"step": chat, "side_by_side": lambda: chat(SLOTS)}
    decoder = Decoder(model)

    def one():
        decoder.reset()
        token = 1
        for _ in range(count):
            token = int(decoder.step(token).argmax())

    return {"step": one, "places": lambda rounds: places(model, decoder, rounds)}


def places(model, decoder, rounds):
    """[[first place, last, seconds a token with the cache, with a full forward of the tokens up to
    the last]]."""
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
    medians, where, beside = {r: [] for r in runners}, [], []
    for _ in range(args.processes):
        workers = {
            r: Worker(TUNED_ENV if "tuned" in r else {}, runner=r, size=size, threads=1)
            for r in runners
        }
        for r, values in take_turns(workers, args.rounds, 0.1 if args.short else 0.4).items():
            medians[r] += values
        where.append(workers["pysft decoder"].ask("places", rounds=5 if args.short else 40))
        beside.append(float(np.median(workers["pysft chat"].run(3, "side_by_side"))))
        for w in workers.values():
            w.close()
    tokens = MODELS[size].context - 1
    row = {
        "size": size,
        "tokens": tokens,
        "runners": {
            r: {
                "seconds": spread(values),
                "tokens_per_s": tokens / float(np.median(values)),
                "ratio": ratios(values, medians["pysft chat"]),
            }
            for r, values in medians.items()
        },
    }
    row["places"] = [
        [*fixed[0][:2], *np.median([f[2:] for f in fixed], 0).tolist()] for fixed in zip(*where)
    ]
    row["side_by_side"] = {
        "replies": SLOTS,
        "tokens_per_s": SLOTS * tokens / float(np.median(beside)),
    }
    return row


def tell(row):
    """A row as text."""
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
    places = row["places"]
    lines = [
        harness.table(
            [
                f"{row['size']}: {row['tokens']} tokens",
                "ms (quartiles)",
                "tokens/s",
                "us a token",
                "x pysft chat",
            ],
            rows,
        ),
        "",
        harness.table(
            ["place in the context", *(f"{a}-{b}" for a, b, _, _ in places)],
            [
                ["us a token, with the cache", *(f"{1e6 * c:.1f}" for _, _, c, _ in places)],
                ["us a token, a full forward", *(f"{1e6 * f:.0f}" for _, _, _, f in places)],
            ],
        ),
        (
            f"the last {places[-1][1] - places[-1][0] + 1} cost {places[-1][2] / places[0][2]:.2f}"
            f" times as much as the first; a full forward {places[-1][3] / places[-1][2]:.0f} times"
            " as much as a token with the cache"
        ),
        (
            f"{row['side_by_side']['replies']} replies side by side:"
            f" {row['side_by_side']['tokens_per_s']:,.0f} tokens/s"
        ),
    ]
    return "\n".join(lines)


def main():
    args = harness.arguments(__doc__)
    args.add_argument(
        "--sizes", type=harness.one_of(MODELS), default=list(MODELS), help="of " + ",".join(MODELS)
    )
    args.add_argument("--no-torch", action="store_true", help="pysft alone")
    args = args.parse_args()
    if args.threads not in (None, 1):
        raise UsageError(
            f"--threads {args.threads}: at one row a second thread makes every runner slower; leave"
            " it out"
        )
    args.threads = 1
    args = harness.settle(args, short=(3, 1), full=(7, 5))
    machine, show = harness.begin(args)
    torch = harness.has_torch() and not args.no_torch
    if not harness.has_torch() and not args.no_torch:
        harness.say(harness.INSTALL_TORCH)
    result = {"machine": machine, "rows": []}
    for size in args.sizes:
        harness.say(f"{size} ...")
        result["rows"].append(measure(size, RUNNERS if torch else RUNNERS[:2], args))
        show("\n" + tell(result["rows"][-1]))
    panels = [
        (
            "time, as a multiple of pysft chat's",
            {
                row["size"]: {r: m["ratio"] for r, m in row["runners"].items() if r != "pysft chat"}
                for row in result["rows"]
            },
        ),
        (
            "microseconds a token, with the cache",
            {
                row["size"]: {f"{a}-{b}": 1e6 * c for a, b, c, _ in row["places"]}
                for row in result["rows"]
            },
        ),
    ]
    harness.finish(args, result, panels)


if __name__ == "__main__":
    harness.run(main, build)
