"""What each token of a reply is worth, from one score for the whole reply: rewards, advantages, and
estimates of the KL divergence. NumPy only.

A reply has T graded tokens: those that the model chose, its end among them. Arrays over the tokens
of one reply are (T,). Token t was chosen in state t; its nll, its value and its advantage stand in
the same row of a batch."""

import numpy as np


def token_rewards(score: float, nll, nll_ref, beta: float) -> np.ndarray:
    """The reward (T,) of each token: -beta (ln pi - ln pi_ref), a price for leaving the reference,
    and at the last token the score of the reply.

    nll, nll_ref (T,): of the tokens under the policy that wrote them and under the reference."""
    rewards = -beta * k1(nll, nll_ref)
    rewards[-1] += score
    return rewards


def gae(rewards, values, gamma: float = 1.0, lam: float = 0.95) -> np.ndarray:
    """The advantage (T,) of each token: generalised advantage estimation (Schulman et al. 2016).

        delta_t = r_t + gamma v_{t+1} - v_t        A_t = delta_t + gamma lam A_{t+1}

    values (T,): of the states before each token. After the last token both v and A are 0. The
    return, which the value should predict, is A + v. lam = 1 gives (the sum of later rewards) - v,
    and lam = 0 delta alone."""
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    deltas = rewards + gamma * np.append(values[1:], 0.0) - values
    found, later = np.empty(len(deltas)), 0.0
    for t in range(len(deltas) - 1, -1, -1):
        found[t] = later = deltas[t] + gamma * lam * later
    return found


def leave_one_out(scores) -> np.ndarray:
    """Each score minus the mean of the others (RLOO, Ahmadian et al. 2024). scores (P, K): of at
    least 2 replies to each of P prompts."""
    scores = np.asarray(scores, np.float64)
    others = (scores.sum(axis=1, keepdims=True) - scores) / (scores.shape[1] - 1)
    return scores - others


def within_group(scores) -> np.ndarray:
    """(score - mean) / standard deviation, over the replies to each prompt (GRPO, Shao et al.
    2024). scores (P, K). Replies of equal score have 0."""
    scores = np.asarray(scores, np.float64)
    return np.apply_along_axis(whiten, 1, scores)


def whiten(x) -> np.ndarray:
    """(x - mean) / standard deviation of an array (n,), so of mean 0 and deviation 1. Zeros if all
    are equal."""
    x = np.asarray(x, np.float64)
    spread = x.std()
    # Rounding gives equal numbers a deviation of some 1e-16 of their size.
    return (x - x.mean()) / spread if spread > 1e-12 * np.abs(x).max(initial=0.0) else 0.0 * x


def next_beta(beta: float, kl: float, target: float, replies: int, horizon: float) -> float:
    """The price of KL for the next iteration (Ziegler et al. 2019): it rises while the KL per reply
    is above its target, and falls while it is below, by at most 0.2 replies / horizon of itself."""
    return beta * (1 + np.clip(kl / target - 1, -0.2, 0.2) * replies / horizon)


# Estimates of KL(pi || ref) from tokens that pi wrote (Schulman 2020). The mean of each is the KL.
# u = ln pi - ln ref of a token. k1 can be negative, k3 cannot. The KL that is logged is neither of
# them: it is exact over the vocabulary.


def k1(nll, nll_ref) -> np.ndarray:
    """u: what the reward subtracts, because the gradient of its mean is that of the KL."""
    return np.asarray(nll_ref, np.float64) - np.asarray(nll, np.float64)


def k3(nll, nll_ref) -> np.ndarray:
    """e^-u - 1 + u."""
    u = k1(nll, nll_ref)
    return np.expm1(-u) + u
