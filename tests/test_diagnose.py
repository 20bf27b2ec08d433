"""Each failure mode of the source text, and a seventh, brought about by training, is named; nothing
is found in a healthy run."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from pysft.cli.diagnose import text
from pysft.errors import DataError, MissingInput
from pysft.lab.arm import Arm, standard
from pysft.lab.lab import Lab
from pysft.lab.variants import exchange
from pysft.measure.diagnose import RULES, Finding, diagnose, findings
from pysft.nn import kernels
from pysft.training.flat import tuning

PLAIN = {"windows": (), "pairs": 0, "lr": 3e-3}
SOURCE = {
    "windows": (),
    "pairs": 16,
    "schedule": "constant",
    "warmup": 0,
    "replacement": True,
    "decay_all": True,
    "clip": 0.0,
    "beta2": 0.999,
    "decay": 0.01,
}
SCALE = 0.2
# Each trains for a minute, and all need a base: `make torture` runs them. The rules are tested on
# figures, below.
long = pytest.mark.skipif("PYSFT_PROVOKE" not in os.environ, reason="PYSFT_PROVOKE=1 trains longer")
MODES = [
    "ignores the format",
    "gibberish",
    "memorises",
    "writes the user's part",
    "good on training prompts only",
    "forgets",
    "repeats itself",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A lab whose base is trained for a fifth of its steps, which is enough for real words."""
    return Lab(tmp_path_factory.mktemp("lab"), "plays", kernels.on_threads(), SCALE)


def figures(record):
    """The figures that the report of a finished run would have."""
    return record["track"][-1] | {
        "sft_loss_start": record["losses"][0],
        "sft_loss": float(np.mean(record["losses"][-20:])),
    }


def modes(lab, steps, settings, talks, pairs=(), recalled=None, at=(20, 60), **more):
    settings = settings | {"steps": round(steps / SCALE)}
    probe = lab.probe([*talks, *pairs], recalled or talks[:40], 256)
    arm = Arm(
        "provoked",
        "tiny",
        probe,
        settings,
        tuple(talks),
        tuple(pairs),
        at=[round(s / SCALE) for s in at],
        **more,
    )
    record = lab.run(arm, 1)
    found = findings(figures(record), record["track"], tuning(record["settings"], "sft"))
    assert all(isinstance(f, Finding) and f.figure and f.cause and f.fix for f in found)
    return {f.mode: f for f in found}


def single(lab):
    return [c for c in lab.conversations if len(c.messages) == 2]


def brief(lab, longest):
    """The exchanges whose reply begins with a clause of at most so many characters, with that
    clause alone. So little to write is learnt in seconds."""
    exchanges = [
        (c.prompt, re.split("[,;:.!?]", c.replies()[0])[0] + ".", i)
        for i, c in enumerate(single(lab))
    ]
    return [exchange(*parts) for parts in exchanges if 10 < len(parts[1]) <= longest + 1]


@long
def test_nothing_is_found_in_a_healthy_run(lab):
    found = modes(lab, 350, {"decay": 0.3}, brief(lab, 22), lab.pairs, lab.pairs)
    assert not found, found


@long
def test_a_run_of_too_few_steps_answers_and_stops_but_repeats_itself(lab):
    found = modes(lab, 200, {}, brief(lab, 30), lab.pairs, lab.pairs)
    assert list(found) == ["repeats itself"]
    assert "training replies have 99%" in found["repeats itself"].figure


@long
def test_after_too_few_steps_at_too_low_a_rate_the_model_ignores_the_format(lab):
    found = modes(lab, 12, PLAIN | {"lr": 1e-5}, lab.conversations)
    assert list(found) == ["ignores the format"]
    assert "fallen by less than half" in found["ignores the format"].cause


@long
def test_missing_end_tokens_are_another_cause_than_too_few_steps(lab):
    def without_end(conversation, tokenizer, settings):
        e = standard(conversation, tokenizer, settings)
        return replace(e, input_ids=e.input_ids[:-1], labels=e.labels[:-1])

    found = modes(lab, 150, PLAIN, single(lab)[:30], encode=without_end, at=())
    assert "not where to stop" in found["ignores the format"].cause


