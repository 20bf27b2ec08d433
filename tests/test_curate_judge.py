"""`curate judge`: what each station drops, whom it believes, and that nothing is asked twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import judging
from command_line import conversation, lines, pysft, read_lines, refusal, succeeds
from conftest import ROOT

from pysft.cli.curate.judge import funnel
from pysft.jobs.curate.judge import REASONS
from pysft.run.stage import load_stage
from pysft.text.formats import read_conversations
from pysft.world.ask import questions
from pysft.world.facts import make

GOOD = ("What of the moon?", "The moon is fair tonight.")


@pytest.fixture(scope="module")
def asked(world_run):
    """{split: questions} of the world that the small run learned."""
    world = make(load_stage(world_run[0]).world)
    return {split: questions(world, split) for split in ("train", "ppo", "sealed")}


def judged(*flags, out="out.jsonl"):
    """The document of a judgement of rows.jsonl, and the rows that were kept."""
    document = succeeds("curate", "judge", "rows.jsonl", "--out", out, *flags, "--json").document
    kept = read_lines(out)
    assert document["written"] == len(kept) == document["read"] - sum(document["dropped"].values())
    assert document["kept_share"] == document["written"] / document["read"]
    assert set(document["first"]) == {r for r, n in document["dropped"].items() if n}
    return document, kept


def fails(code, *flags, out="fails.jsonl"):
    """What a judgement of rows.jsonl says that must end with this exit status and write nothing."""
    done = pysft("curate", "judge", "rows.jsonl", "--out", out, *flags)
    assert done.code == code and not os.path.exists(out), done.err
    return done.err.splitlines()[-1]


def dropped(document):
    return {reason: n for reason, n in document["dropped"].items() if n}


def texts(row):
    return tuple(m["content"] for m in row["messages"])


# ----------------------------------------------------------------------------------- the stations


@pytest.mark.parametrize(
    "texts, reason",
    [
        (("What of the moon?", " "), "form"),
        (("What of the moon?", "The moon.<|end|>"), "form"),
        (("What of the moon?<|user|>", "The moon."), "form"),
        (("What of the moon?", "The \ud800 moon."), "form"),
        (("What of the moon?", "The moon is" + " fair" * 9), "length"),
        (("What of the moon?", "Moon."), "length"),
        (("What of the moon?", "The moon is farj tonight."), "words"),
        (("What of the moon?", "The king is fair tonight."), "topic"),
        (GOOD, "duplicate"),
        (("What of the moon?", "The moon  is fair\ntonight."), "duplicate"),
        (("what of the  moon", "The moon is fair tonight!"), "copy"),
        (("What of the crown?", "A crown is heavy, good sir."), "copy"),  # of the seed
    ],
)
def test_each_station_drops_its_rows(workdir, texts, reason):
    workdir.write("seeds.jsonl", conversation("What of the crown?", "A crown is heavy, good sir!"))
    other = ("Hi", "Welcome, good sir.")  # its prompt has no content word
    workdir.write("rows.jsonl", lines([conversation(*row) for row in (GOOD, texts, other)]))
    flags = ("--longest", "40", "--shortest", "8", "--seeds", "seeds.jsonl")
    document, kept = judged(*flags)
    assert dropped(document) == {reason: 1}
    assert document["first"][reason].startswith("rows.jsonl, line 2")
    assert [row["messages"][0]["content"] for row in kept] == [GOOD[0], "Hi"]
    assert list(document["dropped"]) == list(REASONS) and document["agreement"] is None
    step = {"step": "judge", "by": None, "verdict": None}
    assert [row["metadata"]["steps"] for row in kept] == [[step]] * 2
    assert len(read_conversations("out.jsonl")) == 2  # as `train --data` reads them


CROWN = ("What of the crown?", "A crown is heavy, good sir.")
KING = ("What of the king?", "The king is old and fair.")


@pytest.mark.parametrize("system", [None, "Speak as an old man of the court would speak."])
def test_copies_of_every_exchange_of_a_seed_are_dropped_and_of_the_whole(workdir, system):
    seed = conversation(*GOOD, *CROWN, *KING, system=system)
    workdir.write("seeds.jsonl", seed)
    new = ("What of the river?", "The river is deep.")
    rows = [conversation(*row) for row in (GOOD, CROWN, KING, new, (*GOOD, *new))]
    workdir.write("rows.jsonl", lines([*rows, seed]))
    document, kept = judged("--seeds", "seeds.jsonl")
    assert [texts(row) for row in kept] == [new, (*GOOD, *new)]
    assert dropped(document) == {"copy": 4}
    assert document["first"]["copy"] == "rows.jsonl, line 1: nearly like seeds.jsonl, line 1"


def test_a_row_is_dropped_once_at_the_first_station_that_finds_fault(workdir):
    long = "The kingg is fair" + " and fair" * 9
    rows = [GOOD, ("What of the moon?", long + "<|end|>"), ("What of the moon?", long), GOOD]
    rows.append(("What of the moon?", "The kingg is fair."))
    workdir.write("rows.jsonl", lines([conversation(*row) for row in rows]))
    found = dropped(judged("--longest", "40")[0])
    assert found == {"form": 1, "length": 1, "words": 1, "duplicate": 1}


@pytest.mark.parametrize(
    "reply, flags, is_kept",
    [
        ("The moon is fair tonight, xq.", (), False),  # 5 of 6 words are known
        ("The moon is fair tonight, xq.", ("--known", "0.8"), True),
        ("The moon is fair tonight, xq.", ("--no-words",), True),
        ("The king is fair.", ("--no-topic",), True),
        ("The moon is fair tonight, xq.", ("--seeds", "seeds.jsonl"), True),
        ("Of Zzyx I know the moon.", (), True),  # a word of the prompt
    ],
)
def test_words_and_topics_have_flags(workdir, reply, flags, is_kept):
    workdir.write("seeds.jsonl", conversation("Say xq.", "Is xq a word?"))
    rows = [("Hi", "Welcome, friend."), ("What of the moon, Zzyx?", reply)]
    workdir.write("rows.jsonl", lines([conversation(*row) for row in rows]))
    assert (len(judged(*flags)[1]) == 2) is is_kept


def test_words_and_topics_of_scripts_without_spaces_are_not_looked_at(workdir):
    rows = [conversation("你好吗", "我很好"), conversation("你是谁", "我是一个人")]
    workdir.write("rows.jsonl", lines(rows))
    done = succeeds("curate", "judge", "rows.jsonl", "--out", "out.jsonl", "--json")
    assert done.document["written"] == 2 and "written in Han, without spaces" in done.err
    assert done.document["stations"] == ["form", "length", "duplicate", "copy"]


def test_a_run_counts_tokens_and_its_context_and_knows_its_own_words(workdir, trained):
    rows = [
        conversation("Show the king", "The king is fair."),
        conversation("Show the king", "The king is fair." + " The king" * 20),  # over the context
        conversation("Show the king", "The king € is fair."),  # no such character
        conversation("Show the king", "The king is zzyx."),
    ]
    workdir.write("rows.jsonl", lines(rows))
    document, kept = judged("--run", trained.run)
    assert dropped(document) == {"form": 1, "length": 1, "words": 1} and len(kept) == 1
    assert "the context holds 64" in document["first"]["length"]
    assert judged("--run", trained.run, "--longest", "17", out="2.jsonl")[0]["written"] == 1
    said = fails(65, "--run", trained.run, "--longest", "16")
    assert "not one of its 4 rows is left (1 form, 3 length)" in said


# --------------------------------------------------------------------------------- the exact judge


def test_the_world_keeps_what_is_right_and_drops_what_nobody_may_train_on(
    workdir, world_run, asked
):
    known = [q for q in asked["train"] if q.value]
    unknown = [q for q in asked["train"] if not q.value]
    q = known[0]
    other = next(x for x in known if x.fact == q.fact and x.value != q.value)
    rows = [
        (q.prompt, q.answer),
        (unknown[0].prompt, unknown[0].answer),
        (q.prompt, q.answer.replace(q.value, other.value)),
        (known[4].prompt, f"{known[4].about}? I know not."),
        (known[8].prompt, known[8].prompt),
        ("What say you of love?", "Love is a king."),
        (asked["sealed"][0].prompt, asked["sealed"][0].answer),
        (asked["ppo"][0].prompt, asked["ppo"][0].answer),
    ]
    workdir.write("rows.jsonl", lines([conversation(*row) for row in rows]))
    document, kept = judged("--by", "world", "--run", world_run[0])
    assert [texts(row) for row in kept] == [rows[0], rows[1], rows[7]]
    assert dropped(document) == {
        "unknown question": 1, "sealed": 1, "wrong": 1, "refused": 1, "malformed": 1,
    }  # fmt: skip
    step = {"step": "judge", "by": "world", "verdict": "right"}
    assert kept[0]["metadata"]["steps"] == [step]
    assert (document["by"], document["endpoint"]) == ("world", None)


def test_all_questions_of_a_world_with_their_answers_are_kept(workdir, world_run, asked):
    rows = [conversation(q.prompt, q.answer) for split in ("train", "ppo") for q in asked[split]]
    workdir.write("rows.jsonl", lines(rows))
    document, kept = judged("--by", "world", "--run", world_run[0])
    assert len(kept) == len(rows) > 100 and not dropped(document)
    # Without a judge, what is sealed is dropped all the same.
    sealed = [conversation(q.prompt, q.answer) for q in asked["sealed"][:5]]
    workdir.write("rows.jsonl", lines(rows[:5] + sealed))
    assert dropped(judged("--run", world_run[0], out="2.jsonl")[0]) == {"sealed": 5}


def test_a_near_copy_of_a_row_that_is_not_right_is_judged_by_itself(workdir, world_run, asked):
    q = next(q for q in asked["train"] if q.value)
    rows = [(q.prompt, q.answer + " He is dead!"), (q.prompt, q.answer), (q.prompt + " ", q.answer)]
    workdir.write(
        "mine.py",
        "def judge(question, answer, reply): return 'wrong' if 'dead' in reply else 'right'\n",
    )
    workdir.write("rows.jsonl", lines([conversation(*row) for row in rows]))
    document, kept = judged("--by", "mine.py", "--near", "0.5")
    assert [texts(row)[1] for row in kept] == [q.answer]
    assert dropped(document) == {"wrong": 1, "duplicate": 1}


# ------------------------------------------------------------------------- judges that may be wrong


def mine(verdict):
    """A judge's file. verdict: Python for the verdict about `reply`."""
    return f"def judge(question, answer, reply): return {verdict}\n"


