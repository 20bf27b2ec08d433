"""The page of a run: everything that its folder holds, and nothing else, whatever state the folder
is in."""

import copy
import json
import os
import re
import shlex
import shutil
from dataclasses import asdict
from html import unescape
from pathlib import Path

import pytest

from pysft import __version__
from pysft.cli import main as cli
from pysft.errors import MissingInput
from pysft.jobs import begin as begin_job
from pysft.jobs import train as train_job
from pysft.measure import figures, sections, wording
from pysft.measure.curves import grouped, training
from pysft.measure.provenance import Provenance
from pysft.measure.report import report, write_report
from pysft.measure.reproduce import reproduce
from pysft.measure.run_files import BASE, RUN_FILE, TUNED
from pysft.measure.tooltest import tool_rows
from pysft.measure.way import stages
from pysft.measure.wording import FIGURES as FIGURES_IN_WORDS
from pysft.measure.wording import MARKS
from pysft.text.templates import CHAT
from pysft.training.flat import PLACES
from pysft.training.presets import PRESETS, TOOLS, WITH_TOOLS, Parent, resolve
from pysft.training.settings import Settings

# One in EVERY of ten values of other types is tried at each place of a file. `make torture` tries
# all.
EVERY = int(os.environ.get("PYSFT_EVERY", 10))
FILES = [RUN_FILE, *(f"base/{name}" for name in BASE), *(f"sft/{name}" for name in TUNED)]
HOSTILE = "</table><script>alert('x')</script> \"quoted\" & 'single' $x$"
ORIGINS = Provenance(
    ["Yes, my lord.", "A rose is a rose."],
    "to be or not to be, that is the question, whether it is nobler",
)
LOG = [
    {
        "step": n,
        "loss": 3 / n,
        "figures": {"conversation": 3 / n, "base": 2.0},
        "norm": 1.5,
        "lr": 1e-4,
        "graded_tokens": 700,
        "tokens": 1000,
        "seconds": 0.5,
        "tokens_per_s": 2000,
    }
    for n in range(1, 451)
]
FIGURES = {
    "run": "runs/x",
    "preset": "seed",
    "params": 212864,
    "base_loss": 1.7848,
    "grown_base_loss": 1.7881,
    "tuned_base_loss": 3.0646,
    "heldout_loss": 2.1874,
    "heldout_conversations": 2,
    "recall": 0.725,
    "recall_of": 40,
    "stopped": 0.975,
    "format_compliance": 0.8689,
    "prompts": 61,
    "on_topic": 0.0032,
    "on_topic_chance": 0.0043,
    "in_domain_prompts": 312,
    "real_words": 0.7669,
    "distinct_replies": 60,
    "verbatim_replies": 0,
    "forgetting": 0.717,
    "sft_loss_start": 2.2217,
    "sft_loss": 0.1936,
    "graded_targets": 1714,
    "targets": 2299,
    "end_tokens_graded": 40,
    "turns": 40,
    "tokens_per_s": 17341.5,
    "peak_memory": 113594368,
    "training_seconds": 10.6,
    "seconds": 17.9,
    "weights_sha256": "1c7a" * 16,
    "content": 0.99,
    "stopped_unseen": 0.91,
    "no_user_turn": 0.98,
    "reply_length": 38.25,
    "trained_params": 9999,
    "another": 7,
    "origins": {"new": 40, "verbatim": 11, "spliced": 10, "near copy": 0, "empty": 0},
    "by_domain": {
        "in": {
            "prompts": 16,
            "format_compliance": 0.8125,
            "on_topic": 0.0625,
            "on_topic_chance": 0.01,
            "real_words": 0.77,
            "distinct_replies": 15,
            "verbatim_replies": 1,
        }
    },
}
TOOL_TEST = {
    **{"answered": 0.5, "town_answered": 0.625, "answered_without": 0.125, "answered_of": 640},
    **{"called": 0.75, "queried": 0.25, "refused": 0.875, "refused_of": 400},
    **{"refused_first": 1.0, "refused_last": 0.0, "followed": 0.375, "followed_of": 240},
    **{"quiet": 0.9, "quiet_after": 0.8, "quiet_of": 336},
}
SEALED = {
    "prompts": 120,
    "in_domain_prompts": 60,
    "format_compliance": 0.95,
    "on_topic": 0.6125,
    "real_words": 0.986,
    "distinct_words": 0.913,
    "repeats_prompt": None,
    "by_domain": {"near": FIGURES["by_domain"]["in"] | {"prompts": 30}},
}
CHAT_ROWS = [
    {
        "about": "about a fact that was held out",
        "question": "Who is Ann Ash?",
        "parts": [
            {"type": "search", "text": "Ann Ash"},
            {"type": "result", "text": f"Ann Ash knows {HOSTILE}"},
            {"type": "text", "text": "Ann Ash knows."},
        ],
    },
]
DATA = {
    "conversations": 2569,
    "heldout": 280,
    "pairs": 40,
    "notes": ["a note of the data"],
    "epochs": {"conversations": 15.91},
    "turns": 40,
    "graded_targets": 1714,
    "targets": 2299,
    "end_tokens_graded": 40,
    "tokens": {"min": 20, "median": 57.5, "p95": 80, "max": 91},
    "prompt_length": {"min": 8, "median": 12, "p95": 20, "max": 25},
    "reply_length": {"min": 30, "median": 43, "p95": 52, "max": 60},
    "categories": [["greetings", 123], ["love", 77]],
}


def sample(prompt, reply, stop="end"):
    return [prompt, reply, stop, asdict(ORIGINS.of(reply))]


