"""The screen: what happens to a message that its reader does not take."""

import errno
import fcntl
import io
import os
import pty
import re
import struct
import termios
from types import SimpleNamespace

import pytest
from command_line import raising

from pysft import console


def screen_that_fails(error) -> console.Screen:
    """A screen whose stream raises an error at each write."""
    screen = console.Screen(json=False)
    screen.stream = io.StringIO()
    screen.stream.write = raising(error)
    return screen


def test_a_slow_reader_is_no_error():
    screen_that_fails(BlockingIOError(errno.EAGAIN, "slow")).say("Hi")


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "gone"), BrokenPipeError(errno.EPIPE, "gone")]
)
def test_a_reader_that_has_gone_is_a_broken_pipe_with_the_reason(error):
    with pytest.raises(BrokenPipeError, match="gone"):
        screen_that_fails(error).say("Hi")


def test_hush_leaves_streams_that_are_not_the_standard_ones_alone(tmp_path):
    with open(tmp_path / "other", "w") as other:
        console.hush(other)
        print("still written", file=other)
    assert (tmp_path / "other").read_text() == "still written\n"


# ---------------------------------------------------------------------------------- progress lines


class Window:
    """A pseudo-terminal whose width can change, and a screen that writes to it."""

    def __init__(self, monkeypatch, columns=80, term="xterm"):
        self._ours, theirs = pty.openpty()
        monkeypatch.setenv("TERM", term)
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        self.resize(columns)
        monkeypatch.setattr(console.sys, "stdout", self.stream)
        self.screen = console.Screen(json=False)

    def resize(self, columns) -> None:
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, size)

    def show(self, text, last=False) -> str:
        """Show a progress line at once. Return what the terminal gets."""
        self.screen._last = -1e9
        self.screen.progress(text, last)
        return self.read()

    def read(self) -> str:
        self.stream.flush()
        os.write(self.stream.fileno(), b"@")  # so that there is something to read
        text = b""
        while not text.endswith(b"@"):
            text += os.read(self._ours, 65536)
        return text[:-1].decode()


@pytest.fixture
def window(monkeypatch):
    windows = []

    def window(**options):
        windows.append(Window(monkeypatch, **options))
        return windows[-1]

    yield window
    for one in windows:
        one.stream.close()
        os.close(one._ours)


LONG = "base  step 1,000 of 3,000  loss 1.674  123,456 tokens/s  1:23 left"


@pytest.mark.parametrize("columns", [60, 40, 20, 2])
def test_a_progress_line_is_cut_to_the_width_so_that_it_never_wraps(window, columns):
    assert window(columns=columns).show(LONG) == "\r\x1b[K" + LONG[: columns - 1]


def test_the_width_is_taken_anew_for_each_line(window):
    one = window(columns=60)
    assert one.show(LONG) == "\r\x1b[K" + LONG[:59]
    one.resize(30)
    assert one.show(LONG) == "\r\x1b[K" + LONG[:29]
    one.resize(300)
    assert one.show(LONG) == "\r\x1b[K" + LONG
    one.resize(0)  # the terminal does not know
    assert one.show("x" * 100) == "\r\x1b[K" + "x" * 79


def test_wide_characters_count_twice_and_marks_not_at_all(window):
    one = window(columns=11)
    assert one.show("\u4f60\u597d" * 10) == "\r\x1b[K" + "\u4f60\u597d\u4f60\u597d\u4f60"
    assert one.show("e\u0301" * 20) == "\r\x1b[K" + "e\u0301" * 10
    assert one.show("\u1112\u1161\u11ab" * 9) == "\r\x1b[K" + "\u1112\u1161\u11ab" * 5  # jamo
    assert console.cut("ab\u4f60", 3) == "ab" and console.cut("ab\u4f60", 4) == "ab\u4f60"


def test_a_dumb_terminal_gets_whole_lines_without_escape_codes(window):
    one = window(columns=20, term="dumb")
    assert not one.screen.live
    assert one.show(LONG) == LONG + "\r\n"
    one.screen.progress(LONG)  # at once after the other
    assert one.read() == ""
    one.screen.end_line()
    assert one.read() == ""


def test_a_message_takes_the_place_of_an_open_progress_line(window):
    one = window()
    one.show("step 1")
    one.screen.say("a note")
    assert one.read() == "\r\x1b[Ka note\r\n"
    one.screen.say("another")
    assert one.read() == "another\r\n"
    assert one.show("step 2", last=True) == "\r\x1b[Kstep 2\r\n"
    one.screen.say("done")
    assert one.read() == "done\r\n"


def test_the_end_of_a_line_leaves_it_as_it_stands(window):
    one = window()
    one.show("step 1")
    one.screen.end_line()
    one.screen.end_line()
    assert one.read() == "\r\n"


