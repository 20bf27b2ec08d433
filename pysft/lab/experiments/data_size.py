"""How much data: its size, with and without a filter, and how often it is repeated."""

from pysft.lab.experiments.arms import ALONG, conversations_arm, single
from pysft.lab.experiments.charts import by_seed, times, tracks
from pysft.lab.experiments.columns import (
    ASKED,
    CHANCE,
    COMPLIES,
    HELD,
    LOWEST,
    MEMORY,
    REAL,
    STOPPED,
    TOPIC,
    is_falling,
    last,
    lowest,
)
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.variants import noisy, shuffled
from pysft.measure import figures

# ---------------------------------------------------------------------------------- data-size

SIZES = (5, 20, 80, 320, 1280, 2500)


def data_size(lab, seed):
    rows = shuffled(lab.conversations, "data size", seed)
    for n in SIZES:
        yield conversations_arm(lab, f"{n:,}", rows[:n], ALONG, settings={"steps": 800})


def _by_size(results, value, title, label, scale=1.0, chance=None) -> tuple[str, str]:
    """A figure against the number of conversations. chance: the name of the figure that is its
    chance level."""
    arms, x = list(results.values()), list(SIZES)
    series = [figures.Series(title.lower(), x, by_seed(arms, value, scale))]
    if chance is not None:
        series.append(figures.Series("chance", x, by_seed(arms, chance, scale)))
    return title, figures.curves(title, series, "conversations", label, log_x=True)


