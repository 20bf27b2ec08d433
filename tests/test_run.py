"""A run on disk: what is saved comes back, damage is named, an interrupted run goes on as if it had
not been."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SMALL_RUN, in_process

from pysft import recipe, run
from pysft.disk import alone
from pysft.errors import DataError, Diverged, MissingInput, PysftError, UsageError
from pysft.nn import safetensors
from pysft.nn.model import GPT, GPTConfig
from pysft.nn.optim import AdamW
from pysft.run import (
    Stage,
    append_log,
    cut_log,
    find_stage,
    load_checkpoint,
    load_stage,
    new_run,
    read_log,
    save_checkpoint,
    save_stage,
    weights_sha256,
    write_json,
)
from pysft.text.dataset import read_corpus
from pysft.text.template import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.training import loop
from pysft.training.loop import Outliers
from pysft.training.stages import Settings, pretrain

TOKENIZER = CharTokenizer(SHAKESPEARE, CHAT.tokens)
CONFIG = GPTConfig(68, context=16, layers=1, heads=2, channels=16)
CORPUS = np.random.default_rng(0).integers(0, 65, 500).astype(np.int32)
SETTINGS = Settings(
    context=16,
    layers=1,
    heads=2,
    channels=16,
    base_steps=9,
    base_windows=((8, 4),),
    base_warmup=2,
    sft_windows=((8, 1),),
)
QUIET = recipe.Screen(True)


def model_of(seed=1):
    return GPT(CONFIG, rng=np.random.default_rng(seed))


def stage_in(folder, seed=1):
    return Stage(
        folder,
        model_of(seed),
        TOKENIZER,
        CHAT,
        {"preset": "tiny"},
        {"path": "runs/x/base", "weights_sha256": "0"},
    )


def one_line(error) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


def snapshot(folder):
    """Every file under a folder, with its bytes."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


# ---------------------------------------------------------------------------------- save and load


def test_a_saved_stage_comes_back_bit_for_bit(tmp_path):
    stage = stage_in(tmp_path / "r" / "sft")
    save_stage(stage)
    for path in (tmp_path / "r", tmp_path / "r" / "sft"):
        found = load_stage(path)
        assert found.name == "sft" and found.model.config == CONFIG
        assert np.array_equal(found.model.params.flat, stage.model.params.flat)
        assert weights_sha256(found.model) == weights_sha256(stage.model)
        assert (found.tokenizer, found.template) == (TOKENIZER, CHAT)
        assert (found.settings, found.parent) == (stage.settings, stage.parent)


def test_a_run_stands_for_its_last_stage(tmp_path):
    save_stage(stage_in(tmp_path / "base", 1))
    assert find_stage(tmp_path).name == "base"
    save_stage(stage_in(tmp_path / "sft", 2))
    assert find_stage(tmp_path).name == "sft" and find_stage(tmp_path / "base").name == "base"


def test_different_weights_have_different_hashes():
    a, b = model_of(), model_of()
    assert weights_sha256(a) == weights_sha256(b)
    b.params["wpe"][3, 3] = np.nextafter(b.params["wpe"][3, 3], np.float32(9))
    assert weights_sha256(a) != weights_sha256(b)


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    save_stage(stage_in(tmp_path / "r"))
    before = snapshot(tmp_path)
    bad = stage_in(tmp_path / "r")
    bad.model.params["head"][0, 0] = np.nan
    with pytest.raises(PysftError, match="not finite"):
        save_stage(bad)
    assert snapshot(tmp_path) == before


def test_a_stage_whose_saving_was_interrupted_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.safetensors, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_stage(stage_in(tmp_path / "r" / "base"))
    with pytest.raises(MissingInput, match="never finished"):
        load_stage(tmp_path / "r")


def test_an_interrupted_write_of_a_record_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def edit(name, change):
    """Damage: change the JSON object in a file."""

    def damage(folder):
        data = json.loads((folder / name).read_text())
        change(data)
        (folder / name).write_text(json.dumps(data))

    return damage


def tensors(change, metadata=None):
    """Damage: change the tensors of the weights' file."""

    def damage(folder):
        found, _ = safetensors.load(folder / "model.safetensors")
        found = {name: a.copy() for name, a in found.items()}
        change(found)
        safetensors.save(folder / "model.safetensors", found, metadata)

    return damage


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def flip_a_bit(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-9] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def poison(found):
    found["h0.fc.w"][1, 1] = np.nan


