"""README and the guide: the commands that they print run, and what they name exists."""

import argparse
import ast
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import cache, partial
from itertools import islice, takewhile

import pytest
from conftest import ROOT, SMALL_RUN, as_toml, in_process, merged, python
from small_lab import small_presets

from pysft.cli import guide
from pysft.cli import main as cli
from pysft.errors import UsageError
from pysft.jobs import material
from pysft.lab.experiments import EXPERIMENTS
from pysft.lessons.exercises import layernorm
from pysft.measure import evaluate, figures, probe, tooltest  # noqa: F401  (loaded, so that MAX_NEW is patched)
from pysft.nn import gate, gradcheck
from pysft.nn.shapes import sizes
from pysft.run import stage
from pysft.text.corpora import read_corpus, shipped
from pysft.text.render import render
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.training import objective_cases
from pysft.training.kinds import ALIGNING, KINDS
from pysft.training.presets import PRESETS, TOOLS
from pysft.training.presets import WITH_TOOLS as RECIPES
from pysft.training.settings import Settings
from pysft.world import sums as sums_module
from pysft.world import table as table_module

README = (ROOT / "README.md").read_text()
PAGES = {"README": README, **guide.read_pages()}
PYTHON = (".venv/bin/python -m pysft ", "python -m pysft ")
FENCE = re.compile(r"^```\n(.*?)^```\n", re.M | re.S)
CAPITALS = re.compile(r"[A-Z]{2,}")  # a word that stands for another: RUN, FILE, NAME

# The settings of the runs that the pages' commands train here.
SMALL = merged(
    SMALL_RUN,
    model={"context": 256},
    base={"steps": 4, "windows": [[64, 4]]},
    sft={"steps": 4, "tokens": 900, "windows": [[64, 2]], "checkpoint_every": "never"},
)
WITH_TOOLS = merged(SMALL, data={"transcripts": 60})
# Those of stages that learn from comparisons, and of such stages that make the comparisons too.
COMPARED = {
    "reward": {"rankings": 4},
    "dpo": {
        **{"steps": 2, "warmup": 1, "pairs": 4, "windows": [[64, 1]]},
        "checkpoint_every": "never",
    },
}
COLLECTED = {"replies": 4, "rounds": 2}
REWARDED = {
    "steps": 2, "warmup": 1, "prompts": 2, "replies": 2, "tokens": 8, "windows": [[64, 1]],
    "checkpoint_every": "never",
}  # fmt: skip
FILES = {
    "small.toml": as_toml(merged(WITH_TOOLS, sft={"checkpoint_every": 2})),
    "mine.toml": as_toml({"preset": "tiny"} | WITH_TOOLS),
    "never.toml": as_toml(SMALL),
    "tools.toml": as_toml(WITH_TOOLS),
    "world.toml": as_toml(
        merged(
            SMALL,
            world={"people": 20, "days": 4, "attributes": 1, "tellings": [16]},
            base={"world": [[64, 2]]},
            sft={"world": [[64, 1]], "pairs": 0},
        )
    ),
    "compared.toml": as_toml(COMPARED),
    "compares.toml": as_toml(merged(COMPARED, reward=COLLECTED, dpo=COLLECTED)),
    "rewarded.toml": as_toml({"ppo": REWARDED}),
    "my_judge.py": "def judge(question, answer, reply):\n    return 'wrong'\n",
    "my_scorer.py": "def score(prompt, replies):\n    return [sum(map(ord, r)) for r in replies]\n",
    "prompts.txt": "".join(f"Who {verb}?\n" for verb in "sings sleeps reads keeps runs".split()),
    "my.txt": read_corpus("plays")[:12000] + SHAKESPEARE,  # some text, and every character
    "my.jsonl": '{"prompt": "Who keeps the gate?", "completion": "Old Tom keeps it."}\n',
    "more.jsonl": '{"prompt": "Who sleeps?", "completion": "The moon, by noon."}\n',
    "seeds.jsonl": '{"prompt": "Who keeps the bridge?", "completion": "Old Nell keeps it."}\n',
    "facts.jsonl": '{"title": "Ada Lovelace", "text": "Ada Lovelace wrote a book."}\n',
    "notes/garden.md": "Roses want water.\n",
}
WRITTEN_BY_READERS = {
    *FILES,
    "replies.jsonl.ratings",
    "rankings.jsonl",
    "mine.csv",
    "pairs.csv",
    "clean.jsonl",
    "mine.py",
    "mask.svg",
}
DRAWN = ("checkpoints", "claims")  # pages whose commands draw curves, which takes most of the time
TYPED = {"chat": "I am sad\n", "rate": "3\nq\n"}  # on standard input

