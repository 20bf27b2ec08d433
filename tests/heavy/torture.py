"""Kill trainings at random moments and resume them: each must end with the same bytes as a training
that nobody killed.

    python tests/heavy/torture.py [KILLS (200)] [SEED (0)] [NAME ...]

KILLS are shared evenly by the commands of commands(), or by those that are named. A checkpoint is
written after every step. Stages that learn from comparisons are also killed while they collect
these, measure, and write the finished stage. The exit status is 1 if a run ended with other bytes,
if a checkpoint or log was damaged or lost, or if fewer resumptions from a checkpoint followed than
half of the kills of trainings and an eighth of those of the other stages."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HANGS = 300  # seconds of one training
MARKS = ("@saving\n", "@collecting\n", "@measuring\n", "@storing\n")  # in the child's output

# What a training process runs. It reports on standard output, between the training's own lines,
# what this test counts.
CHILD = """
import sys
from pysft.cli.main import main
from pysft.jobs import comparisons, dpo, ppo, reward, tuned
from pysft.training import runner

def marked(module, name, mark):
    inner = getattr(module, name)

    def function(*arguments, **options):
        print("@" + mark, flush=True)
        return inner(*arguments, **options)

    setattr(module, name, function)

marked(comparisons, "sample_replies", "collecting")
for job, function in ((reward, "_report"), (dpo, "finish_stage"), (ppo, "finish_stage")):
    marked(job, function, "measuring")
for job in (reward, tuned):
    marked(job, "save_stage", "storing")

save, load = runner.save_checkpoint, runner.load_checkpoint
runner.pause = lambda saves, save_every: 0

def saving(*arguments):
    print("@saving", flush=True)
    return save(*arguments)

