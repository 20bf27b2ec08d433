import numpy as np


def sum_in_blocks(total, x, block):
    for k in range(x.shape[1]):
        result = np.float32(0)
        for start in range(0, x.shape[0], block):
            share = np.float32(0)
            for n in range(start, min(start + block, x.shape[0])):
                share = np.float32(share + x[n, k])
            result = np.float32(result + share)
        total[k] = result


def to_bf16(bits, x):
    # cut the lower half off; then decide by what was cut whether to go one up
    for i, u in enumerate(x.view(np.uint32).tolist()):
        upper, lower = u >> 16, u & 0xFFFF
        exponent = upper & 0x7F80
        if exponent == 0:  # below the least normal number: zero, and the sign stays
            bits[i] = upper & 0x8000
        elif exponent == 0x7F80:  # infinite or nan
            bits[i] = 0x7FC0 if u & 0x7FFFFF else upper
        elif lower > 0x8000 or (lower == 0x8000 and upper % 2 == 1):
            bits[i] = upper + 1
        else:
            bits[i] = upper


def bf16_product(y, x, w):
    halves = []
    for a in (x, w):
        bits = np.zeros(a.size, np.uint16)
        to_bf16(bits, a.astype(np.float32).ravel())
        pairs = np.zeros((a.size, 2), np.uint16)
        pairs[:, 1] = bits  # the machine is little-endian
        halves.append(pairs.view(np.float32).reshape(a.shape))
    for n in range(len(x)):
        total = np.zeros(len(w), np.float32)
        for c in range(x.shape[1]):
            total = total + halves[0][n, c] * halves[1][:, c]
        y[n] = total
