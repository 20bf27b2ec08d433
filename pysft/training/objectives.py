"""Objectives: from what the model gives for each row to a loss and its derivatives by that.

    loss, dnll, dvalue, figures = objective(batch, out, totals)

An objective is a small dataclass of its settings. Two stages differ in their data (stages.py) and
in their objective. Pre-training and fine-tuning both use Sft; what their labels grade differs.

    batch             a batch.Batch: labels, weights, groups, and the columns that the stage adds
    out.nll (N,)      the negative log-likelihood of each row's label in nats; 0 if it has none
    out.value (N,)    the value of each wanted row; None if the model has no value head
    totals            {term: number}: objective.counts(batch), added up over all micro-batches of
                      the step. A term of the loss is divided by its total, so a step gives the
                      same update however it is split, up to rounding
    loss              this batch's share of the step's loss
    dnll, dvalue (N,) the derivatives of the loss by nll and value, in their precision; None is zero
    figures           {name: (sum, count)} for the log, which shows sum / count over the whole step

This module imports NumPy and dataclasses only."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sft:
    """Mean loss per graded token: loss = sum_n counts[n] nll[n] / total. The total does not depend
    on nll, so dnll[n] = counts[n] / total.

    counts[n] is the weight of row n's sequence if the row is graded, else 0. In pre-training every
    row is graded; in fine-tuning the rows of the replies are, and every row of base text. The
    figures are the mean nll of each source ("base", "conversation", "world"), without weights."""

    def counts(self, batch) -> dict[str, float]:
        """Return {"graded": sum of the weights of the graded rows}."""
        return {"graded": float(batch.counts.sum())}

    def __call__(self, batch, out, totals):
        nll, total = out.nll, totals["graded"]
        loss = float(np.dot(batch.counts, nll.astype(np.float64))) / total
        dnll = (batch.counts / total).astype(nll.dtype)
        return loss, dnll, None, nll_by_source(batch, nll)


def nll_by_source(batch, nll) -> dict[str, tuple[float, int]]:
    """Return {source: (sum of the nll of its graded rows, their number)}."""
    first = batch.cu_seqlens[:-1]
    sums = np.add.reduceat(nll, first, dtype=np.float64)
    counts = np.add.reduceat(batch.graded, first, dtype=np.int64)
    found = {}
    for source in sorted(set(batch.source.tolist())):
        here = batch.source == source
        found[source] = float(sums[here].sum()), int(counts[here].sum())
    return found


TIES = ("none", "half", "davidson")  # what BradleyTerry makes of two replies of equal rank


@dataclass(frozen=True)
class BradleyTerry:
    """A reward model's loss on rankings: p(reply i is better than reply j) = sigmoid(v[i] - v[j]).

    A ranking is a group: its sequences are replies to one prompt. v is the value in the last row of
    each, which must be wanted. The column "rank" says in that row which reply is better: the lower
    one. A ranking counts once, however many pairs it has, because its pairs are not independent of
    each other (Ouyang et al. 2022, section 3.5):

        loss = sum over rankings of (mean over its pairs of -ln p(better over worse)) / their number

    With d = v[i] - v[j], the slope of -ln sigmoid(d) by d is sigmoid(d) - 1. It is the gradient of
    v[i], and its negative that of v[j]. A reply in several pairs gets the sum of what they give it,
    each times its share: 1 / (pairs of the ranking) / (number of rankings).

    ties: what a pair of equal ranks counts. "none": nothing. "half": the mean of both orders.
    "davidson": it has a probability of its own (Davidson 1970). A tie has
    nu / (e^(d/2) + e^(-d/2) + nu), i is better with e^(d/2) / the same, and nu is above 0.

    A ranking without any pair counts nothing. The weights of sequences are not read. The figures,
    over the pairs of different ranks: the share whose d has the right sign, where d = 0 counts a
    half, and the mean of d."""

    ties: str = "none"
    nu: float = 1.0

    def counts(self, batch) -> dict[str, float]:
        """Return {"rankings": the number of rankings with a pair that counts}.

        A ValueError if the last row of a reply in a pair is not wanted: its value would be 0."""
        i, j, _, group = self._pairs(batch)
        rows = np.union1d(i, j)
        if not batch.wanted[rows].all():
            row = rows[~batch.wanted[rows]][0]
            raise ValueError(f"BradleyTerry: row {row}, the last one of a reply, is not wanted")
        return {"rankings": float(len(np.unique(group)))}

    def _pairs(self, batch):
        """Return four arrays with an entry for each pair that counts: the last row of i and of j,
        whether they tie, and their group. Reply i is not worse than reply j."""
        ends = batch.cu_seqlens[1:] - 1
        rank = batch.columns["rank"][ends]
        i, j = np.triu_indices(len(ends), 1)
        i, j = np.where(rank[i] <= rank[j], (i, j), (j, i))
        ties = rank[i] == rank[j]
        counted = batch.group[i] == batch.group[j]
        if self.ties == "none":
            counted &= ~ties
        i, j = i[counted], j[counted]
        return ends[i], ends[j], ties[counted], batch.group[i]

    def __call__(self, batch, out, totals):
        i, j, ties, group = self._pairs(batch)
        value = out.value.astype(np.float64)
        d = value[i] - value[j]
        if self.ties == "davidson":
            log_nu = np.log(self.nu)
            whole = np.logaddexp(np.logaddexp(d / 2, -d / 2), log_nu)  # ln(e^(d/2) + e^(-d/2) + nu)
            losses = whole - np.where(ties, log_nu, d / 2)
            slopes = (np.exp(d / 2 - whole) - np.exp(-d / 2 - whole)) / 2 - np.where(ties, 0, 0.5)
        else:
            wins = np.where(ties, 0.5, 1.0)
            losses = wins * np.logaddexp(0, -d) + (1 - wins) * np.logaddexp(0, d)
            slopes = sigmoid(d) - wins
        share = 1 / np.bincount(group)[group] / totals["rankings"]
        dvalue = np.zeros_like(value)
        np.add.at(dvalue, i, share * slopes)
        np.add.at(dvalue, j, -share * slopes)
        ordered = d[~ties]
        figures = {"accuracy": accuracy(ordered), "margin": (float(ordered.sum()), len(ordered))}
        return float(share @ losses), None, dvalue.astype(out.value.dtype), figures


@dataclass(frozen=True)
class Dpo:
    """Direct preference optimisation (Rafailov et al. 2023): a chosen reply becomes likelier than a
    rejected one, compared with a reference.

    A pair is a group of two sequences, the chosen one first, and the column "reference" has the nll
    of the reference for each row. With s = sum of (reference - nll) over the graded rows of a reply
    and h = beta (s of the chosen - s of the rejected):

        loss = sum over pairs of (-(1 - smoothing) ln sigmoid(h) - smoothing ln sigmoid(-h)) / pairs

    Without smoothing it is the loss of BradleyTerry with beta s for v. The policy with the largest
    mean of reward - beta KL is proportional to the reference times exp(reward / beta). So its
    reward for a reply is beta s plus a number that all replies to a prompt share. It cancels in a
    difference.

    Without smoothing the slope by h is -sigmoid(-h) / pairs. dpo_backward in
    lessons/exercises/dpo.py derives dnll from it.

    kind "ipo" (Azar et al. 2024): s is the mean over those rows instead of the sum, and a pair's
    loss is (s of the chosen - s of the rejected - 1 / (2 beta))^2 = ((h - 1/2) / beta)^2. It has no
    smoothing.

    nll, base: add so much of the mean nll of the chosen replies' graded rows, and of the graded
    rows of base text. Base text is every sequence that is no conversation: text of an invented
    world too. It stands beside the pairs in sequences of its own. Each mean has its own total. The
    weights of sequences are not read.

    The figures: the share of pairs with h > 0, where h = 0 counts a half (so it is exactly 1/2
    where the policy is its reference), and the mean of h; how many nats more a chosen and a
    rejected reply have than under the reference (the sums s, with "ipo" too); and the two means of
    nll."""

    beta: float = 0.1
    kind: str = "sigmoid"
    smoothing: float = 0.0
    nll: float = 0.0
    base: float = 1.0

    def counts(self, batch) -> dict[str, float]:
        """Return the numbers of "pairs", and of graded rows of "chosen" replies and of "base"
        text.

        A ValueError if a group is neither a pair of conversations nor one sequence of other text,
        or if a sequence has no graded row."""
        _refuse_no_pairs(batch)
        chosen, _ = _pairs_of(batch)
        rows = _averaged_rows(batch)
        return {"pairs": float(len(chosen))} | {term: float(r.sum()) for term, r in rows.items()}

    def __call__(self, batch, out, totals):
        nll, first = out.nll.astype(np.float64), batch.cu_seqlens[:-1]
        chosen, rejected = _pairs_of(batch)
        gained = np.where(batch.graded, batch.columns["reference"] - nll, 0.0)
        sums = np.add.reduceat(gained, first)
        is_ipo = self.kind == "ipo"
        lengths = np.add.reduceat(batch.graded, first, dtype=np.int64)
        part = 1 / lengths if is_ipo else np.ones(len(lengths))  # of s that a row's nats are
        s = part * sums
        h = self.beta * (s[chosen] - s[rejected])
        if is_ipo:
            losses, slopes = ((h - 0.5) / self.beta) ** 2, 2 * (h - 0.5) / self.beta**2
        else:
            e = self.smoothing
            losses = (1 - e) * np.logaddexp(0, -h) + e * np.logaddexp(0, h)
            slopes = sigmoid(h) - (1 - e)
        ds = np.zeros(len(lengths))
        ds[chosen] = self.beta * slopes / totals["pairs"]
        ds[rejected] = -ds[chosen]
        dnll = np.where(batch.graded, batch.per_row(-part * ds), 0.0)
        loss = float((losses / totals["pairs"]).sum())
        figures = {
            "accuracy": accuracy(h),
            "margin": (float(h.sum()), len(h)),
            "chosen_logp": (float(sums[chosen].sum()), len(h)),
            "rejected_logp": (float(sums[rejected].sum()), len(h)),
        }
        shares = {"chosen": self.nll, "base": self.base}
        for term, rows in _averaged_rows(batch).items():
            nats, count = float(nll[rows].sum()), int(rows.sum())
            figures[term] = nats, count
            if count:
                loss += shares[term] * nats / totals[term]
                dnll += shares[term] * rows / totals[term]
        return loss, dnll.astype(out.nll.dtype), None, figures


def sigmoid(x):
    """1 / (1 + e^-x), without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def accuracy(differences) -> tuple[float, int]:
    """Return (wins + ties / 2, their number). A difference above 0 is a win, 0 is a tie."""
    return float(np.heaviside(differences, 0.5).sum()), len(differences)


