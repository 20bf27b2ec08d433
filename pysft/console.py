"""Output for people: messages, progress lines while a command runs, and commands to type next."""

import contextlib
import os
import re
import shlex
import sys
import time
import unicodedata
from pathlib import Path

WIDTH = 80  # columns of a terminal that does not know its own


class Screen:
    """Prints messages to standard output, or to standard error if --json uses standard output.

    live: True if the stream is a terminal that can overwrite a line; TERM=dumb cannot. A stream
    that can no longer be written to (a closed pipe or terminal, a full disk) raises BrokenPipeError
    with the reason."""

    def __init__(self, json: bool):
        self.stream = sys.stderr if json else sys.stdout  # None if it was closed from the start
        is_terminal = self.stream is not None and self.stream.isatty()
        self.live = is_terminal and os.environ.get("TERM") != "dumb"
        self._last, self._is_open = 0.0, False  # open: the cursor is in a progress line

    def say(self, text: str = "", end: str = "\n") -> None:
        """Print a message. It takes the place of an open progress line, which comes again."""
        self._write(("\r\x1b[K" if self._is_open else "") + text + end)
        self._is_open = False

    def progress(self, text: str, last: bool = False) -> None:
        """Show a progress line. On a terminal each one overwrites the one before, at most ten times
        a second, and is cut to the width that the terminal has now. Elsewhere a line is printed at
        most every ten seconds.

        last: show it in any case, and end the line."""
        now = time.monotonic()
        if not (last or now - self._last > (0.1 if self.live else 10)):
            return
        self._last = now
        if not self.live:
            self.say(text)
            return
        # A full last column would wrap on some terminals.
        self._write("\r\x1b[K" + cut(text, self._width() - 1) + "\n" * last)
        self._is_open = not last

    def end_line(self) -> None:
        """Leave an open progress line as it stands, and go to the next line."""
        if self._is_open:
            self._write("\n")
            self._is_open = False

    def _width(self) -> int:
        """The columns of the terminal; asked each time, because a window can change its size."""
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or WIDTH
        except (OSError, ValueError):
            return WIDTH

    def _write(self, text: str) -> None:
        if self.stream is None:
            return
        try:
            print(text, end="", file=self.stream, flush=True)
        except BlockingIOError:  # the reader is slow, not gone
            pass
        except OSError as error:
            hush(self.stream)
            raise BrokenPipeError(error.errno, error.strerror) from error


def cut(text: str, width: int) -> str:
    """Return as much of the beginning of a text as fits into `width` columns of a terminal."""
    used = 0
    for i, c in enumerate(text):
        used += _columns(c)
        if used > width:
            return text[:i]
    return text


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a wide character such as a
    Chinese one, none for a mark over the one before or an invisible character."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(c: str) -> int:
    is_jamo = "\u1160" <= c <= "\u11ff"  # a vowel or a last consonant, drawn into the first one
    if is_jamo or unicodedata.category(c) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def padded(text: str, width: int, right: bool = False) -> str:
    """Return a text with blanks up to a width in columns, behind it, or with `right` before it."""
    blanks = " " * (width - columns(text))
    return blanks + text if right else text + blanks


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds: 90.0 is "1:30"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def command(*words, python: str = "python") -> str:
    """Return a command of this program that can be pasted into a shell, whatever is in its words.

    words: what stands behind `python -m pysft`. A Path that begins with "-" gets "./" in front, so
    that it is not taken for a flag."""
    safe = (no_flag(w) if isinstance(w, Path) else str(w) for w in words)
    return " ".join(map(quoted, [python, "-m", "pysft", *safe]))


def no_flag(path) -> str:
    """Return a path as text that is not taken for a flag: "./-x" for "-x"."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def quoted(word: str) -> str:
    """Return a word as a shell reads it. One with control characters, such as a line break, is
    written as $'...' on one line, for bash and zsh: a terminal would act on the characters
    themselves."""
    if not any(unicodedata.category(c) == "Cc" for c in word):
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + re.sub(r"[\x00-\x1f\x7f-\x9f]", _octal, escaped) + "'"


def _octal(found: re.Match) -> str:
    return "".join(f"\\{byte:03o}" for byte in found[0].encode())


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
