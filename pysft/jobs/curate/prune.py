"""`curate prune`: keep the hardest share of rows.

How hard a row is, somebody must say:

world, FILE.py, URL   a run writes k replies to its prompt at temperature 1, and the judge of that
                      name says which are right. The difficulty is the share that is not
loss                  the mean loss of the row's reply in nats per graded token
random                nobody: the order is drawn. This control belongs beside every pruning, because
                      fewer rows alone change what is learned. Of the map of a pruning, it is drawn
                      from the rows that could be judged there. With a run, it is drawn from the
                      rows that the run can answer

difficulty.py says what a loss is under a base, which knows no template."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np

from pysft import disk
from pysft.errors import DataError, UsageError
from pysft.jobs.collect import talking_stage
from pysft.jobs.curate.difficulty import answerable, losses, right_replies
from pysft.jobs.curate.judging import (
    NOT_JUDGED,
    RowJudge,
    judge_of,
    refuse_sealed,
    truth_of,
)
from pysft.rng import rng
from pysft.run.stage import Stage, load_stage
from pysft.run.tree import named_base
from pysft.text.curated import Curated, Stations, read_curated, refuse_taken, write_curated
from pysft.text.sampled import MOST
from pysft.text.templates import CHATML

LOSS, RANDOM = "loss", "random"
K = 8  # replies to a prompt
EASIER, HARDER, NOT_DRAWN = "easier", "harder", "not drawn"


@dataclass(frozen=True)
class Order:
    """What is kept, and who says how hard a row is.

    keep: the share of the rows, above 0 and at most 1. by: LOSS, RANDOM, or a judge (judge_of()).
    run: the run that answers, or whose loss counts; by RANDOM the one that must be able to answer,
    None for no such condition. base: the base whose loss counts. k: replies to
    a prompt, None for K. easiest: keep the other end. model, budget, cache: of an endpoint. A
    UsageError for values that are not possible or do not fit together."""

    keep: float
    by: str = "world"
    run: str | None = None
    base: str | None = None
    k: int | None = None
    easiest: bool = False
    seed: int = 0
    model: str | None = None
    budget: int | None = None
    cache: Path | None = None

    def __post_init__(self):
        if not 0 < self.keep <= 1:
            raise UsageError(f"--keep {self.keep}: expected a share above 0 and at most 1")
        if self.k is not None and not 1 <= self.k <= MOST:
            raise UsageError(f"-k {self.k}: expected 1 to {MOST} replies to each prompt")
        if not self.is_judged:
            if self.k is not None:
                raise UsageError(f"-k is the number of replies to judge; --by {self.by} has none")
            if self.model or self.budget:
                raise UsageError("--judge-model and --judge-budget are for the URL of an endpoint")
        if self.by == RANDOM and (self.base or self.easiest):
            raise UsageError("--by random draws; leave --base and --easiest out")
        if self.by == LOSS and (self.run is None) == (self.base is None):
            raise UsageError(
                "--by loss needs the model whose loss counts: --base RUN, or --run RUN for one that"
                " talks"
            )
        if self.is_judged and self.run is None:
            raise UsageError(f"--by {self.by} needs the run that answers the prompts: --run RUN")
        if self.is_judged and self.base is not None:
            raise UsageError("--base is for --by loss; --run names the run that answers")

    @property
    def is_judged(self) -> bool:
        return self.by not in (LOSS, RANDOM)

    @property
    def model_run(self) -> str | None:
        """The run or the base that decides how hard a row is."""
        return self.base or self.run


def prune(
    path: str,
    out: Path,
    order: Order,
    table: Path | None = None,
    ops=None,
    say: Callable[[str], None] = print,
    progress: Callable[[str, bool], None] = lambda text, last: None,
) -> dict:
    """Keep the hardest share of the rows of a file, write them to `out` in their order, and return
    the --json document. table: a file to write every row to, with its difficulty.

    read, written, dropped, left_out   as Stations.to_json(). "easier": than the rows that were
                  kept; with order.easiest they are "harder", and by random "not drawn". "not
                  judged": nobody can say how hard they are (right_replies(), losses())
    out, map      the files
    keep, by, k, seed   as in the order; by is the name of the judge, and k None if none judges
    difficulty    {"mean": of all rows that have one, "of_kept"}; None by random
    histogram     rows with 0, 1, ..., k right replies; None unless a judge judges
    endpoint      the figures of the endpoint (Asker); None without one

    As many rows are kept as the share is of the rows read, so that the control by random keeps as
    many. Ties are broken by the seed. A UsageError if that is less than one row. A DataError if no
    row has a difficulty, if all are equally hard and some would be dropped, or if one asks about
    what is sealed in the run's world."""
    refuse_taken(out)
    if table is not None:
        refuse_taken(table, "--map", out)
    stage = _stage_of(order, ops)
    judge = None
    if order.is_judged:
        judge = judge_of(order.by, stage, order.model, order.budget, order.cache, say)
    template, left_out = stage.template if stage and stage.can_talk else CHATML, Counter()
    rows = read_curated(path, template, left_out=left_out)
    count = int(order.keep * len(rows) + 1e-9)
    if count < 1:
        raise UsageError(
            f"--keep {order.keep:g}: less than one of the {len(rows):,} rows of {path} would be"
            f" left; keep {ceil(1e6 / len(rows)) / 1e6:g} or more"
        )
    truth = judge.truth if judge else truth_of(stage)
    remedy = "curate judge --run RUN drops such rows"
    refuse_sealed(((row.prompt, row.where) for row in rows), truth, remedy)
    k, right, heard = (order.k or K if judge else None), None, Counter()
    drawn = order.by == RANDOM
    if judge is not None:
        right = right_replies(rows, stage, judge, k, order.seed, say, progress, heard)
        difficulty = [None if n is None else 1 - n / k for n in right]
    elif drawn:
        difficulty = _drawn(rows, stage, say)
    else:
        difficulty = losses(rows, stage, say, progress)
    kept = _hardest(difficulty, count, order)
    if not kept:
        raise DataError(
            f"{path}: not one of its {len(rows):,} rows could be judged, so nothing was written"
        )
    if not drawn:
        _refuse_equal(path, [d for d in difficulty if d is not None], count, judge, heard)
    name = judge.by if judge else order.by
    stepped = [
        row.after("prune", by=name, difficulty=None if drawn else d, k=k, run=order.model_run)
        for row, d in zip(rows, difficulty)
    ]
    _write(stepped, kept, out, table)
    known = sum(d is not None for d in difficulty)
    return {
        **_counts(order, len(rows), known, len(kept), left_out).to_json(),
        "out": str(out),
        "map": None if table is None else str(table),
        "keep": order.keep,
        "by": name,
        "k": k,
        "seed": order.seed,
        "difficulty": None if drawn else _means(difficulty, kept),
        "histogram": right and [right.count(n) for n in range(k + 1)],
        "endpoint": judge.figures or None if judge else None,
    }