DAMAGES = {
    "weights cut short": (
        lambda f: os.truncate(f / "model.safetensors", 9999),
        "model.safetensors",
    ),
    "weights empty": (write("model.safetensors", b""), "model.safetensors"),
    "one bit flipped": (flip_a_bit, "model.safetensors"),
    "weights not a number": (tensors(poison), "model.safetensors"),
    "a tensor too many": (tensors(lambda t: t.update(extra=np.zeros(3, np.float32))), "'extra'"),
    "a tensor too few": (tensors(lambda t: t.pop("lnf.b")), "'lnf.b'"),
    "a tensor of another shape": (
        tensors(lambda t: t.update(wpe=np.zeros((8, 16), np.float32))),
        "'wpe'",
    ),
    "a tensor of another type": (tensors(lambda t: t.update(wpe=np.zeros((16, 16)))), "'wpe'"),
    "no vocabulary": (lambda f: (f / "vocabulary.json").unlink(), "vocabulary.json"),
    "vocabulary not JSON": (write("vocabulary.json", b"{"), "vocabulary.json"),
    "vocabulary not UTF-8": (write("vocabulary.json", b"\xff"), "vocabulary.json"),
    "vocabulary a list": (write("vocabulary.json", b"[]"), "vocabulary.json"),
    "vocabulary too small": (
        edit("vocabulary.json", lambda d: d.update(characters="abc")),
        "vocabulary.json",
    ),
    "vocabulary a number": (
        edit("vocabulary.json", lambda d: d.update(characters=5)),
        "vocabulary",
    ),
    "vocabulary empty": (write("vocabulary.json", b"{}"), "vocabulary"),
    "vocabulary doubled": (
        edit("vocabulary.json", lambda d: d.update(characters="aa")),
        "vocabulary.json",
    ),
    "no settings": (lambda f: (f / "settings.json").unlink(), "settings.json"),
    "settings not JSON": (write("settings.json", b"\0"), "settings.json"),
    "settings without a model": (edit("settings.json", lambda d: d.pop("model")), "settings"),
    "settings with a foreign key": (
        edit("settings.json", lambda d: d["model"].update(colour=1)),
        "settings",
    ),
    "settings of no shape": (
        edit("settings.json", lambda d: d["model"].update(channels=-1)),
        "settings.json",
    ),
    "settings in words": (
        edit("settings.json", lambda d: d["model"].update(layers="four")),
        "settings.json",
    ),
    "settings that do not divide": (
        edit("settings.json", lambda d: d["model"].update(heads=3)),
        "settings.json",
    ),
    "settings beyond memory": (
        edit("settings.json", lambda d: d["model"].update(context=10**15)),
        "settings.json",
    ),
    "settings with more blocks than there are": (
        edit("settings.json", lambda d: d["model"].update(layers=10**9)),
        "too few for the 1000000000 blocks",
    ),
    "no template": (lambda f: (f / "template.json").unlink(), "template.json"),
    "template a number": (edit("template.json", lambda d: d.update(turns=3)), "template"),
    "template of nobody": (edit("template.json", lambda d: d.update(turns={})), "template"),
    "template without an end": (
        edit("template.json", lambda d: d["turns"]["assistant"].update(closes=[])),
        "template",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_stage_is_one_sentence_that_names_the_file(tmp_path, name):
    damage, named = DAMAGES[name]
    save_stage(stage_in(tmp_path / "r" / "sft"))
    damage(tmp_path / "r" / "sft")
    before = snapshot(tmp_path)
    with pytest.raises((DataError, MissingInput)) as error:
        load_stage(tmp_path / "r").template.end
    text = one_line(error)
    assert named in text and str(tmp_path) in text
    assert snapshot(tmp_path) == before


def test_a_folder_that_is_no_run_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("none", "empty", "foreign", "file"):
        with pytest.raises(MissingInput) as error:
            load_stage(tmp_path / name)
        assert name in one_line(error)


# ----------------------------------------------------------------------------------- new folders


def test_default_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(new_run(None, "tiny")) for _ in range(3)] == [
        "runs/tiny",
        "runs/tiny-2",
        "runs/tiny-3",
    ]
    assert str(new_run(None, "mini")) == "runs/mini"


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    assert new_run(str(tmp_path / "mine"), "tiny") == tmp_path / "mine"  # empty: may be used
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty; name a new one$"):
        new_run(str(tmp_path / "mine"), "tiny")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="not empty.*--resume"):
        new_run(str(tmp_path / "begun"), "tiny")
    (tmp_path / "begun" / "run.json").rename(
        tmp_path / "begun" / ".lock"
    )  # of a run that was killed at its very beginning
    assert new_run(str(tmp_path / "begun"), "tiny") == tmp_path / "begun"
    for taken in ("mine/notes.txt", "mine/notes.txt/deeper"):
        with pytest.raises(UsageError) as error:
            new_run(str(tmp_path / taken), "tiny")
        assert taken in one_line(error)
    assert snapshot(tmp_path) == {"mine/notes.txt": b"x", "begun/.lock": b"{}"}


# ------------------------------------------------------------------------- logs and checkpoints


def step_line(n):
    return {
        "step": n,
        "loss": n / 3,
        "losses": {"base": n / 3},
        "norm": 1.0,
        "tokens": 48,
        "seconds": 0.1,
    }


def test_a_log_is_cut_to_a_step_even_if_its_last_line_is_half_written(tmp_path):
    append_log(tmp_path, [step_line(n) for n in range(1, 8)])
    with open(tmp_path / "log.jsonl", "a") as f:
        f.write('{"step": 8, "lo')
    assert cut_log(tmp_path, 5)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        step_line(n) for n in range(1, 6)
    ]


@pytest.mark.parametrize(
    "odd",
    [
        "nonsense",
        "[]",
        "{}",
        '{"step": "4"}',
        json.dumps({k: v for k, v in step_line(4).items() if k != "losses"}),
        json.dumps(step_line(4) | {"loss": float("nan")}),
        json.dumps(step_line(4) | {"losses": {"base": None}}),
        "[" * 100_000,
    ],
)
def test_a_line_that_no_training_wrote_ends_the_log_and_that_is_told(tmp_path, odd):
    model, said = model_of(), []
    adam = AdamW(model)
    adam.steps = 6
    save_checkpoint(tmp_path, model, adam)
    lines = [json.dumps(step_line(n)) for n in range(1, 8)]
    lines[3] = odd
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3] and recipe.stage_figures(
        tmp_path
    )["tokens"] == 3 * 48
    assert load_checkpoint(tmp_path, model, adam, said.append) and adam.steps == 6
    assert (
        len(said) == 1
        and "log.jsonl: lines are damaged or missing before step 6" in said[0]
        and "\n" not in said[0]
    )
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3]


