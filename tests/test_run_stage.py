"""A stage on disk: what is saved comes back bit for bit, damage is named, and a folder of somebody
else is left alone."""

import json
import os
from dataclasses import replace
from pathlib import Path

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
    checkpoint_step,
    find_stage,
    load_stage,
    measured_stage,
    new_run,
    read_json,
    save_stage,
    stage_folders,
    understood,
    unfinished,
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


def test_a_json_file_is_indented_and_holds_letters_as_they_are(tmp_path):
    write_json(tmp_path / "a.json", {"b": ["\u00e9"], "a": None})
    text = '{\n "b": [\n  "\u00e9"\n ],\n "a": null\n}\n'
    assert (tmp_path / "a.json").read_bytes() == text.encode()
    assert read_json(tmp_path / "a.json") == {"b": ["\u00e9"], "a": None}
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf{}")  # as an editor of Windows leaves it
    assert read_json(tmp_path / "a.json") == {}


def test_all_that_a_stage_knows_of_itself_comes_back(tmp_path):
    save_stage(replace(stage_in(tmp_path / "sft"), inputs={"a.txt": "0" * 64}))
    loaded = load_stage(tmp_path / "sft")
    assert loaded.inputs == {"a.txt": "0" * 64} and loaded.parent == stage_in(tmp_path).parent
    assert set(files_in(tmp_path / "sft")) == {
        *("settings.json", "vocabulary.json", "template.json", "model.safetensors")
    }
    _, metadata = safetensors.load(tmp_path / "sft/model.safetensors")
    assert metadata["weights_sha256"] == weights_sha256(loaded.model)


@pytest.mark.parametrize(
    "settings, value",
    [
        ({"data": {"grade": "last"}}, "last"),
        ({"data": {"grade": None}}, None),
        ({"data": {}}, "all"),
        ({"data": {}, "grade": "flags"}, "all"),  # it is no table's
        ({"grade": "flags"}, "flags"),  # as an earlier version wrote it
        ({"grade": "flags", "data": ["a.jsonl"]}, "flags"),
        ({}, "all"),
        (None, "all"),
        ([1], "all"),
    ],
)
def test_a_setting_of_the_data_is_read_from_its_table_or_where_an_earlier_version_had_it(
    tmp_path, settings, value
):
    assert replace(stage_in(tmp_path), settings=settings).setting("grade", "all") == value


# --------------------------------------------------------------------------- the stages of a run


def laid_out(run, *folders, settings=None):
    """A run with these folders. One that ends with "!" is finished, one with "?" is begun."""
    run.mkdir()
    for name in folders:
        folder = run / name.rstrip("!?")
        folder.mkdir(parents=True)
        if name.endswith("?"):
            (folder / "settings.json").write_text("{}")
        elif name.endswith("!"):
            (folder / "model.safetensors").write_text("")
    if settings is not None:
        write_json(run / "run.json", {"settings": settings})
    return run


def names_of(run) -> list[str]:
    return [folder.name for folder in stage_folders(run)]


def test_stages_come_in_the_order_of_the_record_and_others_behind_them_by_name(tmp_path):
    listed = {"preset": "tiny", "seed": 1, "model": {}, "data": {}}
    listed |= {"base": {}, "sft-2": {}, "sft": {}}
    folders = ("sft", "sft-2", "base", "model", "data", "notes", "z?", "a?", "preset")
    run = laid_out(tmp_path / "run", *folders, settings=listed)
    assert names_of(run) == ["base", "sft-2", "sft", "a", "z"]
    assert names_of(laid_out(tmp_path / "new", settings=listed)) == []


@pytest.mark.parametrize(
    "record", [None, "{", "{}", '{"settings": 3}', '{"settings": {"sft-2": 3}}']
)
def test_without_a_list_in_the_record_the_stages_are_base_and_sft(tmp_path, record):
    run = laid_out(tmp_path / "run", "sft", "base", "notes", "sft-2", "sft-3?")
    if record is not None:
        (run / "run.json").write_text(record)
    assert names_of(run) == ["base", "sft", "sft-3"]


def test_a_run_begun_from_a_base_elsewhere_lists_its_own_stages_first(tmp_path):
    run = laid_out(tmp_path / "run", "sft", "sft-2", "base", settings={"sft-2": {}})
    assert names_of(run) == ["sft-2", "base", "sft"]


def test_a_stage_that_is_not_finished_is_named_unless_it_is_the_base(tmp_path):
    listed = {"base": {}, "sft": {}, "sft-2": {}, "sft-3": {}}
    run = laid_out(tmp_path / "run", "base", "sft!", "sft-2?", "sft-3?", settings=listed)
    assert unfinished(run) == "sft-2" and unfinished(str(run)) == "sft-2"
    assert unfinished(laid_out(tmp_path / "whole", "base", "sft!", settings=listed)) is None
    assert unfinished(run / "run.json") is None and unfinished(tmp_path / "none") is None


