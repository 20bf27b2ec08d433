"""The numbers that published figures rest on: how many draws, prompts or rows a measurement takes,
and the thresholds of verdicts. RESULTS.md, README and the guide quote figures that were measured
with these. Whoever changes one must measure those figures again, and then change it here."""

import ast

import pytest
from conftest import ROOT

SIZES = {
    "lab/experiments/arms.py": {
        "ALONG": (10, 25, 50, 100, 200, 400),
        "EARLY": (50, 100, 200, 300, 500, 700),
    },
    "lab/experiments/columns.py": {"JUMP": 1.3, "FEW": 0.1, "GOAL": 0.9},
    "lab/experiments/data_size.py": {
        "SIZES": (5, 20, 80, 320, 1280, 2500),
        "POOLS": (300, 900, 2500),
        "LATE": (25, 50, 75, 100, 150, 200, 300, 450, 600, 800, 1000, 1250),
    },
    "lab/experiments/plain_run.py": {"LEARNT": 0.5},
    "lab/experiments/rates.py": {
        "RATES": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        "TRIES": 10,
    },
    "lab/experiments/policies.py": {"STEPS": 120, "DPO_BETAS": (0.1, 0.3)},
    "lab/experiments/policy_updates.py": {"MANY": 8, "NEAR": 0.2},
    "lab/experiments/preferences.py": {"MORE": (75, 150, 300, 600), "NO_DPO": 1e-4},
    "lab/experiments/rewards.py": {"COUNTS": (100, 300, 1000, 3000, 6000)},
    "lab/constitution_tasks.py": {"TIMES": 4, "SHOWN": 6},
    "lab/experiments/constitution.py": {"ROUNDS": 3},
    "lab/curating_tasks.py": {"MARKED": 20},
    "lab/experiments/curating.py": {"SEEDS": 100, "SIZES": (2000, 8000), "EPOCHS": 3},
    "lab/experiments/probing.py": {"STEPS": 400},
    "lab/experiments/sums.py": {"ALONG": (200, 400, 600, 800, 1000, 1500, 2000, 3000)},
    "lab/experiments/traces.py": {"FEW": 8},
    "lab/experiments/turns.py": {"GRADED": 700},
    "lab/sums.py": {"TRAINED": 20000, "SEALED": 300, "FOLLOWED": 100, "SHOWN": 6},
    "lab/turns_tasks.py": {"TURNS": 3, "CONTEXT": 256, "SHOWN": 2},
    "lab/experiments/world.py": {
        **{"PEOPLE": 50, "OFTEN": 400, "OF_MANY_TELLINGS": 140},
        "TELLINGS": (16, 32, 64, 128, 256, 512, 1024),
    },
    "lab/lab.py": {"ROOM": 5},
    "lab/measures.py": {"EXAMPLES": 16},
    "lab/personas.py": {"DRAWS": 20},
    "lab/policy_tasks.py": {"JUDGED": 200, "EVERY": 20, "SEEN": 300},
    "lab/ppo_tasks.py": {"EVERY": 10, "FOLLOWED": 200, "TIMES": 2},
    "lab/preferring.py": {"MAX_NEW": 120, "REPLIES": 6, "SFT_STEPS": 200, "SHOWN": 6},
    "lab/records.py": {"VERSION": 1},
    "lab/probing_tasks.py": {"HALF": 2, "PAIRS": 10000},
    "lab/pruning_tasks.py": {"EASY": 0.75},
    "lab/reward_tasks.py": {
        "NS": (1, 2, 4, 8, 16, 32, 64),
        "AT": (10, 20, 40, 80, 160, 320, 640),
    },
    "lab/trial.py": {"SAMPLED": 100},
    "lab/worlds.py": {"SHOWN": 6},
    "measure/alignment.py": {"BINS": 5, "LEAST": 0.6},
    "measure/bestof.py": {"FITS": 0.9, "POINTS": 4},
    "measure/curves.py": {"POINTS": 200, "ROWS": 12},
    "measure/diagnose.py": {
        **{"STOPS": 0.5, "WORDS": 0.85, "COPIED": 0.3, "CLEAN": 0.95, "RECALLED": 0.8},
        **{"OVERFIT": 0.3, "VARIED": (0.75, 0.5), "LESS": 0.1, "FORGOTTEN": 0.1},
        **{"LAST": 20},
    },
    "measure/endpoint.py": {"ANSWERS": 3, "UNBEGUN": 20},
    "measure/evaluate.py": {"MAX_NEW": 120},
    "measure/judges.py": {"TOKENS": 512},
    "measure/knowing.py": {"TAUGHT": 500},
    "measure/orders.py": {"ALSO": 256},
    "measure/probe.py": {"RECALLED": 40},
    "measure/raters.py": {"TOKENS": 512},
    "measure/recalling.py": {"MOST_RECALLED": 2, "REACH": 8},
    "measure/choose.py": {"ITERATIONS": 10},
    "measure/figures.py": {"MARKED": 12},
    "measure/policy.py": {"POINTS": 60},
    "measure/tooltask.py": {"FACTS": 300, "ROUNDS": 8},
    "measure/tooltest.py": {"INVENTED": 100, "STRANGERS": 50, "DRAWS": (1, 2, 3, 4)},
    "measure/wire.py": {"SHORT_KEY": 4, "LONG_KEY": 16, "SHOWN": 200},
}
# Student's t has its own test, with another package's values.
ELSEWHERE = {("lab/study.py", "T95")}
MODULES = [
    path.relative_to(ROOT / "pysft").as_posix()
    for room in ("lab", "measure")
    for path in sorted((ROOT / "pysft" / room).rglob("*.py"))
]


def numbers(module):
    """{name: value} of a module's constants that are numbers, or tuples of numbers."""
    found = {}
    for node in ast.parse((ROOT / "pysft" / module).read_text()).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        name = node.targets[0].id
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            continue
        some = value if isinstance(value, tuple) else (value,)
        if name.isupper() and some and all(isinstance(n, (int, float)) for n in some):
            found[name] = value
    return {name: n for name, n in found.items() if (module, name) not in ELSEWHERE}


@pytest.mark.parametrize("module", MODULES)
def test_the_sizes_of_a_measurement_are_those_of_the_published_figures(module):
    assert numbers(module) == SIZES.get(module, {})


def test_the_table_names_no_module_that_is_gone():
    assert SIZES.keys() <= set(MODULES)
