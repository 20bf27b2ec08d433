"""Floating point: sums in blocks of a fixed length, rounding to bf16, and a product in bf16."""

import numpy as np

from pysft.lessons.problem import WRITTEN, Problem

F32 = np.float32

# ----------------------------------------------------------------------------- sums in blocks


def sum_arguments(rng, sizes) -> dict:
    """Every column holds a large number, its negative, and small ones. What is added while a large
    one stands in a sum is lost, so another order loses other small numbers. Sums of small ones are
    exact. In two columns both large numbers are in one block. The last, shorter block has none,
    so a sum without it has no large number left over, beside which other differences would not
    show."""
    N, K, block = sizes["N"], sizes["K"], sizes["block"]
    x = (rng.integers(16, 64, (N, K)) / 64).astype(F32)
    large = [rng.choice(N - N % block, 2, replace=False) for _ in range(K)]
    for column, rows in ((0, [0, 1]), (1, [0, 2])):
        large[column] = block * rng.integers(N // block) + rows
    for column, (a, b) in enumerate(large):
        x[a, column], x[b, column] = 2.0**30, -(2.0**30)
    return {"x": x, "block": block}


def chain(rows, dtype=F32) -> np.ndarray:
    """The sum of some rows from 0, one row after the other."""
    total = np.zeros_like(rows[0], dtype)
    for row in rows:
        total = total + row.astype(dtype)
    return total


def sum_in_blocks(arguments: dict, wrong: frozenset) -> dict:
    """sum_in_blocks, with these mistakes."""
    x, block = arguments.values()
    N = len(x)
    first = N % block or block if "short-block-first" in wrong else block
    parts = np.split(x, range(first, N, block))
    if "one-chain" in wrong:
        parts = [x]
    elif "number-for-length" in wrong:
        parts = np.array_split(x, block)
    elif "rows-dealt-out" in wrong:
        parts = [x[i :: len(parts)] for i in range(len(parts))]
    if "last-rows-left-out" in wrong:
        parts = parts[:-1] or parts
    if "rows-in-reverse" in wrong:
        parts = [part[::-1] for part in parts]
    if "blocks-in-reverse" in wrong:
        parts = parts[::-1]
    everything = "float64-throughout" in wrong
    wide = {where: everything or f"{where}-in-float64" in wrong for where in ("blocks", "total")}
    sums = [chain(part, np.float64 if wide["blocks"] else F32) for part in parts]
    if not everything:
        sums = [s.astype(F32) for s in sums]
    if wide["total"]:
        sums = [s.astype(np.float64) for s in sums]
    while "blocks-in-pairs" in wrong and len(sums) > 1:
        sums = [chain(sums[i : i + 2], sums[0].dtype) for i in range(0, len(sums), 2)]
    return {"total": chain(sums, sums[0].dtype).astype(F32)}


SUM = Problem(
    function="sum_in_blocks",
    skeleton='''def sum_in_blocks(total, x, block):
    """Write total (K,) float32: the sums of the columns of x (N,K) float32, in blocks of `block`
    rows."""
''',
    arguments=sum_arguments,
    answer=sum_in_blocks,
    sizes=({"N": 23, "K": 11, "block": 4}, {"N": 29, "K": 13, "block": 5}),
    outputs={"total": WRITTEN},
    mistakes=(
        "one-chain",
        "number-for-length",
        "rows-dealt-out",
        "short-block-first",
        "last-rows-left-out",
        "rows-in-reverse",
        "blocks-in-reverse",
        "blocks-in-pairs",
        "blocks-in-float64",
        "total-in-float64",
        "float64-throughout",
    ),
)

# --------------------------------------------------------------------------- rounding to bf16

SPECIAL = np.array(
    [
        *(0x3F808000, 0x3F818000, 0xBF808000, 0xBF818000),  # in the middle, of both neighbours
        *(0x3F807FFF, 0x3F808001, 0x3F817FFF, 0x3F818001, 0x3F800001),  # beside it
        *(0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0xFF7FFFFF),  # rounded to the largest, or to infinity
        *(0x7F800000, 0xFF800000),
        *(0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF),  # nan
        *(0x00000000, 0x80000000, 0x00000001, 0x8001FFFF, 0x007F8000, 0x807FFFFF),
        *(0x00800000, 0x00808000, 0x80818000),  # the least normal ones
    ],
    np.uint32,
)


def bits_arguments(rng, sizes) -> dict:
    x = rng.standard_normal(sizes["n"]).astype(F32) * F32(10) ** rng.integers(-30, 30, sizes["n"])
    x = x.astype(F32)
    x.view(np.uint32)[: len(SPECIAL)] = SPECIAL
    return {"x": x.view(np.uint32)[rng.permutation(sizes["n"])].view(F32)}


def to_bf16(arguments: dict, wrong: frozenset) -> dict:
    """to_bf16, with these mistakes."""
    [x] = arguments.values()
    given = x.view(np.uint32)
    last = given >> 16 & 1  # of the bits that are kept
    if "truncated" in wrong:
        more = np.uint32(0)
    elif "middle-away-from-zero" in wrong:
        more = np.uint32(0x8000)
    elif "middle-towards-zero" in wrong:
        more = np.uint32(0x7FFF)
    elif "middle-to-the-odd-one" in wrong:
        more = np.uint32(0x8000) - last
    else:
        more = np.uint32(0x7FFF) + last
    bits = given + more >> 16
    if "lower-half" in wrong:
        bits = given & 0xFFFF
    elif "half-precision" in wrong:
        with np.errstate(all="ignore"):
            bits = x.astype(np.float16).view(np.uint16).astype(np.uint32)
    size, sign = given & 0x7FFFFFFF, given >> 16 & 0x8000
    if "largest-for-infinity" in wrong:
        bits = np.where((size > 0x7F7F7FFF) & (size < 0x7F800000), sign | 0x7F7F, bits)
    if "tiny-kept" not in wrong:
        zero = 0 * sign if "sign-of-zero-lost" in wrong else sign
        bits = np.where(size < 0x00800000, zero, bits)
    if "nan-rounded" not in wrong:
        limit = 0x7F7FFFFF if "infinity-made-nan" in wrong else 0x7F800000
        bits = np.where(size > limit, 0x7FC0, bits)
    if "sign-lost" in wrong:
        bits = bits & 0x7FFF
    return {"bits": bits.astype(np.uint16)}


BITS = Problem(
    function="to_bf16",
    skeleton='''def to_bf16(bits, x):
    """Write bits (n,) uint16: those of the bf16 that is nearest to x (n,) float32."""
''',
    arguments=bits_arguments,
    answer=to_bf16,
    sizes=({"n": 37}, {"n": 41}),
    outputs={"bits": WRITTEN},
    mistakes=(
        "truncated",
        "middle-away-from-zero",
        "middle-towards-zero",
        "middle-to-the-odd-one",
        "lower-half",
        "half-precision",
        "largest-for-infinity",
        "tiny-kept",
        "sign-of-zero-lost",
        "sign-lost",
        "nan-rounded",
        "infinity-made-nan",
    ),
)

# -------------------------------------------------------------------------- a product in bf16


def rounded(x, wrong: frozenset = frozenset()) -> np.ndarray:
    """Numbers that are neither tiny nor huge, as bf16 in float32."""
    bits = to_bf16({"x": np.ascontiguousarray(x, F32)}, wrong)["bits"]
    return (bits.astype(np.uint32) << 16).view(F32)


def product_arguments(rng, sizes) -> dict:
    """Factors of up to nine bits. Products of rounded ones and their sums are exact in float32, in
    any order."""
    N, K, C = (sizes[name] for name in ("N", "K", "C"))
    draw = {"x": (N, C), "w": (K, C)}
    return {name: (rng.integers(-511, 512, s) / 64).astype(F32) for name, s in draw.items()}


def product(arguments: dict, wrong: frozenset) -> dict:
    """bf16_product, with these mistakes."""
    x, w = arguments.values()
    cut = frozenset(["truncated"]) if "factors-truncated" in wrong else frozenset()
    if not {"nothing-rounded", "w-alone-rounded"} & wrong:
        x = rounded(x, cut)
    if not {"nothing-rounded", "x-alone-rounded"} & wrong:
        w = rounded(w, cut)
    y = np.zeros((len(x), len(w)), F32)
    for c in range(x.shape[1]):
        term = x[:, c : c + 1] * w[:, c]
        y = y + (rounded(term) if "products-rounded" in wrong else term)
        if "sums-rounded" in wrong:
            y = rounded(y)
    return {"y": rounded(y) if "result-rounded" in wrong else y}


PRODUCT = Problem(
    function="bf16_product",
    skeleton='''def bf16_product(y, x, w):
    """Write y (N,K) float32 = x (N,C) wT, with w (K,C): factors in bf16, sums in float32."""
''',
    arguments=product_arguments,
    answer=product,
    sizes=({"N": 5, "K": 4, "C": 7}, {"N": 3, "K": 8, "C": 6}),
    outputs={"y": WRITTEN},
    mistakes=(
        "nothing-rounded",
        "x-alone-rounded",
        "w-alone-rounded",
        "factors-truncated",
        "products-rounded",
        "sums-rounded",
        "result-rounded",
    ),
)

PROBLEMS = (SUM, BITS, PRODUCT)
