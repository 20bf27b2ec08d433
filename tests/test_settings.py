"""Settings: the presets, a settings file, flags, the list of stages, and values that cannot be."""

import json
import tomllib

import pytest
from conftest import as_toml
from texts import one_line

from pysft.errors import MissingInput, UsageError
from pysft.training.flat import PLACES, stored_settings, tuning
from pysft.training.kinds import FineTuning, Pretraining, next_name
from pysft.training.presets import PRESETS, WITH_TOOLS, Parent, read_settings, resolve
from pysft.training.settings import TRANSCRIPT, Model, Settings


@pytest.fixture
def toml(tmp_path):
    """A function that writes a settings file and reads it."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return read_settings(str(path))

    return write


# --------------------------------------------------------------------------------------- presets


def test_the_seed_preset_is_that_of_the_source_text():
    adam = {
        "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "clip": 0.0, "decay": 0.01, "decay_all": True,
        "schedule": "constant", "warmup": 0,
    }  # fmt: skip
    expected = {
        "model": {"context": 64, "layers": 4, "channels": 64, "heads": 4, "tied": False},
        "data": {"shipped": "pairs"},
        "base": adam | {"lr": 3e-4, "steps": 5000, "windows": ((64, 32),)},
        "sft": adam | {
            "lr": 1e-4, "steps": 1000, "windows": (), "pairs": 16, "replacement": True,
            "new_rows": "random",
        },
    }  # fmt: skip
    settings = PRESETS["seed"].to_json()
    for table, values in expected.items():
        assert {name: settings[table][name] for name in values} == values


def test_the_other_presets_have_their_shapes():
    tiny, mini, small = (PRESETS[name].model for name in ("tiny", "mini", "small"))
    assert (tiny.context, tiny.layers, tiny.channels) == (256, 4, 64)
    assert mini.context == small.context == 256
    assert (small.layers, small.heads, small.channels) == (6, 6, 384)


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"seed"}))
def test_presets_but_seed_decay_matrices_alone_and_draw_without_replacement(name):
    settings = PRESETS[name]
    assert settings.preset == name
    assert not any(stage.decay_all for stage in settings.stages.values())
    assert not settings.stages["sft"].replacement


def test_each_stage_has_its_own_adamw():
    settings = Settings().changed({"base": {"decay": 0.25}, "sft": {"decay": 0.125, "eps": 1e-6}})
    base, sft = (stage.adam() for stage in settings.stages.values())
    assert (base["decay"], base["eps"]) == (0.25, 1e-8)
    assert (sft["decay"], sft["eps"]) == (0.125, 1e-6)


# ------------------------------------------------------------------------------- files and flags


def test_flags_win_over_the_file_and_the_file_over_the_preset(toml):
    path = toml("seed = 5\n[sft]\nlr = 2\nsteps = 9\n[base]\nwindows = [[32, 2]]\n")
    settings = resolve("tiny", path, flags={"seed": 7, "sft": {"steps": 4}})
    base, sft = settings.stages["base"], settings.stages["sft"]
    assert (settings.seed, sft.lr, sft.steps, base.windows) == (7, 2.0, 4, ((32, 2),))
    assert isinstance(sft.lr, float)
    assert base.steps == PRESETS["tiny"].stages["base"].steps


def test_the_file_wins_over_what_a_recipe_puts_upon_the_preset(toml):
    upon = {"sft": {"steps": 5, "tokens": 900}}
    stage = resolve("tiny", toml("[sft]\nsteps = 6"), upon).stages["sft"]
    assert (stage.steps, stage.tokens) == (6, 900)


def test_a_file_can_name_its_preset_and_its_stages(toml):
    settings = resolve(None, toml('preset = "seed"\nstages = ["base"]\n[base]\nsteps = 3'))
    assert settings == PRESETS["seed"].only("base").changed({"base": {"steps": 3}})


def test_the_stages_of_a_command_win_over_those_of_its_file(toml):
    settings = resolve(None, toml('stages = ["base"]'), stages=["base", "sft"])
    assert list(settings.stages) == ["base", "sft"]


def test_a_table_of_a_kind_holds_for_each_of_its_stages_and_one_of_a_stage_for_it_alone(toml):
    path = toml("[sft-2]\nlr = 1e-4\n[sft]\nlr = 1e-3\nsteps = 7")
    settings = resolve(None, path, stages=["base", "sft", "sft-2"])
    assert list(settings.stages) == ["base", "sft", "sft-2"]
    assert [settings.stages[name].lr for name in ("sft", "sft-2")] == [1e-3, 1e-4]
    assert [settings.stages[name].steps for name in ("sft", "sft-2")] == [7, 7]


def test_a_flag_for_a_kind_wins_over_the_files_table_of_one_stage_and_not_over_a_flag_for_it(toml):
    path, names = toml("[sft-2]\nlr = 1e-4"), ["base", "sft", "sft-2"]
    for flags, rate in (({"sft": {"lr": 1e-3}}, 1e-3), ({"sft-2": {"lr": 2}}, 2)):
        settings = resolve(None, path, flags={"sft": {"lr": 1e-3}} | flags, stages=names)
        assert [settings.stages[name].lr for name in names[1:]] == [1e-3, rate]


def test_tables_of_a_file_that_no_stage_uses_are_said_and_those_of_flags_refused(toml):
    said, path = [], toml("[base]\nsteps = 3\n[sft-2]\nlr = 1e-4\n[sft]\nsteps = 2")
    settings = resolve(None, path, stages=["base"], say=said.append)
    assert list(settings.stages) == ["base"]
    [sentence] = said
    assert "mine.toml: [sft-2], [sft] not used, because this run trains base" in sentence
    with pytest.raises(UsageError, match=r"flags set \[sft\], but this run trains base"):
        resolve(flags={"sft": {"steps": 3}}, stages=["base"])


def test_a_name_is_checked_even_in_a_table_that_no_stage_uses(toml):
    with pytest.raises(UsageError, match=r"unknown setting of \[sft\] 'colour'"):
        resolve(None, toml("[sft]\ncolour = 1"), stages=["base"])


@pytest.mark.parametrize("name", PRESETS)
def test_saved_settings_can_be_read_back(name):
    settings = PRESETS[name].with_stages(["base", "sft", "sft-2"])
    assert Settings.of_json(json.loads(json.dumps(settings.to_json()))) == settings


# ------------------------------------------------------------------------------------ the stages


@pytest.mark.parametrize(
    "names, words",
    [
        ([], "none is named"),
        (["tune"], "'tune': there is no such stage"),
        (["base", "sft-1"], "'sft-1': there is no such stage"),
        (["base", "sft-02"], "'sft-02': there is no such stage"),
        (["base-2"], "'base-2': there is no such stage"),
        (["base", "sft", "sft"], "'sft' is named twice.*'sft-2'"),
        (["sft"], "begins from a model; name one by --base RUN.*--stages base,sft"),
        (["base", "sft", "base"], "named twice"),
        (["sft", "base"], "'sft' begins from a model"),
    ],
)
def test_stages_that_cannot_follow_each_other_are_refused(toml, names, words):
    for arguments in ({"stages": names}, {"file": toml(f"stages = {json.dumps(names)}")}):
        if names or "file" in arguments:
            with pytest.raises(UsageError, match=words) as error:
                resolve(**arguments)
            one_line(error)


PARENT = Parent("sft", "runs/a/sft", {"model": vars(Model()), "data": {"template": "chat"}})


def test_a_base_follows_nothing():
    with pytest.raises(UsageError, match="'base' begins from nothing, but --base names"):
        resolve(stages=["base"], parent=PARENT)
    base = Parent("base", "runs/a/base", {"model": vars(Model())})
    with pytest.raises(UsageError, match="but --base names"):
        resolve(stages=["base", "sft"], parent=base)
    with pytest.raises(UsageError, match="'base' begins from nothing; name it first"):
        resolve(stages=["sft", "base"], parent=base)


def test_the_number_of_a_stage_has_at_most_three_digits():
    assert list(resolve(stages=["sft-999"], parent=PARENT).stages) == ["sft-999"]
    with pytest.raises(UsageError, match="'sft-1000': there is no such stage"):
        resolve(stages=["sft-1000"], parent=PARENT)


def test_the_stage_after_a_parent_has_the_next_name():
    assert list(resolve(parent=PARENT).stages) == ["sft-2"]
    assert [next_name(n) for n in (None, "base", "sft", "sft-2", "sft-9")] == (
        ["sft", "sft", "sft-2", "sft-3", "sft-10"]
    )
    with pytest.raises(
        UsageError, match="the name of the stage that the run begins from; call it 'sft-2'"
    ):
        resolve(stages=["sft"], parent=PARENT)
    assert list(resolve(stages=["sft-5", "sft-6"], parent=PARENT).stages) == ["sft-5", "sft-6"]


def test_what_the_parent_decides_is_kept_and_another_value_refused(toml):
    shape = vars(Model(context=32, layers=2, heads=2, channels=16, tied=True))
    parent = Parent("sft", "runs/a/sft", {"model": shape, "data": {"template": "human"}})
    settings = resolve("mini", parent=parent)
    assert (vars(settings.model), settings.data.template) == (shape, "human")
    assert settings.stages["sft-2"].windows == ((32, 8),)  # no longer than the context
    assert resolve("mini", flags={"model": {"layers": 2}}, parent=parent) == settings
    for text, words in (
        ("[model]\nlayers = 3", r"\[model\] layers = 3, but runs/a/sft has 2"),
        ('[data]\ntemplate = "chat"', r"\[data\] template = 'chat', but runs/a/sft has 'human'"),
    ):
        with pytest.raises(UsageError, match=words):
            resolve(None, toml(text), parent=parent)


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "table, fits, too_much",
    [
        ("model", "heads = 64", "heads = 128"),
        ("model", "layers = 1", "layers = 0"),
        ("base", "lr = 999999.5", "lr = 1e6"),
        ("base", "lr = 0", "lr = -1e-9"),
        ("base", "eps = 1e-12", "eps = 0.9e-12"),
        ("base", "beta1 = 0.999999", "beta1 = 1"),
        ("sft", "beta2 = 0", "beta2 = 1"),
        ("sft", "micro_batches = 1", "micro_batches = 0"),
        ("sft", "lora_rank = 64", "lora_rank = 65"),
        ("sft", "steps = 0", "steps = -1"),
        ("sft", "checkpoint_every = '1'", "checkpoint_every = '0'"),
        ("sft", "checkpoint_every = 1", "checkpoint_every = true"),
        ("sft", "windows = [[256, 1]]", "windows = [[257, 1]]"),
        ("base", "windows = [[1, 1]]", "windows = [[1, 0]]"),
        ("base", "windows = [[8, 2]]", "windows = [[8, 2, 1]]"),
        ("data", "mix = [1e-9, 999999]", "mix = [0, 1]"),
        ("data", "mix = []", "mix = [1, 1e6]"),
        ("data", "ignore = []", "ignore = [1]"),
    ],
)
def test_a_setting_may_be_up_to_its_bound_and_not_beyond(toml, table, fits, too_much):
    resolve(None, toml(f"[{table}]\n{fits}"))
    with pytest.raises(UsageError):
        resolve(None, toml(f"[{table}]\n{too_much}"))


@pytest.mark.parametrize(
    "table, text",
    [
        ("", "colour = 1"),
        ("", "sft = 3"),
        ("", "model = [1]"),
        ("", "preset = 'huge'"),
        ("", "preset = 3"),
        ("", "preset = ['tiny']"),
        ("", "seed = -1"),
        ("", "seed = true"),
        ("", "stages = 3"),
        ("", "stages = ['base', 3]"),
        ("model", "colour = 1"),
        ("model", "channels = 'many'"),
        ("model", "channels = 16.5"),
        ("model", "channels = true"),
        ("model", "channels = -1"),
        ("model", "channels = 0"),
        ("model", "channels = 6"),
        ("model", "heads = 0"),
        ("model", "context = 0"),
        ("model", "tied = 1"),
        ("base", "lr = 'x'"),
        ("base", "lr = -0.1"),
        ("base", "lr = nan"),
        ("base", "lr = inf"),
        ("base", "beta1 = 1.0"),
        ("sft", "beta2 = 1.5"),
        ("base", "eps = 0"),
        ("sft", "micro_batches = 0"),
        ("sft", "decay_all = 1"),
        ("sft", "schedule = 'square'"),
        ("sft", "schedule = 3"),
        ("sft", "new_rows = 'zero'"),
        ("sft", "lora_rank = 65"),
        ("data", "shipped = 'all'"),
        ("base", "windows = [[300, 2]]"),
        ("base", "windows = []"),
        ("base", "windows = [[32]]"),
        ("base", "windows = [[0, 4]]"),
        ("base", "windows = [['a', 1]]"),
        ("base", "windows = 5"),
        ("base", "windows = [32, 4]"),
        ("sft", "windows = [[32, true]]"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_table(toml, table, text):
    with pytest.raises(UsageError) as error:
        resolve(None, toml(f"[{table}]\n{text}" if table else text))
    sentence = one_line(error)
    assert text.split(" ")[0] in sentence
    assert not table or f"[{table}]" in sentence


@pytest.mark.parametrize("name", ["model", "base", "sft", "sft-2"])
@pytest.mark.parametrize("parent", [None, PARENT], ids=["alone", "begun from a stage"])
def test_a_table_that_is_a_number_is_refused(toml, name, parent):
    """Also if no stage of the run uses it."""
    with pytest.raises(UsageError, match=rf"mine.toml: {name} = 3: expected a table.*\[{name}\]"):
        resolve(None, toml(f"{name} = 3"), parent=parent)


@pytest.mark.parametrize(
    "text, tables",
    [
        ("lr = 1", r"\[base\] or \[sft\]"),
        ("tokens = 1", r"\[sft\]"),
        ("tied = true", r"\[model\]"),
        ("shipped = 'pairs'", r"\[data\]"),
    ],
)
def test_a_setting_outside_a_table_is_refused_with_its_tables(toml, text, tables):
    name = text.partition(" ")[0]
    with pytest.raises(UsageError, match=f"{name} stands in no table; write it below {tables}$"):
        resolve(None, toml(text))


def test_transcripts_of_tool_use_need_their_context_and_conversations(toml):
    with pytest.raises(UsageError, match="context of at least 256"):
        resolve("seed", toml('[data]\ntranscripts = 9\nshipped = "conversations"'))
    with pytest.raises(UsageError, match="mixed with conversations"):
        resolve("tiny", toml('[data]\ntranscripts = 9\nshipped = "pairs"'))


# ------------------------------------------------------------------------ tools without being asked


def test_tools_put_transcripts_upon_the_presets_that_have_them_and_upon_no_others():
    assert set(WITH_TOOLS) == {"tiny", "mini"}
    for name, preset in PRESETS.items():
        settings = resolve(name, tools=True)
        assert settings == preset.changed(WITH_TOOLS.get(name, {}))
        assert bool(settings.data.transcripts) == (name in WITH_TOOLS)
        assert resolve(name) == preset


def test_a_file_and_flags_win_over_what_the_tools_put_upon_a_preset(toml):
    path = toml("[sft]\nsteps = 6\nlr = 0.5")
    settings = resolve("mini", path, flags={"sft": {"lr": 0.25}}, tools=True)
    stage, usual = settings.stages["sft"], WITH_TOOLS["mini"]["sft"]
    assert (stage.steps, stage.lr, stage.tokens) == (6, 0.25, usual["tokens"])
    assert settings.data.transcripts == WITH_TOOLS["mini"]["data"]["transcripts"]


def test_a_file_or_a_flag_can_leave_the_transcripts_out(toml):
    none = {"data": {"transcripts": 0}}
    for change in ({"file": toml("[data]\ntranscripts = 0")}, {"flags": none}):
        assert resolve("tiny", **change, tools=True) == PRESETS["tiny"]


def short_context(context):
    """Settings of a context that is too short for the preset's windows."""
    windows = {"windows": [[16, 2]]}
    return {"model": {"context": context}, "base": windows, "sft": windows}


