"""What each figure of the lab and of a run's page draws: its lines, their names, their numbers, and
the lines of comparison."""

from dataclasses import dataclass, field

import pytest
from small_lab import record_of

from pysft.lab.experiments import EXPERIMENTS
from pysft.lab.experiments.arms import PLAIN
from pysft.lab.experiments.charts import smooth
from pysft.lab.experiments.data_size import ONLY, POOLS, SIZES
from pysft.lab.experiments.policies import GOOD_USUAL, OF_DPOS
from pysft.lab.experiments.preferences import COMPARED, COSTS, LONG_ON_FEW, MORE, written
from pysft.lab.experiments.rates import RATES
from pysft.lab.experiments.rewards import COUNTS
from pysft.lab.experiments.world import TELLINGS
from pysft.lab.reward_tasks import NS, distances
from pysft.measure import curves as pages
from pysft.measure import figures

STEPS = (0, 100, 200)
WHOSE, SHARES, TOLD = ("", "other_"), ("right", "known"), (0, 100, 600)  # of two maps
# Figures of a measurement. Each has its own numbers, so that no two can be taken for each other.
MEASURED = (
    *("recall", "stopped", "reply_loss", "user_gradient", "heldout_loss", "real_words"),
    *("on_topic", "on_topic_chance", "format_compliance", "forgetting", "reply_length"),
    *("chosen_logp", "rejected_logp", "accuracy", "score", "gold", "greedy"),
    *("sealed_reward", "sealed_gold", "sealed_kl", "right"),
)
FINISHED = (
    *("gold_accuracy", "accuracy", "length_accuracy", "heldout_loss", "tied_spread"),
    *("miscalibration", "gold", "gold_before", "win_rate", "kl", "train_seconds"),
    *("player", "right", "two_hops", "traced", "held", "strangers_refused"),
    *(f"right_{n}" for n in TELLINGS),
    *(f"{name}_{n}" for name in ("gold", "proxy") for n in NS),
    *("violations", "honest", "first", "second"),
    *("map_wrong", "map_known_refused", "mean", "new_mean"),
    *(f"{who}{name}_share_{n}" for who in WHOSE for name in SHARES for n in TOLD),
)
KINDS = ("first", "content", "end")
MOVED = ("h0.fc.w", "wpe", "wte, old rows", "wte, new rows", "head, old rows", "h0.fc.b", "lnf.w")


def value(name: str, step: int, arm: int, seed: int) -> float:
    """The made-up number of a figure; the one with the lowest loss on held-out text is at 100."""
    if name == "heldout_loss" and step == 100:
        return -1 - arm - seed / 100
    return 1 + MEASURED.index(name) + step / 1000 + arm / 16 + seed / 1024


def made_up(arm: int, seed: int) -> dict:
    """A record of an arm, by its number, and a seed."""
    track = [
        {"step": s, "recall_of": 40, **{name: value(name, s, arm, seed) for name in MEASURED}}
        for s in STEPS
    ]
    return record_of(
        track=track,
        losses=[100 * arm + 10 * seed + i for i in range(25)],
        by_kind={k: [1000 * n + 10 * seed + i for i in range(25)] for n, k in enumerate(KINDS)},
        finish={"forgetting": 9000 + arm + seed / 10}  # of the finished model, in preferences
        | {name: 50 * n + arm + seed / 10 for n, name in enumerate(FINISHED)},
        moved={name: n + seed / 10 for n, name in enumerate(MOVED)},
    )


