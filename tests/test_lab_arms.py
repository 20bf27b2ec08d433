"""What each arm of each experiment trains on and how, and what each column of its table shows."""

import contextlib
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from small_lab import lab_at, record_of, small_presets, write_corpus

from pysft.lab.experiments import EXPERIMENTS
from pysft.lab.experiments.arms import PLAIN
from pysft.lab.experiments.data_size import ONLY
from pysft.lab.experiments.world import NARROW, TELLINGS, WIDER, steps_to_read
from pysft.lab.personas import CLERK, IDENTITY, PLAYER
from pysft.lab.told import Told, text_of
from pysft.nn.shapes import MATRICES
from pysft.training.presets import OF_WORLD
from pysft.world.ask import questions, trained_questions
from pysft.world.facts import WorldSettings, make
from pysft.world.tell import statement


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    with small_presets():
        yield lab_at(folder / "lab", write_corpus(folder))


def arms_of(lab, name, seed=1) -> list:
    """The arms of an experiment. Each gets a record whose loss falls as it should."""
    arms, found, record = EXPERIMENTS[name].arms(lab, seed), [], None
    with contextlib.suppress(StopIteration):
        while True:
            found.append(arms.send(record))
            record = record_of(losses=[2.0] * 250 + [0.1] * 250)
    return found


# ------------------------------------------------------------------------------------- the recipes

MEAN = {"new_rows": "mean"}
TALK = {"steps": 600, "pairs": 0, "windows": (), "lr": 3e-3, "warmup": 30}
FALLING = {"lr": 1e-3, "schedule": "linear", "beta2": 0.99}
TUNED = {"lr": 5e-3, "warmup": 50, "decay": 0.3, "decay_all": False, "clip": 1.0}
SOURCE = {
    **{"steps": 1000, "pairs": 16, "windows": (), "lr": 1e-4, "schedule": "constant"},
    **{"warmup": 0, "replacement": True, "new_rows": "random", "beta2": 0.999, "decay": 0.01},
    **{"decay_all": True, "clip": 0.0},
}
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
NAMES = ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3", "3e-3", "1e-2", "3e-2")
EARLY, ALONG = (50, 100, 200, 300, 500, 700), (10, 25, 50, 100, 200, 400)
LATE = (25, 50, 75, 100, 150, 200, 300, 450, 600, 800, 1000, 1250)


def replayed(windows, **more):
    return {**MEAN, "windows": ((64, windows),), **more}


# {experiment: {arm: its settings, or (settings, rank of LoRA)}} of those that train on the 40 pairs
ON_PAIRS = {
    "masking": {PLAIN: {}, "no mask": {"grade": "everything"}},
    "first-token": {PLAIN: {}, "first token masked (the source's code)": {}},
    "loss-curve": {PLAIN: {}},
    "weights-moved": {PLAIN: {}},
    "new-rows": {PLAIN: {}, "mean rows": MEAN},
    "missing-end": {PLAIN: {}} | {f"{n} of 40 ends left out": {} for n in (1, 4, 20, 40)},
    "learning-rate": {
        PLAIN if rate == 1e-4 else f"rate {name}": {} if rate == 1e-4 else {"lr": rate}
        for rate, name in zip(RATES, NAMES)
    },
    "find-lr": {  # of a preset whose pre-training has the rate 3e-4
        f"{start}: {rate:.3g}": {"lr": pytest.approx(rate), "steps": 500}
        for start, rate in (
            ("a third of the pre-training rate", 1e-4),
            ("far too low", 1e-6),
            ("far too high", 3e-2),
        )
    },
    "forgetting": {
        PLAIN: {},
        "mean rows": MEAN,
        "rate 3e-5": {"lr": 3e-5},
        "rate 1e-5": {"lr": 1e-5},
        "rate 1e-3": {"lr": 1e-3},
        "replay, 4 windows": replayed(4),
        "replay, 16 windows": replayed(16),
        "replay, 32 windows": replayed(32),
        "replay, 16 windows, 1e-3 to 0": replayed(16, **FALLING),
        "replay, 16 windows, 5e-3 to 0": replayed(16, **FALLING | TUNED),
        "LoRA rank 1, 1e-3": ({"lr": 1e-3}, 1),
        "LoRA rank 4, 1e-3": ({"lr": 1e-3}, 4),
        "LoRA rank 16, 1e-3": ({"lr": 1e-3}, 16),
        "LoRA rank 16, 3e-4": ({"lr": 3e-4}, 16),
        "LoRA rank 16, 1e-4": ({"lr": 1e-4}, 16),
        "LoRA rank 16 and replay": (replayed(16, **FALLING), 16),
    },
    "one-token": {"one token each": SOURCE, "spelled with characters": SOURCE},
}
IN_BF16 = {PLAIN: "float32", f"{PLAIN}, bf16": "bf16"}
IN_BF16 |= {"conversations": "float32", "conversations, bf16": "bf16"}


