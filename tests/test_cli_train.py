"""`train`, `pretrain` and `eval`: their figures, their settings, and a base that was trained
before."""

import io
import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import (
    CONVERSATIONS,
    SHORT_TUNING,
    conversation,
    pysft,
    read_lines,
    refusal,
    succeeds,
    toml,
)
from conftest import as_toml

from pysft.cli import eval as cli_eval
from pysft.cli import show
from pysft.console import Screen
from pysft.jobs import train as train_job
from pysft.jobs.begin import describe
from pysft.jobs.compare import Sides
from pysft.jobs.pretrain import announce
from pysft.measure import sections, wording
from pysft.measure.provenance import RULE
from pysft.nn import safetensors
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.training import values
from pysft.training.presets import resolve

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

# The names in the --json document of train and eval. Others rely on them.
FIGURES = set(
    "run preset params base_loss tuned_base_loss forgetting sft_loss_start sft_loss heldout_loss"
    " recall recall_of stopped format_compliance on_topic on_topic_chance real_words"
    " distinct_replies verbatim_replies graded_targets targets end_tokens_graded turns tokens_per_s"
    " repeats_prompt distinct_words_greedy distinct_words distinct_pairs on_topic_chat"
    " real_words_chat trained_reply_length trained_distinct_words trained_distinct_pairs sealed"
    " seconds weights_sha256".split()
)
SHARES = (
    "recall stopped format_compliance on_topic on_topic_chance real_words repeats_prompt"
    " distinct_words_greedy distinct_words distinct_pairs on_topic_chat real_words_chat"
    " trained_distinct_words trained_distinct_pairs".split()
)

# Every name in every document that a command prints or a run stores.
MEASURED = (
    "tuned_base_loss heldout_loss heldout_conversations recall recall_of stopped prompts"
    " format_compliance content stopped_unseen no_user_turn reply_length distinct_replies"
    " verbatim_replies by_domain in_domain_prompts on_topic on_topic_chance repeats_prompt"
    " real_words distinct_words_greedy distinct_words distinct_pairs on_topic_chat real_words_chat"
    " trained_reply_length trained_distinct_words trained_distinct_pairs forgetting"
)
GRADED = "graded_targets targets end_tokens_graded turns"
MODEL = "run params precision weights_sha256 base_loss seconds"
FOLLOWED = "preset grown_base_loss sft_loss_start sft_loss tokens_per_s sealed origins parent"
STAGE_SETTINGS = "model settings parent inputs"
TEMPLATE = "name turns parts tokens tool_tokens"
VOCABULARY = "kind characters specials"
PROBE = "heldout_text pairs prompts heldout known_words training_replies corpus_text sealed"
LOG = "step loss figures norm lr graded_tokens tokens seconds tokens_per_s"
TUNED = f"{MODEL} {MEASURED} {GRADED} {FOLLOWED}"
OF_BASE = f"{MODEL} stage tokens_per_s tokens text_characters world_characters"
OF_TUNED = f"{TUNED} stage trained_params peak_memory training_seconds"
MASKED = "input_ids labels graded text"
DOCUMENTS = {
    "run.json": "verb corpus data base ops isa sha256 settings template",
    "base/settings.json": STAGE_SETTINGS,
    "base/template.json": TEMPLATE,
    "base/vocabulary.json": VOCABULARY,
    "base/evaluation.json": PROBE,
    "base/report.json": OF_BASE,
    "base/log.jsonl": LOG,
    "sft/settings.json": STAGE_SETTINGS,
    "sft/template.json": TEMPLATE,
    "sft/vocabulary.json": VOCABULARY,
    "sft/evaluation.json": PROBE,
    "sft/report.json": OF_TUNED,
    "sft/log.jsonl": LOG,
    "sft/before.json": "parent talks rows chat",
    "sft/samples.json": "pairs prompts heldout sealed",
    "sft/data.json": "conversations pairs heldout notes epochs tokens prompt_length reply_length"
    f" categories {GRADED}",
    "sft/measurements.jsonl": f"step sft_loss samples {MEASURED}",
    "sft/steps/10/settings.json": STAGE_SETTINGS,
    "sft/steps/10/template.json": TEMPLATE,
    "sft/steps/10/vocabulary.json": VOCABULARY,
    "train": OF_TUNED,
    "pretrain TEXT --out OUT": OF_BASE,
    "eval RUN": f"{TUNED} before_after chat samples",
    "eval RUN/base": MODEL,
    "eval RUN --matched": f"{TUNED} before_after chat samples matched_base_loss"
    " forgetting_matched",
    "chat RUN -p Hi": "prompt reply stop tokens tokens_per_s",
    "generate RUN --tokens 2": "prompt reply stop tokens tokens_per_s",
    "select RUN": "criteria agree disagree rows",
    "diagnose RUN": "stage finished figures findings rules",
    "rate RUN": "marked left steps seed ratings",
    "report RUN": "run report",
    "info": "version isa isas precisions threads openmp compiler numpy python",
    "info RUN": "run stages",
    "guide": "pages",
    "guide data": "name title text",
    "lesson": "lessons",
    "lesson 6": "number title minutes needs exercise functions text",
    "lesson 9 --walk": "number title text",
    "lesson teachers": "name text",
    "lab": "experiments",
    "mask": MASKED,
    "mask --prove": f"{MASKED} proof proved",
    "mask --run RUN": f"{MASKED} probability loss",
    "mask DATA": "graded targets conversations",
    "audit DATA": "files rows trainable left_out keys_not_read characters_changed turns errors"
    " warnings kinds context template grade characters tables tokens too_long prompt_length"
    " reply_length max_new graded_targets targets graded_share prompt_types categories identities"
    " corpus_overlap fixed findings",
}  # fmt: skip
LISTED = {  # of a document's name, the names in each thing of a list in it
    "info RUN": (
        "stages",
        "stage folder in_run finished damaged steps symbols params precision weights_sha256 parent"
        " parent_folder parent_found",
    ),
    "guide": ("pages", "name title"),
    "lesson": ("lessons", "number title minutes needs exercise functions done"),
    "mask DATA": ("conversations", f"line {MASKED}"),
    "diagnose RUN": ("findings", "mode symptom figure cause fix"),
    "select RUN": ("rows", f"step sft_loss samples mark marks {MEASURED}"),
}


