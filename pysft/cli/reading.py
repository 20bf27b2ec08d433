"""Flags that say how files of conversations are read, for the verbs that read them: train, audit
and mask."""

import argparse

from pysft.cli.arguments import add_rendering
from pysft.errors import UsageError


def names(text):
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r}: a name is empty; write it as in KEY,KEY")
    return found


def add_rows(p):
    p.add_argument(
        "--ignore",
        type=names,
        action="extend",
        metavar="KEY,KEY,...",
        help="keys of rows and turns that mean nothing; others that are not read are errors",
    )
    p.add_argument(
        "--lang",
        metavar="LANGUAGE",
        help='leave out rows whose "lang" is another, such as de for --lang en, and count them',
    )
    p.add_argument(
        "--no-synthetic",
        action="store_const",
        const=False,
        dest="synthetic",
        help="leave out messages of trees that a model wrote (OASST), and count them",
    )


def add_reading(p):
    p.add_argument(
        "--unknown",
        choices=["refuse", "replace", "grow"],
        help="what to do with characters that the vocabulary lacks, as for train (default: refuse,"
        " or as the run was trained)",
    )
    p.add_argument(
        "--run",
        dest="of_run",
        metavar="RUN",
        help="read with this run's vocabulary, template and context",
    )
    p.add_argument(
        "--corpus",
        metavar="PATH|plays|shakespeare",
        help="read with the vocabulary of this text (default: plays)",
    )
    add_rows(p)
    add_rendering(p)


def reading_of(args, stage=None):
    """Return the Reading that the flags of add_rows() ask for; without them, that of the run whose
    stage is given."""
    from pysft.text.keys import Reading, checked_ignore

    def chosen(name, usual):
        value = getattr(args, name)
        if value is None and stage is not None:
            return stage.setting(name, usual)
        return usual if value is None else value

    return Reading(
        checked_ignore(chosen("ignore", ())), chosen("lang", ""), chosen("synthetic", True)
    )


def policies(args, stage) -> tuple[str, str]:
    """Return (grade, unknown) for mask and audit: from the flags, else as the run was trained, else
    the defaults. A UsageError if the vocabulary of a run is asked to grow."""
    grade, unknown = "all", "refuse"
    if stage is not None and stage.can_talk:  # a tuned run
        if args.unknown == "grow":
            raise UsageError(
                "--run has its own vocabulary, which cannot grow; leave --unknown out, or use"
                " replace"
            )
        grade, unknown = stage.setting("grade", grade), stage.setting("unknown", unknown)
        if unknown == "grow":
            unknown = "refuse"  # the run's vocabulary has grown already
    return args.grade or grade, args.unknown or unknown
