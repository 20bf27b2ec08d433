"""What goes wrong in stages that learn from comparisons is named by the figure that shows it, and
nothing is found where nothing is wrong."""

import json

import pytest
from command_line import pysft, succeeds

from pysft.cli.diagnose import text
from pysft.measure.ailments import LIMITS, OF_DPO
from pysft.measure.alignment import is_good_enough
from pysft.measure.diagnose import LAST, RULES, diagnose, findings, last_of, rules_for

DPO = {
    "win_rate": 0.6,
    "win_rate_low": 0.55,
    "win_rate_high": 0.65,
    "gold": 1.2,
    "gold_before": 1.0,
    "kl": 1.0,
    "length": 30.0,
    "length_before": 30.0,
}
HEALTHY = {
    "prompts": 61,
    "stopped_unseen": 1.0,
    "content": 1.0,
    "format_compliance": 1.0,
    "no_user_turn": 1.0,
    "real_words": 0.99,
    "recall": 1.0,
    "forgetting": 0.01,
    "parent": {"stage": "sft", "format_compliance": 1.0},
}
LOGGED = {"chosen_logp": -2.0, "rejected_logp": -8.0, "accuracy": 0.8}
SETTINGS = {"lr": 5e-5, "steps": 400, "beta": 0.3}


def found(dpo=None, logged=None, **figures):
    figures = HEALTHY | {"dpo": DPO | (dpo or {})} | figures
    return findings(figures, [], SETTINGS, {}, "dpo", logged=LOGGED | (logged or {}))


@pytest.mark.parametrize(
    "change, modes",
    [
        ({}, []),
        ({"logged": {"chosen_logp": -10.0}}, []),
        ({"logged": {"chosen_logp": -10.1}}, ["pushes the chosen replies away"]),
        ({"logged": {"chosen_logp": None}}, []),
        ({"dpo": {"length": 45.0}}, []),
        ({"dpo": {"length": 45.1}}, ["grows longer"]),
        ({"dpo": {"length_before": 0.0}}, []),
        ({"format_compliance": 0.951}, []),
        ({"format_compliance": 0.94}, ["loses the format"]),
        ({"format_compliance": 0.5, "parent": {"format_compliance": 0.5}}, []),
        ({"format_compliance": 0.5, "parent": None}, []),
        ({"dpo": {"kl": 10.0}}, []),
        ({"dpo": {"kl": 10.1}}, ["goes too far"]),
        ({"dpo": {"kl": None}}, []),
        ({"dpo": {"win_rate": 0.48, "win_rate_high": 0.5}}, []),
        ({"dpo": {"win_rate": 0.47, "win_rate_high": 0.499}}, ["loses against its parent"]),
        ({"logged": {"accuracy": 0.9}}, []),
        ({"logged": {"accuracy": 0.9}, "dpo": {"gold": 0.99}}, ["good on its pairs only"]),
        ({"logged": {"accuracy": 0.89}, "dpo": {"gold": 0.5}}, []),
    ],
)
def test_each_rule_of_dpo_has_its_own_limit(change, modes):
    assert [f.mode for f in found(**change)] == modes


def test_the_rules_of_fine_tuning_hold_for_dpo_too():
    assert [f.mode for f in found(forgetting=0.5)] == ["forgets"]
    assert rules_for({"dpo": DPO}) == RULES + OF_DPO
    assert rules_for({"dpo": None}) == rules_for({}) == RULES


def test_without_a_judge_only_what_was_measured_is_judged():
    measured = {name: DPO[name] for name in ("kl", "length", "length_before")}
    assert findings(HEALTHY | {"dpo": measured}, [], SETTINGS, {}, "dpo", logged=LOGGED) == []
    assert findings(HEALTHY | {"dpo": {"kl": 99}}, [], {}, {}, "dpo")[0].mode == "goes too far"


