"""The whole job: a base model, a grown vocabulary, fine-tuning, measurements, a report."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pysft.console import Screen
from pysft.disk import make_folder
from pysft.jobs.begin import (
    Begun,
    Order,
    base_stage,
    corpus_of,
    current_isa,
    describe,
    input_digests,
    open_run,
    require,
    resumed,
)
from pysft.jobs.evaluate import before_and_after
from pysft.jobs.material import Material, gather
from pysft.jobs.pretrain import announce, base_plan, finished_stage, pretrain_base
from pysft.jobs.summary import data_figures, describe_data
from pysft.measure.evaluate import corpus_loss, finite, measure, origins
from pysft.measure.memory import peak_memory, refuse_too_large, say_memory
from pysft.measure.probe import Probe
from pysft.measure.report import write_report
from pysft.measure.tooltest import tool_test
from pysft.nn.computing import computing_ops
from pysft.nn.grow import expand_vocab
from pysft.nn.lora import LoRA, save_adapter
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig, sizes
from pysft.rng import rng
from pysft.run.checkpoints import drop_checkpoints
from pysft.run.log import add_measurement, whole_log
from pysft.run.stage import Stage, load_stage, save_stage, weights_sha256, write_json
from pysft.training.runner import stage_figures, train_stage
from pysft.training.settings import Settings
from pysft.training.stages import Plan, checkpoint_steps, finetune


@dataclass(frozen=True)
class Trained:
    """The results of train(). report: the --json document. before_after: the rows that
    before_and_after() returns. page: the path of report.html."""

    report: dict
    before_after: list
    page: Path


def train(order: Order, screen: Screen) -> Trained:
    """Do the whole job, from the corpus to the report."""
    began = time.monotonic()
    begun = given = None
    if order.resume:
        order, begun = resumed(order, "train", screen)
    ops, template = computing_ops(order.ops, order.threads), order.chosen_template()
    if order.base:
        order, given = _given_base(order, ops)
    order = replace(order, corpus=order.corpus or "plays")
    settings = order.settings
    inputs = input_digests(order, given)
    if begun is not None:
        begun.refuse_changes(inputs)

    # Find all errors in data and settings now, before a folder is made.
    material = gather(
        settings, order.corpus, order.data, given.tokenizer if given else None, template
    )
    plan = _tuning_plan(settings, material)
    config = settings.shape(len(material.grown))
    refuse_too_large(config, plan.rows)
    # The weights of the base stay in memory beside the tuned model; both are about as large.
    stages = [(config, plan.rows, sizes(config, 1)["weights"])]
    if given is None:
        base_config, base = base_plan(settings, material)
        stages.append((base_config, base.rows, 0))
    begun = begun or Begun(
        "train", asdict(settings), order.corpus, order.data, order.base, template, order.ops,
        current_isa(order.ops), inputs,
    )  # fmt: skip

    with open_run(begun, order.out, order.resume, screen) as folder:
        describe(screen, settings, folder, order.corpus, material)
        say_memory(screen, *stages)
        counts = describe_data(screen, settings, material, plan)
        where = folder, screen, order.resume
        if given is None:
            stage, base_report = pretrain_base(settings, base_config, base, material, ops, *where)
        else:
            stage, base_report = given, _given_report(given, material, screen)
        loss = base_report["base_loss"]
        tuned, made = _tune(settings, material, plan, counts, stage, loss, *where)
        screen.say("measuring ...")
        report, replies = _measured(settings, material, tuned, base_report, made | counts)
        report = {"run": str(folder)} | report | {"seconds": time.monotonic() - began}
        sides = before_and_after(stage, replies)
        write_json(tuned.folder / "report.json", report)
        write_json(tuned.folder / "samples.json", replies)
        write_json(tuned.folder / "before.json", {"rows": sides})
        return Trained(report, sides, write_report(folder))


def _given_base(order: Order, ops) -> tuple[Order, Stage]:
    """Return (the order with the shape and corpus of the base that --base names, that base)."""
    if order.resume:
        require(order.base)
    base = base_stage(load_stage(order.base, ops), order.base)
    settings = with_shape_of(order.settings, base.model.config)
    settings = replace(settings, tokenizer=base.tokenizer.kind)
    return replace(order, settings=settings, corpus=order.corpus or corpus_of(base)), base


def with_shape_of(settings: Settings, config: GPTConfig) -> Settings:
    """Return the settings with the shape of a given model, and with windows that are no longer than
    its context."""
    return replace(
        settings,
        context=config.context,
        layers=config.layers,
        heads=config.heads,
        channels=config.channels,
        base_windows=((config.context, 1),),  # no base will be trained
        sft_windows=tuple((min(n, config.context), count) for n, count in settings.sft_windows),
    )


def _given_report(base: Stage, material: Material, screen: Screen) -> dict:
    """Measure and print the loss of a base that was trained before. Return its figures, as
    pretrain_base() does; time and tokens count as 0."""
    loss = corpus_loss(base.model, material.grown, material.heldout_text)
    screen.say(f"base: {base.folder}, {loss:.3f} nats/{base.tokenizer.unit} on the held-out tail")
    return {"base_loss": loss, "seconds": 0.0, "tokens": 0}


def _tuning_plan(settings: Settings, material: Material) -> Plan:
    corpus = material.grown.encode(material.train_text)
    return finetune(settings, *material.examples, corpus, len(material.grown), material.files)


def _tune(
    settings: Settings,
    material: Material,
    plan: Plan,
    counts: dict,
    base: Stage,
    base_loss: float,
    folder: Path,
    screen: Screen,
    resume: bool,
) -> tuple[Stage, dict]:
    """Grow the base's vocabulary and fine-tune it, or load the stage if `resume` finds it finished.
    Return (the stage RUN/sft, {params, trained_params, grown_base_loss})."""
    tokenizer = material.grown
    base.model.release()
    g = rng(settings.seed, "sft", "rows")
    model = expand_vocab(base.model, len(tokenizer), settings.new_rows, g)
    grown_loss = corpus_loss(model, tokenizer, material.heldout_text)
    parent = {"path": str(base.folder), "weights_sha256": weights_sha256(base.model)}
    tuned = Stage(folder / "sft", model, tokenizer, material.template, asdict(settings), parent)
    params = announce(
        screen,
        f"sft: vocabulary {base.model.config.vocab} -> {len(tokenizer)} "
        f"({settings.new_rows} rows; base text now {grown_loss:.3f})",
        model.config,
    )
    trained = _adapted(settings, model, len(material.tokenizer), screen)
    if resume and (tuned.folder / "model.safetensors").is_file():
        tuned = finished_stage(tuned.folder, model.ops)
        if not whole_log(tuned.folder, plan.steps):
            screen.say(
                f"{tuned.folder / 'log.jsonl'}: lines are damaged or missing. The figures of the"
                " training itself (losses, tokens per second) are computed from the other lines"
            )
    else:
        make_folder(tuned.folder)
        write_json(tuned.folder / "data.json", data_figures(material, plan, counts))
        write_json(tuned.folder / "evaluation.json", material.probe.to_json())
        watch = _watcher(tuned, trained, material.probe, settings, base_loss)
        at = checkpoint_steps(settings, plan)
        train_stage(tuned, plan, settings, screen, resume, trained, at, watch)
        if trained is not model:
            trained.merge()
            save_adapter(tuned.folder / "adapter.safetensors", trained)
        save_stage(tuned)
    drop_checkpoints(tuned.folder)
    made = {"params": params, "trained_params": trained.params.size, "grown_base_loss": grown_loss}
    return tuned, made


def _adapted(settings: Settings, model: GPT, old_vocab: int, screen: Screen):
    """Return what is trained: the model, or a LoRA around it."""
    if not settings.lora_rank:
        return model
    lora = LoRA(
        model,
        settings.lora_rank,
        settings.lora_matrices,
        settings.lora_alpha or None,
        old_vocab=old_vocab,
        rng=rng(settings.seed, "sft", "lora"),
    )
    screen.say(
        f"sft: LoRA of rank {settings.lora_rank} on {', '.join(settings.lora_matrices)}:"
        f" {lora.trained:,} weights are trained ({lora.share:.2%}), new rows included. The others"
        " stay frozen"
    )
    return lora


def _watcher(tuned: Stage, trained, probe: Probe, settings: Settings, base_loss: float):
    """Return watch(step, loss) for train_stage. It measures the model and keeps the figures, some
    replies and, after step 0, the weights."""

    def watch(step, loss):
        if trained is not tuned.model:
            trained.merge()
        figures, replies = measure(
            tuned.model, tuned.tokenizer, tuned.template, probe, settings.grade
        )
        some = (("pairs", 4), ("prompts", 8), ("heldout", 4))
        samples = [row for group, count in some for row in replies[group][:count]]
        forgetting = figures["tuned_base_loss"] / base_loss - 1
        row = {"step": step, "sft_loss": loss, **figures, "forgetting": forgetting}
        add_measurement(tuned.folder, finite(row) | {"samples": samples})
        if step:
            save_stage(replace(tuned, folder=tuned.folder / "steps" / str(step)))

    return watch


def _measured(
    settings: Settings, material: Material, tuned: Stage, base_report: dict, known: dict
) -> tuple[dict, dict]:
    """Measure the tuned model. Return (the report without "run" and "seconds", the replies that it
    was taken from). known: figures of the report that are known already."""
    model, tokenizer, template = tuned.model, tuned.tokenizer, tuned.template
    model.release()
    figures, replies = measure(model, tokenizer, template, material.probe, settings.grade)
    model.release()
    verdicts, replies = origins(replies, material.probe)
    if settings.transcripts:
        figures |= {"tools": tool_test(model, tokenizer, template, material.probe)}
        model.release()
    run, base_loss = stage_figures(tuned.folder), base_report["base_loss"]
    seconds = run["seconds"] + base_report["seconds"]
    report = {
        "preset": settings.preset,
        "base_loss": base_loss,
        **known,
        **figures,
        "origins": verdicts,
        "forgetting": figures["tuned_base_loss"] / base_loss - 1,
        "sft_loss_start": run["loss_start"],
        "sft_loss": run["loss"],
        "tokens_per_s": (run["tokens"] + base_report["tokens"]) / max(seconds, 1e-9),
        "peak_memory": peak_memory(),
        "training_seconds": seconds,
        "weights_sha256": weights_sha256(model),
    }
    return finite(report), replies
