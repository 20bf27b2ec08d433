"""Which checkpoint of a fine-tuning is best: by each measurement, and by a person who reads replies
blind.

    RUN/sft/measurements.jsonl  one line a checkpoint, written by training; step 0 is the model
                                before the first step
    RUN/sft/ratings.jsonl       one line a mark, only ever added to; a line with mark null takes the
                                mark back

Units are those of evaluate.py: losses in nats, shares from 0 to 1. A mark is a whole number from 1
to 5."""

import json
import secrets
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from pysft.errors import DataError, MissingInput, UsageError
from pysft.rng import rng

FIGURES = (
    "sft_loss",
    "heldout_loss",
    "format_compliance",
    "on_topic",
    "on_topic_chance",
    "forgetting",
    "recall",
)
SCALE = """Replies of {} checkpoints, shuffled; whose they are is said at the end. Give each a mark from 1 to 5:
  1 nonsense   2 words, but no answer   3 an answer of sorts   4 a good answer   5 what I would have wanted
s skips, u takes back the last mark, q stops. Every mark is kept at once, so stopping loses none."""


class Criterion(NamedTuple):
    says: str  # what its best checkpoint has
    better: str  # "low" or "high"
    value: Callable[[dict], float | None]  # of a row of `select`; None where it was not measured
    form: str  # how a value is shown
    warning: str = ""  # why not to choose by it alone


def _above_chance(row):
    rate, chance = row.get("on_topic"), row.get("on_topic_chance")
    return (
        None if rate is None or chance is None else round(rate - chance, 12)
    )  # rounding must not break a tie


CRITERIA = {
    "held-out loss": Criterion(
        "the least loss on conversations never trained on",
        "low",
        lambda row: row.get("heldout_loss"),
        "{:.3f}",
    ),
    "format compliance": Criterion(
        "the most replies that have content and end as they should",
        "high",
        lambda row: row.get("format_compliance"),
        "{:.1%}",
    ),
    "on-topic above chance": Criterion(
        "the most replies on their prompt's subject, beyond luck", "high", _above_chance, "{:+.1%}"
    ),
    "forgetting": Criterion(
        "the base text's loss has risen least", "low", lambda row: row.get("forgetting"), "{:+.1%}"
    ),
    "recall": Criterion(
        "the most trained pairs answered word for word",
        "high",
        lambda row: row.get("recall"),
        "{:.1%}",
    ),
    "training loss": Criterion(
        "the least loss on the training data",
        "low",
        lambda row: row.get("sft_loss"),
        "{:.3f}",
        "; the source text warns against choosing by it",
    ),
    "person's marks": Criterion(
        "the best mean mark by a blind reader", "high", lambda row: row.get("mark"), "{:.2f}"
    ),
}


# ----------------------------------------------------------------------------------------- select


def read_measurements(stage_folder) -> list[dict]:
    """The checkpoints' rows by rising step, up to the first line that a crash cut off; of a step
    measured again the later one. MissingInput if no checkpoint above step 0 is there, DataError if
    a value is of another kind."""
    path, rows = Path(stage_folder) / "measurements.jsonl", {}
    if not path.is_file():
        raise MissingInput(
            f"{path}: missing; training writes it beside the checkpoints it keeps; train anew,"
            " keeping some"
        )
    for n, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            break
        wrong = [f for f in FIGURES if type(row.get(f)) not in (int, float, type(None))]
        if wrong:
            raise DataError(
                f"{path}, line {n}: {wrong[0]} is {row[wrong[0]]!r}, expected a number or null;"
                " train anew"
            )
        samples = row.setdefault("samples", [])
        if not isinstance(samples, list) or any(
            type(s) is not list or [*map(type, s)] != [str] * 3 for s in samples
        ):
            raise DataError(
                f"{path}, line {n}: samples is not a list of [prompt, reply, stop]; train anew"
            )
        rows[row["step"]] = row
    if max(rows, default=0) < 1:
        raise MissingInput(
            f"{path}: no checkpoint above step 0 to choose; train further, or keep checkpoints more"
            " often"
        )
    return [rows[step] for step in sorted(rows)]


