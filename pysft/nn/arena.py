"""Named arrays over one flat vector.

Parameters, gradients, both Adam moments and activations are each one Arena: clearing, clipping,
stepping, averaging and saving are then single lines over `.flat`, and there is one allocation to
account for."""

import numpy as np

ALIGNMENT = 64  # bytes: a cache line and the widest vector
GUARD = 16  # elements between two arrays of a guarded arena


def aligned(elements: int, dtype) -> np.ndarray:
    """A zeroed vector (elements,) of dtype whose first byte is at a multiple of 64."""
    dtype = np.dtype(dtype)
    raw = np.zeros(elements * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + elements * dtype.itemsize].view(dtype)


class Arena:
    """`shapes` maps names to shapes, in order; every array starts at a multiple of 64 bytes.

    arena["wte"] is a view; arena.flat is everything, the few padding elements (always zero)
    included. With `guard`, words of NaN stand between the arrays, and check_guards() says whether
    something wrote outside its array: tests run kernels in such an arena.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], dtype=np.float32, guard: bool = False):
        self.shapes = dict(shapes)
        self.dtype = np.dtype(dtype)
        step = ALIGNMENT // self.dtype.itemsize
        self._guards = []
        self.offsets = {}
        end = 0
        for name, shape in self.shapes.items():
            if guard:
                self._guards.append((end, end + GUARD))
                end += -(-GUARD // step) * step
            self.offsets[name] = end
            size = int(np.prod(shape, dtype=np.int64))
            if guard:  # right behind the last element, where an overrun would land
                self._guards.append((end + size, end + size + GUARD))
                size += GUARD
            end += -(-size // step) * step
        self.flat = aligned(end, self.dtype)
        self._views = {}
        for name, shape in self.shapes.items():
            first = self.offsets[name]
            size = int(np.prod(shape, dtype=np.int64))
            self._views[name] = self.flat[first : first + size].reshape(shape)
        for first, last in self._guards:
            self.flat[first:last] = np.nan

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def __iter__(self):
        return iter(self._views)

    def items(self):
        return self._views.items()

    def __or__(self, other: dict) -> dict[str, np.ndarray]:
        """The views by name, with some of them replaced."""
        return self._views | other

    def clear(self) -> None:
        """Every element to zero (a vector without guards)."""
        self.flat.view(np.uint8).fill(
            0
        )  # as bytes: NumPy then calls memset, 2.5 times as fast as a loop over floats

    def check_guards(self) -> bool:
        """True if every guard word is still as it was made."""
        return all(np.isnan(self.flat[first:last]).all() for first, last in self._guards)

    @property
    def size(self) -> int:
        """Elements of all the arrays, padding not counted."""
        return sum(view.size for view in self._views.values())
