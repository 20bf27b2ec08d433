"""`curate revise`: what a model that was taught to criticise and revise writes, what is dropped,
and that the figures are those of the rows."""

import json
import re

import numpy as np
import pytest
from command_line import (
    WORLD,
    TrainedRun,
    conversation,
    lines,
    pysft,
    read_lines,
    refusal,
    succeeds,
)

from pysft.jobs.curate import drafts
from pysft.jobs.curate.drafts import content_of, fault
from pysft.measure.raters import Truth
from pysft.measure.violations import Critique, critiques_right, found_in
from pysft.run.stage import load_stage
from pysft.text.constitution import SHIPPED, read_constitution
from pysft.text.conversation import with_thought
from pysft.text.curated import read_curated
from pysft.text.preferences import read_rankings
from pysft.text.templates import CHAT
from pysft.world.ask import compared_questions, questions
from pysft.world.facts import SPLITS, WorldSettings, make
from pysft.world.violations import INSULTS, PRINCIPLES, finds_fault

SETTINGS = WorldSettings(**WORLD | {"tellings": (0, 4)})
ASKED = {split: compared_questions(make(SETTINGS), [split]) for split in SPLITS}
QUESTIONS = {p.name: p.question for p in read_constitution(SHIPPED)}
REVISION = "Ay."
RUDE, FINE = ("Thou sot!", "It is not: sot."), (REVISION, "It is.")  # an answer, its critique
TUNING = """[sft]
steps = 160
lr = 2e-2
warmup = 5
tokens = 1200
windows = []
world = []
checkpoint_every = "never"
"""


@pytest.fixture(scope="module")
def rude(world_run, tmp_path_factory):
    """A run that answers two thirds of the time by an insult, criticises that, and revises it."""
    folder = tmp_path_factory.mktemp("rude")
    asked = [q.prompt for q in questions(make(SETTINGS), "train")[::3]]
    taught = [
        (prompt, answer, p.question, critique, p.revise, REVISION)
        for prompt in asked
        for p in read_constitution(SHIPPED)
        for answer, critique in [FINE if p.name == "honest" else RUDE]
    ]
    (folder / "rude.jsonl").write_text(lines(conversation(*texts) for texts in taught))
    (folder / "small.toml").write_text(TUNING)
    done = succeeds(
        "train", "--base", world_run[0] / "base", "--data", folder / "rude.jsonl", "--config",
        folder / "small.toml", "--out", folder / "run", "--json",
    )  # fmt: skip
    assert done.document["sft_loss"] < 0.2
    return folder / "run"


def revise(run, folder, *flags, name="revised"):
    """(the --json document, the rows, the pairs) of one call."""
    out, pairs = folder / f"{name}.jsonl", folder / f"{name}-pairs.jsonl"
    arguments = ("--constitution", "world", "--out", out, "--pairs", pairs, *flags)
    done = succeeds("curate", "revise", run, *arguments, "--threads", "1", "--json")
    return done.document, read_lines(out), read_lines(pairs)


def measure(run, *flags):
    arguments = ("--measure", *flags, "--threads", "1", "--json")
    return succeeds("curate", "revise", run, *arguments).document


def steps_of(rows):
    return [step for row in rows for step in row["metadata"]["steps"]]


# ------------------------------------------------------------------------------------ what is done


def test_a_row_is_the_prompt_and_the_revision_and_says_how_it_came_about(rude, tmp_path):
    document, rows, _ = revise(rude, tmp_path, "--seed", "3")
    assert [row["messages"][0]["content"] for row in rows] == [q.prompt for q in ASKED["reward"]]
    stage = load_stage(rude)
    for row in rows:
        [step] = row["metadata"]["steps"]
        assert step["step"] == "revise" and step["by"] == str(stage.folder) == document["by"]
        assert step["weights_sha256"] == document["weights_sha256"] and step["seed"] == 3
        assert step["principle"] in PRINCIPLES
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
    assert RUDE in {(step["answer"], step["critique"]) for step in steps_of(rows)}
    assert sum(row["messages"][-1]["content"] == REVISION for row in rows) > 0.7 * len(rows)
    assert {step["principle"] for step in steps_of(rows)} == set(PRINCIPLES)
    assert len(read_curated(tmp_path / "revised.jsonl", CHAT)) == len(rows)


