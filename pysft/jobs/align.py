"""A stage that learns from comparisons: a reward model or DPO, from the comparisons to the
report."""

from dataclasses import dataclass, replace
from functools import partial

from pysft.errors import UsageError
from pysft.inference.candidates import refuse_other_words
from pysft.inference.score import scores
from pysft.jobs.begin import Place
from pysft.jobs.compare import Sides
from pysft.jobs.comparisons import Comparisons, made_comparisons
from pysft.jobs.dpo import train_dpo
from pysft.jobs.material import Material
from pysft.jobs.ppo import prompts_of, train_ppo
from pysft.jobs.reward import train_reward
from pysft.measure.probe import Probe, stored_probe
from pysft.measure.raters import WORLD, Rater, Truth, rater_named
from pysft.measure.rewards import MODEL, reward_named
from pysft.rng import rng
from pysft.run.checkpoints import drop_checkpoints
from pysft.run.stage import Stage, is_finished, load_stage, measured_stage, read_json
from pysft.run.taught import callable_tools
from pysft.run.tree import refuse_other_parent
from pysft.training.kinds import COMPARING, kind_of
from pysft.training.settings import Data, Settings


@dataclass(frozen=True)
class Known:
    """What the stages of a run that learn from comparisons share. given: the comparisons from
    files; None if each stage makes its own. prompts: a file for PPO; None asks about the world.
    base_loss: of the base under them."""

    material: Material
    given: Comparisons | None
    prompts: str | None
    base_loss: float | None


def refuse_without_comparisons(settings: Settings, files: list[str] | None) -> None:
    """Raise a UsageError if a stage learns from comparisons and there are none, nor a world in
    which they could be made."""
    for name in settings.stages:
        if kind_of(name) in COMPARING and not files and settings.world is None:
            raise UsageError(
                f"stage {name!r} learns from comparisons, and none are named. Name files of them"
                " (--data of reward and dpo, --rankings of train), or begin from a run that learned"
                " an invented world, whose judge can rank replies (train --data world)"
            )


def unused(settings: Settings, files: list[str] | None) -> list[str]:
    """A sentence for each setting that says how comparisons are made, if files hold them."""
    found = []
    for name, stage in settings.stages.items() if files else ():
        usual = type(stage)()
        for setting in ("by", "replies", "rounds") if kind_of(name) in COMPARING else ():
            if getattr(stage, setting) != getattr(usual, setting):
                found.append(f"{name}.{setting} not used, because files hold the comparisons")
    return found


def refuse_unasked(settings: Settings, files: list[str] | None, reward: Stage | None) -> None:
    """Raise a UsageError if a reward model is named and no stage lets it rank replies."""
    if reward is None:
        return
    tuned, own = {}, None
    for name, stage in settings.stages.items():
        if kind_of(name) == "dpo":
            tuned[name] = stage.by
        elif kind_of(name) == "ppo":
            tuned[name] = stage.reward
        elif kind_of(name) == "reward" and "reward" not in tuned.values():
            own = name  # it takes the place of the one that was named
    if files:
        why = f"{', '.join(files)} holds their order already"
    elif own and tuned:
        why = f"this run trains one of its own, {own}"
    elif "reward" not in tuned.values():
        by = ", ".join(f"{name}.by = {by!r}" for name, by in tuned.items())
        why = by or "no stage of this run lets a model rank replies"
    else:
        return
    raise UsageError(f"--reward names a model that ranks replies, but {why}; leave it out")


def refuse_unknown_raters(settings: Settings, reward: Stage | None) -> None:
    """Raise the error of a stage that would be ranked by somebody whom nobody knows."""
    for name in settings.stages:
        if kind_of(name) in COMPARING:
            _rater(name, settings, settings.world, reward)


def refuse_unknown_rewards(
    settings: Settings, reward: Stage | None, prompts: str | None, given: Stage | None
) -> None:
    """Raise the error of a PPO stage that nobody could reward, or that would have nothing to ask.
    given: the stage that the run begins from; None for a base."""
    of_run = None
    for name, stage in settings.stages.items():
        if kind_of(name) == "reward":
            of_run = name
        if kind_of(name) != "ppo":
            continue
        searches = (
            settings.data.transcripts or given is not None and given.setting("transcripts", 0)
        )
        asks = stage.tools and searches
        if settings.world is None and not prompts and not asks:
            raise UsageError(
                f"stage {name!r} asks prompts, and none are named; name a file by --prompts, or"
                " begin from a run that learned an invented world (train --data world)"
            )
        if stage.tools and given is not None and not knows_tools(given):
            raise UsageError(
                f"{name}.tools = true, but {given.folder} has not learned to call a tool; leave it"
                " out, or begin from a run that has (train, train --data sums)"
            )
        if stage.tools and stage.reward == MODEL and (reward or of_run):
            raise UsageError(
                f"{name}.tools = true: a reward model reads no calls of tools; choose"
                f" {name}.reward = 'world' or FILE.py:function"
            )
        known = asks or settings.world is not None and not prompts
        if stage.reward == MODEL and (reward or of_run or known):
            continue
        reward_named(stage.reward, known or None, None, None)


