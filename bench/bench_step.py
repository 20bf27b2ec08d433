"""How long a training step takes: forward, backward and AdamW, at the shapes of the seed preset.

    python bench/bench_step.py [--steps N] [--threads N] [--json]

Medians over N steps after a warm-up. Where PyTorch is installed the same model, batch and optimiser
run in PyTorch (eager, float32), a few steps of each in turn, and the ratio of the medians is shown;
PyTorch pads its conversations to the context, as the source text does."""

import argparse
import json
import time

import numpy as np

from pysft.nn.model import GPT, GPTConfig
from pysft.nn.optim import AdamW
from pysft.nn import ops
from pysft.rng import rng
from pysft.text.dataset import (Batch, draw_windows, encode_conversation, read_conversations, read_corpus, shipped)
from pysft.text.template import CHAT
from pysft.text.tokenizer import CharTokenizer
from pysft.training.loop import train_step
from pysft.training.objectives import sft

ROUNDS = 5


def batches(context):
    """The seed preset's two steps: 32 windows of 64; 16 of the 40 pairs."""
    text = read_corpus("plays")
    tokenizer = CharTokenizer.of(text).grow(CHAT.tokens)
    windows = draw_windows(tokenizer.encode(text), 32, context, rng(1, "bench", "windows"))
    pairs = [encode_conversation(c, tokenizer, context) for c in read_conversations(shipped("pairs40.jsonl"))[:16]]
    return {"pre-training": windows, "fine-tuning": pairs}, len(tokenizer)


def ours(config, examples, threads):
    model = GPT(config, ops.on_threads(threads), rng(1, "bench", "init"))
    adam = AdamW(model, decay=0.01, decay_all=True)
    batch = Batch.of(examples, config.vocab, config.context)
    return lambda: train_step(model, adam, [batch], sft, 3e-4)


def theirs(config, examples, threads):
    """The same model in PyTorch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    C, H, T = config.channels, config.heads, config.context

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
            self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
            self.fc, self.out = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

        def forward(self, x):
            B, T, _ = x.shape
            q, k, v = (a.view(B, T, H, C // H).transpose(1, 2) for a in self.qkv(self.ln1(x)).split(C, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
            return x + self.out(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(config.vocab, C), nn.Embedding(T, C)
            self.blocks = nn.Sequential(*[Block() for _ in range(config.layers)])
            self.lnf, self.head = nn.LayerNorm(C), nn.Linear(C, config.vocab, bias=False)

        def forward(self, x):
            return self.head(self.lnf(self.blocks(self.wte(x) + self.wpe.weight[:x.shape[1]])))

    model = Model()
    adam = torch.optim.AdamW(model.parameters(), lr=3e-4)
    x = torch.zeros(len(examples), T, dtype=torch.long)
    y = torch.full((len(examples), T), -100)
    for i, e in enumerate(examples):
        x[i, :len(e.input_ids)] = torch.from_numpy(e.input_ids.astype(np.int64))
        y[i, :len(e.labels)] = torch.from_numpy(e.labels.astype(np.int64))

    def step():
        loss = F.cross_entropy(model(x).view(-1, config.vocab), y.view(-1), ignore_index=-100)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return step


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--steps", type=int, default=100)
    args.add_argument("--threads", type=int, default=None)
    args.add_argument("--json", action="store_true")
    args = args.parse_args()
    threads = args.threads or ops.default_threads()
    examples, vocab = batches(64)
    config = GPTConfig(vocab, 64)
    rows = []
    for name, sequences in examples.items():
        runners = {"pysft": ours(config, sequences, threads), "PyTorch eager": theirs(config, sequences, threads)}
        runners = {k: f for k, f in runners.items() if f}
        times = {k: [] for k in runners}
        for _ in range(ROUNDS):
            for k, step in runners.items():
                step(), time.sleep(0.05)
                for _ in range(max(1, args.steps // ROUNDS)):
                    start = time.perf_counter()
                    step()
                    times[k].append(1e3 * (time.perf_counter() - start))
        tokens = sum(len(e.input_ids) for e in sequences)
        for k, t in times.items():
            q = np.percentile(t, [25, 50, 75])
            rows.append({"step": name, "by": k, "tokens": tokens, "ms": q[1], "ms_quartiles": [q[0], q[2]],
                         "tokens_per_s": tokens / q[1] * 1e3, "ratio": q[1] / np.median(times["pysft"])})
    if args.json:
        print(json.dumps({"isa": ops.ISA, "threads": threads, "compiler": ops.COMPILER, "rows": rows}))
        return
    print(f"{ops.ISA}, {threads} threads, {ops.COMPILER}; seed shape, medians (quartiles) of {args.steps} steps")
    for r in rows:
        print(f"{r['step']:<14}{r['by']:<15}{r['ms']:8.2f} ms ({r['ms_quartiles'][0]:.2f}..{r['ms_quartiles'][1]:.2f})"
              f"{r['tokens_per_s']:>12,.0f} tokens/s   {r['ratio']:.2f} x pysft")
    if len(rows) == len(examples):
        print("PyTorch is not installed here, so there is nothing to compare with (pip install torch==2.13.0)")


if __name__ == "__main__":
    main()
