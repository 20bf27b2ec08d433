"""`pysft mask`: show which tokens the model is graded on, and what the mask does."""

from pysft import disk
from pysft.cli.arguments import (
    add_computing,
    add_precision,
    positive,
    print_json,
    use_colour,
    whole,
)
from pysft.cli.reading import add_reading, policies, reading_of
from pysft.errors import UsageError

HELP = "show which tokens the model is graded on, and what the mask does"
EXAMPLES = (
    "mask",
    "mask --user 'Speak of love' --assistant 'Love is a smoke.'",
    "mask my.jsonl --line 3",
    "mask my.jsonl --line 3 --run runs/tiny",
    "mask --prove",
    "mask my.jsonl --line 3 --svg mask.svg",
)


def add_arguments(p):
    add_computing(p)
    add_precision(p, "(default: as the run was trained)")
    p.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="a file of conversations (default: the source text's worked example)",
    )
    p.add_argument(
        "--line", type=positive, metavar="N", help="only the row that begins on line N of FILE"
    )
    p.add_argument("--user", metavar="TEXT", help="a question")
    p.add_argument("--assistant", metavar="TEXT", help="its answer; give both instead of FILE")
    p.add_argument("--system", metavar="TEXT", help="a system turn before --user")
    add_reading(p)
    p.add_argument(
        "--rows",
        type=whole,
        default=None,
        metavar="N",
        help="show the first N conversations of a file (default 5; 0: all)",
    )
    p.add_argument("--svg", metavar="OUT.svg", help="draw the mask of one conversation")
    p.add_argument(
        "--prove",
        action="store_true",
        help="show by numbers that a masked token has exactly no gradient, in the model of --run or"
        " in a small one with random weights",
    )


def run(args):
    from pysft.jobs.reader import reader_of
    from pysft.text.characters import write_with
    from pysft.text.conversation import refuse_faults
    from pysft.text.examples import encode_conversation

    computing = args.ops, args.threads, args.precision
    reader = reader_of(args.of_run, args.corpus, args.template, *computing)
    if reader.stage is not None and not reader.stage.can_talk:
        raise UsageError(
            f"--run {args.of_run}: a base model, which knows no conversations; name a tuned run"
        )
    grade, unknown = policies(args, reader.stage)
    chosen = _conversations(args, reader.template, reading_of(args, reader.stage))
    written = write_with(chosen, reader.tokenizer, reader.template, unknown)
    refuse_faults(written.faults)
    conversations, tokenizer = written.conversations, written.tokenizer.grow(reader.tokens)
    reader = reader._replace(tokenizer=tokenizer)
    examples = [
        encode_conversation(c, reader.tokenizer, reader.context, reader.template, grade)
        for c in conversations
    ]
    if (args.svg or args.prove) and len(examples) > 1:
        raise UsageError(f"{args.file} has {len(examples):,} conversations; choose one by --line N")
    if args.svg:
        _draw(args.svg, examples[0], reader)
    traced = _traced(reader.stage, examples)
    proof = _proof(args, reader, conversations[0], examples[0], grade) if args.prove else None
    if args.json:
        print_json(_document(conversations, examples, reader.tokenizer, traced, proof))
    else:
        _show(args, conversations, examples, reader, traced)
        if args.svg:
            print(f"drawn: {args.svg}")
        if proof:
            _show_proof(proof, reader.stage)
    return 0 if proof is None or proof["proved"] else 1


# ---------------------------------------------------------------------------- which conversations


def _conversations(args, template, reading):
    """The conversations to show: those of FILE, the one on its --line, the exchange that the flags
    give, or the source text's worked example."""
    from pysft.text.conversation import Conversation, check_messages
    from pysft.text.formats import read_conversations

    if args.file is not None:
        if args.user is not None or args.assistant is not None or args.system is not None:
            raise UsageError("name a FILE, or --user and --assistant, but not both")
        if args.line is None:
            return read_conversations(args.file, template, reading)
        return _in_line(args.file, args.line, template, reading)
    if args.line is not None:
        raise UsageError("--line needs a FILE")
    if (args.user is None) != (args.assistant is None):
        raise UsageError("--user and --assistant go together: a question and its answer")
    user, assistant = "Write a greeting", "Good morrow to thee, noble friend!"
    if args.user is not None:
        user, assistant = args.user, args.assistant
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    if args.system is not None:
        messages.insert(0, {"role": "system", "content": args.system})
    check_messages(messages, "example", template)
    return [Conversation(messages, "example", 1)]


def _in_line(file, line, template, reading):
    """The conversations that begin on a line of a file. Faults in other rows are not reported."""
    from pysft.errors import RowError
    from pysft.text.conversation import LeftOut, refuse_faults
    from pysft.text.formats import scan

    rows = scan(file, template, reading)
    rows = [row for row in rows if not isinstance(row, LeftOut) and row.line == line]
    refuse_faults([row for row in rows if isinstance(row, RowError)])
    if not rows:
        raise UsageError(
            f"{file}: no conversation that is read begins on line {line} (audit counts the rows"
            " that are left out)"
        )
    return rows


# ------------------------------------------------------------------------------ picture and proof


