"""What goes wrong in PPO is named by its alarms and by what its replies are worth, and nothing is
found where nothing is wrong."""

import json

import pytest
from command_line import pysft

from pysft.cli.diagnose import NUMBERS, text
from pysft.measure.diagnose import RULES, diagnose, findings, rules_for
from pysft.measure.policy_ailments import OF_PPO
from pysft.training import alarms as watched

PPO = {
    "win_rate": 0.6,
    "win_rate_low": 0.55,
    "win_rate_high": 0.65,
    "gold": 2.5,
    "gold_before": 2.0,
    "proxy": 2.5,
    "proxy_before": 2.0,
    "kl": 1.0,
    "length": 30.0,
    "length_before": 30.0,
    "alarms": [],
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
SETTINGS = {"lr": 3e-4, "steps": 200, "beta": 0.02, "kl_limit": 20.0, "unfinished": -1.0}
LOST = {"win_rate": 0.4, "win_rate_low": 0.3}


def found(ppo=None, settings=None, **figures):
    figures = HEALTHY | {"ppo": PPO | (ppo or {})} | figures
    return findings(figures, [], SETTINGS | (settings or {}), {}, "ppo")


def alarm(name):
    return {"alarms": [{"alarm": name, "step": 120, "text": "what was seen"}]}


@pytest.mark.parametrize(
    "change, modes",
    [
        ({}, []),
        ({"ppo": alarm("reward hacking")}, ["hacks the reward"]),
        ({"ppo": LOST | {"win_rate_high": 0.499}}, ["hacks the reward"]),
        ({"ppo": LOST | {"win_rate_high": 0.499, "proxy": 2.0}}, ["loses against its parent"]),
        ({"ppo": LOST | {"win_rate_high": 0.499, "proxy": None}}, ["loses against its parent"]),
        ({"ppo": LOST | {"win_rate_high": 0.5}}, ["no better than its parent"]),
        ({"ppo": {"win_rate_low": 0.5}}, ["no better than its parent"]),
        ({"ppo": {"win_rate_low": 0.501}}, []),
        ({"ppo": {"kl": 20.0}}, []),
        ({"ppo": {"kl": 20.1}}, ["goes too far"]),
        ({"ppo": {"kl": 5.1}, "settings": {"kl_limit": 5.0}}, ["goes too far"]),
        ({"ppo": {"kl": 99.0}, "settings": {"kl_limit": 0.0}}, []),
        ({"ppo": {"kl": None}}, []),
        ({"ppo": alarm("kl")}, ["goes too far"]),
        ({"ppo": alarm("same replies")}, ["says the same"]),
        ({"ppo": alarm("entropy")}, ["no longer explores"]),
        ({"ppo": alarm("short replies")}, ["grows shorter"]),
        ({"ppo": {"length": 15.0}}, []),
        ({"ppo": {"length": 14.9}}, ["grows shorter"]),
        ({"ppo": {"length": 45.0}}, []),
        ({"ppo": {"length": 45.1}}, ["grows longer"]),
        ({"ppo": {"length_before": 0.0}}, []),
        ({"format_compliance": 0.951}, []),
        ({"format_compliance": 0.94}, ["loses the format"]),
        ({"format_compliance": 0.5, "parent": None}, []),
    ],
)
def test_each_rule_of_ppo_has_its_own_limit(change, modes):
    assert [f.mode for f in found(**change)] == modes


def test_the_rules_of_fine_tuning_hold_for_ppo_too():
    assert [f.mode for f in found(forgetting=0.5)] == ["forgets"]
    assert rules_for({"ppo": PPO}) == RULES + OF_PPO and len(RULES + OF_PPO) in NUMBERS


def test_without_a_judge_only_what_was_measured_is_judged():
    measured = {name: PPO[name] for name in ("kl", "length", "length_before", "proxy")}
    assert findings(HEALTHY | {"ppo": measured}, [], SETTINGS, {}, "ppo") == []
    assert findings(HEALTHY | {"ppo": {"kl": 99}}, [], {}, {}, "ppo")[0].mode == "goes too far"


def test_every_alarm_has_a_rule_and_every_finding_helps_with_the_settings_of_its_stage():
    rows = [
        {"reward": 0.1 * n, "gold": 3 - 0.1 * n, "kl": 30.0, "entropy": e**2, "distinct_first": e}
        | {"length": 60 * e}
        for n in range(40)
        for e in [0.9 if n < 20 else 0.1]
    ]
    raised = watched.alarms(rows, 20.0)
    assert set(raised) == {"kl", "reward hacking", "short replies", "entropy", "same replies"}
    given = [{"alarm": name, "step": 40, "text": words} for name, words in raised.items()]
    every = findings(
        HEALTHY | {"ppo": PPO | {"alarms": given}, "format_compliance": 0.1},
        [], SETTINGS, {}, "ppo-2",
    )  # fmt: skip
    assert len(every) == len(given) + 1
    for f in every:
        assert all((f.symptom, f.figure, f.cause, f.fix)) and not f.fix.endswith(".")
    assert all(any(words in f.figure for f in every) for words in raised.values())
    helps = " ".join(f.fix for f in every)
    assert "--set ppo-2.lr=..." in helps and "--set ppo-2.beta=..." in helps
    assert "pysft select RUN" in helps and "better reward model" in helps


@pytest.mark.parametrize("kind", ["dpo", "ppo"])
@pytest.mark.parametrize("before, cause", [(0.49, "the model that it was tuned"), (0.5, "too few")])
def test_a_model_whose_parent_did_not_stop_is_not_told_to_train_longer(kind, before, cause):
    figures = HEALTHY | {"stopped_unseen": 0.4, "format_compliance": before}
    figures |= {"parent": {"format_compliance": before}, kind: {"alarms": []}}
    [finding] = findings(figures, [], SETTINGS, {}, kind)
    assert finding.mode == "ignores the format" and finding.cause.startswith(cause)


# -------------------------------------------------------------------------------------- a folder


def write(folder, name, data):
    folder.mkdir(parents=True, exist_ok=True)
    rows = data if isinstance(data, list) else [data]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def logged():
    row = {"loss": 0.7, "norm": 1.0, "tokens": 9, "seconds": 0.1, "lr": 3e-4}
    rows = [row | {"step": step, "figures": {"reward": 1.0}} for step in (1, 2, 3, 4)]
    rows[2]["alarms"] = {"entropy": "it fell"}
    return rows


def test_a_folder_of_ppo_is_diagnosed_from_its_report_and_at_a_checkpoint_from_its_log(tmp_path):
    folder = tmp_path / "run" / "ppo"
    write(folder, "settings.json", {"model": {"outputs": "nll"}})
    write(folder.parent, "run.json", {"settings": {"ppo": SETTINGS}})
    write(folder, "log.jsonl", logged())
    track = [HEALTHY | {"step": step, "parent": None} for step in (2, 4)]
    write(folder, "measurements.jsonl", track)
    modes = [[m["mode"] for m in diagnose(folder, step)["findings"]] for step in (2, 4)]
    assert modes == [[], ["no longer explores"]]
    unfinished = diagnose(folder)
    assert unfinished["rules"] == 16 and not unfinished["finished"]
    assert "1 of the sixteen failure modes shows" in text(unfinished)
    write(folder, "report.json", HEALTHY | {"stage": "ppo", "ppo": PPO | alarm("kl")})
    document = diagnose(folder)
    assert [m["mode"] for m in document["findings"]] == ["goes too far"]
    assert document["figures"]["ppo"]["alarms"][0]["step"] == 120
    done = pysft("diagnose", folder.parent, "--json")
    assert done.code == 1 and done.document == document
