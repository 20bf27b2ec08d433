"""A run as a tree of stages: what a stage is begun from, what it keeps of that, and what is said of
it."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import (
    CONVERSATIONS,
    TrainedRun,
    conversation,
    files_in,
    lines,
    pysft,
    raising,
    read_lines,
    refusal,
    stage_log,
    succeeds,
)

from pysft.cli import info
from pysft.inference.sampling import CHAT as CHAT_SAMPLING
from pysft.inference.sampling import Sampling
from pysft.jobs import compare
from pysft.jobs import measured as measured_job
from pysft.jobs import train as train_job
from pysft.jobs import tune as tune_job
from pysft.jobs import work as work_job
from pysft.measure.evaluate import loss_after_replay
from pysft.measure.wording import COMPARED, ended
from pysft.nn import safetensors
from pysft.nn.grow import with_outputs
from pysft.rng import rng
from pysft.run import tree as tree_module
from pysft.run.log import read_measurements
from pysft.run.stage import (
    find_stage,
    load_stage,
    read_json,
    save_stage,
    weights_sha256,
    write_json,
)
from pysft.run.tree import base_of, drawn, label, lineage, parent_folder
from pysft.text.corpora import split_corpus
from pysft.training import runner
from pysft.training.flat import PLACES
from pysft.training.settings import Settings

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

STEPS = {"base": 4, "sft": 6, "sft-2": 6}
CHAIN = ("--stages", "base,sft,sft-2")


@pytest.fixture(scope="module")
def home(tmp_path_factory, without_figures):
    """A folder with a run of the stages base and sft, measured at steps 3 and 6."""
    sft = {"steps": 6, "checkpoint_every": 3}
    return TrainedRun(tmp_path_factory.mktemp("tree"), base={"steps": 4}, sft=sft)


@pytest.fixture(scope="module")
def second(home):
    """A run of one stage, sft-2, begun from home's sft, on the first 20 conversations."""
    data = home.folder / "more.jsonl"
    data.write_text(lines(conversation(*texts) for texts in CONVERSATIONS[:20]))
    run = home.folder / "second"
    said = succeeds(*home.fine_tuning(data, "--base", home.run / "sft", "--out", run)).err
    assert ", as in sft (base text" in said  # the vocabulary does not grow again
    return run


@pytest.fixture(scope="module")
def chain(home):
    """A run of the stages base, sft and sft-2. Its sft-2 has a learning rate of its own."""
    run = home.folder / "chain"
    succeeds("train", *home.inputs, *CHAIN, "--set", "sft-2.lr=1e-3", "--out", run)
    return run


def stored(run, stage, name="report.json") -> dict:
    return json.loads((run / stage / name).read_text())


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def weights_of(run, stage) -> bytes:
    return (run / stage / "model.safetensors").read_bytes()


@contextmanager
def first_weights():
    """Inside `with`, the list gets the weights of each fine-tuning before its first step."""
    with pytest.MonkeyPatch.context() as patch:
        train_stage, found = tune_job.train_stage, []

        def noting(stage, *rest):
            found.append(stage.model.params.flat.copy())
            return train_stage(stage, *rest)

        patch.setattr(tune_job, "train_stage", noting)
        yield found


# ------------------------------------------------------------------------ what a stage begins from


@pytest.mark.parametrize(
    "named, parent, name",
    [
        (".", "base", "sft"),
        ("base", "base", "sft"),
        ("sft", "sft", "sft-2"),
        ("sft/steps/3", "sft/steps/3", "sft-2"),
    ],
)
def test_base_names_a_run_for_its_base_or_any_stage(home, workdir, named, parent, name):
    command = home.fine_tuning(home.data, "--base", home.run / named, "--out", "run")
    with first_weights() as found:
        report = succeeds(*command).document
    begun, folder = load_stage(home.run / parent), workdir.path / "run" / name
    assert json.loads((folder / "settings.json").read_text())["parent"] == {
        "path": str(home.run / parent),
        "weights_sha256": weights_sha256(begun.model),
    }
    assert report["stage"] == name
    assert {path.name for path in folder.parent.iterdir() if path.is_dir()} == {name}
    [weights] = found
    if name == "sft-2":  # the vocabulary does not grow again
        assert weights.tobytes() == begun.model.params.flat.tobytes()
        assert report["parent"]["stage"] == "sft"
    else:
        assert weights.size > begun.model.params.flat.size
        assert report["parent"] is None


def test_a_run_without_a_base_is_refused_with_its_finished_stages(home, second, workdir):
    run = shutil.copytree(second, workdir.path / "run")
    (run / "sft-3").mkdir()
    shutil.copy(run / "sft-2/settings.json", run / "sft-3")
    workdir.remember()
    error = refusal(2, *home.fine_tuning(home.data, "--base", "run"))
    assert error.endswith("Name a stage of it: run/sft-2")
    assert workdir.is_unchanged()


def test_the_ids_of_a_parent_that_was_tuned_never_move(home, workdir):
    """New characters would stand before the special tokens."""
    data = workdir.write("new.jsonl", [conversation("Hi", "é")])
    flags = ("--base", home.run / "sft", "--unknown", "grow")
    assert "ids would move" in refusal(2, *home.fine_tuning(data, *flags))
    assert workdir.is_unchanged()


def test_a_further_stage_can_add_the_tokens_of_tools(home, workdir):
    reply = [
        {"type": "search", "text": "moon"},
        {"type": "result", "text": "pale"},
        {"type": "text", "text": "Pale."},
    ]
    data = workdir.write("tools.jsonl", [conversation("Seek it", reply)])
    succeeds(*home.fine_tuning(data, "--base", home.run / "sft", "--out", "run"))
    parent, stage = load_stage(home.run / "sft"), load_stage("run")
    ids = range(len(parent.tokenizer))
    assert len(stage.tokenizer) > len(ids)
    assert parent.tokenizer.decode(ids) == stage.tokenizer.decode(ids)


