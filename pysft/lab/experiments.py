"""The source text's claims as experiments: what is varied, what is measured, what would have to
hold, and whether it did.

Each is a row of EXPERIMENTS. Its arms are ways of fine-tuning (trial.Arm), its checks are
statements about one seed's records, and its verdict follows from them: *reproduced* where every
check holds in every seed, *not reproduced* where none holds in most, *partly* otherwise. SMALL is
the source's model and recipe (context 64); WIDE is the tiny preset's (context 256), for
conversations that need the room."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pysft.lab import figures as draw
from pysft.lab import variants as v
from pysft.lab.trial import NEW, OLD, Arm, Lab

SMALL, WIDE = "seed", "tiny"
ALONG = (10, 25, 50, 100, 200, 400)
EARLY = (50, 100, 200, 300, 500, 700)
ALL_MATRICES = ("qkv", "attproj", "fc", "fcproj")
# The source's fine-tuning on the wide base; and a plain one on conversations.
SOURCE = {
    "sft_steps": 1000,
    "sft_pairs": 16,
    "sft_windows": (),
    "sft_lr": 1e-4,
    "sft_schedule": "constant",
    "sft_warmup": 0,
    "replacement": True,
    "new_rows": "random",
    "beta2": 0.999,
    "sft_decay": 0.01,
    "decay_all": True,
    "clip": 0.0,
}
TALK = {"sft_steps": 600, "sft_pairs": 0, "sft_windows": (), "sft_lr": 3e-3, "sft_warmup": 30}
JUMP = 1.3  # a loss this many times the mean of the twenty before it is a spike


@dataclass(frozen=True)
class Column:
    """A figure of a record, by which arms are compared. form: how it is written."""

    heading: str
    value: Callable[[dict], float | str | None]
    form: str = "{:.3f}"


@dataclass(frozen=True)
class Check:
    """A statement about the records of one seed, by the arms' names."""

    text: str
    holds: Callable[[dict[str, dict]], bool]


@dataclass(frozen=True)
class Experiment:
    """claim: what the source text says, in our words. arms: yields Arms and is sent their records,
    so that one can depend on another."""

    name: str
    title: str
    claim: str
    arms: Callable[[Lab, int], Iterator[Arm]]
    columns: list[Column]
    checks: list[Check]
    figures: Callable[[dict[str, list[dict]]], list[tuple[str, str]]]
    note: str = ""


# ----------------------------------------------------------------------------------- what records s


def last(name: str) -> Callable[[dict], float | None]:
    """A figure at the last measurement."""
    return lambda record: record["track"][-1].get(name)


def at(name: str, step: int) -> Callable[[dict], float | None]:
    """A figure at a step of the full length (the nearest measurement, where the lab is scaled)."""
    return lambda record: min(record["track"], key=lambda row: abs(row["step"] - step)).get(name)


def finish(name: str) -> Callable[[dict], float | None]:
    return lambda record: record.get("finish", {}).get(name)


def recalled(record: dict) -> float | None:
    """How many of the pairs, by number."""
    row = record["track"][-1]
    return None if row["recall"] is None else round(row["recall"] * row["recall_of"])


def memorised(record: dict) -> float | None:
    """The share of the replies to unseen prompts, those that are copies or pieces of what was
    trained on (lab/provenance.py)."""
    found = record["track"][-1].get("origins")
    return (
        None
        if not found
        else sum(found[k] for k in ("verbatim", "near copy", "spliced"))
        / max(1, sum(found.values()))
    )


def spikes(losses: list[float]) -> int:
    """Steps whose loss stands out: JUMP times the mean of the twenty before it and 0.1 nats above
    it, so that noise about next to nothing does not count. The first twenty are held against the
    first of all."""
    a = np.array(losses)
    before = np.full(len(a), a[0] if len(a) else 0.0)
    if len(a) > 20:
        before[20:] = np.convolve(a, np.ones(20) / 20, "valid")[
            :-1
        ]  # [i]: the mean of steps i .. i+19
    return int((a > before + np.maximum((JUMP - 1) * before, 0.1)).sum())


def _count(record):
    return spikes(record["losses"])


