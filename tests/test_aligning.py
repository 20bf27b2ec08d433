"""Stages that learn from comparisons: a reward model and DPO, from files to a finished run."""

import math

import numpy as np
import pytest
from command_line import (
    CONVERSATIONS,
    files_in,
    interrupted_after,
    interrupted_at_once,
    lines,
    pysft,
    read_lines,
    refusal,
    stage_log,
    succeeds,
)

from pysft.batch import Batch
from pysft.inference.score import scores, values
from pysft.measure.alignment import gain_figures
from pysft.measure.probe import stored_probe
from pysft.run.stage import find_stage, load_stage, reward_model
from pysft.text.conversation import Conversation
from pysft.text.examples import encode_conversation
from pysft.text.preferences import read_rankings

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

PROMPTS = [user for user, *_ in CONVERSATIONS]
SHORT = ["--set", "reward.rankings=4", "reward.lr=0.01"]
DPO = ["--steps", "3", "--set", "dpo.pairs=4", "dpo.windows=[[32,2]]", "dpo.lr=0.001"]
DPO += ["dpo.warmup=1", "dpo.checkpoint_every='never'"]


def rankings() -> list[dict]:
    """A ranking of three replies to each prompt, two of which tie, by two labelers in turn."""
    return [
        {
            "prompt": prompt,
            "replies": ["It is foul.", f"The {prompt.split()[-1]} is fair.", "It is no more."],
            "ranks": [2, 1, 2],
            "labeler": ("ann", "ben")[i % 2],
        }
        for i, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture(scope="module")
def ranked(trained):
    """The path of a file of rankings."""
    path = trained.folder / "rankings.jsonl"
    path.write_text(lines(rankings()))
    return path


@pytest.fixture(scope="module")
def rewarded(trained, ranked):
    """A run with a reward model: (its folder, its --json document)."""
    out = trained.folder / "rewarded"
    command = ["reward", trained.run, "--data", ranked, "--epochs", "4", *SHORT]
    return out, succeeds(*command, "--out", out, "--json").document


@pytest.fixture(scope="module")
def preferred(trained, ranked):
    """A run tuned by DPO: (its folder, its --json document)."""
    out = trained.folder / "preferred"
    command = ["dpo", trained.run, "--data", ranked, *DPO]
    return out, succeeds(*command, "--out", out, "--json").document


# --------------------------------------------------------------------------------- the reward model


def test_a_reward_model_learns_the_order_of_rankings_of_prompts_that_it_never_saw(rewarded):
    out, report = rewarded
    reward = report["reward"]
    assert reward["accuracy"] == 1 and 0.4 < reward["accuracy_low"] < 0.6  # of six prompts
    assert reward["pairs"] == 2 * 6  # a tenth of 60 prompts, two pairs each
    assert reward["comparisons"] == 2 * 54 and reward["rankings"] == 54
    assert reward["gold_accuracy"] is None  # nobody knows what is true
    assert report["weights_sha256"]


def test_demonstrations_have_the_mean_score_0_and_ranked_replies_the_spread_1(rewarded, trained):
    stage = load_stage(reward_model(rewarded[0]))
    probe = stored_probe(trained.run / "sft", stage.template)
    turns = [p if isinstance(p, list) else [{"role": "user", "content": p}] for p, _ in probe.pairs]
    assert abs(scores(stage, turns, [reply for _, reply in probe.pairs]).mean()) < 1e-4
    known = rankings()
    prompts = [[{"role": "user", "content": r["prompt"]}] for r in known for _ in r["replies"]]
    every = scores(stage, prompts, [reply for r in known for reply in r["replies"]])
    assert abs(every.std() - 1) < 0.1  # 54 of 60 rankings are those of training


def test_a_value_is_read_in_the_row_of_the_token_that_ends_the_reply(rewarded):
    stage = load_stage(reward_model(rewarded[0]))
    prompt = [{"role": "user", "content": "Praise the king"}]
    [score] = scores(stage, [prompt], ["It is fair."])
    ids = stage.tokenizer.encode
    special = stage.tokenizer.special
    tokens = [special["<|user|>"], *ids("Praise the king"), special["<|end|>"]]
    tokens += [special["<|assistant|>"], *ids("It is fair."), special["<|end|>"]]
    from pysft.batch import Example

    n = len(tokens)
    [by_hand] = values(
        stage.model,
        [
            Example(
                np.array(tokens, np.int32), np.full(n, -100, np.int32), wanted=np.arange(n) == n - 1
            )
        ],
    )
    assert score == by_hand


def test_scores_do_not_depend_on_what_is_scored_beside(rewarded):
    stage = load_stage(reward_model(rewarded[0]))
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    replies = [f"The {p.split()[-1]} is fair." for p in PROMPTS]
    together = scores(stage, prompts, replies)
    alone = [scores(stage, [p], [r])[0] for p, r in zip(prompts, replies)]
    assert together.tolist() == alone


@pytest.mark.parametrize("ties, start", [("none", 2), ("half", 2), ("davidson", 3)])
def test_ties_are_an_option(trained, ranked, workdir, ties, start):
    """Where all scores are alike, two orders are as likely, and with Davidson's model a tie too."""
    command = ["reward", trained.run, "--data", ranked, "--ties", ties, *SHORT, "--out", "r"]
    report = succeeds(*command, "--json").document
    assert report["loss_start"] == pytest.approx(math.log(start), abs=0.05)


def test_the_gate_ends_with_1_where_the_length_alone_is_as_good(trained, workdir):
    rows = [
        {"prompt": p, "chosen": f"The {p.split()[-1]} is fair and good.", "rejected": "It is."}
        for p in PROMPTS
    ]
    workdir.write("pairs.jsonl", rows)
    done = pysft("reward", trained.run, "--data", "pairs.jsonl", *SHORT, "--gate", "--out", "r")
    assert done.code == 1 and "good enough: no" in done.out


# ---------------------------------------------------------------------------------------------- dpo


def test_dpo_starts_at_ln_2_with_a_margin_of_exactly_0(trained, ranked, workdir):
    short = [word for word in DPO if "windows" not in word]
    command = ["dpo", trained.run, "--data", ranked, *short, "dpo.windows=[]", "--nll", "0"]
    succeeds(*command, "--out", "d", "--json")
    first = stage_log(workdir.path / "d" / "dpo")[0]
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-12)
    assert first["figures"]["margin"] == 0 and first["figures"]["accuracy"] == 0.5