def run_record(run) -> dict:
    """What a run was begun with."""
    return json.loads((run / "run.json").read_text())


# ------------------------------------------------------------------------------------ its figures


def test_train_prints_one_json_document_with_every_figure(trained):
    assert FIGURES <= trained.report.keys()
    assert len(trained.result.out.splitlines()) == 1
    assert "step" in trained.result.err  # the progress


@pytest.fixture(scope="module")
def measured(trained):
    """A run like `trained` that is measured on the way."""
    command = ["train", *trained.inputs, "--checkpoint-every", 5, "--out", trained.folder / "on"]
    return trained.folder / "on", succeeds(*command, "--json").document


def stored_in(run) -> dict:
    """Every JSON document of a run by its path from there; of JSON lines the last one."""
    alone = {path: json.loads(path.read_text()) for path in run.rglob("*.json")}
    last = {path: read_lines(path)[-1] for path in run.rglob("*.jsonl")}
    return {path.relative_to(run).as_posix(): found for path, found in (alone | last).items()}


def test_every_document_has_these_names_and_no_others(trained, measured, monkeypatch):
    """Programs of other people read them, and so do other versions of this one."""
    run, report = measured
    monkeypatch.setattr("sys.stdin", None)  # rate then has nobody to ask
    found = stored_in(run) | {"train": report}
    named = {name for name in found if "/steps/5/" not in name}
    assert named <= DOCUMENTS.keys()
    given = {"RUN": [run], "RUN/base": [run / "base"], "DATA": [trained.data]}
    given |= {"TEXT": trained.text, "OUT": [trained.folder / "alone"]}
    for command in DOCUMENTS.keys() - named:
        words = [given.get(word, [word]) for word in command.split()]
        found[command] = pysft(*itertools.chain(*words), "--json").document
    for name, names in DOCUMENTS.items():
        assert sorted(found[name]) == sorted(names.split()), name
    for name, (within, names) in LISTED.items():
        assert found[name][within], name
        for one in found[name][within]:
            assert sorted(one) == sorted(names.split()), (name, within)


def test_the_report_names_the_run_its_preset_and_its_weights(trained):
    assert trained.report["run"] == str(trained.run)
    assert trained.report["preset"] == "tiny"
    assert len(trained.report["weights_sha256"]) == 64
    tensors, _ = safetensors.load(trained.run / "sft" / "model.safetensors")
    assert trained.report["params"] == sum(int(np.prod(a.shape)) for a in tensors.values())


def test_the_report_counts_targets_of_the_conversations_that_are_not_held_out(trained):
    heldout = json.loads((trained.run / "sft" / "evaluation.json").read_text())["heldout"]
    asked = {messages[0]["content"] for messages in heldout}
    kept = [texts for texts in CONVERSATIONS if texts[0] not in asked]
    assert (len(heldout), len(kept)) == (6, 54)  # a tenth is held out
    report = trained.report
    assert report["turns"] == report["end_tokens_graded"] == 54 + 1
    replies = [reply for texts in kept for reply in texts[1::2]]
    assert report["graded_targets"] == sum(len(reply) + 1 for reply in replies)
    rows = sum(len(text) + 2 for texts in kept for text in texts)  # with both control tokens
    assert report["targets"] == rows - len(kept)  # the first token of all is no target


def test_the_figures_of_the_report_are_in_their_ranges(trained):
    report = trained.report
    assert report["recall_of"] == 40
    assert all(0 <= report[name] <= 1 for name in SHARES)
    assert report["heldout_loss"] > 0
    assert report["base_loss"] < np.log(65)
    assert report["sft_loss_start"] > report["sft_loss"] > 0
    rise = report["tuned_base_loss"] / report["base_loss"] - 1
    assert report["forgetting"] == pytest.approx(rise)


def test_train_prints_settings_size_memory_mask_progress_and_figures(trained, workdir):
    out = succeeds("train", *trained.inputs, "--out", "run").out
    report = trained.report
    for text in (
        "channels 16", "[sft] steps 10",  # the resolved settings
        "weights", "MiB",
        f"graded {report['graded_targets']:,} of {report['targets']:,} targets",
        "end tokens graded: 55 of 55 turns",
        "tokens/s", "left",
        "nats/char", "forgetting", "recalled", "format compliance",
        "never saw", "base:", "tuned:",  # replies to unseen prompts, side by side
        report["weights_sha256"][:16],
    ):  # fmt: skip
        assert text in out, text


