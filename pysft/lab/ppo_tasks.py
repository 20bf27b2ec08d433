"""The task of arms that tune the model that answers by PPO, on the score of a reward model or on
the points of the exact judge."""

import time
from dataclasses import replace

import numpy as np

from pysft.errors import Diverged
from pysft.jobs.ppo import SPLITS, Scorer, iterations, of_the_way
from pysft.jobs.reward import centre
from pysft.lab.policy_tasks import measured
from pysft.lab.preferring import MAX_NEW, PRESET, Subject, first_with, prepare, user, world_of
from pysft.lab.records import VERSION, digest
from pysft.lab.reward_tasks import RECIPE, learned
from pysft.measure.alignment import exact_kl
from pysft.measure.evaluate import corpus_loss
from pysft.measure.raters import WORLD
from pysft.measure.ratio import rise
from pysft.measure.rewards import MODEL, reward_named
from pysft.measure.words import words
from pysft.rng import rng
from pysft.run.stage import Stage, is_finished, load_stage, save_stage, weights_sha256
from pysft.text.compared import ranked_examples, scored_example
from pysft.text.render import render_prompt
from pysft.training.kinds import PolicyTuning
from pysft.training.loop import Report, train
from pysft.training.ppo import Iterations
from pysft.training.rollouts import roll_out
from pysft.training.settings import Model, Settings
from pysft.world.ask import questions
from pysft.world.facts import SPLITS as EVERY_SPLIT
from pysft.world.facts import make

EVERY = 10  # iterations whose mean is a row of the track
FOLLOWED = 200  # sealed prompts that the policy answers at each row
TIMES = 2  # answers to each
HACKING = "reward hacking"  # the alarm's name
# Figures of an iteration that a row of the track has the mean of.
NAMES = ("reward", "gold", "kl", "entropy", "length", "distinct", "compliance", "real_words")


# ------------------------------------------------------------------------------- the reward model


def kept_reward(subject: Subject, policy: Stage, options: dict, note) -> Stage:
    """A reward model, which is kept in the lab's folder. Right answers have the mean score 0, and
    the replies that it learned from the standard deviation 1.

    options: "by" (who ranks), "comparisons" (the most to learn from, unscaled)."""
    count = subject.lab.scaled(options["comparisons"])
    described = {
        "version": VERSION,
        "policy": weights_sha256(policy.model),
        "recipe": RECIPE,
        "by": options["by"],
        "comparisons": count,
        "seed": subject.seed,
    }
    name = f"{PRESET}-world-reward-{subject.seed}-{digest(described)[:12]}"
    folder = subject.lab.folder / "bases" / name
    if not is_finished(folder):
        rankings = first_with(subject.trained_rankings(policy, options["by"]), count)
        stage, _, _ = learned(subject, policy, rankings, {}, note)
        read = policy.tokenizer, policy.model.config.context, policy.template
        right = [scored_example(c, *read) for c in subject.demonstrations()]
        centre(stage.model, right, [e for r in rankings for e in ranked_examples(r, *read)])
        save_stage(replace(stage, folder=folder))
    return load_stage(folder, subject.lab.ops)


def prepare_rewards(some: list[dict], demonstrations: int | None):
    """Return an Experiment's prepare(), which makes these reward models too. some: the options of
    kept_reward(). demonstrations: of the policy; None is all."""

    def prepared(lab, seed: int) -> None:
        prepare(lab, seed)
        subject = Subject(lab, world_of(seed), seed)
        for options in some:
            kept_reward(subject, subject.policy(demonstrations), options, lab.progress)

    return prepared


# ------------------------------------------------------------------------------------ the training


