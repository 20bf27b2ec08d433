"""Measure by comparisons: a reward model again, a stage of DPO again, or what any model makes of a
user's rankings and pairs."""

import numpy as np

from pysft.errors import DataError, MissingInput, RowError, UsageError
from pysft.inference.score import log_probabilities, values
from pysft.jobs.comparisons import Comparisons, stored_comparisons
from pysft.jobs.judged import judged
from pysft.measure.alignment import order_figures, split_scores
from pysft.run.stage import Stage, measured_stage, read_json
from pysft.text.characters import write_with
from pysft.text.compared import graded_examples, ranked_examples
from pysft.text.conversation import refuse_faults
from pysft.text.preferences import read_many
from pysft.text.ranking import Ranking
from pysft.training.flat import nested
from pysft.training.settings import stages_of

# What a model orders replies by.
VALUE, LOG_PROBABILITY = "value", "log-probability"
# The entries of a reward model's report that measuring again does not change.
KEPT = ("loss_start", "loss", "tokens_per_s", "training_seconds")
FITTED = ("length_accuracy", "labeler_agreement")  # figures of all rankings, not of held-out ones


# ------------------------------------------------------------------------------ what a stage keeps


def reward_again(stage: Stage) -> dict:
    """Measure a reward model on the held-out rankings that its folder keeps. Return the entries of
    its report: "reward", and what does not change.

    Figures that need the rankings which were trained on are the stored ones, unless the folder
    keeps those rankings too. MissingInput if it keeps none that were held out."""
    kept = stored_comparisons(stage)
    stored = _stored(stage)
    before = stored.get("reward") or {}
    figures = order_figures(
        kept.trained,
        kept.heldout,
        split_scores(kept.heldout, _scores(stage, kept.heldout)),
        kept.points(kept.heldout),
        _scale(stage),
        kept.subjects([r.prompt for r in kept.heldout]),
    )
    if not kept.trained:
        figures |= {name: before[name] for name in FITTED if name in before}
    return {"reward": before | figures, **{name: stored.get(name) for name in KEPT}}


def _stored(stage: Stage) -> dict:
    """The report of a stage's training; an empty dict if its folder has none."""
    path = measured_stage(stage.folder) / "report.json"
    return read_json(path) if path.is_file() else {}


def dpo_again(stage: Stage, line: list[Stage], before: dict | None) -> dict | None:
    """Compare a stage of DPO, or a checkpoint of it, with its parent again. Return the figures.

    line: its lineage(). before: the stored figures, which stay if the parent or the held-out
    rankings are not found. None if the stage was not tuned on pairs, or nothing is known."""
    names = stages_of(nested(stage.settings)) if isinstance(stage.settings, dict) else []
    if [name.partition("-")[0] for name in names] != ["dpo"]:
        return None
    try:
        kept = stored_comparisons(stage)
    except MissingInput:  # of a version that did not keep them
        return before
    if len(line) < 2:
        return before
    return (before or {}) | judged(stage, line[1], kept, stage.settings["seed"])


# ---------------------------------------------------------------------------------- a user's files


def scored(stage: Stage, files: list[str]) -> dict:
    """Let a model order the replies of rankings or pairs from files. Return what order_figures()
    gives, without training rankings, and:

    files        their names
    by           what the model orders replies by: "value" (a reward model), or "log-probability":
                 the sum of the log-probabilities of the tokens of a reply and of its end
    rankings, prompts, replies   how many there are, prompts different ones
    by_file      [{"file", "rankings", "pairs", "accuracy", "accuracy_low", "accuracy_high"}]

    length_accuracy is here the share that the longer or the shorter reply first would order right,
    whichever is right more often in these files. Gold figures are there if all prompts are
    questions of the world that the model learned. A UsageError if the model is a base; a DataError
    that counts the rows which cannot be scored."""
    if stage.model.config.outputs != "value" and not stage.can_talk:
        raise UsageError(
            f"{stage.folder}: a base model, which has learned no replies; name a stage that talks,"
            " or a reward model"
        )
    rankings = _read(stage, files)
    each = split_scores(rankings, _scores(stage, rankings))
    figures = order_figures([], rankings, each, _points(stage, rankings), _scale(stage))
    length = figures["length_accuracy"]
    figures["length_accuracy"] = None if length is None else max(length, 1 - length)
    by_file = []
    for file in dict.fromkeys(map(str, files)):
        own = [i for i, r in enumerate(rankings) if r.path == file]
        some = order_figures([], [rankings[i] for i in own], [each[i] for i in own])
        names = ("pairs", "accuracy", "accuracy_low", "accuracy_high")
        by_file.append({"file": file, "rankings": len(own), **{name: some[name] for name in names}})
    return {
        "files": [str(file) for file in files],
        "by": VALUE if stage.model.config.outputs == "value" else LOG_PROBABILITY,
        "rankings": len(rankings),
        "prompts": len({str(r.prompt) for r in rankings}),
        "replies": sum(len(r.replies) for r in rankings),
        **figures,
        "by_file": by_file,
    }


def _read(stage: Stage, files: list[str]) -> list[Ranking]:
    """The rankings of the files as this model's vocabulary writes them."""
    rankings = read_many(files, stage.template)
    policy = "replace" if stage.setting("unknown", "refuse") == "replace" else "refuse"
    as_one = [r.as_one() for r in rankings]
    written = write_with(as_one, stage.tokenizer, stage.template, policy)
    refuse_faults(written.faults)
    return [r.with_texts_of(c) for r, c in zip(rankings, written.conversations)]


def _scores(stage: Stage, rankings: list[Ranking]) -> np.ndarray:
    """The score of each reply of each ranking, one after the other. A DataError that counts the
    replies which the context cannot hold."""
    is_value = stage.model.config.outputs == "value"
    make = ranked_examples if is_value else graded_examples
    examples, faults = [], []
    for ranking in rankings:
        try:
            read = stage.tokenizer, stage.model.config.context, stage.template
            examples += make(ranking, *read)
        except RowError as error:
            faults.append(_for_reader(error))
    refuse_faults(faults)
    found = (values if is_value else log_probabilities)(stage.model, examples)
    stage.model.release()
    return found


def _for_reader(error: RowError) -> RowError:
    """The same fault, with a remedy for somebody who does not train."""
    remedy = "leave the row out" if error.kind == "length" else error.remedy
    return RowError(error.where, error.what, remedy, error.kind)


def _scale(stage: Stage) -> float | None:
    """By what the scores of a reward model were divided after its training, as its report says;
    None if that is not known. Log-probabilities predict no order, so theirs is None too."""
    reward = _stored(stage).get("reward")
    if stage.model.config.outputs != "value" or not isinstance(reward, dict):
        return None
    return reward.get("scale")


def _points(stage: Stage, rankings: list[Ranking]) -> list | None:
    """The points of the exact judge; None unless the model learned a world and every prompt is a
    question about it."""
    if stage.world is None:
        return None
    try:
        return Comparisons([], rankings, [], "", stage.world).points(rankings)
    except DataError:
        return None
