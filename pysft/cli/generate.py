"""`pysft generate`: continue a text, or sample replies to many prompts."""

import sys
from pathlib import Path

from pysft.cli.arguments import (
    add_talking,
    positive,
    print_json,
    samples_freely,
    talker,
    warn_if_unfinished,
)
from pysft.errors import UsageError

HELP = "continue a text, the only thing a base model can do; or sample replies to many prompts"
EXAMPLES = (
    "generate runs/tiny/base -p 'KING: '",
    "generate runs/tiny/base --temperature 0",
    "generate runs/tiny --prompts prompts.txt -k 4 --out replies.jsonl",
    "generate runs/world --prompts world:reward -k 6",
)
MAX_NEW = 200  # tokens of a continuation, without --tokens


def add_arguments(p):
    add_talking(p, temperature=0.8, repetition=1.0, asks_many=True)
    p.add_argument(
        "-p",
        "--prompt",
        metavar="TEXT",
        help="the text to continue (default: a line break)",
    )
    p.add_argument(
        "--prompts",
        metavar="FILE|world:SPLIT",
        help="sample replies of a tuned model, at temperature 1 without cuts: to each line of a"
        " text, to each row of a .jsonl, or to the questions of the world that the run learned"
        " (world:reward, world:ppo or world:train)",
    )
    p.add_argument(
        "-k",
        type=positive,
        metavar="K",
        help="replies to each of the --prompts, 2 to 9 (default: 4)",
    )
    p.add_argument(
        "--out",
        metavar="FILE.jsonl",
        help="the new file of replies (default: replies.jsonl)",
    )


def run(args):
    if args.prompts is not None:
        return _sample(args)
    if args.k is not None or args.out is not None:
        raise UsageError("-k and --out are for --prompts FILE; one text is printed")
    from pysft.inference.generate import complete

    warn_if_unfinished(args.run_folder)
    stage, sampling = talker(args)
    max_new = args.tokens or MAX_NEW
    prompt = "\n" if args.prompt is None else args.prompt
    document = complete(stage.model, stage.tokenizer, prompt, max_new, sampling)
    if args.json:
        print_json(document)
    else:
        print(document["prompt"] + document["reply"])
    if document["tokens"] < max_new:
        print(
            f"pysft: the text was cut off after {document['tokens']:,} of {max_new:,} tokens,"
            f" because the context of {stage.model.config.context:,} was full",
            file=sys.stderr,
        )


def _sample(args):
    """Write a file of replies to many prompts."""
    from pysft.console import Screen, command
    from pysft.jobs.collect import collect
    from pysft.nn.computing import computing_ops

    if args.prompt is not None:
        raise UsageError("-p is one text, and --prompts names many; give one of the two")
    if not samples_freely(args):
        raise UsageError(
            "--prompts samples at temperature 1 without cuts or penalties, so that the model could"
            " be trained on what it wrote; leave --temperature, --top-k, --top-p and --repetition"
            " out"
        )
    warn_if_unfinished(args.run_folder)
    screen = Screen(args.json)
    ops = computing_ops(args.ops, args.threads, args.precision)
    out = Path("replies.jsonl" if args.out is None else args.out)
    document = collect(
        args.run_folder, ops, args.prompts, 4 if args.k is None else args.k, out, args.seed,
        args.tokens, screen.progress,
    )  # fmt: skip
    screen.end_line()
    if args.json:
        print_json(document)
        return
    d = document
    print(f"{d['replies']}: {d['k']} replies to each of {d['prompts']:,} prompts")
    print(f"{d['distinct']:,} different ones can be ranked; {d['cut_off']:,} were cut off")
    print(f"{d['unusable']:,} are empty or hold a control token, and cannot be ranked")
    print(f"Put them in order: {command('rate', out)}")
