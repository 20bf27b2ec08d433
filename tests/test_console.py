"""The screen: what happens to a message that its reader does not take."""

import errno
import io

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