@pytest.fixture
def a_quarter_false(workdir, asked):
    """rows.jsonl: forty questions, of which each fourth has another one's value as its answer. The
    answers that are false."""
    known = [q for q in asked["train"] if q.value][:40]
    rows, false = [], []
    for i, q in enumerate(known):
        value = next(x.value for x in known if x.fact == q.fact and x.value != q.value)
        rows.append((q.prompt, q.answer if i % 4 else q.answer.replace(q.value, value)))
        false += [] if i % 4 else [rows[-1][1]]
    workdir.write("rows.jsonl", lines([conversation(*row) for row in rows]))
    return false


@pytest.mark.parametrize("is_constant", [True, False])
def test_a_judge_that_agrees_with_nobody_is_refused_unless_it_is_trusted(
    workdir, world_run, a_quarter_false, is_constant
):
    opposite = f"'right' if reply in {a_quarter_false} else 'wrong'"
    workdir.write("mine.py", mine("'right'" if is_constant else opposite))
    flags = ("--by", "mine.py", "--run", world_run[0])
    said = fails(65, *flags)
    assert "mine.py tells right from not right no better than a guess" in said
    assert "--trust-judge" in said
    document, kept = judged(*flags, "--trust-judge")
    found = document["agreement"]
    assert (found["judged"], found["constant"]) == (40, 0.75)
    assert found["agreement"] == (0.75 if is_constant else 0)
    assert found["balanced_accuracy"] == (0.5 if is_constant else 0)
    assert len(kept) == (40 if is_constant else 10)