def select(rows: list[dict], marks: dict[int, list[int]] | None = None) -> dict:
    """What each criterion picks among the checkpoints above step 0, fit for JSON:

    criteria   name -> step (the earliest of the best; null where nothing was measured), value, ties
               (the later steps that
               are exactly as good)
    agree      [{"step", "criteria"}]: the step that is best, tied or alone, by the most criteria,
               and these (the earliest
               of several; a criterion with a warning does not count); then the same of the criteria
               left over, and so on
    disagree   whether no one step is best by every criterion that was measured
    rows       as they came by rising step, with mark (the mean, or null) and marks (how many)"""

    def complete(row):
        given = (marks or {}).get(row["step"], [])
        row = {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in row.items()}
        return row | {"mark": fmean(given) if given else None, "marks": len(given)}

    rows = [complete(row) for row in sorted(rows, key=lambda row: row["step"])]
    criteria, left, agree = {}, {}, []
    for name, c in CRITERIA.items():
        values = {
            row["step"]: c.value(row)
            for row in rows
            if row["step"] > 0 and c.value(row) is not None
        }
        value = (min if c.better == "low" else max)(values.values(), default=None)
        best = [step for step, v in values.items() if v == value]
        criteria[name] = {"step": best[0] if best else None, "value": value, "ties": best[1:]}
        if best:
            left[name] = best
    while left:  # a tie is no disagreement: compliance of 100 % from step 100 on has nothing against step 900
        step = max(
            sorted(set().union(*left.values())),
            key=lambda s: sum(
                s in best and not CRITERIA[name].warning for name, best in left.items()
            ),
        )
        agree.append(
            {"step": step, "criteria": [name for name, best in left.items() if step in best]}
        )
        left = {name: best for name, best in left.items() if step not in best}
    return {"criteria": criteria, "agree": agree, "disagree": len(agree) > 1, "rows": rows}


def table(choice: dict, stage_folder) -> str:
    """What `select` found, for the terminal: a line a checkpoint, a line a criterion, and what
    follows from them."""
    heads = {name: ([""] + name.split(" ", 1))[-2:] for name in CRITERIA}
    widths = {name: max(7, *map(len, head)) for name, head in heads.items()}
    lines = [
        f"{first:>6} " + " ".join(f"{heads[name][i]:>{w}}" for name, w in widths.items())
        for i, first in enumerate(["", "step"])
    ]
    for row in choice["rows"]:
        cells = [
            f"{'-' if c.value(row) is None else c.form.format(c.value(row)):>{widths[name]}}"
            + ("*" if choice["criteria"][name]["step"] == row["step"] else " ")
            for name, c in CRITERIA.items()
        ]
        lines.append(f"{row['step']:>6} " + "".join(cells).rstrip())
    lines.append("")
    counts = ", ".join(f"{row['marks']} at {row['step']}" for row in choice["rows"] if row["marks"])
    for name, c in CRITERIA.items():
        step, ties = choice["criteria"][name]["step"], choice["criteria"][name]["ties"]
        what = c.says + (f" (as at {', '.join(map(str, ties))})" if ties else "") + c.warning
        what += f"; marks: {counts}" if name == "person's marks" else ""
        lines.append(
            f"{name:<22} -           not measured"
            if step is None
            else f"{name:<22} {f'step {step}':<11} {what}"
        )
    if not choice["agree"]:
        return "\n".join(
            [*lines, "", "Nothing was measured that could tell the checkpoints apart."]
        )
    most, *others = choice["agree"]
    said = f"Step {most['step']} is the best, or as good as the best, by all that was measured."
    if others:
        parts = [
            f"{' and '.join(g['criteria'])} pick{'s' * (len(g['criteria']) == 1)} step {g['step']}"
            for g in sorted(others, key=lambda g: g["step"])
        ]
        rest = "everything else" if len(most["criteria"]) > 1 else most["criteria"][0]
        said = f"They disagree: {', '.join(parts)}, {rest} step {most['step']}."
    step = (
        choice["criteria"]["person's marks"]["step"] or most["step"]
    )  # a reader outweighs the figures
    return "\n".join(
        [
            *lines,
            "",
            said,
            f"Talk to step {step} before you choose it: python -m pysft chat "
            + shlex.quote(str(Path(stage_folder) / "steps" / str(step))),
        ]
    )


