"""Plant faults that are drawn at random over the lines of the sources; see whether a test fails.

    python tests/heavy/faults.py --random N [--seed S]           N faults, 3 in 4 of Python
    python tests/heavy/faults.py --python N --c N [--seed S]     so many of each

A line is drawn first (each line of pysft/ and csrc/ that can have a fault is as likely as any
other), then a kind of change, then one change: a comparison, an operator or a sign exchanged, a
number changed by one, a statement deleted, a key renamed, a name put in another one's place, a
condition negated. mutants.py and c_mutants.py say what is left alone.

A fault of Python is tried with the tests that run its statement (covered.py), the quickest first,
and if they all pass with the whole files that hold them, and with the tests that read the sources
and run none of them (READERS). The test that fails is run once more
without the fault; if it fails then too, it does not count. A fault of C is tried with the files
that faults.txt names for its source, which must pass without a fault. If the compiler makes the
same code of it, or refuses it, another one is drawn. A test that is not finished in time counts as
one that failed ("hangs").

The exit status is 1 if fewer than 95 in a hundred are killed. Read the survivors: some change
nothing that anybody can see."""

import argparse
import ast
import hashlib
import json
import math
import random
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import c_mutants
import covered
import faults
import mutants
from mutants import Mutant

ROOT = faults.ROOT
SHARE = 0.75  # of Python, if only their number is given
STARTUP = 60  # seconds that the tests of a fault may take, and SLOWER times what they took before
SLOWER = 4
FEW = 4  # files of tests that are tried first; reading a file of tests takes time too
READERS = tuple(f"tests/test_{name}.py" for name in ("published_sizes", "layering", "row_faults"))
# pysft/nn/_build.py runs only when the C part is built.
NOT_TRIED = ("pysft/nn/_build.py",)


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant. noticed: the test that failed; "" if all passed; None if it cannot
    be tried, because nothing was changed by it or it does not compile."""

    mutant: Mutant
    noticed: str | None
    tests: int = 0


def main(arguments) -> int:
    """Draw, try and count; the exit status."""
    options = _options(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copies = faults.Copies(Path(folder))
        outcomes = []
        if options.python:
            found = covered.coverage_map(copies)
            print(f"{len(found.seconds):,} tests, {time.monotonic() - began:.0f} s", flush=True)
            drawn = draw(python_sources(), options.python, f"{options.seed} Python")
            trial = PythonTrial(found)
            outcomes += copies.map(trial, drawn)
        if options.c:
            outcomes += _try_c(copies, options)
    return _summary(outcomes, time.monotonic() - began)


def _options(arguments):
    parser = argparse.ArgumentParser(prog="faults.py")
    parser.add_argument("--random", type=int, help="how many faults")
    parser.add_argument("--python", type=int, help="how many faults of Python")
    parser.add_argument("--c", type=int, help="how many faults of C")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.random is not None:
        options.python = round(SHARE * options.random)
        options.c = options.random - options.python
    options.python, options.c = options.python or 0, options.c or 0
    return options


# -------------------------------------------------------------------------------- what is drawn


def python_sources(folder: Path = ROOT / "pysft") -> list[Mutant]:
    """All mutants of a folder's sources."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        file = str(path.relative_to(ROOT))
        if file not in NOT_TRIED:
            found += mutants.python_mutants(file, path.read_text())
    return found


def c_sources() -> list[Mutant]:
    """All mutants of csrc/."""
    paths = sorted((ROOT / "csrc").glob("*.[ch]"))
    return [m for p in paths for m in c_mutants.c_mutants(str(p.relative_to(ROOT)), p.read_text())]


def draw(every: list[Mutant], n: int, seed: str) -> list[Mutant]:
    """n mutants of different lines: a line, then a kind, then a mutant of it. Fewer if there are
    not so many lines. The first of a longer draw are those of a shorter one."""
    by_line: dict[tuple[str, int], dict[str, list[Mutant]]] = {}
    for m in every:
        by_line.setdefault((m.file, m.line), {}).setdefault(m.kind, []).append(m)
    dice = random.Random(seed)
    lines = sorted(by_line)
    dice.shuffle(lines)
    drawn = []
    for place in lines[:n]:
        kinds = by_line[place]
        drawn.append(dice.choice(kinds[dice.choice(sorted(kinds))]))
    return drawn