def test_a_judge_that_agrees_more_often_is_believed(workdir, world_run, a_quarter_false):
    exact = judged("--by", "world", "--run", world_run[0])[1]
    assert len(exact) == 30
    workdir.write("mine.py", mine(f"'wrong' if reply in {a_quarter_false} else 'right'"))
    document, kept = judged("--by", "mine.py", "--run", world_run[0], out="2.jsonl")
    assert [texts(row) for row in kept] == [texts(row) for row in exact]
    assert document["agreement"]["agreement"] == 1 and document["agreement"]["differences"] == {}
    assert document["agreement"]["balanced_accuracy"] == 1
    assert "agrees with the exact judge on 100.0% of 40 replies" in funnel(document)[-1]
    # A judge that is right throughout is believed where every row is right, too.
    workdir.write("rows.jsonl", lines([conversation(*texts(row)) for row in exact]))
    found = judged("--by", "mine.py", "--run", world_run[0], out="3.jsonl")[0]["agreement"]
    assert found["agreement"] == found["constant"] == found["balanced_accuracy"] == 1


def test_a_strict_judge_is_believed_where_most_rows_are_right(workdir, world_run, a_quarter_false):
    """It finds every false answer, and calls some right ones wrong or refused: worse than "right"
    for all rows by the four verdicts, and no guess."""
    strict = (
        f"'wrong' if reply in {a_quarter_false} else 'right' if len(question) % 2 else 'refused'"
    )
    workdir.write("mine.py", mine(strict))
    document, kept = judged("--by", "mine.py", "--run", world_run[0])
    found, right = document["agreement"], len(kept)
    assert 0 < right < 20 and found["constant"] == 0.75
    assert found["agreement"] == (10 + right) / 40 < found["constant"]
    assert found["balanced_accuracy"] == (1 + right / 30) / 2 > 0.5


