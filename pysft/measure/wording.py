"""How figures and replies are written for people: on the screen, and in the tables of a page."""

from collections.abc import Callable

from pysft.measure.page import number, stack

# Name in the --json document: (what it is, how it is written: a key of FORMS).
FIGURES = {
    "params": ("weights of the model", "count"),
    "trained_params": (
        "weights that were trained (with LoRA: those of the adapters and the new rows)",
        "count",
    ),
    "base_loss": ("loss of the base model on base text, nats per character", "loss"),
    "grown_base_loss": ("the same, after the vocabulary has grown", "loss"),
    "tuned_base_loss": ("the same, after fine-tuning", "loss"),
    "forgetting": ("forgetting: how much that loss rose, relative to the base model", "share"),
    "matched_base_loss": (
        "that loss of the base after training on the replayed base text alone",
        "loss",
    ),
    "forgetting_matched": ("matched forgetting: the rise relative to that base", "share"),
    "sft_loss_start": ("loss on conversations, first step, nats per graded token", "loss"),
    "sft_loss": ("the same, mean of the last 20 steps", "loss"),
    "heldout_loss": ("the same, on conversations never trained on", "loss"),
    "heldout_conversations": ("conversations measured for this", "count"),
    "recall": ("trained pairs answered word for word", "share"),
    "recall_of": ("pairs asked", "count"),
    "stopped": ("their replies that end with the end token", "share"),
    "format_compliance": (
        "unseen prompts whose reply has content, ends with the end token, and holds no stray"
        " control token",
        "share",
    ),
    "prompts": ("unseen prompts asked", "count"),
    "content": ("their replies that have content", "share"),
    "stopped_unseen": ("their replies that end with the end token", "share"),
    "no_user_turn": ("their replies without a stray control token", "share"),
    "reply_length": ("characters of such a reply, mean", ""),
    "distinct_replies": ("different replies among them", "count"),
    "verbatim_replies": ("replies among them that are a training reply word for word", "count"),
    "on_topic": ("unseen in-domain prompts whose reply names one of their content words", "share"),
    "on_topic_chance": ("the same, if each reply belonged to another prompt", "share"),
    "in_domain_prompts": ("unseen in-domain prompts asked", "count"),
    "real_words": ("words of their replies that occur in the corpus or the data", "share"),
    "graded_targets": ("targets that are graded", "count"),
    "targets": ("targets", "count"),
    "turns": ("turns that should be graded", "count"),
    "end_tokens_graded": ("end tokens among the graded targets", "count"),
    "tokens": ("tokens trained on", "count"),
    "tokens_per_s": ("tokens per second in training", "count"),
    "training_seconds": ("seconds of training", "seconds"),
    "seconds": ("seconds in all", "seconds"),
    "peak_memory": ("the most memory held", "bytes"),
}

FORMS = {
    "share": "{:.1%}",
    "percent": "{:.0%}",
    "rise": "{:+.1%}",
    "count": "{:,.0f}",
    "loss": "{:.3f}",
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
DOMAINS = "In: subjects that were trained on, in new words. Near and out: subjects that were not."

# The groups of replies that measure() returns.
GROUPS = {
    "pairs": "prompts it was trained on",
    "prompts": "prompts it never saw",
    "heldout": "conversations kept from training",
}


def written(value, form: str) -> str:
    """A figure in one of FORMS, for the screen; "-" if it was not measured."""
    if value is None:
        return "-"
    return FORMS[form].format(value / 2**20 if form == "bytes" else value)


def cell(value, form: str = "") -> str:
    """A figure for the table of a page, in one of FORMS, or as page.number writes it. A text stays
    as it is."""
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


def ended(reply: str, stop: str) -> str:
    """A reply for the screen, with a note if it did not end with the end token."""
    return reply if stop == "end" else f"{reply} [no end token]"


def reply_cell(reply: str, stop: str, *notes: str) -> str:
    """A reply for the table of a page, with small notes below it."""
    return stack(reply, *([] if stop == "end" else ["no end token"]), *notes)
