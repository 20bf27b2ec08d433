"""The guide's exercise "Add a stage": its code is applied to a copy of the package, which then has
the stage."""

import json
import re
import shlex
import shutil

import pytest
from conftest import ROOT, python

# The derivatives are tested without hypothesis, which its plugin imports at the end of every run.
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
PAGE = (ROOT / "pysft" / "guide" / "add-a-stage.md").read_text()
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.M | re.S)
SMALL = """[model]
context = 64
layers = 1
heads = 2
channels = 16
[data]
too_long = "drop"
[base]
steps = 4
windows = [[32, 2]]
[sft]
steps = 4
tokens = 192
windows = []
checkpoint_every = "never"
[focal]
steps = 4
tokens = 192
windows = []
checkpoint_every = "never"
"""


def places():
    """[(file, code)] of the page's blocks: the file is the last that is named before each."""
    found, end = [], 0
    for block in BLOCK.finditer(PAGE):
        found.append((re.findall(r"`([\w/]+\.py)`", PAGE[end : block.start()])[-1], block[1]))
        end = block.end()
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A folder with a copy of the package, as a reader of the page would leave it."""
    folder = tmp_path_factory.mktemp("exercise")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pysft", folder / "pysft", ignore=ignore)
    shutil.copytree(ROOT / "csrc", folder / "csrc", ignore=ignore)  # the build is checked by it
    (folder / "tests").mkdir()
    for file, code in places():
        path = folder / file
        old = path.read_text() if path.exists() else ""
        path.write_text(old + (code if old else code.lstrip("\n")))
    line = re.search(r"^    (from pysft\S+ import .*Focal.*)$", PAGE, re.M)[1]
    stages = folder / "pysft" / "training" / "stages.py"
    text, count = re.subn(r"^from pysft\.training\.objectives import .*$", line, stages.read_text(),
                          flags=re.M)  # fmt: skip
    assert count == 1
    stages.write_text(text)
    (folder / "small.toml").write_text(SMALL)
    return folder


def test_the_page_counts_the_lines_that_it_adds():
    counted = dict(re.findall(r"^\| `([\w/.]+)` +\| (\d+) ", PAGE, re.M))
    added = {}
    for file, code in places():
        changed = file.endswith("stages.py")  # one more line of it is changed: the import
        added[file] = len([line for line in code.splitlines() if line]) + changed
    assert {file: int(n) for file, n in counted.items()} == added


def test_its_derivatives_are_right(copy):
    done = python(*PYTEST, "tests/test_focal.py", cwd=copy)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_its_derivatives_are_checked(copy):
    path = copy / "pysft" / "training" / "objectives.py"
    right = path.read_text()
    path.write_text(right.replace("slope = weight + self.gamma", "slope = weight - self.gamma"))
    try:
        done = python(*PYTEST, "tests/test_focal.py", cwd=copy)
    finally:
        path.write_text(right)
    assert "1 failed" in done.stdout


def test_its_commands_train_the_stage_and_go_on_from_it(copy):
    commands = re.findall(r"^python -m pysft (train .*)$", PAGE, re.M)
    assert len(commands) == 2
    for command in commands:
        done = python("-m", "pysft", *shlex.split(command), "--config", "small.toml", cwd=copy)
        assert done.returncode == 0, done.stderr
    settings = json.loads((copy / "runs/focal/focal/settings.json").read_text())["settings"]
    assert settings["focal"]["gamma"] == 2
    rows = [json.loads(r) for r in (copy / "runs/focal/focal/log.jsonl").read_text().splitlines()]
    # (1 - p)^2 < 1, so the focal loss is below the plain one, which is the figure.
    assert all(0 < row["loss"] < row["figures"]["conversation"] for row in rows)
    report = json.loads((copy / "runs/focal-sft/sft/report.json").read_text())
    assert report["parent"]["stage"] == "focal"


def test_settings_are_read_as_before_also_those_of_an_old_run(copy):
    """The table of the flat names of earlier versions does not know the new kind."""
    for name in ("conftest.py", "texts.py", "test_settings.py"):
        shutil.copy(ROOT / "tests" / name, copy / "tests")
    done = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_settings.py", cwd=copy
    )
    assert done.returncode == 0, done.stdout
    code = "from pysft.training.flat import PLACES; from pysft.training.kinds import KINDS;"
    code += "print(*KINDS, *{table for places in PLACES.values() for table, _ in places})"
    tables = python("-c", code, cwd=copy).stdout.split()
    kinds = ["base", "sft", "reward", "ppo", "dpo", "focal"]
    assert sorted(tables) == sorted([*kinds, "base", "sft", "model", "data"])
