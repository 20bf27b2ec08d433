"""`curate prune`: what is hard, which rows are kept, and that nothing is asked twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from chat_server import judging
from command_line import conversation, lines, pysft, read_lines, refusal, succeeds
from conftest import ROOT

from pysft.batch import Batch
from pysft.jobs.collect import sample_replies
from pysft.jobs.curate.difficulty import losses, right_replies
from pysft.jobs.curate.judging import RowJudge, judge_of
from pysft.run.stage import load_stage
from pysft.text.curated import read_curated
from pysft.text.examples import encode_conversation
from pysft.text.formats import read_conversations
from pysft.text.sampled import is_usable
from pysft.text.templates import CHATML
from pysft.world.ask import questions
from pysft.world.facts import make

# About half of what an untrained model writes is right for this judge.
MINE = "def judge(question, answer, reply): return 'right' if len(set(reply)) % 2 else 'wrong'\n"


@pytest.fixture(scope="module")
def stage(world_run):
    return load_stage(world_run[0])


@pytest.fixture(scope="module")
def asked(stage):
    world = make(stage.world)
    return {split: questions(world, split) for split in ("train", "sealed")}


@pytest.fixture
def rows(workdir, asked):
    """rows.jsonl: thirty questions of training with their answers."""
    workdir.write("mine.py", MINE)
    texts = [(q.prompt, q.answer) for q in asked["train"][:30]]
    workdir.write("rows.jsonl", lines([conversation(*row) for row in texts]))
    return texts


def pruned(*flags, out="out.jsonl"):
    """The document of a pruning of rows.jsonl, and the rows that were kept."""
    done = succeeds("curate", "prune", "rows.jsonl", "--out", out, *flags, "--json")
    document, kept = done.document, read_lines(out)
    assert document["written"] == len(kept) == document["read"] - sum(document["dropped"].values())
    assert list(document["dropped"]) == ["easier", "harder", "not drawn", "not judged"]
    return document, kept


def texts(row):
    return tuple(m["content"] for m in row["messages"])


def own_step(row):
    return row["metadata"]["steps"][-1]


# ------------------------------------------------------------------------------------ who answers


def test_the_difficulty_is_the_share_of_sampled_replies_that_are_not_right(
    rows, world_run, stage, workdir
):
    run = ("--run", world_run[0], "--by", "mine.py", "-k", "5", "--seed", "3")
    document, kept = pruned(*run, "--keep", "0.2", "--map", "map.jsonl")
    prompts = [[{"role": "user", "content": prompt}] for prompt, _ in rows]
    sampled = sample_replies(stage, prompts, 5, 3)
    right = [
        sum(end and is_usable(t) and len(set(t)) % 2 for t, end in replies) for replies in sampled
    ]
    every = read_lines("map.jsonl")
    assert [row["difficulty"] for row in every] == [1 - n / 5 for n in right]
    assert [texts(row) for row in every] == rows and len(kept) == 6
    assert document["histogram"] == [right.count(n) for n in range(6)]
    assert (document["by"], document["k"], document["map"]) == ("mine.py", 5, "map.jsonl")
    assert own_step(every[0])["run"] == str(world_run[0])
    assert read_conversations("map.jsonl")  # it can be trained on, too


def test_a_question_is_as_hard_as_the_exact_judge_finds_it(rows, asked, stage, monkeypatch):
    some = {q.prompt: q for q in asked["train"]}
    answers = [(some[prompt].answer, True) for prompt, _ in rows]
    written = [[answers[i]] * (i % 4) + [("Fie!", True)] * (3 - i % 4) for i in range(len(rows))]
    monkeypatch.setattr("pysft.jobs.curate.difficulty.sample_replies", lambda *a, **b: written)
    found = right_replies(read_curated("rows.jsonl", CHATML), stage, judge_of("world", stage), 3, 0)
    assert found == [i % 4 for i in range(len(rows))]


def test_a_row_is_not_judged_if_one_of_its_replies_has_no_verdict(rows, stage):
    seen = []

    def verdict(question, answer, reply):
        seen.append(reply)
        return None if question == rows[2][0] else "wrong"

    judge = RowJudge("mine", None, verdict)
    found = right_replies(read_curated("rows.jsonl", CHATML)[:4], stage, judge, 3, 0)
    assert seen and found == [0, 0, None, 0]


def test_a_judge_is_told_the_row_s_reply_and_of_a_question_of_the_world_the_world_s(
    asked, world_run, workdir
):
    known = next(q for q in asked["train"] if q.value)
    workdir.write(
        "rows.jsonl", lines([conversation(known.prompt, "Fie."), conversation("Hi", "Ho.")])
    )
    workdir.write(
        "told.py",
        "def judge(question, answer, reply):\n    open('told.txt', 'a').write(answer + '\\n')\n"
        "    return 'right' if len(question) > 2 else 'wrong'\n",
    )
    pruned("--run", world_run[0], "--by", "told.py", "--keep", "1", "-k", "9")
    told = (workdir.path / "told.txt").read_text().splitlines()
    assert set(told) == {known.answer, "Ho."}


def test_rows_that_the_run_cannot_answer_are_not_judged_and_said_so(rows, world_run, workdir):
    more = [("a" * 200, "Yes."), ("Who § is it?", "No."), ("Who sings?", "I do.")]
    workdir.write("rows.jsonl", lines([conversation(*row) for row in [*more, *rows[:7]]]))
    flags = ("--run", world_run[0], "-k", "1", "--keep", "1")
    done = succeeds("curate", "prune", "rows.jsonl", "--out", "o.jsonl", *flags, "--json")
    assert done.document["dropped"]["not judged"] == 3 and done.document["written"] == 7
    assert "3 of 10 rows cannot be judged; the first is rows.jsonl, line 1: 'aaa" in done.err
    by_mine = pruned(*flags, "--by", "mine.py")[0]  # which judges what is no question, too
    assert by_mine["dropped"]["not judged"] == 2 and sum(by_mine["histogram"]) == 8


def test_a_prompt_needs_room_for_one_token_and_the_end(workdir, stage):
    room = stage.model.config.context - 2 - len("UEA")  # three control tokens
    prompts = ["a" * n for n in (room - 1, room, room + 1, room + 2)]
    workdir.write("rows.jsonl", lines([conversation(prompt, "Yes.") for prompt in prompts]))
    judge = RowJudge("mine", None, lambda *texts: "right")
    found = right_replies(read_curated("rows.jsonl", CHATML), stage, judge, 1, 0, lambda text: None)
    assert [n is None for n in found] == [False, False, True, True]


# --------------------------------------------------------------------------------------- whose loss


def test_the_loss_under_a_base_is_that_of_the_reply_as_plain_text(rows, world_run):
    base = load_stage(world_run[0] / "base")
    found = losses(read_curated("rows.jsonl", CHATML)[:3], base)
    for (prompt, reply), loss in zip(rows, found):
        ids = base.tokenizer.encode(f"{prompt}\n\n{reply}")
        logits = base.model.decoder(1)
        nll = 0.0
        for n in range(len(ids) - len(reply), len(ids)):
            row = logits.read([ids[:n]], [0])[0].astype(np.float64)
            nll += np.logaddexp.reduce(row) - row[ids[n]]
        assert loss == pytest.approx(nll / len(reply), rel=1e-5)
    document, kept = pruned("--by", "loss", "--base", world_run[0], "--keep", "0.1")
    assert (document["k"], document["histogram"], len(kept)) == (None, None, 3)
    assert own_step(kept[0])["by"] == "loss" and document["difficulty"]["of_kept"] > 0


def test_the_loss_under_a_run_that_talks_is_that_of_its_template(rows, world_run, stage):
    found = losses(read_curated("rows.jsonl", CHATML), stage)
    config = stage.model.config
    for c, loss in zip(read_conversations("rows.jsonl"), found):
        example = encode_conversation(c, stage.tokenizer, config.context, stage.template)
        batch = Batch.of([example], config.vocab, config.context)
        nll = stage.model.forward(batch).nll
        assert loss == pytest.approx(nll.sum() / batch.graded.sum(), rel=1e-5)
    document, kept = pruned("--by", "loss", "--run", world_run[0], "--keep", "0.1")
    hardest = sorted(np.argsort(found)[-3:].tolist())
    assert [texts(row) for row in kept] == [rows[i] for i in hardest]
    assert document["difficulty"] == {
        "mean": pytest.approx(np.mean(found)),
        "of_kept": pytest.approx(np.sort(found)[-3:].mean()),
    }


def test_the_loss_of_the_last_reply_alone_counts(workdir, world_run, stage):
    talk = conversation("Who sings?", "Fie! " * 3, "Who?", "I do.")
    workdir.write("rows.jsonl", lines([talk, conversation("Who sings?", "a" * 300)]))
    said = []
    found = losses(read_curated("rows.jsonl", CHATML), stage, said.append)
    [talk] = read_conversations("rows.jsonl")[:1]
    example = encode_conversation(talk, stage.tokenizer, 128, stage.template, "last")
    batch = Batch.of([example], stage.model.config.vocab, 128)
    nll = stage.model.forward(batch).nll.sum() / batch.graded.sum()
    assert found[0] == pytest.approx(nll, rel=1e-5) and found[1] is None
    assert "1 of 2 rows cannot be judged; the first is rows.jsonl, line 2" in said[0]


# ----------------------------------------------------------------------------------- what is kept


def test_the_hardest_are_kept_in_their_order_or_the_easiest(rows, world_run):
    run = ("--run", world_run[0], "--by", "mine.py", "-k", "3")
    every = pruned(*run, "--keep", "1")[1]
    assert [texts(row) for row in every] == rows
    difficulty = [own_step(row)["difficulty"] for row in every]
    assert len(set(difficulty)) > 1
    for flags, reason, worst in (((), "easier", max), (("--easiest",), "harder", min)):
        out = f"{reason}.jsonl"
        document, kept = pruned(*run, *flags, "--keep", "0.34", out=out)
        assert len(kept) == 10 and document["dropped"][reason] == 20  # 10.2 of 30
        places = [rows.index(texts(row)) for row in kept]
        assert places == sorted(places)
        inside = [difficulty[i] for i in places]
        outside = [d for i, d in enumerate(difficulty) if i not in places]
        assert worst(outside + [inside[0]]) in inside  # nobody outside is beyond all inside
        edge = min(inside) if worst is max else max(inside)
        assert all(d <= edge if worst is max else d >= edge for d in outside)
        assert document["difficulty"]["mean"] == pytest.approx(np.mean(difficulty))
        assert document["difficulty"]["of_kept"] == pytest.approx(np.mean(inside))


def test_ties_and_the_control_follow_the_seed_alone(rows, world_run):
    one = f"def judge(question, *_): return 'right' if question == {rows[0][0]!r} else 'wrong'\n"
    Path("one.py").write_text(one)  # all rows but one are equally hard
    ties = ("--run", world_run[0], "--by", "one.py", "-k", "9")
    for name, flags in (("ties", ties), ("drawn", ("--by", "random"))):
        found = [
            pruned(*flags, "--keep", "0.5", "--seed", seed, out=f"{name}{i}")[1]
            for i, seed in enumerate(("1", "1", "2"))
        ]
        kept = [{texts(row) for row in some} for some in found]
        assert found[0] == found[1] and kept[0] != kept[2]
        assert all(len(some) == 15 for some in kept)
        assert Path(f"{name}0").read_bytes() == Path(f"{name}1").read_bytes()
    # The control is no part of a pruning in which nearly all rows tie.
    assert [texts(row) for row in read_lines("ties0")] != [texts(r) for r in read_lines("drawn0")]


@pytest.mark.parametrize("verdict", ["wrong", "right"])
def test_where_all_rows_are_equally_hard_none_is_hardest(rows, world_run, monkeypatch, verdict):
    Path("mine.py").write_text(f"def judge(*texts): return {verdict!r}\n")
    written = [[("Fie!", True)] * 2] * len(rows)
    monkeypatch.setattr("pysft.jobs.curate.difficulty.sample_replies", lambda *a, **b: written)
    flags = ("--run", world_run[0], "--by", "mine.py", "-k", "2")
    prune = ("curate", "prune", "rows.jsonl", "--out", "out.jsonl", *flags, "--keep")
    done = pysft(*prune, "0.5")
    assert done.code == 65 and "equally hard, so none is hardest" in done.err
    assert f"mine.py said {verdict} of 60 of 60 replies" in done.err
    assert not Path("out.jsonl").exists()
    assert succeeds(*prune, "1", "--json").document["written"] == 30  # nothing is to be chosen


def test_equal_losses_have_no_highest(world_run, workdir):
    workdir.write("rows.jsonl", lines([conversation("Hi", "Ho.")] * 4))
    flags = ("--by", "loss", "--base", world_run[0], "--keep", "0.5", "--out", "out.jsonl")
    done = pysft("curate", "prune", "rows.jsonl", *flags)
    assert done.code == 65 and "the loss of each is" in done.err


def test_with_a_run_the_control_is_drawn_from_the_rows_that_it_can_answer(
    rows, asked, world_run, workdir
):
    unread = [("a" * 200, "Yes."), ("Who § is it?", "No.")]
    workdir.write("rows.jsonl", lines([conversation(*row) for row in [*unread, *rows[:8]]]))
    document, kept = pruned("--by", "random", "--run", world_run[0], "--keep", "0.8")
    assert [texts(row) for row in kept] == rows[:8]
    assert document["dropped"]["not judged"] == 2 and document["difficulty"] is None
    assert own_step(kept[0])["run"] == str(world_run[0])
    assert pruned("--by", "random", "--keep", "1", out="all.jsonl")[0]["written"] == 10
    sealed = asked["sealed"][0]
    workdir.write("rows.jsonl", lines([conversation(sealed.prompt, sealed.answer)] * 2))
    flags = ("--by", "random", "--run", world_run[0], "--keep", "0.5", "--out", "no.jsonl")
    done = pysft("curate", "prune", "rows.jsonl", *flags)
    assert done.code == 65 and "asks about what is sealed" in done.err


def test_of_a_map_the_control_is_drawn_from_the_rows_that_were_judged(
    rows, world_run, workdir, monkeypatch
):
    """The exact judge knows no question in some rows, and the run cannot answer another. A pruning
    has none of these, so a control that had them would differ from it by more than the choice."""
    strange = [("Who sings?", "I do."), ("Who?", "I."), ("a" * 200, "Yes.")]
    workdir.write("rows.jsonl", lines([conversation(*row) for row in [*strange, *rows[:7]]]))
    written = [[(reply, True), ("Fie!", True)] for _, reply in rows[:3]]
    written += [[("Fie!", True)] * 2 for _ in rows[3:7]]
    monkeypatch.setattr("pysft.jobs.curate.difficulty.sample_replies", lambda *a, **b: written)
    flags = ("--run", world_run[0], "-k", "2", "--keep", "0.3", "--map", "map.jsonl")
    hard = pruned(*flags)[1]
    drawn, again = set(), set()
    for seed in range(9):
        for path, kept in (("map.jsonl", drawn), (f"map{seed}.jsonl", again)):
            out = Path(f"{seed}{path}")
            flags = ("--by", "random", "--keep", "0.3", "--seed", seed, "--out", out)
            table = ("--map", f"map{seed}.jsonl") if kept is drawn else ()
            done = succeeds("curate", "prune", path, *flags, *table, "--json")
            assert done.document["written"] == len(hard) == 3
            assert done.document["dropped"]["not judged"] == 3
            assert f"3 of 10 rows were not judged; the first is {path}, line 1" in done.err
            kept |= {texts(row) for row in read_lines(out)}
    assert drawn == again == set(rows[:7])


def test_the_control_keeps_as_many_and_claims_no_difficulty(rows):
    document, kept = pruned("--by", "random", "--keep", "0.29", "--map", "map.jsonl")
    assert len(kept) == 8 and document["dropped"] == {
        "easier": 0, "harder": 0, "not drawn": 22, "not judged": 0,
    }  # fmt: skip
    assert document["difficulty"] is document["histogram"] is document["k"] is None
    step = {"step": "prune", "by": "random", "difficulty": None, "k": None, "run": None}
    assert own_step(kept[0]) == step
    every = read_lines("map.jsonl")
    assert [texts(r) for r in every if own_step(r)["kept"]] == [texts(r) for r in kept]
    hundred = lines([conversation("Hi", f"Ho {i}.") for i in range(100)])
    Path("rows.jsonl").write_text(hundred)
    assert pruned("--by", "random", "--keep", "0.29", out="100")[0]["written"] == 29


# ------------------------------------------------------------------------------------- an endpoint


def test_a_pruning_that_was_killed_asks_nothing_twice(rows, world_run):
    def verdict(said, reply):
        if len(bodies) == 20 and process.poll() is None:  # never answered: its asker is killed
            os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.2)
        return "right" if len(reply) % 2 else "wrong"

    with judging(verdict) as (url, bodies):
        flags = ["rows.jsonl", "--run", str(world_run[0]), "-k", "9", "--keep", "0.5", "--by", url]
        flags += ["--judge-model", "big"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pysft", "curate", "prune", *flags, "--out", "out.jsonl"],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.wait(30) == -signal.SIGKILL and len(bodies) == 20
        assert not os.path.exists("out.jsonl")
        document, _ = pruned(*flags[1:])
        said = [body["messages"][1]["content"] for body in bodies]
        assert len(said) == len(set(said)) + 1 and document["endpoint"]["cached"] >= 19
        assert document["by"] == "big"


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "flags, expected",
    [
        (("--keep", "0"), "--keep 0.0: expected a share above 0 and at most 1"),
        (("--keep", "1.5"), "--keep 1.5: expected a share"),
        (("--keep", "nan"), "--keep nan: expected a share"),
        (("--keep", "0.1", "-k", "10"), "-k 10: expected 1 to 9 replies"),
        (("--keep", "0.1", "-k", "0"), "'0' is not a whole number above 0"),
        (("--keep", "0.1"), "--by world needs the run that answers the prompts: --run RUN"),
        (("--keep", "0.1", "--by", "loss"), "needs the model whose loss counts: --base RUN"),
        (("--keep", "0.1", "--by", "loss", "--base", "a", "--run", "b"), "needs the model whose"),
        (("--keep", "0.1", "--by", "loss", "--base", "a", "-k", "2"), "--by loss has none"),
        (("--keep", "0.1", "--by", "random", "-k", "2"), "--by random has none"),
        (("--keep", "0.1", "--by", "random", "--easiest"), "leave --base and --easiest out"),
        (("--keep", "0.1", "--by", "random", "--base", "a"), "leave --base and --easiest out"),
        (("--keep", "0.1", "--by", "random", "--judge-model", "a"), "are for the URL"),
        (("--keep", "0.1", "--by", "mine.py", "--run", "a", "--base", "b"), "--base is for --by"),
        (("--keep", "0.03", "--by", "random"), "one of the 30 rows of rows.jsonl would be left;"),
    ],
)
def test_flags_that_do_not_fit_are_one_sentence(rows, workdir, flags, expected):
    said = refusal(2, "curate", "prune", "rows.jsonl", "--out", "out.jsonl", *flags)
    assert expected in said and workdir.is_unchanged()


def test_the_least_share_that_a_message_names_is_enough(workdir):
    for n in (3, 7, 30):
        workdir.write("rows.jsonl", lines([conversation("Hi", f"Ho {i}.") for i in range(n)]))
        flags = ("curate", "prune", "rows.jsonl", "--by", "random", "--out", f"{n}.jsonl")
        least = refusal(2, *flags, "--keep", "0.001").split("keep ")[-1].split()[0]
        assert succeeds(*flags, "--keep", least, "--json").document["written"] == 1


def test_runs_and_files_that_cannot_be_used_are_one_sentence(rows, workdir, world_run, asked):
    prune = ("curate", "prune", "rows.jsonl", "--keep", "0.5", "--out")
    run = ("--run", world_run[0])
    assert "it exists already" in refusal(2, *prune, "rows.jsonl", "--by", "random")
    same = refusal(2, *prune, "o.jsonl", "--by", "random", "--map", "./o.jsonl")
    assert "--map o.jsonl: --out names the same file; choose another name" in same
    taken = refusal(2, *prune, "o.jsonl", "--by", "random", "--map", "rows.jsonl")
    assert "--map rows.jsonl: it exists already" in taken
    assert "no folder no" in refusal(2, *prune, "o.jsonl", "--by", "random", "--map", "no/m.jsonl")
    said = refusal(2, *prune, "o.jsonl", "--by", "loss", "--base", world_run[0] / "sft")
    assert "talks; name it by --run" in said
    assert "a base model, which cannot answer" in refusal(
        2, *prune, "o.jsonl", "--run", world_run[0] / "base"
    )
    q = asked["sealed"][0]
    workdir.write("rows.jsonl", lines([conversation(*rows[0]), conversation(q.prompt, q.answer)]))
    said = refusal(65, *prune, "o.jsonl", *run)
    assert "rows.jsonl, line 2" in said and "asks about what is sealed" in said
    workdir.write("rows.jsonl", conversation("Sing!", "I sing."))
    done = pysft(*prune, "o.jsonl", *run, "--keep", "1")
    assert done.code == 65 and "not one of its 1 rows could be judged" in done.err
    assert workdir.is_unchanged()


def test_the_screen_shows_the_difficulties(rows, world_run):
    flags = ("--run", world_run[0], "-k", "2", "--by", "mine.py", "--keep", "0.5")
    out = succeeds("curate", "prune", "rows.jsonl", "--out", "out.jsonl", *flags).out.splitlines()
    assert "out.jsonl: 15 of 30 rows (15 easier)" in out
    assert sum(int(line.split()[1]) for line in out[-3:]) == 30
    assert any("not right on average" in line for line in out)