def knows_tools(stage: Stage) -> bool:
    """True if a stage has learned to call a tool, as far as its vocabulary and its data say."""
    return bool(callable_tools(stage))


def align(
    name: str, settings: Settings, parent: Stage, reward: Stage | None, known: Known, place: Place
) -> tuple[Stage, dict, Sides | None]:
    """Train the stage `name`, as far as a resumed run has not done so. Return (the stage, its
    report, its replies beside the parent's).

    settings: the run's. parent: the newest stage that talks. reward: the reward model, which ranks
    replies if there is one."""
    folder, own, kind = place.folder / name, _like(parent, settings.only(name)), kind_of(name)
    if place.resume:
        refuse_other_parent(folder, parent)
    if place.resume and is_finished(folder):
        drop_checkpoints(folder)  # those of a run that was stopped just before it could
        return load_stage(folder, place.ops), read_json(folder / "report.json"), None
    if kind == "ppo":
        return _ppo(name, own, parent, reward, known, place)
    comparisons = known.given or _made(name, own, parent, reward, place)
    for note in comparisons.notes:
        place.screen.say(f"{name}: {note}")
    counts = comparisons.counts()
    place.screen.say(
        f"{name}: {counts['rankings']:,} rankings of {counts['replies']:,} replies to"
        f" {counts['prompts']:,} prompts, by {counts['by']}; {counts['comparisons']:,} comparisons"
        f" ({len(comparisons.heldout):,} rankings more held out)"
    )
    probe = _probe(parent, known.material)
    if kind == "reward":
        return *train_reward(name, own, parent, comparisons, probe, place), None
    shared = known.material, probe, known.base_loss
    return train_dpo(name, own, parent, comparisons, *shared, place)


def _ppo(name: str, settings: Settings, parent: Stage, reward: Stage | None, known: Known, place):
    """Train the PPO stage `name`, as align() does."""
    by, tools = settings.stages[name].reward, settings.stages[name].tools
    if by == MODEL and reward is not None:
        refuse_other_words(reward, parent)
    text = known.material.train_text
    prompts = prompts_of(parent, known.prompts, settings.seed, name, tools, text)
    truth = None if prompts.world is None else Truth(prompts.world)
    if by == MODEL and reward is None and (truth or prompts.task):
        by = WORLD
    stage = replace(settings.stages[name], reward=by)  # as it is, for whoever measures it again
    settings = replace(settings, stages={name: stage})
    told, judge = reward_named(by, truth, reward, prompts.task), None
    if truth or prompts.task:
        judge = reward_named(WORLD, truth, None, prompts.task)
    scored = known.material, _probe(parent, known.material), known.base_loss, place
    critic = reward if by == MODEL else None
    return train_ppo(name, settings, parent, prompts, told, judge, critic, *scored)


def _like(parent: Stage, settings: Settings) -> Settings:
    """The settings with the parent's data, because its tools and its grading are the parent's; how
    rows are read stays."""
    stored = parent.settings.get("data") if isinstance(parent.settings, dict) else None
    if not isinstance(stored, dict):
        return settings
    own = settings.data
    reading = {name: getattr(own, name) for name in ("too_long", "unknown", "ignore", "lang")}
    return replace(settings, data=replace(Data(**stored), synthetic=own.synthetic, **reading))


def _made(name: str, settings: Settings, parent: Stage, reward, place) -> Comparisons:
    by, rater = _rater(name, settings, parent.world, reward)
    stage = replace(settings.stages[name], by=by)
    settings = replace(settings, stages={name: stage})
    return made_comparisons(name, settings, parent, rater, place.folder / name, place.screen)


def _rater(name: str, settings: Settings, world, reward: Stage | None) -> tuple[str, Rater]:
    """Return (who ranks the replies for the stage `name`, that Rater)."""
    by = settings.stages[name].by
    if by == "reward" and reward is None:
        by = "labelers"
    score = partial(scores, reward) if by == "reward" else None
    seed = int(rng(settings.seed, name, "raters").integers(2**31))
    return by, rater_named(by, world, score, seed)


def _probe(parent: Stage, material: Material) -> Probe:
    """What a stage is measured with: the same as its parent."""
    return material.probe or stored_probe(measured_stage(parent.folder), parent.template)
