"""No kernel reads or writes past an array: tests/guarded.py, in processes of their own."""

import signal
import sys

import pytest
from conftest import python

from pysft.nn import ops

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="pages are protected in Linux's way"
)


@pytest.mark.parametrize("isa", ops.ISAS)
def test_every_kernel_stays_inside_its_arrays(isa):
    done = python("tests/guarded.py", "2", PYSFT_ISA=isa, timeout=120)
    assert done.returncode == 0 and "nothing was touched" in done.stdout, done.stderr


def test_one_element_too_far_is_seen():
    done = python("tests/guarded.py", "plant")
    assert done.returncode == -signal.SIGSEGV and "nothing was touched" not in done.stdout
