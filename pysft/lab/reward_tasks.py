"""Tasks of arms on preferences that train a reward model: how well it orders replies, what the best
of n by its score is worth, and which checkpoint of a fine-tuning it prefers."""

from dataclasses import replace

import numpy as np

from pysft.errors import DataError
from pysft.inference.best import expected_best, kl_bound
from pysft.inference.score import scores, values
from pysft.lab.preferring import (
    PRESET,
    Answers,
    Subject,
    first_with,
    golden,
    shown,
    user,
)
from pysft.measure.alignment import order_figures, split_scores
from pysft.measure.evaluate import answer, conversation_loss
from pysft.nn.grow import with_outputs
from pysft.rng import rng
from pysft.run.stage import Stage
from pysft.text.compared import ranked_examples
from pysft.text.ranking import Ranking
from pysft.text.sampled import is_usable
from pysft.text.templates import CHAT
from pysft.training import stages
from pysft.training.kinds import RewardModel
from pysft.training.presets import OF_WORLD
from pysft.training.runner import steps_of
from pysft.training.settings import Model, Settings
from pysft.world.ask import questions
from pysft.world.facts import make

RECIPE = OF_WORLD[PRESET]["reward"]
NS = (1, 2, 4, 8, 16, 32, 64)  # of the best of n
# Sealed prompts that the best of n is taken for, and replies to each, in groups of EACH. There are
# more than 64, so that the best of 64 is not the choice of a single set.
PROMPTS, GROUPS, EACH = 60, 16, 8


# --------------------------------------------------------------------------- a reward model


