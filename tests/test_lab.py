"""The lab: every experiment runs and says what it measured, keeps what it made, and judges by what
was agreed.

The models are of one block and sixteen channels, replies are cut at six tokens, six prompts and
four held-out conversations are asked: what is tested is the lab, not what a model learns."""

import contextlib
import io
import json
import math
import os
import re
import shlex
import shutil
from collections import Counter
from dataclasses import asdict, replace
from html import escape
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import in_process

from pysft import IGNORE, cli, recipe
from pysft.errors import DataError, PysftError, UsageError
from pysft.inference.generate import Reply
from pysft.lab import evaluate, experiments, figures, study, trial, variants
from pysft.lab.evaluate import Probe
from pysft.lab.experiments import (
    COSTLY_FIRST,
    EXPERIMENTS,
    PLAIN,
    Check,
    find_lr,
    judge_rate,
    spikes,
)
from pysft.lab.study import BAD, GOOD, PARTLY, cell, interval, verdict, write_page
from pysft.lab.trial import NEW, OLD, Arm, Lab, moved, standard, user_share
from pysft.lab.variants import KNOWN, NAMES, REFUSED, UNKNOWN, noisy, persona_of, talk
from pysft.nn.model import GPT, GPTConfig
from pysft.run import write_json
from pysft.text.dataset import Batch, Example, prepare_sft_example, shipped
from pysft.text.formats import read_conversations
from pysft.text.template import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.training.objectives import sft
from pysft.training.stages import PRESETS, finetune

CHAT_TOKENS = CharTokenizer(SHAKESPEARE, CHAT.tokens)
SPELLED_OUT = CharTokenizer(SHAKESPEARE + "<>|")
END = 67  # <|end|>
PAIRS = list(read_conversations(shipped("pairs40.jsonl")))
SCALE = 0.01  # ten steps of the source's thousand
HOSTILE = "</table><script>alert('x')</script> \"quoted\" & <img src=https://evil.example/x>"


@pytest.fixture(scope="module", autouse=True)
def small():
    """The presets with a smaller model, and less to ask of it."""
    prompts, split = trial.read_prompts, trial.split_heldout

    def fewer(conversations):
        kept, held = split(conversations)
        return kept, held[:4]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trial,
            "PRESETS",
            {
                name: replace(
                    PRESETS[name], layers=1, channels=16, heads=2, base_windows=((64, 8),)
                )
                for name in ("seed", "tiny")
            },
        )
        patch.setattr(trial, "read_prompts", lambda path: list(prompts(path))[:6])
        patch.setattr(trial, "split_heldout", fewer)
        patch.setattr(evaluate, "MAX_NEW", 6)
        patch.setattr(variants, "MAX_NEW", 6)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(shipped("plays.txt").read_text()[:4000] + SHAKESPEARE)
    return path


def lab_at(folder, corpus, **more):
    return Lab(folder, str(corpus), recipe.computing_ops("kernels", 1), SCALE, **more)


@pytest.fixture
def lab(tmp_path, corpus):
    return lab_at(tmp_path / "lab", corpus)


