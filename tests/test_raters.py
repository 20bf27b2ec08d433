"""Whoever ranks replies: the world's judge and labelers, a reward model, a file, an endpoint."""

import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from chat_server import ChatServer
from command_line import pysft, read_lines, refusal, succeeds

from pysft.errors import DataError, MissingInput, UsageError
from pysft.measure.endpoint import EndpointError
from pysft.measure.raters import instructions, ranks_in, ranks_typed, rater_named
from pysft.nn.model import GPT
from pysft.run.stage import load_stage, save_stage
from pysft.world.ask import questions
from pysft.world.facts import WorldSettings, make
from pysft.world.labelers import LABELERS, RIGHT, turn

SETTINGS = WorldSettings(people=30, days=8, tellings=(0, 4))
ASKED = questions(make(SETTINGS), "reward")
KNOWN = [q for q in ASKED if q.value]
UNKNOWN = [q for q in ASKED if not q.value]
REFUSED = "I know not that name."


def said(text):
    return [{"role": "user", "content": text}]


def hold(rater, prompt, replies, ended=None, number=0):
    return rater.rank(prompt, replies, ended or [True] * len(replies), number)


# ------------------------------------------------------------------------------ orders as text


@pytest.mark.parametrize(
    "text, ranks",
    [
        ("A > B > C", (1, 2, 3)), ("B > A = C", (2, 1, 2)), ("C=B=A", (1, 1, 1)),
        ("B = C > A", (3, 1, 1)), ("A is false.\n\n**C>A>B**\n", (2, 3, 1)),
    ],
)  # fmt: skip
def test_the_last_line_holds_the_order(text, ranks):
    assert ranks_in(text, 3) == ranks


@pytest.mark.parametrize(
    "text",
    [
        "", "A > B", "A > B > B", "A > B > C > A", "A > B > D", "A, B, C", "A B C", "a > b > c",
        "A > B > C.\nI hope so", "The order is A > B > C", "A >> B > C", "> A > B > C", "C < B < A",
    ],
)  # fmt: skip
def test_what_is_not_wholly_an_order_is_refused(text):
    with pytest.raises(ValueError, match="in its last line"):
        ranks_in(text, 3)


@pytest.mark.parametrize("text", ["b a=c", "B > A = C", "ba=c", "b, a=c", " B  a = c ", "b>c=a"])
def test_a_person_may_type_less(text):
    assert ranks_typed(text, 3) == (2, 1, 2)


@pytest.mark.parametrize("text", ["", "a", "a b", "a b c d", "a=a b c", "1 2 3", "c < b < a", "a>"])
def test_what_a_person_types_must_name_each_reply_once(text):
    with pytest.raises(ValueError):
        ranks_typed(text, 3)


# ------------------------------------------------------------------------ those who know the truth


def test_the_judge_ranks_by_truth_and_by_ends():
    q = KNOWN[0]
    replies = ["Xq zr.", REFUSED, q.answer, q.answer.rstrip(".") + " ", q.answer + " Ha"]
    [(name, ranks)] = hold(rater_named("world", SETTINGS), said(q.prompt), replies[:3])
    assert (name, ranks) == ("world", (3, 2, 1))
    cut = hold(rater_named("world", SETTINGS), said(q.prompt), replies[:3], [True, True, False])
    assert cut == [("world", (2, 1, 2))]  # cut off, so as bad as babble


def test_a_refusal_is_best_where_nobody_knows():
    q = UNKNOWN[0]
    replies = [KNOWN[0].answer.replace(KNOWN[0].about, q.about), q.answer, "Xq zr."]
    assert hold(rater_named("world", SETTINGS), said(q.prompt), replies) == [("world", (2, 1, 3))]


@pytest.mark.parametrize("by", ["world", "labelers", "lena"])
@pytest.mark.parametrize(
    "prompt", [said("Who sings?"), [*said("Hi"), {"role": "assistant", "content": "Ho"},
                                    *said(KNOWN[0].prompt)]]
)  # fmt: skip
def test_a_prompt_that_is_no_question_of_the_world_is_refused(by, prompt):
    with pytest.raises(DataError, match="is no question of this world.*--run") as found:
        hold(rater_named(by, SETTINGS), prompt, ["a", "b"])
    assert prompt[-1]["content"] in str(found.value)


