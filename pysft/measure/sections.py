"""The sections on the page of a run, except the curves (curves.py). Each takes the contents of the
files that it shows, None for a file that could not be read, and returns parts of a page."""

import json
from collections import Counter

from pysft.measure.aligned import in_short, won
from pysft.measure.calltest import call_rows
from pysft.measure.curves import known_by_tellings
from pysft.measure.diagnose import findings, last_of
from pysft.measure.page import (
    badge,
    bullets,
    code,
    details,
    heading,
    paragraph,
    stack,
    table,
)
from pysft.measure.provenance import RULE, VERDICTS, origin_notes, verdict_counts
from pysft.measure.reproduce import preset_of, reproduce
from pysft.measure.tooltest import tool_rows
from pysft.measure.wording import (
    DOMAINS,
    FIGURES,
    GROUPS,
    OF_PAIRS,
    OF_POLICY,
    UNITS,
    cell,
    chat_lines,
    compared_rows,
    domain_table,
    reply_cell,
    unit_of,
)
from pysft.measure.world import world_rows
from pysft.training.flat import tuning
from pysft.world.made import MADE

SHOWN, MOST = 8, 400  # replies of a group that are visible at once, and that the page holds

# The verdicts: (statement, the measured share, the limit of "good", the limit of "partly").
STATEMENTS = (
    ("It recalls what it was taught, word for word", lambda r: r["recall"], 0.95, 0.5),
    (
        "It answers unseen everyday prompts in the right format, and stops",
        lambda r: r["format_compliance"],
        0.95,
        0.5,
    ),
    ("It answers in real words", lambda r: r["real_words"], 0.95, 0.85),
    (
        "It names what it is asked about, above chance",
        lambda r: r["on_topic"] - r["on_topic_chance"],
        0.25,
        0.05,
    ),
    ("It has forgotten little of the base text", lambda r: r["forgetting"], 0.05, 0.10),
)

# Spreads in the census of the data.
SPREADS = {
    "tokens": "tokens per conversation",
    "prompt_length": "characters per prompt",
    "reply_length": "characters per reply",
}


def summary(r: dict | None, run: dict | None, reward: dict | None = None) -> list:
    """The result in a few lines. r: the report of the newest stage that talks. reward: that of a
    reward model, for a run without such a stage."""
    settings = (run or {}).get("settings", {})
    recipe = f"preset {settings['preset']}, seed {settings['seed']}" if settings else ""
    if not r and reward:
        return in_short(reward)
    if not r:
        return [] if run["tuned"] else [paragraph(f"A base model that completes text: {recipe}.")]
    rows = []
    for statement, measured, good, partly in STATEMENTS:
        try:
            value = measured(r)
        except (KeyError, TypeError):
            value = None
        if value is None:  # not measured: in a run without unseen prompts, for example
            continue
        kind = _verdict(value, good, partly)
        sign = "\u2265" if good > partly else "\u2264"
        limits = f"{sign} {good:.0%}, {sign} {partly:.0%}"
        rows.append([statement, badge(kind, kind), cell(value, "share"), limits])
    rows += won(r)
    took = cell(r.get("training_seconds"), "count")
    then = ", and then on pairs of a better and a worse reply" if r.get("dpo") else ""
    then = ", and then by a reward for its own replies" if r.get("ppo") else then
    return [
        paragraph(
            f"A base model that completes text was fine-tuned to answer{then}:"
            f" {r['params']:,} weights"
            + (f", {recipe}" if recipe else "")
            + f", {took} seconds of training."
        ),
        table(["", "verdict", "measured", "good, partly"], rows, "llrr"),
        *_unmeasured(r),
        paragraph("The section “The figures” says what each figure means."),
    ]


def _verdict(value: float, good: float, partly: float) -> str:
    sign = 1 if good > partly else -1  # -1: less is better
    if sign * value >= sign * good:
        return "good"
    return "partly" if sign * value >= sign * partly else "bad"


def warnings(
    r: dict | None,
    data: dict | None,
    track: list | None,
    run: dict | None,
    log: list | None = None,
    rewards: list[dict] = (),
) -> list:
    """The faults that a reader should know first: notes about the data, end tokens that are not
    graded, few different replies, and the failure modes that diagnose.py finds.

    log: that of the stage whose report is r. rewards: the reports of the run's reward models."""
    found, r, data = list((data or {}).get("notes", [])), r or {}, data or {}
    ends, turns = (r.get(name, data.get(name)) for name in ("end_tokens_graded", "turns"))
    if None not in (ends, turns) and ends != turns:
        found.append(
            f"{ends:,} end tokens are graded, but there are {turns:,} turns: the model may not"
            " learn to stop."
        )
    if r.get("distinct_replies") is not None and 2 * r["distinct_replies"] < r["prompts"]:
        found.append(
            f"{r['prompts']:,} unseen prompts got only {r['distinct_replies']:,} different replies."
        )
    name = r.get("stage", "sft")
    settings = tuning((run or {}).get("settings", {}), name)
    modes = findings(r, track or [], settings, data, name, logged=last_of(log or [])) if r else []
    for report in rewards:
        stage = report.get("stage", "reward")
        table_of = tuning((run or {}).get("settings", {}), stage)
        modes += findings(report, [], table_of, {}, stage)
    for f in modes:
        found.append(
            stack(
                f"{f.mode}: {f.symptom}",
                f.figure,
                f"Likely cause: {f.cause}",
                f"What helps: {f.fix}",
            )
        )
    return [bullets(found)] if found else []


