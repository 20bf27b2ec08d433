"""The kernels that write text: they read one more token of each of several sequences, and choose
the next one. The top of kernels.py says how such wrappers are called."""

import numpy as np

from pysft.errors import GateError
from pysft.nn.gate import NULL, admit, c_function, count_threads, is_forked, number, suffix_of

# ------------------------------------------------------------------------------ one token at a time


def decode_sizes(C, K, V, T, L, dtype, *, precision="float32"):
    """Return four numbers of elements: those of a packed w (K,C), and those that decode_forward
    needs for all weights, the cache of a sequence and its working memory. They are for V symbols, T
    positions, C channels and L blocks."""
    _refuse_lengths("decode_sizes", C=C, K=K, V=V, T=T, L=L)
    suffix = suffix_of("decode_sizes", np.dtype(dtype), precision)
    arguments = {
        "decode_packed": (C, K),
        "decode_weights": (V, T, C, L),
        "decode_cache": (T, C, L),
        "decode_work": (T, C),
    }
    return tuple(int(c_function(name, suffix)(*given)) for name, given in arguments.items())


def _refuse_lengths(function, **lengths):
    """Raise a GateError for a length that is not a whole number of at least 1."""
    for name, n in lengths.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise GateError(f"{function}: {name} = {n!r}, expected a whole number, at least 1")


def decode_pack(packed, w, *, precision="float32"):
    """packed (n) is written: w (K,C) in the order in which decode_forward reads its elements. n is
    the first number that decode_sizes returns."""
    a = admit("decode_pack", "packed!n w:K,C", packed, w, precision=precision)
    n, K, C = a.letters["n"], a.letters["K"], a.letters["C"]
    expected = c_function("decode_packed", a.suffix)(C, K)
    if n != expected:
        raise GateError(
            f"decode_pack: packed has shape ({n},), expected ({expected},) for w {w.shape}"
        )
    c_function("decode_pack", a.suffix)(*a.pointers, C, K)


def decode_forward(
    logits,
    cache,
    work,
    weights,
    tokens,
    positions,
    slots,
    T,
    H,
    L,
    eps=1e-5,
    *,
    threads=None,
    precision="float32",
):
    """Read one more token of each of S sequences. logits (S,V) of what follows them are written.

    tokens (S) are at positions (S), 0 to T-1. cache (R,c) holds the keys and values of earlier
    tokens, and those of the new tokens are added. slots (S), rising, are the sequences' rows in the
    cache. work (S,w) is working memory. weights (W) are in the order that kernels.h lists, with the
    matrices packed by decode_pack. decode_sizes returns W, c and w."""
    arrays = logits, cache, work, weights, tokens, positions, slots
    decoder(*arrays, T, H, L, eps, threads=threads, precision=precision)(len(tokens))


def decoder(
    logits,
    cache,
    work,
    weights,
    tokens,
    positions,
    slots,
    T,
    H,
    L,
    eps=1e-5,
    *,
    threads=None,
    precision="float32",
):
    """Check these arrays once. Return step(S), which calls decode_forward for the first S sequences
    and returns the array `logits`; its first S rows are then written.

    The values in tokens, positions and slots are checked at each step."""
    arrays = logits, cache, work, weights, tokens, positions, slots
    _refuse_lengths("decode_forward", T=T, H=H, L=L)
    notation = "logits!S,V cache!R,c work!S,w weights:W tokens#S positions#S slots#S"
    a = admit("decode_forward", notation, *arrays, precision=precision)
    most, V, R = (a.letters[letter] for letter in "SVR")
    C = _decoder_channels(a.letters, T, H, L, logits.dtype, precision)
    rest = R, V, T, C, H, L, number("decode_forward", "eps", eps)
    threads = count_threads("decode_forward", threads)
    function, pointers = c_function("decode_forward", a.suffix), a.pointers

    def step(S=1):
        if not 0 < S <= most:
            raise GateError(f"decode_forward: {S} sequences, expected 1 to {most}")
        here = count_threads("decode_forward", threads) if is_forked() else threads
        code = function(*pointers, S, *rest, here)
        if code >= 0:
            which, i = divmod(code, S)
            name, limit = (("token", V), ("position", T), ("slot", R))[which]
            raise GateError(
                f"decode_forward: {name} = {arrays[4 + which][i]} is not in 0..{limit - 1}"
                + (", or not above the slot before it" if name == "slot" else "")
            )
        return arrays[0]  # naming `arrays` here also keeps the memory of the pointers alive

    return step