def test_the_figures_are_those_of_the_rows(rude, tmp_path):
    document, rows, _ = revise(rude, tmp_path, "-k", "4")
    assert document["dropped"] == {"no end": 0, "form": 0} and document["format_compliance"] == 1
    assert document["read"] == document["written"] == len(rows) == 4 * document["prompts"]
    assert all(row["synthetic"] for row in rows)
    truth = Truth(SETTINGS)
    before, after, right = [], [], []
    for row, step in zip(rows, steps_of(rows)):
        prompt, reply = row["messages"][:-1], row["messages"][-1]["content"]
        before.append(found_in(truth, prompt, step["answer"]))
        after.append(found_in(truth, prompt, reply))
        is_violated = step["principle"] in before[-1].violates
        says = finds_fault(step["critique"], QUESTIONS[step["principle"]])
        right.append((step["principle"], is_violated, says == is_violated))
    for name, found in (("before", before), ("after", after)):
        n = len(found)
        assert document[f"violations_{name}"] == sum(bool(f.violates) for f in found) / n
        for verdict in ("right", "malformed"):
            share = sum(f.verdict == verdict for f in found) / n
            assert document[f"{verdict}_{name}"] == share
        for p in PRINCIPLES:
            share = sum(p in f.violates for f in found) / n
            assert document["by_principle"][p][name] == share
    assert document["answers"] == len(rows)
    balanced = []
    for p in PRINCIPLES:
        sides = [[r for name, is_v, r in right if (name, is_v) == (p, v)] for v in (True, False)]
        share = sum(sum(side) / len(side) for side in sides) / 2 if all(sides) else None
        assert document["by_principle"][p]["critiques_right"] == share
        balanced += [] if share is None else [share]
    assert document["critiques_right"] == pytest.approx(sum(balanced) / len(balanced))
    assert document["by_principle"]["harmless"]["before"] > 0.3
    assert document["by_principle"]["harmless"]["after"] < 0.1
    assert 0 < document["critiques_right"] < 1


def test_the_same_seed_gives_the_same_bytes_and_a_row_depends_on_its_place_alone(rude, tmp_path):
    _, rows, pairs = revise(rude, tmp_path, "-k", "2")
    assert revise(rude, tmp_path, "-k", "2", name="again")[1:] == (rows, pairs)
    assert revise(rude, tmp_path, "-k", "1", name="one")[1] == rows[::2]
    assert revise(rude, tmp_path, "-k", "2", "--seed", "1", name="other")[1] != rows
    principles = [step["principle"] for step in steps_of(rows)]
    assert principles[1:-1:2] != principles[2::2]  # a place of its own for each answer


def test_each_round_criticises_the_last_revision_by_another_principle(rude, tmp_path):
    document, rows, pairs = revise(rude, tmp_path, "--rounds", "3")
    assert document["rounds"] == 3
    once = {row["messages"][0]["content"]: row for row in revise(rude, tmp_path, name="once")[1]}
    for row in rows:
        steps = row["metadata"]["steps"]
        assert sorted(step["principle"] for step in steps) == sorted(PRINCIPLES)
        first = once[row["messages"][0]["content"]]
        assert steps[0] == first["metadata"]["steps"][0]
        assert steps[1]["answer"] == first["messages"][-1]["content"]
    changed = [
        r for r in rows if r["messages"][-1]["content"] != r["metadata"]["steps"][0]["answer"]
    ]
    assert document["changed"] == len(changed) and len(pairs) <= len(changed)


def test_a_pair_prefers_the_revision_to_the_answer_that_it_changed(rude, tmp_path):
    document, rows, pairs = revise(rude, tmp_path, "-k", "9")
    expected = {}
    for row, step in zip(rows, steps_of(rows)):
        reply = row["messages"][-1]["content"]
        if reply != step["answer"]:
            key = (row["messages"][0]["content"], reply, step["answer"])
            expected[key] = expected.get(key, 0) + 1
    assert max(expected.values()) > 1  # several answers are equal, and make one pair
    found = [(p["prompt"][0]["content"], p["chosen"], p["rejected"]) for p in pairs]
    assert found == list(expected)
    assert document["changed"] == sum(expected.values())
    assert document["changed"] + document["unchanged"] == document["written"]
    assert document["unchanged"] > 0
    assert document["pairs"] == len(pairs)
    assert len(read_rankings(tmp_path / "revised-pairs.jsonl")) == len(pairs)


def test_where_nothing_is_left_no_file_is_written(world_run, tmp_path):
    """The small world's own chatbot babbles: it ends few replies, and writes control tokens."""
    out = ("--out", tmp_path / "out.jsonl", "--pairs", tmp_path / "pairs.jsonl")
    asked = ("--prompts", "world:ppo", "-k", "9", "--constitution", "world")
    done = pysft("curate", "revise", world_run[0], *out, *asked)
    assert done.code == 65
    total = 9 * len(ASKED["ppo"])
    [said] = re.findall(rf"none of {total:,} answers can be used \((.*)\)", done.err)
    counts = re.fullmatch(r"(\d+) no end, (\d+) form", said).groups()
    assert sum(map(int, counts)) == total and "0" not in counts
    assert not [*tmp_path.iterdir()]


