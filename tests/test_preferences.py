"""Learning from preferences: the losses of rankings (BradleyTerry) and of pairs (Dpo).

Closed forms by hand, finite differences and PyTorch through a whole model, micro-batches, and small
worlds whose optimum is known."""

import dataclasses
import math
from collections.abc import Callable
from itertools import combinations, permutations

import numpy as np
import pytest
from conftest import distance

from pysft import IGNORE
from pysft.batch import BASE, CONVERSATION, WORLD, Batch, Example, Output
from pysft.nn import gradcheck, kernels
from pysft.nn.gradcases import check_objective, random_batch
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.training import objective_cases
from pysft.training import objectives as module
from pysft.training.loop import schedule, train_step
from pysft.training.objectives import CLIPS, TIES, BradleyTerry, Dpo, Ppo, Sft

KERNELS = kernels.on_threads(2)
V, LN2 = 7, math.log(2)
AT_1_0 = math.log1p(math.exp(-1))  # the loss of a difference of 1: 0.3133
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])


def judged(objective, batch, out):
    """(loss, derivatives, figures) of a step that is one batch. The figures are means."""
    loss, *derivatives, figures = objective(batch, out, objective.counts(batch))
    found = [d for d in derivatives if d is not None]
    assert len(found) == 1
    return loss, found[0], {name: total / n for name, (total, n) in figures.items() if n}


# ------------------------------------------------------------------------------------ rankings


def rankings(*ranks):
    """A batch of one ranking for each list of ranks. Its replies have 1, 2, 3, 1, ... rows. The
    order is the opposite in all rows of a reply but its last."""
    examples = []
    for group, ranking in enumerate(ranks):
        for i, rank in enumerate(ranking):
            n = i % 3 + 1
            tokens, labels = np.zeros(n, np.int32), np.full(n, IGNORE, np.int32)
            wanted = np.arange(n) == n - 1
            column = np.where(wanted, float(rank), -float(rank))
            row = Example(tokens, labels, wanted=wanted, group=group, columns={"rank": column})
            examples.append(row)
    return Batch.of(examples, V, 12)


def ranked(objective, batch, values, dtype=np.float64):
    """judged() where the replies have these values in their last rows. The values of other rows
    are NaN, so the loss is too if it reads one. The derivatives are those of the last rows."""
    ends = batch.cu_seqlens[1:] - 1
    value = np.full(len(batch.tokens), np.nan, dtype)
    value[ends] = values
    loss, dvalue, figures = judged(objective, batch, Output(value=value))
    assert dvalue.dtype == dtype and not np.delete(dvalue, ends).any()
    return loss, dvalue[ends], figures


@BOTH
def test_equal_scores_cost_ln_2_and_pull_the_better_up_by_a_half(dtype):
    loss, dvalue, _ = ranked(BradleyTerry(), rankings([1, 2]), [3, 3], dtype)
    assert loss == pytest.approx(LN2, rel=1e-15) and dvalue.tolist() == [-0.5, 0.5]
    loss, dvalue, _ = ranked(BradleyTerry(), rankings([2, 1]), [3, 3], dtype)
    assert loss == pytest.approx(LN2, rel=1e-15) and dvalue.tolist() == [0.5, -0.5]


def test_scores_1_and_0_cost_0_3133_in_this_order_and_1_more_in_the_other():
    assert ranked(BradleyTerry(), rankings([1, 2]), [1, 0])[0] == pytest.approx(AT_1_0)
    assert ranked(BradleyTerry(), rankings([2, 1]), [1, 0])[0] == pytest.approx(AT_1_0 + 1)


@pytest.mark.parametrize("ties", TIES)
def test_only_differences_of_values_count_however_large(ties):
    batch, values = rankings([1, 2, 2, 4], [2, 1]), np.array([0.5, -1, 2, 0, 1, 3])
    loss, dvalue, figures = ranked(BradleyTerry(ties), batch, values)
    shifted = ranked(BradleyTerry(ties), batch, values + 64)
    assert shifted[0] == pytest.approx(loss, rel=1e-14) and shifted[2] == figures
    assert distance(shifted[1], dvalue) <= 1e-14
    assert abs(dvalue.sum()) <= 1e-15
    loss, dvalue, _ = ranked(BradleyTerry(ties), batch, 2000 * values)
    assert math.isfinite(loss) and np.isfinite(dvalue).all()


@pytest.mark.parametrize(
    "ranks, pairs", [([1, 2, 3, 4], 6), ([4, 1, 3, 2], 6), ([1, 2, 2, 4], 5), ([1, 1, 1, 2], 3)]
)
def test_each_pair_of_a_ranking_without_ties_counts_once(ranks, pairs):
    batch, objective = rankings(ranks), BradleyTerry()
    *_, figures = objective(batch, Output(value=np.zeros(len(batch.tokens))), {"rankings": 1})
    assert figures["accuracy"][1] == figures["margin"][1] == pairs
    # At equal values, each pair pulls its two replies apart by 1/2 / pairs.
    won = [sum(r < other for other in ranks) - sum(r > other for other in ranks) for r in ranks]
    assert ranked(objective, batch, [0] * 4)[1] == pytest.approx(-np.array(won) / 2 / pairs)


