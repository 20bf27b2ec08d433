"""The whole job: the stages of a run, one after the other, from the corpus to the report."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from pysft.console import Screen
from pysft.errors import UsageError
from pysft.inference.candidates import refuse_other_words
from pysft.inference.engine import SLOTS
from pysft.jobs.align import (
    Known,
    align,
    refuse_unasked,
    refuse_unknown_raters,
    refuse_unknown_rewards,
    refuse_without_comparisons,
    unused,
)
from pysft.jobs.begin import (
    Begun,
    Order,
    Place,
    checked_reading,
    corpus_of,
    current_isa,
    describe,
    input_digests,
    open_run,
    require,
    resumed,
)
from pysft.jobs.compare import Sides
from pysft.jobs.comparisons import Comparisons, read_comparisons
from pysft.jobs.material import WORLD, Material, gather, no_transcripts, text_alone
from pysft.jobs.ppo import read_fitting
from pysft.jobs.pretrain import pretrain_base
from pysft.jobs.summary import describe_data
from pysft.jobs.tune import loss_under, tune
from pysft.jobs.work import plan_work
from pysft.measure.memory import say_memory
from pysft.measure.report import write_report
from pysft.nn.computing import computing_ops, in_precision
from pysft.run.stage import Stage, load_stage, reward_model
from pysft.run.tree import named_base
from pysft.text.files import refuse_pipe
from pysft.training.kinds import ALIGNING, kind_of
from pysft.training.settings import Settings


@dataclass(frozen=True)
class Trained:
    """The results of train(), which are those of the last stage. report: the --json document.
    sides: its replies beside its parent's; None for a base or a reward model. page: the path of
    report.html; None if only a base was trained."""

    report: dict
    sides: Sides | None
    page: Path | None


def train(order: Order, screen: Screen, verb: str = "train") -> Trained:
    """Train the stages of order.settings, measure each, and write the page about them.

    verb: the one that was typed, of begun.VERBS, for the record of the run."""
    began = time.monotonic()
    begun = None
    if order.resume:
        order, begun = resumed(order, verb, screen)
    ops = computing_ops(order.ops, order.threads)
    in_precision(ops, order.settings.model.precision)  # raises if this processor lacks it
    order, given = _begin_from(order, ops)
    _refuse_pipes(order)
    if order.plain is not None and (why := no_transcripts(order.corpus)):
        screen.say(f"{order.corpus}: {why}, so the model learns no tools")
        order = replace(order, settings=order.plain)
    settings, notes = order.settings, []
    if begun is None:  # a resumed run keeps its settings, so that its bits stay the same
        settings, notes = settings.with_short_warmups()
        order = replace(order, settings=settings)
    reads = any(stage.world for stage in settings.stages.values())
    if settings.world is not None and order.base is None and not (reads or order.resume):
        raise UsageError(
            "[world] is set, but no stage reads windows of its text; set world below [base], or"
            " leave [world] out"
        )
    template = order.chosen_template()
    inputs = input_digests(order, given)
    if begun is not None:
        begun.refuse_changes(inputs)

    # Find all errors in data and settings now, before a folder is made.
    tokenizer = None if given is None else given.tokenizer
    if order.tunes:
        material = gather(settings, order.corpus, order.data, tokenizer, template)
    else:
        material = text_alone(settings, order.corpus, template, tokenizer)
    comparisons, reward = _to_compare(order, settings, material, given, ops)
    notes += unused(settings, order.rankings)
    inputs, begun = checked_reading(inputs, material, begun)
    works = plan_work(settings, material)
    begun = begun or Begun(
        verb, settings.to_json(), order.corpus, order.data, order.base, template, order.ops,
        current_isa(order.ops), inputs, order.rankings, order.reward, order.prompts,
    )  # fmt: skip

    with open_run(begun, order.out, order.resume, screen, order.name) as folder:
        describe(screen, settings, folder, order.corpus, material)
        for note in notes:
            screen.say(note)
        if len(material.tokenizer) == 1:
            screen.say(
                f"{order.corpus}: it has one symbol alone, which every model predicts, so the loss"
                " on base text is 0 and forgetting cannot be measured"
            )
        if works:
            say_memory(
                screen,
                *((w.config, w.plan.rows, w.beside, SLOTS if w.tunes else 0) for w in works),
            )
        counts = describe_data(screen, works, material) if order.tunes else {}
        place = Place(folder, screen, order.resume, ops, inputs, began, list(settings.stages))
        known = works, material, comparisons, order.prompts, counts
        report, sides = _train_stages(settings, place, given, reward, *known)
        talks = order.tunes or order.aligns
        return Trained(report, sides, write_report(folder) if talks else None)


def _train_stages(
    settings: Settings,
    place: Place,
    given: Stage | None,
    reward: Stage | None,
    works: list,
    material: Material,
    comparisons: Comparisons | None,
    prompts: str | None,
    counts: dict,
) -> tuple[dict, Sides | None]:
    """Train the stages one after the other, and measure each. Return (the last one's report, its
    replies beside its parent's).

    given: what the first begins from; None for a base. reward: the reward model that was named."""
    works = {work.name: work for work in works}
    stage, sides = given, None  # the newest stage that the next one can begin from
    base_loss = None if given is None else loss_under(given, material, place.screen)
    for name in settings.stages:
        kind = kind_of(name)
        if kind == "base":
            stage, report = pretrain_base(works[name], material, place)
            base_loss = report["base_loss"]
        elif kind not in ALIGNING:
            stage, report, sides = tune(works[name], material, counts, stage, base_loss, place)
        else:
            known = Known(material, comparisons, prompts, base_loss)
            made, report, sides = align(name, settings, stage, reward, known, place)
            stage, reward = (stage, made) if kind == "reward" else (made, reward)
    return report, sides


def _to_compare(
    order: Order, settings: Settings, material: Material, given: Stage | None, ops
) -> tuple[Comparisons | None, Stage | None]:
    """Return (the comparisons from files, None if none are named; the reward model that ranks
    replies, None if none is named). Errors if they do not fit the stages of the run."""
    reward = None if order.reward is None else load_stage(reward_model(order.reward), ops)
    refuse_without_comparisons(settings, order.rankings)
    refuse_unasked(settings, order.rankings, reward)
    refuse_unknown_rewards(settings, reward, order.prompts, given)
    writes = material.grown or material.tokenizer
    if order.prompts:  # an error now, and not when the stage begins
        read_fitting(order.prompts, writes, material.template, settings.model.context)
    if reward is not None and given is not None:
        refuse_other_words(reward, given)
    if not order.rankings:
        refuse_unknown_raters(settings, reward)
        return None, reward
    return read_comparisons(order.rankings, settings, writes, material.template), reward


def _refuse_pipes(order: Order) -> None:
    """Raise an error for a file that can be read only once: a resumed run reads it again."""
    named = {"--corpus": [order.corpus], "--data": order.data, "--rankings": order.rankings}
    named["--prompts"] = order.prompts and [order.prompts]
    for flag, paths in named.items():
        for path in paths or []:
            if path != WORLD:
                refuse_pipe(path, flag)


def _begin_from(order: Order, ops) -> tuple[Order, Stage | None]:
    """Return (the order with the corpus and the template of the stage that --base names, that
    stage). Without --base the stage is None."""
    given = None
    if order.base:
        if order.resume:
            require(order.base)
        given = load_stage(named_base(order.base), ops)
        template = given.template if given.can_talk else order.template
        order = replace(order, corpus=order.corpus or corpus_of(given), template=template)
    return replace(order, corpus=order.corpus or "plays"), given
