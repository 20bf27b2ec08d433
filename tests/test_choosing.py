"""Choosing a checkpoint by a reward model, beside what it stands for."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from command_line import CONVERSATIONS, SMALL_WORLD, pysft, refusal, succeeds

from pysft.inference.generate import Reply
from pysft.jobs import choosing, comparisons
from pysft.jobs.choosing import select_by_reward
from pysft.run.stage import load_stage, read_json
from pysft.world.ask import questions
from pysft.world.facts import make

PROMPTS = [user for user, *_ in CONVERSATIONS]
DPO = ["--steps", "4", "--set", "dpo.pairs=4", "dpo.windows=[]", "dpo.checkpoint_every='2'"]
SHORT = ["--epochs", "1", "--set", "reward.rankings=8"]


@pytest.fixture(scope="module", autouse=True)
def few():
    """Stages are measured on a few prompts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparisons, "JUDGED", 20)
        patch.setattr(choosing, "ASKED", 12)
        yield


@pytest.fixture(scope="module")
def both(trained, few):
    """The folder of a run with a reward model and a stage of DPO, outside of any world."""
    rows = [
        {
            "prompt": prompt,
            "replies": ["It is foul.", f"The {prompt.split()[-1]} is fair."],
            "ranks": [2, 1],
        }
        for prompt in PROMPTS
    ]
    path, out = trained.folder / "rankings.jsonl", trained.folder / "both"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["reward.rankings=4", "dpo.steps=4", "dpo.checkpoint_every='2'", "dpo.windows=[]"]
    flags = ["--stages", "reward,dpo", "--rankings", path, "--set", *settings]
    succeeds("train", "--base", trained.run / "sft", *flags, "--out", out)
    return out


@pytest.fixture(scope="module")
def worldly(tmp_path_factory, without_figures, few):
    """(a run of an invented world that keeps checkpoints of its fine-tuning, a reward model)."""
    folder = tmp_path_factory.mktemp("worldly")
    roomy = SMALL_WORLD.replace("context = 128", "context = 192")
    (folder / "small.toml").write_text(roomy.replace('"never"', '"2"'))
    flags = ["--data", "world", "--config", folder / "small.toml"]
    succeeds("train", *flags, "--out", folder / "run")
    asked = [q for q in questions(make(load_stage(folder / "run").world), "train") if q.value]
    rows = [{"prompt": q.prompt, "chosen": q.answer, "rejected": "Hm"} for q in asked[:40]]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--data", folder / "pairs.jsonl", *SHORT, "--out", folder / "rm"]
    succeeds("reward", folder / "run", *flags)
    return folder / "run", folder / "rm"


def test_a_run_uses_its_own_reward_model(both):
    choice = succeeds("select", both, "--by", "reward", "--json").document
    assert choice["reward_model"] == str(both / "reward") and choice["asked_of"] == "probe"
    assert [row["step"] for row in choice["rows"]] == [0, 2, 4]
    assert list(choice["criteria"]) == [
        "held-out loss", "reward score", "right answers", "person's marks",
    ]  # fmt: skip
    scored = [row for row in choice["rows"] if row["step"]]
    assert all(row["scored"] <= choice["asked"] == 12 for row in scored)
    assert all("right" not in row for row in scored)
    assert choice["criteria"]["right answers"]["step"] is None
    text = succeeds("select", both, "--by", "reward").out
    assert "fresh replies at temperature 1 to 12 prompts" in text and "believe those" in text


def test_the_same_checkpoints_get_the_same_scores(both):
    first, second = (select_by_reward(both / "dpo", None) for _ in range(2))
    assert first == second


def test_in_a_world_the_exact_judge_stands_beside_the_reward_model(worldly):
    run, rm = worldly
    choice = succeeds("select", run, "--by", "reward", "--reward", rm, "--json").document
    assert choice["asked_of"] == "world" and choice["reward_model"] == str(rm / "reward")
    for row in choice["rows"]:
        assert ("right" in row) is (row["step"] > 0)


