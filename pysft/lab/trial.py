"""A trial: an arm trained under one seed and measured along the way."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pysft.batch import CONVERSATION, Example
from pysft.errors import Diverged
from pysft.lab.arm import Arm, judge
from pysft.lab.measures import TOKEN_KINDS, LossByKind, moved, user_share
from pysft.lab.records import VERSION, digest, digest_of_examples, relevant
from pysft.measure.evaluate import conversation_loss, finite, origins
from pysft.measure.ratio import rise
from pysft.nn.grow import expand_vocab
from pysft.nn.lora import LoRA
from pysft.rng import rng
from pysft.run.stage import Stage, weights_sha256
from pysft.text.examples import encode_conversation
from pysft.text.templates import CHAT
from pysft.text.tokenizer import Tokenizer
from pysft.training.runner import steps_of
from pysft.training.settings import Settings
from pysft.training.stages import finetune

SAMPLED = 100  # maximum number of trained conversations that the loss on replies is measured on


@dataclass(frozen=True)
class Base:
    """A trained base model, and its loss on the held-out tail of the corpus in nats per
    character."""

    stage: Stage
    loss: float


@dataclass(frozen=True)
class Trial:
    """An arm under one seed, with everything that determines its record.

    settings: of the whole training, with scaled steps. conversations, pairs: the arm's training
    examples. at: the steps to measure after, 0 and the last included, rising."""

    arm: Arm
    seed: int
    base: Base
    settings: Settings
    tokenizer: Tokenizer
    conversations: list[Example]
    pairs: list[Example]
    at: list[int]

    def description(self) -> dict:
        """The description that names the record on disk. After a change of a key or a value here,
        every trial of every folder is trained again."""
        return {
            "version": VERSION,
            "base": weights_sha256(self.base.stage.model),
            "settings": relevant(self.settings),
            "examples": [digest_of_examples(some) for some in (self.conversations, self.pairs)],
            "at": self.at,
            "probe": digest(self.arm.probe.to_json()),
            "grown": self.tokenizer.to_json(),
            "lora": self.arm.lora,
            "by_kind": self.arm.by_kind,
            "hooks": [getattr(f, "__name__", None) for f in (self.arm.judge, self.arm.finish)],
        }


def carry_out(
    trial: Trial, corpus: np.ndarray, progress: Callable, world: np.ndarray | None = None
) -> dict:
    """Train and measure a trial, and return its record, ready for JSON.

    corpus: ids of the base text to train on, from which windows are replayed. world: ids of the
    text that tells of the arm's world, if it has one. progress(text, last): takes a line that may
    be overwritten. If the trial diverges, the record keeps the measurements that were made before,
    and the error is under "diverged"."""
    began = time.monotonic()
    arm, seed, settings = trial.arm, trial.seed, trial.settings
    base, vocab = trial.base.stage.model, len(trial.tokenizer)
    model = expand_vocab(base, vocab, settings.stages["sft"].new_rows, rng(seed, "sft", "rows"))
    start = {name: w.copy() for name, w in model.params.items()}
    trained, whole = model, lambda: model
    if arm.lora is not None:
        trained = LoRA(model, *arm.lora, old_vocab=base.config.vocab, rng=rng(seed, "sft", "lora"))
        whole = trained.merge
    examples = trial.conversations, trial.pairs
    plan = finetune(settings, "sft", *examples, corpus, vocab, world=world)
    objective = plan.objective
    if arm.by_kind:
        objective = LossByKind(plan.objective, trial.tokenizer.special.get(CHAT.end))
    track, losses, by_kind, diverged = _Track(trial), [], {kind: [] for kind in TOKEN_KINDS}, None
    track.measure(0, whole())
    try:
        for r in steps_of(trained, plan, settings.stages["sft"], objective):
            losses.append(round(r.figures.get(CONVERSATION, r.loss), 5))
            for kind, curve in by_kind.items():
                curve.append(round(r.figures[kind], 5) if kind in r.figures else None)
            where = f"{arm.name}, seed {seed}: step {r.step:,} of {plan.steps:,}"
            progress(f"{where}, loss {losses[-1]:.3f}", False)
            if r.step in trial.at:
                track.measure(r.step, whole())
    except Diverged as error:
        diverged = str(error)
    finished = whole()
    record = {
        "arm": arm.name,
        "preset": arm.preset,
        "seed": seed,
        "settings": settings.to_json(),
        "base_loss": trial.base.loss,
        "epochs": max(plan.epochs.values()),
        "diverged": diverged,
        "trained_share": 1.0 if arm.lora is None else trained.share,
        "track": track.rows,
        "losses": losses,
        "moved": moved(start, finished.params, base.config.vocab),
        "samples": track.samples,
        "seconds": round(time.monotonic() - began, 2),
    }
    if arm.by_kind:
        record["by_kind"] = by_kind
    if arm.finish is not None and diverged is None:
        record["finish"] = finite(arm.finish(finished, trial.tokenizer, arm, seed))
    return record


class _Track:
    """The measurements of a trial while it trains. rows: the figures of each, by rising step.
    samples: replies of the last one, [(prompt, reply, stop)]; up to six trained prompts come before
    up to six unseen ones."""

    def __init__(self, trial: Trial):
        self.trial, self.rows, self.samples = trial, [], []
        trained = (trial.arm.pairs or trial.arm.conversations)[:SAMPLED]
        self.messages = [c.messages for c in trained]
        # For user_share: masked as they should be, whatever the arm does. With spelled markers
        # there is no end token, so nothing can be rendered.
        self.masked = []
        if CHAT.end in trial.tokenizer.special:
            context = trial.settings.model.context
            self.masked = [encode_conversation(c, trial.tokenizer, context) for c in trained]

    def measure(self, step: int, model) -> None:
        """Measure the model after `step` steps."""
        arm, tokenizer = self.trial.arm, self.trial.tokenizer
        figures, replies = arm.judge(model, tokenizer, arm)
        loss = figures.get("reply_loss")
        if loss is None:
            loss = conversation_loss(model, self.messages, tokenizer, CHAT)[0]
        row = {
            "step": step,
            **figures,
            "forgetting": rise(figures["tuned_base_loss"], self.trial.base.loss),
            "reply_loss": loss,
            **user_share(model, self.masked),
        }
        self.rows.append(finite(row))
        if arm.judge is judge and step == self.trial.settings.stages["sft"].steps:
            self.rows[-1]["origins"] = origins(replies, arm.probe)[0]
        self.samples = [row for group in ("pairs", "prompts") for row in replies.get(group, ())[:6]]
