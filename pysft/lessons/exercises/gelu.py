"""GELU in its tanh form: its forward and its backward."""

import math

import numpy as np

from pysft.lessons.problem import WRITTEN, Problem
from pysft.nn import reference

ROOT, CUBIC = np.sqrt(2 / np.pi), 0.044715
SIZES = ({"N": 5, "C": 7}, {"N": 3, "C": 11})

erf = np.vectorize(math.erf)


def forward_arguments(rng, sizes) -> dict:
    return {"x": 1.5 * rng.standard_normal((sizes["N"], sizes["C"]))}


def forward(arguments: dict, wrong: frozenset) -> dict:
    """gelu_forward, with these mistakes."""
    x = arguments["x"]
    cube = x**2 if "square-for-cube" in wrong else x**3
    if "cube-left-out" in wrong:
        cube = 0 * x
    factor = 2 / np.pi if "root-left-out" in wrong else ROOT
    if "root-of-half-pi" in wrong:
        factor = 1 / factor
    if "factor-on-x-alone" in wrong:
        u = factor * x + CUBIC * cube
    else:
        u = factor * (x + CUBIC * cube)
    t = np.tanh(u)
    if "exact-form" in wrong:
        t = erf(x / np.sqrt(2))
    if "logistic-form" in wrong:
        t = 2 / (1 + np.exp(-1.702 * x)) - 1
    s = t if "one-left-out" in wrong else 1 + t
    if "half-left-out" not in wrong:
        s = 0.5 * s
    return {"y": s if "gate-alone" in wrong else x * s}


FORWARD = Problem(
    function="gelu_forward",
    skeleton='''def gelu_forward(y, x):
    """Write y from x. Both have the same shape (N,C)."""
''',
    arguments=forward_arguments,
    answer=forward,
    sizes=SIZES,
    outputs={"y": WRITTEN},
    mistakes=(
        "half-left-out",
        "one-left-out",
        "gate-alone",
        "root-left-out",
        "root-of-half-pi",
        "cube-left-out",
        "square-for-cube",
        "factor-on-x-alone",
        "exact-form",
        "logistic-form",
    ),
)


def backward_arguments(rng, sizes) -> dict:
    x = forward_arguments(rng, sizes)["x"]
    return {"dy": rng.standard_normal(x.shape), "x": x}


def backward(arguments: dict, wrong: frozenset) -> dict:
    """gelu_backward, with these mistakes."""
    dy, x = arguments["dy"], arguments["x"]
    t = np.tanh(ROOT * (x + CUBIC * x**3))
    three = 1 if "factor-three-left-out" in wrong else 3
    power = x**3 if "power-not-lowered" in wrong else x**2
    if "cube-taken-for-constant" in wrong:
        power = 0 * x
    du = 1 + three * CUBIC * power
    if "root-left-out-of-inner-derivative" not in wrong:
        du = ROOT * du
    if "inner-derivative-left-out" in wrong:
        du = np.ones_like(x)
    if "square-of-tanh-left-out" in wrong:
        dt = 1 - t
    elif "plus-for-minus-in-tanh" in wrong:
        dt = 1 + t**2
    elif "logistic-derivative-for-tanh" in wrong:
        dt = t * (1 - t)
    else:
        dt = 1 - t**2
    s, ds = 0.5 * (1 + t), dt * du
    if "exact-form" in wrong:
        s = 0.5 * (1 + erf(x / np.sqrt(2)))
        ds = ROOT * np.exp(-(x**2) / 2)
    if "logistic-form" in wrong:
        s = 1 / (1 + np.exp(-1.702 * x))
        ds = 2 * 1.702 * s * (1 - s)
    if "half-left-out-of-second-term" not in wrong:
        ds = 0.5 * ds
    if "x-left-out-of-second-term" not in wrong:
        ds = x * ds
    if "first-term-left-out" in wrong:
        s = 0 * x
    if "second-term-left-out" in wrong:
        ds = 0 * x
    slope = s + ds
    return {"dx": slope if "upstream-left-out" in wrong else dy * slope}


def loss(arguments: dict) -> float:
    """sum(dy * y)."""
    y = np.empty_like(arguments["x"])
    reference.gelu_forward(y, arguments["x"])
    return float((arguments["dy"] * y).sum())


BACKWARD = Problem(
    function="gelu_backward",
    skeleton='''def gelu_backward(dx, dy, x):
    """Write dx, given dy and the forward's x. All have the same shape (N,C)."""
''',
    arguments=backward_arguments,
    answer=backward,
    sizes=SIZES,
    outputs={"dx": WRITTEN},
    loss=loss,
    of={"dx": "x"},
    mistakes=(
        "second-term-left-out",
        "first-term-left-out",
        "x-left-out-of-second-term",
        "half-left-out-of-second-term",
        "inner-derivative-left-out",
        "root-left-out-of-inner-derivative",
        "cube-taken-for-constant",
        "factor-three-left-out",
        "power-not-lowered",
        "square-of-tanh-left-out",
        "plus-for-minus-in-tanh",
        "logistic-derivative-for-tanh",
        "upstream-left-out",
        "exact-form",
        "logistic-form",
    ),
)

PROBLEMS = (FORWARD, BACKWARD)