def _draw(path, example, reader):
    """Write the picture of a mask to a new file."""
    from pathlib import Path

    from pysft.text import view

    out, labels = Path(path), example.labels
    if out.suffix != ".svg":
        raise UsageError(f"--svg {out}: an SVG is drawn; give it a name that ends with .svg")
    if out.exists():
        raise UsageError(f"--svg {out}: this exists already; choose another name")
    title = f"{reader.template.name}: {_graded(example)} of {len(labels)} targets graded"
    drawn = view.picture(example.input_ids, labels, reader.tokenizer, title)
    try:
        disk.replace(out, [drawn.encode()])
    except OSError as error:
        raise UsageError(
            f"--svg {out}: cannot be written ({error.strerror}); choose a place that can"
        ) from None


def _traced(stage, examples):
    """(probabilities, losses) of the labels of a single conversation in a run's model. None without
    a run, or for several conversations."""
    if stage is None or len(examples) > 1:
        return None
    from pysft.measure.trace import walk

    return walk(stage.model, examples[0])


def _proof(args, reader, conversation, example, grade):
    """{"proof": the figures of prove(), "proved": True if they are as promised}."""
    from pysft.measure.trace import holds, prove, small_model
    from pysft.nn.computing import computing_ops

    if reader.stage is not None:
        model = reader.stage.model
    else:
        ops = computing_ops(args.ops, args.threads)
        model = small_model(len(reader.tokenizer), len(example.labels), ops)
    proof = prove(model, example, conversation.messages, reader.template, reader.tokenizer, grade)
    return {"proof": proof, "proved": holds(proof)}


def _graded(example):
    """The number of graded targets of an example."""
    from pysft import IGNORE

    return int((example.labels != IGNORE).sum())


# ---------------------------------------------------------------------------------- what is shown


def _document(conversations, examples, tokenizer, traced, proof):
    """The document of --json: the tokens and labels of a single conversation, or a list of those of
    several."""
    from pysft.text import view

    def tokens(e):
        text = tokenizer.decode(e.input_ids[:1])
        text += tokenizer.decode(view.following(e.input_ids, e.labels))
        return {
            "input_ids": e.input_ids.tolist(),
            "labels": e.labels.tolist(),
            "graded": _graded(e),
            "text": text,
        }

    if len(examples) > 1:
        return {
            "graded": sum(map(_graded, examples)),
            "targets": sum(len(e.labels) for e in examples),
            "conversations": [
                {"line": c.line, **tokens(e)} for c, e in zip(conversations, examples)
            ],
        }
    document = tokens(examples[0])
    if traced is not None:
        document["probability"] = [round(float(p), 6) for p in traced[0]]
        document["loss"] = [round(float(n), 6) for n in traced[1]]
    return document | (proof or {})


def _show(args, conversations, examples, reader, traced):
    """Print the first conversations. If there is only one, print each of its positions too."""
    from pysft.text import view

    colour, single = use_colour(), len(examples) == 1
    shown = 5 if args.rows is None else args.rows or len(examples)
    for c, e in zip(conversations[:shown], examples):
        if not single:
            print(f"{c.where}: graded {_graded(e)} of {len(e.labels)}")
        print(view.coloured(e.input_ids, e.labels, reader.tokenizer, colour) + "\n")
    graded, targets = sum(map(_graded, examples)), sum(len(e.labels) for e in examples)
    share, name = f"{graded / targets:.0%}", reader.template.name
    if single:
        e = examples[0]
        print(view.rows(e.input_ids, e.labels, reader.tokenizer, colour, *(traced or ())))
        loss = ""
        if traced is not None:
            loss = f"; loss {traced[1].sum() / graded:.3f} nats per graded token"
        print(f"\ntemplate {name}; graded {graded} of {targets} targets ({share}){loss}")
    else:
        more = ""
        if shown < len(examples):
            hidden = len(examples) - shown
            more = f"({hidden:,} more; --rows 0 shows all, --line N one in full) "
        print(
            f"{more}{len(examples):,} conversations, template {name}; graded {graded:,} of"
            f" {targets:,} targets ({share})"
        )


def _show_proof(proof, stage):
    p = proof["proof"]
    formula = "this --grade has no formula"
    if p["formula"] is not None:
        formula = f"promised: {p['formula']:,}, by the formula"
    promises = {
        "masked_dlogits": ("largest gradient at the logits of a masked row", "promised: exactly 0"),
        "graded_dlogits": ("smallest at the logits of a graded row", "promised: above 0"),
        "loss_change": (
            "change of the loss when all masked rows' logits move",
            "promised: exactly 0",
        ),
        "gradient_difference": (
            "gradient of all weights: masked rows computed or skipped",
            "promised: differs by rounding only",
        ),
        "gradient_unmasked": (
            "gradient of all weights: with or without the mask",
            "differs by what the mask keeps out",
        ),
    }
    model = "a small model with random weights" if stage is None else "the run's model"
    print(f"\nIn {model}, {p['masked']} of {p['rows']} rows masked:")
    for name, (what, promise) in promises.items():
        print(f"  {what:<58} {p[name]:>9.1e}   {promise}")
    print(f"  {'graded targets, by the labels':<58} {p['graded']:>9,}   {formula}")
    if not proof["proved"]:
        print("NOT AS PROMISED")
    elif p["masked"]:
        print("proved")
    else:
        print("nothing is masked here, so there was nothing to prove")
