"""A small training by PPO: a model of eleven symbols that is asked five prompts, the figures of its
updates, and the batches that it learned from."""

import contextlib
from dataclasses import dataclass, field

import numpy as np
import pytest

from pysft.nn import kernels
from pysft.nn.grow import copied, with_outputs
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.training import loop, ppo, stages
from pysft.training.kinds import PolicyTuning
from pysft.training.ppo import Iterations, Task
from pysft.training.settings import Model, Settings

V, CONTEXT, END = 11, 24, 10
PROMPTS = [np.array(ids, np.int32) for ids in ([1, 2], [3], [4, 4, 2], [7, 1, 1, 1], [8, 8])]
TEXT = np.arange(300, dtype=np.int32) ** 2 % V
# Three prompts with two replies each, of at most 8 tokens, and two updates.
SMALL = dict(
    steps=4, prompts=3, replies=2, tokens=8, windows=((7, 2),), warmup=0, lr=3e-3, micro_batches=1
)


def model_of(config=None, ops=None, dtype=np.float32, spread=0.2):
    """A model that is far from uniform."""
    config = config or GPTConfig(V, CONTEXT, 2, 2, 16)
    model = GPT(config, ops or kernels.on_threads(1), np.random.default_rng(0), dtype)
    g = np.random.default_rng(1)
    for _, w in model.params.items():
        w += (spread * g.standard_normal(w.shape)).astype(dtype)
    return model


def moved(model, size, seed=7):
    """A copy whose weights are other ones."""
    other = copied(model, model.config.precision)
    g = np.random.default_rng(seed)
    other.params.flat[:] += size * g.standard_normal(len(other.params.flat)).astype(model.dtype)
    return other


def count_threes(numbers, rollouts):
    """The score of a reply: the number of its 3s, and a tenth of that of its prompt."""
    scores = [float((r.ids == 3).sum()) + i / 10 for i, r in zip(numbers, rollouts)]
    return np.array(scores), {"threes": (sum((r.ids == 3).any() for r in rollouts), len(rollouts))}


def learner_of(
    model=None, score=count_threes, inject=None, reference=0.0, head=0.1, ids=PROMPTS, end=END,
    text=TEXT, **changes
):  # fmt: skip
    """Iterations over SMALL with changes. reference: how far the reference is from the policy.
    head: the size of the weights of the
    critic's head. ids: the prompts."""
    model = model or model_of()
    own = PolicyTuning(**SMALL | changes)
    config = model.config
    settings = Settings(
        model=Model(context=config.context, channels=config.channels), stages={"ppo": own}
    )
    plan, pick = stages.ppo(settings, "ppo", [len(p) for p in ids], text, config.context)
    critic = None
    if own.baseline == "value":
        critic = with_outputs(copied(model, config.precision), "value", np.random.default_rng(5))
        w = critic.params["value.w"]
        w[:] = head * np.random.default_rng(6).standard_normal(w.shape)
    task = Task(ids, pick, score, end, inject)
    return Iterations(model, moved(model, reference), critic, task, plan, own, 1, "ppo")


@dataclass
class Update:
    """What one train_step was given, and what it reported."""

    model: object
    batches: list
    objective: object
    lr: float
    report: object


@dataclass
class Updates:
    """Every train_step of a training."""

    every: list = field(default_factory=list)

    def of(self, model) -> list[Update]:
        return [u for u in self.every if u.model is model]


@contextlib.contextmanager
def recorded():
    """Inside `with`, the updates of PPO are recorded."""
    updates = Updates()

    def train_step(model, adam, batches, objective, lr, limit=0.0):
        report = loop.train_step(model, adam, batches, objective, lr, limit)
        updates.every.append(Update(model, batches, objective, lr, report))
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "train_step", train_step)
        yield updates


def run(learner, iterations=None):
    """(the reports, the Updates) of some iterations; of all if there is no number."""
    steps = learner.settings.steps if iterations is None else learner.steps + iterations
    with recorded() as updates:
        return list(loop.train(learner, steps)), updates
