"""Judges beside the exact one: a function in a file, and a model behind an endpoint."""

import json

import pytest
from chat_server import ChatServer
from command_line import refusal, succeeds

from pysft.errors import DataError, MissingInput, UsageError
from pysft.measure.judges import compared, judge_named, judge_rows, verdict_in

RIGHT_IF_SAME = (
    "def judge(question, answer, reply):\n    return 'right' if reply == answer else 'wrong'\n"
)


def row(reply, verdict, stop="end"):
    """A sealed question with its reply, as world_figures() returns it."""
    return {"prompt": "Q?", "answer": "A.", "reply": reply, "stop": stop, "verdict": verdict}


# ------------------------------------------------------------------------------ what a judge says


@pytest.mark.parametrize(
    "text, verdict",
    [
        ("right", "right"), ("Wrong.", "wrong"), ("**refused**\n", "refused"),
        ("The reply is empty.\n\nVerdict: malformed", "malformed"), ("wrong, wrong", "wrong"),
    ],
)  # fmt: skip
def test_the_last_line_of_an_answer_holds_the_verdict(text, verdict):
    assert verdict_in(text) == verdict


@pytest.mark.parametrize(
    "text", ["", "   ", "yes", "right or wrong", "not right", "right\nI think so", "rightly", "1"]
)
def test_an_answer_without_one_verdict_is_refused(text):
    with pytest.raises(ValueError, match="expected one of right, wrong, refused, malformed"):
        verdict_in(text)


def test_a_judge_is_compared_with_the_exact_one():
    verdicts = iter(["right", "wrong", None, "wrong"])
    asked = [row("A.", "right"), row("B.", "right"), row("C.", "wrong"), row("", "malformed")]
    found = compared(lambda *texts: next(verdicts), asked)
    assert found == {
        **{"judged": 3, "left_out": 1, "agreement": 1 / 3},
        **{"right": 1 / 3, "wrong": 2 / 3, "refused": 0, "malformed": 0},
        "differences": {"right -> wrong": 1, "malformed -> wrong": 1},
    }
    printed = dict(judge_rows(found))
    assert printed["the other judge"] == "agrees with the exact one on 33.3% of 3 replies"
    assert printed["  where not"] == "1 right -> wrong, 1 malformed -> wrong"
    assert printed["  left out"] == "1"


def test_a_judge_that_says_nothing_has_no_agreement():
    found = compared(lambda *texts: None, [row("A.", "right")])
    assert (found["judged"], found["left_out"], found["agreement"]) == (0, 1, None)
    assert dict(judge_rows(found))["the other judge"].endswith("- of 0 replies")


def test_a_judge_sees_whether_a_reply_was_cut_off():
    seen = []
    asked = [row("A", "right"), row("B", "malformed", "length")]
    compared(lambda question, answer, reply: seen.append((question, answer, reply)), asked)
    assert seen == [("Q?", "A.", "A"), ("Q?", "A.", "B [cut off]")]


# --------------------------------------------------------------------------- a function in a file


def test_a_file_has_a_function_judge(tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT_IF_SAME)
    judge = judge_named(str(tmp_path / "mine.py"), None, None, tmp_path, print)
    assert judge("Q?", "A.", "A.") == "right" and judge("Q?", "A.", "B.") == "wrong"


@pytest.mark.parametrize(
    "content, error, said",
    [
        (None, MissingInput, "no such file"),
        ("judge = 3", DataError, "it has no function judge"),
        ("def f(", DataError, "SyntaxError"),
        ("import nothing_such", DataError, "ModuleNotFoundError"),
        ("def judge(q, a, r): return 'good'", DataError, "returned 'good', expected one of right"),
        ("def judge(q, a, r): return r[9]", DataError, "raised IndexError"),
        ("def judge(q): return 'right'", DataError, "raised TypeError"),
    ],
)
def test_a_file_that_is_no_judge_is_refused_in_one_sentence(tmp_path, content, error, said):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=said) as found:
        judge_named(str(path), None, None, tmp_path, print)("Q?", "A.", "B.")
    assert str(path) in str(found.value) and "\n" not in str(found.value)


