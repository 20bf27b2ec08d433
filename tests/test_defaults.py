"""What an option or an argument has if it is left out. README and the guide rely on these values,
and two functions that should do the same must assume the same."""

import inspect
import re

import pytest

from pysft.cli.main import parser
from pysft.nn import kernels, reference

COMPUTES = {"--threads": None, "--ops": "kernels"}
TALKS = {"--top-k": 0, "--top-p": 1.0, "--seed": 0, "--tokens": None}
# Options with a value, but for those whose None means that settings, a run or the text decide.
DEFAULTS = {
    "train": COMPUTES,
    "pretrain": COMPUTES,
    "reward": COMPUTES,
    "dpo": COMPUTES,
    "ppo": COMPUTES,
    "chat": {**COMPUTES, **TALKS, "--temperature": 0.0, "--repetition": 2.0},
    "generate": {
        **{**COMPUTES, **TALKS, "--temperature": 0.8, "--repetition": 1.0},
    },
    "eval": {**COMPUTES, "--gate": None, "--samples": 0, "--judge-cache": "judged"},
    "world": {
        **{"--seed": 1, "--people": 100, "--places": 0, "--things": 0, "--days": 32},
        **{"--strangers": 0, "--attributes": 4, "--relations": 0, "--tellings": 512},
    },
    "probe": {
        **{**COMPUTES, "--questions": "world", "-k": 8, "--judge": "world", "--share": 0.08},
        **{"--judge-cache": "judged", "--known": 0.6, "--unknown": 0.125, "--seed": 0},
        **{"--refusal": "I do not know that."},
    },
    "select": COMPUTES,
    "rate": {**COMPUTES, "--seed": None, "--judge-cache": "judged"},
    "lab": {
        **{**COMPUTES, "--seeds": 3, "--corpus": "plays", "--out": "runs/lab"},
        **{"--jobs": None, "--scale": 1.0},
    },
    "mask": COMPUTES,
    "audit": {"--tokens": 120},
    "gradcheck": {**COMPUTES, "--seed": 0},
    "lesson": {"--time-limit": 10.0},
}
VERBS = parser().verbs


def options(verb) -> dict:
    """{name: argparse's action} of the options that take a value."""
    actions = VERBS[verb]._actions
    return {a.option_strings[-1]: a for a in actions if a.option_strings and a.nargs != 0}


def default_of(verb, action):
    """What an option has if it is left out, from the parser of its verb where that decides
    (usual_NAME); that of one value if an option with several has one."""
    found = action.default
    if found is None:
        found = VERBS[verb].get_default(f"usual_{action.dest}")
    return found[0] if isinstance(found, tuple) and len(found) == 1 else found


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_that_is_left_out_has_this_value(verb):
    found = {name: default_of(verb, a) for name, a in options(verb).items()}
    expected = DEFAULTS.get(verb, {})
    assert found == dict.fromkeys(found) | expected


@pytest.mark.parametrize("verb", VERBS)
def test_a_number_that_a_help_text_calls_the_default_is_the_default(verb):
    for name, a in options(verb).items():
        stated = re.search(r"\(default ([\d.]+)\)", a.help or "")
        if stated:
            assert float(stated[1]) == default_of(verb, a), name


def assumed(function) -> dict:
    """{name: default} of the arguments of a function, without those of threads and bookkeeping."""
    found = inspect.signature(function).parameters.items()
    return {name: p.default for name, p in found if name not in ("threads", "calls")}


TWINS = [name for name, _ in inspect.getmembers(reference, inspect.isfunction)]
TWINS = [name for name in TWINS if hasattr(kernels, name) and not name.startswith("_")]


@pytest.mark.parametrize("name", TWINS)
def test_kernels_and_reference_take_the_same_arguments_and_assume_the_same(name):
    assert assumed(getattr(kernels, name)) == assumed(getattr(reference, name))


def test_the_optimisers_assume_what_pytorchs_do_but_for_the_decay():
    usual = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.0}
    assert assumed(kernels.adamw).items() >= usual.items()
    for module in (kernels, reference):
        assert assumed(module.layernorm_forward)["eps"] == 1e-5
