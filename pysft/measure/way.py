"""The stages on the page of a run: what each was begun from, and the way from text to answers, that
is what each learned from, how much of it there was, who made it, what it cost and brought."""

import math
from pathlib import Path

from pysft.measure.page import paragraph, stack, table
from pysft.measure.raters import WORLD, is_function
from pysft.measure.rewards import MODEL
from pysft.measure.run_files import known_kind
from pysft.measure.wording import UNITS, cell, unit_of
from pysft.run.tree import drawn

SECONDS = (
    "Seconds are those of the training alone; where a reward is given, writing the replies is a"
    " part of it. Writing replies to compare, putting them in order and measuring are not in them."
)


def stages(rows: list[dict]) -> list:
    """The tree of the stages: what each was begun from."""
    cells = [
        [
            line,
            row["parent"] or "nothing",
            row["steps"],
            row["params"],
            row["symbols"],
            _state(row),
            "this run" if row["in_run"] else row["folder"],
        ]
        for line, row in drawn(rows)
    ]
    steps = "steps, iterations" if any(map(_is_ppo, rows)) else "steps"
    headings = ["stage", "begun from", steps, "weights", "symbols", "SHA-256", "folder"]
    return [table(headings, cells, "llrrrll")]


def _is_ppo(row: dict) -> bool:
    return known_kind(Path(row["stage"].partition(",")[0])) == "ppo"


def _state(row: dict) -> str:
    """The first digits of a stage's hash, or why it has none."""
    if row["damaged"]:
        return f"damaged: {row['damaged']}"
    return row["weights_sha256"][:16] if row["finished"] else "not finished"


def way(rows: list[dict]) -> list:
    """The table, with a row for each stage, as run_files.py reads them; [] for one stage alone."""
    if len(rows) < 2:
        return []
    above, cells = [], []
    for row in rows:
        learned, count, made = LEARNED[row["kind"]](row, above)
        cells.append(
            [
                row["stage"],
                learned,
                _lines(count),
                _lines(made),
                cell(row["seconds"], "count"),
                _lines(_brought(row)),
            ]
        )
        above.append(row)
    headings = ["stage", "learned from", "how many", "who made it", "seconds", "what it brought"]
    return [table(headings, cells, "llllrl"), paragraph(SECONDS)]


def _lines(lines: list[str]) -> str:
    """The cell of some lines, without the empty ones; a dash if there are none."""
    return stack(*([line for line in lines if line] or ["\u2013"]))


def _counted(number, what: str) -> str:
    """A number of something; "" if it is not known."""
    return "" if number is None else f"{cell(number, 'count')} {what}"


# ------------------------------------------------------------ what it learned from, and whose it is
#
# Each function takes a row and the rows before it, and gives (what the stage learned from, [how
# many, notes], [who made it, notes]).


def _text(row: dict, above: list) -> tuple:
    r, corpus = row["report"], row["run"].get("corpus")
    told = r.get("world_characters")
    count = [_counted(r.get("text_characters"), "characters")]
    count += [_counted(told or None, "more, which tell of a world")]
    count += [_counted(r.get("tokens"), "tokens trained on")]
    made = {"plays": "shipped plays", "world": "shipped plays"}.get(corpus, corpus)
    return "text", count, [made or "", "the invented world" if told else ""]


def _demonstrations(row: dict, above: list) -> tuple:
    d, run = row["data"], row["run"]
    count = [_counted(d.get("conversations"), "conversations")]
    count += [_counted(d.get("pairs") or None, "pairs")]
    made = [
        "questions and answers of the invented world" if name == "world" else str(name)
        for name in run.get("data") or (["shipped"] if run else [])
    ]
    kinds = dict(d.get("categories") or [])
    settings = (run.get("settings") or {}).get("data") or {}
    if settings.get("transcripts"):
        made.append(f"made: {cell(kinds.get('tools'), 'count')} transcripts of searches")
    for name in settings.get("made") or ():
        made.append(f"made: {cell(kinds.get(name), 'count')} transcripts of {name}")
    return "demonstrations", count, made


