"""What the lab's arms on a constitution are tuned on, and on conversations of several turns."""

from collections import Counter

import pytest
from small_lab import ANSWER, REVISION, lab_at

from pysft import IGNORE
from pysft.lab import constitution_tasks, turns_tasks
from pysft.lab.constitution_tasks import (
    ANSWERS,
    NOTHING,
    PAIRS,
    REVISIONS,
    TIMES,
    constituted,
    kept_revisions,
    kept_violating,
)
from pysft.lab.experiments.constitution import RECIPE, arm
from pysft.lab.experiments.turns import GRADED
from pysft.lab.preferring import Subject, world_of
from pysft.lab.turns_tasks import (
    THIS,
    TURNS,
    asked_in_a_row,
    behind_right_answers,
    taught,
    tokens_for,
)
from pysft.text.examples import encode_conversation
from pysft.text.templates import CHAT
from pysft.training.stages import finetune
from pysft.world.facts import WorldSettings, make
from pysft.world.judge import ExactJudge

pytestmark = pytest.mark.usefixtures("small_lab")
WORLD = make(WorldSettings(people=40, seed=3))
TRAINED = {e.name for e in WORLD.of_split("train") if e.kind == "person"}


def quiet(*_):
    pass


def refuse(*_):
    raise AssertionError("made again")


def users(conversation):
    """What the user says."""
    return [m["content"] for m in conversation.messages if m["role"] == "user"]


@pytest.fixture(scope="module")
def subject(tmp_path_factory, corpus, small_lab):
    return Subject(lab_at(tmp_path_factory.mktemp("subject") / "lab", corpus), world_of(1), 1)


@pytest.fixture
def trained(subject, monkeypatch):
    """The conversations of each tuning, without the model that violates."""
    kept_violating(subject, RECIPE, quiet)
    found, tune = [], constitution_tasks.tuned

    def noting(subject, start, files, *more):
        if len(files) == 1:
            found.append(files[0])
        return tune(subject, start, files, *more)

    monkeypatch.setattr(constitution_tasks, "tuned", noting)
    return found


# -------------------------------------------------------------------------------- a constitution


@pytest.mark.parametrize("on, said", [(ANSWERS, ANSWER), (REVISIONS, REVISION)])
def test_an_arm_learns_what_its_name_says_about_people_who_are_not_sealed(
    subject, trained, on, said
):
    constituted(subject, arm("x", on).options, quiet)
    [rows] = trained
    asked = Counter(c.prompt for c in rows)
    assert asked == dict.fromkeys(subject.prompts("reward", "ppo"), RECIPE["k"])
    assert {c.replies()[0] for c in rows} == {said}


def test_the_model_before_is_not_tuned_again(subject, trained):
    found = constituted(subject, arm("x", NOTHING, {}).options, quiet)
    assert trained == [] and found["finish"]["rows"] is None


def test_preferences_are_learned_by_dpo_once(subject, trained, monkeypatch):
    options = arm("x", PAIRS, {"steps": 0, "pairs": 16}).options
    found = constituted(subject, options, quiet)
    assert trained == []
    monkeypatch.setattr(constitution_tasks, "tuned_by_dpo", refuse)
    assert constituted(subject, options, quiet) == found
    with pytest.raises(AssertionError, match="made again"):
        constituted(subject, arm("x", PAIRS, {"steps": 0, "pairs": 8}).options, quiet)


def test_rows_are_written_once_for_each_number_of_rounds(subject, monkeypatch):
    stage = kept_violating(subject, RECIPE, quiet)
    first = kept_revisions(subject, stage, RECIPE)
    monkeypatch.setattr(constitution_tasks, "revise", refuse)
    assert kept_revisions(subject, stage, RECIPE) == first
    with pytest.raises(AssertionError, match="made again"):
        kept_revisions(subject, stage, RECIPE | {"rounds": 2})


def test_the_model_that_violates_reads_replies_and_critiques_as_they_are_flagged(
    subject, monkeypatch
):
    monkeypatch.setattr(constitution_tasks, "tuned", lambda *given: given)
    _, start, (replies, critiques), changes, _, mix, grade = kept_violating(subject, RECIPE, quiet)
    assert start is subject.base.stage and changes == RECIPE["violating"]
    assert (mix, grade) == ((1, 3), "flags")
    assert {len(c.messages) for c in replies} == {2} and {len(c.messages) for c in critiques} == {6}
    assert {c.messages[1]["train"] for c in critiques} == {False}


def test_an_arm_is_measured_on_sealed_questions(subject, monkeypatch):
    def measure(run, ops, prompts, k, *more):
        asked.append((prompts, k))
        return real(run, ops, prompts, k, *more)

    asked, real = [], constitution_tasks.measure
    monkeypatch.setattr(constitution_tasks, "measure", measure)
    found = constituted(subject, arm("x", NOTHING, {}).options, quiet)
    assert asked == [("world:sealed", TIMES)]
    finish, sealed = found["finish"], {*subject.prompts("sealed")}
    assert finish["malformed"] == finish["format_compliance"] == 1  # "Ay.", which ends
    assert {prompt for prompt, _, _ in found["samples"]} <= sealed and found["samples"]


