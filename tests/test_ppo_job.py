"""PPO as a stage of a run, from the command line to a finished run."""

import json

import numpy as np
import pytest
from command_line import (
    CONVERSATIONS,
    files_in,
    interrupted_after,
    interrupted_at_once,
    pysft,
    read_lines,
    refusal,
    stage_log,
    succeeds,
)

from pysft.run.stage import load_stage

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

PROMPTS = [user for user, *_ in CONVERSATIONS]
SHORT = ["--steps", "3", "--set", "ppo.prompts=4", "ppo.replies=2", "ppo.tokens=12"]
SHORT += ["ppo.windows=[[32,2]]", "ppo.warmup=1", "ppo.checkpoint_every='never'"]
SCORES = '''import json

def vowels(prompt, replies):
    """Prefers replies with many vowels."""
    return [sum(c in "aeiou" for c in reply) / 10 for reply in replies]


def noted(prompt, replies):
    with open("asked.jsonl", "a") as file:
        print(json.dumps([prompt, replies]), file=file)
    return [0.0] * len(replies)


def broken(prompt, replies):
    numbers = {}
    return [numbers[reply] for reply in replies]


def not_a_number(prompt, replies):
    return [0.5] * (len(replies) - 1) + [float("nan")]


def too_few(prompt, replies):
    return [1.0] * (len(replies) - 1)
'''


@pytest.fixture(scope="module")
def told(trained):
    """The files of a training: (prompts, a Python file of rewards)."""
    prompts, scores = trained.folder / "prompts.txt", trained.folder / "scores.py"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    scores.write_text(SCORES)
    return prompts, scores


def command(trained, told, *more, function="vowels"):
    prompts, scores = told
    return ["ppo", trained.run, "--prompts", prompts, "--reward", f"{scores}:{function}", *more]


@pytest.fixture(scope="module")
def tuned(trained, told):
    """A run tuned by PPO: (its folder, its --json document)."""
    out = trained.folder / "ppo"
    return out, succeeds(*command(trained, told, *SHORT), "--out", out, "--json").document


# --------------------------------------------------------------------------------- what it reports


def test_the_first_ratios_are_exactly_1_and_the_first_kl_is_exactly_0(tuned):
    ppo = tuned[1]["ppo"]
    assert ppo["ratio_first_exact"] is True and ppo["kl_first"] == 0
    assert ppo["iterations"] == 3 and ppo["kl_last"] > 0


def test_a_stage_reports_its_reward_before_and_after_on_prompts_that_it_never_asked(tuned, told):
    out, report = tuned
    ppo = report["ppo"]
    assert report["stage"] == "ppo" and ppo["reward"] == "scores.py:vowels"
    assert ppo["prompts"] == 55 and ppo["prompts_judged"] == 5  # about one in ten is held out
    assert -1 <= ppo["proxy_before"] <= 3 and -1 <= ppo["proxy"] <= 3
    assert "gold" not in ppo and "win_rate" not in ppo  # nobody knows what is true
    assert ppo["kl"] > 0 and 0 <= ppo["format_compliance"] <= 1
    assert ppo["alarms"] == []
    rows = stage_log(out / "ppo")
    assert [row["step"] for row in rows] == [1, 2, 3]
    names = {"reward", "kl", "kl_k1", "kl_k3", "entropy", "length", "ended", "distinct"}
    names |= {"compliance", "value_loss", "explained", "beta", "clipped", "base", "ratio_moved"}
    assert names <= rows[0]["figures"].keys()


def test_the_policy_moves_and_its_parent_stays(tuned, trained):
    before, after = load_stage(trained.run / "sft"), load_stage(tuned[0])
    assert after.name == "ppo"
    assert after.parent["weights_sha256"] == trained.report["weights_sha256"]
    assert (before.model.params.flat != after.model.params.flat).any()


def test_a_function_is_called_with_the_messages_and_the_replies_of_a_prompt(trained, told, workdir):
    flags = command(trained, told, *SHORT, function="noted")
    succeeds(*flags, "--out", "run")
    asked = read_lines("asked.jsonl")
    assert asked and all([m["role"] for m in prompt] == ["user"] for prompt, _ in asked)
    assert {prompt[0]["content"] for prompt, _ in asked} <= {*PROMPTS}
    assert {type(reply) for _, replies in asked for reply in replies} == {str}
    assert all(1 <= len(replies) <= 4 for _, replies in asked)  # two in training, four when judged


