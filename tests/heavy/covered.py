"""Which tests run which line of pysft/: a map that coverage.py makes of each file of tests.

The file is two things. `coverage_map` runs the tests in a copy of the project and keeps what it
found. Loaded into pytest (-p covered), it names each test to coverage.py, in this process and in
those that the test starts."""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import suite  # noqa: E402

CONTEXT, CHOSEN, TIMES = "PYSFT_CONTEXT", "PYSFT_CHOSEN", "PYSFT_TIMES"  # environment variables
# Tracing makes these tests exceed their time limits; the first starts no line of its own.
UNTRACED = (
    "test_a_corpus_that_repeats_one_stretch_is_searched_in_time",
    "test_python_starts_with_the_package_in_under_0_3_seconds",
)
SETTINGS = f"""[run]
source = {{folder}}/pysft
parallel = true
sigterm = true
patch = _exit
context = ${{{{{CONTEXT}-}}}}
"""

# ---------------------------------------------------------------------------- loaded into pytest

_seconds, _failed = defaultdict(float), set()


def pytest_runtest_logstart(nodeid, location):
    """Name the test that begins to coverage.py."""
    os.environ[CONTEXT] = nodeid
    try:
        import coverage
    except ImportError:
        return
    if coverage.Coverage.current():
        coverage.Coverage.current().switch_context(nodeid)


def pytest_runtest_logreport(report):
    """Add up how long a test takes, and note whether it failed."""
    _seconds[report.nodeid] += report.duration
    if report.failed:
        _failed.add(report.nodeid)


def pytest_collection_modifyitems(config, items):
    """Keep the tests that CHOSEN names, a file with their ids, in its order; without it, all."""
    if CHOSEN in os.environ:
        place = {name: i for i, name in enumerate(json.loads(Path(os.environ[CHOSEN]).read_text()))}
        kept = [item for item in items if item.nodeid in place]
        items[:] = sorted(kept, key=lambda item: place[item.nodeid])


def pytest_sessionfinish(session):
    """Write how long each test took, and which failed, into the file that TIMES names."""
    if TIMES in os.environ:
        document = {"seconds": _seconds, "failed": sorted(_failed)}
        Path(os.environ[TIMES]).write_text(json.dumps(document))


# -------------------------------------------------------------------------------------- the map


@dataclass(frozen=True)
class Covered:
    """Which tests run which line.

    tests: {(file, line): ids of the tests}. seconds: {id of a test: how long it took while it was
    traced}."""

    tests: dict[tuple[str, int], set[str]]
    seconds: dict[str, float]

    def leave_out(self, tests) -> None:
        """Use these tests no more."""
        for place, names in list(self.tests.items()):
            self.tests[place] = names.difference(tests)  # another thread may read the old set
        for test in tests:
            self.seconds.pop(test, None)

    def of(self, file: str, lines) -> set[str]:
        """The tests that run one of these lines of a file."""
        return set().union(*(self.tests.get((file, line), ()) for line in lines))

    def named(self, name: str) -> list[str]:
        """The tests whose id begins with a name as faults.first_failure gives it."""
        return [t for t in list(self.seconds) if t.removeprefix("tests/").startswith(name)]

    def ordered(self, tests) -> list[str]:
        """The tests by file, the quickest file and in it the quickest test first."""
        total = defaultdict(float)
        for test in tests:
            total[file_of(test)] += self.seconds.get(test, 0.0)

        def place(test):
            return total[file_of(test)], file_of(test), self.seconds.get(test, 0.0), test

        return sorted(tests, key=place)


def file_of(test: str) -> str:
    """The file of a test's id."""
    return test.partition("::")[0]


def _digest(folder: Path, file: str) -> str:
    """What the map of a file of tests depends on: the package, the helpers of the tests, the file,
    and the files of tests that it imports from."""
    tests = folder / "tests"
    helpers = [p for p in tests.rglob("*.py") if not p.name.startswith("test_")]
    helpers = [p for p in helpers if tests / "heavy" not in p.parents and p.name != "suite.py"]
    imported = re.findall(r"^from (test_\w+) import", (folder / file).read_text(), re.M)
    helpers += [tests / f"{name}.py" for name in imported]
    digest = hashlib.sha256()
    for path in [*sorted((folder / "pysft").rglob("*.py")), *sorted(helpers), folder / file]:
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def coverage_map(copies, say=print) -> Covered:
    """The map of all files of tests. copies: faults.Copies. A file's map is kept in the temporary
    folder of the system, and made anew if the package or the file has changed."""
    kept = Path(tempfile.gettempdir()) / f"pysft-covered-{os.getuid()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    folder = copies.all[0].folder
    files = {f"tests/{p.name}": None for p in sorted((folder / "tests").glob("test_*.py"))}
    paths = {file: kept / f"{Path(file).stem}-{_digest(folder, file)}.json" for file in files}
    missing = [file for file, path in paths.items() if not path.is_file()]
    long = {f"tests/test_{name}.py" for name in suite.FIRST + suite.LAST}
    missing.sort(key=long.__contains__)  # those that take long come last
    if missing:
        say(f"recording which lines {len(missing)} files of tests run", flush=True)
    copies.map(lambda copy, file: _record(copy, file, paths[file]), missing)
    tests, seconds, failed = defaultdict(set), {}, set()
    for path in paths.values():
        found = json.loads(path.read_text())
        seconds |= found["seconds"]
        failed |= set(found["failed"])
        for file, by_line in found["lines"].items():
            for line, names in by_line.items():
                tests[file, int(line)].update(found["tests"][i] for i in names)
    if failed:
        say(f"left out, because they fail without a fault: {', '.join(sorted(failed))}", flush=True)
    covered = Covered(dict(tests), seconds)
    covered.leave_out(failed)
    return covered


def _record(copy, file: str, target: Path) -> None:
    """Run a file of tests under coverage.py and write which test ran which line."""
    import coverage

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rc").write_text(SETTINGS.format(folder=copy.folder))
        unwanted = [f"--deselect={file}::{test}" for test in UNTRACED]
        done = copy.python(
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "covered", file, *unwanted),
            COVERAGE_PROCESS_START=str(folder / "rc"),
            COVERAGE_FILE=str(folder / "data"),
            **{TIMES: str(folder / "times.json")},
        )
        data = coverage.CoverageData(str(folder / "all"))
        for part in sorted(folder.glob("data.*")):
            one = coverage.CoverageData(str(part))
            try:
                one.read()
                data.update(one)
            except coverage.CoverageException:  # its process was killed while it wrote
                continue
        times = folder / "times.json"
        if done.returncode not in (0, 1, 5) or not times.is_file():
            raise RuntimeError(f"{file}: pytest did not run to its end:\n{done.stdout[-3000:]}")
        tests, lines = sorted(data.measured_contexts() - {""}), {}
        number = {test: i for i, test in enumerate(tests)}
        for path in data.measured_files():
            by_line = {
                line: [number[c] for c in contexts if c]
                for line, contexts in data.contexts_by_lineno(path).items()
            }
            source = str(Path(path).relative_to(copy.folder))
            lines[source] = {line: names for line, names in by_line.items() if names}
        document = {"tests": tests, "lines": lines, **json.loads(times.read_text())}
        target.write_text(json.dumps(document))