def test_a_short_context_leaves_the_tools_out_with_a_sentence(toml):
    changes, said = short_context(TRANSCRIPT - 1), []
    expected, path = PRESETS["tiny"].changed(changes), toml(as_toml(changes))
    assert resolve("tiny", flags=changes, tools=True, say=said.append) == expected
    assert resolve("tiny", path, tools=True, say=said.append) == expected
    assert len(said) == 2 and said[0] == said[1]
    assert f"context of {TRANSCRIPT - 1} is too short" in said[0] and str(TRANSCRIPT) in said[0]
    assert said[0].endswith("so the model learns no tools") and "\n" not in said[0]
    resolve("tiny", flags=changes, say=said.append)  # who asks for no tools is told nothing
    assert len(said) == 2
    enough = {"model": {"context": TRANSCRIPT}}
    settings = resolve("tiny", flags=enough, tools=True, say=said.append)
    assert settings.data.transcripts and len(said) == 2


def test_the_context_of_a_parent_decides_on_the_tools():
    said = []
    for context in (TRANSCRIPT, TRANSCRIPT - 1):
        parent = Parent("base", "runs/b", {"model": vars(Model(context=context))})
        settings = resolve("tiny", parent=parent, tools=True, say=said.append)
        assert bool(settings.data.transcripts) == (context == TRANSCRIPT)
        assert len(said) == (context < TRANSCRIPT)
    assert (
        resolve("tiny", parent=PARENT, tools=True).stages["sft-2"].steps
        == (WITH_TOOLS["tiny"]["sft"]["steps"])
    )


