"""`mask` and `audit`: which tokens are graded, that a masked token has no gradient, and what is
wrong with a data set."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import conversation, pysft, refusal, succeeds
from conftest import ROOT
from texts import say

from pysft.batch import Batch, Example
from pysft.cli import mask as cli_mask
from pysft.cli.main import parser
from pysft.cli.reading import policies, reading_of
from pysft.errors import UsageError
from pysft.jobs.reader import reader_of
from pysft.measure import trace
from pysft.nn import reference
from pysft.text.corpora import read_corpus
from pysft.text.examples import shift
from pysft.text.keys import Reading
from pysft.text.render import render
from pysft.text.templates import CHAT, CHATML
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.training.objectives import Sft
from pysft.training.settings import Settings


def mask(*flags) -> dict:
    """The --json document of `mask`."""
    return succeeds("mask", *flags, "--json").document


# ------------------------------------------------------------------------------------------- mask


def test_mask_shows_ids_and_labels_of_the_source_texts_example():
    document = mask()
    assert document["graded"] == 35
    assert document["text"].startswith("<|user|>Write a greeting<|end|><|assistant|>Good")
    assert document["input_ids"][:6] == [65, 35, 56, 47, 58, 43]
    assert document["labels"][17:20] == [-100, 19, 53]


def test_mask_underlines_what_is_graded():
    lines = succeeds("mask").out.splitlines()
    assert lines[1].strip() == "^" * len("Good morrow to thee, noble friend!<|end|>")
    assert "graded 35 of 53" in lines[-1]


def test_a_system_turn_can_be_masked():
    flags = ("--template", "chatml", "--system", "Be kind", "--user", "Hi", "--assistant", "Yes")
    document = mask(*flags)
    assert document["text"].startswith("<|im_start|>system<|im_sep|>Be kind<|im_end|>")
    assert document["graded"] == len("Yes") + 1


def test_mask_shows_the_probability_and_loss_of_each_graded_position_in_a_run(trained):
    exchange = ("--user", "Speak of the rose", "--assistant", "The rose is fair.")
    document = mask(*exchange, "--run", trained.run)
    masked = [label == -100 for label in document["labels"]]
    assert [p == 0 for p in document["probability"]] == masked
    assert [loss == 0 for loss in document["loss"]] == masked
    for p, loss in zip(document["probability"], document["loss"]):
        if p > 1e-3:  # both are rounded to 6 decimals
            assert loss == pytest.approx(-np.log(p), abs=1e-2)
    assert "probability" in succeeds("mask", "--run", trained.run).out


# The figures of --prove in the order in which they are shown.
PROMISED = (
    *("masked_dlogits", "graded_dlogits", "loss_change"),
    *("gradient_difference", "gradient_unmasked"),
)


@pytest.mark.parametrize(
    "flags", [(), ("--template", "llama2"), ("--ops", "reference"), ("--grade", "everything")]
)
def test_mask_proves_that_a_masked_token_has_no_gradient(flags):
    document = mask("--prove", *flags)
    proof, is_masked = document["proof"], "everything" not in flags
    assert document["proved"] is True
    assert proof["masked_dlogits"] == 0 == proof["loss_change"]
    assert proof["graded_dlogits"] > 1e-3
    assert (proof["gradient_unmasked"] > 0.01) == is_masked
    assert proof["gradient_difference"] < 1e-6
    shown = succeeds("mask", "--prove", *flags).out.splitlines()
    assert shown[-1].startswith("proved" if is_masked else "nothing is masked")
    of = document["proof"]
    heading = f"In a small model with random weights, {of['masked']} of {of['rows']} rows masked:"
    figures = shown[shown.index(heading) + 1 : -1]
    assert [f"{of['graded']:,}" in line for line in figures] == [False] * 5 + [True]
    for name, line in zip(PROMISED, figures):
        assert f"{of[name]:.1e}" in line


def test_the_proof_notices_a_gradient_at_a_masked_row(monkeypatch):
    correct = reference.cross_entropy_backward

    def leaky(dlogits, dnll, logits, lse, labels):
        correct(dlogits, dnll, logits, lse, labels)
        dlogits[labels == -100] = 1e-9

    monkeypatch.setattr(reference, "cross_entropy_backward", leaky)
    result = pysft("mask", "--prove", "--ops", "reference")
    assert result.code == 1
    assert "NOT AS PROMISED" in result.out


PROOF = {"masked_dlogits": 0.0, "loss_change": 0.0, "graded_dlogits": 0.1, "graded": 7}
PROOF |= {"gradient_difference": 9e-6, "formula": 7}


@pytest.mark.parametrize(
    "change, proved",
    [
        ({}, True),
        ({"formula": None}, True),
        ({"formula": 8}, False),
        ({"masked_dlogits": 1e-30}, False),
        ({"loss_change": 1e-30}, False),
        ({"loss_change": -1e-30}, False),
        ({"graded_dlogits": 0.0}, False),
        ({"gradient_difference": 1e-5}, False),
    ],
)
def test_a_proof_holds_only_if_everything_is_as_promised(change, proved):
    assert trace.holds(PROOF | change) is proved


EXCHANGE = say("Write a greeting", "Good morrow!", "And again", "Aye.")


def proof_of(grade="all"):
    """(a small model, an example, what is measured of it)"""
    tokenizer = CharTokenizer(SHAKESPEARE, CHAT.tokens)
    example = Example(*shift(*render(EXCHANGE, tokenizer, CHAT, grade=grade)))
    model = trace.small_model(68, len(example.input_ids), reference)
    return model, example, trace.prove(model, example, EXCHANGE, CHAT, tokenizer, grade)


def test_the_figures_of_a_proof_are_those_of_plain_sums():
    model, example, proof = proof_of()
    graded = example.labels != -100
    rows = len(graded)
    assert (proof["rows"], proof["graded"], proof["masked"]) == (rows, 18, rows - 18)
    assert proof["formula"] == 18 == sum(len(m["content"]) + 1 for m in EXCHANGE[1::2])
    logits = model.logits(example.input_ids, np.array([0, rows], np.int32)).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = example.labels[graded]
    nll = -np.log(p[graded][np.arange(18), labels])
    assert proof["loss"] == pytest.approx(nll.mean(), rel=1e-5)
    change = (p[graded] - np.eye(68)[labels]) / 18
    assert proof["graded_dlogits"] == pytest.approx(np.abs(change).max(1).min(), rel=1e-4)
    probability, loss = trace.walk(model, example)
    assert probability[graded] == pytest.approx(np.exp(-nll), rel=1e-4)
    assert loss[graded] == pytest.approx(nll, rel=1e-4)
    assert not probability[~graded].any() and not loss[~graded].any()


def test_without_the_mask_every_next_token_is_a_target():
    model, example, proof = proof_of()

    def gradient(labels):
        batch = Batch.of([Example(example.input_ids, labels)], 68, model.config.context)
        model.grads.clear()
        model.backward(Sft()(batch, model.forward(batch), Sft().counts(batch))[1])
        return model.grads.flat.astype(np.float64)

    every = np.append(example.input_ids[1:], example.labels[-1]).astype(np.int32)
    assert (every != -100).all()  # the last row is graded: its label is the end token
    masked = gradient(example.labels)
    apart = np.linalg.norm(gradient(every) - masked) / np.linalg.norm(masked)
    assert proof["gradient_unmasked"] == pytest.approx(apart, rel=1e-4) and apart > 0.1


def test_only_where_all_turns_are_graded_a_formula_counts_their_targets():
    assert [proof_of(grade)[2]["formula"] for grade in ("all", "last", "everything")] == [
        *(18, None, None),
    ]
    assert proof_of("last")[2]["graded"] == len("Aye.") + 1


def test_the_small_model_has_room_for_64_rows_or_for_as_many_as_there_are():
    for rows, context in ((1, 64), (64, 64), (65, 65)):
        config = trace.small_model(70, rows, reference).config
        assert (config.vocab, config.context) == (70, context)
        assert (config.layers, config.heads, config.channels) == (2, 2, 32)


def test_mask_shows_the_first_conversations_of_a_file(trained):
    out = succeeds("mask", trained.data).out
    assert out.count("<|user|>") >= 5
    assert "60 conversations" in out


def test_mask_prints_all_conversations_of_a_file_or_that_in_one_line(trained):
    document, one = mask(trained.data), mask(trained.data, "--line", 4)
    conversations = document["conversations"]
    assert len(conversations) == 60
    assert document["graded"] == sum(c["graded"] for c in conversations)
    assert one["text"].count("<|assistant|>") == 2
    assert one["input_ids"] == conversations[3]["input_ids"]


def test_mask_draws_a_picture_and_overwrites_none(trained, workdir):
    mask(trained.data, "--line", 4, "--svg", "mask.svg")
    assert (workdir.path / "mask.svg").read_bytes().startswith(b"<svg")
    workdir.remember()
    refusal(2, "mask", "--svg", "mask.svg")
    assert workdir.is_unchanged()


HI_HO = ("--user", "Hi", "--assistant", "Ho.")


def test_the_mask_of_one_conversation_has_these_lines():
    assert succeeds("mask", *HI_HO).out.splitlines() == [
        "<|user|>Hi<|end|><|assistant|>Ho.<|end|>",
        "                              ^^^^^^^^^^",
        "",
        "position  input           id  label",
        "       0  <|user|>        65   -100                skipped",
        "       1  H               20   -100                skipped",
        "       2  i               47   -100                skipped",
        "       3  <|end|>         67   -100                skipped",
        "       4  <|assistant|>   66     20 H              graded",
        "       5  H               20     53 o              graded",
        "       6  o               53      8 .              graded",
        "       7  .                8     67 <|end|>        graded",
        "",
        "template chat; graded 4 of 8 targets (50%)",
    ]


def test_the_mask_in_a_run_ends_with_the_loss_of_a_graded_token(trained):
    document = mask(*HI_HO, "--run", trained.run)
    out = succeeds("mask", *HI_HO, "--run", trained.run).out.splitlines()
    mean = sum(document["loss"]) / document["graded"]
    assert out[-1] == (
        f"template chat; graded 4 of 8 targets (50%); loss {mean:.3f} nats per graded token"
    )
    figures = [tuple(map(float, line.split()[-3:-1])) for line in out[8:12]]
    expected = zip(document["probability"][4:], document["loss"][4:])
    assert [pytest.approx(pair, abs=6e-4) for pair in expected] == figures


@pytest.mark.parametrize(
    "flags, shown, more",
    [
        ((), 5, "(55 more; --rows 0 shows all, --line N one in full) "),
        (("--rows", 2), 2, "(58 more; --rows 0 shows all, --line N one in full) "),
        (("--rows", 59), 59, "(1 more; --rows 0 shows all, --line N one in full) "),
        (("--rows", 60), 60, ""),
        (("--rows", 99), 60, ""),
        (("--rows", 0), 60, ""),
    ],
)
def test_as_many_conversations_of_a_file_are_shown_as_asked(trained, flags, shown, more):
    document, out = mask(trained.data), succeeds("mask", trained.data, *flags).out.splitlines()
    heads = [line for line in out if line.startswith(str(trained.data))]
    assert heads == [
        f"{trained.data}, line {c['line']}: graded {c['graded']} of {len(c['labels'])}"
        for c in document["conversations"][:shown]
    ]
    assert [c["line"] for c in document["conversations"]] == list(range(1, 61))
    graded, targets = document["graded"], document["targets"]
    assert targets == sum(len(c["labels"]) for c in document["conversations"])
    assert out[-1] == (
        f"{more}60 conversations, template chat; graded {graded:,} of {targets:,} targets"
        f" ({graded / targets:.0%})"
    )


PROOF = {
    **{"masked": 5, "rows": 8, "graded": 1234, "formula": 1234, "masked_dlogits": 0.0},
    **{"graded_dlogits": 0.0123, "loss_change": 0.0, "gradient_difference": 2e-9},
    "gradient_unmasked": 0.45,
}
PROVED = [
    "",
    "In a small model with random weights, 5 of 8 rows masked:",
    "  largest gradient at the logits of a masked row               0.0e+00   promised: exactly 0",
    "  smallest at the logits of a graded row                       1.2e-02   promised: above 0",
    "  change of the loss when all masked rows' logits move         0.0e+00   promised: exactly 0",
    "  gradient of all weights: masked rows computed or skipped     2.0e-09   promised: differs by"
    " rounding only",
    "  gradient of all weights: with or without the mask            4.5e-01   differs by what the"
    " mask keeps out",
    "  graded targets, by the labels                                  1,234   promised: 1,234, by"
    " the formula",
    "proved",
]


@pytest.mark.parametrize(
    "changes, proved, stage, lines",
    [
        ({}, True, None, {}),
        ({}, False, None, {8: "NOT AS PROMISED"}),
        ({}, True, "a stage", {1: "In the run's model, 5 of 8 rows masked:"}),
        (
            {"masked": 0},
            True,
            None,
            {
                1: "In a small model with random weights, 0 of 8 rows masked:",
                8: "nothing is masked here, so there was nothing to prove",
            },
        ),
        (
            {"formula": None},
            True,
            None,
            {7: PROVED[7].partition("promised")[0] + "this --grade has no formula"},
        ),
    ],
)
def test_the_proof_has_a_line_for_each_figure(capsys, changes, proved, stage, lines):
    cli_mask._show_proof({"proof": PROOF | changes, "proved": proved}, stage)
    expected = [lines.get(i, line) for i, line in enumerate(PROVED)]
    assert capsys.readouterr().out.splitlines() == expected


def test_the_picture_of_a_mask_is_named_and_titled(workdir):
    shown = succeeds("mask", *HI_HO, "--svg", "m.svg").out.splitlines()
    assert shown[-1] == "drawn: m.svg"
    assert "chat: 4 of 8 targets graded" in (workdir.path / "m.svg").read_text()


@pytest.mark.parametrize(
    "flags, code, words",
    [
        (("--user", "Hi"), 2, "--user and --assistant go together"),
        (("--assistant", "Hi"), 2, "--user and --assistant go together"),
        (("--line", 1), 2, "--line needs a FILE"),
        (("FILE", "--user", "Hi"), 2, "name a FILE, or --user and --assistant, but not both"),
        (("FILE", "--assistant", "Hi"), 2, "name a FILE, or --user and --assistant"),
        (("FILE", "--system", "Hi"), 2, "name a FILE, or --user and --assistant"),
        (("FILE", "--line", 61), 2, "begins on line 61"),
        (("FILE", "--prove"), 2, "has 60 conversations; choose one by --line N"),
        (("FILE", "--svg", "a.svg"), 2, "has 60 conversations; choose one by --line N"),
        (("--svg", "none/a.svg"), 2, "--svg none/a.svg: cannot be written (No such file"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_the_reason(trained, workdir, flags, code, words):
    flags = [trained.data if flag == "FILE" else flag for flag in flags]
    assert words in refusal(code, "mask", *flags)
    assert workdir.is_unchanged()


def test_a_file_of_one_conversation_is_shown_in_full(workdir):
    workdir.write("one.jsonl", [conversation("Hi", "Ho.")])
    assert succeeds("mask", "one.jsonl").out == succeeds("mask", *HI_HO).out
    assert succeeds("mask", "one.jsonl", "--prove").out.endswith("proved\n")


def test_only_faults_on_the_line_that_is_shown_count(workdir):
    rows = [conversation("Hi", "Ho."), "{", json.dumps({"user": "Go", "deleted": True})]
    workdir.write("bad.jsonl", rows)
    assert succeeds("mask", "bad.jsonl", "--line", 1).out == succeeds("mask", *HI_HO).out
    assert "bad.jsonl, line 2" in refusal(65, "mask", "bad.jsonl", "--line", 2)
    assert "bad.jsonl, line 2" in refusal(65, "mask", "bad.jsonl")


# ------------------------------------------------------------------ what a data set is read with


def flags_of(*words):
    """The arguments of `audit` with these flags."""
    return parser().parse_args(["audit", "x.jsonl", *words])


def stage_of(talks=True, **data):
    """A stage that was trained with these settings of the data."""
    return SimpleNamespace(can_talk=talks, setting=lambda name, usual: data.get(name, usual))


@pytest.mark.parametrize(
    "stage, flags, chosen",
    [
        (None, (), ("all", "refuse")),
        (None, ("--grade", "last", "--unknown", "grow"), ("last", "grow")),
        (stage_of(), (), ("all", "refuse")),
        (stage_of(grade="last", unknown="replace"), (), ("last", "replace")),
        (stage_of(grade="last", unknown="grow"), (), ("last", "refuse")),
        (
            stage_of(grade="last", unknown="replace"),
            ("--grade", "flags", "--unknown", "refuse"),
            ("flags", "refuse"),
        ),
        (stage_of(talks=False, grade="last", unknown="replace"), (), ("all", "refuse")),
        (stage_of(talks=False), ("--unknown", "grow"), ("all", "grow")),
    ],
)
def test_a_data_set_is_graded_as_the_flags_say_else_as_the_run_was_trained(stage, flags, chosen):
    assert policies(flags_of(*flags), stage) == chosen


def test_the_vocabulary_of_a_tuned_run_cannot_be_asked_to_grow():
    with pytest.raises(UsageError, match="which cannot grow"):
        policies(flags_of("--unknown", "grow"), stage_of())


@pytest.mark.parametrize(
    "stage, flags, reading",
    [
        (None, (), Reading()),
        (
            None,
            ("--ignore", "a,b", "--ignore", "c", "--lang", "en", "--no-synthetic"),
            Reading(("a", "b", "c"), "en", False),
        ),
        (stage_of(), (), Reading()),
        (stage_of(ignore=["a"], lang="de", synthetic=False), (), Reading(("a",), "de", False)),
        (
            stage_of(ignore=["a"], lang="de", synthetic=True),
            ("--ignore", "b", "--lang", "", "--no-synthetic"),
            Reading(("b",), "", False),
        ),
    ],
)
def test_rows_are_read_as_the_flags_say_else_as_the_run_read_them(stage, flags, reading):
    found = reading_of(flags_of(*flags), stage)
    assert (tuple(found.ignore), found.lang, found.synthetic) == (
        tuple(reading.ignore),
        reading.lang,
        reading.synthetic,
    )


def test_without_a_run_a_data_set_is_read_as_a_training_from_scratch_would(trained):
    plays, own = reader_of(None, None, None), reader_of(None, str(trained.corpus), "chatml")
    assert (plays.template, own.template) == (CHAT, CHATML)
    for reader in (plays, own):
        assert reader.context == Settings().model.context == 256 and reader.stage is None
        assert reader.tokens == reader.template.tokens + reader.template.tool_tokens
        assert not reader.tokenizer.special
    text = trained.corpus.read_text()
    assert plays.tokenizer.can_write(read_corpus("plays")) and own.tokenizer.can_write(text)
    assert len(own.tokenizer) == len(set(text))


def test_with_a_run_a_data_set_is_read_as_that_was(trained):
    tuned, base = reader_of(str(trained.run), None, None), reader_of(
        str(trained.run / "base"), None, None)  # fmt: skip
    for reader, name in ((tuned, "sft"), (base, "base")):
        assert reader.stage.name == name and reader.template == CHAT
        assert reader.tokenizer == reader.stage.tokenizer and reader.context == 64
    assert tuned.tokens == () and base.tokens == CHAT.tokens + CHAT.tool_tokens
    assert reader_of(str(trained.run), None, "chat").template == CHAT  # it is the run's own
    with_other = reader_of(str(trained.run / "base"), None, "chatml")
    assert with_other.template == CHATML
    assert with_other.tokens == CHATML.tokens + CHATML.tool_tokens
    for run, corpus, template, words in (
        (trained.run, "plays", None, "--run has its own vocabulary; leave --corpus out"),
        (trained.run / "base", "plays", None, "--run has its own vocabulary"),
        (trained.run, None, "chatml", "it was trained with template 'chat'; leave --template out"),
    ):
        with pytest.raises(UsageError, match=words):
            reader_of(str(run), corpus, template)


# ------------------------------------------------------------------------------------------ audit


@pytest.fixture
def bad_rows(workdir):
    """A row that is not JSON, an empty reply, the same good row twice, and an unknown character."""
    exchanges = [("Hi", ""), ("Hi", "Ho."), ("Hi", "Ho."), ("Go", "a@b")]
    return workdir.write("bad.jsonl", ["{", *(conversation(*texts) for texts in exchanges)])


def test_audit_names_the_line_of_every_fault(trained, bad_rows):
    result = pysft("audit", "bad.jsonl", "--corpus", trained.corpus)
    assert (result.code, result.err) == (65, "")
    for line in (1, 2, 4, 5):
        assert f"bad.jsonl, line {line}" in result.out


def test_each_finding_of_audit_has_its_place_its_fault_and_a_remedy(bad_rows):
    document = pysft("audit", "bad.jsonl", "--json").document
    assert document["errors"] == 3
    findings = document["findings"]
    assert {finding["severity"] for finding in findings} == {"error", "warning"}
    assert all(finding["where"] and finding["what"] and finding["remedy"] for finding in findings)


def test_audit_writes_the_rows_that_can_be_trained_on(bad_rows):
    result = pysft("audit", "bad.jsonl", "--fix", "good.jsonl")
    assert result.code == 65
    counts = "1 rows; removed 1 exact duplicates and 3 that cannot be trained on"
    assert f"good.jsonl: {counts}" in result.out
    succeeds("audit", "good.jsonl", "--strict")


def test_a_warning_is_exit_1_with_strict_alone(workdir):
    workdir.write("twice.jsonl", [conversation("Hi", "Ho.")] * 2)
    succeeds("audit", "twice.jsonl")
    assert pysft("audit", "twice.jsonl", "--strict").code == 1


def test_the_shipped_data_have_no_findings():
    assert "none: clean" in succeeds("audit", "--strict").out


def test_eight_findings_of_a_kind_are_shown_or_all_of_them(workdir):
    rows = [conversation(f"Ask {a}{b}", f" Yes {a} and {b}. ") for a in "abcdef" for b in "xyz"]
    workdir.write("many.jsonl", rows)
    short = succeeds("audit", "many.jsonl", "--no-overlap").out
    full = succeeds("audit", "many.jsonl", "--no-overlap", "--all").out
    assert short.count("warning: blanks: many.jsonl") == 8
    assert "warning: blanks: 10 more" in short
    assert "--all" in short
    assert full.count("warning: blanks: many.jsonl") == 18
    assert "10 more" not in full


def test_audit_reads_a_pipe(trained):
    command = f"cat {trained.data} | {sys.executable} -m pysft audit /dev/stdin --json"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 60


@pytest.mark.parametrize("unknown, shown", [("replace", "?"), ("grow", "8")])
def test_mask_and_audit_treat_unknown_characters_as_training_would(workdir, unknown, shown):
    workdir.write("mine.jsonl", [conversation("At 8", "Fine."), conversation("Hm", "")])
    refusal(65, "mask", "mine.jsonl", "--line", 1)
    flags = ("--unknown", unknown)
    audit = pysft("audit", "mine.jsonl", *flags, "--fix", "fixed.jsonl", "--json")
    assert audit.code == 65
    assert (audit.document["errors"], audit.document["fixed"]["kept"]) == (1, 1)
    assert "At 8" in (workdir.path / "fixed.jsonl").read_text()  # the text is kept as it was
    assert mask("mine.jsonl", "--line", 1, *flags)["text"].startswith("<|user|>At " + shown)


def test_audit_refuses_unknown_characters_unless_told_what_to_do_with_them(workdir):
    workdir.write("mine.jsonl", [conversation("At 8", "Fine.")])
    assert pysft("audit", "mine.jsonl").code == 65
    succeeds("audit", "mine.jsonl", "--unknown", "grow")
