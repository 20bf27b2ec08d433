"""The errors that a user can cause. Each one's text says what happened, where, and what to do. Its
exit_code is the exit status of the command. Any other exception that reaches a user is a bug in
pysft."""

import re


class PysftError(Exception):
    """The base class of these errors."""

    exit_code = 1


class UsageError(PysftError):
    """A flag, setting, argument or environment variable whose value is wrong or does not fit."""

    exit_code = 2


class Diverged(PysftError):
    """A loss, gradient, weight or moment that is not finite. A step finds it before it moves any
    weight, and a file that would hold it is not written.

    batches: the batches of the step, if it was found in one.
    lasting: True if the step must not be skipped. Either a weight is not finite, so that every
    later step would fail too, or a figure is not, although loss and gradient are. Skipping would
    then throw good steps away and hide what is wrong with the figure."""

    exit_code = 3

    def __init__(self, message: str, batches=(), lasting: bool = False):
        super().__init__(message)
        self.batches, self.lasting = batches, lasting


class DataError(PysftError, ValueError):
    """Text, conversations, tokens or a run folder that cannot be used as they are."""

    exit_code = 65


class RowError(DataError):
    """A row of a data set that cannot be used. Its text is "where: what; remedy".

    where: for example "mine.jsonl, line 3, turn 2". kind: the kind of fault; an audit groups its
    findings by it."""

    def __init__(self, where: str, what: str, remedy: str, kind: str):
        super().__init__(f"{where}: {what}; {remedy}")
        self.where, self.what, self.remedy, self.kind = where, what, remedy, kind

    @property
    def line(self) -> int:
        """The line number in `where`, or 0 if there is none."""
        found = re.search(r", line (\d+)", self.where)
        return int(found[1]) if found else 0


class MissingInput(PysftError):
    """A file or folder that is missing."""

    exit_code = 66


class GateError(PysftError, ValueError, TypeError):
    """An argument that a kernel cannot take: an array, an index in it, a size or a number. It is
    found before the kernel computes anything."""


class BuildError(PysftError, ImportError):
    """The C part is missing, stale, or cannot run on this processor."""


class Interrupted(PysftError):
    """Training that was stopped before its end. The text says how to resume it.

    signum: the signal that stopped it; the exit status is then 128 + signum. None: the exit status
    is 1."""

    def __init__(self, message, signum: int | None = None):
        super().__init__(message)
        self.exit_code = 128 + signum if signum else 1
