"""The curves on the page of a run: each step of training, and each measured checkpoint."""

from pysft.batch import BASE, CONVERSATION, WORLD
from pysft.measure import figures
from pysft.measure.figures import Series
from pysft.measure.page import details, figure, paragraph, table
from pysft.measure.wording import UNITS, cell, reply_cell, unit_of

POINTS = 200  # maximum points of a curve; if there are more steps, each point is a mean of several
SOURCES = (BASE, CONVERSATION, WORLD)  # the figures of a log that are losses of a kind of text
CHOSEN = "chosen"  # the loss of the chosen replies
# The other figures of a log that are drawn beside the losses: (title, what y is, {name: label}, a
# level to compare with). All else is folded away.
OBJECTIVES = (
    (
        "Pairs in the right order by step",
        "share of the step's pairs",
        {"accuracy": "right"},
        (0.5, "chance"),
    ),
    ("Margin by step", "better reply minus worse one, mean", {"margin": "margin"}, None),
    (
        "Log-probability of a reply by step",
        "nats above that of the parent, mean",
        {"chosen_logp": "chosen reply", "rejected_logp": "rejected reply"},
        (0.0, "the parent"),
    ),
)
ROWS = 12  # maximum rows of a curve's table

# The figures that are drawn of each checkpoint: name -> label.
SHARES = {
    "recall": "recall",
    "stopped": "stopped",
    "format_compliance": "format",
    "on_topic": "on topic",
    "real_words": "real words",
}
PAIRS = {"sft_loss": "trained, pairs and base text"}
LOSSES = {"sft_loss": "trained", "heldout_loss": "held out", "tuned_base_loss": "base text"}


def grouped(rows: list[dict], most: int, *names) -> list[list]:
    """[last step, mean of each name] for each group of consecutive rows.

    There are at most `most` groups, all of one size except the last. A name may be a path:
    "figures/base". A mean over no numbers is None."""
    size = -(-len(rows) // most)
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]

    def mean(group, name):
        found = []
        for row in group:
            for key in name.split("/", 1):
                row = row.get(key, {}) if isinstance(row, dict) else {}
            if isinstance(row, (int, float)):
                found.append(row)
        return sum(found) / len(found) if found else None

    return [[group[-1]["step"], *(mean(group, name) for name in names)] for group in groups]