def test_a_checkpoint_is_a_number_below_steps_and_is_measured_where_its_stage_is(tmp_path):
    run = laid_out(tmp_path / "run", "sft!", "sft/steps/5!", "sft/steps/last!", "sft/4!")
    places = {
        "sft": None,
        "sft/steps": None,
        "sft/steps/5": 5,
        "sft/steps/last": None,
        "sft/4": None,
    }
    assert {name: checkpoint_step(run / name) for name in places} == places
    assert measured_stage(run / "sft") == run / "sft"
    assert measured_stage(run / "sft/4") == run / "sft/4"
    for name in ("5", "last"):
        assert measured_stage(run / "sft/steps" / name) == run / "sft"
    (run / "sft/steps/5/evaluation.json").write_text("{}")  # moved there by somebody
    assert measured_stage(run / "sft/steps/5") == run / "sft/steps/5"


def test_a_checkpoint_is_known_by_a_relative_path_from_inside(tmp_path, monkeypatch):
    run = laid_out(tmp_path / "run", "sft!", "sft/steps/5!")
    monkeypatch.chdir(run / "sft/steps/5")
    assert checkpoint_step(".") == 5
    assert measured_stage(Path(".")) == (run / "sft").resolve()
    assert replace(stage_in(Path(".")), folder=Path(".")).name == "sft"


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


@pytest.mark.parametrize(
    "content, words",
    [
        ("[]", "a JSON list, expected an object"),
        ("3", "a JSON int, expected an object"),
        ("{", "not the JSON that this program wrote"),
        ("[" * 100_000, "not the JSON that this program wrote"),
        (None, "missing. The run folder is not complete"),
    ],
)
def test_a_file_that_holds_no_json_object_is_named_with_what_it_holds(tmp_path, content, words):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MissingInput if content is None else DataError) as error:
        read_json(path)
    assert one_line(error).startswith(f"{path}: {words}")


@pytest.mark.parametrize(
    "wrong, reason",
    [
        (UsageError("layers is 0"), "layers is 0"),
        (KeyError("model"), "KeyError: 'model'"),
        (TypeError("x"), "TypeError: x"),
        (AttributeError("x"), "AttributeError: x"),
        (IndexError("x"), "IndexError: x"),
        (ValueError("x"), "ValueError: x"),
    ],
)
def test_content_that_is_not_understood_is_an_error_with_its_reason(tmp_path, wrong, reason):
    write_json(tmp_path / "a.json", {"a": 1})
    assert understood(tmp_path / "a.json", lambda data: data["a"]) == 1
    with pytest.raises(DataError) as error:
        understood(tmp_path / "a.json", raising(wrong))
    text = f"{tmp_path / 'a.json'}: not as this program writes it ({reason})"
    assert one_line(error) == text


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


@pytest.mark.parametrize(
    "out, words",
    [
        ("", "--out is empty; name a folder"),
        (" ", "--out is empty; name a folder"),
        (os.fsdecode(b"run-\xff"), "not UTF-8. Choose a name that is"),
        ("x" * 300, "cannot be made (File name too long). Choose another folder"),
        ("file", "--out file: this is a file. Name a folder"),
        ("file/run", "file/run: cannot be made (File exists)"),
        ("link", "--out link: a link that leads nowhere. Name a folder"),
        ("~/run", "--out ~/run: the shell did not put your home folder for ~ here"),
        ("full", "--out full: the folder is not empty. Name a new one"),
    ],
)
def test_a_name_that_cannot_be_a_new_runs_is_refused_with_the_reason(
    tmp_path, monkeypatch, out, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "run.json.99999999.txt").write_text("x")
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(UsageError) as error:
        new_run(out, "tiny")
    assert words in one_line(error)
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_what_a_run_that_was_stopped_at_its_start_left_is_no_content(tmp_path):
    mine, theirs = (f"run.json.{n}.ab.tmp" for n in (os.getpid(), 2**22 + 1))
    for name in (mine, theirs, ".lock"):
        (tmp_path / name).write_text("")
    assert new_run(str(tmp_path), "tiny") == tmp_path
    assert sorted(os.listdir(tmp_path)) == [".lock", mine]  # a running process may need its file


def test_a_link_to_an_empty_folder_is_taken_like_the_folder(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert new_run(str(tmp_path / "link"), "tiny") == tmp_path / "link"


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
