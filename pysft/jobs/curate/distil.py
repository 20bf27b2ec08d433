"""Distil a teacher: it answers each prompt some times, with a thought, and what a judge finds right
is kept, so that a student can be trained on thoughts that led to a right answer.

DeepSeek-R1 (2025) trains small models on such traces of a large one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pysft.errors import DataError, UsageError
from pysft.jobs.collect import WORLD, asked_by_name
from pysft.jobs.curate.judging import NOT_JUDGED, RIGHT, RowJudge, judge_of, refuse_sealed
from pysft.jobs.curate.teachers import (
    MALFORMED,
    NO_THOUGHT,
    Draft,
    Teacher,
    teacher_named,
)
from pysft.run.stage import Stage, load_stage
from pysft.text.conversation import with_thought
from pysft.text.curated import NO_END, Curated, Stations, refuse_taken, write_curated
from pysft.text.sampled import MOST

NO_FIT = "does not fit"
REASONS = (NO_FIT, NO_THOUGHT, NO_END, "wrong", "refused", MALFORMED, NOT_JUDGED)


def distil(
    prompts: str,
    teacher: str,
    judge: str,
    out: Path,
    k: int = 4,
    seed: int = 0,
    run: str | None = None,
    ops=None,
    teacher_model: str | None = None,
    teacher_budget: int | None = None,
    teacher_cache: str | None = None,
    judge_model: str | None = None,
    budget: int | None = None,
    cache: Path = Path("judged"),
    every: bool = False,
    answers_only: bool = False,
    say: Callable[[str], None] = print,
    progress: Callable[[str, bool], None] = lambda text, last: None,
) -> dict:
    """Let a teacher write k replies to each prompt, write the right ones to the file `out`, and
    return the --json document.

    prompts: a file, or "world:SPLIT" for questions of a world. teacher: a run's folder or the URL
    of an endpoint. judge: as judge_of() takes it. run: the run whose world is asked; None is the
    teacher, if it is a run. teacher_model, teacher_budget, teacher_cache: of a teacher's endpoint,
    as asker_of() takes them. judge_model, budget, cache: of a judge's, as judge_of() does. every:
    write all different right replies, not the first of each prompt.
    answers_only: write the same rows without their thoughts.

    read        prompts
    written     rows
    dropped     {reason: prompts without a row}: what was wrong with most of their replies
    replies     {"right" or a reason: replies}
    right       share of the replies that are right
    tries, seed, teacher, judge, out   as they were

    A UsageError if the arguments do not fit together. A DataError if no prompt can be asked, if one
    is a sealed question, or if no reply is right; no file is then written. Errors of the
    endpoints."""
    if not 1 <= k <= MOST:
        raise UsageError(f"-k {k}: expected 1 to {MOST} replies to each prompt")
    refuse_taken(out)
    by = teacher_named(teacher, teacher_model, teacher_budget, teacher_cache, ops, say)
    stage = _of_world(run, by.run, ops)
    grader = judge_of(judge, stage, judge_model, budget, cache, say, "--judge")
    is_of_world = prompts.partition(":")[0] == WORLD
    if is_of_world and run is None and by.run is None:
        raise UsageError(f"{prompts}: name the run whose world is asked: --run RUN")
    world = stage.world if stage else None
    asked = asked_by_name(prompts, by.template, world, run or teacher)
    fit, stations = _readable(asked, by, grader), Stations(*REASONS)
    stations.read, stations.dropped[NO_FIT] = len(asked), len(asked) - len(fit)
    drafts = by.write([messages for messages, _ in fit], k, seed, progress)
    figures = {"by": teacher, **by.marks, "seed": seed, "tries": k}
    rows, counts = [], Counter()
    for number, ((messages, source), some) in enumerate(zip(fit, drafts), 1):
        outcomes = _outcomes(messages, some, grader)
        counts.update(outcomes)
        right = [draft for draft, outcome in zip(some, outcomes) if outcome == RIGHT]
        if not right:
            stations.drop(Counter(outcomes).most_common(1)[0][0])
        for draft in dict.fromkeys(right if every else right[:1]):
            row = _row(messages, source, draft, answers_only)
            rows.append(row.after("distil", **figures, right=len(right)))
        progress(f"judged: replies to {number:,} of {len(fit):,} prompts", number == len(fit))
    total = sum(counts.values())
    if not rows:
        found = ", ".join(f"{n:,} {outcome}" for outcome, n in counts.most_common())
        raise DataError(
            f"{judge}: none of {total:,} replies of {teacher} is right (0%; {found}), so there is"
            " nothing to write. Ask what the teacher knows, or train it longer"
        )
    stations.written = len(rows)
    write_curated(out, rows)
    replies = {name: counts[name] for name in (RIGHT, *REASONS[1:])}
    return {
        **stations.to_json(),
        "replies": replies,
        "right": counts[RIGHT] / total,
        **{"tries": k, "seed": seed, "teacher": teacher, "judge": judge, "out": str(out)},
    }


def _of_world(run: str | None, teacher: Stage | None, ops) -> Stage | None:
    """The stage whose world is asked: that of the run that is named, else the teacher's. A
    UsageError if a run that is named learned no world."""
    if run is None:
        return teacher
    stage = load_stage(run, ops)
    if stage.world is None:
        raise UsageError(f"--run {run}: it learned no invented world (train --data world)")
    return stage


def _readable(asked, by: Teacher, judge: RowJudge) -> list[tuple[list[dict], str]]:
    """[(messages, source)] of the prompts that the teacher can read. A DataError if there is none,
    if one is sealed (refuse_sealed()), or if the exact judge should grade one that is no
    question."""
    refuse_sealed(((messages, where) for messages, _, where in asked), judge.truth)
    found, fault = [], None
    for messages, source, where in asked:
        if judge.is_exact:
            judge.truth.about(messages)
        try:
            found.append((by.read(messages, where), source))
        except DataError as error:
            fault = fault or error
    if not found:
        raise DataError(f"the teacher can read none of {len(asked):,} prompts. The first: {fault}")
    return found


def _outcomes(prompt: list[dict], drafts: list[Draft], judge: RowJudge) -> list[str]:
    """What became of each reply to a prompt. Equal answers are judged once."""
    answers = dict.fromkeys(d.answer for d in drafts if not d.fault)
    verdicts = {answer: judge(prompt, answer) or NOT_JUDGED for answer in answers}
    return [draft.fault or verdicts[draft.answer] for draft in drafts]


def _row(messages: list[dict], source: str, draft: Draft, answers_only: bool) -> Curated:
    content = with_thought("" if answers_only else draft.thought, draft.answer)
    reply = {"role": "assistant", "content": content}
    metadata = {"source": source} if source else {}
    return Curated([*messages, reply], metadata=metadata, marks={"synthetic": True})
