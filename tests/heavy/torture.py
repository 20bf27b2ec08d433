"""Kill trainings at random moments and resume them: each must end with the same bytes as a training
that nobody killed.

    python tests/heavy/torture.py [KILLS (200)] [SEED (0)]

A checkpoint is written after every step. Every second run trains LoRA adapters. The exit status is
1 if a run ended with other bytes, if a checkpoint or log was damaged or lost, or if fewer than half
of the kills were followed by a resumption from a checkpoint."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HANGS = 300  # seconds of one training

# What a training process runs. It reports on standard output, between the training's own lines,
# what this test counts.
CHILD = """
import sys
from pysft.cli.main import main
from pysft.training import runner

save, load = runner.save_checkpoint, runner.load_checkpoint
runner.pause = lambda saves, save_every: 0

def saving(*arguments):
    print("@saving", flush=True)
    return save(*arguments)

def loading(folder, model, adam, say):
    def damaged(text):
        print("@damaged", text, flush=True)
        say(text)

    found = load(folder, model, adam, damaged)
    print("@resumed", folder.name, adam.steps, flush=True)
    return found

runner.save_checkpoint, runner.load_checkpoint = saving, loading
sys.exit(main(sys.argv[1:]))
"""
SETTINGS = """[model]
context = 64
layers = 1
heads = 2
channels = 16
[base]
steps = 200
windows = [[32, 4]]
warmup = 2
[sft]
steps = 200
tokens = 192
windows = [[32, 2]]
warmup = 2
checkpoint_every = "100"
"""


def write_inputs(folder: Path) -> list:
    """Write settings, a corpus and conversations; the flags that name them."""
    sys.path.insert(0, str(ROOT))
    from pysft.text.corpora import read_corpus

    (folder / "small.toml").write_text(SETTINGS)
    (folder / "corpus.txt").write_text(read_corpus("plays")[:8000])
    rows = [
        {"prompt": f"{verb} the {s}", "completion": f"The {s} is fair."}
        for verb in ("Praise", "Show", "Sing of")
        for s in ("king", "rose", "crown", "ship", "night", "sword", "moon", "song")
    ]
    (folder / "talk.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    files = {"--config": "small.toml", "--corpus": "corpus.txt", "--data": "talk.jsonl"}
    return [part for flag, name in files.items() for part in (flag, folder / name)]


def start(*arguments) -> subprocess.Popen:
    """A training process on one thread."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def contents(run: Path) -> dict:
    """{file: content} of everything that must be the same in both runs: weights, and the logs
    without their timings."""
    found = {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*.safetensors")}
    for path in [*run.rglob("log.jsonl"), *run.rglob("measurements.jsonl")]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.relative_to(run).as_posix()] = [
            {k: v for k, v in row.items() if k not in ("seconds", "tokens_per_s")} for row in rows
        ]
    return found


def last_checkpoint(run: Path) -> tuple[str, int] | None:
    """(stage, step) of the last checkpoint in a run that was killed; None if its stage has none."""
    for stage in ("sft-2", "sft", "base"):
        found = (run / stage / "checkpoints").glob("*/state.safetensors")
        steps = [int(path.parent.name) for path in found if path.parent.name.isdecimal()]
        if steps and not (run / stage / "model.safetensors").is_file():
            return stage, max(steps)
    return None


def kill(child: subprocess.Popen, moment: float | None) -> tuple[str, bool]:
    """Kill a training at a moment; (its output, False if it ended before that).

    moment: seconds after its first checkpoint is being saved; if negative, -moment is seconds after
    its start. None waits for its end."""
    lines = []
    if moment is None or moment >= 0:
        for line in child.stdout:
            lines.append(line)
            if line == "@saving\n":
                break
    try:
        rest, _ = child.communicate(timeout=HANGS if moment is None else abs(moment))
        return "".join([*lines, rest]), False
    except subprocess.TimeoutExpired:
        child.kill()
        assert moment is not None, f"not finished after {HANGS} s"
        rest, _ = child.communicate()
        return "".join([*lines, rest]), child.returncode != 0


@dataclass
class Counts:
    """What happened so far."""

    kills: int = 0
    runs: int = 0
    damaged: int = 0  # checkpoints and logs that a resumed run found damaged
    lost: int = 0  # checkpoints that were on disk when the run was killed, and not resumed from
    wrong: int = 0  # runs that ended with other bytes, or with a temporary file
    resumed: int = 0  # times that a run went on from a checkpoint
    longest: float = 0.0  # seconds of a training that nobody killed
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        seconds = time.monotonic() - self.began
        return (
            f"{self.kills} kills in {self.runs} runs, {seconds:.0f} s:"
            f" {self.damaged} checkpoints or logs damaged, {self.lost} checkpoints lost,"
            f" {self.wrong} runs with other bytes at the end;"
            f" {self.resumed} times a run went on from a checkpoint"
        )


def random_moment(dice: random.Random, longest: float) -> float:
    """When to kill, as `kill` takes it: one time in five at any moment from the process's start,
    otherwise while it trains and saves."""
    return -dice.uniform(0, longest) if dice.random() < 0.2 else dice.uniform(0, longest / 5)


def count_lost(counts: Counts, output: str, expected: tuple[str, int], killed: bool) -> None:
    """Add up whether a resumed run went on from the last checkpoint, `expected`, or a later one."""
    stage, step = expected
    lines = [line.split() for line in output.splitlines() if line.startswith("@resumed")]
    after = [int(number) for _, name, number in lines if name == stage]
    if after:
        counts.lost += after[0] < step
        counts.resumed += after[0] > 0
    else:  # it trained the stage from its start; or it was killed before it had loaded anything
        counts.lost += not killed or "@saving\n" in output


def tortured_run(run: Path, command: list, kills: int, counts: Counts, dice: random.Random) -> None:
    """Begin a run with `command`, kill and resume it until it ends by itself."""
    resumes, expected = False, None
    while True:
        if not (run / "run.json").is_file():  # killed before it was begun
            resumes, expected = False, None
        child = start(*(["train", "--resume"] if resumes else command), "--out", run)
        moment = None if counts.kills >= kills else random_moment(dice, counts.longest)
        output, killed = kill(child, moment)
        counts.kills += killed
        counts.damaged += output.count("@damaged ")
        if expected is not None:
            count_lost(counts, output, expected, killed)
        if child.returncode == 0:
            return
        assert child.returncode == -9, output
        expected, resumes = last_checkpoint(run), True


def main(kills=200, seed=0) -> int:
    dice, counts = random.Random(seed), Counts()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        plain = ["train", *write_inputs(home)]
        commands, whole = (
            [plain, [*plain, "--lora", "2"], [*plain, "--stages", "base,sft,sft-2"]],
            [],
        )
        for i, command in enumerate(commands):
            began = time.monotonic()
            child = start(*command, "--out", home / f"whole{i}")
            output, _ = kill(child, None)
            assert child.returncode == 0, output
            counts.longest = max(counts.longest, time.monotonic() - began)
            whole.append(contents(home / f"whole{i}"))
        while counts.kills < kills:
            run, which = home / f"run{counts.runs}", counts.runs % len(commands)
            counts.runs += 1
            tortured_run(run, commands[which], kills, counts, dice)
            counts.wrong += contents(run) != whole[which] or bool(list(run.rglob("*.tmp")))
            shutil.rmtree(run)
    print(counts, flush=True)
    failed = counts.damaged or counts.lost or counts.wrong or counts.resumed < kills // 2
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
