"""Fine-tuning as a stage of a run: a model that answers, begun from a base or from a model that was
tuned before."""

import time
from contextlib import closing
from dataclasses import replace

from pysft.console import Screen
from pysft.jobs.begin import Place
from pysft.jobs.compare import Sides, compared, parent_figures
from pysft.jobs.material import Material
from pysft.jobs.measured import measured, measured_on_the_way
from pysft.jobs.pretrain import announce, finished_stage
from pysft.jobs.summary import data_figures
from pysft.jobs.town import town_chat
from pysft.jobs.work import Work
from pysft.measure.evaluate import corpus_loss, finite
from pysft.measure.memory import peak_memory
from pysft.measure.ratio import ratio, rise
from pysft.nn.grow import copied, expand_vocab
from pysft.nn.lora import LoRA, save_adapter
from pysft.nn.model import GPT
from pysft.rng import rng
from pysft.run.checkpoints import drop_checkpoints
from pysft.run.log import whole_log
from pysft.run.stage import (
    Stage,
    is_finished,
    read_json,
    save_origin,
    save_stage,
    weights_sha256,
    write_json,
)
from pysft.run.tree import base_of, lineage, refuse_other_parent
from pysft.training.runner import stage_figures, train_stage
from pysft.training.stages import checkpoint_steps


def tune(
    work: Work,
    material: Material,
    counts: dict,
    parent: Stage,
    base_loss: float | None,
    place: Place,
) -> tuple[Stage, dict, Sides | None]:
    """Grow the parent's vocabulary, fine-tune it and measure the result, as far as a resumed run
    has not done so. Return (the stage, its report, its replies beside the parent's). The replies
    are None if the stage was finished before a resume and is not the last one.

    counts: those of describe_data(). base_loss: of the base under the parent; None if it is not
    known, and then forgetting is not either."""
    folder, done = place.folder / work.name, None
    if place.resume:
        refuse_other_parent(folder, parent)
    if place.resume and is_finished(folder):
        done = finished_stage(folder, work, material.grown, parent.model.ops)
        if (folder / "report.json").is_file() and work.name != place.names[-1]:
            return done, read_json(folder / "report.json"), None
    tuned, known = _trained(work, material, counts, parent, base_loss, place, done)
    place.screen.say(f"measuring {work.name} ...")
    report, replies = _measured(work, material, tuned, base_loss, known, place)
    sides = replace(compared(parent, tuned, replies), chat=town_chat(tuned))
    tuned.model.release()
    report["parent"] = parent_figures(parent, material.probe, work.settings.data.grade)
    report |= {"seconds": time.monotonic() - place.began}
    write_json(tuned.folder / "samples.json", replies)
    write_json(tuned.folder / "before.json", sides.to_json())
    write_json(tuned.folder / "report.json", report)
    return tuned, report, sides


def loss_under(given: Stage, material: Material, screen: Screen) -> float | None:
    """Return the loss on base text of the base under a stage that was trained before, and print it.
    None if the base is not found."""
    base = base_of(lineage(given))
    if base is None:
        screen.say(
            f"{given.folder}: the base under it is neither beside it nor at its old path, so"
            " forgetting cannot be measured"
        )
        return None
    if not base.tokenizer.can_write(material.heldout_text):
        screen.say(
            f"{base.folder}: the base under {given.folder} lacks characters of this corpus, so"
            " forgetting cannot be measured"
        )
        return None
    loss = corpus_loss(base.model, base.tokenizer, material.heldout_text)
    base.model.release()
    under = "" if base.folder == given.folder else f", under {given.folder}"
    screen.say(
        f"base: {base.folder}{under}, {loss:.3f} nats/{base.tokenizer.unit} on the held-out tail"
    )
    return loss


