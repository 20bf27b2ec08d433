"""Checks about one run of the source's recipe, masks, end tokens and new symbols."""

import math

from pysft.lab.experiments import vocabulary
from pysft.lab.experiments.arms import PLAIN
from pysft.lab.experiments.masking import OFF_BY_ONE, UNMASKED
from pysft.lab.experiments.vocabulary import MEAN
from verdicts import LESS, along, end, ends, recalled, record

# ------------------------------------------------------------------- one run of the source's recipe


def losses(first=4.0, at_200=1.0, last=0.0):
    """A record of 1,000 losses: the first, the level of steps 191 to 200, that of the last 20."""
    curve = [first] + [9.0] * 189 + [at_200] * 10 + [7.0] * 780 + [last] * 20
    return {PLAIN: record(losses=curve)}


def milestones(steps):
    """A record that stops and recalls from these steps on (None: never)."""
    stops, recalls = (math.inf if s is None else s for s in steps)
    rows = {
        s: {"stopped": 0.95 if s >= stops else 0.94, "recall": 0.9 if s >= recalls else 0.89}
        for s in (0, 50, 100, 200)
    }
    return {PLAIN: record(rows)}


def learnt(steps):
    """A record whose end token and content are below half a nat from these steps on."""
    kinds = dict(zip(("end", "content"), steps))
    curves = {kind: [4.0] * n + [0.0] * (100 - n) for kind, n in kinds.items()}
    return {PLAIN: record(by_kind=curves | {"first": [0.0] * 100})}


def moved(**changes):
    """A record with these relative changes; __ stands for the comma before the kind of row."""
    names = {"wte__old": "wte, old rows", "head__old": "head, old rows"}
    names |= {"wte__new": "wte, new rows", "head__new": "head, new rows"}
    return {PLAIN: record(moved={names[k]: x for k, x in changes.items()})}


def matrices(x):
    names = ("h0.qkv.w", "h0.attproj.w", "h0.fc.w")
    return {PLAIN: record(moved=dict(zip(names, (0.0, x, 9.0))) | {"h0.fc.b": 9.0, "wpe": 9.0})}


ONE_RUN = {
    "it starts between 3.5 and 4.5": [
        (lambda x: losses(first=x), {3.49: False, 3.5: True, 4.5: True, 4.51: False})
    ],
    "it ends at 0.3 or below": [(lambda x: losses(last=x), {0.29: True, 0.3: True, 0.301: False})],
    "four fifths of the fall are in the first 200 steps": [
        (lambda x: losses(10.0, at_200=x), {1.99: True, 2.0: True, 2.01: False})
    ],
    "replies stop before they are recalled": [
        (milestones, {(50, 100): True, (100, 100): False, (200, 100): False}),
        (milestones, {(50, None): False, (None, 50): False, (None, None): False}),
    ],
    "the end token's loss is below 0.5 nats before the content's": [
        (learnt, {(30, 31): True, (30, 30): False, (31, 30): False, (30, 100): False})
    ],
    "the matrices move by less than half of their norm (median)": [
        (matrices, {0.49: True, 0.5: False})
    ],
    "so do the old rows of embedding and head": [
        (lambda x: moved(wte__old=x, head__old=0.1), {0.49: True, 0.5: False}),
        (lambda x: moved(wte__old=0.1, head__old=x), {0.49: True, 0.5: False}),
    ],
    "the new rows move more than the old ones": [
        (
            lambda x: moved(wte__old=0.5, head__old=0.1, wte__new=x, head__new=0.2),
            {0.49: False, 0.5: False, 0.51: True},
        ),
        (
            lambda x: moved(wte__old=0.1, head__old=0.5, wte__new=0.2, head__new=x),
            {0.49: False, 0.5: False, 0.51: True},
        ),
    ],
}

# ------------------------------------------------------------------ masks, end tokens, new symbols

SYMBOLS = vocabulary.ONE, vocabulary.SPELLED
ROWS_RAISE = math.log(68 / 65)


def starts(share):
    """The user's share of the gradient at step 0."""
    rows = {0: {"user_gradient": share}, 1000: {"user_gradient": 1 - share}}
    return {PLAIN: record(rows), UNMASKED: record({0: {"user_gradient": 9.0}})}


def new_rows(name, arm, base=0.0):
    """make(number): a figure of an arm at step 0, above this base."""

    def make(x):
        other = MEAN if arm == PLAIN else PLAIN
        rows = {0: {name: base + x}, 1000: {name: base + 9}}
        wrong = record({0: {name: base + 9}}, base_loss=base)
        return {arm: record(rows, base_loss=base), other: wrong}

    return make


MASKS = {
    "after 200 steps the loss on replies is lower with the mask": [
        (along((PLAIN, UNMASKED), "reply_loss", 200), LESS)
    ],
    "at the start 40 to 60 % of the unmasked gradient is the user's": [
        (starts, {0.39: False, 0.4: True, 0.6: True, 0.61: False})
    ],
    "with the token trained at least 36 of 40 pairs are recalled": [
        (recalled(PLAIN, OFF_BY_ONE), {(35, 40): False, (36, 0): True})
    ],
    "with the source's code at most 4 are": [
        (recalled(PLAIN, OFF_BY_ONE), {(40, 4): True, (0, 5): False})
    ],
    "both learn to stop": [
        (
            ends((PLAIN, OFF_BY_ONE), "stopped"),
            {(0.9, 0.9): True, (0.89, 1.0): False, (1.0, 0.89): False},
        )
    ],
    "one missing end of 40 costs more than that one reply": [
        (
            end("1 of 40 ends left out", "stopped", **{"20 of 40 ends left out": 0.5}),
            {38 / 40: True, 39 / 40: False, 1.0: False},
        )
    ],
    "with half of them missing, under 75 % of replies to the pairs stop": [
        (
            end("20 of 40 ends left out", "stopped", **{"40 of 40 ends left out": 0.0}),
            {0.74: True, 0.75: False},
        )
    ],
    "with all missing no reply stops": [
        (
            end("40 of 40 ends left out", "stopped", **{"20 of 40 ends left out": 0.5}),
            {0.0: True, 1 / 40: False},
        )
    ],
    "random rows move the base loss by less than 1 %": [
        (new_rows("forgetting", PLAIN), {0.0099: True, 0.01: False, -0.0099: True, -0.01: False})
    ],
    "mean rows raise it by at most ln(68/65) = 0.045 nats": [
        (
            new_rows("tuned_base_loss", MEAN, base=2.0),
            {ROWS_RAISE: True, ROWS_RAISE + 9e-7: True, ROWS_RAISE + 2e-6: False, -1.0: True},
        )
    ],
    "both recall at least 36 of 40": [
        (recalled(PLAIN, MEAN), {(36, 36): True, (35, 40): False, (40, 35): False})
    ],
    "after 200 steps the loss on replies is lower with single tokens": [
        (along(SYMBOLS, "reply_loss", 200), LESS)
    ],
    "with single tokens replies to unseen prompts comply more often, by ten points or more": [
        (
            ends(SYMBOLS, "format_compliance"),
            {(0.6, 0.5): True, (0.59, 0.5): False, (0.5, 0.6): False},
        )
    ],
}
# Two experiments have a check with this text.
STILL = "after 1,000 steps it still is"
SHARED_TEXTS = {
    ("masking", STILL): [(along((PLAIN, UNMASKED), "reply_loss", 1000), LESS)],
    ("one-token", STILL): [(along(SYMBOLS, "reply_loss", 1000), LESS)],
}