@pytest.mark.parametrize("context", [None, 64])
def test_no_tools_are_put_upon_a_run_that_reads_no_conversations(toml, context):
    """And nothing is said about it, whatever its context."""
    said, flags = [], {}
    if context:
        flags = short_context(context)
        del flags["sft"]
    settings = resolve("tiny", flags=flags, stages=["base"], tools=True, say=said.append)
    assert settings == PRESETS["tiny"].only("base").changed(flags) and not said


def test_no_tools_are_put_upon_a_run_of_the_shipped_pairs_alone(toml):
    said, changes = [], {"data": {"shipped": "pairs"}}
    for given in ({"flags": changes}, {"file": toml('[data]\nshipped = "pairs"')}):
        settings = resolve("tiny", **given, tools=True, say=said.append)
        assert settings == PRESETS["tiny"].changed(changes) and not said


@pytest.mark.parametrize("text", ["model = 3", "data = []", "[model]\ncontext = 'long'"])
def test_a_table_that_cannot_be_is_refused_with_tools_too(toml, text):
    with pytest.raises(UsageError, match="mine.toml") as error:
        resolve("tiny", toml(text), tools=True)
    one_line(error)


def test_a_file_that_is_not_toml_is_refused(toml):
    with pytest.raises(UsageError) as error:
        resolve(None, toml("not toml"))
    assert "mine.toml" in one_line(error)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingInput, match="none.toml: no such file"):
        read_settings(str(tmp_path / "none.toml"))


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="'huge' is not one of seed, tiny, mini, small"):
        resolve("huge")


