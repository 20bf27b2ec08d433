"""Commands that are printed can be pasted into a shell, whatever the folder is called."""

import argparse
import ast
import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import TrainedRun, disk_full, interrupted_at_once, pysft, raising
from conftest import ROOT

from pysft.cli.main import parser
from pysft.cli.train import this_python
from pysft.console import command
from pysft.measure.diagnose import findings
from pysft.measure.reproduce import reproduce
from pysft.training.settings import Settings

ODD = 'it\'s  a $HOME "run"'


def commands(printed: str) -> list[list[str]]:
    """The words behind `pysft` of every printed command. Each stands at the end of its line."""
    return [shlex.split(text) for text in re.findall(r"\S+ -m pysft (.*)$", printed, re.MULTILINE)]


def parsed(printed: str) -> list:
    """Every printed command, read by the parser of the command line."""
    return [parser().parse_args(words) for words in commands(printed)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory, without_figures):
    """A run in a folder whose name has spaces, quotes and a dollar."""
    folder = tmp_path_factory.mktemp("odd") / ODD
    folder.mkdir()
    trained = TrainedRun(folder, sft={"checkpoint_every": 5})
    return trained


def test_a_training_names_the_command_that_talks_to_the_run(odd):
    [chat] = parsed(odd.result.err) or parsed(pysft("train", *odd.inputs, "--out",
                                                    odd.folder / "again").out)  # fmt: skip
    assert chat.verb == "chat" and Path(chat.run_folder).parent == odd.folder


def test_select_and_a_diagnosis_name_commands_with_the_runs_path(odd):
    [chat] = parsed(pysft("select", odd.run).out)
    assert Path(chat.run_folder).parent.parent.parent == odd.run
    done = pysft("diagnose", odd.run)
    assert done.code == 1
    for args in parsed(done.out):
        named = [getattr(args, name, None) for name in ("run_folder", "file", "files")]
        assert str(odd.folder) in str(named) or args.verb == "lab"


def test_a_base_names_generate_and_train_and_these_can_be_run(odd):
    base = odd.run / "base"
    [generate] = parsed(pysft("chat", base).err)
    assert (generate.verb, Path(generate.run_folder)) == ("generate", base)
    [train] = parsed(pysft("select", base).err)
    assert (train.verb, Path(train.base)) == ("train", base)
    [words] = commands(pysft("chat", base).err)
    assert pysft(*words).code == 0


def test_a_finding_names_a_command_with_the_runs_path():
    figures = {"prompts": 10, "verbatim_replies": 9, "stopped_unseen": 1.0}
    [found] = findings(figures, [], {}, run=Path("my run"))
    [args] = parsed(found.fix)
    assert (args.verb, args.run_folder) == ("select", "my run")
    [found] = findings({"prompts": 10, "no_user_turn": 0.1}, [], {}, file=Path("my file"))
    [args] = parsed(found.fix)
    assert (args.verb, args.line) == ("mask", 1) and "my file" in found.fix


@pytest.mark.parametrize("verb", ["train", "pretrain"])
def test_an_interrupted_run_names_the_command_that_goes_on_and_it_goes_on(odd, workdir, verb):
    out = workdir.path / f"{ODD} {verb}"
    inputs = odd.inputs if verb == "train" else odd.text
    with pytest.MonkeyPatch.context() as patch:  # the disk is full when the first checkpoint comes
        patch.setattr("pysft.training.runner.append_log", raising(disk_full()))
        stopped = pysft(verb, *inputs, "--out", out)
    assert stopped.code == 1 and "No space left" in stopped.err
    [words] = commands(stopped.err)
    assert words == [verb, "--resume", "--out", str(out)]
    done = pysft(*words)
    assert done.code == 0, done.err
    other = "pretrain" if verb == "train" else "train"
    [args] = parsed(pysft(other, "--resume", "--out", out).err)
    assert (args.verb, args.resume, args.out) == (verb, True, str(out))


def test_an_unfinished_tuning_names_the_command_that_goes_on(odd, workdir):
    out = workdir.path / ODD
    with interrupted_at_once():
        pysft("train", *odd.inputs, "--base", odd.run, "--out", out)
    (out / "sft").mkdir(exist_ok=True)
    (out / "sft" / "settings.json").write_text("{}")
    (out / "base").symlink_to(odd.run / "base")
    for verb in ("chat", "generate", "eval"):
        args = [a for a in parsed(pysft(verb, out).err) if a.verb == "train"]
        assert args and all((a.resume, a.out) == (True, str(out)) for a in args), verb


