"""PPO in a world whose optimum is known, and beside PyTorch.

Two tokens and replies of two of them make four replies. The policy that a reward with a price of KL
wants is pi_ref e^(reward / beta) / Z."""

import numpy as np
import pytest
from test_preferences import BOTH, REFERENCE, REPLIES, Table

from pysft import IGNORE
from pysft.batch import BASE, CONVERSATION, Batch, Example, Output
from pysft.nn import kernels
from pysft.nn.gradcases import random_batch
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.training.advantages import gae, leave_one_out, token_rewards
from pysft.training.loop import train_step
from pysft.training.objectives import CLIPS, ClippedValue, Ppo

PROMPT, BETA = 2, 0.5
KERNELS = kernels.on_threads(1)
REWARDS = np.log([1.0, 2, 3, 4])  # of REPLIES


def best(reference):
    """The probabilities of REPLIES in the policy of the reward."""
    weights = reference * np.exp(REWARDS / BETA)
    return weights / weights.sum()


# ---------------------------------------------- all replies, each with its own probability


def judged_replies(policy, reference):
    """(nll, nll_ref (4,2)) of each token of REPLIES."""
    found = []
    for table in (policy, reference):
        logp = table.logp()
        found.append(-np.array([[logp[PROMPT, a], logp[a, b]] for a, b in REPLIES]))
    return found


def by_critic(policy, reference):
    """(4,2): generalised advantages with the exact values of the two states of each reply, and the
    probability of each reply."""
    nll, nll_ref = judged_replies(policy, reference)
    p = np.exp(-nll.sum(1))
    rewards = [token_rewards(r, *row, BETA) for r, row in zip(REWARDS, zip(nll, nll_ref))]
    later = np.array(rewards)[:, ::-1].cumsum(1)[:, ::-1]  # the sum of a token's and later rewards
    after = [later[i : i + 2, 1] @ np.exp(-nll[i : i + 2, 1]) for i in (0, 2)]  # first token 0, 1
    values = [[p @ later[:, 0], after[a]] for a, _ in REPLIES]
    return np.array([gae(r, v, 1.0, 0.7) for r, v in zip(rewards, values)]), p


def by_others(policy, reference):
    """(4,2): the mean advantage of each reply beside one other, drawn by the policy too."""
    nll, nll_ref = judged_replies(policy, reference)
    p = np.exp(-nll.sum(1))
    worth = REWARDS - BETA * (nll_ref - nll).sum(1)
    each = [sum(q * leave_one_out([[w, v]])[0, 0] for q, v in zip(p, worth)) for w in worth]
    return np.repeat(np.array(each)[:, None], 2, axis=1), p


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("advantages", [by_critic, by_others])
def test_ppo_on_all_replies_reaches_the_policy_of_the_reward(advantages, kind):
    """In the mean over four replies, an advantage counts 4 times the probability of its reply. Two
    updates for each set of advantages, so ratios move."""
    policy, reference = Table(REFERENCE), Table(REFERENCE)
    expected = best(reference.replies())
    assert np.abs(reference.replies() / expected - 1).max() > 0.5
    moved = 0
    for _ in range(400):
        A, p = advantages(policy, reference)
        nll, _ = judged_replies(policy, reference)
        examples = [
            Example(
                np.array([PROMPT, a], np.int32),
                np.array([a, b], np.int32),
                columns={"nll_old": nll[i], "advantage": 4 * p[i] * A[i]},
            )
            for i, (a, b) in enumerate(REPLIES)
        ]
        batch = Batch.of(examples, 3, 2)
        for _ in range(2):
            policy.descend(Ppo(0.2, kind), batch, lr=1.0)
        rows = -policy.logp()[batch.tokens, batch.labels]
        figures = Ppo()(batch, Output(rows), Ppo().counts(batch))[3]
        moved += figures["moved"][0]
    assert moved > 100
    assert policy.replies() == pytest.approx(expected, rel=1e-2)


# ------------------------------------------------------------------------------------ PyTorch

V = 7
LENGTHS, SOURCES = [5, 3, 6, 4, 3], [CONVERSATION] * 3 + [BASE] * 2


