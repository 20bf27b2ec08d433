"""Print the figures and replies of a tuned model, for `train` and `eval`."""

import textwrap

from pysft.console import Screen
from pysft.jobs.compare import Sides
from pysft.measure.calltest import call_rows
from pysft.measure.judges import judge_rows
from pysft.measure.provenance import RULE, origin_notes, verdict_counts
from pysft.measure.tooltest import tool_rows
from pysft.measure.wording import (
    DOMAINS,
    GROUPS,
    chat_lines,
    compared_rows,
    domain_table,
    ended,
    sealed_text,
    unit_of,
    written,
)
from pysft.measure.world import world_rows


def side_by_side(sides: Sides, screen: Screen) -> None:
    """Print the replies of a tuned model and of its parent to the same prompts."""
    left, how = ("base", "completes, temperature 0.8")
    if sides.talks:
        left, how = sides.parent, "answers"
    if sides.rows:
        screen.say(f"\n{left} model ({how})  ->  tuned model (answers as chat writes)")
    for i, (prompt, text, reply, stop, trained) in enumerate(sides.rows):
        if i == 0 or trained != sides.rows[i - 1][4]:
            screen.say(f"\n  {GROUPS['pairs' if trained else 'prompts']}")
        text = text.replace("\n", " / ")
        shown = text if sides.talks else f"{prompt}{text} ..."
        screen.say(f"  {prompt!r}\n{f'{left}:':>11}  {shown}")
        screen.say(f"      tuned: {ended(reply.replace(chr(10), ' / '), stop)}")
    if sides.chat:
        screen.say("\n  a chat about the town, half of whose facts were in training")
    for row in sides.chat:
        screen.say(f"  {row['question']!r} ({row['about']})")
        for i, (text, note) in enumerate(chat_lines(row["parts"], row["stop"])):
            label = "tuned:" if i == 0 else ""
            text = text.replace("\n", " / ")
            screen.say(f"{label:>12} {text}{f'  <- {note}' if note else ''}".rstrip())


def print_rows(rows: list[tuple[str, str]], screen: Screen) -> None:
    """Print rows of (what, its value) with the values below each other."""
    screen.say()
    width = max(len(what) for what, _ in rows) + 2
    for what, value in rows:
        screen.say(f"{what:{width}}{value}")


def table(report: dict, screen: Screen) -> None:
    """Print the short table at the end of train and of eval."""

    def figure(name, form):
        return written(report.get(name), form)

    recalled = round((report.get("recall") or 0) * report["recall_of"])
    forgetting = f"forgetting {figure('forgetting', 'rise')}"
    if "forgetting_matched" in report:
        forgetting += f", matched {figure('forgetting_matched', 'rise')}"
    rows = [
        (
            f"base text, nats/{unit_of(report)}",
            f"{figure('base_loss', 'loss')} -> {figure('tuned_base_loss', 'loss')}"
            f"   ({forgetting})",
        ),
        (
            "fine-tuning loss, nats",
            f"{figure('sft_loss_start', 'loss')} -> {figure('sft_loss', 'loss')}",
        ),
        ("held-out conversations", f"{figure('heldout_loss', 'loss')} nats per graded token"),
        (
            "recalled word for word",
            f"{recalled} of {report['recall_of']}, stopped {figure('stopped', 'percent')}",
        ),
        (
            "format compliance",
            f"{figure('format_compliance', 'percent')} of {report.get('prompts', 0)} unseen"
            f" prompts, {report['distinct_replies']} distinct,"
            f" {report['verbatim_replies']} from training",
        ),
        (
            "on topic",
            f"{figure('on_topic', 'share')} of {report['in_domain_prompts']} unseen in-domain"
            f" prompts (chance {figure('on_topic_chance', 'share')});"
            f" {figure('repeats_prompt', 'percent')} of replies repeat four words in a row",
        ),
        ("real words", figure("real_words", "share")),
        (
            "distinct words",
            f"{figure('distinct_words', 'share')} as chat writes, greedy"
            f" {figure('distinct_words_greedy', 'share')} (training replies"
            f" {figure('trained_distinct_words', 'share')})",
        ),
        *((("words", report["words_unmeasured"]),) if "words_unmeasured" in report else ()),
        ("sealed prompts", sealed_text(report.get("sealed") or {})),
        ("memorised?", verdict_counts(report["origins"])),
        *(tool_rows(report["tools"]) if report.get("tools") else ()),
        *call_rows(report),
        *(world_rows(report["world"]) if report.get("world") else ()),
        *(judge_rows(report["judge"]) if report.get("judge") else ()),
        (
            "graded targets",
            f"{figure('graded_targets', 'count')} of {figure('targets', 'count')}",
        ),
        (
            "training",
            f"{figure('tokens_per_s', 'count')} tokens/s; this command took"
            f" {figure('seconds', 'count')} s",
        ),
        ("weights", f"{report['params']:,}, SHA-256 {report['weights_sha256'][:16]}"),
    ]
    screen.say("")
    for name, value in rows:
        screen.say(f"{name:<24} {value}")
    if report.get("parent"):
        screen.say(f"\ncompared with its parent, {report['parent']['stage']}:")
        for label, before, now in compared_rows(report, written):
            screen.say(f"  {label:<48} {before} -> {now}")


def domains(report: dict, screen: Screen) -> None:
    """Print the figures of the unseen prompts by domain, and the three parts of format
    compliance."""
    headings, rows = domain_table(report["by_domain"])
    screen.say("\nunseen prompts:")
    for row in (headings, *rows):
        domain, *cells = row
        aligned = (f"{text:>{len(heading)}}" for heading, text in zip(headings[1:], cells))
        screen.say(f"  {domain:<8}" + "  ".join(aligned))
    screen.say(f"  {DOMAINS}")
    if report["prompts"]:
        parts = [
            f"{name} {written(report[key], 'percent')}"
            for key, name in (
                ("content", "content"),
                ("stopped_unseen", "end token"),
                ("no_user_turn", "no stray control token"),
            )
        ]
        screen.say(f"  Format compliance has three parts: {', '.join(parts)}.")


def provenance(samples: list, screen: Screen) -> None:
    """Print replies to unseen prompts, each with the training text that is similar to it."""
    for prompt, reply, stop, origin in samples:
        verdict, *shared = origin_notes(origin)
        screen.say(f"\n  {prompt!r}\n    {ended(reply, stop)}\n    origin: {verdict}")
        for line in shared:
            screen.say(f"            {line}")
    if samples:
        screen.say("\n" + textwrap.fill(RULE, 110))