def test_a_base_is_tuned_with_any_template(home, workdir):
    """Its folder names one, but it was not trained with it."""
    flags = ("--base", home.run, "--template", "human", "--too-long", "drop", "--out", "run")
    succeeds(*home.fine_tuning(home.data, *flags))
    assert load_stage("run").template.name == "human"


def test_the_template_of_the_parent_is_kept(home, workdir):
    flags = ("--base", home.run / "sft", "--template", "human")
    error = refusal(2, *home.fine_tuning(home.data, *flags))
    assert "template = 'human'" in error and "has 'chat'" in error
    assert workdir.is_unchanged()


@pytest.mark.parametrize("outputs", ["value", "nll+value"])
def test_a_model_with_other_outputs_is_no_base(home, workdir, outputs):
    stage = load_stage(home.run / "base")
    model = with_outputs(stage.model, outputs, rng(1, "value", "rows"))
    save_stage(replace(stage, model=model, folder=workdir.path / "base"))
    workdir.remember()
    error = refusal(2, *home.fine_tuning(home.data, "--base", "base"))
    assert f"--base base: its outputs are {outputs!r}" in error
    assert workdir.is_unchanged()


def test_a_base_that_lacks_characters_of_the_corpus_gives_no_forgetting(home, workdir):
    """The vocabulary of the stage between was grown."""
    data = workdir.write("new.jsonl", [conversation("Hi", "\u00e9"), conversation("Ho", "No")])
    grown = ("--unknown", "grow", "--out", "grown")
    succeeds(*home.fine_tuning(data, *grown))
    corpus = workdir.write("corpus.txt", home.corpus.read_text() + "\u00e9" * 9)
    command = ("train", "--config", home.config, "--corpus", corpus, "--base", "grown/sft")
    result = succeeds(*command, "--data", data, "--out", "run", "--json")
    assert "lacks characters of this corpus, so forgetting cannot be measured" in result.err
    report = succeeds("eval", "run", "--json").document
    for one in (result.document, report):
        assert one["base_loss"] is None and one.get("forgetting") is None
        assert one["tuned_base_loss"] > 0
    assert "lacks characters of the corpus" in refusal(65, "eval", "run", "--matched")


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--stages", "base,sft"), "'base' begins from nothing"),
        (("--stages", "sft"), "call it 'sft-2'"),
        (("--set", "model.layers=2"), "layers = 2"),
        (("--set", "model.tied=true"), "tied = True"),
        (("--base-steps", "3"), "flags set [base]"),
    ],
)
def test_what_does_not_fit_the_parent_is_refused_in_one_sentence(home, workdir, flags, words):
    parent = ("--base", home.run / "sft")
    assert words in refusal(2, *home.fine_tuning(home.data, *parent, *flags))
    assert workdir.is_unchanged()


def test_a_chain_trains_its_stages_one_after_the_other_from_the_same_data(home, chain):
    for name in ("base", "sft"):
        assert weights_of(chain, name) == weights_of(home.run, name)
    for name, steps in STEPS.items():
        assert [row["step"] for row in stage_log(chain / name)] == [*range(1, steps + 1)]
        settings = read_json(chain / name / "settings.json")["settings"]
        assert set(settings) == {"preset", "seed", "model", "data", name}
    assert stored(chain, "sft-2", "settings.json")["settings"]["sft-2"]["lr"] == 1e-3
    parents = [stage.name for stage in lineage(load_stage(chain))]
    assert parents == ["sft-2", "sft", "base"]
    draws = [read_lines(chain / name / "log.jsonl")[0]["figures"] for name in ("sft", "sft-2")]
    assert draws[0] != draws[1]


# ------------------------------------------------------------------------ the newest that can talk


def test_a_run_means_its_newest_stage_that_can_talk(home, chain, workdir):
    assert find_stage(chain).name == "sft-2"
    run = shutil.copytree(chain, workdir.path / "run")
    (run / "sft-2/model.safetensors").unlink()
    assert find_stage(run).name == "sft"
    result = succeeds("chat", "run", "-p", "Show the king", "--json")
    assert "sft-2 of run never finished, so this is its sft" in result.err
    reply = succeeds("chat", home.run, "-p", "Show the king", "--json").document
    assert result.document["reply"] == reply["reply"]
    succeeds("train", "--resume", "--out", "run", "--json")
    assert weights_of(run, "sft-2") == weights_of(chain, "sft-2")


# ----------------------------------------------------------------- figures beside those of parents


def test_no_model_keeps_its_activations_when_other_work_begins(home, workdir, monkeypatch):
    """A base, its tuned model, the training and each measurement would otherwise hold at once the
    most that each of them needed."""
    models, held = {}, []

    def noted(name, owner=tune_job):
        real = getattr(owner, name)

        def noting(*arguments):
            if name == "tune":
                models["base"] = arguments[3].model
            if name == "train_stage":
                models["sft"] = arguments[0].model
            if name != "tune":
                found = {m for m, model in models.items() if model._activations is not None}
                held.append((name, found))
            return real(*arguments)

        monkeypatch.setattr(owner, name, noting)

    noted("tune", train_job)
    for name in ("train_stage", "compared", "parent_figures"):
        noted(name)
    for name in ("measure", "measure_sealed"):
        noted(name, measured_job)
    succeeds("train", *home.inputs, "--out", "run")
    [training, *on_the_way, measured, sealed, compares, parents] = held
    assert training == ("train_stage", {"sft"})  # its loss on base text was just measured
    assert on_the_way == [("measure", {"sft"})] * 3  # after steps 0, 3 and 6
    assert (measured, sealed) == (("measure", set()), ("measure_sealed", set()))
    assert compares == ("compared", set())
    assert parents == ("parent_figures", {"base"})  # it has just written its texts
    assert models["sft"]._activations is None