def _trained(
    work: Work,
    material: Material,
    counts: dict,
    parent: Stage,
    base_loss: float | None,
    place: Place,
    done: Stage | None,
) -> tuple[Stage, dict]:
    """Fine-tune the parent. Return (the stage, its figures that are known before it is measured).

    done: the stage, if a resumed run has finished it; it is not trained again."""
    parent.model.release()
    tuned = _begun(work, material, parent, place)
    grown_loss = corpus_loss(tuned.model, tuned.tokenizer, material.heldout_text)
    old, new = parent.model.config.vocab, work.config.vocab
    growth = f"{old} -> {new} ({work.stage.new_rows} rows; base text now {grown_loss:.3f})"
    if old == new:
        growth = f"of {old}, as in {parent.name} (base text {grown_loss:.3f})"
    params = announce(place.screen, f"{work.name}: vocabulary {growth}", work.config)
    trained = _adapted(work, tuned.model, old, place.screen)
    if done is None:
        save_origin(tuned)
        write_json(tuned.folder / "data.json", data_figures(material, work.plan, counts))
        write_json(tuned.folder / "evaluation.json", material.probe.to_json())
        _train(tuned, trained, work, material, base_loss, place)
    elif not whole_log(done.folder, work.plan.steps):
        place.screen.say(
            f"{done.folder / 'log.jsonl'}: lines are damaged or missing. The figures of the"
            " training itself (losses, tokens per second) are computed from the other lines"
        )
    drop_checkpoints(tuned.folder)
    known = {"params": params, "precision": work.config.precision}
    known |= {"trained_params": trained.params.size, "grown_base_loss": grown_loss}
    return tuned if done is None else done, known | counts


def _begun(work: Work, material: Material, parent: Stage, place: Place) -> Stage:
    """Return the stage as it begins: the parent's weights with the vocabulary of the stage."""
    origin = {"path": str(parent.folder.resolve()), "weights_sha256": weights_sha256(parent.model)}
    return Stage(
        place.folder / work.name,
        _grown(work, parent),
        material.grown,
        material.template,
        work.settings.to_json(),
        origin,
        place.inputs,
    )


def _train(
    tuned: Stage,
    trained,
    work: Work,
    material: Material,
    base_loss: float | None,
    place: Place,
) -> None:
    """Train a stage, measure it on the way, and write it. trained: its model, or a LoRA around
    it."""
    at = checkpoint_steps(work.stage, work.plan)
    moments = train_stage(tuned, work.plan, work.stage, place.screen, place.resume, trained, at)
    with closing(moments):  # an error while measuring must also end the training cleanly
        for moment in moments:
            if trained is not tuned.model:
                trained.merge()
            measured_on_the_way(moment, tuned, material.probe, work.settings.data.grade, base_loss)
    if trained is not tuned.model:
        trained.merge()
        save_adapter(tuned.folder / "adapter.safetensors", trained)
    save_stage(tuned)


def _grown(work: Work, parent: Stage) -> GPT:
    """Return a copy of the parent's model with the vocabulary of the stage."""
    model = parent.model
    if work.config.vocab != model.config.vocab:
        g = rng(work.settings.seed, work.name, "rows")
        model = expand_vocab(model, work.config.vocab, work.stage.new_rows, g)
    return copied(model, work.config.precision)


def _adapted(work: Work, model: GPT, old_vocab: int, screen: Screen):
    """Return what is trained: the model, or a LoRA around it."""
    settings = work.stage
    if not settings.lora_rank:
        return model
    lora = LoRA(
        model,
        settings.lora_rank,
        settings.lora_matrices,
        settings.lora_alpha or None,
        old_vocab=old_vocab,
        rng=rng(work.settings.seed, work.name, "lora"),
    )
    screen.say(
        f"{work.name}: LoRA of rank {settings.lora_rank} on {', '.join(settings.lora_matrices)}:"
        f" {lora.trained:,} weights are trained ({lora.share:.2%}), new rows included. The others"
        " stay frozen"
    )
    return lora


def _measured(
    work: Work,
    material: Material,
    tuned: Stage,
    base_loss: float | None,
    known: dict,
    place: Place,
) -> tuple[dict, dict]:
    """Measure the tuned model. Return (the report without "parent" and "seconds", the replies that
    it was taken from). known: figures of the report that are known already."""
    figures, replies, asked = measured(tuned, material.probe)
    if asked:
        write_json(tuned.folder / "world.json", asked)
    own = stage_figures(tuned.folder)
    runs = [stage_figures(folder) for folder in place.trained(work.name)]
    seconds, tokens = (sum(run[name] for run in runs) for name in ("seconds", "tokens"))
    report = {
        "run": str(place.folder),
        "stage": work.name,
        "preset": work.settings.preset,
        "base_loss": base_loss,
        **known,
        **figures,
        "forgetting": rise(figures["tuned_base_loss"], base_loss),
        "sft_loss_start": own["loss_start"],
        "sft_loss": own["loss"],
        "tokens_per_s": ratio(tokens, seconds),
        "peak_memory": peak_memory(),
        "training_seconds": seconds,
        "weights_sha256": weights_sha256(tuned.model),
    }
    return finite(report), replies
