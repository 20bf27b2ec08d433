"""PPO: its two losses by hand, its iterations, and what a reply's tokens are worth.

Killed and resumed trainings are in test_ppo_resume.py; worlds whose optimum is known, and PyTorch,
are in test_ppo_optimum.py."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import distance
from small_ppo import CONTEXT, END, PROMPTS, V, learner_of, model_of, run

from pysft import IGNORE
from pysft.batch import BASE, CONVERSATION, WORLD, Batch, Example, Output
from pysft.errors import Diverged, UsageError
from pysft.nn import gate, kernels, reference
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.training import loop, ppo
from pysft.training.advantages import next_beta
from pysft.training.kinds import PolicyTuning
from pysft.training.loop import schedule, train_step
from pysft.training.objectives import CLIPS, ClippedValue, Ppo, Sft
from pysft.training.rollouts import divergence, log_softmax, nll_of, roll_out

MICRO = pytest.mark.parametrize("micro_batches", [1, 2, 4])


def rows_of(batches, column, source=CONVERSATION):
    """A column over the graded rows of the sequences of a source, one after the other."""
    parts = [b.columns[column][b.graded & b.per_row(b.source == source)] for b in batches]
    return np.concatenate(parts)


def replies_of(batches):
    """(batch, first row, end) of each reply in the batches."""
    for b in batches:
        for s in np.flatnonzero(b.source == CONVERSATION):
            yield b, b.cu_seqlens[s], b.cu_seqlens[s + 1]


# ------------------------------------------------------------------------------ the losses by hand


def ppo_loss(objective, ratios, advantages, base=(), spare=0):
    """(loss, derivatives by ln ratio of the reply's rows and of the base text's, figures) where a
    reply has these ratios, after two rows that are not graded, and base text these nlls. The
    derivatives of rows that are not graded are 0. spare: more of base text's total."""
    n, old = len(ratios), 1.5
    rows = 2 + n
    labels = np.where(np.arange(rows) < 2, IGNORE, 1).astype(np.int32)
    columns = {
        "nll_old": np.concatenate([[9.0, 9.0], np.full(n, old)]),
        "advantage": np.concatenate([[7.0, 7.0], advantages]),
    }
    examples = [Example(np.zeros(rows, np.int32), labels, columns=columns)]
    zeros = {name: np.zeros(len(base)) for name in columns}
    if len(base):
        ones = np.ones(len(base), np.int32)
        examples.append(Example(ones, ones, source=BASE, columns=zeros))
    batch = Batch.of(examples, V, 24)
    nll = np.concatenate([[0, 0], old - np.log(ratios), base])
    totals = objective.counts(batch)
    assert totals == {"replies": n, "base": len(base)}
    totals["base"] += spare
    loss, dnll, dvalue, figures = objective(batch, Output(nll), totals)
    assert dvalue is None and not dnll[:2].any()
    return loss, -dnll[2:rows], dnll[rows:], figures


@pytest.mark.parametrize("kind", CLIPS)
def test_at_a_ratio_of_1_the_gradient_is_the_advantage_alone(kind):
    loss, slopes, _, figures = ppo_loss(Ppo(kind=kind), [1, 1, 1], [3.0, -6.0, 0.0])
    assert loss == pytest.approx(1) and slopes.tolist() == [-1, 2, 0]
    assert figures["moved"] == figures["clipped"] == (0, 3) and figures["kl_old"] == (0, 3)


def test_a_ratio_gains_nothing_beyond_the_clip_in_the_direction_of_its_advantage():
    """Beyond it in the other direction it is pulled back as without a clip."""
    ratios, A = [1.5, 1.5, 0.5, 0.5, 1.1, 0.9], np.array([2.0, -2, 2, -2, 2, -2])
    loss, slopes, _, figures = ppo_loss(Ppo(0.2), ratios, A)
    losses = [-2 * 1.2, 2 * 1.5, -2 * 0.5, 2 * 0.8, -2 * 1.1, 2 * 0.9]
    assert loss == pytest.approx(np.mean(losses))
    assert slopes == pytest.approx(np.array([0, 2 * 1.5, -2 * 0.5, 0, -2 * 1.1, 2 * 0.9]) / 6)
    assert (figures["clipped"], figures["moved"]) == ((4, 6), (6, 6))
    assert ppo_loss(Ppo(0.6), ratios, A)[3]["clipped"] == (0, 6)


def test_cispo_goes_on_beyond_the_upper_bound_with_the_bound_as_its_weight():
    slopes = ppo_loss(Ppo(0.2, "cispo"), [1.5, 1.5, 0.5, 1.1], [2.0, -2, 2, 2])[1]
    assert slopes == pytest.approx(np.array([-2 * 1.2, 2 * 1.2, -2 * 0.5, -2 * 1.1]) / 4)
    below, above = (ppo_loss(Ppo(0.2, "cispo"), [1.2 + d], [2.0])[0] for d in (-1e-9, 1e-9))
    assert below == pytest.approx(above, abs=1e-8)  # no step where it changes


