"""What the lab's arms on preferences begin from, and what they measure."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_lab import ByLength, lab_at

from pysft.cli import lab as cli_lab
from pysft.errors import Diverged
from pysft.inference.best import kl_bound
from pysft.lab import parallel, policy_tasks, preferring, reward_tasks
from pysft.lab.experiments import EXPERIMENTS
from pysft.lab.preferring import Answers, Subject, TaskArm, first_with, ranked, world_of
from pysft.lab.reward_tasks import NS, best_of, choices, distances, gao_curve
from pysft.text.ranking import Ranking

pytestmark = pytest.mark.usefixtures("small_lab")


def answers(prompt, *rows) -> Answers:
    """rows: (reply, did it end, its points)."""
    return Answers(prompt, *zip(*rows))


def ranking(*ranks) -> Ranking:
    replies = tuple(f"reply {i}" for i in range(len(ranks)))
    return Ranking([{"role": "user", "content": "Q"}], replies, ranks, "lab", 1)


@pytest.fixture(scope="module")
def subject(tmp_path_factory, corpus, small_lab):
    return Subject(lab_at(tmp_path_factory.mktemp("subject") / "lab", corpus), world_of(1), 1)


# ------------------------------------------------------------------------------ what arms share


def test_usable_replies_are_different_and_keep_their_points():
    row = answers("Q", ("A toad.", False, 0), ("", True, 1), ("A toad.", True, 3), ("No", True, 1))
    assert row.usable() == answers("Q", ("A toad.", True, 3), ("No", True, 1))
    assert answers("Q", ("<|end|>", True, 3)).usable() == Answers("Q", (), (), ())


def test_the_exact_judge_ranks_by_points_and_labelers_nearly_so():
    rows = [answers("Q", ("a", True, 1), ("bb", True, 3), ("ccc", True, 1))] * 2000
    [judged] = {r.ranks for r in ranked(rows, preferring.BY_JUDGE, 1)}
    assert judged == (2, 1, 2)
    labeled = ranked(rows, preferring.BY_LABELERS, 1)
    assert len(labeled) == 2200 and {r.labeler for r in labeled} == {"ann", "ben", "cora"}
    right = np.mean([r.ranks == judged for r in labeled])
    assert abs(right - 0.836) < 0.03 and all(r.ranks[0] == r.ranks[2] for r in labeled)
    by_chance = [r.ranks for r in ranked(rows, preferring.BY_CHANCE, 1)]
    assert all(sorted(ranks) == [1, 2, 3] for ranks in by_chance) and len({*by_chance}) == 6
    assert ranked(rows[:1], preferring.BY_JUDGE, 1)[0].row == {"golds": (1, 3, 1)}
    assert ranked([answers("Q", ("a", True, 1))], preferring.BY_JUDGE, 1) == []


def test_rankings_are_taken_until_there_are_enough_comparisons_or_enough_work():
    some = [ranking(1, 1, 1), ranking(1, 2, 2), ranking(1, 2), ranking(1, 2, 3)]
    assert [len(first_with(some, n)) for n in (1, 2, 3, 4, 6, 7)] == [2, 2, 3, 4, 4, 4]
    # Three replies are two comparisons of work, whether they tie or not.
    assert [len(policy_tasks.worth(some, n)) for n in (1, 4, 5, 6, 9)] == [2, 2, 3, 4, 4]


def test_each_prompt_comes_once_before_one_comes_twice(subject):
    prompts = subject.prompts("train", "reward")
    found = subject.drawn("x", prompts, 2 * len(prompts))
    assert sorted(found[: len(prompts)]) == sorted(prompts) == sorted(found[len(prompts) :])
    assert found[: len(prompts)] != found[len(prompts) :]
    assert subject.drawn("x", prompts, 5) == found[:5] != subject.drawn("y", prompts, 5)


def test_what_is_trained_on_is_not_what_is_measured_on(subject):
    splits = {s: {*subject.prompts(s)} for s in ("train", "reward", "ppo", "sealed")}
    assert len(set.union(*splits.values())) == sum(map(len, splits.values()))
    assert {c.prompt for c in subject.demonstrations()} <= splits["train"]
    policy = subject.policy()
    trained, held = subject.trained_rankings(policy), subject.heldout_rankings(policy)
    assert {r.prompt[0]["content"] for r in trained} <= splits["train"] | splits["reward"]
    assert {r.prompt[0]["content"] for r in held} <= splits["sealed"]


def test_the_model_and_its_replies_are_made_once_and_kept(subject, corpus, monkeypatch):
    policy = subject.policy()
    first = subject.trained_rankings(policy)
    again = Subject(lab_at(subject.lab.folder, corpus), world_of(1), 1)

    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(Subject, "tuned", refuse)
    monkeypatch.setattr(Subject, "answers", refuse)
    assert again.trained_rankings(again.policy()) == first
    names = os.listdir(subject.lab.folder / "bases")
    assert sum(name.startswith("tiny-world-sft-1-") for name in names) == 1
    with pytest.raises(AssertionError, match="made again"):
        again.policy(5)


def test_a_record_has_another_name_if_its_task_or_an_option_changes(subject):
    def task(subject, options, note):
        return {"finish": {"x": float("nan")}}

    def other(subject, options, note):
        raise Diverged("step 3: the loss is nan")

    lab = subject.lab
    found = [
        lab.run(TaskArm("a", function, options), 1)
        for function in (task, other)
        for options in ({}, {"n": 1})
    ]
    names = {p.name for p in (lab.folder / "trials").iterdir()}
    assert len(names) == 4 and found[0]["finish"] == {"x": None}
    assert found[2]["diverged"] == "step 3: the loss is nan" and found[2]["finish"] == {}
    lab.run(TaskArm("another name for it", task, {}), 1)
    assert {p.name for p in (lab.folder / "trials").iterdir()} == names
    assert json.loads(json.dumps(found[0])) == found[0]


def test_what_processes_share_is_made_first_once_for_each_seed(monkeypatch, lab):
    made, names = [], [name for name, e in EXPERIMENTS.items() if e.prepare]

    def prepare(lab, seed):
        made.append(seed)

    monkeypatch.setattr(parallel, "side_by_side", lambda parts, jobs, say: made.append(len(parts)))
    for name in names:
        monkeypatch.setitem(EXPERIMENTS, name, replace(EXPERIMENTS[name], prepare=prepare))
    args = SimpleNamespace(
        seeds=3, out="x", corpus="plays", ops="kernels", scale=1.0, retrain_base=False
    )
    cli_lab._side_by_side(lab, [*names, "hops"], args, 2, SimpleNamespace(say=None))
    assert made == [1, 2, 3, len(names) + 1] and len(names) > 10


# ---------------------------------------------------------------------------- what is measured


def test_the_best_of_n_by_the_points_themselves_is_the_most_points():
    g = np.random.default_rng(0)
    rows = [answers("Q", *(("x", True, int(p)) for p in g.integers(0, 4, 128))) for _ in range(5)]
    found = best_of(rows, [np.array(row.golds, float) for row in rows])
    assert found["gold_1"] == pytest.approx(np.mean([row.golds for row in rows]))
    assert found["gold_64"] == pytest.approx(3, abs=0.01) and found["lost"] == 0
    assert found["proxy_1"] == pytest.approx(0, abs=1e-9)
    against = best_of(rows, [-np.array(row.golds, float) for row in rows])
    assert against["gold_64"] < 0.01 and against["lost"] == pytest.approx(
        against["gold_1"], abs=0.01
    )


def test_gaos_curve_is_found_where_it_is_exact():
    d = distances()
    assert d[0] == 0 and d[-1] == pytest.approx(np.sqrt(kl_bound(64))) and len(d) == len(NS)
    found = gao_curve(1.5 + d * (0.75 - 0.25 * d))
    assert found == pytest.approx({"alpha": 0.75, "beta": 0.25, "fit": 1.0})


def test_a_reply_that_cannot_be_ranked_has_the_lowest_score(monkeypatch):
    monkeypatch.setattr(
        reward_tasks,
        "scores",
        lambda stage, prompts, texts: np.array([len(t) for t in texts], float),
    )
    rows = [
        answers("Q", ("four", True, 1), ("", True, 0)),
        answers("P", ("ten", True, 1), ("four", True, 1)),
    ]
    assert [s.tolist() for s in reward_tasks.scored(None, rows)] == [[4, 3], [3, 4]]


def test_each_criterion_chooses_its_checkpoint():
    columns = {
        "step": (10, 20, 40, 80),
        "heldout_loss": (0.5, 0.25, 0.375, 0.5),
        "score": (0, 1, 3, 2),
        "gold": (1.0, 1.25, 1.5, 1.75),
        "greedy": (2.0, 2.25, 2.5, 2.75),
    }
    found = choices([dict(zip(columns, row)) for row in zip(*columns.values())])
    steps = {name: found[f"step_{name}"] for name in ("by_loss", "by_score", "last", "best")}
    assert steps == {"by_loss": 20, "by_score": 40, "last": 80, "best": 80}
    assert (found["gold_by_loss"], found["gold_by_score"]) == (1.25, 1.5)
    assert found["greedy_by_score"] == 2.5 and found["risen"] == 1.0


def test_the_track_of_dpo_has_means_of_twenty_steps():
    names = ("accuracy", "margin", "chosen_logp", "rejected_logp")
    found = policy_tasks.means([dict.fromkeys(names, float(i)) for i in range(30)])
    assert [row["step"] for row in found] == [20, 30]
    assert [row["chosen_logp"] for row in found] == [9.5, 24.5]


@pytest.mark.parametrize("many", [{"rankings": 4}, {}], ids=["asked", "the recipe's"])
def test_singly_a_step_has_as_many_comparisons_and_an_epoch_as_many_steps(subject, many):
    policy = subject.policy()
    some = [r for r in subject.trained_rankings(policy, preferring.BY_CHANCE) if len(r.replies) > 2]
    seen = []
    for singly in (False, True):
        options = {"singly": singly, "epochs": 2.0} | many
        stage, losses, right = reward_tasks.learned(subject, policy, some, options, lambda _: None)
        assert stage.model.config.outputs == "value" and 0 <= right <= 1
        seen.append(len(losses))
    assert abs(seen[0] - seen[1]) <= 1


def test_the_small_lab_judges_by_length():
    assert ByLength(None).golds([], ["", "a", "abcde"], [True] * 3) == [0, 1, 1]