@dataclass
class Drawn:
    """One call of figures.curves, dots or paths."""

    kind: str
    title: str
    lines: dict[str, tuple]
    labels: tuple
    more: dict = field(default_factory=dict)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn while a test runs, in their order."""
    found = []

    def curves(title, series, x_label, y_label, **more):
        lines = {s.name: (list(s.x), s.ys) for s in series}
        assert len(lines) == len(series)
        found.append(Drawn("curves", title, lines, (x_label, y_label), more))
        return "<svg></svg>"

    def dots(title, groups, x_label, **more):
        found.append(Drawn("dots", title, dict(groups), (x_label,), more))
        return "<svg></svg>"

    def paths(title, series, x_label, y_label, **more):
        found.append(Drawn("paths", title, dict(series), (x_label, y_label), more))
        return "<svg></svg>"

    for function in (curves, dots, paths):
        monkeypatch.setattr(figures, function.__name__, function)
    monkeypatch.setattr(figures, "available", lambda: True)
    return found


# ------------------------------------------------------------------------ what should be drawn

SEEDS = (1, 2)


def tracks(title, name, y_label, scale=1.0, **more):
    """A line for each arm along the steps."""

    def expected(arms):
        lines = {
            arm: (
                list(STEPS),
                [[scale * value(name, s, i, seed) for s in STEPS] for seed in SEEDS],
            )
            for i, arm in enumerate(arms)
        }
        return Drawn("curves", title, lines, ("step", y_label), more)

    return expected


def losses(title, **more):
    """A line of the training loss for each arm."""

    def expected(arms):
        lines = {}
        for i, arm in enumerate(arms):
            curves = [made_up(i, seed)["losses"] for seed in SEEDS]
            lines[arm] = ([10, 20], [smooth(curve)[1] for curve in curves])
        return Drawn("curves", title, lines, ("step", "loss, nats per graded token"), more)

    return expected


def across(title, x, names, labels, scale=1.0, **more):
    """A figure at the last measurement against a setting that each arm has. names: {name of a line:
    its figure}; "lowest" is the lowest held-out loss."""

    def last(name, i, seed):
        return (
            value("heldout_loss", 100, i, seed)
            if name == "lowest"
            else (scale * value(name, STEPS[-1], i, seed))
        )

    def expected(arms):
        lines = {
            line: (list(x), [[last(name, i, seed) for i in range(len(x))] for seed in SEEDS])
            for line, name in names.items()
        }
        return Drawn("curves", title, lines, labels, more)

    return expected


def dots(title, name, label, scale=1.0, **more):
    """A row for each arm: a figure at the last measurement, or of the finished model."""

    def one(i, seed):
        if name in FINISHED:
            return scale * made_up(i, seed)["finish"][name]
        return scale * value(name, STEPS[-1], i, seed)

    def expected(arms):
        lines = {arm: [one(i, seed) for seed in SEEDS] for i, arm in enumerate(arms)}
        return Drawn("dots", title, lines, (label,), more)

    return expected


def trade(title, *chosen):
    """Recall against forgetting of the chosen arms."""

    def path(i, seed):
        return (
            [100 * value("forgetting", s, i, seed) for s in STEPS],
            [40 * value("recall", s, i, seed) for s in STEPS],
        )

    def expected(arms):
        lines = {a: [path(i, seed) for seed in SEEDS] for i, a in enumerate(arms) if a in chosen}
        title_ = f"What is recalled against what is forgotten: {title}"
        return Drawn("paths", title_, lines, ("rise of the base loss, %", "pairs recalled of 40"))

    return expected


def by_pool(arms):
    x = list(POOLS)
    lows = [[value("heldout_loss", 100, i, seed) for i in range(6)] for seed in SEEDS]
    lines = {
        "unfiltered": (x, [low[0::2] for low in lows]),
        "filtered": (x, [low[1::2] for low in lows]),
    }
    title = "Held-out loss at its lowest, by the size of the pool"
    labels = ("rows before filtering", "nats per graded token")
    return Drawn("curves", title, lines, labels, {"log_x": True})


def others(arms):
    names = ("recall", "format_compliance", "real_words", "on_topic")
    lines = {
        label: (list(STEPS), [[100 * value(name, s, 0, seed) for s in STEPS] for seed in SEEDS])
        for label, name in zip(("recall", "compliance", "real words", "on topic"), names)
    }
    return Drawn("curves", "The other measurements", lines, ("step", "%"))


def by_kind(arms):
    names = zip(KINDS, ("first token", "content", "end token"))
    lines = {
        label: ([10, 20], [smooth(made_up(0, seed)["by_kind"][kind])[1] for seed in SEEDS])
        for kind, label in names
    }
    return Drawn("curves", "Loss by kind of token", lines, ("step", "nats"), {"log_y": True})


def changes(arms):
    lines = {name: [100 * made_up(0, seed)["moved"][name] for seed in SEEDS] for name in MOVED[:5]}
    return Drawn("dots", "Relative change of each tensor", lines, ("%",))


def by_tellings(arms):
    def told(i, seed):
        return [100 * made_up(i, seed)["finish"][f"right_{n}"] for n in TELLINGS]

    lines = {arm: (list(TELLINGS), [told(i, seed) for seed in SEEDS]) for i, arm in enumerate(arms)}
    title = "Right answers by how often a fact was told"
    return Drawn("curves", title, lines, ("tellings", "%"), {"log_x": True})


def by_count(arms):
    names = ("gold_accuracy", "accuracy", "length_accuracy")
    labels = ("by the exact judge", "by the labelers", "by length alone")
    lines = {
        label: (
            list(COUNTS),
            [[100 * made_up(i, s)["finish"][name] for i in range(len(COUNTS))] for s in SEEDS],
        )
        for name, label in zip(names, labels)
    }
    more = {"log_x": True, "level": (50, "chance")}
    title = "Held-out replies in the right order"
    return Drawn("curves", title, lines, ("comparisons", "%"), more)


def by_distance(title, name, label):
    """A line of an arm: a figure of the best of n for each n."""

    def expected(arms):
        lines = {
            arm: (
                distances().tolist(),
                [[made_up(i, seed)["finish"][f"{name}_{n}"] for n in NS] for seed in SEEDS],
            )
            for i, arm in enumerate(arms)
        }
        x = "square root of the KL's bound, for n = 1, 2, 4, ... 64"
        return Drawn("curves", title, lines, (x, label))

    return expected


def by_cost(arms):
    """What demonstrations and comparisons win, by what one of the former costs."""

    def won(i, seed):
        return 100 * made_up(i, seed)["finish"]["win_rate"]

    costs = list(COSTS)
    lines = {
        "more demonstrations": (costs, [[won(i, s) for i in range(1, 5)] for s in SEEDS]),
        "comparisons": (costs, [[won(0, s)] * 4 for s in SEEDS]),
    }
    title = "Won against the model before, by the same work"
    labels = ("comparisons that one demonstration costs", "%")
    return Drawn("curves", title, lines, labels, {"log_x": True, "level": (50, "no better")})


def in_the_end(title, label, value, scale=1.0):
    """A row for each arm: a number that follows from the finish of its record."""

    def expected(arms):
        lines = {
            arm: [scale * value(made_up(i, seed)["finish"]) for seed in SEEDS]
            for i, arm in enumerate(arms)
        }
        return Drawn("dots", title, lines, (label,))

    return expected


def more(finish):
    """Points gained by a finished model."""
    return finish["gold"] - finish["gold_before"]


def way(i, seed):
    """(KL, points gained) along the track of an arm."""
    nats, golds = ([value(f"sealed_{x}", s, i, seed) for s in STEPS] for x in ("kl", "gold"))
    return nats, [x - golds[0] for x in golds]


def by_drift(arms):
    def root(i, seed):
        nats, golds = way(i, seed)
        return pytest.approx([x**0.5 for x in nats]), golds

    lines = {arm: [root(i, seed) for seed in SEEDS] for i, arm in enumerate(arms)}
    title = "Points gained, by the drift from the model before"
    labels = ("square root of the KL (best of n: of its bound)", "points gained")
    return Drawn("paths", title, lines, labels)


def beside_dpo(arms):
    """PPO's way, and from the model before to the finished model of each DPO."""

    def ends(i, seed):
        finish = made_up(i, seed)["finish"]
        return [0, finish["kl"]], [0, more(finish)]

    lines = {
        arm: [(way if arm == GOOD_USUAL else ends)(i, seed) for seed in SEEDS]
        for i, arm in enumerate(arms)
    }
    labels = ("KL, nats a reply", "points gained")
    return Drawn("paths", "Points gained, by KL from the model before", lines, labels)