def _refuse_no_pairs(batch) -> None:
    """Raise a ValueError as Dpo.counts says. It is a mistake of the stage that made the batch, and
    no fault of a file: a third reply would be in two pairs, and a single one in none."""
    sizes, is_reply = np.bincount(batch.group)[batch.group], batch.source == "conversation"
    bad = np.flatnonzero(sizes != np.where(is_reply, 2, 1))
    if len(bad):
        s = bad[0]
        raise ValueError(
            f"Dpo: sequence {s} ({batch.source[s]}) is in a group of {sizes[s]}; expected two"
            " conversations, or one sequence of other text"
        )
    graded = np.logical_or.reduceat(batch.graded, batch.cu_seqlens[:-1])
    if not graded.all():
        raise ValueError(f"Dpo: sequence {np.flatnonzero(~graded)[0]} has no graded row")


def _pairs_of(batch) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the first and of the second sequence of each pair. No group has
    three (_refuse_no_pairs)."""
    first = np.flatnonzero(batch.group[1:] == batch.group[:-1])
    return first, first + 1


def _averaged_rows(batch) -> dict[str, np.ndarray]:
    """Return the graded rows (N,) bool of the "chosen" replies and of "base" text."""
    is_chosen = np.zeros(len(batch.group), bool)
    is_chosen[_pairs_of(batch)[0]] = True
    sequences = {"chosen": is_chosen, "base": batch.source != "conversation"}
    return {term: batch.per_row(here) & batch.graded for term, here in sequences.items()}


CLIPS = ("ppo", "cispo", "none")  # what Ppo makes of a ratio that has left its bounds


@dataclass(frozen=True)
class Ppo:
    """The policy's loss on replies that it wrote before its last updates (Schulman et al. 2017).

    Row by row, with the column "nll_old" of the policy that wrote the reply, the column
    "advantage" A, and ratio = exp(nll_old - nll), how much likelier the token has become:

        ppo     max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip)): nothing is gained by moving a
                ratio further than `clip` in the direction of A
        cispo   -A ratio up to ratio = c = 1 + clip, and beyond it -A c (1 + ln(ratio / c)): the
                gradient goes on with the weight c instead of the ratio (MiniMax 2025)
        none    -A ratio

    loss = mean over the graded rows of replies + base * (mean nll of the graded rows of base text).
    Base text (ptx of Ouyang et al. 2022) is every sequence that is no conversation; its mean has a
    total of its own. The weights of sequences are not read.

    The gradient of -A ratio by nll is A ratio. At the first update after the replies were written
    every ratio is 1, so it is the advantage alone, whatever the kind. That is the policy gradient:
    dp = p d(ln p), so the gradient of the mean score, sum p R, is the mean of R d(ln p). The mean
    of b d(ln p) is b d(sum p) = 0, so a baseline b leaves the gradient as it is.

    The figures: the share of rows whose ratio is outside 1 - clip to 1 + clip ("clipped"), and of
    those whose ratio is not exactly 1 ("moved"), the estimate k3 of the KL divergence of the old
    policy from this one in nats a token ("kl_old"), and the nll of base text ("base")."""

    clip: float = 0.2
    kind: str = "ppo"
    base: float = 1.0

    def counts(self, batch) -> dict[str, float]:
        """Return the numbers of graded rows of "replies" and of "base" text."""
        return {term: float(rows.sum()) for term, rows in _replies_and_base(batch).items()}

    def __call__(self, batch, out, totals):
        nll, rows = out.nll.astype(np.float64), _replies_and_base(batch)
        replies, base = rows["replies"], rows["base"]
        A = batch.columns["advantage"][replies].astype(np.float64)
        gained = batch.columns["nll_old"][replies] - nll[replies]  # ln of the ratio
        with np.errstate(over="ignore"):  # a loss that is not finite stops the training
            ratio = np.exp(gained)
        low, high = 1 - self.clip, 1 + self.clip
        losses, slopes = -A * ratio, A * ratio  # slopes: d losses / d nll
        if self.kind == "ppo":
            bounded = -A * np.clip(ratio, low, high)
            slopes = np.where(losses >= bounded, slopes, 0.0)
            losses = np.maximum(losses, bounded)
        elif self.kind == "cispo":
            beyond = ratio > high
            losses = np.where(beyond, -A * high * (1 + gained - np.log(high)), losses)
            slopes = np.where(beyond, A * high, slopes)
        n, dnll = len(A), np.zeros(len(nll))
        loss = 0.0
        if n:
            loss = float(losses.sum()) / totals["replies"]
            dnll[replies] = slopes / totals["replies"]
        figures = {
            "clipped": (float(((ratio < low) | (ratio > high)).sum()), n),
            "moved": (float((ratio != 1).sum()), n),
            "kl_old": (float((np.expm1(gained) - gained).sum()), n),
            "base": (float(nll[base].sum()), int(base.sum())),
        }
        if base.any():
            loss += self.base * float(nll[base].sum()) / totals["base"]
            dnll[base] = self.base / totals["base"]
        return loss, dnll.astype(out.nll.dtype), None, figures


@dataclass(frozen=True)
class ClippedValue:
    """The critic's loss: how far the value of each graded row is from the column "return" R.

        loss = mean over the graded rows of max((v - R)^2, (near - R)^2) / 2
        near = v_old + clip(v - v_old, -clip, clip)

    v_old is the column "value_old", the value before the critic's last updates. So nothing is
    gained by moving a value further from it than `clip`, as for the policy. clip = 0 does without.
    The weights of sequences are not read. The figure: the mean loss ("value_loss")."""

    clip: float = 0.2

    def counts(self, batch) -> dict[str, float]:
        """Return {"graded": the number of graded rows}."""
        return {"graded": float(batch.graded.sum())}

    def __call__(self, batch, out, totals):
        v, rows = out.value.astype(np.float64), batch.graded
        off = v[rows] - batch.columns["return"][rows]
        losses, slopes = off**2 / 2, off
        if self.clip:
            old = batch.columns["value_old"][rows].astype(np.float64)
            near = old + np.clip(v[rows] - old, -self.clip, self.clip)
            bounded = (near - batch.columns["return"][rows]) ** 2 / 2
            slopes = np.where(losses >= bounded, slopes, 0.0)
            losses = np.maximum(losses, bounded)
        dvalue = np.zeros(len(v))
        dvalue[rows] = slopes / totals["graded"]
        loss = float(losses.sum()) / totals["graded"]
        figures = {"value_loss": (float(losses.sum()), len(losses))}
        return loss, None, dvalue.astype(out.value.dtype), figures


def _replies_and_base(batch) -> dict[str, np.ndarray]:
    """Return the graded rows (N,) bool of "replies" and of "base" text."""
    is_reply = batch.per_row(batch.source == "conversation")
    return {"replies": is_reply & batch.graded, "base": ~is_reply & batch.graded}