def test_the_lines_of_a_narrow_terminal_overwrite_each_other(window):
    """A small model of a terminal: no line but the last is left."""
    one, shown = window(columns=30), ""
    for step in range(5):
        shown += one.show(f"{step} {LONG}")
    rows = [""]
    for piece in re.split(r"(\r\x1b\[K)", shown):
        if piece == "\r\x1b[K":
            rows[-1] = ""
        else:
            rows[-1] += piece
            while len(rows[-1]) > 30:  # the terminal wraps
                rows[-1:] = [rows[-1][:30], rows[-1][30:]]
    assert rows == [f"4 {LONG}"[:29]]


# --------------------------------------------------------------------------- how often, and where


class Clock:
    """A clock that a test sets, and a screen that is not a terminal's unless it is made so."""

    def __init__(self, monkeypatch, live):
        monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.screen = console.Screen(json=False)
        self.screen.stream, self.screen.live = io.StringIO(), live

    def lines_at(self, *seconds) -> list[float]:
        """The times of these at which a progress line is shown."""
        shown = []
        for self.now in seconds:
            before = self.screen.stream.getvalue()
            self.screen.progress("step")
            shown += [self.now] * (self.screen.stream.getvalue() != before)
        return shown


def test_a_file_gets_a_progress_line_every_ten_seconds_and_a_terminal_ten_in_a_second(monkeypatch):
    slow = Clock(monkeypatch, live=False)
    assert slow.lines_at(10.0, 10.5, 20.0, 20.5, 21.5, 30.5, 31.0) == [10.5, 21.5]
    quick = Clock(monkeypatch, live=True)
    assert quick.lines_at(10.0, 10.0625, 10.125, 10.1875, 10.25) == [10.0, 10.125, 10.25]


def test_the_last_progress_line_is_shown_in_any_case_and_is_said_like_a_message(monkeypatch):
    one = Clock(monkeypatch, live=False)
    one.now = 20.0
    for text, last in (("1", False), ("2", False), ("3", True), ("4", True)):
        one.screen.progress(text, last)
    assert one.screen.stream.getvalue() == "1\n3\n4\n"


def test_a_message_is_one_line_unless_it_is_to_end_otherwise(monkeypatch):
    screen = Clock(monkeypatch, live=True).screen
    for text, end in (("a", "\n"), ("b", ""), ("", "\n")):
        screen.say(text, end)
    screen.say()
    assert screen.stream.getvalue() == "a\nb\n\n"


def test_the_screen_leaves_standard_output_to_a_document(monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(console.sys, "stdout", out)
    monkeypatch.setattr(console.sys, "stderr", err)
    console.Screen(json=True).say("to err")
    console.Screen(json=False).say("to out")
    assert (out.getvalue(), err.getvalue()) == ("to out\n", "to err\n")
    monkeypatch.setattr(console.sys, "stdout", None)  # closed from the start
    closed = console.Screen(json=False)
    closed.say("to nobody")
    closed.progress("to nobody", last=True)
    assert not closed.live
    assert (out.getvalue(), err.getvalue()) == ("to out\n", "to err\n")


def test_a_stream_that_knows_no_width_has_eighty_columns(monkeypatch):
    one = Clock(monkeypatch, live=True)
    one.now = 20.0
    one.screen.progress("x" * 100)
    assert one.screen.stream.getvalue() == "\r\x1b[K" + "x" * 79


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0:00"), (9.9, "0:09"), (59.99, "0:59"), (60, "1:00"), (90.0, "1:30"), (3605, "60:05")],
)
def test_a_time_is_written_in_minutes_and_two_digits_of_seconds(seconds, text):
    assert console.clock(seconds) == text


@pytest.mark.parametrize(
    "c, width",
    [
        ("a", 1),
        ("\u00e9", 1),
        ("\u4f60", 2),
        ("\uff21", 2),  # a letter of full width
        ("\uff71", 1),  # one of half width
        ("\u115f", 2),  # the last first consonant of Korean
        ("\u1160", 0),
        ("\u11ff", 0),
        ("\u1200", 1),  # the letter after its last consonants
        ("\u0301", 0),
        ("\u20dd", 0),  # a circle around the character before
        ("\u200b", 0),
        ("\u0903", 1),  # a mark that takes a place of its own
    ],
)
def test_the_columns_that_a_character_takes(c, width):
    assert console.columns(c) == width
    assert console.columns(f"a{c}b") == 2 + width
    assert console.cut(f"a{c}b", 1) == ("a" + c if width == 0 else "a")
    assert console.padded(c, 3) == c + " " * (3 - width)
    assert console.padded(c, 3, right=True) == " " * (3 - width) + c