# ------------------------------------------------------------------------------------ several turns


def test_all_arms_learn_the_same_answers_and_later_turns_name_nobody():
    each = singles, half, rows = [taught(WORLD, several, 0.0, 1) for several in (0.0, 0.5, 1.0)]
    answers = [Counter(reply for c in some for reply in c.replies()) for some in each]
    assert answers[0] == answers[1] == answers[2]
    assert {len(c.messages) for c in singles} == {2} and {len(c.messages) for c in rows} == {6}
    assert Counter(len(c.messages) for c in half)[6] == round(len(rows) / 2)
    for c in rows:
        first, *later = users(c)
        [name] = [name for name in TRAINED if name in first]
        assert all(name in reply for reply in c.replies())
        assert all(THIS in q and q.startswith("And ") and name not in q for q in later)


def test_in_half_of_the_conversations_the_second_turn_names_somebody_else():
    rows, changes = taught(WORLD, 1.0, 0.5, 1), 0
    for c in rows:
        first, second, third = users(c)
        names = [name for q in (first, second) for name in TRAINED if name in q]
        assert names[-1] in c.replies()[1] and names[-1] in c.replies()[2] and THIS in third
        changes += len(set(names)) == 2
        assert (THIS in second) is (len(names) == 1)
    assert 0.45 < changes / len(rows) <= 0.5


def test_hardly_a_conversation_is_left_out_for_its_length(monkeypatch):
    kept = len(taught(WORLD, 1.0, 0.0, 1))
    monkeypatch.setattr(turns_tasks, "CONTEXT", 10**6)
    assert 0.97 < kept / len(taught(WORLD, 1.0, 0.0, 1)) <= 1


@pytest.mark.parametrize(
    "several, changing, grade",
    [(0, 0, "all"), (0.5, 0, "all"), (1, 0, "all"), (1, 0.5, "all"), (1, 0, "last")],
)
def test_all_arms_are_graded_on_as_many_tokens(subject, several, changing, grade):
    rows = taught(make(subject.told.world), several, changing, 1)
    tokens, longest = tokens_for(subject, rows, grade, GRADED)
    settings = subject.settings(
        {"tokens": tokens + longest, "steps": 100, "world": (), "windows": ()}
    )
    tokenizer, context = subject.lab.chat, settings.model.context
    examples = [encode_conversation(c, tokenizer, context, CHAT, grade) for c in rows]
    plan = finetune(settings, "sft", examples, [], subject.texts[0], len(tokenizer))
    batches = [b for step in range(40) for b in plan.draw(step)]
    graded = sum(int((b.labels != IGNORE).sum()) for b in batches) / 40
    assert graded == pytest.approx(GRADED, rel=0.03)


def test_sealed_people_are_asked_behind_right_answers():
    asked, judge = behind_right_answers(WORLD, 1), ExactJudge(WORLD)
    sealed = {e.name for e in WORLD.of_split("sealed") if e.kind == "person"}
    for place, turn in (("first", 0), ("second", 1), ("third", 2), ("named", 1)):
        assert Counter(q.about for _, q in asked[place]) == dict.fromkeys(sealed, 24)
        for messages, q in asked[place]:
            assert len(messages) == 2 * turn + 1 and messages[-1]["content"] == q.prompt
            assert judge.judge(q, q.answer) == "right"
            is_named = q.about in q.prompt
            assert is_named is (place in ("first", "named"))
            if place == "named":
                assert q.about not in messages[0]["content"]
            elif turn:
                assert q.about in messages[0]["content"]


def test_a_row_asks_for_different_facts_in_every_order():
    rows = asked_in_a_row(WORLD, "train", None, 1)
    orders = Counter((some[0].about, *(q.fact for q in some)) for some in rows)
    assert set(orders.values()) == {1} and len(orders) == 20 * 24
    assert all(len({q.fact for q in some}) == TURNS for some in rows)


def test_a_conversation_that_is_shown_ends_where_a_reply_cannot_be_read(subject, monkeypatch):
    def replies(stage, messages, *_):
        texts.append([m["content"] for m in messages[0]])
        reply = type("Reply", (), {"stop": "end"})
        return [("Ay." if len(texts) % 3 else "<|end|>", reply)]

    texts = []
    monkeypatch.setattr(turns_tasks, "_replies", replies)
    found = turns_tasks.shown(subject, subject.base.stage, make(subject.told.world))
    assert [text for _, text, _ in found] == ["Ay.", "Ay.", "<|end|>"] * 2
    assert texts[1][1] == "Ay." and len(texts[3]) == 1