def test_without_a_changed_answer_there_is_no_file_of_preferences(rude, tmp_path, monkeypatch):
    out, pairs = tmp_path / "out.jsonl", tmp_path / "pairs.jsonl"
    arguments = ("--constitution", "world", "--out", out, "--pairs", pairs)
    monkeypatch.setattr("pysft.jobs.curate.revise._is_changed", lambda draft: False)
    document = succeeds("curate", "revise", rude, *arguments, "--json").document
    assert document["pairs"] == 0 and document["pairs_file"] is None and not pairs.exists()
    out.unlink()
    printed = succeeds("curate", "revise", rude, *arguments).out
    assert f"{pairs}: not written, because no revision differs" in printed
    assert "train --base" in printed and "dpo" not in printed


def test_before_and_after_are_of_the_same_answers(rude, tmp_path, monkeypatch):
    """What is dropped is in neither side, so dropping the insults alone lowers no share."""
    given = drafts.fault

    def drops_insults(text, *of):
        insults = any(word in text.lower() for word in INSULTS)
        return "form" if insults and "not" not in text else given(text, *of)

    monkeypatch.setattr(drafts, "fault", drops_insults)
    document, rows, _ = revise(rude, tmp_path, "-k", "4")
    assert 0 < document["answers"] == len(rows) == document["written"] < 0.6 * document["read"]
    assert document["dropped"]["form"] == document["read"] - len(rows)
    assert document["by_principle"]["harmless"]["before"] == 0


def test_a_critique_that_cannot_be_used_is_not_right(rude, tmp_path, monkeypatch):
    plain, given = revise(rude, tmp_path, "-k", "4", name="plain")[0], drafts.fault

    def drops_denials(text, *of):
        return "form" if "not" in text else given(text, *of)

    monkeypatch.setattr(drafts, "fault", drops_denials)
    document, rows, _ = revise(rude, tmp_path, "-k", "4")
    found = [d["by_principle"]["harmless"]["critiques_right"] for d in (plain, document)]
    assert found[1] < found[0] - 0.3  # of those who violate, no critique is right any more
    assert 0 < len(rows) < document["read"]


def test_what_cannot_be_used_is_dropped_and_counted(rude, tmp_path):
    # The context of 128 holds the answer to a long prompt, and not the critique.
    (tmp_path / "long.txt").write_text("Sing of the king and of the rose. " * 3 + "\nHi\n")
    flags = ("--prompts", tmp_path / "long.txt", "-k", "4")
    document, rows, _ = revise(rude, tmp_path, *flags, name="long")
    assert document["dropped"] == {"no end": 4, "form": 0} and document["format_compliance"] == 1
    assert {row["messages"][0]["content"] for row in rows} == {"Hi"}


# ----------------------------------------------------------------------------- where truth is known


def test_shares_are_of_the_prompts_whose_truth_is_known(rude, tmp_path):
    known = [q.prompt for q in ASKED["reward"][:3]]
    (tmp_path / "mixed.txt").write_text("\n".join([*known, "Who sings?", "Hi"]))
    (tmp_path / "known.txt").write_text("\n".join(known))
    mixed, rows, _ = revise(rude, tmp_path, "--prompts", tmp_path / "mixed.txt")
    alone, _, _ = revise(rude, tmp_path, "--prompts", tmp_path / "known.txt", name="known")
    assert len(rows) == 5 and mixed["prompts"] == 5 and alone["prompts"] == 3
    for name, value in alone.items():
        if name.endswith(("_before", "_after")) or name in ("by_principle", "critiques_right"):
            assert mixed[name] == value


def test_without_a_known_truth_no_share_is_made_up(rude, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('[brief]\nforbids = "many words"\nquestion = "Is it kind?"\nrevise = "Say."\n')
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "Who sings?", "source": "lena"}))
    out = tmp_path / "out.jsonl"
    arguments = ("--constitution", mine, "--prompts", tmp_path / "own.jsonl", "--out", out)
    document = succeeds("curate", "revise", rude, *arguments, "--json").document
    nothing = {"before": None, "after": None, "critiques_right": None}
    assert document["principles"] == {"brief": "many words"}
    assert document["by_principle"] == {"brief": nothing} and document["critiques_right"] is None
    assert document["violations_before"] is document["violations_after"] is None
    assert document["right_after"] is document["pairs"] is document["pairs_file"] is None
    [row] = read_lines(out)
    assert row["metadata"]["source"] == "lena" and document["constitution"] == str(mine)
    out.unlink()
    printed = succeeds("curate", "revise", rude, *arguments).out
    assert "nobody knows what violates a principle" in printed