# --------------------------------------------------------------------------------- one of Python


class PythonTrial:
    """Tries mutants of Python with the tests that run their lines."""

    def __init__(self, found: covered.Covered):
        self.found = found

    def __call__(self, copy, mutant: Mutant) -> Outcome:
        """Plant one in a copy, run its tests, and print what became of it."""
        if copy.stale:
            copy.build()
        path = copy.folder / mutant.file
        text = path.read_text()
        chosen = self.found.ordered(self.tests_of(mutant, text))
        path.write_text(mutant.planted(text))
        try:
            noticed = self._failing(copy, chosen)
        finally:
            path.write_text(text)
        if "::" in noticed:
            suspects = self.found.named(noticed)
            if suspects and self._run(copy, suspects):  # it fails without the fault too
                self.found.leave_out(suspects)
                return self(copy, mutant)
        outcome = Outcome(mutant, noticed, len(chosen))
        _print(outcome, text)
        return outcome

    def tests_of(self, mutant: Mutant, text: str) -> set[str]:
        """The tests that run the statement of a mutant; for one that is run when its module is
        loaded, those that run a function which the statement is in or which uses what it
        defines."""
        first, last = mutant.span
        around = [f for f in _functions(ast.parse(text)) if f[0] <= mutant.line <= f[1]]
        # What is run when its module is loaded is run by whichever test does that. A table has its
        # effect where it is used, and the head of a function in the body.
        found = self.found.of(mutant.file, [mutant.line])
        found = found or self.found.of(mutant.file, range(first, last + 1))
        if not around:
            return found | self._users(_names(text, first))
        _, end, inner = around[0]
        if mutant.line < inner or not found:
            return self.found.of(mutant.file, range(inner, end + 1))
        return found

    def _users(self, names: list[str]) -> set[str]:
        """The tests that run a line with one of these names."""
        if not names:
            return set()
        pattern, found = re.compile(rf"\b(?:{'|'.join(names)})\b"), set()
        for path in (ROOT / "pysft").rglob("*.py"):
            lines = enumerate(path.read_text().splitlines(), 1)
            used = [number for number, line in lines if pattern.search(line)]
            found |= self.found.of(str(path.relative_to(ROOT)), used)
        return found

    def _failing(self, copy, chosen: list[str]) -> str:
        """The first that fails of the tests, of the rest of their files, and of READERS; "" if all
        pass."""
        files = list(dict.fromkeys(map(covered.file_of, chosen)))
        rest = [t for t in list(self.found.seconds) if covered.file_of(t) in files]
        rest = self.found.ordered(set(rest) - set(chosen))
        first = [t for t in chosen if covered.file_of(t) in files[:FEW]]
        readers = [t for t in list(self.found.seconds) if covered.file_of(t) in READERS]
        for some in (first, chosen[len(first) :], rest, readers):
            noticed = self._run(copy, some) if some else ""
            if noticed:
                return noticed
        return ""

    def _run(self, copy, chosen: list[str]) -> str:
        """The first test that fails, "" if all pass."""
        files = list(dict.fromkeys(map(covered.file_of, chosen)))
        limit = STARTUP + SLOWER * sum(self.found.seconds.get(t, 0) for t in chosen)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as names:
            json.dump(chosen, names)
            names.flush()
            options = ("-x", "-q", "-p", "no:cacheprovider", "-p", "covered")
            try:
                done = copy.python(
                    *("-m", "pytest", *options, *files),
                    timeout=limit,
                    **{covered.CHOSEN: names.name},
                )
            except subprocess.TimeoutExpired:
                return f"hangs: not finished after {limit:.0f} s"
        return "" if done.returncode in (0, 5) else faults.first_failure(done)


