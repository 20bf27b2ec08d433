"""The lab carries out every experiment, keeps its records, gives verdicts, and reports them: table,
page, command line."""

import hashlib
import io
import json
import math
import os
import re
import shlex
import shutil
from collections import Counter
from dataclasses import replace
from html import escape
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import in_process
from small_lab import SCALE, lab_at, record_of

from pysft import IGNORE
from pysft.batch import Example
from pysft.cli import lab as cli_lab
from pysft.cli import main as cli
from pysft.cli.arguments import available_threads
from pysft.errors import DataError, PysftError, UsageError
from pysft.lab import lab as lab_module
from pysft.lab import (
    markers,
    overview,
    parallel,
    part,
    personas,
    records,
    source_figures,
    study,
    table,
    trial,
)
from pysft.lab.arm import standard
from pysft.lab.experiments import COSTLY_FIRST, EXPERIMENTS, data_size, precision
from pysft.lab.experiments.arms import PLAIN, conversations_arm, pairs_arm, plain
from pysft.lab.experiments.experiment import Check, Column, Experiment
from pysft.lab.experiments.forgetting import matched
from pysft.lab.experiments.rates import judge_rate
from pysft.lab.lab import Lab
from pysft.lab.overview import KINDS, gather, write_page
from pysft.lab.parallel import Part, side_by_side
from pysft.lab.study import BAD, GOOD, PARTLY, T95, interval, verdict
from pysft.lab.table import cell
from pysft.lab.variants import exchange
from pysft.measure import figures
from pysft.nn import computing, gate
from pysft.run.stage import write_json
from pysft.text import view
from pysft.text.render import render
from pysft.text.templates import CHAT
from pysft.training.presets import PRESETS

HOSTILE = "</table><script>alert('x')</script> \"quoted\" & <img src=https://evil.example/x>"


pytestmark = pytest.mark.usefixtures("small_lab")


