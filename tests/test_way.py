"""The page of a run that learned from comparisons: its reward model, its tuning on pairs, and the
way from text to answers."""

import re
import shlex

import pytest
from command_line import SMALL_WORLD, succeeds
from test_report import cells, fill, missing, readable

from pysft.cli.main import parser
from pysft.jobs import comparisons
from pysft.measure import aligned, curves, figures
from pysft.measure.report import report
from pysft.measure.reproduce import reproduce
from pysft.measure.way import way
from pysft.run.stage import read_json
from pysft.world.ask import questions
from pysft.world.facts import SPLITS, make

COMPARING = """
[reward]
rankings = 8
steps = 3
rounds = 1
[dpo]
steps = 3
pairs = 4
rounds = 1
windows = [[32, 1]]
world = [[32, 1]]
checkpoint_every = "2"
"""


def written(stage, prompts, k, seed, progress):
    """Replies that differ in what they are worth, as a model of four steps writes none."""
    world = make(stage.world)
    known = {q.prompt: q.answer for split in SPLITS for q in questions(world, split)}
    texts = [known[messages[-1]["content"]] for messages in prompts]
    return [[(text, True), ("Who can say?", True), ("x", False)] for text in texts]


@pytest.fixture(scope="module", autouse=True)
def few_judged():
    """Stages are measured on a few prompts, and learn from replies that can be ranked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparisons, "JUDGED", 30)
        patch.setattr(comparisons, "sample_replies", written)
        yield


@pytest.fixture(scope="module")
def chain(tmp_path_factory, without_figures, few_judged):
    """The folder of a run of all four kinds of stages in an invented world."""
    folder = tmp_path_factory.mktemp("chain")
    roomy = SMALL_WORLD.replace("context = 128", "context = 192")  # for replies that never end
    (folder / "small.toml").write_text(roomy + COMPARING)
    flags = ["--data", "world", "--config", folder / "small.toml"]
    succeeds("train", "--stages", "base,sft,reward,dpo", *flags, "--out", folder / "run")
    return folder / "run"


def sections(document):
    """{title of a section: its lines}."""
    found, title = {}, ""
    for line in readable(document):
        if line.startswith("## "):
            title = line[3:]
        found.setdefault(title, []).append(line)
    return found


def test_the_newest_stage_that_talks_is_shown_in_full_and_the_reward_model_beside_it(
    chain,
):
    shown = sections(report(chain))
    order = list(shown)
    assert order.index("The way from text to answers") < order.index("Warnings")
    for title in ("The reward model", "Training reward", "What the pairs changed"):
        assert title in shown
    assert {"Tuning on pairs: dpo", "Measured while tuning on pairs"} <= set(shown)
    assert {"Fine-tuning: sft", "The figures of sft"} <= set(shown)
    short = shown["In short"]
    assert "and then on pairs of a better and a worse reply" in short[1]
    assert any("win against" in line for line in short)
    assert missing(report(chain)).keys() == {"matplotlib"}


def test_no_figure_of_a_stage_that_learned_from_comparisons_is_left_in_raw_json(chain):
    assert '{"' not in "".join(line for line in readable(report(chain)) if "[sft]" not in line)


def test_the_way_has_a_row_for_each_stage_with_the_counts_of_its_report(chain):
    rows = [row for row in sections(report(chain))["The way from text to answers"] if "|" in row]
    assert [re.split(r"[ |]+", row)[1] for row in rows[1:]] == ["base", "sft", "reward", "dpo"]
    base, sft, reward, dpo = rows[1:]
    assert f"{read_json(chain / 'base/report.json')['text_characters']:,} characters" in base
    assert "tell of a world" in base and "the invented world" in base
    assert f"{read_json(chain / 'sft/data.json')['conversations']:,} conversations" in sft
    assert "questions and answers of the invented world" in sft
    counts = read_json(chain / "reward/report.json")["reward"]
    assert f"{counts['comparisons']:,} comparisons" in reward
    assert "simulated labelers" in reward and "prompts from world" in reward
    assert all(name in reward for name in counts["labelers"])
    assert "a reward model: reward" in dpo and "win rate" in dpo


def test_a_run_of_a_reward_model_alone_says_what_it_can_do_and_lacks_nothing(chain, workdir):
    out = workdir.path / "own"
    flags = ["--by", "world", "--rounds", "1", "--epochs", "1", "--out", out]
    succeeds("reward", chain / "sft", *flags)
    document = report(out)
    shown = sections(document)
    assert "puts" in shown["In short"][1] and "held-out pairs" in shown["In short"][1]
    assert "The reward model" in shown and "Fine-tuning" not in shown
    assert set(missing(document)) <= {"base", "matplotlib"}  # the base has a page of its own
    rows = [row.split("|")[1].strip() for row in shown["The way from text to answers"][2:-1]]
    assert rows == ["base", "sft", "reward"]


def test_a_stage_that_keeps_no_checkpoints_lacks_no_measurements(chain, workdir):
    out = workdir.path / "own"
    flags = ["--set", "dpo.checkpoint_every='never'", "dpo.windows=[]", "--steps", "1"]
    succeeds("dpo", chain / "sft", "--by", "world", "--rounds", "1", *flags, "--out", out)
    document = report(out)
    assert not (out / "dpo" / "measurements.jsonl").exists()
    assert set(missing(document)) <= {"base", "matplotlib"}


def test_a_reward_models_predictions_stand_beside_what_came_true(chain):
    r = read_json(chain / "reward/report.json")
    rows = cells("".join(aligned.reward_model(r)))
    bins = [row for row in rows if len(row) == 4][1:]
    assert len(bins) == len(r["reward"]["by_margin"]) > 1
    assert sum(int(row[0]) for row in bins) == r["reward"]["pairs"]
    found = dict(row for row in rows if len(row) == 2)
    assert found["two labelers of InstructGPT agreed"] == "73% to 77%"
    assert {"by the length alone", "two labelers agree", "by the exact judge"} <= set(found)


def test_the_curves_of_a_preference_loss_show_its_own_figures(monkeypatch):
    drawn = {}

    def record(title, lines, *_, **__):
        drawn[title] = [line.name for line in lines]
        return "<svg></svg>"

    monkeypatch.setattr(figures, "available", lambda: True)
    monkeypatch.setattr(figures, "curves", record)
    names = ("accuracy", "margin", "chosen_logp", "rejected_logp", "chosen", "base", "another")
    row = {"loss": 0.7, "norm": 1.0, "lr": 1.0, "tokens": 9, "seconds": 0.1, "tokens_per_s": 90}
    row |= {"graded_tokens": 9}
    rows = [row | {"step": n, "figures": dict.fromkeys(names, 0.5)} for n in (1, 2, 3)]
    shown = "".join(curves.training(rows)).partition("<details")
    assert drawn["Log-probability of a reply by step"] == ["chosen reply", "rejected reply"]
    assert drawn["Loss by step"] == ["loss of chosen replies", "loss of base"]
    assert {"Pairs in the right order by step", "Margin by step", "another"} <= set(drawn)
    assert shown[0].count("<svg") == 5 and shown[2].count("<svg") == 3
    drawn.clear()
    rows = [row | {"step": n, "figures": {"accuracy": 0.5, "margin": 1.0}} for n in (1, 2, 3)]
    curves.training(rows)
    assert "Loss by step" not in drawn and "The objective by step" in drawn


def test_one_stage_has_come_no_way():
    assert way([]) == way([{"stage": "base"}]) == []


def test_what_is_not_known_of_the_way_is_a_dash():
    row = {"report": {}, "data": {}, "run": {}, "measured": {}, "seconds": None}
    rows = [row | {"stage": kind, "kind": kind} for kind in ("base", "sft", "reward", "dpo")]
    shown = cells("".join(way(rows)))[1:]
    assert [row[2:] for row in shown] == [["\u2013"] * 4] * 4


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_a_report_that_is_damaged_is_named(chain, tmp_path, stage):
    files = {"run.json": read_json(chain / "run.json")}
    whole = read_json(chain / stage / "report.json")
    for damaged in ({stage: 7}, {stage: {}}, {stage: {"accuracy": "x"}}, {stage: []}):
        fill(tmp_path / "run", files | {f"{stage}/report.json": whole | damaged})
        document = report(tmp_path / "run")
        assert "What is missing" in document


def test_the_command_of_a_run_names_its_rankings_and_its_reward_model(chain):
    run = read_json(chain / "run.json")
    run |= {"rankings": ["my file.jsonl"], "reward": "runs/rm"}
    words = shlex.split(reproduce(run, True).replace("\\\n", " "))[3:]
    args = parser().parse_args(words)
    assert (args.rankings, args.reward) == (["my file.jsonl"], "runs/rm")
    assert args.stages == "base,sft,reward,dpo"