def test_a_reward_model_scores_what_it_was_trained_to_score(trained, told, workdir):
    """Its reward is its score, and the critic begins from it."""
    rows = [
        {"prompt": p, "chosen": f"The {p.split()[-1]} is fair.", "rejected": "It is foul."}
        for p in PROMPTS
    ]
    workdir.write("pairs.jsonl", rows)
    scorer = ["reward", trained.run, "--data", "pairs.jsonl", "--set", "reward.rankings=4"]
    succeeds(*scorer, "--out", "scorer")
    flags = ["ppo", trained.run, "--prompts", told[0], "--reward", "scorer", *SHORT]
    done = succeeds(*flags, "--out", "run", "--json")
    report = done.document
    assert report["ppo"]["reward"].endswith("scorer/reward")
    assert "beta = 0.02 is low for a learned reward" in done.err
    record = json.loads((workdir.path / "run/run.json").read_text())
    assert record["reward"].endswith("scorer/reward") and record["verb"] == "ppo"
    # in one run
    stages = ["train", "--base", trained.run / "sft", "--stages", "reward,ppo", "--out", "both"]
    stages += ["--rankings", "pairs.jsonl", "--prompts", told[0], *SHORT[2:], "reward.rankings=4"]
    done = succeeds(*stages, "ppo.steps=2", "ppo.beta=0.1", "--json")
    report = done.document
    assert report["stage"] == "ppo" and report["ppo"]["reward"] == "both/reward"
    assert "is low for" not in done.err


# ------------------------------------------------------------------------------ exact and resumable


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_stage_that_was_interrupted_ends_in_the_same_bytes(trained, told, tuned, workdir, steps):
    with interrupted_after(steps, updates=4):  # two epochs of the policy and of the critic
        assert pysft(*command(trained, told, *SHORT), "--out", "run").code == 130
    succeeds("ppo", "--resume", "--out", "run")
    weights = "ppo/model.safetensors"
    assert files_in("run")[weights] == files_in(tuned[0])[weights]
    assert stage_log(workdir.path / "run/ppo") == stage_log(tuned[0] / "ppo")


def test_the_number_of_threads_changes_no_bit(trained, told, tuned, workdir):
    succeeds(*command(trained, told, *SHORT), "--threads", "3", "--out", "run")
    weights = "ppo/model.safetensors"
    assert files_in("run")[weights] == files_in(tuned[0])[weights]


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_has_changed_is_refused_on_resume(trained, told, workdir, which):
    mine = [workdir.write(path.name, path.read_text()) for path in told]
    with interrupted_at_once():
        assert pysft(*command(trained, mine, *SHORT), "--out", "run").code == 130
    mine[which].write_text(mine[which].read_text() + "\n# more\n")
    assert f"{mine[which].name}: changed since" in refusal(65, "ppo", "--resume", "--out", "run")


# ------------------------------------------------------------------------------------- in the world


def test_in_a_world_the_exact_judge_rewards_and_sealed_questions_judge(world_run, workdir):
    run, _ = world_run
    flags = ["ppo", run, *SHORT[:-1], "--out", "run", "--json"]
    report = succeeds(*flags).document
    ppo = report["ppo"]
    assert ppo["reward"] == "world"
    assert ppo["win_rate_low"] <= ppo["win_rate"] <= ppo["win_rate_high"]
    assert 0 <= ppo["gold_before"] <= 3 and 0 <= ppo["gold"] <= 3
    figures = stage_log(workdir.path / "run/ppo")[0]["figures"]
    assert 0 <= figures["gold"] <= 3  # the reward, without the penalty of replies that did not end


@pytest.fixture
def answering(world_run, monkeypatch):
    """The replies that are compared are the right answer and two others."""
    from pysft.jobs import comparisons
    from pysft.world.ask import questions
    from pysft.world.facts import SPLITS, make

    world = make(load_stage(world_run[0]).world)
    known = {q.prompt: q.answer for split in SPLITS for q in questions(world, split)}

    def written(stage, prompts, k, seed, progress):
        texts = [messages[-1]["content"] for messages in prompts]
        return [[(known[p], True), ("Who can say?", True), ("x", False)] for p in texts]

    monkeypatch.setattr(comparisons, "sample_replies", written)