def _smooth(losses, width=10):
    """(steps, running means) of a loss curve, a point every `width` steps."""
    a = np.array(losses[: len(losses) // width * width] or losses).reshape(
        -1, width if len(losses) >= width else len(losses)
    )
    return list((np.arange(len(a)) + 1) * a.shape[1]), a.mean(1).tolist()


RECALL = Column("recalled of 40", recalled, "{:.0f}")
STOPPED = Column("stopped", last("stopped"), "{:.0%}")
FORGOT = Column("forgetting", last("forgetting"), "{:+.1%}")
REPLY = Column("loss on replies", last("reply_loss"))
COMPLIES = Column("format compliance", last("format_compliance"), "{:.0%}")
HELD = Column("held-out loss", last("heldout_loss"))
LOWEST = Column("held-out loss at its lowest", lambda r: _lowest(r)["heldout_loss"])
REAL = Column("real words", last("real_words"), "{:.1%}")
TOPIC = Column("on topic", last("on_topic"), "{:.1%}")
MEMORY = Column("memorised", memorised, "{:.0%}")
ASKED = Column("recalled of those asked", last("recall"), "{:.0%}")
CHANCE = Column("chance", last("on_topic_chance"), "{:.1%}")


# --------------------------------------------------------------------------------------- how they a


def tracks(results, title, name, label, scale: float = 1.0, **more) -> tuple[str, str]:
    """(title, SVG): a figure along the steps, a line an arm."""
    series = []
    for arm, records in results.items():
        xs = [row["step"] for row in max((r["track"] for r in records), key=len)]
        ys = [
            [
                (
                    None
                    if (y := {row["step"]: row.get(name) for row in r["track"]}.get(x)) is None
                    else y * scale
                )
                for x in xs
            ]
            for r in records
        ]
        series.append(draw.Series(arm, xs, ys))
    return title, draw.curves(title, series, "step", label, **more)


def losses(results, title, **more) -> tuple[str, str]:
    """(title, SVG): training loss along the steps."""
    series = []
    for arm, records in results.items():
        xs = _smooth(max((r["losses"] for r in records), key=len))[0]
        ys = [(y := _smooth(r["losses"])[1]) + [None] * (len(xs) - len(y)) for r in records]
        series.append(draw.Series(arm, xs, ys))
    return title, draw.curves(title, series, "step", "loss, nats per graded token", **more)


def dots(results, title, column: Column, label: str, scale: float = 1.0, **more) -> tuple[str, str]:
    """(title, SVG): one figure, a row an arm, a dot a seed."""
    groups = [
        (arm, [None if (y := column.value(r)) is None else y * scale for r in records])
        for arm, records in results.items()
    ]
    return title, draw.dots(title, groups, label, **more)


# -------------------------------------------------------------------------------------------- the a


def _pairs(lab: Lab, name: str, at=EARLY, **more) -> Arm:
    """The source's recipe on its 40 pairs, with changes."""
    settings = more.pop("settings", {})
    return Arm(
        name,
        SMALL,
        lab.probe(lab.pairs, lab.pairs, 64, heldout=()),
        settings,
        pairs=lab.pairs,
        at=at,
        by_kind=True,
        **more,
    )


PLAIN = "the source's recipe"


def plain(lab: Lab) -> Arm:
    return _pairs(lab, PLAIN)


def _talks(lab: Lab, name: str, talks, at=(), recalled=None, settings=None, **more) -> Arm:
    """Conversations on the wide base; the first forty single ones among them should be recalled."""
    single = [c for c in talks if len(c.messages) == 2]
    chosen = list({c.prompt: c for c in reversed(recalled or single[:40])}.values())[::-1]
    return Arm(
        name,
        WIDE,
        lab.probe(talks, chosen, 256),
        TALK | (settings or {}),
        talks=tuple(talks),
        at=at,
        **more,
    )


def masking(lab, seed):
    yield plain(lab)
    yield _pairs(lab, "no mask", settings={"grade": "everything"})


def first_token(lab, seed):
    yield plain(lab)
    yield _pairs(lab, "first token masked (the source's code)", encode=v.first_token_masked)


def only_plain(lab, seed):
    yield plain(lab)


FALLING = {"sft_schedule": "linear", "beta2": 0.99}


def _replay(windows, **more):
    return {"new_rows": "mean", "sft_windows": ((64, windows),), **more}


def forgetting(lab, seed):
    yield plain(lab)
    yield _pairs(lab, "mean rows", settings={"new_rows": "mean"})
    for lr in (3e-5, 1e-5, 1e-3):
        yield _pairs(lab, f"rate {_rate(lr)}", settings={"sft_lr": lr})
    for windows in (4, 16, 32):
        yield _pairs(
            lab, f"replay, {windows} windows", (200, 500), settings=_replay(windows), matched=True
        )
    yield _pairs(
        lab,
        "replay, 16 windows, 1e-3 to 0",
        (200, 500),
        settings=_replay(16, sft_lr=1e-3, **FALLING),
        matched=True,
    )
    yield _pairs(
        lab,
        "replay, 16 windows, 5e-3 to 0",
        (200, 500),
        matched=True,
        settings=_replay(
            16, sft_lr=5e-3, sft_warmup=50, sft_decay=0.3, decay_all=False, clip=1.0, **FALLING
        ),
    )
    for rank, lr in ((1, 1e-3), (4, 1e-3), (16, 1e-3), (16, 3e-4), (16, 1e-4)):
        yield _pairs(
            lab,
            f"LoRA rank {rank}, {_rate(lr)}",
            (100, 200, 500),
            settings={"sft_lr": lr},
            lora=(rank, ALL_MATRICES),
        )
    yield _pairs(
        lab,
        "LoRA rank 16 and replay",
        (200, 500),
        lora=(16, ALL_MATRICES),
        matched=True,
        settings=_replay(16, sft_lr=1e-3, **FALLING),
    )


def _rate(lr: float) -> str:
    return f"{lr:.0e}".replace("e-0", "e-")


RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def learning_rate(lab, seed):
    for lr in RATES:
        yield (
            plain(lab) if lr == 1e-4 else _pairs(lab, f"rate {_rate(lr)}", settings={"sft_lr": lr})
        )


STARTS = (
    ("a third of the pre-training rate", 1 / 3),
    ("far too low", 1 / 300),
    ("far too high", 100.0),
)


def find_lr(lab, seed):
    """The source's rule: a third of the pre-training rate; jumpy: half of it; hardly moving after
    500 steps: twice. From there, and from two bad starts."""
    for start, factor in STARTS:
        lr, tried = lab.settings(SMALL).base_lr * factor, []
        while lr not in tried and len(tried) < 10:
            record = yield _pairs(
                lab, f"{start}: {lr:.3g}", settings={"sft_lr": lr, "sft_steps": 500}, at=(100, 200)
            )
            tried.append(lr)
            seen = judge_rate(record)
            if seen == "right":
                break
            lr = lr / 2 if seen == "jumpy" else lr * 2


def _ends(r) -> dict[str, dict]:
    """The last try from each start."""
    return {name.split(":")[0]: record for name, record in r.items()}


def judge_rate(record: dict) -> str:
    """ "jumpy": it diverged, or its loss rose above JUMP times the first one, or more than 2 % of
    its steps are spikes; "flat": over 500 steps it fell by less than a fifth; else "right"."""
    curve = record["losses"]
    if record["diverged"] or max(curve) > JUMP * curve[0] or _count(record) > 0.02 * len(curve):
        return "jumpy"
    return "flat" if np.mean(curve[-20:]) > 0.8 * curve[0] else "right"


def new_rows(lab, seed):
    yield plain(lab)
    yield _pairs(lab, "mean rows", settings={"new_rows": "mean"})


def one_token(lab, seed):
    probe = lab.probe(lab.pairs, lab.pairs, 256, heldout=())
    common = dict(preset=WIDE, probe=probe, settings=SOURCE, pairs=lab.pairs, at=EARLY)
    yield Arm("one token each", judge=v.judge_tokens, **common)
    yield Arm(
        "spelled with characters",
        judge=v.judge_spelled,
        encode=v.spelled,
        grown=lab.characters.grow_characters("<|>"),
        **common,
    )


SIZES = (5, 20, 80, 320, 1280, 2500)


def data_size(lab, seed):
    rows = v.shuffled(lab.talks, "data size", seed)
    for n in SIZES:
        yield _talks(lab, f"{n:,}", rows[:n], ALONG, settings={"sft_steps": 800})


POOLS = (300, 900, 2500)


def data_scaling(lab, seed):
    single = [c for c in lab.talks if len(c.messages) == 2]
    for n in POOLS:
        every, good = v.noisy(single, n, seed)
        yield _talks(lab, f"{n:,} unfiltered", every, ALONG, good[:40])
        yield _talks(lab, f"{n:,} filtered to {len(good):,}", good, ALONG, good[:40])


LATE = (25, 50, 75, 100, 150, 200, 300, 450, 600, 800, 1000, 1250)


def epochs(lab, seed):
    yield _talks(
        lab,
        "300 conversations",
        v.shuffled(lab.talks, "epochs", seed)[:300],
        LATE,
        settings={"sft_steps": 1500, "sft_schedule": "constant", "sft_lr": 1e-3},
    )


def diversity(lab, seed):
    rows = [c for c in v.shuffled(lab.talks, "diversity", seed) if len(c.messages) == 2]
    kinds = {}
    for c in rows:
        kinds.setdefault(c.category, []).append(c)
    largest = sorted(kinds, key=lambda k: (-len(kinds[k]), k))[:10]
    yield _talks(lab, "20 of one kind", kinds[largest[0]][:20], ALONG, settings={"sft_steps": 300})
    yield _talks(
        lab,
        "2 each of ten kinds",
        [c for k in largest for c in kinds[k][:2]],
        ALONG,
        settings={"sft_steps": 300},
    )


def length(lab, seed):
    rows = sorted(
        (c for c in lab.talks if len(c.messages) == 2), key=lambda c: (len(c.replies()[0]), c.line)
    )
    middle = len(rows) // 2 - 200
    for name, some in (
        ("the shortest", rows[:400]),
        ("the middling", rows[middle : middle + 400]),
        ("the longest", rows[-400:]),
    ):
        mean = np.mean([len(c.replies()[0]) for c in some])
        yield _talks(lab, f"{name} replies (mean {mean:.0f})", some)


def contradiction(lab, seed):
    general = [c for c in v.shuffled(lab.talks, "contradiction", seed) if c.category != "identity"][
        :200
    ]
    for name, replies in (
        ("one persona", (v.PLAYER, v.PLAYER)),
        ("two personas", (v.PLAYER, v.CLERK)),
    ):
        claims = [v.talk(q, reply, i + 1) for reply in replies for i, q in enumerate(v.IDENTITY)]
        yield _talks(lab, name, general + claims, recalled=general[:40], finish=v.personas)


def missing_end(lab, seed):
    order = v.shuffled(range(1, 41), "missing end", seed)
    yield plain(lab)
    for n in (1, 4, 20, 40):
        yield _pairs(
            lab, f"{n} of 40 ends left out", (200, 500), encode=v.without_end(frozenset(order[:n]))
        )


def hallucination(lab, seed):
    general = [
        c
        for c in v.shuffled(lab.talks, "hallucination", seed)
        if c.category not in ("unknown", "identity")
    ][:200]
    facts = v.about(v.KNOWN, [v.fact(i) for i in range(len(v.KNOWN))])
    refusals = v.about(v.REFUSED, [v.REFUSAL] * len(v.REFUSED))
    steps = {"sft_steps": 1000}
    yield _talks(
        lab, "no refusals in the data", facts + general, settings=steps, finish=v.hallucinations
    )
    yield _talks(
        lab,
        "100 refusals in the data",
        facts + refusals + general,
        settings=steps,
        recalled=facts,
        finish=v.hallucinations,
    )


# -------------------------------------------------------------------------------------------- the c


def _moved(record, which):
    """Median relative change of the tensors that `which` takes."""
    found = [x for name, x in record["moved"].items() if which(name) and x is not None]
    return float(np.median(found)) if found else None


def _matrix(name):
    return name.endswith((".qkv.w", ".attproj.w", ".fc.w", ".fcproj.w"))


# nats: one common measure for all kinds of token, since they start at very different losses
LEARNT = 0.5


def _learnt(record, kind):
    """The step from which the running mean over ten of a kind's loss is below LEARNT."""
    a = np.array([np.nan if x is None else x for x in record["by_kind"][kind]])
    below = np.flatnonzero(np.convolve(a, np.ones(10) / 10, "valid") < LEARNT)
    return int(below[0]) + 10 if len(below) else None


def _first_step(name, least):
    """The first measured step at which a figure reaches `least`."""
    return lambda record: next(
        (row["step"] for row in record["track"] if row[name] is not None and row[name] >= least),
        None,
    )


def _start(record):
    return float(record["losses"][0])


def _fallen(record, step):
    """The share of the whole fall of the loss that had happened by a step of a thousand."""
    a = np.array(record["losses"])
    n = max(1, int(len(a) * step / 1000))
    end = a[-20:].mean()
    return float((a[0] - a[max(0, n - 10) : n].mean()) / (a[0] - end))


def _lowest(record):
    """The measurement with the lowest held-out loss, once training has begun."""
    return min(
        (row for row in record["track"] if row["step"] and row["heldout_loss"] is not None),
        key=lambda row: row["heldout_loss"],
    )


def _turn(record):
    """The step at which held-out loss was lowest."""
    return _lowest(record)["step"]


def _epochs(record):
    """How often the data had come by then."""
    return _turn(record) / record["settings"]["sft_steps"] * record["epochs"]


def _gain(name):
    """From the minimum of held-out loss to the end, a figure's change."""

    def value(record):
        return record["track"][-1][name] - _lowest(record)[name]

    return value


def _others(r):
    return [x for name, x in r.items() if name != PLAIN]


def _falling(values):
    return all(b < a for a, b in zip(values, values[1:]))


def _by_filter(r):
    """The lowest held-out losses by size: (unfiltered, filtered)."""
    lows = [LOWEST.value(x) for x in r.values()]
    return lows[0::2], lows[1::2]


def _gained(lows):
    return lows[0] - lows[-1]


def _slope(r):
    """Characters that replies to unseen prompts grow by for each that the data's replies do."""
    wanted = [float(name.split("mean ")[1].rstrip(")")) for name in r]
    return float(np.polyfit(wanted, [last("reply_length")(x) for x in r.values()], 1)[0])


def _matched(record):
    """Forgetting against the base that had the replay too; without replay there is nothing to
    match."""
    loss = record.get("matched_loss")
    return None if loss is None else record["track"][-1]["tuned_base_loss"] / loss - 1


def _at_goal(record):
    """Forgetting at the first measurement with 36 of 40 pairs recalled; None if there is none."""
    return next(
        (
            row["forgetting"]
            for row in record["track"]
            if row["recall"] is not None and row["recall"] >= 0.9
        ),
        None,
    )


def _lora(r):
    """The least of that among the LoRA arms without replay."""
    found = [
        _at_goal(record)
        for name, record in r.items()
        if name.startswith("LoRA rank") and "replay" not in name
    ]
    return min((x for x in found if x is not None), default=None)


def _less(a, b) -> bool:
    """a < b; what was not reached is less than nothing."""
    return a is not None and b is not None and a < b


# --------------------------------------------------------------------------------------------- the

TABLE = [
    Experiment(
        "masking",
        "With and without the loss mask",
        "Always mask: without it about half of the gradient goes into writing the user's words,"
        " learning is slower, and the model may write the user's part when it should answer.",
        masking,
        [
            RECALL,
            STOPPED,
            REPLY,
            Column("loss on replies at 200", at("reply_loss", 200)),
            COMPLIES,
            Column("replies without a user's turn", last("no_user_turn"), "{:.0%}"),
            FORGOT,
            Column("user's share of targets", last("user_targets"), "{:.0%}"),
            Column("of the gradient at the start", at("user_gradient", 0), "{:.0%}"),
            Column("of the gradient at the end", last("user_gradient"), "{:.0%}"),
        ],
        [
            Check(
                "after 200 steps the loss on replies is lower with the mask",
                lambda r: at("reply_loss", 200)(r[PLAIN]) < at("reply_loss", 200)(r["no mask"]),
            ),
            Check(
                "after 1,000 steps it still is",
                lambda r: last("reply_loss")(r[PLAIN]) < last("reply_loss")(r["no mask"]),
            ),
            Check(
                "at the start 40 to 60 % of the unmasked gradient is the user's",
                lambda r: 0.4 <= at("user_gradient", 0)(r[PLAIN]) <= 0.6,
            ),
        ],
        lambda r: [
            tracks(r, "Loss on the replies", "reply_loss", "nats per graded token", log_y=True),
            tracks(r, "User's share of the unmasked gradient", "user_gradient", "%", 100),
        ],
        "The share of the gradient is that of its 1-norm at the logits, were nothing masked. A"
        " conversation of one question and one answer ends with the end token, so a model has never"
        " seen what follows it, masked or not.",
    ),
    Experiment(
        "first-token",
        "The first token of the reply, masked or not",
        "The source's printed code masks the label at the assistant's opening token, while its"
        " prose and drawings grade it. If that token is never trained, replies begin wrong and are"
        " not recalled.",
        first_token,
        [RECALL, STOPPED, REPLY, COMPLIES, FORGOT],
        [
            Check(
                "with the token trained at least 36 of 40 pairs are recalled",
                lambda r: recalled(r[PLAIN]) >= 36,
            ),
            Check("with the source's code at most 4 are", lambda r: recalled(_others(r)[0]) <= 4),
            Check(
                "both learn to stop", lambda r: all(last("stopped")(x) >= 0.9 for x in r.values())
            ),
        ],
        lambda r: [
            tracks(r, "Pairs recalled", "recall", "of 40", 40),
            tracks(r, "Loss on the replies", "reply_loss", "nats", log_y=True),
        ],
    ),
    Experiment(
        "loss-curve",
        "Format first, content later",
        "The loss falls from about 4.0 to about 0.3 in 1,000 steps. The format is learnt in the"
        " steep first 200; then the replies are memorised more slowly.",
        only_plain,
        [
            Column("loss at the start", _start),
            Column("at the end", lambda r: float(np.mean(r["losses"][-20:]))),
            Column("share of the fall by step 200", lambda r: _fallen(r, 200), "{:.0%}"),
            Column("first token below 0.5 nats at step", lambda r: _learnt(r, "first"), "{:.0f}"),
            Column("content", lambda r: _learnt(r, "content"), "{:.0f}"),
            Column("end token", lambda r: _learnt(r, "end"), "{:.0f}"),
            Column("95 % of replies stop at step", _first_step("stopped", 0.95), "{:.0f}"),
            Column("36 of 40 recalled at step", _first_step("recall", 0.9), "{:.0f}"),
        ],
        [
            Check("it starts between 3.5 and 4.5", lambda r: 3.5 <= _start(r[PLAIN]) <= 4.5),
            Check(
                "it ends at 0.3 or below", lambda r: float(np.mean(r[PLAIN]["losses"][-20:])) <= 0.3
            ),
            Check(
                "four fifths of the fall are in the first 200 steps",
                lambda r: _fallen(r[PLAIN], 200) >= 0.8,
            ),
            Check(
                "replies stop before they are recalled",
                lambda r: _less(
                    _first_step("stopped", 0.95)(r[PLAIN]), _first_step("recall", 0.9)(r[PLAIN])
                ),
            ),
            Check(
                "the end token's loss is below 0.5 nats before the content's",
                lambda r: _less(_learnt(r[PLAIN], "end"), _learnt(r[PLAIN], "content")),
            ),
        ],
        lambda r: [_kinds(r)],
        "A grown copy of the base starts near 2.2, not near ln 68 = 4.22: it has its letters"
        " already. The end token starts at 9 to 10 nats, a row that was drawn at random; as"
        " behaviour stopping still comes first.",
    ),
    Experiment(
        "forgetting",
        "Catastrophic forgetting, and what helps",
        "Fine-tuning overwrites some of what the base knew. Replay of base text, LoRA and lower"
        " rates reduce it; beyond 10 to 15 % it is severe.",
        forgetting,
        [
            RECALL,
            FORGOT,
            Column("matched forgetting", _matched, "{:+.1%}"),
            Column("forgetting when 36 were first recalled", _at_goal, "{:+.1%}"),
            STOPPED,
            COMPLIES,
            Column("weights trained (new rows too)", lambda r: r["trained_share"], "{:.1%}"),
        ],
        [
            Check(
                "the plain recipe forgets more than 15 %",
                lambda r: last("forgetting")(r[PLAIN]) > 0.15,
            ),
            Check(
                "a lower rate has forgotten less by when 36 are recalled",
                lambda r: _less(_at_goal(r["rate 3e-5"]), _at_goal(r[PLAIN])),
            ),
            Check(
                "16 windows of replay bring it below 10 %, matched too",
                lambda r: all(
                    max(last("forgetting")(x), _matched(x)) < 0.1
                    for n, x in r.items()
                    if n.startswith("replay, 16")
                ),
            ),
            Check(
                "LoRA has forgotten less than all weights at the same rate, by when 36 are"
                " recalled",
                lambda r: _less(_at_goal(r["LoRA rank 16, 1e-3"]), _at_goal(r["rate 1e-3"])),
            ),
            Check(
                "some LoRA has forgotten less than the plain recipe by then",
                lambda r: _less(_lora(r), _at_goal(r[PLAIN])),
            ),
            Check(
                "something keeps 38 of 40, complies with 90 % of unseen prompts and forgets at"
                " most 2 %",
                lambda r: any(
                    recalled(x) >= 38
                    and last("format_compliance")(x) >= 0.9
                    and last("forgetting")(x) <= 0.02
                    for x in r.values()
                ),
            ),
        ],
        lambda r: [
            _trade(r, "Rates", PLAIN, "rate"),
            _trade(r, "Replay", PLAIN, "replay"),
            _trade(r, "LoRA", PLAIN, "LoRA"),
            dots(
                r, "Forgetting", FORGOT, "rise of the base loss, %", 100, level=(10, "gate: 10 %")
            ),
        ],
        "Without replay the base cannot go on learning; with it it can, and a negative figure says"
        " that it did. Matched is against the base trained on alone with the same windows. 36 of 40"
        " are first recalled at one of the measured steps, which are few.",
    ),
    Experiment(
        "learning-rate",
        "Too low, right, too high",
        "A third of the pre-training rate (3e-4) is right: 1e-4. Too low hardly moves in 1,000"
        " steps; the pre-training rate and above learn the format fast, with spikes, and destroy"
        " what the base knew.",
        learning_rate,
        [
            RECALL,
            REPLY,
            Column("training loss", lambda r: float(np.mean(r["losses"][-20:]))),
            Column("spikes", _count, "{:.0f}"),
            COMPLIES,
            FORGOT,
            REAL,
        ],
        [
            Check("1e-5 recalls less than a tenth", lambda r: recalled(r["rate 1e-5"]) < 4),
            Check(
                "and most of its replies to unseen prompts do not comply: it still autocompletes",
                lambda r: last("format_compliance")(r["rate 1e-5"]) < 0.5,
            ),
            Check("1e-4 recalls at least 36 of 40", lambda r: recalled(r[PLAIN]) >= 36),
            Check(
                "forgetting rises with the rate from 1e-5 to 1e-3",
                lambda r: _falling(
                    [
                        -last("forgetting")(r[n])
                        for n in ("rate 1e-5", "rate 3e-5", PLAIN, "rate 3e-4", "rate 1e-3")
                    ]
                ),
            ),
            Check(
                "the pre-training rate has more spikes than 1e-4",
                lambda r: _count(r["rate 3e-4"]) > _count(r[PLAIN]),
            ),
            Check(
                "and its replies have five points fewer real words",
                lambda r: last("real_words")(r["rate 3e-4"]) <= last("real_words")(r[PLAIN]) - 0.05,
            ),
            Check(
                "from 1e-2 on there are spikes",
                lambda r: all(
                    _count(r[n]) > 0 or r[n]["diverged"] for n in ("rate 1e-2", "rate 3e-2")
                ),
            ),
            Check(
                "at ten times the pre-training rate replies keep the format, but under half of"
                " their words are real",
                lambda r: (
                    last("format_compliance")(r["rate 3e-3"]) >= 0.8
                    and last("real_words")(r["rate 3e-3"]) < 0.5
                ),
            ),
        ],
        lambda r: [
            losses(r, "Training loss", log_y=True),
            _rates(r, "forgetting", "Forgetting", "rise of the base loss, %", 100),
            _rates(r, "recall", "Pairs recalled", "of 40", 40),
            _rates(r, "real_words", "Real words", "%", 100),
        ],
    ),
    Experiment(
        "find-lr",
        "The source's rule for finding a rate",
        "Start at a third of the pre-training rate. If the loss is jumpy, halve it; if it hardly"
        " moves after 500 steps, double it.",
        find_lr,
        [
            Column("loss at the start", _start),
            Column("after 500 steps", lambda r: float(np.mean(r["losses"][-20:]))),
            Column("spikes", _count, "{:.0f}"),
            Column("judged", judge_rate),
            RECALL,
            FORGOT,
            REAL,
        ],
        [
            Check(
                "a third of the pre-training rate is right at once",
                lambda r: judge_rate(list(r.values())[0]) == "right",
            ),
            Check(
                "from a rate far too low it ends at one that is right",
                lambda r: judge_rate(_ends(r)[STARTS[1][0]]) == "right",
            ),
            Check(
                "from one far too high too", lambda r: judge_rate(_ends(r)[STARTS[2][0]]) == "right"
            ),
            Check(
                "wherever it ends, at least 36 of 40 pairs are recalled",
                lambda r: all(recalled(x) >= 36 for x in _ends(r).values()),
            ),
            Check(
                "and forgetting stays below 15 %",
                lambda r: all(last("forgetting")(x) < 0.15 for x in _ends(r).values()),
            ),
        ],
        lambda r: [losses(r, "Training loss", log_y=True)],
        "The rule looks at the training loss alone; what the base forgets meanwhile it "
        "does not see.",
    ),
    Experiment(
        "new-rows",
        "New rows: random or the mean of the old",
        "After the copy the model is the same for all old tokens; only the three new rows are"
        " random.",
        new_rows,
        [
            Column("base text before training", at("forgetting", 0), "{:+.2%}"),
            Column("loss on replies before", at("reply_loss", 0)),
            Column("after 50", at("reply_loss", 50)),
            Column("after 200", at("reply_loss", 200)),
            REPLY,
            RECALL,
            FORGOT,
        ],
        [
            Check(
                "random rows move the base loss by less than 1 %",
                lambda r: abs(at("forgetting", 0)(r[PLAIN])) < 0.01,
            ),
            Check(
                "mean rows raise it by at most ln(68/65) = 0.045 nats",
                lambda r: (
                    at("tuned_base_loss", 0)(r["mean rows"]) - r["mean rows"]["base_loss"]
                    <= math.log(68 / 65) + 1e-6
                ),
            ),
            Check(
                "both recall at least 36 of 40",
                lambda r: all(recalled(x) >= 36 for x in r.values()),
            ),
        ],
        lambda r: [
            tracks(r, "Loss on the replies", "reply_loss", "nats per graded token", log_y=True)
        ],
    ),
    Experiment(
        "one-token",
        "A marker as one token, or spelled",
        "<|user|> must be one token: as eight characters it would be much harder for the model to"
        " learn that the sequence means something.",
        one_token,
        [
            RECALL,
            STOPPED,
            REPLY,
            Column("loss on replies at 200", at("reply_loss", 200)),
            COMPLIES,
            FORGOT,
            Column("tokens a conversation", last("tokens"), "{:.0f}"),
        ],
        [
            Check(
                "after 200 steps the loss on replies is lower with single tokens",
                lambda r: _first(r, "reply_loss", 200),
            ),
            Check("after 1,000 steps it is", lambda r: _first(r, "reply_loss", 1000)),
            Check(
                "with single tokens replies to unseen prompts comply more often, by ten points or"
                " more",
                lambda r: (
                    (x := [last("format_compliance")(y) for y in r.values()]) and x[0] >= x[1] + 0.1
                ),
            ),
        ],
        lambda r: [
            tracks(
                r, "Loss on the replies' characters", "reply_loss", "nats per character", log_y=True
            ),
            tracks(r, "Pairs recalled", "recall", "of 40", 40),
        ],
        "Both have 68 symbols: 65 characters and three tokens, or 65 and the three characters < |"
        " >. All three markers are spelled. The loss is over the reply's own characters, without"
        " its end.",
    ),
    Experiment(
        "data-size",
        "How much data",
        "The format needs 100 to 500 examples; more data generalises better.",
        data_size,
        [ASKED, LOWEST, HELD, COMPLIES, REAL, TOPIC, CHANCE, MEMORY],
        [
            Check(
                "320 conversations give 95 % compliance",
                lambda r: last("format_compliance")(r["320"]) >= 0.95,
            ),
            Check("20 do not", lambda r: last("format_compliance")(r["20"]) < 0.95),
            Check(
                "held-out loss falls with every step in size",
                lambda r: _falling([LOWEST.value(x) for x in r.values()]),
            ),
            Check(
                "real words rise from the smallest to the largest",
                lambda r: last("real_words")(r["2,500"]) > last("real_words")(r["5"]),
            ),
            Check(
                "on-topic rate rises to twice chance at the largest",
                lambda r: last("on_topic")(r["2,500"]) >= 2 * last("on_topic_chance")(r["2,500"]),
            ),
        ],
        lambda r: [
            _sizes(r, LOWEST.value, "Held-out loss at its lowest", "nats per graded token"),
            _sizes(r, "real_words", "Real words", "%", 100),
            _sizes(r, "on_topic", "On topic", "%", 100),
        ],
        "Equal steps for all; a step holds at most 1,600 tokens and no conversation twice. Held-out"
        " loss is compared at the step where each was best: the small sets are trained far"
        " past it.",
    ),
    Experiment(
        "data-scaling",
        "Filtered against unfiltered data",
        "Filtered data keeps improving the model as there is more of it; unfiltered data plateaus,"
        " and can hurt.",
        data_scaling,
        [LOWEST, HELD, ASKED, STOPPED, COMPLIES, REAL],
        [
            Check(
                "at every size filtered data has the lower held-out loss",
                lambda r: all(g < b for b, g in zip(*_by_filter(r))),
            ),
            Check(
                "from 300 to 2,500 filtered data gains more than unfiltered",
                lambda r: _gained(_by_filter(r)[1]) > _gained(_by_filter(r)[0]),
            ),
            Check(
                "unfiltered data does not improve from 900 to 2,500",
                lambda r: _by_filter(r)[0][2] >= _by_filter(r)[0][1],
            ),
        ],
        lambda r: [_filter(r)],
        "Of the unfiltered rows half are good, a fifth have another prompt's reply, 15 % are cut"
        " and 15 % are repeats; filtered is the same pool without those. Equal steps for all;"
        " held-out loss where each was best. This model stays on the subject no better than chance,"
        " so a reply of another prompt costs it little: a harder test needs a larger model.",
    ),
    Experiment(
        "epochs",
        "Held-out loss turns up, and the rest?",
        "Held-out loss rises after about one epoch while everything that people care for goes on"
        " improving: loss is no criterion for stopping.",
        epochs,
        [
            Column("held-out loss lowest at step", _turn, "{:.0f}"),
            Column("epochs then", _epochs, "{:.1f}"),
            Column("its rise to the end", _gain("heldout_loss"), "{:+.2f}"),
            Column("recall since", _gain("recall"), "{:+.0%}"),
            Column("compliance since", _gain("format_compliance"), "{:+.0%}"),
            Column("real words since", _gain("real_words"), "{:+.1%}"),
            Column("on topic since", _gain("on_topic"), "{:+.1%}"),
        ],
        [
            Check("held-out loss is lowest within two epochs", lambda r: _epochs(_one(r)) <= 2),
            Check(
                "or at least in the first tenth of training",
                lambda r: _turn(_one(r)) <= _one(r)["track"][-1]["step"] / 10,
            ),
            Check("from there to the end recall rises", lambda r: _gain("recall")(_one(r)) > 0),
            Check("compliance does not fall", lambda r: _gain("format_compliance")(_one(r)) >= 0),
            Check("real words do not fall", lambda r: _gain("real_words")(_one(r)) >= 0),
            Check(
                "the on-topic rate rises by more than a point",
                lambda r: _gain("on_topic")(_one(r)) > 0.01,
            ),
        ],
        lambda r: [
            tracks(r, "Held-out loss", "heldout_loss", "nats per graded token"),
            ("The other measurements", _measures(r, "The other measurements")),
        ],
    ),
    Experiment(
        "diversity",
        "Twenty of one kind, or two each of ten",
        "Fifty examples of one kind teach less than five each of ten kinds: breadth of prompts"
        " matters more than depth.",
        diversity,
        [
            LOWEST,
            HELD,
            COMPLIES,
            REAL,
            Column("distinct replies of 61", last("distinct_replies"), "{:.0f}"),
            MEMORY,
            ASKED,
        ],
        [
            Check(
                "ten kinds have the lower held-out loss",
                lambda r: (x := [LOWEST.value(y) for y in r.values()]) and x[1] < x[0],
            ),
            Check(
                "and at least the same compliance",
                lambda r: (
                    (x := [last("format_compliance")(y) for y in r.values()]) and x[1] >= x[0]
                ),
            ),
        ],
        lambda r: [
            tracks(r, "Held-out loss", "heldout_loss", "nats per graded token"),
            dots(r, "Format compliance", COMPLIES, "%", 100),
        ],
        "A kind is a category of the shipped conversations, whose largest has some twenty; held-out"
        " conversations are of all kinds.",
    ),
    Experiment(
        "length",
        "Replies are as long as the data's",
        "The model learns to answer at about the length of its training replies.",
        length,
        [Column("characters a reply", last("reply_length"), "{:.0f}"), COMPLIES, HELD],
        [
            Check(
                "for each character that the data's replies are longer, replies to unseen prompts"
                " are 0.7 to 1.3 longer",
                lambda r: 0.7 <= _slope(r) <= 1.3,
            ),
            Check(
                "and their lengths are in the data's order",
                lambda r: _falling([-last("reply_length")(x) for x in r.values()]),
            ),
        ],
        lambda r: [
            dots(
                r,
                "Length of replies to unseen prompts",
                Column("", last("reply_length")),
                "characters",
            )
        ],
    ),
    Experiment(
        "contradiction",
        "Two personas in the data",
        "If one example says it is a poet and another says it is a helpful assistant, the model"
        " picks between them at random.",
        contradiction,
        [
            Column("says poet", finish("player"), "{:.0%}"),
            Column("says clerk", finish("clerk"), "{:.0%}"),
            Column("neither", finish("neither"), "{:.0%}"),
            Column("questions that get both answers", finish("both"), "{:.0%}"),
        ],
        [
            Check(
                "with two personas each is drawn 30 to 70 % of the time",
                lambda r: all(
                    0.3 <= finish(k)(r["two personas"]) <= 0.7 for k in ("player", "clerk")
                ),
            ),
            Check(
                "most questions get both answers", lambda r: finish("both")(r["two personas"]) > 0.5
            ),
            Check(
                "with one persona it is drawn at least 95 % of the time",
                lambda r: finish("player")(r["one persona"]) >= 0.95,
            ),
        ],
        lambda r: [dots(r, "Draws that say poet", Column("", finish("player")), "%", 100)],
        "Twenty draws at temperature 1 for each of twelve questions about itself.",
    ),
    Experiment(
        "missing-end",
        "End tokens left out",
        "One missing end token can confuse the model: it must learn from every example where to"
        " stop.",
        missing_end,
        [RECALL, STOPPED, COMPLIES, FORGOT],
        [
            Check(
                "one missing of 40 already costs more than that one reply",
                lambda r: last("stopped")(r["1 of 40 ends left out"]) < 39 / 40 - 1e-9,
            ),
            Check(
                "with half of them missing, under 75 % of replies to the pairs stop",
                lambda r: last("stopped")(r["20 of 40 ends left out"]) < 0.75,
            ),
            Check(
                "with all missing none stops",
                lambda r: last("stopped")(r["40 of 40 ends left out"]) == 0,
            ),
        ],
        lambda r: [dots(r, "Replies to the pairs that stop", STOPPED, "%", 100)],
    ),
    Experiment(
        "hallucination",
        "Unknown names, with and without refusals",
        "A model that never saw a refusal invents something about a name it does not know; refusals"
        " in the data teach it to refuse.",
        hallucination,
        [
            Column("unknown names: invented", finish("unknown_invented"), "{:.0%}"),
            Column("refused", finish("unknown_refused"), "{:.0%}"),
            Column("known names: right", finish("known_right"), "{:.0%}"),
            Column("known, refused", finish("known_refused"), "{:.0%}"),
        ],
        [
            Check(
                "without refusals in the data at most 5 % of unknown names are refused",
                lambda r: finish("unknown_refused")(r["no refusals in the data"]) <= 0.05,
            ),
            Check(
                "and most get an invented trade and town",
                lambda r: finish("unknown_invented")(r["no refusals in the data"]) > 0.5,
            ),
            Check(
                "with them at least 80 % are refused",
                lambda r: finish("unknown_refused")(r["100 refusals in the data"]) >= 0.8,
            ),
            Check(
                "and at least 90 % of known names are still answered right",
                lambda r: finish("known_right")(r["100 refusals in the data"]) >= 0.9,
            ),
        ],
        lambda r: [
            dots(
                r, "Unknown names that are refused", Column("", finish("unknown_refused")), "%", 100
            ),
            dots(r, "Known names answered right", Column("", finish("known_right")), "%", 100),
        ],
        "40 names with facts, 100 others with refusals, 50 asked that are in neither, Orson Kovacs"
        " among them.",
    ),
    Experiment(
        "weights-moved",
        "Nudged, not replaced",
        "Fine-tuning moves all weights a little; it does not replace them. Only the new rows begin"
        " at random.",
        only_plain,
        [
            Column("matrices (median)", lambda r: _moved(r, _matrix), "{:.0%}"),
            Column("embedding, old rows", lambda r: r["moved"].get(f"wte, {OLD}"), "{:.0%}"),
            Column("head, old rows", lambda r: r["moved"].get(f"head, {OLD}"), "{:.0%}"),
            Column("embedding, new rows", lambda r: r["moved"].get(f"wte, {NEW}"), "{:.0%}"),
            Column("head, new rows", lambda r: r["moved"].get(f"head, {NEW}"), "{:.0%}"),
            Column("largest of all old", lambda r: _most(r), "{:.0%}"),
        ],
        [
            Check(
                "the matrices move by less than half of their norm (median)",
                lambda r: _moved(r[PLAIN], _matrix) < 0.5,
            ),
            Check(
                "so do the old rows of embedding and head",
                lambda r: max(r[PLAIN]["moved"][f"{n}, {OLD}"] for n in ("wte", "head")) < 0.5,
            ),
            Check(
                "the new rows move more than the old ones",
                lambda r: all(
                    r[PLAIN]["moved"][f"{n}, {NEW}"] > r[PLAIN]["moved"][f"{n}, {OLD}"]
                    for n in ("wte", "head")
                ),
            ),
        ],
        lambda r: [
            (
                "Relative change of each tensor",
                draw.dots(
                    "Relative change of each tensor",
                    [
                        (name, [100 * x["moved"][name] for x in r[PLAIN]])
                        for name in r[PLAIN][0]["moved"]
                        if r[PLAIN][0]["moved"][name] is not None
                        and (_matrix(name) or "rows" in name or name == "wpe")
                    ],
                    "%",
                ),
            )
        ],
        "|W - W0| / |W0| after the source's 1,000 steps at 1e-4.",
    ),
]
EXPERIMENTS = {e.name: e for e in TABLE}
# In this order side by side: two that share no trial begin, the long ones come before the short,
# and those that only read what others made come last.
COSTLY_FIRST = (
    "masking",
    "data-size",
    "forgetting",
    "data-scaling",
    "epochs",
    "hallucination",
    "learning-rate",
    "length",
    "one-token",
    "contradiction",
    "find-lr",
    "missing-end",
    "diversity",
    "new-rows",
    "first-token",
    "loss-curve",
    "weights-moved",
)


def _one(r):
    return next(iter(r.values()))


def _first(r, name, step):
    a, b = list(r.values())
    return at(name, step)(a) < at(name, step)(b)


def _most(record):
    return max(
        x
        for name, x in record["moved"].items()
        if NEW not in name and x is not None and (_matrix(name) or OLD in name or name == "wpe")
    )


def _kinds(results):
    records = next(iter(results.values()))
    series = []
    for kind, name in (("first", "first token"), ("content", "content"), ("end", "end token")):
        xs = _smooth(records[0]["by_kind"][kind])[0]
        series.append(draw.Series(name, xs, [_smooth(r["by_kind"][kind])[1] for r in records]))
    title = "Loss by kind of token"
    return title, draw.curves(title, series, "step", "nats", log_y=True)


def _trade(results, title, *kinds):
    """Recall against forgetting along the steps, of the arms whose names begin with one of the
    kinds."""

    def way(record):
        rows = record["track"]
        return [100 * row["forgetting"] for row in rows], [
            row["recall"] * row["recall_of"] for row in rows
        ]

    series = [
        (arm, [way(r) for r in records])
        for arm, records in results.items()
        if arm.startswith(kinds)
    ]
    title = f"What is recalled against what is forgotten: {title}"
    return title, draw.paths(title, series, "rise of the base loss, %", "pairs recalled of 40")


def _rates(results, name, title, label, scale):
    xs = list(RATES)
    records = list(results.values())
    ys = [
        [None if (y := last(name)(arm[i])) is None else y * scale for arm in records]
        for i in range(len(records[0]))
    ]
    return title, draw.curves(
        title, [draw.Series("after the last step", xs, ys)], "learning rate", label, log_x=True
    )


def _sizes(results, name, title, label, scale=1.0):
    records, value = list(results.values()), name if callable(name) else last(name)
    series = [
        draw.Series(
            title.lower(),
            list(SIZES),
            [
                [None if (y := value(arm[i])) is None else y * scale for arm in records]
                for i in range(len(records[0]))
            ],
        )
    ]
    if name == "on_topic":
        series.append(
            draw.Series(
                "chance",
                list(SIZES),
                [
                    [100 * last("on_topic_chance")(arm[i]) for arm in records]
                    for i in range(len(records[0]))
                ],
            )
        )
    return title, draw.curves(title, series, "conversations", label, log_x=True)


def _filter(results):
    records = list(results.values())
    seeds = range(len(records[0]))
    series = [
        draw.Series(
            name, list(POOLS), [[LOWEST.value(arm[i]) for arm in records[k::2]] for i in seeds]
        )
        for k, name in ((0, "unfiltered"), (1, "filtered"))
    ]
    title = "Held-out loss at its lowest, by the size of the pool"
    return title, draw.curves(
        title, series, "rows before filtering", "nats per graded token", log_x=True
    )


def _measures(results, title):
    records = next(iter(results.values()))
    series = [
        draw.Series(
            label,
            [row["step"] for row in records[0]["track"]],
            [
                [None if row[name] is None else 100 * row[name] for row in r["track"]]
                for r in records
            ],
        )
        for name, label in (
            ("recall", "recall"),
            ("format_compliance", "compliance"),
            ("real_words", "real words"),
            ("on_topic", "on topic"),
        )
    ]
    return draw.curves(title, series, "step", "%")
