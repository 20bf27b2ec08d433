"""The command line as a process: its streams, signals, terminal and memory, and how fast it
starts."""

import fcntl
import importlib.util
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time

import pytest
from conftest import ROOT, python

MODULE = ("-m", "pysft")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


# The command line where matplotlib is not installed: figures take most of a small training's time.
UNDRAWN = """import sys
from pysft.cli.main import main
from pysft.measure import figures
figures.available = lambda: False
sys.exit(main())
"""


def run_process(*arguments, program=MODULE, **options):
    """Run `python -m pysft`, or another program, to its end."""
    command = [sys.executable, *program, *map(str, arguments)]
    options = {"text": True, "timeout": 60, "env": ENVIRONMENT, **options}
    return subprocess.run(command, **options)


# ------------------------------------------------------------------------------- output and errors


def test_the_module_runs_in_any_folder_and_prints_nothing_but_the_document(trained, workdir):
    done = run_process("chat", trained.run, "-p", "Go", "--json", capture_output=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["prompt"] == "Go"
    assert "Traceback" not in done.stderr


def test_an_error_is_one_line_on_standard_error(workdir):
    done = run_process("eval", "none", capture_output=True)
    assert (done.returncode, done.stdout) == (66, "")
    assert len(done.stderr.splitlines()) == 1


def test_bytes_that_are_not_text_do_not_end_a_chat(trained):
    done = run_process(
        "chat", trained.run, "--tokens", 4, input=b"Go\n\xff\xfe\nGo\n", capture_output=True,
        text=False, env={**ENVIRONMENT, "PYTHONIOENCODING": "utf-8:strict"},
    )  # fmt: skip
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert done.stdout.count(b"bot> ") == 2


@pytest.mark.parametrize("command", ["train", "eval", "info"])
def test_a_command_without_a_standard_output_succeeds_in_silence(trained, workdir, command):
    arguments = {"train": [*trained.inputs, "--out", "run"], "eval": [trained.run], "info": []}
    done = run_process(
        command, *arguments[command], stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1)
    )
    assert (done.returncode, done.stderr) == (0, "")
    if command == "train" and importlib.util.find_spec("matplotlib"):
        assert "<svg" in (workdir.path / "run" / "report.html").read_text()


def test_a_failure_without_a_standard_error_prints_nothing(workdir):
    done = run_process("eval", "none", stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2))
    assert (done.returncode, done.stdout) == (66, "")