def test_a_ranking_counts_once_however_many_pairs_it_has():
    batch = rankings([1, 2, 3, 4], [1, 2])
    assert BradleyTerry().counts(batch) == {"rankings": 2}
    loss, dvalue, _ = ranked(BradleyTerry(), batch, [0, 0, 0, 0, 1, 0])
    assert loss == pytest.approx((LN2 + AT_1_0) / 2)  # over all pairs: (6 ln 2 + 0.3133) / 7
    assert dvalue[:4] == pytest.approx(np.array([-3, -1, 1, 3]) / 2 / 6 / 2)
    assert dvalue[4:] == pytest.approx(np.array([-1, 1]) / (1 + math.e) / 2)


def test_a_pair_of_equal_values_is_half_right():
    *_, figures = ranked(BradleyTerry(), rankings([1, 2], [1, 2, 3]), [0, 0, 2, 2, 3])
    assert figures["accuracy"] == (1 / 2 + 1 / 2) / 4  # two ties and two wrong orders
    *_, figures = ranked(BradleyTerry("half"), rankings([1, 1], [2, 1]), [0, 0, 0, 5])
    assert figures["accuracy"] == 1  # a tie of ranks is no pair with a right order


def by_hand(ranks, values, ties, nu):
    """The loss of one ranking, pair by pair: Davidson's probabilities are those of strengths
    e^value, as he wrote them. None if no pair counts."""
    losses = []
    for (rank, v), (other, w) in combinations(zip(ranks, values), 2):
        if rank > other:
            v, w = w, v
        a, b, tie = math.exp(v), math.exp(w), nu * math.exp((v + w) / 2)
        if ties == "davidson":
            losses.append(-math.log((tie if rank == other else a) / (a + b + tie)))
        elif rank != other:
            losses.append(-math.log(a / (a + b)))
        elif ties == "half":
            losses.append(-math.log(a / (a + b)) / 2 - math.log(b / (a + b)) / 2)
    return np.mean(losses) if losses else None


@pytest.mark.parametrize("ties", TIES)
def test_the_loss_is_the_mean_over_rankings_of_their_mean_over_pairs(ties):
    ranks = [[2, 1, 2, 4], [1, 1], [2, 1], [3, 1, 3], [1]]
    g = np.random.default_rng(0)
    values = [g.standard_normal(len(r)) for r in ranks]
    each = [by_hand(r, v, ties, 0.7) for r, v in zip(ranks, values)]
    expected = [loss for loss in each if loss is not None]
    assert len(expected) == (3 if ties == "none" else 4)
    objective, batch = BradleyTerry(ties, 0.7), rankings(*ranks)
    assert objective.counts(batch) == {"rankings": len(expected)}
    loss, dvalue, figures = ranked(objective, batch, np.concatenate(values))
    assert loss == pytest.approx(np.mean(expected), rel=1e-13)
    d = [
        (v - w) * np.sign(other - rank)
        for r, vs in zip(ranks, values)
        for (rank, v), (other, w) in combinations(zip(r, vs), 2)
        if rank != other
    ]
    assert figures["accuracy"] == np.mean(np.array(d) > 0)
    assert figures["margin"] == pytest.approx(np.mean(d), rel=1e-13)


def test_davidsons_three_outcomes_have_probability_1_together():
    for d in (-40, -3, 0, 0.2, 5, 40):
        for nu in (1e-3, 1, 7):
            outcomes = [
                math.exp(-ranked(BradleyTerry("davidson", nu), rankings(ranks), [d, 0])[0])
                for ranks in ([1, 2], [2, 1], [1, 1])
            ]
            assert sum(outcomes) == pytest.approx(1, rel=1e-13)
    thirds = ranked(BradleyTerry("davidson"), rankings([1, 1]), [0, 0])
    assert thirds[0] == pytest.approx(math.log(3)) and thirds[1].tolist() == [0, 0]


def test_davidsons_model_without_ties_is_that_of_bradley_and_terry():
    batch, values = rankings([1, 2, 3], [2, 1]), [0.3, -1, 2, 0, 1]
    plain = ranked(BradleyTerry(), batch, values)
    limit = ranked(BradleyTerry("davidson", 1e-14), batch, values)
    assert limit[0] == pytest.approx(plain[0], rel=1e-13) and limit[2] == plain[2]
    assert distance(limit[1], plain[1]) <= 1e-13


def test_a_tie_of_halves_is_the_mean_of_both_orders():
    values = [1.3, 0.2]
    tie, first, second = (
        ranked(BradleyTerry("half"), rankings(ranks), values) for ranks in ([1, 1], [1, 2], [2, 1])
    )
    assert tie[0] == pytest.approx((first[0] + second[0]) / 2, rel=1e-15)
    assert tie[1] == pytest.approx((first[1] + second[1]) / 2, rel=1e-15)
    assert tie[2] == {}  # a tie has no right order, so it is in no figure


