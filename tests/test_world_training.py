"""Training on the invented world: what a base reads, what a fine-tuning is asked, and what is
measured of it."""

import json
import math
import shlex
import shutil
from html import unescape

import numpy as np
import pytest
from command_line import SMALL_WORLD, WORLD, refusal, succeeds

from pysft.errors import UsageError
from pysft.measure import world as measured
from pysft.measure.reproduce import reproduce
from pysft.measure.world import known_bits, world_figures, world_rows
from pysft.text.corpora import read_corpus
from pysft.text.tokenizers import vocabulary_of
from pysft.training.kinds import PreferenceTuning, Pretraining
from pysft.training.presets import OF_WORLD, Parent, SettingsFile, resolve
from pysft.training.settings import Settings
from pysft.training.stages import pretrain
from pysft.world.ask import questions
from pysft.world.facts import WorldSettings, make
from pysft.world.judge import VERDICTS

# ------------------------------------------------------------------------------------- settings


def test_data_world_means_corpus_world_and_its_recipe(world_run):
    out, _ = world_run
    record = json.loads((out / "run.json").read_text())
    assert (record["corpus"], record["data"]) == ("world", ["world"])
    assert record["settings"]["world"] == make(WorldSettings(**WORLD)).settings.to_json()
    assert record["settings"]["sft"]["lr"] == OF_WORLD["tiny"]["sft"]["lr"]


@pytest.mark.parametrize("preset", OF_WORLD)
def test_a_recipe_of_a_world_changes_the_tables_that_are_wanted(preset):
    settings = resolve(preset, world=("world", "base"))
    assert settings.world == WorldSettings(**OF_WORLD[preset]["world"])
    assert settings.stages["base"].world and not settings.stages["sft"].world
    assert resolve(preset, world=("world", "base", "sft")).stages["sft"].world
    assert Settings.of_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize("preset", ["tiny", "mini", "small", ""])
@pytest.mark.parametrize("stages, listed", [(["reward", "dpo"], None), (None, ["reward", "dpo"])])
def test_stages_that_compare_in_a_world_take_the_recipe_of_their_parents_preset(
    preset, stages, listed
):
    plain = {"model": {"context": 256}, "data": {}}
    fixed = plain | {"world": WorldSettings().to_json()}
    parent = Parent("sft", "runs/world/sft", fixed, preset=preset)
    file = SettingsFile("a.toml", {"stages": listed}) if listed else None
    settings = resolve(file=file, stages=stages, parent=parent)
    known = preset if preset in OF_WORLD else "tiny"
    assert settings.preset == known
    for name, stage in settings.stages.items():
        recipe = OF_WORLD[known].get(name, {})
        assert {key: getattr(stage, key) for key in recipe} == recipe
    elsewhere = resolve(stages=["dpo"], parent=Parent("sft", "runs/tiny/sft", plain))
    assert elsewhere.stages["dpo"] == PreferenceTuning()


def test_settings_without_a_world_do_not_name_one():
    settings = resolve("tiny")
    assert settings.world is None and "world" not in settings.to_json()
    with pytest.raises(UsageError, match="this run has no world; it needs --corpus world"):
        settings.changed({"base": {"world": [[64, 1]]}})
    with pytest.raises(UsageError, match=r"\[base\] world = .*at most the context"):
        settings.changed({"world": {}, "base": {"world": [[1024, 1]]}})
    with pytest.raises(UsageError, match=r"\[world\] people = 3"):
        settings.changed({"world": {"people": 3}})
    with pytest.raises(UsageError, match=r"unknown setting of \[world\] 'persons'"):
        settings.changed({"world": {"persons": 30}})


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--preset", "seed"), "preset 'seed' has no recipe for an invented world"),
        (("--corpus", "plays"), "--data world asks about what --corpus world tells"),
        (("--set", "world.people=5000"), "expected a whole number from 20 to 2,304"),
    ],
)
def test_a_training_that_cannot_learn_the_world_is_refused(flags, said, workdir):
    assert said in refusal(2, "train", "--data", "world", *flags)
    assert workdir.is_unchanged()


def test_a_base_that_has_read_of_no_world_is_not_asked_about_one(trained):
    said = refusal(2, "train", "--data", "world", "--base", trained.run)
    assert "has read of no world" in said


# --------------------------------------------------------------------------- what is learned from


def test_an_epoch_reads_each_window_of_the_world_once_from_a_first_cut_of_its_own():
    text = np.arange(1000, dtype=np.int32)
    settings = Settings(
        world=WorldSettings(),
        stages={"base": Pretraining(steps=100, windows=((8, 1),), world=((10, 3),))},
    )
    plan = pretrain(settings, "base", np.zeros(50, np.int32), 1000, text)
    starts = []
    for step in range(66):  # 99 windows of 10 in 1,000 tokens
        [batch] = plan.draw(step)
        rows = batch.tokens[8:]
        assert len(rows) == 30 and (batch.labels[8:] == rows + 1).all()
        starts += rows[::10].tolist()
    for some in (starts[:99], starts[99:198]):
        assert sorted(some) == list(range(min(some), min(some) + 990, 10)) and min(some) < 10
    assert min(starts[:99]) != min(starts[99:198])
    assert plan.epochs == {"world": pytest.approx(100 * 30 / 1000)} and plan.rows == 38


