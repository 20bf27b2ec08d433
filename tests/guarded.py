"""Every kernel on arrays that end where a page begins which nobody may touch: one element too far,
read or written, kills the process. tests/test_guard.py runs this file in processes of their own;
`plant` goes one too far on purpose."""

import ctypes
import mmap
import sys
from types import SimpleNamespace

import numpy as np

from pysft.nn import decode, gradcheck, ops
from pysft.nn.model import GPT, GPTConfig
from pysft.nn.optim import AdamW
from pysft.rng import rng
from pysft.text.dataset import Batch, Example
from pysft.training.loop import train_step
from pysft.training.objectives import sft

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)


def fenced(elements, dtype, align=1):
    """A zeroed vector (elements,) that ends at such a page, or less than `align` bytes before
    it."""
    size = -(-elements * np.dtype(dtype).itemsize // align) * align
    pages = max(1, -(-size // PAGE)) * PAGE
    memory = mmap.mmap(-1, pages + PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if LIBC.mprotect(ctypes.c_void_p(address + pages), ctypes.c_size_t(PAGE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    return np.frombuffer(memory, np.dtype(dtype), elements, pages - size)


def copied(a):
    there = fenced(a.size, a.dtype).reshape(a.shape)
    there[...] = a
    return there


def on_fenced(kernel):
    """The kernel, on copies of its arrays; what it wrote is copied back."""

    def call(*arguments, **options):
        copies = [copied(a) if isinstance(a, np.ndarray) else a for a in arguments]
        result = kernel(*copies, **options)
        for a, b in zip(arguments, copies):
            if isinstance(a, np.ndarray) and a.flags.writeable:
                a[...] = b
        return result

    return call


def main(threads):
    ops.aligned = decode.aligned = lambda elements, dtype: fenced(
        elements, dtype, 64
    )  # scratch, and a decoder's memory
    plain = ops.on_threads(threads)
    fence = SimpleNamespace(
        **{k.__name__: on_fenced(getattr(plain, k.__name__)) for k in ops.KERNELS},
        decode_sizes=plain.decode_sizes,
        decode_pack=plain.decode_pack,
        decode_forward=plain.decode_forward,
    )
    for name, (check, sizes) in gradcheck.CASES.items():
        for tensor, analytic, _, _ in check(fence, np.random.default_rng(0), **sizes):
            assert np.isfinite(analytic).all(), (name, tensor)
    g = np.random.default_rng(0)
    for config in (
        GPTConfig(13, 9, 2, 3, 15),
        GPTConfig(68, 70, 1, 4, 64),
        GPTConfig(5, 3, 1, 1, 1),
        GPTConfig(130, 20, 2, 5, 85),
    ):
        for dtype in (np.float32, np.float64):
            model = GPT(config, fence, rng(1, "guarded", "init"), dtype)
            tokens = [
                g.integers(0, config.vocab, n + 1).astype(np.int32)
                for n in (config.context, 1, config.context // 2 + 1)
            ]
            batch = Batch.of([Example(t[:-1], t[1:]) for t in tokens], config.vocab, config.context)
            loss = train_step(model, AdamW(model), [batch], sft, 1e-3, 1.0).loss
            assert np.isfinite(loss)
            decoder = decode.Decoder(model, 7)
            for t in g.integers(0, config.vocab, (config.context, 7)):
                assert np.isfinite(decoder.steps(t, range(7))).all()


def plant():
    """gelu_forward is told of one element more than there is."""
    x, y = fenced(33, np.float32), fenced(33, np.float32)
    pointer = [ops.ffi.from_buffer("float[]", a) for a in (y, x)]
    ops._lib.gelu_forward_f32(pointer[0], ops.ffi.NULL, pointer[1], 34, 1)


def overrun():
    """The same on memory as everybody has it, for a sanitizer to see: by whole vectors, since gcc
    leaves the masked loads of a tail unwatched (on the base instruction set, which has none, it
    sees one element)."""
    x, y = np.zeros(33, np.float32), np.zeros(33, np.float32)
    pointer = [ops.ffi.from_buffer("float[]", a) for a in (y, x)]
    ops._lib.gelu_forward_f32(pointer[0], ops.ffi.NULL, pointer[1], 33 + 64, 1)


if __name__ == "__main__":
    (
        {"plant": plant, "overrun": overrun}[sys.argv[1]]()
        if sys.argv[1] in ("plant", "overrun")
        else main(int(sys.argv[1]))
    )
    print("nothing was touched that is not ours")
