"""Test the tests: plant the faults of faults.txt in the sources, one at a time, and see whether a
test fails.

    python tests/heavy/faults.py [WORD ...]     all faults, or those whose file or text holds one of
                                                the words
    python tests/heavy/faults.py --check        only check that faults.txt still fits the sources
    python tests/heavy/faults.py --random N     N faults drawn at random; see random_faults.py

Each fault is planted in a copy of the project, whose C part is built anew if the fault is in it
(for this machine's processor alone). The tests that should notice are run until the first one
fails. First comes a control: without a fault all these tests pass. A fault that every test lets
pass survives and is named. The exit status is 1 if fewer than 95 in a hundred are killed, and 2 if
faults.txt does not fit the sources or the control fails. About an hour on two cores."""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from pysft.nn.gate import ISA  # noqa: E402  (the best instruction set of this machine)

TABLE = Path(__file__).with_suffix(".txt")
COPIED = (
    *("csrc", "pysft", "tests", "bench"),
    *("setup.py", "pyproject.toml", "Makefile", "README.md", "LICENSE"),
)
BAR = 0.95  # share of the faults that must be killed
LONGEST = 400  # seconds for a file of tests; one that takes longer counts as failed ("hangs")
COPIES = 2  # of the project, in which faults are tried at the same time
MEMORY = 8 << 20  # KiB that a process of the tests may take, so that no fault takes the machine's


# ------------------------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Fault:
    """One row of the table: replace `old` by `new` in `file`, and one of `tests` should fail."""

    line: int  # in the table
    file: str
    tests: tuple[str, ...]
    old: str
    new: str

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}: {old}  ->  {new or 'nothing'}"


def read_table(text: str) -> list[Fault]:
    """The faults of a table, whose form its first lines describe."""
    faults, file, tests, old, new = [], "", (), [], []
    start = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        mark, rest = line[:2].strip(), line[2:]
        if mark == "-":
            start = start or number
            old.append(rest)
        elif mark == "+":
            new.append(rest)
        elif old:
            faults.append(Fault(start, file, tests, "\n".join(old), "\n".join(new)))
            old, new, start = [], [], 0
        if line and mark not in ("-", "+", "#"):
            file, _, names = line.partition(":")
            tests = tuple(names.split())
    return faults


@lru_cache(None)
def squeezed(text: str) -> tuple[str, list[int]]:
    """(the text without whitespace, the place in `text` of each character that is left)."""
    places = [i for i, c in enumerate(text) if not c.isspace()]
    return "".join(text[i] for i in places), places


def occurrences(text: str, old: str) -> list[tuple[int, int]]:
    """[(start, end)] of `old` in `text`, whatever the whitespace in both."""
    dense, places = squeezed(text)
    wanted = "".join(old.split())
    starts = [found.start() for found in re.finditer(f"(?={re.escape(wanted)})", dense)]
    return [(places[i], places[i + len(wanted) - 1] + 1) for i in starts]


def planted(text: str, fault: Fault) -> str:
    """The source `text` with the fault in it."""
    [(start, end)] = occurrences(text, fault.old)
    return text[:start] + fault.new.lstrip() + text[end:]


def problems(faults: list[Fault], root: Path = ROOT) -> list[str]:
    """What does not fit the sources, a sentence each."""
    found = []
    for fault in faults:
        where = f"{TABLE.name}, line {fault.line}: {fault.file}"
        path = root / fault.file
        if not path.is_file():
            found.append(f"{where}: no such file. Name the file that has this code now.")
            continue
        tests = [f"tests/test_{name}.py" for name in fault.tests]
        missing = [name for name in tests if not (root / name).is_file()]
        if missing or not tests:
            found.append(f"{where}: no {', '.join(missing) or 'test'}. Name tests that exist.")
        text = path.read_text()
        count = len(occurrences(text, fault.old))
        if count != 1:
            found.append(
                f"{where}: {' '.join(fault.old.split())!r} stands there {count} times. Quote text"
                " that stands there once."
            )
        elif "".join(fault.old.split()) == "".join(fault.new.split()):
            found.append(f"{where}: old and new text differ in whitespace alone. Change the code.")
        elif path.suffix == ".py":
            try:
                ast.parse(planted(text, fault))
            except SyntaxError as error:
                found.append(f"{where}: with this fault it is no Python ({error}). Plant another.")
    return found


# ----------------------------------------------------------------------------------- a project


def first_failure(done: subprocess.CompletedProcess) -> str:
    """The test that failed first in a run of pytest; its exit status if none has a name."""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    return found[1].removeprefix("tests/") if found else f"exit status {done.returncode}"


