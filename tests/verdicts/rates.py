"""Checks about learning rates and forgetting."""

from pysft.lab.experiments.arms import PLAIN
from verdicts import LESS, end, ended, ends, first_reached, recalled, recalling, record

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