def test_a_ranking_of_ties_alone_counts_nothing():
    """A loss of 0 would lower the mean of the other rankings."""
    alone = ranked(BradleyTerry(), rankings([1, 2]), [0.5, 0])
    beside = ranked(BradleyTerry(), rankings([3, 3, 3], [1, 2]), [5, 1, 2, 0.5, 0])
    assert beside[0] == alone[0] and beside[2] == alone[2]
    assert beside[1].tolist() == [0, 0, 0, *alone[1]]
    ties = rankings([3, 3, 3])
    assert BradleyTerry().counts(ties) == {"rankings": 0}
    assert BradleyTerry("half").counts(ties) == {"rankings": 1}


# --------------------------------------------------------------------------------------- pairs


def pairs(*lengths, base=()):
    """A batch of pairs whose chosen and rejected replies have these numbers of graded rows, each
    after two rows of a prompt; then base text. "reference" is random, in the prompts' rows too."""
    g, examples = np.random.default_rng(0), []
    replies = [(n, i, CONVERSATION) for i, pair in enumerate(lengths) for n in pair]
    for n, group, source in [*replies, *((n, None, BASE) for n in base)]:
        masked = 0 if source == BASE else 2
        tokens, labels = g.integers(0, V, (2, masked + n)).astype(np.int32)
        labels[:masked] = IGNORE
        column = {"reference": 1 + g.random(masked + n, np.float32)}
        examples.append(Example(tokens, labels, source=source, group=group, columns=column))
    return Batch.of(examples, V, 12)


def gained(objective, batch, nats=0.0, dtype=np.float64):
    """judged() where each graded row has so many nats more than under the reference: nats is a
    number, or has one for each sequence."""
    nats = batch.per_row(np.broadcast_to(np.float64(nats), batch.group.shape))
    nll = np.where(batch.graded, batch.columns["reference"] - nats, 0).astype(dtype)
    loss, dnll, figures = judged(objective, batch, Output(nll))
    assert dnll.dtype == dtype and not dnll[~batch.graded].any()
    return loss, dnll, figures


def signs(batch):
    """(N,): 1 in the graded rows of chosen replies, -1 in those of rejected ones, 0 elsewhere."""
    paired = np.flatnonzero(batch.group[1:] == batch.group[:-1])
    sign = np.zeros(len(batch.group))
    sign[paired], sign[paired + 1] = 1, -1
    return np.where(batch.graded, batch.per_row(sign), 0)


@BOTH
def test_dpo_begins_at_ln_2_with_beta_over_2_for_each_graded_row(dtype):
    """Whatever the replies' lengths: s is a sum, so a row's derivative knows of no length."""
    batch = pairs((3, 1), (2, 5))
    loss, dnll, figures = gained(Dpo(0.25), batch, dtype=dtype)
    assert loss == pytest.approx(LN2, rel=1e-15)
    assert np.array_equal(dnll, 0.25 / 2 / 2 * signs(batch))
    assert figures["margin"] == figures["chosen_logp"] == figures["rejected_logp"] == 0
    assert figures["accuracy"] == 0.5


@BOTH
def test_ipo_begins_at_1_over_4_beta_squared_shared_out_over_each_reply(dtype):
    batch, beta = pairs((3, 1), (2, 5)), 0.25
    loss, dnll, figures = gained(Dpo(beta, "ipo"), batch, dtype=dtype)
    assert loss == 1 / (4 * beta**2)
    assert (figures["margin"], figures["accuracy"]) == (0, 0.5)
    lengths = batch.per_row(np.array([3, 1, 2, 5]))
    assert np.array_equal(dnll, (signs(batch) / beta / 2 / lengths).astype(dtype))


def test_at_1_nat_of_difference_the_loss_is_0_3133_and_exchanged_1_more():
    batch = pairs((2, 2))
    right = gained(Dpo(0.5), batch, [0.75, -0.25])  # h = 0.5 (2 * 0.75 + 2 * 0.25) = 1
    assert right[0] == pytest.approx(AT_1_0, rel=1e-14)
    assert right[1] == pytest.approx(0.5 / (1 + math.e) * signs(batch), rel=1e-14)
    figures = {"accuracy": 1, "margin": 1, "chosen_logp": 1.5, "rejected_logp": -0.5}
    assert right[2] == pytest.approx(figures | {"chosen": right[2]["chosen"]})
    wrong = gained(Dpo(0.5), batch, [-0.25, 0.75])
    assert wrong[0] == pytest.approx(AT_1_0 + 1, rel=1e-14)
    assert wrong[1] == pytest.approx(0.5 / (1 + 1 / math.e) * signs(batch), rel=1e-14)
    assert (wrong[2]["accuracy"], wrong[2]["margin"]) == (0, pytest.approx(-1))