@long
def test_too_high_a_rate_gives_gibberish_in_the_right_format(lab):
    found = modes(lab, 150, SOURCE | {"lr": 1e-2}, (), lab.pairs, lab.pairs, at=())
    assert {"gibberish", "forgets"} <= set(found) and "ignores the format" not in found
    assert "0.01" in found["gibberish"].cause


@long
def test_a_few_replies_are_memorised_in_many_epochs(lab):
    few = [
        exchange(c.prompt, lab.conversations[i % 6].replies()[0], i + 1)
        for i, c in enumerate(single(lab)[:80])
    ]
    found = modes(lab, 150, PLAIN, few, at=())
    assert {"memorises", "forgets"} <= set(found)


@long
def test_many_epochs_on_a_few_prompts_lead_to_overfitting_and_forgetting(lab):
    found = modes(lab, 250, PLAIN, single(lab)[:40])
    assert {"good on training prompts only", "forgets"} <= set(found)
    assert "no base text was mixed in" in found["forgets"].cause


@long
def test_without_ends_and_without_a_mask_the_model_writes_the_users_part(lab):
    def unmasked_and_endless(conversation, tokenizer, settings):
        """Everything is graded, and no reply has its end token."""
        e = standard(conversation, tokenizer, settings)
        tokens = np.append(e.input_ids, tokenizer.special["<|end|>"]).astype(np.int32)
        replies = np.cumsum(tokens == tokenizer.special["<|assistant|>"]) - np.cumsum(
            tokens == tokenizer.special["<|user|>"]
        )
        kept = tokens[~((tokens == tokenizer.special["<|end|>"]) & (replies == 0))]
        return replace(e, input_ids=kept[:-1], labels=kept[1:])

    several = [c for c in lab.conversations if len(c.messages) > 2]
    found = modes(
        lab,
        120,
        PLAIN | {"grade": "everything"},
        several,
        recalled=single(lab)[:10],
        encode=unmasked_and_endless,
    )
    assert "writes the user's part" in found
    assert "nothing was masked" in found["writes the user's part"].cause


# -------------------------------------------------------------------------------------- the rules

HEALTHY = {
    "prompts": 61,
    "stopped_unseen": 1.0,
    "content": 1.0,
    "no_user_turn": 1.0,
    "real_words": 0.99,
    "distinct_words": 0.95,
    "distinct_words_greedy": 0.8,
    "recall": 1.0,
    "verbatim_replies": 0,
    "origins": {"verbatim": 0, "near copy": 0, "spliced": 3, "new": 58, "empty": 0},
    "heldout_loss": 1.4,
    "forgetting": -0.03,
    "sft_loss_start": 2.3,
    "sft_loss": 1.0,
}
TRACK = [{"step": s, "heldout_loss": h} for s, h in ((0, 2.3), (100, 1.5), (200, 1.4))]
SETTINGS = {"lr": 5e-3, "steps": 200, "windows": [[256, 4]], "grade": "all"}

TABLES = {"data": {"grade": "all"}, "sft": {k: v for k, v in SETTINGS.items() if k != "grade"}}


def only(**changes):
    found = findings(HEALTHY | changes, TRACK, SETTINGS)
    assert len(found) <= 1
    return found[0].mode if found else None