def strict(text):
    """A JSON document by the standard, which has no NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def pysft(*arguments):
    return SimpleNamespace(**dict(zip(("code", "out", "err"), in_process(*arguments))))


def some(conversations):
    """Every sixth of many conversations; all of a few."""
    return conversations[::6] if len(conversations) > 100 else conversations


def options(folder, corpus):
    return ["--seeds", 1, "--scale", SCALE, "--out", folder, "--corpus", corpus, "--threads", 1]


@pytest.fixture(scope="module", autouse=True)
def still_smaller(small_lab, figures_as_placed):
    """The tests of this file carry out every experiment. So the lab reads a sixth of the shipped
    conversations."""
    whole = lab_module.read_conversations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab_module, "read_conversations", lambda path: some(whole(path)))
        patch.setattr(data_size, "POOLS", (30, 90, 250))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory, corpus, still_smaller):
    """One folder for all experiments. run(name): carry out an experiment by the command line; its
    document and its records by arm. done(name): the same, only the first time."""
    folder = tmp_path_factory.mktemp("lab") / "out"
    found, carry_out = {}, Lab.run

    def run(name):
        records = {}

        def noting(self, arm, seed):
            records[arm.name] = carry_out(self, arm, seed)
            return records[arm.name]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Lab, "run", noting)
            done = pysft("lab", name, "--json", *options(folder, corpus))
        assert done.code == 0, done.err
        assert len(done.out.splitlines()) == 1
        (document,) = strict(done.out)["experiments"]
        return SimpleNamespace(document=document, records=records)

    def done(name):
        if name not in found:
            found[name] = run(name)
        return found[name]

    return SimpleNamespace(folder=folder, run=run, done=done)


def stored(data):
    """The data as they are read from disk."""
    return json.loads(json.dumps(data))


def untimed(document):
    """A document or record as it is read from disk, without its times."""
    return stored({k: v for k, v in document.items() if k not in ("seconds", "trial_seconds")})


def rendered(lab, messages):
    """The tokens of a conversation as it is trained on."""
    return render(messages, lab.chat, CHAT)[0]


def diverging(lab):
    """An arm that diverges."""
    return pairs_arm(lab, "far too high", settings={"lr": 1e4})


# ----------------------------------------------------------------------------- every experiment

CAN_RUN = [name for name in EXPERIMENTS if name != "precision" or gate.HAS_BF16]


@pytest.mark.parametrize("name", CAN_RUN)
def test_document_and_table_have_a_row_for_each_arm_and_a_column_for_each_heading(home, name):
    done, experiment = home.done(name), EXPERIMENTS[name]
    document, headings = done.document, [c.heading for c in experiment.columns]
    assert document == strict((home.folder / name / f"{name}.json").read_text())
    assert len(set(headings)) == len(headings) and list(document["forms"]) == headings
    assert list(document["arms"]) == list(done.records) and done.records
    assert all(list(row) == headings for row in document["arms"].values())
    text = (home.folder / name / "table.txt").read_text()
    assert document["title"] in text and document["claim"] in text
    assert f"Verdict: {document['verdict']}" in text
    for i, heading in enumerate(headings, 1):
        assert f"  {i}  {heading}" in text.splitlines()
    widest = max(map(len, done.records))
    for arm in done.records:
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith(f"{arm:<{widest}} ") and line != document["title"]
        ]
        assert len(line[widest:].split()) == len(headings)
    for check in experiment.checks:
        assert f"  {check.text}" in text
    svgs = sorted((home.folder / name).glob("figure-*.svg"))
    assert len(svgs) == len(document["figures"]) == len(set(document["figures"]))
    if figures.available():
        assert svgs and all(svg.read_text().startswith("<svg") for svg in svgs)
    assert not list(home.folder.rglob("*.tmp"))


@pytest.mark.parametrize("name", CAN_RUN)
def test_every_column_has_a_figure_and_every_check_gives_true_or_false(home, name):
    """Without the guard that takes an error for "not measured": it would hide a misspelt name."""
    done, experiment = home.done(name), EXPERIMENTS[name]
    for column in experiment.columns:
        found = [row[column.heading] for row in done.document["arms"].values()]
        never_reached = (  # at such a scale
            column.heading.endswith("at step")
            or "first recalled" in column.heading
            or column.heading in ("content", "end token")
        )
        is_measured = any(v is not None for f in found for v in f["values"])
        assert is_measured or never_reached, column.heading
        assert all(f["mean"] is None or column.form.format(f["mean"]) for f in found)
    assert [c["text"] for c in done.document["checks"]] == [c.text for c in experiment.checks]

    for check, written in zip(experiment.checks, done.document["checks"], strict=True):
        assert check.holds(done.records) in (True, False), check.text
        assert written["holds"] == [bool(check.holds(done.records))]
        assert all(type(held) is bool for held in written["holds"])
    assert done.document["verdict"] == verdict(done.document["checks"])
    shared = {r["preset"] for r in done.records.values()} if not experiment.on_world else set()
    assert set(done.document["base_loss"]) == shared


def measured(records):
    """The records as if every figure had been measured, with all pairs recalled."""

    def well(row):
        full = {k: 0.5 if v is None else v for k, v in row.items()}
        return full | {"recall": 1.0, "stopped": 1.0}

    return {
        name: {
            **r,
            "track": list(map(well, r["track"])),
            "by_kind": {kind: [0.1] * 10 for kind in r.get("by_kind", ())},
        }
        for name, r in records.items()
    }


@pytest.mark.parametrize("name", CAN_RUN)
def test_if_everything_is_measured_no_column_is_empty_and_no_check_lacks_a_figure(home, name):
    records = measured(home.done(name).records)
    for column in EXPERIMENTS[name].columns:
        found = [column.value(r) for r in records.values()]
        assert any(x is not None for x in found), column.heading
        assert all(x is None or isinstance(x, str) or column.form.format(x) for x in found)
    assert all(check.holds(records) in (True, False) for check in EXPERIMENTS[name].checks)


def test_experiments_share_two_bases_and_their_common_trials(home):
    sharing = ("masking", "first-token", "loss-curve", "weights-moved")
    for name in (*sharing, "length"):
        home.done(name)
    bases = [p.name.rsplit("-", 1)[0] for p in (home.folder / "bases").iterdir()]
    bases = [name for name in bases if "world" not in name]
    assert {"seed-1", "tiny-1"} == set(bases)
    in_bf16 = 2 * ((home.folder / "precision").is_dir())
    assert len(bases) == 2 + in_bf16
    records = [stored(home.done(name).records[PLAIN]) for name in sharing]
    assert all(r == records[0] for r in records)  # their seconds too, so it was trained once


@pytest.mark.parametrize("name", ["masking", "find-lr", "one-token", "hallucination"])
def test_a_second_run_trains_nothing_and_gives_the_same_document(home, name, monkeypatch):
    first, text = home.done(name), (home.folder / name / "table.txt").read_bytes()

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(lab_module, "carry_out", refuse)
    monkeypatch.setattr(Lab, "_pretrained", refuse)
    again = home.run(name)
    assert untimed(again.document) == untimed(first.document)
    assert again.document["trial_seconds"] == first.document["trial_seconds"]
    assert (home.folder / name / "table.txt").read_bytes() == text


@pytest.mark.parametrize(
    "where, finished",
    [
        ("base seed, seed 1: step 1 of", 0),
        ("first token masked (the source's code), seed 1: step 5 of", 1),
    ],
)
def test_an_interrupted_lab_continues_where_it_stopped_and_gives_the_same_document(
    tmp_path, corpus, monkeypatch, where, finished
):
    experiment = EXPERIMENTS["first-token"]
    whole = study.study(experiment, lab_at(tmp_path / "whole", corpus), 1)

    def progress(text, last=False):
        if text.startswith(where):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.study(experiment, lab_at(tmp_path / "cut", corpus, progress=progress), 1)
    assert not (tmp_path / "cut" / experiment.name).exists()
    assert len(list((tmp_path / "cut").glob("trials/*"))) == finished
    made, carry_out = [], lab_module.carry_out

    def noting(trial, *more):
        made.append(trial.arm.name)
        return carry_out(trial, *more)

    monkeypatch.setattr(lab_module, "carry_out", noting)
    continued = study.study(experiment, lab_at(tmp_path / "cut", corpus), 1)
    assert untimed(continued) == untimed(whole)
    assert made == list(whole["arms"])[finished:]


# ------------------------------------------------------------------------------ records on disk


def test_a_trial_has_another_name_if_anything_that_determines_it_changes(lab, monkeypatch):
    monkeypatch.setattr(lab_module, "carry_out", lambda *_: {})

    def name_of(arm, seed=1):
        shutil.rmtree(lab.folder / "trials", ignore_errors=True)
        lab.run(arm, seed)
        return os.listdir(lab.folder / "trials")[0]

    def one_label_less(conversation, tokenizer, settings):
        e = standard(conversation, tokenizer, settings)
        if conversation.line != 40:
            return e
        return replace(e, labels=np.append(e.labels[:-1], IGNORE).astype(np.int32))

    arm = plain(lab)
    one_letter = [
        exchange(c.prompt, c.replies()[0][:-1] + "?", 7) if c.line == 7 else c for c in lab.pairs
    ]
    unchanged = name_of(arm)
    found = {
        "nothing": unchanged,
        "seed": name_of(arm, 2),
        "preset": name_of(replace(arm, preset="tiny")),
    }
    for what, changed in {
        "setting": {"settings": {"lr": 2e-4}},
        "steps": {"settings": {"steps": 500}},
        "label": {"encode": one_label_less},
        "letter": {"pairs": tuple(one_letter)},
        "order": {"pairs": lab.pairs[::-1]},
        "one fewer": {"pairs": lab.pairs[1:]},
        "how it is drawn": {"pairs": (), "conversations": lab.pairs},
        "probe": {"probe": replace(arm.probe, known_words=["thou"])},
        "points": {"at": (300,)},
        "LoRA": {"lora": (1, ("qkv",))},
        "LoRA's rank": {"lora": (2, ("qkv",))},
        "vocabulary": {"tokenizer": lab.tokenizer.grow([*CHAT.tokens, "<|more|>"])},
        "judge": {"judge": markers.judge_tokens},
        "finish": {"finish": personas.personas},
        "kinds": {"by_kind": False},
    }.items():
        found[what] = name_of(replace(arm, **changed))
    weights = lab.base("seed", 1).stage.model.params.flat
    first, weights[0] = weights[0], weights[0] + 1
    found["base"], weights[0] = name_of(arm), first
    assert len(set(found.values())) == len(found), Counter(found.values()).most_common(1)
    assert name_of(replace(arm, name="another name for it")) == unchanged


def test_the_name_of_a_record_is_made_as_it_was_in_the_labs_that_people_have(lab, monkeypatch):
    """Another way to name it would train every trial of every folder again."""
    found = []
    monkeypatch.setattr(
        lab_module, "stored", lambda folder, d, make: found.append(d) or {"loss": 1}
    )
    lab.run(plain(lab), 1)
    lab.matched(pairs_arm(lab, "x", settings={"windows": ((64, 4),)}), 1)
    names = "version base settings examples at probe grown lora by_kind hooks"
    assert [" ".join(d) for d in found] == [names, "version base settings matched"]
    assert all(d["version"] == 1 for d in found) and found[1]["matched"] is True
    assert found[0]["by_kind"] is True and found[0]["hooks"] == ["judge", None]
    assert not {"transcripts", "tokenizer", "on_nan"} & set().union(
        *(table for table in found[0]["settings"].values() if isinstance(table, dict))
    )
    example = Example(np.int32([1, 2]), np.int32([IGNORE, 3]))
    text = b"\2" + bytes(7) + np.int32([1, 2, IGNORE, 3]).tobytes()
    assert records.digest_of_examples([example]) == hashlib.sha256(text).hexdigest()
    text = '{"a": [2, null], "b": "1"}'
    assert records.digest({"b": "1", "a": [2, None]}) == hashlib.sha256(text.encode()).hexdigest()


def test_a_labs_file_and_its_bases_are_named_as_in_the_labs_that_people_have(lab, monkeypatch):
    """Otherwise a lab would be refused as another one's, or train its bases again."""
    corpus = hashlib.sha256(lab.text.encode()).hexdigest()
    own = {"corpus": corpus, "scale": SCALE, "retrain_base": False}
    assert strict((lab.folder / "lab.json").read_text()) == own
    lab.base("seed", 7)  # all seeds share that of seed 1
    settings = lab.settings("seed").only("base").changed({"seed": 1})
    described = {"corpus": corpus, "settings": records.relevant(settings), "version": 1}
    digest = records.digest(described)
    assert os.listdir(lab.folder / "bases") == [f"seed-1-{digest[:12]}"]


