"""Flags that several verbs share, and functions that read their values."""

import argparse
import json
import sys

from pysft.console import command
from pysft.errors import UsageError
from pysft.text.grades import GRADES

EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 usage, 3 diverged, 65 bad data, 66 missing input, 129/130/143"
    " interrupted"
)


# -------------------------------------------------------------------- types of values, for argparse


def threads(text):
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads from 1 to 1024")
    return int(text)


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def whole(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to a million")
    return value


def part(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 and at most 1")
    return value


def share(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 10:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a share above 0 and at most 10, such as 0.10"
        )
    return value


# ---------------------------------------------------------------------------- verbs and their steps


def add_command(menu, name: str, module, json_default=False):
    """Add the parser of a verb, or of a step of one, to a menu, and return it. module: has HELP,
    EXAMPLES and add_arguments(p). json_default: of --json."""
    p = menu.add_parser(
        name,
        help=module.HELP,
        description=module.HELP[0].upper() + module.HELP[1:] + ".",
        epilog="\n".join(
            ["examples:", *("  python -m pysft " + e for e in module.EXAMPLES), EXIT_CODES]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "--json",
        action="store_true",
        default=json_default,
        help="one JSON document on standard output, messages on standard error",
    )
    module.add_arguments(p)
    return p


# ---------------------------------------------------------------------------------- groups of flags


def add_computing(p):
    p.add_argument(
        "--threads",
        type=threads,
        metavar="N",
        help="threads of the kernels (default: PYSFT_NUM_THREADS, OMP_NUM_THREADS, or the CPUs that"
        " this process may use)",
    )
    p.add_argument(
        "--ops",
        choices=["kernels", "reference"],
        default="kernels",
        help="compute with the C kernels, or with the NumPy reference (slow, needs no compiler)",
    )


def add_precision(p, more):
    p.add_argument(
        "--precision",
        choices=["float32", "bf16"],
        help=f"products in float32, or in bf16 with float32 sums {more}",
    )


def add_training(p):
    add_computing(p)
    add_precision(
        p, "(about twice as fast, on processors that have it; default: float32, or the base's)"
    )
    p.add_argument(
        "--preset",
        metavar="NAME",
        help="tiny (default), mini, small, or seed: the source text's recipe to the letter",
    )
    p.add_argument("--config", metavar="FILE.toml", help="a file of settings; flags override it")
    p.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="TABLE.NAME=VALUE",
        help="any setting, such as model.layers=6 or sft.lr=1e-3 (the guide's page settings lists"
        " them)",
    )
    p.add_argument(
        "--corpus",
        metavar="PATH|plays|shakespeare|world",
        help="the base text: a file, plays (shipped; the default, but with --base the base's"
        " own), shakespeare (downloaded once), or world: the plays, and beside them the text of an"
        " invented world",
    )
    p.add_argument(
        "--out",
        metavar="DIR",
        help="the run's folder (default: runs/PRESET, with a number if that is taken)",
    )
    p.add_argument(
        "--seed",
        type=whole,
        metavar="N",
        help="seed of all random draws: the same seed gives the same weights, bit by bit",
    )
    p.add_argument(
        "--on-nan",
        choices=["abort", "skip"],
        help="what to do at a step whose loss or gradient is not finite: stop (abort, the default),"
        " or skip the step; its batch is written to a file",
    )
    p.add_argument(
        "--save-every",
        type=seconds,
        metavar="SECONDS",
        help="time from one checkpoint for --resume to the next (default 60; the first comes after"
        " 10 at most)",
    )
    p.add_argument(
        "--resume",
        action="store_true",
        help="continue the interrupted run that --out names, with its own settings",
    )


def add_rendering(p):
    p.add_argument(
        "--template",
        metavar="NAME|FILE.json",
        help="how conversations are written: chat (default), chatml, llama2, human, or a file like"
        " a run's template.json",
    )
    p.add_argument(
        "--grade",
        choices=tuple(GRADES),
        help="grade all assistant turns (default), the last one, those without the flag"
        ' {"train": false}, or everything (no mask)',
    )


def add_talking(p, temperature, repetition, asks_many=False):
    """temperature, repetition: those that talker() takes where no flag gives another. asks_many:
    True for a verb that may ask many prompts, at another temperature than one text."""
    p.set_defaults(usual_temperature=temperature, usual_repetition=repetition)
    add_computing(p)
    add_precision(p, "(default: as the run was trained)")
    p.add_argument(
        "run_folder",
        metavar="RUN",
        help="a run's folder, one stage of it, or a checkpoint: RUN/sft/steps/STEP",
    )
    p.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help=f"0 is greedy (default {temperature}{'; 1 with --prompts' if asks_many else ''})",
    )
    p.add_argument(
        "--top-k",
        type=whole,
        default=0,
        metavar="K",
        help="draw from the K likeliest tokens only (default: all)",
    )
    p.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="draw from the likeliest tokens that add up to probability P (default 1: all)",
    )
    p.add_argument(
        "--repetition",
        type=float,
        metavar="R",
        help="above 1, a reply is less likely to repeat its own words; 1 is no penalty"
        f" (default {repetition:g})",
    )
    p.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="the same seed gives the same text"
    )
    p.add_argument(
        "--tokens", type=positive, default=None, metavar="N", help="at most N new tokens"
    )


