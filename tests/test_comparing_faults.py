"""What goes wrong with comparisons: each is one sentence that says what to do, and nothing on disk
is lost."""

import errno
import os
import signal

import pytest
from command_line import (
    CONVERSATIONS,
    files_in,
    interrupted_at_once,
    pysft,
    raising,
    refusal,
    succeeds,
)

from pysft import disk
from pysft.errors import DataError
from pysft.jobs import comparisons
from pysft.jobs.collect import sample_replies
from pysft.run.stage import load_stage
from pysft.text.render import render_prompt

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

GOOD = [
    {
        "prompt": prompt,
        "replies": ["It is foul.", f"The {prompt.split()[-1]} is fair."],
        "ranks": [2, 1],
    }
    for prompt, *_ in CONVERSATIONS
]
VERBS = pytest.mark.parametrize("verb", ["reward", "dpo"])
# Replies to a world's questions, ranked by the length alone: those of a small model are babble.
MADE = ["--by", "lena", "--replies", 2, "--rounds", 1, "--steps", 2]
MADE_DPO = [*MADE, "--set", "dpo.windows=[]", "dpo.checkpoint_every='never'"]


@pytest.fixture(scope="module")
def scored(world_run):
    """A run with a reward model, of the world's vocabulary."""
    out = world_run[0].parent / "scored"
    succeeds("reward", world_run[0], *MADE, "--out", out)
    return out


# ------------------------------------------------------------------------------------- the files


@VERBS
@pytest.mark.parametrize(
    "rows, says",
    [
        ([{**row, "ranks": [1, 1]} for row in GOOD], "puts two replies in an order (60 tie"),
        ([{"prompt": "Hi", "completion": "Ho"}], "line 1: no ranking in it, only 'prompt'"),
        ([{"messages": []}], "line 1: no ranking in it, only 'messages'"),
        ([{"prompt": "Hi", "replies": ["a", "b"]}], 'no "ranks" in it; add it'),
        ([], "no ranking in it. The guide's page"),
        (GOOD[:1] * 4, "bad.jsonl: 1 different prompt, which cannot be split"),
        (GOOD[:2], "bad.jsonl: 2 different prompts, which cannot be split"),
        (
            [{"prompt": "Hi", "chosen": "a@b", "rejected": "c"}, *GOOD],
            "chosen: outside the 65 characters of this vocabulary",
        ),
    ],
)
def test_a_file_from_which_nothing_can_be_learned_is_named(trained, workdir, verb, rows, says):
    workdir.write("bad.jsonl", rows)
    line = refusal(65, verb, trained.run, "--data", "bad.jsonl", "--out", "r")
    assert "bad.jsonl" in line and says in line and "--unknown" not in line
    assert workdir.is_unchanged()


@VERBS
def test_rankings_of_which_none_fits_are_refused_even_if_long_ones_are_dropped(
    trained, workdir, verb
):
    workdir.write("long.jsonl", [{**row, "prompt": row["prompt"] * 20} for row in GOOD])
    flags = ("--data", "long.jsonl", "--too-long", "drop", "--out", "r")
    assert "begin from a run with a longer context" in refusal(65, verb, trained.run, *flags)
    assert workdir.is_unchanged()


def test_characters_are_replaced_in_each_reply_where_the_message_says_how(trained, workdir):
    rows = [{"prompt": "Hi", "chosen": "caf\u00e9", "rejected": "tea"}, *GOOD]
    workdir.write("e.jsonl", rows)
    command = ("reward", trained.run, "--data", "e.jsonl", "--steps", 1)
    remedy = "--set data.unknown=replace"
    assert remedy in refusal(65, *command, "--out", "r")
    succeeds(*command, *remedy.split(), "--out", "r")
    equal = {"prompt": "Hi", "chosen": "caf\u00e9", "rejected": "cafe"}
    workdir.write("e.jsonl", [equal, *GOOD])
    line = refusal(65, *command, *remedy.split(), "--out", "s")
    assert "the same text as chosen, with another rank" in line


# ---------------------------------------------------------------------------------- runs and flags


@VERBS
def test_a_base_model_has_no_replies_to_compare(trained, workdir, verb):
    workdir.write("good.jsonl", GOOD)
    line = refusal(2, verb, trained.run / "base", "--data", "good.jsonl", "--out", "r")
    assert "this is a base model" in line and "train --base" in line
    assert workdir.is_unchanged()


