"""The constitution: a model answers, criticises its answer by a principle, and revises it (Bai et
al. 2022, Constitutional AI).

    user        What pet has Ada Brook?
    assistant   Ada Brook keeps a toad, thou fool.      an answer, at temperature 1
    user        Is it kind?                             the question of a principle that is drawn
    assistant   It is not: fool.                        the critique, greedy
    user        Say it kindly.                          the request of the principle
    assistant   Ada Brook keeps a toad.                 the revision, greedy

A row is the prompt and the last revision. With several rounds each revision is criticised by
another principle. A pair prefers the revision to the answer: preferences by the model itself."""

import json
from pathlib import Path

from pysft import disk
from pysft.errors import DataError, UsageError
from pysft.inference.thoughts import thought_tokens
from pysft.jobs.collect import ASKED, refuse_callers, talking_stage
from pysft.jobs.curate.drafts import REASONS, Draft, Progress, Task, answered, criticise, turn
from pysft.jobs.curate.judging import refuse_sealed
from pysft.measure.violations import PRINCIPLES, Critique, critiques_right, shares
from pysft.run.stage import Stage
from pysft.text.constitution import SHIPPED, read_constitution, written
from pysft.text.curated import Curated, Stations, refuse_taken, write_curated
from pysft.world.facts import SPLITS

WORLD = "world"  # stands for the shipped constitution
FIGURES = ("violations", "right", "malformed")  # of shares()


def _silent(text: str, last: bool) -> None:
    """Report no progress."""


# ------------------------------------------------------------------------------------ the commands


def _answering(run: str, ops) -> Stage:
    """Load a stage that can answer without tools. A UsageError if it cannot, or may call them."""
    stage = talking_stage(run, ops)
    refuse_callers(stage)
    return stage


def revise(
    run: str,
    ops,
    constitution: str,
    prompts: str,
    out: Path,
    pairs: Path | None = None,
    k: int = 1,
    rounds: int = 1,
    seed: int = 0,
    progress: Progress = _silent,
) -> dict:
    """Let a model answer prompts k times, criticise and revise; write its revisions to the file
    `out` and its preferences to the file `pairs`. Return the --json document.

    constitution: a file, or "world" for the shipped one. prompts: a file, "world" or "world:SPLIT".
    rounds: critiques of each answer, each by another principle.

    revised, pairs_file, constitution   the files, as they were named; pairs_file is None if none
                                was written
    principles                  {name: what it forbids}
    by, weights_sha256          the stage that answered
    prompts, k, seed, rounds    as they were
    read, written, dropped      counts of rows (Stations); read counts all answers
    changed, unchanged          rows written whose revision differs from the answer, or does not
    pairs                       preferences written, equal ones once. At 0 there is no file. None
                                if none was named
    format_compliance           share of answers that have content, end, and hold no control token
    critiques_right             balanced accuracy of the critiques, the mean of those by each
                                principle (measure/violations.critiques_right); chance is 0.5
    answers                     rows written to questions of the world: before and after are shares
                                of these, so both are of the same answers. What was dropped is in
                                neither
    violations_before, violations_after   share of their answers, and of their revisions, that
                                violate any principle
    right_before, right_after, malformed_before, malformed_after   shares of these verdicts
    by_principle                {name: {"before", "after", "critiques_right"}}

    A share is None where nothing is known. A UsageError, MissingInput or DataError for files and
    settings that cannot be used, before anything is sampled. A DataError if no answer is left; then
    nothing is written."""
    refuse_taken(out)
    if pairs is not None:
        refuse_taken(pairs, "--pairs", out)
    stage, path = _answering(run, ops), SHIPPED if constitution == WORLD else constitution
    if pairs is not None and thought_tokens(stage.tokenizer, stage.template):
        raise UsageError(
            f"--pairs {pairs}: {stage.folder} thinks before it answers, and a reply of preferences"
            " has no thoughts; leave --pairs out"
        )
    principles = written(read_constitution(path), path, stage.tokenizer, stage.template)
    if not 1 <= rounds <= len(principles):
        raise UsageError(
            f"--rounds {rounds}: each round asks about another principle, and {path} has"
            f" {len(principles)}; expected 1 to {len(principles)}"
        )
    task = Task.of(stage, prompts, ASKED, k, seed, progress)
    refuse_sealed(
        ((prompt, where) for prompt, _, where in task.asked),
        task.truth,
        "leave it out, or ask it with --measure",
    )
    drafts, critiques = answered(task, k), []
    for number in range(rounds):
        critiques += criticise(task, drafts, principles, number)
    counts, kept = Stations(*REASONS), [draft for draft in drafts if not draft.dropped]
    counts.read, counts.written = len(drafts), len(kept)
    for draft in drafts:
        if draft.dropped:
            counts.drop(draft.dropped)
    if not kept:
        found = ", ".join(f"{n:,} {reason}" for reason, n in counts.dropped.items())
        raise DataError(
            f"{stage.folder}: none of {len(drafts):,} answers can be used ({found}), so there is"
            " nothing to write. Train it on conversations that criticise and revise, or train it"
            " longer"
        )
    write_curated(out, [_row(draft) for draft in kept])
    changed = [draft for draft in kept if _is_changed(draft)]
    return {
        "revised": str(out),
        "pairs_file": str(pairs) if pairs and changed else None,
        "constitution": constitution,
        "principles": {p.name: p.forbids for p in principles},
        **task.about,
        "rounds": rounds,
        **counts.to_json(),
        "changed": len(changed),
        "unchanged": len(kept) - len(changed),
        "pairs": _write_pairs(pairs, changed) if pairs else None,
        "format_compliance": _compliance(drafts),
        **_figures(kept, principles, critiques),
    }