def test_each_criterion_picks_its_own_step(worldly, monkeypatch):
    """A later checkpoint answers right, an earlier one pleases the reward model."""
    run, rm = worldly
    world = make(load_stage(run).world)
    answers = {q.prompt: q.answer for q in questions(world, "ppo")}
    asked = []

    def answer(model, tokenizer, template, prompts, sampling):
        asked.append(prompts)
        assert sampling.temperature == 1.0
        end = Reply(np.zeros(1, np.int32), "end")
        return [(answers[p] if len(asked) == 2 else "Hm", end) for p in prompts]

    def values(model, examples):
        return np.full(len(examples), float(-len(asked)))

    monkeypatch.setattr(choosing, "answer", answer)
    monkeypatch.setattr(choosing, "values", values)
    choice = select_by_reward(run / "sft", rm)
    assert asked[0] == asked[1] and len(asked) == 2
    for split in ("train", "reward", "sealed"):  # of the model, of its judge, of reports
        assert not set(asked[0]) & {q.prompt for q in questions(world, split)}
    assert choice["criteria"]["reward score"] == {"step": 2, "value": -1.0, "ties": []}
    assert choice["criteria"]["right answers"] == {"step": 4, "value": 1.0, "ties": []}
    assert choice["disagree"] is True


def test_a_checkpoint_is_asked_what_its_stage_was_not_trained_on(worldly):
    stage = load_stage(worldly[0])
    world = make(stage.world)
    renamed = {"dpo" if name == "sft" else name: some for name, some in stage.settings.items()}
    dpo = replace(stage, settings=renamed)
    for asked, split in ((stage, "ppo"), (dpo, "reward")):
        prompts, _ = choosing._questions(asked)
        assert set(prompts) <= {q.prompt for q in questions(world, split)}


def test_replies_that_say_nothing_are_counted_and_not_scored(both, monkeypatch):
    def answer(model, tokenizer, template, prompts, sampling):
        end = Reply(np.zeros(1, np.int32), "end")
        return [("  " if i % 2 else "It is fair.", end) for i in range(len(prompts))]

    monkeypatch.setattr(choosing, "answer", answer)
    rows = select_by_reward(both / "dpo", None)["rows"]
    assert {row["scored"] for row in rows if row["step"]} == {6}
    monkeypatch.setattr(
        choosing, "answer", lambda *a: [("", Reply(np.zeros(0, np.int32), "end"))] * len(a[3])
    )
    choice = select_by_reward(both / "dpo", None)
    assert choice["criteria"]["reward score"]["step"] is None


def test_a_checkpoint_whose_model_is_gone_is_not_scored(both, workdir):
    shutil.copytree(both, "copy")
    shutil.rmtree(workdir.path / "copy/dpo/steps/2")
    choice = select_by_reward(workdir.path / "copy/dpo", str(both))
    assert "reward" not in choice["rows"][1] and "reward" in choice["rows"][2]
    shutil.rmtree(workdir.path / "copy/dpo/steps")
    assert "no checkpoint" in refusal(66, "select", "copy", "--by", "reward")


def test_a_run_without_a_reward_model_asks_for_one(trained, worldly, both):
    run, rm = worldly
    assert "--reward RUN" in refusal(2, "select", run, "--by", "reward")
    assert "no reward model" in refusal(66, "select", run, "--by", "reward", "--reward", run)
    assert "--by reward" in refusal(2, "select", run, "--reward", rm)


def test_a_run_that_was_ranked_by_another_reward_model_uses_that(both, trained, workdir):
    shutil.copytree(both, "copy")
    shutil.rmtree(workdir.path / "copy/reward")
    record = read_json(workdir.path / "copy/run.json") | {"reward": str(both)}
    (workdir.path / "copy/run.json").write_text(json.dumps(record))
    choice = select_by_reward(workdir.path / "copy/dpo", None)
    assert choice["reward_model"] == str(both / "reward")


def test_without_by_reward_select_reads_no_weights(both, workdir):
    shutil.copytree(both, "copy")
    shutil.rmtree(workdir.path / "copy/dpo/steps")
    assert pysft("select", "copy").code == 0