def test_without_a_clip_the_loss_is_minus_advantage_times_ratio():
    loss, slopes, _, figures = ppo_loss(Ppo(kind="none"), [1.5, 0.5], [2.0, 3.0])
    assert loss == pytest.approx(-(3 + 1.5) / 2) and slopes == pytest.approx([-1.5, -0.75])
    assert figures["clipped"] == (2, 2)


def test_base_text_has_a_weight_and_a_total_of_its_own():
    bare = ppo_loss(Ppo(base=0.5), [1.1, 0.9], [2.0, 1.0])
    both = ppo_loss(Ppo(base=0.5), [1.1, 0.9], [2.0, 1.0], [3.0, 5.0])
    split = ppo_loss(Ppo(base=0.5), [1.1, 0.9], [2.0, 1.0], [3.0, 5.0], spare=2)
    assert both[0] - bare[0] == pytest.approx(0.5 * 4)
    assert split[0] - bare[0] == pytest.approx(0.5 * 2)
    assert both[1].tolist() == bare[1].tolist()
    assert both[2].tolist() == [0.25, 0.25] and split[2].tolist() == [0.125, 0.125]
    assert both[3] == bare[3] | {"base": (8, 2)} and bare[3]["base"] == (0, 0)


def test_the_kl_from_the_old_policy_is_ratio_minus_1_minus_its_logarithm():
    figures = ppo_loss(Ppo(), [1.5, 0.8], [1.0, 1.0])[3]
    expected = (1.5 - 1 - math.log(1.5)) + (0.8 - 1 - math.log(0.8))
    assert figures["kl_old"] == (pytest.approx(expected), 2)


def value_loss(objective, values, old, returns):
    """(loss, derivatives) where a reply has these values, after a row that is not graded."""
    n = len(values)
    columns = {"value_old": np.array([5.0, *old]), "return": np.array([6.0, *returns])}
    labels = np.array([IGNORE] + [1] * n, np.int32)
    batch = Batch.of([Example(np.zeros(n + 1, np.int32), labels, columns=columns)], V, 24)
    assert objective.counts(batch) == {"graded": n}
    out = Output(value=np.array([0.0, *values]))
    loss, dnll, dvalue, figures = objective(batch, out, objective.counts(batch))
    assert dnll is None and dvalue[0] == 0
    assert figures["value_loss"] == (pytest.approx(loss * n), n)
    return loss, dvalue[1:]


def test_a_value_without_a_clip_has_half_its_squared_distance_from_the_return():
    loss, slopes = value_loss(ClippedValue(0), [1.0, 4.0], [0.0, 0.0], [3.0, 3.0])
    assert loss == (2 + 0.5) / 2 and slopes.tolist() == [-1, 0.5]


def test_a_value_gains_nothing_beyond_the_clip_towards_its_return():
    """Rows: within the clip; beyond it towards the return; beyond it away from the return."""
    loss, slopes = value_loss(ClippedValue(0.2), [0.1, 1.0, -1.0], [0.0] * 3, [2.0] * 3)
    assert loss == pytest.approx((1.9**2 + 1.8**2 + 3**2) / 2 / 3)
    assert slopes == pytest.approx(np.array([-1.9, 0, -3]) / 3)
    assert value_loss(ClippedValue(5.0), [1.0], [0.0], [2.0])[1].tolist() == [-1]


# ------------------------------------------------------------------------------------- roll-outs


def tool(written, room):
    """Put [5, 6] after each 3 that the model chose, as far as there is room."""
    return [5, 6][:room] if written[-1] == 3 else None


def some_rollouts(model, each=12, tokens=9, inject=tool, seed=3):
    return roll_out(model, PROMPTS, each, tokens, END, seed, inject)


PRECISIONS = {
    "f32": lambda: model_of(),
    "f32, 2 threads": lambda: model_of(ops=kernels.on_threads(2)),
    "f32, tied": lambda: model_of(GPTConfig(V, CONTEXT, 1, 2, 16, tied=True)),
}
if gate.HAS_BF16:
    PRECISIONS["bf16"] = lambda: model_of(GPTConfig(V, CONTEXT, 2, 2, 16, precision="bf16"))


@pytest.mark.parametrize("case", PRECISIONS)
@pytest.mark.parametrize("inject", [None, tool], ids=["alone", "with a tool"])
def test_the_probabilities_that_a_reply_was_drawn_by_are_the_bits_of_a_forward(case, inject):
    model = PRECISIONS[case]()
    rollouts = some_rollouts(model, inject=inject, tokens=30)
    batch = Batch.of([r.example for r in rollouts], V, CONTEXT)
    logits = np.concatenate([r.logits for r in rollouts])
    graded = batch.graded
    drawn_by = nll_of(model.ops, logits, batch.labels[graded])
    assert drawn_by.tobytes() == model.forward(batch).nll[graded].tobytes()
    rows = np.flatnonzero(graded)
    assert logits.tobytes() == model.logits(batch.tokens, batch.cu_seqlens, rows).tobytes()
    # Some ended, some were cut off by their room, and if there is a tool, it was called.
    assert {r.stop for r in rollouts} == {"end", "length"}
    assert any(r.injected.any() for r in rollouts) == (inject is not None)


