"""The data of a fine-tuning in numbers, for the screen and for the report."""

from collections import Counter

from pysft import IGNORE
from pysft.batch import Example
from pysft.console import Screen
from pysft.jobs.material import Material
from pysft.jobs.work import Work
from pysft.text.conversation import Conversation
from pysft.text.grades import GRADES
from pysft.text.spread import spread
from pysft.text.template import Template
from pysft.training.stages import Plan

TOO_LONG = {"refuse": "refused", "drop": "left out"}
UNKNOWN = {"refuse": "refused", "replace": "replaced", "grow": "added to the vocabulary"}


def describe_data(screen: Screen, works: list[Work], material: Material) -> dict:
    """Print what the model learns from and how it is graded. Return the counts of mask_counts(),
    and as "turns" the number of turns whose end token should be graded."""
    examples, template = [*material.examples[0], *material.examples[1]], material.template
    data = works[0].settings.data
    turns = graded_ends(material.conversations + material.pairs, template, data.grade)
    counts = mask_counts(examples, material.grown.special[template.end]) | {"turns": turns}
    has_made = any(c.last_only for c in material.conversations) and data.grade != "everything"
    made = ", of transcripts the last one" if has_made else ""
    mixed = "mixed " + " : ".join(f"{w:g}" for w in data.mix) + "; " if data.mix else ""
    tunings = [work for work in works if work.tunes]
    epochs = "; ".join(
        (f"epochs of {work.name}: " if len(tunings) > 1 else "epochs: ")
        + ", ".join(f"{n:.1f} of {what}" for what, n in work.plan.epochs.items())
        for work in tunings
    )
    screen.say(
        f"data: template {template.name}; graded: {GRADES[data.grade]}{made}; too long:"
        f" {TOO_LONG[data.too_long]}; unknown characters: {UNKNOWN[data.unknown]}; {mixed}{epochs}"
    )
    for note in material.notes:
        screen.say(f"data: {note}")
    screen.say(
        f"conversations: {len(examples):,} ({len(material.heldout):,} more held out); graded "
        f"{counts['graded_targets']:,} of {counts['targets']:,} targets "
        f"({counts['graded_targets'] / counts['targets']:.0%}); end tokens graded: "
        f"{counts['end_tokens_graded']:,} of {counts['turns']:,} turns"
    )
    return counts


def mask_counts(examples: list[Example], end: int) -> dict:
    """Return the numbers of graded targets, of all targets, and of end tokens among the graded."""
    return {
        "graded_targets": sum(int((e.labels != IGNORE).sum()) for e in examples),
        "targets": sum(len(e.labels) for e in examples),
        "end_tokens_graded": sum(int((e.labels == end).sum()) for e in examples),
    }


def graded_ends(conversations: list[Conversation], template: Template, grade: str) -> int:
    """Return the number of turns whose end token should be graded, computed from the messages and
    --grade and not from the mask."""
    total = 0
    for c in conversations:
        replies = [m for m in c.messages if m["role"] == "assistant"]
        if c.is_text:
            continue
        if grade == "everything":
            closers = [template.turns[m["role"]].closes for m in c.messages]
            total += sum(words[-1:] == (template.end,) for words in closers)
        elif grade == "last" or c.last_only:
            total += bool(replies)
        else:
            total += sum(m.get("train", True) for m in replies)
    return total


def data_figures(material: Material, plan: Plan, counts: dict) -> dict:
    """Return the content of a run's data.json. "parts": {type: conversations that have one} of the
    parts of replies other than text; left out without any."""
    trained = material.conversations + material.pairs
    spoken = [c for c in trained if not c.is_text]
    categories = Counter(c.category for c in trained if c.category)
    parts = dict(sorted(Counter(kind for c in trained for kind in c.parts).items()))
    lengths = [len(e.labels) + 1 for e in [*material.examples[0], *material.examples[1]]]
    return {
        "conversations": len(material.conversations),
        "pairs": len(material.pairs),
        "heldout": len(material.heldout),
        "notes": material.notes,
        "epochs": plan.epochs,
        "tokens": spread(lengths),
        "prompt_length": spread([len(c.prompt) for c in spoken]),
        "reply_length": spread([len(reply) for c in spoken for reply in c.replies()]),
        "categories": categories.most_common(20),
        **({"parts": parts} if parts else {}),
        **counts,
    }
