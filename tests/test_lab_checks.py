"""The truth of every check of every experiment: at its threshold, just below it and just above.

CHECKS has each check by its text. Behind it stand one or more (make, verdicts): make(number) gives
records in which the check's figure has this number and all others contradict it, where they can;
verdicts says for which numbers the check holds. A new check has no row, so a test fails."""

import math

import pytest
from small_lab import record_of

from pysft.lab.experiments import EXPERIMENTS, vocabulary
from pysft.lab.experiments.arms import PLAIN
from pysft.lab.experiments.data_content import BREADTH, DEPTH, ONE, TWO, WITH, WITHOUT
from pysft.lab.experiments.data_size import ONLY, SIZES
from pysft.lab.experiments.masking import OFF_BY_ONE, UNMASKED
from pysft.lab.experiments.vocabulary import MEAN

# --------------------------------------------------------------------------------- made-up records


def record(rows: dict[int, dict] | None = None, **more) -> dict:
    """A record with these measurements, {step: figures}, and these fields."""
    return record_of(track=[{"step": s, **row} for s, row in (rows or {}).items()], **more)


def ended(**figures) -> dict:
    """A record whose last measurement has these figures, and the one before it has none."""
    return record({0: dict.fromkeys(figures), 1000: figures})


def recalling(pairs: int, **more) -> dict:
    return ended(recall=pairs / 40, recall_of=40, **more)


def end(arm: str, name: str, **others):
    """make(number): the last figure of an arm. others: arms with another number, by their names."""
    return lambda x: {arm: ended(**{name: x})} | {k: ended(**{name: v}) for k, v in others.items()}


def ends(arms, name: str):
    """make(numbers): the last figure of each arm."""
    return lambda xs: {arm: ended(**{name: x}) for arm, x in zip(arms, xs, strict=True)}


def recalled(*arms: str):
    """make(numbers): how many pairs each arm recalls; make(number) for one arm."""

    def make(xs):
        xs = xs if isinstance(xs, tuple) else (xs,)
        return {arm: recalling(x) for arm, x in zip(arms, xs, strict=True)}

    return make


def finish(arm: str, other: str, *names: str):
    """make(numbers): what Arm.finish returned for an arm. The other arm has none of it."""

    def make(xs):
        xs = xs if isinstance(xs, tuple) else (xs,)
        return {arm: record(finish=dict(zip(names, xs, strict=True))), other: record()}

    return make


def along(arms, name: str, step: int):
    """make(numbers): a figure of each arm after a step. Before and after it the arms have the
    opposite order."""

    def make(xs):
        rows = [{s: {name: x if s == step else -x} for s in (0, 200, 1000)} for x in xs]
        return {arm: record(row) for arm, row in zip(arms, rows, strict=True)}

    return make


def first_reached(slow: str, fast: str, others=()):
    """make((a, b)): forgetting of two arms when they first recall 36 pairs. Before and after it
    they have forgotten other shares. None: they never recall 36."""

    def path(x):
        rows = {0: (0, 0.0), 100: (35, 0.9), 200: (36, x), 500: (40, 1 - (x or 0))}
        if x is None:
            rows = {0: (0, 0.0), 100: (35, 0.1)}
        return record({s: {"recall": n / 40, "forgetting": f} for s, (n, f) in rows.items()})

    def make(xs):
        return {slow: path(xs[0]), fast: path(xs[1])} | {name: path(0.01) for name in others}

    return make


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

LESS = {(1.0, 1.01): True, (1.0, 1.0): False, (1.01, 1.0): False}  # of two: the first is less
MORE = {(1.0, 1.01): False, (1.0, 1.0): False, (1.01, 1.0): True}
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

# ------------------------------------------------------------------------- rates and forgetting

SMOOTH = [2.0] * 10 + [1.9] * 40


def spiky(n):
    """Losses with n spikes, and a rise above the first only where a spike is."""
    curve = list(SMOOTH)
    for i in range(n):
        curve[12 + 3 * i] = 9.0
    return curve


def spikes(*arms):
    """make(numbers): how many spikes each arm's loss has."""
    return lambda ns: {arm: record(losses=spiky(n)) for arm, n in zip(arms, ns, strict=True)}


def high_rates(ones):
    """Two high rates, each with a number of spikes or "diverged"."""
    return {
        arm: record(losses=[1.0] if x == "diverged" else spiky(x))
        | {"diverged": "step 2" if x == "diverged" else None}
        for arm, x in zip(("rate 1e-2", "rate 3e-2"), ones)
    }