def test_a_run_means_its_newest_stage_that_talks(trained, ranked, workdir):
    stages = ["--stages", "reward,dpo", "--rankings", ranked, *SHORT, *DPO[2:], "dpo.steps=2"]
    flags = [word for word in stages if word != "--set"]
    at = flags.index("reward.rankings=4")
    command = ["train", "--base", trained.run / "sft", *flags[:at], "--set", *flags[at:]]
    report = succeeds(*command, "--out", "both", "--json").document
    assert find_stage("both").name == "dpo" == report["stage"]
    assert reward_model("both").name == "reward"
    assert find_stage(workdir.path / "both" / "reward").name == "reward"


def test_dpo_measures_its_replies_and_what_it_forgot(preferred, trained):
    folder, report = preferred
    dpo = report["dpo"]
    assert dpo["prompts_judged"] == 6 and "win_rate" not in dpo
    tuned, before = load_stage(folder), load_stage(trained.run / "sft")
    heldout = read_rankings(folder / "dpo" / "heldout.jsonl", tuned.template)
    context = tuned.model.config.context

    def gain(ranking, reply):  # of its tokens and its end, by SFT's own example
        turns = [*ranking.prompt, {"role": "assistant", "content": reply}]
        example = encode_conversation(Conversation(turns, "here", 1), tuned.tokenizer, context)
        batch = Batch.of([example], tuned.model.config.vocab, context)
        first, after = (s.model.forward(batch).nll[batch.graded].sum() for s in (before, tuned))
        return first - after

    by_hand = [np.array([gain(r, reply) for reply in r.replies]) for r in heldout]
    figures = gain_figures(heldout, by_hand)
    for name in ("accuracy", "chosen_logp", "rejected_logp"):
        assert dpo[name] == pytest.approx(figures[name], rel=1e-4), name
    assert dpo["chosen_logp"] > dpo["rejected_logp"]
    assert dpo["kl"] >= 0 and 0 <= dpo["format_compliance"] <= 1
    assert report["forgetting"] is not None and report["parent"]["stage"] == "sft"


