"""Functions in a user's Python file: a judge, or what ranks replies."""

import runpy
from collections.abc import Callable
from pathlib import Path

from pysft.errors import DataError, MissingInput, UsageError


def function_of(path: Path, name: str, takes: str, flag: str) -> Callable:
    """Return the function `name` of a Python file, which is run for that.

    takes: its arguments, and flag: what the user named the file by, both for a message.
    MissingInput if there is no file, UsageError if it is no Python file, and a DataError if it
    cannot be run or has no such function."""
    if not path.is_file():
        raise MissingInput(
            f"{flag} {path}: no such file; it takes a Python file with a function {name}"
            + (", or the URL of an endpoint" if flag != "--reward" else "")
        )
    if path.suffix != ".py":
        raise UsageError(f"{flag} {path}: not a Python file, whose name ends with .py")
    try:
        # An import might take bytecode for it: that of a text as long, of the same second.
        found = runpy.run_path(str(path), run_name="pysft_user_file")
    except Exception as error:  # whatever the user's file raises
        raise DataError(f"{path}: {type(error).__name__}: {error}") from None
    function = found.get(name)
    if not callable(function):
        raise DataError(f"{path}: it has no function {name}({takes})")
    return function