@pytest.mark.parametrize(
    "name", ["plain", "a b", "it's", '"', "$HOME", "-x", "--out", "*", "\u00e9"]
)
def test_any_name_comes_through_the_shell_and_the_parser(name):
    words = shlex.split(command("train", "--resume", "--out", Path(name)))
    assert words[:3] == ["python", "-m", "pysft"]
    assert Path(parser().parse_args(words[3:]).out) == Path(name)
    chat = parser().parse_args(shlex.split(command("chat", Path(name)))[3:])
    assert Path(chat.run_folder) == Path(name)


def flags_in(path: Path) -> set[str]:
    """The flags that the texts of a file of the package name."""
    nodes = ast.walk(ast.parse(path.read_text()))
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return {flag for text in texts for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*\b", text)}


def parsers(p):
    """A parser, and those of its verbs and their steps."""
    yield p
    for action in p._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def test_every_flag_that_a_text_of_the_program_names_is_one_of_its_flags():
    known = {f for p in parsers(parser()) for action in p._actions for f in action.option_strings}
    for path in (ROOT / "pysft").rglob("*.py"):
        if path.name not in ("_build.py", "page.py", "panels.py"):  # flags of gcc, variables of CSS
            assert flags_in(path) <= known | {"--version"}, path.name


def test_what_a_chat_advises_about_unknown_characters_is_a_flag_of_chat(odd):
    error = pysft("chat", odd.run, "-p", "{").err
    assert "(--unknown replace replaces them)" in error
    assert pysft("chat", odd.run, "-p", "a {", "--unknown", "replace").code == 0


def test_the_command_that_makes_a_run_again_can_name_files_that_begin_with_a_dash():
    settings = Settings().changed({"base": {"lr": 1e-3}}).to_json()
    run = {"settings": settings, "corpus": "-c.txt", "data": ["-a b", "d"], "base": "-run"}
    text = reproduce(run | {"settings": json.loads(json.dumps(settings))}, True)
    args = parser().parse_args(shlex.split(text.replace("\\\n", ""))[3:])
    assert [Path(p) for p in (args.corpus, args.base, *args.data)] == [
        Path(p) for p in ("-c.txt", "-run", "-a b", "d")
    ]


def test_a_name_with_a_line_break_is_written_on_one_line_that_bash_reads():
    import subprocess

    name = "a\nb'c\\d\t\x01" + "7\x7f\x80\x85\x9f9\u00a0"
    line = command("chat", Path(name))
    assert line.replace("\u00a0", "").isprintable()
    echoed = line.replace("python -m pysft chat", "printf %s", 1)
    assert subprocess.run(["bash", "-c", echoed], capture_output=True, text=True).stdout == name


def test_the_command_that_makes_a_run_again_names_a_file_with_a_line_break_on_one_line():
    settings = json.loads(json.dumps(Settings().to_json()))
    run = {"settings": settings, "corpus": "a\nb", "data": ["c\x85d"], "base": None}
    text = reproduce(run, True).replace("\\\n    ", "")
    assert text.isprintable() and r"--corpus $'a\012b' --data $'c\302\205d'" in text


@pytest.mark.parametrize(
    "folder, executable, printed",
    [
        ("/a/b", "/a/b/.venv/bin/python", ".venv/bin/python"),
        ("/abc/b", "/abc/c/python", "../c/python"),
        ("/a/b", "/a/b/python", "/a/b/python"),  # "python" alone would be looked up in PATH
        ("/a/b/c/d/e", "/f/python", "/f/python"),  # shorter as it is
        ("/a", "", "python"),
        (None, "/a/python", "/a/python"),  # the current folder is gone
    ],
)
def test_the_python_in_a_printed_command_is_the_one_that_runs(
    monkeypatch, folder, executable, printed
):
    def getcwd():
        if folder is None:
            raise FileNotFoundError
        return folder

    monkeypatch.setattr("os.getcwd", getcwd)
    monkeypatch.setattr("sys.executable", executable)
    assert this_python() == printed
