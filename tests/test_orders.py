"""Sampled replies are put in order by a person or by somebody else, and no order is ever lost."""

import io
import json
import os
import sys
from dataclasses import replace

import pytest
from command_line import pysft, read_lines, refusal, sentence, succeeds

from pysft import disk
from pysft.errors import UsageError
from pysft.measure.orders import Rankings, rank_all, rank_by_person
from pysft.measure.raters import Rater, instructions, rater_named
from pysft.text.preferences import scan_rankings
from pysft.text.ranking import Ranking
from pysft.text.sampled import Sampled
from pysft.world.ask import questions
from pysft.world.facts import WorldSettings, make

BEST = {"good": 1, "fair": 2, "bad": 3}  # what the person of these tests thinks of a reply


def said(text):
    return [{"role": "user", "content": text}]


def items(count, replies=("bad", "good", "fair")):
    return [Sampled(said(f"Hi {n}"), replies, (True,) * len(replies)) for n in range(count)]


class Person:
    """Types what `plan` says, and else the right order of what is shown. shown: the prompts and
    replies that came on the screen."""

    def __init__(self, *plan):
        self.plan, self.texts, self.shown = list(plan), [], []

    def say(self, text):
        self.texts.append(text)
        if "\nyou> " in text:
            lines = text.strip().splitlines()
            replies = [line.split() for line in lines if line.startswith("  ")]
            self.shown.append((lines[1][5:], {letter: reply for letter, reply, *_ in replies}))

    def ask(self, question):
        if self.plan and (typed := self.plan.pop(0)) is not None:
            if isinstance(typed, type):
                raise typed
            return typed
        letters = self.shown[-1][1]
        return " ".join(sorted(letters, key=lambda letter: BEST[letters[letter]]))


def session(path, person, sampled=None, **more):
    sampled = items(5) if sampled is None else sampled
    return rank_by_person(sampled, path, ask=person.ask, say=person.say, **more)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "r.ratings"


# ---------------------------------------------------------------------------------------- a person


def test_an_order_is_of_the_replies_whatever_letters_they_had(out):
    person = Person()
    found = session(out, person, items(12), seed=1)
    assert (found["rated"], found["left"], found["left_out"]) == (12, 0, 0)
    assert len({tuple(letters.values()) for _, letters in person.shown}) > 3  # shuffled
    assert [prompt for prompt, _ in person.shown] != [f"Hi {n}" for n in range(12)]
    rows = read_lines(out)
    assert all(row["replies"] == ["bad", "good", "fair"] for row in rows)
    assert all(row["ranks"] == [3, 1, 2] and row["labeler"] == "person" for row in rows)
    assert sorted(row["prompt"][0]["content"] for row in rows) == sorted(p for p, _ in person.shown)


def test_the_file_is_one_of_rankings(out):
    session(out, Person("a=b c", "c > a = b"), items(2), labeler="eva")
    found = list(scan_rankings(out))
    assert all(isinstance(row, Ranking) and row.labeler == "eva" for row in found)
    assert [sorted(row.ranks) for row in found] == [[1, 1, 3], [1, 2, 2]]


def test_the_file_says_which_replies_were_cut_off(out):
    cut = [replace(item, ended=(False, True, True)) for item in items(2)]
    session(out, Person(), cut)
    assert [ranking.ended for ranking in scan_rankings(out)] == [(False, True, True)] * 2


def test_the_instructions_come_first(out):
    person = Person("q")
    session(out, person)
    assert person.texts[0].startswith(instructions()) and "u takes the last" in person.texts[0]
    for word in ("Helpful", "Truthful", "Harmless", "tie"):
        assert word in instructions()
    assert "```" not in instructions() and "##" not in instructions()


@pytest.mark.parametrize("end", ["q", EOFError, KeyboardInterrupt])
def test_a_session_goes_on_where_it_stopped(out, end):
    first = session(out, Person(None, None, end))
    assert (first["rated"], first["left"]) == (2, 3)
    person = Person()
    second = session(out, person)
    assert (second["rated"], second["left"]) == (3, 0) and len(person.shown) == 3
    assert len({row["prompt"][0]["content"] for row in read_lines(out)}) == 5
    third = Person()
    assert session(out, third)["rated"] == 0 and third.shown == []


def test_every_order_is_on_the_disk_before_the_next_prompt_is_shown(out):
    seen = []

    class Watching(Person):
        def ask(self, question):
            seen.append(len(read_lines(out)) if out.exists() else 0)
            return super().ask(question)

    session(out, Watching())
    assert seen == [0, 1, 2, 3, 4]


