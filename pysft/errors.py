"""Every error that a user can cause. Its text says what happened, where, and what to do; its
exit_code is the exit status of the command. Any other exception that reaches a user is a bug of
ours."""

import re


class PysftError(Exception):
    """The base class of all errors."""

    exit_code = 1


class UsageError(PysftError):
    """A flag, setting or environment variable whose value is not valid or not possible here."""

    exit_code = 2


class Diverged(PysftError):
    """A loss, gradient or weight that is not finite, found before any weight moved.

    batches: the batches of the step, if they are known.
    lasting: True if it is a weight, so that every later step would fail too."""

    exit_code = 3

    def __init__(self, message: str, batches=(), lasting: bool = False):
        super().__init__(message)
        self.batches, self.lasting = batches, lasting


class DataError(PysftError, ValueError):
    """Text, conversations, tokens or a run folder that cannot be used as they are."""

    exit_code = 65


class RowError(DataError):
    """A row of a data set that cannot be used. Its text is "where: what; remedy".

    where: for example "mine.jsonl, line 3, turn 2". kind: the kind of fault, by which an audit
    groups its findings."""

    def __init__(self, where: str, what: str, remedy: str, kind: str):
        super().__init__(f"{where}: {what}; {remedy}")
        self.where, self.what, self.remedy, self.kind = where, what, remedy, kind

    @property
    def line(self) -> int:
        """The line number in `where`, or 0 if there is none."""
        found = re.search(r", line (\d+)", self.where)
        return int(found[1]) if found else 0


class MissingInput(PysftError):
    """A file or folder that is not there."""

    exit_code = 66


class GateError(PysftError, ValueError, TypeError):
    """An array that a kernel cannot take, refused before C sees it."""


class BuildError(PysftError, ImportError):
    """The C part is missing, stale, or cannot run on this processor."""


class Interrupted(PysftError):
    """Training that was stopped before its end; the text says how to go on. signum: the signal that
    stopped it, for exit status 128 + signum; None for exit status 1."""

    def __init__(self, message, signum: int | None = None):
        super().__init__(message)
        self.exit_code = 128 + signum if signum else 1
