"""A tuned model beside the one that it was begun from, on prompts that no training has asked: who
answers better, and how far it has moved."""

from collections.abc import Callable

import numpy as np

from pysft.inference.sampling import GREEDY, Sampling
from pysft.jobs.comparisons import Comparisons
from pysft.measure.alignment import exact_kl, win_figures
from pysft.measure.evaluate import answer, checks
from pysft.rng import rng
from pysft.run.stage import Stage
from pysft.text.examples import reply_example
from pysft.text.render import render_prompt

SAMPLES = 4  # replies at temperature 1 to each prompt that is judged


def judged(
    tuned: Stage,
    parent: Stage,
    comparisons: Comparisons,
    seed: int,
    score: Callable | None = None,
    gold: Callable | None = None,
    inject: Callable | None = None,
    tokens: int | None = None,
) -> dict:
    """Compare a tuned model with its parent on comparisons.judged, of which there must be one.

    What win_figures() gives, for SAMPLES replies of each at temperature 1, in the points of the
    exact judge (nothing without a world); "greedy": the same for greedy replies. "prompts_judged",
    "kl" (exact_kl()), and of the sampled replies "length" and "length_before" (mean tokens),
    "format_compliance" (the share with all of evaluate.checks()) and "distinct" (the share of
    different ones).

    score(prompts, replies): what the training was on, a number for each reply; then "proxy" and
    "proxy_before" are the means of both. gold: the same for the points; None asks the judge of the
    comparisons' world. inject: answers calls of tools; None runs none. tokens: at most of a
    reply; None is longest_reply()."""
    prompts = comparisons.judged
    # The same draws for every kind of stage, so that DPO and PPO are judged alike.
    drawn = Sampling(temperature=1.0, seed=int(rng(seed, "dpo", "judged").integers(2**31)))

    def written(stage, n, sampling):
        asked = [p for p in prompts for _ in range(n)]
        words_of = stage.tokenizer, stage.template
        found = answer(stage.model, *words_of, asked, sampling, inject, tokens)
        stage.model.release()
        return list(zip(asked, found))

    own, before = (written(stage, SAMPLES, drawn) for stage in (tuned, parent))
    figures = {"prompts_judged": len(prompts)}
    known = comparisons.world is not None
    if gold is not None or known:

        def points(rows):
            if gold is None:
                truth = comparisons.truth
                given = [truth.golds(p, [text], [r.stop == "end"])[0] for p, (text, r) in rows]
            else:
                given = gold([p for p, _ in rows], [reply for _, (_, reply) in rows])
            return np.array(given).reshape(len(prompts), -1)

        subjects = comparisons.subjects(prompts) if known else [str(p) for p in prompts]
        figures |= win_figures(points(own), points(before), subjects)
        greedy = [points(written(stage, 1, GREEDY)) for stage in (tuned, parent)]
        figures["greedy"] = win_figures(*greedy, subjects)
    if score is not None:
        for name, rows in (("proxy", own), ("proxy_before", before)):
            asked, found = zip(*rows)
            figures[name] = float(np.mean(score(asked, [reply for _, reply in found])))
    return figures | _moved(tuned, parent, own, before)


def _moved(tuned: Stage, parent: Stage, own: list, before: list) -> dict:
    """How far a model has moved from its parent: what judged() says of kl and the names after it.
    own, before: [(prompt, (text, Reply))] of both."""
    end = tuned.tokenizer.special[tuned.template.end]
    examples = [
        reply_example(
            render_prompt(prompt, tuned.tokenizer, tuned.template),
            np.append(reply.ids, [end] * (reply.stop == "end")),
            injected=reply.injected,
        )
        for prompt, (_, reply) in own
        if len(reply.ids) or reply.stop == "end"
    ]
    return {
        "kl": exact_kl(tuned.model, parent.model, examples) if examples else None,
        "length": float(np.mean([len(reply.ids) for _, (_, reply) in own])),
        "length_before": float(np.mean([len(reply.ids) for _, (_, reply) in before])),
        "format_compliance": float(
            np.mean([all(checks(r, tuned.tokenizer, tuned.template)) for _, (_, r) in own])
        ),
        "distinct": len({text for _, (text, _) in own}) / len(own),
    }
