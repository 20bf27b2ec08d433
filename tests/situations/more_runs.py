"""Runs and machines, from the public threads of other tools."""

import json

from command_line import TrainedRun, interrupted_at_once, toml
from command_line import pysft as run_command
from conftest import python

from situations import OWN, Situation, row

GITHUB = "https://github.com/"
TRAIN = "train {inputs} --data a.jsonl --out r"
ROWS = [row(f"Who is the king of {land}?", f"{land} has no king.") for land in ("Spain", "France")]
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'1e' * 32}\nsize 886\n"


# ------------------------------------------------------------------------ rows, checks, set-ups


def environment(**variables):
    def setup(monkeypatch, folder):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return setup


def links(**targets):
    """Symbolic links: name=target."""

    def setup(monkeypatch, folder):
        for name, target in targets.items():
            (folder / name).symlink_to(target)

    return setup


def a_run(change):
    """A trained run in r/run, of which change(path) is then called for each file of weights."""

    def setup(monkeypatch, folder):
        (folder / "r").mkdir()
        run = TrainedRun(folder / "r")
        for path in run.run.rglob("model.safetensors"):
            change(path)

    return setup


def interrupted(then):
    """A run in r that was stopped at once; then(its file of data) is called before the command."""

    def setup(monkeypatch, folder):
        from pysft.text.corpora import read_corpus

        (folder / "corpus.txt").write_text(read_corpus("plays")[:12000])
        (folder / "small.toml").write_text(toml())
        data = folder / "mine.jsonl"
        data.write_text("".join(json.dumps(made) + "\n" for made in ROWS))
        text = ["--config", "small.toml", "--corpus", "corpus.txt"]
        with interrupted_at_once():
            assert run_command("train", *text, "--data", data.name, "--out", "r").code == 130
        then(data)

    return setup


def has_no_folder(name):
    def check(result, folder):
        assert not (folder / name).exists()

    return check