# ------------------------------------------------------------------------------------------- rate


class Item(NamedTuple):
    """One reply to be marked, and the checkpoints that gave exactly this one, ended in this way."""

    prompt: str
    reply: str
    steps: list[int]
    stop: str


def default_steps(rows: list[dict]) -> list[int]:
    """Up to four: those that the measurements pick, the most agreed on first; then whichever lie
    farthest from these."""
    steps = [row["step"] for row in rows if row["step"] > 0]
    chosen = [group["step"] for group in select(rows)["agree"]][:4]
    while len(chosen) < min(4, len(steps)):
        chosen.append(max(steps, key=lambda s: min((abs(s - c) for c in chosen), default=0)))
    return sorted(chosen)


def plan_ratings(rows: list[dict], steps: list[int], prompts: list[str], seed: int) -> list[Item]:
    """The replies of these steps to these prompts, each different one once, in an order that the
    seed decides."""
    found = {}
    for row in rows:
        for prompt, reply, stop in row.get("samples", []) if row["step"] in steps else []:
            if prompt in prompts:
                found.setdefault((prompt, reply, stop), {})[row["step"]] = True
    items = [Item(prompt, reply, sorted(by), stop) for (prompt, reply, stop), by in found.items()]
    return [items[i] for i in rng(seed, "lab", "rate").permutation(len(items))]


def rate(
    stage_folder,
    steps: list[int] | None = None,
    count: int = 10,
    seed: int | None = None,
    ask: Callable[[str], str] = input,
    say: Callable[[str], None] = print,
) -> dict:
    """Let a person mark the stored replies of several checkpoints (default: `default_steps`) to
    `count` prompts, blind.

    What has a mark already comes last, prompts and replies alike, so a session goes on where one
    before it stopped. It ends after the last reply, with q, with the input or by an interrupt, and
    only then says whose the marks were. ratings: the file. seed: of the order (default: a new one).
    marked: in this session. left: its replies without a mark. steps: [{"step", "mean", "marks",
    "spread"}] of all marks ever; spread is their standard deviation, null below two."""
    folder = Path(stage_folder)
    rows = {row["step"]: row for row in read_measurements(folder)}
    steps = sorted(
        set(
            default_steps([row for row in rows.values() if row["samples"]])
            if steps is None
            else steps
        )
    )
    for step in steps:
        if step not in rows:
            raise UsageError(
                f"{folder}: step {step} was not measured; choose among {', '.join(map(str, rows))}"
            )
    asked = [[prompt for prompt, _, _ in rows[step]["samples"]] for step in steps]
    common = [p for p in dict.fromkeys(sum(asked, [])) if all(p in prompts for prompts in asked)]
    if not common:
        raise MissingInput(
            f"{folder}: no replies of these checkpoints to the same prompt are stored; choose"
            " others, or train anew, keeping samples"
        )
    seed = secrets.randbits(31) if seed is None else seed
    given = _latest(folder)

    def rated(item):
        mark, by = given.get((item.prompt, item.reply, item.stop), (None, set()))
        return mark is not None and by >= set(item.steps)

    # The first prompts are trained on and the last unseen: multiples of the golden ratio take of
    # both, however few.
    spread = sorted(common, key=lambda p: common.index(p) * 0.6180339887 % 1)
    prompts = sorted(
        spread, key=lambda p: all(map(rated, plan_ratings(rows.values(), steps, [p], seed)))
    )[:count]
    items = sorted(plan_ratings(rows.values(), steps, prompts, seed), key=rated)
    say(SCALE.format(len(steps)))
    if before := sum(map(rated, items)):
        say(
            f"{before} of these {len(items)} have a mark already; they come last, and a new mark"
            " replaces the old one."
        )
    done = _session(folder, items, seed, ask, say)
    given, marks = _latest(folder), read_marks(folder)
    summary = [
        {
            "step": s,
            "mean": fmean(m) if m else None,
            "marks": len(m),
            "spread": stdev(m) if len(m) > 1 else None,
        }
        for s in steps
        for m in [marks.get(s, [])]
    ]
    say(
        f"\nMarks given: {done}. The checkpoints, with all the marks that they have:\n  step   mean"
        "  marks  spread"
    )
    for r in summary:
        mean, spread = ("-" if r[k] is None else f"{r[k]:.2f}" for k in ("mean", "spread"))
        say(f"{r['step']:>6} {mean:>6} {r['marks']:>6}  {spread:>6}")
    return {
        "ratings": str(folder / "ratings.jsonl"),
        "seed": seed,
        "marked": done,
        "left": sum(not rated(i) for i in items),
        "steps": summary,
    }


