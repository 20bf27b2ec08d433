"""The lab's arms on invented worlds: their bases, what they are asked, and what is measured."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import in_process
from small_lab import SCALE

from pysft.cli import lab as cli_lab
from pysft.errors import DataError
from pysft.lab import lab as lab_module
from pysft.lab import parallel, records, table, worlds
from pysft.lab.experiments import EXPERIMENTS
from pysft.lab.experiments.world import SIX_SHUFFLED, WIDER, people, world_arm
from pysft.lab.lab import Lab
from pysft.lab.told import Told, text_of
from pysft.lab.worlds import bits_of, judge_of_world, knowledge, probe_of
from pysft.measure import world as measured
from pysft.training.settings import Settings
from pysft.world.ask import questions, trained_questions
from pysft.world.facts import WorldSettings, make

pytestmark = pytest.mark.usefixtures("small_lab")


# ---------------------------------------------------------------------------------------- bases


@pytest.fixture
def bases(lab, monkeypatch):
    """base(told, changes, seed): the folder's name of a base. bases.trained: how often one was
    trained; none of them is trained in earnest."""
    made = []

    def pretrained(folder, settings, world):
        made.append((settings, world))
        return lab_module.Stage(folder, lab_module.GPT(settings.model.shape(2)), None, None, {})

    monkeypatch.setattr(lab, "_pretrained", pretrained)
    monkeypatch.setattr(lab_module, "save_stage", lambda stage: stage.folder.mkdir(parents=True))
    monkeypatch.setattr(
        lab_module, "load_stage", lambda folder, ops: SimpleNamespace(folder=folder, model=Model())
    )
    monkeypatch.setattr(lab_module, "corpus_loss", lambda *_: 1.0)

    class Model:
        def release(self):
            pass

    def base(told=None, changes=None, seed=1, preset="tiny"):
        return lab.base(preset, seed, "float32", told, changes).stage.folder.name

    return SimpleNamespace(base=base, made=made)


def test_a_base_has_another_name_if_anything_that_it_reads_changes(bases):
    told = Told(people(1))
    found = {
        "no world": bases.base(),
        "world": bases.base(told),
        "another world": bases.base(Told(people(2))),
        "seed": bases.base(told, seed=2),
        "people": bases.base(Told(people(1, people=21))),
        "tellings": bases.base(Told(people(1, tellings=(8, 9)))),
        "wordings": bases.base(Told(people(1), wordings=1)),
        "order": bases.base(Told(people(1), shuffled=False)),
        "channels": bases.base(told, {"model": {"channels": 32}}),
        "steps": bases.base(told, {"base": {"steps": 900}}),
        "rate": bases.base(told, {"base": {"lr": 1e-3}}),
        "windows of the world": bases.base(told, {"base": {"world": ((64, 2),)}}),
        "no world, wider": bases.base(None, {"model": {"channels": 32}}),
    }
    assert len({*found.values()}) == len(found) == len(bases.made)
    assert {name.rsplit("-", 2)[0] for name in found.values()} == {"tiny", "tiny-world"}


def test_arms_that_only_ask_otherwise_share_a_base(bases):
    [name] = {
        bases.base(Told(people(1, **more))) for more in ({}, {"refusals": True}, {"strangers": 400})
    }
    assert len(bases.made) == 1 and name.startswith("tiny-world-1-")


def test_each_seed_has_a_base_of_its_own_if_it_reads_of_a_world_and_else_shares_one(bases):
    told = Told(people(1))
    assert bases.base(seed=3) == bases.base() and bases.base(told, seed=3) != bases.base(told)
    assert [settings.seed for settings, _ in bases.made] == [1, 3, 1]


def test_a_bases_changes_are_scaled_and_its_world_is_the_text_that_is_told(bases, lab):
    told = Told(people(1), wordings=1)
    changes = {"base": {"steps": 1300, "world": ((64, 2),)}, "model": {"channels": 32}}
    bases.base(told, changes)
    [(settings, world)] = bases.made
    assert settings.stages["base"].steps == 13 and settings.model.channels == 32
    assert lab.tokenizer.decode(world) == text_of(told) and settings.world == told.world


def test_a_world_is_part_of_the_names_of_trials_and_an_arm_without_one_has_its_old_name(
    lab, monkeypatch
):
    found = []
    monkeypatch.setattr(lab_module, "stored", lambda folder, d, make: found.append(d) or {})
    monkeypatch.setattr(lab, "_base_of", lambda arm, seed: lab.base("tiny", 1))
    told = Told(people(1))
    arm = world_arm(lab, "x", told)
    lab.run(arm, 1)
    assert found[0]["settings"]["world"] == told.world.to_json() | {"tellings": (8,)}
    assert found[0]["settings"]["sft"]["world"] == ((256, 6),)
    assert found[0]["hooks"] == ["judge_of_world", "knowledge"]
    plain = Settings()
    assert "world" not in records.relevant(plain)
    assert not any("world" in t for t in records.relevant(plain).values() if isinstance(t, dict))


def test_a_corpus_that_lacks_letters_of_the_world_is_refused(lab):
    told = Told(WorldSettings(people=20, days=1, tellings=(2,)))
    lab.tokenizer = lab.tokenizer.__class__("abc \n")
    with pytest.raises(DataError, match="the invented world"):
        lab.base("tiny", 1, "float32", told)


# -------------------------------------------------------------------------------- what is asked


def test_some_of_the_trained_and_all_of_the_sealed_questions_are_in_a_probe():
    world = make(people(1, refusals=True))
    asked = trained_questions(world)
    probe = probe_of("To be.", world, asked)
    assert [p["prompt"] for p in probe.prompts] == [q.prompt for q in questions(world, "sealed")]
    known = {q.prompt: q.answer for q in asked}
    assert all(known[prompt] == reply for prompt, reply in probe.pairs)
    assert len({*map(tuple, probe.pairs)}) == 6 and probe.heldout_text == "To be."
    refused = [reply for _, reply in probe.pairs if "know not" in reply]
    assert 0 < len(refused) < 6  # they are spread over the questions
    assert len(probe_of("To be.", world, asked[:4]).pairs) == 4


def test_along_the_way_a_model_is_asked_six_trained_and_six_sealed_questions(lab, monkeypatch):
    arm = world_arm(lab, "x", Told(people(1)))

    class End:
        stop = "end"

    def answer(model, tokenizer, template, prompts):
        return [(f"To {prompt}", End) for prompt in prompts]

    monkeypatch.setattr(worlds, "answer", answer)
    monkeypatch.setattr(worlds, "corpus_loss", lambda model, tokenizer, text: len(text))
    shown, replies = judge_of_world(None, None, arm)
    assert shown == {"tuned_base_loss": len(lab.heldout_text)}
    assert [row[0] for row in replies["pairs"]] == [prompt for prompt, _ in arm.probe.pairs]
    sealed = [row[0] for row in replies["prompts"]]
    every = [p["prompt"] for p in arm.probe.prompts]
    assert len(sealed) == 6 and every.index(sealed[5]) > len(every) * 2 / 3
    assert replies["prompts"][0] == (sealed[0], f"To {sealed[0]}", "end")


# ----------------------------------------------------------------------------- what is measured


def known(monkeypatch, settings: WorldSettings, reply) -> dict:
    """What knowledge() finds of a model that replies to a question as reply(question) says."""
    world = make(settings)
    asked = {q.prompt: q for q in questions(world, "sealed")}

    class End:
        stop = "end"

    def answer(model, tokenizer, template, prompts):
        return [(reply(asked[p]), End) for p in prompts]

    monkeypatch.setattr(measured, "answer", answer)
    monkeypatch.setattr(measured, "known_bits", lambda *_: bits_of(world) / 4)
    model = SimpleNamespace(params=np.zeros(8))
    return knowledge(model, None, SimpleNamespace(told=Told(settings)), 1)


FALSE = {"pet": "toad", "trade": "cooper", "street": "Salt Row", "dish": "eel soup"}


def test_right_answers_count_by_tellings_in_wordings_of_training_and_by_hops(monkeypatch):
    settings = people(1, people=60, tellings=(8, 64), relations=2)

    def reply(q):
        if q.new_wording or q.hops == 0:
            return "Hm?" if q.new_wording else "I know not that name."
        if q.hops == 2:
            return q.answer if q.fact == "pet" else ""
        return q.answer if q.tellings == 64 else ""

    found = known(monkeypatch, settings, reply)
    assert (found["right_64"], found["right_8"]) == (1, 0) and 0.4 < found["right"] < 0.6
    assert found["malformed"] == pytest.approx(1 - found["right"])
    assert found["two_hops"] == 1 / 4  # of four attributes; relations do not count
    assert found["new_wordings"] == 0 and found["held"] == 1 / 4
    assert (found["strangers_refused"], found["strangers_wrong"]) == (1, 0)


def test_strangers_are_names_that_nobody_has_and_not_people_of_whom_nothing_is_told(monkeypatch):
    settings = people(1, people=60, tellings=(0, 4))
    world = make(settings)

    def reply(q):
        if q.about in world.strangers and q.fact in FALSE:
            return f"{q.about} has {FALSE[q.fact]}."
        return "I know not that name."

    found = known(monkeypatch, settings, reply)
    assert (found["strangers_refused"], found["strangers_wrong"]) == (0, 1)
    assert found["refused"] == 1 and found["two_hops"] is None and found["right_4"] == 0


def test_the_bits_of_a_world_are_four_for_each_attribute_that_is_told():
    assert bits_of(make(people(1, relations=2))) == 20 * 4 * 4
    untold = people(1, people=60, tellings=(0, 4))
    told = [e for e in make(untold).entities if e.tellings]
    assert bits_of(make(untold)) == len(told) * 4 * 4 and 20 <= len(told) <= 40


# ------------------------------------------------------------------------------- from end to end


def options(folder, corpus):
    return ["--seeds", 2, "--scale", SCALE, "--out", folder, "--corpus", corpus, "--threads", 1]


def test_the_arms_of_hops_share_a_base_for_each_seed_that_is_trained_once(
    tmp_path, corpus, monkeypatch
):
    pretrained, trained = Lab._pretrained, []
    monkeypatch.setattr(
        Lab, "_pretrained", lambda self, folder, *a: trained.append(folder.name) or
        pretrained(self, folder, *a),
    )  # fmt: skip
    code, out, err = in_process("lab", "hops", "--json", *options(tmp_path / "lab", corpus))
    assert code == 0, err
    [document] = json.loads(out)["experiments"]
    assert len(trained) == len({*trained}) == 2 == len(os.listdir(tmp_path / "lab" / "bases"))
    assert sorted(name.rsplit("-", 1)[0] for name in trained) == ["tiny-world-1", "tiny-world-2"]
    trials = [json.loads(p.read_text()) for p in (tmp_path / "lab" / "trials").iterdir()]
    assert len(trials) == 6 and {t["settings"]["world"]["seed"] for t in trials} == {1, 2}
    assert all(t["seed"] == t["settings"]["world"]["seed"] for t in trials)
    assert all(len(t["samples"]) == 12 for t in trials)
    assert document["base_loss"] == {} and len({*document["arms"]}) == 3
    assert "corpus text.txt, and for each seed a world and bases of its own" in table.text(document)
    loss = document["arms"]["whole trace"]["base loss"]
    assert len({*loss["values"]}) == 2


def test_the_same_arm_in_two_experiments_is_trained_once(lab, monkeypatch):
    made = []
    monkeypatch.setattr(lab_module, "carry_out", lambda trial, *_: made.append(trial) or {})
    first = [arm for arm in EXPERIMENTS["wordings"].arms(lab, 1) if arm.name == SIX_SHUFFLED]
    second, with_refusals = EXPERIMENTS["hallucination"].arms(lab, 1)
    for arm in (*first, second):
        lab.run(arm, 1)
    assert len(made) == 1
    lab.run(with_refusals, 1)
    assert len(made) == 2 and made[0].base is made[1].base


def test_a_wider_arm_has_a_wider_model_and_says_so(lab):
    [arm] = [arm for arm in EXPERIMENTS["knowledge"].arms(lab, 1) if arm.name == WIDER]
    record = lab.run(arm, 1)
    assert record["settings"]["model"]["channels"] == 128
    assert lab._base_of(arm, 1).stage.model.config.channels == 128
    assert record["finish"]["right_1024"] == 0 and record["base_loss"] > 0


def test_experiments_on_a_world_alone_need_no_base_of_a_preset(monkeypatch, lab):
    prepared = []
    monkeypatch.setattr(parallel, "prepare_bases", lambda lab, seeds: prepared.append(seeds))
    monkeypatch.setattr(parallel, "side_by_side", lambda parts, jobs, say: None)
    args = SimpleNamespace(
        seeds=3, out="x", corpus="plays", ops="kernels", scale=1.0, retrain_base=False
    )
    screen = SimpleNamespace(say=None)
    cli_lab._side_by_side(lab, ["hops", "knowledge"], args, 2, screen)
    assert prepared == []
    cli_lab._side_by_side(lab, ["hops", "masking"], args, 2, screen)
    assert prepared == [3]