@pytest.mark.parametrize("name", ON_PAIRS)
def test_an_arm_on_the_pairs_trains_as_its_name_says(lab, name):
    arms = arms_of(lab, name)
    assert [arm.name for arm in arms] == list(ON_PAIRS[name])
    for arm, expected in zip(arms, ON_PAIRS[name].values(), strict=True):
        settings, rank = expected if isinstance(expected, tuple) else (expected, None)
        assert arm.settings == settings and arm.pairs == lab.pairs and not arm.conversations
        assert arm.lora == (None if rank is None else (rank, MATRICES))
        assert arm.preset == ("tiny" if name == "one-token" else "seed")
        assert arm.matched is ("replay" in arm.name) and arm.by_kind is (name != "one-token")
        assert len(arm.probe.pairs) == 40 and not arm.probe.heldout
        at = {"find-lr": (100, 200), "missing-end": (200, 500)}.get(name, EARLY)
        at = (200, 500) if "replay" in arm.name else (100, 200, 500) if rank else at
        assert arm.at == (EARLY if arm.name == PLAIN else at)
        assert arm.precision == "float32"


def test_the_arms_of_precision_are_pairs_that_differ_in_it_alone(lab, monkeypatch):
    monkeypatch.setattr("pysft.lab.experiments.precision.in_precision", lambda ops, name: ops)
    arms = arms_of(lab, "precision")
    assert {arm.name: arm.precision for arm in arms} == IN_BF16
    for one, other in zip(arms[::2], arms[1::2]):
        assert replace(other, name=one.name, precision="float32") == one
    assert arms[0].pairs == lab.pairs and arms[0].settings == {} and arms[0].at == EARLY
    assert arms[2].settings == TALK and arms[2].conversations == lab.conversations


@pytest.mark.parametrize("seed", [1, 2])
def test_as_many_end_tokens_are_left_out_as_an_arm_says_and_more_hold_the_fewer(lab, seed):
    settings, left = lab.settings("seed"), [set()]
    for arm in arms_of(lab, "missing-end", seed):
        examples = [arm.encode(c, lab.chat, settings) for c in arm.pairs]
        end = lab.chat.special["<|end|>"]
        left.append({i for i, e in enumerate(examples) if e.labels[-1] != end})
    assert [len(lines) for lines in left[1:]] == [0, 1, 4, 20, 40]
    assert all(fewer <= more for fewer, more in zip(left, left[1:]))


