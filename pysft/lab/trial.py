"""One fine-tuning under study: trained, measured along the way, and kept on disk under a name made
from all that went into it. So an interrupted lab goes on where it stopped, and experiments share
what they have in common."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from pysft import IGNORE
from pysft.errors import Diverged, UsageError
from pysft.lab.evaluate import (
    Probe,
    conversation_loss,
    corpus_loss,
    finite,
    loss_after_replay,
    measure,
    origins,
    words,
)
from pysft.nn.lora import LoRA
from pysft.nn.model import GPT, GPTConfig, expand_vocab
from pysft.nn.optim import AdamW
from pysft.rng import rng
from pysft.run import Stage, load_stage, read_json, save_stage, weights_sha256, write_json
from pysft.text.dataset import (
    CONVERSATION,
    Batch,
    Example,
    encode_conversation,
    read_corpus,
    shipped,
    split_corpus,
    split_heldout,
)
from pysft.text.formats import Conversation, read_conversations, read_prompts
from pysft.text.template import CHAT
from pysft.text.tokenizer import CharTokenizer
from pysft.training.loop import train
from pysft.training.stages import PRESETS, Settings, finetune, pretrain

VERSION = 1  # of what a record means: raised, it makes every trial anew
OLD, NEW = "old rows", "new rows"


def standard(conversation: Conversation, tokenizer: CharTokenizer, settings: Settings) -> Example:
    """The example that `train` would make."""
    return encode_conversation(conversation, tokenizer, settings.context, CHAT, settings.grade)


def judge(model, tokenizer: CharTokenizer, arm: "Arm") -> tuple[dict, dict]:
    """The figures and replies that `eval` would give."""
    return measure(model, tokenizer, CHAT, arm.probe)


@dataclass(frozen=True)
class Arm:
    """One way of fine-tuning on a preset's base.

    settings: what differs from the preset's. talks: conversations, drawn by tokens; pairs: drawn by
    number. at: steps at which it is measured, beside the first and the last. encode: makes the
    examples. grown: the vocabulary, if not the template's. judge: measures a model. lora: (rank,
    matrices). finish: what else is asked of the finished model. by_kind: keep each step's loss on
    first tokens, end tokens and what is between. matched: what the base gains by the replay alone
    is asked too."""

    name: str
    preset: str
    probe: Probe
    settings: dict = field(default_factory=dict)
    talks: tuple[Conversation, ...] = ()
    pairs: tuple[Conversation, ...] = ()
    at: tuple[int, ...] = ()
    encode: Callable = standard
    grown: CharTokenizer | None = None
    judge: Callable = judge
    lora: tuple[int, tuple[str, ...]] | None = None
    finish: Callable | None = None
    by_kind: bool = False
    matched: bool = False


@dataclass(frozen=True)
class Ground:
    """What trials begin from: a trained base and its loss on the held-out tail, nats per
    character."""

    base: Stage
    loss: float


class Lab:
    """The material of all experiments, and the folder where their records are.

    scale: a fraction of every number of steps, to try the lab out (verdicts mean nothing then).
    retrain: each seed has a base of its own; otherwise all share that of seed 1. progress(text,
    last): takes a line that may be written over."""

    def __init__(
        self,
        folder: Path,
        corpus: str,
        ops,
        scale: float = 1.0,
        retrain: bool = False,
        progress=lambda text, last=False: None,
    ):
        self.folder, self.corpus, self.ops, self.scale, self.retrain = (
            Path(folder),
            corpus,
            ops,
            scale,
            retrain,
        )
        self.progress = progress
        self.text = read_corpus(corpus)
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"--out {folder}: a file stands there; name a folder")
        self.train_text, self.heldout_text = split_corpus(self.text)
        self.characters = CharTokenizer.of(self.text)
        self.chat = self.characters.grow(CHAT.tokens)
        self.pairs = tuple(read_conversations(shipped("pairs40.jsonl")))
        kept, held = split_heldout(list(read_conversations(shipped("conversations.jsonl"))))
        self.talks, self.heldout = tuple(kept), tuple(held)
        for c in (
            *self.pairs,
            *self.talks,
            *self.heldout,
        ):  # every text of an experiment is written with the corpus's letters
            for m in c.messages:
                self.chat.encode(m["content"], f"{c.where}, for the lab")
        self._grounds = {}
        self._remember(
            {
                "corpus": hashlib.sha256(self.text.encode()).hexdigest(),
                "scale": scale,
                "retrain_base": retrain,
            }
        )

    def _remember(self, told: dict) -> None:
        """What the folder's experiments are of; a UsageError where others stand there, which these
        would write over."""
        path = self.folder / "lab.json"
        if path.is_file() and read_json(path) != told:
            raise UsageError(
                f"{self.folder}: experiments on another corpus, at another scale or with other"
                " bases stand there; name another folder by --out"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, told)

    def matched(self, arm: "Arm", seed: int) -> float | None:
        """Nats per character that the base alone reaches by the windows that the arm replays; None
        where it replays none."""
        settings = self._settings(arm, seed)
        if not settings.sft_windows:
            return None
        ground = self.ground(arm.preset, seed)
        told = {
            "version": VERSION,
            "base": weights_sha256(ground.base.model),
            "settings": _chosen(settings),
            "matched": True,
        }
        path = self.folder / "trials" / f"{_digest(told)}.json"
        if not path.is_file():
            model = GPT(ground.base.model.config, self.ops)
            model.params.flat[:] = ground.base.model.params.flat
            corpus, heldout = (
                self.characters.encode(t) for t in (self.train_text, self.heldout_text)
            )
            loss = loss_after_replay(model, settings, corpus, heldout, self.progress)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"loss": loss})
        return read_json(path)["loss"]

    def _settings(self, arm: "Arm", seed: int) -> Settings:
        # The lab's own scale has gone into the preset's steps; an arm's are scaled here.
        changes = {k: self.steps(v) if k == "sft_steps" else v for k, v in arm.settings.items()}
        return replace(self.settings(arm.preset), seed=seed, **changes)

    def steps(self, n: int) -> int:
        return max(2, round(n * self.scale))

    def settings(self, preset: str) -> Settings:
        chosen = PRESETS[preset]
        return replace(
            chosen, base_steps=self.steps(chosen.base_steps), sft_steps=self.steps(chosen.sft_steps)
        )

    def probe(self, trained, recalled, context: int, heldout=None) -> Probe:
        """What a trial is measured by: recall of `recalled`, the shipped prompts, held-out
        conversations that fit."""
        heldout = self.heldout if heldout is None else heldout
        asked = {m["content"] for c in trained for m in c.messages if m["role"] == "user"}
        fits = [
            c
            for c in heldout
            if len(c.messages) == 2 and sum(len(m["content"]) for m in c.messages) + 3 <= context
        ]
        known = set(words(self.text)) | {
            w for c in trained for m in c.messages for w in words(m["content"])
        }
        return Probe(
            self.heldout_text,
            [[c.prompt, c.replies()[0]] for c in recalled],
            [
                p
                for p in read_prompts(shipped("heldout_prompts.jsonl"))
                if p["prompt"] not in asked and len(p["prompt"]) + 8 <= context
            ],
            [c.messages for c in fits],
            sorted(known),
            [r for c in trained for r in c.replies()],
            self.train_text,
        )

    def ground(self, preset: str, seed: int) -> Ground:
        """The base of a preset, trained now or found."""
        seed = seed if self.retrain else 1
        if (preset, seed) not in self._grounds:
            settings = replace(self.settings(preset), seed=seed)
            told = {
                "corpus": hashlib.sha256(self.text.encode()).hexdigest(),
                "settings": _chosen(settings),
                "version": VERSION,
            }
            folder = self.folder / "bases" / f"{preset}-{seed}-{_digest(told)[:12]}"
            if not (folder / "model.safetensors").is_file():
                save_stage(self._pretrained(folder, settings))
            stage = load_stage(folder, self.ops)
            self._grounds[preset, seed] = Ground(
                stage, corpus_loss(stage.model, self.characters.encode(self.heldout_text))
            )
            stage.model.release()
        return self._grounds[preset, seed]

    def _pretrained(self, folder: Path, settings: Settings) -> Stage:
        config = GPTConfig(
            len(self.characters),
            settings.context,
            settings.layers,
            settings.heads,
            settings.channels,
        )
        plan = pretrain(settings, self.characters.encode(self.train_text), config.vocab)
        model = GPT(config, self.ops, rng(settings.seed, "base", "init"))
        adam = AdamW(model, **settings.adam("base"))
        model.reserve(plan.rows)
        for r in train(
            model, adam, plan.draw, plan.objective, plan.rate, plan.steps, settings.clip
        ):
            self.progress(
                f"base {settings.preset}, seed {settings.seed}: step {r.step:,} of {plan.steps:,},"
                f" loss {r.loss:.3f}",
                r.step == plan.steps,
            )
        return Stage(folder, model, self.characters, CHAT, asdict(settings))

    def run(self, arm: Arm, seed: int) -> dict:
        """The record of an arm under one seed: found, or made now and kept."""
        ground = self.ground(arm.preset, seed)
        settings = self._settings(arm, seed)
        grown = arm.grown or self.chat
        examples = tuple(
            [arm.encode(c, grown, settings) for c in some] for some in (arm.talks, arm.pairs)
        )
        at = sorted(
            {0, settings.sft_steps, *(min(self.steps(s), settings.sft_steps) for s in arm.at)}
        )
        told = {
            "version": VERSION,
            "base": weights_sha256(ground.base.model),
            "settings": _chosen(settings),
            "examples": [_examples_digest(some) for some in examples],
            "at": at,
            "probe": _digest(arm.probe.to_json()),
            "grown": grown.to_json(),
            "lora": arm.lora,
            "by_kind": arm.by_kind,
            "hooks": [getattr(f, "__name__", None) for f in (arm.judge, arm.finish)],
        }
        path = self.folder / "trials" / f"{_digest(told)}.json"
        if path.is_file():
            return read_json(path)
        record = self._trial(arm, seed, ground, settings, grown, examples, at)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        return record

    def _trial(self, arm, seed, ground, settings, grown, examples, at) -> dict:
        began = time.monotonic()
        model = expand_vocab(
            ground.base.model, len(grown), settings.new_rows, rng(seed, "sft", "rows")
        )
        start = {name: w.copy() for name, w in model.params.items()}
        trained = (
            model
            if arm.lora is None
            else LoRA(
                model, *arm.lora, old_vocab=len(self.characters), rng=rng(seed, "sft", "lora")
            )
        )
        plan = finetune(settings, *examples, self.characters.encode(self.train_text), len(grown))
        adam = AdamW(trained, **settings.adam("sft"))
        trained.reserve(plan.rows)
        by_kind: dict[str, list] = {"first": [], "content": [], "end": []}
        objective = (
            _split(plan.objective, by_kind, grown.special.get(CHAT.end))
            if arm.by_kind
            else plan.objective
        )
        trained_on = (arm.pairs or arm.talks)[:100]
        messages = [c.messages for c in trained_on]
        rightly = (
            [
                encode_conversation(c, grown, settings.context) for c in trained_on
            ]  # masked as it should be, whatever the arm does
            if CHAT.end in grown.special
            else []
        )
        track, losses, samples, diverged = [], [], [], None

        def point(step):
            nonlocal samples
            merged = trained if arm.lora is None else trained.merge()
            figures, replies = arm.judge(merged, grown, arm)
            loss = figures.get("reply_loss")
            if loss is None:
                loss = conversation_loss(merged, messages, grown, CHAT)[0]
            track.append(
                finite(
                    {
                        "step": step,
                        **figures,
                        "forgetting": figures["tuned_base_loss"] / ground.loss - 1,
                        "reply_loss": loss,
                    }
                    | user_share(merged, rightly)
                )
            )
            if arm.judge is judge and step == settings.sft_steps:
                track[-1]["origins"] = origins(replies, arm.probe)[0]
            samples = [row for group in ("pairs", "prompts") for row in replies.get(group, ())[:6]]

        point(0)
        try:
            for r in train(
                trained, adam, plan.draw, objective, plan.rate, plan.steps, settings.clip
            ):
                losses.append(round(r.losses.get(CONVERSATION, r.loss), 5))
                self.progress(
                    f"{arm.name}, seed {seed}: step {r.step:,} of {plan.steps:,}, loss"
                    f" {losses[-1]:.3f}",
                    False,
                )
                if r.step in at:
                    point(r.step)
        except Diverged as error:
            diverged = str(error)
        merged = trained if arm.lora is None else trained.merge()
        record = {
            "arm": arm.name,
            "preset": arm.preset,
            "seed": seed,
            "settings": asdict(settings),
            "base_loss": ground.loss,
            "epochs": max(plan.epochs.values()),
            "diverged": diverged,
            "trained_share": 1.0 if arm.lora is None else trained.share,
            "track": track,
            "losses": losses,
            "moved": moved(start, merged.params, len(self.characters)),
            "samples": samples,
            "seconds": round(time.monotonic() - began, 2),
        }
        if arm.by_kind:
            record["by_kind"] = by_kind
        if arm.finish is not None and diverged is None:
            record["finish"] = finite(arm.finish(merged, grown, seed))
        return record


def _chosen(settings: Settings) -> dict:
    """Of the settings those that can matter here: the lab makes its own examples, so not the
    data's, and never skips."""
    return {k: v for k, v in asdict(settings).items() if k not in ("transcripts", "on_nan")}