def drawn(dtype, outputs):
    """(a model, a batch whose columns are around what it gives, so that clips are active)."""
    model = GPT(GPTConfig(V, 8, 2, 2, 8, outputs=outputs), KERNELS, np.random.default_rng(0), dtype)
    g = np.random.default_rng(1)
    for _, w in model.params.items():
        w += (0.2 * g.standard_normal(w.shape)).astype(dtype)
    lengths, sources = (LENGTHS, SOURCES) if outputs == "nll" else (LENGTHS[:3], SOURCES[:3])
    batch = random_batch(np.random.default_rng(0), lengths, V, sources=sources)
    out, n = model.forward(batch), len(batch.tokens)
    given = np.float64(out.nll if outputs == "nll" else out.value)
    near = np.where(np.arange(n) % 3, 0.4, 0.08) * g.choice([-1, 1], n)
    if outputs == "nll":
        columns = {"nll_old": given + near, "advantage": g.standard_normal(n)}
    else:
        columns = {"value_old": given + near, "return": given + g.standard_normal(n)}
    batch.columns.update(columns)
    return model, batch


def padded(torch, batch, column, fill):
    """(S,T): the rows of each sequence, padded."""
    found = np.full((len(batch.lengths), batch.lengths.max()), fill, column.dtype)
    for s, (a, b) in enumerate(zip(batch.cu_seqlens, batch.cu_seqlens[1:])):
        found[s, : b - a] = column[a:b]
    return torch.tensor(found)


def compare(model, report, loss, p, dtype):
    loss.backward()
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert report.loss == pytest.approx(loss.item(), rel=tolerance)
    for tensor, g in model.grads.items():
        theirs = p[tensor].grad.numpy()
        scale = np.linalg.norm(model.grads.flat)
        assert np.linalg.norm(g - theirs) <= tolerance * scale, tensor


@BOTH
@pytest.mark.parametrize("kind", ["ppo", "cispo", "none"])
def test_the_policys_loss_and_every_gradient_are_pytorchs(kind, dtype):
    """CISPO by its definition: the clipped ratio is a constant weight of the log-probability. Its
    loss is another number with the same gradient."""
    torch = pytest.importorskip("torch")
    from test_torch import F, hidden_of, weights_of

    model, batch = drawn(dtype, "nll")
    objective = Ppo(0.2, kind, 0.6)
    report = train_step(model, AdamW(model), [batch], objective, 0.0)
    assert 0.2 < report.figures["clipped"] < 0.9
    p = weights_of(model)
    labels = padded(torch, batch, batch.labels, IGNORE).long()
    hidden = hidden_of(p, model.config, padded(torch, batch, batch.tokens, 0).long())
    logp = -F.cross_entropy(
        (hidden @ p["head"].T).transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
    )
    old, A = (
        padded(torch, batch, batch.columns[n].astype(dtype), 0) for n in ("nll_old", "advantage")
    )
    graded = labels != IGNORE
    ratio = (logp + old).exp()
    if kind == "ppo":
        gains = torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A)
    elif kind == "cispo":
        gains = ratio.detach().clamp(max=1.2) * A * logp
    else:
        gains = ratio * A
    base = -logp[3:][graded[3:]].mean()
    loss = -gains[:3][graded[:3]].mean() + 0.6 * base
    if kind == "cispo":
        loss = loss + (report.loss - loss.item())
    compare(model, report, loss, p, dtype)


@BOTH
@pytest.mark.parametrize("clip", [0.2, 0.0])
def test_the_critics_loss_and_every_gradient_are_pytorchs(clip, dtype):
    torch = pytest.importorskip("torch")
    from test_torch import hidden_of, weights_of

    model, batch = drawn(dtype, "value")
    report = train_step(model, AdamW(model), [batch], ClippedValue(clip), 0.0)
    p = weights_of(model)
    hidden = hidden_of(p, model.config, padded(torch, batch, batch.tokens, 0).long())
    value = hidden @ p["value.w"][0] + p["value.b"]
    old, R = (
        padded(torch, batch, batch.columns[n].astype(dtype), 0) for n in ("value_old", "return")
    )
    graded = padded(torch, batch, batch.labels, IGNORE) != IGNORE
    losses = (value - R) ** 2
    if clip:
        near = old + (value - old).clamp(-clip, clip)
        assert (losses < (near - R) ** 2)[graded].any()  # the clip is active somewhere
        losses = torch.maximum(losses, (near - R) ** 2)
    compare(model, report, losses[graded].mean() / 2, p, dtype)
