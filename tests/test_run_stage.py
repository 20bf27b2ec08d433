"""A stage on disk: what is saved comes back bit for bit, damage is named, and a folder of somebody
else is left alone."""

import json
import os

import numpy as np
import pytest
from command_line import files_in, raising
from texts import one_line

from pysft.errors import DataError, MissingInput, PysftError, UsageError
from pysft.nn import safetensors
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.run import stage as stage_module
from pysft.run.stage import (
    Stage,
    find_stage,
    load_stage,
    new_run,
    save_stage,
    weights_sha256,
    write_json,
)
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

TOKENIZER = CharTokenizer(SHAKESPEARE, CHAT.tokens)
CONFIG = GPTConfig(68, context=16, layers=1, heads=2, channels=16)


def model_of(seed=1):
    return GPT(CONFIG, rng=np.random.default_rng(seed))


def stage_in(folder, seed=1):
    """A stage with random weights, not yet saved."""
    parent = {"path": "runs/x/base", "weights_sha256": "0"}
    return Stage(folder, model_of(seed), TOKENIZER, CHAT, {"preset": "tiny"}, parent)


# ---------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("path", ["run", "run/sft"])
def test_a_saved_stage_comes_back_bit_for_bit(tmp_path, path):
    stage = stage_in(tmp_path / "run" / "sft")
    save_stage(stage)
    loaded = load_stage(tmp_path / path)
    assert loaded.name == "sft"
    assert loaded.model.config == CONFIG
    assert np.array_equal(loaded.model.params.flat, stage.model.params.flat)
    assert weights_sha256(loaded.model) == weights_sha256(stage.model)
    assert (loaded.tokenizer, loaded.template) == (TOKENIZER, CHAT)
    assert (loaded.settings, loaded.parent) == (stage.settings, stage.parent)


def test_a_run_stands_for_its_last_stage(tmp_path):
    save_stage(stage_in(tmp_path / "base", 1))
    assert find_stage(tmp_path).name == "base"
    save_stage(stage_in(tmp_path / "sft", 2))
    assert find_stage(tmp_path).name == "sft"
    assert find_stage(tmp_path / "base").name == "base"


def test_weights_that_differ_in_one_bit_have_different_hashes():
    a, b = model_of(), model_of()
    assert weights_sha256(a) == weights_sha256(b)
    b.params["wpe"][3, 3] = np.nextafter(b.params["wpe"][3, 3], np.float32(9))
    assert weights_sha256(a) != weights_sha256(b)


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    save_stage(stage_in(tmp_path / "run"))
    before = files_in(tmp_path)
    stage = stage_in(tmp_path / "run")
    stage.model.params["head"][0, 0] = np.nan
    with pytest.raises(PysftError, match="not finite"):
        save_stage(stage)
    assert files_in(tmp_path) == before