def test_eval_measures_the_figures_that_train_reported(trained):
    result = succeeds("eval", trained.run, "--json")
    assert result.err == ""
    assert len(result.out.splitlines()) == 1
    assert FIGURES <= result.document.keys()
    for name in FIGURES - {"seconds", "run"}:
        assert result.document[name] == trained.report[name], name
    assert "forgetting" in succeeds("eval", trained.run).out


def test_every_figure_that_train_or_eval_reports_has_a_wording_under_its_own_name(trained):
    files = [json.loads((trained.run / f"{s}/report.json").read_text()) for s in ("base", "sft")]
    printed = [succeeds("eval", trained.run / s, "--json").document for s in ("base", "sft")]
    names = {
        name
        for report in (trained.report, *files, *printed)
        for name, value in report.items()
        if isinstance(value, (int, float)) or value is None and name != "parent"
    }
    # Only an eval with --matched has these two.
    assert names == wording.FIGURES.keys() - {"matched_base_loss", "forgetting_matched"}
    assert wording.COMPARED.keys() <= names
    (by_domain,) = trained.report["by_domain"].values()
    assert wording.DOMAIN_COLUMNS.keys() <= by_domain.keys()
    forms = [
        *wording.FIGURES.values(),
        *wording.COMPARED.values(),
        *wording.DOMAIN_COLUMNS.values(),
    ]
    assert {form for _, form in forms} <= {*wording.FORMS, ""}


def test_every_spread_on_the_page_is_in_the_data_of_a_run_under_its_own_name(trained):
    data = json.loads((trained.run / "sft/data.json").read_text())
    for name, label in sections.SPREADS.items():
        assert data[name].keys() >= {"min", "median", "p95", "max"}
        assert label in (trained.run / "report.html").read_text()


def test_eval_of_the_base_measures_its_loss(trained):
    base = succeeds("eval", trained.run / "base", "--json").document
    assert base["base_loss"] == trained.report["base_loss"]
    assert base["weights_sha256"] != trained.report["weights_sha256"]
    assert f"{base['base_loss']:.3f}" in succeeds("eval", trained.run / "base").out


@pytest.mark.parametrize(
    "flags, same", [((), True), (("--seed", 2), False), (("--threads", 2), True)]
)
def test_pretrain_depends_on_the_seed_and_not_on_the_threads(trained, workdir, flags, same):
    report = succeeds("pretrain", *trained.text, "--out", "base", "--json", *flags).document
    assert report.keys() >= set("run params base_loss tokens_per_s seconds weights_sha256".split())
    base = succeeds("eval", trained.run / "base", "--json").document
    assert (report["weights_sha256"] == base["weights_sha256"]) == same


def test_the_shipped_pairs_train_at_the_source_texts_context(workdir, without_figures):
    config = workdir.write(
        "pairs.toml", toml(data={"shipped": "pairs"}, sft={"pairs": 16, "replacement": True})
    )
    report = succeeds("train", "--config", config, "--out", "run", "--json").document
    assert (report["turns"], report["recall_of"]) == (40, 40)
    assert report["targets"] > report["graded_targets"] > 0
    assert report["heldout_loss"] > 0


def test_prompts_longer_than_the_context_do_not_stop_a_training(trained, workdir):
    config = workdir.write("short.toml", toml(model={"context": 32}))
    data = workdir.write("one.jsonl", [conversation("Go", "Aye.")])
    command = ["train", "--config", config, "--corpus", trained.corpus, "--data", data]
    report = succeeds(*command, "--out", "run", "--json").document
    assert report["heldout_loss"] is None  # of a single conversation nothing is held out


def test_training_works_without_a_compiler(trained, workdir):
    config = workdir.write("few.toml", toml(base={"steps": 2}))
    command = ["pretrain", "--config", config, "--corpus", trained.corpus, "--json"]
    kernels, reference = (
        succeeds(*command, "--ops", ops, "--out", ops).document for ops in ("kernels", "reference")
    )
    assert reference["base_loss"] == pytest.approx(kernels["base_loss"], rel=1e-5)


# ---------------------------------------------------------------------------- what the screen shows


def screened(print_it, *arguments) -> list[str]:
    """The lines that a function prints on the screen that is its last argument."""
    screen = Screen(json=False)
    screen.stream, screen.live = io.StringIO(), False
    print_it(*arguments, screen)
    return screen.stream.getvalue().splitlines()


ASKED = [
    ["Hi", "Ho\nhum", "Yes", "end", True],
    ["Go", "on", "No\nway", "length", True],
    ["Who", "me", "You\n.", "end", False],
]
IN_TOWN = [
    {
        "about": "held out",
        "question": "Who?",
        "stop": "length",
        "parts": [
            {"type": "search", "text": "Elka"},
            {"type": "result", "text": "A\nB"},
            {"type": "text", "text": "She"},
        ],
    },
    {"about": "nobody", "question": "And?", "stop": "end", "parts": []},
]