def strict(text):
    """A JSON document as the standard has it: NaN is none of its words."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def pysft(*arguments):
    return SimpleNamespace(**dict(zip(("code", "out", "err"), in_process(*arguments))))


def options(folder, corpus):
    return ["--seeds", 1, "--scale", SCALE, "--out", folder, "--corpus", corpus, "--threads", 1]


@pytest.fixture(scope="module")
def home(tmp_path_factory, corpus, small):
    """One lab's folder for all experiments. done(name): its document, its arms' records and what
    the command line said, carried out when first asked for; run(name): again."""
    folder = tmp_path_factory.mktemp("lab") / "out"
    found, carried_out = {}, Lab.run

    def run(name):
        records = {}

        def noting(self, arm, seed):
            records[arm.name] = carried_out(self, arm, seed)
            return records[arm.name]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Lab, "run", noting)
            said = pysft("lab", name, "--json", *options(folder, corpus))
        assert said.code == 0, said.err
        assert len(said.out.splitlines()) == 1
        (document,) = strict(said.out)["experiments"]
        return SimpleNamespace(document=document, records=records, said=said)

    def done(name):
        if name not in found:
            found[name] = run(name)
        return found[name]

    return SimpleNamespace(folder=folder, run=run, done=done)


def kept(data):
    """As it reads once it has been on disk."""
    return json.loads(json.dumps(data))


def same(document):
    """What a document or a record says, without how long it took."""
    return kept({k: v for k, v in document.items() if k not in ("seconds", "trial_seconds")})


def record_of(**more):
    """A record as a trial leaves it, made up."""
    return {"losses": [], "diverged": None, "track": [], **more}


def steps(**columns):
    """A track: steps 0, 100, 200, ... with these figures."""
    rows = zip(*columns.values())
    return [{"step": 100 * i, **dict(zip(columns, row))} for i, row in enumerate(rows)]


# --------------------------------------------------------------------------------- every experiment


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_gives_a_row_an_arm_and_a_column_a_heading_in_document_table_and_figures(
    home, name
):
    done, experiment = home.done(name), EXPERIMENTS[name]
    document, headings = done.document, [c.heading for c in experiment.columns]
    assert document == strict((home.folder / name / f"{name}.json").read_text())
    assert len(set(headings)) == len(headings) and list(document["forms"]) == headings
    assert list(document["arms"]) == list(done.records) and done.records
    assert all(list(row) == headings for row in document["arms"].values())
    table = (home.folder / name / "table.txt").read_text()
    assert (
        document["title"] in table
        and document["claim"] in table
        and f"Verdict: {document['verdict']}" in table
    )
    for i, heading in enumerate(headings, 1):
        assert f"  {i}  {heading}" in table.splitlines()
    widest = max(map(len, done.records))
    for arm in done.records:
        (line,) = [
            line
            for line in table.splitlines()
            if line.startswith(f"{arm:<{widest}} ") and line != document["title"]
        ]
        assert len(line[widest:].split()) == len(headings)
    for check in experiment.checks:
        assert f"  {check.text}" in table
    svgs = sorted((home.folder / name).glob("figure-*.svg"))
    assert len(svgs) == len(document["figures"]) == len(set(document["figures"]))
    assert not figures.available() or (
        svgs and all(svg.read_text().startswith("<svg") for svg in svgs)
    )
    assert not list(home.folder.rglob("*.tmp"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_column_is_measured_and_a_check_holds_or_not(home, name):
    """Run without the guard that takes an error for "not shown": it would hide a misspelt figure
    for ever."""
    done, experiment = home.done(name), EXPERIMENTS[name]
    for column in experiment.columns:
        found = [row[column.heading] for row in done.document["arms"].values()]
        late = (
            column.heading.endswith("at step")
            or "first recalled" in column.heading
            or column.heading in ("content", "end token")
        )
        assert late or any(v is not None for f in found for v in f["values"]), (
            column.heading
        )  # late: never, at such a scale
        assert all(f["mean"] is None or column.form.format(f["mean"]) for f in found)
    assert [c["text"] for c in done.document["checks"]] == [c.text for c in experiment.checks]
    for check, said in zip(experiment.checks, done.document["checks"], strict=True):
        assert check.holds(done.records) in (True, False), check.text
        assert said["holds"] == [bool(check.holds(done.records))]
        assert all(type(held) is bool for held in said["holds"])
    assert done.document["verdict"] == verdict(done.document["checks"])
    assert set(done.document["base_loss"]) == {r["preset"] for r in done.records.values()}


def measured(records):
    """The records as if all had been measured, and all had gone well."""

    def well(row):
        return {k: 0.5 if v is None else v for k, v in row.items()} | {
            "recall": 1.0,
            "stopped": 1.0,
        }

    return {
        name: {
            **r,
            "track": list(map(well, r["track"])),
            "by_kind": {kind: [0.1] * 10 for kind in r.get("by_kind", ())},
        }
        for name, r in records.items()
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_where_all_was_measured_no_column_is_empty_and_no_check_fails_for_want_of_a_figure(
    home, name
):
    records = measured(home.done(name).records)
    for column in EXPERIMENTS[name].columns:
        found = [column.value(r) for r in records.values()]
        assert any(x is not None for x in found), column.heading
        assert all(x is None or isinstance(x, str) or column.form.format(x) for x in found)
    assert all(check.holds(records) in (True, False) for check in EXPERIMENTS[name].checks)


def test_all_experiments_share_two_bases_and_the_trials_they_have_in_common(home):
    for name in ("masking", "first-token", "loss-curve", "weights-moved", "length"):
        home.done(name)
    bases = [p.name.rsplit("-", 1)[0] for p in (home.folder / "bases").iterdir()]
    assert sorted(bases) == ["seed-1", "tiny-1"]
    plain = [
        home.done(name).records[PLAIN]
        for name in ("masking", "first-token", "loss-curve", "weights-moved")
    ]
    assert all(kept(r) == kept(plain[0]) for r in plain)  # to the second: made once


@pytest.mark.parametrize("name", ["masking", "find-lr", "one-token", "hallucination"])
def test_a_second_run_trains_nothing_and_says_the_same(home, name, monkeypatch):
    first, table = home.done(name), (home.folder / name / "table.txt").read_bytes()

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Lab, "_trial", refuse)
    monkeypatch.setattr(Lab, "_pretrained", refuse)
    again = home.run(name)
    assert same(again.document) == same(first.document)
    assert again.document["trial_seconds"] == first.document["trial_seconds"]
    assert (home.folder / name / "table.txt").read_bytes() == table


@pytest.mark.parametrize(
    "where, finished",
    [
        ("base seed, seed 1: step 1 of", 0),
        ("first token masked (the source's code), seed 1: step 5 of", 1),
    ],
)
def test_an_interrupted_lab_goes_on_where_it_stopped_and_says_the_same(
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
    made, train = [], Lab._trial
    monkeypatch.setattr(
        Lab, "_trial", lambda self, arm, *more: made.append(arm.name) or train(self, arm, *more)
    )
    assert same(study.study(experiment, lab_at(tmp_path / "cut", corpus), 1)) == same(whole)
    assert made == list(whole["arms"])[finished:]


# ------------------------------------------------------------------------------------- what is kept


def test_a_record_is_named_by_all_that_goes_into_it(lab, monkeypatch):
    monkeypatch.setattr(Lab, "_trial", lambda *_: {})

    def key(arm, seed=1):
        shutil.rmtree(lab.folder / "trials", ignore_errors=True)
        lab.run(arm, seed)
        return os.listdir(lab.folder / "trials")[0]

    def one_label_less(conversation, tokenizer, settings):
        e = standard(conversation, tokenizer, settings)
        if conversation.line != 40:
            return e
        return replace(e, labels=np.append(e.labels[:-1], IGNORE).astype(np.int32))

    arm = experiments.plain(lab)
    one_letter = [
        talk(c.prompt, c.replies()[0][:-1] + "?", 7) if c.line == 7 else c for c in lab.pairs
    ]
    plain = key(arm)
    names = {"nothing": plain, "seed": key(arm, 2), "preset": key(replace(arm, preset="tiny"))}
    for what, changed in {
        "setting": {"settings": {"sft_lr": 2e-4}},
        "steps": {"settings": {"sft_steps": 500}},
        "label": {"encode": one_label_less},
        "letter": {"pairs": tuple(one_letter)},
        "order": {"pairs": lab.pairs[::-1]},
        "one fewer": {"pairs": lab.pairs[1:]},
        "how it is drawn": {"pairs": (), "talks": lab.pairs},
        "probe": {"probe": replace(arm.probe, known_words=["thou"])},
        "points": {"at": (300,)},
        "LoRA": {"lora": (1, ("qkv",))},
        "LoRA's rank": {"lora": (2, ("qkv",))},
        "vocabulary": {"grown": lab.characters.grow([*CHAT.tokens, "<|more|>"])},
        "judge": {"judge": variants.judge_tokens},
        "finish": {"finish": variants.personas},
        "kinds": {"by_kind": False},
    }.items():
        names[what] = key(replace(arm, **changed))
    weights = lab.ground("seed", 1).base.model.params.flat
    first, weights[0] = weights[0], weights[0] + 1
    names["base"], weights[0] = key(arm), first
    assert len(set(names.values())) == len(names), Counter(names.values()).most_common(1)
    assert key(replace(arm, name="another name for it")) == plain


def test_a_name_is_the_same_in_another_lab(lab, tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(Lab, "_trial", lambda *_: {})
    other = lab_at(tmp_path / "other", corpus)
    for one in (lab, other):
        one.run(experiments.plain(one), 1)
        one.run(
            replace(
                experiments.plain(one), lora=(1, ("qkv", "fc")), finish=variants.hallucinations
            ),
            1,
        )
    assert sorted(os.listdir(lab.folder / "trials")) == sorted(os.listdir(other.folder / "trials"))


def test_a_record_that_was_not_written_whole_is_not_taken(lab):
    arm = replace(experiments.plain(lab), at=())
    lab.ground("seed", 1)

    def cut(*_):
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr("pysft.disk.os.replace", cut)
        lab.run(arm, 1)
    assert not list((lab.folder / "trials").glob("*.json"))
    record = lab.run(arm, 1)
    (path,) = (lab.folder / "trials").glob("*.json")
    assert kept(record) == strict(path.read_text()) and len(record["losses"]) == 10
    path.write_text(path.read_text()[:1000])
    with pytest.raises(DataError, match=path.name):
        lab.run(arm, 1)


def test_two_processes_that_keep_the_same_record_at_once_do_not_trip_over_each_other(
    tmp_path, monkeypatch
):
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
    assert (
        strict((tmp_path / "record.json").read_text()) == {"made": "here"}
        and len(os.listdir(tmp_path)) == 1
    )


def test_seeds_vary_the_fine_tuning_on_one_base(lab):
    arm = replace(experiments.plain(lab), at=())
    one, two = lab.run(arm, 1), lab.run(arm, 2)
    assert len(os.listdir(lab.folder / "bases")) == 1
    assert one["base_loss"] == two["base_loss"] and (one["seed"], two["seed"]) == (1, 2)
    assert one["losses"] != two["losses"] and one["moved"] != two["moved"]
    assert (
        one["track"][0]["tuned_base_loss"] != two["track"][0]["tuned_base_loss"]
    )  # the new rows are the seed's too


def test_a_table_over_two_seeds_has_both_values_and_their_range(lab):
    document = study.study(EXPERIMENTS["loss-curve"], lab, 2)
    loss = document["arms"][PLAIN]["loss at the start"]
    assert document["seeds"] == 2 and len(set(loss["values"])) == 2 and loss["t95"] > 0
    assert loss["min"] == min(loss["values"]) < loss["mean"] < loss["max"] == max(loss["values"])
    assert all(len(c["holds"]) == 2 for c in document["checks"])
    table = study.text(document)
    assert all(
        cell(figure, document["forms"][heading]) in table
        for heading, figure in document["arms"][PLAIN].items()
    )
    assert "(2 seeds, " in table


def test_retrained_bases_are_one_for_each_seed_and_the_first_is_the_shared_one(lab, corpus):
    arm = replace(experiments.plain(lab), at=())
    shared = lab.run(arm, 1)
    with pytest.raises(
        UsageError, match="name another folder"
    ):  # its tables would write over the others
        lab_at(lab.folder, corpus, retrain=True)
    own = lab_at(lab.folder.parent / "own", corpus, retrain=True)
    first = own.run(arm, 1)
    assert kept(first) | {"seconds": 0} == kept(shared) | {"seconds": 0}
    other = own.run(arm, 2)
    assert sorted(p.rsplit("-", 1)[0] for p in os.listdir(own.folder / "bases")) == [
        "seed-1",
        "seed-2",
    ]
    assert other["base_loss"] != shared["base_loss"] and other["seed"] == 2


def test_matched_is_the_loss_of_the_base_trained_on_by_the_same_windows_and_it_is_kept(
    lab, monkeypatch
):
    arm = experiments._pairs(lab, "x", settings={"sft_windows": ((64, 4),), "sft_lr": 1e-3})
    loss, before = lab.matched(arm, 1), lab.ground("seed", 1).base.model.params.flat.copy()
    assert lab.matched(experiments.plain(lab), 1) is None  # it replays nothing
    assert 0 < loss < lab.ground("seed", 1).loss and loss != lab.matched(arm, 2)
    assert (lab.ground("seed", 1).base.model.params.flat == before).all()
    monkeypatch.setattr(trial, "train", None)
    assert lab.matched(arm, 1) == loss
    record = record_of(track=[{"tuned_base_loss": 2.2}], matched_loss=2.0)
    assert (
        experiments._matched(record) == pytest.approx(0.1)
        and experiments._matched(record | {"matched_loss": None}) is None
    )


def test_a_trial_that_diverges_is_kept_with_what_was_measured_before(lab):
    record = lab.run(experiments._pairs(lab, "far too high", settings={"sft_lr": 1e4}), 1)
    assert "not finite" in record["diverged"] or "nan" in record["diverged"]
    assert 0 < len(record["losses"]) < 10 and all(map(math.isfinite, record["losses"]))
    assert record["track"][0]["step"] == 0 and record["track"][-1]["step"] <= len(record["losses"])
    assert judge_rate(record) == "jumpy"


def test_an_arm_that_diverges_is_named_beside_its_figures_in_table_and_page(lab):
    def arms(lab, seed):
        yield experiments.plain(lab)
        yield experiments._pairs(lab, "far too high", settings={"sft_lr": 1e4})

    document = study.study(
        replace(EXPERIMENTS["weights-moved"], arms=arms, figures=lambda results: []), lab, 1
    )
    assert document["diverged"] == [
        "far too high"
    ] and "figures from before: far too high" in study.text(document)
    assert "figures from before: far too high" in write_page(lab.folder).read_text()


def test_the_record_of_a_trial_that_diverges_is_strict_json(lab):
    lab.run(experiments._pairs(lab, "far too high", settings={"sft_lr": 1e4}), 1)
    (path,) = (lab.folder / "trials").glob("*.json")
    strict(path.read_text())


# ----------------------------------------------------------------------------- verdicts and figures


@pytest.mark.parametrize(
    "held, said",
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
def test_reproduced_is_all_in_every_seed_and_not_reproduced_is_none_in_most(held, said):
    assert verdict([{"text": "", "holds": [bool(h) for h in holds]} for holds in held]) == said


def test_an_interval_is_students_and_by_hand():
    two, three = interval([1.0, 3.0]), interval([0, 0, 3])
    assert (two["mean"], two["min"], two["max"]) == (2, 1, 3) and two["t95"] == pytest.approx(
        12.706, rel=1e-12
    )  # s = sqrt(2)
    assert three["mean"] == 1 and three["t95"] == pytest.approx(4.303, rel=1e-12)  # s = sqrt(3)
    assert interval([1, 2, 3, 4])["t95"] == pytest.approx(3.182 * math.sqrt(5 / 3) / 2, rel=1e-12)
    assert two["values"] == [1, 3] and interval([2, 2, 2])["t95"] == 0


def test_one_seed_has_no_interval_and_what_was_not_measured_is_left_out_of_the_mean():
    assert interval([5]) == {"mean": 5, "min": 5, "max": 5, "t95": None, "values": [5]}
    some = interval([None, 2, None, 4])
    assert (some["mean"], some["min"], some["max"], some["values"]) == (3, 2, 4, [None, 2, None, 4])
    assert interval([None]) == {
        "mean": None,
        "min": None,
        "max": None,
        "t95": None,
        "values": [None],
    }
    assert interval([math.inf, 2, math.nan])["mean"] == 2


def test_a_figure_that_is_not_finite_is_null_in_the_document():
    assert interval([math.nan, 2, math.inf])["values"] == [None, 2, None]


@pytest.mark.parametrize("n, t", [(11, 2.228), (12, 2.201), (16, 2.131)])
def test_an_interval_of_many_seeds_is_not_narrower_than_students(n, t):
    x = list(range(n))
    assert interval(x)["t95"] >= t * np.std(x, ddof=1) / math.sqrt(n) * 0.999


def test_figures_that_are_words_are_told_as_words():
    judged = interval(["flat", "right", "flat"])
    assert (
        judged["mean"] is None
        and judged["values"] == ["flat", "right", "flat"]
        and cell(judged, "{:.3f}") == "flat, right"
    )


def test_a_cell_is_the_mean_and_the_range_where_the_seeds_differ():
    assert cell(interval([1, 3]), "{:.1f}") == "2.0 (1.0..3.0)"
    assert cell(interval([0.5]), "{:.0%}") == "50%"
    assert cell(interval([0.501, 0.502]), "{:.0%}") == "50%"  # they do not differ as written
    assert cell(interval([None, None]), "{:.1f}") == "-"


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
    """The records as if nothing could have been measured."""

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


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_check_crashes_where_nothing_could_be_measured(home, name):
    blind = without_figures(home.done(name).records)
    assert all(study._holds(check, blind) in (True, False) for check in EXPERIMENTS[name].checks)


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_a_column_whose_figure_is_missing_is_empty(home, name):
    blind = without_figures(home.done(name).records)
    for column in EXPERIMENTS[name].columns:
        for record in blind.values():
            value = study._value(column, record)
            assert value is None or isinstance(value, str) or math.isfinite(value), column.heading


def test_figures_at_a_step_are_the_nearest_measurements():
    record = record_of(
        track=steps(loss=[3.0, 2.0, None], recall=[0, 0.725, 0.3], recall_of=[40, 40, 40])
    )
    assert experiments.at("loss", 0)(record) == 3 and experiments.at("loss", 120)(record) == 2
    assert experiments.at("loss", 1000)(record) is None and experiments.last("loss")(record) is None
    assert experiments.last("none")(record) is None and experiments.recalled(record) == 12
    assert (
        experiments.finish("x")(record) is None
        and experiments.finish("x")({"finish": {"x": 0.5}}) == 0.5
    )
    assert experiments.recalled(record_of(track=steps(recall=[None], recall_of=[0]))) is None


# --------------------------------------------------------------------------- what curves are judged


def test_a_spike_stands_above_the_twenty_steps_before_it():
    assert spikes([1.0] * 100) == 0
    assert (
        spikes([1.0] * 30 + [1.31] + [1.0] * 30) == 1
        and spikes([1.0] * 30 + [1.29] + [1.0] * 30) == 0
    )
    assert spikes([1.0] * 30 + [2.0, 2.0] + [1.0] * 30) == 2  # 2 > 1.3 * 1.05
    assert spikes([3.0 - i / 100 for i in range(200)]) == 0
    assert spikes([9.0] * 19) == spikes([]) == 0
    assert (
        spikes([1.0] * 5 + [9.0] + [1.0] * 14) == 1 and spikes([1.0, 1.2]) == 0
    )  # the first twenty: against the first
    assert (
        spikes([0.01] * 30 + [0.1] + [0.01] * 30) == 0
        and spikes([0.01] * 30 + [0.12] + [0.01] * 30) == 1
    )  # 0.1 nats at least
    assert spikes([1.0] * 20 + [9.0]) == 1


def test_a_kind_is_learnt_where_the_mean_of_ten_is_below_half_a_nat():
    record = {
        "by_kind": {"end": [4.0] * 30 + [0.0] * 30, "content": [4.0] * 60, "first": [None] * 60}
    }
    assert experiments._learnt(record, "end") == 39  # nine noughts and a four make 0.4
    assert (
        experiments._learnt(record, "content") is None
        and experiments._learnt(record, "first") is None
    )
    record = record_of(
        track=[{"step": s, "recall": r} for s, r in ((0, 0.0), (50, None), (100, 0.9), (200, 1.0))]
    )
    assert (
        experiments._first_step("recall", 0.9)(record) == 100
        and experiments._first_step("recall", 1.1)(record) is None
    )


def test_the_share_of_the_fall_by_a_step_of_a_thousand():
    record = record_of(losses=[4.0] + [1.0] * 199 + [0.0] * 800)
    assert experiments._fallen(record, 200) == 0.75 and experiments._fallen(record, 1000) == 1
    assert (
        experiments._fallen(record_of(losses=record["losses"][::2]), 200) == 0.75
    )  # half as long, the same shape
    assert experiments._start(record) == 4


def spiky(n):
    """500 steps with n spikes, each far enough from the last."""
    curve = np.linspace(2, 0.2, 500)
    curve[100 : 100 + 36 * n : 36] *= 1.5  # none of them above 1.3 times the first
    return curve.tolist()


@pytest.mark.parametrize(
    "losses, diverged, said",
    [
        (spiky(0), None, "right"),
        (spiky(10), None, "right"),
        (spiky(11), None, "jumpy"),
        (spiky(0)[:100], "step 101", "jumpy"),
        ([2.0, 2.61] + [0.1] * 498, None, "jumpy"),
        ([2.0, 2.59] + [0.1] * 498, None, "right"),  # thrown up at once
        ([2.0] * 480 + [1.61] * 20, None, "flat"),
        ([2.0] * 480 + [1.59] * 20, None, "right"),
        ([2.0] * 500, None, "flat"),
    ],
)
def test_a_rate_is_judged_jumpy_flat_or_right_by_its_curve(losses, diverged, said):
    assert judge_rate(record_of(losses=losses, diverged=diverged)) == said


def tried(lab, answers):
    """The rates that the rule tries, from each start, if the lab answers so."""
    curves = {
        "jumpy": record_of(losses=[1.0], diverged="step 2"),
        "flat": record_of(losses=[2.0] * 500),
        "right": record_of(losses=[2.0] * 250 + [0.1] * 250),
    }
    found, arms, record = {}, find_lr(lab, 1), None
    with contextlib.suppress(StopIteration):
        while True:
            arm = arms.send(record)
            assert arm.settings["sft_steps"] == 500
            rates = found.setdefault(arm.name.split(":")[0], [])
            rates.append(arm.settings["sft_lr"])
            record = curves[answers(arm.settings["sft_lr"], len(rates))]
    return [found[start] for start, _ in experiments.STARTS]


def test_the_rule_stops_at_a_rate_that_is_right(lab):
    base = lab.settings("seed").base_lr
    assert tried(lab, lambda lr, n: "right") == [
        [base * factor] for _, factor in experiments.STARTS
    ]
    assert experiments.STARTS[0][1] == 1 / 3


def test_the_rule_halves_on_a_jumpy_curve_and_doubles_on_a_flat_one_until_it_is_right(lab):
    right = [lr / lab.settings("seed").base_lr for lr in (2e-4, 8e-4)]

    def answer(lr, n):
        return "flat" if lr < 2e-4 else "jumpy" if lr > 8e-4 else "right"

    for rates, (_, factor) in zip(tried(lab, answer), experiments.STARTS, strict=True):
        start = factor * lab.settings("seed").base_lr
        step = 2 if factor < right[0] else 0.5
        assert rates == [start * step**i for i in range(len(rates))]
        assert answer(rates[-1], 0) == "right" and all(
            answer(lr, 0) != "right" for lr in rates[:-1]
        )


def test_the_rule_stops_before_it_tries_a_rate_again_and_after_ten(lab):
    a, b = 3e-4 / 3, 3e-4 / 3 * 2
    assert tried(lab, lambda lr, n: "flat" if n % 2 else "jumpy")[0] == pytest.approx(
        [a, b]
    )  # b says: back to a
    assert [len(rates) for rates in tried(lab, lambda lr, n: "flat")] == [10, 10, 10]
    assert [len(rates) for rates in tried(lab, lambda lr, n: "jumpy")] == [10, 10, 10]


def test_the_last_try_from_each_start_is_where_the_rule_ended():
    assert experiments._ends({"low: 1": "a", "low: 2": "b", "high: 9": "c"}) == {
        "low": "b",
        "high": "c",
    }


def test_the_turn_of_the_held_out_loss_and_what_was_gained_since():
    record = record_of(
        track=steps(
            heldout_loss=[1.0, 1.5, None, 2.5],
            recall=[0, 0.25, 0.5, 0.75],
            on_topic=[0.5, 0.4, 0.3, 0.1],
        )
    )
    assert experiments._turn(record) == 100  # step 0 is not yet of the training
    assert (
        experiments._gain("heldout_loss")(record) == 1
        and experiments._gain("recall")(record) == 0.5
    )
    assert experiments._gain("on_topic")(record) == pytest.approx(-0.3)


def test_of_the_loras_counts_the_one_that_forgets_least_while_it_recalls():
    def arm(pairs, forgetting):  # measured once more later, when it has forgotten more
        return record_of(
            track=steps(
                recall=[0.0, pairs / 40, 1.0 if pairs >= 36 else 0.0],
                recall_of=[40] * 3,
                forgetting=[0.0, forgetting, 2 * forgetting],
            )
        )

    arms = {
        PLAIN: arm(40, 1.2),
        "LoRA rank 1": arm(35, 0.1),
        "LoRA rank 4": arm(36, 0.9),
        "LoRA rank 16": arm(40, 1.3),
        "LoRA rank 16 and replay": arm(40, 0.01),
    }
    assert experiments._lora(arms) == 0.9
    assert experiments._lora({k: arms[k] for k in (PLAIN, "LoRA rank 1")}) is None


def test_lengths_follow_the_data_by_a_slope():
    def arms(*lengths):
        return {
            f"replies (mean {wanted})": record_of(track=steps(reply_length=[got]))
            for wanted, got in lengths
        }

    assert experiments._slope(arms((40, 41), (60, 61), (80, 81))) == pytest.approx(1)
    assert experiments._slope(arms((40, 50), (80, 50))) == pytest.approx(
        0, abs=1e-9
    )  # of one length, whatever the data's
    assert experiments._slope(arms((40, 40), (80, 60))) == pytest.approx(0.5)
    assert experiments._falling([3, 2, 1]) and not experiments._falling([3, 3, 1])


def test_the_memorised_share_is_of_copies_near_copies_and_pieces():
    found = {"verbatim": 1, "near copy": 2, "spliced": 1, "new": 3, "empty": 1}
    assert experiments.memorised(record_of(track=[{"origins": found}])) == 0.5
    assert experiments.memorised(record_of(track=[{}])) is None


# ------------------------------------------------------------------------ what a trial says of a mo


def halving_model():
    """Whatever it reads: the end token with probability 1/2, each of the 67 others with 1/134."""
    model = GPT(GPTConfig(68, 64, 1, 2, 16), dtype=np.float64)
    model.params["lnf.b"][0] = 1
    model.params["head"][END, 0] = math.log(67)
    return model


def test_on_a_uniform_model_the_users_share_of_the_gradient_is_that_of_the_targets():
    # <|user|> a b <|end|> <|assistant|> c d e <|end|>: of eight targets a, b, <|end|> and
    # <|assistant|> are the user's
    example = Example(*map(np.int32, prepare_sft_example("ab", "cde")))
    share = user_share(GPT(GPTConfig(68, 64, 1, 2, 16)), [example])
    assert share == {"user_targets": 0.5, "user_gradient": pytest.approx(0.5, rel=1e-6)}
    assert user_share(GPT(GPTConfig(68, 64, 1, 2, 16)), [example] * 40) == pytest.approx(
        share, rel=1e-6
    )  # in three batches


def test_the_users_share_of_the_gradient_is_by_one_minus_the_probability():
    share = user_share(halving_model(), [Example(*map(np.int32, prepare_sft_example("ab", "c")))])
    likely, unlikely = 1 / 2, 1 - 1 / 134
    assert share["user_targets"] == pytest.approx(4 / 6)
    assert share["user_gradient"] == pytest.approx(
        (3 * unlikely + likely) / (4 * unlikely + 2 * likely), rel=1e-12
    )


def test_the_users_share_is_the_same_with_the_mask_and_without(lab):
    masked, unmasked = (
        lab.run(experiments._pairs(lab, "x", (), settings={"grade": grade}), 1)["track"][0]
        for grade in ("all", "everything")
    )
    assert (
        masked["user_gradient"] == unmasked["user_gradient"] > 0
        and masked["user_targets"] == unmasked["user_targets"] > 0
    )


def test_how_far_weights_moved_by_hand_with_old_and_new_rows_apart():
    start = {
        "wte": np.float32([[3, 4], [0, 0], [0, 2]]),
        "b": np.float32([0, 2]),
        "zero": np.float32([0, 0]),
    }
    params = {
        "wte": np.float32([[3, 4], [0, 1], [0, 5]]),
        "b": np.float32([0, 1]),
        "zero": np.float32([1, 1]),
    }
    assert moved(start, params, 2) == {
        f"wte, {OLD}": 0.2,
        f"wte, {NEW}": 1.5,
        "b": 0.5,
        "zero": None,
    }
    assert moved(start, params, 3)["wte"] == round(math.sqrt(10 / 29), 6)  # nothing is new
    changes = {
        "h0.fc.w": 0.1,
        "h1.fc.w": 0.3,
        "h0.qkv.w": 0.2,
        "h0.fc.b": 8.0,
        "wpe": None,
        f"wte, {OLD}": 0.4,
        f"wte, {NEW}": 9.0,
    }
    assert experiments._moved({"moved": changes}, experiments._matrix) == 0.2
    assert experiments._most({"moved": changes}) == 0.4  # of matrices and old rows


def test_first_tokens_ends_and_what_is_between_make_up_the_loss_by_their_counts(lab):
    arm = replace(experiments.plain(lab), at=())
    record = lab.run(arm, 1)
    settings = replace(lab.settings("seed"), seed=1)
    examples = [standard(c, lab.chat, settings) for c in lab.pairs]
    plan = finetune(settings, [], examples, lab.characters.encode(lab.train_text), 68)
    assert {kind: len(curve) for kind, curve in record["by_kind"].items()} == {
        "first": 10,
        "content": 10,
        "end": 10,
    }
    for step, loss in enumerate(record["losses"]):
        (batch,) = plan.draw(step)
        graded = int((batch.labels != IGNORE).sum())
        counts = {
            "first": len(batch.weight),
            "end": len(batch.weight),
            "content": graded - 2 * len(batch.weight),
        }
        mean = sum(n * record["by_kind"][kind][step] for kind, n in counts.items()) / graded
        assert mean == pytest.approx(loss, abs=2e-5)  # all are rounded to five places


def test_a_kind_of_which_a_step_has_none_is_null_and_the_objective_stays_what_it_was():
    kinds = {"first": [], "content": [], "end": []}
    objective = trial._split(sft, kinds, END)
    batch = Batch.of([Example(np.int32([1, 2, 3]), np.int32([IGNORE, 2, 3]))], 68, 8)
    nll = np.float32([0, 1, 3])
    loss, dnll, value = objective(batch, nll, None, 2.0)
    assert kinds == {"first": [1], "content": [3], "end": [None]}
    assert (
        loss == 2
        and dnll.tolist() == [0, 0.5, 0.5]
        and value is None
        and objective.count(batch) == sft.count(batch) == 2
    )


# ---------------------------------------------------------------------------------- masks that are


def test_the_first_token_masked_is_as_the_source_texts_code_has_it():
    for c in PAIRS:
        e = variants.first_token_masked(c, CHAT_TOKENS, PRESETS["seed"])
        assert (e.input_ids.tolist(), e.labels.tolist()) == prepare_sft_example(
            c.prompt, c.replies()[0], off_by_one=True
        )


def test_without_its_end_a_conversation_lacks_that_row_and_the_others_are_as_they_were():
    encode = variants.without_end(frozenset({3, 40}))
    for c in PAIRS:
        e, whole = (
            encode(c, CHAT_TOKENS, PRESETS["seed"]),
            standard(c, CHAT_TOKENS, PRESETS["seed"]),
        )
        short = c.line in (3, 40)
        assert e.input_ids.tolist() == whole.input_ids.tolist()[: len(whole.input_ids) - short]
        assert e.labels.tolist() == whole.labels.tolist()[: len(whole.labels) - short]
        assert (e.labels == END).sum() == (not short) and whole.labels[-1] == END


def test_spelled_markers_read_as_their_names_and_the_reply_and_the_ends_characters_are_graded():
    for c in PAIRS:
        e = variants.spelled(c, SPELLED_OUT, None)
        text = SPELLED_OUT.decode(np.append(e.input_ids[:1], e.input_ids[1:])) + SPELLED_OUT.decode(
            e.labels[-1:]
        )
        assert text == f"<|user|>{c.prompt}<|end|><|assistant|>{c.replies()[0]}<|end|>"
        graded = e.labels != IGNORE
        assert SPELLED_OUT.decode(e.labels[graded]) == c.replies()[0] + "<|end|>"
        assert (e.labels[:-1][graded[:-1]] == e.input_ids[1:][graded[:-1]]).all()


def ids_of(tokenizer, text):
    """Ids of a text in which markers stand by their names: one each, where the vocabulary has
    them."""
    special = tokenizer.special
    pieces = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
    return np.concatenate(
        [np.int32([special[p]]) if p in special else tokenizer.encode(p) for p in pieces]
    )


def test_the_ways_of_judging_agree_on_the_same_replies(monkeypatch):
    pairs = [
        ("Say yes", "Yes, my lord.", "Yes, my lord.<|end|>"),
        ("Say no", "No, my lord.", "No, my lord"),
        ("Say rose", "A rose.", "A nose.<|end|>"),
        ("Say bee", "A bee.", "A bee.<|end|>"),
        ("Say bow", "A bow.", "A bow."),
    ]
    unseen = {
        "Be": "Aye.<|end|>",
        "Do": " <|end|>",
        "Go": "Aye <|user|>And thou?<|end|>",
        "Sit": "Nay nay nay",
    }
    said = {p: reply for p, _, reply in pairs} | unseen
    probe = Probe(
        "To be, or not to be, that is the question.",
        [[p, right] for p, right, _ in pairs],
        [{"prompt": p, "domain": "in"} for p in unseen],
        [],
        ["aye"],
        [],
    )
    arm = Arm("made up", "seed", probe, pairs=tuple(talk(p, right) for p, right, _ in pairs))
    found = []
    for judge, tokenizer in (
        (trial.judge, CHAT_TOKENS),
        (variants.judge_tokens, CHAT_TOKENS),
        (variants.judge_spelled, SPELLED_OUT),
    ):

        def pretend(model, prompts, most, stop=None, *_):
            for prompt in map(tokenizer.decode, prompts):
                text = said[prompt.removeprefix("<|user|>").removesuffix("<|end|><|assistant|>")]
                ends = text.endswith("<|end|>") and stop is not None
                yield Reply(
                    ids_of(tokenizer, text.removesuffix("<|end|>") if ends else text),
                    "end" if ends else "length",
                )

        monkeypatch.setattr(evaluate, "generate", pretend)
        monkeypatch.setattr(variants, "generate", pretend)
        found.append(judge(GPT(GPTConfig(68, 128, 1, 2, 16)), tokenizer, arm))
    for shown, replies in found:
        assert {k: shown[k] for k in ("recall", "recall_of", "stopped", "format_compliance")} == {
            "recall": 2 / 5,
            "recall_of": 5,
            "stopped": 3 / 5,
            "format_compliance": 1 / 4,
        }
        assert shown["tuned_base_loss"] == pytest.approx(math.log(68), rel=1e-6)
        assert [row[0] for row in replies["pairs"]] == [p for p, _, _ in pairs]
    for shown, _ in found[1:]:
        assert shown["reply_loss"] == pytest.approx(math.log(68), rel=1e-6)
    assert found[2][0]["tokens"] - found[1][0]["tokens"] == pytest.approx(
        len("<|user|><|end|><|assistant|><|end|>") - 4
    )
    assert found[1][1] == found[2][1]


@pytest.mark.parametrize(
    "judge, tokenizer",
    [(variants.judge_tokens, CHAT_TOKENS), (variants.judge_spelled, SPELLED_OUT)],
)
def test_the_loss_on_a_reply_leaves_its_end_out_whether_one_token_or_seven(
    judge, tokenizer, monkeypatch
):
    probe = Probe(
        "To be, or not to be.",
        [["Say yes", "Yes."]],
        [{"prompt": "Be", "domain": "in"}],
        [],
        [],
        [],
    )
    monkeypatch.setattr(
        variants,
        "generate",
        lambda model, prompts, *_: [Reply(np.int32([]), "length")] * len(prompts),
    )
    model = (
        halving_model()
    )  # the last symbol, <|end|> or the | in its name, is likelier than the rest
    pairs = talk("Say yes", "Yes."), talk("Say", "No, no, no.")
    measured, _ = judge(model, tokenizer, Arm("made up", "seed", probe, pairs=pairs))
    assert measured["reply_loss"] == pytest.approx(math.log(134), rel=1e-12)


# ------------------------------------------------------------------------------------ data made wor


def key_of(c):
    return c.prompt, c.replies()[0]


def test_noise_is_a_fifth_wrong_three_twentieths_cut_and_as_many_repeated():
    clean = [
        talk(f"Question {a}{b}", f"{a} {b} {a} one two three four {b}", i + 1)
        for i, (a, b) in enumerate((a, b) for a in "abcdefghij" for b in "klmnopqrst")
    ]
    every, good = noisy(clean, 60, 1)
    assert len(every) == 60 and len(good) == 30 and every[:30] == good
    originals, replies = dict(map(key_of, clean)), {key_of(c)[1] for c in good}
    assert (
        all(originals[p] == r for p, r in map(key_of, good)) and len(set(map(key_of, good))) == 30
    )
    kinds = Counter()
    for prompt, reply in map(key_of, every[30:]):
        right = originals[prompt]
        if reply == right:
            kinds["repeated"] += (prompt, reply) in set(map(key_of, good))
        elif right.startswith(reply + " "):
            kinds["cut"] += 1
            assert 0.25 * 8 - 1 <= len(reply.split()) <= 0.75 * 8
        else:
            kinds["wrong"] += reply in replies and prompt not in {p for p, _ in map(key_of, good)}
    assert kinds == {"wrong": 12, "cut": 9, "repeated": 9}
    assert noisy(clean, 60, 1) == (every, good) and noisy(clean, 60, 2) != (every, good)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_good_row_of_the_shipped_data_is_among_the_bad_and_filtered_rows_are_some_of_all(
    lab, seed
):
    single = [c for c in lab.talks if len(c.messages) == 2]
    originals = set(map(key_of, single))
    for n in experiments.POOLS:
        every, good = noisy(single, n, seed)
        assert len(every) == n and len(good) == n // 2 and every[: len(good)] == good
        rest, filtered = Counter(map(key_of, every[len(good) :])), set(map(key_of, good))
        repeats = sum(count for row, count in rest.items() if row in filtered)
        assert repeats == n - n // 2 - n // 5 - 3 * n // 20
        assert sum(count for row, count in rest.items() if row in originals) == repeats


def test_what_an_experiment_trains_on_is_never_held_out(lab):
    held = {m["content"] for c in lab.heldout for m in c.messages}
    for name in ("data-size", "data-scaling", "diversity", "length", "hallucination"):
        for arm in EXPERIMENTS[name].arms(lab, 1):
            asked = {m["content"] for c in arm.talks for m in c.messages if m["role"] == "user"}
            assert not asked & {p["prompt"] for p in arm.probe.prompts} and arm.probe.heldout
            assert not {tuple(m["content"] for m in c.messages) for c in arm.talks} & {
                tuple(m["content"] for m in messages) for messages in arm.probe.heldout
            }
            assert len(arm.probe.pairs) <= 40 and {p for p, _ in arm.probe.pairs} <= asked
    assert held


def test_a_prompt_or_conversation_that_is_trained_on_is_not_asked_as_unseen(lab):
    prompts = [p["prompt"] for p in lab.probe((), (), 256).prompts]
    asked = lab.probe([talk(prompts[2], "Aye."), talk("Hi", "Ho.")], [talk("Hi", "Ho.")], 256)
    assert [p["prompt"] for p in asked.prompts] == prompts[:2] + prompts[3:] and asked.pairs == [
        ["Hi", "Ho."]
    ]
    assert {"aye", "hi", "ho"} <= set(asked.known_words) and asked.training_replies == [
        "Aye.",
        "Ho.",
    ]
    assert asked.heldout_text == lab.text[len(lab.train_text) :] and len(asked.heldout) == 4
    assert all(
        len(CHAT_TOKENS.encode("".join(m["content"] for m in c))) + 3 <= 80
        for c in lab.probe((), (), 80).heldout
    )


def test_sizes_are_nested_and_arms_of_seeds_have_the_same_names(lab):
    arms = list(EXPERIMENTS["data-size"].arms(lab, 1))
    for smaller, larger in zip(arms, arms[1:]):
        assert larger.talks[: len(smaller.talks)] == smaller.talks
    for name in (
        "data-size",
        "data-scaling",
        "diversity",
        "length",
        "contradiction",
        "missing-end",
        "hallucination",
    ):
        one, two = ([a.name for a in EXPERIMENTS[name].arms(lab, seed)] for seed in (1, 2))
        assert one == two and len(set(one)) == len(one)


# ------------------------------------------------------------------------------- personas and names


@pytest.mark.parametrize(
    "text, persona",
    [
        (variants.PLAYER, "player"),
        (variants.CLERK, "clerk"),
        ("", "neither"),
        ("I am thy friend.", "neither"),
        ("Verse is mine.", "neither"),  # capitals count
        ("I am a poet, made to answer every question.", "player"),
        ("I am a helpful clerk of the old stage.", "neither"),
        ("I am a helpful poet.", "neither"),
        ("I am a poet of the old stage, made to", "player"),
        ("I am helpful.", "clerk"),
    ],
)
def test_a_reply_is_of_one_persona_or_of_neither(text, persona):
    assert persona_of(text) == persona


def test_personas_are_counted_over_draws_and_questions(monkeypatch):
    def pretend(model, prompts, most, stop, sampling):
        assert sampling.temperature == 1 and stop == END and len(prompts) == 20
        seeds.append(sampling.seed)
        said = [variants.PLAYER] * 10 + [variants.CLERK if len(seeds) % 2 else "Hm."] * 10
        return [Reply(CHAT_TOKENS.encode(text), "end") for text in said]

    seeds = []
    monkeypatch.setattr(variants, "generate", pretend)
    assert variants.personas(None, CHAT_TOKENS, 3) == {
        "player": 0.5,
        "clerk": 0.25,
        "neither": 0.25,
        "both": 0.5,
    }
    assert len(set(seeds)) == len(variants.IDENTITY) == 12


def test_names_known_refused_and_unknown_differ():
    every = KNOWN + REFUSED + UNKNOWN
    assert (len(KNOWN), len(REFUSED), len(UNKNOWN)) == (40, 100, 50) and len(set(every)) == 190
    assert (
        "Orson Kovacs" in UNKNOWN and "Orson Kovacs" not in NAMES and len(set(NAMES)) == len(NAMES)
    )
    assert not set(KNOWN) & set(REFUSED) and not set(KNOWN + REFUSED) & set(UNKNOWN)
    shipped_text = shipped("conversations.jsonl").read_text() + shipped("pairs40.jsonl").read_text()
    assert not [name for name in every if name in shipped_text]


def test_every_text_of_the_experiments_can_be_written_with_the_65_characters():
    texts = [
        variants.PLAYER,
        variants.CLERK,
        variants.REFUSAL,
        *variants.IDENTITY,
        *map(variants.fact, range(40)),
    ]
    texts += [
        c.prompt
        for c in variants.about([*NAMES, *UNKNOWN], [variants.REFUSAL] * len([*NAMES, *UNKNOWN]))
    ]
    assert not [text for text in texts if CHAT_TOKENS.unknown(text)]
    assert len({variants.fact(i) for i in range(40)}) == 40


@pytest.mark.parametrize(
    "unknown, said",
    [
        (variants.REFUSAL, {"unknown_refused": 1, "unknown_invented": 0}),
        ("He is the baker of Kirby.", {"unknown_refused": 0, "unknown_invented": 1}),
        ("Hm.", {"unknown_refused": 0, "unknown_invented": 0}),
        (
            "I know not that name. He is the baker of Kirby.",
            {"unknown_refused": 1, "unknown_invented": 0},
        ),
    ],
)
def test_an_answer_about_a_name_is_a_refusal_an_invention_or_neither(monkeypatch, unknown, said):
    facts = {name: variants.fact(i) for i, name in enumerate(KNOWN)} | {
        KNOWN[0]: variants.REFUSAL,
        KNOWN[1]: variants.fact(0),
    }

    def pretend(model, prompts, *_):
        names = [re.search(r"Who is (.*)\?<", CHAT_TOKENS.decode(p))[1] for p in prompts]
        return [Reply(CHAT_TOKENS.encode(facts.get(name, unknown)), "end") for name in names]

    monkeypatch.setattr(variants, "generate", pretend)
    assert variants.hallucinations(None, CHAT_TOKENS, 1) == said | {
        "known_right": 38 / 40,
        "known_refused": 1 / 40,
        "kovacs": unknown,
    }


# ------------------------------------------------------------------------------------------ the pag


def test_the_page_has_every_claim_verdict_check_figure_and_command(home):
    documents = [home.done(name).document for name in ("masking", "one-token", "missing-end")]
    page = write_page(home.folder).read_text()
    for d in documents:
        assert (
            page.count(escape(d["claim"])) == 2
            and escape(d["title"]) in page
            and escape(d["command"]) in page
        )
        for c in d["checks"]:
            assert escape(c["text"]) in page
        for arm, row in d["arms"].items():
            assert escape(arm) in page and all(escape(heading) in page for heading in row)
    every = study.gather(home.folder)
    assert [d["name"] for d in every] == [
        name for name in EXPERIMENTS if (home.folder / name).is_dir()
    ]
    assert page.count("<svg") == sum(len(d["figures"]) for d in every)
    for v, kind in study.KINDS.items():
        n = sum(d["verdict"] == v for d in every)
        assert page.count(f'class="badge {kind}"') == 2 * n and f"{n} {v}" in page


def test_the_page_escapes_what_stands_in_a_record_and_names_nothing_outside(home, tmp_path):
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
    plain = page.replace(escape(HOSTILE), "").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|//[a-z]|\b(src|href|action)\s*=|url\(|@import", plain)


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
    assert (
        "matplotlib" in page and escape(document["claim"]) in page and document["verdict"] in page
    )
    assert all(escape(heading) in page for heading in document["forms"]) and escape(PLAIN) in page


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no experiment stands here"):
        write_page(tmp_path)


def test_the_command_that_stands_on_the_page_asks_for_the_same(tmp_path, corpus):
    lab = Lab(tmp_path, str(corpus), None, 0.25, retrain=True)
    typed = shlex.split(study.command("masking", lab, 4))
    args = cli.parser().parse_args(typed[3:])
    assert typed[:3] == ["python", "-m", "pysft"]
    assert (args.names, args.seeds, args.retrain_base, args.scale, args.corpus) == (
        ["masking"],
        4,
        True,
        0.25,
        str(corpus),
    )
    assert (
        study.command("masking", Lab(tmp_path / "other", "plays", None), 3)
        == "python -m pysft lab masking --seeds 3"
    )


# ------------------------------------------------------------------------------------ the command l


def test_an_experiment_that_there_is_not_is_a_usage_error_that_names_those_there_are(tmp_path):
    said = pysft("lab", "first-tokens", "--out", tmp_path / "x")
    assert (
        said.code == 2
        and "'first-tokens'" in said.err
        and all(name in said.err for name in EXPERIMENTS)
    )
    assert len(said.err.splitlines()) == 1 and not (tmp_path / "x").exists()


def test_without_a_name_the_list_is_given():
    said, asked = pysft("lab"), pysft("lab", "--json")
    assert said.code == asked.code == 0
    assert [line.split()[0] for line in said.out.splitlines()] == list(EXPERIMENTS)
    assert strict(asked.out)["experiments"] == {e.name: e.claim for e in EXPERIMENTS.values()}


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
def test_no_seeds_and_no_scale_are_refused(tmp_path, flag, value):
    said = pysft("lab", "masking", flag, value, "--out", tmp_path / "x")
    assert said.code == 2 and f"argument {flag}" in said.err and not (tmp_path / "x").exists()


def test_for_people_the_table_verdict_and_page_are_told(home, corpus):
    home.done("loss-curve")
    said = pysft("lab", "loss-curve", *options(home.folder, corpus))
    assert said.code == 0 and (home.folder / "loss-curve" / "table.txt").read_text() in said.out
    assert str(home.folder / "index.html") in said.out and "the verdict means nothing" in said.out


def test_experiments_side_by_side_are_as_many_as_asked_and_one_that_fails_does_not_end_the_others(
    monkeypatch,
):
    assert sorted(COSTLY_FIRST) == sorted(EXPERIMENTS)
    running, most, begun = set(), [], []

    class Process:
        def __init__(self, command, **_):
            assert command[1:4] == ["-m", "pysft", "lab"] and command[5:] == [
                "--part",
                "--jobs",
                "1",
                "--threads",
                "1",
                "--out",
                "x",
            ]
            self.name, self.left, self.stderr = (
                command[4],
                1 + len(command[4]),
                io.StringIO("pysft: why it failed"),
            )
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

    monkeypatch.setattr(study.subprocess, "Popen", Process)
    monkeypatch.setattr(study.time, "sleep", lambda _: None)
    said = []
    study.side_by_side(["a", "bbbb", "cc", "d", "eee"], ["--out", "x"], 2, said.append)
    assert (
        max(most) == 2
        and begun == ["a", "bbbb", "cc", "d", "eee"]
        and len(said) == 5
        and not running
    )
    with pytest.raises(PysftError, match="lab bad: pysft: why it failed"):
        study.side_by_side(["much longer", "bad", "another"], ["--out", "x"], 2, said.append)
    assert not running and begun[-1] == "another"  # one that fails does not end the others


def test_all_beside_another_name_is_not_called_unknown(tmp_path):
    said = pysft("lab", "all", "nothing", "--out", tmp_path / "x")
    assert said.code == 2 and "no experiment is called 'all'" not in said.err


@pytest.mark.parametrize("wrong", ["the folder is a file", "the corpus lacks letters"])
def test_what_cannot_work_is_refused_before_a_base_is_trained(tmp_path, corpus, monkeypatch, wrong):
    def trained(*_):
        raise AssertionError("a base was trained first")

    monkeypatch.setattr(Lab, "_pretrained", trained)
    out = tmp_path / "out"
    if wrong == "the folder is a file":
        out.write_text("")
    else:
        corpus = tmp_path / "small.txt"
        corpus.write_text("to be or not to be\n" * 100)
    said = pysft("lab", "masking", *options(out, corpus))
    assert said.code in (2, 65) and len(said.err.splitlines()) == 1


def test_a_record_says_how_it_was_trained_and_when_measured(lab):
    record = lab.run(experiments._pairs(lab, "x", (), settings={"sft_lr": 3e-5}), 1)
    assert record["settings"] == asdict(replace(lab.settings("seed"), seed=1, sft_lr=3e-5))
    assert [row["step"] for row in record["track"]] == [0, 10] and record["trained_share"] == 1


def test_several_experiments_are_handed_on_with_every_option_and_told_of_by_whoever_began_them(
    tmp_path, corpus, monkeypatch
):
    bases, ground = [], Lab.ground

    def laid(self, preset, seed):
        bases.append((preset, seed))
        return ground(self, preset, seed)

    def here(names, options, jobs, say):
        assert (names, jobs) == (["first-token", "loss-curve"], 2) and bases == [
            ("seed", 1),
            ("tiny", 1),
        ]  # the costly first
        for name in names:
            said = pysft("lab", name, "--part", "--jobs", "1", "--threads", "1", *options)
            assert said.code == 0, said.err
            assert (tmp_path / name / f"{name}.json").is_file() and not (
                tmp_path / "index.html"
            ).exists()

    monkeypatch.setattr(Lab, "ground", laid)
    monkeypatch.setattr(study, "side_by_side", here)
    trained = []
    monkeypatch.setattr(trial, "finetune", lambda *a, **k: trained.append(a) or finetune(*a, **k))
    said = pysft(
        "lab", "loss-curve", "first-token", "--jobs", 2, "--json", *options(tmp_path, corpus)
    )
    assert said.code == 0, said.err
    arms = len(trained)  # nothing was trained again: what was handed on asked for the same trials
    assert [e["name"] for e in strict(said.out)["experiments"]] == [
        "loss-curve",
        "first-token",
    ] and (tmp_path / "index.html").is_file()
    pysft("lab", "loss-curve", "first-token", "--jobs", 1, *options(tmp_path, corpus))
    assert len(trained) == arms == 2
