"""A stage of PPO, measured again from what its folder holds."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pysft.errors import PysftError
from pysft.inference.tool_calls import answer_calls
from pysft.jobs.comparisons import Comparisons
from pysft.jobs.judged import judged
from pysft.jobs.ppo import Prompts, Scorer, most_tokens, of_the_way, prompts_of
from pysft.measure.probe import Probe
from pysft.measure.raters import Truth, is_function
from pysft.measure.rewards import MODEL, Reward, reward_named
from pysft.run.log import read_log
from pysft.run.stage import (
    Stage,
    checkpoint_step,
    load_stage,
    measured_stage,
    read_json,
    reward_model,
)
from pysft.training.flat import stored_settings
from pysft.training.kinds import PolicyTuning


@dataclass(frozen=True)
class _Origin:
    """How a stage of PPO was made: its name, its settings, the seed, and run.json of its run."""

    name: str
    settings: PolicyTuning
    seed: int
    run: dict


def iterations_of(stage: Stage) -> int | None:
    """The number of iterations that a stage of PPO had, which are fewer than its settings ask for
    if an alarm stopped it. None for a stage of another kind."""
    if _origin(stage) is None:
        return None
    rows = read_log(measured_stage(stage.folder))
    return rows[-1]["step"] if rows else None


def ppo_again(stage: Stage, line: list[Stage], probe: Probe, before: dict | None) -> dict | None:
    """Compare a stage of PPO, or a checkpoint of it, with its parent again. Return the figures;
    None if the stage is of another kind, or nothing is known.

    What the log says of the iterations up to then is read again (ppo.of_the_way). The replies are
    written and judged again if the parent and the prompts are found, and their reward is if whoever
    gave it is found unchanged. All else stays as it is in `before`, the stored figures. line: its
    lineage(). probe: knows the real words."""
    origin = _origin(stage)
    if origin is None:
        return None
    figures, step = dict(before or {}), checkpoint_step(stage.folder)
    log = read_log(measured_stage(stage.folder))
    if rows := [row for row in log if step is None or row["step"] <= step]:
        figures |= of_the_way(rows)
    if len(line) > 1 and (prompts := _judged_prompts(stage, line[1], origin)) is not None:
        reward = _reward(stage, line[1], origin)
        asks = Comparisons([], [], prompts.judged, "", prompts.world)
        score = None
        if reward is not None:
            known, unfinished = frozenset(probe.known_words), origin.settings.unfinished
            score = Scorer(stage, reward, unfinished, None, known, False).score
            figures["reward"] = reward.name
        inject = answer_calls(stage.tokenizer, stage.template, {})  # a call ends a reply
        tokens = most_tokens(origin.settings, line[1])
        figures |= judged(stage, line[1], asks, origin.seed, score, None, inject, tokens)
    return figures or None


def _origin(stage: Stage) -> _Origin | None:
    try:
        settings = stored_settings(stage.settings, ["sft"])
    except (KeyError, TypeError, PysftError):
        return None
    [(name, own)] = settings.stages.items() if len(settings.stages) == 1 else [("", None)]
    if not isinstance(own, PolicyTuning):
        return None
    record = measured_stage(stage.folder).parent / "run.json"
    try:
        run = read_json(record)
    except PysftError:
        run = {}
    return _Origin(name, own, settings.seed, run)


def _judged_prompts(stage: Stage, parent: Stage, origin: _Origin) -> Prompts | None:
    """The prompts that a stage was judged on; None if there were none, if their file is gone or was
    changed, or if the replies called tools, whose documents are not kept."""
    file = origin.run.get("prompts")
    if origin.settings.tools or file is not None and not _is_as_it_was(stage, file):
        return None
    try:
        found = prompts_of(parent, file, origin.seed, origin.name, False, "")
    except PysftError:
        return None
    return found if found.judged else None


def _reward(stage: Stage, parent: Stage, origin: _Origin) -> Reward | None:
    """What the replies of a stage were scored by; None if it is gone or was changed."""
    by, model = origin.settings.reward, None
    try:
        if by == MODEL:
            named = origin.run.get("reward") or measured_stage(stage.folder).parent
            model = load_stage(reward_model(named), stage.model.ops)
            weights = str(model.folder / "model.safetensors")
            if origin.run.get("reward") and not _is_as_it_was(stage, weights):
                return None
        elif is_function(by):
            file = by.rpartition(":")[0]
            if not _is_as_it_was(stage, file):
                return None
        truth = None if parent.world is None else Truth(parent.world)
        return reward_named(by, truth, model)
    except PysftError:
        return None


def _is_as_it_was(stage: Stage, file: str) -> bool:
    """True if a file is there with the SHA-256 that the stage was trained with."""
    try:
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return False
    return (stage.inputs or {}).get(file) == digest
