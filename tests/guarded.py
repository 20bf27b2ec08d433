"""Call every kernel with arrays that end at a protected page. To read or write one element past the
end kills the process.

    python tests/guarded.py THREADS      the kernels, a training step and a decoder
    python tests/guarded.py plant        a control: one element too many, which must be fatal
    python tests/guarded.py overrun      a control for AddressSanitizer (make asan)

tests/test_guard.py runs this file in processes of their own."""

import ctypes
import mmap
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from pysft.batch import Batch, Example
from pysft.nn import decode, gate, gradcheck, kernels
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng
from pysft.training.loop import train_step
from pysft.training.objectives import Sft

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
CONFIGS = [
    GPTConfig(13, 9, 2, 3, 15),
    GPTConfig(68, 70, 1, 4, 64),
    GPTConfig(5, 3, 1, 1, 1),
    GPTConfig(130, 20, 2, 5, 85),
]


def fenced(elements, dtype, align=1):
    """A zeroed vector (elements,) that ends at a protected page, or less than `align` bytes before
    it."""
    size = -(-elements * np.dtype(dtype).itemsize // align) * align
    pages = max(1, -(-size // PAGE)) * PAGE
    memory = mmap.mmap(-1, pages + PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if LIBC.mprotect(ctypes.c_void_p(address + pages), ctypes.c_size_t(PAGE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    return np.frombuffer(memory, np.dtype(dtype), elements, pages - size)


def fenced_copy(a):
    copy = fenced(a.size, a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


def on_fenced(kernel):
    """The kernel, called with fenced copies of its arrays. What it writes is copied back."""

    def call(*arguments, **options):
        copies = [fenced_copy(a) if isinstance(a, np.ndarray) else a for a in arguments]
        result = kernel(*copies, **options)
        for a, b in zip(arguments, copies):
            if isinstance(a, np.ndarray) and a.flags.writeable:
                a[...] = b
        return result

    return call


def train_and_decode(config, functions, dtype, g):
    """One training step of a small model, then a full context of tokens in seven slots."""
    model = GPT(config, functions, rng(1, "guarded", "init"), dtype)
    lengths = config.context, 1, config.context // 2 + 1
    tokens = [g.integers(0, config.vocab, n + 1).astype(np.int32) for n in lengths]
    batch = Batch.of([Example(t[:-1], t[1:]) for t in tokens], config.vocab, config.context)
    assert np.isfinite(train_step(model, AdamW(model), [batch], Sft(), 1e-3, 1.0).loss)
    decoder = decode.Decoder(model, 7)
    decoder.rules[:4], decoder.top_k[2:] = (0.8, 0.7, 2.0), 3
    repeats = [[0, config.vocab - 1]] * 7
    prompts = [g.integers(0, config.vocab, n) for n in lengths]
    assert np.isfinite(decoder.read(prompts, [0, 3, 6])).all()
    assert all(0 <= i < config.vocab for i in decoder.choose([0, 3, 6], repeats[:3]))
    for slot in (0, 3, 6):
        decoder.reset(slot)
    for t in g.integers(0, config.vocab, (config.context, 7)):
        assert np.isfinite(decoder.steps(t, range(7))).all()
        assert all(0 <= i < config.vocab for i in decoder.choose(range(7), repeats))


def fenced_functions(plain):
    """The functions `plain`, called with fenced copies of their arrays."""
    return SimpleNamespace(
        **{k.__name__: on_fenced(getattr(plain, k.__name__)) for k in kernels.KERNELS},
        decode_sizes=plain.decode_sizes,
        decode_pack=plain.decode_pack,
        decode_forward=plain.decode_forward,
        decode_keep=on_fenced(plain.decode_keep),
        sample=on_fenced(plain.sample),
        precision=plain.precision,
    )


def main(threads):
    # Attention's scratch and the memory of a decoder are fenced too, at aligned addresses.
    kernels.aligned = decode.aligned = lambda elements, dtype: fenced(elements, dtype, 64)
    functions = fenced_functions(kernels.on_threads(threads))
    for name, (check, sizes) in gradcheck.CASES.items():
        for tensor, analytic, _, _ in check(functions, np.random.default_rng(0), **sizes):
            assert np.isfinite(analytic).all(), (name, tensor)
    g = np.random.default_rng(0)
    for config in CONFIGS:
        for dtype in (np.float32, np.float64):
            train_and_decode(config, functions, dtype, g)
    if gate.HAS_BF16:
        functions = fenced_functions(kernels.on_threads(threads, "bf16"))
        for config in CONFIGS:
            train_and_decode(replace(config, precision="bf16"), functions, np.float32, g)


def gelu_of_too_many(x, y, n):
    """Call gelu_forward with a size n above that of x and y, which the gate would refuse."""
    x, y = (gate.ffi.from_buffer("float[]", a) for a in (x, y))
    gate._lib.gelu_forward_f32(y, gate.ffi.NULL, x, n, 1)


def plant():
    """A control: one element too many."""
    gelu_of_too_many(fenced(33, np.float32), fenced(33, np.float32), 34)


def overrun():
    """A control for a sanitizer, in ordinary memory: 64 elements too many. gcc does not check the
    masked loads of a tail, so whole vectors must be outside. (The base instruction set has no
    masked loads, and there one element would be noticed.)"""
    gelu_of_too_many(np.zeros(33, np.float32), np.zeros(33, np.float32), 33 + 64)


if __name__ == "__main__":
    controls = {"plant": plant, "overrun": overrun}
    what = sys.argv[1]
    if what in controls:
        controls[what]()
    else:
        main(int(what))
    print("no access outside of an array")
