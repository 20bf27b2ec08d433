"""The page of a run that was tuned by a reward: what it reached, its alarms, its curves by
iteration, and what it answers otherwise than its parent."""

import json
import shlex

import pytest
from test_report import FIGURES, HOSTILE, LOG, PAGES, cells, contents, fill, missing, readable
from test_report import __version__ as version

from pysft.cli.main import parser
from pysft.measure import figures, policy
from pysft.measure.finding import Run
from pysft.measure.otherwise import answered_otherwise, spread
from pysft.measure.policy import iterations, reached
from pysft.measure.report import report
from pysft.measure.reproduce import reproduce
from pysft.measure.run_files import REWARDED
from pysft.measure.way import way
from pysft.training.alarms import alarms
from pysft.training.presets import resolve

STEPS = 24
PPO = {
    "prompts_judged": 300,
    "win_rate": 0.4,
    "win_rate_low": 0.35,
    "win_rate_high": 0.45,
    "ties": 0.5,
    "gold": 1.5,
    "gold_before": 2.0,
    "greedy": {
        "win_rate": 0.45, "win_rate_low": 0.4, "win_rate_high": 0.5, "ties": 0.75, "gold": 2.25,
        "gold_before": 2.5,
    },
    "proxy": 0.75,
    "proxy_before": -0.25,
    "kl": 12.5,
    "length": 20.5,
    "length_before": 30.25,
    "format_compliance": 0.99,
    "distinct": 0.25,
    "iterations": STEPS,
    "kl_first": 0.0,
    "kl_last": 12.0,
    "ratio_first_exact": True,
    "alarms": [
        {"alarm": "reward hacking", "step": 20, "text": "the reward rose, but the gold points fell"}
    ],
    "prompts": 1036,
    "reward": "runs/rm/reward",
}  # fmt: skip


def iteration(n):
    found = {"reward": n / 10, "gold": 2 - n / 20, "kl": n / 2, "kl_k1": n / 2, "kl_k3": n / 2}
    found |= {"entropy": 1 / n, "length": 30.0, "distinct": 0.5, "compliance": 1.0, "ended": 1.0}
    found |= {"value_loss": 0.5, "explained": 0.25, "base": 1.5, "beta": 0.02, "clipped": 0.0}
    row = LOG[n - 1] | {"figures": found | {"kl_old": 0.0, "real_words": 1.0, "ratio_moved": 0.0}}
    return row | ({"alarms": {"reward hacking": PPO["alarms"][0]["text"]}} if n == 20 else {})


def asked(reply, verdict):
    row = {"prompt": f"What of {HOSTILE}?", "answer": "It is so.", "reply": reply, "stop": "end"}
    return row | {"verdict": verdict, "hops": 1, "new_wording": False}


def files(**changes):
    """Every file of a run of a fine-tuning and of PPO. changes: of the figures of PPO."""
    found = contents()
    settings = resolve(stages=["base", "sft", "ppo"], flags={"ppo": {"steps": STEPS}}).to_json()
    run = found["run.json"] | {"settings": json.loads(json.dumps(settings)), "verb": "train"}
    tuned = FIGURES | {"stage": "ppo", "ppo": PPO | changes, "parent": {"stage": "sft"}}
    before = found["sft/before.json"] | {"parent": "sft", "talks": True}
    return found | {
        "run.json": run | {"reward": "runs/rm"},
        "sft/world.json": [asked("It is not.", "wrong")],
        "sft/settings.json": {"parent": {"path": "base", "weights_sha256": "0"}},
        "ppo/world.json": [asked("It is so.", "right")],
        "ppo/settings.json": {"parent": {"path": "sft", "weights_sha256": "1"}},
        "ppo/report.json": tuned,
        "ppo/log.jsonl": [iteration(n) for n in range(1, STEPS + 1)],
        "ppo/measurements.jsonl": found["sft/measurements.jsonl"],
        "ppo/before.json": before,
        "ppo/samples.json": found["sft/samples.json"],
    }


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(figures, "available", lambda: False)


def of_ppo(document):
    """The lines of the sections that a run without PPO has not, or has otherwise."""
    shown, keep = [], False
    titles = ("In short", "The way", "Warnings", "What it", "What the", "Training by")
    titles += ("Measured while",)
    for line in readable(document):
        if line.startswith("## "):
            keep = line[3:].startswith(titles)
        shown += [line] if keep else []
    return shown


def shown(folder):
    run = fill(folder, files())
    parent = {"path": str(run / "sft"), "weights_sha256": "1"}
    fill(run, {"ppo/settings.json": {"parent": parent}})
    lines = of_ppo(report(run))
    lines = [line.replace(version, "VERSION").replace(HOSTILE, "HOSTILE") for line in lines]
    return "\n".join(line.replace("\n", " \u23ce ") for line in lines) + "\n"


