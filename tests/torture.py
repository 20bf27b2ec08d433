"""Kill a training at random moments, again and again, and see that each resumed run ends with the
bytes of one that nobody killed. A checkpoint is written after every step.

    python tests/torture.py [KILLS (200)] [SEED (0)]"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HANGS = 300  # seconds
CHILD = """
import sys
from pysft import cli, recipe
save, recipe.CHECKPOINT_SECONDS = recipe.save_checkpoint, 0
def told(*arguments):
    print("saving", flush=True)
    return save(*arguments)
recipe.save_checkpoint = told
sys.exit(cli.main(sys.argv[1:]))
"""
SETTINGS = """context = 64
layers = 1
heads = 2
channels = 16
base_steps = 200
base_windows = [[32, 4]]
base_warmup = 2
sft_steps = 200
sft_tokens = 192
sft_windows = [[32, 2]]
sft_warmup = 2
checkpoint_every = "100"
"""


def material(folder):
    """Settings, a corpus and conversations; the command's part that names them."""
    sys.path.insert(0, str(ROOT))
    from pysft.text.dataset import read_corpus

    (folder / "small.toml").write_text(SETTINGS)
    (folder / "corpus.txt").write_text(read_corpus("plays")[:8000])
    rows = [
        {"prompt": f"{verb} the {s}", "completion": f"The {s} is fair."}
        for verb in ("Praise", "Show", "Sing of")
        for s in ("king", "rose", "crown", "ship", "night", "sword", "moon", "song")
    ]
    (folder / "talk.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return [
        "--config",
        folder / "small.toml",
        "--corpus",
        folder / "corpus.txt",
        "--data",
        folder / "talk.jsonl",
    ]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kept(run):
    """What must be the same, timings aside: {file: content}."""
    found = {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*.safetensors")}
    for path in [*run.rglob("log.jsonl"), *run.rglob("measurements.jsonl")]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.relative_to(run).as_posix()] = [
            {k: v for k, v in row.items() if k not in ("seconds", "tokens_per_s")} for row in rows
        ]
    return found


def newest(run):
    """The last checkpoint whose name was there when the run was killed, of the stage it was in:
    (stage, step)."""
    for stage in ("sft", "base"):
        steps = [
            int(p.parent.name) for p in (run / stage / "checkpoints").glob("*/state.safetensors")
        ]
        if steps and not (run / stage / "model.safetensors").is_file():
            return stage, max(steps)
    return None


def killed(child, moment):
    """Wait until the child saves its first checkpoint and then for `moment` seconds (None: to its
    end), and kill it unless it has ended by then; (what it said, whether it was killed). Below 0:
    as many seconds from its start."""
    said = []
    if moment is None or moment >= 0:
        for line in child.stdout:
            said.append(line)
            if line == "saving\n":
                break
    try:
        return (
            "".join(
                [*said, child.communicate(timeout=HANGS if moment is None else abs(moment))[0]]
            ),
            False,
        )
    except subprocess.TimeoutExpired:
        child.kill()
        assert moment is not None, "it hangs"
        return "".join([*said, child.communicate()[0]]), child.returncode != 0


def main(kills=200, seed=0):
    dice, began = random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        plain = ["train", *material(home)]
        commands, whole, long = [plain, [*plain, "--lora", "2"]], [], 0.0
        for i, command in enumerate(commands):
            at = time.monotonic()
            child = start(*command, "--out", home / f"whole{i}")
            said, _ = killed(child, None)
            long = max(long, time.monotonic() - at)
            assert child.returncode == 0, said
            whole.append(kept(home / f"whole{i}"))
        done, runs, torn, lost, wrong, seen = 0, 0, 0, 0, 0, 0
        while done < kills:
            which, run, expected, resumed = (
                runs % 2,
                home / f"run{runs}",
                None,
                False,
            )  # every second with adapters
            runs += 1
            while True:
                if not (run / "run.json").is_file():
                    resumed, expected = False, None
                child = start(
                    *(["train", "--resume"] if resumed else commands[which]), "--out", run
                )
                # One in five at any moment from the start of the process, the others while it
                # trains and saves.
                moment = (
                    None
                    if done >= kills
                    else (
                        -dice.uniform(0, long) if dice.random() < 0.2 else dice.uniform(0, long / 5)
                    )
                )
                said, was = killed(child, moment)
                done += was
                torn += said.count("going back to the checkpoint")
                if expected is not None:
                    stage, step = expected
                    after = [
                        int(line.rpartition(" ")[2].replace(",", ""))
                        for line in said.splitlines()
                        if line.startswith(f"{stage}: going on after step")
                    ]
                    lost += (
                        after[0] < step if after else not was or "saving\n" in said
                    )  # begun anew; or killed before it said
                    seen += bool(after)
                if child.returncode == 0:
                    break
                assert child.returncode == -9, said
                expected, resumed = newest(run), True
            wrong += kept(run) != whole[which] or bool(list(run.rglob("*.tmp")))
            shutil.rmtree(run)
        print(
            f"{done} kills in {runs} runs, {time.monotonic() - began:.0f} s: {torn} torn"
            f" checkpoints, {lost} lost, {wrong} runs that ended with other bytes; {seen} times a"
            " run went on from a checkpoint",
            flush=True,
        )
        return bool(torn or lost or wrong or seen < kills // 2)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
