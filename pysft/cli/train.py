"""`pysft train`: the whole job: base model, grown vocabulary, fine-tuning, measurements."""

import os
import sys

from pysft.cli.arguments import (
    POLICIES,
    add_rendering,
    add_training,
    positive,
    print_json,
    settings_of,
)
from pysft.errors import UsageError

HELP = "the whole job: base model, grown vocabulary, fine-tuning, measurements"
EXAMPLES = (
    "train",
    "train --preset seed --corpus shakespeare",
    "train --base runs/tiny --data mine.jsonl",
    "train --config mine.toml --out runs/mine",
)


def add_arguments(p):
    add_training(p)
    p.add_argument(
        "--data",
        metavar="FILE",
        nargs="+",
        help='conversations, instead of the shipped ones: JSON lines ({"messages": [...]},'
        " prompt/completion, Alpaca, ShareGPT, OASST, text) or a .csv of two columns. The word"
        " tools: the shipped ones, mixed with made transcripts of search",
    )
    add_rendering(p)
    p.add_argument(
        "--too-long",
        choices=["refuse", "drop"],
        help="a conversation that is longer than the context: an error (refuse, the default), or"
        " left out and counted (drop); none is ever cut",
    )
    p.add_argument(
        "--unknown",
        choices=["refuse", "replace", "grow"],
        help="characters that the corpus lacks: an error (refuse, the default), replaced by similar"
        " ones or ? (replace), or added to the vocabulary (grow)",
    )
    p.add_argument(
        "--sft-tokens", type=positive, metavar="N", help="at most N tokens of conversations a step"
    )
    p.add_argument(
        "--mix",
        type=float,
        nargs="+",
        metavar="WEIGHT",
        help="one weight for each file of --data: its share of each step (default: every"
        " conversation counts the same)",
    )
    p.add_argument(
        "--base", metavar="RUN", help="fine-tune this run's base model instead of training one"
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
        choices=["qkv", "attproj", "fc", "fcproj"],
        metavar="NAME",
        help="the matrices of each block that get an adapter: qkv attproj fc fcproj (default: all"
        " four)",
    )
    p.add_argument(
        "--checkpoint-every",
        metavar="K|tenth|epoch|never",
        help="measure and keep the model after every K steps, each tenth of them (default), each"
        " epoch, or never",
    )


def run(args):
    from pysft.cli.show import side_by_side, table
    from pysft.console import Screen
    from pysft.jobs.begin import Order
    from pysft.jobs.train import train
    from pysft.training.settings import TOOLS

    upon = None
    if args.data and "tools" in args.data and not args.resume:
        if len(args.data) > 1:
            raise UsageError(
                "--data tools takes no other files: made transcripts are mixed with the shipped"
                " conversations only (for a file of that name write ./tools)"
            )
        args.data, upon = None, TOOLS
    settings = settings_of(
        args,
        base_steps=args.base_steps,
        sft_steps=args.sft_steps,
        sft_lr=args.lr,
        lora_rank=args.lora,
        lora_matrices=args.lora_matrices,
        checkpoint_every=args.checkpoint_every,
        upon=upon,
        **{name: getattr(args, name) for name in POLICIES},
    )
    if args.lora_matrices and not args.lora and not args.resume:
        raise UsageError("--lora-matrices needs the adapters' rank too: --lora RANK")
    screen = Screen(args.json)
    order = Order(
        settings,
        args.corpus,
        args.data,
        args.base,
        args.out,
        args.resume,
        args.ops,
        args.threads,
        args.on_nan,
    )
    done = train(order, screen)
    side_by_side(done.before_after, screen)
    table(done.report, screen)
    python = os.path.relpath(sys.executable)
    screen.say(f"\nTalk to it:  {python} -m pysft chat {done.report['run']}")
    screen.say(f"Read all of it:  {done.page}")
    if args.json:
        print_json(done.report)
