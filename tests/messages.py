"""Which places of the sources make a message about bad input, and which of them a test reached."""

import ast
import sys
from pathlib import Path

from pysft import errors
from pysft.errors import PysftError

MAKERS = ("RowError", "DataError", "UsageError", "_fault", "_unread", "_not_json", "_out_of_order")


def places_of_messages(modules) -> set[tuple[str, int]]:
    """(file, line) of every call in some modules that makes such a message."""
    return {
        (module.__file__, call.lineno)
        for module in modules
        for call in ast.walk(ast.parse(Path(module.__file__).read_text("utf-8")))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", getattr(call.func, "attr", "")) in MAKERS
    }


def note_messages(monkeypatch) -> set[tuple[str, int]]:
    """A set that gets the (file, line) of every call on the way to each message made from now
    on."""
    reached, init = set(), PysftError.__init__

    def noting(self, *arguments):
        frame = sys._getframe(1)
        while frame is not None:
            reached.add((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        init(self, *arguments)

    monkeypatch.setattr(errors.PysftError, "__init__", noting)
    return reached