def test_the_fine_tuning_learns_the_questions_of_training_alone(world_run):
    out, report = world_run
    asked = {q.prompt: q.answer for q in questions(make(WorldSettings(**WORLD)), "train")}
    probe = json.loads((out / "sft" / "evaluation.json").read_text())
    assert probe["pairs"] and all(asked[prompt] == reply for prompt, reply in probe["pairs"])
    assert set(probe["training_replies"]) <= set(asked.values())
    assert report["heldout_conversations"] == len(probe["heldout"]) > 0


def test_the_same_command_gives_the_same_weights_also_from_a_base_of_its_own(world_run, tmp_path):
    out, report = world_run
    config = tmp_path / "small.toml"
    config.write_text(SMALL_WORLD)
    alone = ("pretrain", "--corpus", "world", "--config", config, "--out", tmp_path / "base")
    succeeds(*alone)
    flags = ("--data", "world", "--config", config, "--base", tmp_path / "base")
    again = succeeds("train", *flags, "--out", tmp_path / "again", "--json").document
    assert again["weights_sha256"] == report["weights_sha256"]
    assert again["world"] == report["world"]


def test_evaluation_measures_the_same_again(world_run):
    out, report = world_run
    assert succeeds("eval", out, "--json").document["world"] == report["world"]


# --------------------------------------------------------------------------------- what is measured


def test_the_figures_are_shares_of_the_sealed_questions(world_run):
    out, report = world_run
    world = make(WorldSettings(**WORLD))
    asked = questions(world, "sealed")
    rows = json.loads((out / "sft" / "world.json").read_text())
    assert [row["prompt"] for row in rows] == [q.prompt for q in asked]
    figures = report["world"]
    known = [r for r, q in zip(rows, asked) if q.hops == 1 and not q.new_wording]
    assert figures["questions"] == len(known) > 0
    for verdict in ("right", "wrong", "refused", "malformed"):
        assert figures[verdict] == sum(r["verdict"] == verdict for r in known) / len(known)
        unknown = [r for r, q in zip(rows, asked) if q.hops == 0]
        assert figures["unknown"][verdict] == sum(r["verdict"] == verdict for r in unknown) / len(
            unknown
        )
    assert figures["by_kind"] == {"person": {v: figures[v] for v in VERDICTS}}
    assert [row["tellings"] for row in figures["by_tellings"]] == [0, 4]
    people = sum(e.split == "sealed" for e in world.entities)
    assert sum(row["questions"] for row in figures["by_tellings"]) == people * 4 * 6
    assert figures["two_hops"] is None and set(figures["new_wordings"]) == {
        "right", "wrong", "refused", "malformed",
    }  # fmt: skip


def answering(replies):
    """What stands in for evaluate.answer: the replies of a function of the prompt."""

    class End:
        stop = "end"

    return lambda model, tokenizer, template, prompts: [(replies(p), End) for p in prompts]


@pytest.mark.parametrize("way", ["true", "refusing", "silent"])
def test_a_model_that_knows_all_is_right_and_one_that_refuses_refuses(monkeypatch, way):
    settings = WorldSettings(people=60, relations=1, tellings=(1, 0))
    truth = {q.prompt: q.answer for q in questions(make(settings), "sealed")}
    replies = {
        "true": truth.get,
        "refusing": lambda prompt: "I do not know.",
        "silent": lambda prompt: "",
    }[way]
    monkeypatch.setattr(measured, "answer", answering(replies))
    monkeypatch.setattr(measured, "known_bits", lambda model, tokenizer, world: 30.0)

    class Model:
        params = np.zeros(120)

    figures, rows = world_figures(Model, None, None, settings)
    expected = {"true": "right", "refusing": "refused", "silent": "malformed"}[way]
    groups = ("new_wordings", "two_hops")
    assert figures[expected] == 1 and all(figures[g][expected] == 1 for g in groups)
    unknown = "refused" if way == "true" else expected
    assert figures["unknown"][unknown] == 1
    assert figures["by_kind"].keys() == {"person", "day"}
    assert all(shares[expected] == 1 for shares in figures["by_kind"].values())
    by = {row["tellings"]: row for row in figures["by_tellings"]}
    assert by[1][expected] == 1 and by[0][unknown] == 1
    assert (figures["bits"], figures["bits_per_weight"]) == (30, 0.25)
    assert len(rows) == len(truth)
    printed = dict(world_rows(figures))
    assert printed["  about a day"].startswith(
        {"true": "100% right", "refusing": "0% right", "silent": "0% right"}[way]
    )
    assert printed["the world"].startswith(
        {"true": "100% right, 0% wrong", "refusing": "0% right", "silent": "0% right"}[way]
    )
    assert printed["  known of it"] == "30 bits, 0.2500 a weight"
    right, refused = by[1]["right"], by[0]["refused"]
    expected = f"1 times {right:.0%}, never (refused) {refused:.0%}"
    assert printed["  right by tellings"] == expected