def test_a_stage_whose_saving_was_interrupted_does_not_count_as_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(stage_module.safetensors, "save", raising(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_stage(stage_in(tmp_path / "run" / "base"))
    with pytest.raises(MissingInput, match="never finished"):
        load_stage(tmp_path / "run")


def test_an_interrupted_write_of_a_json_file_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "replace", raising(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


# ---------------------------------------------------------------------------------------- damage
#
# A damage is a function that changes one file in a stage's folder.


def deleted(name):
    return lambda folder: (folder / name).unlink()


def replaced(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, size):
    return lambda folder: os.truncate(folder / name, size)


def edited(name, change):
    """The object in a JSON file is changed by change(object)."""

    def damage(folder):
        data = json.loads((folder / name).read_text())
        change(data)
        (folder / name).write_text(json.dumps(data))

    return damage


def settings(**model):
    """The model's shape in settings.json is changed."""
    return edited("settings.json", lambda data: data["model"].update(model))


def vocabulary(characters):
    """The characters in vocabulary.json are others."""
    return edited("vocabulary.json", lambda data: data.update(characters=characters))


def weights(change):
    """The tensors of the weights are changed by change(tensors)."""

    def damage(folder):
        loaded, _ = safetensors.load(folder / "model.safetensors")
        tensors = {name: a.copy() for name, a in loaded.items()}
        change(tensors)
        safetensors.save(folder / "model.safetensors", tensors)

    return damage


def flip_a_bit(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-9] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def poison(tensors):
    tensors["h0.fc.w"][1, 1] = np.nan


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def no_end_token(template):
    template["turns"]["assistant"].update(closes=[])


DAMAGES = {  # name: (damage, part of the error)
    "weights cut short": (cut("model.safetensors", 9999), "model.safetensors"),
    "weights empty": (replaced("model.safetensors", b""), "model.safetensors"),
    "one bit flipped": (flip_a_bit, "model.safetensors"),
    "a weight not finite": (weights(poison), "model.safetensors"),
    "a tensor too many": (weights(lambda t: t.update(extra=zeros(3))), "'extra'"),
    "a tensor too few": (weights(lambda t: t.pop("lnf.b")), "'lnf.b'"),
    "a tensor of another shape": (weights(lambda t: t.update(wpe=zeros(8, 16))), "'wpe'"),
    "a tensor of another type": (
        weights(lambda t: t.update(wpe=zeros(16, 16, dtype=np.float64))),
        "'wpe'",
    ),
    "no vocabulary": (deleted("vocabulary.json"), "vocabulary.json"),
    "vocabulary not JSON": (replaced("vocabulary.json", b"{"), "vocabulary.json"),
    "vocabulary not UTF-8": (replaced("vocabulary.json", b"\xff"), "vocabulary.json"),
    "vocabulary a list": (replaced("vocabulary.json", b"[]"), "vocabulary.json"),
    "vocabulary empty": (replaced("vocabulary.json", b"{}"), "vocabulary.json"),
    "vocabulary too small": (vocabulary("abc"), "vocabulary.json"),
    "vocabulary a number": (vocabulary(5), "vocabulary.json"),
    "vocabulary with a character twice": (vocabulary("aa"), "vocabulary.json"),
    "no settings": (deleted("settings.json"), "settings.json"),
    "settings not JSON": (replaced("settings.json", b"\0"), "settings.json"),
    "settings without a model": (
        edited("settings.json", lambda data: data.pop("model")),
        "settings.json",
    ),
    "settings with an unknown field": (settings(colour=1), "settings.json"),
    "settings with a negative size": (settings(channels=-1), "settings.json"),
    "settings with a size in words": (settings(layers="four"), "settings.json"),
    "settings with heads that do not divide": (settings(heads=3), "settings.json"),
    "settings beyond memory": (settings(context=10**15), "settings.json"),
    "settings with more blocks than tensors": (
        settings(layers=10**9),
        "too few for the 1000000000 blocks",
    ),
    "no template": (deleted("template.json"), "template.json"),
    "template a number": (
        edited("template.json", lambda data: data.update(turns=3)),
        "template.json",
    ),
    "template without turns": (
        edited("template.json", lambda data: data.update(turns={})),
        "template.json",
    ),
    "template without an end token": (edited("template.json", no_end_token), "template.json"),
}


@pytest.mark.parametrize("damage, text", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_stage_is_refused_and_the_file_is_named(tmp_path, damage, text):
    save_stage(stage_in(tmp_path / "run" / "sft"))
    damage(tmp_path / "run" / "sft")
    before = files_in(tmp_path)
    with pytest.raises((DataError, MissingInput)) as error:
        load_stage(tmp_path / "run")
    message = one_line(error)
    assert text in message
    assert str(tmp_path) in message
    assert files_in(tmp_path) == before


def test_weights_that_are_not_those_of_the_files_checksum_are_refused(tmp_path):
    """Each tensor's own checksum is right, but not that of all weights in the metadata."""
    stage = stage_in(tmp_path / "base")
    save_stage(stage)
    path, metadata = stage.folder / "model.safetensors", {"weights_sha256": "0" * 64}
    safetensors.save(path, dict(stage.model.params.items()), metadata)
    with pytest.raises(DataError, match="checksum does not match"):
        load_stage(tmp_path)


@pytest.mark.parametrize("name", ["missing", "empty", "other", "file"])
def test_a_folder_that_is_no_run_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(MissingInput) as error:
        load_stage(tmp_path / name)
    assert name in one_line(error)


# ------------------------------------------------------------------------------------ new folders


def test_default_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [str(new_run(None, "tiny")) for _ in range(3)]
    assert folders == ["runs/tiny", "runs/tiny-2", "runs/tiny-3"]
    assert str(new_run(None, "mini")) == "runs/mini"


def test_an_empty_folder_can_be_used(tmp_path):
    (tmp_path / "mine").mkdir()
    assert new_run(str(tmp_path / "mine"), "tiny") == tmp_path / "mine"


def test_the_folder_of_a_run_that_was_killed_at_its_very_beginning_can_be_used(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".lock").write_text("")
    assert new_run(str(tmp_path / "begun"), "tiny") == tmp_path / "begun"
    assert files_in(tmp_path) == {"begun/.lock": b""}


def test_a_folder_with_a_file_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty") as error:
        new_run(str(tmp_path), "tiny")
    assert "--resume" not in one_line(error)
    assert files_in(tmp_path) == {"notes.txt": b"x"}


def test_a_folder_with_a_run_in_it_is_refused_and_resuming_is_offered(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="not empty.*--resume"):
        new_run(str(tmp_path), "tiny")
    assert files_in(tmp_path) == {"run.json": b"{}"}


@pytest.mark.parametrize("name", ["notes.txt", "notes.txt/deeper"])
def test_a_file_in_place_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError) as error:
        new_run(str(tmp_path / name), "tiny")
    assert name in one_line(error)
    assert files_in(tmp_path) == {"notes.txt": b"x"}


def test_a_path_that_is_no_stage_says_what_there_is_instead(tmp_path):
    """Every sentence of not_a_folder(), in the situation that it is for."""
    run, base = tmp_path / "run", tmp_path / "run" / "base"
    run.mkdir()
    write_json(run / "run.json", {"settings": {"base": {}, "sft": {}}})

    def said(path):
        with pytest.raises(MissingInput) as found:
            find_stage(path)
        return str(found.value).removeprefix(f"{path}: ")

    assert said(run / "sft") == "no such run folder. 'python -m pysft train' makes one"
    base.mkdir()
    assert said(run / "sft") == "no such stage. This run has base"
    (run / "sft").mkdir()
    assert said(run / "sft-2") == "no such stage. This run has base, sft"
    for step in (20, 3):
        (base / "steps" / str(step)).mkdir(parents=True)
    assert said(base / "steps" / "5") == "no such checkpoint. There are 3, 20"
    assert said(run / "run.json") == "this is a file. Name the folder of a run"
    assert said(tmp_path / "other") == "no such run folder. 'python -m pysft train' makes one"
