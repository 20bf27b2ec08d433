"""What the lab's arms on preferences begin from: a base that read of an invented world, a model
that was tuned on its questions, and replies of that model with their points by the exact judge."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pysft.errors import Diverged
from pysft.jobs.collect import sample_replies
from pysft.lab.records import VERSION, digest, stored
from pysft.lab.told import Told, text_of
from pysft.lab.worlds import conversations_of
from pysft.measure.evaluate import finite
from pysft.measure.raters import Truth
from pysft.nn.grow import expand_vocab
from pysft.rng import rng
from pysft.run.stage import Stage, is_finished, load_stage, save_stage, weights_sha256
from pysft.text.conversation import Conversation
from pysft.text.examples import encode_conversation
from pysft.text.ranking import Ranking, ranks_of
from pysft.text.sampled import is_usable
from pysft.text.templates import CHAT
from pysft.training.presets import OF_WORLD
from pysft.training.runner import steps_of
from pysft.training.settings import Settings
from pysft.training.stages import finetune
from pysft.world.ask import compared_questions, trained_questions
from pysft.world.facts import WorldSettings, make
from pysft.world.labelers import LONG, scores, turn

PRESET = "tiny"
PEOPLE, DAYS, OFTEN = 100, 32, 512  # of the world; each fact is told so often
MAX_NEW = 120  # tokens of a reply
REPLIES = 6  # to a prompt that is ranked
# Prompts that replies are ranked for: those of training, drawn again and again, and sealed ones, on
# which reward models are measured.
TRAINED, HELD_OUT = 3600, 300
SFT_STEPS = 200  # of the model that answers; it is right about half of the time then
LABELERS = ("ann", "ben", "cora")  # those who do not mind the length of a reply
BY_LABELERS, BY_JUDGE, BY_CHANCE = "labelers", "exact judge", "chance"
BY_LENGTH = "labeler who prefers the longer reply"
WHO = {BY_LABELERS: LABELERS, BY_LENGTH: (LONG,)}
SHOWN = 6  # replies that a record keeps


@dataclass(frozen=True)
class Answers:
    """Replies of a model to one prompt. golds: the points of each by the exact judge."""

    prompt: str
    replies: tuple[str, ...]
    ended: tuple[bool, ...]
    golds: tuple[int, ...]

    def usable(self) -> "Answers":
        """The different replies that can be ranked and trained on, each once."""
        kept = {}
        for reply, end, gold in zip(self.replies, self.ended, self.golds):
            if is_usable(reply):
                kept[reply] = max(kept.get(reply, (False, 0)), (end, gold))
        return Answers(self.prompt, tuple(kept), *([*zip(*kept.values())] or [(), ()]))


def user(prompt: str) -> list[dict]:
    """The messages of a prompt."""
    return [{"role": "user", "content": prompt}]


def world_of(seed: int) -> Told:
    """The world of a seed: that of `train --data world`."""
    return Told(WorldSettings(people=PEOPLE, days=DAYS, tellings=(OFTEN,), seed=seed))


@dataclass(frozen=True)
class TaskArm:
    """An arm that is a task: to learn from comparisons, or to carry out a pipeline of data.

    name     unique within its experiment; not part of the record's file name
    task     (subject, options, note) -> the fields of a record that differ from {"track": [],
             "losses": [], "samples": [], "finish": {}}. note(text) reports progress. Its name is
             part of the record's file name
    options  all that the task depends on beside the subject, ready for JSON
    told     the world of a seed, which the base reads of"""

    name: str
    task: Callable
    options: dict = field(default_factory=dict)
    told: Callable[[int], Told] = world_of
    matched: bool = False


class Subject:
    """What the arms of one seed begin from, as far as they ask for it. lab: its folder keeps the
    models and the replies. told: the world."""

    def __init__(self, lab, told: Told, seed: int):
        self.lab, self.told, self.seed = lab, told, seed

    # ------------------------------------------------------------------------------- models

    @cached_property
    def base(self):
        """The lab's Base, which read of the world."""
        changes = {"base": OF_WORLD[PRESET]["base"]}
        return self.lab.base(PRESET, self.seed, told=self.told, changes=changes)

    @cached_property
    def texts(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the base text, and of the text of the world."""
        return tuple(
            self.lab.tokenizer.encode(text) for text in (self.lab.train_text, text_of(self.told))
        )

    def settings(self, changes: dict) -> Settings:
        """The settings of a fine-tuning by the recipe of a world. changes: to [sft], with unscaled
        steps."""
        sft = OF_WORLD[PRESET]["sft"] | {"steps": SFT_STEPS} | changes
        sft["steps"] = self.lab.scaled(sft["steps"])
        tables = {"seed": self.seed, "world": self.told.world.to_json(), "sft": sft}
        return self.lab.settings(PRESET).only("sft").changed(tables)

    def demonstrations(self, count: int | None = None) -> list[Conversation]:
        """The questions of training with their right answers, in an order that the seed draws;
        `count` of them, or all."""
        asked = conversations_of(trained_questions(make(self.told.world)))
        order = rng(self.seed, "lab", "demonstrations").permutation(len(asked))
        return [asked[i] for i in order[:count]]

    def tuned(self, model, demonstrations: list[Conversation], changes: dict):
        """Fine-tune a model in place. A generator of the Report of each step."""
        settings, tokenizer = self.settings(changes), self.lab.chat
        examples = [
            encode_conversation(c, tokenizer, settings.model.context) for c in demonstrations
        ]
        corpus, world = self.texts
        plan = finetune(settings, "sft", examples, [], corpus, len(tokenizer), world=world)
        yield from steps_of(model, plan, settings.stages["sft"])

    def grown(self):
        """A copy of the base that can read and write a chat."""
        rows = rng(self.seed, "sft", "rows")
        return expand_vocab(self.base.stage.model, len(self.lab.chat), "mean", rows)

    def policy(self, count: int | None = None) -> Stage:
        """The base tuned on `count` demonstrations, or on all. It is kept in the lab's folder."""
        settings = self.settings({})
        base = weights_sha256(self.base.stage.model)
        described = {"base": base, "settings": settings.to_json(), "count": count}
        name = f"{PRESET}-world-sft-{self.seed}-{digest(described | {'version': VERSION})[:12]}"
        folder = self.lab.folder / "bases" / name
        if not is_finished(folder):
            model = self.grown()
            for r in self.tuned(model, self.demonstrations(count), {}):
                self.lab.progress(f"policy, seed {self.seed}: step {r.step:,}, loss {r.loss:.3f}")
            save_stage(Stage(folder, model, self.lab.chat, CHAT, settings.to_json()))
        return load_stage(folder, self.lab.ops)

    # ------------------------------------------------------------------------------ replies

    @cached_property
    def truth(self) -> Truth:
        return Truth(self.told.world)

    def prompts(self, *splits: str) -> list[str]:
        """The questions of some splits that have an answer: one hop, in wordings of training."""
        return [q.prompt for q in compared_questions(make(self.told.world), splits)]

    def drawn(self, purpose: str, prompts: list[str], count: int) -> list[str]:
        """`count` prompts in an order that the seed and the purpose draw. Each comes once before
        one comes twice."""
        found, turns = [], 0
        while len(found) < count:
            order = rng(self.seed, "lab", f"prompts {purpose}", turns).permutation(len(prompts))
            found += [prompts[i] for i in order]
            turns += 1
        return found[:count]

    def answers(self, stage: Stage, purpose: str, prompts: list[str], k: int) -> list[Answers]:
        """k replies of a model to each prompt at temperature 1. purpose: of the draws."""
        seed = int(rng(self.seed, "lab", f"replies {purpose}").integers(2**31))
        asked = [user(prompt) for prompt in prompts]
        found = sample_replies(stage, asked, k, seed, MAX_NEW, self.lab.progress)
        stage.model.release()
        rows = []
        for prompt, messages, some in zip(prompts, asked, found):
            replies, ended = zip(*some)
            golds = tuple(self.truth.golds(messages, replies, ended))
            rows.append(Answers(prompt, replies, ended, golds))
        return rows

    def kept_answers(self, stage: Stage, purpose: str, prompts: list[str], k: int):
        """answers(), from the lab's folder if they are there."""
        described = {
            "version": VERSION, "model": weights_sha256(stage.model), "seed": self.seed,
            "replies": [purpose, prompts, k, MAX_NEW],
        }  # fmt: skip

        def sampled() -> dict:
            rows = self.answers(stage, purpose, prompts, k)
            return {"rows": [[r.prompt, r.replies, r.ended, r.golds] for r in rows]}

        rows = stored(self.lab.folder / "replies", described, sampled)["rows"]
        return [Answers(prompt, *map(tuple, columns)) for prompt, *columns in rows]

    def pool(self, stage: Stage, purpose: str, splits: list[str], count: int) -> list[Answers]:
        """REPLIES replies to each of `count` prompts (unscaled) of some splits, kept."""
        prompts = self.drawn(purpose, self.prompts(*splits), self.few(count))
        return self.kept_answers(stage, purpose, prompts, REPLIES)

    def few(self, count: int, least: int = 8) -> int:
        """A number of prompts at the lab's scale, at least `least`."""
        return max(min(least, count), self.lab.scaled(count))

    def trained_rankings(self, stage: Stage, by: str = BY_LABELERS) -> list[Ranking]:
        """Rankings to learn from, of replies to questions that the exact judge's reports never
        ask."""
        rows = self.pool(stage, "trained", ["train", "reward"], TRAINED)
        return ranked(rows, by, self.seed)

    def heldout_rankings(self, stage: Stage) -> list[Ranking]:
        """Rankings to measure on, of replies to sealed questions, by the labelers."""
        rows = self.pool(stage, "held out", ["sealed"], HELD_OUT)
        return ranked(rows, BY_LABELERS, self.seed + 10**6)


def ranked(rows: list[Answers], by: str, seed: int) -> list[Ranking]:
    """Rankings of the usable replies, by BY_LABELERS (in turn), BY_LENGTH, BY_JUDGE or BY_CHANCE
    (in a random order). Ranking.row has "golds". Prompts with fewer than two different replies are
    left out."""
    found = []
    for number, row in enumerate(map(Answers.usable, rows)):
        if len(row.replies) < 2:
            continue
        if by in WHO:
            lengths = [len(reply) for reply in row.replies]
            given = [
                (name, scores(name, list(row.golds), lengths, seed, number))
                for name in turn(WHO[by], number)
            ]
        elif by == BY_JUDGE:
            given = [(by, row.golds)]
        else:
            given = [(by, rng(seed, "lab", by, number).permutation(len(row.replies)).tolist())]
        found += [
            Ranking(
                user(row.prompt), row.replies, tuple(ranks_of(points)), "lab", number + 1, name,
                row={"golds": row.golds},
            )
            for name, points in given
        ]  # fmt: skip
    return found


def first_with(rankings: list[Ranking], comparisons: int) -> list[Ranking]:
    """The first rankings that have so many comparisons together, or all; at least two."""
    total = 0
    for n, ranking in enumerate(rankings, 1):
        total += len(ranking.pairs())
        if total >= comparisons and n > 1:
            return rankings[:n]
    return rankings


def golden(rankings: list[Ranking]) -> list[list[int]]:
    """The points of each reply of each ranking."""
    return [list(r.row["golds"]) for r in rankings]


# ------------------------------------------------------------------------------------ an arm


def record_of_arm(lab, arm: TaskArm, seed: int) -> dict:
    """The record of an arm under one seed: from the lab's folder, or made now and kept there."""
    subject = Subject(lab, arm.told(seed), seed)
    described = {
        "version": VERSION,
        "base": weights_sha256(subject.base.stage.model),
        "world": subject.told.world.to_json(),
        "sizes": [TRAINED, HELD_OUT, REPLIES, SFT_STEPS],
        # That of PPO stands in the options of its arms, so it names their records alone.
        "recipes": {k: v for k, v in OF_WORLD[PRESET].items() if k != "ppo"},
        "task": arm.task.__name__,
        "options": arm.options,
        "seed": seed,
    }
    return stored(lab.folder / "trials", described, lambda: carry_out(subject, arm))


def prepare(lab, seed: int) -> None:
    """Make what all arms of a seed begin from, before several processes need it."""
    subject = Subject(lab, world_of(seed), seed)
    policy = subject.policy()
    subject.trained_rankings(policy)
    subject.heldout_rankings(policy)


def carry_out(subject: Subject, arm: TaskArm) -> dict:
    """Do an arm's task, and return its record. If a training diverges, the error is under
    "diverged", and nothing else is known unless the task measured it."""
    began = time.monotonic()

    def note(text: str) -> None:
        subject.lab.progress(f"{arm.name}, seed {subject.seed}: {text}", False)

    try:
        fields = arm.task(subject, arm.options, note)
    except Diverged as error:
        fields = {"diverged": str(error)}
    record = {"track": [], "losses": [], "samples": [], "finish": {}, "diverged": None} | fields
    return record | {
        "arm": arm.name,
        "preset": PRESET,
        "seed": subject.seed,
        "settings": arm.options,
        "base_loss": subject.base.loss,
        "track": [finite(row) for row in record["track"]],
        "finish": finite(record["finish"]),
        "seconds": round(time.monotonic() - began, 2),
    }


def shown(answers: list[Answers]) -> list[tuple[str, str, str]]:
    """Some replies for a record: (prompt, reply, why it ended)."""
    some = answers[:: max(1, len(answers) // SHOWN)][:SHOWN]
    return [(a.prompt, a.replies[0], "end" if a.ended[0] else "length") for a in some]
