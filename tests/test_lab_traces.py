"""What the lab's arms on traces of reasoning train on, who writes the traces, and what is
measured."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_lab import distilled, lab_at
from thinking import THINKS, answering, ids_of

from pysft.jobs.curate import distil as real
from pysft.jobs.curate import teachers
from pysft.lab import traces_tasks
from pysft.lab.experiments import traces
from pysft.lab.preferring import Subject
from pysft.lab.thoughts import ANSWERS, REPEATED, THINKING, Size, rewritten, thought_of
from pysft.lab.traces_tasks import (
    ALONE,
    OWN,
    RELATION,
    TEACHERS,
    WRITTEN,
    few_and_rest,
    neighbours,
    of_one_hop,
    of_two_hops,
    solved,
    traces_of,
)
from pysft.lab.worlds import conversations_of
from pysft.run.stage import weights_sha256
from pysft.text.conversation import with_thought
from pysft.text.examples import encode_conversation
from pysft.text.templates import CHAT
from pysft.training.stages import finetune
from pysft.world.facts import make
from pysft.world.judge import ExactJudge

pytestmark = pytest.mark.usefixtures("small_lab")


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def subject(tmp_path_factory, corpus, small_lab):
    return Subject(lab_at(tmp_path_factory.mktemp("subject") / "lab", corpus), neighbours(1), 1)


@pytest.fixture(scope="module")
def world(small_lab):
    return make(neighbours(1).world)


def thinker():
    """Stands for the stage of a model that thinks."""
    return SimpleNamespace(model=SimpleNamespace(release=quiet), tokenizer=THINKS, template=CHAT)


# ------------------------------------------------------------------------------------- the rows


def test_a_trace_states_both_steps_and_the_answer_does_not_name_the_neighbour(world):
    judge = ExactJudge(world)
    for split in ("train", "sealed"):
        asked = of_two_hops(world, split)
        assert {q.fact for q in asked} == {"trade", "street"} and {q.split for q in asked} == {
            split
        }
        for q in asked:
            first, second = (f"{part}." for part in q.thought.removesuffix(".").split(". "))
            assert q.about in first and q.through in first and q.value not in first
            assert q.through in second and q.value in second and q.about not in second
            assert q.through not in q.answer and q.about in q.answer
            assert judge.judge(q, q.answer, True) == judge.judge(q, q.thought, True) == "right"
            assert not q.new_wording
    assert {q.fact for q in of_one_hop(world, "train")} == {"trade", "street", RELATION}
    assert all(q.hops == 1 and not q.thought for q in of_one_hop(world, "train"))


def test_rows_are_rewritten_with_equal_questions_and_answers(world):
    rows = conversations_of(of_two_hops(world, "train"))
    kinds = {kind: rewritten(rows, kind) for kind in (THINKING, ANSWERS, REPEATED)}
    for some in kinds.values():
        assert [(c.prompt, c.replies()) for c in some] == [(c.prompt, c.replies()) for c in rows]
    assert [c.messages for c in kinds[THINKING]] == [c.messages for c in rows]
    assert all(isinstance(c.messages[1]["content"], str) for c in kinds[ANSWERS])
    for row, again in zip(rows, kinds[REPEATED], strict=True):
        thought = thought_of(again.messages[1]["content"])
        assert len(thought) == len(thought_of(row.messages[1]["content"])) > len(row.prompt)
        assert (f"{row.prompt} " * 9).startswith(thought)
    sizes = {kind: Size.of(some, THINKS, 256) for kind, some in kinds.items()}
    assert sizes[REPEATED] == sizes[THINKING] != sizes[ANSWERS]


def test_a_row_comes_as_often_as_was_asked_for(subject, world):
    rows = conversations_of(of_one_hop(world, "train"))
    size = traces_tasks.size(subject, rows)
    changes = size.changes(steps=40, times=5)
    settings = subject.lab.settings("tiny").only("sft").changed({"sft": changes | {"pairs": 0}})
    examples = [encode_conversation(c, THINKS, 256) for c in rows]
    corpus, _ = subject.texts
    plan = finetune(settings, "sft", examples, [], corpus, len(THINKS))
    assert plan.epochs["conversations"] == pytest.approx(5, rel=0.01)


# ------------------------------------------------------------------------------ who writes traces


def test_the_teachers_right_replies_are_kept_and_it_is_asked_once(subject, world, monkeypatch):
    asked = of_two_hops(world, "train")[:6]
    truth = {q.prompt: q for q in asked}
    replies = {
        asked[0].prompt: [("", asked[0].answer), (asked[0].thought, asked[0].answer)],
        asked[1].prompt: [("So.", asked[1].answer), (asked[1].thought, asked[1].answer)],
        asked[2].prompt: [(asked[2].thought, "It is so."), ("So.", "The sea.")],
    }
    calls = []

    def sample_ids(stage, prompts, k, seed, progress=None):
        calls.append((len(prompts), k, seed, weights_sha256(stage.model)))
        texts = [m[-1]["content"] for m in prompts]
        some = [replies.get(p, [(truth[p].thought, truth[p].answer)] * 2) for p in texts]
        return [[(ids_of(*one).tolist(), True) for one in two] for two in some]

    monkeypatch.setattr(traces_tasks, "distil", real.distil)
    monkeypatch.setattr(teachers, "sample_ids", sample_ids)
    writer = traces_tasks.teacher(subject, {"steps": 200, "times": 1}, quiet)
    for _ in range(2):
        rows, document = traces_of(subject, writer, [*truth], 2, quiet)
        found = {c.prompt: c.messages[1]["content"] for c in rows}
        assert found == {
            q.prompt: with_thought("So." if q is asked[1] else q.thought, q.answer)
            for q in asked
            if q is not asked[2]
        }
        assert document["right"] == 9 / 12
    assert calls == [(6, 2, 1, weights_sha256(writer.model))]
    traces_of(subject, writer, [*truth][3:], 2, quiet)
    assert len(calls) == 2  # other prompts are other rows


def trained_on(monkeypatch, task, subject, options):
    """(the rows that a task's last training has, its changes, what it finished with)."""
    done = []

    def tuned(subject, start, files, changes, note):
        done.append((start, [c for some in files for c in some], changes))
        return start

    monkeypatch.setattr(traces_tasks, "tuned", tuned)
    monkeypatch.setattr(traces_tasks, "known", lambda *_: {"right": 0.5})
    monkeypatch.setattr(traces_tasks, "solved", lambda *_: ({"two_hops": 0.25}, []))
    finish = task(subject, options, quiet)["finish"]
    assert finish["right"] == 0.5 and finish["two_hops"] == 0.25
    assert all(start is subject.base.stage for start, _, _ in done)
    return *done[-1][1:], finish


def by_prompt(rows) -> dict:
    return {c.prompt: c.messages[1]["content"] for c in rows}


def test_students_differ_in_what_stands_before_the_answer_and_in_steps(subject, world, monkeypatch):
    simple = by_prompt(conversations_of(of_one_hop(world, "train")))
    done = {}
    for arm in traces.traces(None, 1):
        rows, changes, finish = trained_on(monkeypatch, arm.task, subject, arm.options)
        found = by_prompt(rows)
        assert {p: found.pop(p) for p in simple} == simple
        assert {*found} == {q.prompt for q in of_two_hops(world, "train")}
        done[arm.name] = {thought_of(content) for content in found.values()}, changes, finish
        assert finish["rows"] == len(found) and finish["taught"] == 0.5
    asked, long, again, steps = done.values()
    assert steps[0] == {"So it is."} and asked[0] == long[0] == {""}
    assert "So it is." not in again[0] and {len(t) for t in again[0]} == {9}
    assert steps[1]["steps"] == asked[1]["steps"] < long[1]["steps"] and asked[2]["times"] == 10
    assert asked[2]["graded"] < steps[2]["graded"] == again[2]["graded"]
    assert long[2]["graded"] == pytest.approx(steps[2]["graded"])
    assert long[2]["times"] / 10 == pytest.approx(long[1]["steps"] / steps[1]["steps"], rel=0.01)


def test_few_people_have_written_traces_and_the_others_those_that_the_arm_says(
    subject, world, monkeypatch
):
    few, rest = few_and_rest(world, traces.FEW)
    assert len({q.about for q in few}) == traces.FEW and not {q.about for q in few} & {
        q.about for q in rest
    }
    assert {q.prompt for q in (*few, *rest)} == {q.prompt for q in of_two_hops(world, "train")}
    written = by_prompt(conversations_of([*of_one_hop(world, "train"), *few]))
    others = by_prompt(conversations_of(rest))
    writers = []
    monkeypatch.setattr(
        traces_tasks, "distil", lambda prompts, *a, **more: writers.append(prompts) or
        distilled(prompts, *a, **more),
    )  # fmt: skip
    for arm in traces.own_traces(None, 1):
        rows, changes, finish = trained_on(monkeypatch, arm.task, subject, arm.options)
        found = by_prompt(rows)
        assert {p: found.pop(p) for p in written} == written
        assert changes == {"steps": arm.options["steps"], "tokens": arm.options["tokens"]}
        if arm.options["rows"] == ALONE:
            assert not found and finish["true_traces"] is finish["right_tries"] is None
        elif arm.options["rows"] == WRITTEN:
            assert found == others and finish["true_traces"] == 1
        else:
            assert found == dict.fromkeys(others, with_thought("So it is.", "It is so."))
            assert finish["true_traces"] == 0 and finish["right_tries"] == 0.5
        assert finish["rows"] == len(found)


def test_a_model_writes_its_own_traces_after_a_start_on_few_and_the_teacher_after_all(
    subject, world, monkeypatch
):
    few, rest = few_and_rest(world, traces.FEW)
    thoughts = {}

    def tuned(subject, start, files, changes, note):
        thoughts[name] = {thought_of(c.messages[1]["content"]) for c in files[0]} - {""}
        return start

    monkeypatch.setattr(traces_tasks, "tuned", tuned)
    name = OWN
    traces_tasks.beginner(subject, traces.OF_OWN, quiet)
    name = TEACHERS
    traces_tasks.teacher(subject, traces.TEACHER, quiet)
    assert thoughts[OWN] == {q.thought for q in few}
    assert thoughts[TEACHERS] == {q.thought for q in (*few, *rest)}


def test_what_processes_share_has_the_teachers_rows(subject, monkeypatch):
    asked = []
    monkeypatch.setattr(traces, "taught", lambda *given: asked.append(given))
    traces.prepare_traces(subject.lab, 7)
    [(found, options, _)] = asked
    assert found.told == neighbours(7) and found.seed == 7 and options == traces.RECIPE


# ----------------------------------------------------------------------------- what is measured


def test_answers_and_their_thoughts_are_counted_by_hops(subject, world, monkeypatch):
    one = {q.prompt: q for q in of_one_hop(world, "sealed")}
    two = {q.prompt: q for q in of_two_hops(world, "sealed")}
    order = [*two]

    def reply(prompt):
        if prompt in one:
            q = one[prompt]
            return "", q.answer if q.fact in ("trade", RELATION) else "So."
        q, place = two[prompt], order.index(prompt) % 4
        first = q.thought.split(". ")[0] + "."
        thought = (q.thought, q.thought, f"{first} So.", f"So. {q.thought}")[place]
        return thought, "So." if place == 0 else q.answer

    monkeypatch.setattr(traces_tasks, "answer", answering(reply))
    figures, samples = solved(subject, thinker())
    assert figures["attributes"] == 1 / 2 and figures["neighbours"] == 1
    assert figures["two_hops"] == 3 / 4 and figures["first"] == 3 / 4
    assert figures["traced"] == 1 / 2 and figures["founded"] == 1 / 4
    lengths = [len(ids_of(*reply(prompt))) for prompt in order]
    assert figures["length"] == pytest.approx(np.mean(lengths))
    assert len(samples) == 6 and samples[0][0] == order[0]
    assert samples[0][1] == f"[{two[order[0]].thought}] So."


def test_a_model_without_thoughts_has_none_that_are_true(subject, world, monkeypatch):
    two = {q.prompt: q for q in of_two_hops(world, "sealed")}

    def reply(prompt):
        return "", two[prompt].answer if prompt in two else "So."

    monkeypatch.setattr(traces_tasks, "answer", answering(reply))
    figures, samples = solved(subject, thinker())
    assert figures["two_hops"] == 1 and figures["neighbours"] == figures["attributes"] == 0
    assert figures["first"] == figures["traced"] == figures["founded"] == 0
    assert samples[0][1] == two[samples[0][0]].answer