OF_A_WORLD = (
    "generate runs/world --prompts world:reward -k 4 --out asked.jsonl",
    "rate asked.jsonl --by world --run runs/world",
    "rate asked.jsonl --by labelers --run runs/world --out labeled.jsonl",
    "rate asked.jsonl --by http://localhost:8000/v1 --judge-model NAME --out judged.jsonl",
)
FOCAL = (
    "train --stages base,focal --set focal.gamma=2 --out runs/focal",
    "train --base runs/focal/focal --stages sft --out runs/focal-sft",
)
STAGES = (
    "train --base runs/tiny/sft --stages reward,dpo --rankings rankings.jsonl --out runs/both",
)
CHAINS = (
    "train --data world --stages base,sft,reward,ppo --set sft.steps=100 ppo.beta=0.1 --out"
    " runs/chain",
    "train --base runs/half/sft --stages reward,ppo --set ppo.beta=0.1 --out runs/both",
    "train --base runs/half/base --data world --stages sft,ppo,dpo --set sft.steps=100 --out"
    " runs/modern",
)
URL = "--by http://localhost:8000/v1 --judge-model NAME"
SEEDS = {  # of the page `seeds`
    "curate expand seeds.jsonl --teacher http://localhost:8000/v1 --teacher-model NAME --rows 2000"
    " --out expanded.jsonl": "tests/test_expand_endpoint.py",
    "train --preset mini --data seeds.jsonl --grade everything --out runs/teacher": (
        "tests/test_expand.py"
    ),
    "curate expand seeds.jsonl --teacher runs/teacher --rows 2000 --out expanded.jsonl": (
        "tests/test_expand.py"
    ),
    f"curate judge expanded.jsonl --seeds seeds.jsonl {URL} --out judged.jsonl": (
        "tests/test_curate_judge.py"
    ),
    "curate prune judged.jsonl --run runs/mine --by my_judge.py --keep 0.1 --out hard.jsonl --map"
    " difficulty.jsonl": "tests/test_curate_prune.py",
    "rate runs/grown": "as `rate runs/tiny`, which is run",
    "select runs/grown": "as `select runs/tiny`, which is run",
    "curate prune difficulty.jsonl --by random --keep 0.1 --out control.jsonl": (
        "tests/test_curate_prune.py"
    ),
    "train --data world --set world.relations=3 world.two_hops=thought --out runs/thinker": (
        "tests/test_thoughts.py"
    ),
    "curate distil world:train --teacher runs/thinker --judge world --out traces.jsonl": (
        "tests/test_distil.py"
    ),
    "chat runs/thinker --show-thoughts": "tests/test_thoughts.py",
    "train --data seeds.jsonl judged.jsonl --set sft.lr=1.7e-3 --checkpoint-every epoch --out"
    " runs/grown": "as `train --data clean.jsonl more.jsonl`, which is run",
    "probe runs/world --out maps/world": "its model knows nothing; tests/test_probe_verb.py",
    "probe runs/world --recall --out maps/recall": "tests/test_recalling.py",
    "probe runs/grown --questions questions.jsonl --judge http://localhost:8000/v1 --judge-model"
    " NAME --out maps/grown": "tests/test_probe_verb.py",
    "probe runs/mine --questions prompts.txt --judge my_judge.py --against maps/grown/map.jsonl"
    " --out maps/mine": "tests/test_probe_verb.py",
    **dict.fromkeys(
        (
            "train --base runs/world --data worlds/violating/violating.jsonl"
            " worlds/violating/critiques.jsonl --mix 1 3 --grade flags --out runs/violating",
            "curate revise runs/violating --constitution world -k 4 --out revised.jsonl --pairs"
            " pairs.jsonl",
            "train --base runs/violating/sft --data revised.jsonl --out runs/revised",
            "curate revise runs/revised --measure --prompts world:sealed",
        ),
        "tests/test_revise.py",
    ),
}
NOT_RUN = {  # a command and why it is held to the parser alone
    "lab comparisons batches ties overoptimisation displacement comparing past-the-minimum": (
        "tests/test_lab_preferences.py"
    ),
    "lab hacking drift proximal ptx baselines dpo-or-ppo": "tests/test_lab_ppo.py",
    "lab traces own-traces sums": "tests/test_lab_traces.py",
    "lab constitution turns": "tests/test_lab_constitution.py",
    "lab expansion pruning": "tests/test_lab_curating.py",
    "lab own-map recalling": "tests/test_lab_probing.py",
    "lab all --scale 0.01 --out try": "all experiments; tests/test_lab.py runs each of them",
    "gradcheck --ops mine.py": "run by the test of the exercise, below",
    "eval runs/world --judge http://localhost:8000/v1 --judge-model NAME": "tests/test_judges.py",
    **dict.fromkeys(OF_A_WORLD, "tests/test_collect.py and tests/test_raters.py"),
    **dict.fromkeys(STAGES, "tests/test_aligning.py; its stages are run by the lines above it"),
    **dict.fromkeys(CHAINS, "tests/test_ppo_job.py; their stages are run by the lines above"),
    **SEEDS,
    **dict.fromkeys(FOCAL, "run by tests/test_add_a_stage.py, on a copy of the package"),
}
# What the pages tell a reader to look at, in the output of the command.
PROMISED = {
    "audit mine.csv": ["table", "findings", "none: clean"],
    "audit mine.csv --fix clean.jsonl": ["fixed"],
    "audit pairs.csv": ["the longer is better", "none: clean"],
    "mask clean.jsonl --line 2": ["^^^"],
    "train --data clean.jsonl --out runs/mine": ["conversations:", "recalled word for word"],
    "train --corpus my.txt --data my.jsonl --out runs/mine-2": ["run:", "held out"],
    "train --data clean.jsonl more.jsonl --mix 3 1 --out runs/mixed": ["mixed 3 : 1"],
    "train --data tools": ["tools: held-out facts", "tools: unknown names", "tools: ordinary"],
    "train --data sums": ["tools: sums", "right call"],
    "train --data table": ["tools: table", "without the tool"],
    "chat runs/tiny -p 'Pray, who is Orson Kovacs?' --json": ['"reply"'],
    "eval runs/tiny": ["forgetting", "unseen prompts:", "domain"],
    "eval runs/tiny --samples 20": ["new", "Verbatim:"],
    "eval runs/tiny --gate 0.10": ["gate"],
    "eval runs/tiny --matched": ["matched"],
    "select runs/tiny": ["*", "held-out", "person's"],
    "rate runs/tiny": ["marks"],
    "generate runs/tiny --prompts prompts.txt -k 4 --out replies.jsonl": ["4 replies to each of 5"],
    "rate replies.jsonl": ["1. Helpful", "prompts rated now"],
    "rate replies.jsonl --by my_scorer.py:score --out scored.jsonl": ["prompts rated now"],
    "audit scored.jsonl --run runs/tiny": ["the longer is better"],
    "report runs/tiny": ["runs/tiny/report.html"],
    "train --lora 8 --base runs/tiny --out runs/lora": ["sft: LoRA of rank 8", "frozen"],
    "audit rankings.jsonl --run runs/tiny": ["pairs", "the longer is better"],
    "reward runs/tiny --data rankings.jsonl --gate --out runs/scorer": [
        "held-out pairs in the right order",
        "good enough",
    ],
    "dpo runs/tiny --data rankings.jsonl --out runs/better": [
        "KL from the parent",
        "tokens of a reply",
        "forgetting",
    ],
    "dpo runs/half --by reward --reward runs/judge --out runs/improved": [
        "win rate",
        "points by the exact judge",
    ],
    "merge runs/lora/sft/adapter.safetensors --base runs/tiny --out runs/merged": ["SHA-256"],
    "train --resume --out runs/tiny": ["SHA-256"],
    "mask": ["^^^", "graded", "skipped"],
    "mask --prove": ["\nproved\n"],
    "train": ["settings:", "tools: second questions", "a chat about the town"],
    "chat runs/tiny -p 'I am sad' --json": ['"reply"', '"stop"'],
    "generate runs/tiny/base -p 'KING: '": ["KING: "],
    "lab first-token --seeds 3": ["yes", "Verdict:"],
    "info": ["isa"],
    "lesson 6": ["## By hand", "layernorm_backward"],
    "lesson 6 --start mine.py": ["added layernorm_forward and layernorm_backward"],
    "lesson 6 --check mine.py": ["layernorm_forward is not written yet"],
    "train --data world --out runs/world": ["the world", "in new wordings", "without an answer"],
    "train --data world --set world.people=50 'world.tellings=[0,30,512]' --out runs/few": [
        "right by tellings"
    ],
    "world --people 30 --relations 1 --out worlds/small": ["entities", "questions:"],
    "eval runs/world --judge my_judge.py": ["the other judge"],
    "info runs/tiny": ["base", "+- sft"],
    "info runs/more": ["base", "+- sft", "   +- sft-2"],
    "train --stages base,sft,sft-2 --set sft-2.lr=1e-3 --out runs/chain": ["[sft-2] as [sft]"],
    "train --base runs/tiny/sft --data more.jsonl --out runs/more": [
        "compared with its parent, sft",
    ],
}