def test_s_skips_and_u_takes_the_last_order_back(out):
    person = Person("u", "s", None, None, "u", "u", "u", None, "q")
    found = session(out, person)
    prompts = [prompt for prompt, _ in person.shown]
    assert prompts[4:6] == [prompts[2], prompts[1]] and "no order to take back" in str(person.texts)
    assert (found["rated"], found["left"]) == (1, 4)
    assert [row["prompt"][0]["content"] for row in read_lines(out)] == [prompts[1]]


def test_an_order_is_not_taken_back_once_another_program_has_written(out):
    class Other(Person):
        def ask(self, question):
            typed = super().ask(question)
            if typed == "u":
                out.write_text(out.read_text() + out.read_text().replace("person", "other"))
            return typed

    person = Other(None, "u", "q")
    session(out, person)
    assert "the last order stays" in str(person.texts) and len(read_lines(out)) == 2


def test_what_is_no_order_is_asked_for_again(out):
    person = Person("x", "", "a b", "a a b", "\uff42\uff1e\uff41\uff1d\uff43", "q")
    assert session(out, person)["rated"] == 1
    assert sum("Type each of A, B, C once" in text for text in person.texts) == 4
    assert len(person.shown) == 2 and sorted(read_lines(out)[0]["ranks"]) == [1, 2, 2]


def test_unusable_and_equal_replies_are_not_shown(out):
    some = [
        Sampled(said("Hi 1"), ("good", "", "good", "bad", "<|end|>"), (True,) * 5),
        Sampled(said("Hi 2"), ("good", "good"), (True, True)),
        Sampled(said("Hi 3"), ("", "fair"), (True, True)),
    ]
    person = Person()
    found = session(out, person, some)
    assert [sorted(letters.values()) for _, letters in person.shown] == [["bad", "good"]]
    assert read_lines(out)[0]["replies"] == ["good", "bad"]
    assert (found["rated"], found["left"], found["left_out"], found["unusable"]) == (1, 0, 2, 3)


def test_the_same_replies_to_a_prompt_are_asked_about_once(out):
    person = Person()
    found = session(out, person, items(2) + items(2, ("fair", "bad", "good")))
    assert len(person.shown) == 2 and found["left"] == 0


def test_a_reply_that_was_cut_off_is_marked(out):
    person = Person("q")
    session(out, person, [Sampled(said("Hi"), ("good", "bad"), (True, False))])
    assert "bad [cut off]" in str(person.texts) and "good [cut off]" not in str(person.texts)


def test_two_people_are_compared(out):
    session(out, Person(), labeler="ann")
    found = session(out, Person("a=b=c"), labeler="ben")
    assert (found["rated"], found["pairs"], found["comparisons"]) == (5, 12, 12)
    assert found["agreed"] == 12
    assert [(row["labeler"], row["judged"]) for row in found["labelers"]] == [
        ("ann", 15), ("ben", 12),
    ]  # fmt: skip
    assert found["all_tie"] == 1


# --------------------------------------------------------------------------------- damaged files


ROW = {"prompt": said("Hi 0"), "replies": ["bad", "good", "fair"], "ranks": [3, 1, 2]}
ROW |= {"labeler": "person"}


@pytest.mark.parametrize("cut", [1, 5, 11, 30, len(json.dumps(ROW)) - 1])
def test_half_a_line_of_a_crash_is_removed(out, cut):
    out.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW).replace("Hi 0", "Hi 1")[:cut])
    assert session(out, Person())["rated"] == 4
    assert len(read_lines(out)) == 5 and len(list(scan_rankings(out))) == 5


def test_a_line_that_lacks_only_its_end_counts(out):
    out.write_text(json.dumps(ROW))
    assert session(out, Person())["rated"] == 4
    assert [row["prompt"] for row in read_lines(out)].count(said("Hi 0")) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"my diary", b"my diary\n", b'{"prompt": "Hi", "replies": ["a", "b"]}\n', b"\xff\x00\xfe",
        json.dumps(ROW | {"ranks": [1]}).encode() + b"\n",
        json.dumps(ROW | {"labeler": [1]}).encode() + b"\n", b"[1]\n", b"3\n",
    ],
)  # fmt: skip
def test_another_file_is_refused_and_stays(out, content):
    out.write_bytes(content)
    with pytest.raises(UsageError, match="something else than rankings.*--out"):
        session(out, Person())
    assert out.read_bytes() == content