def test_a_reply_is_graded_where_the_model_chose_and_nowhere_else():
    rollouts = some_rollouts(model_of(), inject=tool)
    assert {r.stop for r in rollouts} == {"end", "length"}
    for i, r in enumerate(rollouts):
        prompt, ended = PROMPTS[i // 12].tolist(), r.stop == "end"
        whole = [*prompt, *r.ids.tolist(), *[END] * ended]
        chosen = [False] * len(prompt) + (~r.injected).tolist() + [True] * ended
        assert r.example.input_ids.tolist() == whole[:-1]
        expected = [token if c else IGNORE for token, c in zip(whole, chosen)]
        assert r.example.labels.tolist() == expected[1:]
        assert r.logits.shape == (sum(chosen), V) and END not in r.ids
        for k in np.flatnonzero(r.injected):  # the tool's, after a 3
            assert r.ids[k] == 5 + (r.ids[k - 1] == 5 and r.injected[k - 1])
    cut = [r for r in some_rollouts(model_of(), each=60, tokens=30) if r.stop == "length"]
    assert cut and any(r.injected[-1] for r in cut)  # in the middle of a tool's answer


def test_a_reply_takes_at_most_its_tokens_and_leaves_room_for_its_end():
    long = np.ones(CONTEXT - 3, np.int32)  # room for two tokens and the end
    for tokens, most in ((1, 1), (2, 2), (9, 2)):
        rollouts = roll_out(model_of(), [long], 30, tokens, END, 0)
        assert max(len(r.ids) for r in rollouts) == most
        assert all(len(r.ids) == most for r in rollouts if r.stop == "length")


def test_a_reply_depends_on_the_seed_its_number_and_nothing_beside_it():
    model = model_of()
    first, again = some_rollouts(model), some_rollouts(model, seed=3)
    assert [r.ids.tolist() for r in first] == [r.ids.tolist() for r in again]
    fewer = roll_out(model, PROMPTS[:1], 5, 9, END, 3, tool)
    assert [r.ids.tolist() for r in fewer] == [r.ids.tolist() for r in first[:5]]
    other = some_rollouts(model, seed=4)
    assert [r.ids.tolist() for r in first] != [r.ids.tolist() for r in other]
    assert len({r.ids.tobytes() for r in first[:12]}) > 6  # replies to one prompt differ


def test_replies_are_drawn_at_temperature_1_without_cuts():
    """The frequencies of 4,000 first tokens are within 4.5 standard errors of the policy's."""
    model, n = model_of(), 4000
    p = np.exp(log_softmax(model.logits(PROMPTS[0], np.array([0, 2], np.int32), [1])))[0]
    rollouts = roll_out(model, PROMPTS[:1], n, 1, END, 0)
    first = [r.ids[0] if len(r.ids) else END for r in rollouts]
    found = np.bincount(first, minlength=V) / n
    assert (np.abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / n)).all()
    assert 1.5 < p.max() * V and p.min() * V < 0.6  # far enough from uniform to tell


def test_divergence_and_entropy_are_exact_sums_over_the_vocabulary():
    logits, others = np.random.default_rng(0).standard_normal((2, 2500, V)).astype(np.float32)
    p, q = (np.exp(np.float64(x)) for x in (logits, others))
    p, q = (x / x.sum(1, keepdims=True) for x in (p, q))
    kl, entropy = divergence(logits, others)  # in three parts
    assert kl == pytest.approx((p * np.log(p / q)).sum(1), rel=1e-12)
    assert entropy == pytest.approx(-(p * np.log(p)).sum(1), rel=1e-12)
    assert (kl >= 0).all()
    assert not divergence(logits, logits)[0].any() and not divergence(logits, None)[0].any()
    kl, entropy = divergence(np.float32([[800, 0]]), np.float32([[0, 800]]))
    assert kl == pytest.approx(800) and entropy == pytest.approx(0)


# ------------------------------------------------------------------------------------ iterations


def check_exact_start(learner):
    """The first ratio of every iteration is exactly 1, and so is that of the whole first one."""
    calls, forward = [], learner.model.forward
    learner.model.forward = lambda batch: calls.append(0) or forward(batch)
    reports, updates = run(learner, 3)
    for i, report in enumerate(reports):
        first, second = updates.of(learner.model)[2 * i : 2 * i + 2]
        assert report.figures["ratio_moved"] == first.report.figures["moved"] == 0
        assert first.report.figures["kl_old"] == first.report.figures["clipped"] == 0
        assert second.report.figures["moved"] > 0.5
        assert (report.figures["kl"] == 0) == (i == 0)
    start = reports[0].figures
    assert start["kl"] == start["kl_k1"] == start["kl_k3"] == 0
    settings = learner.settings
    assert len(calls) == 3 * settings.epochs * settings.micro_batches