def found(start):
    """make(judgement): of the last rate that is tried from a start. All others are judged
    otherwise."""
    curves = {"right": [2.0] * 30 + [0.1] * 20, "flat": [2.0] * 50}
    starts = ["a third of the pre-training rate", "far too low", "far too high"]

    def make(judgement):
        other = {"right": "flat", "flat": "right"}[judgement]
        names = [f"{s}: {i}" for s in starts for i in (1, 2)]
        last = f"{start}: 1" if start == starts[0] else f"{start}: 2"
        return {name: record(losses=curves[judgement if name == last else other]) for name in names}

    return make


def everywhere(name):
    """make(numbers): a figure at the last rate from each start. At the others it is bad."""

    def make(xs):
        bad = recalling(0, forgetting=9.0)
        ends = [recalling(x) if name == "recalled" else recalling(40, forgetting=x) for x in xs]
        return {f"{i}: 1": bad for i in range(3)} | {f"{i}: 2": r for i, r in enumerate(ends)}

    return make


def replayed(xs):
    """(forgetting, matched forgetting) of the first arm with 16 windows. The others forget less
    with 16, more with other numbers."""

    def arm(forgetting, matched):
        loss = 2.0 * (1 + matched)
        return ended(forgetting=forgetting, tuned_base_loss=loss) | {"matched_loss": 2.0}

    low, high = arm(0.0, 0.0), arm(0.9, 0.9)
    return {
        PLAIN: high,
        "replay, 4 windows": high,
        "replay, 16 windows": low,
        "replay, 16 windows, 1e-3 to 0": arm(*xs),
        "replay, 32 windows": high,
        "LoRA rank 16 and replay": high,
    }


def good(x):
    """Of two arms one recalls, complies and forgets so; the other recalls nothing."""
    pairs, compliance, forgetting = x
    bad = recalling(0, format_compliance=1.0, forgetting=-1.0)
    figures = {"format_compliance": compliance, "forgetting": forgetting}
    return {PLAIN: bad, "replay, 16 windows": recalling(pairs, **figures)}