def test_a_log_of_skipped_steps_is_whole_and_one_that_lacks_lines_is_not(tmp_path):
    append_log(
        tmp_path, [step_line(n) for n in range(1, 5)] + [{"step": 5, "skipped": True}, step_line(6)]
    )
    assert cut_log(tmp_path, 5) and [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4]
    assert [row["step"] for row in read_log(tmp_path, skipped=True)] == [1, 2, 3, 4, 5]
    whole = (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)
    for lines in (whole[:-1], whole[1:], whole[:2] + whole[3:], whole + whole[-1:], []):
        (tmp_path / "log.jsonl").write_bytes(b"".join(lines))
        assert not cut_log(tmp_path, 5)
    (tmp_path / "log.jsonl").unlink()
    assert not cut_log(tmp_path, 5)


@pytest.mark.parametrize("damage", ["a line too few", "a line that is none", "no log"])
def test_a_finished_stage_whose_log_is_damaged_says_so(home, tmp_path, damage):
    shutil.copytree(home.run, tmp_path / "run")
    log = tmp_path / "run/sft/log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(
        b"".join(
            {
                "a line too few": lines[1:],
                "a line that is none": [*lines[:3], b"x\n", *lines[4:]],
                "no log": [],
            }[damage]
        )
    )
    code, _, said = pysft("train", "--resume", "--out", tmp_path / "run")
    assert (
        code == 0
        and "sft/log.jsonl: lines are damaged or missing; figures of the training itself" in said
    )


def test_a_checkpoint_brings_back_weights_moments_and_step(tmp_path):
    model, other = model_of(1), model_of(2)
    adam, fresh = AdamW(model), AdamW(other)
    model.grads.flat[:] = np.random.default_rng(0).standard_normal(len(model.grads.flat))
    for _ in range(3):
        adam.step(1e-2)
    assert not load_checkpoint(tmp_path, other, fresh) and fresh.steps == 0
    assert save_checkpoint(tmp_path, model, adam) == tmp_path / "checkpoints" / "3"
    assert load_checkpoint(tmp_path, other, fresh)
    assert fresh.steps == 3
    for mine, theirs in ((model.params, other.params), (adam.m, fresh.m), (adam.v, fresh.v)):
        for name in mine:
            assert np.array_equal(mine[name], theirs[name])


def test_the_last_two_checkpoints_are_kept(tmp_path):
    model = model_of()
    adam = AdamW(model)
    for adam.steps in (5, 40, 300):
        save_checkpoint(tmp_path, model, adam)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["300", "40"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, 500),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
    ],
    ids=["torn", "empty", "missing", "changed"],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(tmp_path, damage):
    model, said = model_of(), []
    adam = AdamW(model)
    for adam.steps in (5, 9):
        model.params.flat[:] = adam.steps
        last = save_checkpoint(tmp_path, model, adam) / "state.safetensors"
    append_log(tmp_path, [step_line(n) for n in range(1, 10)])
    damage(last)
    fresh = AdamW(model_of())
    assert load_checkpoint(tmp_path, fresh.model, fresh, said.append) and fresh.steps == 5
    assert (fresh.model.params.flat == 5).all() and len(
        (tmp_path / "log.jsonl").read_text().splitlines()
    ) == 5
    if last.exists():
        assert (
            len(said) == 1
            and "\n" not in said[0]
            and str(last) in said[0]
            and "going back to the checkpoint of step 5" in said[0]
        )


@pytest.mark.parametrize(
    "part, name", [("params", "weights"), ("m", "first moments"), ("v", "second moments")]
)
def test_a_checkpoint_that_is_not_finite_is_never_written(tmp_path, part, name):
    model = model_of()
    adam = AdamW(model)
    adam.steps = 5
    save_checkpoint(tmp_path, model, adam)
    adam.steps, arena = 6, model.params if part == "params" else getattr(adam, part)
    arena.flat[3] = np.nan
    with pytest.raises(Diverged, match=f"{name} are not finite after step 6"):
        save_checkpoint(tmp_path, model, adam)
    fresh = AdamW(model_of())
    assert load_checkpoint(tmp_path, fresh.model, fresh) and fresh.steps == 5


def test_the_old_checkpoint_stays_until_the_new_one_is_written(tmp_path, monkeypatch):
    model = model_of()
    adam = AdamW(model)
    adam.steps = 5
    save_checkpoint(tmp_path, model, adam)
    adam.steps = 9

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, model, adam)
    fresh = AdamW(model_of())
    assert load_checkpoint(tmp_path, fresh.model, fresh) and fresh.steps == 5