def test_every_finding_of_dpo_has_a_cause_and_what_helps_with_the_settings_of_its_stage():
    sick = {"length": 99.0, "kl": 99.0, "win_rate": 0.1, "win_rate_high": 0.2, "gold": 0.1}
    every = findings(
        HEALTHY | {"dpo": DPO | sick, "format_compliance": 0.1},
        [], SETTINGS, {}, "dpo-2", logged={"chosen_logp": -60.0, "accuracy": 1.0},
    )  # fmt: skip
    assert len(every) == len(OF_DPO)
    for f in every:
        assert all((f.symptom, f.figure, f.cause, f.fix)) and not f.fix.endswith(".")
        assert "limit" in f.figure
    helps = " ".join(f.fix for f in every)
    assert "--set dpo-2.lr=..." in helps and "--set dpo-2.beta=..." in helps


def reward(accuracy, low, length):
    return {
        "accuracy": accuracy, "accuracy_low": low, "length_accuracy": length, "rankings": 9,
        "labeler_agreement": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "figures, mode",
    [
        (reward(0.8, 0.7, 0.55), None),
        (reward(0.8, 0.7, 0.75), "no better than length"),
        (reward(0.8, 0.7, 0.7), "no better than length"),
        (reward(0.62, 0.58, 0.55), "hardly better than chance"),
        (reward(0.62, 0.58, 0.4), "hardly better than chance"),
        (reward(0.7, None, 0.55), None),
    ],
)
def test_a_reward_model_is_faulted_where_the_gate_does_not_pass(figures, mode):
    modes = [f.mode for f in findings({"reward": figures}, [], {}, {}, "reward")]
    assert modes == ([mode] if mode else [])
    if figures["accuracy_low"] is not None:
        assert is_good_enough(figures)[0] is (mode is None)


def test_each_limit_is_used_once_and_each_rule_has_one():
    assert len(LIMITS) == len(OF_DPO) + 1  # both rules of a reward model share one


def test_the_last_steps_of_a_log_count_without_the_skipped_ones():
    rows = [{"step": n, "figures": {"a": float(n)}} for n in range(1, 2 * LAST + 1)]
    rows.append({"step": 99, "skipped": True})
    assert last_of(rows) == {"a": sum(range(LAST + 1, 2 * LAST + 1)) / LAST}
    assert last_of([]) == {}


# -------------------------------------------------------------------------------------- a folder


def write(folder, name, data):
    folder.mkdir(parents=True, exist_ok=True)
    rows = data if isinstance(data, list) else [data]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def logged(**figures):
    row = {"loss": 0.7, "norm": 1.0, "tokens": 9, "seconds": 0.1, "lr": 5e-5, "figures": figures}
    return [row | {"step": step} for step in (1, 2)]


def test_a_folder_of_dpo_is_diagnosed_with_its_log(tmp_path):
    folder = tmp_path / "run" / "dpo"
    write(folder, "report.json", HEALTHY | {"stage": "dpo", "dpo": DPO})
    write(folder, "log.jsonl", logged(chosen_logp=-50.0, accuracy=1.0))
    document = diagnose(folder)
    [mode] = document["findings"]
    assert mode["mode"] == "pushes the chosen replies away" and document["rules"] == 13
    assert document["figures"]["dpo"]["kl"] == 1.0
    assert "1 of the thirteen failure modes shows" in text(document)


def test_a_reward_model_is_diagnosed_from_the_command_line(tmp_path):
    folder = tmp_path / "run" / "reward"
    for length, code in ((0.9, 1), (0.5, 0)):
        figures = reward(0.8, 0.7, length)
        write(folder, "report.json", {"stage": "reward", "reward": figures})
        write(folder, "settings.json", {"model": {"outputs": "value"}})
        write(tmp_path / "run", "run.json", {"settings": {"reward": {"lr": 1e-3}}})
        done = pysft("diagnose", tmp_path / "run", "--json")
        assert done.code == code, done.err
        assert done.document["figures"]["length_accuracy"] == length
        assert done.document["rules"] == 2
    assert "none of the two failure modes" in succeeds("diagnose", tmp_path / "run").out