DATA_SIZE = Experiment(
    name="data-size",
    title="How much data",
    claim="The format needs 100 to 500 examples; more data generalises better.",
    arms=data_size,
    columns=[ASKED, LOWEST, HELD, COMPLIES, REAL, TOPIC, CHANCE, MEMORY],
    checks=[
        Check(
            "320 conversations give 95 % compliance",
            lambda r: last("format_compliance")(r["320"]) >= 0.95,
        ),
        Check("20 do not", lambda r: last("format_compliance")(r["20"]) < 0.95),
        Check(
            "held-out loss falls with every step in size",
            lambda r: is_falling([LOWEST.value(x) for x in r.values()]),
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
    figures=lambda r: [
        _by_size(r, LOWEST.value, "Held-out loss at its lowest", "nats per graded token"),
        _by_size(r, "real_words", "Real words", "%", 100),
        _by_size(r, "on_topic", "On topic", "%", 100, chance="on_topic_chance"),
    ],
    note="All arms have the same number of steps. A step holds at most 1,600 tokens and no"
    " conversation twice. Held-out loss is compared at the step where each arm was best, because"
    " the small sets are trained far past it.",
)

# ------------------------------------------------------------------------------- data-scaling

POOLS = (300, 900, 2500)


def data_scaling(lab, seed):
    clean = single(lab.conversations)
    for n in POOLS:
        every, good = noisy(clean, n, seed)
        yield conversations_arm(lab, f"{n:,} unfiltered", every, ALONG, good[:40])
        yield conversations_arm(lab, f"{n:,} filtered to {len(good):,}", good, ALONG, good[:40])


def _lows(r) -> tuple[list, list]:
    """The lowest held-out losses by rising size: (unfiltered, filtered)."""
    lows = [LOWEST.value(x) for x in r.values()]
    return lows[0::2], lows[1::2]


def _filter_gains_more(r) -> bool:
    """True if held-out loss falls more with filtered data, from the smallest pool to the
    largest."""
    unfiltered, filtered = _lows(r)
    return filtered[0] - filtered[-1] > unfiltered[0] - unfiltered[-1]


def _by_pool(results) -> tuple[str, str]:
    """The lowest held-out loss against the size of the pool, with and without the filter."""
    arms = list(results.values())
    series = [
        figures.Series(name, list(POOLS), by_seed(arms[first::2], LOWEST.value))
        for first, name in ((0, "unfiltered"), (1, "filtered"))
    ]
    title = "Held-out loss at its lowest, by the size of the pool"
    return title, figures.curves(
        title, series, "rows before filtering", "nats per graded token", log_x=True
    )


DATA_SCALING = Experiment(
    name="data-scaling",
    title="Filtered against unfiltered data",
    claim="More filtered data keeps improving the model; more unfiltered data reaches a plateau,"
    " and can hurt.",
    arms=data_scaling,
    columns=[LOWEST, HELD, ASKED, STOPPED, COMPLIES, REAL],
    checks=[
        Check(
            "at every size filtered data has the lower held-out loss",
            lambda r: all(filtered < unfiltered for unfiltered, filtered in zip(*_lows(r))),
        ),
        Check("from 300 to 2,500 filtered data gains more than unfiltered", _filter_gains_more),
        Check(
            "unfiltered data does not improve from 900 to 2,500",
            lambda r: _lows(r)[0][2] >= _lows(r)[0][1],
        ),
    ],
    figures=lambda r: [_by_pool(r)],
    note="Of the unfiltered rows half are good, a fifth have another prompt's reply, 15 % are cut"
    " and 15 % are repeats; filtered is the good half alone. All arms have the same number of"
    " steps; held-out loss is taken where each was best. This model stays on the subject no better"
    " than chance, so another prompt's reply costs it little: a harder test needs a larger model.",
)

# ------------------------------------------------------------------------------------- epochs

LATE = (25, 50, 75, 100, 150, 200, 300, 450, 600, 800, 1000, 1250)
ONLY = "300 conversations"


def epochs(lab, seed):
    rows = shuffled(lab.conversations, "epochs", seed)[:300]
    settings = {"steps": 1500, "schedule": "constant", "lr": 1e-3}
    yield conversations_arm(lab, ONLY, rows, LATE, settings=settings)


def turn(record: dict) -> int:
    """The step at which held-out loss was lowest."""
    return lowest(record)["step"]


def epochs_at_turn(record: dict) -> float:
    """The number of epochs until that step."""
    return turn(record) / record["settings"]["sft"]["steps"] * record["epochs"]


def since(name: str):
    """A figure's change from the lowest held-out loss to the end."""
    return lambda record: record["track"][-1][name] - lowest(record)[name]


def _others(results) -> tuple[str, str]:
    """Recall, compliance, real words and on-topic rate along the steps."""
    title, records = "The other measurements", results[ONLY]
    steps = [row["step"] for row in records[0]["track"]]
    names = {
        "recall": "recall",
        "format_compliance": "compliance",
        "real_words": "real words",
        "on_topic": "on topic",
    }
    series = [
        figures.Series(
            label, steps, [[times(row[name], 100) for row in r["track"]] for r in records]
        )
        for name, label in names.items()
    ]
    return title, figures.curves(title, series, "step", "%")


EPOCHS = Experiment(
    name="epochs",
    title="Held-out loss turns up, but what about the rest?",
    claim="Held-out loss rises after about one epoch while everything that people care about keeps"
    " improving: loss is no criterion for stopping.",
    arms=epochs,
    columns=[
        Column("held-out loss lowest at step", turn, "{:.0f}"),
        Column("epochs then", epochs_at_turn, "{:.1f}"),
        Column("its rise to the end", since("heldout_loss"), "{:+.2f}"),
        Column("recall since", since("recall"), "{:+.0%}"),
        Column("compliance since", since("format_compliance"), "{:+.0%}"),
        Column("real words since", since("real_words"), "{:+.1%}"),
        Column("on topic since", since("on_topic"), "{:+.1%}"),
    ],
    checks=[
        Check("held-out loss is lowest within two epochs", lambda r: epochs_at_turn(r[ONLY]) <= 2),
        Check(
            "or at least in the first tenth of training",
            lambda r: turn(r[ONLY]) <= r[ONLY]["track"][-1]["step"] / 10,
        ),
        Check("from there to the end recall rises", lambda r: since("recall")(r[ONLY]) > 0),
        Check("compliance does not fall", lambda r: since("format_compliance")(r[ONLY]) >= 0),
        Check("real words do not fall", lambda r: since("real_words")(r[ONLY]) >= 0),
        Check(
            "the on-topic rate rises by more than a point",
            lambda r: since("on_topic")(r[ONLY]) > 0.01,
        ),
    ],
    figures=lambda r: [
        tracks(r, "Held-out loss", "heldout_loss", "nats per graded token"),
        _others(r),
    ],
)
