"""Reward modelling as a stage of a run: a model that gives a reply a number, begun from one that
talks. It learns from rankings which of two replies is better."""

from dataclasses import replace

import numpy as np

from pysft.inference.score import values
from pysft.jobs.begin import Place
from pysft.jobs.comparisons import Comparisons, keep_heldout
from pysft.jobs.pretrain import announce
from pysft.measure.alignment import order_figures, split_scores
from pysft.measure.evaluate import finite
from pysft.measure.memory import refuse_too_large, say_memory
from pysft.measure.probe import Probe
from pysft.measure.ratio import ratio
from pysft.nn.grow import with_outputs
from pysft.rng import rng
from pysft.run.checkpoints import drop_checkpoints
from pysft.run.stage import Stage, save_origin, save_stage, weights_sha256, write_json
from pysft.text.compared import ranked_examples, scored_example
from pysft.text.conversation import Conversation
from pysft.training import stages
from pysft.training.runner import stage_figures, train_stage
from pysft.training.settings import Settings


def train_reward(
    name: str,
    settings: Settings,
    parent: Stage,
    comparisons: Comparisons,
    probe: Probe,
    place: Place,
) -> tuple[Stage, dict]:
    """Train the stage `name` on comparisons. Return (the stage, its report).

    settings: the run's, with this stage alone. probe: that of the parent, whose trained replies are
    the demonstrations."""
    screen, folder = place.screen, place.folder / name
    examples = [_examples(r, parent) for r in comparisons.trained]
    stage = settings.stages[name]
    plan = stages.reward(settings, name, examples, parent.model.config.vocab)
    stage = replace(stage, steps=plan.steps, warmup=min(stage.warmup, plan.steps))
    settings = replace(settings, stages={name: stage})
    model = with_outputs(parent.model, "value", rng(settings.seed, name, "value"))
    refuse_too_large(model.config, plan.rows)
    say_memory(screen, (model.config, plan.rows, 0, 0))
    params = announce(screen, name, model.config)
    origin = {"path": str(parent.folder.resolve()), "weights_sha256": weights_sha256(parent.model)}
    tuned = Stage(
        folder, model, parent.tokenizer, parent.template, settings.to_json(), origin, place.inputs
    )
    save_origin(tuned)
    keep_heldout(folder, comparisons)
    for _ in train_stage(tuned, plan, settings.stages[name], screen, place.resume):
        pass  # it is measured at its end alone
    samples = [e for group in examples for e in group]
    scale = centre(model, _demonstrations(parent, probe), samples)
    report = _report(name, tuned, comparisons, scale, params, place)
    write_json(folder / "report.json", report)
    save_stage(tuned)
    drop_checkpoints(folder)
    return tuned, report


def _examples(ranking, parent: Stage) -> list:
    return ranked_examples(ranking, parent.tokenizer, parent.model.config.context, parent.template)


def _demonstrations(parent: Stage, probe: Probe) -> list:
    """The examples of the trained replies that people wrote. A RowError if the context cannot hold
    one, which was trained on in it."""
    found = []
    for prompt, reply in probe.pairs:
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        c = Conversation([*turns, {"role": "assistant", "content": reply}], "evaluation.json", 1)
        found.append(
            scored_example(c, parent.tokenizer, parent.model.config.context, parent.template)
        )
    return found


def centre(model, demonstrations: list, samples: list) -> float:
    """Change the head so that the demonstrations have the mean score 0 and the samples the standard
    deviation 1. Return the number by which the scores were divided.

    The order of two replies sees neither a shift nor a scale; a KL penalty does. The loss sees the
    scale: sigmoid(difference) is a probability in the scores of training alone."""
    scores = values(model, samples)
    zero = values(model, demonstrations).mean() if demonstrations else scores.mean()
    spread = scores.std()
    w, b = model.params["value.w"], model.params["value.b"]
    if not spread > 0:
        return 1.0
    w /= np.float32(spread)
    b[:] = (b - zero) / spread
    return float(spread)


def _report(
    name, tuned: Stage, comparisons: Comparisons, scale: float, params: int, place: Place
) -> dict:
    heldout = comparisons.heldout
    scores = values(tuned.model, [e for r in heldout for e in _examples(r, tuned)])
    figures = order_figures(
        comparisons.trained,
        heldout,
        split_scores(heldout, scores),
        comparisons.points(heldout),
        scale,
        comparisons.subjects([r.prompt for r in heldout]),
    )
    run = stage_figures(tuned.folder)
    report = {
        "run": str(place.folder),
        "stage": name,
        "params": params,
        "precision": tuned.model.config.precision,
        "reward": figures | comparisons.counts(),
        "loss_start": run["loss_start"],
        "loss": run["loss"],
        "tokens_per_s": ratio(run["tokens"], run["seconds"]),
        "training_seconds": run["seconds"],
        "weights_sha256": weights_sha256(tuned.model),
    }
    return finite(report)
