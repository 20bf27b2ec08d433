"""Expand: from some dozens of written examples to thousands of rows that a teacher writes.

A teacher that has learned its seeds by heart writes them again, and such rows teach nothing new. So
copies are dropped and counted, and a teacher that mostly copies is refused."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pysft.console import command
from pysft.errors import DataError, UsageError
from pysft.jobs.collect import prompts_named, talking_stage
from pysft.jobs.curate.judging import refuse_sealed, truth_of
from pysft.jobs.curate.seeds import exchanges, notes, read_seeds, writable
from pysft.jobs.curate.teachers import CACHE, TOKENS, asker_of, refuse_flags
from pysft.jobs.curate.writers import Try, by_endpoint, by_prompts, by_run
from pysft.measure.endpoint import Asker, BudgetUsed
from pysft.measure.evaluate import MAX_NEW
from pysft.measure.near_copies import NearCopies
from pysft.measure.raters import is_endpoint
from pysft.run.stage import Stage, weights_sha256
from pysft.text.curated import FORM, NO_END, Curated, Stations, refuse_taken, write_curated
from pysft.text.near_duplicates import NEAR
from pysft.text.templates import CHATML

ROWS, MOST_COPIED = 2000, 0.5
COPY, DUPLICATE = "copy of a seed", "duplicate"
TRIES = 4  # for each row that is wanted, at most so many tries
ENOUGH = 100  # rows from which the share of copies is known well enough to stop
HOPELESS = 500  # tries without one new row, after which no more are made


@dataclass(frozen=True)
class Writer:
    """known: who it is, for the metadata of each row. tries: blocks of what it writes. asker: of an
    endpoint. has_world: True for a run that learned an invented world."""

    known: dict
    tries: Iterator[list[Try]]
    asker: Asker | None = None
    has_world: bool = False


def expand(
    seeds: str,
    teacher: str,
    out: Path,
    rows: int = ROWS,
    prompts: str | None = None,
    near: float = NEAR,
    most_copied: float = MOST_COPIED,
    seed: int = 0,
    tokens: int | None = None,
    ops=None,
    model: str | None = None,
    budget: int | None = None,
    cache: str | None = None,
    say: Callable[[str], None] = print,
    progress: Callable[[str, bool], None] = lambda text, last: None,
) -> tuple[dict, Curated]:
    """Let a teacher write rows like the seeds, write them to the file `out`, and return (the --json
    document, the first row).

    seeds    a file of conversations; the first exchange of each counts
    teacher  a run, or the URL of an endpoint
    prompts  as prompts_named() takes them, for a run that only answers; None: it writes them too
    near     from which two texts are near copies (NearCopies)
    most_copied   the largest share of copies
    tokens   most tokens of a turn, or of an endpoint's answer; None: MAX_NEW, or TOKENS
    model, budget, cache   of an endpoint: its model, the most calls, where answers are kept

    The document has that of Stations, in which "read" counts the seeds, and

    wanted     rows
    tries      rows that the teacher wrote or failed to write, up to the last that was looked at
    copied     the share of copies of a seed among the tries that have an end and a form
    distinct_prompts   of the rows
    stopped_by "rows" (there are as many as wanted), "tries" (there were TRIES for each), "prompts"
               (each has had its share), or "budget"
    teacher, seed, out   as they were
    teacher_has_world   True for a run that learned an invented world: new rows may then ask about
               what is sealed, which `curate judge --run TEACHER` drops
    endpoint   of an endpoint alone: the figures of its Asker

    UsageError, MissingInput or a DataError if the seeds, the teacher or a flag cannot be used, if
    the teacher copies more than most_copied, or if it writes no row. Nothing is written then."""
    refuse_taken(out)
    for flag, value in (("--near", near), ("--most-copied", most_copied)):
        if not 0 < value <= 1:
            raise UsageError(f"{flag} {value:g}: expected a share above 0 and at most 1")
    left_out = Counter()
    if is_endpoint(teacher):
        given = (left_out, prompts, model, budget, cache, seed, tokens or TOKENS, say)
        read, found = _endpoint(teacher, seeds, *given)
    else:
        refuse_flags(model, budget, cache)
        given = (left_out, prompts, rows, seed, tokens or MAX_NEW, ops, say)
        read, found = _run(teacher, seeds, *given)
    for note in notes(seeds, read):
        say(note)
    made = _Made(rows, _copies(read, near))
    made.stations.read, made.stations.left_out = len(read), left_out
    made.stopped_by = "tries" if prompts is None else "prompts"
    _collect(made, found, most_copied, seed, progress)
    write_curated(out, made.rows)
    why = {
        "tries": f"there were {TRIES} tries for each row",
        "prompts": "each prompt has had its share of replies",
        "budget": f"the budget of {budget} calls is used up, and the same command with another"
        f" --out goes on from the answers in {cache or CACHE}",
    }
    if made.stopped_by in why:
        say(f"{len(made.rows):,} of {rows:,} rows were written: {why[made.stopped_by]}")
    return {
        **made.stations.to_json(),
        "wanted": rows,
        "tries": made.tries,
        "copied": made.copied,
        "distinct_prompts": len({_key(row.prompt) for row in made.rows}),
        "stopped_by": made.stopped_by,
        "teacher": teacher,
        "teacher_has_world": found.has_world,
        "seed": seed,
        "out": str(out),
        **({} if found.asker is None else {"endpoint": found.asker.figures}),
    }, made.rows[0]


# ------------------------------------------------------------------------------------- the teachers


def _endpoint(
    url: str, path: str, left_out, prompts, model, budget, cache, seed: int, tokens: int, say
) -> tuple[list[Curated], Writer]:
    """Return (the seeds, the teacher) for an endpoint. Errors as expand()."""
    if prompts is not None:
        raise UsageError(
            "--prompts is for a run; an endpoint is shown seeds and writes prompts of its own"
        )
    asker = asker_of(url, model, budget, cache, say)
    seeds = read_seeds(path, CHATML, left_out)
    tries = by_endpoint(asker, [exchanges(row)[0] for row in seeds], seed, tokens)
    return seeds, Writer({"by": url, "model": model}, tries, asker)


def _run(
    teacher: str,
    path: str,
    left_out: Counter,
    prompts: str | None,
    rows: int,
    seed: int,
    tokens: int,
    ops,
    say,
) -> tuple[list[Curated], Writer]:
    """Return (the seeds, the teacher) for a run. Errors as expand()."""
    grade = ("--data", Path(path), "--grade", "everything")
    base = command("train", "--base", teacher, *grade)
    stage = talking_stage(teacher, ops, "--teacher", f"train a teacher: {base}")
    remedy = command("train", "--base", stage.folder, *grade)
    if prompts is None and stage.setting("grade", "all") != "everything":
        raise UsageError(
            f"--teacher {teacher}: {stage.folder} was trained with a mask, so it writes no prompts;"
            f" name some by --prompts, or train it without a mask: {remedy}"
        )
    seeds = [writable(row, stage) for row in read_seeds(path, stage.template, left_out)]
    if prompts is None:
        tries = by_run(stage, seed, tokens)
    else:
        asked = prompts_named(prompts, stage)
        refuse_sealed(((messages, where) for messages, _, where in asked), truth_of(stage))
        tries = by_prompts(stage, asked, -(-rows // len(asked)), seed, tokens)
    if not _learned_from(stage, Path(path)):
        say(
            f"{stage.folder} was trained on another file than {path}; rows that it copies from that"
            " file count as new"
        )
    known = {"by": teacher, "weights_sha256": weights_sha256(stage.model)}
    return seeds, Writer(known, tries, has_world=stage.world is not None)


def _learned_from(stage: Stage, path: Path) -> bool:
    """False if a stage is known to have been trained on other files than this one."""
    if stage.inputs is None or not path.is_file():  # a pipe cannot be read again
        return True
    return hashlib.sha256(path.read_bytes()).hexdigest() in stage.inputs.values()


# ----------------------------------------------------------------------------------------- the rows


@dataclass
class _Made:
    """The rows so far, and what became of the other tries. judged: tries that have an end and a
    form."""

    wanted: int
    copies: NearCopies
    rows: list[Curated] = field(default_factory=list)
    tries: int = 0
    judged: int = 0
    stopped_by: str = ""
    keys: set[str] = field(default_factory=set)
    # Copies come before duplicates: a seed that a teacher writes twenty times is twenty copies.
    stations: Stations = field(default_factory=lambda: Stations(NO_END, FORM, COPY, DUPLICATE))

    @property
    def is_full(self) -> bool:
        """True if there are as many rows as wanted, or too many tries for them."""
        return len(self.rows) == self.wanted or self.tries == TRIES * self.wanted

    @property
    def copied(self) -> float:
        """The share of copies of a seed."""
        return self.stations.dropped[COPY] / max(1, self.judged)

    def take(self, found: Try, known: dict) -> None:
        """Count a try, and keep it if it is a new row. known: what is known of its teacher."""
        self.tries += 1
        if found.fault:
            return self.stations.drop(found.fault)
        self.judged += 1
        row = Curated(found.messages, marks={"synthetic": True})
        key = _key(found.messages)
        if self.copies.of(row.asked, row.reply) is not None:
            self.stations.drop(COPY)
        elif key in self.keys:
            self.stations.drop(DUPLICATE)
        else:
            self.keys.add(key)
            self.rows.append(row.after("expand", **known, number=self.tries, **found.more))
            self.stations.written += 1


def _copies(seeds: list[Curated], near: float) -> NearCopies:
    """What tells the copies of all exchanges of the seeds."""
    every = [(*exchange, row.where) for row in seeds for exchange in exchanges(row)]
    copies = NearCopies([texts for *texts, _ in every], near)
    for prompt, reply, where in every:
        copies.add(prompt, reply, where)
    return copies


def _key(messages: list[dict]) -> str:
    return json.dumps(messages)


def _collect(made: _Made, teacher: Writer, most_copied: float, seed: int, progress) -> None:
    """Let the teacher write until there are enough rows, or until it is stopped. A DataError if it
    copies too much, or writes no row."""
    known = {**teacher.known, "seed": seed}
    try:
        for block in teacher.tries:
            for found in block:
                made.take(found, known)
                if made.is_full:
                    break
            if made.judged >= ENOUGH:
                _refuse_copies(made, teacher, most_copied)
            if made.is_full or (made.tries >= HOPELESS and not made.rows):
                break
            progress(f"{len(made.rows):,} of {made.wanted:,} rows, of {made.tries:,} tries", False)
    except BudgetUsed:
        if not made.rows:
            raise
        made.stopped_by = "budget"
    if len(made.rows) == made.wanted:
        made.stopped_by = "rows"
    _refuse_copies(made, teacher, most_copied)
    if not made.rows:
        counts = ", ".join(f"{n:,} {reason}" for reason, n in made.stations.dropped.items() if n)
        remedy = "" if teacher.asker else "train the teacher longer, or "
        raise DataError(
            f"--teacher {teacher.known['by']}: none of {made.tries:,} tries is a new row"
            f" ({counts}); {remedy}allow longer turns by --tokens"
        )


def _refuse_copies(made: _Made, teacher: Writer, most: float) -> None:
    if made.copied > most:
        remedy = "" if teacher.asker else " train it for fewer steps (--sft-steps),"
        raise DataError(
            f"--teacher {teacher.known['by']}: the teacher copies its seeds ({made.copied:.0%} of"
            f" {made.judged:,} rows) and may copy {most:.0%}; write more seeds,{remedy} or allow"
            " more by --most-copied"
        )