def learned(subject: Subject, policy: Stage, rankings: list[Ranking], options: dict, note):
    """Train a reward model on rankings. Return (it as a Stage, the training loss of each step, the
    share of comparisons in the right order in the last tenth of the steps).

    options: settings of [reward], and "singly": True takes every comparison as a ranking of its
    own, shuffled, with as many comparisons in a step as that many rankings have on average."""
    if not rankings:
        raise DataError(
            "all replies of the model to each prompt tie, so there is nothing to compare: it was"
            " trained too little; choose a larger --scale"
        )
    chosen = {k: v for k, v in options.items() if k in RewardModel().__dict__}
    stage = RewardModel(**RECIPE | chosen)
    read = policy.tokenizer, policy.model.config.context, policy.template
    groups = [ranked_examples(r, *read) for r in rankings]
    if options.get("singly"):
        each = sum(len(r.pairs()) for r in rankings) / len(rankings)
        stage = replace(stage, rankings=max(1, round(each * stage.rankings)))
        groups = [[some[i], some[j]] for r, some in zip(rankings, groups) for i, j in r.pairs()]
    model_settings = Model.of(policy.model.config)
    settings = Settings(seed=subject.seed, model=model_settings, stages={"reward": stage})
    plan = stages.reward(settings, "reward", groups, policy.model.config.vocab)
    model = with_outputs(policy.model, "value", rng(subject.seed, "reward", "value"))
    losses, right = [], []
    for r in steps_of(model, plan, stage):
        losses.append(round(r.loss, 5))
        right.append(r.figures.get("accuracy", np.nan))
        note(f"reward, step {r.step:,} of {plan.steps:,}, loss {r.loss:.3f}")
    model.release()
    last = right[-max(1, len(right) // 10) :]
    stage = Stage(subject.lab.folder / "reward", model, policy.tokenizer, CHAT, {})
    return stage, losses, float(np.nanmean(last))


def reward(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: train a reward model, and measure it.

    options: "by" (who ranks), "comparisons" (the most to learn from, unscaled), and those of
    learned(). finish: what heldout_figures() gives, "rankings", "comparisons" (learned from),
    "trained_accuracy", and what best_of() gives if "best" is true."""
    policy = subject.policy()
    rankings = subject.trained_rankings(policy, options["by"])
    rankings = first_with(rankings, subject.lab.scaled(options["comparisons"]))
    stage, losses, right = learned(subject, policy, rankings, options, note)
    finish = heldout_figures(stage, rankings, subject.heldout_rankings(policy))
    finish |= {
        "rankings": len(rankings),
        "comparisons": sum(len(r.pairs()) for r in rankings),
        "trained_accuracy": right,
    }
    samples = []
    if options.get("best"):
        rows = many_answers(subject, policy)
        samples = shown(rows)
        finish |= best_of(rows, scored(stage, rows))
    return {"losses": losses, "finish": finish, "samples": samples}


def heldout_figures(stage: Stage, trained: list[Ranking], heldout: list[Ranking]) -> dict:
    """What a reward model makes of held-out rankings.

    accuracy, gold_accuracy, length_accuracy   as order_figures() gives them
    heldout_loss   mean of -ln sigmoid(difference) over the comparisons of the held-out rankings
    miscalibration   mean distance between the share of them that is right and the share that the
                     scores promise, in five bins by the difference of the scores
    tied_spread    mean distance of the scores of replies with equal points, by that of replies with
                   different points"""
    read = stage.tokenizer, stage.model.config.context, stage.template
    every = values(stage.model, [e for r in heldout for e in ranked_examples(r, *read)])
    each, points = split_scores(heldout, every), golden(heldout)
    found = order_figures(trained, heldout, each, points)
    margins = [s[i] - s[j] for r, s in zip(heldout, each) for i, j in r.pairs()]
    bins = found["by_margin"]
    off = [b["pairs"] * abs(b["accuracy"] - b["predicted"]) for b in bins]
    spread = {True: [], False: []}
    for s, p in zip(each, points):
        for i, j in zip(*np.triu_indices(len(p), 1)):
            spread[p[i] == p[j]].append(abs(s[i] - s[j]))
    tied, ordered = (float(np.mean(spread[k])) if spread[k] else np.nan for k in (True, False))
    return {
        **{k: found[k] for k in ("accuracy", "gold_accuracy", "length_accuracy", "pairs")},
        "heldout_loss": float(np.logaddexp(0, -np.array(margins)).mean()) if margins else np.nan,
        "miscalibration": sum(off) / len(margins) if margins else np.nan,
        "tied_spread": tied / ordered if ordered else np.nan,
    }


# ---------------------------------------------------------------------------- the best of n


def many_answers(subject: Subject, policy: Stage) -> list[Answers]:
    """GROUPS * EACH replies to each of PROMPTS sealed prompts."""
    count = subject.few(PROMPTS)
    asked = subject.drawn("best of n", subject.prompts("sealed"), count)
    rows = subject.kept_answers(policy, "best of n", asked * GROUPS, EACH)
    return [
        Answers(row.prompt, *(sum((getattr(r, name) for r in rows[i::count]), ()) for name in (
            "replies", "ended", "golds"
        )))
        for i, row in enumerate(rows[:count])
    ]  # fmt: skip


def scored(stage: Stage, rows: list[Answers]) -> list[np.ndarray]:
    """The score of each reply of each row. A reply that cannot be ranked has the lowest score of
    all."""
    asked = dict.fromkeys((r.prompt, t) for r in rows for t in r.replies if is_usable(t))
    found = scores(stage, [user(prompt) for prompt, _ in asked], [text for _, text in asked])
    known = dict(zip(asked, found.tolist()))
    lowest = min(known.values(), default=0.0)
    return [np.array([known.get((r.prompt, t), lowest) for t in r.replies]) for r in rows]


def best_of(rows: list[Answers], proxies: list[np.ndarray]) -> dict:
    """Choose the best of n replies by a proxy.

    gold_N, proxy_N   mean points, and mean proxy (in standard deviations of a reply's, from its
                      mean), of the best of N, for each N of NS
    lost       the highest gold_N less that of the largest N
    alpha, beta, fit   Gao et al. (2022), with d the square root of the KL's bound: gold_N is gold_1
                       + d (alpha - beta d), by least squares; the share of the variance that this
                       explains"""
    every = np.concatenate(proxies)
    mean, spread = every.mean(), every.std() or 1.0
    found = {}
    for n in NS:
        golds = [expected_best(p, row.golds, n) for row, p in zip(rows, proxies)]
        found[f"gold_{n}"] = float(np.mean(golds))
        chosen = [(expected_best(p, p, n) - mean) / spread for p in proxies]
        found[f"proxy_{n}"] = float(np.mean(chosen))
    gold = np.array([found[f"gold_{n}"] for n in NS])
    return found | {"lost": float(gold.max() - gold[-1])} | gao_curve(gold)


def gao_curve(gold: np.ndarray) -> dict[str, float]:
    """alpha, beta and fit of best_of(). gold: for each N of NS."""
    d = distances()
    gain = gold - gold[0]
    terms = np.stack([d, -(d**2)], 1)
    (alpha, beta), *_ = np.linalg.lstsq(terms, gain, rcond=None)
    off = ((gain - terms @ (alpha, beta)) ** 2).sum()
    whole = ((gain - gain.mean()) ** 2).sum()
    fit = 1 - off / whole if whole else np.nan
    return {"alpha": float(alpha), "beta": float(beta), "fit": float(fit)}


def distances() -> np.ndarray:
    """The square root of the bound of the KL of the best of n, for each n of NS."""
    return np.sqrt([kl_bound(n) for n in NS])


def best_by_judge(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: the best of n by the exact judge's own points. options: {}."""
    rows = many_answers(subject, subject.policy())
    proxies = [np.array(row.golds, float) for row in rows]
    return {"finish": best_of(rows, proxies), "samples": shown(rows)}


# ------------------------------------------------------------------- past the loss's minimum

LONG = {"tokens": 800, "windows": (), "world": (), "steps": 640}  # no text is replayed
AT = (10, 20, 40, 80, 160, 320, 640)  # steps
ASKED, DRAWN = 150, 4  # prompts of a split, and replies to each


def past_the_minimum(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: tune the base for long on few demonstrations. At each of some
    checkpoints measure the loss on held-out demonstrations, the mean score that a reward model
    gives to its replies, and the points of its replies to sealed questions.

    options: "demonstrations" (how many), "comparisons" (of the reward model, unscaled). The
    reward model is that of the usual policy. It and the loss read questions of the split "ppo",
    which neither the training nor the points ask.

    track: "step", "heldout_loss", "score", "gold" (at temperature 1), "greedy". finish: what
    choices() gives."""
    policy, lab = subject.policy(), subject.lab
    rankings = first_with(subject.trained_rankings(policy), lab.scaled(options["comparisons"]))
    judge, _, _ = learned(subject, policy, rankings, {}, note)
    at = {min(lab.scaled(step), lab.scaled(LONG["steps"])) for step in AT}
    read, sealed = (
        subject.drawn(f"checkpoints {split}", subject.prompts(split), subject.few(ASKED))
        for split in ("ppo", "sealed")
    )
    held, model = heldout_demonstrations(subject), subject.grown()
    stage = Stage(policy.folder, model, policy.tokenizer, CHAT, {})
    track, replies, losses = [], [], []
    for r in subject.tuned(model, subject.demonstrations(options["demonstrations"]), LONG):
        losses.append(round(r.figures.get("conversation", r.loss), 5))
        note(f"step {r.step:,}, loss {r.loss:.3f}")
        if r.step in at:
            replies.append(subject.answers(stage, f"checkpoint {r.step}", read, DRAWN))
            found = subject.answers(stage, f"points {r.step}", sealed, DRAWN)
            row = {"step": r.step, "gold": float(np.mean([a.golds for a in found]))}
            row["greedy"] = float(np.mean(greedy_points(subject, stage, sealed)))
            row["heldout_loss"] = conversation_loss(model, held, policy.tokenizer, CHAT)[0]
            track.append(row)
    every = scored(judge, [row for rows in replies for row in rows])
    for i, row in enumerate(track):
        row["score"] = float(np.mean(every[i * len(read) : (i + 1) * len(read)]))
    return {"track": track, "losses": losses, "finish": choices(track), "samples": shown(found)}


def heldout_demonstrations(subject: Subject) -> list[list[dict]]:
    """The questions of the split "ppo" with their right answers, as messages."""
    asked = questions(make(subject.told.world), "ppo")
    return [
        [*user(q.prompt), {"role": "assistant", "content": q.answer}]
        for q in asked
        if q.hops == 1 and not q.new_wording
    ]


def greedy_points(subject: Subject, stage: Stage, prompts: list[str]) -> list[int]:
    """The points of a model's greedy replies."""
    found = answer(stage.model, stage.tokenizer, stage.template, prompts)
    stage.model.release()
    return [
        subject.truth.golds(user(prompt), [text], [reply.stop == "end"])[0]
        for prompt, (text, reply) in zip(prompts, found)
    ]


def choices(track: list[dict]) -> dict:
    """Points and steps of the checkpoints with the lowest held-out loss ("by_loss"), the highest
    score ("by_score") and the most points at temperature 1 ("best"), and of the last one; and
    "risen", the last loss by the lowest, less 1."""
    chosen = {
        "by_loss": min(track, key=lambda row: row["heldout_loss"]),
        "by_score": max(track, key=lambda row: row["score"]),
        "last": track[-1],
        "best": max(track, key=lambda row: row["gold"]),
    }
    found = {f"gold_{name}": row["gold"] for name, row in chosen.items()}
    found |= {f"greedy_{name}": row["greedy"] for name, row in chosen.items()}
    found |= {f"step_{name}": row["step"] for name, row in chosen.items()}
    lowest = chosen["by_loss"]["heldout_loss"]
    return found | {"risen": track[-1]["heldout_loss"] / lowest - 1}
