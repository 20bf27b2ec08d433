"""The command line: `python -m pysft VERB`. A verb imports what it needs only when it runs, so that
--help answers at once."""

import argparse
import difflib
import re
import sys
from functools import cache

from pysft import __version__
from pysft.cli import (
    audit,
    chat,
    curate,
    diagnose,
    dpo,
    eval,
    generate,
    gradcheck,
    guide,
    info,
    lab,
    lesson,
    mask,
    merge,
    ppo,
    pretrain,
    probe,
    rate,
    report,
    reward,
    select,
    train,
    world,
)
from pysft.cli.arguments import EXIT_CODES, add_command
from pysft.console import hush
from pysft.errors import PysftError

EXAMPLES = f"""examples:
  python -m pysft train                         the whole job on the shipped text, some minutes
  python -m pysft train --preset mini           a larger model, some ten minutes
  python -m pysft train --corpus my.txt --data my.jsonl --out runs/mine
  python -m pysft chat runs/tiny                talk to the result
  python -m pysft chat runs/tiny -p 'I am sad'  one answer
  python -m pysft audit my.jsonl                find what is wrong with a data set before training
  python -m pysft mask --user Hi --assistant Ho show which tokens are graded, in colour
  python -m pysft gradcheck                     check every derivative by finite differences
  python -m pysft lesson                        list the lessons: derive every gradient yourself
  python -m pysft guide                         list the pages of the guide
{EXIT_CODES}"""

VERBS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        train,
        pretrain,
        reward,
        dpo,
        ppo,
        chat,
        generate,
        eval,
        select,
        rate,
        probe,
        curate,
        diagnose,
        merge,
        report,
        lab,
        world,
        mask,
        audit,
        gradcheck,
        lesson,
        guide,
        info,
    )
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence that names the help, without pages of usage."""

    def error(self, message):
        wrong = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong:
            message += _suggestion(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        self.exit(2, f"{self.prog}: {message}. See: python -m {self.prog} --help\n")


@cache
def parser() -> Parser:
    """Return the parser of the whole command line, made once in a process."""
    top = Parser(
        prog="pysft",
        description="A language model that only completes text becomes a chatbot that answers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"pysft {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    top.verbs = verbs.choices  # a parser for each verb
    for name, module in VERBS.items():
        add_command(verbs, name, module)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code. A PysftError is printed to standard error, without a
    traceback."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    top = parser()
    args, more = top.parse_known_args(argv)
    if more:
        _refuse(top.verbs[args.verb], args, more)
    try:
        code = VERBS[args.verb].run(args) or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # now, because an error at the end of the process has no message
        return code
    except PysftError as error:
        text = "\\n".join(str(error).splitlines())  # a file's name may have a line break
        return _fail(f"pysft: {text}", error.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "pysft").startswith("pysft"):
            raise  # a bug in pysft
        return _fail(
            f"pysft: this Python ({sys.executable}) has no {error.name}. Use .venv/bin/python after"
            " 'make build', or install pysft with 'pip install .'"
        )
    except MemoryError as error:
        return _fail(
            f"pysft: not enough memory ({error}). A smaller model, context or batch needs less"
        )
    except KeyboardInterrupt:
        return _fail("\npysft: interrupted", 130)
    except BrokenPipeError:  # as in: pysft audit | head
        hush(sys.stdout)
        return 1
    except OSError as error:  # a full or read-only disk, a folder that went away
        hush(sys.stdout)
        where = f": {error.filename}" if error.filename else ""
        return _fail(
            f"pysft: {error.strerror or error}{where}. Files that were complete on disk are"
            " unchanged"
        )


def _suggestion(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _refuse(verb: Parser, args, more: list[str]) -> None:
    """Refuse arguments that a verb does not know, with the flag that was probably meant."""
    hint = ""
    flags = [flag for action in verb._actions for flag in action.option_strings]
    typed = re.sub("^[\u2010-\u2015\u2212-]+", "--", more[0])
    if typed in flags and typed != more[0]:
        is_short = more[0].startswith("-")  # the keyboard's dash, but one alone
        why = "flags have two dashes" if is_short else "its dash is not the one of the keyboard"
        hint = f"; {why}: write {typed}"
    elif more[0].startswith("-"):
        hint = _suggestion(more[0], flags)
    elif hasattr(args, "resume"):
        hint = "; name the run's folder by --out"
    verb.error(f"unrecognized arguments: {' '.join(more)}{hint}")


def _fail(text: str, code: int = 1) -> int:
    """Print why a command ended, if standard error can still be written. Return the exit code."""
    try:
        if sys.stderr is not None:
            print(text, file=sys.stderr)
    except OSError:
        hush(sys.stderr)
    return code