def moved(start: dict, params, old_vocab: int) -> dict[str, float]:
    """Relative change of each tensor, |W - W0| / |W0| (Frobenius); of the embedding and the head,
    old and new rows apart."""
    found = {}
    for name, w in params.items():
        pieces = {name: slice(None)}
        if name in ("wte", "head") and len(w) > old_vocab:
            pieces = {
                f"{name}, {OLD}": slice(0, old_vocab),
                f"{name}, {NEW}": slice(old_vocab, None),
            }
        for label, rows in pieces.items():
            before = float(np.linalg.norm(start[name][rows].astype(np.float64)))
            change = float(np.linalg.norm(w[rows].astype(np.float64) - start[name][rows]))
            found[label] = round(change / before, 6) if before else None
    return found


def user_share(model, examples: list[Example]) -> dict[str, float]:
    """What would fall on the user's tokens (all that is rightly not graded) without a mask: their
    share of the targets, and of the gradient at the logits, where row n has a 1-norm of 2 (1 -
    p_n), p_n being the probability of its target."""
    totals = {"targets": np.zeros(2), "gradient": np.zeros(2)}
    for first in range(0, len(examples), 16):
        some = examples[first : first + 16]
        user = np.concatenate([e.labels == IGNORE for e in some])
        every = [replace(e, labels=np.append(e.input_ids[1:], e.labels[-1:])) for e in some]
        nll, _ = model.forward(Batch.of(every, model.config.vocab, model.config.context))
        for name, weight in (
            ("targets", np.ones(len(nll))),
            ("gradient", 1 - np.exp(-nll.astype(np.float64))),
        ):
            totals[name] += weight[user].sum(), weight.sum()
    return {f"user_{name}": float(part / whole) for name, (part, whole) in totals.items() if whole}


def _split(objective, by_kind, end):
    """The objective, which also notes each step's mean loss on the first token of a reply, on its
    end, and between."""

    def noting(batch, nll, value, total):
        graded = batch.labels != IGNORE
        first = graded & ~np.concatenate([[False], graded[:-1]])
        last = graded & (batch.labels == end)
        for name, rows in (("first", first), ("end", last), ("content", graded & ~first & ~last)):
            mean = float(nll[rows].mean()) if rows.any() else math.nan
            by_kind[name].append(round(mean, 5) if math.isfinite(mean) else None)
        return objective(batch, nll, value, total)

    noting.count = objective.count
    return noting


def _digest(data) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def _examples_digest(examples) -> str:
    h = hashlib.sha256()
    for e in examples:
        h.update(
            np.int64(len(e.labels)).tobytes()
            + e.input_ids.astype(np.int32).tobytes()
            + e.labels.astype(np.int32).tobytes()
        )
    return h.hexdigest()
