"""bench/bench_rl.py without TRL: a tiny run of it in this process."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT


class Local:
    """A harness.Worker that works in this process."""

    def __init__(self, env=None, **spec):
        self.functions = Local.build(**spec) | {"memory": lambda: 2**20}

    def run(self, steps, name="step"):
        for _ in range(steps):
            self.functions[name]()
        return [0.25] * steps

    def ask(self, name, **arguments):
        return self.functions[name](**arguments)

    def pin(self, name="step"):
        pass

    def close(self):
        pass


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import bench_rl

    few = {"prompts": 2, "replies": 2, "tokens": 4}
    shapes = {name: {**shape, **few} for name, shape in bench_rl.SHAPES.items()}
    monkeypatch.setattr(bench_rl, "SHAPES", shapes)
    monkeypatch.setattr(bench_rl, "COMPARED", {**bench_rl.COMPARED, "tokens": 4})
    monkeypatch.setattr(bench_rl, "Worker", Local)
    monkeypatch.setattr(Local, "build", staticmethod(bench_rl.build), raising=False)
    monkeypatch.setattr(bench_rl.harness, "PAUSE", 0)
    return bench_rl


def test_a_tiny_run_without_trl_times_pysft_alone(bench, monkeypatch, capsys):
    machine = {"threads": 1}
    monkeypatch.setattr(bench.report, "begin", lambda args: (machine, lambda text: None))
    options = ["--short", "--no-torch", "--threads", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["bench_rl.py", *options])
    bench.main()
    found = json.loads(capsys.readouterr().out)
    assert not found["rows"] and [row["shape"] for row in found["alone"]] == ["critic", "world"]
    for row in found["alone"]:
        assert list(row["parts"]) == [*bench.PARTS, "rest"]
        assert all(seconds > 0 for seconds in row["parts"].values())
        assert 1 <= row["tokens"] <= 4
    text = bench.alone_as_text(found["alone"])
    assert "250.0 (250.0..250.0)" in text and "yes" in text and "NO" not in text


@pytest.mark.parametrize("method", ["value", "group", "leave-one-out"])
def test_an_iteration_that_is_compared_writes_replies_of_full_length(bench, method):
    """step() checks it, and that no ratio has moved before the first update."""
    bench.build("pysft", 1, method=method)["step"]()


def test_a_row_of_a_method_names_the_ratio_and_its_range(bench):
    spread = {"median": 2.0, "quartiles": [1.5, 3.0]}
    runner = {"seconds": spread, "ratio": spread, "range": [1.0, 4.0], "peak_bytes": 2**20}
    row = {"method": "group", "runners": {"pysft": runner, "tuned TRL": runner}}
    ours, theirs = bench.compared_as_text(row).splitlines()[1:]
    assert "2.00 (1.50..3.00)  1.00..4.00" in theirs and "1.00..4.00" not in ours


def test_a_reward_model_reads_the_last_token_of_a_reply(bench):
    ids, labels = np.array([5, 6, 7], np.int32), np.array([-100, 7, 8], np.int32)
    found = bench.whole(bench.Example(ids, labels))
    assert found.input_ids.tolist() == [5, 6, 7, 8]
    assert found.wanted.tolist() == [False, False, False, True]