# ------------------------------------------------------------------------- what the pages hold


def blocks(text):
    """The contents of a page's code blocks."""
    return FENCE.findall(text)


def spans(text):
    """What stands in backticks in a page's prose and tables."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def is_command(line):
    return line.startswith((*PYTHON, "make "))


def printed(page):
    """The commands in the code blocks of a page, without comments, in order."""
    lines = [line for block in blocks(PAGES[page]) for line in block.splitlines()]
    return [shlex.join(shlex.split(x, comments=True)) for x in lines if is_command(x)]


def arguments(command):
    """What stands behind `python -m pysft`."""
    return command.partition("-m pysft ")[2]


def mentioned():
    """(page, command) of all commands in code blocks and in backticks, each once."""
    found = {(page, command): None for page in PAGES for command in printed(page)}
    for page, text in PAGES.items():
        found |= {(page, span): None for span in spans(text) if is_command(span)}
    return list(found)


# --------------------------------------------------------------------------- commands that exist


@cache
def targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def hold(command):
    """Raise where a command is not one that make or the parser takes."""
    if command.startswith("make "):
        words = [word for word in shlex.split(command)[1:] if "=" not in word]
        unknown = set(words) - targets()
        assert words and not unknown, f"{command}: no target {unknown} in the Makefile"
        return
    words = shlex.split(arguments(command))
    if CAPITALS.fullmatch(words[0]):  # python -m pysft VERB
        return
    try:
        args, more = cli.parser().parse_known_args(words)
    except SystemExit:
        pytest.fail(f"{command}: the parser refuses it")
    assert not more, f"{command}: unknown {more}"
    preset = getattr(args, "preset", None)
    assert preset is None or preset in PRESETS or CAPITALS.fullmatch(preset), command
    if args.verb == "lab":
        unknown = set(args.names) - {*EXPERIMENTS, "all", "NAME"}
        assert not unknown, f"{command}: no experiment {unknown}"
    if args.verb == "guide":
        assert args.name in {*PAGES, None, "NAME"}, command


@pytest.mark.parametrize("page, command", mentioned(), ids=str)
def test_a_command_that_a_page_prints_exists(page, command):
    hold(command)


@pytest.mark.parametrize(
    "command",
    [
        "python -m pysft trian",
        "python -m pysft train --epochs 3",
        ".venv/bin/python -m pysft train --preset huge",
        "python -m pysft lab nothing-such",
        "python -m pysft guide nothing-such",
        "python -m pysft chat",
        "make nothing-such",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(command, capsys):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        hold(command)


def test_every_page_prints_commands_and_every_verb_is_on_a_page():
    assert all(printed(page) for page in PAGES)
    verbs = {
        arguments(c).split()[0] for page in PAGES for c in printed(page) if not c.startswith("make")
    }
    assert verbs == set(cli.VERBS)
    rows = re.findall(r"^- `([a-z]+)[^`]*`:", PAGES["commands"], re.M)
    assert rows == list(cli.VERBS)


def test_make_would_do_what_the_pages_say():
    for target in {c.split()[1] for _, c in mentioned() if c.startswith("make ")}:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"make {target}: {done.stderr}"


# ------------------------------------------------------------------------------ commands that run


@pytest.fixture(scope="module", autouse=True)
def short_measurements(figures_as_placed):
    """Replies of at most eight tokens, where a model is measured, to a tenth of the prompts, one
    draw of the tool test, few questions made for the other tools, and a sixth of the shipped
    conversations."""
    read_prompts, scan = probe.read_prompts, material.scan

    def some(path, *arguments):
        rows = scan(path, *arguments)
        return islice(rows, 0, None, 6) if path == str(shipped("conversations.jsonl")) else rows

    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("pysft.") and hasattr(module, "MAX_NEW"):
                patch.setattr(module, "MAX_NEW", 8)
        patch.setattr(probe, "read_prompts", lambda path: list(read_prompts(path))[::10])
        patch.setattr(material, "scan", some)
        _, sampling = tooltest.tool_test.__defaults__
        patch.setattr(tooltest.tool_test, "__defaults__", ((1,), sampling))
        patch.setattr(tooltest, "Session", partial(tooltest.Session, max_new=8))
        for name in ("INVENTED", "STRANGERS"):
            patch.setattr(tooltest, name, 10)
        for name, module in (("sums", sums_module), ("table", table_module)):
            patch.setattr(getattr(module, name), "__defaults__", (200, 1))
            patch.setattr(module, "TESTED", 10)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the files that a reader has, and a run in runs/tiny."""
    home = tmp_path_factory.mktemp("home")
    for name, text in FILES.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    for name, first in (("mine.csv", "Who keeps"), ("pairs.csv", "prompt,chosen")):
        text = next(b for b in blocks(PAGES["data"]) if b.startswith(first))
        (home / name).write_text(text)
    train = ["train", "--config", "small.toml", "--corpus", "my.txt", "--out", "runs/tiny"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        code, _, err = in_process(*train)
    assert code == 0, err
    return home


@pytest.fixture
def home(trained, tmp_path, monkeypatch):
    """A copy of that folder to stand in."""
    shutil.copytree(trained, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def scaled(command):
    """A printed command's arguments, for a run that takes a second and needs no network."""
    text = arguments(command).replace("shakespeare", "my.txt").replace("steps/850", "steps/2")
    text = text.replace("--seeds 3", "--seeds 1").replace("--steps 1000", "--steps 4")
    words = shlex.split(text)
    learns_tools = "tools" in words or not {"--data", "--no-tools", "seed"} & set(words)
    if words[0] in ("reward", "dpo"):
        return [*words, "--config", "compared.toml" if "--data" in words else "compares.toml"]
    if words[0] == "ppo":
        return [*words, "--config", "rewarded.toml"]
    if words[0] == "train" and "world" in words:
        return [*words, "--config", "world.toml"]
    if words[0] in ("train", "pretrain") and not {"--resume", "--config"} & set(words):
        words += ["--config", "tools.toml" if learns_tools else "never.toml"]
    if words[0] == "lab" and len(words) > 1:
        words += ["--scale", "0.01"]
    trains = words[0] in ("train", "pretrain") or "--scale" in words
    if trains and "tools" not in words and not {"--resume", "--base", "--corpus"} & set(words):
        words += ["--corpus", "my.txt"]
    return words


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_their_order(page, home, monkeypatch):
    if page not in DRAWN:
        monkeypatch.setattr(figures, "available", lambda: False)
    for command in printed(page):
        if command.startswith("make ") or arguments(command) in NOT_RUN:
            continue
        words = scaled(command)
        monkeypatch.setattr(sys, "stdin", io.StringIO(TYPED.get(words[0], "")))
        with small_presets() if words[0] == "lab" else nullcontext():
            code, out, err = in_process(*words)
        if code == 2 and not gate.HAS_BF16 and "without the products of bf16" in err:
            continue
        # The exit code of these is a result.
        may_fail = words[0] == "diagnose" or {"--gate", "--check"} & set(words)
        assert code in ((0, 1) if may_fail else (0,)), f"{command}: {code}\n{err}"
        for text in PROMISED.get(arguments(command), ()):
            assert text in out, f"{command}: its output has no {text!r}:\n{out[-3000:]}"


def test_the_lists_of_this_file_are_of_commands_that_are_printed():
    every = {arguments(command) for page in PAGES for command in printed(page)}
    assert set(NOT_RUN) | set(PROMISED) <= every, (set(NOT_RUN) | set(PROMISED)) - every


# ------------------------------------------------------------------------------- names that exist


@cache
def sources():
    """The text of everything that a name in backticks may come from."""
    paths = [ROOT / "Makefile", *(ROOT / "bench").glob("*.py")]
    for folder, kinds in (("pysft", ["py"]), ("csrc", ["c", "h"]), ("tests", ["py"])):
        paths += [path for kind in kinds for path in (ROOT / folder).rglob(f"*.{kind}")]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


@cache
def code():
    """The text of all of them, and the set of its words."""
    text = "\n".join(sources().values())
    return text, set(re.findall(r"\w+", text))


@cache
def flags(verb=None):
    """All options of a verb, or of all verbs and benchmarks."""
    subparsers = cli.parser()._subparsers._group_actions[0].choices
    found = {o for name, p in subparsers.items() if verb in (None, name) for o in _options(p)}
    if verb is None:
        bench = "".join(text for name, text in sources().items() if name.startswith("bench/"))
        found |= set(re.findall(r"--[a-z-]+", bench))
    return found


def _options(parser):
    """The options of a verb, and of its steps if it has any."""
    inner = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    steps = [option for choices in inner for p in choices.values() for option in _options(p)]
    return [*parser._option_string_actions, *steps]


@cache
def place(path):
    """Where a path in backticks is, if it is anywhere: from the project's folder or from pysft/."""
    found = [p for room in (ROOT, ROOT / "pysft") for p in room.glob(path)]
    if "/" not in path:
        found += [p for room in ("pysft", "csrc", "tests") for p in (ROOT / room).rglob(path)]
    return next(iter(found), None)


PATH = re.compile(r"[\w.-]+(/[\w.-]*)+|[\w-]+\.(py|c|h|md|toml|jsonl?|csv|html|safetensors)")
NAME = re.compile(r"(\w*_\w+|[A-Z]\w*[a-z]\w*|[A-Z]{4,})(\(\))?")  # of code; not a plain word


@pytest.mark.parametrize("page", PAGES)
def test_files_and_functions_in_backticks_exist(page, trained):
    text, words = code()
    for span in spans(PAGES[page]):
        if PATH.fullmatch(span) and span not in WRITTEN_BY_READERS:
            if span.startswith("RUN/"):
                name = span.removeprefix("RUN/").replace("STEP", "*")
                there = any((trained / "runs" / "tiny").glob(name)) or span.endswith(
                    "adapter.safetensors"
                )
                kind, _, file = name.partition("/")
                if kind in ALIGNING:  # runs/tiny has no such stage
                    there = not file or re.search(rf"^    {file} ", stage.__doc__, re.M)
                assert there, f"{page}: a run has no {span}"
            elif not span.startswith("runs/"):
                # A placeholder stands for any file, or for a part of a name in the code.
                known = place(span.replace("NAME", "*")) or span.replace("STEP", "{step}") in text
                assert known, f"{page}: there is no {span}"
        elif NAME.fullmatch(span):
            name = span.removesuffix("()")
            assert name in words, f"{page}: no source has {name}"


@pytest.mark.parametrize("page", PAGES)
def test_a_name_is_in_the_file_that_the_page_says(page):
    text = " ".join(FENCE.sub("", PAGES[page]).split())
    path, name = r"`([\w/]+\.(?:py|c|h))`", r"`(\w+)(?:\(\))?`"
    pairs = [(p, n) for p, n in re.findall(rf"{path}, {name}", text)]
    pairs += [(p, n) for n, p in re.findall(rf"{name},? (?:in|of) {path}", text)]
    pairs += [(p, n) for n, p in re.findall(rf"{name} \({path}\)", text)]
    assert pairs or page not in ("README", "developing", "tools")
    for path, name in pairs:
        assert re.search(rf"\b{name}\b", place(path).read_text()), f"{page}: {path} has no {name}"


@pytest.mark.parametrize("page", PAGES)
def test_options_and_presets_in_backticks_exist(page):
    for span in spans(PAGES[page]):
        if is_command(span) or span.startswith((".venv", "pip ")):
            continue
        words = span.split()
        given = {word for word in words if re.fullmatch(r"--[a-z-]+", word)}
        known = flags(words[0] if words[0] in cli.VERBS else None)
        assert given <= known, f"{page}: {span}: {given - known}"
    text = PAGES[page]
    for found in re.findall(r"`(\w+)` preset|preset `(\w+)`|--preset (\w+)", text):
        for preset in filter(None, found):
            assert preset in PRESETS or CAPITALS.fullmatch(preset), f"{page}: preset {preset}"


def test_the_map_names_every_room_and_only_files_that_exist():
    drawing = next(b for b in blocks(README) if b.startswith("csrc/"))
    rooms = {p.name for p in (ROOT / "pysft").iterdir() if p.is_dir() and p.name[0] != "_"}
    drawn = set(re.findall(r"(?:^ *|  )(\w+)/", drawing, re.M))
    assert drawn == rooms | {"csrc", "pysft", "tests", "bench"}
    room = "csrc"
    for line in drawing.splitlines():
        room = next(iter(re.findall(r"^  (\w+)/", line)), room)
        for file in re.findall(r"\b\w+\.(?:py|h|c)\b", line):
            here = ROOT / room if room == "csrc" else ROOT / "pysft" / room
            top = ROOT / "pysft"
            assert (here / file).is_file() or (top / file).is_file(), f"{room}: no {file}"


# ---------------------------------------------------------------------------- facts in the pages


def table_rows(page, header):
    """The cells, row by row and headings first, of a page's table whose first heading is given."""
    lines = iter(PAGES[page].splitlines())
    first = next(line for line in lines if line.startswith(f"| {header} "))
    rows = takewhile(lambda line: line.startswith("|"), islice(lines, 1, None))
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in (first, *rows)]


def value_of(cell):
    """A cell's value, which is written as in a file of settings."""
    text = cell.strip("`")
    return {"true": True, "false": False}[text] if text in ("true", "false") else _literal(text)


def _literal(text):
    return json.loads(json.dumps(ast.literal_eval(text)))


def plain(value):
    """A setting's value as JSON has it."""
    return json.loads(json.dumps(value))


def test_the_settings_page_has_every_setting_with_its_value():
    shown, tables = {}, [None]
    for line in PAGES["settings"].partition("## All settings")[2].splitlines():
        if line.startswith("`["):  # the settings below it are of these tables
            tables = re.findall(r"`\[(\w+)\]`", line)
        if found := re.match(r"- `(\w+) = (.*?)`: \S", line):
            for table in tables:
                assert (table, found[1]) not in shown, line
                shown[table, found[1]] = value_of(found[2])
    assert shown.pop((None, "stages")) == list(Settings().stages)  # stored as the tables' names
    assert shown == every_setting(Settings().with_stages(list(KINDS)))


def every_setting(settings) -> dict:
    """{(table, name): value} of settings; the table of the preset and the seed is None."""
    found = {}
    for table, values in plain(settings.to_json()).items():
        alone = not isinstance(values, dict)
        found |= {(None, table): values} if alone else {(table, k): v for k, v in values.items()}
    return found


def test_the_settings_page_has_what_differs_in_the_presets():
    heads, *rows = table_rows("settings", "setting")
    columns = [head.strip("`") for head in heads[1:]]
    assert set(columns) == (set(PRESETS) - {"tiny"}) | {"--data tools"}
    for i, column in enumerate(columns, 1):
        shown = {
            re.fullmatch(r"`\[(\w+)\] (\w+)`", row[0]).groups(): value_of(row[i])
            for row in rows
            if row[i]
        }
        if column == "--data tools":
            tools = {(table, name): v for table, t in TOOLS.items() for name, v in t.items()}
            assert shown == {place: plain(value) for place, value in tools.items()}
            continue
        preset, tiny = every_setting(PRESETS[column]), every_setting(PRESETS["tiny"])
        differs = {place: v for place, v in preset.items() if v != tiny[place]}
        assert shown == {n: v for n, v in differs.items() if n != (None, "preset")}, column


def test_the_settings_page_has_what_the_transcripts_change():
    heads, *rows = table_rows("settings", "with transcripts")
    assert [head.strip("`") for head in heads[1:]] == list(RECIPES)
    for i, changes in enumerate(RECIPES.values(), 1):
        shown = {row[0].strip("`"): value_of(row[i]) for row in rows if row[i]}
        assert shown == {
            f"[{table}] {name}": plain(v) for table, t in changes.items() for name, v in t.items()
        }


def test_the_claims_page_has_every_experiment():
    _, *rows = table_rows("claims", "experiment")
    assert [row[0] for row in rows] == [f"{e.name}: {e.title}" for e in EXPERIMENTS.values()]


def test_the_drawings_of_the_mask_are_what_rendering_gives():
    table, drawing = (b for b in blocks(README) if "<|user|>" in b)
    head, below = (line.split()[1:] for line in table.splitlines())
    assert len(head) == len(below)
    tokens, trained = _rendered([("Hi!", "Ho.")])
    assert head == tokens[:-1]
    assert below == [t if graded else "-100" for t, graded in zip(tokens[1:], trained[1:])]

    lines = drawing.splitlines()
    text, marks = "".join(lines[::2]), "".join(m.ljust(len(t)) for t, m in zip(*[iter(lines)] * 2))
    search = [
        {"type": "search", "text": "Lear"},
        {"type": "result", "text": "A king."},
        {"type": "text", "text": "Lear is a king."},
    ]
    tokens, trained = _rendered([("I am sad", "Take heart."), ("Who is Lear?", search)])
    assert text == "".join(tokens)
    assert marks == "".join(" ^"[graded] * len(t) for t, graded in zip(tokens, trained))


def _rendered(exchanges):
    """The tokens of exchanges, as text, and whether each is graded."""
    tokenizer = CharTokenizer.of(read_corpus("plays")).grow(CHAT.tokens + CHAT.tool_tokens)
    messages = [
        {"role": role, "content": content}
        for exchange in exchanges
        for role, content in zip(("user", "assistant"), exchange)
    ]
    tokens, trained = render(messages, tokenizer, CHAT)
    return [tokenizer.decode([t]) for t in tokens], trained.tolist()


def test_the_size_of_the_activations_is_as_readme_says():
    activations = sizes(PRESETS["tiny"].model.shape(68), 2048)["activations"] / 2**20
    assert f"{activations:.0f} MiB for N = 2,048 rows of `tiny`" in README


def test_readme_is_short():
    assert len(README.split()) <= 2400
    assert len(README.encode()) <= 15000


# ------------------------------------------------------------------------------------ the exercise

DERIVATION = """    norm = (x - mean[:, None]) * rstd[:, None]
    g = dy * w
    centred = g - g.mean(axis=1, keepdims=True)
    dx += rstd[:, None] * (centred - norm * (g * norm).mean(axis=1, keepdims=True))
    dw += (dy * norm).sum(axis=0)
    db += dy.sum(axis=0)
"""
MISTAKES = {
    "the mean's term is missing": ("g - g.mean(axis=1, keepdims=True)", "g"),
    "rstd's term is missing": (" - norm * (g * norm).mean(axis=1, keepdims=True)", ""),
    "a sign is wrong": ("(centred - norm", "(centred + norm"),
    "dw forgets the norm": ("(dy * norm)", "dy"),
    "dx is written, not added": ("dx +=", "dx[:] ="),
    "db is missing": ("    db += dy.sum(axis=0)\n", ""),
}


def solution(body):
    """The function that `lesson 6 --start` writes, with a body."""
    return "import numpy as np\n\n" + layernorm.BACKWARD.skeleton + body


def judged(path, monkeypatch):
    """(exit code, document) of README's command for a file, by the cases of layernorm and of one
    model: all of them take ten seconds."""
    few = {n: c for n, c in gradcheck.CASES.items() if n.startswith("layernorm")}
    few["GPT, tied head"] = gradcheck.CASES["GPT, tied head"]
    run = gradcheck.run
    monkeypatch.setattr(gradcheck, "run", lambda ops, seed, _: run(ops, seed, few))
    command = next(arguments(c) for c in printed("README") if "--ops" in c)
    code, out, err = in_process(*shlex.split(command.replace("mine.py", str(path))), "--json")
    assert err == ""
    return code, json.loads(out)


def test_the_exercise_passes_a_right_derivation(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(solution(DERIVATION))
    code, document = judged(tmp_path / "mine.py", monkeypatch)
    assert code == 0 and document["failed"] == 0 and document["worst_relative_error"] < 1e-7
    assert f"of {len(gradcheck.CASES | objective_cases.CASES)} cases" in README


def test_the_exercise_fails_a_wrong_one_in_layernorm_and_in_the_model(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(solution(DERIVATION.replace("(centred - norm", "(g - norm")))
    code, document = judged(tmp_path / "mine.py", monkeypatch)
    failed = {row["name"].split(",")[0] for row in document["rows"] if not row["passed"]}
    assert code == 1 and failed == {"layernorm", "GPT"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_shows_as_a_relative_error_of_hundredths_or_more(mistake, tmp_path):
    wrong = DERIVATION.replace(*MISTAKES[mistake])
    assert wrong != DERIVATION
    (tmp_path / "mine.py").write_text(solution(wrong))
    cases = {"layernorm": gradcheck.CASES["layernorm"]}
    rows = gradcheck.run(gradcheck.load_ops(str(tmp_path / "mine.py")), 0, cases)
    assert max(row.worst for row in rows) > 0.01


# ---------------------------------------------------------------------------------- the verb guide


def test_every_page_begins_with_a_title_and_one_sentence():
    for name, text in guide.read_pages().items():
        title, blank, sentence = text.split("\n\n")[0], text.split("\n")[1], text.split("\n\n")[1]
        assert re.fullmatch(r"# \S.{3,60}", title) and blank == "", name
        assert re.fullmatch(r"[A-Z][^.]*\.", sentence) and "\n" not in sentence, name
        assert guide.title_of(text) == title[2:]


def test_without_a_name_the_guide_lists_its_pages():
    code, out, err = in_process("guide")
    assert code == 0 and err == ""
    for name, text in guide.read_pages().items():
        assert re.search(rf"^{name} +{re.escape(guide.title_of(text))}$", out, re.M)
        assert f"`{name}`" in README  # which leads to every page
    document = json.loads(in_process("guide", "--json")[1])
    assert [page["name"] for page in document["pages"]] == sorted(guide.read_pages())


def test_with_a_name_the_guide_shows_the_page():
    text = (ROOT / "pysft" / "guide" / "data.md").read_text()
    assert in_process("guide", "data") == (0, text, "")
    document = json.loads(in_process("guide", "data", "--json")[1])
    assert document == {"name": "data", "title": "Your own data", "text": text}


def test_an_unknown_page_is_one_sentence_with_the_names_there_are():
    code, out, err = in_process("guide", "nothing")
    assert code == UsageError("").exit_code and out == "" and err.count("\n") == 1
    assert all(name in err for name in ["'nothing'", *guide.read_pages()])


def test_an_installed_package_has_the_pages_and_the_lessons(tmp_path):
    """Only the Python part is built, which is where the pages are."""
    built = ("__pycache__", "*.so", "_c_*.c", "data")
    for folder in ("pysft", "csrc"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns(*built))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path)
    done = python("setup.py", "-q", "build_py", "--build-lib", "lib", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = python("-m", "pysft", "guide", "--json", cwd=tmp_path / "lib")
    assert shown.returncode == 0, shown.stderr
    names = [page["name"] for page in json.loads(shown.stdout)["pages"]]
    assert names == sorted(guide.read_pages())
    lessons = ROOT / "pysft" / "lessons"
    for file in (*lessons.rglob("*.md"), *lessons.rglob("*.py")):
        assert (tmp_path / "lib" / file.relative_to(ROOT)).is_file(), file
    shown = python("-m", "pysft", "lesson", "6", "--derive", cwd=tmp_path / "lib")
    assert shown.returncode == 0 and "mean_g_norm" in shown.stdout, shown.stderr