def test_forgetting_of_a_further_stage_counts_from_the_base(home, second, chain):
    base_loss = stored(home.run, "base")["base_loss"]
    for run in (second, chain):
        report = stored(run, "sft-2")
        assert report["base_loss"] == pytest.approx(base_loss, rel=1e-9)
        assert report["forgetting"] == report["tuned_base_loss"] / report["base_loss"] - 1
        last = read_measurements(run / "sft-2")[-1]
        assert last["forgetting"] == pytest.approx(report["forgetting"], rel=1e-9)
    assert stored(home.run, "sft")["forgetting"] != stored(chain, "sft-2")["forgetting"]


def test_a_report_has_the_figures_of_a_parent_that_can_talk(chain):
    parent, of_sft = stored(chain, "sft-2")["parent"], stored(chain, "sft")
    assert parent == {"stage": "sft"} | {name: of_sft[name] for name in COMPARED}
    assert of_sft["parent"] is None  # its parent is a base


def test_a_tuned_parent_answers_where_a_base_completes(chain):
    replies = {row[0]: row[2] for row in stored(chain, "sft", "before.json")["rows"]}
    for name, parent, talks in (("sft", "base", False), ("sft-2", "sft", True)):
        sides = stored(chain, name, "before.json")
        assert (sides["parent"], sides["talks"]) == (parent, talks)
        unseen = [row for row in sides["rows"] if not row[4]]
        assert len(unseen) == 6
        for asked, before, *_ in unseen:
            reply = replies[asked]
            assert (before in (reply, ended(reply, "length"))) is talks


class Talker:
    """A stage whose tokens are letters, of which it can read at most 9 at a time.

    It answers with its name and the prompt; without `talks` it completes so."""

    def __init__(self, name, talks, letters="abcdefghijklmnopqrstuvwxyz"):
        self.name, self.can_talk, self.template = name, talks, name
        self.model = SimpleNamespace(config=SimpleNamespace(context=10), name=name)
        self.tokenizer = SimpleNamespace(
            can_write=lambda text: set(text) <= set(letters),
            encode=list,
            decode="".join,
        )


@pytest.mark.parametrize("talks", [True, False])
def test_four_trained_and_six_unseen_prompts_that_the_parent_can_read_are_compared(
    monkeypatch, talks
):
    asked = []

    def answers(model, tokenizer, template, prompts, sampling):
        assert sampling == CHAT_SAMPLING and template == model.name
        asked.append((model.name, prompts))
        return [(f"{model.name} {p}", SimpleNamespace(stop="length")) for p in prompts]

    def completions(model, ids, max_new, sampling):
        assert (max_new, sampling) == (40, Sampling(temperature=0.8, seed=1))
        asked.append((model.name, ["".join(one) for one in ids]))
        return [SimpleNamespace(ids=[model.name, " ", *one]) for one in ids]

    monkeypatch.setattr(compare, "answer", answers)
    monkeypatch.setattr(compare, "generate", completions)
    pairs = ["", "UPPER", "a" * 9, "a" * 10, "b", "c", "d", "e"]
    prompts = [*"ghijklmn", "o" * 10]
    replies = {"pairs": [(p, "", "end") for p in pairs], "prompts": [(p, "", "") for p in prompts]}
    sides = compare.compared(Talker("old", talks), Talker("new", True), replies)
    expected = ["a" * 9, *"bcd", *"ghijkl"]
    assert sorted(asked) == [("new", expected), ("old", expected)]
    note = " [no end token]" if talks else ""
    assert (sides.parent, sides.talks, sides.chat) == ("old", talks, [])
    assert sides.rows == [
        [p, f"old {p}{note}", f"new {p}", "length", i < 4] for i, p in enumerate(expected)
    ]
    assert sides.to_json() == {"parent": "old", "talks": talks, "rows": sides.rows, "chat": []}


def test_the_screen_compares_a_stage_with_its_parent(home, second):
    out = succeeds("eval", second).out
    assert "compared with its parent, sft:" in out
    assert "sft model (answers)  ->  tuned model (answers as chat writes)" in out
    assert "\n       sft:  " in out
    assert "base model (completes" in succeeds("eval", home.run).out


def figures(report) -> dict:
    return {k: v for k, v in report.items() if "seconds" not in k and k != "run"}


def test_eval_of_a_run_that_was_moved_finds_the_parents_in_it(home, chain, workdir):
    expected = succeeds("eval", chain, "--json").document
    for name in ("base_loss", "forgetting", "parent", "weights_sha256"):
        assert expected[name] == stored(chain, "sft-2")[name], name
    run = shutil.copytree(chain, workdir.path / "moved")
    with hidden(chain):
        assert figures(succeeds("eval", run, "--json").document) == figures(expected)


@contextmanager
def hidden(path):
    """Inside `with`, the folder at a path has another name."""
    os.rename(path, f"{path} hidden")
    yield
    os.rename(f"{path} hidden", path)


def by_hand(home, *runs) -> float:
    """The loss of the base after the replay of these fine-tunings, [(run, stage)] or [(run, stage,
    steps)]."""
    base = load_stage(home.run / "base")
    texts = base.tokenizer, *split_corpus(home.corpus.read_text())
    for run, name, *steps in runs:
        settings = Settings.of_json(read_json(run / name / "settings.json")["settings"])
        progress = lambda text, last: None  # noqa: E731
        loss = loss_after_replay(base.model, settings, name, *texts, progress, *steps)
    return loss


def test_matched_forgetting_counts_the_replay_of_every_fine_tuning(home, second, chain, workdir):
    moved = shutil.copytree(chain, workdir.path / "moved")
    for run, of_sft, hides in ((moved, chain, chain), (second, home.run, workdir.path / "none")):
        hides.mkdir(exist_ok=True)
        expected = by_hand(home, (of_sft, "sft"), (run, "sft-2"))
        with hidden(hides):
            report = succeeds("eval", run, "--matched", "--json").document
        assert report["matched_base_loss"] == expected
        assert report["forgetting_matched"] == report["tuned_base_loss"] / expected - 1
    alone = by_hand(home, (chain, "sft"))
    assert alone != expected