def _comparisons(row: dict, above: list) -> tuple:
    found, run = _compared(row), row["run"]
    count = [
        _counted(found.get("comparisons"), "comparisons"),
        _counted(found.get("rankings"), "rankings"),
        _counted(found.get("prompts"), "prompts"),
    ]
    by = found.get("by")
    made = [{"world": "the exact judge", "labelers": "simulated labelers"}.get(by, by or "")]
    if by == "reward":
        made = [f"a reward model: {run.get('reward') or _newest_reward(above) or 'unknown'}"]
    named = dict(found.get("labelers") or {})
    if by and named and list(named) != [by]:
        made.append("ranked by " + _shares(named))
    if found.get("sources"):
        made.append("prompts from " + _shares(found["sources"]))
    return "comparisons", count, made


def _reward(row: dict, above: list) -> tuple:
    ppo, run = _compared(row), row["run"]
    settings = (run.get("settings") or {}).get(row["stage"]) or {}
    sizes = [ppo.get("iterations"), settings.get("prompts"), settings.get("replies")]
    count = [
        _counted(sizes[0], "iterations"),
        _counted(None if None in sizes else math.prod(sizes), "replies of its own"),
        _counted(ppo.get("prompts"), "prompts"),
    ]
    by = ppo.get("reward") or settings.get("reward") or ""  # who gave it, or who was to give it
    if by == MODEL:
        by = run.get("reward") or _newest_reward(above) or "unknown"
    is_model = by and by != WORLD and not is_function(by)
    made = f"a reward model: {by}" if is_model else "the exact judge" if by == WORLD else by
    return "a reward for its own replies", count, [made]


def _newest_reward(above: list) -> str:
    """The name of the newest reward model among some rows; "" if there is none."""
    return next((r["stage"] for r in reversed(above) if r["kind"] == "reward"), "")


def _shares(counts: dict) -> str:
    """Names with their numbers, the largest first; eight at most."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    more = f" and {len(ordered) - 8} others" if len(ordered) > 8 else ""
    return ", ".join(f"{name} ({n:,})" for name, n in ordered[:8]) + more


def _compared(row: dict) -> dict:
    """The figures of a stage that learned from comparisons or from a reward."""
    return row["report"].get(row["kind"]) or {}


LEARNED = {
    "base": _text,
    "sft": _demonstrations,
    "reward": _comparisons,
    "ppo": _reward,
    "dpo": _comparisons,
}


# ---------------------------------------------------------------------------------- what it brought


def _brought(row: dict) -> list[str]:
    """What a stage can do at its end, or a checkpoint at its step, in short lines."""
    r = row["measured"] or row["report"]
    if row["kind"] == "base":
        loss = r.get("base_loss")
        unit = UNITS[unit_of(r)]
        return [] if loss is None else [f"base text: {cell(loss, 'loss')} nats per {unit}"]
    if row["kind"] == "reward":
        held, gold = r.get("reward") or {}, (r.get("reward") or {}).get("gold_accuracy")
        lines = [_share("held-out pairs in the right order", held.get("accuracy"))]
        return [*lines, _share("by the exact judge", gold)]
    known = (r.get("world") or {}).get("right")
    lines = [_share("of the world right", known)]
    judged = {} if row["measured"] else _compared(row)
    if row["kind"] in ("dpo", "ppo"):
        lines = [_share("win rate", judged.get("win_rate")), *lines]
    if row["kind"] == "ppo":
        lines[1:1] = [_risen("gold", judged, "gold"), _risen("reward", judged, "proxy")]
    else:
        lines = [_share("recalled", r.get("recall")), _share("on topic", r.get("on_topic")), *lines]
    return lines


def _share(what: str, value) -> str:
    return "" if value is None else f"{what}: {cell(value, 'share')}"


def _risen(what: str, figures: dict, name: str) -> str:
    before, now = figures.get(f"{name}_before"), figures.get(name)
    if before is None or now is None:
        return ""
    return f"{what}: {cell(before, 'points')} \u2192 {cell(now, 'points')}"