@pytest.mark.parametrize(
    "change, metadata, named",
    [
        (lambda t: t.pop("m.wte"), {"steps": "5"}, "'m.wte'"),
        (lambda t: t.update({"v.wpe": np.zeros((3, 16), np.float32)}), {"steps": "5"}, "'v.wpe'"),
        (lambda t: t["w.wpe"].fill(np.inf), {"steps": "5"}, "'w.wpe'"),
        (lambda t: None, None, "step"),
        (lambda t: None, {"steps": "-1"}, "step"),
        (lambda t: None, {"steps": "x"}, "step"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, change, metadata, named):
    model = model_of()
    adam = AdamW(model)
    adam.steps = 5
    path = save_checkpoint(tmp_path, model, adam) / "state.safetensors"
    found = {name: a.copy() for name, a in safetensors.load(path)[0].items()}
    change(found)
    safetensors.save(path, found, metadata)
    with pytest.raises(DataError) as error:
        load_checkpoint(tmp_path, model, adam)
    text = one_line(error)
    assert "state.safetensors" in text and named in text
    os.truncate(path, 500)  # and there is none before it
    with pytest.raises(DataError, match="state.safetensors"):
        load_checkpoint(tmp_path, model, adam)


# --------------------------------------------------------------------------- interrupt and resume


class KillAt:
    """A plan whose drawing of one step sends this process a signal; each step's drawing is
    noted."""

    def __init__(self, plan, step, number=signal.SIGINT, times=1):
        self.drawn = []

        def draw(at):
            self.drawn.append(at)
            if at == step:
                for _ in range(times):
                    os.kill(os.getpid(), number)
            return plan.draw(at)

        self.plan = dataclasses.replace(plan, draw=draw)


def fresh(folder):
    return Stage(
        folder / "base",
        GPT(dataclasses.replace(CONFIG, vocab=65), rng=np.random.default_rng(1)),
        CharTokenizer(SHAKESPEARE),
        CHAT,
        {},
    )


def logged(folder):
    timings = ("seconds", "tokens_per_s")
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in timings} for row in rows]


PLAN = pretrain(SETTINGS, CORPUS, 65)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    stage = fresh(tmp_path_factory.mktemp("whole"))
    recipe.run_stage(stage, PLAN, SETTINGS, QUIET, False)
    return SimpleNamespace(weights=stage.model.params.flat.copy(), log=logged(stage.folder))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_stage_interrupted_and_resumed_has_the_same_bits_and_the_same_log(
    tmp_path, uninterrupted, at, number
):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    stage = fresh(tmp_path)
    with pytest.raises(recipe.Interrupted, match=f"after step {at + 1};.*--resume") as error:
        recipe.run_stage(stage, KillAt(PLAN, at, number).plan, SETTINGS, QUIET, False)
    assert error.value.exit_code == 128 + number and "\n" not in str(error.value)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (stage.folder / "checkpoints" / str(at + 1) / "state.safetensors").is_file()

    again, spy = fresh(tmp_path), KillAt(PLAN, None)
    recipe.run_stage(again, spy.plan, SETTINGS, QUIET, True)
    assert spy.drawn == list(range(at + 1, 9))  # nothing is replayed
    assert np.array_equal(again.model.params.flat, uninterrupted.weights)
    assert logged(stage.folder) == uninterrupted.log and [
        r["step"] for r in uninterrupted.log
    ] == list(range(1, 10))


def test_checkpoints_along_the_way_survive_a_crash_and_change_nothing(
    tmp_path, uninterrupted, monkeypatch
):
    monkeypatch.setattr(recipe, "CHECKPOINT_SECONDS", 0)

    def draw(step):
        if step == 6:
            raise RuntimeError("power cut")
        return PLAN.draw(step)

    with pytest.raises(RuntimeError):
        recipe.run_stage(
            fresh(tmp_path), dataclasses.replace(PLAN, draw=draw), SETTINGS, QUIET, False
        )
    assert sorted(os.listdir(tmp_path / "base" / "checkpoints")) == ["5", "6"]
    stage, spy = fresh(tmp_path), KillAt(PLAN, None)
    recipe.run_stage(stage, spy.plan, SETTINGS, QUIET, True)
    assert spy.drawn == [6, 7, 8] and logged(stage.folder) == uninterrupted.log
    assert np.array_equal(stage.model.params.flat, uninterrupted.weights)


def test_log_lines_past_the_checkpoint_are_dropped_on_resume(tmp_path, uninterrupted):
    with pytest.raises(recipe.Interrupted):
        recipe.run_stage(fresh(tmp_path), KillAt(PLAN, 3).plan, SETTINGS, QUIET, False)
    append_log(tmp_path / "base", [step_line(n) for n in (5, 6)])  # as after a power cut
    with open(tmp_path / "base" / "log.jsonl", "a") as f:
        f.write('{"step": 7')
    stage = fresh(tmp_path)
    recipe.run_stage(stage, PLAN, SETTINGS, QUIET, True)
    assert logged(stage.folder) == uninterrupted.log
    assert np.array_equal(stage.model.params.flat, uninterrupted.weights)


def test_without_resume_a_stage_begins_anew(tmp_path, uninterrupted):
    with pytest.raises(recipe.Interrupted):
        recipe.run_stage(fresh(tmp_path), KillAt(PLAN, 3).plan, SETTINGS, QUIET, False)
    stage, spy = fresh(tmp_path), KillAt(PLAN, None)
    recipe.run_stage(stage, spy.plan, SETTINGS, QUIET, False)
    assert spy.drawn == list(range(9)) and logged(stage.folder) == uninterrupted.log
    assert np.array_equal(stage.model.params.flat, uninterrupted.weights)


