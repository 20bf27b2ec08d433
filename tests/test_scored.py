"""Measuring by comparisons: a reward model and a stage of DPO again, and what a model makes of a
user's rankings and pairs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from command_line import CONVERSATIONS, pysft, read_lines, refusal, succeeds

from pysft import IGNORE
from pysft.inference.score import log_probabilities
from pysft.jobs.scored import scored
from pysft.run.stage import load_stage, read_json
from pysft.text.compared import graded_examples
from pysft.text.preferences import read_rankings
from pysft.text.ranking import Ranking

PROMPTS = [user for user, *_ in CONVERSATIONS]
SHORT = ["--set", "reward.rankings=4", "reward.lr=0.01"]
DPO = ["--steps", "4", "--set", "dpo.pairs=4", "dpo.windows=[[32,2]]", "dpo.lr=0.001"]
DPO += ["dpo.warmup=1", "dpo.checkpoint_every='2'"]


def rankings(labelers=("ann", "ben")) -> list[dict]:
    """A ranking of three replies to each prompt, two of which tie, by the labelers in turn."""
    return [
        {
            "prompt": prompt,
            "replies": ["It is foul.", f"The {prompt.split()[-1]} is fair.", "It is no more."],
            "ranks": [2, 1, 2],
            "labeler": labelers[i % len(labelers)],
            "source": "user",
            "ended": [True, True, i % 3 > 0],
        }
        for i, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture(scope="module")
def ranked(trained):
    """The path of a file of rankings."""
    path = trained.folder / "rankings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rankings()))
    return path


@pytest.fixture(scope="module")
def rewarded(trained, ranked):
    """The folder of a run with a reward model."""
    out = trained.folder / "rewarded"
    succeeds("reward", trained.run, "--data", ranked, "--epochs", "2", *SHORT, "--out", out)
    return out


@pytest.fixture(scope="module")
def preferred(trained, ranked):
    """The folder of a run that was tuned by DPO, with a checkpoint before its last step."""
    out = trained.folder / "preferred"
    succeeds("dpo", trained.run, "--data", ranked, *DPO, "--out", out)
    return out


# --------------------------------------------------------------------------- measured again


@pytest.mark.parametrize("named", ["", "reward"])
def test_a_reward_model_measured_again_has_the_figures_of_its_report(rewarded, named):
    report = read_json(rewarded / "reward" / "report.json")
    document = succeeds("eval", rewarded / named, "--json").document
    assert document["reward"] == report["reward"]
    assert document["weights_sha256"] == report["weights_sha256"]
    assert document["stage"] == "reward" and document["loss"] == report["loss"]
    assert "held-out pairs in the right order" in succeeds("eval", rewarded / named).out


def test_the_stored_figures_are_measured_again_and_not_repeated(rewarded, workdir):
    """The file of held-out rankings decides."""
    import shutil

    shutil.copytree(rewarded, "copy")
    path = workdir.path / "copy" / "reward" / "heldout.jsonl"
    rows = read_lines(path)
    path.write_text("".join(json.dumps(row | {"ranks": [1, 2, 2]}) + "\n" for row in rows))
    before, after = (
        succeeds("eval", run, "--json").document["reward"] for run in (rewarded, "copy")
    )
    assert before["accuracy"] > after["accuracy"] and before["pairs"] == after["pairs"]


def test_without_its_held_out_rankings_a_reward_model_says_what_is_missing(rewarded, workdir):
    import shutil

    shutil.copytree(rewarded, "copy")
    (workdir.path / "copy" / "reward" / "heldout.jsonl").unlink()
    line = refusal(66, "eval", "copy/reward")
    assert "heldout.jsonl: missing" in line and "--data FILE" in line


def test_the_held_out_rankings_are_kept_with_who_gave_them(rewarded):
    rows = read_lines(rewarded / "reward" / "heldout.jsonl")
    known = {row["prompt"]: row for row in rankings()}
    assert len(rows) == 6
    for row in rows:
        original = known[row["prompt"][-1]["content"]]
        assert {k: row[k] for k in original if k != "prompt"} == {
            k: v for k, v in original.items() if k != "prompt"
        }


def test_a_stage_of_dpo_is_compared_with_its_parent_again(preferred):
    report = read_json(preferred / "dpo" / "report.json")
    document = succeeds("eval", preferred, "--json").document
    assert document["dpo"] == report["dpo"]
    assert document["parent"] == report["parent"] and document["sft_loss"] == report["sft_loss"]
    assert "KL from the parent" in succeeds("eval", preferred).out


def test_a_checkpoint_of_dpo_is_compared_with_the_parent_of_its_stage(preferred):
    end = read_json(preferred / "dpo" / "report.json")["dpo"]
    early = succeeds("eval", preferred / "dpo/steps/2", "--json").document["dpo"]
    assert 0 < early["kl"] < end["kl"] and early["length_before"] == end["length_before"]


def test_without_held_out_rankings_the_figures_of_dpo_stay(preferred, workdir):
    import shutil

    shutil.copytree(preferred, "copy")
    (workdir.path / "copy" / "dpo" / "heldout.jsonl").unlink()
    document = succeeds("eval", "copy", "--json").document
    assert document["dpo"] == read_json(preferred / "dpo" / "report.json")["dpo"]


def test_forgetting_is_matched_over_a_stage_of_dpo_too(preferred):
    document = succeeds("eval", preferred, "--matched", "--json").document
    assert document["matched_base_loss"] > 0 and "forgetting_matched" in document


@pytest.mark.parametrize("flags", [["--gate", "0.1"], ["--matched"]])
def test_a_reward_model_has_nothing_to_forget(rewarded, flags):
    assert "a reward model" in refusal(2, "eval", rewarded, *flags)


# ------------------------------------------------------------------------------ a user's files


def test_a_reward_model_scores_a_file_of_rankings(rewarded, ranked):
    document = succeeds("eval", rewarded, "--data", ranked, "--json").document
    found = document["comparisons_scored"]
    assert (found["by"], found["rankings"], found["prompts"]) == ("value", 60, 60)
    assert (found["pairs"], found["replies"]) == (120, 180) and found["accuracy"] > 0.9
    assert found["files"] == [str(ranked)] and len(found["by_file"]) == 1
    assert found["labeler_agreement"] is None  # nobody ranked what another did
    text = succeeds("eval", rewarded, "--data", ranked).out
    assert "scores of the reward model" in text


def test_a_model_that_talks_orders_replies_by_their_log_probability(trained, ranked):
    stage = load_stage(trained.run)
    found = scored(stage, [ranked])
    model, tokenizer = stage.model, stage.tokenizer
    right = []
    for r in read_rankings(ranked, stage.template):
        examples = graded_examples(r, tokenizer, model.config.context, stage.template)
        alone = [log_probabilities(model, [e])[0] for e in examples]
        right += [(np.sign(alone[i] - alone[j]) + 1) / 2 for i, j in r.pairs()]
    assert found["by"] == "log-probability" and found["accuracy"] == np.mean(right)
    assert "log-probability" in succeeds("eval", trained.run, "--data", ranked).out


def test_the_end_of_a_reply_that_was_cut_off_is_not_graded(trained):
    stage = load_stage(trained.run)
    end = stage.tokenizer.special[stage.template.end]
    row = {"replies": ["It is foul.", "It is fa"], "ended": [True, False]}
    ranking = Ranking([{"role": "user", "content": "Hi"}], tuple(row["replies"]), (1, 2), "f", 1)
    context = stage.model.config.context

    def graded(some):
        examples = graded_examples(some, stage.tokenizer, context, stage.template)
        return [e.labels[e.labels != IGNORE].tolist() for e in examples]

    ids = [stage.tokenizer.encode(reply).tolist() for reply in row["replies"]]
    assert graded(ranking) == [[*ids[0], end], [*ids[1], end]]  # no row says that one was cut off
    assert graded(replace(ranking, row=row)) == [[*ids[0], end], ids[1]]
    for damaged in ("yes", [False], [0, 1]):
        assert replace(ranking, row=row | {"ended": damaged}).ended == (True, True)


def test_data_leaves_no_flag_of_a_whole_run_unread(trained, ranked):
    for flag in (["--matched"], ["--gate", "0.1"], ["--best-of", "4"]):
        line = refusal(2, "eval", trained.run, "--data", ranked, *flag)
        assert f"leave {flag[0]} out" in line


def test_pairs_and_several_files_are_scored_together_and_apart(rewarded, ranked, workdir):
    rows = [{"prompt": p, "chosen": "It is foul.", "rejected": "It is no more."} for p in PROMPTS]
    workdir.write("pairs.jsonl", rows)
    document = succeeds("eval", rewarded, "--data", ranked, "pairs.jsonl", "--json").document
    found = document["comparisons_scored"]
    first, second = found["by_file"]
    assert (first["pairs"], second["pairs"]) == (120, 60) and found["pairs"] == 180
    each = first["accuracy"] * 120 + second["accuracy"] * 60
    assert found["accuracy"] == pytest.approx(each / 180)
    assert "pairs.jsonl" in succeeds("eval", rewarded, "--data", ranked, "pairs.jsonl").out


def test_the_length_baseline_is_that_of_the_better_direction(rewarded, workdir):
    rows = [{"prompt": p, "chosen": "It is.", "rejected": "It is no more."} for p in PROMPTS]
    workdir.write("short.jsonl", rows)
    document = succeeds("eval", rewarded, "--data", "short.jsonl", "--json").document
    assert document["comparisons_scored"]["length_accuracy"] == 1.0


@pytest.mark.parametrize(
    "row, says",
    [
        ({"prompt": "Hi", "replies": ["one"], "ranks": [1]}, "a ranking has two or more"),
        ({"prompt": "Hi", "chosen": "", "rejected": "one"}, "empty"),
        ({"prompt": "Hi" * 40, "chosen": "one", "rejected": "two"}, "leave the row out"),
        ({"prompt": "Hi \u4e2d", "chosen": "one", "rejected": "two"}, "line 1"),
        ("no json", "line 1"),
    ],
)
def test_a_row_that_cannot_be_scored_is_one_sentence(trained, rewarded, workdir, row, says):
    workdir.write("bad.jsonl", [row, *rankings()])
    for run in (trained.run, rewarded):
        line = refusal(65, "eval", run, "--data", "bad.jsonl")
        assert "bad.jsonl" in line and says in line
    assert workdir.is_unchanged()


def test_a_file_that_is_not_there_is_named(rewarded, workdir):
    assert "none.jsonl" in refusal(66, "eval", rewarded, "--data", "none.jsonl")


def test_a_base_scores_no_replies_and_data_stand_alone(trained, ranked):
    assert "a base model" in refusal(2, "eval", trained.run / "base", "--data", ranked)
    for flags in (["--gate", "0.1"], ["--matched"], ["--samples", "2"], ["--judge", "x.py"]):
        assert flags[0] in refusal(2, "eval", trained.run, "--data", ranked, *flags)


def test_the_exact_judge_is_asked_where_every_prompt_is_a_question_of_the_world(world_run, workdir):
    from pysft.world.ask import questions
    from pysft.world.facts import make

    run, _ = world_run
    stage = load_stage(run)
    asked = [q for q in questions(make(stage.world), "reward") if q.value][:5]
    rows = [{"prompt": q.prompt, "chosen": q.answer, "rejected": "Hm"} for q in asked]
    workdir.write("asked.jsonl", rows)
    found = scored(stage, ["asked.jsonl"])
    assert found["gold_pairs"] == 5 and found["gold_accuracy"] == found["accuracy"]
    workdir.write("other.jsonl", [*rows, {"prompt": "Hm", "chosen": "Hm", "rejected": "Ho"}])
    assert scored(stage, ["other.jsonl"])["gold_accuracy"] is None


def test_select_and_rate_name_a_stage_that_talks(rewarded):
    for verb in ("select", "rate"):
        assert "reward model" in refusal(66, verb, rewarded)
    assert pysft("diagnose", rewarded).code in (0, 1)
