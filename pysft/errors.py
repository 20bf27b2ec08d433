"""Every error a user can cause: one sentence that says what, where and what to do, and the exit
status that the command line gives it. Anything else that reaches the user is a bug of ours."""

import re


class PysftError(Exception):
    """The base of them all."""

    exit_code = 1


class UsageError(PysftError):
    """A flag, a setting or an environment variable that cannot be."""

    exit_code = 2


class Diverged(PysftError):
    """A loss, gradient or weight that is not finite, found before any weight moved. batches: what
    the step was made of, where that is known; lasting: a weight is one, so that no later step can
    go well."""

    exit_code = 3

    def __init__(self, message: str, batches=(), lasting: bool = False):
        super().__init__(message)
        self.batches, self.lasting = batches, lasting


class DataError(PysftError, ValueError):
    """Text, conversations, tokens or a run folder that cannot be used as they are."""

    exit_code = 65


class RowError(DataError):
    """A row of a data set that cannot be used. where: "file, line 3, turn 2"; kind: what sort of
    fault it is."""

    def __init__(self, where: str, what: str, remedy: str, kind: str):
        super().__init__(f"{where}: {what}; {remedy}")
        self.where, self.what, self.remedy, self.kind = where, what, remedy, kind

    @property
    def line(self) -> int:
        """The line of the file that `where` names; 0 if it names none."""
        found = re.search(r", line (\d+)", self.where)
        return int(found[1]) if found else 0


class MissingInput(PysftError):
    """A file or folder that is not there."""

    exit_code = 66


class GateError(PysftError, ValueError, TypeError):
    """An array that a kernel cannot take; raised before C sees it."""


class BuildError(PysftError, ImportError):
    """The C part is missing, stale, or cannot run on this processor."""