def test_a_longer_reply_counts_more_in_the_sum_of_dpo_and_not_in_the_mean_of_ipo():
    batch = pairs((5, 2))
    assert gained(Dpo(0.5), batch, 0.2)[2]["margin"] == pytest.approx(0.5 * (5 - 2) * 0.2)
    loss, _, figures = gained(Dpo(0.5, "ipo"), batch, 0.2)
    assert figures["margin"] == pytest.approx(0, abs=1e-15) and loss == pytest.approx(1)
    assert (figures["chosen_logp"], figures["rejected_logp"]) == pytest.approx((1, 0.4))


def test_ipo_is_content_with_a_margin_of_one_half():
    batch = pairs((4, 2))
    loss, dnll, figures = gained(Dpo(0.25, "ipo"), batch, [1.5, -0.5])
    assert (loss, figures["margin"]) == (0, 0.5) and not dnll.any()


def test_label_smoothing_is_a_share_of_exchanged_pairs():
    batch, nats = pairs((2, 2)), np.array([0.75, -0.25])
    smooth = gained(Dpo(0.5, smoothing=0.2), batch, nats)
    assert smooth[0] == pytest.approx(0.8 * AT_1_0 + 0.2 * (AT_1_0 + 1), rel=1e-14)
    # The best h has sigmoid(h) = 1 - smoothing: ln 4.
    best = gained(Dpo(0.5, smoothing=0.2), batch, nats * math.log(4))[1]
    assert np.abs(best).max() <= 1e-16


def test_the_two_means_of_nll_are_added_each_over_its_own_rows():
    batch = pairs((3, 1), (2, 5), base=(4, 2))
    chosen, text = signs(batch) > 0, batch.per_row(batch.source == BASE)
    nll = np.where(batch.graded, batch.columns["reference"], 0)
    bare = gained(Dpo(base=0), batch)
    both = gained(Dpo(nll=0.3, base=0.7), batch)
    assert both[0] - bare[0] == pytest.approx(0.3 * nll[chosen].mean() + 0.7 * nll[text].mean())
    assert both[1] - bare[1] == pytest.approx(0.3 * chosen / 5 + 0.7 * text / 6)
    assert both[2] == bare[2]
    assert bare[2]["chosen"] == pytest.approx(nll[chosen].mean())
    assert bare[2]["base"] == pytest.approx(nll[text].mean())


@pytest.mark.parametrize("sources", [(WORLD, WORLD), (BASE, WORLD)])
def test_every_text_that_is_no_conversation_is_base_text(sources):
    """Text of an invented world stands beside the pairs too, and would else be read by nobody."""
    batch = pairs((3, 1), base=(4, 2))
    loss, dnll, figures = gained(Dpo(nll=0.3, base=0.7), batch)
    mixed = dataclasses.replace(batch, source=np.array([*batch.source[:2], *sources]))
    assert Dpo().counts(mixed) == {"pairs": 1, "chosen": 3, "base": 6}
    found = gained(Dpo(nll=0.3, base=0.7), mixed)
    assert (found[0], found[2]) == (loss, figures) and np.array_equal(found[1], dnll)


def test_base_text_alone_is_learned_as_sft_does():
    batch = pairs(base=(3, 4))
    loss, dnll, _ = gained(Dpo(), batch)
    out = Output(batch.columns["reference"].astype(np.float64))
    assert loss == pytest.approx(judged(Sft(), batch, out)[0], rel=1e-15)
    assert np.array_equal(dnll, judged(Sft(), batch, out)[1])


def test_a_value_that_nobody_computes_is_refused():
    """The model's value is 0 in a row that is not wanted, so the ranking would be one of zeros."""
    batch = rankings([1, 2], [3], [2, 1])  # their last rows are 0, 2; 3; 4, 6
    batch.wanted[3] = False  # a single reply is in no pair
    assert BradleyTerry().counts(batch) == {"rankings": 2}
    batch.wanted[4] = False
    with pytest.raises(ValueError, match="row 4, the last one of a reply, is not wanted"):
        BradleyTerry().counts(batch)


NO_PAIRS = {  # groups and sources: the sequence that is named, its source and its group's size
    "three replies": ([0, 0, 1, 1, 1], "ccccc", "2 (conversation) is in a group of 3"),
    "one reply": ([0, 0, 1, 2, 2], "ccccc", "2 (conversation) is in a group of 1"),
    "a pair of texts": ([0, 0, 1, 1, 2], "ccbbb", "2 (base) is in a group of 2"),
    "a reply and a text": ([0, 0, 1, 1, 2], "cccbw", "3 (base) is in a group of 2"),
    "two texts of a world": ([7, 7, 8, 9, 9], "ccbww", "3 (world) is in a group of 2"),
}


