"""What the lab's arms on expand, judge and prune train on, and what they record."""

import json

import pytest
from small_lab import lab_at

from pysft.lab import curating_tasks, pruning_tasks
from pysft.lab.curating_tasks import ALL, FILTERED, epochs, expanded, student, unseen
from pysft.lab.preferring import Subject, TaskArm, carry_out, user, world_of
from pysft.lab.pruning_tasks import candidates, falsified, pruning
from pysft.measure.raters import Truth
from pysft.text.curated import Curated, read_curated
from pysft.text.templates import CHAT
from pysft.world.ask import compared_questions
from pysft.world.facts import make

pytestmark = pytest.mark.usefixtures("small_lab")
TEACHER = {"seeds": 12, "rows": 4000, "sft": {"steps": 100}}
SFT = {"sft": {"steps": 100, "windows": ((64, 1),), "world": ((64, 1),)}}
FEW = {"seeds": 12, "before": {"steps": 100}, **SFT}


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def subject(tmp_path_factory, corpus, small_lab):
    return Subject(lab_at(tmp_path_factory.mktemp("subject") / "lab", corpus), world_of(1), 1)


@pytest.fixture
def trained_on(monkeypatch):
    """A list: the [(prompt, reply)] of each training, whose model is the one that it began from."""
    found = []

    def tuned(subject, start, files, changes, note, **more):
        found.append([(c.prompt, c.replies()[0]) for some in files for c in some])
        return start if start.can_talk else real(subject, start, files, changes, note, **more)

    real = curating_tasks.tuned
    for module in (curating_tasks, pruning_tasks):
        monkeypatch.setattr(module, "tuned", tuned)
    return found


def pairs(rows):
    return [(row.asked, row.reply) for row in rows]


# ------------------------------------------------------------------------------ a teacher's rows


def test_what_is_filtered_of_the_first_rows_is_what_the_job_keeps_of_them_alone(subject, tmp_path):
    found = expanded(subject, TEACHER, quiet)
    first = found.rows(ALL, 20)
    assert len(first) == 20 < len(found.rows(ALL))
    path, out = tmp_path / "first.jsonl", tmp_path / "kept.jsonl"
    curating_tasks.write_curated(path, first)
    run, seeds = first[0].steps[0]["by"], str(found.folder / curating_tasks.SEEDS)
    curating_tasks.judge(str(path), out, by="world", run=run, seeds=seeds, say=quiet)
    kept = found.rows(FILTERED, 20)
    assert pairs(kept) == pairs(read_curated(out, CHAT)) and 0 < len(kept) < 20
    assert len(found.rows(FILTERED)) > len(kept)


def test_no_row_is_about_what_only_sealed_questions_ask(subject, monkeypatch):
    found = expanded(subject, TEACHER, quiet)
    rows, [sealed, *_] = found.rows(ALL), subject.prompts("sealed")
    asked = Curated([*user(sealed), {"role": "assistant", "content": "Fie!"}]).after(
        "expand", number=0
    )
    monkeypatch.setattr(curating_tasks, "read_curated", lambda *_: [asked, *rows])
    assert pairs(found.rows(ALL)) == pairs(rows)
    assert pairs(found.rows(ALL, 1)) == []