@pytest.mark.parametrize("order, scorer", [("reward,ppo", "run/reward"), ("ppo,dpo", "world")])
def test_a_chain_of_stages_is_one_command(world_run, answering, workdir, order, scorer):
    """InstructGPT's order, and a newer one in which DPO comes last."""
    flags = [*SHORT[2:], "ppo.steps=2", "reward.rounds=1", "reward.epochs=1", "dpo.rounds=1"]
    flags += ["dpo.steps=2", "dpo.pairs=2", "dpo.by='world'", "dpo.windows=[[32,1]]"]
    flags += ["dpo.checkpoint_every='never'", "dpo.warmup=1"]
    kinds = order.split(",")
    flags = [flags[0], *[f for f in flags[1:] if f.partition(".")[0] in kinds]]
    chain = ["train", "--base", world_run[0] / "sft", "--stages", order, "--out", "run"]
    report = succeeds(*chain, *flags, "--json").document
    assert report["stage"] == kinds[-1]
    tuned = json.loads((workdir.path / "run/ppo/report.json").read_text())
    assert tuned["ppo"]["reward"] == scorer
    assert "gold" in stage_log(workdir.path / "run/ppo")[0]["figures"]
    if kinds[-1] == "dpo":
        dpo = load_stage(workdir.path / "run/dpo")
        assert dpo.parent["weights_sha256"] == tuned["weights_sha256"]


def test_the_questions_of_a_training_are_not_sealed(world_run):
    from pysft.jobs.ppo import prompts_of
    from pysft.world.ask import questions
    from pysft.world.facts import make

    stage = load_stage(world_run[0])
    sealed = {q.prompt for q in questions(make(stage.world), "sealed")}
    prompts = prompts_of(stage, None, 1, "ppo", False, "")
    asked, judged = (
        {messages[-1]["content"] for messages in some} for some in (prompts.trained, prompts.judged)
    )
    assert asked and judged <= sealed and not asked & sealed


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "function, says",
    [
        ("broken", "raised KeyError in line 16 of scores.py"),
        ("not_a_number", "returned nan for the reply"),
        ("too_few", "a finite number for each of the"),
    ],
)
def test_a_reward_that_fails_names_the_prompt_and_what_is_wrong(
    trained, told, workdir, function, says
):
    flags = command(trained, told, *SHORT, function=function)
    failed = pysft(*flags, "--out", "run")
    said = failed.err
    assert failed.code == 65 and said.count("\n") == 1
    assert says in said and "scores.py:" + function in said and "(" in said
    assert not (workdir.path / "run/ppo/model.safetensors").exists()


@pytest.mark.parametrize(
    "flags, code, says",
    [
        (["--beta", "-1"], 2, "beta = -1.0 must be a number from 0"),
        (["--set", "ppo.top_p=0.9"], 2, "temperature 1 without cuts"),
        (["--set", "ppo.temperature=0.7"], 2, "temperature 1 without cuts"),
        (["--kl-target", "6", "--beta", "0"], 2, "beta = 0.0"),
        (["--baseline", "group", "--set", "ppo.replies=1"], 2, "at least 2"),
        (["--tools"], 2, "has not learned to call a tool"),
        (["--set", "ppo.ratio_clip=1"], 2, "below 1"),
        (["--set", "ppo.epochs=0"], 2, "epochs = 0"),
        (["--set", "ppo.gamma=1.5"], 2, "gamma = 1.5"),
        (["--set", "ppo.clipping='hard'"], 2, "is not one of ppo, cispo, none"),
        (["--set", "ppo.unfinished=-1e9"], 2, "from minus a million"),
    ],
)
def test_a_setting_that_ppo_cannot_have_is_refused(trained, told, workdir, flags, code, says):
    assert says in refusal(code, *command(trained, told), *flags, "--out", "run")
    assert not (workdir.path / "run").exists()


def test_prompts_that_do_not_fit_are_refused_or_left_out(trained, told, workdir):
    long, strange = "Speak of " + "the sea " * 20, "漢字"
    flags = ["ppo", trained.run, "--reward", f"{told[1]}:vowels", *SHORT, "--out", "run"]
    workdir.write("bad.txt", f"{long}\n{strange}\n")
    assert "no prompt of it can be" in refusal(65, *flags, "--prompts", "bad.txt")
    workdir.write("some.txt", "\n".join([*PROMPTS, long, strange]))
    flags[-1] = "other"
    done = succeeds(*flags, "--prompts", "some.txt")
    assert "left out: 2 prompts that the model cannot read" in done.out