def test_matched_forgetting_of_a_stage_in_a_renamed_folder(home, workdir):
    shutil.copytree(home.run, workdir.path / "run")
    shutil.copytree(home.run / "sft", workdir.path / "mychat")
    report = succeeds("eval", "mychat", "--matched", "--json").document
    assert report["matched_base_loss"] == by_hand(home, (home.run, "sft"))


def test_matched_forgetting_counts_the_replay_of_a_checkpoint_up_to_it(home, workdir):
    parent = home.run / "sft/steps/3"
    succeeds(*home.fine_tuning(home.data, "--base", parent, "--out", "run"))
    report = succeeds("eval", "run", "--matched", "--json").document
    later = (workdir.path / "run", "sft-2")
    assert report["matched_base_loss"] == by_hand(home, (home.run, "sft", 3), later)
    assert report["matched_base_loss"] != by_hand(home, (home.run, "sft"), later)


def test_without_its_parent_a_stage_can_be_measured_but_not_matched(second, workdir):
    run = shutil.copytree(second, workdir.path / "run")
    edit(run / "sft-2/settings.json", parent={"path": "gone/sft", "weights_sha256": "0" * 64})
    report = succeeds("eval", "run", "--json").document
    assert report["forgetting"] == stored(second, "sft-2")["forgetting"]
    assert "parent" not in report and report["before_after"] == []
    assert "neither beside it nor at its old path" in refusal(66, "eval", "run", "--matched")


def test_a_folder_of_the_parents_name_with_other_weights_is_not_the_parent(home, second, workdir):
    """The parent is recognised by its hash, not by its name."""
    run = shutil.copytree(second, workdir.path / "run")
    shutil.copytree(home.run / "base", run / "sft")  # some other stage
    assert [stage.folder for stage in lineage(load_stage(run / "sft-2"))][1:] == [
        home.run / "sft",
        home.run / "base",
    ]
    assert base_of(lineage(load_stage(run / "sft-2"))).folder == home.run / "base"


# ---------------------------------------------------------------------------- parents in other runs


@pytest.fixture
def two(home, workdir):
    """The folder of a run "one" and of "two", which was begun from it by a relative path."""
    shutil.copytree(home.run, workdir.path / "one")
    succeeds(*home.fine_tuning(home.data, "--base", "one/sft", "--out", "two"))
    return workdir.path


def parents(folder) -> list[tuple[str, bool]]:
    """[(folder, found)] of the parents in the tree of a run, the oldest first."""
    rows = succeeds("info", folder, "--json").document["stages"]
    return [(row["parent_folder"], row["parent_found"]) for row in rows if row["parent"]]


def test_a_parent_is_found_from_another_folder_and_after_both_runs_were_moved(
    two, tmp_path_factory, monkeypatch
):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert parents(two / "two") == [
        (str(two / "one/base"), True),
        (str(two / "one/sft"), True),
    ]
    new = tmp_path_factory.mktemp("new")
    for name in ("one", "two"):
        shutil.move(two / name, new / name)
    assert parents(new / "two") == [(str(new / "one/base"), True), (str(new / "one/sft"), True)]
    for here, stage in ((new, "two/sft-2"), (new / "two", "sft-2")):
        monkeypatch.chdir(here)
        assert parent_folder(Path(stage)).resolve() == new / "one/sft"


def test_a_parent_that_was_named_by_a_relative_path_is_found_from_another_folder(
    home, workdir, tmp_path_factory, monkeypatch
):
    """Also if the runs do not stand beside each other."""
    shutil.copytree(home.run, workdir.path / "one")
    succeeds(*home.fine_tuning(home.data, "--base", "one/sft", "--out", "a/b/two"))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert parents(workdir.path / "a/b/two")[-1] == (str(workdir.path / "one/sft"), True)


@pytest.mark.parametrize(
    "path, name",
    [
        ("runs/x/sft", "sft"),
        ("sft", "sft"),
        ("runs/x/sft/steps/500", "sft, step 500"),
        ("runs/x/sft-2/steps/7", "sft-2, step 7"),
        ("steps", "steps"),
    ],
)
def test_a_stage_is_called_by_its_folder_and_a_checkpoint_by_its_step_too(path, name):
    assert label(path) == label(Path(path)) == name


@pytest.mark.parametrize("step", ["", "/steps/5"])
def test_a_parent_is_looked_for_in_the_run_then_beside_it_then_at_its_path(
    tmp_path, monkeypatch, step
):
    """Each place is taken only if the ones before it hold nothing, or something else."""
    digests = {}
    monkeypatch.setattr(tree_module, "stored_sha256", lambda folder: digests[folder.resolve()])
    places = [tmp_path / place / f"sft{step}" for place in ("here/two", "here/one", "old/one")]
    child = tmp_path / "here/two/sft-2"
    child.mkdir(parents=True)
    parent = {"path": str(places[2]), "weights_sha256": "a"}
    write_json(child / "settings.json", {"parent": parent})
    assert parent_folder(child) is None
    for place in reversed(places):
        place.mkdir(parents=True)
        (place / "model.safetensors").write_text("")
        digests[place.resolve()] = "a"
        assert parent_folder(child) == place
    digests[places[0].resolve()] = "b"
    assert parent_folder(child) == places[1]
    (places[1] / "model.safetensors").unlink()
    assert parent_folder(child) == places[2]


@pytest.mark.parametrize("parent", [None, "sft", {}, {"path": 3}, {"weights_sha256": "a"}])
def test_a_stage_that_names_no_path_has_no_parent(tmp_path, parent):
    write_json(tmp_path / "settings.json", {"parent": parent})
    assert parent_folder(tmp_path) is None


def test_a_checkpoint_is_found_as_a_parent_after_both_runs_were_moved(home, workdir):
    shutil.copytree(home.run, workdir.path / "one")
    succeeds(*home.fine_tuning(home.data, "--base", "one/sft/steps/3", "--out", "two"))
    new = workdir.path / "new"
    new.mkdir()
    for name in ("one", "two"):
        shutil.move(name, new / name)
    expected = [(str(new / "one" / name), True) for name in ("base", "sft/steps/3")]
    assert parents(new / "two") == expected


