"""What DPO and PPO share: they begin from a model that talks, and are measured beside it."""

import time
from contextlib import closing

from pysft.jobs.begin import Place
from pysft.jobs.compare import Sides, compared, parent_figures
from pysft.jobs.measured import measured, measured_on_the_way
from pysft.measure.evaluate import finite
from pysft.measure.probe import Probe
from pysft.measure.ratio import ratio, rise
from pysft.run.checkpoints import drop_checkpoints
from pysft.run.stage import Stage, save_origin, save_stage, weights_sha256, write_json
from pysft.training.loop import Learner
from pysft.training.runner import stage_figures, train_stage
from pysft.training.settings import Settings
from pysft.training.stages import Plan, checkpoint_steps


def begin_stage(
    name: str, settings: Settings, parent: Stage, model, probe: Probe, place: Place
) -> Stage:
    """Return the stage `name` as it begins, and write what it is begun from. model: a copy of the
    parent's. settings: the run's, with this stage alone."""
    origin = {"path": str(parent.folder.resolve()), "weights_sha256": weights_sha256(parent.model)}
    words = parent.tokenizer, parent.template
    stage = Stage(place.folder / name, model, *words, settings.to_json(), origin, place.inputs)
    save_origin(stage)
    write_json(stage.folder / "evaluation.json", probe.to_json())
    return stage


def train_and_measure(
    tuned: Stage,
    plan: Plan,
    settings: Settings,
    probe: Probe,
    base_loss: float | None,
    place: Place,
    learner: Learner | None = None,
) -> None:
    """Train a stage, and measure it on the way. learner: as train_stage() takes it."""
    stage = settings.stages[tuned.name]
    at = checkpoint_steps(stage, plan)
    ways = {"at": at, "learner": learner}
    with closing(train_stage(tuned, plan, stage, place.screen, place.resume, **ways)) as moments:
        for moment in moments:
            measured_on_the_way(moment, tuned, probe, settings.data.grade, base_loss)


def finish_stage(
    tuned: Stage,
    parent: Stage,
    own: dict,
    settings: Settings,
    probe: Probe,
    base_loss: float | None,
    params: int,
    place: Place,
) -> tuple[Stage, dict, Sides]:
    """Measure a trained stage and write all of it. Return (the stage, its report, its replies
    beside the parent's). own: what this kind of stage reports beside the figures of every model
    that talks."""
    folder = tuned.folder
    figures, replies, asked = measured(tuned, probe)
    if asked:
        write_json(folder / "world.json", asked)
    run = stage_figures(folder)
    report = {
        "run": str(place.folder),
        "stage": tuned.name,
        "preset": settings.preset,
        "precision": tuned.model.config.precision,
        "base_loss": base_loss,
        **figures,
        "forgetting": rise(figures["tuned_base_loss"], base_loss),
        **own,
        "sft_loss_start": run["loss_start"],
        "sft_loss": run["loss"],
        "tokens_per_s": ratio(run["tokens"], run["seconds"]),
        "training_seconds": run["seconds"],
        "weights_sha256": weights_sha256(tuned.model),
    }
    report = finite(report)
    sides = compared(parent, tuned, replies)
    report["parent"] = parent_figures(parent, probe, settings.data.grade)
    report |= {"params": params, "seconds": time.monotonic() - place.began}
    write_json(folder / "samples.json", replies)
    write_json(folder / "before.json", sides.to_json())
    write_json(folder / "report.json", report)
    save_stage(tuned)
    drop_checkpoints(folder)  # not before: a stop while it is measured must not undo the training
    return tuned, report, sides
