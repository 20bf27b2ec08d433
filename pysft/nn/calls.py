"""Kernel calls that are checked once and made often.

A model makes the same calls with the same arrays in every step. Only two numbers change: the rows N
and the sequences S of the batch. `Calls` sends each call through the gate once, with arrays that
have room for the largest batch, and notes it. From then on it makes the noted calls for any N and S
that fit. A noted call takes about 1 microsecond of Python. A call through the gate takes about
10."""

import time
from functools import partial
from types import SimpleNamespace

import numpy as np

from pysft.errors import GateError
from pysft.nn.arena import aligned
from pysft.nn.gate import count_threads, is_forked, size

LETTERS = "NS"  # the sizes that each run may change, in the order of the arguments of run()


class Calls:
    """A list of kernel calls, checked with all the rows that the arrays have.

    Arrays are contiguous. So the first rows of an array begin at the same address as the whole, and
    a call for fewer rows differs only in its sizes.

    kernels: the wrappers whose calls can be noted, by name. threads: the number for all calls.
    longest: the most rows that a sequence can have, which decides attention's working memory.
    scratch: a dict that several Calls share if they run one after the other. It keeps the working
    memory."""

    def __init__(self, kernels, threads: int, longest: int, scratch: dict | None = None):
        self.kernels, self.threads, self.longest = kernels, threads, longest
        self._calls = []
        self._arrays = []  # noted calls hold only addresses, so this keeps the arrays alive
        self._room = {}  # index in LETTERS -> the largest number that all noted calls have room for
        self._scratch = {} if scratch is None else scratch

    def noting(self) -> SimpleNamespace:
        """Return an object with the kernels as attributes. Calling one of them notes the call."""
        return SimpleNamespace(**{n: partial(self._send, k) for n, k in self.kernels.items()})

    def _send(self, kernel, *arrays, **options):
        """Send one call through its wrapper and the gate, which passes it on to note()."""
        self._arrays.append((arrays, options))
        kernel(*arrays, **options, threads=self.threads, calls=self)

    def scratch(self, elements: int, dtype) -> np.ndarray:
        """Return a vector (elements,) of working memory. Calls share it, because they run one after
        the other. If a call needs more than there is, a larger vector is made, and the old one is
        kept for the calls that were noted with it."""
        have = self._scratch.setdefault(np.dtype(dtype), [])
        if not have or len(have[-1]) < elements:
            have.append(aligned(elements, dtype))
        return have[-1][:elements]

    def note(self, admitted, c_function, arguments: list, explain) -> None:
        """Note one call that the gate has checked. Arguments as in Admitted.call."""
        letters, fixed, sizes = admitted.letters, [], []
        for i, a in enumerate(arguments):
            if isinstance(a, str):
                letter, _, factor = a.partition("*")
                if letter in LETTERS:
                    which, room = LETTERS.index(letter), letters[letter]
                    sizes.append((i, which, int(factor or 1)))
                    self._room[which] = min(room, self._room.get(which, room))
                a = size(a, letters)
            fixed.append(a)
        self._calls.append((admitted.function, c_function, fixed, sizes, explain, letters))

    def run(self, N: int, S: int, clock: dict | None = None) -> None:
        """Make all noted calls, in order, for N rows and S sequences.

        clock: if given, each kernel's seconds are added to it under the kernel's name. A GateError
        if N or S is below 1 or more than the arrays hold, or if C finds a bad index."""
        here = N, S
        for which, room in self._room.items():
            if not 1 <= here[which] <= room:
                raise GateError(
                    f"{LETTERS[which]} = {here[which]}, but these calls were checked for 1 to"
                    f" {room}"
                )
        if is_forked():
            self._use_one_thread()
        for function, c_function, arguments, sizes, explain, letters in self._calls:
            for i, which, factor in sizes:
                arguments[i] = here[which] * factor
            began = time.perf_counter() if clock is not None else 0.0
            code = c_function(*arguments)
            if clock is not None:
                clock[function] = clock.get(function, 0.0) + time.perf_counter() - began
            if explain is not None and code >= 0:
                explain(function, code, {**letters, "N": N, "S": S})

    def _use_one_thread(self):
        for _, _, arguments, *_ in self._calls:  # threads is the last argument of every kernel
            arguments[-1] = count_threads("Calls.run", arguments[-1])
