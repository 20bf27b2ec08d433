"""The lab: the texts that all experiments use, and the folder that keeps bases and trials."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pysft.errors import UsageError
from pysft.lab.arm import Arm
from pysft.lab.preferring import TaskArm, record_of_arm
from pysft.lab.records import VERSION, digest, relevant, sha256, stored
from pysft.lab.told import Told, text_of
from pysft.lab.trial import Base, Trial, carry_out
from pysft.measure.evaluate import corpus_loss, loss_after_replay
from pysft.measure.probe import Probe, make_probe
from pysft.nn.model import GPT
from pysft.rng import rng
from pysft.run.stage import Stage, load_stage, read_json, save_stage, weights_sha256, write_json
from pysft.text.conversation import Conversation
from pysft.text.corpora import read_corpus, shipped, split_corpus
from pysft.text.formats import read_conversations
from pysft.text.heldout import split_heldout
from pysft.text.render import render, render_prompt
from pysft.text.templates import CHAT
from pysft.text.tokenizers import vocabulary_of
from pysft.training.presets import PRESETS
from pysft.training.runner import steps_of
from pysft.training.settings import Data, Settings
from pysft.training.stages import pretrain

ROOM = 5  # tokens of a reply that must fit the context behind a prompt


class Lab:
    """The texts that all experiments use, and the folder of their results:

    lab.json            the corpus, the scale, and whether each seed has its own base
    bases/              trained base models; in a name "world" says that it read of one, and "sft"
                        that it was tuned on questions about it
    replies/DIGEST.json replies of such a tuned model, with their points
    trials/DIGEST.json  records of trials, named as records.py says
    NAME/               table, figures and document of an experiment (study.py)"""

    def __init__(
        self,
        folder: Path,
        corpus: str,
        ops,
        scale: float = 1.0,
        retrain: bool = False,
        progress=lambda text, last=False: None,
    ):
        """scale: a factor for every number of steps, to try the lab out; verdicts then mean
        nothing. retrain: each seed has its own base; otherwise all share that of seed 1.
        progress(text, last): takes a line that may be overwritten.

        A UsageError if the folder is a file, or holds experiments on another corpus, at another
        scale or with other bases. A DataError if the corpus lacks a character of the
        conversations."""
        self.folder, self.corpus, self.ops = Path(folder), corpus, ops
        self.scale, self.retrain, self.progress = scale, retrain, progress
        self.text = read_corpus(corpus)
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"--out {folder}: this is a file. Name a folder")
        self.train_text, self.heldout_text = split_corpus(self.text)
        self.tokenizer = vocabulary_of(Settings().data.tokenizer, self.text)  # of the bases
        self.chat = self.tokenizer.grow(CHAT.tokens)
        self.pairs = tuple(read_conversations(shipped("pairs40.jsonl")))
        kept, held = split_heldout(list(read_conversations(shipped("conversations.jsonl"))))
        self.conversations, self.heldout = tuple(kept), tuple(held)
        # Refuse now a corpus whose vocabulary cannot write the texts of the experiments.
        for c in (*self.pairs, *self.conversations, *self.heldout):
            for m in c.messages:
                self.chat.encode(m["content"], f"{c.where}, for the lab")
        self._bases: dict[str, Base] = {}  # by the names of their folders
        self._claim_folder()

    def _claim_folder(self) -> None:
        """Write lab.json. A UsageError if the folder has another lab.json, because the results in
        it would be overwritten."""
        path = self.folder / "lab.json"
        own = {"corpus": self._sha256(), "scale": self.scale, "retrain_base": self.retrain}
        if path.is_file() and read_json(path) != own:
            raise UsageError(
                f"{self.folder}: this folder holds experiments on another corpus, at another scale"
                " or with other bases; name another folder with --out"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, own)

    def _sha256(self) -> str:
        return sha256(self.text)

    # --------------------------------------------------------------------------------- settings

    def scaled(self, steps: int) -> int:
        """A number of steps at the lab's scale, at least 2."""
        return max(2, round(steps * self.scale))

    def settings(self, preset: str) -> Settings:
        """A preset with scaled steps."""
        chosen = PRESETS[preset]
        return chosen.changed(
            {name: {"steps": self.scaled(stage.steps)} for name, stage in chosen.stages.items()}
        )

    def _settings_of(self, arm: Arm, seed: int) -> Settings:
        data = {name: v for name, v in arm.settings.items() if name in Data.__dataclass_fields__}
        stage = {name: v for name, v in arm.settings.items() if name not in data}
        model = arm.base.get("model", {}) | {"precision": arm.precision}
        changes = {"seed": seed, "model": model, "data": data, "sft": stage}
        return self._changed(arm.preset, "sft", changes, arm.told)

    def _changed(self, preset: str, stage: str, changes: dict, told: Told | None) -> Settings:
        """One stage of a preset with changes, as Settings.changed() takes them but with unscaled
        steps, and with the world that is told."""
        table = changes.get(stage, {})
        if "steps" in table:
            changes = changes | {stage: table | {"steps": self.scaled(table["steps"])}}
        if told is not None:
            changes = changes | {"world": told.world.to_json()}
        return self.settings(preset).only(stage).changed(changes)

    def probe(
        self,
        trained: Sequence[Conversation],
        recalled: Sequence[Conversation],
        context: int,
        heldout: Sequence[Conversation] | None = None,
    ) -> Probe:
        """The texts that a trial is measured with: the replies of `recalled`, which should be
        recalled; those of the shipped prompts that fit the context; and those held-out
        conversations (default: the shipped ones) that are one question and one answer and fit."""
        heldout = self.heldout if heldout is None else heldout
        return make_probe(
            self.train_text,
            self.heldout_text,
            trained=trained,
            recalled=recalled,
            heldout=[c for c in heldout if len(c.messages) == 2 and self._rows(c) <= context],
            can_ask=lambda prompt: self._prompt_tokens(prompt) + ROOM <= context,
        )

    def _rows(self, conversation: Conversation) -> int:
        """Rows of the example of a conversation: its tokens, less one for the shift."""
        return len(render(conversation.messages, self.chat, CHAT)[0]) - 1

    def _prompt_tokens(self, prompt: str) -> int:
        return len(render_prompt([{"role": "user", "content": prompt}], self.chat, CHAT))

    # ------------------------------------------------------------------------ bases and trials

    def base(
        self,
        preset: str,
        seed: int,
        precision: str = "float32",
        told: Told | None = None,
        changes: dict | None = None,
    ) -> Base:
        """The base of a preset: from memory, from the folder, or trained now and saved there.

        told, changes: as Arm.told and Arm.base. A base that reads of a world is each seed's own,
        and is named by the text that it reads, so arms that only ask otherwise share it."""
        seed = seed if self.retrain or told else 1
        changes = changes or {}
        model = changes.get("model", {}) | {"precision": precision}
        settings = self._changed(preset, "base", changes | {"seed": seed, "model": model}, told)
        name = self._name_of_base(settings, told)
        if name not in self._bases:
            folder = self.folder / "bases" / name
            if not (folder / "model.safetensors").is_file():
                save_stage(self._pretrained(folder, settings, self._ids(told)))
            stage = load_stage(folder, self.ops)
            loss = corpus_loss(stage.model, self.tokenizer, self.heldout_text)
            self._bases[name] = Base(stage, loss)
            stage.model.release()
        return self._bases[name]

    def _name_of_base(self, settings: Settings, told: Told | None) -> str:
        described = relevant(settings)
        description = {"corpus": self._sha256(), "settings": described, "version": VERSION}
        kind = settings.preset
        if told is not None:
            kind += "-world"
            del described["world"]
            description["world"] = sha256(text_of(told))
        return f"{kind}-{settings.seed}-{digest(description)[:12]}"

    def _base_of(self, arm: Arm, seed: int) -> Base:
        return self.base(arm.preset, seed, arm.precision, arm.told, arm.base)

    def _ids(self, told: Told | None) -> np.ndarray | None:
        """The text of a world as ids; None without one. A DataError if the vocabulary lacks
        characters of it."""
        return self.tokenizer.encode(text_of(told), "the invented world") if told else None

    def _pretrained(self, folder: Path, settings: Settings, world: np.ndarray | None) -> Stage:
        config = settings.model.shape(len(self.tokenizer))
        corpus = self.tokenizer.encode(self.train_text)
        plan = pretrain(settings, "base", corpus, config.vocab, world)
        model = GPT(config, self.ops, rng(settings.seed, "base", "init"))
        for r in steps_of(model, plan, settings.stages["base"]):
            where = f"base {settings.preset}, seed {settings.seed}"
            self.progress(
                f"{where}: step {r.step:,} of {plan.steps:,}, loss {r.loss:.3f}",
                r.step == plan.steps,
            )
        return Stage(folder, model, self.tokenizer, CHAT, settings.to_json())

    def run(self, arm: Arm | TaskArm, seed: int) -> dict:
        """The record of an arm under one seed: from the folder, or measured now and kept there."""
        if isinstance(arm, TaskArm):
            return record_of_arm(self, arm, seed)
        settings, tokenizer = self._settings_of(arm, seed), arm.tokenizer or self.chat
        last = settings.stages["sft"].steps
        trial = Trial(
            arm,
            seed,
            self._base_of(arm, seed),
            settings,
            tokenizer,
            [arm.encode(c, tokenizer, settings) for c in arm.conversations],
            [arm.encode(c, tokenizer, settings) for c in arm.pairs],
            sorted({0, last, *(min(self.scaled(step), last) for step in arm.at)}),
        )
        corpus = self.tokenizer.encode(self.train_text)
        return stored(
            self.folder / "trials",
            trial.description(),
            lambda: carry_out(trial, corpus, self.progress, self._ids(arm.told)),
        )

    def matched(self, arm: Arm, seed: int) -> float | None:
        """The loss that matched forgetting compares with: on the held-out tail, in nats per
        character, of the base trained on the windows that the arm replays and on nothing else.
        None if the arm replays nothing."""
        settings = self._settings_of(arm, seed)
        if not settings.stages["sft"].windows:
            return None
        base = self._base_of(arm, seed).stage.model
        description = {
            "version": VERSION,
            "base": weights_sha256(base),
            "settings": relevant(settings),
            "matched": True,
        }

        def replayed() -> dict:
            model = GPT(base.config, self.ops)
            model.params.flat[:] = base.params.flat
            texts = self.tokenizer, self.train_text, self.heldout_text
            return {"loss": loss_after_replay(model, settings, "sft", *texts, self.progress)}

        return stored(self.folder / "trials", description, replayed)["loss"]
