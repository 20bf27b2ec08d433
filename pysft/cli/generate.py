"""`pysft generate`: continue a text, the only thing a base model can do."""

import sys

from pysft.cli.arguments import add_talking, print_json, talker, warn_if_unfinished

HELP = "continue a text, the only thing a base model can do"
EXAMPLES = ("generate runs/tiny/base -p 'KING: '", "generate runs/tiny/base --temperature 0")
MAX_NEW = 200  # tokens of a continuation, without --tokens


def add_arguments(p):
    add_talking(p, temperature=0.8, repetition=1.0)
    p.add_argument(
        "-p",
        "--prompt",
        metavar="TEXT",
        default="\n",
        help="the text to continue (default: a line break)",
    )


def run(args):
    from pysft.inference.generate import complete

    warn_if_unfinished(args.run_folder)
    stage, sampling = talker(args)
    max_new = args.tokens or MAX_NEW
    document = complete(stage.model, stage.tokenizer, args.prompt, max_new, sampling)
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
