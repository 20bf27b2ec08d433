"""Expanding seeds by a teacher behind an endpoint: what it is asked, what of its answers counts,
and that nothing is asked twice."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command_line import conversation, pysft, read_lines, succeeds
from conftest import ROOT
from test_endpoint import Server, chat, reply

from pysft.jobs.curate.expand import ENOUGH, TRIES
from pysft.jobs.curate.teachers import TOKENS
from pysft.jobs.curate.writers import NEW, SHOWN, SILENT, rows_in
from pysft.measure import wire

SEEDS = [(f"Praise the {thing}", f"The {thing} is fair.") for thing in "abcdefghijklmnop"]


def line(prompt, answer="Ho.", **more):
    return json.dumps({"prompt": prompt, "reply": answer, **more})


class Author(Server):
    """Behaves by its plan, and then answers each question with NEW new rows, named by its number
    and theirs."""

    def seen(self, handler):
        self.plan = self.plan or [self.writes]
        super().seen(handler)

    def writes(self, handler):
        reply(chat(answer_of(number_in(self.bodies[-1]))))(handler)


def number_in(body):
    """The number of a question."""
    return int(re.search(r"Set (\d+) of", json.loads(body)["messages"][1]["content"])[1])


def answer_of(number):
    return "\n".join(line(f"Sing song {number}.{i}") for i in range(NEW))


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """No proxy and no key from outside."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name in wire.KEY_VARIABLES:
            monkeypatch.delenv(name)


@pytest.fixture
def author(workdir):
    workdir.write("seeds.jsonl", [conversation(*pair) for pair in SEEDS])
    server = Author()
    yield server
    server.stop()


def flags(author, *more, out="out.jsonl"):
    url = ("--teacher", author.url, "--teacher-model", "big", "--out", out)
    return ("curate", "expand", "seeds.jsonl", *url, *more)


def expand(author, *more, out="out.jsonl"):
    """(the document, the rows) of a command that must succeed."""
    return succeeds(*flags(author, *more, "--json", out=out)).document, read_lines(out)


# ----------------------------------------------------------------------------------- what is asked


