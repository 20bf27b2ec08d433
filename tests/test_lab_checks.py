"""The truth of every check of every experiment: at its threshold, just below it and just above.

The tables are in tests/verdicts/. A new check has no row there, so a test fails."""

import pytest
from verdicts.constitution import CONSTITUTION
from verdicts.curating import CURATING
from verdicts.data import CONTENT, DATA
from verdicts.policies import POLICIES
from verdicts.precision import IN_BF16
from verdicts.preferences import PREFERENCES
from verdicts.probing import PROBING
from verdicts.rates import RATES
from verdicts.runs import MASKS, ONE_RUN, SHARED_TEXTS, STILL
from verdicts.traces import TRACES
from verdicts.world import WORLD

from pysft.lab.experiments import EXPERIMENTS

CHECKS = ONE_RUN | MASKS | RATES | DATA | CONTENT | IN_BF16 | WORLD | PREFERENCES | POLICIES
CHECKS |= TRACES
CHECKS |= CONSTITUTION
CHECKS |= CURATING
CHECKS |= PROBING


def rows_of(experiment, check) -> list:
    """[(make, verdicts)] of a check; [] if it has none."""
    return SHARED_TEXTS.get((experiment.name, check.text)) or CHECKS.get(check.text, [])


EVERY = [(e, check) for e in EXPERIMENTS.values() for check in e.checks]


@pytest.mark.parametrize("e, check", EVERY, ids=[f"{e.name}: {c.text}" for e, c in EVERY])
def test_a_check_turns_exactly_at_its_threshold(e, check):
    """Without the guard that takes an error for "not measured"."""
    rows = rows_of(e, check)
    assert {verdict for _, verdicts in rows for verdict in verdicts.values()} == {True, False}
    for make, verdicts in rows:
        for number, expected in verdicts.items():
            assert bool(check.holds(make(number))) is expected, number


def test_no_row_is_about_a_check_that_is_gone_or_that_has_a_namesake():
    texts = [check.text for _, check in EVERY]
    assert {text for text in texts if texts.count(text) > 1} == {STILL}
    assert set(CHECKS) | {STILL} == set(texts)
    assert {name for name, _ in SHARED_TEXTS} == {e.name for e, c in EVERY if c.text == STILL}
