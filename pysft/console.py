"""Output for people: messages and progress lines while a command runs."""

import contextlib
import os
import sys
import time


class Screen:
    """Prints messages to standard output, or to standard error if --json uses standard output.

    live: True if the stream is a terminal. A stream that can no longer be written to (a closed pipe
    or terminal, a full disk) raises BrokenPipeError with the reason."""

    def __init__(self, json: bool):
        self.stream = sys.stderr if json else sys.stdout  # None if it was closed from the start
        self.live = self.stream is not None and self.stream.isatty()
        self._last = 0.0

    def say(self, text: str = "", end: str = "\n") -> None:
        if self.stream is None:
            return
        try:
            print(text, end=end, file=self.stream, flush=True)
        except BlockingIOError:  # the reader is slow, not gone
            pass
        except OSError as error:
            hush(self.stream)
            raise BrokenPipeError(error.errno, error.strerror) from error

    def progress(self, text: str, last: bool = False) -> None:
        """Show a progress line. On a terminal each one overwrites the one before, at most ten times
        a second. Elsewhere a line is printed at most every ten seconds.

        last: show it in any case, and end the line."""
        now = time.monotonic()
        if self.live:
            if last or now - self._last > 0.1:
                self._last = now
                self.say("\r\x1b[K" + text, end="\n" if last else "")
        elif last or now - self._last > 10:
            self._last = now
            self.say(text)


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds: 90.0 is "1:30"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def hush(stream) -> None:
    """Redirect standard output or error to the null device, including buffered text.

    Call this when the reader has gone. Otherwise every later write, and the flush at exit, would
    raise again. Any other stream is left alone."""
    if stream is None or stream not in (sys.__stdout__, sys.__stderr__):
        return
    with contextlib.suppress(OSError, ValueError):
        number, null_device = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, number)
        os.close(null_device)
