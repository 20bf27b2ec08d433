"""Pre-training: the base model, alone (`pysft pretrain`) or as the first stage of `pysft train`."""

from dataclasses import asdict, replace
from pathlib import Path

from pysft.console import Screen
from pysft.errors import DataError, MissingInput
from pysft.jobs.begin import Begun, Order, current_isa, describe, input_digests, open_run, resumed
from pysft.jobs.material import Material
from pysft.measure.evaluate import corpus_loss, finite, unit_entry
from pysft.measure.memory import refuse_too_large, say_memory
from pysft.measure.probe import Probe
from pysft.nn.computing import computing_ops
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig, sizes
from pysft.rng import rng
from pysft.run.checkpoints import drop_checkpoints
from pysft.run.stage import Stage, load_stage, save_stage, understood, weights_sha256, write_json
from pysft.text.corpora import read_corpus, split_corpus
from pysft.text.tokenizers import vocabulary_of
from pysft.training.runner import stage_figures, train_stage
from pysft.training.settings import Settings
from pysft.training.stages import Plan, pretrain


def pretrain_only(order: Order, screen: Screen) -> dict:
    """Train a base model and nothing else. Return the --json document."""
    begun = None
    if order.resume:
        order, begun = resumed(order, "pretrain", screen)
    order = replace(order, corpus=order.corpus or "plays")
    template, settings = order.chosen_template(), order.settings
    ops = computing_ops(order.ops, order.threads)
    inputs = input_digests(order, None, tunes=False)
    if begun is not None:
        begun.refuse_changes(inputs)
    text = read_corpus(order.corpus)
    tokenizer = vocabulary_of(settings.tokenizer, text)
    material = Material(*split_corpus(text), tokenizer, template)
    config, plan = base_plan(settings, material)  # before a folder is made, because it may raise
    begun = begun or Begun(
        "pretrain", asdict(settings), order.corpus, None, None, template, order.ops,
        current_isa(order.ops), inputs,
    )  # fmt: skip
    with open_run(begun, order.out, order.resume, screen) as folder:
        describe(screen, settings, folder, order.corpus, material)
        say_memory(screen, (config, plan.rows, 0))
        _, report = pretrain_base(
            settings, config, plan, material, ops, folder, screen, order.resume
        )
        return report


def base_plan(settings: Settings, material: Material) -> tuple[GPTConfig, Plan]:
    """Return the base model's shape and the plan of its training. A UsageError if this machine's
    memory cannot hold it."""
    config = settings.shape(len(material.tokenizer))
    plan = pretrain(settings, material.tokenizer.encode(material.train_text), config.vocab)
    refuse_too_large(config, plan.rows)
    return config, plan


def pretrain_base(
    settings: Settings,
    config: GPTConfig,
    plan: Plan,
    material: Material,
    ops,
    folder: Path,
    screen: Screen,
    resume: bool,
) -> tuple[Stage, dict]:
    """Train the stage RUN/base, or load it if `resume` finds it finished. Return (the stage, its
    report)."""
    tokenizer, heldout_text = material.tokenizer, material.heldout_text
    target = folder / "base"
    if resume and (target / "model.safetensors").is_file():
        stage, report = finished_stage(target, ops), _finished_report(target)
        drop_checkpoints(target)
        return stage, report
    params = announce(screen, "base", config)
    model = GPT(config, ops, rng(settings.seed, "base", "init"))
    stage = Stage(target, model, tokenizer, material.template, asdict(settings))
    train_stage(stage, plan, settings, screen, resume)
    run = stage_figures(target)
    report = {
        "run": str(folder),
        "params": params,
        "base_loss": corpus_loss(model, tokenizer, heldout_text),
        **unit_entry(tokenizer),
        "tokens_per_s": run["tokens"] / max(run["seconds"], 1e-9),
        "tokens": run["tokens"],
        "seconds": run["seconds"],
        "weights_sha256": weights_sha256(model),
    }
    write_json(target / "evaluation.json", Probe(heldout_text, [], [], [], [], []).to_json())
    write_json(target / "report.json", finite(report))
    save_stage(stage)
    drop_checkpoints(target)
    screen.say(
        f"base: {report['base_loss']:.3f} nats/{tokenizer.unit} on the held-out tail,"
        f" {run['seconds']:.0f} s"
    )
    return stage, report


def finished_stage(folder: Path, ops) -> Stage:
    """Load a stage that was finished before the run was interrupted. A DataError if it is
    damaged."""
    try:
        return load_stage(folder, ops)
    except (DataError, MissingInput) as error:
        raise DataError(
            f"{error}. Without {folder / 'model.safetensors'}, --resume trains the stage again"
        ) from None


def _finished_report(folder: Path) -> dict:
    """Return report.json of a finished base, after checking the figures that train() needs."""

    def numbers(report):
        kinds = {"base_loss": float, "seconds": float, "tokens": int}
        return report | {name: kind(report[name]) for name, kind in kinds.items()}

    return understood(folder / "report.json", numbers)


def announce(screen: Screen, what: str, config: GPTConfig) -> int:
    """Print a model's shape, and return its number of parameters."""
    params = sizes(config, 1)["params"]
    screen.say(
        f"{what}: {params:,} weights ({config.layers} blocks, {config.channels} channels,"
        f" {config.heads} heads, context {config.context})"
    )
    return params
