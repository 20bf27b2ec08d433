"""PPO as a stage of a run: a model that talks writes replies, is told what each is worth, and comes
to write better ones. No person writes or ranks anything."""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pysft.errors import DataError, RowError
from pysft.inference.engine import SLOTS
from pysft.inference.generate import Reply
from pysft.inference.search import Search
from pysft.inference.table import Table
from pysft.inference.thoughts import visible_parts
from pysft.inference.tool_calls import answer_calls, content_parts
from pysft.inference.tools import Tool, tools
from pysft.jobs.begin import Place
from pysft.jobs.compare import Sides
from pysft.jobs.comparisons import JUDGED, Comparisons, asked, sealed_questions
from pysft.jobs.judged import judged
from pysft.jobs.material import Material
from pysft.jobs.pretrain import announce
from pysft.jobs.tuned import begin_stage, finish_stage, train_and_measure
from pysft.measure.evaluate import checks, longest_reply, spoken
from pysft.measure.memory import HELD, refuse_too_large, say_memory
from pysft.measure.policy_ailments import alarms_of
from pysft.measure.probe import Probe
from pysft.measure.rewards import Reward
from pysft.measure.tooltask import ToolTask, tool_task
from pysft.measure.words import words
from pysft.nn.grow import copied, with_outputs
from pysft.nn.shapes import sizes
from pysft.rng import rng
from pysft.run.log import read_log
from pysft.run.stage import Stage
from pysft.text.render import render_prompt
from pysft.text.sampled import is_usable, read_asked
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer
from pysft.training import stages
from pysft.training.kinds import PolicyTuning
from pysft.training.ppo import Iterations, Task
from pysft.training.rollouts import Rollout
from pysft.training.settings import Settings
from pysft.world.facts import WorldSettings
from pysft.world.town import TOWN

SPLITS = ("train", "ppo")  # of a world: whose questions a policy may be asked
LOW = 0.05  # a beta at which policies cheat a learned reward (bench/RESULTS.md, lab hacking, drift)
HELD_OUT = 10  # of the prompts in a file, about one in so many is kept to judge by


@dataclass(frozen=True)
class Prompts:
    """What a policy is asked, as messages. trained: while it learns. judged: those that it is
    measured on, which no training asks. note: a sentence about what was left out, or "". world: the
    one that they ask about, None if none. task: the questions that are answered with tools, None
    without them."""

    trained: list[list[dict]]
    judged: list[list[dict]]
    note: str = ""
    world: WorldSettings | None = None
    task: ToolTask | None = None


def prompts_of(
    parent: Stage, file: str | None, seed: int, name: str, calls: bool, text: str
) -> Prompts:
    """Return the prompts of a file, or without one the questions of the world that the parent
    learned; the judged ones are then sealed. If replies may call tools, and the parent has learned
    to search, they are questions that the search answers. text: of the corpus, for these.

    A DataError if none of them leaves room for a reply."""
    if file is None and calls and parent.setting("transcripts", 0):
        task = tool_task(text, parent.tokenizer, seed, name)
        every = [[{"role": "user", "content": question}] for question in task.questions]
        return Prompts(*_parted(every), task=task)
    if file is None:
        sealed = sealed_questions(parent.world, seed, name)
        return Prompts(asked(parent.world, SPLITS), sealed, world=parent.world)
    fit, left_out = read_fitting(
        file, parent.tokenizer, parent.template, parent.model.config.context
    )
    note = f"left out: {left_out:,} prompts that the model cannot read" if left_out else ""
    return Prompts(*_parted(fit), note)


def read_fitting(
    file: str, tokenizer: Tokenizer, template: Template, context: int
) -> tuple[list[list[dict]], int]:
    """Return (the different prompts of a file that a model can read, how many it cannot). A
    DataError if there is none that leaves room for a reply."""
    every = {str(messages): messages for messages, _, _ in read_asked(file, template)}

    def fits(messages):
        try:
            ids = render_prompt(messages, tokenizer, template)
        except (RowError, DataError):
            return False
        return len(ids) < context - 1  # a token, and the end

    fit = [messages for messages in every.values() if fits(messages)]
    if not fit:
        raise DataError(
            f"{file}: no prompt of it can be written with this model's characters and leaves room"
            f" for a reply in its context of {context:,}; shorten them"
        )
    return fit, len(every) - len(fit)