def test_a_place_that_cannot_be_written_is_refused_before_anybody_types(tmp_path):
    for place in (tmp_path, tmp_path / "none" / "r.jsonl"):
        person = Person()
        with pytest.raises(UsageError, match="--out"):
            session(place, person)
        assert person.texts == []


# ---------------------------------------------------------------------------------- somebody else

SETTINGS = WorldSettings(people=20, days=0, tellings=(4,))


def asked_of_world(count=60):
    some = questions(make(SETTINGS), "reward")[:count]
    return [
        Sampled(said(q.prompt), (q.answer, "I know not that name.", "Xq zr."), (True,) * 3, "w")
        for q in some
    ]


def test_labelers_agree_in_the_document_and_the_exact_judge_is_right(tmp_path):
    some = asked_of_world()
    found = rank_all(some, tmp_path / "l.jsonl", rater_named("labelers", SETTINGS))
    assert (found["rated"], found["left"], found["left_out"]) == (len(some), 0, 0)
    assert [row["labeler"] for row in found["labelers"]] == ["ann", "ben", "cora", "lena"]
    rows = read_lines(tmp_path / "l.jsonl")
    assert len(rows) == len(some) + -(-len(some) // 10)
    assert 0 < found["agreed"] <= found["comparisons"] and rows[0]["source"] == "w"
    exact = rank_all(some, tmp_path / "w.jsonl", rater_named("world", SETTINGS))
    assert all(row["ranks"][2] == 3 for row in read_lines(tmp_path / "w.jsonl"))
    assert exact["comparisons"] == 0


def test_an_error_keeps_the_orders_before_it_and_the_same_command_adds_the_rest(tmp_path):
    some, whole = asked_of_world(), tmp_path / "whole.jsonl"
    rank_all(some, whole, rater_named("labelers", SETTINGS, seed=4))
    usual = rater_named("labelers", SETTINGS, seed=4)

    def failing(prompt, replies, ended, number):
        if number == 13:
            raise KeyboardInterrupt
        return usual.rank(prompt, replies, ended, number)

    part = tmp_path / "part.jsonl"
    with pytest.raises(KeyboardInterrupt):
        rank_all(some, part, Rater(usual.names, failing))
    assert read_lines(part) == read_lines(whole)[:15]  # prompts 0 and 10 went to two
    # A crash between the two lines of one prompt: only the second one is added again.
    part.write_text("".join(part.read_text().splitlines(True)[:12]))
    assert rank_all(some, part, usual)["rated"] == len(some) - 10
    assert sorted(map(str, read_lines(part))) == sorted(map(str, read_lines(whole)))
    assert rank_all(some, part, usual)["rated"] == 0


def test_orders_that_cost_something_are_saved_one_by_one(tmp_path, monkeypatch):
    for is_costly, times in ((True, 5), (False, 1)):
        saved, append = [], disk.append
        monkeypatch.setattr(disk, "append", lambda path, text: saved.append(append(path, text)))
        rater = Rater(lambda n: ("x",), lambda *given: [("x", (3, 1, 2))], is_costly)
        rank_all(items(5), tmp_path / f"{is_costly}.jsonl", rater)
        monkeypatch.undo()
        assert len(saved) == times


def test_a_file_of_rankings_gives_them_back(out):
    session(out, Person(), items(2))
    before = Rankings(out).rankings()
    assert [(r.replies, r.ranks) for r in before] == [
        (r.replies, r.ranks) for r in scan_rankings(out)
    ]


# ------------------------------------------------------------------------------------ the command


@pytest.fixture
def replies(workdir):
    rows = [
        {"prompt": f"Hi {name}", "replies": ["eee", "a", "ee"]} for name in ("Ann", "Bob", "Eve")
    ]
    return workdir.write("r.jsonl", rows)


def test_rate_reads_what_a_person_types(replies, workdir, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a b c\nc=a b\nq\n"))
    found = succeeds("rate", "r.jsonl", "--seed", "1", "--json")
    assert found.document | {"labelers": None} == {
        **{"rankings": "r.jsonl.ratings", "rated": 2, "left": 1, "left_out": 0, "unusable": 0},
        **{"all_tie": 0, "pairs": 0, "comparisons": 0, "agreed": 0, "labelers": None},
    }
    assert "1. Helpful" in found.err and "order> " in found.err
    monkeypatch.setattr(sys, "stdin", io.StringIO("c a b\n"))
    again = succeeds("rate", "r.jsonl", "--labeler", "person")
    assert "1 prompts rated now, 0 left" in again.out and "audit r.jsonl.ratings" in again.out
    assert len(read_lines("r.jsonl.ratings")) == 3


@pytest.mark.parametrize("given", ["", None], ids=["empty", "closed"])
def test_rate_without_input_ends_and_writes_nothing(replies, workdir, monkeypatch, given):
    monkeypatch.setattr(sys, "stdin", given if given is None else io.StringIO(given))
    found = succeeds("rate", "r.jsonl", "--json").document
    assert (found["rated"], found["left"]) == (0, 3) and workdir.is_unchanged()


def test_rate_lets_a_function_rank_and_the_file_can_be_audited(replies, workdir):
    workdir.write("mine.py", "def f(prompt, replies):\n    return [r.count('e') for r in replies]")
    found = succeeds("rate", "r.jsonl", "--by", "mine.py:f", "--out", "o.jsonl", "--json").document
    assert (found["rankings"], found["rated"]) == ("o.jsonl", 3)
    assert [row["ranks"] for row in read_lines("o.jsonl")] == [[1, 3, 2]] * 3
    assert "9; 0 more tie" in succeeds("audit", "o.jsonl").out
    again = succeeds("rate", "r.jsonl", "--by", "mine.py:f", "--out", "o.jsonl", "--json").document
    assert (again["rated"], again["left"]) == (0, 0)


def test_a_world_s_questions_are_sampled_for_and_ranked(world_run, workdir):
    run = world_run[0]
    succeeds("generate", run, "--prompts", "world:reward", "-k", "9", "--out", "asked.jsonl")
    for by in ("world", "labelers"):
        flags = ("--by", by, "--run", run, "--out", f"{by}.jsonl", "--seed", "2", "--json")
        found = succeeds("rate", "asked.jsonl", *flags).document
        assert found["rated"] + found["left_out"] == len(read_lines("asked.jsonl"))
        assert found["left"] == 0 and found["unusable"] > 0
    before = read_lines("labelers.jsonl")
    os.remove("labelers.jsonl")
    succeeds("rate", "asked.jsonl", *flags)
    assert read_lines("labelers.jsonl") == before


@pytest.mark.parametrize(
    "flags, code, expected",
    [
        (("--by", "world"), 2, "--by world needs the run"),
        (("--by", "mine.py:g"), 65, "it has no function g(prompt, replies)"),
        (("--by", "none.py:f"), 66, "none.py: no such file"),
        (("--by", "mine.py"), 2, "FILE.py:function"),
        (("--by", "mine.py:f", "--run", "x"), 2, "--run names the world"),
        (("--by", "mine.py:f", "--labeler", "me"), 2, "name of a person"),
        (("--by", "mine.py:f", "--judge-model", "x"), 2, "URL of an endpoint"),
        (("--by", "http://localhost:1/v1"), 2, "--judge-model NAME"),
        (("--by", "mine.py:f", "--out", "r.jsonl"), 2, "something else than rankings"),
        (("--by", "nobody"), 66, "no such folder"),
        (("--run", "x"), 2, "--run needs --by"),
        (("--judge-budget", "3"), 2, "--judge-budget needs --by"),
        (("--steps", "3"), 2, "--steps is for a run's folder"),
        (("--prompts", "3"), 2, "--prompts is for a run's folder"),
    ],
)
def test_flags_that_do_not_fit_are_one_sentence(replies, workdir, flags, code, expected):
    workdir.write("mine.py", "def f(prompt, replies):\n    return [0 for r in replies]")
    assert expected in refusal(code, "rate", "r.jsonl", *flags)
    assert workdir.is_unchanged()


def test_a_prompt_of_no_world_ends_the_command_with_65(world_run, replies):
    result = pysft("rate", "r.jsonl", "--by", "world", "--run", world_run[0])
    assert result.code == 65 and "'Hi Ann' is no question of this world" in sentence(result)


def test_a_file_without_replies_or_rows_says_how_to_make_one(workdir, trained):
    assert "generate RUN --prompts" in refusal(66, "rate", "none.jsonl")
    workdir.write("empty.jsonl", "")
    assert "no row in it" in refusal(65, "rate", "empty.jsonl")
    workdir.write("pairs.jsonl", '{"prompt": "Hi", "chosen": "a", "rejected": "b"}\n')
    assert "an order already" in refusal(65, "rate", "pairs.jsonl")
    for flag in (("--by", "world"), ("--out", "x"), ("--labeler", "me")):
        assert "a folder" in refusal(2, "rate", trained.run, *flag)
