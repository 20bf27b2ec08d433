"""DPO as a stage of a run: a model that talks is tuned on pairs of a better and a worse reply, so
that it gives replies like the better ones more often."""

from dataclasses import replace

import numpy as np

from pysft.batch import Example, in_batches
from pysft.inference.score import log_probabilities
from pysft.jobs.begin import Place
from pysft.jobs.compare import Sides
from pysft.jobs.comparisons import JUDGED, Comparisons, keep_heldout
from pysft.jobs.judged import judged
from pysft.jobs.material import Material
from pysft.jobs.pretrain import announce
from pysft.jobs.tuned import begin_stage, finish_stage, train_and_measure
from pysft.measure.alignment import gain_figures, split_scores
from pysft.measure.memory import refuse_too_large, say_memory
from pysft.measure.probe import Probe
from pysft.nn.grow import copied
from pysft.nn.shapes import sizes
from pysft.run.stage import Stage
from pysft.text.compared import graded_examples
from pysft.text.ranking import Ranking
from pysft.training import stages
from pysft.training.settings import Settings


def train_dpo(
    name: str,
    settings: Settings,
    parent: Stage,
    comparisons: Comparisons,
    material: Material,
    probe: Probe,
    base_loss: float | None,
    place: Place,
) -> tuple[Stage, dict, Sides]:
    """Train the stage `name` on comparisons, and measure it. Return (the stage, its report, its
    replies beside the parent's).

    settings: the run's, with this stage alone. material: the text to replay. probe: what the parent
    was measured with. base_loss: of the base under it; None if that is not known."""
    screen, stage = place.screen, settings.stages[name]
    pairs = pairs_of(parent, comparisons.trained)
    corpus, world = (
        parent.tokenizer.encode(material.train_text),
        material.world_ids(parent.tokenizer),
    )
    plan = stages.dpo(settings, name, pairs, corpus, parent.model.config.vocab, world)
    stage = replace(stage, steps=plan.steps, warmup=min(stage.warmup, plan.steps))
    settings = replace(settings, stages={name: stage})
    model = copied(parent.model, settings.model.precision)
    refuse_too_large(model.config, plan.rows)
    beside = sizes(model.config, 1)["weights"]
    say_memory(screen, (model.config, plan.rows, beside, JUDGED))
    params = announce(screen, name, model.config)
    tuned = begin_stage(name, settings, parent, model, probe, place)
    keep_heldout(tuned.folder, comparisons)
    train_and_measure(tuned, plan, settings, probe, base_loss, place)
    screen.say(f"measuring {name} ...")
    found = gains(tuned, parent, comparisons.heldout, comparisons)
    found |= judged(tuned, parent, comparisons, settings.seed) | comparisons.counts()
    return finish_stage(tuned, parent, {"dpo": found}, settings, probe, base_loss, params, place)


def pairs_of(parent: Stage, rankings: list[Ranking]) -> list[tuple[Example, Example]]:
    """(chosen, rejected) for every two replies that a ranking puts in an order, with the column
    "reference": the parent's nll, computed here once."""
    model, read = parent.model, (parent.tokenizer, parent.model.config.context, parent.template)
    each = [graded_examples(r, *read) for r in rankings]
    known = iter(with_reference(model, [e for examples in each for e in examples]))
    each = [[next(known) for _ in examples] for examples in each]
    model.release()
    return [(examples[i], examples[j]) for r, examples in zip(rankings, each) for i, j in r.pairs()]


def with_reference(model, examples: list[Example]) -> list[Example]:
    """The examples with the column "reference": the model's nll of each row."""
    found = []
    for batch in in_batches(examples, model.config.vocab, model.config.context):
        found += np.split(model.forward(batch).nll, batch.cu_seqlens[1:-1])
    return [replace(e, columns={"reference": nll.copy()}) for e, nll in zip(examples, found)]


def gains(
    tuned: Stage, parent: Stage, rankings: list[Ranking], of: Comparisons | None = None
) -> dict:
    """What gain_figures() gives for rankings. of: the comparisons that they are among, which know
    what their prompts are about."""
    read = tuned.tokenizer, tuned.model.config.context, tuned.template
    examples = [e for r in rankings for e in graded_examples(r, *read)]
    after, before = (log_probabilities(stage.model, examples) for stage in (tuned, parent))
    tuned.model.release()
    parent.model.release()
    subjects = of and of.subjects([r.prompt for r in rankings])
    return gain_figures(rankings, split_scores(rankings, after - before), subjects)
