"""The order in which products add up their terms, revealed from outside and pinned."""

import sys

import numpy as np
import pytest
from conftest import ROOT, python

from pysft.nn import gate

sys.path.insert(0, str(ROOT / "bench"))
from summation_order import order, shown, summed  # noqa: E402

needs_bf16 = pytest.mark.skipif(not gate.HAS_BF16, reason="this processor lacks AVX512-BF16")
# Blocks of KC terms in y and dx (96, in bf16 384), and of KC_DW in dw (256, in bf16 512). To add
# one term to a block is to go on with its chain.
EXPECTED = {
    ("y", 96): "0..95",
    ("y", 400): "(0..95) + (96..191) + (192..287) + (288..383) + (384..399)",
    ("dx", 97): "0..96",
    ("dx", 193): "(0..95) + (96..191) + 192",
    ("dw", 256): "0..255",
    ("dw", 400): "(0..255) + (256..399)",
}
IN_BF16 = {
    ("y", 9): "1 0 .. 7 6 8",
    ("y", 800): "(1 0 .. 383 382) + (385 384 .. 767 766) + (769 768 .. 799 798)",
    ("dx", 385): "1 0 .. 383 382 384",
    ("dw", 513): "1 0 .. 511 510 512",
    ("dw", 600): "(1 0 .. 511 510) + (513 512 .. 599 598)",
}


def found(of, terms, precision="float32"):
    return shown(order(terms, lambda rows: summed(of, rows, precision)))


@pytest.mark.parametrize("of, terms", EXPECTED)
def test_float32_adds_up_chains_of_a_block(of, terms):
    assert found(of, terms) == EXPECTED[of, terms]


@needs_bf16
@pytest.mark.parametrize("of, terms", IN_BF16)
def test_bf16_adds_up_pairs_the_second_first_in_chains_of_a_block(of, terms):
    assert found(of, terms, "bf16") == IN_BF16[of, terms]


@needs_bf16
def test_a_sum_longer_than_an_outer_block_goes_on_in_the_same_chain_of_blocks():
    n = 3072 + 5  # KC_OUTER and some terms
    for precision, blocks, last in (
        ("float32", 32, "(2976..3071) + (3072..3076)"),
        ("bf16", 8, "(2689 2688 .. 3071 3070) + (3073 3072 .. 3075 3074 3076)"),
    ):
        text = found("y", n, precision)
        assert text.count("(") == blocks + 1 and text.endswith(f") + {last}")


def evaluated(tree, row):
    if not isinstance(tree, tuple):
        return row[tree]
    a, b = (evaluated(part, row) for part in tree)
    return np.float32(a + b)


@pytest.mark.parametrize(
    "tree, text",
    [
        (0, "0"),
        ((0, 1), "0 1"),
        ((((0, 1), 2), 3), "0..3"),
        ((((0, 1), 3), 2), "1 0 .. 3 2"),
        ((((0, 1), 2), ((3, 4), 5)), "(0..2) + (3..5)"),
        (((0, 2), (1, 3)), "(0 2) + (1 3)"),
        ((0, ((1, 3), 2)), "0 + (1 3 2)"),
        ((((0, (1, 2)), 3), 4), "0 + (1 2) + 3 + 4"),
    ],
)
def test_the_order_of_a_known_sum_is_found(tree, text):
    count = str(tree).count(",") + 1
    found = order(count, lambda rows: np.array([evaluated(tree, row) for row in rows]))
    assert shown(found) == text


def test_the_program_prints_an_order_and_refuses_what_it_cannot_do():
    script = "bench/summation_order.py"
    assert python(script, "--terms", "100").stdout == "(0..95) + (96..99)\n"
    assert python(script, "--terms", "0").returncode == 2
    refused = python(script, "--precision", "bf16", PYSFT_ISA="base")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "this processor runs the instruction set base" in refused.stderr