@pytest.mark.parametrize(
    "change, mode",
    [
        ({}, None),
        ({"stopped_unseen": 0.5}, None),
        ({"stopped_unseen": 0.49}, "ignores the format"),
        ({"real_words": 0.85}, None),
        ({"real_words": 0.849}, "gibberish"),
        ({"real_words": None}, None),
        ({"origins": {"verbatim": 10, "near copy": 5, "spliced": 3, "new": 43}}, None),
        ({"origins": {"verbatim": 10, "near copy": 5, "spliced": 4, "new": 42}}, "memorises"),
        ({"origins": {}, "verbatim_replies": 19}, "memorises"),
        ({"no_user_turn": 0.95}, None),
        ({"no_user_turn": 0.94}, "writes the user's part"),
        ({"heldout_loss": 1.69}, None),
        ({"heldout_loss": 1.71}, "good on training prompts only"),
        ({"heldout_loss": 1.71, "recall": 0.79}, None),
        ({"heldout_loss": 1.71, "recall": 0.8}, "good on training prompts only"),
        ({"heldout_loss": None}, None),
        ({"forgetting": 0.1}, None),
        ({"forgetting": 0.101}, "forgets"),
        ({"forgetting": None}, None),
        ({"distinct_words": 0.75}, None),
        ({"distinct_words": 0.749}, "repeats itself"),
        ({"distinct_words_greedy": 0.5}, None),
        ({"distinct_words_greedy": 0.499}, "repeats itself"),
        ({"distinct_words": None, "distinct_words_greedy": None}, None),
        # Replies to learn from that repeat themselves are no fault of the training.
        ({"distinct_words": 0.6, "trained_distinct_words": 0.7}, None),
        ({"distinct_words": 0.59, "trained_distinct_words": 0.7}, "repeats itself"),
        ({"distinct_words_greedy": 0.4, "trained_distinct_words": 0.5}, None),
        ({"distinct_words_greedy": 0.39, "trained_distinct_words": 0.5}, "repeats itself"),
        # A reply without an end goes round sooner or later.
        ({"distinct_words": 0.1, "stopped_unseen": 0.49}, "ignores the format"),
        (
            {
                "prompts": 0,
                "stopped_unseen": None,
                "content": None,
                "no_user_turn": None,
                "real_words": None,
                "distinct_words": None,
                "distinct_words_greedy": None,
            },
            None,
        ),
    ],
)
def test_each_rule_has_its_own_limit(change, mode):
    assert only(**change) == mode


def test_there_is_a_rule_for_each_of_the_six_failure_modes_and_for_repetition():
    bad = HEALTHY | {
        "stopped_unseen": 0.6,
        "real_words": 0.1,
        "no_user_turn": 0.1,
        "heldout_loss": 5.0,
        "forgetting": 2.0,
        "origins": {"verbatim": 61},
        "distinct_words": 0.3,
    }
    assert [f.mode for f in findings(bad, TRACK, SETTINGS)] == MODES[1:] and len(RULES) == 7
    assert [f.mode for f in findings(bad | {"stopped_unseen": 0.0}, TRACK, SETTINGS)][0] == MODES[0]


def test_repetition_is_shown_beside_what_is_usual_in_the_replies_trained_on():
    sick = HEALTHY | {"distinct_words": 0.61, "distinct_words_greedy": 0.32}
    [found] = findings(sick, TRACK, SETTINGS)
    assert all(share in found.figure for share in ("61%", "32% greedy", "75%", "50%"))
    assert "training replies" not in found.figure
    assert "(200)" in found.cause and "(0.005)" in found.cause and "--sft-steps" in found.fix
    [found] = findings(sick | {"trained_distinct_words": 0.951}, TRACK, SETTINGS)
    assert "training replies have 95%" in found.figure


def test_a_run_measured_by_an_earlier_version_is_not_judged_by_its_repetition():
    older = {name: v for name, v in HEALTHY.items() if not name.startswith("distinct")}
    assert findings(older, TRACK, SETTINGS) == []


def test_missing_end_tokens_are_counted_where_the_census_of_the_data_has_them():
    data = {"end_tokens_graded": 3, "turns": 40, "epochs": {"pairs": 400.0}}
    found = findings(HEALTHY | {"stopped_unseen": 0.1}, TRACK, SETTINGS, data)
    assert "3 of 40 turns" in found[0].cause


def test_a_reply_that_does_not_stop_is_looked_at_before_the_mask():
    sick = HEALTHY | {"no_user_turn": 0.2, "stopped_unseen": 0.6}
    found = {f.mode: f for f in findings(sick, TRACK, SETTINGS)}
    assert "first find out why it does not stop" in found["writes the user's part"].cause


def finding(mode, changes, settings=SETTINGS, track=TRACK, **more):
    """The finding of a mode in a run that is healthy but for these changes; None without it."""
    found = {f.mode: f for f in findings(HEALTHY | changes, track, settings, **more)}
    return found.get(mode)