@pytest.mark.parametrize(
    "parent", [{"path": "gone/base", "weights_sha256": "0" * 64}, None], ids=["gone", "none"]
)
def test_a_tuned_stage_without_a_base_under_it_can_be_begun_from(home, workdir, parent):
    """It can talk, so it is no base itself."""
    shutil.copytree(home.run / "sft", workdir.path / "only/sft")
    edit(workdir.path / "only/sft/settings.json", parent=parent)
    command = ("train", *home.inputs, "--base", "only/sft", "--out", "run", "--json")
    result = succeeds(*command)
    assert "the base under it is neither beside it nor at its old path" in result.err
    assert result.document["base_loss"] is None and result.document["forgetting"] is None


def test_a_stage_of_other_weights_beside_the_run_is_not_the_parent(two):
    shutil.move(two / "one", two / "other")
    shutil.copytree(two / "other/base", two / "one/sft")
    assert parents(two / "two") == [(str(two / "one/sft"), False)]
    assert f"not found (it was at {two / 'one/sft'}" in succeeds("info", two / "two").out
    shutil.rmtree(two / "one/sft")
    shutil.copytree(two / "other/sft", two / "one/sft")
    assert parents(two / "two")[-1] == (str(two / "one/sft"), True)


@pytest.fixture
def a_minute():
    """Ends a test that takes longer, such as one in an endless loop."""
    before = signal.signal(signal.SIGALRM, raising(AssertionError("a minute is over")))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("above", ["sft", "base"])
def test_parents_in_a_circle_end_in_a_sentence_or_a_tree(home, workdir, a_minute, above):
    """The base is made to be begun from its own child, or from itself."""
    run = shutil.copytree(home.run, workdir.path / "run")
    sha256 = weights_sha256(load_stage(run / above).model)
    edit(run / "base/settings.json", parent={"path": str(run / above), "weights_sha256": sha256})
    for command in (("info", run), ("info", run / "sft")):
        out = succeeds(*command).out
        assert "base " in out and "sft " in out
        assert len(succeeds(*command, "--json").document["stages"]) == 2
    succeeds("eval", run, "--json")
    assert "makes it an ancestor of itself" in refusal(65, "eval", run, "--matched")
    succeeds("report", run)
    (run / "run.json").unlink()
    command = ("train", "--config", home.config, "--no-tools", "--base", run / "sft")
    assert "makes it an ancestor of itself" in refusal(65, *command, "--out", "again")


# ------------------------------------------------------------------------ adapters, and tied heads


def test_adapters_of_a_further_stage_are_merged_into_its_parent(home, workdir):
    flags = ("--base", home.run / "sft", "--lora", 2, "--out", "run")
    report = succeeds(*home.fine_tuning(home.data, *flags)).document
    parent = load_stage(home.run / "sft").model
    assert (
        report["params"] == parent.params.size
    )  # no row is new, so the adapters alone are trained
    assert report["trained_params"] == 2 * 16 * (4 + 2 + 5 + 5)
    merge = ("merge", "run/sft-2/adapter.safetensors", "--out", "merged", "--json", "--base")
    document = succeeds(*merge, home.run / "sft").document
    assert document["weights_sha256"] == report["weights_sha256"]
    merged = load_stage("merged")
    assert merged.folder == Path("merged/sft-2")
    assert merged.parent["weights_sha256"] == weights_sha256(parent)
    shutil.rmtree("merged")
    assert "adapter" in refusal(65, *merge, home.run)  # of the base: another vocabulary
    assert not Path("merged").exists()


def test_a_tied_head_stays_tied_in_every_stage_and_every_verb(home, workdir):
    tied = ("--set", "model.tied=true")
    with stopped_in("sft-2", 2):
        code = pysft("train", *home.inputs, *tied, *CHAIN, "--out", "run", "--json").code
    assert code == 130
    report = succeeds("train", "--resume", "--out", "run", "--json").document
    whole = succeeds("train", *home.inputs, *tied, *CHAIN, "--out", "whole", "--json").document
    assert report["weights_sha256"] == whole["weights_sha256"]
    for name in STEPS:
        stage = load_stage(workdir.path / "run" / name)
        assert stage.model.config.tied
        assert "head" not in safetensors.load(stage.folder / "model.safetensors")[0]
    assert report["params"] < stored(home.run, "sft")["params"]
    again = succeeds("eval", "run", "--json").document
    assert again["tuned_base_loss"] == report["tuned_base_loss"]

    lora = ("--base", "run/sft", "--lora", 2, "--out", "lora")
    adapted = succeeds(*home.fine_tuning(home.data, *lora)).document
    assert load_stage("lora").model.config.tied
    merge = ("merge", "lora/sft-2/adapter.safetensors", "--base", "run/sft", "--out", "merged")
    assert succeeds(*merge, "--json").document["weights_sha256"] == adapted["weights_sha256"]
    assert load_stage("merged").model.config.tied


# ---------------------------------------------------------------------------------- info, the page


def test_info_draws_the_tree_and_follows_parents_in_other_runs(home, second):
    out = [line.rstrip() for line in succeeds("info", second).out.splitlines()]
    assert [line.partition("  ")[0] or line.strip().split("  ")[0] for line in out] == [
        "base",
        "+- sft",
        "+- sft-2",
    ]
    assert out[2].startswith("   +- sft-2 ")
    assert str(home.run / "sft") in out[1]
    document = succeeds("info", second, "--json").document
    assert document["run"] == str(second)
    rows = document["stages"]
    assert [row["stage"] for row in rows] == ["base", "sft", "sft-2"]
    assert [row["parent"] for row in rows] == [None, "base", "sft"]
    assert [row["in_run"] for row in rows] == [False, False, True]
    assert [row["steps"] for row in rows] == [4, 6, 6]
    for row in rows:
        stage = load_stage(row["folder"])
        assert row["params"] == stage.model.params.size
        assert row["symbols"] == len(stage.tokenizer)
        assert row["weights_sha256"] == weights_sha256(stage.model)
    assert [row["stage"] for row in succeeds("info", home.run, "--json").document["stages"]] == [
        "base",
        "sft",
    ]