def _functions(tree) -> list[tuple[int, int, int]]:
    """(first line, last line, first line of the body) of the functions, the innermost first."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        (min([f.lineno, *(d.lineno for d in f.decorator_list)]), f.end_lineno, f.body[0].lineno)
        for f in ast.walk(tree)
        if isinstance(f, kinds)
    ]
    return sorted(found, key=lambda f: f[1] - f[0])


def _names(text: str, line: int) -> list[str]:
    """What the statement on a line of a module or a class defines: its names, or the class."""
    for s in ast.walk(ast.parse(text)):
        if isinstance(s, ast.stmt) and s.lineno == line:
            targets = getattr(s, "targets", [getattr(s, "target", None)])
            names = [x.id for t in targets if t for x in ast.walk(t) if isinstance(x, ast.Name)]
            return [*names, s.name] if hasattr(s, "name") else names
    return []


# -------------------------------------------------------------------------------------- one of C


def _try_c(copies, options) -> list[Outcome]:
    """Try mutants of C until as many as wanted compile to other code."""
    tests: dict[str, list[str]] = {}
    for fault in faults.read_table(faults.TABLE.read_text()):
        if fault.file.startswith("csrc"):
            tests.setdefault(fault.file, []).extend(
                t for t in fault.tests if t not in tests.get(fault.file, [])
            )
    every = sorted({name for names in tests.values() for name in names})
    # Its own tests first. The others run it too: guard, for one, sees what is read past an array.
    tests = {file: [*own, *(n for n in every if n not in own)] for file, own in tests.items()}
    failed = [name for name in copies.map(faults.Copy.failing, [(t,) for t in every]) if name]
    if failed:
        raise SystemExit(f"control: {', '.join(failed)} fails without a fault. Mend that first.")
    waiting = draw(c_sources(), 10**6, f"{options.seed} C")
    sound, outcomes = objects(copies.all[0]), []

    def attempt(copy, mutant):
        return _try_one_of_c(copy, mutant, tests.get(mutant.file, every), sound)

    while len(outcomes) < options.c and waiting:
        some, waiting = waiting[: options.c - len(outcomes)], waiting[options.c - len(outcomes) :]
        outcomes += [o for o in copies.map(attempt, some) if o.noticed is not None]
    return outcomes


def _try_one_of_c(copy, mutant: Mutant, tests: list[str], sound: str) -> Outcome:
    path = copy.folder / mutant.file
    text = path.read_text()
    path.write_text(mutant.planted(text))
    copy.stale = True
    try:
        copy.build()
        same = objects(copy) == sound
        noticed = None if same else copy.failing(tests) or ""
    except RuntimeError:
        noticed = None
    finally:
        path.write_text(text)
        copy.stale = True
    outcome = Outcome(mutant, noticed, len(tests))
    _print(outcome, text)
    return outcome


def objects(copy) -> str:
    """A digest of the machine code that was made of csrc/. The module itself also holds a digest of
    the sources."""
    digest = hashlib.sha256()
    for path in sorted((copy.folder / "build").rglob("csrc/*.o")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------ the counts


def _print(outcome: Outcome, text: str) -> None:
    kind = outcome.mutant.kind
    if outcome.noticed is None:
        end = "drawn again: the machine code is the same, or it does not compile"
    elif outcome.noticed:
        end = f"killed by {outcome.noticed}"
    else:
        end = f"SURVIVED {outcome.tests} tests" if outcome.tests else "SURVIVED: no test runs it"
    print(f"{outcome.mutant.shown(text)}  ({kind})  {end}", flush=True)


def wilson(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share k / n (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    p, square = k / n, z * z / n
    middle, half = p + square / 2, z * math.sqrt((p * (1 - p) + square / 4) / n)
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def _summary(outcomes: list[Outcome], seconds: float) -> int:
    """Print the counts; the exit status."""
    bad = False
    for name, of in (("Python", "pysft/"), ("C", "csrc/"), ("all", "")):
        some = [o for o in outcomes if o.mutant.file.startswith(of)]
        killed = sum(bool(o.noticed) for o in some)
        hung = sum("hangs" in (o.noticed or "") for o in some)
        low, high = wilson(killed, len(some))
        if some:
            print(
                f"{name}: {killed} of {len(some)} killed ({killed / len(some):.1%}, 95 % interval"
                f" {low:.1%} to {high:.1%}), {hung} of them because a test did not end in time"
            )
        bad = not some or killed < faults.BAR * len(some)
    print(f"{seconds:.0f} s")
    return int(bad)