def checkpoints(title, label, **names):
    """Figures of the checkpoints. names: {name of a figure: of its line}."""

    def expected(arms):
        lines = {
            line: (list(STEPS), [[value(name, s, 0, seed) for s in STEPS] for seed in SEEDS])
            for name, line in names.items()
        }
        return Drawn("curves", title, lines, ("step", label), {"log_x": True})

    return expected


def two_maps(arms):
    """What two models know, by how often it was told, from the records of the first arm."""
    lines = {}
    for who, model in zip(WHOSE, ("", "the other model: ")):
        for name, what in zip(SHARES, ("right replies", "called known")):
            found = [[f"{who}{name}_share_{n}" for n in TOLD] for _ in SEEDS]
            ys = [[100 * made_up(0, s)["finish"][f] for f in row] for s, row in zip(SEEDS, found)]
            lines[f"{model}{what}"] = (list(TOLD), ys)
    title = "What two models know, by how often it was told"
    return Drawn("curves", title, lines, ("tellings", "%"))


ANY = ("an arm", "another arm")
GRADED, SIZED, LOG = "nats per graded token", ("conversations", "%"), {"log_y": True}
LEARNING = "Loss on the replies"
ARMS = (PLAIN, "rate 3e-5", "replay, 4 windows", "LoRA rank 1, 1e-3", "mean rows")