def test_the_replies_of_a_base_and_of_the_tuned_model_are_shown_side_by_side():
    assert screened(show.side_by_side, Sides("base", False, ASKED, IN_TOWN)) == [
        "",
        "base model (completes, temperature 0.8)  ->  tuned model (answers as chat writes)",
        "",
        "  prompts it was trained on",
        "  'Hi'",
        "      base:  HiHo / hum ...",
        "      tuned: Yes",
        "  'Go'",
        "      base:  Goon ...",
        "      tuned: No / way [no end token]",
        "",
        "  prompts it never saw",
        "  'Who'",
        "      base:  Whome ...",
        "      tuned: You / .",
        "",
        "  a chat about the town, half of whose facts were in training",
        "  'Who?' (held out)",
        "      tuned: [search: Elka]  <- a call: the model pauses",
        "             [result: A / B]  <- injected by the program",
        "             She [no end token]",
        "  'And?' (nobody)",
        "      tuned:",
    ]


def test_the_replies_of_a_parent_that_talks_are_shown_as_they_are():
    assert screened(show.side_by_side, Sides("sft", True, ASKED[1:], [])) == [
        "",
        "sft model (answers)  ->  tuned model (answers as chat writes)",
        "",
        "  prompts it was trained on",
        "  'Go'",
        "       sft:  on",
        "      tuned: No / way [no end token]",
        "",
        "  prompts it never saw",
        "  'Who'",
        "       sft:  me",
        "      tuned: You / .",
    ]
    assert screened(show.side_by_side, Sides("sft", True, [], [])) == []


# A report in which no two figures are alike.
REPORT = {
    **{"base_loss": 1.5, "tuned_base_loss": 1.625, "forgetting": 1 / 12},
    **{"sft_loss_start": 2.5, "sft_loss": 0.75, "heldout_loss": 0.875, "recall": 0.9},
    **{"recall_of": 39, "stopped": 0.96, "format_compliance": 0.94, "prompts": 61},
    **{"distinct_replies": 57, "verbatim_replies": 3, "on_topic": 0.421, "on_topic_chance": 0.103},
    **{"in_domain_prompts": 19, "repeats_prompt": 0.13, "real_words": 0.981},
    **{"distinct_words": 0.912, "distinct_words_greedy": 0.823, "trained_distinct_words": 0.934},
    "sealed": {"prompts": 8, "on_topic": 0.31, "real_words": 0.972, "distinct_words": 0.901}
    | {"format_compliance": 0.875},
    "origins": {"new": 50, "verbatim": 3, "spliced": 8},
    **{"graded_targets": 12345, "targets": 67890, "tokens_per_s": 43210.4, "seconds": 98.6},
    **{"params": 1234567, "weights_sha256": "0123456789abcdef0123"},
}
TABLE = [
    "",
    "base text, nats/char     1.500 -> 1.625   (forgetting +8.3%)",
    "fine-tuning loss, nats   2.500 -> 0.750",
    "held-out conversations   0.875 nats per graded token",
    "recalled word for word   35 of 39, stopped 96%",
    "format compliance        94% of 61 unseen prompts, 57 distinct, 3 from training",
    "on topic                 42.1% of 19 unseen in-domain prompts (chance 10.3%); 13% of replies"
    " repeat four words in a row",
    "real words               98.1%",
    "distinct words           91.2% as chat writes, greedy 82.3% (training replies 93.4%)",
    "sealed prompts           on topic 31.0%, real words 97.2%, distinct words 90.1%, in format"
    " 87.5%",
    "memorised?               3 verbatim, 8 spliced, 50 new",
    "graded targets           12,345 of 67,890",
    "training                 43,210 tokens/s; this command took 99 s",
    "weights                  1,234,567, SHA-256 0123456789abcdef",
]


def test_the_table_has_a_line_for_each_figure_in_this_order():
    assert screened(show.table, REPORT) == TABLE


def test_the_table_has_lines_for_tools_a_parent_and_what_was_not_measured():
    tools = {
        **{"answered": 0.81, "answered_of": 640, "town_answered": 0.62, "answered_without": 0.03},
        **{"called": 0.99, "queried": 0.88, "refused": 0.77, "refused_of": 150},
        **{"refused_first": 0.66, "refused_last": 0.55, "quiet": 0.98, "quiet_of": 61},
    }
    parent = {"stage": "sft", "recall": 0.5, "on_topic": None, "tuned_base_loss": 1.75}
    more = {"base_loss_unit": "byte", "forgetting_matched": -0.02, "words_unmeasured": "no spaces"}
    changed = {"recall": None, "sealed": {}, "base_loss": None, "forgetting": None}
    shown = screened(show.table, REPORT | more | changed | {"tools": tools, "parent": parent})
    assert shown[1] == "base text, nats/byte     - -> 1.625   (forgetting -, matched -2.0%)"
    assert shown[2:4] == TABLE[2:4] and shown[5:9] == TABLE[5:9]
    assert shown[4] == "recalled word for word   0 of 39, stopped 96%"
    assert shown[9:12] == [
        "words                    no spaces",
        "sealed prompts           -",
        TABLE[10],
    ]
    assert [line[:25].strip() for line in shown[12:15]] == [
        "tools: held-out facts",
        "tools: unknown names",
        "tools: ordinary prompts",
    ]
    assert shown[15:18] == TABLE[11:]
    assert shown[18:] == [
        "",
        "compared with its parent, sft:",
        "  recalled word for word                           50.0% -> -",
        "  format compliance                                - -> 94.0%",
        "  on topic                                         - -> 42.1%",
        "  real words                                       - -> 98.1%",
        "  distinct words, as chat writes                   - -> 91.2%",
        "  held-out conversations, nats per graded token    - -> 0.875",
        "  base text, nats/byte                             1.750 -> 1.625",
        "  characters of a reply                            - -> -",
    ]


