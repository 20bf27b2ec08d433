"""`pysft train`: the whole job, from the base model to the measured chatbot."""

import os
import re
import sys
from pathlib import Path

from pysft.cli.arguments import (
    add_rendering,
    add_training,
    positive,
    print_json,
    settings_of,
)
from pysft.cli.reading import add_rows
from pysft.errors import MissingInput, UsageError

HELP = "do the whole job: train a base model, grow its vocabulary, fine-tune it, measure it"
EXAMPLES = (
    "train",
    "train --preset seed --corpus shakespeare",
    "train --base runs/tiny --data mine.jsonl",
    "train --base runs/tiny/sft --data more.jsonl",
    "train --config mine.toml --out runs/mine",
    "train --data world --set world.people=50 --out runs/world",
)


def add_arguments(p):
    add_training(p)
    p.add_argument(
        "--data",
        metavar="FILE",
        nargs="+",
        action="extend",
        help="files of conversations that replace the shipped ones: JSON lines"
        ' ({"messages": [...]}, prompt/completion, Alpaca, ShareGPT, OASST, text) or a .csv of two'
        " columns. The word tools instead of a file is the longest training, on three times as many"
        " made transcripts of search; sums and table are made transcripts of other tools. The word"
        " world is questions about an invented world, which"
        " the base reads of (--corpus world)",
    )
    p.add_argument(
        "--no-tools",
        action="store_true",
        help="learn from the shipped conversations alone, without made transcripts of search",
    )
    add_rows(p)
    add_rendering(p)
    p.add_argument(
        "--too-long",
        choices=["refuse", "drop"],
        help="what to do with a conversation that is longer than the context: stop with an error"
        " (refuse, the default), or leave it out and count it (drop); none is ever cut",
    )
    p.add_argument(
        "--unknown",
        choices=["refuse", "replace", "grow"],
        help="what to do with characters that the corpus lacks: stop with an error (refuse, the"
        " default), replace them by similar ones or ? (replace), or add them to the vocabulary"
        " (grow)",
    )
    p.add_argument(
        "--sft-tokens", type=positive, metavar="N", help="at most N tokens of conversations a step"
    )
    p.add_argument(
        "--mix",
        type=float,
        nargs="+",
        action="extend",
        metavar="WEIGHT",
        help="one weight for each file of --data; the files share the tokens of a step in this"
        " proportion (default: every conversation counts the same)",
    )
    _add_stages(p)


def _add_stages(p):
    """The flags that say what is trained, and how."""
    p.add_argument(
        "--base",
        metavar="RUN|STAGE",
        help="begin from this run's base model instead of training one, or from any stage: RUN/sft",
    )
    p.add_argument(
        "--stages",
        metavar="NAME,NAME,...",
        help="the stages to train, one after the other (default: base,sft; with --base the next"
        " fine-tuning)",
    )
    p.add_argument(
        "--rankings",
        metavar="FILE",
        nargs="+",
        action="extend",
        help="files of comparisons for the stages reward and dpo (default: replies to questions"
        " about the invented world, ranked as these stages' setting `by` says)",
    )
    p.add_argument(
        "--reward",
        metavar="RUN",
        help="the run whose reward model ranks replies for dpo and scores them for ppo (default:"
        " that of this run)",
    )
    p.add_argument(
        "--prompts",
        metavar="FILE",
        help="a file of prompts for the stage ppo, one on each line, or JSON lines (default:"
        " questions about the invented world)",
    )
    p.add_argument("--base-steps", type=positive, metavar="N", help="steps of pre-training")
    p.add_argument("--sft-steps", type=positive, metavar="N", help="steps of fine-tuning")
    p.add_argument("--lr", type=float, metavar="RATE", help="learning rate of fine-tuning")
    p.add_argument(
        "--lora",
        type=positive,
        metavar="RANK",
        help="train adapters of this rank and the new rows; all other weights stay frozen",
    )
    p.add_argument(
        "--lora-matrices",
        nargs="+",
        action="extend",
        choices=["qkv", "attproj", "fc", "fcproj"],
        metavar="NAME",
        help="the matrices of each block that get an adapter: qkv attproj fc fcproj (default: all"
        " four)",
    )
    p.add_argument(
        "--checkpoint-every",
        metavar="K|tenth|epoch|never",
        help="measure and keep the model after every K steps of fine-tuning, each tenth of the"
        " steps (the default), each epoch, or never",
    )


def _world_tables(args, parent) -> tuple[str, ...]:
    """Return the tables of OF_WORLD that a training takes, and complete --corpus and --data. A
    UsageError if it would ask about a world that its base has not read."""
    asks = "world" in (args.data or [])
    if parent is not None and "world" in parent.fixed and not asks:
        return ()
    if args.resume or not (asks or args.corpus == "world"):
        return ()
    if parent is not None:
        if "world" not in parent.fixed:
            raise UsageError(
                f"{parent.where} has read of no world; train a base by pretrain --corpus world, or"
                " leave --base out"
            )
        return ("sft",) if asks else ()
    if asks and args.corpus not in (None, "world"):
        raise UsageError(
            "--data world asks about what --corpus world tells; leave the other --corpus out"
        )
    args.corpus = "world"
    args.data = args.data or ["world"]
    return ("world", "base", "sft") if "world" in args.data else ("world", "base")


