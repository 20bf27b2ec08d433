"""Let a person mark the replies of several checkpoints, blind and in random order.

Each mark is a line of RUN/sft/ratings.jsonl. Lines are only ever added: a later mark for the same
reply replaces an earlier one, and a line with mark null takes it back."""

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from pysft.errors import MissingInput, UsageError
from pysft.measure.choose import select
from pysft.measure.wording import ended
from pysft.rng import rng
from pysft.run.log import read_measurements

SCALE = """Replies of {} checkpoints, shuffled. The end shows each checkpoint's mean mark. Marks:
  1 nonsense   2 words, but no answer   3 a weak answer   4 a good answer   5 the answer I wanted
s skips a reply, u takes back the last mark, q stops. Every mark is saved at once."""
# The signs of ASCII in full width, by code: what each is in ASCII.
FULL_WIDTH = {code + 0xFEE0: code for code in range(0x21, 0x7F)}


class Item(NamedTuple):
    """One reply to be marked, why it stopped, and the steps of all checkpoints that gave it."""

    prompt: str
    reply: str
    steps: list[int]
    stop: str


# ------------------------------------------------------------------------------- what to mark


def default_steps(rows: list[dict]) -> list[int]:
    """Up to four steps to rate, rising: first those that the criteria pick, beginning with the step
    that most of them agree on, then those that lie farthest from the others."""
    steps = [row["step"] for row in rows if row["step"] > 0]
    chosen = [group["step"] for group in select(rows)["agree"]][:4]
    while len(chosen) < min(4, len(steps)):
        chosen.append(max(steps, key=lambda s: min((abs(s - c) for c in chosen), default=0)))
    return sorted(chosen)


def plan_ratings(rows: list[dict], steps: list[int], prompts: list[str], seed: int) -> list[Item]:
    """An Item for each distinct reply that these steps gave to these prompts, in an order that the
    seed decides."""
    found = {}
    for row in rows:
        for prompt, reply, stop in row.get("samples", []) if row["step"] in steps else []:
            if prompt in prompts:
                found.setdefault((prompt, reply, stop), {})[row["step"]] = True
    items = [Item(prompt, reply, sorted(by), stop) for (prompt, reply, stop), by in found.items()]
    return [items[i] for i in rng(seed, "lab", "rate").permutation(len(items))]


def _common_prompts(folder: Path, rows: dict[int, dict], steps: list[int]) -> list[str]:
    """The prompts that all these steps answered, ordered so that the first few come from all parts
    of the list."""
    for step in steps:
        if step not in rows:
            raise UsageError(
                f"{folder}: step {step} was not measured; choose among {', '.join(map(str, rows))}"
            )
    asked = [[prompt for prompt, _, _ in rows[step]["samples"]] for step in steps]
    common = [p for p in dict.fromkeys(sum(asked, [])) if all(p in prompts for prompts in asked)]
    if not common:
        raise MissingInput(
            f"{folder}: no prompt has stored replies from all these checkpoints; choose others,"
            " or train again"
        )
    # The list begins with prompts that were trained on and ends with unseen ones. Multiples of the
    # golden ratio, modulo 1, take evenly from both.
    return sorted(common, key=lambda p: common.index(p) * 0.6180339887 % 1)


# -------------------------------------------------------------------------------- the session


def rate(
    stage_folder,
    steps: list[int] | None = None,
    count: int = 10,
    seed: int | None = None,
    ask: Callable[[str], str] = input,
    say: Callable[[str], None] = print,
) -> dict:
    """Let a person mark the stored replies of several checkpoints to `count` prompts.

    steps: of the checkpoints (default: `default_steps`). seed: of the order (default: a new one).
    ask(prompt) returns what the person types; say(text) shows a text.

    Prompts and replies that have a mark come last, so a session continues where the one before it
    stopped. It ends after the last reply, with q, at the end of the input, or with an interrupt.
    Only then does it show the mean mark of each checkpoint.

    Returns the --json document:

    ratings  the file of marks
    seed     of the order
    marked   number of marks given in this session and not taken back
    left     number of replies in this session that have no mark
    steps    [{"step", "mean", "marks", "spread"}] over all sessions; marks is their number, spread
             their standard deviation, null below two marks"""
    folder = Path(stage_folder)
    rows = {row["step"]: row for row in read_measurements(folder)}
    if steps is None:
        steps = default_steps([row for row in rows.values() if row["samples"]])
    steps = sorted(set(steps))
    prompts = _common_prompts(folder, rows, steps)
    seed = secrets.randbits(31) if seed is None else seed
    latest = _latest(folder)

    def is_rated(item: Item) -> bool:
        mark, by = latest.get((item.prompt, item.reply, item.stop), (None, set()))
        return mark is not None and by >= set(item.steps)

    def is_done(prompt: str) -> bool:
        return all(map(is_rated, plan_ratings(rows.values(), steps, [prompt], seed)))

    prompts = sorted(prompts, key=is_done)[:count]
    items = sorted(plan_ratings(rows.values(), steps, prompts, seed), key=is_rated)
    say(SCALE.format(len(steps)))
    if before := sum(map(is_rated, items)):
        say(
            f"{before} of these {len(items)} have a mark already. They come last, and a new mark"
            " replaces the old one."
        )
    marked = _session(folder, items, seed, ask, say)
    latest = _latest(folder)
    return {
        "ratings": str(folder / "ratings.jsonl"),
        "seed": seed,
        "marked": marked,
        "left": sum(not is_rated(i) for i in items),
        "steps": _summary(folder, steps, marked, say),
    }