def test_the_page_of_ppo_reads_as_it_should(tmp_path, undrawn):
    """If another page is wanted, write what is shown here into tests/pages, and read it first."""
    text = shown(tmp_path / "my run")
    assert text == (PAGES / "ppo.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [f"ppo/{name}" for name in REWARDED])
def test_a_missing_file_of_ppo_is_named(tmp_path, undrawn, name):
    run = fill(tmp_path / "run", files())
    (run / name).unlink()
    assert missing(report(run))[name] == "no such file"


def test_no_figure_of_ppo_is_left_in_raw_json_and_a_damaged_one_is_named(tmp_path, undrawn):
    run = fill(tmp_path / "run", files())
    whole = report(run)
    assert "win_rate" not in whole and set(missing(whole)) == {"matplotlib"}
    for damaged in (7, {"win_rate": "x"}, []):
        fill(run, {"ppo/report.json": files()["ppo/report.json"] | {"ppo": damaged}})
        report(run)
    fill(run, {"ppo/report.json": files(alarms=[{"step": 1}])["ppo/report.json"]})
    assert "\u201cWhat the reward changed\u201d" in report(run)


def test_the_exact_judge_a_reward_model_and_a_users_function_are_told_apart():
    def shown(**changes):
        return "\n".join(readable("<main>" + "".join(reached({"ppo": PPO | changes}))))

    assert policy.SAME.strip() in shown(reward="world")
    assert "who gave the reward | >the exact judge" in shown(reward="world")
    assert "who gave the reward | >runs/rm/reward" in shown() and policy.SAME not in shown()
    unjudged = {"win_rate": None, "greedy": None, "reward": "mine.py:score"}
    assert policy.NO_GOLD.strip() in shown(**unjudged) and "win rate" not in shown(**unjudged)
    assert reached({}) == []


def test_a_training_that_an_alarm_ended_says_so():
    def said(steps, on_alarm="stop", log=None, **changes):
        run = {"settings": {"ppo": {"steps": steps, "on_alarm": on_alarm}}}
        rows = cells("".join(reached({"ppo": PPO | changes, "stage": "ppo"}, run, log)))
        return next(row[1] for row in rows if row[0] == "iterations")

    ended = "where an alarm ended the training"
    assert said(STEPS) == "24" and said(300) == f"24 of 300, {ended}"
    assert said(300, "say") == said(300, alarms=[]) == "24"
    log = [{"step": n} for n in range(1, STEPS + 2)]  # one of them was skipped
    assert said(25, log=log) == "25 (1 skipped)"
    assert said(300, log=log) == f"25 of 300, {ended} (1 skipped)"


def test_every_alarm_says_what_it_means_and_none_is_said_to_be_none():
    rows = [
        {"reward": n, "gold": -n, "kl": 30.0, "entropy": e**2, "distinct_first": e, "length": e}
        for n in range(40)
        for e in [0.9 if n < 20 else 0.1]
    ]
    assert set(alarms(rows, 20.0)) == set(policy.MEANINGS)
    assert "There was none." in "".join(reached({"ppo": PPO | {"alarms": []}}))


def test_a_row_is_the_mean_of_up_to_so_many_iterations_if_the_last_has_fewer(undrawn):
    for n, said in (
        (12, "Each row is one iteration."),
        (24, "Each row is the mean of 2 iterations; it names the last of them."),
        (23, "Each row is the mean of up to 2 iterations; it names the last of them."),
    ):
        assert said in "".join(iterations([iteration(i) for i in range(1, n + 1)]))


def test_what_training_counts_is_an_iteration_on_the_page_of_ppo(tmp_path, monkeypatch):
    drawn = []

    def record(title, lines, x_label, *_, **__):
        drawn.append((title, x_label))
        return "<svg></svg>"

    monkeypatch.setattr(figures, "available", lambda: True)
    monkeypatch.setattr(figures, "curves", record)
    parts = policy.checkpoints(files()["ppo/measurements.jsonl"])
    assert cells("".join(parts))[0][0] == "iteration"
    assert drawn == [("Shares by iteration", "iteration"), ("Losses by iteration", "iteration")]
    assert Run({"ppo": PPO}, [], {}, {}).unit == "iteration" and Run({}, [], {}, {}).unit == "step"


def test_the_curves_of_ppo_go_by_iteration_with_a_mark_at_each_alarm(monkeypatch):
    drawn = {}

    def record(title, lines, x_label, y_label, marks=(), **_):
        drawn[title] = [line.name for line in lines], x_label, marks
        return "<svg></svg>"

    monkeypatch.setattr(figures, "available", lambda: True)
    monkeypatch.setattr(figures, "curves", record)
    rows = [iteration(n) for n in range(1, STEPS + 1)]
    shown = "".join(iterations(rows, {"ppo": PPO})).partition("<details")
    assert all(x == "iteration" and m == [(20, "reward hacking")] for _, x, m in drawn.values())
    titles = list(drawn)
    assert titles[:2] == ["Reward (proxy) by iteration", "Gold by iteration"]
    assert shown[0].count("<svg") == 6 and "A thin line marks an alarm" in shown[0]
    for figure in rows[0]["figures"]:
        assert any(figure in c[2] for c in (*policy.SHOWN, *policy.FOLDED, policy.BOTH)) or (
            figure == "ratio_moved"  # always 0, and said once
        )
    drawn.clear()
    iterations(rows, {"ppo": PPO | {"reward": "world"}})
    assert drawn["Reward and gold by iteration"][0] == ["reward", "gold"]
    drawn.clear()
    for row in rows:
        row["figures"] = {"reward": 1.0, "kl": 0.0}
    iterations(rows)
    assert "Gold by iteration" not in drawn and "The critic" not in drawn


def test_skipped_iterations_are_counted(undrawn):
    skipped = {"step": 1, "skipped": True}
    assert "All 1 iterations were skipped" in iterations([skipped])[0]
    assert "1 more were skipped" in iterations([skipped, iteration(2)])[0]


def test_what_is_answered_otherwise_is_counted_and_shown_side_by_side():
    def row(n, verdict, hops=1, new_wording=False):
        found = {"prompt": f"q{n}", "answer": "a", "reply": f"{verdict} {n}", "verdict": verdict}
        return found | {"hops": hops, "new_wording": new_wording}

    verdicts = ["wrong"] * 6 + ["right"] * 3 + ["malformed"]
    after = ["right"] * 5 + ["wrong"] + ["right", "wrong", "refused"] + ["right"]
    before = [row(n, v) for n, v in enumerate(verdicts)]
    now = [row(n, v) for n, v in enumerate(after)] + [row(99, "right")]
    for n, other in ((50, {"hops": 0}), (51, {"hops": 2}), (52, {"new_wording": True})):
        before.append(row(n, "wrong", **other))  # the share of right answers leaves these out
        now.append(row(n, "right", **other))
    document = "".join(answered_otherwise(before, now, "sft", "ppo"))
    table = cells(document)
    assert table[1:4] == [
        ["right", "1", "1", "1", "0"], ["wrong", "5", "1", "0", "0"],
        ["malformed", "1", "0", "0", "0"],
    ]  # fmt: skip
    assert "10 sealed questions" in document and "6 of them are now right" in document
    assert "2 of them are no longer right" in document and "2 more that are now right" in document
    assert ["q0\na", "wrong 0\nwrong", "right 0\nright"] in table
    assert ["q8\na", "right 8\nright", "refused 8\nrefused"] in table
    assert answered_otherwise(before, [row(99, "right")], "sft", "ppo") == []
    assert spread(list(range(9)), 3) == [0, 3, 6] and spread([], 3) == []


def test_the_way_tells_what_ppo_learned_from_and_what_it_brought():
    row = {"data": {}, "measured": {}, "seconds": 1.0, "run": {}}
    sizes = {"prompts": 16, "replies": 4}

    def last(by, run=None, above="reward", **ppo):
        ppo = {"reward": None} | ppo  # as where no report says who gave it
        settings = {"settings": {"ppo": sizes | {"reward": by}}}
        rows = [
            row | {"stage": above, "kind": above, "report": {}},
            row | {"stage": "ppo", "kind": "ppo", "report": {"ppo": PPO | ppo}}
            | {"run": settings | (run or {})},
        ]  # fmt: skip
        return cells("".join(way(rows)))[-1]

    shown = last("reward")
    assert shown[1:4] == [
        "a reward for its own replies",
        "24 iterations\n1,536 replies of its own\n1,036 prompts",
        "a reward model: reward",
    ]
    assert shown[5] == "win rate: 40.0%\ngold: 2.00 \u2192 1.50\nreward: \u22120.25 \u2192 0.75"
    assert last("reward", {"reward": "runs/rm"})[3] == "a reward model: runs/rm"
    assert last("reward", above="sft")[3] == "a reward model: unknown"
    assert last("world")[3] == "the exact judge" and last("a.py:f")[3] == "a.py:f"
    assert last("reward", reward="world")[3] == "the exact judge"  # there was no reward model
    assert last("reward", reward="runs/rm/reward")[3] == "a reward model: runs/rm/reward"
    assert last("reward", reward="a.py:f")[3] == "a.py:f"
    without = last("a.py:f", win_rate=None, gold=None)
    assert without[5] == "reward: \u22120.25 \u2192 0.75"


def test_the_command_of_a_run_of_ppo_makes_it_again():
    stages, tables = ["base", "sft", "ppo"], ("world", "base", "sft")
    settings = resolve(stages=stages, world=tables, flags={"ppo": {"beta": 0.05}})
    run = contents()["run.json"] | {"settings": json.loads(json.dumps(settings.to_json()))}
    run |= {"corpus": "world", "data": ["world"]}
    run |= {"prompts": "my prompts.txt", "reward": "runs/rm"}
    words = shlex.split(reproduce(run, True).replace("\\\n", " "))[3:]
    args = parser().parse_args(words)
    assert (args.prompts, args.reward, args.stages) == ("my prompts.txt", "runs/rm", "base,sft,ppo")
    assert args.set == ["ppo.beta=0.05"]  # and not the windows of the world, which are usual