def _refuse_unknown_words(data: list[str], words: tuple[str, ...]) -> None:
    """Raise a MissingInput for an entry of --data that is neither a file nor one of the words that
    stand for data, and looks like a word."""
    for name in data:
        if re.fullmatch(r"[A-Za-z,]+", name) and name not in words and not Path(name).exists():
            raise MissingInput(
                f"--data {name}: no such file. The words that stand for data, with blanks between"
                f" them, are {', '.join(words)}"
            )


def this_python() -> str:
    """The path of the Python that runs this, as short as it can be written. A path without a slash
    would be no path: a shell looks such a name up in PATH."""
    here = sys.executable or "python"  # it is empty where Python does not know
    try:
        near = os.path.relpath(here)
    except (OSError, ValueError):  # the current folder is gone, or is on another drive
        return here
    return near if os.sep in near and len(near) < len(here) else here


def _made_recipe(args) -> tuple[list[str], dict | None]:
    """Return (the names in --data of transcripts that are made, what training on them changes in
    the preset), and take the names out of --data. A UsageError if something else stands beside
    them."""
    from pysft.training.presets import with_made
    from pysft.world.made import MADE

    made = [name for name in (*MADE, "tools") if name in (args.data or [])]
    if args.resume:
        return made, None
    _refuse_unknown_words(args.data or [], ("world", "tools", *MADE))
    if not made:
        return made, None
    if len(made) < len(args.data):
        raise UsageError(
            f"--data {made[0]} takes no other files: the made transcripts are mixed with the"
            f" shipped conversations only (for a file of that name write ./{made[0]})"
        )
    if args.corpus == "world":
        raise UsageError(
            f"--data {made[0]} and --corpus world do not go together: a world has its own"
            " recipe; leave one of them out"
        )
    args.data = None
    return made, with_made([name for name in made if name in MADE], "tools" in made)


def _order(args):
    """Return the order of the training that the flags describe. A UsageError if they do not go
    together."""
    from pysft.jobs.begin import Order, parent_named
    from pysft.training.flags import TRAIN_FLAGS
    from pysft.training.kinds import kind_of

    made, upon = _made_recipe(args)
    if args.resume and args.no_tools:
        raise UsageError("--resume uses the run's own settings; leave out --no-tools")
    parent = None if args.base is None or args.resume else parent_named(args.base)
    stages = None if args.stages is None else [name.strip() for name in args.stages.split(",")]
    if stages and not all(stages):
        raise UsageError(f"--stages {args.stages!r}: a name is empty; write it as in base,sft")
    if upon and stages == ["base"]:
        raise UsageError("--data: no stage of this run reads conversations; leave it out")
    world = _world_tables(args, parent)
    tools = not (args.data or upon or args.no_tools or args.resume or world)
    settings = settings_of(args, TRAIN_FLAGS, upon, stages, parent, tools, world=world)
    if args.no_tools and settings.data.transcripts:
        raise UsageError(
            "--no-tools, but --data tools, --set or a file asks for transcripts ="
            f" {settings.data.transcripts}; leave one of them out"
        )
    plain = None
    if tools and settings.data.transcripts:  # the corpus may turn out to give no transcripts
        plain = settings_of(args, TRAIN_FLAGS, None, stages, parent, say=lambda text: None)
    if args.data and all(kind_of(name) == "base" for name in settings.stages):
        raise UsageError("--data: no stage of this run reads conversations; leave it out")
    if args.lora_matrices and not args.lora and not args.resume:
        raise UsageError("--lora-matrices needs the rank of the adapters too: --lora RANK")
    return Order(
        settings,
        args.corpus,
        args.data,
        args.base,
        args.out,
        args.resume,
        args.ops,
        args.threads,
        args.on_nan,
        args.save_every,
        plain=plain,
        name="-".join(made) if upon else "world" if world else None,
        rankings=args.rankings,
        reward=args.reward,
        prompts=args.prompts,
    )


def run(args):
    from pysft.cli.show import print_rows, side_by_side, table
    from pysft.console import Screen, command
    from pysft.jobs.train import train
    from pysft.measure.alignment import dpo_rows, ppo_rows

    order, screen = _order(args), Screen(args.json)
    done = train(order, screen)
    if done.sides is not None:
        side_by_side(done.sides, screen)
        table(done.report, screen)
        if "dpo" in done.report:
            print_rows(dpo_rows(done.report), screen)
        if "ppo" in done.report:
            print_rows(ppo_rows(done.report), screen)
        chat = command("chat", Path(done.report["run"]), python=this_python())
        screen.say(f"\nTalk to it:  {chat}")
        if done.sides.chat:
            screen.say("Ask it:  Who is Elka Saltby?  And who is her friend?  Speak of love.")
        screen.say(f"Read all of it:  {done.page}")
    if args.json:
        print_json(done.report)