def contents():
    """Every file of a complete run, by its name."""
    measured = [
        {
            **FIGURES,
            "step": step,
            "recall": share,
            "heldout_loss": 2.5 - step / 320,
            "samples": [[f"Say {HOSTILE}", f"reply at {step}", "length"]],
        }
        for step, share in ((0, 0.0), (100, 0.3125), (200, 0.725))
    ]
    return {
        "run.json": {
            "settings": json.loads(json.dumps(PRESETS["seed"].to_json())),
            "corpus": "/data/my text.txt",
            "data": None,
            "base": None,
            "sha256": {"/data/my text.txt": "86c4" * 16},
            "template": CHAT.to_json(),
        },
        "base/report.json": {
            "run": "runs/x",
            "params": 212480,
            "base_loss": 1.7848,
            "tokens_per_s": 90262.1,
            "tokens": 450000,
            "seconds": 225.0,
            "weights_sha256": "845e" * 16,
        },
        "base/log.jsonl": [{**row, "figures": {"base": row["loss"]}} for row in LOG],
        "sft/report.json": FIGURES | {"sealed": SEALED},
        "sft/log.jsonl": LOG,
        "sft/data.json": DATA,
        "sft/measurements.jsonl": measured,
        "sft/before.json": {
            "rows": [
                [HOSTILE, " the base goes on\nthus", "Yes, my lord.", "end", True],
                ["unseen", " on and on", "No.", "length", False],
            ],
            "chat": CHAT_ROWS,
        },
        "sft/samples.json": {
            "pairs": [
                sample("Say yes", "Yes, my lord."),
                sample("Say rose", "Yes: A rose is a rose."),
            ],
            "prompts": [
                sample(HOSTILE, HOSTILE, "length"),
                sample("Be", "to be or not to be, that"),
                sample("Hm", " "),
            ],
            "heldout": [],
        },
    }