def test_a_short_output_into_a_closed_pipe_is_exit_1_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    done = run_process("info", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_short_output_onto_a_full_disk_is_exit_1_with_the_reason():
    """The output fits the buffer, so the system takes it only at the end."""
    with open("/dev/full", "wb") as full:
        done = run_process("info", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("pysft: No space left on device")


def test_a_training_whose_output_is_on_a_full_disk_says_why_it_stopped(trained, workdir):
    with open("/dev/full", "wb") as full:
        done = run_process(
            "train", *trained.inputs, "--out", "run", stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("pysft: stopped")
    assert "No space left on device" in line
    assert "--resume --out run" in line


# -------------------------------------------------------------------------------- ending a training

FASTER_CLOCK = """import sys, time
from types import SimpleNamespace
from pysft import console
from pysft.cli.main import main
# A line of progress each half second instead of each ten.
console.time = SimpleNamespace(monotonic=lambda: 20 * time.monotonic())
sys.exit(main())
"""
SLOW_STEPS = """import signal, sys, time
from pysft.cli.main import main
from pysft.training import runner
step = runner.AdamW.step
runner.AdamW.step = lambda *a: time.sleep(0.15) or step(*a)  # a line of progress after each step
{}
sys.exit(main())
"""
IGNORE_HANGUPS = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"


@pytest.fixture
def start(trained, workdir):
    """A function that starts a training without an end, in the folder "run"."""
    children = []

    def start(*flags, program=MODULE, **options):
        options = {"env": ENVIRONMENT, **options}
        inputs = [*map(str, trained.inputs), "--base-steps", "1000000", "--out", "run"]
        command = [sys.executable, *program, "train", *inputs, *flags]
        children.append(subprocess.Popen(command, **options))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def wait_for_first_step(stream):
    while "base  step " not in (line := stream.readline()):
        assert line, "training ended before its first step"


def has_checkpoint(workdir) -> bool:
    return any(workdir.path.glob("run/base/checkpoints/*/state.safetensors"))


@pytest.mark.parametrize(
    "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_training_with_a_checkpoint_and_its_exit_status(workdir, start, number, code):
    child = start("--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_first_step(child.stderr)
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert "--resume" in err.splitlines()[-1]
    assert has_checkpoint(workdir)


def test_a_closed_pipe_ends_training_with_a_checkpoint(workdir, start):
    program = ("-c", FASTER_CLOCK)
    child = start(program=program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_first_step(child.stdout)
    child.stdout.close()  # as in: pysft train | head
    [line] = child.stderr.read().splitlines()
    assert child.wait(timeout=60) == 1
    assert line.startswith("pysft: stopped")
    assert "Broken pipe" in line
    assert re.search(r"after step \d+\b.*--resume --out run$", line)
    assert has_checkpoint(workdir)


class Terminal:
    """A pseudo-terminal that a process is started on."""

    def __init__(self):
        self._ours, self._theirs = pty.openpty()

    def start(self, start, **options):
        """Start a process by start(), on this terminal alone."""

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self._theirs)
        child = start(preexec_fn=own_terminal, **streams, **options)
        os.close(self._theirs)
        return child

    def read(self) -> str:
        """What was written since; "" if the process has ended."""
        try:
            return os.read(self._ours, 4096).decode()
        except OSError:  # Linux reports the end of the last writer so
            return ""

    def read_until(self, text, times=1) -> str:
        """What is written until `text` has been there so often."""
        shown = ""
        while shown.count(text) < times:
            more = self.read()
            assert more, f"the process ended after {shown!r}"
            shown += more
        return shown

    def close(self) -> None:
        os.close(self._ours)


def test_a_terminal_shows_one_line_of_progress_and_an_interrupt_on_its_own_line(start):
    terminal = Terminal()
    child = terminal.start(start, env={**ENVIRONMENT, "TERM": "xterm"})
    shown = terminal.read_until("\r\x1b[Kbase  step ", times=3)
    child.send_signal(signal.SIGINT)
    while more := terminal.read():
        shown += more
    assert child.wait(timeout=30) == 130
    terminal.close()
    before, progress, after = re.fullmatch(
        r"(.*?)((?:\r\x1b\[Kbase  step [^\r\n]*)+)(.*)", shown, re.S
    ).groups()
    assert before.endswith("\r\n")
    assert re.fullmatch(r"\r\npysft: interrupted after step [^\r\n]*\r\n", after)


def test_a_dumb_terminal_gets_lines_without_escape_codes(start):
    terminal = Terminal()
    program = ("-c", FASTER_CLOCK)
    child = terminal.start(start, program=program, env={**ENVIRONMENT, "TERM": "dumb"})
    shown = terminal.read_until("base  step ", times=3)
    child.send_signal(signal.SIGINT)
    while more := terminal.read():
        shown += more
    assert child.wait(timeout=30) == 130
    terminal.close()
    assert "\x1b" not in shown and shown.count("\r") == shown.count("\r\n")


@pytest.mark.parametrize("ignored, code", [(False, 129), (True, 1)], ids=["hangup", "ignored"])
def test_a_closed_terminal_ends_training_with_a_checkpoint(workdir, start, ignored, code):
    """A closed terminal sends SIGHUP, and every later write fails."""
    terminal = Terminal()
    program = ("-c", SLOW_STEPS.format(IGNORE_HANGUPS if ignored else ""))
    child = terminal.start(start, program=program)
    terminal.read_until("base  step 2")
    terminal.close()
    assert child.wait(timeout=30) == code
    assert has_checkpoint(workdir)


def digest(document: str) -> str:
    return json.loads(document)["weights_sha256"]


def test_a_training_that_is_killed_every_few_seconds_gets_on_and_ends_in_the_same_bits(
    trained, workdir
):
    """With --save-every, each process that lives until its first checkpoint gets on."""
    command = [sys.executable, "-c", SLOW_STEPS.format(""), "pretrain"]
    first = [*map(str, trained.text), "--steps", "40", "--save-every", "0.3"]
    streams = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)

    def furthest() -> int:
        found = workdir.path.glob("run/base/checkpoints/*/state.safetensors")
        return max((int(path.parent.name) for path in found), default=0)

    reached, flags = [0], first
    while reached[-1] < 10:
        child = subprocess.Popen([*command, *flags, "--out", "run"], env=ENVIRONMENT, **streams)
        while furthest() <= reached[-1]:
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.02)
        child.kill()
        child.communicate()
        reached.append(furthest())
        flags = ["--resume"]
    assert len(reached) > 3  # it was killed three times or more
    options = {"program": ("-c", UNDRAWN), "capture_output": True}
    done = run_process(
        "pretrain", "--resume", "--out", "run", "--save-every", 60, "--json", **options
    )
    assert f"going on after step {reached[-1]}" in done.stderr
    whole = run_process("pretrain", *first, "--out", "whole", "--json", **options)
    assert digest(done.stdout) == digest(whole.stdout)


# ---------------------------------------------------------------------------------- memory and time


def test_the_memory_printed_at_the_start_is_the_peak_of_the_run(workdir):
    """Within a tenth, at the seed preset's size, over both stages and the measurements."""
    steps = "--base-steps 3 --sft-steps 3 --checkpoint-every 3".split()
    done = run_process(
        "train", "--preset", "seed", *steps, "--json", "--out", "run", capture_output=True
    )
    assert done.returncode == 0, done.stderr
    printed = int(re.search(r"memory: \D*(\d+) MiB", done.stderr)[1])
    assert printed == pytest.approx(json.loads(done.stdout)["peak_memory"] / 2**20, rel=0.1)


@pytest.mark.parametrize("command", [("-c", "import pysft"), ("-m", "pysft", "--help")])
def test_python_starts_with_the_package_in_under_0_3_seconds(command):
    """On a machine with nothing else to do, hence the best of five tries."""

    def seconds():
        start = time.monotonic()
        assert python(*command).returncode == 0
        return time.monotonic() - start

    assert min(seconds() for _ in range(5)) < 0.3