# --------------------------------------------------------------- the flat form of earlier versions

FLAT = {
    "preset": "tiny", "seed": 4, "context": 64, "layers": 1, "heads": 2, "channels": 16,
    "data": "pairs", "base_steps": 3, "base_windows": [[16, 4]], "base_lr": 0.01,
    "base_decay": 0.2, "sft_steps": 5,
    "sft_windows": [[16, 2]], "sft_window_weight": 0.5, "lora_rank": 2, "grade": "last",
    "checkpoint_every": "never", "beta2": 0.95, "on_nan": "skip",
}  # fmt: skip
TABLES = {
    "preset": "tiny",
    "seed": 4,
    "model": {"context": 64, "layers": 1, "heads": 2, "channels": 16},
    "data": {"shipped": "pairs", "grade": "last"},
    "base": {"steps": 3, "windows": [[16, 4]], "lr": 0.01, "decay": 0.2, "beta2": 0.95,
             "on_nan": "skip"},
    "sft": {
        "steps": 5, "windows": [[16, 2]], "window_weight": 0.5, "lora_rank": 2,
        "checkpoint_every": "never", "beta2": 0.95, "on_nan": "skip",
    },
}  # fmt: skip


def test_flat_settings_of_an_old_run_give_the_same_tables():
    assert stored_settings(FLAT, ["base", "sft"]) == Settings.of_json(TABLES)
    assert stored_settings(FLAT, ["sft"]) == Settings.of_json(TABLES).only("sft")
    assert tuning(FLAT, "sft") == TABLES["data"] | TABLES["sft"]
    document = TABLES | {"sft-2": {"steps": 9}}
    assert tuning(document, "sft-2") == TABLES["data"] | {"steps": 9}
    with pytest.raises(UsageError, match="'colour'"):
        stored_settings(FLAT | {"colour": 1}, ["sft"])


