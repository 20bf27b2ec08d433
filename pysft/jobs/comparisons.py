"""The comparisons that a stage learns from: rankings from files, or made for it. To make them, the
model that the stage begins from writes several replies to each prompt at temperature 1, and
somebody ranks them (measure/raters.py)."""

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pysft import disk
from pysft.console import Screen
from pysft.errors import DataError, MissingInput, RowError
from pysft.jobs.collect import sample_replies
from pysft.measure.raters import Rater, Truth
from pysft.rng import rng
from pysft.run.stage import Stage, measured_stage
from pysft.text.characters import write_with
from pysft.text.compared import graded_examples, ranked_examples
from pysft.text.conversation import refuse_faults
from pysft.text.heldout import split_by_prompt
from pysft.text.preferences import read_many, read_rankings
from pysft.text.ranking import Ranking, check_ranking
from pysft.text.sampled import Sampled
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer
from pysft.training.kinds import kind_of
from pysft.training.settings import Settings, stages_of
from pysft.world.ask import compared_questions
from pysft.world.facts import WorldSettings, make

# Kind of a stage -> whose questions it may ask. Those of "train" were trained on before; their
# replies differ less, but they are many.
SPLITS = {"reward": ("train", "reward"), "dpo": ("train", "ppo")}
TRAINED, HELDOUT = "rankings.jsonl", "heldout.jsonl"  # the files of a stage's folder
MARKED = ("labeler", "source")  # what a row says beside its replies and their ranks
JUDGED = 300  # the most prompts that a stage is measured on


@dataclass
class Comparisons:
    """What a stage learns from.

    trained, heldout: rankings to learn from and to measure on; they share no prompt. judged: the
    prompts, as messages, on which a tuned model is compared with its parent. They are in no
    training. by: who ranked the replies, for people. world: the settings of the world that their
    prompts ask about, None if there is none. notes: sentences about what was left out."""

    trained: list[Ranking]
    heldout: list[Ranking]
    judged: list[list[dict]]
    by: str
    world: WorldSettings | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def truth(self) -> Truth:
        """Who knows what is true in the world."""
        return Truth(self.world)

    def points(self, rankings: list[Ranking]) -> list[list[float]] | None:
        """The points that the exact judge gives to each reply; None without a world."""
        if self.world is None:
            return None
        return [self.truth.golds(r.prompt, r.replies, r.ended) for r in rankings]

    def subjects(self, prompts: list[list[dict]]) -> list[str] | None:
        """Whom or what each prompt asks about; None without a world."""
        return None if self.world is None else [self.truth.about(prompt) for prompt in prompts]

    def counts(self) -> dict:
        """The figures of what is learned from, for reports. "labelers", "sources": the number of
        rankings by who gave them and by who wrote their prompts, as far as the rows say so."""
        return {
            "rankings": len(self.trained),
            "prompts": len({json.dumps(r.prompt) for r in self.trained}),
            "replies": sum(len(r.replies) for r in self.trained),
            "comparisons": sum(len(r.pairs()) for r in self.trained),
            "by": self.by,
            "labelers": dict(Counter(r.labeler for r in self.trained if r.labeler)),
            "sources": dict(Counter(r.source for r in self.trained if r.source)),
        }


def read_comparisons(
    files: list[str], settings: Settings, tokenizer: Tokenizer, template: Template
) -> Comparisons:
    """Read rankings or pairs from files and split them by prompt: nine tenths to train on, and the
    rest to measure on. A DataError that counts the rows which cannot be used."""
    reading = settings.data.reading()
    rankings = read_many(files, template, reading)
    written = write_with([r.as_one() for r in rankings], tokenizer, template, settings.data.unknown)
    # Its own faults are those of whole conversations, which a ranking written as one is not.
    rankings = [r.with_texts_of(c) for r, c in zip(rankings, written.conversations)]
    kept, faults = [], []
    for ranking in rankings:
        try:
            check_ranking(ranking, template)  # again, because texts may have changed
            for make in (ranked_examples, graded_examples):
                make(ranking, tokenizer, settings.model.context, template)
        except RowError as error:
            if error.kind == "characters":
                error = _without_unknown_flag(error)
            if error.kind != "length" or settings.data.too_long == "refuse":
                faults.append(error)
        else:
            kept.append(ranking)
    refuse_faults(faults)
    notes = []
    if len(kept) < len(rankings):
        notes.append(f"left out: {len(rankings) - len(kept):,} rankings too long for the context")
    if not kept:
        raise DataError(
            f"{', '.join(files)}: no ranking is left, because none fits into the context; shorten"
            " their prompts or replies, or begin from a run with a longer context"
        )
    try:
        parts = split_by_prompt(kept, settings.seed)
    except DataError as error:
        raise DataError(f"{', '.join(files)}: {error}") from None
    judging = set(map(id, parts["judging"]))
    trained = [r for r in kept if id(r) not in judging]
    heldout = parts["judging"]
    judged = judged_prompts(heldout)
    return Comparisons(trained, heldout, judged, ", ".join(files), notes=notes)