def test_each_stage_of_the_tree_has_a_line_of_its_own_words():
    row = {
        **{"damaged": None, "finished": True, "steps": 1234, "params": 56789, "symbols": 68},
        **{"precision": "float32", "weights_sha256": "0123456789abcdef", "folder": "r/sft"},
        **{"parent": "base", "parent_folder": "r/base", "parent_found": True},
    }
    whole = "1,234 steps, 56,789 weights, 68 symbols, SHA-256 0123456789ab, r/sft"
    for changes, words in (
        ({}, whole),
        ({"parent_found": None}, whole),
        (
            {"parent_found": False},
            whole + "; its parent base was not found (it was at r/base)",
        ),
        ({"precision": "bf16"}, whole.replace("SHA", "products in bf16, SHA")),
        ({"steps": None}, whole.replace("1,234 steps", "steps unknown")),
        ({"steps": 0}, whole.replace("1,234 steps", "0 steps")),
        ({"finished": False}, "not finished: 1,234 steps so far; r/sft"),
        ({"finished": False, "steps": None}, "not finished: steps unknown so far; r/sft"),
        ({"damaged": "r/x: cut short"}, "damaged: r/x: cut short"),
        ({"damaged": "r/x: cut short", "finished": False}, "damaged: r/x: cut short"),
    ):
        assert info._described(row | changes) == words