def _stage_of(order: Order, ops) -> Stage | None:
    """The stage that answers, or whose loss counts; None by random without a run."""
    if order.base is None:
        return None if order.run is None else talking_stage(order.run, ops, "--run")
    stage = load_stage(named_base(order.base), ops)
    if not stage.model.config.has_nll:
        raise UsageError(f"--base {order.base}: a reward model, which gives no text a loss")
    if stage.can_talk:
        raise UsageError(f"--base {order.base}: {stage.folder} talks; name it by --run")
    return stage


# ----------------------------------------------------------------------------------- what is kept


def _drawn(rows: list[Curated], stage: Stage | None, say: Callable) -> list[float | None]:
    """The same number for each row that may be drawn, so that the seed decides. None for a row of a
    map that could not be judged there, and for one that the stage cannot answer."""
    fits = [not _is_unjudged(row) for row in rows]
    if not all(fits):
        first = rows[fits.index(False)].where
        say(f"{fits.count(False):,} of {len(rows):,} rows were not judged; the first is {first}")
    if stage is not None:
        fits = [fit and can for fit, can in zip(fits, answerable(rows, stage, say))]
    return [0.0 if fit else None for fit in fits]


def _is_unjudged(row: Curated) -> bool:
    """True for a row of a map if the last pruning by difficulty could not say how hard it is."""
    prunings = [s for s in row.steps if s["step"] == "prune" and s.get("by") != RANDOM]
    return bool(prunings) and prunings[-1].get("difficulty", 0) is None


def _refuse_equal(
    path: str, known: list[float], count: int, judge: RowJudge | None, heard: Counter
) -> None:
    """Raise a DataError if rows must be chosen and all are equally hard: then none is hardest.
    heard: the verdicts of the judge."""
    if count >= len(known) or len(set(known)) > 1:
        return
    if judge is None:
        said = f"the loss of each is {known[0]:.3g}"
    else:
        verdicts = (f"{verdict or NOT_JUDGED} of {n:,}" for verdict, n in heard.most_common())
        said = f"{judge.by} said {', '.join(verdicts)} of {heard.total():,} replies"
    raise DataError(
        f"{path}: all of the {len(known):,} rows that could be judged are equally hard, so none is"
        f" hardest, and nothing was written: {said}. Take another judge or run, or draw rows by"
        " --by random"
    )


def _hardest(difficulty: list[float | None], count: int, order: Order) -> list[int]:
    """The rows that are kept, rising: `count` of them, or fewer if fewer have a difficulty."""
    draws = rng(order.seed, "prune", "random" if order.by == RANDOM else "ties")
    ties = draws.permutation(len(difficulty)).tolist()
    sign = 1 if order.easiest else -1
    known = [i for i, d in enumerate(difficulty) if d is not None]
    return sorted(sorted(known, key=lambda i: (sign * difficulty[i], ties[i]))[:count])


def _means(difficulty: list[float | None], kept: list[int]) -> dict:
    known = [d for d in difficulty if d is not None]
    return {
        "mean": float(np.mean(known)),
        "of_kept": float(np.mean([difficulty[i] for i in kept])),
    }


def _counts(order: Order, rows: int, known: int, kept: int, left_out: Counter) -> Stations:
    reason = NOT_DRAWN if order.by == RANDOM else HARDER if order.easiest else EASIER
    counts = Stations(EASIER, HARDER, NOT_DRAWN, NOT_JUDGED)
    counts.read, counts.written, counts.left_out = rows, kept, left_out
    counts.dropped |= {reason: known - kept, NOT_JUDGED: rows - known}
    return counts


def _write(rows: list[Curated], kept: list[int], out: Path, table: Path | None) -> None:
    """Write the rows that were kept, and all of them to the map. They have their last step."""
    chosen = set(kept)
    if table is not None:
        lines = []
        for i, row in enumerate(rows):
            *before, own = row.steps
            marked = replace(row, steps=(*before, {**own, "kept": i in chosen})).to_row()
            lines.append(
                json.dumps({**marked, "difficulty": own["difficulty"]}, ensure_ascii=False)
            )
        disk.replace(table, [(line + "\n").encode() for line in lines])
    write_curated(out, [rows[i] for i in kept])
