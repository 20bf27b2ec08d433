"""Measure a run again, from what its folder holds."""

import time
from pathlib import Path

from pysft.errors import DataError, MissingInput, PysftError, UsageError
from pysft.jobs.bestof import best_of_world
from pysft.jobs.compare import compared, parent_figures
from pysft.jobs.measured import measured
from pysft.jobs.policy import iterations_of, ppo_again
from pysft.jobs.scored import dpo_again, reward_again, scored
from pysft.jobs.town import town_chat
from pysft.measure.evaluate import (
    corpus_loss,
    finite,
    loss_after_replay,
    unit_entry,
)
from pysft.measure.judges import compared as judged
from pysft.measure.probe import Probe, stored_probe
from pysft.measure.ratio import rise
from pysft.nn.computing import precision_of
from pysft.run.log import read_measurements
from pysft.run.stage import (
    Stage,
    checkpoint_step,
    load_stage,
    measured_stage,
    read_json,
    weights_sha256,
)
from pysft.run.tree import base_of, lineage
from pysft.training.flat import stored_settings
from pysft.training.settings import Settings

# The figures of report.json that measuring again does not change.
KEPT = (
    "preset",
    "base_loss",
    "grown_base_loss",
    "sft_loss_start",
    "sft_loss",
    "graded_targets",
    "targets",
    "end_tokens_graded",
    "turns",
    "tokens_per_s",
)


def evaluate(
    run: str,
    ops,
    matched: bool = False,
    progress=lambda text, last: None,
    judge=None,
    data: list[str] | None = None,
    best: tuple[int, str | None] | None = None,
) -> dict:
    """Measure a run, or one of its checkpoints, again from its folder. Return the --json document.

    ops: the functions to compute with (computing.py).
    matched: also measure matched forgetting. For that the base is trained now on the replay alone
    (all its weights, even if the fine-tuning trained adapters). progress(text, last) is called with
    each line about it. judge: one of judges.py, which is compared with the exact judge on a run
    that learned an invented world. data: files of comparisons, which are scored instead of all
    else. best: (n, the run of a reward model or None for this one): also measure best of n, on such
    a run. MissingInput or a DataError if the folder lacks something or is damaged, a UsageError if
    there is nothing to judge."""
    began = time.monotonic()
    stage = load_stage(run, ops)
    report = {
        "run": str(run),
        "params": stage.model.params.size,
        "precision": precision_of(stage.model.ops),
        "weights_sha256": weights_sha256(stage.model),
    }
    if data:
        report["comparisons_scored"] = finite(scored(stage, data))
        return report | {"seconds": time.monotonic() - began}
    if judge is not None and not (stage.can_talk and stage.world):
        raise UsageError(
            f"{run}: it is not a tuned model that learned an invented world (train --data world),"
            " so there is no truth to measure a judge by; leave --judge out"
        )
    best = best and best_of_world(stage, *best, progress)
    home = measured_stage(stage.folder)
    if stage.model.config.outputs == "value":
        report |= {"stage": stage.name, **reward_again(stage)}
        return report | {"seconds": time.monotonic() - began}
    probe = stored_probe(home, stage.template)
    if not stage.can_talk:
        loss = corpus_loss(stage.model, stage.tokenizer, probe.heldout_text)
        report |= {"base_loss": loss, **unit_entry(stage.tokenizer)}
        return report | {"seconds": time.monotonic() - began}
    figures, rows, replies = _of_a_talker(stage, probe, matched, progress, judge)
    if best is not None:
        figures["best_of"] = best
    report = finite(report | figures | {"seconds": time.monotonic() - began})
    chat = town_chat(stage)
    return report | {"before_after": rows, "chat": chat, "samples": replies["prompts"]}


