"""Pre-training as a stage of a run: a base model."""

from dataclasses import asdict
from pathlib import Path

from pysft.console import Screen
from pysft.errors import DataError, MissingInput
from pysft.jobs.begin import Place
from pysft.jobs.material import Material
from pysft.jobs.work import Work
from pysft.measure.evaluate import corpus_loss, finite, unit_entry
from pysft.measure.probe import Probe
from pysft.measure.ratio import ratio
from pysft.measure.wording import written
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig, sizes
from pysft.rng import rng
from pysft.run.checkpoints import drop_checkpoints
from pysft.run.stage import (
    Stage,
    is_finished,
    load_stage,
    save_stage,
    understood,
    weights_sha256,
    write_json,
)
from pysft.text.tokenizer import Tokenizer
from pysft.training.runner import stage_figures, train_stage


def pretrain_base(work: Work, material: Material, place: Place) -> tuple[Stage, dict]:
    """Train the stage RUN/base, or load it if a resumed run has finished it. Return (the stage, its
    report)."""
    tokenizer, heldout_text = material.tokenizer, material.heldout_text
    target, screen = place.folder / work.name, place.screen
    if place.resume and is_finished(target):
        stage = finished_stage(target, work, tokenizer, place.ops)
        report = _finished_report(target)
        drop_checkpoints(target)
        return stage, report
    params = announce(screen, work.name, work.config)
    model = GPT(work.config, place.ops, rng(work.settings.seed, work.name, "init"))
    settings = work.settings.to_json()
    stage = Stage(target, model, tokenizer, material.template, settings, None, place.inputs)
    for _ in train_stage(stage, work.plan, work.stage, screen, place.resume):
        pass  # a base is measured at its end alone
    run = stage_figures(target)
    figures = {
        "run": str(place.folder),
        "stage": work.name,
        "params": params,
        "precision": work.config.precision,
        "base_loss": corpus_loss(model, tokenizer, heldout_text),
        **unit_entry(tokenizer),
        "tokens_per_s": ratio(run["tokens"], run["seconds"]),
        "tokens": run["tokens"],
        "text_characters": len(material.train_text),
        "world_characters": len(material.world_text),
        "seconds": run["seconds"],
        "weights_sha256": weights_sha256(model),
    }
    report = finite(figures)
    write_json(target / "evaluation.json", Probe(heldout_text, [], [], [], [], []).to_json())
    write_json(target / "report.json", report)
    save_stage(stage)
    drop_checkpoints(target)
    screen.say(
        f"base: {written(report['base_loss'], 'loss')} nats/{tokenizer.unit} on the held-out tail,"
        f" {run['seconds']:.0f} s"
    )
    return stage, report


def finished_stage(folder: Path, work: Work, tokenizer: Tokenizer, ops) -> Stage:
    """Load a stage that was finished before the run was interrupted. A DataError if it is damaged,
    or if another stage stands in its place: one of another shape or vocabulary."""
    try:
        stage = load_stage(folder, ops)
    except (DataError, MissingInput) as error:
        raise DataError(
            f"{error}. Without {folder / 'model.safetensors'}, --resume trains the stage again"
        ) from None
    if stage.tokenizer != tokenizer:
        raise DataError(
            f"{folder}: its vocabulary is not that of this run. Put the right stage back"
        )
    for name, value in asdict(work.config).items():
        found = getattr(stage.model.config, name)
        if found != value:
            raise DataError(
                f"{folder}: {name} is {found}, but this run has {value}. Put the right stage back"
            )
    return stage


def _finished_report(folder: Path) -> dict:
    """Return report.json of a finished base, after checking the figures that train() needs."""

    def numbers(report):
        kinds = {"seconds": float, "tokens": int}
        if report["base_loss"] is not None:  # None: the held-out tail has nothing to measure
            kinds["base_loss"] = float
        return report | {name: kind(report[name]) for name, kind in kinds.items()}

    return understood(folder / "report.json", numbers)


def announce(screen: Screen, what: str, config: GPTConfig) -> int:
    """Print a model's shape, and return its number of parameters."""
    params = sizes(config, 1)["params"]
    screen.say(
        f"{what}: {params:,} weights ({config.layers} blocks, {config.channels} channels,"
        f" {config.heads} heads, context {config.context}"
        + (", products in bf16)" if config.precision == "bf16" else ")")
    )
    return params