def _decoder_channels(n, T, H, L, dtype, precision):
    """Return the number of channels C. A GateError if weights, cache or work have other sizes than
    it needs."""
    one, two = (decode_sizes(C, 1, 1, T, 1, dtype, precision=precision)[3] for C in (1, 2))
    C = (n["w"] - one) // (two - one) + 1  # a row of work holds some vectors of C, and scores
    if C < 1 or C % H:
        raise GateError(
            f"decode_forward: work has rows of {n['w']}, which hold {C} channels; they cannot be"
            f" split over H = {H} heads"
        )
    _, weights, cache, work = decode_sizes(C, 1, n["V"], T, L, dtype, precision=precision)
    for name, size, expected in (
        ("weights", n["W"], weights),
        ("cache", n["c"], cache),
        ("work", n["w"], work),
    ):
        if size != expected:
            raise GateError(
                f"decode_forward: {name} has {size}"
                f" elements{'' if name == 'weights' else ' a row'}, expected {expected}"
            )
    return C


def decode_keep(cache, qkv, first, block, T, L):
    """The keys and values of the rows of qkv (N,3C) are written to the cache (c) of one sequence:
    those of a block, 0 to L-1, at the positions first, first + 1, ..., below T."""
    a = admit("decode_keep", "cache!c qkv:N,3C", cache, qkv)
    N, C = a.letters["N"], a.letters["C"]
    expected = decode_sizes(C, 1, 1, T, L, qkv.dtype)[2]
    if a.letters["c"] != expected:
        raise GateError(f"decode_keep: cache has {a.letters['c']} elements, expected {expected}")
    if not 0 <= block < L:
        raise GateError(f"decode_keep: block = {block} is not in 0..{L - 1}")
    if not 0 <= first <= T - N:
        raise GateError(f"decode_keep: positions {first} to {first + N - 1} are not in 0..{T - 1}")
    c_function("decode_keep", a.suffix)(*a.pointers, N, first, block, T, C)


# ----------------------------------------------------------------------------- the choice of tokens


def sample(
    chosen,
    work,
    heap,
    logits,
    rules,
    top_k,
    keys,
    counters,
    again=None,
    offsets=None,
    *,
    threads=None,
):
    """chosen (S) int32 is written: the next token of each sequence, from its logits (S,V), by the
    rules that reference.sample explains. It is -1 if logits of the sequence are not finite.

    rules (3S): temperature, top_p and repetition of each sequence. top_k (S), keys (4S) and
    counters (S), all int32, decide the rest of the rules and the random number. again (A), offsets
    (S+1): the ids that would repeat a word, sequence by sequence; both None if there are none.
    work (S,V) and heap (S,V) int32 are working memory."""
    arrays = chosen, work, heap, logits, rules, top_k, keys, counters
    sampler(*arrays, threads=threads)(len(logits), again, offsets)


def sampler(chosen, work, heap, logits, rules, top_k, keys, counters, *, threads=None):
    """Check these arrays once. Return draw(S, again, offsets), which calls sample for the first S
    sequences."""
    notation = "chosen!#S work!S,V heap!#S,V logits:S,V rules:3S top_k#S keys#4S counters#S"
    arrays = chosen, work, heap, logits, rules, top_k, keys, counters
    a = admit("sample", notation, *arrays)
    most, V = a.letters["S"], a.letters["V"]
    function, pointers = c_function("sample", a.suffix), a.pointers
    threads = count_threads("sample", threads)

    def draw(S, again=None, offsets=None):
        if not 0 < S <= most:
            raise GateError(f"sample: {S} sequences, expected 1 to {most}")
        if (again is None) != (offsets is None):
            raise GateError("sample: of again and offsets one is None, expected both or neither")
        repeats, A = (NULL, NULL), 0
        if again is not None:  # with all arrays, because none may overlap those that are written
            whole = admit("sample", f"{notation} again#A offsets#Z+1", *arrays, again, offsets)
            repeats, A = whole.pointers[-2:], whole.letters["A"]
            if whole.letters["Z"] != S:
                raise GateError(
                    f"sample: offsets has shape {offsets.shape}, expected ({S + 1},) for {S}"
                    " sequences"
                )
        here = count_threads("sample", threads) if is_forked() else threads
        code = function(*pointers, *repeats, S, V, A, here)
        if 0 <= code < A:
            raise GateError(f"sample: again[{code}] = {again[code]} is not in 0..{V - 1}")
        if code >= 0:
            raise GateError(
                f"sample: offsets[{code - A}] = {offsets[code - A]}; offsets must rise from 0 to"
                f" {A}, the length of again"
            )
        return arrays[0]  # naming `arrays` here also keeps the memory of the pointers alive

    return draw
