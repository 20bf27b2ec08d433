"""Settings: the presets, a settings file, flags, and values that cannot be."""

import dataclasses
import json

import pytest
from texts import one_line

from pysft.errors import MissingInput, UsageError
from pysft.training.settings import PRESETS, Settings, resolve


@pytest.fixture
def toml(tmp_path):
    """A function that writes a settings file and returns its path."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


# --------------------------------------------------------------------------------------- presets


def test_the_seed_preset_is_that_of_the_source_text():
    expected = {
        "context": 64, "layers": 4, "channels": 64, "heads": 4,
        "base_lr": 3e-4, "sft_lr": 1e-4, "base_schedule": "constant", "sft_schedule": "constant",
        "base_warmup": 0, "sft_warmup": 0, "base_steps": 5000, "sft_steps": 1000,
        "base_windows": ((64, 32),), "sft_windows": (), "sft_pairs": 16, "replacement": True,
        "data": "pairs", "new_rows": "random",
        "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "clip": 0.0,
        "base_decay": 0.01, "sft_decay": 0.01, "decay_all": True,
    }  # fmt: skip
    settings = dataclasses.asdict(PRESETS["seed"])
    assert {name: settings[name] for name in expected} == expected


def test_the_other_presets_have_their_shapes():
    tiny, mini, small = PRESETS["tiny"], PRESETS["mini"], PRESETS["small"]
    assert (tiny.context, tiny.layers, tiny.channels) == (256, 4, 64)
    assert mini.context == small.context == 256
    assert (small.layers, small.heads, small.channels) == (6, 6, 384)


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"seed"}))
def test_presets_but_seed_decay_matrices_alone_and_draw_without_replacement(name):
    settings = PRESETS[name]
    assert settings.preset == name
    assert not settings.decay_all
    assert not settings.replacement


def test_each_stage_decays_by_its_own_setting():
    settings = Settings(base_decay=0.25, sft_decay=0.125)
    assert settings.adam("base")["decay"] == 0.25
    assert settings.adam("sft")["decay"] == 0.125


# ------------------------------------------------------------------------------- files and flags


def test_flags_win_over_the_file_and_the_file_over_the_preset(toml):
    path = toml("seed = 5\nsft_lr = 2\nbase_windows = [[32, 2]]\n")
    settings = resolve("tiny", path, seed=7, base_steps=None)
    assert (settings.seed, settings.sft_lr, settings.base_windows) == (7, 2.0, ((32, 2),))
    assert isinstance(settings.sft_lr, float)
    assert settings.base_steps == PRESETS["tiny"].base_steps


def test_a_file_can_name_its_preset(toml):
    settings = resolve(None, toml('preset = "seed"\nsft_steps = 3'))
    assert settings == dataclasses.replace(PRESETS["seed"], sft_steps=3)


@pytest.mark.parametrize("name", PRESETS)
def test_saved_settings_can_be_read_back(name):
    saved = json.dumps(dataclasses.asdict(PRESETS[name]))
    assert Settings(**json.loads(saved)) == PRESETS[name]


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "text",
    [
        "colour = 1",
        "channels = 'many'",
        "channels = 16.5",
        "channels = true",
        "channels = -1",
        "channels = 0",
        "channels = 6",
        "heads = 0",
        "context = 0\nbase_windows = []",
        "base_lr = 'x'",
        "base_lr = -0.1",
        "base_lr = nan",
        "base_lr = inf",
        "beta1 = 1.0",
        "beta2 = 1.5",
        "decay_all = 1",
        "sft_schedule = 'square'",
        "sft_schedule = 3",
        "new_rows = 'zero'",
        "data = 'all'",
        "base_windows = [[300, 2]]",
        "base_windows = []",
        "base_windows = [[32]]",
        "base_windows = [[0, 4]]",
        "base_windows = [['a', 1]]",
        "base_windows = 5",
        "base_windows = [32, 4]",
        "sft_windows = [[32, true]]",
        "preset = 'huge'",
        "preset = 3",
        "preset = ['tiny']",
    ],
)
def test_a_setting_that_cannot_be_is_named(toml, text):
    with pytest.raises(UsageError) as error:
        resolve(None, toml(text))
    assert text.split(" ")[0] in one_line(error)


def test_a_file_that_is_not_toml_is_refused(toml):
    with pytest.raises(UsageError) as error:
        resolve(None, toml("not toml"))
    assert "mine.toml" in one_line(error)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingInput, match="none.toml: no such file"):
        resolve("tiny", str(tmp_path / "none.toml"))


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="'huge' is not one of seed, tiny, mini, small"):
        resolve("huge")