@pytest.mark.parametrize("case", NO_PAIRS)
def test_what_is_neither_a_pair_nor_other_text_is_refused(case):
    group, letters, words = NO_PAIRS[case]
    names = {"c": CONVERSATION, "b": BASE, "w": WORLD}
    source = np.array([names[letter] for letter in letters])
    batch = dataclasses.replace(pairs((1, 2), (2, 1), base=[3]), group=np.array(group))
    batch = dataclasses.replace(batch, source=source)
    with pytest.raises(ValueError) as error:
        Dpo().counts(batch)
    assert f"Dpo: sequence {words}; expected two conversations" in str(error.value)
    Dpo().counts(batch.slice(0, 2))  # the pair before it is fine


def test_a_reply_without_a_graded_row_is_refused():
    """Its s would be 0 whatever the model says, and its mean 0 / 0 with "ipo"."""
    batch = pairs((3, 1), (2, 5))
    batch.labels[batch.cu_seqlens[1] : batch.cu_seqlens[2]] = IGNORE
    with pytest.raises(ValueError, match="Dpo: sequence 1 has no graded row"):
        Dpo().counts(batch)


# ------------------------------------------------------------------------- through a whole model

LENGTHS = [3, 2, 4, 1, 2, 3, 2]
RANKS = [1.0, 2, 2, 2, 1, 1, 1]  # the last ranking has ties alone
RANKINGS = dict(
    lengths=LENGTHS,
    groups=[0, 0, 0, 1, 1, 2, 2],
    wanted=1.0,
    columns={"rank": lambda rng, n: np.repeat(RANKS, LENGTHS)},
)
PAIRS = dict(  # the last micro-batch of three is base text alone
    lengths=[3, 4, 5, 2, 4, 3],
    groups=[0, 0, 1, 1, 2, 3],
    sources=[CONVERSATION] * 4 + [BASE] * 2,
    columns={"reference": lambda rng, n: 2 + rng.standard_normal(n)},
)
OBJECTIVES = {
    "Bradley-Terry": BradleyTerry(),
    "Bradley-Terry, half": BradleyTerry("half"),
    "Bradley-Terry, Davidson": BradleyTerry("davidson", 0.7),
    "Dpo": Dpo(0.3, base=0.0),
    "Dpo, base text": Dpo(0.3, base=0.7),
    "Dpo, smoothing": Dpo(0.3, smoothing=0.2, base=0.0),
    "Dpo, nll": Dpo(0.3, nll=0.4, base=0.7),
    "Ipo": Dpo(0.3, "ipo", base=0.0),
    "Ipo, nll, base text": Dpo(0.3, "ipo", nll=0.4),
}
EVERY = pytest.mark.parametrize("name", OBJECTIVES)


def case_of(name):
    """(the objective, the model's outputs, arguments of random_batch)."""
    objective = OBJECTIVES[name]
    is_ranking = isinstance(objective, BradleyTerry)
    return objective, *(("value", RANKINGS) if is_ranking else ("nll", PAIRS))


def model_of(outputs, dtype=np.float64):
    config = GPTConfig(V, 8, 2, 2, 8, outputs=outputs)
    model = GPT(config, KERNELS, np.random.default_rng(0), dtype)
    g = np.random.default_rng(1)
    for _, w in model.params.items():
        w += 0.2 * g.standard_normal(w.shape)
    return model


def is_zero(tensor, outputs):
    """Whether the true gradient of a tensor is 0: a shift of all values changes no difference.
    What is computed there is rounding. gradcheck's error is then in units of 1e-6."""
    return outputs == "value" and tensor in ("lnf.b", "value.b")


def drawn(batch):
    """The random batch that these arguments describe. Each sequence has a graded row."""
    found = random_batch(np.random.default_rng(0), **batch)
    assert np.logical_or.reduceat(found.graded, found.cu_seqlens[:-1]).all()
    return found


# One piece needs no sums over pieces, so one objective of each class is enough.
@pytest.mark.parametrize(
    "name, pieces", [*((name, 3) for name in OBJECTIVES), ("Bradley-Terry", 1), ("Dpo", 1)]
)
def test_the_derivatives_through_the_whole_model_are_finite_differences(name, pieces):
    objective, outputs, batch = case_of(name)
    channels = 4 if outputs == "nll" else 6  # differences of few values need the larger derivatives
    case = dict(objective=objective, outputs=outputs, pieces=pieces, C=channels, **batch)
    rows = gradcheck.run(KERNELS, cases={name: (check_objective, case)})
    assert rows
    for row in rows:
        assert row.passed or is_zero(row.tensor, outputs) and row.worst <= 1e-5, row


@pytest.mark.parametrize("seed", range(5))
def test_gradcheck_passes_every_objective_at_every_seed(seed):
    rows = gradcheck.run(None, seed, objective_cases.CASES)
    assert len(rows) == len(objective_cases.CASES)
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


