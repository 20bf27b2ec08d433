"""The walk through one training step, which `lesson 9` prints."""

import re
from types import SimpleNamespace

from conftest import ROOT

from pysft.lessons.walk import (
    DECAY,
    NAMES,
    RATE,
    WIDTH,
    WORDS,
    WRITES,
    cell,
    small_batch,
    small_model,
    walk,
)
from pysft.nn import kernels, reference
from pysft.nn.optim import AdamW
from pysft.training.loop import train_step
from pysft.training.objectives import Sft

TEXT = walk(reference)
LINES = TEXT.splitlines()
CALLS = [line.split("  #")[0] for line in LINES if re.match(r"(ops|run|self)\b", line)]


def trained(model):
    """The report of the walk's step, taken by the training loop."""
    return train_step(model, AdamW(model, decay=DECAY), [small_batch()], Sft(), RATE)


def shown(array):
    """True if the walk shows every row of an array."""
    return all(line[2 + NAMES :] in TEXT for line in cell("", array))


def test_the_step_is_the_one_that_training_takes():
    model = small_model(reference)
    assert shown(model.params["wte"])
    report = trained(model)
    assert shown(model.params["wte"])
    batch, objective = small_batch(), Sft()
    loss, *_ = objective(batch, model.forward(batch), objective.counts(batch))
    assert LINES[-1] == f"The loss of this batch was {report.loss:.2f}. It is now {loss:.2f}."
    assert loss < report.loss


def test_every_gradient_and_every_activation_of_the_step_is_shown():
    model = small_model(reference)
    trained(model)
    assert all(shown(gradient) for _, gradient in model.grads.items())
    # att_wanted is not used, because all rows are wanted. dqkv overwrites a part of dwide.
    for name, activation in model._activations.items():
        assert shown(activation) or name in ("att_wanted", "dwide"), name


def test_it_shows_every_call_of_the_step_in_order():
    made = []

    def noted(name):
        def call(*arguments):
            made.append(name)
            getattr(reference, name)(*arguments)

        return call

    spies = {name: noted(name) for name in WRITES}
    trained(small_model(SimpleNamespace(**spies, sum_squares=reference.sum_squares)))
    assert [re.search(r"(ops\.|run\(\")(\w+)", call)[2] for call in CALLS] == made


def test_calls_stand_in_the_sources_as_they_are_shown():
    sources = "".join((ROOT / f"pysft/nn/{n}.py").read_text() for n in ("model", "heads", "optim"))
    sources = " ".join(sources.split()).replace("( ", "(").replace(" )", ")")
    assert len(CALLS) == 42
    for call in CALLS:
        assert call in sources


def test_it_says_what_each_call_is_for():
    for words in WORDS.values():
        assert f"# {words}" in TEXT


def test_kernels_and_reference_print_the_same():
    assert walk(kernels.on_threads(1)) == TEXT


def test_it_is_short_enough_to_read():
    assert len(LINES) <= 280
    assert max(map(len, LINES)) <= WIDTH
    assert "-0.00" not in TEXT and "nan" not in TEXT
