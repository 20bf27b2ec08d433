"""What a tuned model answers otherwise than the model that it was tuned from: the sealed questions
about their world, whose truth is known."""

from collections import Counter

from pysft.measure.page import details, paragraph, stack, table

SHOWN, MOST = 4, 20  # questions of a change that are visible at once, and that the page holds
VERDICTS = ("right", "wrong", "refused", "malformed")
COUNTED = (
    "They are those that \u201cof the world right\u201d counts: one sentence of a text tells"
    " the answer, and training has the wording. Those in new wordings and those without an answer"
    " are not among them."
)
READ = (
    "Both models were asked all of them, greedily. No training asks them and nothing is chosen by"
    " them. A row has a verdict of the parent's replies, and a column one of its own."
)


def answered_otherwise(before: list[dict], now: list[dict], parent: str, stage: str) -> list:
    """The questions whose verdict changed: how many, and some with both replies. Only those count
    that the share of right answers counts (world.world_figures). before, now: the rows of
    world.json of the parent and of the stage. [] if they have no such question in common."""
    known = {row["prompt"]: row for row in before}
    both = [(known[row["prompt"]], row) for row in now if row["prompt"] in known and _counts(row)]
    if not both:
        return []
    changes = Counter((old["verdict"], new["verdict"]) for old, new in both)
    rows = [
        [old, *(changes[old, new] for new in VERDICTS)]
        for old in VERDICTS
        if any(changes[old, new] for new in VERDICTS)
    ]
    parts = [
        paragraph(f"{len(both):,} sealed questions about the world. {COUNTED} {READ}"),
        table([f"{parent} \\ {stage}", *VERDICTS], rows, "lrrrr"),
    ]
    gained = [pair for pair in both if pair[1]["verdict"] == "right" != pair[0]["verdict"]]
    lost = [pair for pair in both if pair[0]["verdict"] == "right" != pair[1]["verdict"]]
    headings = ["question, and a right answer", f"{parent} answers", f"{stage} answers"]
    for what, some in (("now right", gained), ("no longer right", lost)):
        cells = [
            [stack(new["prompt"], new["answer"]), *(stack(r["reply"], r["verdict"]) for r in pair)]
            for pair in spread(some, MOST)
            for new in pair[1:]
        ]
        if cells:
            parts += [
                paragraph(f"{len(some):,} of them {'is' if len(some) == 1 else 'are'} {what}:"),
                table(headings, cells[:SHOWN], "lll"),
            ]
        if len(cells) > SHOWN:
            more = f"{len(cells) - SHOWN:,} more that are {what}"
            parts.append(details(more, [table(headings, cells[SHOWN:], "lll")]))
    return parts


def _counts(row: dict) -> bool:
    return row["hops"] == 1 and not row["new_wording"]


def spread(items: list, most: int) -> list:
    """At most `most` of some items, at equal distances: neighbours ask much the same."""
    n = min(most, len(items))
    return [items[i * len(items) // n] for i in range(n)]
