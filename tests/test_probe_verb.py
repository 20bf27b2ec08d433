"""`pysft probe`: what it asks, what it writes, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chat_server import judging
from command_line import pysft, read_lines, refusal, succeeds

from pysft.cli.main import parser
from pysft.jobs.probe import _people, beside, recalling
from pysft.nn.grow import expand_vocab
from pysft.rng import rng
from pysft.run.stage import load_stage, save_stage
from pysft.text.curated import read_curated
from pysft.text.templates import CHAT
from pysft.world.ask import questions
from pysft.world.facts import make

JUDGE = "def judge(question, answer, reply):\n    return 'right' if len(reply) % 3 else 'wrong'\n"


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "judge.py"
    path.write_text(JUDGE)
    return path


@pytest.fixture(scope="module")
def brief(world_run, tmp_path_factory):
    """The run with a model that writes some random letters and ends."""
    run = tmp_path_factory.mktemp("brief") / "run"
    shutil.copytree(world_run[0], run)
    stage = load_stage(run / "sft")
    special, params = stage.tokenizer.special, stage.model.params
    scale, bias, head = (params[name] for name in ("lnf.w", "lnf.b", "head"))
    scale[:], bias[:], head[:] = 0, 0, 0
    bias[0] = 1  # so the first column of the head is the logits
    for name, i in special.items():
        head[i, 0] = 2 if name == CHAT.end else -9
    save_stage(stage)
    return run


def probe(run, *arguments):
    return succeeds("probe", run, "--threads", 1, *arguments, "--json")


def surprise_of(stage, prompt):
    """The same in float64, a token at a time: <|user|> opens the question, and nothing is read
    after it."""
    text = stage.tokenizer.encode(prompt[0]["content"])
    ids = np.array([stage.tokenizer.special["<|user|>"], *text], np.int32)
    logits = stage.model.logits(ids[:-1], np.array([0, len(text)], np.int32)).astype(float)
    each = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(text)), text]
    return each.mean()


def test_a_map_of_the_world_asks_what_no_training_asked(brief, judge, tmp_path):
    run, out = brief, tmp_path / "map"
    found = json.loads(probe(run, "--judge", judge, "-k", 3, "--out", out).out)
    stage = load_stage(run)
    world = make(stage.world)
    asked = {q.prompt: q for s in ("reward", "ppo") for q in questions(world, s) if q.hops != 2}
    rows = read_lines(out / "map.jsonl")
    assert [row["prompt"][0]["content"] for row in rows] == list(asked)
    assert (
        found["questions"]
        == len(asked)
        == sum(found[k] for k in ("known", "mixed", "unknown", "malformed", "not_judged"))
    )
    for row in rows:
        q = asked[row["prompt"][0]["content"]]
        assert (row["answer"], row["tellings"], row["about"]) == (q.answer, q.tellings, q.about)
        assert len(row["replies"]) == len(row["verdicts"]) == 3
        assert row["surprise"] == pytest.approx(surprise_of(stage, row["prompt"]), rel=1e-4)
        if "malformed" not in row["verdicts"]:
            right = [v == "right" for v in row["verdicts"]]
            # Where there is no answer, only a refusal can be right, and it shows no knowledge.
            assert right == [bool(q.value) and bool(len(reply) % 3) for reply in row["replies"]]
    written = read_curated(out / "rows.jsonl", CHAT)
    assert len(written) == found["rows"]["answers"] + found["rows"]["refusals"]
    for row in written:
        kind = row.steps[0]["kind"]
        q = asked[row.asked]
        assert (kind == "unknown") == (
            q.about in row.reply and row.reply.endswith(("name.", "day."))
        )


def test_the_same_seed_gives_the_same_files_and_agrees_with_itself(brief, judge, tmp_path):
    some = brief, "--judge", judge, "-k", 2, "--questions", "world:ppo"
    first, again, other = (tmp_path / name for name in "abc")
    probe(*some, "--out", first)
    found = json.loads(probe(*some, "--out", again, "--against", first / "map.jsonl").out)
    assert found["agreement"] == 1
    for name in ("map.jsonl", "rows.jsonl"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    found = json.loads(
        probe(*some, "--seed", 1, "--out", other, "--against", first / "map.jsonl").out
    )
    assert (first / "map.jsonl").read_bytes() != (other / "map.jsonl").read_bytes()
    assert found["agreement"] < 1


def test_a_file_of_questions_is_judged_with_its_answers(brief, tmp_path):
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in ("ten", "two")]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = tmp_path / "judge.py"
    judge.write_text(
        "def judge(question, answer, reply):\n"
        "    assert answer == question.replace('What is', 'It is').replace('?', '.')\n"
        "    return 'right' if question == 'What is ten?' else 'wrong'\n"
    )
    out = tmp_path / "map"
    asked = "--questions", tmp_path / "q.jsonl", "--judge", judge, "--refusal", "I know not."
    probe(brief, *asked, "-k", 9, "--out", out)
    ten, two = read_lines(out / "map.jsonl")
    assert set(ten["verdicts"]) <= {"right", "malformed"} and "right" in ten["verdicts"]
    assert set(two["verdicts"]) <= {"wrong", "malformed"} and two["kind"] == "unknown"
    refused = [row for row in read_curated(out / "rows.jsonl", CHAT) if row.asked == "What is two?"]
    assert [row.reply for row in refused] == ["I know not."]


def test_an_endpoint_is_asked_once_for_each_reply(brief, tmp_path):
    (tmp_path / "q.txt").write_text("Who sings?\nWho walks?\n")
    with judging(lambda said, reply: "right" if said == "Who sings?" else "wrong") as (url, seen):
        asked = "--questions", tmp_path / "q.txt", "--judge", url, "--judge-model", "m"
        asked = brief, *asked, "--judge-cache", tmp_path / "judged", "-k", 9
        probe(*asked, "--out", tmp_path / "a")
        calls = len(seen)
        probe(*asked, "--out", tmp_path / "b")
    rows = read_lines(tmp_path / "a/map.jsonl")
    judged = {
        (r["prompt"][0]["content"], t)
        for r in rows
        for t, v in zip(r["replies"], r["verdicts"])
        if v != "malformed"
    }
    assert len(seen) == calls == len(judged) > 0
    assert (tmp_path / "a/map.jsonl").read_bytes() == (tmp_path / "b/map.jsonl").read_bytes()


def test_what_cannot_be_probed_is_refused(brief, judge, tmp_path):
    run, out = brief, ("--out", tmp_path / "map")
    (tmp_path / "q.txt").write_text("Who?\n")
    never = tmp_path / "never.py"
    never.write_text("def judge(question, answer, reply):\n    return 'wrong'\n")
    for code, arguments, said in [
        (2, (run, "--share", 0.6), "at most 0.5. Where more than half of the rows refuse"),
        (2, (run, "--share", 0), "expected a share above 0"),
        (2, (run, "-k", 10), "-k 10: expected 1 to 9 replies"),
        (2, (run, "--known", 0.1), "expected 0 <= unknown < known <= 1"),
        (2, (run, "--questions", "world:sealed"), "the sealed questions are for reports alone"),
        (2, (run, "--questions", tmp_path / "q.txt"), "name another by --judge"),
        (
            66,
            (run, "--questions", tmp_path / "no.txt", "--judge", judge),
            "no such file of prompts",
        ),
        (2, (f"{run}/base",), "this is a base model, which cannot answer; tune it:"),
        (66, (run, "--against", tmp_path / "no.jsonl"), "no such file; name the map.jsonl of"),
        (65, (run, "--against", tmp_path / "q.txt"), "it is no map; name the map.jsonl"),
    ]:
        assert said in refusal(code, "probe", *arguments, *out), arguments
        assert not (tmp_path / "map").exists()
    found = pysft("probe", run, "--judge", never, "-k", 1, "--threads", 1, *out)
    assert found.code == 65 and "called no reply right, so nothing is known" in found.err
    assert not (tmp_path / "map").exists()
    (tmp_path / "map").mkdir()
    (tmp_path / "map/mine.txt").write_text("x")
    assert "it is not empty; name a new folder" in refusal(2, "probe", run, *out)
    mine = "--questions", tmp_path / "q.txt", "--judge", judge, "--refusal", "ζ"
    said = refusal(2, "probe", run, *mine, "--out", tmp_path / "m")
    assert "--refusal 'ζ': the vocabulary of" in said and "cannot write it" in said


def test_the_screen_shows_the_map_and_the_next_command(brief, judge, tmp_path):
    out = tmp_path / "map"
    text = succeeds("probe", brief, "--judge", judge, "-k", 2, "--threads", 1, "--out", out).out
    assert "2 replies to each at temperature 1, judged by judge.py" in text
    assert f"python -m pysft train --base {brief}/base --data world {out}/rows.jsonl" in text


def test_recall_asks_about_people_whom_somebody_names(brief, judge, tmp_path):
    (tmp_path / "q.txt").write_text("Who?\n")
    run, out = brief, ("--out", tmp_path / "map")
    said = refusal(2, "probe", run, "--questions", tmp_path / "q.txt", "--recall", 5, *out)
    assert "--recall is for questions of a world" in said
    said = refusal(2, "probe", run, "--recall", 5, "--share", 0.1, *out)
    assert "--share is for rows without --recall" in said
    world = make(load_stage(run).world)
    names = _people(world)
    assert names and not names & {q.about for q in questions(world, "sealed")}
    assert names <= {e.name for e in world.entities if e.kind == "person"} | world.strangers.keys()


def test_sealed_questions_make_no_rows_in_any_wording(brief, judge, tmp_path):
    run = brief
    sealed = questions(make(load_stage(run).world), "sealed")[0]
    for text in (sealed.prompt, f"Tell me of {sealed.about}."):
        (tmp_path / "q.txt").write_text(f"Who sings?\n{text}\n")
        asked = "--questions", tmp_path / "q.txt", "--judge", judge
        assert "sealed" in refusal(65, "probe", run, *asked, "--out", tmp_path / "map")


def test_a_model_that_calls_tools_is_refused(brief, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(brief, run)
    stage = load_stage(run / "sft")
    tokens = CHAT.tokens_for({"search", "code", "result"})
    model = expand_vocab(stage.model, len(stage.tokenizer) + len(tokens), "mean", rng(1, "x", "y"))
    save_stage(replace(stage, model=model, tokenizer=stage.tokenizer.grow(tokens)))
    said = refusal(2, "probe", run, "--out", tmp_path / "map")
    assert "it answers by calls of tools (code, search), and here no tool runs" in said


def test_the_next_command_trains_as_before(brief, tmp_path):
    run = brief
    document = {"data": "rows.jsonl", "trained": 30, "rows": {"answers": 4, "refusals": 6}}
    assert beside(run / "sft", document)[2:] == ["--data", "world", "rows.jsonl"]
    assert beside(run / "sft", document)[1] == run / "base"
    begun = json.loads((run / "run.json").read_text())
    begun["data"], begun["settings"]["data"] = None, begun["settings"]["data"] | {
        "mix": [1, 3], "grade": "flags", "shipped": "conversations+pairs"
    }  # fmt: skip
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "run.json").write_text(json.dumps(begun))
    _, _, _, *data, mix, one, three, rows, grade, flags = beside(copy / "sft", document)
    assert [Path(path).name for path in data] == [
        "conversations.jsonl",
        "pairs40.jsonl",
        "rows.jsonl",
    ]
    assert all(Path(path).is_file() for path in data[:2])
    assert (mix, one, three, rows, grade, flags) == ("--mix", 1, 3, "1.33", "--grade", "flags")


def test_the_next_command_of_recall_has_its_recipe():
    document = {"data": ["a.jsonl", "b.jsonl", "c.jsonl"]}
    words = list(map(str, ["train", *recalling(Path("runs/x/sft"), document)]))
    args, more = parser().parse_known_args(words)
    assert not more and args.base == "runs/x/sft" and args.data == document["data"]
    assert args.mix == [1, 1, 2] and "sft.world=[[256,4]]" in args.set
