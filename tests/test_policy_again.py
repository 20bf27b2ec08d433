"""A stage of PPO after its training: measured again, matched, chosen from, and used like any
other."""

import json
import shutil

import numpy as np
import pytest
from command_line import SMALL_WORLD, pysft, read_lines, succeeds

from pysft.jobs import choosing, comparisons
from pysft.jobs import ppo as ppo_job
from pysft.measure.choose import BY_POLICY, select, with_iterations
from pysft.run.stage import load_stage, read_json
from pysft.training.presets import resolve
from pysft.training.stages import ppo, replay_alone
from pysft.world.ask import questions
from pysft.world.facts import make

PPO = """
[ppo]
steps = 4
prompts = 2
replies = 2
tokens = 8
windows = [[32, 1]]
world = [[32, 1]]
checkpoint_every = "2"
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory, without_figures, few_prompts):
    """(a run of base, sft and ppo by the exact judge, what train printed)."""
    folder = tmp_path_factory.mktemp("policy")
    (folder / "small.toml").write_text(SMALL_WORLD + PPO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparisons, "JUDGED", 8)
        patch.setattr(ppo_job, "JUDGED", 8)
        flags = ["--data", "world", "--config", folder / "small.toml"]
        flags += ["--set", "ppo.reward='world'"]
        done = succeeds("train", "--stages", "base,sft,ppo", *flags, "--out", folder / "run")
        yield folder / "run", done.out + done.err


def test_train_prints_what_ppo_reached(chain):
    assert "win rate at temperature 1" in chain[1]
    assert "ratios of the first updates  exactly 1" in chain[1]


def test_a_stage_of_ppo_is_compared_with_its_parent_again(chain):
    report = read_json(chain[0] / "ppo" / "report.json")
    document = succeeds("eval", chain[0], "--json").document
    assert document["ppo"] == report["ppo"]
    assert document["parent"] == report["parent"] and document["sft_loss"] == report["sft_loss"]


def test_a_checkpoint_of_ppo_has_the_figures_of_the_way_up_to_it(chain):
    end = read_json(chain[0] / "ppo" / "report.json")["ppo"]
    done = succeeds("eval", chain[0] / "ppo/steps/2", "--json")
    early = done.document["ppo"]
    assert early["iterations"] == 2 and end["iterations"] == 4
    assert early["length_before"] == end["length_before"]
    assert early["proxy_before"] == end["proxy_before"] and early["reward"] == "world"
    assert 0 < early["kl"] != end["kl"]


def test_what_cannot_be_measured_again_stays(chain, workdir):
    """Without its parent nobody can be compared with, so the stored figures are given."""
    shutil.copytree(chain[0], "copy")
    settings = read_json(workdir.path / "copy/ppo/settings.json")
    settings["parent"]["weights_sha256"] = "0" * 64
    (workdir.path / "copy/ppo/settings.json").write_text(json.dumps(settings))
    shutil.rmtree("copy/sft")
    document = succeeds("eval", "copy/ppo", "--json").document
    assert document["ppo"] == read_json(chain[0] / "ppo" / "report.json")["ppo"]


def test_forgetting_is_matched_by_the_updates_that_ppo_had(chain, workdir):
    shutil.copytree(chain[0], "copy")
    whole = succeeds("eval", "copy", "--matched", "--json").document
    assert whole["forgetting_matched"] != whole["forgetting"]
    log = workdir.path / "copy/ppo/log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in read_lines(log)[:2]))
    stopped = succeeds("eval", "copy", "--matched", "--json").document  # as if by an alarm
    early = succeeds("eval", "copy/ppo/steps/2", "--matched", "--json").document
    assert stopped["matched_base_loss"] == early["matched_base_loss"] != whole["matched_base_loss"]


def test_the_replay_alone_has_the_windows_and_the_rates_of_ppos_updates():
    table = {"steps": 6, "epochs": 3, "warmup": 2, "windows": ((16, 2),), "micro_batches": 1}
    settings = resolve(stages=["base", "sft", "ppo"], flags={"ppo": table})
    corpus = np.arange(400, dtype=np.int32) % 60
    plan, _ = ppo(settings, "ppo", [4] * 20, corpus, settings.model.context)
    alone = replay_alone(settings, "ppo", corpus, 60)
    assert alone.steps == 6 * 3
    for update in range(alone.steps):
        beside, [replayed] = plan.draw(update), alone.draw(update)
        assert np.array_equal(np.concatenate([e.input_ids for e in beside]), replayed.tokens)
        assert alone.rate(update) == plan.rate(update // 3)
    assert alone.rate(0) == alone.rate(2) < alone.rate(3)  # an iteration has three updates
    assert replay_alone(settings, "ppo", corpus, 60, steps=2).steps == 2 * 3
    assert replay_alone(settings, "ppo", corpus, 60, steps=99).steps == 6 * 3
    unread = resolve(stages=["base", "sft", "ppo"], flags={"ppo": table | {"ptx": 0.0}})
    assert replay_alone(unread, "ppo", corpus, 60).steps == 0


# -------------------------------------------------------------------------------------- choosing


def test_a_checkpoint_has_the_means_of_the_ten_iterations_before_it():
    log = [{"step": n, "figures": {"reward": float(n)}} for n in range(1, 31)]
    for row in log[:20]:
        row["figures"]["gold"] = -float(row["step"])
    rows = with_iterations([{"step": n} for n in (0, 5, 20, 30)], log)
    assert [row["reward"] for row in rows] == [None, 3.0, 15.5, 25.5]
    assert [row["gold"] for row in rows] == [None, -3.0, -15.5, None]
    choice = select(rows, compared=BY_POLICY)
    assert choice["criteria"]["reward"]["step"] == 30
    assert choice["criteria"]["gold points"]["step"] == 5
    assert choice["agree"][0]["criteria"] == ["gold points"]  # the reward does not count


def test_select_shows_the_gold_points_of_ppo(chain):
    choice = succeeds("select", chain[0], "--json").document
    assert [*choice["criteria"]] == [*BY_POLICY]
    assert choice["rows"][-1]["gold"] is not None and choice["rows"][0]["gold"] is None
    assert "gold points" in succeeds("select", chain[0]).out


def test_a_checkpoint_of_ppo_is_asked_what_it_was_not_trained_on(chain):
    stage = load_stage(chain[0])
    prompts, _ = choosing._questions(stage)
    assert set(prompts) <= {q.prompt for q in questions(make(stage.world), "reward")}


# ----------------------------------------------------------------------------------- other verbs


def test_the_other_verbs_take_a_run_of_ppo(chain, workdir):
    run = chain[0]
    assert "ppo" in succeeds("info", run).out
    assert succeeds("chat", run, "-p", "Hi").code == 0
    assert succeeds("generate", run, "-p", "Hi").code == 0
    assert "What the reward changed" in (run / "report.html").read_text()
    assert pysft("diagnose", run).code in (0, 1)
    assert "sixteen failure modes" in pysft("diagnose", run).out