@pytest.mark.parametrize(
    "changes, is_found",
    [
        ({"content": 0.5}, True),
        ({"content": 0.49}, False),  # a model that says nothing does not complete text
        ({"content": None}, False),
        ({"stopped_unseen": None}, False),
        ({"prompts": 0}, False),
    ],
)
def test_a_model_ignores_the_format_only_if_it_says_something(changes, is_found):
    found = finding("ignores the format", {"stopped_unseen": 0.1} | changes)
    assert (found is not None) is is_found


@pytest.mark.parametrize(
    "losses, data, cause",
    [
        ((2.3, 1.14), {}, "the loss has fallen, so the model has learned something, but not"),
        ((2.3, 1.15), {}, "too few steps (200) or too low a learning rate (0.005): the loss has"),
        ((2.3, None), {}, "too few steps (200) or too low a learning rate (0.005)$"),
        ((None, 0.1), {}, "too few steps (200) or too low a learning rate (0.005)$"),
        ((2.3, 0.1), {"turns": 4}, "the loss has fallen"),
        ((2.3, 0.1), {"turns": 4, "end_tokens_graded": 4}, "the loss has fallen"),
        ((2.3, 0.1), {"end_tokens_graded": 4}, "the loss has fallen"),
        ((2.3, 0.1), {"turns": 4, "end_tokens_graded": 3}, "only 3 of 4 turns have a graded"),
    ],
)
def test_the_cause_of_completed_text_is_what_the_losses_and_the_census_say(losses, data, cause):
    sick = {"stopped_unseen": 0.1, "sft_loss_start": losses[0], "sft_loss": losses[1]}
    found = finding("ignores the format", sick, data=data)
    assert (found.cause + "$").startswith(cause)
    fix = "--sft-steps" if "too few" in cause else "audit FILE" if "only" in cause else "mask FILE"
    assert fix in found.fix


def test_epochs_are_named_where_they_are_known_and_where_they_are_many():
    for epochs, named in (({"a": 20.0, "b": 1.0}, ""), ({"a": 1.0, "b": 21.0}, " (21 epochs)")):
        found = finding("gibberish", {"real_words": 0.5}, data={"epochs": epochs})
        assert f"too long a training{named}:" in found.cause
    copies = {"origins": {"verbatim": 61}}
    for epochs, named in (({}, ""), ({"a": 0.5, "b": 3.0}, " (3)")):
        found = finding("memorises", copies, data={"epochs": epochs})
        assert found.cause == f"too many epochs{named} on too small a data set"


def test_only_replies_that_stop_are_judged_by_their_words():
    for stopped, is_found in ((0.5, True), (0.49, False), (None, False)):
        sick = {"stopped_unseen": stopped, "real_words": 0.1, "distinct_words": 0.1}
        for mode in ("gibberish", "repeats itself"):
            assert (finding(mode, sick) is not None) is is_found


def test_each_kind_of_memorised_reply_counts_and_without_origins_the_verbatim_ones_do():
    for verdict in ("verbatim", "near copy", "spliced"):
        assert finding("memorises", {"origins": {verdict: 19}}).figure.startswith("19 of 61 ")
    assert finding("memorises", {"origins": {"new": 40, "empty": 21}}) is None
    assert finding("memorises", {"origins": None, "verbatim_replies": 19}) is not None
    assert finding("memorises", {"origins": {}, "verbatim_replies": 18}) is None
    assert finding("memorises", {"origins": {"verbatim": 61}, "prompts": None}) is None


def test_the_rate_is_the_one_asked_for_unless_no_step_came_near_it():
    for reached, said in (
        (None, "(0.005)"),
        (0.00496, "(0.005)"),
        (0.00495, "(0.005 was asked for, but no step had more than 0.00495)"),
    ):
        assert said in finding("forgets", {"forgetting": 0.5}, reached=reached).cause
    assert "(as it is now)" in finding("forgets", {"forgetting": 0.5}, settings={}).cause


def test_the_users_part_has_another_cause_where_nine_in_ten_replies_stop_and_without_a_mask():
    mode = "writes the user's part"
    for stopped, ends in ((0.89, True), (0.9, False), (None, False)):
        found = finding(mode, {"no_user_turn": 0.5, "stopped_unseen": stopped})
        assert ("runs past the end of its reply" in found.cause) is ends
        assert ("the user's words were graded" in found.cause) is not ends
        assert "--grade" not in found.cause + found.fix and "mask FILE --line 1" in found.fix
    found = finding(mode, {"no_user_turn": 0.5}, SETTINGS | {"grade": "everything"})
    assert found.cause.endswith("; also, nothing was masked (--grade everything)")
    assert found.fix.startswith("leave out --grade everything; check")
    assert finding(mode, {"no_user_turn": None}) is None
    assert finding(mode, {"no_user_turn": 0.5, "prompts": 0}) is None


