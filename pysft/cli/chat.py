"""`pysft chat`: talk to a tuned model."""

import sys
from contextlib import contextmanager
from pathlib import Path

from pysft.cli.arguments import (
    add_talking,
    positive,
    print_json,
    refuse_reward_alone,
    samples_freely,
    talker,
    use_colour,
    warn_if_unfinished,
)
from pysft.console import command
from pysft.errors import DataError, PysftError, UsageError

HELP = "talk to a tuned model"
EXAMPLES = (
    "chat runs/tiny",
    "chat runs/tiny -p 'Speak of love'",
    "chat runs/tiny --temperature 0.7 --seed 3",
    "chat runs/world --best-of 16 --reward runs/reward",
)
CUT_SHORT = {  # the message about a reply without an end token, by its stop
    "length": "was cut off at its length limit, before an end token",
    "tool": "ended at a call of a tool, which gets no result",
}


def add_arguments(p):
    add_talking(p, temperature=0.0, repetition=2.0)  # sampling.CHAT
    p.add_argument("-p", "--prompt", metavar="TEXT", help="answer this one message and exit")
    p.add_argument(
        "--system",
        metavar="TEXT",
        help="the system message in front of the chat (for templates chatml and llama2)",
    )
    p.add_argument(
        "--show-tokens",
        action="store_true",
        help=(
            "show the prompt as the model reads it, then each token of the reply, its"
            " probability before the penalty on repeated words, and the alternatives; also those"
            " of thoughts"
        ),
    )
    p.add_argument(
        "--show-thoughts",
        action="store_true",
        help="show the thoughts of a model that learned to think before it answers, in brackets;"
        " else they are hidden",
    )
    p.add_argument(
        "--docs",
        nargs="+",
        action="extend",
        metavar="FOLDER|FILE",
        help=(
            "documents for a model that was trained to search (default: the shipped facts of a"
            " town)"
        ),
    )
    p.add_argument(
        "--table",
        metavar="FILE.csv",
        help="the table for a model that was trained to ask one: the first line names the columns,"
        " the first column is whose (default: the people of an invented world)",
    )
    p.add_argument(
        "--no-tools",
        action="store_true",
        help="run no tools; a reply then ends where the model calls one",
    )
    p.add_argument(
        "--best-of",
        type=positive,
        metavar="N",
        help="draw N replies at temperature 1, and show the one that a reward model scores highest",
    )
    p.add_argument(
        "--reward",
        metavar="RUN",
        help="the run whose reward model scores the replies of --best-of (default: RUN itself)",
    )
    p.add_argument(
        "--unknown",
        choices=["refuse", "replace"],
        help="what to do with characters of a message that the vocabulary lacks: refuse the"
        " message, or replace them by similar ones or ? (default: as the run was trained)",
    )


def run(args):
    from pysft.inference.candidates import reward_beside
    from pysft.inference.session import MAX_NEW, Session
    from pysft.inference.thoughts import room_for_thoughts

    _refuse_beside_best(args)
    stage, sampling = talker(args)
    _require_tuned(stage, args.run_folder)
    warn_if_unfinished(args.run_folder)
    replaces = (args.unknown or stage.setting("unknown", "refuse")) == "replace"
    with _naming_the_flag(args, stage.tokenizer, replaces):
        session = Session(
            stage.model,
            stage.tokenizer,
            stage.template,
            sampling,
            args.tokens or MAX_NEW + room_for_thoughts(stage.tokenizer, stage.template),
            system=args.system,
            replace_unknown=replaces,
            tools=_tools(args, stage),
            text_history=bool(_taught(stage)),
            best_of=args.best_of or 0,
            reward=reward_beside(stage, args.reward) if args.best_of else None,
        )
        if args.prompt is not None:
            return _answer_once(session, args)
    if args.json:
        raise UsageError("--json prints one answer; give the message to answer: -p TEXT")
    _converse(session, stage.folder, _shown(args))


@contextmanager
def _naming_the_flag(args, tokenizer, replaces: bool):
    """Add --unknown replace to an error about unknown characters of --system or -p, if it would
    help: if the characters are not replaced already, and all of them can be."""
    from pysft.text.characters import replaced, typed

    try:
        yield
    except DataError as error:
        texts = [typed(text, tokenizer) for text in (args.system, args.prompt) if text]
        helps = all(tokenizer.can_write(replaced(text, tokenizer)) for text in texts)
        if replaces or not helps or all(map(tokenizer.can_write, texts)):
            raise
        raise DataError(f"{error} (--unknown replace replaces them)") from None