def test_every_setting_that_was_flat_stands_in_a_table():
    for name, where in PLACES.items():
        for table, key in where:
            assert key in resolve().to_json()[table], name


@pytest.mark.parametrize("name", PLACES)
def test_a_file_in_the_flat_form_is_refused_with_the_table_of_each_setting(toml, name):
    with pytest.raises(UsageError, match="settings stand in tables now") as error:
        resolve(None, toml(f"sft_lr = 1\n{name} = 1" if name != "sft_lr" else "sft_lr = 1"))
    sentence = one_line(error)
    assert "sft_lr is now [sft] lr" in sentence
    places = [f"[{table}] {key}" for table, key in PLACES[name]]
    assert f"{name} is now {' and '.join(places)}" in sentence


def test_a_flat_name_beside_tables_is_refused_too(toml):
    text = "base_steps = 3\n[sft]\nsteps = 2"
    assert "sft" in tomllib.loads(text)
    with pytest.raises(UsageError, match=r"base_steps is now \[base\] steps"):
        resolve(None, toml(text))


def test_the_kinds_of_stages_have_their_own_settings():
    assert FineTuning().decay != Pretraining().decay
    with pytest.raises(UsageError, match=r"unknown setting of \[base\] 'lora_rank'"):
        resolve(flags={"base": {"lora_rank": 2}})


def test_a_warm_up_is_shortened_to_its_stage_and_left_alone_where_there_are_no_steps():
    def short(**sft):
        return Settings().changed({"sft": sft}).with_short_warmups()

    settings, notes = short(steps=20, warmup=100, lr=0.003)
    assert settings.stages["sft"].warmup == 20
    assert notes == [
        "[sft] warmup = 100 is shortened to the 20 steps of the stage; its last step reaches the"
        " full rate 0.003"
    ]
    for unchanged in ({"steps": 0, "warmup": 100}, {"steps": 100, "warmup": 100}):
        settings, notes = short(**unchanged)
        assert (settings.stages["sft"].warmup, notes) == (100, [])


def test_the_settings_of_a_stage_that_somebody_renamed_are_those_of_sft():
    document = {"preset": "tiny", "data": {"grade": "last"}, "base": {"lr": 1}, "sft": {"lr": 2}}
    assert tuning(document, "sft") == tuning(document, "mine") == {"grade": "last", "lr": 2}
    assert tuning(document | {"mine": {"lr": 3}}, "mine") == {"grade": "last", "lr": 3}
    assert tuning({"data": {"grade": "all"}}, "sft") == {"grade": "all"} and tuning({}, "sft") == {}
