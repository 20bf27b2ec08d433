"""Arithmetic in a call: any text is calculated exactly or refused with a reason, within 50 ms."""

import math
import re
import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pysft.inference.calculator import CalculationError, calculate

steady = settings(max_examples=300, deadline=None, derandomize=True, database=None)

# Pieces of which texts are made that are nearly expressions.
# fmt: off
PIECES = [
    "1", "0", "9", "12", "0.5", ".", "1e30", "1e-30", "e", "_",
    "+", "-", "*", "/", "//", "%", "**", "(", ")", ",", " ", "\n",
    "pi", "abs", "min", "max", "round", "floor", "ceil", "sqrt(",
    "if", "else", "or", "not", "in", "is", "for", "lambda", "await", "None", "True",
    "__import__", ".real", "9**9**", "x", "\0", "'", "[", "{", ":", "=", "\\", "#",
    "\ud800", "\u0665", "\uff19", "\u00b2",
]
# fmt: on
hostile = st.one_of(
    st.text(max_size=250),
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.tuples(st.sampled_from(PIECES), st.integers(1, 250)).map(lambda t: t[0] * t[1] + "1"),
)


@steady
@given(hostile)
@example("9" * 10**6)
@example("(" * 100 + "1" + ")" * 99)
@example("-" * 199 + "1")
@example("~" * 199 + "1")
@example("(1+1e-29)**(10**30)")
@example("((1-1e-29)**(10**29))**(1/3+1e-29)")
@example("*".join(["(1/3)**70"] * 15))
@example("+".join(["1/" + str(10**8 + n) for n in range(16)]))
@example("sqrt(" * 30 + "2" + ")" * 30)
@example("round(" * 25 + "2.5" + ")" * 25)
def test_any_text_is_calculated_or_refused_in_a_sentence_within_50_ms(text):
    times = []
    for _ in range(2):  # in one of them Python may collect the garbage of other tests
        began = time.process_time()
        try:
            answer, refused = calculate(text), False
        except CalculationError as error:
            answer, refused = str(error), True
        times.append(time.process_time() - began)
    if refused:
        assert 0 < len(answer) < 125 and answer.isprintable()
    else:
        assert re.fullmatch(r"-?\d{1,31}|-?\d+\.\d+|-?\d(\.\d+)?e[-+]?\d\d?", answer), answer
    assert min(times) < 0.05


# ------------------------------------------------------------------------------ exact values
# The oracle is Python's own parser, precedence and fractions: an expression is evaluated with each
# number wrapped into a Fraction that checks the result of every operation.


class Outside(Exception):
    """A value that calculate() refuses or rounds."""


class Wrapped:
    """A Fraction within the range in which calculate() is exact."""

    def __init__(self, value):
        self.v = Fraction(value)
        too_small = self.v and abs(self.v) < Fraction(1, 10**30)
        if abs(self.v) > 10**30 or too_small or self.v.denominator > 10**40:
            raise Outside

    def __pow__(self, other):
        base, exponent = self.v, other.v
        if exponent.denominator != 1 or abs(exponent) > 40 or not base and exponent < 0:
            raise Outside
        return Wrapped(base ** int(exponent))

    def __neg__(self):
        return Wrapped(-self.v)

    def __abs__(self):
        return Wrapped(abs(self.v))

    def __floor__(self):
        return Wrapped(math.floor(self.v))

    def __ceil__(self):
        return Wrapped(math.ceil(self.v))

    def __round__(self):
        return Wrapped(round(self.v))

    def __lt__(self, other):
        return self.v < other.v

    def __gt__(self, other):
        return self.v > other.v


for name in ("add", "sub", "mul", "truediv", "floordiv", "mod"):
    method = f"__{name}__"
    setattr(
        Wrapped,
        method,
        lambda self, other, method=method: Wrapped(getattr(self.v, method)(other.v)),
    )

IN_PYTHON = {
    "abs": abs,
    "min": min,
    "max": max,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
}
numbers = st.integers(0, 9999).map(str) | st.decimals(0, 99, places=2).map(str)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
        inner.map(lambda a: f"-{a}"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        ),
        st.tuples(st.sampled_from(["abs", "floor", "ceil", "round"]), inner).map(
            lambda t: f"{t[0]}({t[1]})"
        ),
    ),
    max_leaves=10,
)


@settings(steady, max_examples=500)
@given(expressions)
def test_an_expression_has_the_value_that_pythons_fractions_give_it(text):
    wrapped = re.sub(r"\d+(\.\d+)?", lambda m: f"W('{m[0]}')", text)
    try:
        expected = eval(wrapped, {"W": Wrapped, **IN_PYTHON}).v
    except Outside:
        return
    except ZeroDivisionError:
        expected = None
    try:
        answer = calculate(text)
    except CalculationError as error:
        divides_by_zero = expected is None and "division by zero" in str(error)
        assert len(text) > 200 or "too long" in str(error) or divides_by_zero, text
        return
    assert expected is not None
    if expected.denominator == 1:
        assert answer == str(expected)
    else:
        assert abs(Fraction(answer) - expected) <= abs(expected) * Fraction(6, 10**12)
        assert len(re.sub(r"^-?0?\.?0*|\.|e.*", "", answer)) <= 12


