"""The work of a run: each stage that it trains, planned before anything is trained."""

from dataclasses import dataclass

from pysft.jobs.material import Material
from pysft.measure.memory import refuse_too_large
from pysft.nn.shapes import GPTConfig, sizes
from pysft.training.kinds import ALIGNING, Training, kind_of
from pysft.training.settings import Settings
from pysft.training.stages import PLANS, Plan, pretrain


@dataclass(frozen=True)
class Work:
    """One stage to train. settings: the run's, with this stage alone. config: the model's shape.
    beside: bytes of the parent's weights, which stay in memory."""

    name: str
    settings: Settings
    config: GPTConfig
    plan: Plan
    beside: int

    @property
    def tunes(self) -> bool:
        """True if it begins from a model and learns from conversations."""
        return kind_of(self.name) != "base"

    @property
    def stage(self) -> Training:
        """The settings of the stage."""
        return self.settings.stages[self.name]


def plan_work(settings: Settings, material: Material) -> list[Work]:
    """Return the work of each stage in the settings but those of ALIGNING, whose comparisons and
    replies do not exist yet. A UsageError or DataError if a stage cannot be
    trained on this material, or if this machine's memory cannot hold it."""
    works = []
    for name in settings.stages:
        own = settings.only(name)
        if kind_of(name) in ALIGNING:
            continue
        if kind_of(name) == "base":
            config = settings.model.shape(len(material.tokenizer))
            corpus = material.tokenizer.encode(material.train_text)
            world = material.world_ids(material.tokenizer)
            plan = pretrain(own, name, corpus, config.vocab, world)
            beside = 0
        else:
            config = settings.model.shape(len(material.grown))
            corpus = material.grown.encode(material.train_text)
            examples = material.examples
            world = material.world_ids(material.grown)
            plan = PLANS[kind_of(name)](
                own, name, *examples, corpus, config.vocab, material.files, world
            )
            beside = sizes(config, 1)["weights"]  # the parent is about as large
        refuse_too_large(config, plan.rows)
        works.append(Work(name, own, config, plan, beside))
    return works
