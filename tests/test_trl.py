"""TRL as independent evidence: the losses of its DPO, reward and GRPO trainers, on the
log-probabilities and values that our model gave, and their derivatives by these.

No trainer is made, because that needs a data set and a tokenizer. Its loss is called on a stand-in
that has the settings which the loss reads. TRL is not installed by the Makefile: `pip install trl`
(these tests were written for 1.16)."""

import dataclasses
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")

from test_preferences import PAIRS, RANKINGS, drawn, model_of  # noqa: E402

from pysft.batch import Output  # noqa: E402
from pysft.training.objectives import BradleyTerry, Dpo, Ppo  # noqa: E402

ONE = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)


def columns(x, batch, sequences):
    """(S,T): the rows of these sequences, padded with 0."""
    found = np.zeros((len(sequences), batch.lengths.max()), x.dtype)
    for row, s in zip(found, sequences):
        row[: batch.lengths[s]] = x[batch.cu_seqlens[s] : batch.cu_seqlens[s + 1]]
    return torch.tensor(found)


def trl_dpo(kind, smoothing, beta, logp, reference, mask):
    """TRL's loss of pairs. Of logp, reference and mask (2P,T) the chosen replies are the first P,
    and column t belongs to token t + 1."""
    settings = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=ONE,
        beta=beta,
        loss_types=[kind],
        loss_weights=[1.0],
        label_smoothing=smoothing,
        f_divergence_type="reverse_kl",
        aux_loss_enabled=False,
        use_weighting=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    whole = torch.cat([torch.zeros(len(mask), 1, dtype=torch.int64), mask.long()], dim=1)
    chosen, rejected = (reference * mask).sum(1).chunk(2)
    inputs = dict(input_ids=whole, attention_mask=whole, completion_mask=whole)
    inputs |= dict(ref_chosen_logps=chosen, ref_rejected_logps=rejected)
    found = SimpleNamespace(log_probs=logp * mask, entropy=logp, mean_logits=logp, is_top1=mask)
    loss = trl.DPOTrainer._compute_loss(settings, lambda **_: found, inputs, False)
    return loss, settings._metrics["train"]


@pytest.mark.parametrize(
    "kind, smoothing, theirs",
    [("sigmoid", 0.0, "sigmoid"), ("sigmoid", 0.2, "aot"), ("ipo", 0.0, "ipo")],
    ids=["sigmoid", "smoothing", "ipo"],
)
def test_dpo_is_trls(kind, smoothing, theirs):
    """TRL's ipo is the mean over a reply's tokens too. Its "robust" is another smoothing, divided
    by 1 - 2 smoothing. Ours is in its "aot", which sorts the pairs of a batch: here each pair is a
    batch of its own."""
    batch, objective = drawn(PAIRS).slice(0, 4), Dpo(0.3, kind, smoothing, base=0.0)
    out = model_of("nll").forward(batch)
    loss, dnll, _, figures = objective(batch, out, objective.counts(batch))
    losses, gradients, seen = [], np.zeros_like(dnll), []
    for pair in ([0, 1], [2, 3]):
        logp = columns(-out.nll, batch, pair).requires_grad_()
        reference = columns(-batch.columns["reference"], batch, pair)
        mask = columns(batch.graded, batch, pair)
        part, metrics = trl_dpo(theirs, smoothing, 0.3, logp, reference, mask)
        part.backward()
        for s, row in zip(pair, logp.grad.numpy()):
            a, b = batch.cu_seqlens[s : s + 2]
            gradients[a:b] = -row[: b - a] / 2  # the mean of two pairs, by nll = -logp
        losses.append(part.item())
        seen.append(metrics)
    assert loss == pytest.approx(np.mean(losses), rel=1e-13)
    assert np.abs(dnll).max() > 0 and dnll == pytest.approx(gradients, rel=1e-12)
    assert figures["accuracy"][0] == sum(m["rewards/accuracies"][0] for m in seen)
    if kind == "sigmoid":  # with ipo, their margins are those of the sums
        margins = sum(m["rewards/margins"][0] for m in seen)
        assert figures["margin"][0] == pytest.approx(margins, rel=1e-12)


def test_the_reward_loss_of_pairs_is_trls():
    """On the last ranking but one, whose two replies are a pair."""
    batch, objective = drawn(RANKINGS).slice(3, 5), BradleyTerry()
    ends = batch.cu_seqlens[1:] - 1
    out = model_of("value").forward(batch)
    loss, _, dvalue, figures = objective(batch, out, objective.counts(batch))
    better_first = ends[np.argsort(batch.columns["rank"][ends])]
    value = torch.tensor(out.value[better_first, None], requires_grad=True)
    settings = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=ONE,
        args=SimpleNamespace(center_rewards_coefficient=None),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(2, 1)}
    model = lambda **_: SimpleNamespace(logits=value)  # noqa: E731
    theirs = trl.RewardTrainer.compute_loss(settings, model, inputs)
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), rel=1e-13)
    assert dvalue[better_first] == pytest.approx(value.grad.numpy()[:, 0], rel=1e-12)
    metrics = settings._metrics["train"]
    assert figures["accuracy"][0] == metrics["accuracy"][0]
    assert figures["margin"][0] == pytest.approx(metrics["margin"][0], rel=1e-12)


@pytest.mark.parametrize("kind, theirs", [("ppo", "bnpo"), ("cispo", "cispo")])
def test_the_derivatives_of_ppo_are_those_of_trls_grpo(kind, theirs):
    """Without a KL, which we charge to the reward. TRL's "bnpo" is the mean over all tokens. The
    value of its cispo is another one, ours is the integral of the gradient."""
    g, clip = np.random.default_rng(0), 0.2
    drawn_batch = drawn(PAIRS).slice(0, 4)
    nll = np.where(drawn_batch.graded, g.exponential(2.0, len(drawn_batch.tokens)), 0.0)
    moved, advantage = 0.3 * g.standard_normal(len(nll)), g.standard_normal(len(nll))
    batch = dataclasses.replace(
        drawn_batch, columns={"nll_old": nll + moved, "advantage": advantage}
    )
    objective = Ppo(clip, kind)
    loss, dnll, _, figures = objective(batch, Output(nll), objective.counts(batch))
    assert 0 < figures["clipped"][0] < figures["clipped"][1]
    every = range(len(batch.lengths))
    logp = columns(-nll, batch, every).requires_grad_()
    mask = columns(batch.graded, batch, every)
    old, A = (columns(x, batch, every) for x in (-batch.columns["nll_old"], advantage))
    settings = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(**vars(ONE), num_processes=1, reduce=lambda x, reduction: x),
        args=SimpleNamespace(delta=None, steps_per_generation=1),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        loss_type=theirs,
        epsilon_low=clip,
        epsilon_high=1 + clip if kind == "cispo" else clip,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
    )
    inputs = dict(prompt_ids=mask, prompt_mask=mask, completion_ids=mask, completion_mask=mask)
    inputs |= dict(advantages=A, old_per_token_logps=old, num_items_in_batch=mask.sum())
    found = trl.GRPOTrainer._compute_loss(settings, None, inputs)
    found.backward()
    gradient = -logp.grad.numpy()[mask.numpy().astype(bool)]  # by nll = -logp
    assert dnll[batch.graded] == pytest.approx(gradient, rel=1e-12)
    assert not dnll[~batch.graded].any()
    if kind == "ppo":
        assert loss == pytest.approx(found.item(), rel=1e-13)