def rated(title, name, label, scale):
    """A figure against the learning rate."""
    names = {"after the last step": name}
    return across(title, RATES, names, ("learning rate", label), scale, log_x=True)


def sized(title, name, label="%", scale=100, **lines):
    """A figure against the number of conversations."""
    labels = ("conversations", label)
    return across(title, SIZES, {title.lower(): name, **lines}, labels, scale, log_x=True)


# {experiment: (its arms here, what it draws)}
EXPECTED = {
    "masking": (
        ANY,
        [
            tracks(LEARNING, "reply_loss", GRADED, **LOG),
            tracks("User's share of the unmasked gradient", "user_gradient", "%", 100),
        ],
    ),
    "first-token": (
        ANY,
        [
            tracks("Pairs recalled", "recall", "of 40", 40),
            tracks(LEARNING, "reply_loss", "nats", **LOG),
        ],
    ),
    "missing-end": (ANY, [dots("Replies to the pairs that stop", "stopped", "%", 100)]),
    "loss-curve": ((PLAIN,), [by_kind]),
    "weights-moved": ((PLAIN,), [changes]),
    "forgetting": (
        ARMS,
        [
            trade("Rates", PLAIN, "rate 3e-5"),
            trade("Replay", PLAIN, "replay, 4 windows"),
            trade("LoRA", PLAIN, "LoRA rank 1, 1e-3"),
            dots(
                "Forgetting",
                "forgetting",
                "rise of the base loss, %",
                100,
                level=(10, "gate: 10 %"),
            ),
        ],
    ),
    "learning-rate": (
        [f"arm {i}" for i in range(len(RATES))],
        [
            losses("Training loss", **LOG),
            rated("Forgetting", "forgetting", "rise of the base loss, %", 100),
            rated("Pairs recalled", "recall", "of 40", 40),
            rated("Real words", "real_words", "%", 100),
        ],
    ),
    "find-lr": (ANY, [losses("Training loss", **LOG)]),
    "new-rows": (ANY, [tracks(LEARNING, "reply_loss", GRADED, **LOG)]),
    "one-token": (
        ANY,
        [
            tracks("Loss on the replies' characters", "reply_loss", "nats per character", **LOG),
            tracks("Pairs recalled", "recall", "of 40", 40),
        ],
    ),
    "data-size": (
        [f"{n:,}" for n in SIZES],
        [
            sized("Held-out loss at its lowest", "lowest", GRADED, 1),
            sized("Real words", "real_words"),
            sized("On topic", "on_topic", chance="on_topic_chance"),
        ],
    ),
    "data-scaling": ([f"{n}{f}" for n in POOLS for f in ("", " filtered")], [by_pool]),
    "epochs": ((ONLY,), [tracks("Held-out loss", "heldout_loss", GRADED), others]),
    "diversity": (
        ANY,
        [
            tracks("Held-out loss", "heldout_loss", GRADED),
            dots("Format compliance", "format_compliance", "%", 100),
        ],
    ),
    "length": (ANY, [dots("Length of replies to unseen prompts", "reply_length", "characters")]),
    "contradiction": (ANY, [dots("Draws that say poet", "player", "%", 100)]),
    "knowledge": (ANY, [by_tellings]),
    "hallucination": (
        ANY,
        [
            dots("Questions about strangers that are refused", "strangers_refused", "%", 100),
            dots("Questions about known people that are answered right", "right", "%", 100),
        ],
    ),
    "wordings": (
        ANY,
        [
            dots("Right answers", "right", "%", 100),
            dots("Bits held", "held", "% of what is told", 100),
        ],
    ),
    "hops": (
        ANY,
        [
            dots("Right answers of two hops", "two_hops", "%", 100),
            dots("Right answers of one hop", "right", "%", 100),
        ],
    ),
    "comparisons": ([f"{n:,} comparisons" for n in COUNTS], [by_count]),
    "batches": (
        ANY,
        [
            dots("Loss on held-out comparisons", "heldout_loss", "nats per comparison"),
            dots(
                *("Right order by the exact judge", "gold_accuracy", "%", 100),
                level=(50, "chance"),
            ),
        ],
    ),
    "ties": (
        ANY,
        [
            dots("Spread of equal replies", "tied_spread", "of that of different ones"),
            dots("Miscalibration", "miscalibration", "points", 100),
        ],
    ),
    "overoptimisation": (
        ANY,
        [
            by_distance("Points of the best of n", "gold", "points, 0 to 3"),
            by_distance("Score of the best of n", "proxy", "standard deviations"),
        ],
    ),
    "displacement": (
        ANY,
        [
            tracks("Log-probability of the chosen replies", "chosen_logp", "nats gained"),
            tracks("Log-probability of the rejected replies", "rejected_logp", "nats gained"),
            tracks("Training pairs in the right order", "accuracy", "%", 100),
            dots("Points at temperature 1", "gold", "points, 0 to 3"),
        ],
    ),
    "comparing": (
        [COMPARED, *map(written, MORE)],
        [
            by_cost,
            dots(
                *("Won against the model before", "win_rate", "%", 100),
                level=(50, "no better"),
            ),
        ],
    ),
    "past-the-minimum": (
        (LONG_ON_FEW,),
        [
            checkpoints("Loss on held-out demonstrations", "nats", heldout_loss="held-out loss"),
            checkpoints("Score of the reward model", "score", score="mean score"),
            checkpoints(
                *("Points by the exact judge", "points, 0 to 3"),
                gold="temperature 1",
                greedy="greedy",
            ),
        ],
    ),
    "hacking": (
        ANY,
        [
            tracks("Score of the reward", "sealed_reward", "standard deviations"),
            tracks("Points by the exact judge", "sealed_gold", "points, 0 to 3"),
            tracks("KL from the model before", "sealed_kl", "nats a reply"),
        ],
    ),
    "drift": (ANY, [by_drift]),
    "dpo-or-ppo": (
        (*OF_DPOS, GOOD_USUAL),
        [
            beside_dpo,
            dots(
                *("Won against the model before", "win_rate", "%", 100),
                level=(50, "no better"),
            ),
        ],
    ),
    "proximal": (
        ANY,
        [
            tracks("Points by the exact judge", "sealed_gold", "points, 0 to 3"),
            tracks("KL from the model before", "sealed_kl", "nats a reply"),
        ],
    ),
    "ptx": (
        ANY,
        [
            in_the_end(
                *("Forgetting of base text", "rise of the base loss, %"),
                *(lambda finish: finish["forgetting"], 100),
            ),
            in_the_end("Points gained", "points", more),
        ],
    ),
    "baselines": (
        ANY,
        [
            tracks("Points by the exact judge", "sealed_gold", "points, 0 to 3"),
            dots("Processor seconds of training", "train_seconds", "seconds"),
        ],
    ),
    **dict.fromkeys(
        ("traces", "own-traces"),
        (
            ANY,
            [
                dots(
                    *("Right answers of two hops", "two_hops", "%", 100),
                    level=(100 / 16, "a guess"),
                ),
                dots("Thoughts with both steps true", "traced", "%", 100),
            ],
        ),
    ),
    "sums": (
        ANY,
        [
            tracks("Right sums along the way", "right", "%", 100),
            dots("Right sums", "right", "%", 100),
        ],
    ),
    "constitution": (
        ANY,
        [
            dots("Answers that violate a principle", "violations", "%", 100),
            dots("Answers with a false claim", "honest", "%", 100),
            dots("Right answers", "right", "%", 100),
        ],
    ),
    "turns": (
        ANY,
        [
            dots("Right in the first turn", "first", "%", 100),
            dots("Right in the second turn, which names nobody", "second", "%", 100),
        ],
    ),
    "expansion": (ANY, [dots("Right answers", "right", "%", 100)]),
    "pruning": (ANY, [dots("Right answers", "right", "%", 100)]),
    "own-map": (
        ANY,
        [
            two_maps,
            dots("Wrong answers to the map's questions", "map_wrong", "%", 100),
            dots("Known questions of the map that are refused", "map_known_refused", "%", 100),
        ],
    ),
    "recalling": (
        ANY,
        [
            dots("Mean of the known answered right and the unknown refused", "mean", "%", 100),
            dots("The same in new wordings", "new_mean", "%", 100),
        ],
    ),
    "precision": (
        ANY,
        [
            losses("Training loss", **LOG),
            tracks("Forgetting", "forgetting", "rise of the base loss, %", 100),
        ],
    ),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_draws_these_lines_and_no_others(drawn, name):
    arms, expected = EXPECTED[name]
    results = {arm: [made_up(i, seed) for seed in SEEDS] for i, arm in enumerate(arms)}
    found = EXPERIMENTS[name].figures(results)
    assert [title for title, _ in found] == [d.title for d in drawn]
    assert drawn == [make(arms) for make in expected]


def test_the_curve_of_a_seed_that_diverged_ends_early_and_the_others_go_on(drawn):
    from pysft.lab.experiments import charts

    cut = made_up(0, 1) | {"losses": [1.0] * 15, "track": made_up(0, 1)["track"][:1]}
    results = {"an arm": [cut, made_up(0, 2)]}
    charts.losses(results, "Loss")
    charts.tracks(results, "Recall", "recall", "of 40", 40)
    (x, (first, second)), (steps, (early, late)) = (d.lines["an arm"] for d in drawn)
    assert x == [10, 20] and first == [1.0, None] and None not in second
    assert steps == list(STEPS) and early[1:] == [None, None] and None not in (early[0], *late)


def test_smoothed_losses_are_means_of_ten_steps_named_by_the_last():
    assert smooth(list(range(25))) == ([10, 20], [4.5, 14.5])
    assert smooth([1.0, 2.0, 6.0]) == ([3], [3.0])


# ------------------------------------------------------------------------------ the page of a run


def test_the_page_draws_the_losses_of_a_log_and_folds_the_rest_away(drawn):
    log = [
        {
            **{"step": n, "norm": 5.0 + n, "lr": 0.1 * n, "graded_tokens": 7, "tokens": 9},
            **{"seconds": 0.5, "tokens_per_s": 18},
            "figures": {"conversation": 1.0 * n, "base": 20.0 + n, "margin": 30.0 + n},
        }
        for n in (1, 2, 3)
    ]
    pages.training(log)
    steps = [1, 2, 3]

    def line(name, start, slope=1.0):
        return {name: (steps, [[start + slope * n for n in steps]])}

    assert drawn == [
        Drawn(
            *("curves", "Loss by step", line("loss of conversation", 0) | line("loss of base", 20)),
            *(("step", "nats per graded token"), {"log_y": False}),
        ),
        Drawn(
            *("curves", "Margin by step", line("margin", 30)),
            *(("step", "better reply minus worse one, mean"), {"log_y": False}),
        ),
        Drawn(
            *("curves", "Gradient norm", line("gradient norm", 5), ("step", "")), {"log_y": True}
        ),
        Drawn(
            *("curves", "Learning rate", line("learning rate", 0, 0.1), ("step", "")),
            {"log_y": False},
        ),
    ]


def test_the_page_draws_shares_losses_and_the_trade_off_of_the_checkpoints(drawn):
    names = (*pages.SHARES, *pages.LOSSES, "forgetting")
    rows = [{"step": s, **{name: n + s / 10 for n, name in enumerate(names)}} for s in (0, 5)]
    del rows[1]["on_topic"]  # not measured

    def column(name):
        return [row.get(name) for row in rows]

    def lines(labels):
        return {label: ([0, 5], [column(name)]) for name, label in labels.items()}

    pages.checkpoints(rows)
    shares = {
        **{"recall": "recall", "stopped": "stopped", "format_compliance": "format"},
        **{"on_topic": "on topic", "real_words": "real words"},
    }
    named = {"sft_loss": "trained", "heldout_loss": "held out", "tuned_base_loss": "base text"}
    trade = {
        label: [(column("forgetting"), column(name))]
        for name, label in (("recall", "recall"), ("real_words", "real words"))
    }
    x = "step of fine-tuning"
    assert drawn == [
        Drawn("curves", "Shares by step", lines(shares), (x, "share")),
        Drawn("curves", "Losses by step", lines(named), (x, "nats")),
        Drawn("paths", "What is learned, and what it costs", trade, ("forgetting", "share")),
    ]