BY_DOMAIN = {
    "in": {
        **{"prompts": 19, "format_compliance": 0.95, "on_topic": 0.421, "on_topic_chance": 0.103},
        **{"real_words": 0.99, "distinct_replies": 18, "verbatim_replies": 1},
    },
    "out": {"prompts": 7, "format_compliance": 0.9, "real_words": 0.88, "distinct_replies": 6},
}
BY_DOMAIN_SHOWN = [
    "",
    "unseen prompts:",
    "  domain  prompts  format compliance  on topic  by chance  real words  distinct replies"
    "  from training",
    "  in           19              95.0%     42.1%      10.3%       99.0%                18"
    "              1",
    "  out           7              90.0%         -          -       88.0%                 6"
    "              -",
    "  In: subjects that were trained on, in new words. Near and out: subjects that were not, close"
    " to those and far from them.",
]


def test_the_unseen_prompts_are_shown_by_domain_with_the_parts_of_format_compliance():
    report = {"by_domain": BY_DOMAIN, "prompts": 26}
    parts = {"content": 1.0, "stopped_unseen": 0.96, "no_user_turn": 0.92}
    assert screened(show.domains, report | parts) == [
        *BY_DOMAIN_SHOWN,
        "  Format compliance has three parts: content 100%, end token 96%, no stray control token"
        " 92%.",
    ]
    assert screened(show.domains, report | parts | {"prompts": 0}) == BY_DOMAIN_SHOWN


def test_a_reply_is_shown_with_the_lines_about_its_origin_and_one_rule_for_all():
    origin = {"verdict": "verbatim"}
    other = {"verdict": "new", "shared_replies": 5, "shared_corpus": 0, "similarity": 0}
    shown = screened(show.provenance, [("Hi", "Ho", "end", origin), ("Go", "On", "length", other)])
    assert shown[:9] == [
        "",
        "  'Hi'",
        "    Ho",
        "    origin: verbatim",
        "",
        "  'Go'",
        "    On [no end token]",
        "    origin: new",
        "            longest shared stretch: 5 characters with a training reply, under 16 with the"
        " corpus",
    ]
    assert shown[9] == "" and " ".join(shown[10:]) == RULE
    assert screened(show.provenance, []) == []


@pytest.mark.parametrize("word, width", [("ab", 110), ("x", 109)])
def test_the_rule_of_origins_is_broken_into_lines_of_at_most_110_columns(monkeypatch, word, width):
    monkeypatch.setattr(show, "RULE", " ".join([word] * 99))
    shown = screened(show.provenance, [("Hi", "Ho", "end", {"verdict": "empty"})])
    assert max(map(len, shown)) == width


def described(settings, corpus="plays"):
    """The lines about the settings of a run."""
    material = SimpleNamespace(train_text="x" * 1234, heldout_text="x" * 56, world_text="")
    return screened(lambda screen: describe(screen, settings, Path("runs/a"), corpus, material))


def test_a_run_begins_with_all_its_settings_and_of_a_further_stage_what_differs():
    chain = resolve("tiny", flags={"sft-2": {"lr": 1e-4}}, stages=["base", "sft", "sft-2", "sft-3"])
    lines = described(chain)
    assert lines[0] == "settings: preset tiny, seed 1"
    assert lines[-1] == ("run: runs/a; corpus: plays (1,234 characters to train on, 56 held out)")
    text = " ".join(line.strip() for line in lines[1:-1])
    tables = re.findall(r"\[([\w-]+)\] (.*?)(?= \[[a-z]+(?:-\d)?\] |$)", text)
    found = dict(tables)
    assert list(found) == ["model", "data", "base", "sft", "sft-2", "sft-3"]
    assert found["sft-2"] == "as [sft], lr 0.0001" and found["sft-3"] == "as [sft]"
    stored = chain.to_json()
    for name in ("model", "data", "base", "sft"):
        for key, value in stored[name].items():
            shown = value if isinstance(value, str) and value else values.as_toml(value)
            assert f"{key} {shown}" in found[name], (name, key)
    assert "lang ''" in found["data"] and "template chat," in found["data"]
    assert max(map(len, lines)) <= 110 and lines[2].startswith("[data] ")
    assert lines[3].startswith("  ")


@pytest.mark.parametrize("word, width", [("x", 109), ("y" * 108, 110)])
def test_the_settings_are_broken_into_lines_of_at_most_110_columns(word, width):
    table = {"a": " ".join([word] * 199)}
    document = {"preset": "tiny", "seed": 1, "model": table}
    lines = described(SimpleNamespace(stages={}, to_json=lambda: document))
    assert max(map(len, lines[2:-1])) == width