def test_nobody_who_could_reward_is_said_before_anything_is_trained(trained, told, workdir):
    asks = ["ppo", trained.run, "--prompts", told[0], "--out", "run"]
    assert "no reward model is there" in refusal(2, *asks)
    assert "no judge knows what is true" in refusal(2, *asks, "--reward", "world")
    assert "no reward model in it" in refusal(66, *asks, "--reward", trained.run)
    assert "no such file" in refusal(66, *asks, "--reward", "gone.py:score")
    assert "no function gone" in refusal(65, *asks, "--reward", f"{told[1]}:gone")
    alone = ["ppo", trained.run, "--reward", f"{told[1]}:vowels", "--out", "run"]
    assert "asks prompts, and none are named" in refusal(2, *alone)
    assert "name the run to begin from" in refusal(2, "ppo")
    assert "a base model, which cannot answer" in refusal(2, "ppo", trained.run / "base")
    assert not (workdir.path / "run").exists()


def test_a_reward_model_of_other_words_is_refused(trained, told, workdir):
    rows = [{"prompt": p, "chosen": "It is.", "rejected": "No."} for p in PROMPTS]
    workdir.write("pairs.jsonl", rows)
    scorer = ["reward", trained.run, "--data", "pairs.jsonl", "--epochs", "1", "--out", "scorer"]
    succeeds(*scorer, "--set", "reward.rankings=4")
    path = workdir.path / "scorer/reward/vocabulary.json"
    known = json.loads(path.read_text())
    known["specials"].reverse()
    path.write_text(json.dumps(known))
    asks = ["ppo", trained.run, "--prompts", told[0], "--reward", "scorer", "--out", "run"]
    assert "has another vocabulary than" in refusal(2, *asks)


def test_scores_of_replies_that_did_not_end_are_the_penalty(trained, told):
    """Cut off, empty or with a control token: the reward is not asked about them, and they never
    score better than what it is asked about."""
    from pysft.inference.generate import Reply
    from pysft.jobs.ppo import Scorer
    from pysft.measure.rewards import Reward

    asked = []

    def score(prompts, replies, ended):
        asked.extend(replies)
        return np.array([value] * len(replies))

    stage = load_stage(trained.run)
    scorer = Scorer(stage, Reward("mine", score), -3.0, None, frozenset(), False)
    texts, stops = ["Well.", "Cut", "Call", " "], ("end", "length", "tool", "end")
    replies = [Reply(stage.tokenizer.encode(t), stop) for t, stop in zip(texts, stops)]
    prompts = [[{"role": "user", "content": "Hi"}]] * 4
    for value, lowest in ((2.0, -3.0), (-2.5, -3.5), (-40.0, -41.0)):
        assert scorer.score(prompts, replies).tolist() == [value, lowest, lowest, lowest]
        assert scorer.score(prompts[1:], replies[1:]).tolist() == [-3.0] * 3  # nobody ended
    assert asked == ["Well."] * 3


def test_a_reply_that_calls_a_tool_is_scored_by_its_parts_and_described_by_its_words():
    from types import SimpleNamespace

    from pysft.inference.generate import Reply
    from pysft.jobs.ppo import Scorer
    from pysft.measure.rewards import Reward
    from pysft.text.templates import CHAT
    from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

    tokenizer = CharTokenizer(SHAKESPEARE, CHAT.tokens + CHAT.tool_tokens)
    parts = [("search", "Elka"), ("result", "She swims."), ("text", "She swims. Well")]
    ids = []
    for kind, text in parts:
        row = CHAT.parts.get(kind)
        opens, closes = (row.opens, row.closes) if row else ((), ())
        ids += [tokenizer.special[t] for t in opens] + tokenizer.encode(text).tolist()
        ids += [tokenizer.special[t] for t in closes]
    reply, asked = Reply(np.array(ids, np.int32), "end"), []

    def score(prompts, replies, ended):
        asked.extend(replies)
        return np.array([0.5] * len(replies))

    stage = SimpleNamespace(tokenizer=tokenizer, template=CHAT)
    prompts = [[{"role": "user", "content": "Who is Elka?"}]]
    for calls in (True, False):
        scorer = Scorer(stage, Reward("mine", score), -1.0, None, frozenset(), calls)
        assert scorer.score(prompts, [reply]).tolist() == [0.5]
    assert asked == [[{"type": kind, "text": text} for kind, text in parts], "She swims. Well"]