def test_a_second_interrupt_acts_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        recipe.run_stage(fresh(tmp_path), KillAt(PLAN, 3, times=2).plan, SETTINGS, QUIET, False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [r["step"] for r in logged(tmp_path / "base")] == [1, 2, 3]


def test_a_divergence_names_its_step_and_keeps_the_log(tmp_path):
    stage = fresh(tmp_path)

    def draw(step):
        if step == 4:
            stage.model.params["wte"][:] = np.inf
        return PLAN.draw(step)

    with pytest.raises(Diverged, match="step 5") as error:
        recipe.run_stage(stage, dataclasses.replace(PLAN, draw=draw), SETTINGS, QUIET, False)
    assert error.value.exit_code == 3 and "\n" not in str(error.value)
    assert [r["step"] for r in logged(stage.folder)] == [1, 2, 3, 4]
    with pytest.raises(MissingInput):
        load_stage(tmp_path)


def overflowing(stage, at):
    """Its gradients overflow in these steps, counted from 1."""
    backward, taken = stage.model.backward, iter(range(1, 10**6))

    def overflow(*arguments):
        backward(*arguments)
        if next(taken) in at:
            stage.model.grads["h0.fc.w"][0, 0] = np.nan

    stage.model.backward = overflow
    return stage


def test_a_step_that_is_not_finite_leaves_its_batch_to_be_looked_at(tmp_path):
    stage = overflowing(fresh(tmp_path), {3})
    with pytest.raises(
        Diverged, match=r"step 3: .*gradient of 'h0.fc.w'.*not-finite-3.json\)"
    ) as error:
        recipe.run_stage(stage, PLAN, SETTINGS, QUIET, False)
    assert "\n" not in str(error.value) and [r["step"] for r in logged(stage.folder)] == [1, 2]
    kept = json.loads((stage.folder / "not-finite-3.json").read_text())
    (batch,) = PLAN.draw(2)
    assert (
        kept["step"] == 3
        and sum((s["tokens"] for s in kept["sequences"]), []) == batch.tokens.tolist()
    )
    assert all(
        s["text"] == stage.tokenizer.decode(s["tokens"]) and s["source"] == "base"
        for s in kept["sequences"]
    )


def test_a_batch_that_cannot_be_kept_hides_nothing_of_what_diverged(tmp_path, monkeypatch):
    stage, real = overflowing(fresh(tmp_path), {3}), recipe.write_json

    def full(path, data):
        if path.name.startswith("not-finite"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(recipe, "write_json", full)
    with pytest.raises(
        Diverged,
        match=r"step 3: .*gradient of 'h0.fc.w'.*could not be kept, No space left on device\)",
    ):
        recipe.run_stage(stage, PLAN, SETTINGS, QUIET, False)


def test_a_disk_that_takes_nothing_hides_nothing_of_what_diverged(tmp_path, monkeypatch):
    stage = overflowing(fresh(tmp_path), {3})

    def full(number):
        if not os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        Diverged,
        match=r"step 3: .*gradient of 'h0.fc.w'.*could not be kept, No space left on device\)",
    ):
        recipe.run_stage(stage, PLAN, SETTINGS, QUIET, False)


@pytest.mark.parametrize("stop", [None, 2, 4, 7])
def test_skipped_steps_in_a_row_are_counted_across_a_stop(tmp_path, monkeypatch, stop):
    """Three are one too many here; a run that was stopped among them ends as one that was not."""
    monkeypatch.setattr(loop, "SKIPS", 2)
    settings, bad = dataclasses.replace(SETTINGS, on_nan="skip"), {2, 3, 5, 7, 8, 9}
    if stop is not None:
        with pytest.raises(recipe.Interrupted):
            recipe.run_stage(
                overflowing(fresh(tmp_path), bad), KillAt(PLAN, stop).plan, settings, QUIET, False
            )
        bad = {n - stop - 1 for n in bad}
    with pytest.raises(Diverged, match="step 9"):
        recipe.run_stage(overflowing(fresh(tmp_path), bad), PLAN, settings, QUIET, stop is not None)
    assert [row["step"] for row in logged(tmp_path / "base") if "loss" in row] == [1, 4, 6]


def test_a_signal_during_the_last_lines_of_the_log_leaves_a_checkpoint_too(tmp_path, monkeypatch):
    flush = recipe.Journal.flush

    def signalled(self):
        if self.lines and self.lines[-1]["step"] == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        flush(self)

    monkeypatch.setattr(recipe.Journal, "flush", signalled)
    with pytest.raises(recipe.Interrupted, match="after step 9") as error:
        recipe.run_stage(fresh(tmp_path), PLAN, SETTINGS, QUIET, False)
    assert (
        error.value.exit_code == 143
        and (tmp_path / "base/checkpoints/9/state.safetensors").is_file()
    )


@pytest.mark.parametrize(
    "error, raised",
    [
        (BlockingIOError(errno.EAGAIN, "slow"), None),
        (OSError(errno.EIO, "gone"), BrokenPipeError),
        (BrokenPipeError(errno.EPIPE, "gone"), BrokenPipeError),
    ],
)
def test_whoever_reads_slowly_stops_nothing_and_whoever_is_gone_does(error, raised):
    class Stream(io.StringIO):
        def write(self, text):
            raise error

    screen = recipe.Screen(False)
    screen.stream = Stream()
    with pytest.raises(raised, match="gone") if raised else contextlib.nullcontext():
        screen.say("Hi")


def test_a_signal_of_which_nothing_came_is_not_forgotten():
    with pytest.raises(KeyboardInterrupt):
        with recipe.Signals():
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(RuntimeError):  # but it hides no error
        with recipe.Signals():
            os.kill(os.getpid(), signal.SIGINT)
            raise RuntimeError


def test_where_the_system_keeps_no_account_of_a_process_memory_is_told_of_all_the_same(monkeypatch):
    known = recipe.peak_memory()
    monkeypatch.setattr(
        recipe, "open", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)), raising=False
    )
    assert recipe._status("VmHWM") is None and known / 4 < recipe.peak_memory() < 4 * known


