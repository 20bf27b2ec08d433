"""Ratios of measured figures, whose denominator can be 0 or missing."""

import math
import time

import pytest
from command_line import SHORT_TUNING, conversation, succeeds, toml

from pysft.jobs import pretrain as pretrain_job
from pysft.jobs import tune as tune_job
from pysft.lab.experiments.plain_run import fallen
from pysft.measure.evaluate import corpus_loss
from pysft.measure.ratio import ratio, rise
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.text.tokenizers import vocabulary_of
from pysft.training.loop import Outliers


def test_a_ratio_is_not_known_without_both_figures_or_of_nothing():
    assert ratio(3, 4) == 0.75 and ratio(0, 4) == 0
    assert rise(1.5, 1.0) == 0.5 and rise(0.0, 2.0) == -1
    for part, whole in ((1, 0), (1.0, 0.0), (0, 0), (None, 1), (1, None), (1, math.nan),
                        (math.nan, 1), (math.inf, 1), (1, math.inf)):  # fmt: skip
        assert ratio(part, whole) is rise(part, whole) is None


def test_a_text_of_one_token_has_no_loss():
    tokenizer = vocabulary_of("characters", "ab")
    model = GPT(GPTConfig(2, context=8, layers=1, heads=1, channels=8))
    assert math.isnan(corpus_loss(model, tokenizer, "a"))
    assert corpus_loss(model, tokenizer, "ab") == pytest.approx(math.log(2))


def test_a_loss_that_does_not_fall_has_no_share_of_its_fall():
    assert fallen({"losses": [0.0] * 100}, 500) is None


def test_rounding_of_a_loss_that_has_been_0_is_no_outlier():
    outliers = Outliers()
    for _ in range(50):
        assert outliers(loss=0.0, norm=0.0) == {}
    assert outliers(loss=1.2e-7, norm=1e-7) == {}
    assert "loss" in outliers(loss=0.5, norm=0.0)


def test_a_run_whose_losses_on_base_text_are_unknown_is_trained_and_resumed(workdir, monkeypatch):
    """As when the held-out tail is one token of the tokenizer."""
    for job in (pretrain_job, tune_job):
        monkeypatch.setattr(job, "corpus_loss", lambda *arguments: math.nan)
    workdir.write("small.toml", toml())
    workdir.write("one.txt", "a" * 1000)
    workdir.write("talk.jsonl", [conversation("a" * n, "a" * (n + 1)) for n in range(1, 9)])
    inputs = "--config small.toml --corpus one.txt --data talk.jsonl --out run --json".split()
    for flags in (inputs, ("--resume", "--out", "run", "--json")):
        report = succeeds("train", *flags).document
        assert report["base_loss"] is report["forgetting"] is None
    base = succeeds("pretrain", *inputs[:4], "--out", "base", "--json").document
    assert base["base_loss"] is None
    assert succeeds("eval", "base", "--json").document["base_loss"] == 0


def test_a_clock_that_stands_still_does_not_end_a_training(trained, workdir, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 5.0)
    workdir.write("short.toml", SHORT_TUNING)
    inputs = ["--config", "short.toml", "--base", trained.run, "--data", trained.data]
    report = succeeds("train", *inputs, "--out", "run", "--json").document
    assert report["tokens_per_s"] is None
    assert report["training_seconds"] == 0