@MICRO
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_iteration_begins_with_ratios_of_1_and_the_first_with_a_kl_of_0(micro_batches, threads):
    """Without a forward of its own: the policy's forwards are those of its updates."""
    model = model_of(ops=kernels.on_threads(threads))
    check_exact_start(learner_of(model, inject=tool, micro_batches=micro_batches))


@pytest.mark.skipif(not gate.HAS_BF16, reason="this processor lacks AVX512-BF16")
@MICRO
def test_ratios_begin_at_1_in_bf16_too(micro_batches):
    check_exact_start(learner_of(PRECISIONS["bf16"](), micro_batches=micro_batches))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_ratios_of_the_reference_begin_at_1_up_to_rounding(precision):
    """Its products are NumPy's, whose bits depend on the number of rows."""
    config = GPTConfig(V, CONTEXT, 2, 2, 16, precision=precision)
    learner = learner_of(model_of(config, reference), micro_batches=2)
    reports, updates = run(learner, 2)
    for first in updates.of(learner.model)[::2]:
        assert abs(first.report.figures["kl_old"]) < (1e-4 if precision == "bf16" else 1e-12)
    assert abs(reports[0].figures["kl"]) < (1e-3 if precision == "bf16" else 1e-10)


@pytest.mark.parametrize("baseline", ["leave-one-out", "group"])
def test_ratios_begin_at_1_without_a_critic(baseline):
    learner = learner_of(baseline=baseline, micro_batches=2)
    assert learner.critic is None and learner.beside == {}
    check_exact_start(learner)


@MICRO
def test_the_score_stands_in_the_row_of_a_replys_last_token(micro_batches):
    """With gamma 0 an advantage is the reward of its own token, less its value, which is 0 here."""
    scores = iter(range(1, 100))

    def score(numbers, rollouts):
        seen.extend(rollouts)
        return np.array([float(next(scores)) for _ in rollouts]), {}

    seen = []
    own = dict(gamma=0.0, beta=0.0, whiten=False, epochs=1, critic_lr=0.0)
    learner = learner_of(score=score, inject=tool, head=0.0, micro_batches=micro_batches, **own)
    _, updates = run(learner, 4)
    assert {r.stop for r in seen} == {"end", "length"}
    for model, column in ((learner.model, "advantage"), (learner.critic, "return")):
        batches = [b for u in updates.of(model) for b in u.batches]
        found = list(replies_of(batches))
        assert len(found) == len(seen)
        for i, ((b, first, end), r) in enumerate(zip(found, seen)):
            chosen = np.flatnonzero(b.labels[first:end] >= 0)
            expected = np.zeros(end - first)
            expected[chosen[-1]] = i + 1
            assert b.columns[column][first:end].tolist() == expected.tolist()
            last = END if r.stop == "end" else r.ids[~r.injected][-1]
            assert b.labels[first + chosen[-1]] == last


@MICRO
def test_the_value_the_advantage_and_the_old_probability_of_a_token_share_its_row(micro_batches):
    own = dict(lr=0.0, critic_lr=0.0, whiten=False, beta=0.3, lam=0.8, gamma=0.9)
    own |= dict(micro_batches=micro_batches)
    learner = learner_of(inject=tool, reference=0.1, **own)
    [_, _], updates = run(learner, 2)
    policy, critic = (updates.of(model) for model in (learner.model, learner.critic))
    assert len(policy) == len(critic) == 4
    for ours, theirs in zip(policy, critic):
        rows = zip(replies_of(ours.batches), replies_of(theirs.batches))
        for (b, first, end), (c, start, stop) in rows:
            assert b.labels[first:end].tolist() == c.labels[start:stop].tolist()
            part = Batch.of([Example(b.tokens[first:end], b.labels[first:end])], V, CONTEXT)
            graded = part.graded
            nll, nll_ref = (m.forward(part).nll[graded] for m in (learner.model, learner.reference))
            assert np.array_equal(b.columns["nll_old"][first:end][graded], nll)
            value = learner.critic.forward(part).value[graded].astype(np.float64)
            assert np.array_equal(c.columns["value_old"][start:stop][graded], value)
            assert abs(value).min() > 0
            for name in ("nll_old", "advantage"):
                assert not b.columns[name][first:end][~graded].any()
            # The advantage, once more from its definition: sums of deltas.
            A = b.columns["advantage"][first:end][graded]
            assert c.columns["return"][start:stop][graded] == pytest.approx(A + value)
            after = np.append(value[1:], 0)
            deltas = -0.3 * (nll_ref.astype(np.float64) - nll) + 0.9 * after - value
            T = len(deltas)
            rest = [sum(0.72 ** (s - t) * deltas[s] for s in range(t, T)) for t in range(T)]
            score = (A - rest) / 0.72 ** np.arange(T - 1, -1, -1)
            threes = (b.labels[first:end][graded] == 3).sum()
            assert score == pytest.approx([score[0]] * T, abs=1e-4)
            assert abs(10 * (score[0] - threes) - round(10 * (score[0] - threes))) < 1e-3