def test_gradcheck_has_every_objective_each_kind_and_no_two_equal_sizes():
    objectives = [sizes["objective"] for _, sizes in objective_cases.CASES.values()]
    every = {o for o in vars(module).values() if dataclasses.is_dataclass(o)}
    assert {type(o) for o in objectives} == every
    assert {o.ties for o in objectives if isinstance(o, BradleyTerry)} == set(TIES)
    dpo = [o for o in objectives if isinstance(o, Dpo)]
    assert {o.kind for o in dpo} == {"sigmoid", "ipo"} and any(o.smoothing for o in dpo)
    assert {o.kind for o in dpo if o.nll and o.base} == {"sigmoid", "ipo"}
    assert {o.kind for o in objectives if isinstance(o, Ppo)} == set(CLIPS)
    for draw in {sizes["draw"] for _, sizes in objective_cases.CASES.values()}:
        batch = draw(np.random.default_rng(0))
        assert len(set(batch.lengths)) == len(batch.lengths)
        assert 0 < batch.graded.sum() < len(batch.tokens)


@pytest.mark.parametrize("seed", range(5))
def test_gradcheck_has_ratios_and_values_inside_a_clip_and_beyond_it_on_every_side(seed):
    batch = objective_cases.rollouts(np.random.default_rng(seed))
    rows = batch.graded & batch.per_row(batch.source == CONVERSATION)
    gained, advantage = batch.columns["nll_old"][rows], batch.columns["advantage"][rows]
    value = objective_cases.valued(np.random.default_rng(seed))
    moved, off = value.columns["value_old"][value.graded], value.columns["return"][value.graded]
    for distance_, sign in ((gained, advantage), (moved, off)):
        sides = np.select([distance_ < -0.25, distance_ > 0.25], [-1, 1], 0)
        assert set(zip(sides, np.sign(sign))) >= {(a, b) for a in (-1, 0, 1) for b in (-1, 1)}


@dataclasses.dataclass(frozen=True)
class Wrong:
    """An objective whose derivatives `change` has changed."""

    objective: object
    change: Callable

    def counts(self, batch):
        return self.objective.counts(batch)

    def __call__(self, batch, out, totals):
        loss, *derivatives, figures = self.objective(batch, out, totals)
        changed = [None if d is None else self.change(batch, d) for d in derivatives]
        return loss, *changed, figures


def in_a_row_that_must_not_count(batch, d):
    """A derivative in the first row of the last sequence of more than one row: part of a prompt
    (also in base text, if that row has no label), or a value that is not the last of its reply."""
    first = batch.cu_seqlens[:-1][batch.lengths > 1]
    rows = [row for row in first if not d[row]]
    found = d.copy()
    found[rows[-1:]] = 1e-5 * np.abs(d).max()
    return found


@pytest.mark.parametrize("name", objective_cases.CASES)
@pytest.mark.parametrize(
    "change",
    [lambda batch, d: -d, lambda batch, d: d * (1 + 1e-6), in_a_row_that_must_not_count],
    ids=["sign", "size", "row"],
)
def test_gradcheck_notices_a_wrong_derivative_of_an_objective(name, change):
    check, sizes = objective_cases.CASES[name]
    wrong = Wrong(sizes["objective"], change)
    [row] = gradcheck.run(None, 0, {name: (check, sizes | {"objective": wrong})})
    assert not row.passed


@dataclasses.dataclass(frozen=True)
class OwnTotals:
    """An objective whose derivatives are those of the mean of its micro-batches' means."""

    objective: object

    def counts(self, batch):
        return self.objective.counts(batch)

    def __call__(self, batch, out, totals):
        _, *derivatives, _ = self.objective(batch, out, self.counts(batch))
        loss, *_, figures = self.objective(batch, out, totals)
        return loss, *derivatives, figures


@pytest.mark.parametrize("name", objective_cases.CASES)
def test_gradcheck_notices_a_mean_of_means(name):
    check, sizes = objective_cases.CASES[name]
    wrong = sizes | {"objective": OwnTotals(sizes["objective"])}
    [row] = gradcheck.run(None, 0, {name: (check, wrong)})
    assert row.worst > 0.1


@EVERY
@pytest.mark.parametrize("pieces", [2, 3, 4])
def test_a_step_is_the_same_however_its_groups_are_split(name, pieces):
    """Also where a micro-batch has pairs alone, base text alone, or ties alone."""
    objective, outputs, batch = case_of(name)
    batch, whole, split = drawn(batch), model_of(outputs), model_of(outputs)
    one = train_step(whole, AdamW(whole), [batch], objective, 0.0)
    many = train_step(split, AdamW(split), batch.split(pieces)[::-1], objective, 0.0)
    assert np.abs(whole.grads.flat).max() > 0
    assert distance(split.grads.flat, whole.grads.flat) <= 1e-13
    assert many.loss == pytest.approx(one.loss, rel=1e-13)
    assert many.figures == pytest.approx(one.figures, rel=1e-13)


@BOTH
def test_a_policy_that_is_its_reference_has_a_margin_of_exactly_0_however_split(dtype):
    batch, model = drawn(PAIRS), model_of("nll", dtype)
    batch.columns["reference"] = model.forward(batch).nll
    for pieces in (1, 2, 4):
        step = train_step(model, AdamW(model), batch.split(pieces), Dpo(base=0.0), 0.0)
        assert step.figures["margin"] == step.figures["chosen_logp"] == 0
        assert step.figures["accuracy"] == 0.5
        assert step.loss == pytest.approx(LN2, rel=1e-15)