def _session(folder, items, seed, ask, say) -> int:
    """Ask for the marks; how many were given and not taken back."""
    i, done, shown = 0, [], None
    try:
        while i < len(items):
            if shown != i:
                say(
                    f"\n{i + 1} of {len(items)}\nyou> {items[i].prompt}\nbot>"
                    f" {items[i].reply or '(nothing)'}"
                    + ("" if items[i].stop == "end" else " [no end token]")
                )
                shown = i
            said = ask("mark> ").strip().lower()
            if said in ("1", "2", "3", "4", "5"):
                _append(folder, items[i], int(said), seed)
                done.append(i)
                i += 1
            elif said == "s":
                i += 1
            elif said == "u" and done:
                i = done.pop()
                _append(folder, items[i], None, seed)
            elif said == "q":
                break
            else:
                say(
                    "There is no mark of this session to take back."
                    if said == "u"
                    else "A mark is 1, 2, 3, 4 or 5; s skips, u takes back the last mark, q stops."
                )
    except (EOFError, KeyboardInterrupt):
        say("")
    return len(done)


def _append(folder, item, mark, seed):
    path = folder / "ratings.jsonl"
    torn = path.is_file() and path.read_bytes()[-1:] not in (
        b"",
        b"\n",
    )  # a crash's half line must not spoil this one
    line = {
        **item._asdict(),
        "mark": mark,
        "seed": seed,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with open(path, "a", encoding="utf-8") as f:
        f.write("\n" * torn + json.dumps(line) + "\n")


def _latest(folder) -> dict:
    """(prompt, reply, stop) -> (its last mark, None if that was taken back; every step known to
    have given the reply). A line that is not whole costs itself only."""
    found, path = {}, Path(folder) / "ratings.jsonl"
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            key, mark, steps = (
                (row["prompt"], row["reply"], row.get("stop", "end")),
                row["mark"],
                set(row["steps"]),
            )
            if mark in (None, 1, 2, 3, 4, 5) and all(type(s) is int for s in steps):
                found[key] = mark, steps | found.get(key, (None, set()))[1]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return found


def read_marks(stage_folder) -> dict[int, list[int]]:
    """step -> the marks that its replies have now, by rising step; {} where nobody has rated."""
    marks = {}
    for mark, steps in _latest(stage_folder).values():
        for step in steps if mark is not None else ():
            marks.setdefault(step, []).append(mark)
    return dict(sorted(marks.items()))