def test_the_advantages_of_an_iteration_are_whitened_over_the_tokens_of_all_its_replies():
    for whitens in (True, False):
        learner = learner_of(whiten=whitens, micro_batches=3)
        _, updates = run(learner, 1)
        A = rows_of(updates.of(learner.model)[0].batches, "advantage")
        is_white = abs(A.mean()) < 1e-12 and abs(A.std() - 1) < 1e-12
        assert is_white == whitens
        R, old = (
            rows_of(updates.of(learner.critic)[0].batches, n) for n in ("return", "value_old")
        )
        # The critic learns the returns as they are, in either case.
        plain = R - old
        assert A == pytest.approx((plain - plain.mean()) / plain.std() if whitens else plain)


def test_ten_iterations_without_a_rate_leave_every_ratio_at_1_and_every_weight_as_it_was():
    learner = learner_of(steps=10, lr=0.0, critic_lr=0.0)
    before = [m.params.flat.tobytes() for m in (learner.model, learner.critic)]
    reports, updates = run(learner)
    assert len(reports) == 10
    for r in reports:
        for name in ("ratio_moved", "clipped", "kl_old", "kl", "kl_k1", "kl_k3"):
            assert r.figures[name] == 0, name
    assert all(u.report.figures["moved"] == 0 for u in updates.of(learner.model))
    assert [m.params.flat.tobytes() for m in (learner.model, learner.critic)] == before
    assert any(not np.array_equal(a.batches[0].tokens, b.batches[0].tokens)
               for a, b in zip(updates.every, updates.every[4:]))  # fmt: skip


def test_the_same_bits_on_1_2_and_3_threads():
    ends = []
    for threads in (1, 2, 3):
        learner = learner_of(model_of(ops=kernels.on_threads(threads)), micro_batches=2)
        reports, _ = run(learner, 3)
        adams = [learner.adam, learner.beside["critic"][1]]
        arenas = [learner.model.params, learner.critic.params, *(a.m for a in adams)]
        figures = [r.figures for r in reports]
        ends.append((figures, *(a.flat.tobytes() for a in arenas)))
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("clipping", CLIPS)
def test_an_update_is_the_same_however_its_replies_are_split(clipping):
    """Up to rounding, of the policy and of the critic, in the second update of an iteration."""
    found = []
    for micro_batches in (1, 2, 4, 8):
        learner = learner_of(micro_batches=micro_batches, clipping=clipping, ratio_clip=0.05)
        [report], updates = run(learner, 1)
        assert report.figures["clipped"] > 0.05
        counts = [len(u.batches) for u in updates.every]
        assert max(counts) == micro_batches and len(counts) == 4
        grads = [m.grads.flat.copy() for m in (learner.model, learner.critic)]
        found.append((report, grads))
    for report, grads in found[1:]:
        assert report.loss == pytest.approx(found[0][0].loss, rel=1e-5)
        assert report.figures == pytest.approx(found[0][0].figures, rel=1e-4, abs=1e-6)
        for ours, theirs in zip(grads, found[0][1]):
            assert distance(ours, theirs) <= 1e-4  # of float32, after an update


def policy_gradient(**changes):
    """(gradient of the policy in the first update, its loss, its batches) in an iteration."""
    learner = learner_of(epochs=1, clip=0.0, lr=0.0, **changes)
    [report], updates = run(learner, 1)
    return learner.model.grads.flat.astype(np.float64), report, updates.of(learner.model)[0].batches


def test_base_text_adds_its_own_gradient_and_leaves_that_of_the_replies():
    bare, alone, _ = policy_gradient(windows=())
    for windows in (((7, 2),), ((7, 9),)):
        silent, report, _ = policy_gradient(windows=windows, ptx=0.0)
        assert distance(silent, bare) <= 1e-5
        assert report.loss == pytest.approx(alone.loss, abs=1e-6)
        both, report, batches = policy_gradient(windows=windows, ptx=0.5)
        [batch] = batches
        texts = np.flatnonzero(batch.source == BASE)
        part = batch.slice(texts[0], texts[-1] + 1)
        assert len(texts) == len(part.source) == windows[0][1]
        model = model_of()
        step = train_step(model, AdamW(model), [part], Sft(), 0.0)
        assert distance(both - bare, 0.5 * model.grads.flat) <= 1e-4
        assert report.figures["base"] == pytest.approx(step.loss, rel=1e-6)
        assert report.loss - alone.loss == pytest.approx(0.5 * step.loss, rel=1e-5)


def test_every_update_reads_other_base_text():
    drawn, learner = [], learner_of(epochs=3)
    draw = learner.plan.draw
    learner.plan = dataclasses.replace(learner.plan, draw=lambda u: drawn.append(u) or draw(u))
    run(learner, 3)
    assert drawn == list(range(9))
    starts = {str(e.input_ids) for u in range(9) for e in draw(u)}
    assert len(starts) > 9


def test_text_of_a_world_is_base_text_too():
    objective = Ppo(base=1.0)
    columns = {n: np.zeros(4) for n in ("nll_old", "advantage")}
    ones = np.ones(4, np.int32)
    examples = [Example(ones, ones, source=s, columns=columns) for s in (BASE, WORLD, CONVERSATION)]
    assert objective.counts(Batch.of(examples, V, CONTEXT)) == {"replies": 4, "base": 8}