def means_of(what: str, rows: list[dict], most: int, unit: str) -> str:
    """The sentence that says what each "row" or "point" of grouped(rows, most) is. unit: what a row
    of the log is called, "step" or "iteration"."""
    size = -(-len(rows) // most)
    if size == 1:
        return f"Each {what} is one {unit}."
    number = f"up to {size:,}" if len(rows) % size else f"{size:,}"
    last = "; it names the last of them" if what == "row" else ""
    return f"Each {what} is the mean of {number} {unit}s{last}."


def training(rows: list[dict]) -> list:
    """The parts that show the log of a stage: the losses, and folded away the gradient norm, the
    learning rate and a table. Without matplotlib the table alone."""
    skipped = sum(bool(row.get("skipped")) for row in rows)
    rows = [row for row in rows if not row.get("skipped")]
    if not rows:
        return [paragraph(f"All {skipped:,} steps were skipped: loss or gradient was not finite.")]
    seconds, tokens = (sum(row[name] for row in rows) for name in ("seconds", "tokens"))
    text = f"{len(rows):,} steps, {tokens:,} tokens, {seconds:,.1f} seconds."
    if skipped:
        steps = "step was" if skipped == 1 else "steps were"
        text += f" {skipped:,} more {steps} skipped: loss or gradient was not finite."
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    loss_curve, more_curves = _log_curves(rows, names)
    numbers = [paragraph(means_of("row", rows, ROWS, "step")), _log_table(rows, names)]
    if not more_curves:
        return [paragraph(text), *numbers]
    folded = details("Gradient norm, learning rate, and the numbers", [*more_curves, *numbers])
    return [paragraph(text), *loss_curve, folded]


def _log_curves(rows: list[dict], names: list[str]) -> tuple[list, list]:
    """(the charts of the losses and of OBJECTIVES, the charts of all other figures of the
    objective, of gradient norm and learning rate), both as lists, which are empty without
    matplotlib."""
    if not figures.available():
        return [], []
    points = grouped(rows, POINTS, *(f"figures/{name}" for name in names), "norm", "lr", "loss")
    steps, *columns = map(list, zip(*points))
    note = means_of("point", rows, POINTS, "step")

    def drawn(title, series, y_label, log_y=False, level=None):
        lines = [Series(name, steps, [column]) for name, column in series]
        beside = {} if level is None else {"level": level}
        return figure(figures.curves(title, lines, "step", y_label, log_y=log_y, **beside), note)

    *columns, norm, rate, whole = columns
    found = dict(zip(names, columns))
    named = [(_label(name), column) for name, column in found.items() if _is_loss(name)]
    shown = [drawn("Loss by step", named, "nats per graded token")] if named else []
    if names and not set(names) & {CONVERSATION, WORLD} and set(names) != {BASE}:
        shown.append(drawn("The objective by step", [("objective", whole)], "nats"))
    drawn_too = set()
    for title, y_label, labels, level in OBJECTIVES:
        if series := [(labels[name], found[name]) for name in labels if name in found]:
            shown.append(drawn(title, series, y_label, level=level))
            drawn_too |= labels.keys()
    rest = [name for name in names if not _is_loss(name) and name not in drawn_too]
    return shown, [
        *(drawn(name, [(name, found[name])], "") for name in rest),
        drawn("Gradient norm", [("gradient norm", norm)], "", log_y=True),
        drawn("Learning rate", [("learning rate", rate)], ""),
    ]


def known_by_tellings(rows: list[dict]) -> list:
    """The chart of what a model knows against how often it was told, as a list: empty without
    matplotlib, or if all was told equally often. rows: `by_tellings` of a report."""
    told = [row for row in rows if row["tellings"]]
    if len(told) < 2 or not figures.available():
        return []
    times = [row["tellings"] for row in told]
    lines = [
        Series(name, times, [[100 * row[name] for row in told]])
        for name in ("right", "wrong", "refused")
    ]
    title = "Replies by how often the text tells the fact"
    drawn = figures.curves(title, lines, "tellings", "% of the questions", log_x=True)
    note = "Sealed questions of one hop, in all wordings; the rest to 100 % is malformed."
    return [figure(drawn, note)]


def _is_loss(name: str) -> bool:
    return name in SOURCES or name == CHOSEN


def _label(name: str) -> str:
    """The name of an objective's figure for people: that of a source is its loss."""
    return "loss of chosen replies" if name == CHOSEN else f"loss of {name}"


def _log_table(rows: list[dict], names: list[str]) -> str:
    columns = [f"figures/{name}" for name in names]
    cells = [
        [
            step,
            *(cell(value, "loss") for value in values),
            norm,
            rate,
            cell(graded, "count"),
            cell(speed, "count"),
        ]
        for step, *values, norm, rate, graded, speed in grouped(
            rows, ROWS, *columns, "norm", "lr", "graded_tokens", "tokens_per_s"
        )
    ]
    headings = ["step", *(f"loss, {name}" if _is_loss(name) else name for name in names)]
    headings += ["norm", "rate", "graded tokens", "tokens/s"]
    return table(headings, cells, "r" * len(headings))


def of_pairs(rows: list[dict]) -> list:
    """As checkpoints(), for a stage that was tuned on pairs."""
    note = "The loss that is trained, in nats a pair; on held-out conversations"
    return checkpoints_by(rows, LOSSES | PAIRS, note)


def checkpoints(rows: list[dict]) -> list:
    """The parts that show each measured checkpoint of a fine-tuning: charts, a table of its
    figures, and its replies to the same prompts."""
    note = "On conversations, trained and held out"
    return checkpoints_by(rows, LOSSES, note, of=" of fine-tuning")


def checkpoints_by(
    rows: list[dict], losses: dict[str, str], note: str, unit: str = "step", of: str = ""
) -> list:
    """As checkpoints(), for any stage that talks. losses: {loss: its label}. note: what the losses
    are of, for the caption of their chart. unit: what a step is called there. of: what follows that
    word below a chart."""
    names = [*losses, "forgetting", *SHARES]
    cells = [
        [
            row["step"],
            *(cell(row.get(name), "loss" if name in losses else "share") for name in names),
        ]
        for row in rows
    ]
    parts = []
    if figures.available():
        parts = _checkpoint_curves(rows, losses, note, unit, of)
    headings = [unit, *(f"loss, {label}" for label in losses.values())]
    headings += ["forgetting", *SHARES.values()]
    parts.append(table(headings, cells, "r" * len(headings)))
    replies = {}
    for row in rows:
        for prompt, reply, stop in row.get("samples", []):
            replies.setdefault(prompt, []).append([row["step"], reply_cell(reply, stop)])
    return parts + [
        details(
            f"The same prompt at each checkpoint: {' '.join(prompt.split())}",
            [table([unit, "reply"], given, "rl")],
        )
        for prompt, given in replies.items()
    ]


def _checkpoint_curves(rows: list[dict], losses: dict[str, str], of_what, unit, of) -> list:
    steps = [row["step"] for row in rows]

    def column(name):
        return [row.get(name) for row in rows]

    def drawn(title, names, y_label, note):
        lines = [Series(label, steps, [column(name)]) for name, label in names.items()]
        return figure(figures.curves(title, lines, unit + of, y_label), note)

    paths = [
        (SHARES[name], [(column("forgetting"), column(name))]) for name in ("recall", "real_words")
    ]
    return [
        drawn(
            f"Shares by {unit}",
            SHARES,
            "share",
            "Defined in the section “The figures”; 1 means all.",
        ),
        drawn(
            f"Losses by {unit}",
            losses,
            "nats",
            f"{of_what}, per graded token; on base text per {UNITS[unit_of(rows[0])]}.",
        ),
        figure(
            figures.paths("What is learned, and what it costs", paths, "forgetting", "share"),
            "Further right: more of the base text forgotten. Further up: more learned.",
        ),
    ]