def _title(group: str) -> str:
    title = GROUPS.get(group, group)
    return title[:1].upper() + title[1:]


def comparison(r: dict) -> list:
    """The figures of a stage beside those of its parent, if the parent can talk."""
    if not r.get("parent"):
        return []
    rows = [[*row] for row in compared_rows(r, cell)]
    return [table(["figure", r["parent"]["stage"], r.get("stage", "")], rows, "lrr")]


def before_and_after(sides: dict) -> list:
    """The replies of both models to the same prompts."""
    talks, parent = sides.get("talks", False), sides.get("parent", "base")
    left = f"{parent} answers" if talks else "the base model completes"
    parts = []
    for trained, group in ((True, "pairs"), (False, "prompts")):
        some = [
            [prompt, text if talks else _completion(text), reply_cell(reply, stop)]
            for prompt, text, reply, stop, seen in sides["rows"]
            if bool(seen) is trained
        ]
        headings = ["prompt", left, "the tuned model answers"]
        if some:
            parts += [heading(_title(group), 3), table(headings, some, "lll")]
    rows = [
        [
            stack(row["question"], row["about"]),
            stack(
                *(
                    f"{text} \u2190 {note}" if note else text
                    for text, note in chat_lines(row["parts"], row.get("stop", "end"))
                )
            ),
        ]
        for row in sides.get("chat", [])
    ]
    if rows:
        parts += [heading("A chat about the town", 3), table(["question", "reply"], rows, "ll")]
    return parts


def _completion(text: str) -> str:
    return "\u2026" + text.replace("\n", " / ") + "\u2026"


def replies(groups: dict) -> list:
    """The replies, each with the training text that is similar to it."""
    parts, counted = [], []
    for name, rows in groups.items():
        title, cells = _title(name), []
        for prompt, reply, stop, *origin in rows[:MOST]:
            notes = origin_notes(origin[0]) if origin else []
            cells.append([prompt, reply_cell(reply, stop, *notes)])
        verdicts = Counter(row[3]["verdict"] for row in rows if len(row) > 3)
        if verdicts:
            counted.append([title, len(rows), *(verdicts[v] for v in VERDICTS)])
        if rows:
            parts += [heading(title, 3), table(["prompt", "reply"], cells[:SHOWN], "ll")]
        if len(rows) > SHOWN:
            more = f"{len(cells) - SHOWN:,} more"
            if len(rows) > MOST:
                more += f" (the other {len(rows) - MOST:,} are in samples.json)"
            parts.append(details(more, [table(["prompt", "reply"], cells[SHOWN:], "ll")]))
    if counted:
        parts[:0] = [table(["replies to", "all", *VERDICTS], counted), paragraph(RULE)]
    return parts


def all_figures(r: dict | None, base: dict | None = None) -> list:
    """Every figure of the report, with its meaning."""
    r = r or base
    unit = UNITS[unit_of(r)]
    names = FIGURES | (OF_PAIRS if r.get("dpo") else OF_POLICY if r.get("ppo") else {})
    rows = [
        [stack(label.format(unit=unit), name), cell(r[name], form)]
        for name, (label, form) in names.items()
        if name in r
    ]
    if r.get("origins"):
        label = "where the replies to unseen prompts come from"
        rows.append([stack(label, "origins"), verdict_counts(r["origins"])])
    parts = [table(["figure", "value"], rows, "lr"), *_unmeasured(r)]
    if r.get("tools"):
        tools = [[name.removeprefix("tools: "), text] for name, text in tool_rows(r["tools"])]
        parts += [heading("The tool test", 3), table(["asked about", "result"], tools, "ll")]
    if made := call_rows(r):
        called = [[name.removeprefix("tools: "), text] for name, text in made]
        parts += [heading("Tools that were taught", 3), table(["tool", "result"], called, "ll")]
    if r.get("world"):
        known = [[name.strip(), text] for name, text in world_rows(r["world"])]
        parts += [heading("The invented world", 3), table(["asked", "result"], known, "ll")]
        parts += [paragraph("Shares of the replies to sealed questions, by the exact judge.")]
        parts += known_by_tellings(r["world"]["by_tellings"])
    if r.get("by_domain"):
        headings, rows = domain_table(r["by_domain"], cell)
        parts += [
            heading("By domain of the prompt", 3),
            table(headings, rows, "l" + "r" * (len(headings) - 1)),
            paragraph(DOMAINS),
        ]
    if r.get("sealed"):
        parts += [heading("The sealed prompts", 3), *_sealed(r["sealed"])]
    shown = {*FIGURES, "by_domain", "origins", "tools", "world", "sealed", "parent", *MADE}
    shown |= {"dpo", "ppo", "base_loss_unit", "words_unmeasured"}
    rest = [[name, _as_text(value)] for name, value in r.items() if name not in shown]
    if rest:
        parts.append(
            details("Other entries of report.json", [table(["name", "value"], rest, "ll")])
        )
    return parts