RISING = ("rate 1e-5", "rate 3e-5", PLAIN, "rate 3e-4", "rate 1e-3")
KEPT = ("format_compliance", "real_words")
LORA = ("LoRA rank 1, 1e-3", "LoRA rank 4, 1e-3")
RATES = {
    "1e-5 recalls less than a tenth of the pairs": [
        (recalled("rate 1e-5", PLAIN), {(3, 40): True, (4, 0): False})
    ],
    "and most of its replies to unseen prompts do not comply: it still autocompletes": [
        (end("rate 1e-5", "format_compliance", **{PLAIN: 0.9}), {0.49: True, 0.5: False})
    ],
    "1e-4 recalls at least 36 of 40": [
        (recalled(PLAIN, "rate 1e-5"), {(35, 40): False, (36, 0): True})
    ],
    "forgetting rises with the rate from 1e-5 to 1e-3": [
        (
            ends((*RISING, "rate 3e-3"), "forgetting"),
            {
                (0.1, 0.2, 0.3, 0.4, 0.5, 0.0): True,
                (0.1, 0.1, 0.3, 0.4, 0.5, 0.9): False,
                (0.1, 0.2, 0.3, 0.4, 0.4, 0.9): False,
                (0.1, 0.2, 0.5, 0.4, 0.6, 0.9): False,
            },
        )
    ],
    "the pre-training rate has more spikes than 1e-4": [
        (spikes("rate 3e-4", PLAIN), {(2, 1): True, (1, 1): False, (1, 2): False})
    ],
    "and its replies have five points fewer real words": [
        (
            ends(("rate 3e-4", PLAIN), "real_words"),
            {(0.69, 0.75): True, (0.75 - 0.05, 0.75): True, (0.71, 0.75): False},
        )
    ],
    "from 1e-2 on there are spikes": [
        (
            high_rates,
            {
                (1, 1): True,
                (0, 1): False,
                (1, 0): False,
                ("diverged", 1): True,
                (1, "diverged"): True,
                ("diverged", 0): False,
            },
        )
    ],
    "at ten times the pre-training rate replies keep the format, but under half of their words are"
    " real": [
        (
            lambda x: {"rate 3e-3": ended(**dict(zip(KEPT, x)))},
            {(0.8, 0.49): True, (0.79, 0.49): False, (0.8, 0.5): False},
        )
    ],
    "a third of the pre-training rate is right at once": [
        (found("a third of the pre-training rate"), {"right": True, "flat": False})
    ],
    "from a rate far too low it ends at one that is right": [
        (found("far too low"), {"right": True, "flat": False})
    ],
    "and so it does from one far too high": [
        (found("far too high"), {"right": True, "flat": False})
    ],
    "wherever it ends, at least 36 of 40 pairs are recalled": [
        (everywhere("recalled"), {(36, 36, 36): True, (36, 40, 35): False, (35, 40, 40): False})
    ],
    "and forgetting stays below 15 %": [
        (
            everywhere("forgetting"),
            {(0.14, 0.14, 0.14): True, (0.14, 0.0, 0.15): False, (0.15, 0.0, 0.0): False},
        )
    ],
    "the plain recipe forgets more than 15 %": [
        (end(PLAIN, "forgetting", **{"rate 3e-5": 0.2}), {0.151: True, 0.15: False})
    ],
    "when 36 are first recalled, a lower rate has forgotten less": [
        (first_reached("rate 3e-5", PLAIN), LESS | {(None, 0.5): False, (0.5, None): False})
    ],
    "16 windows of replay bring it below 10 %, matched too": [
        (
            replayed,
            {(0.09, 0.09): True, (0.1, 0.0): False, (0.0, 0.1): False, (-0.2, -0.2): True},
        )
    ],
    "when 36 are first recalled, LoRA has forgotten less than all weights at the same rate": [
        (
            first_reached("LoRA rank 16, 1e-3", "rate 1e-3", ("LoRA rank 16, 1e-4", PLAIN)),
            LESS | {(None, 0.5): False},
        )
    ],
    "and some LoRA has forgotten less than the plain recipe": [
        (first_reached(LORA[0], PLAIN, ("LoRA rank 16 and replay",)), LESS | {(None, 0.5): False}),
        (
            lambda x: first_reached(LORA[0], "-")((9.0, 9.0)) | first_reached(LORA[1], PLAIN)(x),
            LESS,
        ),
    ],
    "some arm recalls 38 of 40, complies for 90 % of unseen prompts and forgets at most 2 %": [
        (
            good,
            {
                (38, 0.9, 0.02): True,
                (37, 0.9, 0.02): False,
                (38, 0.89, 0.02): False,
                (38, 0.9, 0.021): False,
            },
        )
    ],
}

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
    "without refusals in the data at most 5 % of unknown names are refused": [
        (finish(WITHOUT, WITH, "unknown_refused"), {0.05: True, 0.051: False})
    ],
    "and most get an invented trade and town": [
        (finish(WITHOUT, WITH, "unknown_invented"), {0.5: False, 0.51: True})
    ],
    "with them at least 80 % are refused": [
        (finish(WITH, WITHOUT, "unknown_refused"), {0.8: True, 0.79: False})
    ],
    "and at least 90 % of known names are still answered right": [
        (finish(WITH, WITHOUT, "known_right"), {0.9: True, 0.89: False})
    ],
}

CHECKS = ONE_RUN | MASKS | RATES | DATA | CONTENT


def rows_of(experiment, check) -> list:
    """[(make, verdicts)] of a check; [] if it has none."""
    return SHARED_TEXTS.get((experiment.name, check.text)) or CHECKS.get(check.text, [])


EVERY = [(e, check) for e in EXPERIMENTS.values() for check in e.checks]


@pytest.mark.parametrize("e, check", EVERY, ids=[f"{e.name}: {c.text}" for e, c in EVERY])
def test_a_check_turns_exactly_at_its_threshold(e, check):
    """Without the guard that takes an error for "not measured"."""
    rows = rows_of(e, check)
    assert {verdict for _, verdicts in rows for verdict in verdicts.values()} == {True, False}
    for make, verdicts in rows:
        for number, expected in verdicts.items():
            assert bool(check.holds(make(number))) is expected, number


def test_no_row_is_about_a_check_that_is_gone_or_that_has_a_namesake():
    texts = [check.text for _, check in EVERY]
    assert {text for text in texts if texts.count(text) > 1} == {STILL}
    assert set(CHECKS) | {STILL} == set(texts)
    assert {name for name, _ in SHARED_TEXTS} == {e.name for e, c in EVERY if c.text == STILL}