def test_the_settings_that_name_a_record_stay_the_same_from_version_to_version():
    """With another digest every record and base that people have stored would be lost. A setting
    that changes no result of the lab belongs in the list in relevant(). For one that does, write
    the new digests here."""
    digests = {name: records.digest(records.relevant(p))[:12] for name, p in PRESETS.items()}
    assert digests == {
        "seed": "b0f725fb6fb8",
        "tiny": "8a198df8dd34",
        "mini": "132499958f42",
        "small": "698cce3663fa",
    }


def test_the_settings_of_arms_that_name_their_records_stay_the_same_too(lab):
    """As the presets' above. These arms have no world."""
    arms = plain(lab), conversations_arm(lab, "conversations", lab.conversations)
    settings = [records.relevant(lab._settings_of(arm, 1)) for arm in arms]
    assert [records.digest(s)[:12] for s in settings] == ["c80150b3cec5", "3200c40726e3"]


def test_a_trial_has_the_same_name_in_another_lab(lab, tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(lab_module, "carry_out", lambda *_: {})
    other = lab_at(tmp_path / "other", corpus)
    for one in (lab, other):
        arm = plain(one)
        one.run(arm, 1)
        one.run(replace(arm, lora=(1, ("qkv", "fc")), finish=personas.personas), 1)
    assert sorted(os.listdir(lab.folder / "trials")) == sorted(os.listdir(other.folder / "trials"))


def test_a_record_that_was_not_written_completely_is_not_used(lab):
    arm = replace(plain(lab), at=())
    lab.base("seed", 1)

    def cut(*_):
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr("pysft.disk.os.replace", cut)
        lab.run(arm, 1)
    assert not list((lab.folder / "trials").glob("*.json"))
    record = lab.run(arm, 1)
    (path,) = (lab.folder / "trials").glob("*.json")
    assert stored(record) == strict(path.read_text()) and len(record["losses"]) == 10
    path.write_text(path.read_text()[:1000])
    with pytest.raises(DataError, match=path.name):
        lab.run(arm, 1)


def test_two_processes_can_write_the_same_record_at_once(tmp_path, monkeypatch):
    sync, nested = os.fsync, []

    def meanwhile(file):
        if not nested:
            nested.append(1)
            with monkeypatch.context() as other:
                other.setattr("pysft.disk.os.getpid", lambda: 1)
                write_json(tmp_path / "record.json", {"made": "by the other"})
        sync(file)

    monkeypatch.setattr("pysft.disk.os.fsync", meanwhile)
    write_json(tmp_path / "record.json", {"made": "here"})
    assert strict((tmp_path / "record.json").read_text()) == {"made": "here"}
    assert len(os.listdir(tmp_path)) == 1


def test_a_record_has_its_settings_and_the_measured_steps(lab):
    record = lab.run(pairs_arm(lab, "x", (), settings={"lr": 3e-5}), 1)
    expected = lab.settings("seed").only("sft").changed({"seed": 1, "sft": {"lr": 3e-5}})
    assert stored(record["settings"]) == stored(expected.to_json())
    assert [row["step"] for row in record["track"]] == [0, 10] and record["trained_share"] == 1


@pytest.mark.parametrize("steps, scaled", [(1000, 10), (250, 2), (350, 4), (50, 2), (0, 2)])
def test_steps_are_scaled_to_the_nearest_number_but_at_least_two(lab, steps, scaled):
    assert lab.scaled(steps) == scaled  # SCALE is a hundredth


def test_a_trial_is_measured_at_each_scaled_step_once_and_never_after_its_last(lab, monkeypatch):
    found = []
    monkeypatch.setattr(lab_module, "carry_out", lambda trial, *_: found.append(trial) or {})
    lab.run(plain(lab), 1)  # after 50, 100, 200, 300, 500, 700 of 1,000
    lab.run(pairs_arm(lab, "x", (100, 300, 900), settings={"steps": 600}), 1)
    assert [trial.at for trial in found] == [[0, 2, 3, 5, 7, 10], [0, 2, 3, 6]]


def test_a_record_has_figures_of_its_training_rounded_and_six_replies_of_either_kind(
    lab, monkeypatch
):
    lab.base("seed", 1)
    clock = iter((100.0, 103.126))
    monkeypatch.setattr(trial.time, "monotonic", lambda: next(clock))
    arm = replace(plain(lab), lora=(2, ("qkv", "fc")), at=(500,))
    record = lab.run(arm, 1)
    assert record["seconds"] == 3.13 and record["arm"] == PLAIN and record["preset"] == "seed"
    stage = lab.settings("seed").stages["sft"]
    assert record["epochs"] == stage.steps * stage.pairs / 40
    C, new = 16, 3  # rank 2: A and B of both matrices; and the rows of three symbols, twice
    trained = 2 * (C + 3 * C + C + 4 * C) + 2 * new * C
    params = lab.base("seed", 1).stage.model.params.size + 2 * new * C
    assert record["trained_share"] == trained / params
    kinds = [x for curve in record["by_kind"].values() for x in curve]
    for numbers, places in ((record["losses"], 5), (kinds, 5), (record["moved"].values(), 6)):
        some = [x for x in numbers if x is not None]
        assert some == [round(x, places) for x in some] != [round(x, places - 1) for x in some]
    assert [("origins" in row) for row in record["track"]] == [False, False, True]
    asked = [prompt for prompt, _, _ in record["samples"]]
    unseen = [p["prompt"] for p in arm.probe.prompts]
    assert asked == [p for p, _ in arm.probe.pairs[:6]] + unseen[:6] and len(asked) == 12


def test_progress_tells_the_last_step_of_a_base_from_the_others(tmp_path, corpus):
    lines = []
    progress = lambda text, last=False: lines.append((text.partition(",")[0], last))  # noqa: E731
    lab = lab_at(tmp_path / "lab", corpus, progress=progress)
    lab.base("seed", 1)
    steps = lab.settings("seed").stages["base"].steps
    assert lines == [("base seed", i == steps) for i in range(1, steps + 1)]
    lines.clear()
    lab.run(pairs_arm(lab, "x", ()), 1)  # the line of a trial is overwritten by the next trial's
    assert lines == [("x", False)] * 10


@pytest.mark.parametrize("spare, asked", [(0, True), (-1, False)])
def test_a_probe_has_what_just_fits_the_context_with_room_for_the_reply(lab, spare, asked):
    held = [c for c in lab.heldout if len(c.messages) == 2][0]
    tokens = len(rendered(lab, held.messages)) - 1  # the last has no row of its own
    probe = lab.probe((), (), tokens + spare, heldout=[held])
    assert len(probe.heldout) == asked
    prompt = min((p["prompt"] for p in lab.probe((), (), 256).prompts), key=len)
    context = len(prompt) + 3 + 5 + spare  # <|user|>, <|end|>, <|assistant|>, and five of a reply
    found = [p["prompt"] for p in lab.probe((), (), context).prompts]
    assert (prompt in found) is asked


def test_seeds_vary_the_fine_tuning_on_one_base(lab):
    arm = replace(plain(lab), at=())
    one, two = lab.run(arm, 1), lab.run(arm, 2)
    assert len(os.listdir(lab.folder / "bases")) == 1
    assert one["base_loss"] == two["base_loss"] and (one["seed"], two["seed"]) == (1, 2)
    assert one["losses"] != two["losses"] and one["moved"] != two["moved"]
    # The new rows depend on the seed too.
    assert one["track"][0]["tuned_base_loss"] != two["track"][0]["tuned_base_loss"]


def test_with_retrained_bases_each_seed_has_its_own_and_seed_1_has_the_shared_one(lab, corpus):
    arm = replace(plain(lab), at=())
    shared = lab.run(arm, 1)
    with pytest.raises(UsageError, match="name another folder"):  # tables would be overwritten
        lab_at(lab.folder, corpus, retrain=True)
    own = lab_at(lab.folder.parent / "own", corpus, retrain=True)
    assert untimed(own.run(arm, 1)) == untimed(shared)
    other = own.run(arm, 2)
    bases = sorted(p.rsplit("-", 1)[0] for p in os.listdir(own.folder / "bases"))
    assert bases == ["seed-1", "seed-2"]
    assert other["base_loss"] != shared["base_loss"] and other["seed"] == 2


def test_matched_loss_is_that_of_the_base_trained_on_the_same_windows_and_is_stored(
    lab, monkeypatch
):
    arm = pairs_arm(lab, "x", settings={"windows": ((64, 4),), "lr": 1e-3})
    loss, base = lab.matched(arm, 1), lab.base("seed", 1)
    before = base.stage.model.params.flat.copy()
    assert lab.matched(plain(lab), 1) is None  # it replays nothing
    assert 0 < loss < base.loss and loss != lab.matched(arm, 2)
    assert (base.stage.model.params.flat == before).all()
    monkeypatch.setattr(lab_module, "loss_after_replay", None)
    assert lab.matched(arm, 1) == loss
    record = record_of(track=[{"tuned_base_loss": 2.2}], matched_loss=2.0)
    assert matched(record) == pytest.approx(0.1)
    assert matched(record | {"matched_loss": None}) is None


def test_a_trial_that_diverges_keeps_what_was_measured_before(lab):
    record = lab.run(diverging(lab), 1)
    assert "not finite" in record["diverged"] or "nan" in record["diverged"]
    assert 0 < len(record["losses"]) < 10 and all(map(math.isfinite, record["losses"]))
    assert record["track"][0]["step"] == 0 and record["track"][-1]["step"] <= len(record["losses"])
    assert judge_rate(record) == "jumpy"


def test_the_record_of_a_trial_that_diverges_is_strict_json(lab):
    lab.run(diverging(lab), 1)
    (path,) = (lab.folder / "trials").glob("*.json")
    strict(path.read_text())


def test_table_and_page_name_the_arms_that_diverged(lab):
    def arms(lab, seed):
        yield plain(lab)
        yield diverging(lab)

    experiment = replace(EXPERIMENTS["weights-moved"], arms=arms, figures=lambda results: [])
    document = study.study(experiment, lab, 1)
    assert document["diverged"] == ["far too high"]
    line = "Diverged, so the figures are from before that: far too high"
    assert line in table.text(document) and line in write_page(lab.folder).read_text()


# -------------------------------------------------------------------------- verdicts and figures


@pytest.mark.parametrize(
    "held, expected",
    [
        ([[1, 1], [1, 1]], GOOD),
        ([[1]], GOOD),
        ([[0]], BAD),
        ([[1], [0]], PARTLY),
        ([[1, 1, 0], [1, 1, 1]], PARTLY),
        ([[1, 1, 0], [0, 0, 0]], PARTLY),
        ([[1, 0], [0, 1]], BAD),
        ([[1, 0, 0], [0, 1, 0]], BAD),
        ([[0, 0, 0], [1, 1, 1]], PARTLY),
    ],
)
def test_reproduced_is_every_check_in_every_seed_and_not_reproduced_is_none_in_most_seeds(
    held, expected
):
    checks = [{"text": "", "holds": [bool(h) for h in holds]} for holds in held]
    assert verdict(checks) == expected


def test_an_interval_is_students_t_times_the_standard_error():
    two, three = interval([1.0, 3.0]), interval([0, 0, 3])
    assert (two["mean"], two["min"], two["max"]) == (2, 1, 3)
    assert two["t95"] == pytest.approx(12.706, rel=1e-12)  # s = sqrt(2)
    assert three["mean"] == 1 and three["t95"] == pytest.approx(4.303, rel=1e-12)  # s = sqrt(3)
    assert interval([1, 2, 3, 4])["t95"] == pytest.approx(3.182 * math.sqrt(5 / 3) / 2, rel=1e-12)
    assert two["values"] == [1, 3] and interval([2, 2, 2])["t95"] == 0


def test_students_t_leaves_five_in_a_hundred_outside():
    """The share of Student's distribution beyond T95, from its density."""
    t = np.linspace(0, 1, 200_001)[:-1]  # t = u / (1 - u), so u in [0, 1) is t in [0, inf)
    t, dt = t / (1 - t), 1 / (1 - t) ** 2 * 5e-6
    for df, edge in enumerate(T95, 1):
        density = (1 + t * t / df) ** (-(df + 1) / 2) * dt
        outside = density[t > edge].sum() / density.sum()
        assert outside == pytest.approx(0.05, abs=6e-5), df


def test_one_seed_has_no_interval_and_missing_values_are_left_out_of_the_mean():
    assert interval([5]) == {"mean": 5, "min": 5, "max": 5, "t95": None, "values": [5]}
    some = interval([None, 2, None, 4])
    assert (some["mean"], some["min"], some["max"], some["values"]) == (3, 2, 4, [None, 2, None, 4])
    nothing = {"mean": None, "min": None, "max": None, "t95": None, "values": [None]}
    assert interval([None]) == nothing
    assert interval([math.inf, 2, math.nan])["mean"] == 2


def test_a_figure_that_is_not_finite_is_null_in_the_document():
    assert interval([math.nan, 2, math.inf])["values"] == [None, 2, None]


@pytest.mark.parametrize("n, t", [(11, 2.228), (12, 2.201), (16, 2.131)])
def test_an_interval_of_many_seeds_is_not_narrower_than_students_t(n, t):
    x = list(range(n))
    assert interval(x)["t95"] >= t * np.std(x, ddof=1) / math.sqrt(n) * 0.999


def test_figures_that_are_words_are_listed():
    judged = interval(["flat", "right", "flat"])
    assert judged["mean"] is None and judged["values"] == ["flat", "right", "flat"]
    assert cell(judged, "{:.3f}") == "flat, right"


def test_a_cell_is_the_mean_and_the_range_if_the_seeds_differ_as_written():
    assert cell(interval([1, 3]), "{:.1f}") == "2.0 (1.0..3.0)"
    assert cell(interval([0.5]), "{:.0%}") == "50%"
    assert cell(interval([0.501, 0.502]), "{:.0%}") == "50%"
    assert cell(interval([None, None]), "{:.1f}") == "-"


def test_a_table_over_two_seeds_has_their_mean_and_range(lab):
    document = study.study(EXPERIMENTS["loss-curve"], lab, 2)
    loss = document["arms"][PLAIN]["loss at the start"]
    assert document["seeds"] == 2 and len(set(loss["values"])) == 2 and loss["t95"] > 0
    assert loss["min"] == min(loss["values"]) < loss["mean"] < loss["max"] == max(loss["values"])
    assert all(len(c["holds"]) == 2 for c in document["checks"])
    text = table.text(document)
    for heading, figure in document["arms"][PLAIN].items():
        assert cell(figure, document["forms"][heading]) in text
    assert "(2 seeds, " in text


@pytest.mark.parametrize(
    "holds",
    [
        lambda r: r["nobody"] > 1,
        lambda r: r["arm"]["track"][-1]["none"] > 1,
        lambda r: r["arm"]["track"][9],
        lambda r: min(r["arm"]["losses"]) < 1,
        lambda r: next(x for x in ()),
        lambda r: None,
    ],
)
def test_a_check_whose_figure_is_missing_does_not_hold(holds):
    records = {"arm": record_of(track=[{"step": 0, "none": None}])}
    assert study._holds(Check("", holds), records) is False


def without_figures(records):
    """The records as if no figure had been measured."""

    def blind(row):
        return {k: v if k in ("step", "recall_of") else None for k, v in row.items()}

    return {
        name: {
            **r,
            "track": list(map(blind, r["track"])),
            "finish": dict.fromkeys(r.get("finish", {})),
        }
        for name, r in records.items()
    }


@pytest.mark.parametrize("name", CAN_RUN)
def test_no_check_crashes_if_nothing_was_measured(home, name):
    blind = without_figures(home.done(name).records)
    assert all(study._holds(check, blind) in (True, False) for check in EXPERIMENTS[name].checks)


@pytest.mark.parametrize("name", CAN_RUN)
def test_a_column_whose_figure_is_missing_is_empty(home, name):
    blind = without_figures(home.done(name).records)
    for column in EXPERIMENTS[name].columns:
        for record in blind.values():
            value = study._value(column, record)
            assert value is None or isinstance(value, str) or math.isfinite(value), column.heading


def test_a_document_says_what_was_measured_how_and_with_which_command(tmp_path):
    """Of a lab whose trials are made up: two seeds, two presets, an arm with replay."""

    def arms(lab, seed):
        yield SimpleNamespace(name="one", matched=False)
        sent = yield SimpleNamespace(name="two", matched=True)
        assert sent["arm"] == "two" and sent["seed"] == seed

    def run(arm, seed):
        preset = {"one": "tiny", "two": "seed"}[arm.name]
        diverged = "step 3" if (arm.name, seed) == ("two", 2) else None
        loss = {"one": 1.0, "two": 3.0}[arm.name] + seed
        return record_of(
            arm=arm.name,
            seed=seed,
            preset=preset,
            diverged=diverged,
            losses=[loss],
            samples=[[f"{arm.name} {seed}", "Aye.", "end"]],
            seconds=10.06 * seed,
        )

    lab = SimpleNamespace(
        folder=tmp_path,
        corpus="/some/where/text.txt",
        scale=1.0,
        retrain=True,
        run=run,
        matched=lambda arm, seed: 0.5 * seed,
        base=lambda preset, seed: SimpleNamespace(loss={"seed": 2.0, "tiny": 1.5}[preset] * seed),
    )
    columns = [
        Column("loss", lambda r: r["losses"][0], "{:.1f}"),
        Column("matched", lambda r: r["matched_loss"]),
    ]
    checks = [
        Check("it rises", lambda r: r["two"]["losses"] > r["one"]["losses"]),
        Check("the first seed", lambda r: r["one"]["seed"] == 1),
    ]
    experiment = Experiment("made-up", "Made up", "It is.", arms, columns, checks, lambda r: [])
    document = study.study(experiment, lab, 2)
    assert document == {
        "name": "made-up",
        "title": "Made up",
        "claim": "It is.",
        "note": "",
        "corpus": "text.txt",
        "seeds": 2,
        "scale": 1.0,
        "retrain_base": True,
        "command": "python -m pysft lab made-up --seeds 2 --corpus /some/where/text.txt"
        " --retrain-base",
        "base_loss": {"seed": 2.0, "tiny": 1.5},
        "arms": {
            "one": {"loss": interval([2.0, 3.0]), "matched": interval([None, None])},
            "two": {"loss": interval([4.0, 5.0]), "matched": interval([0.5, 1.0])},
        },
        "forms": {"loss": "{:.1f}", "matched": "{:.3f}"},
        "checks": [
            {"text": "it rises", "holds": [True, True]},
            {"text": "the first seed", "holds": [True, False]},
        ],
        "verdict": PARTLY,
        "diverged": ["two"],
        "samples": {"one": [["one 1", "Aye.", "end"]], "two": [["two 1", "Aye.", "end"]]},
        "trial_seconds": 60.4,
        "figures": [],
    }
    assert strict((tmp_path / "made-up" / "made-up.json").read_text()) == document
    expected = """Made up

Claim: It is.

  1  loss
  2  matched

                  1                     2
one  2.5 (2.0..3.0)                     -
two  4.5 (4.0..5.0)  0.750 (0.500..1.000)

      yes  it rises
   1 of 2  the first seed

Verdict: partly reproduced (2 seeds; corpus text.txt, base seed 2.000 nats/char, tiny 1.500\
 nats/char, one for each seed)
Diverged, so the figures are from before that: two
"""
    assert (tmp_path / "made-up" / "table.txt").read_text() == expected
    one = document | {
        "seeds": 1,
        "scale": 0.5,
        "retrain_base": False,
        "diverged": [],
        "note": "Hm.",
    }
    one["checks"] = [{"text": "it rises", "holds": [False]}]
    end = table.text(one).splitlines()[-4:]
    assert end == [
        "       no  it rises",
        "",
        "Verdict: partly reproduced (1 seed, which is only a hint, scaled to 0.5: the verdict means"
        " nothing; corpus text.txt, base seed 2.000 nats/char, tiny 1.500 nats/char)",
        "Note: Hm.",
    ]


# -------------------------------------------------------------------------------------- the page


def test_the_page_has_every_claim_verdict_check_figure_and_command(home):
    documents = [home.done(name).document for name in ("masking", "one-token", "missing-end")]
    page = write_page(home.folder).read_text()
    for d in documents:
        assert page.count(escape(d["claim"])) == 2
        assert escape(d["title"]) in page and escape(d["command"]) in page
        assert all(escape(c["text"]) in page for c in d["checks"])
        assert all(escape(arm) in page for arm in d["arms"])
        assert all(escape(heading) in page for row in d["arms"].values() for heading in row)
    every = gather(home.folder)
    assert [d["name"] for d in every] == [n for n in EXPERIMENTS if (home.folder / n).is_dir()]
    assert page.count("<svg") == sum(len(d["figures"]) for d in every)
    for v, kind in KINDS.items():
        n = sum(d["verdict"] == v for d in every)
        assert page.count(f'class="badge {kind}"') == 2 * n and f"{n} {v}" in page


def test_the_page_escapes_every_text_of_a_document_and_loads_nothing(home, tmp_path):
    home.done("masking")
    folder = shutil.copytree(home.folder / "masking", tmp_path / "masking").parent
    document = strict((folder / "masking" / "masking.json").read_text())
    document |= {k: HOSTILE for k in ("title", "claim", "note", "command", "corpus")} | {
        "samples": {HOSTILE: [[HOSTILE, HOSTILE, "length"]] * 8},
        "checks": [{"text": HOSTILE, "holds": [True]}],
        "arms": {HOSTILE: document["arms"]["no mask"]},
    }
    (folder / "masking" / "masking.json").write_text(json.dumps(document))
    page = write_page(folder).read_text()
    assert "<script" not in page and "<img" not in page and page.count(escape(HOSTILE)) == 9 + 3 * 4
    ours = page.replace(escape(HOSTILE), "").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|//[a-z]|\b(src|href|action)\s*=|url\(|@import", ours)


def test_the_page_shows_two_replies_of_either_kind_and_the_documents_own_figures(home, tmp_path):
    home.done("masking")
    folder = shutil.copytree(home.folder / "masking", tmp_path / "masking")
    document = strict((folder / "masking.json").read_text())
    rows = [[f"asked {i}", f"said {i}", "end" if i % 2 else "length"] for i in range(12)]
    document |= {"samples": {"no mask": rows}, "diverged": [], "note": "", "trial_seconds": 1234.4}
    document["checks"] = [{"text": "it holds", "holds": [True, False, True]}]
    (folder / "masking.json").write_text(json.dumps(document))
    for i in (0, len(document["figures"]) + 1):  # left by an earlier version
        (folder / f"figure-{i}.svg").write_text("<svg>of old</svg>")
    page = write_page(tmp_path).read_text()
    assert [i for i in range(12) if f"asked {i}<" in page] == [0, 1, 6, 7]
    for i, end in ((0, " [no end token]"), (1, ""), (6, " [no end token]"), (7, "")):
        assert f">said {i}{end}<" in page
    assert "of old" not in page and "1,234 s of training" in page
    assert ">it holds<" in page and ">2 of 3 seeds<" in page
    assert "Diverged" not in page and "Not drawn" not in page


def test_without_matplotlib_the_page_has_the_tables_and_says_what_is_missing(
    home, tmp_path, monkeypatch, corpus
):
    home.done("loss-curve")
    shutil.copytree(home.folder / "bases", tmp_path / "bases")
    shutil.copytree(home.folder / "trials", tmp_path / "trials")
    monkeypatch.setattr(figures, "available", lambda: False)
    document = study.study(EXPERIMENTS["loss-curve"], lab_at(tmp_path, corpus), 1)
    page = write_page(tmp_path).read_text()
    assert document["figures"] == [] and not list(tmp_path.rglob("*.svg")) and "<svg" not in page
    assert "matplotlib" in page and escape(document["claim"]) in page
    assert document["verdict"] in page and escape(PLAIN) in page
    assert all(escape(heading) in page for heading in document["forms"])


def test_a_folder_without_experiments_gives_no_page(tmp_path):
    with pytest.raises(UsageError, match="no experiment is here"):
        write_page(tmp_path)


def test_the_command_on_the_page_parses_to_the_same_arguments(tmp_path, corpus):
    lab = Lab(tmp_path, str(corpus), None, 0.25, retrain=True)
    typed = shlex.split(study.command("masking", lab, 4))
    args = cli.parser().parse_args(typed[3:])
    assert typed[:3] == ["python", "-m", "pysft"]
    assert (args.names, args.seeds, args.retrain_base) == (["masking"], 4, True)
    assert (args.scale, args.corpus) == (0.25, str(corpus))
    plays = Lab(tmp_path / "other", "plays", None)
    assert study.command("masking", plays, 3) == "python -m pysft lab masking --seeds 3"


# ------------------------------------------------------------------------------ the command line


def test_an_unknown_experiment_is_a_usage_error_that_names_the_known_ones(tmp_path):
    done = pysft("lab", "first-tokens", "--out", tmp_path / "x")
    assert done.code == 2 and "'first-tokens'" in done.err
    assert all(name in done.err for name in EXPERIMENTS)
    assert len(done.err.splitlines()) == 1 and not (tmp_path / "x").exists()


def test_with_all_beside_an_unknown_name_the_error_names_the_unknown_one(tmp_path):
    done = pysft("lab", "all", "nothing", "--out", tmp_path / "x")
    assert done.code == 2 and "no experiment is called 'nothing'" in done.err


def test_without_a_name_the_experiments_are_listed():
    listed, as_json = pysft("lab"), pysft("lab", "--json")
    assert listed.code == as_json.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == list(EXPERIMENTS)
    assert strict(as_json.out)["experiments"] == {e.name: e.claim for e in EXPERIMENTS.values()}


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--seeds", "0"),
        ("--seeds", "-1"),
        ("--seeds", "two"),
        ("--scale", "0"),
        ("--scale", "-1"),
        ("--scale", "nan"),
        ("--scale", "x"),
        ("--scale", "11"),
    ],
)
def test_numbers_of_seeds_and_scales_that_cannot_be_are_refused(tmp_path, flag, value):
    done = pysft("lab", "masking", flag, value, "--out", tmp_path / "x")
    assert done.code == 2 and f"argument {flag}" in done.err and not (tmp_path / "x").exists()