def test_held_out_loss_is_compared_with_the_lowest_checkpoint_that_measured_it():
    low = {"step": 1100, "heldout_loss": 1.0}
    mode, sick = "good on training prompts only", {"heldout_loss": 1.3125, "recall": 0.9}
    found = finding(mode, sick, track=[*TRACK, low])
    assert found.figure == (
        "90% of the trained pairs are recalled, but held-out loss is 1.31, 0.31 nats more than at"
        " step 1,100 (limit: 0.3)"
    )
    for other in (
        low | {"step": 0},
        low | {"heldout_loss": None},
        low | {"heldout_conversations": 0},
    ):
        assert finding(mode, sick, track=[*TRACK, other]) is None
    assert finding(mode, sick, track=[low | {"heldout_conversations": 1}]) is not None
    assert finding(mode, sick, track=[low, TRACK[-1]]) is not None
    assert finding(mode, sick, track=[]) is None
    assert finding(mode, sick | {"recall": None}, track=[low]) is None


def test_forgetting_has_another_fix_where_base_text_was_mixed_in():
    found = finding("forgets", {"forgetting": 0.5})
    assert found.fix.startswith("mix in more base text, train") and "mixed in" not in found.cause
    found = finding("forgets", {"forgetting": 0.5}, SETTINGS | {"windows": []})
    assert found.fix.startswith("mix in base text (--set 'sft.windows=[[256,4]]', as in")
    assert found.cause.endswith(", and no base text was mixed in")


def test_one_of_two_shares_of_distinct_words_is_not_enough_to_judge():
    for name in ("distinct_words", "distinct_words_greedy"):
        assert finding("repeats itself", {"distinct_words": 0.1} | {name: None}) is None


def test_a_fix_names_the_flags_of_the_stage_that_was_diagnosed():
    sick = {"distinct_words": 0.1, "real_words": 0.1}
    for stage, steps, rate in (
        ("sft", "(--sft-steps)", "(--lr)"),
        ("sft-2", "(--set sft-2.steps=...)", "(--set sft-2.lr=...)"),
    ):
        assert steps in finding("repeats itself", sick, stage=stage).fix
        assert rate in finding("gibberish", sick, stage=stage).fix


# --------------------------------------------------------------------------------------- a folder


def write(folder, name, data):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(data if isinstance(data, str) else json.dumps(data))


def test_a_folder_is_diagnosed_finished_or_not(tmp_path):
    folder = tmp_path / "sft"
    rows = [
        json.dumps(HEALTHY | row | {"forgetting": f, "samples": []})
        for row, f in zip(TRACK, (0.0, 0.2, 0.3))
    ]
    write(folder, "measurements.jsonl", "\n".join(rows) + "\n")
    write(tmp_path, "run.json", {"settings": TABLES})
    document = diagnose(folder)
    assert not document["finished"] and [f["mode"] for f in document["findings"]] == ["forgets"]
    assert "not of the finished" in text(document) and "+30.0%" in text(document)
    assert "1 of the seven failure modes shows" in text(document)
    write(folder, "report.json", HEALTHY)
    write(folder, "settings.json", {"settings": TABLES})
    then = diagnose(folder, TRACK[-1]["step"])  # as it was at its last checkpoint
    assert not then["finished"] and [f["mode"] for f in then["findings"]] == ["forgets"]
    with pytest.raises(MissingInput, match="nothing was measured at step 1"):
        diagnose(folder, 1)
    document = diagnose(folder)
    assert document["finished"] and document["findings"] == []
    assert "none of the seven" in text(document)
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize(
    "own, parent, shown",
    [
        (TABLES, {"sft": {"lr": 0.7}}, "(0.005)"),
        (None, {"sft": {"lr": 0.7}}, "(0.7)"),  # a run that was not finished
        ({}, {"sft": {"lr": 0.7}}, "(0.7)"),
        (None, None, "(as it is now)"),
    ],
    ids=["its own", "the run's", "its own are empty", "none"],
)
def test_a_stage_is_judged_by_its_own_settings_and_without_them_by_the_runs(
    tmp_path, own, parent, shown
):
    """run.json may hold those of another command, which trained on from this stage."""
    write(tmp_path / "sft", "report.json", HEALTHY | {"forgetting": 0.2})
    for name, settings in (("sft/settings.json", own), ("run.json", parent)):
        if settings is not None:
            write(tmp_path, name, {"settings": settings})
    [found] = diagnose(tmp_path / "sft")["findings"]
    assert found["mode"] == "forgets" and shown in found["cause"]


