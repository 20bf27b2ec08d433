"""Named arrays over one flat vector.

Parameters, gradients, activations and both of Adam's moments are one Arena each. So clearing,
clipping, the AdamW step, hashing and the check for finite values each run over `.flat` in a single
line, and each Arena is a single allocation."""

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
GUARD = 16  # elements between two arrays of a guarded arena


def aligned(elements: int, dtype) -> np.ndarray:
    """Return a zeroed vector (elements,) of dtype, whose address is a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    raw = np.zeros(elements * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + elements * dtype.itemsize].view(dtype)


class Arena:
    """One vector that holds a zeroed array for each name and shape in `shapes`, in their order.

    flat is the whole vector, and arena["wte"] is a view of a part of it. Each array begins at a
    multiple of 64 bytes. The few padding elements between arrays are always zero.

    guard: put NaNs before and after each array, so that check_guards() can tell whether something
    was written outside the arrays. Tests run kernels in such an arena."""

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
            if guard:  # directly after the last element, where an overrun would land
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
        """A dict of the views by name, in which the arrays of `other` replace or extend them."""
        return self._views | other

    def fill(self, tensors: dict[str, np.ndarray], prefix: str = "") -> None:
        """Copy tensors[prefix + name], which has the same shape, into each array `name`."""
        for name, view in self._views.items():
            view[:] = tensors[prefix + name]

    def clear(self) -> None:
        """Set every element to zero. Only for an arena without guards."""
        # For bytes NumPy calls memset, which is 2.5 times as fast as its loop over floats.
        self.flat.view(np.uint8).fill(0)

    def check_guards(self) -> bool:
        """True if no guard was written to."""
        return all(np.isnan(self.flat[first:last]).all() for first, last in self._guards)

    @property
    def size(self) -> int:
        """The number of elements of all arrays, without padding."""
        return sum(view.size for view in self._views.values())
