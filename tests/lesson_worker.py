"""The lessons' worker in the process of the tests.

A check of an exercise starts Python and NumPy for each function, which takes ten times as long as
the check itself. These tests are about what the checker says. Those of a crash, an exit, an endless
loop, standard input and output start the process (test_lesson_check.py), and so does one function
of each exercise (test_lessons.py)."""

import sys
import warnings
from types import SimpleNamespace
from unittest import mock

from pysft.lessons import running, worker

NO_HANDLER = SimpleNamespace(
    enable=lambda file: None,
    disable=lambda: None,
    dump_traceback_later=lambda seconds, exit, file: None,
    cancel_dump_traceback_later=lambda: None,
)


def start(folder, time_limit):
    """Stands for running._start: the same files are read and written, without a time limit."""
    with (
        mock.patch.object(worker, "faulthandler", NO_HANDLER),  # pytest has its own
        mock.patch.object(sys, "stdout", sys.stdout),
        mock.patch.object(sys, "stderr", sys.stderr),
        mock.patch.object(sys, "path", [*sys.path]),
        mock.patch.dict(sys.modules),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        worker.main(folder)
    return 0


def here():
    """Inside `with here():` exercises run in this process."""
    return mock.patch.object(running, "_start", start)