def test_a_folder_without_measurements_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(MissingInput):
        diagnose(tmp_path)
    write(tmp_path, "report.json", {"loss": 1.0})
    with pytest.raises(MissingInput, match="a base model"):
        diagnose(tmp_path)
    write(tmp_path, "report.json", HEALTHY | {"stopped_unseen": "most"})
    with pytest.raises(DataError, match="not as this program writes them"):
        diagnose(tmp_path)


def test_a_diagnosis_reads_the_rates_the_data_and_the_stage_of_its_folder(tmp_path):
    folder = tmp_path / "a run" / "sft-2"
    sick = HEALTHY | {"origins": {"verbatim": 61}, "stopped_unseen": 0.1, "forgetting": 0.5}
    rows = [{"step": s, "heldout_loss": 1.0, **sick} for s in (10, 20)]
    write(folder, "measurements.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    step = {"figures": {}, "loss": 1.0, "norm": 1.0, "tokens": 1, "seconds": 1.0}
    rates = ((5, 1e-4), (10, 1e-3), (15, 2e-3), (16, None))
    log = [step | {"step": at, "lr": rate} for at, rate in rates]
    write(folder, "log.jsonl", "".join(json.dumps(row) + "\n" for row in log))
    write(folder, "data.json", {"turns": 4, "end_tokens_graded": 3})
    tables = {"data": {"grade": "all"}, "sft-2": {"lr": 4e-3, "steps": 20}}
    write(folder, "settings.json", {"settings": tables})
    for data, file in ((["my talks.jsonl", "b.jsonl"], "'my talks.jsonl'"), (None, ".jsonl")):
        write(folder.parent, "run.json", {"settings": {}, "data": data})
        found = {f["mode"]: f for f in diagnose(folder)["findings"]}
        assert file in found["ignores the format"]["fix"]
        assert "only 3 of 4 turns" in found["ignores the format"]["cause"]
    assert found["memorises"]["fix"].endswith(f"pysft select '{folder.parent}'")
    assert "(20)" in found["forgets"]["cause"]
    assert "no step had more than 0.002)" in found["forgets"]["cause"]
    found = {f["mode"]: f for f in diagnose(folder, 10)["findings"]}
    assert "no step had more than 0.001)" in found["forgets"]["cause"]


def test_the_document_of_a_diagnosis_has_its_stage_its_figures_and_what_was_not_measured(tmp_path):
    names = "stopped_unseen format_compliance real_words distinct_words distinct_words_greedy"
    names = [*names.split(), "origins", "no_user_turn", "recall", "heldout_loss", "forgetting"]
    known = HEALTHY | {"format_compliance": 0.97}
    write(tmp_path, "report.json", known)
    healthy = {
        **{"stage": str(tmp_path), "finished": True, "rules": 7, "findings": []},
        "figures": {name: known[name] for name in names},
    }
    assert diagnose(tmp_path) == healthy
    reason = "the training replies are written in Thai"
    write(tmp_path, "report.json", known | {"words_unmeasured": reason})
    assert diagnose(tmp_path) == healthy | {"words_unmeasured": reason}
    write(tmp_path, "report.json", {"recall": 0.5})  # enough to tell it from a base
    assert diagnose(tmp_path)["figures"] == dict.fromkeys(names) | {"recall": 0.5}
    write(tmp_path, "report.json", {"stopped_unseen": 0.5})
    assert diagnose(tmp_path)["findings"] == []