def add_run_folder(p, what="a run's folder, or one stage of it"):
    p.add_argument("run_folder", metavar="RUN", help=what)


def add_judge(p):
    """Add the flags of a model behind an endpoint."""
    p.add_argument("--judge-model", metavar="NAME", help="the model of the endpoint")
    p.add_argument(
        "--judge-budget", type=positive, metavar="N", help="at most N calls of the endpoint"
    )
    p.add_argument(
        "--judge-cache",
        default="judged",
        metavar="DIR",
        help="where the endpoint's answers are kept, so that nothing is asked twice (default"
        " judged)",
    )


# ------------------------------------------------------------------------------- reading the flags


def print_json(document):
    """Print a document on one line. Characters that standard output cannot encode are escaped."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(document, allow_nan=False)
    print(text)


def settings_of(
    args,
    flags: dict,
    upon: dict | None = None,
    stages=None,
    parent=None,
    tools=False,
    say=None,
    world=(),
):
    """Return the settings that the arguments of train or pretrain name.

    flags: the flags that set a setting: TRAIN_FLAGS or PRETRAIN_FLAGS. The others: as resolve()
    takes them. A UsageError for flags that cannot stand beside --resume."""
    from pysft.training.presets import read_settings, resolve

    if args.resume:
        refused = (
            "preset",
            "config",
            "set",
            "corpus",
            "seed",
            "data",
            "base",
            "stages",
            "rankings",
            *flags,
        )
        given = [name for name in refused if getattr(args, name, None) is not None]
        if given:
            flag = given[0].replace("_", "-")
            raise UsageError(f"--resume uses the run's own settings; leave out --{flag}")
        if args.out is None:
            raise UsageError("--resume needs the run's folder: --resume --out RUN")
    document = _assigned(args.set or [])
    for name, (table, setting) in flags.items():
        if getattr(args, name) is not None:
            document.setdefault(table, {})[setting] = getattr(args, name)
    if args.seed is not None:
        document["seed"] = args.seed
    say = say or _say
    if isinstance(args.config, str):  # once, because it may be a pipe
        args.config = read_settings(args.config)
    settings = resolve(args.preset, args.config, upon, document, stages, parent, say, tools, world)
    return settings.everywhere(on_nan=args.on_nan, save_every=args.save_every)


def _assigned(assignments: list[str]) -> dict:
    """Return the document of settings that --set names: {"sft": {"lr": 0.001}}."""
    import tomllib

    document = {}
    for text in assignments:
        place, equals, value = text.partition("=")
        table, dot, name = place.partition(".")
        try:
            if table in ("seed", "preset", "stages") and equals and not dot:
                raise ValueError(f"write --{table} {value}")
            if not (equals and dot and name):
                raise ValueError("expected TABLE.NAME=VALUE, such as sft.lr=1e-3")
            if "\n" in value:
                raise ValueError("expected one value")
            try:
                value = tomllib.loads(f"value = {value}")["value"]
            except tomllib.TOMLDecodeError:
                value = tomllib.loads(f'value = "{value}"')["value"]  # a word without its quotes
        except ValueError as error:
            raise UsageError(f"--set {' '.join(text.split())}: {error}") from None
        if name in document.setdefault(table, {}):
            raise UsageError(f"--set names {table}.{name} twice")
        document[table][name] = value
    return document


def _say(text: str) -> None:
    print(f"pysft: {text}", file=sys.stderr)


def tuned_stage(run, may_score: bool = False):
    """Return the folder of a run's newest stage that talks, finished or not, or of the tuned stage
    at `run`. MissingInput if there is only a base model.

    may_score: a reward model is returned too, if `run` is one or has no stage that talks. Else it
    is a MissingInput."""
    from pathlib import Path

    from pysft.errors import MissingInput
    from pysft.measure.run_files import known_kind
    from pysft.run.stage import find_stage, is_finished, measured_stage, stage_folders

    path = Path(run)
    folders = [] if is_finished(path) or not path.is_dir() else stage_folders(path)
    tuned = [folder for folder in folders if known_kind(folder) not in ("base", "reward")]
    tuned = tuned or [folder for folder in folders if known_kind(folder) == "reward"]
    folder = tuned[-1] if tuned else measured_stage(find_stage(run))
    if known_kind(folder.resolve()) == "reward" and not may_score:
        raise MissingInput(
            f"{folder}: a reward model, which does not talk and keeps no checkpoints. Name a stage"
            " that talks"
        )
    if folder.resolve().name == "base" and not (folder / "measurements.jsonl").is_file():
        raise MissingInput(
            f"{folder}: a base model. Fine-tune it first: {command('train', '--base', path)}"
        )
    return folder


def available_threads(threads):
    """Return the value of --threads, or the default number."""
    from pysft.nn import gate

    return threads or gate.default_threads()


def talker(args):
    """Return (the stage to talk to, the settings for drawing its tokens)."""
    from pysft.inference.sampling import Sampling
    from pysft.nn.computing import computing_ops
    from pysft.run.stage import load_stage

    temperature = args.usual_temperature if args.temperature is None else args.temperature
    repetition = args.usual_repetition if args.repetition is None else args.repetition
    sampling = Sampling(temperature, args.top_k, args.top_p, args.seed, repetition)
    ops = computing_ops(args.ops, args.threads, args.precision)
    return load_stage(args.run_folder, ops), sampling


def samples_freely(args) -> bool:
    """True unless a flag asks for another temperature than 1, for cuts, or for a penalty."""
    is_plain = args.temperature in (None, 1) and args.repetition in (None, 1)
    return is_plain and (args.top_k, args.top_p) == (0, 1)


def refuse_reward_alone(args) -> None:
    """Raise a UsageError if --reward is given without --best-of."""
    if args.reward is not None and args.best_of is None:
        raise UsageError("--reward scores the replies of --best-of N; give that too")


def warn_if_unfinished(run):
    """Print a warning if a fine-tuning of a run is not finished, because then an older stage is
    used."""
    from pathlib import Path

    from pysft.run.begun import resume_command
    from pysft.run.stage import find_stage, unfinished

    if name := unfinished(run):
        _say(
            f"{name} of {run} never finished, so this is its {find_stage(run).name}. Go on with:"
            f" {resume_command(Path(run))}"
        )


def use_colour() -> bool:
    """True if standard output is a terminal that shows colours, and NO_COLOR is not set."""
    import os

    dumb = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not dumb
