"""Write figures and replies for people: on the screen, and in the tables of a page."""

from collections.abc import Callable

from pysft.measure.page import number, stack
from pysft.text.conversation import THOUGHT

# Name in the --json document: (what it is, how it is written: a key of FORMS). {unit}: the full
# name of the unit.
FIGURES = {
    "params": ("weights of the model", "count"),
    "trained_params": (
        "weights that were trained (with LoRA: those of the adapters and the new rows)",
        "count",
    ),
    "base_loss": ("loss on base text, nats per {unit}: of the base model", "loss"),
    "grown_base_loss": ("loss on base text: after the vocabulary has grown", "loss"),
    "tuned_base_loss": ("loss on base text: after fine-tuning", "loss"),
    "forgetting": ("forgetting: relative rise of that loss from base to tuned model", "share"),
    "matched_base_loss": (
        "loss on base text: of the base after training on the replayed base text alone",
        "loss",
    ),
    "forgetting_matched": ("matched forgetting: the rise relative to that base", "share"),
    "sft_loss_start": ("fine-tuning loss, nats per graded token: in the first step", "loss"),
    "sft_loss": ("fine-tuning loss: mean of the last 20 steps", "loss"),
    "heldout_loss": ("loss on conversations never trained on, nats per graded token", "loss"),
    "heldout_conversations": ("conversations that it was measured on", "count"),
    "recall": ("trained pairs answered word for word", "share"),
    "recall_of": ("trained pairs asked", "count"),
    "stopped": ("trained pairs whose reply ends with the end token", "share"),
    "format_compliance": (
        "format compliance: unseen prompts whose reply has content, ends with the end token, and"
        " holds no stray control token",
        "share",
    ),
    "prompts": ("unseen prompts asked", "count"),
    "content": ("unseen prompts whose reply has content", "share"),
    "stopped_unseen": ("unseen prompts whose reply ends with the end token", "share"),
    "no_user_turn": ("unseen prompts whose reply holds no stray control token", "share"),
    "reply_length": ("characters of a reply to an unseen prompt, mean", ""),
    "distinct_replies": ("different replies to the unseen prompts", "count"),
    "verbatim_replies": (
        "replies to unseen prompts that are a training reply word for word",
        "count",
    ),
    "on_topic": ("unseen in-domain prompts whose reply names one of their content words", "share"),
    "on_topic_chance": ("the same by chance: with each reply given to another prompt", "share"),
    "in_domain_prompts": ("unseen in-domain prompts asked", "count"),
    "real_words": ("words of their replies that occur in the corpus or the data", "share"),
    "repeats_prompt": (
        "replies to those of four words or more that repeat four of them in a row",
        "share",
    ),
    "distinct_words_greedy": ("different words among the words of such a reply", "share"),
    "distinct_words": ("the same of replies as chat writes them by default", "share"),
    "distinct_pairs": ("different pairs of neighbouring words, as chat writes them", "share"),
    "on_topic_chat": ("on topic, as chat writes", "share"),
    "real_words_chat": ("real words, as chat writes", "share"),
    "trained_distinct_words": ("different words among the words of a training reply", "share"),
    "trained_distinct_pairs": ("different pairs of words in a training reply", "share"),
    "trained_reply_length": ("characters of a training reply, mean", ""),
    "graded_targets": ("targets that are graded", "count"),
    "targets": ("targets", "count"),
    "turns": ("turns whose end token should be graded", "count"),
    "end_tokens_graded": ("end tokens among the graded targets", "count"),
    "tokens": ("tokens trained on", "count"),
    "tokens_per_s": ("tokens per second in training", "count"),
    "training_seconds": ("seconds of training", "seconds"),
    "seconds": ("seconds in all", "seconds"),
    "text_characters": ("characters of base text to train on", "count"),
    "world_characters": ("characters of text that tells of an invented world", "count"),
    "peak_memory": ("largest memory that the process held", "bytes"),
}

# What three of these names mean in the report of a stage that was tuned on pairs.
OF_PAIRS = {
    "tuned_base_loss": ("loss on base text: after tuning on pairs", "loss"),
    "sft_loss_start": ("loss of the pairs, with that of base text: in the first step", "loss"),
    "sft_loss": ("loss of the pairs, with that of base text: mean of the last 20 steps", "loss"),
}

# The same in the report of a stage of PPO.
OF_POLICY = {
    "tuned_base_loss": ("loss on base text: after training by reward", "loss"),
    "sft_loss_start": ("loss of the updates, with that of base text: in the first one", "loss"),
    "sft_loss": ("loss of the updates, with that of base text: mean of the last 20", "loss"),
}

# The units of losses on base text: "base_loss_unit" in the --json document, in full.
UNITS = {"char": "character", "byte": "byte"}