def said_by(result) -> list[str]:
    """What a training said on the way, without its settings, memory, progress and figures."""
    lines = itertools.takewhile(bool, result.err.splitlines())
    left_out = ("settings:", "[", "  ", "memory:", "base  step", "sft  step", "sft-2  step")
    return [line for line in lines if not line.startswith(left_out)]


def test_a_training_says_what_it_does_in_this_order(trained):
    report = trained.report
    base = json.loads((trained.run / "base/report.json").read_text())
    run, data, conversations, first, measured, tuned, last = said_by(trained.result)
    assert run == (
        f"run: {trained.run}; corpus: {trained.corpus} (10,800 characters to train on, 1,200 held"
        " out)"
    )
    assert data.startswith("data: template chat; graded: every assistant turn; ")
    assert conversations.startswith("conversations: 54 (6 more held out); graded ")
    assert first == (
        f"base: {base['params']:,} weights (1 blocks, 16 channels, 2 heads, context 64)"
    )
    assert measured == (
        f"base: {base['base_loss']:.3f} nats/char on the held-out tail, {base['seconds']:.0f} s"
    )
    assert tuned == (
        f"sft: vocabulary 65 -> 68 (mean rows; base text now {report['grown_base_loss']:.3f}):"
        f" {report['params']:,} weights (1 blocks, 16 channels, 2 heads, context 64)"
    )
    assert last == "measuring sft ..."
    assert len([line for line in trained.result.err.splitlines() if "memory: at most" in line]) == 1


def test_a_fine_tuning_says_which_base_it_counts_forgetting_from(trained, workdir):
    config = workdir.write("short.toml", SHORT_TUNING)
    command = ["train", "--config", config, "--data", trained.data, "--corpus", trained.corpus]
    loss = f"{trained.report['base_loss']:.3f} nats/char on the held-out tail"
    base, sft = trained.run / "base", trained.run / "sft"
    for given, words in (
        (base, f"base: {base}, {loss}"),
        (sft, f"base: {base}, under {sft}, {loss}"),
    ):
        said = said_by(succeeds(*command, "--base", given, "--out", given.name, "--json"))
        assert said[3] == words and "measuring " in said[-1] and len(said) == 6
    grown = f"{trained.report['tuned_base_loss']:.3f}"
    assert said[4].startswith(f"sft-2: vocabulary of 68, as in sft (base text {grown}): ")


def test_adapters_are_announced_with_their_weights_and_share(trained, workdir):
    flags = ("--lora", 2, "--lora-matrices", "qkv", "fc", "--out", "run")
    result = succeeds(*trained.fine_tuning(trained.data, *flags))
    [line] = [line for line in said_by(result) if "LoRA" in line]
    count = result.document["trained_params"]
    assert count == 2 * (16 + 48 + 16 + 64) + 2 * 3 * 16  # and three rows, read and written
    assert re.fullmatch(
        rf"sft: LoRA of rank 2 on qkv, fc: {count} weights are trained \(\d+\.\d\d%\), new rows"
        r" included\. The others stay frozen",
        line,
    )


def test_a_corpus_of_one_symbol_gives_no_forgetting_and_the_training_says_so(trained, workdir):
    corpus = workdir.write("one.txt", "a" * 2000)
    command = ["train", "--config", trained.config, "--corpus", corpus, "--unknown", "grow"]
    result = succeeds(*command, "--data", trained.data, "--out", "run", "--json")
    note = f"{corpus}: it has one symbol alone, which every model predicts, so the loss on base"
    assert [line.startswith(note) for line in said_by(result)].count(True) == 1
    assert not any("one symbol" in line for line in said_by(trained.result))


@pytest.mark.parametrize("precision, more", [("float32", ")"), ("bf16", ", products in bf16)")])
def test_a_model_is_announced_with_its_shape(precision, more):
    config = GPTConfig(65, 64, 3, 2, 16, precision=precision)
    counts = []
    shown = screened(lambda screen: counts.append(announce(screen, "base: new", config)))
    [params] = counts
    assert params == GPT(replace(config, precision="float32")).params.size
    assert shown == [
        f"base: new: {params:,} weights (3 blocks, 16 channels, 2 heads, context 64{more}"
    ]


@pytest.mark.parametrize(
    "rise, matched, passed, said",
    [
        (0.1, False, True, "passed: the base loss rose by +10.0%, 10 % is allowed"),
        (-0.02, True, True, "passed: the base loss rose by -2.0% above the matched base, 10 % is"),
        (0.1001, False, False, "NOT passed: the base loss rose by +10.0%, 10 % is allowed; mix"),
    ],
)
def test_the_gate_passes_a_rise_up_to_what_is_allowed(rise, matched, passed, said):
    results = []
    [line] = screened(lambda screen: results.append(cli_eval._gate(rise, 0.1, matched, screen)))
    assert results == [passed] and line.startswith("gate                     " + said)


# ---------------------------------------------------------------------------------- its settings