def _session(folder: Path, items: list[Item], seed: int, ask, say) -> int:
    """Ask for the marks. Returns the number that were given and not taken back."""
    i, done, shown = 0, [], None
    try:
        while i < len(items):
            if shown != i:
                prompt, reply, _, stop = items[i]
                say(
                    f"\n{i + 1} of {len(items)}\nyou> {prompt}"
                    f"\nbot> {ended(reply or '(nothing)', stop)}"
                )
                shown = i
            # A Chinese or Japanese keyboard may write digits of full width.
            typed = ask("mark> ").translate(FULL_WIDTH).strip().lower()
            if typed in ("1", "2", "3", "4", "5"):
                _append(folder, items[i], int(typed), seed)
                done.append(i)
                i += 1
            elif typed == "s":
                i += 1
            elif typed == "u" and done:
                i = done.pop()
                _append(folder, items[i], None, seed)
            elif typed == "q":
                break
            elif typed == "u":
                say("This session has no mark to take back.")
            else:
                say("A mark is 1, 2, 3, 4 or 5; s skips, u takes back the last mark, q stops.")
    except (EOFError, KeyboardInterrupt):
        say("")
    return len(done)


def _summary(folder: Path, steps: list[int], marked: int, say) -> list[dict]:
    """Show the marks of each checkpoint, and return them."""
    marks = read_marks(folder)
    rows = []
    for step in steps:
        m = marks.get(step, [])
        rows.append(
            {
                "step": step,
                "mean": fmean(m) if m else None,
                "marks": len(m),
                "spread": stdev(m) if len(m) > 1 else None,
            }
        )
    say(f"\nMarks given: {marked}. All marks of these checkpoints:")
    say("  step   mean  marks  spread")
    for r in rows:
        mean, spread = ("-" if r[k] is None else f"{r[k]:.2f}" for k in ("mean", "spread"))
        say(f"{r['step']:>6} {mean:>6} {r['marks']:>6}  {spread:>6}")
    return rows


# ------------------------------------------------------------------------- the file of marks


def _append(folder: Path, item: Item, mark: int | None, seed: int) -> None:
    path = folder / "ratings.jsonl"
    # A crash may have left half a line, which must not spoil this one.
    torn = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
    when = datetime.now(UTC).isoformat(timespec="seconds")
    line = {**item._asdict(), "mark": mark, "seed": seed, "when": when}
    with open(path, "a", encoding="utf-8") as f:
        f.write("\n" * torn + json.dumps(line) + "\n")


def _latest(folder: Path) -> dict:
    """{(prompt, reply, stop): (mark, steps)}. mark: the last one, None if it was taken back. steps:
    all that are known to have given the reply. A damaged line is skipped."""
    found, path = {}, Path(folder) / "ratings.jsonl"
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            key = row["prompt"], row["reply"], row.get("stop", "end")
            mark, steps = row["mark"], set(row["steps"])
            if mark in (None, 1, 2, 3, 4, 5) and all(type(s) is int for s in steps):
                found[key] = mark, steps | found.get(key, (None, set()))[1]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return found


def read_marks(stage_folder) -> dict[int, list[int]]:
    """{step: the marks that its replies have now}, by rising step; {} if nobody has rated."""
    marks = {}
    for mark, steps in _latest(stage_folder).values():
        for step in steps if mark is not None else ():
            marks.setdefault(step, []).append(mark)
    return dict(sorted(marks.items()))
