"""Arithmetic for a model: calculate() walks a parsed expression and computes in exact fractions.

Nothing is evaluated as Python. The length of an expression and the size of each value are bounded,
and with them the time."""

import ast
import math
import operator
import re
from decimal import Context, Decimal
from fractions import Fraction

from pysft.errors import PysftError

MAX_LENGTH = 200  # characters of an expression
MAX_NODES = 60  # numbers, operations and names in an expression; its depth is at most this too
LARGEST = 10**30  # the largest absolute value; its inverse is the smallest one above 0
CLOSE = 10**40  # rounded values that are nearer to each other than 1/CLOSE count as equal
MAX_DENOMINATOR = 10**60  # a value with a larger denominator is rounded
PI = Fraction("3.141592653589793238462643383279502884197169399375105820974944")

# The model reads the text of an error as the result of its call, so these words are part of what it
# computes: with other words it would write another reply.
LARGE, SMALL = "too large: a value passes 10**30", "too small: a value is nearer to 0 than 10**-30"
EXAMPLE = "write something like 3 * (4 + 5)"

_NUMBER = re.compile(r"(?<![\w.])(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d\d?)?(?![\w.])", re.ASCII)
_SHOWN = Context(prec=12)
_POWERS = Context(prec=50, Emax=99, Emin=-99, traps=[])


class CalculationError(PysftError):
    """An expression that calculate() refuses; its text is the reason."""


def calculate(expression: str) -> str:
    """Return the value of an expression as text: all digits of an integer, else 12 digits.

    An expression may hold numbers, + - * / // % **, parentheses, pi, and abs, min, max, round,
    floor, ceil, sqrt. Anything else raises a CalculationError. Values are exact fractions, except
    that roots, pi, and values with a denominator above MAX_DENOMINATOR are rounded. A denominator
    is at most 10**60 and a numerator 10**90, so each step is short."""
    if len(expression) > MAX_LENGTH:
        raise CalculationError(
            f"too long: {len(expression):,} characters, at most {MAX_LENGTH} are read"
        )
    text = " ".join(expression.split())
    if not text:
        raise CalculationError(f"nothing to calculate: {EXAMPLE}")
    if odd := re.search(r"[^\w.,+*/%() -]", text, re.ASCII):
        hint = "; a power is **" if odd[0] == "^" else ""
        raise CalculationError(f"not arithmetic: {ascii(odd[0])} has no meaning in it{hint}")
    # Python would accept 0x10, 3j and 1_000 as numbers, and warn about 1if.
    if re.search(r"\d", _NUMBER.sub("", text)):
        raise CalculationError("not a number: write it like 12, 0.5 or 2e3, apart from other words")
    try:
        tree = ast.parse(text, mode="eval").body
        if sum(isinstance(node, ast.expr) for node in ast.walk(tree)) > MAX_NODES:
            raise CalculationError(f"too long: more than {MAX_NODES} numbers and operations")
        return _format(_value(tree, text))
    except ZeroDivisionError:
        raise CalculationError("division by zero") from None
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError):
        raise CalculationError(f"not arithmetic: {EXAMPLE}") from None


def _value(node: ast.expr, text: str) -> Fraction:
    """The value of a node of the parsed text, rounded and within the bounds."""
    match node:
        case ast.Constant() if type(node.value) in (int, float):
            # Read the number as it is written: a float would have rounded it.
            value = Fraction(text[node.col_offset : node.end_col_offset])
        case ast.Name(id="pi"):
            value = PI
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            value = _value(node.operand, text) * (-1 if isinstance(node.op, ast.USub) else 1)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            left, right = _value(node.left, text), _value(node.right, text)
            value = Fraction(_OPERATORS[type(node.op)](left, right))
            if isinstance(node.op, (ast.Add, ast.Sub)) and abs(value) * CLOSE < 1:
                value = Fraction(0)  # the rounding of roots: sqrt(8) - 2 * sqrt(2) is 0
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            fewest, most, function = _FUNCTIONS[name]
            if not fewest <= len(arguments) <= most:
                takes = f"{fewest}" if fewest == most else f"{fewest} to {most}"
                raise CalculationError(
                    f"not so many numbers: {name} takes {takes}, here are {len(arguments)}"
                )
            value = Fraction(function(*[_value(argument, text) for argument in arguments]))
        case _:
            raise CalculationError(
                f"not arithmetic: it has numbers, + - * / // % **, pi and {', '.join(_FUNCTIONS)}"
            )
    return _bounded(value)


def _bounded(value: Fraction) -> Fraction:
    """The value, rounded so that its denominator is at most MAX_DENOMINATOR. A value out of range
    raises a CalculationError."""
    if not value:
        return value
    if abs(value) > LARGEST or abs(value) * LARGEST < 1:
        raise CalculationError(LARGE if abs(value) > 1 else SMALL)
    if value.denominator > CLOSE and abs(value - round(value)) * CLOSE < 1:
        return Fraction(round(value))  # floor(sqrt(2) ** 2) is 2
    if value.denominator <= MAX_DENOMINATOR:
        return value
    return Fraction(round(value * MAX_DENOMINATOR), MAX_DENOMINATOR)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent. A result that is clearly out of range is refused before it is computed."""
    if not base:
        return 1 / base if exponent < 0 else Fraction(exponent == 0)
    if base < 0 and exponent.denominator != 1:
        raise CalculationError("a negative number has whole powers only")
    digits = [math.log10(abs(base.numerator)), math.log10(base.denominator)]
    size = float(exponent) * (digits[0] - digits[1])  # log10 of the result
    if abs(size) > 31:
        raise CalculationError(LARGE if size > 0 else SMALL)
    if exponent.denominator == 1 and abs(exponent) * max(digits) < 300:
        return base**exponent.numerator
    result = _POWERS.power(_decimal(base, _POWERS), _decimal(exponent, _POWERS))
    if not result.is_finite() or not result:
        raise CalculationError(LARGE if result else SMALL)
    return Fraction(result)


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise CalculationError("a negative number has no square root")
    scaled = math.isqrt(value.numerator * MAX_DENOMINATOR**2 // value.denominator)
    return Fraction(scaled, MAX_DENOMINATOR)


def _round(value: Fraction, places: Fraction = Fraction(0)) -> Fraction:
    if places.denominator != 1 or abs(places) > 30:
        raise CalculationError("round takes a whole number of places, at most 30")
    return round(value, int(places))


def _decimal(value: Fraction, context: Context) -> Decimal:
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))


def _format(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    short = _SHOWN.normalize(_decimal(value, _SHOWN))
    return format(short, "f" if -7 < short.adjusted() < 12 else "e")


_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
# name: (fewest numbers that it takes, most, function)
_FUNCTIONS = {
    "abs": (1, 1, abs),
    "min": (2, MAX_NODES, min),
    "max": (2, MAX_NODES, max),
    "round": (1, 2, _round),
    "floor": (1, 1, math.floor),
    "ceil": (1, 1, math.ceil),
    "sqrt": (1, 1, _root),
}