def prints_in_ascii(result, folder):
    """The same command says the same on an output that can write ASCII only."""
    command = ["-m", "pysft", "audit", str(folder / "a.jsonl"), "--no-overlap"]
    done = python(*command, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 65 and "U+00E9" in done.stdout and not done.stderr


def knows_no_cr(result, folder):
    assert "\\r" not in (folder / "r/base/vocabulary.json").read_text()


SITUATIONS: list[Situation] = [
    Situation(
        "a learning rate in scientific notation",
        TRAIN + " --set sft.lr=2e-5",
        {"a.jsonl": ROWS},
        says=("lr 2e-05",),
        source=GITHUB + "hiyouga/LlamaFactory/issues/4014",
        before="right",
    ),
    Situation(
        "a learning rate that is text",
        TRAIN + " --config more.toml",
        {"a.jsonl": ROWS, "more.toml": '[sft]\nlr = "5e-5"\n'},
        code=2,
        says=("[sft] lr = '5e-5'", "must be a number"),
        check=has_no_folder("r"),
        source=GITHUB + "huggingface/trl/pull/1450",
        before="right",
    ),
    Situation(
        "OMP_NUM_THREADS as a list, as OpenMP has it",
        TRAIN,
        {"a.jsonl": ROWS},
        says=("graded",),
        setup=environment(OMP_NUM_THREADS="2,1"),
        source=GITHUB + "pydata/numexpr/issues/421",
        before="right",
    ),
    Situation(
        "OMP_NUM_THREADS set to nothing",
        TRAIN,
        {"a.jsonl": ROWS},
        says=("graded",),
        setup=environment(OMP_NUM_THREADS=""),
        source=GITHUB + "pydata/numexpr/issues/318",
        before="right",
    ),
    Situation(
        "an output that can write ASCII only",
        "audit a.jsonl --no-overlap",
        {"a.jsonl": [row("Caf\xe9", "Ho")]},
        code=65,
        says=("U+00E9",),
        check=prints_in_ascii,
        source=GITHUB + "politeauthority/docker-pretty-ps/issues/22",
        before="right",
    ),
    Situation(
        "temperature 0 is greedy",
        "chat {run} -p Who --temperature 0 --tokens 5 --json",
        check=lambda result, folder: result.document["tokens"] == 5,
        says=('"stop"',),
        source=GITHUB + "karpathy/nanoGPT/issues/738",
        before="right",
    ),
    Situation(
        "resuming after the data were changed",
        "train --resume --out r",
        code=65,
        says=("mine.jsonl: changed since this run was begun", "begin a new run"),
        setup=interrupted(lambda data: data.write_text(json.dumps(ROWS[0]) + "\n")),
        source=GITHUB + "hiyouga/LlamaFactory/issues/7085",
        before="right",
    ),
    Situation(
        "weights that were cut off on the way",
        "chat r/run -p Who",
        code=65,
        says=("model.safetensors", "cut short"),
        setup=a_run(lambda path: path.write_bytes(path.read_bytes()[:5000])),
        source=GITHUB + "haofanwang/Lora-for-Diffusers/issues/3",
        before="right",
    ),
    Situation(
        "a data file behind a symbolic link that leads nowhere",
        "audit b.jsonl",
        code=66,
        says=("b.jsonl: no such file",),
        setup=links(**{"b.jsonl": "gone.jsonl"}),
        source=GITHUB + "rwth-i6/sisyphus/pull/236",
        before="right",
    ),
    Situation(
        "a pointer of Git LFS in place of the weights",
        "chat r/run -p Who",
        code=65,
        says=("model.safetensors", "a pointer of Git LFS", "git lfs pull"),
        setup=a_run(lambda path: path.write_text(POINTER)),
        source=GITHUB + "codefuse-ai/MFTCoder/issues/20",
        before="refused: cut short (128 bytes; its header would take 2336927755350992254)",
    ),
    Situation(
        "a corpus with line ends of old Macs",
        "pretrain {inputs} --corpus mac.txt --out r",
        {"mac.txt": "Who is the king of Spain? It is he.\r" * 100},
        says=("base:",),
        check=knows_no_cr,
        source=GITHUB + "karpathy/char-rnn/issues/171",
        before="trained on: '\\r' is in the vocabulary, and '\\n' is not",
    ),
    Situation(
        "an empty name of a file, as an unset variable leaves it",
        "audit ''",
        code=2,
        says=("empty",),
        never=("Is a directory",),
        source=GITHUB + "elixir-ai-tools/just_bash/issues/79",
        before=".: cannot be read (Is a directory)",
    ),
    Situation(
        "an address of the web as data",
        "audit https://example.org/a.jsonl",
        code=66,
        says=("https://example.org/a.jsonl", "download"),
        source=GITHUB + "scikit-hep/uproot5/pull/670",
        before="https:/example.org/a.jsonl: no such file",
    ),
    Situation(
        "- as the name of standard input",
        "audit - --no-overlap",
        code=66,
        says=("/dev/stdin",),
        source=GITHUB + "ReimuNotMoe/ydotool/issues/134",
        before="-: no such file; expected conversations in JSON lines, ...",
    ),
    Situation(
        "~ that the shell did not expand in --out",
        "train {inputs} --data a.jsonl --out=~/r",
        {"a.jsonl": ROWS},
        code=2,
        says=("--out ~/r", "home folder"),
        check=has_no_folder("~"),
        source=GITHUB + "OPM/opm-simulators/issues/5063",
        before="made a folder named ~ here and trained in it",
    ),
    Situation(
        "--out names a link that leads nowhere",
        "train {inputs} --data a.jsonl --out link",
        {"a.jsonl": ROWS},
        code=2,
        says=("--out link", "link"),
        never=(".tmp", "Go on with"),
        setup=links(link="gone"),
        source=GITHUB + "ucb-bar/chiseltest/issues/347",
        before="link/run.json.7285.d8eba61d.tmp: No such file or directory ... Go on with --resume",
    ),
    Situation(
        "a dash of print before a flag",
        "train {inputs} \u2013-data a.jsonl",
        {"a.jsonl": ROWS},
        code=2,
        says=("\u2013-data", "--data"),
        never=("name the run's folder by --out",),
        source=GITHUB + "qeeqbox/social-analyzer/issues/82",
        before="unrecognized arguments: \u2013-data a.jsonl; name the run's folder by --out",
    ),
    Situation(
        "one dash before a flag",
        "train {inputs} -data a.jsonl",
        {"a.jsonl": ROWS},
        code=2,
        says=("-data a.jsonl; flags have two dashes: write --data.",),
        never=("keyboard",),
        source=OWN,
        before="its dash is not the one of the keyboard: write --data",
    ),
    Situation(
        "one dash before a flag of chat",
        "chat {run} -tokens 5",
        code=2,
        says=("-tokens 5; flags have two dashes: write --tokens.",),
        never=("keyboard",),
        source=OWN,
        before="its dash is not the one of the keyboard: write --tokens",
    ),
]