def test_steps_that_are_skipped_are_told_and_training_ends_at_the_same_step(tmp_path, capsys):
    stage = overflowing(fresh(tmp_path), {3, 6})
    recipe.run_stage(
        stage, PLAN, dataclasses.replace(SETTINGS, on_nan="skip"), recipe.Screen(False), False
    )
    skipped = {"step": 3, "skipped": True}, {"step": 6, "skipped": True}
    assert [r["step"] for r in logged(stage.folder)] == list(range(1, 10)) and [
        r for r in logged(stage.folder) if "loss" not in r
    ] == [*skipped]
    assert np.isfinite(stage.model.params.flat).all()
    assert capsys.readouterr().out.count("base: skipped step") == 2
    assert {p.name for p in stage.folder.glob("not-finite-*")} == {
        "not-finite-3.json",
        "not-finite-6.json",
    }


def test_a_skipped_step_is_measured_and_interrupted_like_any_other(tmp_path):
    stage, seen = overflowing(fresh(tmp_path), {5, 9}), []
    recipe.run_stage(
        stage,
        PLAN,
        dataclasses.replace(SETTINGS, on_nan="skip"),
        QUIET,
        False,
        at=[5, 6, 9],
        watch=lambda step, loss: seen.append((step, loss)),
    )
    losses = {row["step"]: row["loss"] for row in logged(stage.folder) if "loss" in row}
    assert [s for s, _ in seen] == [0, 5, 6, 9] and seen[1][1] == pytest.approx(
        np.mean([losses[n] for n in (1, 2, 3, 4)])
    )
    assert seen[2][1] == pytest.approx(losses[6]) and seen[3][1] == pytest.approx(
        np.mean([losses[7], losses[8]])
    )
    stage = overflowing(fresh(tmp_path / "again"), {4})
    with pytest.raises(recipe.Interrupted, match="after step 4"):
        recipe.run_stage(
            stage, KillAt(PLAN, 3).plan, dataclasses.replace(SETTINGS, on_nan="skip"), QUIET, False
        )


def test_after_a_crash_in_a_save_two_whole_checkpoints_are_kept_again(tmp_path):
    model = model_of()
    adam = AdamW(model)
    for adam.steps in (5, 9):
        save_checkpoint(tmp_path, model, adam)
    (tmp_path / "checkpoints" / "12").mkdir()  # killed before its file was there
    assert load_checkpoint(tmp_path, model, adam) and adam.steps == 9
    adam.steps = 11
    save_checkpoint(tmp_path, model, adam)
    assert {"9", "11"} <= set(os.listdir(tmp_path / "checkpoints")) and "5" not in os.listdir(
        tmp_path / "checkpoints"
    )


def test_a_checkpoint_that_was_passed_over_never_comes_back(tmp_path):
    model = model_of()
    adam = AdamW(model)
    for adam.steps in (5, 9):
        model.params.flat[:] = adam.steps
        last = save_checkpoint(tmp_path, model, adam) / "state.safetensors"
    whole = last.read_bytes()
    last.write_bytes(whole[:100])
    assert load_checkpoint(tmp_path, model, adam) and adam.steps == 5
    adam.steps = 7
    save_checkpoint(tmp_path, model, adam)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["5", "7", "9.damaged"]
    (tmp_path / "checkpoints" / "9.damaged" / "state.safetensors").write_bytes(whole)
    assert load_checkpoint(tmp_path, model, adam) and adam.steps == 7


def test_an_outlier_is_told_and_logged_and_the_same_after_resuming(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "Outliers", lambda: Outliers(window=4, least=2))
    monkeypatch.setattr(
        Outliers, "limits", {"loss": 0.0, "norm": 0.0}
    )  # whatever is above the median
    whole = fresh(tmp_path / "whole")
    recipe.run_stage(whole, PLAN, SETTINGS, recipe.Screen(False), False)
    assert (
        any("outliers" in row for row in logged(whole.folder))
        and "spreads above the last hundred" in capsys.readouterr().out
    )
    for at in (2, 6):
        with pytest.raises(recipe.Interrupted):
            recipe.run_stage(
                fresh(tmp_path / str(at)), KillAt(PLAN, at).plan, SETTINGS, QUIET, False
            )
        again = fresh(tmp_path / str(at))
        recipe.run_stage(again, PLAN, SETTINGS, QUIET, True)
        assert logged(again.folder) == logged(whole.folder)


def test_a_log_line_has_step_losses_norm_rate_and_speed(uninterrupted, tmp_path):
    stage = fresh(tmp_path)
    recipe.run_stage(stage, PLAN, SETTINGS, QUIET, False)
    for row in map(json.loads, (stage.folder / "log.jsonl").read_text().splitlines()):
        assert row.keys() >= {
            "step",
            "loss",
            "losses",
            "norm",
            "lr",
            "graded_tokens",
            "tokens_per_s",
        }
        assert (
            row["losses"] == {"base": pytest.approx(row["loss"], rel=1e-6)}
            and row["graded_tokens"] == 32
        )
    assert uninterrupted.log[0]["lr"] == pytest.approx(SETTINGS.base_lr / 2)