def _without_unknown_flag(error: RowError) -> RowError:
    """The same fault with a remedy that the verbs know, whose models have a vocabulary that cannot
    grow."""
    remedy = error.remedy.partition(", or give --unknown")[0]
    remedy += ", or replace such characters: --set data.unknown=replace"
    return RowError(error.where, error.what, remedy, error.kind)


def made_comparisons(
    name: str, settings: Settings, parent: Stage, rater: Rater, folder: Path, screen: Screen
) -> Comparisons:
    """Let the parent answer the questions of its world that this kind of stage may ask, and the
    rater rank the replies. The held-out rankings are of sealed questions.

    They are written to folder/rankings.jsonl and folder/heldout.jsonl, and read from there if they
    are complete."""
    files = folder / TRAINED, folder / HELDOUT
    stage, seed = settings.stages[name], settings.seed
    sealed = sealed_questions(parent.world, seed, name)
    if not all(path.is_file() for path in files):
        prompts = asked(parent.world, SPLITS[kind_of(name)])
        parts = prompts * stage.rounds, sealed
        disk.make_folder(folder)
        screen.say(
            f"{name}: {parent.name} writes {stage.replies} replies to {len(parts[0]):,} prompts and"
            f" to {len(parts[1]):,} sealed ones, which are only measured on"
        )
        for n, (path, some) in enumerate(zip(files, parts)):
            drawn = int(rng(seed, name, "replies", n).integers(2**31))
            found = sample_replies(parent, some, stage.replies, drawn, progress=screen.progress)
            rows = ranked(some, found, rater)
            if all(len(set(row["ranks"])) == 1 for row in rows):
                raise DataError(
                    f"{name}: all replies of {parent.name} to a prompt are equal or tie, so there"
                    " is no pair to learn from; train it longer, or rank more replies (--replies,"
                    " --rounds)"
                )
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            disk.replace(path, [line.encode() for line in lines])
    trained, heldout = (read_rankings(path, parent.template) for path in files)
    return Comparisons(trained, heldout, sealed, stage.by, parent.world)


def keep_heldout(folder: Path, comparisons: Comparisons) -> None:
    """Write the held-out rankings of comparisons from files to folder/heldout.jsonl, so that the
    stage can be measured on them again. Those that were made for it stand there already."""
    path = folder / HELDOUT
    if not path.is_file():
        rows = []
        for r in comparisons.heldout:
            row = {"prompt": r.prompt, "replies": list(r.replies), "ranks": list(r.ranks)}
            row["ended"] = list(r.ended)
            rows.append(row | {k: v for k in MARKED if (v := getattr(r, k))})
        disk.replace(path, [(json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows])


def stored_comparisons(stage: Stage) -> Comparisons:
    """Return the comparisons that a stage's folder keeps. Those from files are the held-out ones
    alone, in no world. MissingInput if the folder keeps none."""
    home = measured_stage(stage.folder)
    trained, heldout = home / TRAINED, home / HELDOUT
    if not heldout.is_file():
        raise MissingInput(
            f"{heldout}: missing, so there is nothing to measure {stage.name} on. Measure it on"
            " files of rankings by --data FILE"
        )
    held = read_rankings(heldout, stage.template)
    if not trained.is_file() or stage.world is None:
        return Comparisons([], held, judged_prompts(held), "")
    known = read_rankings(trained, stage.template)
    [name] = stages_of(stage.settings)
    sealed = sealed_questions(stage.world, stage.settings["seed"], name)
    return Comparisons(known, held, sealed, "", stage.world)


def judged_prompts(heldout: list[Ranking]) -> list[list[dict]]:
    """The different prompts of rankings, JUDGED at most."""
    return list({json.dumps(r.prompt): r.prompt for r in heldout}.values())[:JUDGED]


def sealed_questions(world: WorldSettings, seed: int, name: str) -> list[list[dict]]:
    """The sealed questions that a stage is measured on, JUDGED at most."""
    sealed = asked(world, ["sealed"])
    chosen = rng(seed, name, "judged").permutation(len(sealed))[:JUDGED]
    return [sealed[i] for i in sorted(chosen)]


def asked(world: WorldSettings, splits) -> list[list[dict]]:
    """compared_questions() of some splits, as messages."""
    some = compared_questions(make(world), splits)
    return [[{"role": "user", "content": q.prompt}] for q in some]


def ranked(
    prompts: list[list[dict]], replies: list[list[tuple[str, bool]]], rater: Rater
) -> list[dict]:
    """The rows of a file of rankings: those of the different replies to each prompt.

    replies: (text, did it end) of each. Left out are replies that cannot be an example (sampled.py)
    and prompts with fewer than two different ones."""
    rows = []
    for number, (prompt, some) in enumerate(zip(prompts, replies)):
        sampled = Sampled(prompt, *zip(*some), "world").usable()
        if len(sampled.replies) > 1:
            given = rater.rank(prompt, sampled.replies, sampled.ended, number)
            rows += [
                sampled.to_row() | {"ranks": list(ranks), "labeler": labeler}
                for labeler, ranks in given
            ]
    return rows