def test_a_question_shows_some_seeds_and_asks_for_new_rows(author):
    found, rows = expand(author, "--rows", "12", "--seed", "4")
    assert len(author.bodies) == 3 and len(rows) == found["written"] == found["tries"] == 12
    assert found["endpoint"]["calls"] == 3 and found["stopped_by"] == "rows"
    assert (found["copied"], found["distinct_prompts"], found["read"]) == (0, 12, len(SEEDS))
    shown = []
    for number, body in enumerate(map(json.loads, author.bodies), 1):
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 1, TOKENS)
        task, examples = (m["content"] for m in body["messages"])
        assert f"Write {NEW} new ones" in task and '{"prompt": ..., "reply": ...}' in task
        seen = [json.loads(row) for row in examples.splitlines() if row.startswith("{")]
        shown.append([SEEDS.index((row["prompt"], row["reply"])) + 1 for row in seen])
        assert len(set(shown[-1])) == SHOWN
        assert number_in(author.bodies[number - 1]) == number
    assert len(set(map(tuple, shown))) == 3
    for n, row in enumerate(rows):
        assert row["messages"][0]["content"] == f"Sing song {n // NEW + 1}.{n % NEW}"
        assert row["metadata"]["steps"] == [
            {
                "step": "expand", "by": author.url, "model": "big", "seed": 4, "number": n + 1,
                "seeds": shown[n // NEW],
            }
        ]  # fmt: skip


def test_two_seeds_make_as_many_questions_as_are_needed(author, workdir):
    workdir.write("seeds.jsonl", [conversation(*pair) for pair in SEEDS[:2]])
    found, rows = expand(author, "--rows", "60")
    assert len(rows) == found["tries"] == 60 and len(set(author.bodies)) == 12


def test_nothing_is_asked_twice_and_another_seed_asks_anew(author):
    found, _ = expand(author, "--rows", "20")
    again, _ = expand(author, "--rows", "20", out="again.jsonl")
    assert Path("again.jsonl").read_bytes() == Path("out.jsonl").read_bytes()
    assert len(author.bodies) == 4 == again["endpoint"]["cached"] and not again["endpoint"]["calls"]
    assert found | {"out": "", "endpoint": {}} == again | {"out": "", "endpoint": {}}
    assert expand(author, "--rows", "30", out="more.jsonl")[0]["endpoint"]["calls"] == 2
    expand(author, "--rows", "20", "--seed", "1", out="other.jsonl")
    assert len(author.bodies) == 10


def test_a_killed_command_asks_nothing_twice(author, workdir):
    """Only the question whose answer had not come when the process died is asked again."""

    def kill(handler):
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    def started():
        return subprocess.Popen(
            [sys.executable, "-m", "pysft", *flags(author, "--rows", "50", "--json")],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    author.plan = [reply(chat(answer_of(n))) for n in range(1, 7)] + [kill]
    process = started()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and not Path("out.jsonl").exists()
    assert list(map(number_in, author.bodies)) == list(range(1, 8))
    process = started()
    document = json.loads(process.communicate(timeout=60)[0])
    assert document["written"] == 50 == len(read_lines("out.jsonl"))
    assert (document["endpoint"]["calls"], document["endpoint"]["cached"]) == (4, 6)
    times = Counter(map(number_in, author.bodies))
    assert times == {**dict.fromkeys(range(1, 11), 1), 7: 2}


# ------------------------------------------------------------------------------- what of it counts


GOOD = line("Hi")


@pytest.mark.parametrize(
    "answer, rows",
    [
        (GOOD, [("Hi", "Ho.")]),
        (f"Here are two:\n```json\n{GOOD},\n\n  {line('Go')}\n```", [("Hi", "Ho."), ("Go", "Ho.")]),
        (f"{GOOD}\n{GOOD[:-4]}", [("Hi", "Ho."), None]),
        (
            f'{GOOD}\n{{"prompt": "Hi"}}\n{line(3)}\n{line("x", ["y"])}',
            [("Hi", "Ho."), *[None] * 3],
        ),
        (line(" Hi ", "Ho.\n", topic="x"), [("Hi", "Ho.")]),
    ],
)
def test_an_answer_is_read_line_by_line(answer, rows):
    assert rows_in(answer) == rows


@pytest.mark.parametrize(
    "answer", ["", "Hi", "[1]", f"[{GOOD}]", '{"prompt": 1}', "{" * 9000, "null", '{"a": ' * 9000]
)
def test_an_answer_without_a_row_is_refused(answer):
    with pytest.raises(ValueError, match="expected lines of JSON"):
        rows_in(answer)


def test_unusable_rows_of_a_good_answer_are_dropped_and_counted(author):
    bad = [line(""), line("Hi", " "), line("<|user|>"), line("a", "b<|end|>"), line("\ud800")]
    author.plan = [reply(chat("\n".join([GOOD, *bad, '{"prompt"', GOOD, line(*SEEDS[0])])))]
    found, rows = expand(author, "--rows", "3")
    asked = [row["messages"][0]["content"] for row in rows]
    assert asked == ["Hi", "Sing song 2.0", "Sing song 2.1"]
    dropped = {"no end": 0, "form": 6, "copy of a seed": 1, "duplicate": 1}
    assert found["dropped"] == dropped and found["tries"] == 11
    assert found["copied"] == 1 / 5
    assert rows[1]["metadata"]["steps"][0]["number"] == 10


def test_an_answer_of_another_form_is_asked_for_again_and_the_asker_says_it(author):
    author.plan = [reply(chat("I cannot."))]
    done = succeeds(*flags(author, "--rows", "5"))
    assert "is not in the form that is wanted (expected lines of JSON" in done.out
    assert author.bodies[0] == author.bodies[1] and len(author.bodies) == 2


def test_a_model_that_never_answers_in_rows_is_given_up(author, workdir):
    author.plan = [reply(chat("I cannot."))] * 100
    done = pysft(*flags(author, "--rows", "5"))
    assert done.code == 65 and not Path("out.jsonl").exists()
    assert f"big: {SILENT} questions in a row have no answer in lines of JSON" in done.err
    assert len(author.bodies) == 3 * SILENT


def test_a_few_questions_without_an_answer_are_left_out(author):
    author.plan = [reply(chat("I cannot."))] * 3 * (SILENT - 1)
    found, rows = expand(author, "--rows", "5")
    assert len(rows) == 5 and found["endpoint"]["left_out"] == SILENT - 1
    assert rows[0]["messages"][0]["content"] == f"Sing song {SILENT}.0"


def test_an_answer_without_room_to_begin_does_not_stop_it_and_is_not_asked_for_again(author):
    author.plan = [reply(chat("", "length"))] * 3
    for out in ("out.jsonl", "again.jsonl"):
        found, rows = expand(author, "--rows", "5", out=out)
        assert len(rows) == 5 and found["endpoint"]["left_out"] == 1
    assert len(author.bodies) == 4


# ------------------------------------------------------------------------------------ when it stops


def test_a_teacher_that_copies_is_refused_before_all_calls_are_made(author):
    # Three of five rows are seeds.
    copies = [line(*SEEDS[0]), line(SEEDS[1][0] + " ", SEEDS[1][1]), line(*SEEDS[2])]
    author.plan = [reply(chat("\n".join([*copies, line(f"Song {n}"), line(f"Ode {n}")])))
                   for n in range(300)]  # fmt: skip
    text = pysft(*flags(author, "--rows", "500")).err
    assert f"the teacher copies its seeds (60% of {ENOUGH} rows)" in text
    assert len(author.bodies) == ENOUGH / 5 and not Path("out.jsonl").exists()
    found, _ = expand(author, "--rows", "20", "--most-copied", "0.6")
    assert found["copied"] == 0.6 and len(author.bodies) == ENOUGH / 5  # all from the cache


def test_a_few_rows_are_refused_too_if_most_are_copies(author):
    author.plan = [reply(chat("\n".join([line(*SEEDS[0]), line(*SEEDS[1]), GOOD])))]
    text = pysft(*flags(author, "--rows", "1")).err
    assert "copies its seeds (67% of 3 rows)" in text and not Path("out.jsonl").exists()


def test_near_decides_which_rows_are_copies(author):
    row = line(SEEDS[1][0] + ", o!", "The b is fair, o fair!")
    for near, copied in (("0.3", 1), ("1", 0)):
        author.plan = [reply(chat(row))]
        more = ("--near", near, "--rows", "2", "--teacher-cache", f"near{near}")
        found, _ = expand(author, *more, out=f"near{near}.jsonl")
        assert found["dropped"]["copy of a seed"] == copied


def test_the_budget_ends_it_and_what_came_is_written(author):
    done = succeeds(*flags(author, "--rows", "50", "--teacher-budget", "3", "--json"))
    assert done.document["stopped_by"] == "budget" and len(read_lines("out.jsonl")) == 15
    assert "15 of 50 rows were written: the budget of 3 calls is used up" in done.err
    assert "another --out goes on from the answers in taught" in done.err
    found, rows = expand(author, "--rows", "50", "--teacher-budget", "7", out="whole.jsonl")
    assert found["stopped_by"] == "rows" and len(rows) == 50 and len(set(author.bodies)) == 10
    assert rows[:15] == read_lines("out.jsonl")


def test_a_budget_that_brings_no_row_is_an_error(author):
    author.plan = [reply(chat("I cannot."))] * 2
    text = pysft(*flags(author, "--teacher-budget", "2")).err
    assert "the budget of 2 calls is used up" in text and not Path("out.jsonl").exists()


def test_a_model_that_repeats_itself_is_stopped(author):
    author.plan = [reply(chat(f"{GOOD}\n{line('Go')}"))] * 100
    found, rows = expand(author, "--rows", "10")
    assert found["tries"] == TRIES * 10 and len(rows) == 2 and found["stopped_by"] == "tries"


def test_an_endpoint_that_fails_leaves_its_answers_and_no_file(author, workdir):
    author.plan = [reply(chat(answer_of(1))), reply("no such model", 404)]
    done = pysft(*flags(author, "--rows", "50"))
    assert done.code == 1 and "status 404" in done.err and not Path("out.jsonl").exists()
    found, rows = expand(author, "--rows", "10")
    assert (found["endpoint"]["calls"], found["endpoint"]["cached"]) == (1, 1) and len(rows) == 10


def test_the_key_is_in_no_row(author, monkeypatch):
    monkeypatch.setenv(wire.KEY_VARIABLES[0], "sk-test-0123456789")
    expand(author, "--rows", "5")
    assert author.keys == ["Bearer sk-test-0123456789"]
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert len(files) >= 3 and not any(b"0123456789" in path.read_bytes() for path in files)