def test_labelers_come_in_turn_and_rank_by_the_truth_with_errors():
    rater, right, honest = rater_named("labelers", SETTINGS, seed=3), 0, 0
    for number in range(1000):
        q = KNOWN[number % len(KNOWN)]
        rows = hold(rater, said(q.prompt), [q.answer, REFUSED, REFUSED + " "], None, number)
        assert tuple(name for name, _ in rows) == rater.names(number) == turn(LABELERS, number)
        for name, (first, second, third) in rows:
            if name != "lena":
                assert second == third != first
                right, honest = right + (first == 1), honest + 1
            else:
                assert third < second  # the longer one
    assert abs(right / honest - RIGHT) < 4 * np.sqrt(0.137 / honest)
    again = rater_named("labelers", SETTINGS, seed=3)
    assert hold(again, said(q.prompt), [q.answer, REFUSED], None, 999) == hold(
        rater, said(q.prompt), [q.answer, REFUSED], None, 999
    )


def test_labelers_can_be_named():
    assert rater_named("lena", SETTINGS).names(7) == ("lena",)
    assert {n for i in range(40) for n in rater_named("ben,ann", SETTINGS).names(i)} == {
        "ann", "ben",
    }  # fmt: skip


@pytest.mark.parametrize("by", ["world", "labelers", "ann"])
def test_without_a_world_nobody_knows_the_truth(by):
    with pytest.raises(UsageError, match=f"--by {by} needs the run"):
        rater_named(by)


# ------------------------------------------------------------------------------------ who scores


def test_a_reward_model_ranks_by_its_scores():
    seen = []

    def score(prompts, replies):
        seen.append((prompts, replies))
        return np.array([len(reply) for reply in replies], np.float32)

    rater = rater_named("runs/x/reward", score=score)
    assert hold(rater, said("Hi"), ["aa", "b", "cc"]) == [("runs/x/reward", (1, 3, 1))]
    assert seen == [([said("Hi")] * 3, ["aa", "b", "cc"])]
    bad = rater_named("r", score=lambda prompts, replies: np.array([1.0, np.nan]))
    with pytest.raises(DataError, match="r: its scores are not all finite"):
        hold(bad, said("Hi"), ["a", "b"])


def test_rate_loads_the_reward_model_and_asks_it(world_run, workdir, monkeypatch):
    stage = load_stage(world_run[0])
    model = GPT(replace(stage.model.config, outputs="value"))
    save_stage(replace(stage, folder=workdir.path / "reward", model=model))
    asked = []

    def scores(of, prompts, replies):
        asked.append((of.folder.name, prompts))
        return np.array([len(reply) for reply in replies])

    monkeypatch.setitem(sys.modules, "pysft.inference.score", SimpleNamespace(scores=scores))
    workdir.write("r.jsonl", [{"prompt": "Hi", "replies": ["a", "bb"]}])
    succeeds("rate", "r.jsonl", "--by", "reward")
    assert asked == [("reward", [said("Hi")] * 2)]
    [row] = read_lines("r.jsonl.ratings")
    assert (row["ranks"], row["labeler"]) == ([2, 1], "reward")
    text = refusal(2, "rate", "r.jsonl", "--by", world_run[0])
    assert "is no reward model" in text
    assert "no such folder" in refusal(66, "rate", "r.jsonl", "--by", "none")


def of_file(folder, content, name="score"):
    path = folder / "mine.py"
    if content is not None:
        path.write_text(content)
    return rater_named(f"{path}:{name}")


def test_a_function_in_a_file_gets_the_turns_and_the_replies(tmp_path):
    rater = of_file(
        tmp_path,
        "import numpy as np\n"
        "def score(prompt, replies):\n"
        "    assert prompt == [{'role': 'user', 'content': 'Hi'}]\n"
        "    return np.array([-len(reply) for reply in replies])\n",
    )
    assert hold(rater, said("Hi"), ["aa", "b", "cc"]) == [("mine.py:score", (2, 1, 2))]
    assert rater.is_costly


@pytest.mark.parametrize(
    "content, error, expected",
    [
        (None, MissingInput, "no such file"),
        ("score = 3", DataError, r"it has no function score\(prompt, replies\)"),
        ("def f(", DataError, "SyntaxError"),
        ("def score(p, r): return r[9]", DataError, "raised IndexError"),
        ("def score(p): return 1", DataError, "raised TypeError"),
        ("def score(p, r): return 3", DataError, "returned 3; it must return a list"),
        ("def score(p, r): return None", DataError, "returned None"),
        ("def score(p, r): return [1]", DataError, r"returned \[1\]"),
        ("def score(p, r): return [1, 2, 3]", DataError, "each of the 2 replies"),
        ("def score(p, r): return ['1', '2']", DataError, "a finite number"),
        ("def score(p, r): return [1, None]", DataError, "a finite number"),
        ("def score(p, r): return [1, float('nan')]", DataError, "a finite number"),
        ("def score(p, r): return [1, 10 ** 400]", DataError, "a finite number"),
        ("def score(p, r): return [1, 2j]", DataError, "a finite number"),
    ],
)
def test_a_file_that_ranks_nothing_is_one_sentence(tmp_path, content, error, expected):
    with pytest.raises(error, match=expected) as found:
        hold(of_file(tmp_path, content), said("Hi"), ["a", "b"])
    assert "mine.py" in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("by", ["mine.py", "nothing", "ann,nobody", "mine.py:"])