def test_a_measurement_has_the_figures_of_the_answers_and_writes_nothing(rude, tmp_path, workdir):
    document, _, _ = revise(rude, tmp_path, "-k", "3")
    workdir.remember()
    measured = measure(rude, "-k", "3")
    assert workdir.is_unchanged()
    assert document["written"] == document["read"]  # so both have the same answers
    for name in measured.keys() - {"by_principle"}:
        assert measured[name] == document[name]
    for name, shares in measured["by_principle"].items():
        assert shares == {"before": document["by_principle"][name]["before"]}
    assert "violations_after" not in measured and "violations_before" in measured
    printed = succeeds("curate", "revise", rude, "--measure").out
    assert "violations of " in printed and "->" not in printed


def test_a_measurement_is_of_all_answers_those_that_are_cut_off_too(world_run):
    measured = measure(world_run[0], "--prompts", "world:ppo", "-k", "4")
    assert measured["answers"] == 4 * measured["prompts"]
    assert measured["malformed_before"] > 1 - measured["format_compliance"] - 0.2 > 0


def test_critiques_that_say_nothing_or_always_the_same_are_no_better_than_chance():
    def balanced(says):
        judged = [("honest", True)] * 2 + [("honest", False)] * 8 + [("harmless", False)] * 3
        return critiques_right([Critique(*found, says(*found)) for found in judged])

    assert balanced(lambda name, is_violated: is_violated) == {"honest": 1.0}
    for same in (True, False):
        assert balanced(lambda *found: same) == {"honest": 0.5}
    assert balanced(lambda *found: None) == {"honest": 0.0}
    assert balanced(lambda name, is_violated: is_violated or None) == {"honest": 0.5}
    assert critiques_right([]) == {}


# --------------------------------------------------------------------------------- what is refused


