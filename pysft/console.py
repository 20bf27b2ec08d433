"""The screen: what people read while a command runs."""

import contextlib
import os
import sys
import time


class Screen:
    """Prints to standard output, or to standard error if --json needs standard output.

    BrokenPipeError, with the reason, if the stream takes no more: a closed pipe or terminal, or a
    full disk behind it."""

    def __init__(self, json: bool):
        self.stream = sys.stderr if json else sys.stdout  # None if it was closed before we began
        self.live = self.stream is not None and self.stream.isatty()
        self._last = 0.0

    def say(self, text: str = "", end: str = "\n") -> None:
        if self.stream is None:
            return
        try:
            print(text, end=end, file=self.stream, flush=True)
        except BlockingIOError:  # the reader is only slow
            pass
        except OSError as error:
            hush(self.stream)
            raise BrokenPipeError(error.errno, error.strerror) from error

    def progress(self, text: str, last: bool = False) -> None:
        """Show a line: on a terminal it is overwritten, elsewhere one is printed every ten seconds.

        last: print it in any case, and end it."""
        now = time.monotonic()
        if self.live:
            if last or now - self._last > 0.1:
                self._last = now
                self.say("\r\x1b[K" + text, end="\n" if last else "")
        elif last or now - self._last > 10:
            self._last = now
            self.say(text)


def clock(seconds: float) -> str:
    """Minutes and seconds, 90.0 as "1:30"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def hush(stream) -> None:
    """Redirect standard output or error to the null device, including buffered text.

    Call this when the reader has gone: otherwise every later write, and the flush at exit, raises
    again. Other streams are left alone."""
    if stream is None or stream not in (sys.__stdout__, sys.__stderr__):
        return
    with contextlib.suppress(OSError, ValueError):
        number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