@VERBS
@pytest.mark.parametrize(
    "flags, says",
    [
        (("--data", "good.jsonl", "--by", "world"), "--by is for comparisons that the run makes"),
        (("--data", "good.jsonl", "--rounds", 2), "--rounds is for comparisons that the run makes"),
        (("--by", "nobody"), "--by nobody: name world, labelers"),
        (("--by", "reward"), "reward"),
        (("--replies", 1), "replies = 1: expected 2 to 9"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_before_anything_is_written(
    world_run, workdir, verb, flags, says
):
    workdir.write("good.jsonl", GOOD)
    assert says in refusal(2, verb, world_run[0], *flags, "--out", "r")
    assert workdir.is_unchanged()


@VERBS
def test_settings_that_files_of_comparisons_leave_unused_are_named(trained, workdir, verb):
    workdir.write("good.jsonl", GOOD)
    workdir.path.joinpath("by.toml").write_text(f'[{verb}]\nby = "world"\nsteps = 1\n')
    flags = ("--config", "by.toml", "--set", f"{verb}.rounds=2", f"{verb}.windows=[]")
    said = succeeds(verb, trained.run, "--data", "good.jsonl", *flags, "--out", "r").out
    for name in ("by", "rounds"):
        assert f"{verb}.{name} not used, because files hold the comparisons" in said
    assert "replies not used" not in said


def test_a_reward_model_that_would_not_be_asked_or_reads_other_words_is_refused(
    trained, world_run, scored, workdir
):
    workdir.write("good.jsonl", GOOD)
    by = ("--reward", scored, "--out", "d")
    for flags in (("--data", "good.jsonl"), ("--by", "world")):
        assert "leave one of the two out" in refusal(2, "dpo", world_run[0], *flags, *by)
    for flags, why in (
        (("--set", "dpo.by='world'"), "dpo.by = 'world'"),
        (("--set", "dpo.by='labelers'"), "dpo.by = 'labelers'"),
    ):
        line = refusal(2, "dpo", world_run[0], *flags, *by)
        assert f"--reward names a model that ranks replies, but {why}; leave it out" in line
    asks = ("--data", "world", "--set", "sft.windows=[]", "sft.world=[]")
    line = refusal(2, "train", "--base", world_run[0], *asks, *by)
    assert "but no stage of this run lets a model rank replies; leave it out" in line
    both = ("train", "--base", world_run[0] / "sft", "--stages", "reward,dpo")
    assert "but this run trains one of its own, reward; leave it out" in refusal(2, *both, *by)
    line = refusal(2, *both[:-1], "dpo", "--rankings", "good.jsonl", *by)
    assert "but good.jsonl holds their order already; leave it out" in line
    succeeds("reward", trained.run, "--data", "good.jsonl", "--steps", 1, "--out", "other")
    workdir.remember()
    line = refusal(2, "dpo", world_run[0], "--reward", "other", "--out", "d")
    assert "the context of this reward model holds 64 tokens, and that of" in line
    assert workdir.is_unchanged()


def test_a_reward_model_is_no_talker_and_says_so(scored, workdir):
    workdir.write("prompts.txt", "Hi\n")
    line = refusal(2, "generate", scored, "--prompts", "prompts.txt")
    assert "this is a reward model, which writes nothing; name a stage that talks" in line
    assert workdir.is_unchanged()


@pytest.mark.parametrize("reply", ["a" * 200, "a@b"])
def test_a_reply_that_a_reward_model_cannot_read_is_named(scored, workdir, reply):
    workdir.write("replies.jsonl", [{"prompt": "Hi you", "replies": [reply, "b"]}])
    line = refusal(65, "rate", "replies.jsonl", "--by", scored)
    assert "it cannot read a reply to 'Hi you'" in line and "leave the row out" in line
    assert "--" not in line.replace("--by", "") and workdir.is_unchanged()


# ------------------------------------------------------------------------------ stopped and resumed


@pytest.fixture
def begin(world_run, scored, workdir):
    """A function that begins a stage that makes its own comparisons: (exit status, message)."""

    def begin(verb, out="run"):
        flags = MADE if verb == "reward" else MADE_DPO
        done = pysft(verb, world_run[0], *flags, "--out", out)
        return done.code, done.err.splitlines()[-1:]

    return begin


@VERBS
@pytest.mark.parametrize("moment", [0, 1])
def test_ctrl_c_while_comparisons_are_collected_says_how_to_go_on(
    begin, workdir, monkeypatch, verb, moment
):
    """moment: the number of the file of rankings that is being collected."""
    assert begin(verb, "whole")[0] == 0
    sample, calls = comparisons.sample_replies, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == moment + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return sample(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(comparisons, "sample_replies", interrupted)
        code, [message] = begin(verb)
    assert code == 130
    assert f"pysft: interrupted. Go on with: python -m pysft {verb} --resume --out run" == message
    assert not list(workdir.path.rglob("*.tmp"))
    succeeds(verb, "--resume", "--out", "run")
    for name in ("model.safetensors", "rankings.jsonl", "heldout.jsonl"):
        path = f"{verb}/{name}"
        assert files_in("run")[path] == files_in("whole")[path]


def test_comparisons_that_were_collected_are_not_collected_again(begin, monkeypatch):
    with interrupted_at_once():
        assert begin("dpo")[0] == 130
    monkeypatch.setattr(comparisons, "sample_replies", raising(AssertionError("again")))
    succeeds("dpo", "--resume", "--out", "run")


def test_a_run_is_resumed_by_the_verb_that_began_it(begin, workdir):
    with interrupted_at_once():
        begin("reward")
    workdir.remember()
    for verb in ("dpo", "train", "pretrain"):
        line = refusal(2, verb, "--resume", "--out", "run")
        assert "was begun by 'pysft reward'. Resume it with: python -m pysft reward" in line
    assert workdir.is_unchanged()


def test_another_reward_model_than_the_run_was_begun_with_is_refused(
    world_run, scored, workdir, tmp_path
):
    succeeds("reward", world_run[0], *MADE, "--seed", 5, "--out", "mine")
    flags = ["--replies", 2, "--rounds", 1, "--steps", 2, "--reward", "mine", "--out", "run"]
    with interrupted_at_once():
        assert pysft("dpo", world_run[0], *flags).code == 130
    weights = workdir.path / "mine" / "reward" / "model.safetensors"
    weights.write_bytes((scored / "reward" / "model.safetensors").read_bytes())
    line = refusal(65, "dpo", "--resume", "--out", "run")
    assert "mine/reward/model.safetensors: changed since this run was begun" in line


@VERBS
def test_a_disk_that_becomes_read_only_loses_nothing_and_the_run_goes_on_later(
    begin, workdir, monkeypatch, verb
):
    replace = disk.replace

    def read_only(path, pieces):
        if path.name == "heldout.jsonl":
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        replace(path, pieces)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "replace", read_only)
        code, [message] = begin(verb)
    assert code == 1 and "heldout.jsonl: Read-only file system" in message
    assert f"Go on with: python -m pysft {verb} --resume --out run" in message
    assert files_in("run")[f"{verb}/rankings.jsonl"]
    succeeds(verb, "--resume", "--out", "run")


@VERBS
def test_a_folder_that_cannot_be_made_is_named(begin, workdir, monkeypatch, verb):
    error = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(disk, "make_new_folder", raising(error))
    code, [message] = begin(verb)
    assert code == 2 and "run: cannot be made (Permission denied). Choose another" in message
    assert workdir.is_unchanged()


def test_babble_that_ties_is_no_lesson(world_run, workdir, monkeypatch):
    monkeypatch.setattr(comparisons, "sample_replies", lambda stage, asked, *_, **__: [
        [("same", True)] * 2 for _ in asked
    ])  # fmt: skip
    line = pysft("reward", world_run[0], *MADE, "--out", "r").err.splitlines()[-1]
    assert "all replies of sft to a prompt are equal or tie" in line and "--replies" in line


def test_a_reply_that_fills_the_context_leaves_room_for_its_end(world_run):
    """A reward model reads the token that ends a reply, so a reply without room for it would stop
    the training after all replies were collected."""
    stage = load_stage(world_run[0])
    prompt = [{"role": "user", "content": "a" * 110}]
    room = 128 - len(render_prompt(prompt, stage.tokenizer, stage.template))
    [replies] = sample_replies(stage, [prompt], 9, 0)
    longest = max(len(stage.tokenizer.encode(t)) for t, end in replies if "<|" not in t and not end)
    assert longest == room - 1
    with pytest.raises(DataError, match="leaves no room"):
        sample_replies(stage, [[{"role": "user", "content": "a" * (110 + room - 1)}]], 2, 0)