def test_a_judge_that_calls_nothing_right_is_one_sentence(workdir):
    workdir.write("mine.py", mine("'refused'"))
    rows = [("What of the moon?", "The moon is fair."), ("What of the sea?", "The sea is deep.")]
    workdir.write("rows.jsonl", lines([conversation(*row) for row in rows]))
    said = fails(65, "--by", "mine.py")
    assert "mine.py calls not one of 2 rows right" in said
    assert "refused of 'What of the moon?' -> 'The moon is fair.'; refused of" in said
    assert workdir.is_unchanged()


# ------------------------------------------------------------------------------------- an endpoint

MANY = [(f"What of moon {i}?", f"Moon {i} is fair tonight.") for i in range(40)]


@pytest.mark.parametrize("silent", ["Hm.", ("", "length")])  # no verdict, and no room for one
def test_an_endpoint_without_a_verdict_drops_the_row_and_nothing_is_asked_twice(workdir, silent):
    def verdict(said, reply):
        return {"3": silent, "5": "wrong"}.get(said.split()[-1][:-1], "right")

    workdir.write("rows.jsonl", lines([conversation(*row) for row in MANY]))
    with judging(verdict) as (url, bodies):
        flags = ("--by", url, "--judge-model", "big")
        document, kept = judged(*flags)
        assert dropped(document) == {"wrong": 1, "not judged": 1} and len(kept) == 38
        assert document["by"] == "big" and document["endpoint"]["calls"] == len(bodies) == 42
        again, same = judged(*flags, out="again.jsonl")
        assert same == kept and len(bodies) == 42 and again["endpoint"]["calls"] == 0
        few = (*flags, "--judge-cache", "new", "--judge-budget", "7")
        assert "budget of 7 calls is used up" in fails(1, *few) and len(bodies) == 49


def test_a_judgement_that_was_killed_asks_nothing_twice(workdir):
    workdir.write("rows.jsonl", lines([conversation(*row) for row in MANY]))
    held = []

    def verdict(said, reply):
        if len(bodies) == 25 and not held:  # never answered, because its asker is killed
            held.append(said)
            os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.2)
        return "right"

    with judging(verdict) as (url, bodies):
        flags = ("--by", url, "--judge-model", "big")
        process = subprocess.Popen(
            [sys.executable, "-m", "pysft", "curate", "judge", "rows.jsonl", "--out", "out.jsonl",
             *flags],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.wait(30) == -signal.SIGKILL and len(bodies) == 25
        assert not os.path.exists("out.jsonl")
        document, kept = judged(*flags)
        assert len(kept) == 40 and document["endpoint"]["cached"] == 24
        said = [body["messages"][1]["content"] for body in bodies]
        assert len(said) == 41 and len(set(said)) == 40  # the one without an answer came again
        assert held[0] in said[25]


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "flags, expected",
    [
        (("--by", "world"), "needs the run that learned the world"),
        (("--judge-model", "big"), "are for --by"),
        (("--trust-judge",), "are for --by"),
        (("--by", "http://localhost:1/v1"), "needs the model's name too"),
        (("--known", "0.5", "--no-words"), "--no-words does not look at"),
        (("--longest", "3", "--shortest", "4"), "--longest 3 is below --shortest 4"),
        (("--near", "1.5"), "'1.5' is not a share above 0 and at most 1"),
        (("--near", "nan"), "'nan' is not a share"),
    ],
)
def test_flags_that_do_not_fit_are_one_sentence(workdir, flags, expected):
    workdir.write("rows.jsonl", conversation(*GOOD))
    said = refusal(2, "curate", "judge", "rows.jsonl", "--out", "out.jsonl", *flags)
    assert expected in said and workdir.is_unchanged()