# --------------------------------------------------------------- baselines, and the price of KL


@pytest.mark.parametrize("replies", [2, 3])
@pytest.mark.parametrize("baseline", ["leave-one-out", "group"])
def test_without_a_critic_every_token_has_what_its_reply_is_worth_beside_the_others(
    baseline, replies
):
    own = dict(baseline=baseline, replies=replies, beta=0.3, whiten=False, lr=0.0, micro_batches=2)
    learner = learner_of(reference=0.2, **own)
    [report], updates = run(learner, 1)
    [update, *_] = updates.of(learner.model)
    found = list(replies_of(update.batches))
    asked = np.repeat(learner.task.pick(0), replies)
    worth, advantages = [], []
    for number, (b, first, end) in zip(asked, found):
        prompt = PROMPTS[number]
        assert b.tokens[first : first + len(prompt)].tolist() == prompt.tolist()
        part = Batch.of([Example(b.tokens[first:end], b.labels[first:end])], V, CONTEXT)
        nll, nll_ref = (m.forward(part).nll.sum() for m in (learner.model, learner.reference))
        score = (part.labels == 3).sum() + number / 10
        worth.append((score, 0.3 * (nll_ref - nll)))
        A = b.columns["advantage"][first:end][part.graded]
        assert len(set(A)) == 1
        advantages.append(A[0])
    scores, prices = (np.reshape(x, (-1, replies)) for x in zip(*worth))

    def beside(group):
        return np.array([w - np.mean(np.delete(group, i)) for i, w in enumerate(group)])

    for group, price, got in zip(scores, prices, np.reshape(advantages, (-1, replies))):
        expected = beside(group)
        if baseline == "group":
            expected = (group - group.mean()) / max(group.std(), 1e-9)
        expected = expected - beside(price)
        assert got == pytest.approx(expected, abs=1e-4)
    assert "explained" not in report.figures and "value_loss" not in report.figures


def test_a_baseline_of_others_needs_others():
    for baseline in ("leave-one-out", "group"):
        with pytest.raises(UsageError, match="needs at least 2"):
            PolicyTuning(baseline=baseline, replies=1)
    assert PolicyTuning(baseline="value", replies=1).replies == 1


@pytest.mark.parametrize("baseline", ["value", "leave-one-out", "group"])
def test_without_a_price_the_reference_moves_no_weight(baseline):
    ends = {}
    for beta in (0.0, 0.5):
        for away in (0.0, 0.3):
            learner = learner_of(reference=away, beta=beta, baseline=baseline)
            run(learner, 2)
            ends[beta, away] = learner.model.params.flat.tobytes()
    assert ends[0.0, 0.0] == ends[0.0, 0.3] and ends[0.5, 0.0] != ends[0.5, 0.3]


def test_a_price_pulls_the_policy_to_its_reference():
    def kl_after(beta):
        own = dict(steps=25, beta=beta, prompts=5, replies=4, windows=(), lr=1e-2)
        learner = learner_of(score=lambda n, r: (np.zeros(len(r)), {}), reference=0.1, **own)
        reports, _ = run(learner)
        return reports[0].figures["kl"], reports[-1].figures["kl"]

    first, last = kl_after(0.5)
    assert first > 0.3 and last < 0.5 * first


def test_the_kl_that_is_logged_is_exact_and_from_the_reference():
    learner = learner_of(reference=0.2, lr=0.0, epochs=1, micro_batches=2)
    [report], updates = run(learner, 1)
    batches = updates.of(learner.model)[0].batches
    kls, entropies, k1, k3, n = [], [], 0.0, 0.0, 0
    for b, first, end in replies_of(batches):
        cu, n = np.array([0, end - first], np.int32), n + 1
        rows = np.flatnonzero(b.labels[first:end] >= 0)
        p, q = (
            log_softmax(m.logits(b.tokens[first:end], cu, rows))
            for m in (learner.model, learner.reference)
        )
        kls += (np.exp(p) * (p - q)).sum(1).tolist()
        entropies += (-np.exp(p) * p).sum(1).tolist()
        u = (p - q)[range(len(rows)), b.labels[first:end][rows]]
        k1, k3 = k1 + u.sum(), k3 + (np.exp(-u) - 1 + u).sum()
    assert n == 6 and report.figures["kl"] == pytest.approx(sum(kls) / n, rel=1e-9)
    assert report.figures["entropy"] == pytest.approx(np.mean(entropies), rel=1e-9)
    assert report.figures["kl_k1"] == pytest.approx(k1 / n, rel=1e-4)
    assert report.figures["kl_k3"] == pytest.approx(k3 / n, rel=1e-4)
    assert len({report.figures[name] for name in ("kl", "kl_k1", "kl_k3")}) == 3


