import numpy as np


def sum_in_blocks(total, x, block):
    total[:] = 0
    for start in range(0, len(x), block):
        share = np.zeros(x.shape[1], np.float32)
        for row in x[start : start + block]:
            share = share + row
        total += share


def to_bf16(bits, x):
    u = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
    rounded[np.abs(x) < 2.0**-126] = 0
    bits[:] = np.where(np.isnan(x), 0x7FC0, rounded | (u >> 31 << 15))


def bf16_product(y, x, w):
    def factor(a):
        bits = np.empty(a.size, np.uint16)
        to_bf16(bits, np.ascontiguousarray(a).ravel())
        return (bits.astype(np.uint32) << 16).view(np.float32).reshape(a.shape)

    y[:] = factor(x) @ factor(w).T
