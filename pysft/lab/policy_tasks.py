"""Tasks of arms on preferences that tune the model that answers: by DPO on comparisons, or on more
demonstrations. Both are measured beside the model that they begin from."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pysft.jobs.comparisons import Comparisons
from pysft.jobs.dpo import gains, pairs_of
from pysft.jobs.judged import judged
from pysft.lab.preferring import Subject, first_with, shown, user
from pysft.measure.evaluate import corpus_loss
from pysft.measure.ratio import rise
from pysft.nn.grow import copied
from pysft.run.stage import Stage
from pysft.text.ranking import Ranking
from pysft.training import stages
from pysft.training.kinds import PreferenceTuning
from pysft.training.loop import Report
from pysft.training.runner import steps_of
from pysft.training.settings import Model, Settings

JUDGED = 200  # sealed prompts that a tuned model is compared on
SEEN = 300  # rankings of the training that it is measured on too
EVERY = 20  # steps whose mean is a row of the track
WIN = ("win_rate", "ties", "gold", "gold_before")


def dpo(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: tune the policy by DPO on comparisons of its replies by the labelers.

    options: "demonstrations" (of the policy; None is all), "comparisons" (how many, unscaled) or
    "work" (unscaled: rankings whose replies, one less for each, are so many), and settings of
    [dpo], with unscaled steps.

    track: "step", and means over the EVERY steps before it: "accuracy", "margin", "chosen_logp",
    "rejected_logp". finish: what measured() gives; "trained_accuracy" and "chosen_logp" are
    those of the first SEEN rankings of the training; "comparisons"."""
    policy = subject.policy(options["demonstrations"])
    rankings = subject.trained_rankings(policy)
    if "work" in options:
        rankings = worth(rankings, subject.lab.scaled(options["work"]))
    else:
        rankings = first_with(rankings, subject.lab.scaled(options["comparisons"]))
    tuned, done, pairs = tuned_by_dpo(subject, policy, rankings, options, note)
    track, losses = means([r.figures for r in done]), [round(r.loss, 5) for r in done]
    finish, samples = measured(subject, tuned, policy, subject.heldout_rankings(policy))
    learned = gains(tuned, policy, rankings[:SEEN])
    finish |= {
        "trained_accuracy": learned["accuracy"],
        "chosen_logp": learned["chosen_logp"],
        "comparisons": pairs,
    }
    return {"track": track, "losses": losses, "finish": finish, "samples": samples}


def tuned_by_dpo(
    subject: Subject, policy: Stage, rankings: list[Ranking], options: dict, note
) -> tuple[Stage, list[Report], int]:
    """Tune a copy of the policy on rankings of replies. Return (it, the report of each step, how
    many pairs the rankings have). options: settings of [dpo] among others, with unscaled steps."""
    chosen = {k: v for k, v in options.items() if k in PreferenceTuning().__dict__}
    if chosen.get("steps"):  # 0 is one pass over the comparisons, which are scaled
        chosen["steps"] = subject.lab.scaled(chosen["steps"])
    stage = PreferenceTuning(**chosen)
    pairs = pairs_of(policy, rankings)
    settings = Settings(
        seed=subject.seed,
        model=Model.of(policy.model.config),
        stages={"dpo": stage},
        world=subject.told.world,
    )
    corpus, world = subject.texts
    plan = stages.dpo(settings, "dpo", pairs, corpus, policy.model.config.vocab, world)
    model, done = copied(policy.model, settings.model.precision), []
    for r in steps_of(model, plan, stage):
        done.append(r)
        note(f"dpo, step {r.step:,} of {plan.steps:,}, loss {r.loss:.3f}")
    model.release()
    return replace(policy, model=model), done, len(pairs)


def worth(rankings: list[Ranking], work: int) -> list[Ranking]:
    """The first rankings that cost at least so much work, or all. A ranking of K replies costs
    K - 1: each reply but the first is compared at least once to find its place. Ties cost too."""
    total = 0
    for n, ranking in enumerate(rankings, 1):
        total += len(ranking.replies) - 1
        if total >= work and any(r.pairs() for r in rankings[:n]):
            return rankings[:n]
    return rankings


def means(rows: list[dict]) -> list[dict]:
    """A row for every EVERY steps, and one for the rest, with the means of the figures."""
    names = ("accuracy", "margin", "chosen_logp", "rejected_logp")
    found = []
    for first in range(0, len(rows), EVERY):
        some = rows[first : first + EVERY]
        mean = {name: float(np.mean([row[name] for row in some])) for name in names}
        found.append({"step": first + len(some)} | mean)
    return found


def demonstrate(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: tune the policy of few demonstrations once more, on those and on `more`
    others. options: "demonstrations", "more". finish: what measured() gives."""
    few, more = options["demonstrations"], options["more"]
    policy = subject.policy(few)
    model = copied(policy.model, policy.model.config.precision)
    losses = []
    for r in subject.tuned(model, subject.demonstrations(few + more), {}):
        losses.append(round(r.figures.get("conversation", r.loss), 5))
        note(f"demonstrations, step {r.step:,}, loss {r.loss:.3f}")
    model.release()
    finish, samples = measured(subject, replace(policy, model=model), policy)
    return {"losses": losses, "finish": finish, "samples": samples}


def measured(
    subject: Subject,
    tuned: Stage,
    policy: Stage,
    heldout: list[Ranking] | None = None,
    score: Callable | None = None,
) -> tuple[dict, list]:
    """(figures, samples) of a tuned model on sealed questions, beside the policy that it was begun
    from. heldout: comparisons of replies to sealed prompts. score: what the training was on, as
    jobs/judged.judged() takes it.

    win_rate, ties, gold, gold_before   in points of the exact judge, at temperature 1; the same
                                        with greedy_ before them for greedy replies
    kl, length, length_before, format_compliance, distinct   as jobs/judged.judged() gives
    proxy, proxy_before   mean scores of both, if there is a score
    heldout_accuracy, heldout_chosen_logp   accuracy and chosen_logp of jobs/dpo.gains(), if there
                                        are comparisons
    forgetting   the rise of the loss on the held-out tail of the corpus from the base's"""
    prompts = subject.drawn("judged", subject.prompts("sealed"), subject.few(JUDGED))
    asked = Comparisons(
        [], heldout or [], [user(p) for p in prompts], "labelers", subject.told.world
    )
    found = judged(tuned, policy, asked, subject.seed, score)
    names = (*WIN, "kl", "length", "length_before", "format_compliance", "distinct")
    names += ("proxy", "proxy_before") * (score is not None)
    figures = {name: found[name] for name in names}
    if heldout:
        learned = gains(tuned, policy, heldout)
        figures |= {f"heldout_{name}": learned[name] for name in ("accuracy", "chosen_logp")}
    figures |= {f"greedy_{name}": found["greedy"][name] for name in WIN}
    loss = corpus_loss(tuned.model, tuned.tokenizer, subject.lab.heldout_text)
    tuned.model.release()
    figures["forgetting"] = rise(loss, subject.base.loss)
    samples = shown(subject.answers(tuned, "samples", prompts[:6], 1))
    return figures, samples
