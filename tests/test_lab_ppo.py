"""What the lab's arms on PPO train and record, and how the experiments read it."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from small_lab import lab_at
from verdicts import record
from verdicts.policies import path as track_of

from pysft.errors import Diverged
from pysft.inference.score import values
from pysft.lab import ppo_tasks, preferring
from pysft.lab.experiments import policies
from pysft.lab.experiments.policies import BY_JUDGE, GOOD, POOR, ppo
from pysft.lab.ppo_tasks import alarmed, gao_curve, kept_reward, means, reinforce
from pysft.lab.preferring import Subject, world_of
from pysft.text.compared import ranked_examples, scored_example
from pysft.training import loop
from pysft.training.loop import Report
from pysft.world.ask import questions
from pysft.world.facts import make

pytestmark = pytest.mark.usefixtures("small_lab")
SMALL = {"prompts": 2, "windows": ((64, 1),), "world": ((64, 1),)}


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def subject(tmp_path_factory, corpus, small_lab):
    return Subject(lab_at(tmp_path_factory.mktemp("subject") / "lab", corpus), world_of(1), 1)


def tuned(subject, reward, **changes):
    """The record of a PPO of four iterations."""
    options = ppo("x", reward, **SMALL | {"steps": 400} | changes).options
    return reinforce(subject, options, quiet)


def report(step, alarms=(), **figures):
    return Report(step, 0.5, figures, 1.0, 0.1, 1, 2, alarms={name: "why" for name in alarms})


# ------------------------------------------------------------------------------ the reward model


def test_a_reward_model_is_made_once_and_its_unit_is_that_of_its_replies(subject, monkeypatch):
    policy = subject.policy()
    model = kept_reward(subject, policy, GOOD, quiet)
    read = policy.tokenizer, policy.model.config.context, policy.template
    right = values(model.model, [scored_example(c, *read) for c in subject.demonstrations()])
    assert abs(right.mean()) < 1e-4
    some = preferring.first_with(subject.trained_rankings(policy), 30)
    spread = values(model.model, [e for r in some for e in ranked_examples(r, *read)]).std()
    assert spread == pytest.approx(1, rel=1e-4)

    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(ppo_tasks, "learned", refuse)
    again = kept_reward(subject, policy, GOOD, quiet)
    assert (again.model.params.flat == model.model.params.flat).all()
    with pytest.raises(AssertionError, match="made again"):
        kept_reward(subject, policy, POOR, quiet)


def test_what_processes_share_has_both_reward_models(tmp_path, corpus, monkeypatch):
    lab, made = lab_at(tmp_path / "lab", corpus), []
    monkeypatch.setattr(ppo_tasks, "prepare", lambda lab, seed: made.append(seed))
    monkeypatch.setattr(Subject, "policy", lambda self, count: None)
    monkeypatch.setattr(
        ppo_tasks, "kept_reward", lambda subject, policy, options, note: made.append(options)
    )
    policies.prepare_policies(lab, 7)
    assert made == [7, GOOD, POOR]


def test_the_critic_begins_from_the_reward_model_or_without_one_from_the_policy(
    subject, monkeypatch
):
    begun = []

    def stop(learner, steps):
        begun.append(learner)
        raise StopIteration

    monkeypatch.setattr(ppo_tasks, "train", stop)
    for reward, changes in ((GOOD, {}), (BY_JUDGE, {}), (BY_JUDGE, {"baseline": "group"})):
        with pytest.raises(StopIteration):
            tuned(subject, reward, **changes)
    policy = subject.policy()
    model = kept_reward(subject, policy, GOOD, quiet).model
    first, second, third = (learner.critic for learner in begun)
    assert (first.params.flat == model.params.flat).all() and third is None
    assert (second.params["wte"] == policy.model.params["wte"]).all()
    assert not second.params["value.w"].any()
    assert all((x.model.params.flat == policy.model.params.flat).all() for x in begun)


# ------------------------------------------------------------------------------- what is recorded


def test_a_policy_that_does_not_learn_stays_where_it_was(subject):
    found = tuned(subject, BY_JUDGE, lr=0.0, critic_lr=0.0)
    track, finish = found["track"], found["finish"]
    assert [row["step"] for row in track] == [0, 1, 2, 3, 4] and len(found["losses"]) == 4
    assert all(row["sealed_kl"] == 0 for row in track) and finish["kl"] == 0
    assert len({row["sealed_gold"] for row in track}) == 1
    assert finish["forgetting"] == finish["forgetting_before"]
    assert finish["gold"] == finish["gold_before"] and finish["win_rate"] == 0.5
    assert finish["proxy"] == finish["proxy_before"]
    assert finish["kl_old"] == finish["kl_old_most"] == finish["clipped"] == 0
    assert set(ppo_tasks.NAMES) < track[1].keys() and finish["alarms"] == []
    assert len(found["samples"]) == 6 and finish["train_seconds"] > 0


def test_a_policy_that_learns_leaves_the_model_before_and_the_same_seed_gives_the_same(subject):
    one, two = (tuned(subject, GOOD, lr=1e-2) for _ in range(2))
    kls = [row["sealed_kl"] for row in one["track"]]
    assert kls[0] == 0 and min(kls[2:]) > 0 and one["finish"]["kl"] > 0
    assert one["track"] == two["track"] and one["losses"] == two["losses"]
    assert {"reward", "gold"} < one["track"][1].keys()


def test_a_policy_that_diverges_is_measured_as_it_was_before(subject, monkeypatch):
    def diverging(learner, steps):
        for number, r in enumerate(train(learner, steps)):
            if number == after:
                raise Diverged("step 3: the loss is nan")
            yield r

    monkeypatch.setattr(ppo_tasks, "train", diverging)
    after, train = 2, loop.train
    found = tuned(subject, BY_JUDGE)
    assert found["diverged"] == "step 3: the loss is nan" and len(found["losses"]) == 2
    assert [row["step"] for row in found["track"]] == [0, 1, 2] and found["finish"]["kl"] > 0
    arm = preferring.TaskArm("x", lambda *_: found)
    assert preferring.carry_out(subject, arm)["diverged"] == found["diverged"]
    after = 0
    with pytest.raises(Diverged):
        tuned(subject, BY_JUDGE)


def test_a_policy_is_asked_questions_of_training_and_measured_on_sealed_ones(subject, monkeypatch):
    asked, measured = [], []
    made, drawn = ppo_tasks.iterations, subject.drawn

    def iterations(name, settings, parent, prompts, *more):
        asked.extend(prompts)
        return made(name, settings, parent, prompts, *more)

    monkeypatch.setattr(ppo_tasks, "iterations", iterations)
    monkeypatch.setattr(
        subject, "drawn", lambda *given: measured.append(found := drawn(*given)) or found
    )
    tuned(subject, BY_JUDGE)
    world = make(subject.told.world)
    split = {q.prompt: s for s in ("train", "ppo", "sealed") for q in questions(world, s)}
    assert {split[messages[-1]["content"]] for messages in asked} == {"train", "ppo"}
    followed, judged = measured  # on the way, and at the end
    assert followed == judged and {split[prompt] for prompt in judged} == {"sealed"}


def test_the_words_of_the_world_and_of_the_base_text_are_known(subject):
    known = ppo_tasks.known_words(subject)
    asked = questions(make(subject.told.world), "sealed")
    assert all(word in known for q in asked for word in ppo_tasks.words(q.answer))
    assert all(word in known for word in ppo_tasks.words(subject.lab.train_text))
    assert "qzx" not in known


def test_the_recipe_of_ppo_names_the_records_of_its_own_arms_alone(subject, monkeypatch):
    found = []
    monkeypatch.setattr(preferring, "stored", lambda folder, described, make: described)
    for recipe in ({}, {"lr": 0.5}):
        changed = {"tiny": preferring.OF_WORLD["tiny"] | {"ppo": recipe}}
        monkeypatch.setattr(preferring, "OF_WORLD", changed)
        arm = preferring.TaskArm("x", reinforce, {"n": 1})
        found.append(preferring.record_of_arm(subject.lab, arm, 1))
    assert found[0] == found[1] and {"base", "sft", "reward", "dpo"} <= found[0]["recipes"].keys()


def test_a_row_has_means_of_iterations_and_the_first_alarm_of_each_kind():
    done = [
        report(1, reward=1.0, gold=2.0),
        report(2, ("kl",), reward=3.0),
        report(3, ("reward hacking",), reward=5.0),
        report(4, ("entropy",), reward=7.0),
    ]
    assert means(done) == {"reward": 4.0} and means(done[:1]) == {"reward": 1.0, "gold": 2.0}
    rows = [
        SimpleNamespace(**vars(r) | {"figures": r.figures | {"kl": 0, "ratio_moved": 0}})
        for r in done
    ]
    assert alarmed(rows[:1]) == {"hacked_at": None, "alarmed_at": None}
    assert alarmed(rows[:2]) == {"hacked_at": None, "alarmed_at": 2}
    assert alarmed(rows) == {"hacked_at": 3, "alarmed_at": 2}


# ------------------------------------------------------------------------- how it is read


def test_gaos_curve_for_rl_is_found_where_it_is_exact():
    d = np.array([0, 0.5, 1, 2, 3])
    bent = np.append(0, d[1:] * np.log(d[1:]))
    track = [{"sealed_kl": x**2, "sealed_gold": 1.5 + 0.75 * x - 0.25 * b} for x, b in zip(d, bent)]
    assert gao_curve(track) == pytest.approx({"alpha": 0.75, "beta": 0.25, "fit": 1.0})
    flat = [row | {"sealed_gold": 1.0} for row in track]
    assert gao_curve(flat)["alpha"] == pytest.approx(0, abs=1e-9)


def test_a_path_has_its_most_points_what_is_lost_since_and_what_a_gain_costs():
    way = track_of((0.0, 1.0), (0.5, 1.5), (2.0, 3.0), (8.0, 2.0))
    assert policies.most(way) == (2.0, 2.0) and policies.lost(way) == 1.0
    assert policies.kl_for(way, 0.5) == 0.5 and policies.kl_for(way, 2.5) == np.inf
    at = {0.25: 0.25, 0.5: 0.5, 1.25: 1.25, 5.0: 1.5, 9.0: 1.0}
    assert {nats: policies.gained_at(way, nats) for nats in at} == at
    with pytest.raises(ValueError, match="not measured"):
        policies.path(record({0: {"sealed_kl": 0.0, "sealed_gold": None}}))


def test_the_models_of_a_lab_have_names_that_say_what_they_are(subject):
    kept_reward(subject, subject.policy(), GOOD, quiet)
    kinds = {name.rsplit("-", 2)[0] for name in os.listdir(subject.lab.folder / "bases")}
    assert {"tiny-world", "tiny-world-sft", "tiny-world-reward"} == kinds