def _of_a_talker(stage: Stage, probe: Probe, matched, progress, judge) -> tuple[dict, list, dict]:
    """Measure a model that talks. Return (its figures, its replies beside its parent's, its replies
    by group). matched, progress, judge: as evaluate() takes them."""
    home = measured_stage(stage.folder)
    stored = _stored_figures(home, stage)
    figures, replies, asked = measured(stage, probe, is_last=home == stage.folder)
    if judge is not None:
        figures["judge"] = judged(judge, asked)
    report = {name: stored.get(name) for name in KEPT} | figures
    try:
        line = lineage(stage)
    except PysftError:  # a damaged parent is an error only with --matched
        if matched:
            raise
        line = [stage]
    base = base_of(line)
    if report["base_loss"] is None and base and base.tokenizer.can_write(probe.heldout_text):
        report["base_loss"] = corpus_loss(base.model, base.tokenizer, probe.heldout_text)
    if report["base_loss"] is not None:
        report["forgetting"] = rise(figures["tuned_base_loss"], report["base_loss"])
    rows = []
    if len(line) > 1:
        rows = compared(line[1], stage, replies).rows
        report["parent"] = parent_figures(line[1], probe, stage.setting("grade", "all"))
    if dpo := dpo_again(stage, line, stored.get("dpo")):
        report["dpo"] = dpo
    if ppo := ppo_again(stage, line, probe, stored.get("ppo")):
        report["ppo"] = ppo
    if matched:
        loss = matched_loss(line, probe, progress)
        matched_rise = rise(figures["tuned_base_loss"], loss)
        report |= {"matched_base_loss": loss, "forgetting_matched": matched_rise}
    return report, rows, replies


def _stored_figures(home: Path, stage: Stage) -> dict:
    """Return the figures in report.json, an empty dict while the training is not finished. For a
    checkpoint, "sft_loss" is replaced by the loss measured there, and "tokens_per_s" by None."""
    path = home / "report.json"
    stored = read_json(path) if path.is_file() else {}
    if home != stage.folder:
        step = stage.folder.resolve().name
        rows = [row for row in _measurements(home) if str(row["step"]) == step]
        loss = rows[0].get("sft_loss") if rows else None
        stored |= {"sft_loss": loss, "tokens_per_s": None, "dpo": None, "ppo": None}
    if not isinstance(stored.get("base_loss"), (int, float, type(None))):
        raise DataError(
            f"{path}: not as this program writes it (base_loss is {stored['base_loss']!r})"
        )
    return stored


def _measurements(home: Path) -> list[dict]:
    """Return the measurements in `home`, an empty list if there are none or they are damaged."""
    try:
        return read_measurements(home)
    except PysftError:
        return []


def matched_loss(line: list[Stage], probe: Probe, progress=lambda text, last: None) -> float:
    """Return the base-text loss of the base after further training on base text alone: on the
    windows and at the rates of the replay of each stage since then.

    line: the lineage() of the stage that is measured. The weights of its base are changed.
    MissingInput if the base is not in it, a DataError if the stage's corpus or settings are not in
    its folder, or if the base lacks characters of the corpus."""
    stage, base = line[0], base_of(line)
    if base is None:
        raise MissingInput(
            f"{stage.folder}: the base it was tuned from is neither beside it nor at its old path,"
            " and --matched trains it further. Put it back"
        )
    if not probe.corpus_text:
        raise DataError(
            f"{stage.folder}: the corpus is not in it, because an older version did not keep it."
            " --matched needs a run that is trained again"
        )
    if not base.tokenizer.can_write(probe.corpus_text + probe.heldout_text):
        raise DataError(
            f"{base.folder}: lacks characters of the corpus of {stage.folder}, so --matched cannot"
            " train it on that"
        )
    texts = base.tokenizer, probe.corpus_text, probe.heldout_text
    for one in reversed(line[:-1]):
        settings = _settings(one)
        [name] = settings.stages
        # None: all. A PPO that an alarm stopped has had fewer.
        steps = checkpoint_step(one.folder) or iterations_of(one)
        loss = loss_after_replay(base.model, settings, name, *texts, progress, steps)
    return loss


def _settings(stage: Stage) -> Settings:
    """Return the settings that a stage was trained with."""
    try:
        return stored_settings(stage.settings, ["sft"])
    except (KeyError, TypeError, UsageError) as error:
        raise DataError(
            f"{stage.folder / 'settings.json'}: not settings of this version ({error})"
        ) from None