def test_a_name_that_is_nobody_names_who_there_is(tmp_path, monkeypatch, by):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def score(p, r): return [1, 2]")
    with pytest.raises((UsageError, DataError)) as found:
        rater_named(by)
    assert "FILE.py:function" in str(found.value) or "no function" in str(found.value)


# ------------------------------------------------------------------------------------ who is asked


@pytest.fixture
def server():
    """Prefers the reply with more letters e. `plan`: answers that it gives first."""

    def reply(messages, before):
        shown = re.findall(r"^Reply (.): (.*)$", messages[1]["content"], re.M)
        order = sorted(shown, key=lambda pair: -pair[1].count("e"))
        return server.plan.pop(0) if server.plan else " > ".join(letter for letter, _ in order)

    server = ChatServer(reply)
    server.plan = []
    yield server
    server.stop()


def asking(server, folder, **more):
    return rater_named(server.url, model="big", cache=folder / "judged", say=print, **more)


def test_an_endpoint_reads_the_instructions_and_shuffled_replies(server, tmp_path):
    rater, orders = asking(server, tmp_path), set()
    assert rater.is_costly and rater.names(3) == ("big",)
    for n in range(8):
        found = hold(rater, said(f"Hi {n}"), ["e", "eee", "no", "ee"], [True, True, False, True])
        assert found == [("big", (3, 1, 4, 2))]  # whatever letters they had
    for body in server.asked:
        system, user = body["messages"]
        assert system["content"].startswith(instructions()) and "B > A = C" in system["content"]
        assert user["content"].startswith("User: Hi") and "no [cut off]" in user["content"]
        shown = re.findall(r"^Reply (.): (\S+)", user["content"], re.M)
        assert [letter for letter, _ in shown] == list("ABCD")
        orders.add(tuple(text for _, text in shown))
    assert len(orders) > 3


def test_an_answer_in_no_form_is_asked_again_and_then_left_out(server, tmp_path):
    server.plan = ["A", "I like A best", "B = A"]
    assert hold(asking(server, tmp_path), said("Hi"), ["x", "y"]) == [("big", (1, 1))]
    assert len(server.asked) == 3
    server.plan = ["A"] * 3
    assert hold(asking(server, tmp_path), said("Ho"), ["x", "y"]) == []


def test_the_same_replies_are_not_asked_about_twice_wherever_they_stand(server, tmp_path):
    for number in (0, 5):
        hold(asking(server, tmp_path), said("Hi"), ["x", "e"], None, number)
    assert len(server.asked) == 1
    hold(asking(server, tmp_path), said("Hi"), ["x", "f"])
    assert len(server.asked) == 2


def test_a_budget_stops_an_endpoint(server, tmp_path):
    rater = asking(server, tmp_path, budget=1)
    hold(rater, said("Hi"), ["x", "e"])
    with pytest.raises(EndpointError, match="budget"):
        hold(rater, said("Ho"), ["x", "e"])


def test_flags_of_an_endpoint_are_for_an_endpoint(tmp_path):
    with pytest.raises(UsageError, match="needs the model's name too"):
        rater_named("http://localhost:1/v1")
    for more in ({"model": "x"}, {"budget": 3}):
        with pytest.raises(UsageError, match="are for the URL of an endpoint"):
            rater_named("world", SETTINGS, **more)


def test_a_stopped_command_goes_on_with_the_prompts_that_are_left(server, workdir):
    rows = [{"prompt": f"Hi {n}", "replies": ["e", "ee", "x"]} for n in range(7)]
    workdir.write("r.jsonl", rows)
    flags = ("rate", "r.jsonl", "--by", server.url, "--judge-model", "big")
    for done in (3, 6):
        assert "budget" in refusal_of_budget(*flags, "--judge-budget", "3")
        assert len(read_lines("r.jsonl.ratings")) == done == len(server.asked)
    server.plan = ["?"] * 3
    found = succeeds(*flags, "--json").document
    assert (found["rated"], found["left"], found["left_out"]) == (0, 0, 1)
    assert len(server.asked) == 9
    found = succeeds(*flags, "--json").document  # that answer is known, so nobody is asked
    assert (found["rated"], found["left"], found["left_out"]) == (0, 0, 1)
    assert len(server.asked) == 9
    assert all(row["ranks"] == [2, 1, 3] for row in read_lines("r.jsonl.ratings"))


def refusal_of_budget(*arguments):
    """What a command says that ends because the budget is used up."""
    result = pysft(*arguments)
    assert result.code == 1
    return result.err