@EVERY
@BOTH
def test_loss_and_every_gradient_are_pytorchs(name, dtype):
    torch = pytest.importorskip("torch")
    from test_torch import F, hidden_of, weights_of

    objective, outputs, batch = case_of(name)
    batch, model = drawn(batch), model_of(outputs, dtype)
    report = train_step(model, AdamW(model), [batch], objective, 0.0)

    def padded(column, fill):
        """(S,T): the rows of each sequence, padded."""
        found = np.full((len(batch.lengths), batch.lengths.max()), fill, column.dtype)
        for s, (a, b) in enumerate(zip(batch.cu_seqlens, batch.cu_seqlens[1:])):
            found[s, : b - a] = column[a:b]
        return torch.tensor(found)

    p = weights_of(model)
    hidden = hidden_of(p, model.config, padded(batch.tokens, 0).long())
    if outputs == "value":
        value = (hidden @ p["value.w"][0] + p["value.b"])[range(7), batch.lengths - 1]
        loss = torch_bradley_terry(torch, objective, value)
    else:
        labels = padded(batch.labels, IGNORE).long()
        logp = -F.cross_entropy(
            (hidden @ p["head"].T).transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
        )
        reference = -padded(batch.columns["reference"].astype(dtype), 0)
        loss = torch_dpo(torch, objective, logp, reference, labels != IGNORE)
    loss.backward()
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert report.loss == pytest.approx(loss.item(), rel=tolerance)
    for tensor, g in model.grads.items():
        theirs = p[tensor].grad.numpy()
        scale = np.linalg.norm(model.grads.flat if is_zero(tensor, outputs) else theirs)
        assert np.linalg.norm(g - theirs) <= tolerance * scale, tensor


def torch_bradley_terry(torch, objective, value):
    """The loss of RANKINGS, by the probabilities as Davidson wrote them."""
    rankings = []
    for replies in ([0, 1, 2], [3, 4], [5, 6]):
        losses = []
        for i, j in permutations(replies, 2):
            a, b = value[i].exp(), value[j].exp()
            nu = objective.nu if objective.ties == "davidson" else 0.0
            whole = a + b + nu * (a * b).sqrt()
            if RANKS[i] < RANKS[j]:
                losses.append(-(a / whole).log())
            elif RANKS[i] == RANKS[j] and i < j and objective.ties == "half":
                losses.append(-(a / whole).log() / 2 - (b / whole).log() / 2)
            elif RANKS[i] == RANKS[j] and i < j and objective.ties == "davidson":
                losses.append(-(nu * (a * b).sqrt() / whole).log())
        if losses:
            rankings.append(torch.stack(losses).mean())
    return torch.stack(rankings).mean()


def torch_dpo(torch, objective, logp, reference, graded):
    """The loss of PAIRS, as Rafailov et al. (2023) and Azar et al. (2024) wrote it."""
    ratios = ((logp - reference) * graded).sum(1)
    if objective.kind == "ipo":
        ratios = ratios / graded.sum(1)
    difference = ratios[[0, 2]] - ratios[[1, 3]]
    if objective.kind == "ipo":
        losses = (difference - 1 / (2 * objective.beta)) ** 2
    else:
        log_sigmoid, h = torch.nn.functional.logsigmoid, objective.beta * difference
        e = objective.smoothing
        losses = -(1 - e) * log_sigmoid(h) - e * log_sigmoid(-h)
    chosen, base = logp[[0, 2]][graded[[0, 2]]], logp[4:][graded[4:]]
    return losses.mean() - objective.nll * chosen.mean() - objective.base * base.mean()


# ------------------------------------------------------------------- worlds whose optimum is known

REPLIES = [(0, 0), (0, 1), (1, 0), (1, 1)]
PROMPT = 2  # the token before a reply
REFERENCE = np.random.default_rng(0).standard_normal((3, 2))


class Table:
    """A policy over two tokens: logits[t] are those after token t."""

    def __init__(self, logits):
        self.logits = logits.copy()

    def logp(self):
        """(3,2): the log-probability of each token after each token."""
        return self.logits - np.logaddexp.reduce(self.logits, axis=1, keepdims=True)

    def replies(self):
        """The probabilities of REPLIES."""
        logp = self.logp()
        return np.exp([logp[PROMPT, a] + logp[a, b] for a, b in REPLIES])

    def descend(self, objective, batch, lr):
        """One step down the gradient, from the derivatives by nll."""
        logp, rows = self.logp(), np.arange(len(batch.tokens))
        nll = -logp[batch.tokens, batch.labels]
        _, dnll, _ = judged(objective, batch, Output(nll))
        dlogits = np.exp(logp[batch.tokens])
        dlogits[rows, batch.labels] -= 1
        np.subtract.at(self.logits, batch.tokens, lr * dnll[:, None] * dlogits)