def _parted(prompts: list[list[dict]]) -> tuple[list, list]:
    """Return (the prompts to train on, those to judge by). What is said in a prompt alone decides
    where it belongs, so a second stage judges by none that the first has trained on."""
    draws = {zlib.crc32(json.dumps(prompt).encode()): prompt for prompt in prompts}
    share = max(1, len(prompts) // HELD_OUT) if len(prompts) > 1 else 0
    kept = {crc for crc in draws if crc % HELD_OUT == 0} or {*sorted(draws)[:share]}
    if len(kept) == len(draws):
        kept.pop()
    trained = [prompt for crc, prompt in draws.items() if crc not in kept]
    return trained, [draws[crc] for crc in sorted(kept)[:JUDGED]]


# ---------------------------------------------------------------------------------- what is told


@dataclass(frozen=True)
class Scorer:
    """Scores the replies of a stage, or of one that is trained from it, and describes them.

    truth: the exact judge, if there is one; None else. known: the words that count as real. calls:
    True if replies may call tools."""

    stage: Stage
    reward: Reward
    unfinished: float
    truth: Reward | None
    known: frozenset[str]
    calls: bool

    def score(self, prompts, replies: Sequence[Reply], texts=None) -> np.ndarray:
        """(n,) float64: what the reward says. texts: what the replies say, if that is known.

        A reply that did not end, is empty or holds a control token has `unfinished`, or 1 less than
        the lowest of the others if that is less, so that it is never better than one that ended."""
        texts = self._texts(replies) if texts is None else texts
        fits = np.array([r.stop == "end" and is_usable(t) for r, t in zip(replies, texts)])
        found = np.full(len(replies), self.unfinished)
        if fits.any():
            fit = np.flatnonzero(fits)
            some = ([every[i] for i in fit] for every in (prompts, replies, texts))
            found[fit] = self._asked(self.reward, *some)
            found[~fits] = min(self.unfinished, found[fit].min() - 1)
        return found

    def points(self, prompts, replies: Sequence[Reply], texts=None) -> np.ndarray:
        """(n,) float64: what the exact judge says. texts: as in score()."""
        texts = self._texts(replies) if texts is None else texts
        return self._asked(self.truth, prompts, replies, texts)

    def told(self, prompts, rollouts: list[Rollout]) -> tuple[np.ndarray, dict]:
        """(scores (n,), figures {name: (sum, count)}): "distinct" (different replies),
        "distinct_first" (the same among the first reply to each prompt), "compliance" (replies in
        format), "real_words", "distinct_words", and "gold" if there is a judge."""
        replies = [Reply(r.ids, r.stop, r.injected) for r in rollouts]
        texts = self._texts(replies)
        every = [words(text) for text in texts]
        count = sum(map(len, every))
        ids = [r.ids.tobytes() for r in rollouts]
        first = [i for i, p in enumerate(prompts) if not i or p is not prompts[i - 1]]
        in_format = [all(checks(r, self.stage.tokenizer, self.stage.template)) for r in replies]
        figures = {
            "distinct": (len({*ids}), len(ids)),
            "distinct_first": (len({ids[i] for i in first}), len(first)),
            "compliance": (sum(in_format), len(replies)),
            "real_words": (sum(w in self.known for some in every for w in some), count),
            "distinct_words": (sum(len(set(some)) for some in every), count),
        }
        if self.truth is not None:
            points = self.points(prompts, replies, texts)
            figures["gold"] = float(points.sum()), len(points)
        return self.score(prompts, replies, texts), figures

    def _texts(self, replies: Sequence[Reply]) -> list[str]:
        """What the replies say, without calls of tools, their results and thoughts."""
        return [spoken(r, self.stage.tokenizer, self.stage.template) for r in replies]

    def _asked(self, reward: Reward, prompts, replies, texts) -> np.ndarray:
        shown = texts
        if self.calls:
            words_of = self.stage.tokenizer, self.stage.template
            shown = [visible_parts(content_parts(r.ids, *words_of)) for r in replies]
        return reward.score(prompts, shown, [r.stop == "end" for r in replies])


def train_ppo(
    name: str,
    settings: Settings,
    parent: Stage,
    prompts: Prompts,
    reward: Reward,
    truth: Reward | None,
    critic: Stage | None,
    material: Material,
    probe: Probe,
    base_loss: float | None,
    place: Place,
) -> tuple[Stage, dict, Sides]:
    """Train the stage `name` on a reward, and measure it. Return (the stage, its report, its
    replies beside the parent's).

    settings: the run's, with this stage alone. truth: the exact judge; None if there is none.
    critic: the reward model that the critic begins from; None begins it from the parent. material:
    the text beside the replies (ptx). probe: what the parent was measured with. base_loss: of the
    base under it; None if that is not known."""
    screen, stage = place.screen, with_room(settings, name, parent).stages[name]
    if prompts.note:
        screen.say(f"{name}: {prompts.note}")
    screen.say(
        f"{name}: {stage.steps:,} iterations of {stage.replies} replies to {stage.prompts} of"
        f" {len(prompts.trained):,} prompts; reward: {reward.name}; judged on"
        f" {len(prompts.judged):,} others"
    )
    if critic is not None and stage.beta < LOW and not stage.kl_target:
        screen.say(
            f"{name}: beta = {stage.beta:g} is low for a learned reward, which the policy learns to"
            " cheat; 0.1 to 0.2 keeps it near what the reward knows (--beta)"
        )
    words_of = parent.tokenizer, parent.template
    text = parent.tokenizer.encode(material.train_text), material.world_ids(parent.tokenizer)
    scorer = Scorer(
        parent, reward, stage.unfinished, truth, frozenset(probe.known_words), stage.tools
    )
    having = prompts.task.tools if prompts.task else _shipped_tools() if stage.tools else {}
    inject = answer_calls(*words_of, having) if parent.template.parts else None
    learner = iterations(name, settings, parent, prompts.trained, scorer, critic, *text, inject)
    model, plan = learner.model, learner.plan
    refuse_too_large(model.config, plan.rows)
    size = sizes(model.config, plan.rows)
    beside = 2 * size["weights"] + size["activations"]  # the parent, the reference
    if stage.baseline == "value":
        beside += sum(size[k] for k in HELD)
    # The logits of all tokens: of each reply, of all replies, and twice those of the reference.
    drawn = stage.prompts * stage.replies * stage.tokens
    beside += 4 * drawn * model.config.vocab * model.params.flat.itemsize
    say_memory(screen, (model.config, plan.rows, beside, SLOTS))
    params = announce(screen, name, model.config)
    tuned = begin_stage(name, settings, parent, model, probe, place)
    train_and_measure(tuned, plan, settings, probe, base_loss, place, learner)
    screen.say(f"measuring {name} ...")
    learner = None  # free the critic and the reference
    found = of_the_way(read_log(tuned.folder))
    if prompts.judged:
        asks = Comparisons([], [], prompts.judged, reward.name, prompts.world)
        gold = scorer.points if truth else None
        found |= judged(
            tuned, parent, asks, settings.seed, scorer.score, gold, inject, stage.tokens
        )
    found |= {"prompts": len(prompts.trained), "reward": reward.name}
    return finish_stage(tuned, parent, {"ppo": found}, settings, probe, base_loss, params, place)


def with_room(settings: Settings, name: str, parent: Stage) -> Settings:
    """The settings with room for thoughts beside the tokens of a reply, if the parent may think
    before it answers."""
    return settings.changed({name: {"tokens": most_tokens(settings.stages[name], parent)}})


def most_tokens(settings: PolicyTuning, talker: Stage) -> int:
    """The most tokens of a reply of a model: those of the settings, and room for thoughts."""
    return longest_reply(talker.tokenizer, talker.template, settings.tokens)


def iterations(
    name: str,
    settings: Settings,
    parent: Stage,
    prompts: list[list[dict]],
    scorer: Scorer,
    critic: Stage | None,
    corpus: np.ndarray,
    world: np.ndarray | None = None,
    inject: Callable | None = None,
) -> Iterations:
    """Return what learns in the stage `name`: a copy of the parent, which is asked these prompts.

    settings: the run's, with this stage alone. prompts: messages. critic: the reward model that the
    critic begins from; None begins it from the parent. corpus, world: the ids of the text beside
    the replies (ptx). inject: answers calls of tools, as Engine.add() takes it."""
    settings = with_room(settings, name, parent)
    ids = [render_prompt(messages, parent.tokenizer, parent.template) for messages in prompts]
    context = parent.model.config.context
    plan, pick = stages.ppo(settings, name, [len(i) for i in ids], corpus, context, world)
    model, reference = (copied(parent.model, settings.model.precision) for _ in range(2))

    def told(numbers, rollouts):
        return scorer.told([prompts[i] for i in numbers], rollouts)

    task = Task(ids, pick, told, parent.tokenizer.special[parent.template.end], inject)
    values, stage = _critic(settings, name, parent, critic), settings.stages[name]
    return Iterations(model, reference, values, task, plan, stage, settings.seed, name)


def _shipped_tools() -> dict[str, Tool]:
    """The tools that a chat has, where no documents or table are named."""
    return tools(Search.of([str(TOWN)]), Table.shipped())


def _critic(settings: Settings, name: str, parent: Stage, reward: Stage | None):
    """Return the critic as it begins; None if the baseline is none. A head that no reward model has
    trained begins at zero."""
    if settings.stages[name].baseline != "value":
        return None
    model = copied((reward or parent).model, settings.model.precision)
    if reward is not None:
        return model
    critic = with_outputs(model, "value", rng(settings.seed, name, "critic"))
    critic.params["value.w"][:] = 0
    return critic


def of_the_way(rows: list[dict]) -> dict:
    """What a log says of a PPO's iterations.

    iterations          how many there were
    kl_first            the KL in the first one, before any update: exactly 0
    ratio_first_exact   True if in every iteration each ratio of the first update was exactly 1
    kl_last             the KL in the last one, nats per reply
    alarms              [{"alarm", "step", "text"}], as they came"""
    every = [row["figures"] for row in rows]
    return {
        "iterations": len(rows),
        "kl_first": every[0]["kl"] if every else None,
        "kl_last": every[-1]["kl"] if every else None,
        "ratio_first_exact": all(f["ratio_moved"] == 0 for f in every) if every else None,
        "alarms": alarms_of(rows),
    }