def reinforce(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: tune the policy by PPO.

    options: "demonstrations" (of the policy; None is all), and settings of [ppo], with unscaled
    steps. "reward" is the exact judge (WORLD) or a reward model (MODEL), and then "by" and
    "comparisons" say which (kept_reward()).

    track: a row before the training, and one after each EVERY iterations.
        step                         iterations
        NAMES                        means over the EVERY iterations, on questions that are trained
        sealed_gold, sealed_reward, sealed_kl   on sealed questions, at temperature 1
        hacked_at, alarmed_at        the iteration of the alarm HACKING, and of the first alarm of
                                     any kind; None without one so far
    finish: what measured() gives, with the score of the reward as proxy; what gao_curve() gives;
    what of_updates() gives; "alarms"; "forgetting_before", that of the policy as it begins;
    "train_seconds", those of the processor, without measuring. If the training diverges, the policy
    is measured as it was before that iteration, and "diverged" says why."""
    policy = subject.policy(options["demonstrations"])
    stage = stage_of(subject, options)
    model = kept_reward(subject, policy, options, note) if options["reward"] == MODEL else None
    truth = reward_named(WORLD, subject.truth, None)
    reward = truth if model is None else reward_named(MODEL, None, model)
    scorer = Scorer(policy, reward, stage.unfinished, truth, known_words(subject), False)
    learner = learner_of(subject, policy, stage, scorer, model)
    follow = Followed(subject, policy, scorer)
    done, track, spent, diverged = trained(learner, stage, follow, row_of(subject), note)
    tuned = replace(policy, model=learner.model)
    learner.model.release()
    finish, samples = measured(subject, tuned, policy, score=scorer.score)
    finish |= {"alarms": alarms_of(done), "train_seconds": round(spent, 2)}
    finish |= of_updates(done) | gao_curve(track)
    lab = subject.lab
    loss = corpus_loss(policy.model, policy.tokenizer, lab.heldout_text)
    finish["forgetting_before"] = rise(loss, subject.base.loss)
    losses = [round(r.loss, 5) for r in done]
    fields = {"track": track, "losses": losses, "finish": finish, "samples": samples}
    return fields | {"diverged": diverged}


def trained(
    learner: Iterations, stage: PolicyTuning, follow: "Followed", every: int, note
) -> tuple[list[Report], list[dict], float, str | None]:
    """Train. Return (the report of each iteration, the track, processor seconds without measuring,
    why it diverged or None). A Diverged if the first iteration does."""
    done, track, why = [], [{"step": 0} | follow(learner.model)], None
    spent, began = 0.0, time.process_time()
    try:
        for r in train(learner, stage.steps):
            spent += time.process_time() - began
            done.append(r)
            note(f"ppo, iteration {r.step:,} of {stage.steps:,}, reward {r.figures['reward']:.3f}")
            if r.step % every == 0 or r.step == stage.steps:
                row = means(done[track[-1]["step"] :]) | alarmed(done)
                track.append({"step": r.step} | row | follow(learner.model))
            began = time.process_time()
    except Diverged as error:
        if not done:
            raise
        why = str(error)
    return done, track, spent, why


def stage_of(subject: Subject, options: dict) -> PolicyTuning:
    """The settings of [ppo] among the options, with scaled steps."""
    chosen = {k: v for k, v in options.items() if k in PolicyTuning().__dict__}
    chosen["steps"] = subject.lab.scaled(chosen["steps"])
    stage = PolicyTuning(**chosen)
    return replace(stage, tokens=min(stage.tokens, MAX_NEW))


def learner_of(
    subject: Subject, policy: Stage, stage: PolicyTuning, scorer: Scorer, model: Stage | None
) -> Iterations:
    """What learns. model: the reward model that the critic begins from, None without one."""
    settings = Settings(
        seed=subject.seed,
        model=Model.of(policy.model.config),
        stages={"ppo": stage},
        world=subject.told.world,
    )
    asked = [user(prompt) for prompt in subject.prompts(*SPLITS)]
    return iterations("ppo", settings, policy, asked, scorer, model, *subject.texts)


def known_words(subject: Subject) -> frozenset[str]:
    """The words of the base text, of all questions and of their answers."""
    world = make(subject.told.world)
    asked = [q for split in EVERY_SPLIT for q in questions(world, split)]
    text = "\n".join(f"{q.prompt}\n{q.answer}" for q in asked)
    return frozenset(words(f"{subject.lab.train_text}\n{text}"))


def row_of(subject: Subject) -> int:
    """The iterations of a row of the track, at the lab's scale."""
    return max(1, round(EVERY * subject.lab.scale))


# -------------------------------------------------------------------------------- what is recorded


class Followed:
    """Measures a policy on its way: follow(model) gives the "sealed_..." of a row of the track."""

    def __init__(self, subject: Subject, policy: Stage, scorer: Scorer):
        self.reference, self.scorer = policy.model, scorer
        sealed = subject.drawn("judged", subject.prompts("sealed"), subject.few(FOLLOWED))
        self.prompts = [user(prompt) for prompt in sealed for _ in range(TIMES)]
        words_of = policy.tokenizer, policy.template
        self.ids = [render_prompt(user(prompt), *words_of) for prompt in sealed]
        self.end = policy.tokenizer.special[policy.template.end]
        self.seed = int(rng(subject.seed, "lab", "followed").integers(2**31))

    def __call__(self, model) -> dict:
        found = roll_out(model, self.ids, TIMES, MAX_NEW, self.end, self.seed)
        scored, figures = self.scorer.told(self.prompts, found)
        total, count = figures["gold"]
        return {
            "sealed_reward": float(scored.mean()),
            "sealed_gold": total / count,
            "sealed_kl": exact_kl(model, self.reference, [r.example for r in found]),
        }


def means(done: list[Report]) -> dict[str, float]:
    """The means of some figures over iterations. A figure that one of them lacks is left out."""
    each = [r.figures for r in done]
    return {
        name: float(np.mean([f[name] for f in each]))
        for name in NAMES
        if all(name in f for f in each)
    }


def alarms_of(done: list[Report]) -> list[dict]:
    """[{"alarm", "step", "text"}], as they came."""
    rows = [{"step": r.step, "figures": r.figures, "alarms": r.alarms} for r in done]
    return of_the_way(rows)["alarms"]


def alarmed(done: list[Report]) -> dict[str, int | None]:
    """ "hacked_at" and "alarmed_at" of reinforce()."""
    found = alarms_of(done)
    steps = {
        "hacked_at": [a["step"] for a in found if a["alarm"] == HACKING],
        "alarmed_at": [a["step"] for a in found],
    }
    return {name: min(some, default=None) for name, some in steps.items()}


def of_updates(done: list[Report]) -> dict[str, float]:
    """How far the updates of an iteration move the policy.

    kl_old        from the one that wrote the replies, in nats a token, as objectives.Ppo measures
                  it before the last update; the mean over the iterations
    kl_old_most   the highest of an iteration
    clipped       the mean share of rows whose ratio was outside the clip then"""
    kl = [r.figures["kl_old"] for r in done]
    return {
        "kl_old": float(np.mean(kl)),
        "kl_old_most": max(kl),
        "clipped": float(np.mean([r.figures["clipped"] for r in done])),
    }


def gao_curve(track: list[dict]) -> dict[str, float]:
    """The curve of Gao et al. (2022) for RL, with d the square root of the KL from the model
    before: sealed_gold is start + d (alpha - beta ln d), by least squares.

    alpha, beta    of the curve
    fit            the share of the variance of sealed_gold that it explains"""
    gold = np.array([row["sealed_gold"] for row in track])
    d = np.sqrt([max(row["sealed_kl"], 0.0) for row in track])
    bent = np.where(d > 0, -d * np.log(np.where(d > 0, d, 1.0)), 0.0)
    terms = np.stack([np.ones(len(d)), d, bent], 1)
    (start, alpha, beta), *_ = np.linalg.lstsq(terms, gold, rcond=None)
    off = ((gold - terms @ (start, alpha, beta)) ** 2).sum()
    whole = ((gold - gold.mean()) ** 2).sum()
    fit = 1 - off / whole if whole else np.nan
    return {"alpha": float(alpha), "beta": float(beta), "fit": float(fit)}
