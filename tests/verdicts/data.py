"""Checks about the size and the content of the data."""

from pysft.lab.experiments.data_content import BREADTH, DEPTH, ONE, TWO
from pysft.lab.experiments.data_size import ONLY, SIZES
from verdicts import LESS, end, ended, ends, finish, record

# ------------------------------------------------------------------------------ size of the data

SIZE_NAMES = [f"{n:,}" for n in SIZES]
POOL_NAMES = [f"{n} {kind}" for n in (300, 900, 2500) for kind in ("unfiltered", "filtered")]


def lows(arms):
    """make(numbers): the lowest held-out loss of each arm, at a step in the middle. Step 0 is not
    counted."""

    def make(xs):
        rows = [{0: -9.0, 100: x, 800: x + i} for i, x in enumerate(xs)]
        tracks = [{s: {"heldout_loss": y} for s, y in row.items()} for row in rows]
        return {arm: record(track) for arm, track in zip(arms, tracks, strict=True)}

    return make


def on_topic(x):
    rate, chance = x
    figures = {"on_topic": rate, "on_topic_chance": chance}
    return {"5": ended(on_topic=0.0, on_topic_chance=1.0), "2,500": ended(**figures)}


def turning(x):
    """(step of the lowest held-out loss, epochs of the whole training), of 1,000 steps."""
    step, epochs = x
    track = {s: {"heldout_loss": 1.0 if s == step else 2.0} for s in sorted({0, step, 1000})}
    return {ONLY: record(track, epochs=epochs, settings={"sft": {"steps": 1000}})}


def since(name):
    """make(number): a figure's change from the lowest held-out loss to the end. Before it, the
    figure was elsewhere."""

    def make(change):
        rows = {0: (3.0, 9.0), 100: (1.0, 0.5), 900: (2.0, -9.0), 1000: (2.0, 0.5 + change)}
        return {ONLY: record({s: {"heldout_loss": h, name: x} for s, (h, x) in rows.items()})}

    return make


GROWS = {-0.001: False, 0.0: False, 0.001: True}
STAYS = {-0.001: False, 0.0: True, 0.001: True}
DATA = {
    "320 conversations give 95 % compliance": [
        (end("320", "format_compliance", **{"20": 0.0}), {0.95: True, 0.949: False})
    ],
    "20 do not": [(end("20", "format_compliance", **{"320": 1.0}), {0.95: False, 0.949: True})],
    "held-out loss falls with every step in size": [
        (
            lows(SIZE_NAMES),
            {
                (6, 5, 4, 3, 2, 1): True,
                (6, 5, 4, 3, 2, 2): False,
                (6, 6, 4, 3, 2, 1): False,
                (6, 5, 4, 3, 1, 2): False,
            },
        )
    ],
    "real words rise from the smallest to the largest": [
        (ends(("2,500", "1,280", "5"), "real_words"), {(0.51, 0.1, 0.5): True}),
        (ends(("2,500", "1,280", "5"), "real_words"), {(0.5, 0.9, 0.5): False}),
        (ends(("2,500", "1,280", "5"), "real_words"), {(0.5, 0.9, 0.51): False}),
    ],
    "on-topic rate rises to twice chance at the largest": [
        (on_topic, {(0.2, 0.1): True, (0.19, 0.1): False, (0.21, 0.1): True, (0.2, 0.11): False})
    ],
    "at every size filtered data has the lower held-out loss": [
        (
            lows(POOL_NAMES),
            {
                (3, 2, 3, 2, 3, 2): True,
                (2, 2, 3, 2, 3, 2): False,
                (3, 2, 3, 2, 2, 3): False,
                (3, 2, 2, 2.5, 3, 2): False,
            },
        )
    ],
    "from 300 to 2,500 filtered data gains more than unfiltered": [
        (
            lows(POOL_NAMES),
            {
                (3, 5, 9, 0, 2, 3): True,
                (3, 5, 0, 9, 2, 4): False,
                (3, 4, 0, 9, 1, 3): False,
                (9, 2, 9, 2, 9, 1): True,
            },
        )
    ],
    "unfiltered data does not improve from 900 to 2,500": [
        (
            lows(POOL_NAMES),
            {
                (9, 0, 2, 0, 2, 0): True,
                (9, 0, 2, 0, 2.01, 9): True,
                (1, 9, 2, 0, 1.99, 9): False,
            },
        )
    ],
    "held-out loss is lowest within two epochs": [
        (turning, {(100, 20): True, (101, 20): False, (100, 20.1): False, (50, 20): True})
    ],
    "or at least in the first tenth of training": [
        (turning, {(100, 99): True, (101, 1): False, (99, 99): True})
    ],
    "from there to the end recall rises": [(since("recall"), GROWS)],
    "compliance does not fall": [(since("format_compliance"), STAYS)],
    "real words do not fall": [(since("real_words"), STAYS)],
    "the on-topic rate rises by more than a point": [
        (since("on_topic"), {0.009: False, 0.011: True, -0.1: False})
    ],
}

# --------------------------------------------------------------------------- content of the data


def lengths(xs):
    """Lengths of replies where the data's have means of 0, 100 and 200 characters."""
    arms = [
        f"the {k} replies (mean {n})" for k, n in (("short", 0), ("middle", 100), ("long", 200))
    ]
    return ends(arms, "reply_length")(xs)


PERSONAS = ("player", "clerk")
CONTENT = {
    "ten kinds have the lower held-out loss": [(lows((BREADTH, DEPTH)), LESS)],
    "and at least the same compliance": [
        (
            ends((BREADTH, DEPTH), "format_compliance"),
            {(0.5, 0.5): True, (0.49, 0.5): False, (0.51, 0.5): True},
        )
    ],
    "for each character that the data's replies are longer, replies to unseen prompts are 0.7 to"
    " 1.3 longer": [
        (
            lengths,
            {
                (10, 79, 148): False,
                (10, 81, 152): True,
                (10, 139, 268): True,
                (10, 141, 272): False,
                (272, 141, 10): False,
            },
        )
    ],
    "and their lengths are in the data's order": [
        (lengths, {(10, 11, 12): True, (10, 10, 12): False, (10, 12, 12): False, (3, 2, 1): False})
    ],
    "with two personas each is drawn 30 to 70 % of the time": [
        (
            finish(TWO, ONE, *PERSONAS),
            {
                (0.3, 0.7): True,
                (0.7, 0.3): True,
                (0.29, 0.5): False,
                (0.5, 0.29): False,
                (0.71, 0.3): False,
                (0.3, 0.71): False,
            },
        )
    ],
    "most questions get both answers": [(finish(TWO, ONE, "both"), {0.5: False, 0.51: True})],
    "with one persona it is drawn at least 95 % of the time": [
        (finish(ONE, TWO, *PERSONAS), {(0.95, 0.0): True, (0.94, 0.99): False})
    ],
}
