"""The steps of the seed preset from start to end, pysft beside PyTorch: bench_step.py --end-to-end.

Both sides draw the same windows and conversations in the same order. PyTorch pads conversations to
the context."""

import time

import harness
import numpy as np
import report
from harness import ratios
from report import with_quartiles

from pysft.nn import kernels
from pysft.nn.grow import expand_vocab
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.rng import rng
from pysft.text.corpora import read_corpus, shipped, split_corpus
from pysft.text.examples import encode_conversation
from pysft.text.formats import read_conversations
from pysft.text.templates import CHAT
from pysft.text.tokenizer import CharTokenizer
from pysft.training.loop import train, train_step
from pysft.training.presets import resolve
from pysft.training.stages import finetune, pretrain

SLICE = 50  # steps that a runner takes in one turn


def pairs40(tokenizer, context):
    """The examples of the 40 shipped pairs."""
    talks = read_conversations(shipped("pairs40.jsonl"))
    return [encode_conversation(c, tokenizer, context) for c in talks]


def seed_material():
    """(settings, corpus, size of its vocabulary, pairs, size of the grown vocabulary)."""
    settings, text = resolve("seed"), read_corpus("plays")
    tokenizer = CharTokenizer.of(text)
    grown = tokenizer.grow(CHAT.tokens)
    corpus, pairs = tokenizer.encode(split_corpus(text)[0]), pairs40(grown, settings.model.context)
    return settings, corpus, len(tokenizer), pairs, len(grown)


# ------------------------------------------------------------------------------------- the runners


def build(runner, threads):
    """A worker's functions. step: the next training step. grow: begin fine-tuning. warm: a step
    that moves no weight, so compilation and allocation are not timed. loss: that of the last
    step."""
    state = _Torch(runner) if runner != "pysft" else _Pysft(threads)
    return {"step": state.step, "grow": state.grow, "warm": state.warm, "loss": state.last_loss}


class _Pysft:
    """The seed preset as jobs.train runs it, step by step."""

    def __init__(self, threads):
        self.settings, self.corpus, vocab, self.pairs, self.grown = seed_material()
        s = self.settings
        config = s.model.shape(vocab)
        model = GPT(config, kernels.on_threads(threads), rng(s.seed, "base", "init"))
        self._begin("base", model, pretrain(s, "base", self.corpus, vocab))

    def _begin(self, name, model, plan):
        self.model, self.plan = model, plan
        stage = self.settings.stages[name]
        adam = AdamW(model, **stage.adam())
        self.steps = train(
            model, adam, plan.draw, plan.objective, plan.rate, plan.steps, stage.clip
        )

    def grow(self):
        s = self.settings
        new_rows = s.stages["sft"].new_rows
        model = expand_vocab(self.model, self.grown, new_rows, rng(s.seed, "sft", "rows"))
        self._begin("sft", model, finetune(s, "sft", [], self.pairs, self.corpus, self.grown))

    def warm(self):
        train_step(self.model, AdamW(self.model), self.plan.draw(0), self.plan.objective, 0.0)

    def step(self):
        self.loss = next(self.steps).loss

    def last_loss(self):
        return self.loss


class _Torch:
    """The same steps in PyTorch. Conversations are padded once, and each step picks from them."""

    def __init__(self, runner):
        import torch
        from torch_gpt import TorchGPT, padded

        self.runner = runner
        self.settings, corpus, vocab, pairs, self.grown = seed_material()
        s, self.pairs = self.settings, len(pairs)
        self.text = torch.from_numpy(corpus.astype(np.int64))
        self.tokens, self.labels = padded(pairs, s.model.context)
        self._begin(TorchGPT(s.model.shape(vocab)), s.stages["base"], self._windows)

    def _begin(self, model, stage, draw):
        from torch_gpt import trainer

        idle = trainer(model, self.runner, 0.0, 0.0)
        self.warm = lambda: idle(*draw(0))
        self.model, self.draw, self.at = model, draw, 0
        self.update = trainer(model, self.runner, stage.lr, stage.decay)

    def _windows(self, step):
        import torch

        s, T = self.settings, self.settings.model.context
        g = rng(s.seed, "base", "windows", step)
        first = g.integers(0, len(self.text) - T, s.stages["base"].windows[0][1])
        found = self.text[torch.from_numpy(first)[:, None] + torch.arange(T + 1)]
        return found[:, :-1], found[:, 1:]

    def _conversations(self, step):
        import torch

        g = rng(self.settings.seed, "sft", "pairs", step)
        which = torch.from_numpy(g.integers(0, self.pairs, self.settings.stages["sft"].pairs))
        return self.tokens[which], self.labels[which]

    def grow(self):
        stage = self.settings.stages["sft"]
        self._begin(self.model.grown(self.grown), stage, self._conversations)

    def step(self):
        self.loss = self.update(*self.draw(self.at))
        self.at += 1

    def last_loss(self):
        return float(self.loss)


# ---------------------------------------------------------------------------------- the comparison


def measure(workers, fraction):
    """{"fraction", "slice", "runners"}: total seconds of each runner, in slices that take turns.

    workers: {runner: Worker}; they are closed. fraction: of the preset's steps."""
    settings, runners = resolve("seed"), list(workers)
    times, losses = {r: [] for r in runners}, {r: [] for r in runners}
    for stage, total in ((name, s.steps) for name, s in settings.stages.items()):
        for w in workers.values():
            if stage == "sft":
                w.ask("grow")
        for w in workers.values():
            w.run(2, "warm")
            w.pin("warm")
        left, turn = max(1, round(fraction * total)), 0
        while left:
            steps, turn = min(left, SLICE), turn + 1
            for r in runners[turn % len(runners) :] + runners[: turn % len(runners)]:
                time.sleep(harness.PAUSE)
                times[r].append(sum(workers[r].run(steps)))
            left -= steps
        for r, w in workers.items():
            losses[r].append(w.ask("loss"))
    result = {}
    for r, w in workers.items():
        result[r] = {
            "seconds": sum(times[r]),
            "ratio": sum(times[r]) / sum(times["pysft"]),
            "ratio_of_slices": ratios(times[r], times["pysft"]),
            "last_losses": losses[r],
            "peak_bytes": w.ask("memory"),
        }
        w.close()
    return {"fraction": fraction, "slice": SLICE, "runners": result}


def as_text(result):
    head = [
        *(f"seed preset, {result['fraction']:.0%} of its steps", "seconds", "x pysft"),
        *(f"slices of {result['slice']} (quartiles)", "last losses", "peak MiB"),
    ]
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
    return report.table(head, rows)