def test_flags_win_over_the_settings_file(trained, workdir):
    flags = "--base-steps 3 --sft-steps 2 --lr 0.5 --seed 9 --out run".split()
    succeeds("train", *trained.inputs, *flags)
    kept = run_record(workdir.path / "run")["settings"]
    assert kept["base"]["steps"] == 3
    assert (kept["sft"]["steps"], kept["sft"]["lr"]) == (2, 0.5)
    assert (kept["seed"], kept["model"]["channels"]) == (9, 16)
    log = read_lines(workdir.path / "run/sft/log.jsonl")
    assert [row["step"] for row in log] == [1, 2]
    assert log[-1]["lr"] == 0.5


def test_set_takes_any_setting_and_wins_over_the_file(trained, workdir):
    values = ("sft.steps=2", "base.steps=3", "sft.schedule=constant", "sft.windows=[[16, 1]]")
    flags = ("--lr", "0.5", "--out", "run", "--json")
    succeeds("train", *trained.inputs, "--set", *values, 'data.grade="last"', "sft.lr=9", *flags)
    kept = run_record(workdir.path / "run")["settings"]
    stage = kept["sft"]
    assert (kept["base"]["steps"], stage["steps"], stage["windows"]) == (3, 2, [[16, 1]])
    assert (stage["schedule"], kept["data"]["grade"]) == ("constant", "last")
    assert stage["lr"] == 0.5  # a flag of its own wins over --set


@pytest.mark.parametrize(
    "text, words",
    [
        ("lr=3", "--set lr=3: expected TABLE.NAME=VALUE"),
        ("seed=7", "--set seed=7: write --seed 7"),
        ("preset=mini", "--set preset=mini: write --preset mini"),
        ("stages=base", "--set stages=base: write --stages base"),
        ("sft.lr", "expected TABLE.NAME=VALUE"),
        ("sft.=3", "expected TABLE.NAME=VALUE"),
        ("sft.lr=[1", "[sft] lr = '[1' must be a number"),
        ("sft.lr=", "[sft] lr = '' must be a number"),
        ("sft.lr=1\nsteps = 2", "one value"),
        ('sft.lr="', "--set sft.lr="),
        ("sft.colour=3", "unknown setting of [sft] 'colour'"),
        ("tune.lr=3", "'tune'"),
        ("sft-2.lr=3", "flags set [sft-2], but this run trains base, sft"),
    ],
)
def test_an_assignment_that_sets_nothing_is_refused(trained, workdir, text, words):
    assert words in refusal(2, "train", *trained.inputs, "--set", text)
    assert workdir.is_unchanged()


def test_set_can_be_given_several_times(trained, workdir):
    succeeds(
        "train", *trained.inputs, "--set", "base.steps=2", "--set", "sft.steps=1", "--out", "r"
    )
    kept = run_record(workdir.path / "r")["settings"]
    assert (kept["base"]["steps"], kept["sft"]["steps"]) == (2, 1)


@pytest.mark.parametrize("values", [("sft.lr=1", "sft.lr=2"), ("sft.lr=1", "--set", "sft.lr=1")])
def test_a_setting_that_is_set_twice_is_refused(trained, workdir, values):
    assert "--set names sft.lr twice" in refusal(2, "train", *trained.inputs, "--set", *values)
    assert workdir.is_unchanged()


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--base", ""), "--base is empty"),
        (("--base", " "), "--base is empty"),
        (("--out", ""), "--out is empty"),
        (("--preset", ""), "preset '' is not one of"),
        (("--stages", "base,,sft"), "a name is empty; write it as in base,sft"),
        (("--stages", ""), "a name is empty"),
        (("--stages", "base,sft-9999"), "there is no such stage"),
        (("--stages", "base,sft-1000"), "there is no such stage"),
    ],
)
def test_an_empty_value_or_a_name_of_no_stage_is_refused(trained, workdir, flags, words):
    assert words in refusal(2, "train", *trained.inputs, *flags)
    assert workdir.is_unchanged()


@pytest.fixture
def order_of(monkeypatch):
    """A function that gives the Order of a command. Nothing is trained."""
    orders = []

    def train(order, screen):
        orders.append(order)
        return train_job.Trained({"run": "x"}, Sides("base", False, []), "page")

    monkeypatch.setattr(train_job, "train", train)
    monkeypatch.setattr(show, "table", lambda report, screen: None)

    def order(*command):
        succeeds(*command)
        return orders.pop()

    return order


def test_the_preset_flag_wins_over_the_files_preset(workdir, order_of):
    config = workdir.write("mini.toml", 'preset = "mini"\n')
    presets = [
        order_of("train", "--config", config, *flags).settings.preset
        for flags in (("--preset", "seed"), ("--preset", "tiny"), ())
    ]
    assert presets == ["seed", "tiny", "mini"]


@pytest.mark.parametrize("preset", ["tiny", "mini"])
def test_train_learns_tools_from_the_shipped_conversations_unless_told_not_to(order_of, preset):
    flags = ("--preset", preset, "--sft-steps", 9)
    order, without = order_of("train", *flags), order_of("train", *flags, "--no-tools")
    few = {"sft": {"steps": 9}}
    assert order.settings == resolve(preset, flags=few, tools=True)
    assert without.settings == resolve(preset, flags=few)
    assert (order.data, without.data) == (None, None)
    # The second settings are for a corpus that no transcripts can be made from.
    assert (order.plain, without.plain) == (without.settings, None)


