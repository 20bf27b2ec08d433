"""`curate judge`: keep the rows that stand up to a row of stations, and count the others.

The stations come in the order of REASONS, and a row is dropped at the first that finds fault with
it. So a near copy of a row that was dropped is looked at by itself: its verdict may be another
one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pysft.errors import DataError, UsageError
from pysft.jobs.collect import talking_stage
from pysft.jobs.curate.filters import (
    COPY,
    DUPLICATE,
    LENGTH,
    TOPIC,
    WORDS,
    Limits,
    Station,
    stations_of,
)
from pysft.jobs.curate.judging import NOT_JUDGED, RIGHT, RowJudge, judge_of
from pysft.measure.judges import compared
from pysft.measure.raters import SEALED, Truth
from pysft.run.stage import Stage
from pysft.text.conversation import short
from pysft.text.curated import (
    FORM,
    Curated,
    Stations,
    left_out_words,
    read_curated,
    refuse_taken,
    write_curated,
)
from pysft.text.template import Template
from pysft.text.templates import CHATML
from pysft.world.judge import VERDICTS

UNKNOWN = "unknown question"
FAULTS = tuple(verdict for verdict in VERDICTS if verdict != RIGHT)
REASONS = (
    *(FORM, LENGTH, WORDS, TOPIC, DUPLICATE, COPY),
    *(UNKNOWN, SEALED, *FAULTS, NOT_JUDGED),
)
FEW = 3  # verdicts that a message shows
LOOK = 100  # rows between two lines of progress, where they take no time


def judge(
    path: str,
    out: Path,
    by: str | None = None,
    run: str | None = None,
    limits: Limits | None = None,
    seeds: str | None = None,
    model: str | None = None,
    budget: int | None = None,
    cache: Path | None = None,
    trust: bool = False,
    say: Callable[[str], None] = print,
    progress: Callable[[str, bool], None] = lambda text, last: None,
) -> dict:
    """Filter the rows of a file, write those that stay to the file `out`, and return the --json
    document.

    by: who judges (judge_of()); None judges nothing. run: that whose tokens, context, known words
    and world count. limits: None for the usual ones. seeds: a file of rows that no row may copy.
    trust: keep what a judge calls right that tells right from not right no better than a guess.

    read, written, dropped, left_out   as Stations.to_json(), the reasons in the order in which they
                  are asked
    stations      the reasons that were asked for
    first         {reason: the place of the first row that was dropped for it, and why}
    kept_share    written / read
    out, by       the file, and the name of the judge; None without one
    agreement     None unless a judge of another kind judged questions of the run's world; then, of
                  these, what judges.compared() returns, and "constant": the share of the most
                  frequent exact verdict, with which a judge agrees that always says the same; and
                  "balanced_accuracy": of what is right and of what is not, the share that the judge
                  puts there, and the mean of the two (one alone if the other has no rows)
    endpoint      the figures of the endpoint (Asker); None without one

    UsageError for flags that do not fit. DataError if no row is left, if the judge calls none
    right, or if it may not be trusted; then nothing is written."""
    refuse_taken(out)
    if by is None and (model or budget or trust):
        raise UsageError("--judge-model, --judge-budget and --trust-judge are for --by")
    stage = None if run is None else talking_stage(run, flag="--run")
    judge = None if by is None else judge_of(by, stage, model, budget, cache, say)
    template, spoiled, left_out = stage.template if stage else CHATML, [], Counter()
    rows = read_curated(path, template, spoiled, left_out)
    sown = [] if seeds is None else _sown(seeds, template, say)
    stations, keep = stations_of(rows, limits or Limits(), stage, sown, say)
    stations += _of_world(stage, judge)
    sieve = _Sieve(stations, keep, judge)
    for fault in spoiled:
        sieve.drop(FORM, fault.where, fault.what)
    for number, row in enumerate(rows, 1):
        if number % LOOK == 0 or (judge is not None and not judge.is_exact):
            progress(f"row {number:,} of {len(rows):,}, {len(sieve.kept):,} kept", False)
        sieve.take(row)
    counts, kept = sieve.counts, sieve.kept
    counts.read, counts.written = len(rows) + len(spoiled), len(kept)
    counts.left_out = left_out
    if not kept:
        raise DataError(_nothing_left(path, sieve))
    agreement = None if judge is None or judge.is_exact else agreement_of(judge, sieve.judged)
    if not trust:
        _refuse_guesses(judge, agreement)
    write_curated(out, kept)
    return {
        **counts.to_json(),
        "stations": [reason for reason, _ in stations] + [*FAULTS, NOT_JUDGED] * bool(judge),
        "first": sieve.first,
        "kept_share": counts.written / counts.read,
        "out": str(out),
        "by": judge.by if judge else None,
        "agreement": agreement,
        "endpoint": judge.figures or None if judge else None,
    }


def _sown(path: str, template: Template, say: Callable) -> list[Curated]:
    left_out = Counter()
    rows = read_curated(path, template, left_out=left_out)
    if left_out:
        say(f"{path}: {left_out_words(left_out)}")
    return rows


class _Sieve:
    """What became of the rows so far. kept: with the step of this job. judged: [(row, verdict)].
    first: as in the document of judge()."""

    def __init__(self, stations: list[Station], keep: Callable, judge: RowJudge | None):
        self.counts, self.first, self.kept, self.judged = Stations(*REASONS), {}, [], []
        self._stations, self._keep, self.judge = stations, keep, judge

    def drop(self, reason: str, where: str, why: str) -> None:
        self.counts.drop(reason)
        self.first.setdefault(reason, f"{where}: {why}")

    def take(self, row: Curated) -> None:
        """Let a row pass the stations and then the judge, up to the first that drops it."""
        for reason, test in self._stations:
            why = test(row)
            if why is not None:
                return self.drop(reason, row.where, why)
        name, verdict = None, None
        if self.judge is not None:
            name, verdict = self.judge.by, self.judge(row.prompt, row.reply)
            self.judged.append((row, verdict))
            if verdict != RIGHT:
                return self.drop(verdict or NOT_JUDGED, row.where, _shown(row))
        self._keep(row)
        self.kept.append(row.after("judge", by=name, verdict=verdict))


def _of_world(stage: Stage | None, judge: RowJudge | None) -> list[Station]:
    """The stations that ask whether a prompt may be judged, for the exact judge alone, and whether
    it may be trained on, for every run that learned a world."""
    if stage is None or stage.world is None:
        return []
    truth = judge.truth if judge else Truth(stage.world)

    def unknown(row):
        return _shown(row) if truth.question(row.prompt) is None else None

    def sealed(row):
        return _shown(row) if truth.is_sealed(row.prompt) else None

    return [(UNKNOWN, unknown)] * bool(judge and judge.is_exact) + [(SEALED, sealed)]


def _shown(row: Curated) -> str:
    return f"{short(row.asked)} -> {short(row.reply)}"


# ------------------------------------------------------------------------------- may it be trusted?


def agreement_of(judge: RowJudge, judged: list[tuple[Curated, str | None]]) -> dict | None:
    """Return how far a judge agrees with the exact one, as judge() describes it; None if it judged
    no question that the exact judge knows. judged: rows with its verdicts."""
    known = [(row, v) for row, v in judged if judge.question(row.prompt) is not None]
    if not any(verdict for _, verdict in known):
        return None
    verdicts = iter([verdict for _, verdict in known])
    asked = [
        {
            "prompt": row.asked,
            "answer": "",
            "reply": row.reply,
            "stop": "end",
            "verdict": judge.exact(row.prompt, row.reply),
        }
        for row, _ in known
    ]
    exact = [row["verdict"] for row in asked]
    pairs = [(e, v) for e, (_, v) in zip(exact, known) if v is not None]
    constant = max(Counter(e for e, _ in pairs).values()) / len(pairs)
    return {
        **compared(lambda *texts: next(verdicts), asked),
        "constant": constant,
        "balanced_accuracy": _balanced(pairs),
    }


def _balanced(pairs: list[tuple[str, str]]) -> float:
    """The balanced accuracy with which a judge tells right from not right: this decides what is
    kept, and it is 50% for a judge that always says the same, however many rows are right. pairs:
    [(exact verdict, the judge's)]."""
    found = []
    for is_right in (True, False):
        some = [(v == RIGHT) == is_right for e, v in pairs if (e == RIGHT) == is_right]
        found += [sum(some) / len(some)] if some else []
    return sum(found) / len(found)


def _refuse_guesses(judge: RowJudge | None, agreement: dict | None) -> None:
    """Raise a DataError if a judge tells right from not right no better than a guess."""
    if agreement is None or agreement["balanced_accuracy"] > 0.5:
        return
    raise DataError(
        f"{judge.by} tells right from not right no better than a guess (balanced accuracy"
        f" {agreement['balanced_accuracy']:.1%} on the {agreement['judged']:,} replies that the"
        " exact judge judged too); choose another judge, or give --trust-judge"
    )


def _nothing_left(path: str, sieve: _Sieve) -> str:
    if sieve.judged:
        some = [(verdict or "no verdict", row) for row, verdict in sieve.judged[:FEW]]
        said = "; ".join(f"{verdict} of {_shown(row)}" for verdict, row in some)
        return (
            f"{sieve.judge.by} calls not one of {len(sieve.judged):,} rows right, so nothing was"
            f" written; it said {said}"
        )
    counts = sieve.counts
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in counts.dropped.items() if n)
    return (
        f"{path}: not one of its {counts.read:,} rows is left ({dropped}), so nothing was written;"
        " python -m pysft curate judge --help lists the flags that loosen a station"
    )