@pytest.mark.parametrize("wrong", ["the folder is a file", "the corpus lacks letters"])
def test_an_unusable_folder_or_corpus_is_refused_before_a_base_is_trained(
    tmp_path, corpus, monkeypatch, wrong
):
    def trained(*_):
        raise AssertionError("a base was trained first")

    monkeypatch.setattr(Lab, "_pretrained", trained)
    out = tmp_path / "out"
    if wrong == "the folder is a file":
        out.write_text("")
    else:
        corpus = tmp_path / "small.txt"
        corpus.write_text("to be or not to be\n" * 100)
    done = pysft("lab", "masking", *options(out, corpus))
    assert done.code in (2, 65) and len(done.err.splitlines()) == 1


def test_without_json_the_table_the_verdict_and_the_pages_path_are_printed(home, corpus):
    home.done("loss-curve")
    done = pysft("lab", "loss-curve", *options(home.folder, corpus))
    assert done.code == 0 and (home.folder / "loss-curve" / "table.txt").read_text() in done.out
    assert str(home.folder / "index.html") in done.out and "the verdict means nothing" in done.out


def test_one_command_draws_the_six_figures_of_the_source(home, corpus):
    for name in source_figures.EXPERIMENTS:
        home.done(name)
    done = pysft("lab", "figures", "--jobs", 1, *options(home.folder, corpus))
    assert done.code == 0, done.err
    text = (home.folder / "figures.html").read_text()
    assert f"figures: {home.folder / 'figures.html'}" in done.out
    assert text.count("<svg") == (6 if figures.available() else 1)
    assert all(title in text for _, _, title in source_figures.DRAWN)
    # The mask of the source's conversation: two replies and their ends are graded, and no more.
    graded = sum(len(reply) + 1 for _, reply in source_figures.TALK)
    assert text.count(f'"{view.BLUE}"') == graded + 1  # and the legend