def test_known_bits_of_a_model_whose_probabilities_are_known(monkeypatch):
    """A model that gives the true value the share p and all others the same knows 4 + log2(p) bits
    of each attribute."""
    world = make(WorldSettings(people=20, days=0, tellings=(1,)))
    tokenizer = vocabulary_of("characters", read_corpus("plays"))
    for p in (1 / 16, 0.5, 0.999):
        share = []
        for entity in world.entities:
            for fact, value in entity.facts.items():
                values = measured.BY_NAME[fact].values
                share += [p if v == value else (1 - p) / 15 for v in values]
        monkeypatch.setattr(measured, "nll_sums", lambda model, examples: -np.log(np.array(share)))
        expected = 20 * 4 * (4 + math.log2(p))
        assert known_bits(None, tokenizer, world) == pytest.approx(max(expected, 0), abs=1e-6)


def test_the_loss_of_a_value_counts_its_characters_and_the_rest_of_the_sentence():
    tokenizer = vocabulary_of("characters", read_corpus("plays"))
    example = measured._ending(tokenizer, "Ada Brook", "pet", "toad")
    graded = example.labels[example.labels != -100]
    assert tokenizer.decode(graded) == "toad."
    assert tokenizer.decode(example.input_ids) == "\n\nAda Brook keeps a toad"


def test_the_losses_of_many_examples_are_those_of_each_alone(world_run):
    from pysft.run.stage import load_stage

    stage = load_stage(world_run[0])
    names = ("Ada Brook", "Ivo Finch", "Tamsin Farrow")
    examples = [
        measured._ending(stage.tokenizer, name, "pet", value)
        for name in names
        for value in measured.BY_NAME["pet"].values
    ]
    together = measured.nll_sums(stage.model, examples)
    alone = [measured.nll_sums(stage.model, [e])[0] for e in examples]
    assert np.allclose(together, alone, rtol=1e-5) and len(together) == 48


# --------------------------------------------------------------------------------- what is shown


def test_the_page_shows_the_world_and_a_command_that_makes_the_run_again(world_run, workdir):
    out, report = world_run
    page = unescape((out / "report.html").read_text())
    assert "The invented world" in page
    for name, text in world_rows(report["world"]):
        assert name.strip() in page and text in page
    command = reproduce(json.loads((out / "run.json").read_text()), tuned=True)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:4] == ["python", "-m", "pysft", "train"] and "world" in words
    again = succeeds(*words[3:], "--out", workdir.path / "again", "--json").document
    assert again["weights_sha256"] == report["weights_sha256"]


def test_a_base_that_learned_a_world_names_the_command_that_makes_it_again(tmp_path):
    config = tmp_path / "small.toml"
    config.write_text(SMALL_WORLD)
    out = tmp_path / "base"
    first = ("pretrain", "--corpus", "world", "--config", config, "--out", out)
    weights = succeeds(*first, "--json").document["weights_sha256"]
    command = reproduce(json.loads((out / "run.json").read_text()), tuned=False)
    words = shlex.split(command.replace("\\\n", " "))
    again = succeeds(*words[3:], "--out", tmp_path / "again", "--json").document
    assert again["weights_sha256"] == weights


def test_a_training_on_a_world_that_was_stopped_goes_on_to_the_same_weights(world_run, tmp_path):
    """A setting of the world is kept by --resume."""
    out, report = world_run
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    shutil.rmtree(copy / "sft")
    again = succeeds("train", "--resume", "--out", copy, "--json").document
    assert again["weights_sha256"] == report["weights_sha256"]
    assert again["world"] == report["world"]


def test_a_world_that_no_stage_reads_is_refused(workdir):
    workdir.write("mine.toml", "[world]\npeople = 20\n")
    said = refusal(2, "train", "--config", "mine.toml")
    assert "[world] is set, but no stage reads windows of its text" in said
    assert workdir.is_unchanged()


def test_data_world_is_named_once(workdir):
    assert "names world twice" in refusal(2, "train", "--data", "world", "world")
    assert workdir.is_unchanged()


@pytest.mark.parametrize("damage", [[], {"people": 3}, {"persons": 30}, "x"])
def test_a_damaged_world_is_named_in_one_sentence(world_run, tmp_path, damage):
    copy = tmp_path / "run"
    shutil.copytree(world_run[0], copy)
    path = copy / "sft" / "settings.json"
    document = json.loads(path.read_text())
    document["settings"]["world"] = damage
    path.write_text(json.dumps(document))
    assert f"{path}: not as this program writes it" in refusal(65, "eval", copy)


def test_the_log_has_the_loss_of_the_world_apart_from_that_of_the_plays(world_run):
    out, _ = world_run
    for stage, sources in (("base", {"base", "world"}), ("sft", {"base", "conversation", "world"})):
        rows = (out / stage / "log.jsonl").read_text().splitlines()
        assert all(set(json.loads(row)["figures"]) == sources for row in rows)