def test_the_page_of_a_run_shows_what_dpo_changed(preferred):
    folder, report = preferred
    page, dpo = (folder / "report.html").read_text(), report["dpo"]
    share = f"{dpo['accuracy']:.1%} ({dpo['accuracy_low']:.1%} to {dpo['accuracy_high']:.1%})"
    gained = f"{dpo['chosen_logp']:+.2f}, {dpo['rejected_logp']:+.2f}"
    for what, value in (
        ("held-out pairs whose better reply gained more", share),
        ("nats gained by the better and by the worse reply", gained),
        ("KL from its parent", f"{dpo['kl']:.2f} nats a reply"),
    ):
        row = next(line for line in page.split("<tr>") if what in line)
        assert value.replace(".0%", "%") in row.replace(".0%", "%"), (what, value, row)


def test_the_reference_stays_where_it_was_and_the_policy_moves(preferred, trained):
    before, after = load_stage(trained.run / "sft"), load_stage(preferred[0])
    assert after.parent["weights_sha256"] == trained.report["weights_sha256"]
    assert (before.model.params.flat != after.model.params.flat).any()


# ------------------------------------------------------------------------------ exact and resumable


@pytest.mark.parametrize("verb", ["reward", "dpo"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_stage_that_was_interrupted_ends_in_the_same_bytes(
    trained, ranked, rewarded, preferred, workdir, verb, steps
):
    whole = {"reward": rewarded, "dpo": preferred}[verb][0]
    flags = {"reward": ["--epochs", "4", *SHORT], "dpo": DPO}[verb]
    with interrupted_after(steps):
        assert pysft(verb, trained.run, "--data", ranked, *flags, "--out", "run").code == 130
    succeeds(verb, "--resume", "--out", "run")
    weights = f"{verb}/model.safetensors"
    assert files_in("run")[weights] == files_in(whole)[weights]
    assert stage_log(workdir.path / "run" / verb) == stage_log(whole / verb)


@pytest.mark.parametrize("verb", ["reward", "dpo"])
def test_the_number_of_threads_changes_no_bit(trained, ranked, rewarded, preferred, workdir, verb):
    whole = {"reward": rewarded, "dpo": preferred}[verb][0]
    flags = {"reward": ["--epochs", "4", *SHORT], "dpo": DPO}[verb]
    succeeds(verb, trained.run, "--data", ranked, *flags, "--threads", "3", "--out", "run")
    weights = f"{verb}/model.safetensors"
    assert files_in("run")[weights] == files_in(whole)[weights]


def test_the_reference_ops_train_the_same_reward_model(trained, ranked, rewarded, workdir):
    command = ["reward", trained.run, "--data", ranked, "--epochs", "4", *SHORT]
    succeeds(*command, "--ops", "reference", "--out", "run")
    first, other = (stage_log(out / "reward")[0] for out in (rewarded[0], workdir.path / "run"))
    assert other["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert other["norm"] == pytest.approx(first["norm"], rel=1e-4)


def test_a_changed_file_of_rankings_is_refused_on_resume(trained, ranked, workdir):
    path = workdir.write("mine.jsonl", ranked.read_text())
    flags = ["reward", trained.run, "--data", path, *SHORT, "--out", "run"]
    with interrupted_at_once():
        assert pysft(*flags).code == 130
    path.write_text(lines(rankings()[1:]))
    assert "mine.jsonl: changed since" in refusal(65, "reward", "--resume", "--out", "run")


# ------------------------------------------------------------------------------------- in the world


def test_comparisons_are_made_in_the_world_and_stay_in_their_splits(
    world_run, workdir, monkeypatch
):
    from pysft.jobs import comparisons
    from pysft.world.ask import questions
    from pysft.world.facts import make

    run, _ = world_run
    stage = load_stage(run)
    world = make(stage.world)
    asked, splits = [], ("train", "reward", "sealed")
    known = {q.prompt: q for name in splits for q in questions(world, name)}

    def written(stage, prompts, k, seed, progress):
        texts = [messages[-1]["content"] for messages in prompts]
        asked.append(texts)
        return [[(known[p].answer, True), ("Who can say?", True), ("x", False)] for p in texts]

    monkeypatch.setattr(comparisons, "sample_replies", written)
    flags = ["--by", "world", "--rounds", "1", "--replies", "3", "--epochs", "1", "--out", "r"]
    report = succeeds("reward", run, *flags, "--json").document
    made, held_out = ({known[prompt].split for prompt in some} for some in asked)
    assert made == {"train", "reward"} and held_out == {"sealed"}
    rows = read_lines("r/reward/rankings.jsonl")
    assert all(row["ranks"] in ([1, 2, 3], [1, 1, 3]) for row in rows)  # a refusal may be right
    assert report["reward"]["gold_pairs"] > 0


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "row, says",
    [
        ({"prompt": "Hi", "replies": ["one"], "ranks": [1]}, "a ranking has two or more"),
        ({"prompt": "Hi", "replies": ["one", "two"], "ranks": [1]}, "1 rank for 2 replies"),
        ({"prompt": "Hi", "chosen": "one", "rejected": "one"}, "the same text as chosen"),
        ({"prompt": "Hi", "chosen": "", "rejected": "one"}, "empty"),
        ({"prompt": "Hi" * 40, "chosen": "one", "rejected": "two"}, "the context holds 64"),
    ],
)
def test_a_row_that_teaches_nothing_is_named(trained, workdir, row, says):
    workdir.write("bad.jsonl", [row, *rankings()])
    for verb in ("reward", "dpo"):
        line = refusal(65, verb, trained.run, "--data", "bad.jsonl", "--out", "r")
        assert "bad.jsonl, line 1" in line and says in line
    assert workdir.is_unchanged()


def test_rankings_that_all_tie_are_refused(trained, workdir):
    workdir.write("ties.jsonl", [{**row, "ranks": [1, 1, 1]} for row in rankings()])
    assert "no ranking in it" in refusal(65, "dpo", trained.run, "--data", "ties.jsonl")
    assert workdir.is_unchanged()


def test_a_run_without_a_world_needs_a_file(trained, workdir):
    assert "--rankings" in refusal(2, "reward", trained.run, "--out", "r")
    assert workdir.is_unchanged()


def test_a_reward_model_is_not_talked_to_nor_begun_from(rewarded, world_run, ranked, workdir):
    stage = rewarded[0] / "reward"
    for command in (("chat", stage, "-p", "Hi"), ("dpo", stage, "--data", ranked)):
        line = refusal(2, *command)
        assert "reward model" in line or "outputs" in line
    assert "no reward model in it" in refusal(66, "dpo", world_run[0], "--reward", world_run[0])


def test_flags_that_contradict_each_other_are_refused(trained, ranked, workdir):
    for flags in (["--data", ranked, "--by", "world"], ["--by", "world", "--reward", trained.run]):
        assert "leave one of the two out" in refusal(2, "dpo", trained.run, *flags)
    assert "--reward" in refusal(2, "dpo", trained.run, "--by", "reward")
    assert workdir.is_unchanged()
