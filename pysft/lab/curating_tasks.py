"""Tasks of arms that write much and throw most away: rows that a teacher writes like some seeds,
what the filters leave of them, and what a student learns from both. `expand` and `judge` are those
of `curate`."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pysft.jobs.curate.expand import expand
from pysft.jobs.curate.judge import judge
from pysft.lab.pipelines import known, made, tuned
from pysft.lab.preferring import Subject, shown, user, world_of
from pysft.lab.reward_tasks import greedy_points
from pysft.lab.thoughts import Size
from pysft.lab.variants import exchange
from pysft.measure.evaluate import conversation_loss
from pysft.measure.probe import make_probe
from pysft.measure.raters import Truth
from pysft.run.stage import Stage, weights_sha256, write_json
from pysft.text.conversation import Conversation
from pysft.text.curated import Curated, read_curated, write_curated
from pysft.text.templates import CHAT
from pysft.world.ask import compared_questions
from pysft.world.facts import make

SEEDS, EXPANDED, JUDGED = "seeds.jsonl", "expanded.jsonl", "judged.jsonl"
NONE, ALL, FILTERED = "none", "all", "filtered"  # which of a teacher's rows a student learns from
MARKED = 20  # unseen prompts that a checkpoint is marked on; the source text reads 20 and more


# ------------------------------------------------------------------------------------ the teacher


def teacher(subject: Subject, options: dict, note) -> Stage:
    """The base tuned on the seeds without a mask, so that it writes questions too. It is as large
    as its students.

    options: "seeds" (how many) and "sft", what is changed in [sft], with unscaled steps."""
    seeds = subject.demonstrations(options["seeds"])
    start = subject.base.stage
    stage = tuned(subject, start, [seeds], options["sft"], note, grade="everything")
    texts = subject.lab.train_text, subject.lab.heldout_text
    asked = {"trained": seeds, "recalled": [], "heldout": [], "can_ask": lambda prompt: True}
    # `curate judge` reads the known words from it.
    write_json(stage.folder / "evaluation.json", make_probe(*texts, **asked).to_json())
    return stage


@dataclass(frozen=True)
class Written:
    """What a teacher wrote. folder: of the files SEEDS, EXPANDED (its rows) and JUDGED (those that
    the filters left). document: of the two jobs, under "expand" and "judge"."""

    folder: Path
    document: dict
    truth: Truth

    def rows(self, which: str, first: int | None = None) -> list[Curated]:
        """The rows that the teacher wrote (ALL), or those of them that the filters left (FILTERED).
        Neither has a row about what only sealed questions ask about: these are measured.
        first: only of so many rows of the teacher. A filter looks at a row and at those before it,
        so the result is that of a file of these rows alone."""
        every = read_curated(self.folder / EXPANDED, CHAT)[:first]
        if which == ALL:
            return [row for row in every if not self.truth.is_sealed(row.prompt)]
        last = every[-1].steps[0]["number"]
        kept = read_curated(self.folder / JUDGED, CHAT)
        return [row for row in kept if row.steps[0]["number"] <= last]


def expanded(subject: Subject, options: dict, note) -> Written:
    """Let a teacher write rows and filter them, or take them from the lab's folder.

    options: those of teacher(), and "rows" (unscaled). The lab refuses no teacher that copies its
    seeds; the share of copies is a figure."""
    by, rows = teacher(subject, options, note), subject.lab.scaled(options["rows"])

    def make(folder: Path) -> dict:
        quiet = {"say": lambda text: None, "progress": lambda text, last: note(text)}
        seeds, run, out = folder / SEEDS, str(by.folder), folder / EXPANDED
        texts = subject.demonstrations(options["seeds"])
        write_curated(seeds, [Curated(c.messages) for c in texts])
        more = {"rows": rows, "most_copied": 1.0, "seed": subject.seed, "ops": subject.lab.ops}
        first, _ = expand(str(seeds), run, out, **more, **quiet)
        named = {"by": "world", "run": run, "seeds": str(seeds)}
        return {"expand": first, "judge": judge(str(out), folder / JUDGED, **named, **quiet)}

    what = {"expand": [options["seeds"], rows], "teacher": weights_sha256(by.model)}
    return Written(*made(subject, what, make), Truth(subject.told.world))


def conversations(rows: list[Curated]) -> list[Conversation]:
    return [exchange(row.asked, row.reply, number) for number, row in enumerate(rows, 1)]


def prepare_rows(options: dict):
    """Return an Experiment's prepare(), which makes the teacher and its rows. options: as
    expanded() takes them."""

    def prepared(lab, seed: int) -> None:
        expanded(Subject(lab, world_of(seed), seed), options, lab.progress)

    return prepared


# ------------------------------------------------------------------------------------ the student


def material(subject: Subject, options: dict, note) -> tuple[list[list[Conversation]], dict]:
    """([the seeds, a teacher's rows], figures of these rows).

    options: "teacher" (as expanded() takes it), "which" (NONE, ALL or FILTERED), and "first" (of so
    many of its rows, unscaled). The figures are "rows" (beside the seeds), "copied" (the share of
    what the teacher wrote that copies a seed) and "kept" (the share of rows(ALL) that the filters
    leave)."""
    seeds = subject.demonstrations(options["teacher"]["seeds"])
    if options["which"] == NONE:
        return [seeds], {"rows": 0}
    found, first = expanded(subject, options["teacher"], note), subject.few(options["first"])
    every, rows = (found.rows(which, first) for which in (ALL, options["which"]))
    figures = {"rows": len(rows), "copied": found.document["expand"]["copied"]}
    kept = len(found.rows(FILTERED, first)) / len(every)
    return [seeds, conversations(rows)], figures | {"kept": kept}


def student(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: tune the base on the seeds and on rows of a teacher, drawn alike.

    options: those of material(), and "sft", what is changed in [sft], with unscaled steps. finish:
    what pipelines.known() gives, and the figures of material()."""
    files, figures = material(subject, options, note)
    stage = tuned(subject, subject.base.stage, files, options["sft"], note)
    return measured(subject, stage, figures)


def measured(subject: Subject, stage: Stage, figures: dict) -> dict:
    """The fields of the record of a tuned model. figures: more than pipelines.known() gives."""
    finish = known(subject, stage) | figures
    asked = subject.drawn("samples", subject.prompts("sealed"), 6)
    samples = shown(subject.answers(stage, "samples", asked, 1))
    return {"finish": finish, "samples": samples}


# -------------------------------------------------------------------------------- epochs and marks


def epochs(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: the source text's minimal recipe. The base is tuned for some epochs on the
    seeds and the filtered rows. After each epoch MARKED unseen prompts are answered and marked, and
    the checkpoint with the highest marks counts; of equal ones the earlier.

    options: those of student(), where "sft" has no steps, and "epochs".

    track: a row for each epoch: "step", "marks" (mean points of greedy replies, 0 to 3),
    "heldout_loss" (on the right answers to the same prompts), and what pipelines.known() gives.
    finish: the row of the checkpoint, with the figures of material(); "steps" and "chosen" (its
    step and its epoch), "by_loss" (the epoch of the lowest loss) and "right_by_loss", what is right
    then."""
    files, figures = material(subject, options, note)
    every = [c for some in files for c in some]
    asked, held = unseen(subject, {c.prompt for c in every})
    lab, model = subject.lab, subject.grown()
    stage = Stage(lab.folder / "epochs", model, lab.chat, CHAT, {})
    steps = options["epochs"] * steps_of_an_epoch(subject, every, options["sft"])
    last = math.ceil(steps)
    at = {math.ceil(steps * n / options["epochs"]) for n in range(1, options["epochs"])} | {last}
    track, losses = [], []
    # The rows are scaled already, so the steps are not scaled once more.
    for r in subject.tuned(model, every, options["sft"] | {"steps": last / lab.scale}):
        losses.append(round(r.figures.get("conversation", r.loss), 5))
        note(f"step {r.step:,} of {last:,}, loss {r.loss:.3f}")
        if r.step in at:
            row = {"marks": float(np.mean(greedy_points(subject, stage, asked)))}
            row["heldout_loss"] = conversation_loss(model, held, stage.tokenizer, CHAT)[0]
            track.append({"step": r.step} | row | known(subject, stage))
    best = max(track, key=lambda row: row["marks"])
    lowest = min(track, key=lambda row: row["heldout_loss"])
    figures |= {"chosen": track.index(best) + 1, "by_loss": track.index(lowest) + 1}
    figures |= {"right_by_loss": lowest["right"], "steps": best["step"]}
    return {"track": track, "losses": losses, "finish": best | figures}


def unseen(subject: Subject, trained: set[str]) -> tuple[list[str], list[list[dict]]]:
    """(MARKED questions of the split "reward" that are not among the trained prompts, the same with
    their right answers as messages). Sealed questions choose no checkpoint."""
    found = compared_questions(make(subject.told.world), ["reward"])
    answers = {q.prompt: q.answer for q in found if q.prompt not in trained}
    asked = subject.drawn("marked", [*answers], MARKED)
    held = [[*user(p), {"role": "assistant", "content": answers[p]}] for p in asked]
    return asked, held


def steps_of_an_epoch(subject: Subject, every: list[Conversation], changes: dict) -> float:
    """The steps in which each conversation comes once. A step has fewer tokens than its settings
    allow, by those of the longest conversation in the mean (Size.changes())."""
    settings = subject.settings(changes)
    rows = Size.of(every, subject.lab.chat, settings.model.context)
    return rows.tokens / min(rows.tokens, settings.stages["sft"].tokens - rows.longest)
