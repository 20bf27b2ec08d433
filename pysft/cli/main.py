"""The command line: `python -m pysft VERB`. A verb's own imports are made when it runs, so --help
answers at once."""

import argparse
import sys

from pysft import __version__
from pysft.cli import (
    audit,
    chat,
    diagnose,
    eval,
    generate,
    gradcheck,
    guide,
    info,
    lab,
    mask,
    merge,
    pretrain,
    rate,
    report,
    select,
    train,
)
from pysft.cli.arguments import EXIT_CODES
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
  python -m pysft guide                         the pages to read on
{EXIT_CODES}"""

VERBS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        train,
        pretrain,
        chat,
        generate,
        eval,
        select,
        rate,
        diagnose,
        merge,
        report,
        lab,
        mask,
        audit,
        gradcheck,
        guide,
        info,
    )
}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="pysft",
        description="A language model that only completes text becomes a chatbot that answers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"pysft {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        p = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog="\n".join(
                ["examples:", *("  python -m pysft " + e for e in module.EXAMPLES), EXIT_CODES]
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        p.set_defaults(run=module.run)
        p.add_argument(
            "--json",
            action="store_true",
            help="one JSON document on standard output, messages on standard error",
        )
        module.add_arguments(p)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; its exit code. A PysftError becomes one sentence on standard error."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    top = parser()
    args, more = top.parse_known_args(argv)
    if more:
        is_folder = hasattr(args, "resume") and not more[0].startswith("-")
        hint = "; name the run's folder by --out" if is_folder else ""
        top.error(f"unrecognized arguments: {' '.join(more)}{hint}")
    try:
        code = args.run(args) or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # here an error gets a message, at the process's end it does not
        return code
    except PysftError as error:
        return _fail(f"pysft: {error}", error.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "pysft").startswith("pysft"):
            raise  # a bug of ours
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


def _fail(text: str, code: int = 1) -> int:
    """Print why a command ended, if standard error still takes it; the exit code."""
    try:
        if sys.stderr is not None:
            print(text, file=sys.stderr)
    except OSError:
        hush(sys.stderr)
    return code
