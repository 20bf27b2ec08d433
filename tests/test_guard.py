"""No kernel reads or writes past the end of an array. tests/guarded.py calls them all in a process
of its own, which the first such access kills."""

import signal
import sys

import pytest
from conftest import python

from pysft.nn import gate

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="guarded.py protects pages with Linux's mprotect"
)


@pytest.mark.parametrize("isa", gate.ISAS)
def test_every_kernel_stays_inside_its_arrays(isa):
    done = python("tests/guarded.py", "2", PYSFT_ISA=isa, timeout=120)
    assert done.returncode == 0 and "no access outside" in done.stdout, done.stderr


def test_one_element_too_many_is_noticed():
    done = python("tests/guarded.py", "plant")
    assert done.returncode == -signal.SIGSEGV and "no access outside" not in done.stdout