@pytest.mark.parametrize("away, target", [(0.3, 0.1), (0.0, 5.0)], ids=["above", "below"])
def test_the_price_of_kl_follows_its_target(away, target):
    own = dict(kl_target=target, horizon=100.0, beta=0.1)
    learner = learner_of(reference=away, **own)
    reports, _ = run(learner, 3)
    betas = [r.figures["beta"] for r in reports] + [learner.numbers["beta"]]
    assert betas[0] == 0.1
    for before, after, r in zip(betas, betas[1:], reports):
        assert after == next_beta(before, r.figures["kl"], target, 6, 100.0)
        assert (after > before) == (away > 0)


def test_without_a_target_the_price_stays():
    reports, _ = run(learner_of(reference=0.3, beta=0.1), 3)
    assert {r.figures["beta"] for r in reports} == {0.1}


def test_the_price_in_force_is_the_one_of_the_iteration():
    """A beta that has risen is used: the same weights with another beta give other advantages."""
    found = []
    for beta in (0.1, 5.0):
        learner = learner_of(reference=0.3, whiten=False, lr=0.0)
        learner.numbers["beta"] = beta
        _, updates = run(learner, 1)
        found.append(rows_of(updates.of(learner.model)[0].batches, "advantage"))
    assert distance(*found) > 0.1


# --------------------------------------------------------------------------- settings and figures