# --------------------------------------------------------------------- several processes at once


def part_of(name, folder="x", corpus="plays"):
    return Part(name, str(folder), str(corpus), "kernels", SCALE, False, 1)


def test_the_order_of_processes_has_every_experiment_once():
    assert sorted(e.name for e in COSTLY_FIRST) == sorted(EXPERIMENTS)


def test_processes_side_by_side_are_at_most_as_many_as_asked_and_go_on_if_one_fails(monkeypatch):
    running, most, begun = set(), [], []

    class Process:
        def __init__(self, command, **_):
            assert command[1:3] == ["-m", "pysft.lab.part"]
            found = Part(**json.loads(command[3]))
            assert found == part_of(found.name)
            self.name, self.left = found.name, 1 + len(found.name)
            self.stderr = io.StringIO("pysft: why it failed")
            running.add(self.name)
            begun.append(self.name)
            most.append(len(running))

        @property
        def returncode(self):
            return int(self.name == "bad")

        def poll(self):
            self.left -= 1
            if self.left > 0:
                return None
            running.discard(self.name)
            return self.returncode

        def terminate(self):
            running.discard(self.name)

        wait = terminate

    monkeypatch.setattr(parallel.subprocess, "Popen", Process)
    monkeypatch.setattr(parallel.time, "sleep", lambda _: None)
    lines = []

    def carry_out(*names):
        side_by_side([part_of(name) for name in names], 2, lines.append)

    carry_out("a", "bbbb", "cc", "d", "eee")
    assert max(most) == 2 and begun == ["a", "bbbb", "cc", "d", "eee"]
    assert len(lines) == 5 and not running
    with pytest.raises(PysftError, match="lab bad: pysft: why it failed"):
        carry_out("much longer", "bad", "another")
    assert not running and begun[-1] == "another"