class Copy:
    """A copy of the project, built, in which faults are tried."""

    def __init__(self, folder: Path):
        self.folder = folder
        ignored = shutil.ignore_patterns("*.so", "*.o", "__pycache__")
        folder.mkdir(parents=True)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, folder / name)
        with open(folder / "pysft/nn/_build.py", "a") as f:
            # One module instead of three. Not -march=native: that tunes for the processor too, and
            # for some gcc then uses no fused multiply-adds in chains, so bits differ.
            f.write(f"\nISAS = {{'base': ISAS[{ISA!r}]}}\n")
            f.write(f"BF16_ISA = 'base' if BF16_ISA == {ISA!r} else None\n")
        self.build()

    def python(self, *arguments, timeout=None, **env) -> subprocess.CompletedProcess:
        """Run this Python in the copy, with at most MEMORY. A subprocess.TimeoutExpired after
        `timeout` seconds; it and what it started have been ended then."""
        env = {
            **os.environ,
            "PYTHONPATH": f"{self.folder}:{self.folder}/tests/heavy",
            "OMP_NUM_THREADS": "2",
            "PYTHONDONTWRITEBYTECODE": "1",
            **env,
        }
        process = subprocess.Popen(
            ["sh", "-c", f'ulimit -v {MEMORY}; exec "$@"', "sh", sys.executable, *arguments],
            cwd=self.folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # What the tests started holds the pipe open too.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, output)

    def build(self) -> None:
        done = self.python("setup.py", "-q", "build_ext", "--inplace")
        if done.returncode:
            raise RuntimeError(f"the C part does not compile:\n{done.stdout[-3000:]}")
        self.stale = False  # True: the C part was built from other sources than stand here

    def failing(self, tests) -> str | None:
        """The first test that fails, or the file that hangs; None if all pass."""
        for name in tests:
            options = ("-x", "-q", "-p", "no:cacheprovider")
            try:
                done = self.python(
                    "-m", "pytest", *options, f"tests/test_{name}.py", timeout=LONGEST
                )
            except subprocess.TimeoutExpired:
                return f"test_{name} hangs"
            if done.returncode:
                return first_failure(done)
        return None

    def notices(self, fault: Fault) -> str | None:
        """The test that fails with the fault planted; None if all pass."""
        path, in_c = self.folder / fault.file, fault.file.startswith("csrc")
        text = path.read_text()
        if self.stale and not in_c:
            self.build()
        path.write_text(planted(text, fault))
        try:
            if in_c:
                self.build()
            return self.failing(fault.tests)
        finally:
            path.write_text(text)
            self.stale = in_c


class Copies:
    """Some copies of the project, each used by one thread at a time."""

    def __init__(self, folder: Path):
        with ThreadPoolExecutor(COPIES) as pool:
            self.all = list(pool.map(lambda i: Copy(folder / str(i) / "pysft"), range(COPIES)))
        self.free = SimpleQueue()
        for copy in self.all:
            self.free.put(copy)

    def map(self, function, values) -> list:
        """[function(copy, value), ...], as many at a time as there are copies."""

        def call(value):
            copy = self.free.get()
            try:
                return function(copy, value)
            finally:
                self.free.put(copy)

        with ThreadPoolExecutor(COPIES) as pool:
            return list(pool.map(call, values))


# -------------------------------------------------------------------------------------- the job


def report(copy: Copy, fault: Fault) -> str | None:
    """Try one fault and print what became of it; the test that noticed it, or None."""
    noticed = copy.notices(fault)
    outcome = "killed  " if noticed else "SURVIVED"
    print(outcome, fault, f"  [{noticed}]" if noticed else "", flush=True)
    return noticed


def try_all(faults: list[Fault]) -> int:
    """Plant all faults; the exit status."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copies = Copies(Path(folder))
        tests = sorted({(name,) for fault in faults for name in fault.tests})
        failed = [name for name in copies.map(Copy.failing, tests) if name]
        if failed:
            print(f"control: {', '.join(failed)} fails without a fault. Mend that first.")
            return 2
        seconds = time.monotonic() - began
        print(f"control: without a fault the tests pass ({seconds:.0f} s)", flush=True)
        noticed = [name for name in copies.map(report, faults) if name]
    killed, hung = len(noticed), sum(name.endswith("hangs") for name in noticed)
    print(
        f"{killed} of {len(faults)} planted faults killed ({killed / len(faults):.1%}), {hung} of"
        f" them because a test did not end within {LONGEST} s; {time.monotonic() - began:.0f} s"
    )
    return int(killed < BAR * len(faults))


def main(arguments) -> int:
    if any(a.startswith(("--random", "--python", "--c=")) or a == "--c" for a in arguments):
        import random_faults

        return random_faults.main(arguments)
    faults = read_table(TABLE.read_text())
    found = problems(faults)
    print(*found, sep="\n", end="\n" if found else "")
    if found or "--check" in arguments:
        print(f"{TABLE.name}: {len(faults)} faults, {len(found)} do not fit the sources")
        return 2 if found else 0
    chosen = [f for f in faults if any(w in t for w in arguments for t in (f.file, f.old, f.new))]
    if arguments and not chosen:
        print(f"no fault holds any of these words: {' '.join(arguments)}")
        return 2
    return try_all(chosen or faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