# ------------------------------------------------------------------------------------ whole runs

TOML = (
    SMALL_RUN
    + """base_steps = 6
base_windows = [[16, 4]]
sft_steps = 24
sft_windows = [[16, 2]]
"""
)


def pysft(*arguments):
    """The command line in this process: (exit code, the --json document or None, messages)."""
    code, out, err = in_process(*arguments, "--json")
    return code, json.loads(out) if out else None, err


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a corpus, conversations, settings, and a run made of them."""
    home = tmp_path_factory.mktemp("home")
    (home / "corpus.txt").write_text(read_corpus("plays")[:8000])
    (home / "talk.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"{verb} {word}"},
                        {"role": "assistant", "content": f"The {word}."},
                    ]
                }
            )
            + "\n"
            for verb in ["Say", "Sing", "Show", "Name", "Praise", "Fear", "Seek", "Love", "Paint"]
            for word in ["king", "rose", "crown", "ship", "night", "sword"]
        )
    )
    (home / "a.toml").write_text(TOML)
    code, report, _ = pysft(*begin(home, home / "run"))
    assert code == 0
    return SimpleNamespace(path=home, run=home / "run", report=report)


def begin(home, out):
    return [
        "train",
        "--config",
        home / "a.toml",
        "--corpus",
        home / "corpus.txt",
        "--data",
        home / "talk.jsonl",
        "--out",
        out,
    ]


def figures(report):
    """A report without its timings, its place, and the memory that the process had held before."""
    return {
        k: v
        for k, v in report.items()
        if "seconds" not in k and k not in ("tokens_per_s", "run", "peak_memory")
    }


def test_the_same_command_gives_the_same_run(home, tmp_path):
    _, report, _ = pysft(*begin(home.path, tmp_path / "again"))
    assert figures(report) == figures(home.report)
    for stage in ("base", "sft"):
        assert (tmp_path / "again" / stage / "model.safetensors").read_bytes() == (
            home.run / stage / "model.safetensors"
        ).read_bytes()
        assert logged(tmp_path / "again" / stage) == logged(home.run / stage)


def test_a_finished_run_is_complete_and_holds_no_checkpoint(home):
    names = set(snapshot(home.run))
    for stage in ("base", "sft"):
        assert {
            f"{stage}/{n}"
            for n in (
                "settings.json",
                "vocabulary.json",
                "template.json",
                "model.safetensors",
                "log.jsonl",
                "evaluation.json",
                "report.json",
            )
        } <= names
    assert "sft/samples.json" in names and not any(
        "checkpoints" in n or n.endswith(".tmp") for n in names
    )
    base, tuned = load_stage(home.run / "base"), load_stage(home.run)
    assert tuned.parent["weights_sha256"] == weights_sha256(base.model)
    assert weights_sha256(tuned.model) == home.report["weights_sha256"]
    assert len(tuned.tokenizer) == len(base.tokenizer) + 3
    assert tuned.settings["sft_steps"] == 24 and tuned.settings["preset"] == "tiny"


def test_the_fine_tuning_loss_speaks_of_conversations_and_is_the_mean_of_the_last_20_steps(home):
    losses = [row["losses"]["conversation"] for row in logged(home.run / "sft")]
    assert len(losses) == 24 and home.report["sft_loss_start"] == losses[0]
    assert home.report["sft_loss"] == pytest.approx(np.mean(losses[-20:]), rel=1e-12)


@pytest.mark.parametrize(
    "stage, at", [("pretrain", 0), ("pretrain", 5), ("finetune", 3), ("finetune", 23)]
)
def test_a_run_interrupted_anywhere_and_resumed_is_the_run_uninterrupted(
    home, tmp_path, monkeypatch, stage, at
):
    make = getattr(recipe, stage)
    with monkeypatch.context() as patch:
        patch.setattr(recipe, stage, lambda *a: KillAt(make(*a), at).plan)
        code, report, said = pysft(*begin(home.path, tmp_path / "run"))
    assert code == 130 and report is None and "--resume" in said
    code, report, _ = pysft("train", "--resume", "--out", tmp_path / "run")
    assert code == 0 and figures(report) == figures(home.report)
    for name in ("base", "sft"):
        assert (tmp_path / "run" / name / "model.safetensors").read_bytes() == (
            home.run / name / "model.safetensors"
        ).read_bytes()
        assert logged(tmp_path / "run" / name) == logged(home.run / name)
    assert set(snapshot(tmp_path / "run")) == set(snapshot(home.run))


def test_a_run_interrupted_while_it_measures_can_be_resumed(home, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    for name in ("corpus_loss", "measure"):
        with monkeypatch.context() as patch:
            patch.setattr(recipe, name, killed)
            code, report, said = pysft(*begin(home.path, tmp_path / name))
        assert code == 130 and report is None and "Traceback" not in said
        code, report, _ = pysft("train", "--resume", "--out", tmp_path / name)
        assert code == 0 and figures(report) == figures(home.report)


@pytest.mark.parametrize(
    "stage, name",
    [
        ("base", "evaluation.json"),
        ("base", "report.json"),
        ("sft", "evaluation.json"),
        ("sft", "report.json"),
        ("sft", "samples.json"),
    ],
)
def test_a_run_interrupted_between_any_two_files_can_be_resumed(
    home, tmp_path, monkeypatch, stage, name
):
    write = recipe.write_json

    def killed(path, data):
        if (path.parent.name, path.name) == (stage, name):
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "write_json", killed)
        assert pysft(*begin(home.path, tmp_path / "run"))[0] == 130
    code, report, said = pysft("train", "--resume", "--out", tmp_path / "run")
    assert code == 0, said
    assert figures(report) == figures(home.report) and set(snapshot(tmp_path / "run")) == set(
        snapshot(home.run)
    )
    assert pysft("eval", tmp_path / "run")[0] == 0


def test_a_run_on_a_given_base_is_resumed_on_that_base(home, tmp_path, monkeypatch):
    command = [
        "train",
        "--config",
        home.path / "a.toml",
        "--corpus",
        home.path / "corpus.txt",
        "--data",
        home.path / "talk.jsonl",
        "--base",
        home.run,
    ]
    code, whole, _ = pysft(*command, "--out", tmp_path / "whole")
    assert code == 0 and whole["weights_sha256"] == home.report["weights_sha256"]
    make = recipe.finetune
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "finetune", lambda *a: KillAt(make(*a), 3).plan)
        assert pysft(*command, "--out", tmp_path / "run")[0] == 130
    code, report, _ = pysft("train", "--resume", "--out", tmp_path / "run")
    assert code == 0 and figures(report) == figures(whole)
    assert not (tmp_path / "run" / "base").exists()


@pytest.mark.parametrize(
    "name, more",
    [
        ("corpus.txt", "One line more.\n"),
        (
            "talk.jsonl",
            (
                '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content":'
                ' "Aye."}]}\n'
            ),
        ),
    ],
)
def test_resuming_refuses_other_text_than_the_run_began_with(
    home, tmp_path, monkeypatch, name, more
):
    shutil.copy(home.path / name, tmp_path / name)
    command = [
        tmp_path / name if part == home.path / name else part
        for part in begin(home.path, tmp_path / "run")
    ]
    make = recipe.finetune
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "finetune", lambda *a: KillAt(make(*a), 3).plan)
        assert pysft(*command)[0] == 130
    with open(tmp_path / name, "a") as f:
        f.write(more)
    before = snapshot(tmp_path)
    code, _, said = pysft("train", "--resume", "--out", tmp_path / "run")
    assert (
        code == 65 and name in said and len(said.splitlines()) == 1 and snapshot(tmp_path) == before
    )


def test_a_second_training_in_a_folder_is_refused(home, tmp_path):
    shutil.copytree(home.run, tmp_path / "run")
    with alone(tmp_path / "run"):
        before = snapshot(tmp_path)
        code, _, said = pysft("train", "--resume", "--out", tmp_path / "run")
    assert (
        code == 2
        and "another process" in said
        and len(said.splitlines()) == 1
        and snapshot(tmp_path) == before
    )


def test_resuming_a_finished_run_changes_no_weight(home, tmp_path):
    shutil.copytree(home.run, tmp_path / "run")
    code, report, _ = pysft("train", "--resume", "--out", tmp_path / "run")
    assert code == 0 and figures(report) == figures(home.report)
    assert (tmp_path / "run" / "sft" / "model.safetensors").read_bytes() == (
        home.run / "sft" / "model.safetensors"
    ).read_bytes()


def test_eval_and_chat_need_nothing_but_the_folder(home, tmp_path, monkeypatch):
    shutil.copytree(home.run / "sft", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for name in ("read_corpus", "scan", "read_prompts"):
        monkeypatch.setattr(recipe, name, None)
    code, report, said = pysft("eval", "moved")
    assert code == 0, said
    again = {k: v for k, v in figures(report).items() if k not in ("before_after", "samples")}
    assert {k: v for k, v in figures(home.report).items() if k in report} == again
    code, reply, said = pysft("chat", "moved", "-p", "Say king")
    assert code == 0 and reply["stop"] in ("end", "length"), said
    assert sorted(os.listdir(tmp_path)) == ["moved"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("evaluation.json", b"{"),
        ("evaluation.json", b"{}"),
        ("evaluation.json", None),
        ("report.json", b"[]"),
        ("evaluation.json", {"heldout_text": 5}),
        ("evaluation.json", {"heldout_text": ""}),
        ("evaluation.json", {"pairs": [["x"]]}),
        ("evaluation.json", {"prompts": [{"text": "x"}]}),
        ("evaluation.json", {"heldout": [[]]}),
    ],
)
def test_a_run_without_what_measuring_needs_is_one_sentence(home, tmp_path, name, content):
    shutil.copytree(home.run / "sft", tmp_path / "run")
    path = tmp_path / "run" / name
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    else:
        path.write_bytes(content)
    code, report, said = pysft("eval", tmp_path / "run")
    assert code in (65, 66) and report is None
    assert name in said and len(said.splitlines()) == 1


def test_a_background_job_that_ignores_interrupts_goes_on_ignoring_them():
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with recipe.Signals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.caught is None and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, old)


def test_weights_whose_own_checksum_is_another_are_refused(tmp_path):
    """Each tensor's may be right: then the file is of other weights than its metadata says."""
    stage = fresh(tmp_path)
    save_stage(stage)
    safetensors.save(
        stage.folder / "model.safetensors",
        dict(stage.model.params.items()),
        {"weights_sha256": "0" * 64},
    )
    with pytest.raises(DataError, match="checksum does not match"):
        load_stage(tmp_path)