# {experiment: {arm: (how many conversations, how many are to be recalled)}}
ON_CONVERSATIONS = {
    "data-size": {f"{n:,}": (n, None) for n in (5, 20, 80, 320, 1280, 2500)},
    "data-scaling": {
        f"{n:,} {kind}": (n if kind == "unfiltered" else n // 2, 40)
        for n in (300, 900, 2500)
        for kind in ("unfiltered", f"filtered to {n // 2:,}")
    },
    "epochs": {ONLY: (300, 40)},
    "diversity": {"20 of one kind": (20, 20), "2 each of ten kinds": (20, 20)},
    "length": {
        "the shortest replies (mean 49)": (400, 40),
        "the middling replies (mean 58)": (400, 40),
        "the longest replies (mean 67)": (400, 40),
    },
    "contradiction": {"one persona": (224, 40), "two personas": (224, 40)},
}
CHANGED = {
    "data-size": {"steps": 800},
    "epochs": {"steps": 1500, "schedule": "constant", "lr": 1e-3},
    "diversity": {"steps": 300},
}
HOOKS = {"contradiction": "personas"}


@pytest.mark.parametrize("name", ON_CONVERSATIONS)
def test_an_arm_on_conversations_trains_on_as_many_as_its_name_says(lab, name):
    arms = arms_of(lab, name)
    assert [arm.name for arm in arms] == list(ON_CONVERSATIONS[name])
    for arm, (count, asked) in zip(arms, ON_CONVERSATIONS[name].values(), strict=True):
        assert arm.settings == TALK | CHANGED.get(name, {}) and arm.preset == "tiny"
        assert len(arm.conversations) == count and not arm.pairs
        assert asked is None or len(arm.probe.pairs) == asked
        assert arm.probe.heldout and arm.probe.prompts
        whole = name in ("length", "contradiction")
        assert arm.at == (() if whole else LATE if name == "epochs" else ALONG)
        assert getattr(arm.finish, "__name__", None) == HOOKS.get(name)
        assert arm.lora is None and not arm.matched and not arm.by_kind


# In the small lab, 20 people are told 8 times each, and 24 where the tellings differ.
EQUAL = {"people": 20, "days": 0, "tellings": (8,)}
MANY = {"people": 24, "days": 0, "tellings": TELLINGS, "attributes": 2}
TWO_HOPS = EQUAL | {"attributes": 2, "relations": 1}
# {experiment: {arm: (its world, how that is told, how answers of two hops are written)}}
ON_WORLD = {
    "knowledge": {NARROW: (MANY, {}, "trace"), WIDER: (MANY, {}, "trace")},
    "wordings": {
        "one wording, fixed order": (EQUAL, {"wordings": 1, "shuffled": False}, "trace"),
        "six wordings, fixed order": (EQUAL, {"shuffled": False}, "trace"),
        "one wording, shuffled": (EQUAL, {"wordings": 1}, "trace"),
        "six wordings, shuffled": (EQUAL, {}, "trace"),
    },
    "hops": {
        "first hop hidden": (TWO_HOPS, {}, "hidden"),
        "person named": (TWO_HOPS, {}, "named"),
        "whole trace": (TWO_HOPS, {}, "trace"),
    },
    "hallucination": {
        "no refusals in the data": (EQUAL, {}, "trace"),
        "refusals in the data": (EQUAL | {"refusals": True}, {}, "trace"),
    },
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ON_WORLD)
def test_an_arm_on_a_world_reads_and_asks_what_its_name_says(lab, name, seed):
    arms = arms_of(lab, name, seed)
    assert [arm.name for arm in arms] == list(ON_WORLD[name]) and EXPERIMENTS[name].on_world
    for arm, (settings, told, form) in zip(arms, ON_WORLD[name].values(), strict=True):
        world = make(WorldSettings(seed=seed, **settings))
        assert arm.told == Told(world.settings, **told)
        asked = trained_questions(world, form)
        found = [(c.prompt, c.replies()[0]) for c in arm.conversations]
        assert found == [(q.prompt, q.answer) for q in asked]
        assert arm.settings == OF_WORLD["tiny"]["sft"] and arm.preset == "tiny" and not arm.pairs
        recipe = OF_WORLD["tiny"]["base"] | {"steps": steps_to_read(arm.told)}
        wide = {"model": {"channels": 128}, "base": recipe | {"lr": 6e-3}}
        assert arm.base == (wide if arm.name == WIDER else {"base": recipe})
        hooks = arm.judge.__name__, arm.finish.__name__
        assert hooks == ("judge_of_world", "knowledge") and arm.at == () and not arm.matched
        sealed = [q.prompt for q in questions(world, "sealed")]
        assert [p["prompt"] for p in arm.probe.prompts] == sealed
        assert not {prompt for prompt, _ in found} & {*sealed} and len(arm.probe.pairs) == 6
        assert {tuple(pair) for pair in arm.probe.pairs} <= {*found}


def test_a_base_reads_the_text_of_its_world_once(lab):
    """All windows but the one that the first cut and the last step leave out."""
    for arm in arms_of(lab, "knowledge"):
        rows = arm.base["base"]["steps"] * 10 * 256
        assert 0 <= len(text_of(arm.told)) - rows < 12 * 256


def test_the_texts_of_wordings_tell_every_fact_equally_often_in_the_words_of_their_names(lab):
    arms = arms_of(lab, "wordings")
    [settings] = {arm.told.world for arm in arms}
    said = {
        statement(fact, entity.name, value, w): (entity.name, fact, w)
        for entity in make(settings).entities
        for fact, value in entity.facts.items()
        for w in range(6)
    }
    for arm in arms:
        tellings = text_of(arm.told).removesuffix("\n\n").split("\n\n")
        told = [[said[x] for x in re.split(r"(?<=\.) ", telling)] for telling in tellings]
        each = Counter((name, fact) for telling in told for name, fact, _ in telling)
        assert len(each) == 20 * 4 and set(each.values()) == {8}
        worded = {w for telling in told for _, _, w in telling}
        assert worded == ({0} if "one wording" in arm.name else set(range(6)))
        orders = {tuple(fact for _, fact, _ in telling) for telling in told}
        assert (len(orders) > 1) is ("shuffled" in arm.name)


def test_refusals_about_strangers_are_added_to_the_same_questions(lab):
    without, with_refusals = (arm.conversations for arm in arms_of(lab, "hallucination"))
    asked = {c.prompt for c in without}
    more = [c for c in with_refusals if c.prompt not in asked]
    assert len(more) == len(without) and len(with_refusals) == 2 * len(without)
    assert all(c.replies()[0].endswith("? I know not that name.") for c in more)


LABELED, GENTLE, ROUGH = (
    {"by": "labelers"},
    {"beta": 0.3, "lr": 5e-5},
    {"beta": 0.1, "lr": 3e-4},
)
MODELS = {
    f"{n:,} comparisons": ("reward", LABELED | {"comparisons": n, "best": True})
    for n in (100, 300, 1000, 3000, 6000)
}
THREE = LABELED | {"comparisons": 3000}
OF_3000 = {"demonstrations": None, "comparisons": 3000}
DPO = OF_3000 | {"steps": 300, "pairs": 16}
BY_DPO = {"tuning": OF_WORLD["tiny"]["dpo"]}
BY_RECIPE = {"steps": 0, "lr": 2e-4, "pairs": 16, "nll": 5.0, "world": ((256, 6),)}
FEW = {"demonstrations": 100}
USUAL = {
    "demonstrations": None,
    **{"lr": 1e-3, "warmup": 20, "beta": 0.02, "prompts": 16, "replies": 4, "epochs": 2},
    "windows": ((256, 2),),
    **OF_WORLD["tiny"]["ppo"],
    "steps": 120,
}
ON_TRUTH = USUAL | {"reward": "world"}
ON_GOOD = USUAL | {"reward": "reward", "by": "labelers", "comparisons": 3000}
ON_POOR = ON_GOOD | {"by": "labeler who prefers the longer reply", "comparisons": 300}
FREE = {"lr": 1e-3, "beta": 0.0}
NO_TEXT = {"windows": (), "world": ()}
TUNED_ONCE_MORE = {"steps": 200, "tokens": 1600, "lr": 1e-3}
OF_RULES = {
    **{"share": 0.5, "mix": (1, 3), "k": 4, "rounds": 1},
    "violating": {"steps": 900, "tokens": 4000, "lr": 4e-3},
    "tuning": TUNED_ONCE_MORE,
}
OF_TURNS = {
    **{"several": 1.0, "changing": 0.0, "grade": "all", "graded": 700},
    "tuning": {"steps": 400},
}
TO_RECALL = {  # what `probe --recall` prints
    **{"steps": 1600, "lr": 3e-3, "decay": 0.1, "pairs": 0, "tokens": 6000},
    **{"windows": [[256, 1]], "world": [[256, 4]]},
}
OF_TEACHER = {"teacher": {"seeds": 100, "rows": 8000, "sft": {"steps": 100}}}
LONG = {"sft": {"steps": 600}}
PRUNED = {"seeds": 100, "before": {"steps": 300}, "sft": {"steps": 300}}
# {experiment: {arm: (its task, the options of that)}}
ON_PREFERENCES = {
    "comparisons": MODELS
    | {
        "3,000 in a random order": ("reward", THREE | {"by": "chance"}),
        "3,000 by the exact judge": ("reward", THREE | {"by": "exact judge"}),
    },
    "batches": {
        f"{how}, {n} epoch{'s' * (n > 1)}": ("reward", THREE | {"singly": singly, "epochs": n})
        for how, singly in (("together", False), ("singly", True))
        for n in (1, 4)
    },
    "ties": {
        "dropped": ("reward", THREE | {"ties": "none"}),
        "half for each": ("reward", THREE | {"ties": "half"}),
        "Davidson": ("reward", THREE | {"ties": "davidson"}),
    },
    "overoptimisation": {
        **{name: MODELS[name] for name in MODELS if name[:3] in ("300", "3,0", "6,0")},
        "the exact judge itself": ("best_by_judge", {}),
    },
    "displacement": {
        "gentle": ("dpo", DPO | GENTLE | {"nll": 0}),
        "gentle, with the chosen's NLL": ("dpo", DPO | GENTLE | {"nll": 0.1}),
        "rough": ("dpo", DPO | ROUGH | {"nll": 0}),
        "rough, with the chosen's NLL": ("dpo", DPO | ROUGH | {"nll": 0.2}),
        "the recipe of `dpo`": ("dpo", OF_3000 | BY_RECIPE),
        "the chosen's NLL of it alone": ("dpo", OF_3000 | BY_RECIPE | {"beta": 1e-4}),
    },
    "comparing": {
        "no more work": ("demonstrate", FEW | {"more": 0}),
        "1,200 comparisons": ("dpo", FEW | {"work": 1200} | BY_RECIPE),
        **{
            f"{n} more demonstrations": ("demonstrate", FEW | {"more": n})
            for n in (75, 150, 300, 600)
        },
    },
    "past-the-minimum": {
        "100 demonstrations, 640 steps": (
            "past_the_minimum",
            {"demonstrations": 100, "comparisons": 3000},
        )
    },
    "hacking": {
        "poor reward, beta 0": ("reinforce", ON_POOR | FREE),
        "poor reward, beta 0.02": ("reinforce", ON_POOR | FREE | {"beta": 0.02}),
        "poor reward, beta 0.2": ("reinforce", ON_POOR | FREE | {"beta": 0.2}),
        "good reward, beta 0": ("reinforce", ON_GOOD | FREE),
    },
    "drift": {
        "good reward, beta 0": ("reinforce", ON_GOOD | FREE),
        "good reward, usual": ("reinforce", ON_GOOD),
        "poor reward, beta 0": ("reinforce", ON_POOR | FREE),
        "best of n, 3,000 comparisons": MODELS["3,000 comparisons"],
    },
    "dpo-or-ppo": {
        "the recipe of `dpo`": ("dpo", OF_3000 | BY_RECIPE),
        "DPO, beta 0.1": ("dpo", OF_3000 | BY_RECIPE | {"beta": 0.1}),
        "DPO, beta 0.3": ("dpo", OF_3000 | BY_RECIPE | {"beta": 0.3}),
        "good reward, usual": ("reinforce", ON_GOOD),
    },
    "proximal": {
        "usual": ("reinforce", ON_TRUTH),
        "2 updates, no clip": ("reinforce", ON_TRUTH | {"clipping": "none"}),
        "8 updates": ("reinforce", ON_TRUTH | {"epochs": 8}),
        "8 updates, no clip": ("reinforce", ON_TRUTH | {"epochs": 8, "clipping": "none"}),
    },
    "ptx": {
        "usual": ("reinforce", ON_TRUTH),
        "no text beside": ("reinforce", ON_TRUTH | NO_TEXT),
        "text, weight 20": ("reinforce", ON_TRUTH | {"ptx": 20.0}),
        "no text, beta 0.2": ("reinforce", ON_TRUTH | NO_TEXT | {"beta": 0.2}),
    },
    "baselines": {
        "usual": ("reinforce", ON_TRUTH),
        "leave-one-out": ("reinforce", ON_TRUTH | {"baseline": "leave-one-out"}),
        "group": ("reinforce", ON_TRUTH | {"baseline": "group"}),
        "CISPO's clip": ("reinforce", ON_TRUTH | {"clipping": "cispo"}),
    },
    "constitution": {
        "before": ("constituted", OF_RULES | {"on": "nothing", "tuning": {}}),
        "its own answers": ("constituted", OF_RULES | {"on": "answers"}),
        "its own revisions": ("constituted", OF_RULES | {"on": "revisions"}),
        "revisions of 3 rounds": ("constituted", OF_RULES | {"on": "revisions", "rounds": 3}),
        "DPO on its own preferences": ("constituted", OF_RULES | {"on": "pairs"} | BY_DPO),
    },
    "turns": {
        "single turns": ("conversed", OF_TURNS | {"several": 0.0}),
        "three turns": ("conversed", OF_TURNS),
        "half and half": ("conversed", OF_TURNS | {"several": 0.5}),
        "three turns, half change the subject": ("conversed", OF_TURNS | {"changing": 0.5}),
        "three turns, the last graded": ("conversed", OF_TURNS | {"grade": "last"}),
    },
    "expansion": {
        "seeds alone": ("student", OF_TEACHER | LONG | {"which": "none"}),
        **{
            f"{n:,} rows, {which}": ("student", OF_TEACHER | LONG | {"which": which, "first": n})
            for which in ("all", "filtered")
            for n in (2000, 8000)
        },
        **{
            name: (
                "epochs",
                OF_TEACHER
                | {"which": which, "first": 8000, "epochs": 3}
                | {"sft": {"lr": 4e-3, "schedule": "constant", "warmup": 10}},
            )
            for name, which in (
                ("the source's minimal recipe", "filtered"),
                ("the minimal recipe, seeds alone", "none"),
            )
        },
    },
    "pruning": {
        name: ("pruning", PRUNED | {"noise": noise, "keep": keep, "by": by})
        for name, noise, keep, by in (
            ("all rows", 0.0, 1.0, "random"),
            ("random tenth", 0.0, 0.1, "random"),
            ("hardest tenth", 0.0, 0.1, "world"),
            ("random tenth, with false answers", 0.25, 0.1, "random"),
            ("hardest tenth, with false answers", 0.25, 0.1, "world"),
            ("tenth of the highest loss, with false answers", 0.25, 0.1, "loss"),
        )
    },
    "own-map": {
        name: ("refuse_by_map", {"refusals": whose, "steps": 400})
        for name, whose in (
            ("no refusals", None),
            ("its own map", "own map"),
            ("a guess", "guess"),
            ("another model's map", "another model's map"),
        )
    },
    "recalling": {
        "before": ("refuse_new_names", {"rows": None}),
        **{
            name: ("refuse_new_names", TO_RECALL | {"rows": rows, "mix": mix})
            for name, rows, mix in (
                ("answers and refusals", "refusals", [1, 1]),
                ("with what is recalled", "recalled", [1, 1]),
                ("and rows that compare", "compared", [1, 1, 2]),
            )
        },
    },
}

TEACHER = {"steps": 800, "times": 16}
TAUGHT = {"teacher": TEACHER, "tries": 4, "steps": 500, "times": 10}
BY_ITSELF = {
    **{"few": 8, "start": {"steps": 300, "times": 16}, "teacher": TEACHER, "tries": 8},
    **{"steps": 500, "tokens": 2800},
}
# The same of those on traces of reasoning.
ON_TRACES = {
    "traces": {
        "answers, as many questions": (
            "student",
            TAUGHT | {"rows": "answers", "as_many": "questions"},
        ),
        "answers, as many tokens": ("student", TAUGHT | {"rows": "answers", "as_many": "tokens"}),
        "the question again": ("student", TAUGHT | {"rows": "repeated", "as_many": "questions"}),
        "the teacher's steps": ("student", TAUGHT | {"rows": "thoughts", "as_many": "questions"}),
    },
    "own-traces": {
        "the few written": ("self_taught", BY_ITSELF | {"rows": "none"}),
        "and its own right ones": ("self_taught", BY_ITSELF | {"rows": "own"}),
        "and the teacher's right ones": ("self_taught", BY_ITSELF | {"rows": "teacher"}),
        "and all others, written": ("self_taught", BY_ITSELF | {"rows": "written"}),
    },
}
ON_TASKS = ON_PREFERENCES | ON_TRACES


@pytest.mark.parametrize("name", ON_TASKS)
def test_an_arm_that_is_a_task_does_what_its_name_says(lab, name):
    arms = arms_of(lab, name)
    found = {arm.name: (arm.task.__name__, arm.options) for arm in arms}
    assert found == ON_TASKS[name] and list(found) == list(ON_TASKS[name])
    assert EXPERIMENTS[name].on_world and EXPERIMENTS[name].prepare and len(found) == len(arms)
    assert not any(arm.matched for arm in arms)


def test_every_experiment_has_its_arms_in_a_table_here():
    tables = *ON_PAIRS, *ON_CONVERSATIONS, *ON_WORLD, *ON_TASKS, "precision", "sums"
    assert sorted(tables) == sorted(EXPERIMENTS)


def test_breadth_has_two_of_each_of_the_ten_largest_kinds_and_depth_twenty_of_the_largest(lab):
    depth, breadth = ([c.category for c in arm.conversations] for arm in arms_of(lab, "diversity"))
    assert set(depth) == {breadth[0]} and breadth[::2] == breadth[1::2]
    sizes = {}
    for c in lab.conversations:
        if len(c.messages) == 2:
            sizes[c.category] = sizes.get(c.category, 0) + 1
    assert len(set(breadth)) == 10
    assert sorted(sizes.values())[-10:] == sorted(sizes[kind] for kind in set(breadth))


def test_the_second_persona_takes_the_place_of_the_firsts_second_copy(lab):
    for arm, others in zip(arms_of(lab, "contradiction"), (PLAYER, CLERK), strict=True):
        general, claims = arm.conversations[:200], arm.conversations[200:]
        assert all(c.category != "identity" for c in general)
        assert [c.prompt for c in claims] == list(IDENTITY) * 2
        assert [c.replies()[0] for c in claims] == [PLAYER] * 12 + [others] * 12
        assert {p for p, _ in arm.probe.pairs} == {c.prompt for c in general[:40]}


def test_the_lengths_of_replies_do_not_overlap_and_the_middling_are_of_the_middle(lab):
    lengths = [[len(c.replies()[0]) for c in arm.conversations] for arm in arms_of(lab, "length")]
    every = sorted(len(c.replies()[0]) for c in lab.conversations if len(c.messages) == 2)
    assert lengths[0] == every[:400] and lengths[2] == every[-400:]
    assert lengths[1] == every[len(every) // 2 - 200 : len(every) // 2 + 200]
    assert [round(np.mean(n)) for n in lengths] == [49, 58, 67]


# ------------------------------------------------------------------------------------- the columns

# {heading: the figure of the finished model}, in experiments on preferences.
OF_PREFERENCES = {
    "comparisons": "comparisons",
    "right order by the exact judge": "gold_accuracy",
    "right order by the labelers": "accuracy",
    "right order by length alone": "length_accuracy",
    "right order in training": "trained_accuracy",
    "loss on held-out comparisons": "heldout_loss",
    "spread of equal replies": "tied_spread",
    "miscalibration": "miscalibration",
    **{f"points, best of {n}": f"gold_{n}" for n in (1, 4, 16, 64)},
    "score, best of 64": "proxy_64",
    "points lost since the best n": "lost",
    "alpha": "alpha",
    "beta": "beta",
    "share explained by Gao's curve": "fit",
    "chosen, nats gained": "chosen_logp",
    "held-out chosen, nats gained": "heldout_chosen_logp",
    "accuracy on training pairs": "trained_accuracy",
    "accuracy on held-out pairs": "heldout_accuracy",
    "points": "gold",
    "points before": "gold_before",
    "points, greedy": "greedy_gold",
    "won against the model before": "win_rate",
    "won, greedy": "greedy_win_rate",
    "KL from the model before": "kl",
    "forgetting of base text": "forgetting",
    "rise of the held-out loss since its lowest": "risen",
    "step: lowest loss": "step_by_loss",
    "step: highest score": "step_by_score",
    "step: most points": "step_best",
    "points: lowest loss": "gold_by_loss",
    "points: highest score": "gold_by_score",
    "points: last step": "gold_last",
    "points: most": "gold_best",
    "greedy points: lowest loss": "greedy_by_loss",
    "greedy points: highest score": "greedy_by_score",
    "replies in format": "format_compliance",
    "different replies": "distinct",
    "tokens of a reply": "length",
    "tokens before": "length_before",
    "nats a token moved from the writer": "kl_old",
    "the most in an iteration": "kl_old_most",
    "ratios beyond the clip": "clipped",
    "forgetting before": "forgetting_before",
    "processor seconds of training": "train_seconds",
}
# The same, in experiments on traces of reasoning.
OF_TRACES = {
    "thoughts: first step true": "first",
    "thoughts: both steps true": "traced",
    "right after both": "founded",
    "attributes: right": "attributes",
    "neighbours: right": "neighbours",
    "times that a question is asked": "times",
    "graded tokens": "graded",
    "rows of traces": "rows",
    "right tries": "right_tries",
    "rows with a true trace": "true_traces",
    "sums: right": "right",
    "thoughts: all steps right": "steps",
    "right after such a thought": "founded",
}
# The same in experiments on pipelines of data.
OF_PIPELINES = {
    "answers that violate a principle": "violations",
    **{name: name for name in ("helpful", "honest", "harmless")},
    "right, greedy": "greedy",
    **{f"critiques right: {n}": f"critiques_{n}" for n in ("helpful", "honest", "harmless")},
    "rows that violate a principle": "rows",
    **{f"right, {turn} turn": turn for turn in ("first", "second", "third")},
    **{f"in format, {turn} turn": f"format_{turn}" for turn in ("first", "second", "third")},
    "right, second turn about another, by name": "named",
    "tokens of a step": "step_tokens",
}
# The same, in experiments on pipelines that throw rows away.
OF_CURATING = {
    "rows": "rows",
    "kept by the filters": "kept",
    "copies of a seed": "copied",
    "epoch chosen by marks": "chosen",
    "steps until then": "steps",
    "epoch of the lowest loss": "by_loss",
    "right then": "right_by_loss",
    "false answers among them": "false",
    "difficulty of what is kept": "difficulty",
    "difficulty of all": "difficulty_of_all",
    "easy rows": "easy",
}
# The same, in experiments on what a model knows.
OF_PROBING = {
    "map: wrong": "map_wrong",
    "map: right": "map_right",
    "map, unknown: refused": "map_unknown_refused",
    "map, known: refused": "map_known_refused",
    "sealed: wrong": "wrong",
    "sealed, told 600 times: right": "known_right",
    "sealed, told 600 times: refused": "known_refused",
    "sealed, never told: refused": "unknown_refused",
    "answers trained": "answers",
    "refusals trained": "refusals",
    "their share of the rows": "refusals_share",
    "balanced accuracy of the map": "balanced_accuracy",
    "of the other's": "other_balanced_accuracy",
    "agreement of the two": "agreement",
    "agreement by chance": "chance",
    "known, but unknown to the other": "known_to_own_alone",
    "known: right": "known_right",
    "unknown: refused": "unknown_refused",
    "mean of the two": "mean",
    "known: refused": "known_refused",
    "unknown: wrong": "unknown_wrong",
    "in new wordings: known, right": "new_known_right",
    "in new wordings: unknown, refused": "new_unknown_refused",
    "in new wordings: mean": "new_mean",
}
STEPS = (0, 50, 200, 1000)
MEASURED = (
    *("stopped", "forgetting", "reply_loss", "format_compliance", "heldout_loss", "real_words"),
    *("on_topic", "on_topic_chance", "no_user_turn", "user_targets", "user_gradient"),
    *("distinct_replies", "reply_length", "tokens", "recall", "tuned_base_loss"),
)
FINISHED = (
    *("player", "clerk", "neither", "both"),
    *("right", "wrong", "refused", "new_wordings", "two_hops", "held"),
    *("strangers_refused", "strangers_wrong"),
    *(f"right_{n}" for n in TELLINGS),
    *dict.fromkeys(OF_PREFERENCES.values()),
    *("proxy_before", "proxy"),
    *sorted(
        {*OF_TRACES.values(), *OF_PIPELINES.values(), *OF_CURATING.values(), *OF_PROBING.values()}
        - {"right", "wrong", *OF_PREFERENCES.values()}
    ),
)
RECORD = record_of(
    track=[
        {"step": s, "recall_of": 40, **{name: 10 * i + j for i, name in enumerate(MEASURED)}}
        for j, s in enumerate(STEPS)
    ],
    losses=[4.0] + [2.0] * 199 + [8.0] + [0.5] * 780 + [0.25] * 20,
    by_kind={k: [4.0] * n + [0.0] * 99 for k, n in (("first", 20), ("content", 40), ("end", 60))},
    finish={name: 100 + i for i, name in enumerate(FINISHED)},
    moved={"h0.fc.w": 0.3, "wpe": 0.9}
    | {"wte, old rows": 0.1, "head, old rows": 0.2, "wte, new rows": 0.6, "head, new rows": 0.7},
    settings={"sft": {"steps": 1000}},
    epochs=20.0,
    trained_share=0.625,
    matched_loss=51.0,
    base_loss=1.625,
    seconds=7.5,
)
RECORD["track"][-1]["origins"] = {"verbatim": 1, "near copy": 2, "spliced": 4, "new": 9}
# The lowest held-out loss is at step 200; 38 pairs are recalled there, and all replies stop.
RECORD["track"][2] |= {"heldout_loss": 1.0, "recall": 0.95, "stopped": 1.0}
RECORD["track"][1] |= {"recall": 0.5, "stopped": 0.95}
RECORD["track"][0] |= {"recall": 0.0, "stopped": 0.0}
RECORD["track"][3] |= {"recall": 0.75}
# The policy has most points at a KL of 2, and one point fewer at the end, at a KL of 8.
for row, kl, gold, at in zip(
    RECORD["track"], (0.0, 0.5, 2.0, 8.0), (1.25, 1.5, 3.0, 2.0), (None, None, 150, 150)
):
    row |= {"sealed_kl": kl, "sealed_gold": gold, "hacked_at": at}


def last(name):
    return 10 * MEASURED.index(name) + 3


def finish(name):
    return 100 + FINISHED.index(name)


LOSS_AT = {n: 10 * MEASURED.index("reply_loss") + j for j, n in enumerate(STEPS)}
COLUMNS = {
    "base loss": 1.625,
    "recalled of 40": 30,
    "recalled of those asked": 0.75,
    "stopped": last("stopped"),
    "forgetting": last("forgetting"),
    "loss on replies": last("reply_loss"),
    "loss on replies at 200": LOSS_AT[200],
    "loss on replies before": LOSS_AT[0],
    "after 50": LOSS_AT[50],
    "after 200": LOSS_AT[200],
    "format compliance": last("format_compliance"),
    "held-out loss": last("heldout_loss"),
    "held-out loss at its lowest": 1.0,
    "held-out loss lowest at step": 200,
    "epochs then": 4.0,
    "its rise to the end": last("heldout_loss") - 1.0,
    "recall since": pytest.approx(-0.2),
    "compliance since": 1,
    "real words since": 1,
    "on topic since": 1,
    "real words": last("real_words"),
    "on topic": last("on_topic"),
    "chance": last("on_topic_chance"),
    "memorised": 7 / 16,
    "replies without a user's turn": last("no_user_turn"),
    "user's share of targets": last("user_targets"),
    "of the gradient at the start": 10 * MEASURED.index("user_gradient"),
    "of the gradient at the end": last("user_gradient"),
    "loss at the start": 4.0,
    "at the end": 0.25,
    "after 500 steps": 0.25,
    "training loss": 0.25,
    "spikes": 1,
    "judged": "jumpy",
    "share of the fall by step 200": pytest.approx(2 / 3.75),
    "first token below 0.5 nats at step": 29,
    "content": 49,
    "end token": 69,
    "95 % of replies stop at step": 50,
    "36 of 40 recalled at step": 200,
    "base text before training": 10 * MEASURED.index("forgetting"),
    "tokens a conversation": last("tokens"),
    "distinct replies of 61": last("distinct_replies"),
    "characters a reply": last("reply_length"),
    "says poet": finish("player"),
    "says clerk": finish("clerk"),
    "neither": finish("neither"),
    "questions that get both answers": finish("both"),
    **{f"right at {n:,}": finish(f"right_{n}") for n in TELLINGS},
    "right": finish("right"),
    "wrong": finish("wrong"),
    "refused": finish("refused"),
    "right in new wordings": finish("new_wordings"),
    "bits held": finish("held"),
    "one hop: right": finish("right"),
    "two hops: right": finish("two_hops"),
    "strangers: invented": finish("strangers_wrong"),
    "strangers: refused": finish("strangers_refused"),
    "known people: right": finish("right"),
    "known people: refused": finish("refused"),
    **{
        heading: finish(name)
        for heading, name in (
            OF_PREFERENCES | OF_TRACES | OF_PIPELINES | OF_CURATING | OF_PROBING
        ).items()
    },
    "each sum asked": 20.0,
    "steps of training": 1000,
    "training less held out": finish("trained_accuracy") - finish("accuracy"),
    "score gained": finish("proxy") - finish("proxy_before"),
    "points gained": finish("gold") - finish("gold_before"),
    "alarm of hacking at step": 150,
    "most points gained on the way": 1.75,
    "KL then": 2.0,
    "KL at the end": 8.0,
    "points lost since the most": 1.0,
    "seconds": 7.5,
    "matched forgetting": last("tuned_base_loss") / 51.0 - 1,
    "forgetting when 36 were first recalled": 10 * MEASURED.index("forgetting") + 2,
    "weights trained (new rows too)": 0.625,
    "matrices (median)": 0.3,
    "embedding, old rows": 0.1,
    "head, old rows": 0.2,
    "embedding, new rows": 0.6,
    "head, new rows": 0.7,
    "largest of all old": 0.9,
}
EVERY = [(e.name, c) for e in EXPERIMENTS.values() for c in e.columns]


@pytest.mark.parametrize("name, column", EVERY, ids=[f"{n}: {c.heading}" for n, c in EVERY])
def test_a_column_shows_the_figure_that_its_heading_names(name, column):
    assert column.value(RECORD) == COLUMNS[column.heading]