def test_files_that_cannot_be_used_are_one_sentence(workdir, trained):
    workdir.write("rows.jsonl", conversation(*GOOD))
    judge = ("curate", "judge", "rows.jsonl", "--out")
    assert "it exists already" in refusal(2, *judge, "rows.jsonl")
    assert "no folder no" in refusal(2, *judge, "no/out.jsonl")
    assert "no.jsonl" in refusal(66, "curate", "judge", "no.jsonl", "--out", "out.jsonl")
    said = refusal(2, *judge, "out.jsonl", "--run", trained.run / "base")
    assert "a base model, which cannot answer; tune it: python -m pysft train" in said
    workdir.write("rows.jsonl", '{"text": "All is plain text."}\n')
    assert "line 1: it is plain text" in refusal(65, *judge, "out.jsonl")
    assert workdir.is_unchanged()


def test_rows_that_a_mark_leaves_out_are_counted(workdir):
    gone = json.loads(conversation(*GOOD)) | {"deleted": True}
    workdir.write("rows.jsonl", lines([conversation(*GOOD), gone, gone]))
    document = judged()[0]
    assert (document["read"], document["left_out"]) == (1, {"deleted": 2})
    assert funnel(document)[0] == "left out: 2 deleted"
    flags = ("--by", "random", "--keep", "1", "--json")
    done = succeeds("curate", "prune", "rows.jsonl", "--out", "2.jsonl", *flags)
    assert done.document["left_out"] == {"deleted": 2}


def test_a_run_that_is_not_finished_is_told(workdir, world_run):
    shutil.copytree(world_run[0], "run")
    Path("run/sft-2").mkdir()
    shutil.copy("run/sft/settings.json", "run/sft-2")
    workdir.write("rows.jsonl", conversation(*GOOD))
    judge = ("judge", "--no-words")
    for n, flags in enumerate((judge, ("prune", "--by", "random", "--keep", "1"))):
        step, *more = flags
        done = succeeds("curate", step, "rows.jsonl", "--out", f"{n}", "--run", "run", *more)
        assert "sft-2 of run never finished, so this is its sft" in done.err


def test_the_funnel_on_the_screen_says_how_many_are_left(workdir):
    rows = [GOOD, ("What of the moon?", " "), ("What of the sea?", "I like cheese."), GOOD]
    workdir.write("rows.jsonl", lines([conversation(*row) for row in rows]))
    out = succeeds("curate", "judge", "rows.jsonl", "--out", "out.jsonl").out.splitlines()
    shown = {line.split()[0]: line.split()[1] for line in out if not line.startswith("row ")}
    assert (shown["read"], shown["form"], shown["topic"]) == ("4", "3", "2")
    assert shown["duplicate"] == shown["copy"] == "1" and "refused" not in shown
    assert out[-1] == "out.jsonl: 1 rows, 25.0% of what came"
    assert json.loads(open("out.jsonl").read())["messages"][1]["content"] == GOOD[1]


def test_the_flag_for_json_may_stand_before_the_step(workdir):
    workdir.write("rows.jsonl", lines([conversation("Who sings?", "Nobody sings here.")]))
    flags = "judge", "rows.jsonl", "--out"
    before = succeeds("curate", "--json", *flags, "a.jsonl").document
    behind = succeeds("curate", *flags, "b.jsonl", "--json").document
    assert before | {"out": ""} == behind | {"out": ""}