def test_flags_of_an_endpoint_are_for_an_endpoint(tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT_IF_SAME)
    for model, budget in (("x", None), (None, 3)):
        with pytest.raises(UsageError, match="are for the URL of an endpoint"):
            judge_named(str(tmp_path / "mine.py"), model, budget, tmp_path, print)
    with pytest.raises(UsageError, match="needs the model's name too: --judge-model NAME"):
        judge_named("http://localhost:1/v1", None, None, tmp_path, print)


# -------------------------------------------------------------------------- a model at an endpoint


@pytest.fixture
def server():
    """A judge that calls every reply right that is the true answer. It counts its calls."""

    def reply(messages, before):
        lines = dict(x.split(": ", 1) for x in messages[1]["content"].splitlines()[:3])
        return "right" if lines.get("Reply") == lines["True answer"] else "wrong"

    server = ChatServer(reply)
    yield server.url, server.asked
    server.stop()


def test_an_endpoint_is_asked_once_for_each_reply(server, tmp_path):
    url, asked = server
    judge = judge_named(url, "big", None, tmp_path / "judged", print)
    assert judge("Q?", "A toad.", "A toad.") == "right"
    assert judge("Q?", "A toad.", "A cat.") == "wrong"
    assert judge("Q?", "A toad.", "A toad.") == "right" and len(asked) == 2
    again = judge_named(url, "big", None, tmp_path / "judged", print)
    assert again("Q?", "A toad.", "A cat.") == "wrong" and len(asked) == 2
    assert asked[0]["model"] == "big" and asked[0]["temperature"] == 0
    assert asked[0]["messages"][0]["content"].startswith("You grade the reply")
    assert (
        asked[0]["messages"][1]["content"] == "Question: Q?\nTrue answer: A toad.\nReply: A toad."
    )


def test_eval_prints_how_far_another_judge_agrees(world_run, server, tmp_path, monkeypatch):
    folder, report = world_run
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(RIGHT_IF_SAME)
    by_file = succeeds("eval", folder, "--judge", "mine.py", "--json").document
    sealed = json.loads((folder / "sft" / "world.json").read_text())
    assert by_file["judge"]["judged"] == len(sealed) and by_file["world"] == report["world"]
    url, asked = server
    flags = ("--judge", url, "--judge-model", "big")
    with_model = succeeds("eval", folder, *flags)
    assert "the other judge" in with_model.out
    calls = len(asked)
    assert 0 < calls <= len(sealed)  # the same reply to the same question is asked once
    assert succeeds("eval", folder, *flags, "--json").document["judge"]["judged"] == len(sealed)
    assert len(asked) == calls


def test_a_budget_keeps_what_was_judged(world_run, server, tmp_path, monkeypatch):
    folder, _ = world_run
    monkeypatch.chdir(tmp_path)
    url, asked = server
    flags = ("--judge", url, "--judge-model", "big", "--judge-budget", "5")
    assert "budget" in refusal(1, "eval", folder, *flags)
    assert len(asked) == 5
    assert "budget" in refusal(1, "eval", folder, *flags)
    assert len(asked) == 10 and len({json.dumps(body) for body in asked}) == 10


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--judge-model", "x"), "need --judge URL"),
        (("--judge-budget", "3"), "need --judge URL"),
    ],
)
def test_flags_of_a_judge_need_a_judge(world_run, flags, said):
    assert said in refusal(2, "eval", world_run[0], *flags)


def test_a_run_that_learned_no_world_has_no_truth_to_measure_a_judge_by(trained, tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT_IF_SAME)
    said = refusal(2, "eval", trained.run, "--judge", tmp_path / "mine.py")
    assert "it is not a tuned model that learned an invented world" in said