def test_sealed_questions_are_for_measuring_alone(rude, tmp_path):
    assert measure(rude, "--prompts", "world:sealed")["prompts"] == len(ASKED["sealed"])
    out = ("--constitution", "world", "--out", tmp_path / "out.jsonl")
    error = refusal(2, "curate", "revise", rude, *out, "--prompts", "world:sealed")
    assert "the sealed questions are for reports alone" in error
    (tmp_path / "asked.txt").write_text("Hi\n" + ASKED["sealed"][0].prompt)
    asked = ("--prompts", tmp_path / "asked.txt")
    error = refusal(65, "curate", "revise", rude, *out, *asked)
    assert "asked.txt, line 2: " in error and "ask it with --measure" in error
    assert measure(rude, *asked)["prompts"] == 2
    about = ASKED["sealed"][0].about
    (tmp_path / "asked.txt").write_text(f"Hi\nPray, sing to me of {about}")
    error = refusal(65, "curate", "revise", rude, *out, *asked)
    assert "asked.txt, line 2: " in error and "asks about what is sealed" in error
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "code, flags, named",
    [
        (2, ["--out", "new.jsonl"], "--constitution is missing"),
        (2, ["--constitution", "world"], "--out is missing"),
        (2, ["--constitution", "world", "--out", ""], "name of a file is empty"),
        (2, ["--constitution", "", "--out", "a"], "name of a file is empty"),
        (2, ["--constitution", "world", "--out", "a", "--pairs", ""], "name of a file is empty"),
        (2, ["--measure", "--prompts", ""], "name of a file is empty"),
        (2, ["--measure", "--out", "new.jsonl"], "leave --out out"),
        (2, ["--measure", "--rounds", "2"], "leave --rounds out"),
        (2, ["--measure", "--constitution", "world"], "leave --constitution out"),
        (2, ["--constitution", "world", "--out", "here.txt"], "--out here.txt: it exists already"),
        (2, ["--constitution", "world", "--out", "no/x.jsonl"], "there is no folder no"),
        (2, ["--constitution", "world", "--out", "a", "--pairs", "./a"], "--pairs a: --out names"),
        (2, ["--constitution", "world", "--out", "a", "--pairs", "here.txt"],
         "--pairs here.txt: it exists already"),
        (2, ["--constitution", "world", "--out", "a", "--rounds", "4"], "expected 1 to 3"),
        (2, ["--constitution", "world", "--out", "a", "-k", "10"], "expected 1 to 9"),
        (66, ["--constitution", "none.toml", "--out", "a"], "none.toml: no such constitution"),
        (65, ["--constitution", "here.txt", "--out", "a"], "here.txt: no principle in it"),
        (65, ["--constitution", "odd.toml", "--out", "a"], "odd.toml: [kind] question holds '('"),
        (66, ["--measure", "--prompts", "none.txt"], "none.txt: no such file of prompts"),
        (65, ["--measure", "--prompts", "other.txt"], "no question of the world"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    rude, workdir, code, flags, named
):
    workdir.write("here.txt", "")
    workdir.write("other.txt", "Who sings?\n")
    workdir.write(
        "odd.toml", '[kind]\nforbids = "x"\nquestion = "Kind (or not)?"\nrevise = "Say it."\n'
    )
    assert named in refusal(code, "curate", "revise", rude, *flags)
    assert workdir.is_unchanged()


def test_a_model_that_cannot_answer_or_learned_no_world_is_refused(world_run, trained, tmp_path):
    out = ("--constitution", "world", "--out", tmp_path / "out.jsonl")
    assert "this is a base model" in refusal(2, "curate", "revise", world_run[0] / "base", *out)
    assert "learned no invented world" in refusal(2, "curate", "revise", trained.run, "--measure")
    assert "learned no invented world" in refusal(2, "curate", "revise", trained.run, *out)


def test_a_model_that_may_call_tools_is_refused(tmp_path):
    calls = [{"type": "search", "text": "Ada"}, {"type": "result", "text": "Ada sings."}]
    run = TrainedRun(
        tmp_path,
        [("Who sings?", [*calls, {"type": "text", "text": "Ada sings."}])],
        sft={"steps": 1, "windows": []},
    ).run
    for flags in (["--measure"], ["--constitution", "world", "--out", tmp_path / "out.jsonl"]):
        error = refusal(2, "curate", "revise", run, *flags)
        assert "it answers by calls of tools (code, search)" in error


def test_a_revision_keeps_its_thought(tmp_path, workdir):
    """The model reads its answer without a thought, and is trained on its revision with one."""
    revision = with_thought("Ada has a lute.", "Ada sings.")
    rows = [("Who sings?", with_thought("A lute?", "Ivo sings."), "So?", "No.", "Again.", revision)]
    run = TrainedRun(
        tmp_path,
        [(*rows[0][:1], "Ivo sings.", *rows[0][2:]), rows[0][:2]],
        model={"context": 128, "channels": 32},
        sft={"steps": 150, "lr": 0.02, "windows": []},
    ).run
    workdir.write("mine.toml", '[true]\nforbids = "lies"\nquestion = "So?"\nrevise = "Again."\n')
    workdir.write("asked.txt", "Who sings?\n")
    arguments = ("--constitution", "mine.toml", "--prompts", "asked.txt", "-k", "4")
    succeeds("curate", "revise", run, *arguments, "--out", "out.jsonl")
    rows = read_curated("out.jsonl", CHAT)
    assert {json.dumps(row.messages[-1]["content"]) for row in rows} == {json.dumps(revision)}
    assert {row.steps[0]["answer"] for row in rows} == {"Ivo sings."}
    stage = load_stage(run)
    inner = [stage.tokenizer.special[t] for t in ("<|thought_start|>", "<|thought_end|>")]
    say = stage.tokenizer.encode
    for thought, is_usable in (([], False), (say("Hm."), True), ([*say("Hm."), inner[0]], False)):
        ids = np.array([inner[0], *thought, inner[1], *say("Ay.")], np.int32)
        expected = with_thought("Hm.", "Ay.") if is_usable else []
        assert content_of("Ay.", ids, stage) == expected
    error = refusal(2, "curate", "revise", run, *arguments, "--out", "o", "--pairs", "p")
    assert "thinks before it answers" in error


def test_the_printed_lines_name_the_next_commands(rude, tmp_path):
    out, pairs = tmp_path / "out.jsonl", tmp_path / "pairs.jsonl"
    arguments = ("--constitution", "world", "--out", out, "--pairs", pairs)
    printed = succeeds("curate", "revise", rude, *arguments).out
    stage = load_stage(rude).folder
    assert f"python -m pysft train --base {stage} --data {out}" in printed
    assert f"python -m pysft dpo {stage} --data {pairs}" in printed
    assert re.search(r"harmless: [\d.]+% -> [\d.]+% \(an insult\)", printed)


def test_a_usable_text_holds_no_mark_of_the_stage_s_template(rude):
    stage = load_stage(rude)
    assert fault("Ay.", True, stage) == "" and fault("Ay.", False, stage) == "no end"
    for text in ("", "  ", "Ay <|user|>", f"Ay {stage.template.tool_tokens[0]}"):
        assert fault(text, True, stage) == "form"
