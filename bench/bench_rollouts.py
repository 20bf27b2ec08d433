"""Measure how fast replies are drawn side by side, as preference training draws them all day.

    python bench/bench_rollouts.py                  # 64 replies of 100 tokens, the model of tiny
    python bench/bench_rollouts.py --short          # to see that everything works
    python bench/bench_rollouts.py --sizes small --replies 16

Each prompt has 20 tokens, and every reply has its full length. The runners:

    pysft             inference.generate.generate at temperature 1
    pysft greedy      the same at temperature 0
    pysft bf16        at temperature 1, with products in bf16, where the processor has them
    tuned generate    transformers' generate on the same weights, all replies in one batch, with its
                      cache, sampling at temperature 1 (needs the package transformers)
    tuned generate bf16    the same with the model in bf16

A value is the tokens of all replies by the second."""

import importlib.util

import harness
import numpy as np
import report
from harness import SIZES, TUNED_ENV, Worker, ratios, spread, take_turns
from report import with_quartiles

from pysft.inference.generate import generate
from pysft.inference.sampling import Sampling
from pysft.nn import gate, kernels
from pysft.nn.grow import copied
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng

MODELS = {
    "tiny": GPTConfig(vocab=68, context=256, layers=4, heads=4, channels=64),
    "small": SIZES["small"][0],
    "gpt2": SIZES["gpt2"][0],
}
OURS = ["pysft", "pysft greedy", "pysft bf16"][: 1 + len(gate.precisions())]
PEERS = ["tuned generate", "tuned generate bf16"]
PROMPT, TOKENS = 20, 100


def prompts(config, count):
    g = np.random.default_rng(0)
    return [g.integers(0, config.vocab, PROMPT).astype(np.int32) for _ in range(count)]


def build(runner, size, threads, replies):
    """A worker's functions."""
    config = MODELS[size]
    model = GPT(config, kernels.on_threads(threads), rng(1, "bench", "init"))
    asked = prompts(config, replies)
    if runner in PEERS:
        return {"step": transformers_generate(model, asked, threads, "bf16" in runner)}
    if "bf16" in runner:
        model = copied(model, "bf16")
    sampling = Sampling(temperature=0.0 if "greedy" in runner else 1.0)

    def step():
        found = generate(model, asked, TOKENS, sampling=sampling)
        assert all(len(reply.ids) == TOKENS for reply in found)

    return {"step": step}


def transformers_generate(model, asked, threads, bf16):
    """A function that draws the replies with transformers."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(threads)
    c = model.config
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=c.vocab,
            n_positions=c.context,
            n_embd=c.channels,
            n_layer=c.layers,
            n_head=c.heads,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    theirs.load_state_dict(renamed(model, torch))
    theirs.eval()
    if bf16:
        theirs.to(torch.bfloat16)
    ids = torch.from_numpy(np.array(asked, np.int64))
    options = dict(do_sample=True, temperature=1.0, top_k=0, max_new_tokens=TOKENS, pad_token_id=0)

    @torch.inference_mode()
    def step():
        found = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert found.shape == (len(asked), PROMPT + TOKENS)

    return step


def renamed(model, torch):
    """The weights by the names of transformers, whose matrices in the blocks are transposed."""
    whole = {"wte": "transformer.wte", "wpe": "transformer.wpe", "head": "lm_head"}
    parts = {"ln1": "ln_1", "qkv": "attn.c_attn", "attproj": "attn.c_proj"}
    parts |= {"ln2": "ln_2", "fc": "mlp.c_fc", "fcproj": "mlp.c_proj"}
    found = {}
    for name, w in model.params.items():
        if name in whole:
            key, kind = whole[name], "w"
        elif name.startswith("lnf."):
            key, kind = "transformer.ln_f", name[-1]
        else:
            block, part, kind = name.removeprefix("h").split(".")
            key, w = f"transformer.h.{block}.{parts[part]}", w.T
        found[f"{key}.{'weight' if kind == 'w' else 'bias'}"] = torch.from_numpy(w.copy())
    return found


def measure(size, runners, args):
    """One row of the report."""
    medians = {r: [] for r in runners}
    for _ in range(args.processes):
        workers = {
            r: Worker(
                TUNED_ENV if "tuned" in r else {},
                runner=r,
                size=size,
                threads=args.threads,
                replies=args.replies,
            )
            for r in runners
        }
        for r, values in take_turns(workers, args.rounds, 0.1 if args.short else 0.4).items():
            medians[r] += values
        for w in workers.values():
            w.close()
    tokens = args.replies * TOKENS
    row = {"size": size, "replies": args.replies, "tokens": tokens, "runners": {}}
    for r, values in medians.items():
        row["runners"][r] = {
            "seconds": spread(values),
            "tokens_per_s": spread(tokens / np.array(values)),
            "ratio": ratios(values, medians["pysft"]),
        }
    return row


def as_text(row):
    """One row of the report as text."""
    rows = [
        [
            r,
            with_quartiles(m["tokens_per_s"], 0),
            with_quartiles(m["ratio"]) if r != "pysft" else "",
        ]
        for r, m in row["runners"].items()
    ]
    head = [f"{row['size']}: {row['replies']} replies", "tokens/s (quartiles)", "x pysft's time"]
    return report.table(head, rows)


def main():
    args = report.arguments(__doc__)
    sizes = ",".join(MODELS)
    args.add_argument(
        "--sizes", type=report.one_of(MODELS), default=["tiny"], help=f"some of {sizes}"
    )
    args.add_argument(
        "--replies", type=report.positive, default=64, help="side by side (default 64)"
    )
    args.add_argument("--no-torch", action="store_true", help="measure pysft alone")
    args = report.settle(args.parse_args(), short=(3, 1), full=(7, 3))
    machine, show = report.begin(args)
    has_peer = harness.compares(args) and importlib.util.find_spec("transformers") is not None
    if not has_peer:
        harness.say("transformers is not compared with: pip install transformers, and PyTorch")
    result = {"machine": machine, "rows": []}
    for size in args.sizes:
        harness.say(f"{size} ...")
        row = measure(size, [*OURS, *PEERS * has_peer], args)
        result["rows"].append(row)
        show("\n" + as_text(row))
    speeds = {
        row["size"]: {r: m["tokens_per_s"] for r, m in row["runners"].items()}
        for row in result["rows"]
    }
    report.finish(args, result, [("tokens a second", speeds)])


if __name__ == "__main__":
    report.run(main, build)