@pytest.mark.parametrize(
    "text, answer",
    {
        "2+3*4": "14",
        "-2**2": "-4",
        "2**3**2": "512",
        "7//-2": "-4",
        "-7 % 3": "2",
        "1/3": "0.333333333333",
        "0.1 + 0.2": "0.3",
        "5.": "5",
        ".5": "0.5",
        "2e3": "2000",
        "1/8": "0.125",
        "2**99": str(2**99),
        "10**30": "1" + "0" * 30,
        "10**29/7": "1.42857142857e+28",
        "1/3e9": "3.33333333333e-10",
        "1e-30": "1e-30",
        "0**0": "1",
        "0*5": "0",
        "-0": "0",
        "4**0.5": "2",
        "4**-0.5": "0.5",
        "2**0.5": "1.41421356237",
        "sqrt(2)": "1.41421356237",
        "sqrt(9/16)": "0.75",
        "sqrt(2)**2": "2",
        "floor(sqrt(2)**2)": "2",
        "sqrt(8) - 2*sqrt(2)": "0",
        "1/10**20 - 1/(10**20 + 1)": "0",  # less than 10**-40
        "pi": "3.14159265359",
        "floor(-1.5)": "-2",
        "ceil(-1.5)": "-1",
        "round(2.5)": "2",
        "round(2.675, 2)": "2.68",
        "round(1250, -2)": "1200",
        "abs(-3)": "3",
        "min(3, 1, 2)": "1",
        "max(1/3, 0.3)": "0.333333333333",
        " (1\n+ 2) ": "3",
        "(-1)**(10**30)": "1",
        "1.05**30": "4.32194237515",
        "(1+1e-20)**(10**21)": "22026.4657948",
        "sqrt(1/9)*3": "1",
        "(1/3)**62*(1+(1/7)**35)*(1+(1/11)**28)": "2.62109165288e-30",
        "+".join("1" * 30): "30",
        # The longest that is read: in characters, and in numbers and operations.
        "1" + " " * 199: "1",
        "-" + "+".join("1" * 30): "28",
        # Digits before and behind the point, or a power of ten: at the ends of their ranges.
        "1/3e5": "0.00000333333333333",
        "1/3e6": "3.33333333333e-7",
        "10**12/7": "142857142857",
        "10**13/7": "1.42857142857e+12",
        "round(2.5, 0)": "2",
        "round(1, 30)": "1",
        "round(7, -30)": "0",
    }.items(),
)
def test_arithmetic_is_exact_and_shown_in_12_digits(text, answer):
    assert calculate(text) == answer


# ------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "text, reason",
    {
        "": "nothing to calculate",
        "1" * 201: "too long: 201 characters, at most 200",
        "1" + " " * 200: "too long: 201 characters",
        "--" + "+".join("1" * 30): "too long: more than 60 numbers and operations",
        "+".join("1" * 31): "too long",
        "1/0": "division by zero",
        "1%0": "division by zero",
        "1//0": "division by zero",
        "0**-1": "division by zero",
        "9**9**9**9": "too large",
        "10**30 + 1": "too large",
        "1e31": "too large",
        "9" * 31: "too large",
        "1e-31": "too small",
        "0.1**31": "too small",
        "1/10**20 - 1/(10**20 - 1)": "too small",  # more than 10**-40
        "(1-1e-28)**(10**30)": "too small",
        "(1+1e-28)**(10**30)": "too large",
        "(1-1e-25)**1e30": "too small",
        "(1+1e-25)**1e30": "too large",
        "sqrt(-1)": "no square root",
        "(-8)**(1/3)": "whole powers",
        "round(1, 0.5)": "whole number of places",
        "round(1, 31)": "whole number of places",
        "round(1, -31)": "whole number of places",
        "round()": "round takes 1 to 2, here are 0",
        "round(1, 2, 3)": "round takes 1 to 2, here are 3",
        "floor(1, 2)": "floor takes 1, here are 2",
        "ceil()": "ceil takes 1, here are 0",
        "sqrt(1, 2)": "sqrt takes 1, here are 2",
        "min(1)": "min takes 2",
        "abs(1, 2)": "abs takes 1, here are 2",
        "max(*1)": "max takes 2",
        "2^3": "a power is **",
        "'a'": "no meaning",
        "\0": "no meaning",
        "\u0665": "no meaning",
        "0x10": "not a number",
        "3j": "not a number",
        "1_000": "not a number",
        "1if 2 else 3": "not a number",
        "1 if 2 else 3": "not arithmetic",
        "()": "not arithmetic",
        "1, 2": "not arithmetic",
        "1 2": "not arithmetic",
        "True": "not arithmetic",
        "max": "not arithmetic",
        "pi()": "not arithmetic",
        "pi.real": "not arithmetic",
        "(1).real": "not arithmetic",
        "abs(1).real": "not arithmetic",
        "__import__(1)": "not arithmetic",
        "min(1, **2)": "not arithmetic",
        "not 1": "not arithmetic",
        "1 or 2": "not arithmetic",
        "abs": "not arithmetic",
        "(abs)(abs)": "not arithmetic",
        "print(1)": "not arithmetic",
        "007": "not arithmetic",
        "*": "not arithmetic",
    }.items(),
)
def test_a_text_that_is_not_arithmetic_is_refused_with_a_reason(text, reason):
    with pytest.raises(CalculationError) as error:
        calculate(text)
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["1or 2", "0in 1", "1(2)", "1 is 1", "0xfor 1", "1.real", "1 .e"])
def test_no_expression_makes_python_warn(text):
    with pytest.raises(CalculationError):
        calculate(text)


def test_a_power_that_is_too_large_is_never_computed(monkeypatch):
    def computed(*_):
        raise AssertionError("computed")

    monkeypatch.setattr(Fraction, "__pow__", computed)
    for text, reason in (
        ("9**99", "too large"),
        ("0.5**999", "too small"),
        ("2**-999", "too small"),
        ("9**9**9", "computed"),
        ("9**2", "computed"),
    ):
        with pytest.raises((CalculationError, AssertionError), match=reason):
            calculate(text)
