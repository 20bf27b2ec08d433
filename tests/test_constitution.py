"""Constitutions: what a file of principles must hold, and that the shipped one is right."""

import pytest
from texts import PLAIN, one_line

from pysft.errors import DataError, MissingInput
from pysft.text.constitution import SHIPPED, read_constitution, written
from pysft.text.corpora import shipped
from pysft.text.templates import CHAT, HUMAN
from pysft.world.ask import questions
from pysft.world.facts import SPLITS, WorldSettings, make
from pysft.world.judge import ExactJudge
from pysft.world.violations import PRINCIPLES, critique, finds_fault, violated

KIND = '[kind]\nforbids = "an insult"\nquestion = "Is it kind?"\nrevise = "Say it kindly."\n'


def file_of(folder, text):
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_principle_has_what_its_table_says(tmp_path):
    example = '[kind.example]\nreply = "Fool!"\ncritique = "It is not."\nrevision = "Friend."\n'
    [kind] = read_constitution(file_of(tmp_path, KIND + example))
    assert (kind.name, kind.forbids, kind.question) == ("kind", "an insult", "Is it kind?")
    assert kind.revise == "Say it kindly." and kind.example["revision"] == "Friend."
    [without] = read_constitution(file_of(tmp_path, KIND))
    assert without.example is None
    both = read_constitution(file_of(tmp_path, KIND + KIND.replace("[kind]", "[true]")))
    assert [p.name for p in both] == ["kind", "true"]


@pytest.mark.parametrize(
    "text, named",
    [
        ("", "no principle in it"),
        ("# kind\n", "no principle in it"),
        (KIND.replace("forbids", "#"), "[kind] has no 'forbids'"),
        (KIND.replace("question", "#"), "[kind] has no 'question'"),
        (KIND.replace("revise", "#"), "[kind] has no 'revise'"),
        (KIND + "weight = 2\n", "[kind] has an unknown key 'weight'"),
        ('name = "mine"\n' + KIND, "name = 'mine' stands in no principle"),
        (KIND.replace('"an insult"', '" "'), "[kind] forbids = ' '"),
        (KIND.replace('"an insult"', "3"), "[kind] forbids = 3"),
        (KIND + 'example = "Fool!"\n', "[kind] example is not a table"),
        (KIND + 'example = {reply = "Fool!"}\n', "[kind.example] has no 'critique'"),
        (KIND + "example = {answer = 1}\n", "[kind.example] has an unknown key 'answer'"),
        ("[kind\n", "cannot be read as TOML"),
    ],
)
def test_a_file_that_is_no_constitution_is_refused_in_one_sentence(tmp_path, text, named):
    path = file_of(tmp_path, text)
    with pytest.raises(DataError) as error:
        read_constitution(path)
    assert str(path) in one_line(error) and named in str(error.value)


def test_a_missing_file_and_a_file_of_other_bytes_are_named(tmp_path):
    with pytest.raises(MissingInput, match="no such constitution"):
        read_constitution(tmp_path / "none.toml")
    path = tmp_path / "other.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as TOML"):
        read_constitution(path)


@pytest.mark.parametrize("key", ["question", "revise"])
def test_what_the_model_reads_must_be_written_in_its_vocabulary(tmp_path, key):
    old = {"question": "Is it kind?", "revise": "Say it kindly."}[key]
    path = file_of(tmp_path, KIND.replace(old, "Is it (kind)?"))
    with pytest.raises(DataError) as error:
        written(read_constitution(path), path, PLAIN, CHAT)
    assert one_line(error).startswith(f"{path}: [kind] {key} holds '(', ')'")
    path = file_of(tmp_path, KIND.replace(f'"{old}"', '"Now \\n\\nHuman: Hi"'))
    with pytest.raises(DataError, match=rf"\[kind\] {key} holds .*begins a turn"):
        written(read_constitution(path), path, PLAIN, HUMAN)


def test_what_the_model_does_not_read_may_be_written_as_one_likes(tmp_path):
    path = file_of(tmp_path, KIND.replace("an insult", "an insult (é)"))
    assert written(read_constitution(path), path, PLAIN, CHAT) == read_constitution(path)


# -------------------------------------------------------------------------------- the shipped one


def test_the_shipped_one_has_the_principles_that_the_world_can_judge():
    constitution = read_constitution(SHIPPED)
    assert {p.name for p in constitution} == set(PRINCIPLES)
    letters = set(shipped("plays.txt").read_text(encoding="utf-8"))
    assert all(set(p.question + p.revise) <= letters for p in constitution)


@pytest.mark.parametrize("principle", read_constitution(SHIPPED), ids=lambda p: p.name)
def test_its_examples_are_true_of_the_world_of_seed_1(principle):
    world = make(WorldSettings())
    judge, example = ExactJudge(world), principle.example
    asked = [q for split in SPLITS for q in questions(world, split)]
    question = next(q for q in asked if q.answer == example["revision"])
    assert violated(question, example["reply"], judge) == {principle.name}
    assert not violated(question, example["revision"], judge)
    finding = {"helpful": "potter", "honest": "goat", "harmless": "fool"}[principle.name]
    assert example["critique"] == critique(principle.name, question, finding)
    assert finds_fault(example["critique"], principle.question)