@pytest.mark.parametrize("retrain, seeds", [(False, [1]), (True, [1, 2, 3])])
def test_the_bases_of_all_seeds_are_trained_before_the_processes_begin(retrain, seeds):
    trained = []
    lab = SimpleNamespace(retrain=retrain, base=lambda *key: trained.append(key))
    parallel.prepare_bases(lab, 3)
    assert trained == [(preset, seed) for preset in ("seed", "tiny") for seed in seeds]


def test_an_interruption_ends_all_processes_and_waits_for_them(monkeypatch):
    done = []

    class Process:
        def __init__(self, command, **_):
            self.name = json.loads(command[3])["name"]
            self.returncode, self.stderr = 0, io.StringIO()

        def poll(self):
            return 0 if self.name == "quick" else None

        def terminate(self):
            done.append(("terminate", self.name))

        def wait(self):
            done.append(("wait", self.name))

    def interrupted(line):
        assert line == "quick: 0 s"
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel.subprocess, "Popen", Process)
    with pytest.raises(KeyboardInterrupt):
        side_by_side([part_of(name) for name in ("slow", "quick", "later")], 2, interrupted)
    assert done == [("terminate", "slow"), ("wait", "slow")]


def test_processes_are_asked_a_few_times_a_second_and_a_failure_is_told_by_its_end(monkeypatch):
    slept, polls = [], {"bad": 3, "mute": 2}

    class Process:
        def __init__(self, command, **_):
            self.name = json.loads(command[3])["name"]
            self.returncode = 9
            self.stderr = io.StringIO("x" * 100 + "y" * 500 if self.name == "bad" else " \n")

        def poll(self):
            polls[self.name] -= 1
            return None if polls[self.name] else 9

    monkeypatch.setattr(parallel.subprocess, "Popen", Process)
    monkeypatch.setattr(parallel.time, "sleep", slept.append)
    with pytest.raises(PysftError) as failed:
        side_by_side([part_of("bad"), part_of("mute")], 2, lambda line: None)
    assert str(failed.value) == f"lab mute: exit status 9; lab bad: {'y' * 500}"
    assert len(slept) == 3 and all(0.1 <= seconds <= 0.5 for seconds in slept)