def test_train_chooses_nothing_where_the_command_says_what_to_learn_from(trained, order_of):
    for flags in (
        ("--data", trained.data),
        ("--data", "tools"),
        ("--preset", "seed"),
        ("--preset", "small"),
        ("--set", "data.shipped=pairs"),
        ("--set", "data.transcripts=0"),
        ("--stages", "base"),
    ):
        order = order_of("train", *flags)
        assert order.plain is None, flags
        assert bool(order.settings.data.transcripts) == ("tools" in flags), flags


def test_a_context_too_short_for_tools_is_said_once(order_of, workdir):
    config = workdir.write("small.toml", toml())
    result = pysft("train", "--config", config)
    [line] = [line for line in result.err.splitlines() if "learns no tools" in line]
    assert "a context of 64 is too short" in line
    for flags in (("--no-tools",), ("--set", "data.shipped=pairs")):
        assert "learns no tools" not in succeeds("train", "--config", config, *flags).err


def test_the_new_rows_are_random_if_the_settings_say_so(trained, workdir):
    config = workdir.write("random.toml", toml(sft={"new_rows": "random"}))
    flags = ("--config", config, "--out", "run")
    report = succeeds(*trained.fine_tuning(trained.data, *flags)).document
    assert report["weights_sha256"] != trained.report["weights_sha256"]


# ----------------------------------------------------------------- a base that was trained before


@pytest.mark.parametrize("given", ["base", "."], ids=["the base", "a tuned run, for its base"])
def test_fine_tuning_a_given_base_gives_the_same_weights(trained, workdir, given):
    base = trained.run / given
    command = ["train", *trained.inputs, "--base", base, "--out", "run", "--json"]
    report = succeeds(*command).document
    assert report["weights_sha256"] == trained.report["weights_sha256"]
    assert report["base_loss"] == trained.report["base_loss"]


def test_a_given_base_needs_no_base_windows_that_fit_it(trained, workdir):
    # The preset's windows are longer than this base's context of 64.
    sft = {"steps": 3, "windows": [[32, 1]], "warmup": 0, "checkpoint_every": "never"}
    config = workdir.write("sft.toml", as_toml({"sft": sft}))
    succeeds(*trained.fine_tuning(trained.data, "--config", config, "--out", "run"))


def test_a_given_base_is_measured_on_the_text_it_was_trained_on(trained, workdir):
    """Forgetting on another text would be no forgetting."""
    config = workdir.write("short.toml", SHORT_TUNING)
    command = ["train", "--config", config, "--base", trained.run, "--data", trained.data]
    report = succeeds(*command, "--out", "run", "--json").document
    base = json.loads((trained.run / "base/report.json").read_text())
    assert report["base_loss"] == pytest.approx(base["base_loss"], rel=1e-6)
    assert run_record(workdir.path / "run")["corpus"] == str(trained.corpus)


def test_a_base_without_a_record_was_trained_on_the_shipped_plays(trained, workdir):
    shutil.copytree(trained.run / "base", workdir.path / "a/base")
    config = workdir.write("short.toml", SHORT_TUNING)
    command = ["train", "--config", config, "--base", "a", "--data", trained.data]
    succeeds(*command, "--out", "run")
    assert run_record(workdir.path / "run")["corpus"] == "plays"


def test_a_base_whose_record_names_no_corpus_is_refused(trained, workdir):
    shutil.copytree(trained.run / "base", workdir.path / "a/base")
    workdir.write("a/run.json", "{}")
    error = refusal(65, "train", "--base", "a", "--data", trained.data, "--out", "run")
    assert "a/run.json" in error
    assert "no corpus" in error
    assert workdir.is_unchanged()


def test_a_base_that_lacks_characters_of_the_corpus_is_refused(trained, workdir):
    workdir.write("mine.txt", trained.corpus.read_text() + "@")
    command = ["train", *trained.inputs, "--corpus", "mine.txt", "--base", trained.run]
    error = refusal(65, *command)
    assert "mine.txt" in error
    assert "'@'" in error
    assert workdir.is_unchanged()


def test_a_base_with_a_weight_that_is_not_finite_is_refused(trained, workdir):
    shutil.copytree(trained.run / "base", workdir.path / "base")
    path = workdir.path / "base" / "model.safetensors"
    tensors = {name: a.copy() for name, a in safetensors.load(path)[0].items()}
    tensors["wte"][0, 0] = np.nan
    safetensors.save(path, tensors)
    workdir.remember()
    error = refusal(65, "train", *trained.inputs, "--base", "base")
    assert "'wte'" in error
    assert "not finite" in error
    assert workdir.is_unchanged()


# ------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("rate", ["1e5", "9e5"])
def test_a_training_that_diverges_is_exit_3_and_leaves_no_tuned_model(trained, workdir, rate):
    flags = ("--lr", rate, "--sft-steps", 60, "--checkpoint-every", "tenth", "--out", "run")
    result = pysft("train", *trained.inputs, *flags, "--json")
    assert (result.code, result.out) == (3, "")
    error = result.err.splitlines()[-1]
    assert error.startswith("pysft: ")
    for text in ("step", "no weight was changed", "learning rate"):
        assert text in error
    assert not (workdir.path / "run/sft/model.safetensors").exists()
    assert (workdir.path / "run/base/model.safetensors").exists()