def measure(
    run: str, ops, prompts: str, k: int = 1, seed: int = 0, progress: Progress = _silent
) -> dict:
    """Let a model answer questions of its world k times, and return how often it violates the
    principles: the entries of revise() about answers. Here they are shares of all answers to
    questions of the world, those that are cut off or malformed too; "malformed_before" counts them.
    prompts: as there, sealed questions too. A UsageError if the run learned no world, a DataError
    if no prompt is a question of it."""
    stage = _answering(run, ops)
    if stage.world is None:
        raise UsageError(
            f"--measure: {stage.folder} learned no invented world, so nobody knows what its answers"
            " violate; name a run that did (train --data world)"
        )
    task = Task.of(stage, prompts, tuple(SPLITS), k, seed, progress)
    if not any(task.truth.question(prompt) for prompt, _, _ in task.asked):
        raise DataError(
            f"--prompts {prompts}: no question of the world of {stage.folder}, so nobody knows what"
            " the answers violate; name world:SPLIT, or questions of the world"
        )
    drafts = answered(task, k)
    before = shares(draft.found for draft in drafts)
    return {
        **task.about,
        "format_compliance": _compliance(drafts),
        "answers": before["answers"],
        **{f"{name}_before": before[name] for name in FIGURES},
        "by_principle": {n: {"before": share} for n, share in before["by_principle"].items()},
    }


# ------------------------------------------------------------------------- rows, pairs and figures


def _row(draft: Draft) -> Curated:
    """The row of a draft: its prompt and its last revision, with its thoughts."""
    metadata = {"source": draft.source} if draft.source else {}
    messages = [*draft.prompt, turn("assistant", draft.content)]
    marks = {"synthetic": True}
    return Curated(messages, tuple(draft.steps), metadata=metadata, marks=marks)


def _is_changed(draft: Draft) -> bool:
    return draft.text != draft.answer


def _write_pairs(path: Path, changed: list[Draft]) -> int:
    """Write a preference for each of the drafts, equal ones once. Return how many there are. Of no
    drafts no file is made."""
    rows = [
        json.dumps({"prompt": d.prompt, "chosen": d.text, "rejected": d.answer}, ensure_ascii=False)
        for d in changed
    ]
    rows = list(dict.fromkeys(rows))
    if rows:
        disk.replace(path, [f"{row}\n".encode() for row in rows])
    return len(rows)


def _compliance(drafts: list[Draft]) -> float:
    """The share of answers that could be criticised."""
    return sum(not draft.fault for draft in drafts) / len(drafts)


def _figures(kept: list[Draft], principles, critiques: list[Critique]) -> dict:
    """The entries of revise() that the exact judge finds."""
    before, after = shares(d.found for d in kept), shares(d.found_last for d in kept)
    right = critiques_right(critiques)
    names = dict.fromkeys([*(p.name for p in principles), *PRINCIPLES])
    if before["violations"] is None:
        names = dict.fromkeys(p.name for p in principles)
    return {
        "critiques_right": sum(right.values()) / len(right) if right else None,
        "answers": before["answers"],
        **{f"{name}_before": before[name] for name in FIGURES},
        **{f"{name}_after": after[name] for name in FIGURES},
        "by_principle": {
            name: {
                "before": before["by_principle"].get(name),
                "after": after["by_principle"].get(name),
                "critiques_right": right.get(name),
            }
            for name in names
        },
    }