def test_a_teacher_s_rows_are_made_once(subject, monkeypatch):
    expanded(subject, TEACHER, quiet)

    def refuse(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(curating_tasks, "expand", refuse)
    assert expanded(subject, TEACHER, quiet).rows(ALL)
    with pytest.raises(AssertionError, match="made again"):
        expanded(subject, TEACHER | {"rows": 3000}, quiet)


@pytest.mark.parametrize("which", ["none", "all", "filtered"])
def test_a_student_learns_from_the_seeds_and_the_rows_of_its_name(subject, trained_on, which):
    found = student(subject, {"teacher": TEACHER, "which": which, "first": 2000, **SFT}, quiet)
    seeds = [(c.prompt, c.replies()[0]) for c in subject.demonstrations(12)]
    written = expanded(subject, TEACHER, quiet)
    rows = [] if which == "none" else pairs(written.rows(which, 20))
    learned = next(some for some in reversed(trained_on) if len(some) == len(seeds) + len(rows))
    assert learned == seeds + rows and found["finish"]["rows"] == len(rows)
    if rows:
        assert found["finish"]["copied"] == 0.25
        assert found["finish"]["kept"] == len(written.rows(FILTERED, 20)) / 20
    assert {"right", "forgetting"} <= found["finish"].keys() and len(found["samples"]) == 6


def test_the_minimal_recipe_takes_the_checkpoint_of_the_best_marks_and_not_of_the_loss(
    subject, monkeypatch
):
    marks, losses = iter([1, 3, 3]), iter([1.0, 2.0, 0.5])
    monkeypatch.setattr(curating_tasks, "greedy_points", lambda *_: [next(marks)])
    monkeypatch.setattr(curating_tasks, "conversation_loss", lambda *_: (next(losses), 1))
    right = iter([0.25, 0.5, 0.75])
    monkeypatch.setattr(
        curating_tasks, "known", lambda *_: {"right": next(right), "forgetting": 0.0}
    )
    options = {"teacher": TEACHER, "which": FILTERED, "first": 4000, "epochs": 3}
    found = epochs(subject, options | {"sft": {"tokens": 400}}, quiet)
    finish, steps = found["finish"], [row["step"] for row in found["track"]]
    assert len(steps) == 3 and steps[-1] == len(found["losses"])
    assert abs(steps[0] - steps[-1] / 3) <= 1 and abs(steps[1] - 2 * steps[-1] / 3) <= 1
    assert (finish["chosen"], finish["by_loss"]) == (2, 3)  # of equal marks the earlier
    assert (finish["right"], finish["right_by_loss"], finish["steps"]) == (0.5, 0.75, steps[1])


def test_marks_are_of_questions_that_are_neither_trained_nor_sealed(subject):
    every = subject.prompts("reward")
    asked, held = unseen(subject, {*every[:5]})
    assert {*asked} <= {*every[5:]} and len({*asked}) == min(20, len(every) - 5)
    truth = Truth(subject.told.world)
    assert [m[0]["content"] for m in held] == asked
    assert all(truth.verdict(m[:1], m[1]["content"]) == "right" for m in held)


# ------------------------------------------------------------------------------------ pruning


def test_a_share_of_the_answers_is_false_and_the_others_stay(subject):
    asked = compared_questions(make(subject.told.world), pruning_tasks.SPLITS)
    rows = [Curated([*user(q.prompt), {"role": "assistant", "content": q.answer}]) for q in asked]
    found, truth = falsified(subject, rows, 0.25), Truth(subject.told.world)
    verdicts = [truth.verdict(row.prompt, row.reply) for row in found]
    assert verdicts.count("wrong") == round(len(rows) / 4)
    assert verdicts.count("right") == len(rows) - verdicts.count("wrong")
    assert [row.asked for row in found] == [row.asked for row in rows]
    assert falsified(subject, rows, 0.0) == rows


def test_no_row_that_is_pruned_is_sealed_and_each_comes_once(subject):
    asked = [row.asked for row in read_curated(candidates(subject, 0.0), CHAT)]
    expected = subject.prompts("train", "reward", "ppo")
    assert sorted(asked) == sorted(expected) and not {*asked} & {*subject.prompts("sealed")}


@pytest.mark.parametrize("by", ["random", "world", "loss"])
def test_a_tenth_is_kept_and_the_hardest_is_harder_than_all(subject, trained_on, by):
    options = FEW | {"noise": 0.25, "keep": 0.1, "by": by}
    finish = pruning(subject, options, quiet)["finish"]
    rows = read_curated(candidates(subject, 0.25), CHAT)
    assert finish["rows"] == len(rows) // 10 == len(trained_on[-1])
    assert {*trained_on[-1]} <= {*pairs(rows)}
    assert ("easy" in finish) is ("difficulty" in finish) is (by == "world")
    if by == "world":  # of the replies to prompt i, i % 9 of 8 are right
        assert finish["difficulty"] == 1.0 and 0.4 < finish["difficulty_of_all"] < 0.6
        assert finish["easy"] == pytest.approx(3 / 9, abs=0.02)


def test_all_rows_are_kept_if_none_is_to_go(subject, trained_on):
    finish = pruning(subject, FEW | {"noise": 0.0, "keep": 1.0, "by": "random"}, quiet)["finish"]
    rows = pairs(read_curated(candidates(subject, 0.0), CHAT))
    assert trained_on[-1] == rows and finish["false"] == 0 and finish["rows"] == len(rows)


def test_an_arm_s_record_is_json(subject):
    options = {"teacher": TEACHER, "which": "none", **SFT}
    record = carry_out(subject, TaskArm("x", student, options))
    assert json.loads(json.dumps(record))["finish"]["rows"] == 0