def test_each_model_is_trained_by_its_own_loss_rate_and_settings():
    own = dict(clipping="cispo", ratio_clip=0.3, ptx=0.7, value_clip=0.4, critic_lr=0.2, lr=0.1)
    learner = learner_of(schedule="linear", warmup=2, **own)
    _, updates = run(learner)
    policy, critic = (updates.of(m) for m in (learner.model, learner.critic))
    assert {u.objective for u in policy} == {Ppo(0.3, "cispo", 0.7)}
    assert {u.objective for u in critic} == {ClippedValue(0.4)}
    for updated, lr in ((policy, 0.1), (critic, 0.2)):
        expected = [schedule(i // 2, 4, lr, 2, "linear") for i in range(8)]
        assert [u.lr for u in updated] == expected
    assert learner.adam.steps == learner.beside["critic"][1].steps == 8
    assert not [u for u in updates.every if u.model is learner.reference]


@pytest.mark.parametrize("still", ["lr", "critic_lr"])
def test_policy_and_critic_learn_apart(still):
    learner = learner_of(**{"lr": 0.01, "critic_lr": 0.01, still: 0.0})
    models = {"lr": learner.model, "critic_lr": learner.critic}
    before = {name: m.params.flat.copy() for name, m in models.items()}
    reference = learner.reference.params.flat.copy()
    run(learner, 2)
    for name, m in models.items():
        assert np.array_equal(m.params.flat, before[name]) == (name == still)
    assert np.array_equal(learner.reference.params.flat, reference)


def test_the_reference_and_the_policy_are_two_models():
    learner = learner_of()
    assert learner.reference is not learner.model
    reports, _ = run(learner, 3)
    assert [r.figures["kl"] > 0 for r in reports] == [False, True, True]


def test_figures_describe_the_replies_and_the_critic():
    seen = []

    def score(numbers, rollouts):
        seen.extend(rollouts)
        return np.arange(6.0), {"even": (3, 6), "never": (0, 0)}

    learner = learner_of(score=score)
    [report], updates = run(learner, 1)
    figures = report.figures
    assert figures["reward"] == 2.5 and figures["even"] == 0.5 and "never" not in figures
    assert figures["length"] == np.mean([len(r.ids) for r in seen])
    assert figures["ended"] == np.mean([r.stop == "end" for r in seen])
    R, old = (rows_of(updates.of(learner.critic)[0].batches, n) for n in ("return", "value_old"))
    assert figures["explained"] == pytest.approx(1 - (R - old).var() / R.var())
    policy = updates.of(learner.model)
    assert report.loss == pytest.approx(np.mean([u.report.loss for u in policy]))
    assert report.tokens == sum(len(b.tokens) for u in policy for b in u.batches)
    assert report.graded == sum(int(b.graded.sum()) for u in policy for b in u.batches)
    assert report.norm == max(u.report.norm for u in policy)
    assert figures["value_loss"] == updates.of(learner.critic)[-1].report.figures["value_loss"]


def test_a_critic_that_knows_every_return_explains_all_of_them():
    """Scores that do not differ, and no KL: after some iterations the critic says what comes."""
    own = dict(steps=40, lr=0.0, critic_lr=1e-2, value_clip=0.0, schedule="constant", lam=1.0)
    learner = learner_of(score=lambda n, r: (np.float64(n), {}), windows=(), **own)
    reports, _ = run(learner)
    losses = [r.figures["value_loss"] for r in reports]
    assert np.mean(losses[-5:]) < 0.1 * np.mean(losses[:5])
    assert np.mean([r.figures["explained"] for r in reports[-5:]]) > 0.8


def test_every_prompt_is_asked_once_an_epoch_and_each_as_often_as_there_are_replies():
    asked = []

    def score(numbers, rollouts):
        assert [r.example.input_ids[: len(PROMPTS[i])].tolist() for i, r in zip(numbers, rollouts)]
        for i, r in zip(numbers, rollouts):
            assert r.example.input_ids[: len(PROMPTS[i])].tolist() == PROMPTS[i].tolist()
        asked.extend(numbers.tolist())
        return np.zeros(len(rollouts)), {}

    run(learner_of(score=score, steps=5), 5)
    assert asked[::2] == asked[1::2] and len(asked) == 5 * 6
    for epoch in range(3):
        assert sorted(asked[::2][5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]


@MICRO
def test_no_micro_batch_has_more_rows_than_the_plan_says(micro_batches):
    learner = learner_of(micro_batches=micro_batches, tokens=40)
    _, updates = run(learner)
    rows = max(len(b.tokens) for u in updates.every for b in u.batches)
    assert 0.1 * learner.plan.rows < rows <= learner.plan.rows


# ------------------------------------------------------------- an iteration that is not finite


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """An objective whose derivatives are not finite in some updates."""

    objective: object
    at: tuple
    calls: list

    def counts(self, batch):
        return self.objective.counts(batch)

    def __call__(self, batch, out, totals):
        self.calls.append(0)
        loss, *derivatives, figures = self.objective(batch, out, totals)
        factor = np.nan if len(self.calls) in self.at else 1
        return loss, *(None if d is None else factor * d for d in derivatives), figures


def poisoned(*at, **changes):
    learner = learner_of(**changes)
    plan, calls = learner.plan, []
    learner.plan = dataclasses.replace(plan, objective=Poisoned(plan.objective, at, calls))
    return learner


def state(learner):
    critic, adam = learner.beside["critic"]
    arenas = learner.model.params, learner.adam.m, learner.adam.v, critic.params, adam.m, adam.v
    return [a.flat.tobytes() for a in arenas]


def test_an_update_that_is_not_finite_ends_its_iteration_and_the_next_one_goes_on():
    """Update 4 is the second of iteration 2: the first stays, and the critic has none."""
    learner = poisoned(4, kl_target=0.1, horizon=100.0)
    told, states, betas = [], [], []
    take = learner.take

    def watched(step):
        try:
            return take(step)
        finally:
            states.append(state(learner))
            betas.append(learner.numbers["beta"])

    learner.take = watched
    reports = list(loop.train(learner, 3, told.append))
    assert [r.skipped for r in reports] == [False, True, False]
    [error] = told
    assert str(error).startswith("step 2, policy's update 4: the gradient's norm is nan")
    assert len(error.batches) == 1 and not error.lasting
    assert [a == b for a, b in zip(*states[:2])] == [False] * 3 + [True] * 3
    assert betas[1] == betas[0] != betas[2]
    assert len(learner.rows) == 2
    assert learner.steps == 3
    assert learner.adam.steps == learner.beside["critic"][1].steps == 6
    assert reports[2].figures["ratio_moved"] == 0


def test_without_skipping_it_ends_the_training_and_names_the_step():
    learner = poisoned(3)
    with pytest.raises(Diverged, match="step 2, policy's update 3: the gradient's norm is nan"):
        list(loop.train(learner, 3))
    assert learner.steps == 1


def test_a_critic_that_is_not_finite_is_named(monkeypatch):
    learner, calls = learner_of(), []
    monkeypatch.setattr(ppo, "ClippedValue", lambda clip: Poisoned(ClippedValue(clip), (3,), calls))
    with pytest.raises(Diverged, match="step 2, critic's update 3: the gradient's norm is nan"):
        list(loop.train(learner, 3))
    assert learner.adam.steps == 4  # the policy has had its two updates


def test_what_no_further_replies_can_mend_is_never_skipped():
    """Else the training would end by skipping all its iterations, with a model that is no good."""
    broken = learner_of()
    broken.model.params["wte"][:] = np.nan
    with pytest.raises(Diverged, match="step 1: the logits of slot") as error:
        list(loop.train(broken, 3, lambda error: None))
    assert error.value.lasting
    deaf = learner_of()
    deaf.critic.params["value.b"][:] = np.inf
    with pytest.raises(Diverged, match="step 1: the value_old of a reply is inf"):
        list(loop.train(deaf, 3, lambda error: None))
    for score in (np.inf, np.nan):
        bad = learner_of(score=lambda n, r, s=score: (np.full(len(r), s), {}))
        before = state(bad)
        with pytest.raises(Diverged, match=f"step 1: the score of a reply is {score}"):
            list(loop.train(bad, 3, lambda error: None))
        assert state(bad) == before


def test_beta_follows_the_exact_kl_and_not_an_estimate():
    """At a target that is just the KL, beta stays."""
    seen = learner_of(reference=0.3, beta=0.1).take(0).figures
    assert abs(seen["kl_k1"] / seen["kl"] - 1) > 0.01
    learner = learner_of(reference=0.3, beta=0.1, kl_target=seen["kl"], horizon=10.0)
    learner.take(0)
    assert learner.numbers["beta"] == pytest.approx(0.1, rel=1e-12)