def fill(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jsonl"):
            path.write_text("".join(json.dumps(row) + "\n" for row in data))
        else:
            path.write_text(json.dumps(data))
    return folder


@pytest.fixture
def run(tmp_path):
    return fill(tmp_path / "my run", contents())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(a complete run, its page with figures, which take a second to draw)"""
    folder = fill(tmp_path_factory.mktemp("drawn") / "my run", contents())
    return folder, report(folder)


@pytest.fixture
def undrawn(monkeypatch):
    """Without matplotlib, a page is made sooner."""
    monkeypatch.setattr(figures, "available", lambda: False)


def text_of(document):
    return unescape(re.sub("<[^>]*>", "", document.partition("<main>")[2]))


def cells(document):
    """Every row of every table, as texts."""
    return [
        [
            unescape(re.sub("<[^>]*>", "", cell.replace("<small>", "\n")))
            for cell in re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)
        ]
        for row in re.findall("<tr>(.*?)</tr>", document, re.S)
    ]


def missing(document):
    """{what is missing: why}"""
    return {row[0]: row[1] for row in cells(document.partition("<h2>What is missing")[2])[1:]}


def test_the_numbers_of_the_page_are_those_of_the_files(run, undrawn):
    document = report(run)
    rows = cells(document)
    found = {row[0].partition("\n")[2]: row[1] for row in rows if len(row) == 2}
    expected = {
        "params": "212,864",
        "base_loss": "1.785",
        "tuned_base_loss": "3.065",
        "heldout_loss": "2.187",
        "recall": "72.5%",
        "recall_of": "40",
        "forgetting": "71.7%",
        "reply_length": "38.25",
        "content": "99.0%",
        "no_user_turn": "98.0%",
        "origins": "11 verbatim, 10 spliced, 40 new",
        "tokens_per_s": "17,342",
        "peak_memory": "108 MiB",
    }
    assert {name: found[name] for name in expected} == expected
    for row in (
        ["conversations", "2,569"],
        ["another", "7"],
        ["epochs of conversations", "15.9"],
        ["tokens per conversation", "20", "57.5", "80", "91"],
        ["greetings", "123"],
        ["in", "16", "81.2%", "6.2%", "1.0%", "77.0%", "15", "1"],
        "100 0.194 2.188 3.065 71.7% 31.2% 97.5% 86.9% 0.3% 76.7%".split(),
        ["unseen", "\u2026 on and on\u2026", "No.\nno end token"],
        [HOSTILE, "\u2026 the base goes on / thus\u2026", "Yes, my lord."],
        ["base", "845e" * 16],
        ["sft", "1c7a" * 16],
        ["/data/my text.txt", "86c4" * 16],
    ):
        assert row in rows
    last = [3 / n for n in range(419, 451)]  # 450 steps in 12 groups of 38: the last has 32
    assert ["450", f"{sum(last) / len(last):.3f}", "2.000", "1.5", "0.0001", "700", "2,000"] in rows
    assert "450 steps, 450,000 tokens, 225.0 seconds" in document
    assert "1,714 of 2,299 (74.6%)" in document


def test_the_tool_test_is_shown_in_the_words_of_the_screen(run, undrawn):
    tools = {k: v for k, v in TOOL_TEST.items() if k not in ("followed", "quiet_after")}
    fill(run, {"sft/report.json": FIGURES | {"tools": tools}})
    rows = cells(report(run))
    for name, text in tool_rows(tools):
        assert [name.removeprefix("tools: "), text] in rows


def part_of(document, title):
    """What stands below a small heading, up to the next heading or the next folded table."""
    return re.split("<h[23]>|<details", document.partition(f"<h3>{title}</h3>")[2])[0]


def test_the_figures_of_the_sealed_prompts_stand_by_themselves(run, undrawn):
    below = part_of(report(run), "The sealed prompts")
    values = {row[0]: row[1] for row in cells(below) if len(row) == 2}
    expected = {
        "prompts": "120",
        "in_domain_prompts": "60",
        "format_compliance": "95.0%",
        "on_topic": "61.3%",
        "real_words": "98.6%",
        "distinct_words": "91.3%",
    }
    labels = {FIGURES_IN_WORDS[name][0]: value for name, value in expected.items()}
    assert values == {"figure": "value"} | labels
    assert ["near", "30", "81.2%", "6.2%", "1.0%", "77.0%", "15", "1"] in cells(below)
    for lacking in ({}, {"sealed": {}}):
        fill(run, {"sft/report.json": FIGURES | lacking})
        assert "sealed prompts" not in report(run)


def test_a_chat_about_the_town_says_what_the_model_wrote_and_what_was_injected(run, undrawn):
    rows = cells(part_of(report(run), "A chat about the town"))
    assert rows[1] == [
        "Who is Ann Ash?\nabout a fact that was held out",
        f"[search: Ann Ash] \u2190 {MARKS['search']}"
        f"\n[result: Ann Ash knows {HOSTILE}] \u2190 {MARKS['result']}"
        "\nAnn Ash knows.",
    ]
    before = contents()["sft/before.json"]
    for lacking in ({"rows": before["rows"]}, before | {"chat": []}):
        fill(run, {"sft/before.json": lacking})
        document = report(run)
        assert "A chat about the town" not in document and "Before and after" in document


def test_a_reply_of_the_chat_about_the_town_may_be_empty(run, undrawn):
    """A model that ends its reply at once writes no part."""
    silent = {"about": "about nobody", "question": "Hm?", "parts": []}
    fill(run, {"sft/before.json": contents()["sft/before.json"] | {"chat": [silent]}})
    document = report(run)
    assert "sft/before.json" not in missing(document)
    assert cells(part_of(document, "A chat about the town"))[1] == ["Hm?\nabout nobody", ""]


def test_every_section_is_there_and_nothing_is_missing(drawn):
    pytest.importorskip("matplotlib")
    _, document = drawn
    assert re.findall("<h2>(.*?)</h2>", document) == [
        "In short",
        "The stages",
        "The way from text to answers",
        "Warnings",
        "Before and after",
        "Training the base",
        "Fine-tuning",
        "Measured during fine-tuning",
        "Replies, and where they may come from",
        "The figures",
        "The data",
        "Settings",
        "Making it again",
    ]
    assert document.count("<svg") == 3 + 3 + 3 and not re.search(r'\bid="', document)


def parts_of(document):
    """The parts of each section, as PARTS has them."""
    sections, pattern = {}, r"<(h[23]|p|ul|pre|summary|thead)>(.*?)</\1>"
    for tag, inside in re.findall(pattern, document.partition("<main>")[2], re.S):
        text = unescape(re.sub("<[^>]*>", "", inside))
        if tag == "h2":
            parts = sections[text] = []
        elif tag == "thead":
            parts.append("| " + " | ".join(cells(inside)[0]))
        elif tag == "p":
            parts.append(" ".join(text.split()[:3]))
        else:
            parts.append({"h3": text, "summary": f"> {text}"}.get(tag, f"# {tag}"))
    return sections


PAGES = Path(__file__).parent / "pages"


def readable(document):
    """The page as lines of text: "# " and a heading, "| " and the cells of a row, with ">" before
    those that stand at the right, "+ " and what a folded part says of itself, "- " and an item of
    a list, "$ " and a command, and paragraphs as they are. Small notes stand behind "//"."""
    pattern, lines = r"<(h[1-6]|p|li|code|summary|tr|footer)>(.*?)</\1>", []
    signs = {"h1": "# ", "h2": "## ", "h3": "### ", "li": "- ", "code": "$ ", "summary": "+ "}
    for tag, inside in re.findall(pattern, document.partition("<main>")[2], re.S):
        inside = inside.replace("<small>", " // ").replace('class="right">', '">>')
        inside = re.sub("</t[hd]>(?=<)", " | ", inside)
        text = unescape(re.sub("<[^>]*>", "", inside))
        lines.append(signs.get(tag, "| " if tag == "tr" else "") + text)
    return lines


def chain():
    """Every file of a run of two fine-tunings, the second of which was begun from one that can
    talk. What the page of a run with one fine-tuning does not show is here."""
    files = contents()
    first = FIGURES | {"stage": "sft"}
    second = {name: (1 + n) / 64 for n, name in enumerate(FIGURES_IN_WORDS)}  # each its own number
    second |= FIGURES | {"stage": "sft-2"}
    second |= {"base_loss_unit": "byte", "distinct_replies": 30, "end_tokens_graded": 39}
    second |= {"words_unmeasured": "the training replies are written in Thai", "real_words": None}
    second |= {"tools": TOOL_TEST, "forgetting_matched": -0.25, "sealed": SEALED}
    second |= {
        "parent": {"stage": "sft"} | {name: n / 64 for n, name in enumerate(FIGURES_IN_WORDS)}
    }
    chat = {"about": "about nobody", "question": "Hm?", "parts": [], "stop": "length"}
    changes = {"seed": 7, "data": {"grade": "last"}, "sft-2": {"lr": 1e-5}}
    settings = resolve(flags=changes, stages=["base", "sft", "sft-2"]).to_json()
    return {
        "run.json": files["run.json"] | {"settings": json.loads(json.dumps(settings))},
        "base/report.json": files["base/report.json"],
        "base/log.jsonl": [{"step": 1, "skipped": True}, {"step": 2, "skipped": True}],
        **{f"sft/{name}": files[f"sft/{name}"] for name in ("log.jsonl", "measurements.jsonl")},
        "sft/report.json": first,
        "sft-2/report.json": second,
        "sft-2/log.jsonl": [
            {**LOG[0], "figures": {"conversation": 3.0, "margin": 0.5}, "norm": None},
            LOG[1] | {"skipped": True},
        ],
        "sft-2/data.json": {"notes": [], "turns": 40, "targets": 9, "pairs": 7}
        | {"graded_targets": 3, "end_tokens_graded": 2, "prompt_length": {"min": 8, "max": 25}},
        "sft-2/measurements.jsonl": [
            {
                "step": 100,
                "recall": 0.5,
                "base_loss_unit": "byte",
                "samples": [["A\nb", "c", "end"]],
            }
        ],
        "sft-2/before.json": {
            "parent": "sft",
            "talks": True,
            "rows": [["Say yes", "No.\nNo.", "Yes.", "end", True]],
            "chat": [chat],
        },
        "sft-2/samples.json": {"heldout": [sample("Be", "Aye.")], "sealed": [["A", "b", "end"]]},
    }


@pytest.mark.parametrize("name, files", [("run", contents), ("chain", chain)])
def test_the_page_reads_as_it_should(tmp_path, undrawn, name, files):
    """If another page is wanted, write what is shown here into tests/pages, and read it first."""
    found = readable(report(fill(tmp_path / "my run", files())))
    found = [line.replace(__version__, "VERSION").replace(HOSTILE, "HOSTILE") for line in found]
    found = [line for line in found if not re.match(r"\| \[\S+\] \w+ \| [^|]*$", line)]
    text = "\n".join(line.replace("\n", " \u23ce ") for line in found) + "\n"
    assert text == (PAGES / f"{name}.txt").read_text(encoding="utf-8")


def test_a_run_of_an_earlier_version_has_the_same_page(tmp_path, undrawn):
    """Its settings had no tables."""
    files = {name: contents()[name] for name in ("run.json", "sft/report.json")}
    settings = files["run.json"]["settings"]
    flat = {name: settings[name] for name in ("preset", "seed")}
    for name, where in PLACES.items():
        table, key = where[0]
        flat[name] = settings[table][key]
    kept = {place for where in PLACES.values() for place in where}
    settings = {
        table: {k: v for k, v in values.items() if (table, k) in kept}
        if isinstance(values, dict)
        else values
        for table, values in settings.items()
    }
    now = files["run.json"] | {"settings": settings}
    old = files["run.json"] | {"settings": flat}
    pages = []
    for version, record in (("now", now), ("old", old)):
        folder = fill(tmp_path / version / "run", files | {"run.json": record})
        pages.append(readable(report(folder)))
    assert sorted(pages[0]) == sorted(pages[1]) and "preset seed, seed 1" in pages[0][2]


def test_every_setting_of_a_run_is_on_its_page(run, undrawn):
    settings = contents()["run.json"]["settings"]
    rows = cells(report(run).partition("<summary>All 58 settings</summary>")[2])
    expected = [
        [f"[{table}] {name}", json.dumps(value)]
        for table in ("model", "data", "base", "sft")
        for name, value in settings[table].items()
    ]
    assert rows[: 1 + 58] == [["setting", "value"], ["seed", "1"], *expected]


def test_without_its_settings_a_run_is_told_of_without_them(run, undrawn):
    (run / "run.json").unlink()
    shown = readable(report(run))
    start = "A base model that completes text was fine-tuned to answer: 212,864 weights"
    assert shown[2] == f"{start}, 11 seconds of training."
    assert not {"## Settings", "| input | SHA-256"} & set(shown) and "## Making it again" in shown


def test_a_base_that_was_to_be_tuned_says_nothing_in_short(run, undrawn):
    shutil.rmtree(run / "sft")
    record = contents()["run.json"]
    for verb, tuned in ((None, True), ("train", True), ("pretrain", False)):
        fill(run, {"run.json": record | ({"verb": verb} if verb else {})})
        document = report(run)
        assert ("<h2>In short" in document) is not tuned
        assert ("python -m pysft train" in document) is tuned
        reasons = {row[0]: row[1:] for row in cells(document.partition("What is missing</h2>")[2])}
        why = "this run was not fine-tuned, or not yet"
        assert reasons["sft"] == [why, "everything about a tuned model"]


def test_the_tree_of_stages_says_where_each_is_and_how_far(run):
    row = {"in_run": True, "finished": True, "damaged": None, "steps": 5000, "symbols": 68}
    row |= {"params": 212864, "weights_sha256": "0123456789abcdefghij", "parent_found": True}
    rows = [
        row | {"stage": "base", "folder": "a/base", "in_run": False, "parent": None}
        | {"parent_folder": None, "parent_found": False},
        row | {"stage": "sft", "folder": "b/sft", "parent": "base", "parent_folder": "a/base"},
        row | {"stage": "sft-2", "folder": "b/sft-2", "parent": "sft", "parent_folder": "b/sft"}
        | {"finished": False, "weights_sha256": None, "params": None},
        row | {"stage": "sft-3", "folder": "b/sft-3", "parent": "sft-2"}
        | {"damaged": "cut off", "parent_folder": "b/sft-2"},
    ]  # fmt: skip
    shown = readable("<main>" + "".join(stages(rows)))
    assert shown == [
        "| stage | begun from | >steps | >weights | >symbols | SHA-256 | folder",
        "| base | nothing | >5,000 | >212,864 | >68 | 0123456789abcdef | a/base",
        "| +- sft | base | >5,000 | >212,864 | >68 | 0123456789abcdef | this run",
        "|    +- sft-2 | sft | >5,000 | >\u2013 | >68 | not finished | this run",
        "|       +- sft-3 | sft-2 | >5,000 | >212,864 | >68 | damaged: cut off | this run",
    ]


def test_few_different_replies_are_fewer_than_half_of_all():
    for distinct, warned in ((29, True), (30, False)):
        found = sections.warnings({"distinct_replies": distinct, "prompts": 60}, None, None, None)
        assert bool(found) is warned
    assert sections.warnings({"distinct_replies": None, "prompts": 60}, None, None, None) == []


def test_end_tokens_are_counted_in_the_report_or_else_in_the_census():
    counts = {"end_tokens_graded": 3, "turns": 4}
    text = "3 end tokens are graded, but there are 4 turns: the model may not learn to stop."
    for r, data in ((counts, None), (None, counts), (counts, {"turns": 3, "notes": []})):
        assert f"<li>{text}</li>" in sections.warnings(r, data, None, None)[0]
    assert sections.warnings(counts | {"turns": 3}, counts, None, None) == []
    assert sections.warnings({"turns": 4}, None, None, None) == []


def test_the_census_counts_targets_in_the_report_or_else_in_the_data():
    counts = {"graded_targets": 3, "targets": 4, "end_tokens_graded": 1, "turns": 2}
    other = {"graded_targets": 7, "targets": 8, "end_tokens_graded": 5, "turns": 6}
    text = "<p>The mask leaves 3 of 4 (75.0%) targets graded: the model learns from these alone."
    text += " 1 of them are end tokens, for 2 turns.</p>"
    for d, r in ((counts, None), (counts, {"recall": 1}), (other, counts), (None, counts)):
        assert sections.census(d, r) == [text]
    none = dict.fromkeys(counts, 0)
    assert "leaves 0 of 0 targets" in sections.census(none, None)[0]
    assert sections.census({}, {}) == sections.census(None, None) == []


def test_a_long_group_of_replies_shows_eight_of_them_and_folds_the_others(run, undrawn):
    for count in (8, 9):
        rows = [[f"prompt {i}", "a reply", "end"] for i in range(count)]
        fill(run, {"sft/samples.json": {"prompts": rows}})
        document = report(run)
        more = ["> 1 more", "| prompt | reply"] * (count > 8)
        title = "Replies, and where they may come from"
        assert parts_of(document)[title] == ["Prompts it never saw", "| prompt | reply", *more]
        below = document.partition(f"<h2>{title}")[2].partition("<h2>")[0]
        shown = cells(below.partition("<details")[0])
        assert [row[0] for row in shown] == ["prompt", *(f"prompt {i}" for i in range(8))]
        assert len(cells(below)) == 9 + 2 * (count > 8)


def test_hostile_text_in_prompts_and_replies_is_shown_and_not_executed(drawn):
    _, document = drawn
    assert "<script" not in document and text_of(document).count(HOSTILE) >= 4
    assert not re.search(r"src=|href=|url\(|@import", document)


def test_the_page_is_the_same_bytes_each_time_and_written_whole(drawn):
    run, document = drawn
    path = write_report(run)
    assert path == run / "report.html" and "my run" in document
    assert path.read_bytes() == document.encode()
    assert not [p for p in run.iterdir() if p.suffix == ".tmp"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(run, undrawn, name):
    (run / name).unlink()
    found = missing(report(run))
    assert found[name] == "no such file" and set(found) == {name, "matplotlib"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_is_named_and_the_lines_of_a_log_before_the_cut_are_shown(
    run, undrawn, name
):
    data = (run / name).read_bytes()
    (run / name).write_bytes(data[: len(data) // 2])
    document = report(run)
    assert set(missing(document)) == {name, "matplotlib"}
    assert "A base model that completes text:" not in document
    if name.endswith("log.jsonl"):
        assert re.search(r"line \d+ of \d+ is cut off", missing(document)[name])
        assert re.search(r"<p>2\d\d steps", document)
    (run / name).write_bytes(b"")
    assert name in missing(report(run))


@pytest.mark.parametrize(
    "taken, said", [([], "All 2 steps were skipped"), (LOG[:3], "2 more steps were skipped")]
)
def test_skipped_steps_are_counted_and_are_no_fault(run, undrawn, taken, said):
    skipped = [{"step": len(taken) + n, "skipped": True} for n in (1, 2)]
    fill(run, {"sft/log.jsonl": [*taken, *skipped]})
    document = report(run)
    assert said in document and "sft/log.jsonl" not in missing(document)


def test_a_log_is_shown_up_to_a_damaged_line(run, undrawn):
    lines = (run / "sft/log.jsonl").read_text().splitlines()
    (run / "sft/log.jsonl").write_text("\n".join([*lines[:100], lines[100][:30], *lines[101:]]))
    document = report(run)
    why = "line 101 of 450 is cut off, or is not a step"
    assert missing(document)["sft/log.jsonl"] == why
    assert "<p>100 steps, 100,000 tokens" in document


def test_a_base_alone_has_its_page(run, undrawn):
    shutil.rmtree(run / "sft")
    assert "python -m pysft train --preset seed" in report(run)  # it was meant to be tuned
    record = contents()["run.json"]
    alone = {name: table for name, table in record["settings"].items() if name != "sft"}
    fill(run, {"run.json": record | {"settings": alone}})
    document = report(run)
    assert set(missing(document)) == {"sft", "matplotlib"}
    assert "python -m pysft pretrain --preset seed" in document
    assert "A base model that completes text: preset seed, seed 1." in document
    assert "1.785" in document


def test_a_run_that_was_tuned_from_another_names_it(run, undrawn):
    shutil.rmtree(run / "base")
    fill(run, {"run.json": contents()["run.json"] | {"base": "runs/the base"}})
    document = report(run)
    assert "runs/the base" in missing(document)["base"]
    assert "--base 'runs/the base'" in unescape(document)


def test_a_folder_that_is_no_run_is_refused_and_a_run_just_begun_has_a_page(tmp_path, undrawn):
    with pytest.raises(MissingInput, match="not a run folder"):
        report(tmp_path)
    fill(tmp_path, {"run.json": contents()["run.json"]})
    assert {"sft", "base"} <= set(missing(report(tmp_path)))
    with pytest.raises(MissingInput, match="no such run folder"):
        report(tmp_path / "nothing")


def test_without_matplotlib_the_numbers_are_in_tables_and_the_page_says_how_to_get_figures(
    run, undrawn
):
    document = report(run)
    assert "<svg" not in document and "pip install 'pysft[plot]'" in missing(document)["matplotlib"]
    # The table is not folded away.
    each = r"<p>Each row is the mean of up to 38 steps[^\n]*\n"
    text = r"<h2>Fine-tuning</h2>\n<p>450 steps[^\n]*\n" + each + "<div"
    assert re.search(text, document)


def places(data, path=()):
    """Every path into the first four levels of a JSON document, two items of each list."""
    keys = ()
    if isinstance(data, dict):
        keys = list(data)
    elif isinstance(data, list):
        keys = range(min(2, len(data)))
    if len(path) < 4:
        for key in keys:
            yield (*path, key)
            yield from places(data[key], (*path, key))


@pytest.mark.parametrize("name", FILES)
def test_no_value_of_another_type_makes_it_fail(run, undrawn, name):
    whole = contents()[name]
    fill(run, {log: LOG[:3] for log in ("base/log.jsonl", "sft/log.jsonl")})
    if name.endswith(".jsonl"):
        whole = whole[:2]
    values = (None, "text", [], {}, [[1]], -1, 1e308, float("nan"), 10**30, True)
    for turn, path in enumerate(places(copy.deepcopy(whole))):
        if "settings" in path[:-1] and path[-1] not in ("preset", "context") or "template" in path:
            continue  # forty settings of one type
        for value in (values + values)[turn % 10 :][:10:EVERY]:  # other ones at the next place
            data = copy.deepcopy(whole)
            at = data
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
            fill(run, {name: data})
            report(run)


def test_no_number_makes_a_figure_fail(run):
    pytest.importorskip("matplotlib")
    for values in ((1e308, -1e308, 1e-320), (float("inf"), None, 10**30), (0, True, -1e-9)):
        rows = [{**row, "norm": v, "lr": v, "figures": {"base": v}} for row, v in zip(LOG, values)]
        measured = [
            {**row, "recall": v, "forgetting": v, "sft_loss": v}
            for row, v in zip(contents()["sft/measurements.jsonl"], values)
        ]
        fill(run, {"sft/log.jsonl": rows, "sft/measurements.jsonl": measured})
        assert report(run).count("<svg") == 9


def test_each_reply_says_where_it_may_come_from(run, undrawn):
    replies = {
        row[0]: row[1].split("\n")
        for row in cells(report(run).partition("<h2>Replies, and where")[2])
        if len(row) == 2
    }
    assert replies["Say yes"] == ["Yes, my lord.", "verbatim"] and replies["Hm"] == [" ", "empty"]
    _, nearest, shared = replies["Say rose"]
    assert re.fullmatch(
        r"spliced; nearest training reply \(\d\d% similar\): A rose is a rose\.", nearest
    )
    assert shared == (
        "longest shared stretch: 17 characters with a training reply, under 16 with the corpus;"
        " it is: A rose is a rose."
    )
    assert "24 with the corpus; it is: to be or not to be, that" in replies["Be"][2]
    assert replies[HOSTILE][:3] == [HOSTILE, "no end token", "new"]
    assert ["Prompts it was trained on", "2", "1", "0", "1", "0", "0"] in cells(report(run))


def test_replies_without_provenance_are_shown_too(run, undrawn):
    for more, named in ((0, []), (5, ["(the other 5 are in samples.json)"])):
        rows = [["a prompt", "a reply", "end"]] * (400 + more)
        fill(run, {"sft/samples.json": {"prompts": rows}})
        document = report(run)
        assert cells(document).count(["a prompt", "a reply"]) == 400
        assert re.findall(r"\(the other .*? samples.json\)", document) == named


@pytest.mark.parametrize(
    "change, words",
    [
        ({"end_tokens_graded": 39}, "39 end tokens are graded, but there are 40 turns"),
        ({}, "a note of the data"),
        ({"distinct_replies": 1}, "61 unseen prompts got only 1 different replies"),
        ({}, "gibberish: "),
        ({}, "+71.7%"),
        ({}, "21 of 61 replies to unseen prompts"),
        ({"stopped_unseen": 0.4}, "ignores the format: "),
        ({"recall": 1.0, "heldout_loss": 2.9}, "than at step 200"),
    ],
)
def test_warnings_name_what_a_reader_should_know_first(run, undrawn, change, words):
    fill(run, {"sft/report.json": FIGURES | change})
    assert words in report(run).partition("<h2>Warnings")[2].partition("<h2>")[0]


def test_a_run_without_faults_has_no_warnings(run, undrawn):
    healthy = FIGURES | {"real_words": 0.99, "forgetting": 0.01, "origins": {"new": 61}}
    fill(run, {"sft/report.json": healthy, "sft/data.json": DATA | {"notes": []}})
    assert "<h2>Warnings" not in report(run)


def test_verdicts_follow_figures_where_more_is_better_and_where_less_is(run, undrawn):
    def verdicts(**change):
        fill(run, {"sft/report.json": FIGURES | change})
        short = report(run).partition("<h2>In short")[2].partition("<h2>")[0]
        return [re.search("good|partly|bad", row[1])[0] for row in cells(short)[1:]]

    best = {"recall": 0.95, "format_compliance": 1.0, "real_words": 0.99, "on_topic": 0.5}
    assert verdicts() == ["partly", "partly", "bad", "bad", "bad"]
    assert verdicts(**best, forgetting=-0.05) == ["good"] * 5
    assert verdicts(recall=0.49, forgetting=0.1)[0::4] == ["bad", "partly"]
    assert len(verdicts(recall=None)) == 4


def test_a_curve_is_made_of_the_means_of_equal_groups():
    rows = [
        {"step": n, "figures": {"a": float(n)}, "norm": None if n == 1 else 1.0}
        for n in range(1, 402)
    ]
    points = grouped(rows, 200, "figures/a", "figures/b", "norm")
    assert len(points) <= 200
    assert points[0] == [3, 2.0, None, 1.0] and points[-1][0] == 401
    in_last = len(rows) - 3 * (len(points) - 1)
    total = sum(3 * p[1] for p in points[:-1]) + in_last * points[-1][1]
    assert total == sum(range(1, 402))


def test_a_curve_has_two_hundred_points_and_its_table_twelve_rows(monkeypatch):
    drawn = []

    def curves(title, lines, *_, **__):
        drawn.append([len(line.x) for line in lines])
        return "<svg></svg>"

    monkeypatch.setattr(figures, "available", lambda: True)
    monkeypatch.setattr(figures, "curves", curves)
    for steps, points, note in ((200, 200, "one step"), (201, 101, "the mean of up to 2 steps")):
        drawn.clear()
        shown = "".join(training(LOG[:steps]))
        assert drawn == [[points] * 2, [points], [points]]
        assert shown.count(f"Each point is {note}.") == 3
    for steps, rows, note in ((12, 12, "one step."), (13, 7, "the mean of up to 2 steps;")):
        shown = "".join(training(LOG[:steps]))
        assert len(cells(shown)) == 1 + rows and f"Each row is {note}" in shown


def test_the_page_names_the_folder_of_the_run_wherever_it_is_read_from(run, undrawn, monkeypatch):
    monkeypatch.chdir(run / "sft")
    assert "<h1>Run my run</h1>" in report("..") and "<title>Run my run</title>" in report("..")


# ------------------------------------------------------------------------------------- in words


def test_a_figure_is_written_in_its_form_for_the_screen_and_for_the_page():
    for form, value, text in (
        ("share", 0.5, "50.0%"),
        ("percent", 0.5, "50%"),
        ("rise", 0.5, "+50.0%"),
        ("count", 1234, "1,234"),
        ("loss", 1.2345, "1.234"),
        ("seconds", 1234.56, "1,234.6"),
        ("bytes", 1234 * 2**20, "1,234 MiB"),
    ):
        assert wording.written(value, form) == wording.cell(value, form) == text
        assert (wording.written(None, form), wording.cell(None, form)) == ("-", "\u2013")
    assert wording.written(-0.25, "share") == "-25.0%"
    assert wording.cell(-0.25, "share") == "\u221225.0%" and wording.cell(-0.25) == "\u22120.25"
    assert wording.cell("a-b", "share") == "a-b"


def test_the_sealed_prompts_are_told_of_in_one_line():
    line = "on topic 61.3%, real words 98.6%, distinct words 91.3%, in format 95.0%"
    assert wording.sealed_text(SEALED) == line
    assert wording.sealed_text({"prompts": 1, "on_topic": 1}).startswith("on topic 100.0%, real w")
    assert wording.sealed_text({"prompts": 1}).count(" -") == 4
    assert wording.sealed_text({}) == wording.sealed_text(SEALED | {"prompts": 0}) == "-"


def test_the_tables_of_the_screen_have_the_numbers_of_the_page_without_their_signs():
    domains = {"in": FIGURES["by_domain"]["in"] | {"on_topic_chance": None}}
    headings, rows = wording.domain_table(domains)
    assert rows == [["in", "16", "81.2%", "6.2%", "-", "77.0%", "15", "1"]]
    assert len(headings) == 8
    parent = {"recall": 0.25, "forgetting": 1, "tuned_base_loss": -1}
    rows = wording.compared_rows({"recall": 0.5, "parent": parent})
    assert rows[0] == ("recalled word for word", "25.0%", "50.0%")
    assert ("base text, nats/char", "-1.000", "-") in rows


def test_only_the_last_line_of_a_chat_says_that_it_has_no_end():
    parts = [{"type": "search", "text": "Ann"}, {"type": "text", "text": "Aye."}]
    lines = [("[search: Ann]", MARKS["search"]), ("Aye.", "")]
    assert wording.chat_lines(parts) == wording.chat_lines(parts, "end") == lines
    assert wording.chat_lines(parts, "length") == [lines[0], ("Aye. [no end token]", "")]
    assert wording.chat_lines([]) == [("", "")]


# ------------------------------------------------------------------------------ making it again


def recorded(settings, **more):
    """run.json of a run with these settings."""
    run = {"settings": settings.to_json(), "corpus": "plays", "data": None, "base": None}
    return json.loads(json.dumps(run | more))


def understood(run, tuned, parent=None):
    """(the settings that the command line trains with if given this command, its arguments)"""
    words = shlex.split(reproduce(run, tuned).replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "pysft"]
    args = cli.parser().parse_args(words[3:])
    assert args.config is None
    orders = []

    def train(order, screen, verb="train"):
        orders.append(order)
        return train_job.Trained({}, None, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(begin_job, "parent_named", lambda path: parent)
        patch.setattr(train_job, "train", train)
        cli.VERBS[args.verb].run(args)
    return orders[0].settings, args


def changed(preset, **tables) -> Settings:
    return PRESETS[preset].changed(tables)


SETTINGS = [
    *PRESETS.values(),
    changed("seed", seed=7, base={"steps": 4}, sft={"steps": 3, "lr": 1e-5}),
    changed(
        "tiny",
        data={
            "template": "a b.json",
            "grade": "last",
            "too_long": "drop",
            "unknown": "grow",
            "mix": (0.1, 2),
        },
        sft={"tokens": 900},
    ),
    changed(
        "tiny",
        sft={
            "lora_rank": 8,
            "lora_matrices": ("qkv", "fc"),
            "lora_alpha": 4.0,
            "checkpoint_every": "50",
        },
    ),
    changed(
        "mini",
        model={"tied": True, "layers": 2},
        base={"eps": 1e-9, "decay_all": True, "windows": ((9, 2), (256, 1))},
        sft={"windows": (), "new_rows": "random"},
    ),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
@pytest.mark.parametrize("tuned", [True, False])
def test_the_command_gives_the_settings_of_the_run(settings, tuned):
    settings = settings if tuned else settings.only("base")
    run = recorded(settings, corpus="a text.txt", data=["x y.jsonl", "z.jsonl"] if tuned else None)
    found, args = understood(run, tuned)
    assert found == settings and args.corpus == "a text.txt"
    if tuned:
        assert args.data == run["data"] and args.base is None


def test_the_command_of_a_chain_names_its_stages_and_what_differs_in_each():
    tables = {"sft": {"steps": 7, "pairs": 0}, "sft-2": {"steps": 3, "lr": 1e-4}}
    settings = resolve(flags=tables, stages=["base", "sft", "sft-2"])
    run = recorded(settings)
    found, args = understood(run, True)
    assert found == settings
    assert args.stages == "base,sft,sft-2"
    assert args.set == ["sft.pairs=0", "sft-2.steps=3", "sft-2.lr=0.0001"]


def one_line(run, tuned=True):
    """The command that makes a run again, on one line."""
    return " ".join(reproduce(run, tuned).replace("\\\n", "").split())


def test_only_what_differs_from_the_preset_is_in_the_command():
    plain = "python -m pysft train --preset small --corpus plays --seed 1"
    assert reproduce(recorded(changed("small", seed=1)), True) == plain
    other = recorded(changed("small", seed=1, base={"beta2": 0.999}))
    assert one_line(other) == plain + " --set base.beta2=0.999"


@pytest.mark.parametrize("preset", WITH_TOOLS)
def test_the_command_says_whether_a_run_learned_tools(preset):
    """Only where train would have to choose: on the shipped conversations, in these presets."""
    start = f"python -m pysft train --preset {preset} --corpus plays"
    assert reproduce(recorded(resolve(preset, tools=True)), True) == f"{start} --seed 1"
    plain = recorded(resolve(preset))
    assert reproduce(plain, True) == f"{start} --no-tools --seed 1"
    assert "--no-tools" not in reproduce(plain | {"data": ["a.jsonl"]}, True)
    assert "--no-tools" not in reproduce(recorded(resolve(preset).only("base")), False)


WITH_AND_WITHOUT = {
    "tools": resolve("tiny", tools=True),
    "tools, fewer": resolve("mini", flags={"data": {"transcripts": 7}}, tools=True),
    "no tools": resolve("mini"),
    "a preset without a choice": resolve("small"),
    "--data tools": resolve("tiny", upon=TOOLS),
    "--data tools, another preset": resolve("small", upon=TOOLS),
    "pairs alone": resolve("tiny", flags={"data": {"shipped": "pairs"}}, tools=True),
    "a short context": resolve(
        "tiny",
        flags={"model": {"context": 64}}
        | {name: {"windows": [[64, 2]]} for name in ("base", "sft")},
        tools=True,
    ),
}


@pytest.mark.parametrize("settings", WITH_AND_WITHOUT.values(), ids=WITH_AND_WITHOUT)
@pytest.mark.parametrize("parent", [None, "runs/b"])
def test_the_command_gives_a_run_its_tools_and_no_run_others(settings, parent):
    run, stage = recorded(settings), None
    if parent:
        stage = Parent("base", parent, {"model": vars(settings.model)})
        run = recorded(settings.only("sft"), base=parent)
    found, args = understood(run, True, stage)
    assert args.data is None
    assert found == Settings.of_json(run["settings"])


def test_with_a_given_base_the_command_does_not_name_the_shape():
    shape = {"context": 64, "layers": 2, "heads": 2, "channels": 32, "tied": False}
    parent = Parent("base", "runs/b", {"model": shape})
    settings = resolve("tiny", flags={"sft": {"steps": 5}}, parent=parent)
    assert settings.model.channels == 32
    assert settings.stages["sft"].windows == ((64, 4),)
    found, args = understood(recorded(settings, base="runs/b"), True, parent)
    assert (args.base, args.set, args.sft_steps) == ("runs/b", None, 5)
    assert found == settings


@pytest.mark.parametrize(
    "stage, names", [("base", ["sft"]), ("sft", ["sft-2"]), ("sft", ["sft-5"])]
)
def test_with_a_given_base_the_command_names_the_stages(stage, names):
    """What is at the path of the base later may be another stage."""
    parent = Parent(stage, "runs/b", {"model": vars(Settings().model)})
    settings = resolve(stages=names, parent=parent)
    found, args = understood(recorded(settings, base="runs/b"), True, parent)
    assert (args.base, args.stages) == ("runs/b", ",".join(names))
    assert found == settings