def _require_tuned(stage, run):
    """Raise a UsageError that says what to do instead, if the stage is a base model."""
    from pysft.run.begun import resume_command
    from pysft.run.stage import unfinished

    if stage.can_talk:
        return
    if stage.model.config.outputs == "value":
        raise UsageError(
            f"{stage.folder}: this is a reward model, which scores replies and writes none; name a"
            " stage that talks"
        )
    if unfinished(stage.folder.parent):
        go_on = resume_command(stage.folder.parent)
        remedy = f"its fine-tuning never finished; go on with: {go_on}"
    else:
        remedy = f"it can only complete text: {command('generate', Path(run))}"
    raise UsageError(
        f"{stage.folder}: this is a base model, which has no {stage.template.end} and cannot"
        f" answer; {remedy}"
    )


def _refuse_beside_best(args) -> None:
    """Raise a UsageError for flags that do not go together with --best-of, or that need it."""
    refuse_reward_alone(args)
    if args.best_of is None:
        return
    if not samples_freely(args):
        raise UsageError(
            "--best-of draws its replies at temperature 1 without cuts or penalties, so that it is"
            " known how far the best is from the model; leave --temperature, --top-k, --top-p and"
            " --repetition out"
        )
    if args.show_tokens:
        raise UsageError("--show-tokens shows one reply as it is written; leave --best-of out")


def _taught(stage) -> set[str]:
    """The tools that made transcripts taught the model, or one that it was begun from. It is empty
    for a model that learned from none, or from conversations of its user's that call tools."""
    from pysft.run.tree import lineage
    from pysft.world.made import MADE

    try:
        line = lineage(stage)
    except PysftError:  # a parent that is missing or damaged must not stop it
        line = [stage]
    made = {name for one in line for name in one.setting("made", []) if name in MADE}
    searches = any(one.setting("transcripts", 0) for one in line)
    return {MADE[name].tool for name in made} | ({"search"} if searches else set())


def _tools(args, stage) -> dict:
    """The tools of a model: search in --docs or in the shipped facts, arithmetic, and a table. With
    --no-tools, or for a model that was not trained to call tools, there are none."""
    from pysft.inference.search import Search
    from pysft.inference.table import Table
    from pysft.inference.tools import tools
    from pysft.run.taught import callable_tools
    from pysft.world.town import TOWN

    taught, known = _taught(stage), callable_tools(stage)

    def calls(tool):
        return tool in known and (not taught or tool in taught)

    for given, flag, tool, does, learns in (
        (args.docs, "--docs", "search", "search", "train"),
        (args.table, "--table", "table", "ask a table", "train --data table"),
    ):
        if given and not calls(tool):
            raise UsageError(
                f"{stage.folder}: this model was not trained to {does}; leave {flag} out, or train"
                f" one that is: python -m pysft {learns}"
            )
    if args.no_tools or not known:
        return {}
    search = Search.of(args.docs or [str(TOWN)]) if calls("search") else None
    table = None
    if calls("table"):
        table = Table.of(args.table) if args.table else Table.shipped()
    return tools(search, table)


def _shown(args) -> dict:
    """What of a reply the flags ask to be shown, as Repl takes it."""
    return {"show_tokens": args.show_tokens, "show_thoughts": args.show_thoughts}


def _answer_once(session, args):
    """Answer the message of -p. Print the steps (--show-tokens), a document (--json), or the reply
    alone."""
    from pysft.inference.repl import Repl
    from pysft.inference.session import answer_once

    repl = Repl(session, colour=use_colour(), **_shown(args))
    if args.show_tokens and not args.json:
        return repl.answer(args.prompt)
    if args.json:
        document = answer_once(session, args.prompt)
        stop = document["stop"]
        print_json(document)
    else:
        _, reply, _ = session.say(args.prompt)
        stop = reply.stop
        print(repl.text_of(reply))
        if session.best_of:
            print(f"pysft: {session.best.line()}", file=sys.stderr)
    if stop in CUT_SHORT:
        print(f"pysft: the reply {CUT_SHORT[stop]}", file=sys.stderr)


def _converse(session, folder, shown):
    """Chat until the end of the input: at a prompt in a terminal; otherwise each line is a
    message."""
    from pysft.inference.repl import Repl

    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # bytes that are not text must not end the chat
    repl = Repl(session, colour=use_colour(), **shown)
    if sys.stdin is not None and sys.stdin.isatty():
        try:
            import readline  # noqa: F401  (line editing and history, where the system has it)
        except ImportError:
            pass
        print(f"{folder}. Type a message. /help lists the commands, Ctrl-D leaves.")
    else:
        repl.read = lambda prompt: input("")  # the output of a pipe has no prompts in it
    repl.run()