def loading(folder, model, adam, say, *more):
    def damaged(text):
        print("@damaged", text, flush=True)
        say(text)

    found = load(folder, model, adam, damaged, *more)
    print("@resumed", folder.name, found or 0, flush=True)
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
# Those of the model that other stages begin from. It learns an invented world and little else, so
# its replies are babble: one labeler ranks them by their length, and then a reward model does.
OF_A_WORLD = """[model]
context = 128
layers = 1
heads = 2
channels = 16
[world]
people = 20
days = 0
strangers = 4
tellings = [0, 4]
[base]
steps = 20
windows = [[32, 2]]
world = [[32, 4]]
warmup = 2
[sft]
steps = 20
tokens = 400
pairs = 0
windows = [[32, 1]]
world = [[32, 1]]
warmup = 2
checkpoint_every = "never"
"""
ONCE = ["--replies", "2", "--rounds", "1"]
REWARD = ["--by", "lena", *ONCE, "--steps", "60", "--set", "reward.rankings=4"]
DPO = ["--by", "reward", *ONCE, "--steps", "60", "--set", "dpo.pairs=4", "dpo.windows=[[32,1]]"]
DPO += ["dpo.checkpoint_every=20"]
PPO = ["--kl-target", "1", "--steps", "40", "--set", "ppo.prompts=4", "ppo.replies=2"]
PPO += ["ppo.tokens=12", "ppo.windows=[[32,1]]", "ppo.checkpoint_every=20", "ppo.horizon=100"]
TIMINGS = ("seconds", "training_seconds", "tokens_per_s", "peak_memory")


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
    """{file: content} of everything that must be the same in both runs: weights, comparisons, logs
    and reports, without their timings and the run's own name."""
    found = {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*.safetensors")}
    for path in [*run.rglob("*.jsonl"), *run.rglob("*.json")]:
        text = path.read_text().replace(str(run), "RUN")
        rows = map(json.loads, text.splitlines()) if path.suffix == ".jsonl" else [json.loads(text)]
        found[path.relative_to(run).as_posix()] = [
            {k: v for k, v in row.items() if k not in TIMINGS} if isinstance(row, dict) else row
            for row in rows
        ]
    return found


def last_checkpoint(run: Path) -> tuple[str, int] | None:
    """(stage, step) of the last checkpoint in a run that was killed; None if its stage has none."""
    for stage in ("ppo", "dpo", "reward", "sft-2", "sft", "base"):
        found = (run / stage / "checkpoints").glob("*/state.safetensors")
        steps = [int(path.parent.name) for path in found if path.parent.name.isdecimal()]
        if steps and not (run / stage / "model.safetensors").is_file():
            return stage, max(steps)
    return None


def marks_of(child: subprocess.Popen) -> tuple[dict[str, float], float]:
    """Wait for the end of a training that nobody kills; ({mark: seconds from the first time that it
    stood in the output to the last, or to the end if it stood there once}, its seconds)."""
    began, seen, lines = time.monotonic(), {}, []
    for line in child.stdout:
        lines.append(line)
        if line.startswith(MARKS):
            seen.setdefault(line, []).append(time.monotonic())
    child.communicate(timeout=HANGS)
    assert child.returncode == 0, "".join(lines)
    end = time.monotonic()
    spans = {mark: (some[-1] if len(some) > 1 else end) - some[0] for mark, some in seen.items()}
    return spans, end - began


def kill(child: subprocess.Popen, moment: tuple[str, float] | None) -> tuple[str, bool]:
    """Kill a training at a moment; (its output, False if it ended before that).

    moment: (mark, seconds after it first stands in the output), or ("", seconds after its start).
    None waits for its end."""
    lines = []
    if moment is not None and moment[0]:
        for line in child.stdout:
            lines.append(line)
            if line == moment[0]:
                break
    try:
        rest, _ = child.communicate(timeout=HANGS if moment is None else moment[1])
        return "".join([*lines, rest]), False
    except subprocess.TimeoutExpired:
        child.kill()
        assert moment is not None, f"not finished after {HANGS} s"
        rest, _ = child.communicate()
        return "".join([*lines, rest]), child.returncode != 0


@dataclass
class Counts:
    """What happened so far to the runs of one command."""

    name: str = ""
    kills: int = 0
    runs: int = 0
    damaged: int = 0  # checkpoints and logs that a resumed run found damaged
    lost: int = 0  # checkpoints that were on disk when the run was killed, and not resumed from
    wrong: int = 0  # runs that ended with other bytes, or with a temporary file
    resumed: int = 0  # times that a run went on from a checkpoint
    longest: float = 0.0  # seconds of a training that nobody killed
    spans: dict = field(default_factory=dict)  # as marks_of() returns them
    at: Counter = field(default_factory=Counter)  # kills by the mark that they came after
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        seconds = time.monotonic() - self.began
        names = {mark: mark.strip("@\n") or "start" for mark in self.at}
        after = ", ".join(f"{n} {names[mark]}" for mark, n in self.at.items())
        return (
            f"{self.name}: {self.kills} kills ({after}) in {self.runs} runs, {seconds:.0f} s:"
            f" {self.damaged} checkpoints or logs damaged, {self.lost} checkpoints lost,"
            f" {self.wrong} runs with other bytes at the end;"
            f" {self.resumed} times a run went on from a checkpoint"
        )


def random_moment(dice: random.Random, counts: Counts) -> tuple[str, float]:
    """When to kill, as `kill` takes it: one time in five at any moment from the process's start,
    otherwise after one of the marks."""
    if dice.random() < 0.2:
        return "", dice.uniform(0, counts.longest)
    mark = dice.choice(sorted(counts.spans))
    return mark, dice.uniform(0, min(counts.spans[mark], counts.longest / 5))


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
        child = start(*([command[0], "--resume"] if resumes else command), "--out", run)
        moment = None if counts.kills >= kills else random_moment(dice, counts)
        output, killed = kill(child, moment)
        counts.kills += killed
        if killed:
            counts.at[moment[0]] += 1
        counts.damaged += output.count("@damaged ")
        if expected is not None:
            count_lost(counts, output, expected, killed)
        if child.returncode == 0:
            return
        assert child.returncode == -9, output
        expected, resumes = last_checkpoint(run), True


def commands(home: Path) -> dict[str, list]:
    """{name: a command that trains}, without its --out. What they need is made first."""
    plain = ["train", *write_inputs(home)]
    (home / "world.toml").write_text(OF_A_WORLD)
    world, ranked = home / "world", home / "ranked"
    train = ["train", "--data", "world", "--config", home / "world.toml"]
    reward = ["reward", world, *REWARD]
    for command, out in ((train, world), (reward, ranked)):
        marks_of(start(*command, "--out", out))
    return {
        "train": plain,
        "lora": [*plain, "--lora", "2"],
        "sft-2": [*plain, "--stages", "base,sft,sft-2"],
        "reward": reward,
        "dpo": ["dpo", world, "--reward", ranked, *DPO],
        "ppo": ["ppo", world, "--reward", ranked, *PPO],
    }


def torture(name: str, command: list, kills: int, home: Path, dice: random.Random) -> bool:
    """Kill runs of a command so many times, and print what happened. True if nothing failed."""
    counts, whole = Counts(name), home / f"whole-{name}"
    counts.spans, counts.longest = marks_of(start(*command, "--out", whole))
    expected = contents(whole)
    while counts.kills < kills:
        run = home / f"{name}-{counts.runs}"
        counts.runs += 1
        tortured_run(run, command, kills, counts, dice)
        found = contents(run)
        differing = sorted(f for f in {*found, *expected} if found.get(f) != expected.get(f))
        if differing or list(run.rglob("*.tmp")):
            counts.wrong += 1
            print(f"{run.name}: differs in {', '.join(differing) or 'temporary files'}", flush=True)
        shutil.rmtree(run)
    print(counts, flush=True)
    least = kills // 8 if command[0] in ("reward", "dpo", "ppo") else kills // 2
    return not (counts.damaged or counts.lost or counts.wrong or counts.resumed < least)


def main(kills=200, seed=0, *names: str) -> int:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        known = commands(Path(folder))
        chosen = {name: known[name] for name in names} or known
        each = -(-kills // len(chosen))
        passed = [torture(name, c, each, Path(folder), dice) for name, c in chosen.items()]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    kills, seed, *names = [*sys.argv[1:], *("200", "0")[len(sys.argv) - 1 :]]
    sys.exit(main(int(kills), int(seed), *names))