def _unmeasured(r: dict) -> list:
    """The reason why figures of words are missing, if they are."""
    reason = str(r.get("words_unmeasured") or "")
    return [paragraph(f"{reason[0].upper()}{reason[1:]}.")] if reason else []


def _sealed(sealed: dict) -> list:
    """The figures of the sealed prompts."""
    rows = [
        [label, cell(sealed[name], form)]
        for name, (label, form) in FIGURES.items()
        if sealed.get(name) is not None
    ]
    headings, domains = domain_table(sealed.get("by_domain", {}), cell)
    return [
        paragraph(
            "Prompts that were put away before the recipes were chosen. Nothing was chosen by them."
        ),
        table(["figure", "value"], rows, "lr"),
        table(headings, domains, "l" + "r" * (len(headings) - 1)),
    ]


def _as_text(value) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return cell(value)


def census(d: dict | None, r: dict | None) -> list:
    """The census of the conversations, and the share of their targets that the mask leaves."""
    parts, d, r = [], d or {}, r or {}
    mask = r if "targets" in r else d
    if "targets" in mask:
        graded, targets = mask["graded_targets"], mask["targets"]
        share = f" ({graded / targets:.1%})" if targets else ""
        parts.append(
            paragraph(
                f"The mask leaves {graded:,} of {targets:,}{share} targets graded: the model learns"
                f" from these alone. {mask['end_tokens_graded']:,} of them are end tokens, for"
                f" {mask['turns']:,} turns."
            )
        )
    rows = [
        [label, d[name]]
        for name, label in (
            ("conversations", "conversations"),
            ("pairs", "pairs, shown more often"),
            ("heldout", "conversations kept from training"),
        )
        if name in d
    ]
    rows += [[f"epochs of {name}", f"{n:,.1f}"] for name, n in d.get("epochs", {}).items()]
    spreads = [
        [label, *(d[name].get(k) for k in ("min", "median", "p95", "max"))]
        for name, label in SPREADS.items()
        if d.get(name)
    ]
    if rows:
        parts.append(table(["what", "how many"], rows, "lr"))
    if spreads:
        parts.append(table(["", "least", "median", "95th percentile", "most"], spreads))
    if d.get("categories"):
        categories = table(["category", "conversations"], d["categories"], "lr")
        parts.append(details("The most frequent categories", [categories]))
    return parts


def settings(run: dict) -> list:
    """All settings; those that differ from the preset come first."""
    own, preset = run["settings"], preset_of(run["settings"])
    rows = [
        [f"[{place}] {name}", json.dumps(value), json.dumps(preset[place].get(name))]
        for place, values in own.items()
        if isinstance(values, dict)
        for name, value in values.items()
    ]
    rows.insert(0, ["seed", json.dumps(own["seed"]), json.dumps(preset["seed"])])
    changed = [row for row in rows if row[1] != row[2]]
    all_of_them = table(["setting", "value"], [row[:2] for row in rows], "ll")
    return [
        table(["changed setting", "in this run", f"in preset {own['preset']}"], changed, "lll")
        if changed
        else paragraph(f"All settings are those of preset {own['preset']}."),
        details(f"All {len(rows)} settings", [all_of_them]),
    ]


def reproduction(run: dict | None, reports: dict) -> list:
    """The command that makes the run again, its inputs, and the weights that should come out.

    reports: {stage: its report}."""
    parts = []
    if run:
        digests = [[*pair] for pair in run["sha256"].items()]
        command = code(reproduce(run, run["tuned"]))
        parts += [command, table(["input", "SHA-256"], digests, "ll")]
    rows = [
        [stage, report["weights_sha256"]]
        for stage, report in reports.items()
        if report and "weights_sha256" in report
    ]
    if rows:
        parts += [
            paragraph(
                "The same build on the same kind of processor gives these weights, bit by bit, with"
                " any number of threads:"
            ),
            table(["stage", "SHA-256 of the weights"], rows, "ll"),
        ]
    return parts