def world(times, prompt=PROMPT):
    """A batch of pairs of REPLIES in which i is chosen over j times[i, j] times."""
    reference, examples = Table(REFERENCE).logp(), []
    for i, j in permutations(range(4), 2):
        for _ in range(times[i, j]):
            for a, b in (REPLIES[i], REPLIES[j]):
                tokens, labels = np.array([prompt, a], np.int32), np.array([a, b], np.int32)
                columns = {"reference": -reference[tokens, labels]}
                group = len(examples) // 2
                examples.append(Example(tokens, labels, group=group, columns=columns))
    return Batch.of(examples, 3, 2)


def test_dpo_on_all_pairs_reaches_the_policy_of_the_reward():
    """It is pi_ref e^(r / beta) / Z (Rafailov et al. 2023, equation 4). Of the pairs of replies i
    and j, i is chosen in the share sigmoid(r[i] - r[j]) = s[i] / (s[i] + s[j]), with s = e^r."""
    beta, s, policy = 0.5, np.array([1, 2, 3, 4]), Table(REFERENCE)
    batch = world(np.repeat(s[:, None], 4, axis=1))
    for _ in range(500):
        policy.descend(Dpo(beta), batch, lr=20.0)
    best = Table(REFERENCE).replies() * s ** (1 / beta)
    assert policy.replies() == pytest.approx(best / best.sum(), rel=1e-2)


def test_ipo_on_all_pairs_reaches_the_policy_of_the_shares_won():
    """It is pi_ref e^(w / beta) / Z, where w[i] is the share that i wins against a reply drawn
    uniformly (Azar et al. 2024, equation 7). Here it is e^(2 w / beta), because s is the mean of
    two rows. No reward explains these shares: 0 beats 1, 1 beats 2, and 2 beats 0."""
    beta, policy = 0.5, Table(REFERENCE)
    times = np.array([[5, 9, 3, 2], [1, 5, 8, 6], [7, 2, 5, 1], [8, 4, 9, 5]])  # of 10
    batch = world(times)
    for _ in range(500):
        policy.descend(Dpo(beta, "ipo"), batch, lr=1.0)
    best = Table(REFERENCE).replies() * np.exp(2 * times.mean(axis=1) / 10 / beta)
    assert policy.replies() == pytest.approx(best / best.sum(), rel=1e-2)


def of_replies(model):
    """The probabilities of REPLIES in a model whose vocabulary is the two tokens."""
    tokens = np.array([(0, a) for a, _ in REPLIES], np.int32)
    found = Batch.of([Example(t, np.array(r, np.int32)) for t, r in zip(tokens, REPLIES)], 2, 2)
    return np.exp(-model.forward(found).nll.astype(np.float64).reshape(4, 2).sum(axis=1))


@BOTH
def test_a_model_trained_by_dpo_on_all_pairs_reaches_the_policy_of_the_reward(dtype):
    """The same through the whole model and train_step, in micro-batches. The prompt is token 0,
    which its position tells from a reply's, so the model can write the four replies and no other
    text."""
    model = GPT(GPTConfig(2, 2, 1, 2, 8), KERNELS, np.random.default_rng(0), dtype)
    g = np.random.default_rng(1)
    for _, w in model.params.items():  # a reference that is far from uniform
        w += (0.5 * g.standard_normal(w.shape)).astype(dtype)
    beta, s, reference = 0.5, np.array([1, 2, 3, 4]), of_replies(model)
    assert reference.sum() == pytest.approx(1, rel=1e-6) and reference.max() > 2 * reference.min()
    batch = world(np.repeat(s[:, None], 4, axis=1), prompt=0)
    batch.columns["reference"] = model.forward(batch).nll
    adam, objective, steps = AdamW(model), Dpo(beta, base=0.0), 300
    for step in range(steps):
        lr = schedule(step, steps, 1e-2, 0, "cosine")
        report = train_step(model, adam, batch.split(3), objective, lr)
        assert step or report.loss == pytest.approx(LN2, rel=1e-6)
    best = reference * s ** (1 / beta)
    assert of_replies(model) == pytest.approx(best / best.sum(), rel=1e-3)


@pytest.mark.parametrize("ties, odds", [("none", 4), ("davidson", 4), ("half", 5 / 2)])
def test_values_reach_the_odds_that_the_rankings_come_from(ties, odds):
    """By Davidson's model with nu 1, of strengths 4 and 1 the first wins four times, the other
    once, and twice they tie. Among the pairs without ties the odds are right too. Ties as halves
    bring them nearer to 1."""
    batch, values = rankings(*[[1, 2]] * 4, [2, 1], *[[1, 1]] * 2), np.zeros(2)
    for _ in range(100):
        _, dvalue, _ = ranked(BradleyTerry(ties), batch, np.tile(values, 7))
        values -= 2 * dvalue.reshape(7, 2).sum(axis=0)
    assert math.exp(values[0] - values[1]) == pytest.approx(odds, rel=1e-2)
