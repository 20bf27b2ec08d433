"""PPO, an iteration at a time: the policy writes replies, somebody scores them, every token gets an
advantage, and policy and critic learn from it (Ouyang et al. 2022, as PPO by Schulman et al. 2017).

    write    replies to some prompts, at temperature 1          rollouts.py
    score    each reply                                         whoever the stage was given
    weigh    reward - beta KL, minus a baseline                 advantages.py
    learn    `epochs` updates of the policy and of the critic   loop.train_step, objectives.py

With the baselines "leave-one-out" and "group" there is no critic: that is RLOO and GRPO."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from pysft.batch import Batch
from pysft.errors import Diverged
from pysft.nn.optim import AdamW
from pysft.rng import rng
from pysft.training.advantages import (
    gae,
    k1,
    k3,
    leave_one_out,
    next_beta,
    token_rewards,
    whiten,
    within_group,
)
from pysft.training.alarms import alarms
from pysft.training.kinds import PolicyTuning
from pysft.training.loop import Report, schedule, train_step
from pysft.training.objectives import ClippedValue
from pysft.training.rollouts import Rollout, divergence, nll_of, roll_out
from pysft.training.stages import Plan


@dataclass(frozen=True)
class Task:
    """What the policy is trained to do.

    prompts: the ids of each. pick(iteration): the numbers of those that it asks. score(numbers,
    rollouts): (the score (n,) of each reply to the prompts of these numbers, figures of them as an
    objective gives them). end: the token that ends a reply. inject: answers calls of tools, as
    Engine.add() takes it."""

    prompts: list[np.ndarray]
    pick: Callable[[int], np.ndarray]
    score: Callable[[np.ndarray, list[Rollout]], tuple[np.ndarray, dict]]
    end: int
    inject: Callable | None = None


@dataclass
class Iterations:
    """What learns by PPO, for loop.train() and the runner: as loop.Learner, with an iteration as
    its step.

    model: the policy. reference: the model that it begins from; a KL is from this one. critic: None
    without a value baseline. plan: as stages.ppo() gives it. seed, name: for the draws.

    rows: the figures of the iterations so far. told: the names of the alarms so far."""

    model: object
    reference: object
    critic: object
    task: Task
    plan: Plan
    settings: PolicyTuning
    seed: int
    name: str
    rows: list[dict] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    def __post_init__(self):
        adam = self.settings.adam()
        self.adam, self.beside = AdamW(self.model, **adam), {}
        if self.critic is not None:
            self.beside["critic"] = self.critic, AdamW(self.critic, **adam)
        self.numbers = {"beta": self.settings.beta}
        self.rate, self.done = self.plan.rate, 0

    @property
    def steps(self) -> int:
        """The number of iterations so far."""
        return self.done

    @steps.setter
    def steps(self, number: int) -> None:
        self.done = number
        for adam in (self.adam, *(adam for _, adam in self.beside.values())):
            adam.steps = number * self.settings.epochs

    @property
    def stopped(self) -> bool:
        """True if an alarm ends the training."""
        return bool(self.told) and self.settings.on_alarm == "stop"

    def resume(self, rows: list[dict]) -> None:
        """Take note of the log's rows of the iterations so far."""
        self.rows = [row["figures"] for row in rows]
        self.told = {name for row in rows for name in row.get("alarms", ())}

    def take(self, step: int) -> Report:
        """Do iteration number `step`, from 0. Diverged ends it where an update is not finite: the
        updates before that one stay. It is lasting where nothing can be learned from the replies,
        because the next ones would come from the same weights."""
        settings, task = self.settings, self.task
        asked = np.repeat(task.pick(step), settings.replies)
        try:
            rollouts = roll_out(
                self.model,
                [task.prompts[i] for i in asked[:: settings.replies]],
                settings.replies,
                settings.tokens,
                task.end,
                int(rng(self.seed, self.name, "replies", step).integers(2**31)),
                task.inject,
            )
        except Diverged as error:  # the next iteration would begin with the same weights
            raise Diverged(f"step {step + 1}: {error}", lasting=True) from None
        scores, figures = task.score(asked, rollouts)
        weighed, more = self._weigh(step, rollouts, scores)
        report = self._learn(step, [r.example for r in rollouts], weighed)
        report.figures = report.figures | more | means(figures)
        self.rows.append(report.figures)
        found = alarms(self.rows, settings.kl_limit)
        report.alarms = {name: text for name, text in found.items() if name not in self.told}
        self.told |= found.keys()
        if settings.kl_target:
            given = self.numbers["beta"], more["kl"], settings.kl_target, len(rollouts)
            self.numbers["beta"] = next_beta(*given, settings.horizon)
        self.steps = step + 1
        return report

    # ------------------------------------------------------------------- what a token is worth

    def _weigh(self, step: int, rollouts: list[Rollout], scores) -> tuple[dict, dict]:
        """Return ({column: (R,)} for the R graded rows of all replies, figures of them)."""
        settings, beta = self.settings, self.numbers["beta"]
        parts = self._batch([r.example for r in rollouts]).split(settings.micro_batches)
        graded = [np.flatnonzero(part.graded) for part in parts]
        labels = np.concatenate([part.labels[rows] for part, rows in zip(parts, graded)])
        logits = np.concatenate([r.logits for r in rollouts])
        reference = np.concatenate(
            [self.reference.logits(p.tokens, p.cu_seqlens, rows) for p, rows in zip(parts, graded)]
        )
        nll, nll_ref = (nll_of(self.model.ops, x, labels) for x in (logits, reference))
        columns = {"nll_old": nll}
        if self.critic is not None:
            found = [self.critic.forward(part).value[rows] for part, rows in zip(parts, graded)]
            columns["value_old"] = values = np.concatenate(found)
        for name, x in {"score": scores, "nll_ref": nll_ref, **columns}.items():
            if not np.isfinite(x).all():
                raise Diverged(
                    f"step {step + 1}: the {name} of a reply is {x[~np.isfinite(x)][0]}; no weight"
                    " was changed. A lower learning rate usually helps",
                    parts,
                    lasting=True,
                )
        kl, entropy = divergence(logits, reference)
        first = np.cumsum([0, *(len(r.logits) for r in rollouts)])
        if self.critic is not None:
            spans = [slice(a, b) for a, b in zip(first, first[1:])]
            given = [
                (token_rewards(s, nll[i], nll_ref[i], beta), values[i])
                for s, i in zip(scores, spans)
            ]
            advantage = np.concatenate([gae(*g, settings.gamma, settings.lam) for g in given])
            columns["return"] = advantage + values
        else:
            price = beta * np.add.reduceat(k1(nll, nll_ref), first[:-1])
            compare = leave_one_out if settings.baseline == "leave-one-out" else within_group
            worth, price = (x.reshape(-1, settings.replies) for x in (scores, price))
            # Not of their difference: within_group() makes noise as large as anything.
            each = compare(worth) - leave_one_out(price)
            advantage = np.repeat(each.ravel(), np.diff(first))
        is_whitened = settings.whiten and self.critic is not None
        columns["advantage"] = whiten(advantage) if is_whitened else advantage
        n = len(rollouts)
        figures = {
            "reward": float(scores.mean()),
            "kl": float(kl.sum()) / n,
            "kl_k1": float(k1(nll, nll_ref).sum()) / n,
            "kl_k3": float(k3(nll, nll_ref).sum()) / n,
            "entropy": float(entropy.mean()),
            "length": float(np.mean([len(r.ids) for r in rollouts])),
            "ended": float(np.mean([r.stop == "end" for r in rollouts])),
            "beta": beta,
        }
        if self.critic is not None:
            spread = columns["return"].var()
            figures["explained"] = 1 - float(advantage.var() / spread) if spread > 0 else 0.0
        return columns, figures

    # --------------------------------------------------------------------------------- the updates

    def _learn(self, step: int, examples: list, columns: dict) -> Report:
        """Update the policy, and the critic if there is one, `epochs` times from the same replies.
        Return the report of the policy: means over the updates."""
        settings, lr = self.settings, self.rate(step)
        reports, figures = [], {}
        replies = with_columns(examples, columns, ("nll_old", "advantage"))
        for epoch in range(settings.epochs):
            beside = self.plan.draw(step * settings.epochs + epoch)
            batches = self._batch(replies + beside).split(settings.micro_batches)
            policy = self.model, self.adam
            reports.append(self._update(step, "policy", *policy, batches, self.plan.objective, lr))
        if self.critic is not None:
            rate = schedule(
                step, settings.steps, settings.critic_lr, settings.warmup, settings.schedule
            )
            valued = self._batch(with_columns(examples, columns, ("value_old", "return")))
            batches = valued.split(settings.micro_batches)
            objective = ClippedValue(settings.value_clip)
            for _ in range(settings.epochs):
                given = *self.beside["critic"], batches, objective, rate
                figures = self._update(step, "critic", *given).figures
        first = reports[0].figures
        names = [name for name in first if name != "moved"]
        last = reports[-1].figures
        figures |= {name: last[name] for name in names}
        return Report(
            step + 1,
            float(np.mean([r.loss for r in reports])),
            figures | {"ratio_moved": first["moved"]},
            max(r.norm for r in reports),
            lr,
            sum(r.graded for r in reports),
            sum(r.tokens for r in reports),
        )

    def _update(self, step: int, name: str, model, adam, batches, objective, lr: float) -> Report:
        """Take one train_step(). Its error counts updates, so name the iteration and the model."""
        try:
            return train_step(model, adam, batches, objective, lr, self.settings.clip)
        except Diverged as error:
            text = str(error).replace("step", f"{name}'s update", 1)
            raise Diverged(f"step {step + 1}, {text}", error.batches, error.lasting) from None

    def _batch(self, examples: list) -> Batch:
        config = self.model.config
        return Batch.of(examples, config.vocab, config.context)


def with_columns(examples: list, columns: dict[str, np.ndarray], names) -> list:
    """The examples with some columns, whose numbers are those of all graded rows one after the
    other. Rows that are not graded have 0."""
    found, first = [], 0
    for e in examples:
        graded = np.flatnonzero(e.labels >= 0)
        part, first = slice(first, first + len(graded)), first + len(graded)
        own = {name: np.zeros(len(e.labels)) for name in names}
        for name in names:
            own[name][graded] = columns[name][part]
        found.append(replace(e, columns=own))
    return found


def means(figures: dict) -> dict[str, float]:
    """{name: mean} of figures as an objective gives them, without those whose count is 0."""
    return {name: total / count for name, (total, count) in figures.items() if count}