def test_a_process_that_fails_says_why_in_one_sentence(tmp_path):
    with pytest.raises(PysftError) as failed:
        side_by_side(
            [part_of("masking", tmp_path / "x", tmp_path / "no.txt")], 1, lambda line: None
        )
    assert re.fullmatch(r"lab masking: pysft: .*no\.txt.*", str(failed.value))


@pytest.mark.parametrize(
    "error, code, sentence",
    [
        (KeyboardInterrupt(), 130, "pysft: interrupted\n"),
        (UsageError("it cannot be"), 2, "pysft: it cannot be\n"),
        (OSError("no space left"), 1, "pysft: no space left\n"),
    ],
)
def test_the_exit_status_of_a_part_tells_what_ended_it(
    tmp_path, corpus, monkeypatch, capsys, error, code, sentence
):
    def ended(*_):
        raise error

    monkeypatch.setattr(part, "study", ended)
    assert part.main(part_of("masking", tmp_path, corpus).command()[3]) == code
    assert capsys.readouterr().err == sentence


def test_several_experiments_train_in_other_processes_and_are_reported_by_the_first(
    tmp_path, corpus, monkeypatch
):
    bases, base = [], Lab.base

    def noting(self, preset, seed, *precision):
        bases.append((preset, seed))
        return base(self, preset, seed, *precision)

    begun = []

    def here(parts, jobs, say):
        begun.append(jobs)
        say("first-token: 3 s")
        assert ([p.name for p in parts], jobs) == (["first-token", "loss-curve"], 2)  # costly first
        assert bases == [("seed", 1), ("tiny", 1)]
        for p in parts:
            assert part.main(p.command()[3]) == 0
            assert (tmp_path / p.name / f"{p.name}.json").is_file()
            assert not (tmp_path / "index.html").exists()

    monkeypatch.setattr(Lab, "base", noting)
    monkeypatch.setattr(parallel, "side_by_side", here)
    trained, finetune = [], trial.finetune
    monkeypatch.setattr(
        trial, "finetune", lambda *a, **more: trained.append(a) or finetune(*a, **more)
    )
    experiments = ["loss-curve", "first-token"]
    done = pysft("lab", *experiments, "--jobs", 2, "--json", *options(tmp_path, corpus))
    assert done.code == 0, done.err
    assert begun == [2] and "first-token: 3 s" in done.err
    # A part has the same trials as the command that began it, so nothing was trained twice.
    assert len(trained) == 2
    assert [e["name"] for e in strict(done.out)["experiments"]] == experiments
    assert (tmp_path / "index.html").is_file()
    pysft("lab", *experiments, "--jobs", 1, *options(tmp_path, corpus))
    assert len(trained) == 2 and begun == [2]