def test_info_says_how_to_go_on_with_each_run_that_is_not_finished(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    rows = []
    for name in ("b/sft!", "a/sft", "a/sft-2", "c/sft", "d/sft?"):
        folder = Path(name.rstrip("!?"))
        folder.mkdir(parents=True)
        if not name.startswith("c"):  # c has no record, so that nothing can go on
            write_json(folder.parent / "run.json", {"verb": "train"})
        row = {"stage": folder.name, "folder": str(folder), "parent_found": None, "steps": 3}
        row |= {"damaged": "cut" if name.endswith("?") else None, "finished": name.endswith("!")}
        of_model = {"params": 1, "symbols": 2, "precision": "float32", "weights_sha256": "0"}
        rows.append(row | of_model | {"parent_folder": None})
    monkeypatch.setattr(tree_module, "tree", lambda folder: rows)
    info._show_run(SimpleNamespace(run_folder="a", json=False))
    lines = capsys.readouterr().out.splitlines()
    assert [line[:29].rstrip() for line in lines[:5]] == ["sft", "sft", "sft-2", "sft", "sft"]
    assert lines[5:] == ["Go on with: python -m pysft train --resume --out a"]


def test_info_names_a_parent_that_is_missing_and_a_stage_that_is_not_finished(second, workdir):
    run = shutil.copytree(second, workdir.path / "run")
    edit(run / "sft-2/settings.json", parent={"path": "gone/sft", "weights_sha256": "0" * 64})
    assert "its parent sft was not found" in succeeds("info", "run").out
    [row] = succeeds("info", "run", "--json").document["stages"]
    assert (row["parent"], row["parent_found"]) == ("sft", False)
    (run / "sft-2/model.safetensors").unlink()
    assert "sft-2" in succeeds("info", "run").out
    shown = succeeds("info", "run").out
    assert "not finished: 6 steps so far" in shown
    assert shown.endswith("Go on with: python -m pysft train --resume --out run\n")
    os.makedirs("empty")
    assert "no stage in it" in refusal(66, "info", "empty")


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("stage", ["base", "sft", "sft-2"])
@pytest.mark.parametrize(
    "name, damage",
    [("settings.json", cut), ("model.safetensors", cut), ("vocabulary.json", Path.unlink)],
)
def test_a_damaged_stage_is_named_in_the_tree_and_on_the_page(chain, workdir, stage, name, damage):
    run = shutil.copytree(chain, workdir.path / "run")
    damage(run / stage / name)
    rows = succeeds("info", run, "--json").document["stages"]
    assert sorted(row["stage"] for row in rows) == ["base", "sft", "sft-2"]
    [row] = [row for row in rows if row["damaged"]]
    assert row["stage"] == stage and str(run / stage / name) in row["damaged"]
    [line] = [line for line in succeeds("info", run).out.splitlines() if "damaged: " in line]
    assert line.split(" damaged: ")[0].strip().removeprefix("+- ") == stage
    assert row["damaged"] in line
    succeeds("report", run)
    tree = page_of(run).partition("<h2>The stages")[2].partition("<h2>")[0]
    assert tree.count("damaged: ") == 1
    for name in STEPS:  # the others are shown whole
        sha256 = weights_sha256(load_stage(chain / name).model)
        assert (sha256[:16] in tree) is (name != stage)


def test_the_tree_shows_each_child_under_its_own_parent():
    def row(stage, parent=None, found=True):
        return {
            "stage": stage,
            "folder": f"runs/{stage}",
            "parent_folder": parent and f"runs/{parent}",
            "parent_found": found if parent else None,
        }

    given = [row("c", "b"), row("a"), row("b"), row("d", "a"), row("e", "d"), row("f", "x", False)]
    lines = [line for line, _ in drawn(given)]
    assert lines == ["a", "+- d", "   +- e", "b", "+- c", "f"]
    assert [row["stage"] for _, row in drawn(given)] == ["a", "d", "e", "b", "c", "f"]


def test_a_stage_that_is_not_finished_stands_under_its_parent(home, workdir):
    with stopped_in("sft", 3):
        assert pysft("train", *home.inputs, "--out", "run").code == 130
    base, sft, _ = succeeds("info", "run").out.splitlines()
    assert base.startswith("base ") and sft.startswith("+- sft ")
    assert "not finished: 3 steps so far" in sft
    succeeds("report", "run")


def test_a_run_that_stopped_in_its_base_is_made_again_by_train(home, workdir):
    with stopped_in("base", 2):
        assert pysft("train", *home.inputs, "--out", "run").code == 130
    succeeds("report", "run")
    assert "python -m pysft train --preset" in page_of(workdir.path / "run")


def test_the_steps_of_a_stage_without_its_log_are_unknown(home, workdir):
    run = shutil.copytree(home.run, workdir.path / "run")
    (run / "sft/log.jsonl").unlink()
    rows = succeeds("info", run, "--json").document["stages"]
    assert [row["steps"] for row in rows] == [4, None]
    assert "steps unknown, " in succeeds("info", run).out
    rows = succeeds("info", run / "sft/steps/3", "--json").document["stages"]
    assert [row["steps"] for row in rows] == [4, 3]


def test_a_folder_of_somebody_else_in_a_run_is_no_stage(home, workdir):
    run = shutil.copytree(home.run, workdir.path / "run")
    for name in ("data", "model", "notes"):
        (run / name).mkdir()
    rows = succeeds("info", "run", "--json").document["stages"]
    assert [row["stage"] for row in rows] == ["base", "sft"]
    assert "never finished" not in succeeds("eval", "run", "--json").err


def test_info_of_a_stage_shows_it_and_its_ancestors(chain):
    rows = succeeds("info", chain / "sft", "--json").document["stages"]
    assert [row["stage"] for row in rows] == ["base", "sft"]
    rows = succeeds("info", chain / "sft/steps/3", "--json").document["stages"]
    assert [row["stage"] for row in rows] == ["base", "sft, step 3"]


def test_the_page_shows_the_tree_and_each_fine_tuning(home, second, chain):
    for run, parts in ((chain, ["sft", "sft-2"]), (second, ["sft-2"])):
        page = (run / "report.html").read_text()
        tree = page.partition("<h2>The stages")[2].partition("<h2>")[0]
        assert "+- sft-2" in tree
        assert ("this run" in tree) and (str(home.run / "sft") in tree) is (run == second)
        assert stored(home.run, "base")["weights_sha256"][:16] in tree
        assert stored(run, "sft-2")["weights_sha256"][:16] in tree
        assert "<h2>Compared with its parent" in page
        assert "sft answers" in page
        for title in ("Fine-tuning: sft", "Measured during sft", "The figures of sft"):
            assert (f"<h2>{title}</h2>" in page) is (len(parts) == 2)
        assert "not as this program writes it" not in page
    assert "--stages base,sft,sft-2" in page_of(chain) and "sft-2.lr=0.001" in page_of(chain)
    assert f"--base {home.run / 'sft'}" in page_of(second)


def page_of(run) -> str:
    return (run / "report.html").read_text()


# ------------------------------------------------------------------------------- killed and resumed


@contextmanager
def at_each_step(act):
    """Inside `with`, act(stage, step) is called before each step (from 0) of each stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_job, "pretrain", _watched(work_job.pretrain, act))
        patch.setitem(work_job.PLANS, "sft", _watched(work_job.PLANS["sft"], act))
        yield


def _watched(make_plan, act):
    def watched(settings, name, *arguments):
        plan = make_plan(settings, name, *arguments)

        def draw(step):
            act(name, step)
            return plan.draw(step)

        return replace(plan, draw=draw)

    return watched


@contextmanager
def stopped_in(stage, step):
    """Inside `with`, a training ends without a checkpoint before this step."""

    def act(name, at):
        if (name, at) == (stage, step):
            raise KeyboardInterrupt

    with at_each_step(act):
        yield


def kept(run) -> dict:
    """The weights, logs and measurements of a run, without timings."""
    timings = ("seconds", "tokens_per_s", "prompts_seconds")
    found = {k: v for k, v in files_in(run).items() if k.endswith("model.safetensors")}
    for path in run.rglob("*.jsonl"):
        rows = [{k: v for k, v in row.items() if k not in timings} for row in read_lines(path)]
        found[path.relative_to(run).as_posix()] = rows
    return found


@pytest.mark.parametrize("adapters", [(), ("--lora", 2)], ids=["all weights", "lora"])
def test_a_chain_killed_in_any_stage_is_resumed_to_the_same_bytes(
    home, workdir, monkeypatch, adapters
):
    """The folder is copied as a kill would leave it, before some steps of each stage."""
    monkeypatch.setattr(runner, "pause", lambda saves, save_every: 0)
    run = workdir.path / "run"
    kills = {("base", 2), ("sft", 0), ("sft", 4), ("sft-2", 1), ("sft-2", 5)}
    kills -= {("base", 2), ("sft", 0)} if adapters else set()

    def copy(name, step):
        if (name, step) in kills:
            shutil.copytree(run, workdir.path / f"{name} {step}")

    with at_each_step(copy):
        whole = succeeds("train", *home.inputs, *CHAIN, *adapters, "--out", run, "--json").document
    copies = sorted(workdir.path.glob("* *"))
    assert len(copies) == len(kills)
    expected = kept(run)
    assert {f"{name}/log.jsonl" for name in STEPS} <= expected.keys()
    for folder in copies:
        report = succeeds("train", "--resume", "--out", folder, "--json").document
        assert kept(folder) == expected, folder.name
        timed = ("run", "tokens_per_s", "peak_memory")
        for name in whole.keys() - set(timed):
            assert "seconds" in name or report[name] == whole[name], (folder.name, name)


def spoiled(home, chain, workdir, **model) -> Path:
    """A copy of the chain whose base is of another vocabulary or shape."""
    corpus = home.corpus
    if not model:
        corpus = workdir.write("other.txt", home.corpus.read_text() + "@#%^" * 20)
    flags = [f"model.{name}={value}" for name, value in model.items()]
    command = ("pretrain", "--config", home.config, "--corpus", corpus, "--out", "other")
    succeeds(*command, *(["--set", *flags] if flags else []))
    run = shutil.copytree(chain, workdir.path / "run")
    shutil.rmtree(run / "base")
    shutil.copytree("other/base", run / "base")
    return run


@pytest.mark.parametrize(
    "model, words",
    [
        ({}, "its vocabulary is not that of"),
        ({"layers": 2}, "layers is 2"),
        ({"heads": 1}, "heads"),
    ],
)
def test_a_parent_of_another_vocabulary_or_shape_is_refused_in_one_sentence(
    home, chain, workdir, model, words
):
    run = spoiled(home, chain, workdir, **model)
    result = pysft("train", "--resume", "--out", run, "--json")
    assert result.code == 65, result.err
    error = result.err.splitlines()[-1]
    assert words in error and str(run / "base") in error and "Put the right stage back" in error


def test_a_stage_that_is_not_finished_goes_on_from_its_own_parent_alone(home, workdir):
    """Another base of the same shape and vocabulary is not taken for it."""
    run = workdir.path / "run"
    with stopped_in("sft", 3):
        assert pysft("train", *home.inputs, "--out", run).code == 130
    shutil.copytree(run, "whole")
    succeeds("pretrain", *home.text, "--seed", "9", "--out", "other")
    shutil.rmtree(run / "base")
    shutil.copytree("other/base", run / "base")
    result = pysft("train", "--resume", "--out", run, "--json")
    error = result.err.splitlines()[-1]
    assert result.code == 65
    assert "its weights are not those that" in error and f"remove {run / 'sft'}" in error
    succeeds("train", "--resume", "--out", "whole")


@pytest.mark.parametrize("model", [{}, {"layers": 2}])
def test_a_parent_of_another_vocabulary_or_shape_is_refused_by_the_last_stage_too(
    home, chain, workdir, model
):
    run = spoiled(home, chain, workdir, **model)
    record = json.loads((run / "run.json").read_text())
    del record["settings"]["sft-2"]
    (run / "run.json").write_text(json.dumps(record))
    result = pysft("train", "--resume", "--out", run, "--json")
    assert result.code == 65, result.err
    assert "Put the right stage back" in result.err.splitlines()[-1]


def without(*names):
    def change(record):
        for name in names:
            del record["settings"][name]

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("base", "sft"),
        without("base"),
        lambda record: record.update(ops="foo"),
        lambda record: record.update(base="elsewhere"),  # and [base], which begins from nothing
        lambda record: record["settings"].update(sft=3),
    ],
    ids=["no stage", "sft from nothing", "ops", "base from a stage", "sft is a number"],
)
def test_a_record_that_no_training_writes_is_not_resumed(home, workdir, change):
    run = shutil.copytree(home.run, workdir.path / "run")
    record = json.loads((run / "run.json").read_text())
    change(record)
    (run / "run.json").write_text(json.dumps(record))
    workdir.remember()
    assert "run.json: not as this program" in refusal(65, "train", "--resume", "--out", "run")
    assert workdir.is_unchanged()


# ------------------------------------------------------------------ run folders of earlier versions


def flat(tables: dict) -> dict:
    """Settings in the form in which an earlier version stored them."""
    both = Settings.of_json(
        {name: Settings().to_json()[name] for name in ("base", "sft") if name not in tables}
        | tables
    )
    document = json.loads(json.dumps(both.to_json()))
    old = {name: document[where[0][0]][where[0][1]] for name, where in PLACES.items()}
    return {"preset": document["preset"], "seed": document["seed"]} | old


def as_old(run) -> None:
    """Rewrite the settings of a run as an earlier version wrote them."""
    settings = json.loads((run / "run.json").read_text())["settings"]
    edit(run / "run.json", settings=flat(settings))
    for path in run.rglob("settings.json"):
        document = json.loads(path.read_text())
        del document["inputs"]
        path.write_text(json.dumps(document | {"settings": flat(settings)}))
    for path in run.rglob("before.json"):
        rows = json.loads(path.read_text())["rows"]
        path.write_text(json.dumps({"rows": rows}))
    for path in run.rglob("report.json"):
        report = json.loads(path.read_text())
        path.write_text(
            json.dumps({k: v for k, v in report.items() if k not in ("stage", "parent")})
        )


@pytest.fixture
def old(home, workdir):
    run = shutil.copytree(home.run, workdir.path / "old")
    as_old(run)
    return run


def test_an_old_run_is_talked_to_measured_and_shown_like_a_new_one(home, old):
    for command in (
        ("chat", "-p", "Show the king", "--json"),
        ("generate", "-p", "The ", "--tokens", 5, "--json"),
        ("eval", "--json"),
        ("eval", "--matched", "--json"),
        ("select", "--json"),
        ("diagnose", "--json"),
        ("info", "--json"),
    ):
        new, same = (pysft(command[0], run, *command[1:]) for run in (home.run, old))
        assert same.code == new.code, same.err
        here, there = (
            json.loads(json.dumps(figures(one.document)).replace(str(run), "RUN"))
            for one, run in ((new, home.run), (same, old))
        )
        for name in here.keys() - {"tokens_per_s"}:
            assert here[name] == there[name], (command, name)
    succeeds("mask", home.data, "--run", old, "--line", 1)
    succeeds("report", old)
    page = page_of(old)
    assert "What is missing" not in page or "not as this program" not in page
    assert "[sft] steps" in page and "the base model completes" in page


def test_an_old_run_is_a_base_like_a_new_one(home, second, old, workdir):
    data = home.folder / "more.jsonl"
    flags = ("--base", old / "sft", "--out", "run")
    report = succeeds(*home.fine_tuning(data, *flags)).document
    assert report["weights_sha256"] == stored(second, "sft-2")["weights_sha256"]
    assert report["forgetting"] == stored(second, "sft-2")["forgetting"]


def test_an_old_run_is_resumed(home, workdir):
    with stopped_in("sft", 4):
        assert pysft("train", *home.inputs, "--out", "run").code == 130
    as_old(workdir.path / "run")
    report = succeeds("train", "--resume", "--out", "run", "--json").document
    assert report["weights_sha256"] == home.report["weights_sha256"]
    tables = json.loads((workdir.path / "run/run.json").read_text())["settings"]
    assert Settings.of_json(tables).stages.keys() == {"base", "sft"}
