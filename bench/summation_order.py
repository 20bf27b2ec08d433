"""Reveal the order in which a product adds up its terms, from outside.

    python bench/summation_order.py                            # y = x wT, a sum of 400 terms
    python bench/summation_order.py --terms 1000 --of dw
    python bench/summation_order.py --precision bf16
    python bench/summation_order.py --of numpy                 # x @ w.T, whatever BLAS does

Terms are numbered from 0. "0..95" is one chain, ((0 + 1) + 2) + ..., and "(0..95) + (96..191)" adds
a second chain to the result of the first. "1 0 .. 191 190" is a chain, too, in which the neighbours
of each pair change places.

How it works: set term i to M, term j to -M and all others to 1, where M is so large that M + 1 = M.
Every 1 that is added to a part of the sum which holds only one of the two is lost. So the result is
the number of terms outside of the smallest part that holds both, and the numbers for all pairs
determine the order. Xie et al., FPRev: Revealing the Order of Floating-Point Summation (2024)."""

import argparse
import sys

import numpy as np

from pysft.errors import PysftError
from pysft.nn import kernels

LARGE = np.float32(2.0**100)  # and its products with 1, in float32 and in bf16
PRODUCTS = ("y", "dx", "dw", "numpy")


def summed(of: str, terms: np.ndarray, precision: str = "float32") -> np.ndarray:
    """The sums (R,) of each row of terms (R,n), as the product `of` adds them up. One factor of
    each term is 1."""
    R, n = terms.shape
    out = np.zeros((R, 1), np.float32)
    one = np.ones(n, np.float32)
    if of == "numpy":
        return (terms @ np.ones((n, 16), np.float32))[:, 0]
    if of == "y":
        kernels.matmul_forward(out, terms, one[None], precision=precision)
    elif of == "dx":
        x = np.zeros((R, 1), np.float32)
        kernels.matmul_backward(out, None, None, terms, x, one[:, None], precision=precision)
    else:  # dw (R,1) = dyT x, a sum down the n rows of both
        dy, x = np.ascontiguousarray(terms.T), one[:, None]
        w = np.zeros((R, 1), np.float32)
        kernels.matmul_backward(None, out, None, dy, x, w, precision=precision)
    return out[:, 0]


def order(count: int, sums):
    """The order in which `count` terms are added, as a tree: a number for a term, or (a, b) for the
    sum of two parts. sums(terms (R,n)) gives the sums (R,) of rows of terms."""

    def grow(terms):
        first, *others = terms
        if not others:
            return first
        rows = np.ones((len(others), count), np.float32)
        rows[:, first] = LARGE
        rows[np.arange(len(others)), others] = -LARGE
        size = count - sums(rows)  # of the smallest part that holds both
        tree = first
        for s in np.unique(size):
            tree = tree, grow([j for j, t in zip(others, size) if t == s])
        return tree

    return grow(list(range(count)))


def shown(tree) -> str:
    """A tree as text."""
    parts = []
    while isinstance(tree, tuple):
        tree, last = tree
        parts.insert(0, last)
    parts.insert(0, tree)
    if not any(isinstance(part, tuple) for part in parts):
        return _chain(parts)
    first = next(i for i, part in enumerate(parts) if isinstance(part, tuple))
    chains = [f"({_chain(parts[:first])})"] if first > 1 else [str(parts[0])]
    chains += [f"({shown(p)})" if isinstance(p, tuple) else str(p) for p in parts[first:]]
    return " + ".join(chains)


def _chain(terms: list[int]) -> str:
    """A chain as text. Which of its first two terms comes first makes no difference."""
    n = len(terms)
    if n > 2 and terms == list(range(terms[0], terms[0] + n)):
        return f"{terms[0]}..{terms[-1]}"
    low = min(terms)
    pairs = [low + (i ^ 1) for i in range(n - n % 2)] + [low + n - 1] * (n % 2)
    if n > 3 and sorted(terms[:2]) + terms[2:] == sorted(pairs[:2]) + pairs[2:]:
        odd = f" {pairs[-1]}" if n % 2 else ""
        even = n - n % 2
        return f"{pairs[0]} {pairs[1]} .. {pairs[even - 2]} {pairs[even - 1]}{odd}"
    return " ".join(map(str, terms))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--terms", type=int, default=400, help="of a sum (default 400)")
    parser.add_argument("--of", choices=PRODUCTS, default="y", help="which product (default y)")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    args = parser.parse_args()
    if not 1 <= args.terms <= 8192:
        parser.error(f"--terms {args.terms} is not a number from 1 to 8192")
    if args.of == "numpy" and args.precision != "float32":
        parser.error("NumPy has no products in bf16; leave --precision out")
    try:
        print(shown(order(args.terms, lambda rows: summed(args.of, rows, args.precision))))
    except PysftError as error:
        print(f"summation_order.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