def test_where_a_judge_gives_no_loss_on_replies_that_of_the_conversations_is_recorded(monkeypatch):
    monkeypatch.setattr(trial, "conversation_loss", lambda *_: (1.25, 99))
    arm = SimpleNamespace(
        judge=lambda *_: ({"tuned_base_loss": 3.0}, {}), pairs=(), conversations=()
    )
    settings = SimpleNamespace(stages={"sft": SimpleNamespace(steps=9)})
    tokenizer = SimpleNamespace(special={})
    track = trial._Track(
        SimpleNamespace(
            arm=arm, tokenizer=tokenizer, settings=settings, base=SimpleNamespace(loss=2.0)
        )
    )
    track.measure(5, None)
    assert track.rows == [
        {"step": 5, "tuned_base_loss": 3.0, "forgetting": 0.5, "reply_loss": 1.25}
    ]


def test_the_loss_on_replies_is_that_of_the_first_hundred_conversations():
    conversations = [exchange("Hi", "Ho.", i) for i in range(150)]
    arm = SimpleNamespace(pairs=(), conversations=conversations)
    track = trial._Track(SimpleNamespace(arm=arm, tokenizer=SimpleNamespace(special={})))
    assert track.messages == [c.messages for c in conversations[:100]] and track.masked == []


def test_several_experiments_run_on_as_many_processes_as_there_are_threads(monkeypatch):
    monkeypatch.setenv("PYSFT_NUM_THREADS", "3")
    assert [available_threads(n) for n in (None, 1, 2)] == [3, 1, 2]


@pytest.fixture
def carried_out(tmp_path, monkeypatch):
    """A function that runs `lab` with these flags. No experiment is carried out.

    It gives (what the command returned and printed, the names that were studied, the jobs of each
    call that was made side by side)."""
    studied, jobs = [], []

    def studies(experiment, lab, seeds):
        studied.append((experiment.name, seeds))
        return {"name": experiment.name, "verdict": "holds", "title": experiment.title}

    monkeypatch.setattr(study, "study", studies)
    monkeypatch.setattr(table, "text", lambda document: f"table of {document['name']}")
    monkeypatch.setattr(overview, "write_page", lambda folder: folder / "index.html")
    monkeypatch.setattr(
        cli_lab, "_side_by_side", lambda lab, names, args, n, screen: jobs.append(n)
    )
    monkeypatch.setenv("PYSFT_NUM_THREADS", "3")

    def carry_out(*flags):
        done = pysft("lab", *flags, "--out", tmp_path / "lab")
        return done, studied, jobs

    return carry_out


@pytest.mark.parametrize(
    "flags, jobs",
    [
        (("masking",), []),
        (("masking", "masking"), []),
        (("masking", "forgetting"), [3]),
        (("masking", "forgetting", "--threads", 2), [2]),
        (("masking", "forgetting", "--jobs", 1), []),
        (("masking", "--jobs", 2), [2]),
    ],
)
def test_more_than_one_experiment_is_carried_out_side_by_side(carried_out, flags, jobs):
    done, studied, found = carried_out(*flags, "--seeds", 2)
    names = list(dict.fromkeys(flag for flag in flags if flag in EXPERIMENTS))
    assert done.code == 0 and found == jobs
    assert studied == [(name, 2) for name in names]


def test_each_experiment_is_announced_and_the_verdicts_stand_at_the_end(carried_out, tmp_path):
    done, _, _ = carried_out("masking", "forgetting")
    first, second = EXPERIMENTS["masking"].title, EXPERIMENTS["forgetting"].title
    assert done.out.splitlines() == [
        *("[1 of 2] masking", "table of masking", ""),
        *("[2 of 2] forgetting", "table of forgetting", ""),
        *(f"{'holds':<20} {first}", f"{'holds':<20} {second}", ""),
        f"The page: {tmp_path / 'lab/index.html'}",
    ]


def test_without_products_in_bf16_all_means_all_but_the_experiment_about_them(
    carried_out, monkeypatch
):
    monkeypatch.setattr(precision, "can_run", lambda ops: False)
    done, studied, _ = carried_out("all", "--ops", "reference")
    assert done.code == 0 and "precision: left out, because this processor" in done.out
    assert [name for name, _ in studied] == [name for name in EXPERIMENTS if name != "precision"]
    studied.clear()

    def in_precision(ops, name):
        raise UsageError(f"no products in {name} here")

    monkeypatch.setattr(computing, "in_precision", in_precision)
    done, studied, _ = carried_out("precision")
    assert done.code == 2 and "no products in bf16 here" in done.err and studied == []
    monkeypatch.setattr(precision, "can_run", lambda ops: True)
    done, studied, _ = carried_out("all")
    assert "precision: left out" not in done.out
    assert [name for name, _ in studied] == list(EXPERIMENTS)