FORMS = {
    "share": "{:.1%}",
    "percent": "{:.0%}",
    "rise": "{:+.1%}",
    "count": "{:,.0f}",
    "loss": "{:.3f}",
    "points": "{:.2f}",
    "seconds": "{:,.1f}",
    "bytes": "{:,.0f} MiB",
}

# The figures of one domain, as columns: name -> (heading, how it is written).
DOMAIN_COLUMNS = {
    "prompts": ("prompts", "count"),
    "format_compliance": ("format compliance", "share"),
    "on_topic": ("on topic", "share"),
    "on_topic_chance": ("by chance", "share"),
    "real_words": ("real words", "share"),
    "distinct_replies": ("distinct replies", "count"),
    "verbatim_replies": ("from training", "count"),
}
DOMAINS = (
    "In: subjects that were trained on, in new words. Near and out: subjects that were not, close"
    " to those and far from them."
)

# The figures that a stage's report has of its parent too, if that can talk.
COMPARED = {
    "recall": ("recalled word for word", "share"),
    "format_compliance": ("format compliance", "share"),
    "on_topic": ("on topic", "share"),
    "real_words": ("real words", "share"),
    "distinct_words": ("distinct words, as chat writes", "share"),
    "heldout_loss": ("held-out conversations, nats per graded token", "loss"),
    "tuned_base_loss": ("base text, nats/{unit}", "loss"),
    "reply_length": ("characters of a reply", "count"),
}

# The groups of replies that measure() returns.
GROUPS = {
    "pairs": "prompts it was trained on",
    "prompts": "prompts it never saw",
    "heldout": "conversations kept from training",
    "sealed": "sealed prompts, which no recipe was chosen by",
}


def unit_of(figures: dict) -> str:
    """The unit of the losses on base text among some figures: "char" or "byte"."""
    return figures.get("base_loss_unit", "char")


def written(value, form: str) -> str:
    """A figure in one of FORMS, for the screen; "-" if it was not measured."""
    if value is None:
        return "-"
    return FORMS[form].format(value / 2**20 if form == "bytes" else value)


def cell(value, form: str = "") -> str:
    """A figure for the table of a page, in one of FORMS, or as page.number writes it; a text is
    left unchanged."""
    if isinstance(value, str):
        return value
    if value is None or not form:
        return number(value)
    return written(value, form).replace("-", "\u2212")


def domain_table(by_domain: dict, write: Callable = written) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of the figures of unseen prompts by their domain. write: written or cell."""
    headings = ["domain", *(heading for heading, _ in DOMAIN_COLUMNS.values())]
    rows = [
        [domain, *(write(row.get(name), form) for name, (_, form) in DOMAIN_COLUMNS.items())]
        for domain, row in by_domain.items()
    ]
    return headings, rows


def compared_rows(report: dict, write: Callable = written) -> list[tuple[str, str, str]]:
    """[(figure, the parent's value, the stage's)] of a report whose stage has a parent that can
    talk."""
    return [
        (
            label.format(unit=unit_of(report)),
            write(report["parent"].get(name), form),
            write(report.get(name), form),
        )
        for name, (label, form) in COMPARED.items()
    ]


def ended(reply: str, stop: str) -> str:
    """A reply for the screen, with a note if it did not end with the end token."""
    return reply if stop == "end" else f"{reply} [no end token]"


def reply_cell(reply: str, stop: str, *notes: str) -> str:
    """A reply for the table of a page, with small notes below it."""
    return stack(reply, *([] if stop == "end" else ["no end token"]), *notes)


def sealed_text(sealed: dict) -> str:
    """The figures of the sealed prompts in one line."""
    if not sealed.get("prompts"):
        return "-"
    names = {
        "on_topic": "on topic",
        "real_words": "real words",
        "distinct_words": "distinct words",
        "format_compliance": "in format",
    }
    return ", ".join(f"{label} {written(sealed.get(key), 'share')}" for key, label in names.items())


# What happens at a part of a reply, for readers of a chat.
MARKS = {
    "search": "a call: the model pauses",
    "result": "injected by the program",
    THOUGHT: "a thought, which chat hides",
}


def chat_lines(parts: list[dict], stop: str = "end") -> list[tuple[str, str]]:
    """[(text, note)] of the parts of a reply, calls, results and thoughts in brackets; one empty
    line if there are none. The last line has a note if the reply did not end with the end
    token."""
    lines = [
        (
            p["text"] if p["type"] == "text" else f"[{p['type']}: {p['text']}]",
            MARKS.get(p["type"], ""),
        )
        for p in parts
    ]
    *before, (text, note) = lines or [("", "")]
    return [*before, (ended(text, stop), note)]
