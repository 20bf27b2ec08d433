"""Measure best of n: draw replies to the sealed questions of a world, score them by a reward model,
and compare the scores with the truth."""

from collections.abc import Callable

from pysft.errors import UsageError
from pysft.inference.candidates import drawn, reward_beside, scored
from pysft.inference.engine import SLOTS
from pysft.inference.thoughts import visible_reply
from pysft.jobs.comparisons import asked
from pysft.measure.bestof import best_of_figures
from pysft.measure.evaluate import longest_reply
from pysft.measure.raters import Truth
from pysft.rng import rng
from pysft.run.stage import Stage
from pysft.text.render import render_prompt

PROMPTS = 100  # the most questions


def best_of_world(
    stage: Stage,
    n: int,
    run: str | None,
    progress: Callable[[str, bool], None] = lambda text, last: None,
    seed: int = 0,
) -> dict:
    """Return best_of_figures() of n replies to each of PROMPTS sealed questions, or to all if there
    are fewer.

    run: that of the reward model; None is the run of the stage. A UsageError if the stage cannot
    talk or learned no world. Errors as in reward_beside()."""
    if not (stage.can_talk and stage.world):
        raise UsageError(
            f"{stage.folder}: it is not a tuned model that learned an invented world (train --data"
            " world), so there is no truth to measure --best-of by; leave it out"
        )
    reward = reward_beside(stage, run)
    prompts = asked(stage.world, ["sealed"])
    chosen = rng(seed, "best of", "prompts").permutation(len(prompts))[:PROMPTS]
    truth, talker = Truth(stage.world), (stage.model, stage.tokenizer, stage.template)
    decoder = stage.model.decoder(min(n, SLOTS))
    found = []
    for i, number in enumerate(sorted(chosen.tolist()), 1):
        prompt = prompts[number]
        ids = render_prompt(prompt, stage.tokenizer, stage.template)
        own = int(rng(seed, "best of", "replies", number).integers(2**31))
        replies = drawn(*talker, ids, n, own, longest_reply(*talker[1:]), decoder)
        texts = [visible_reply(reply.ids, *talker[1:]) for reply in replies]
        ended = [reply.stop == "end" for reply in replies]
        golds = truth.golds(prompt, texts, ended)
        found.append((*scored(replies, *talker[1:], reward, prompt), golds, truth.about(prompt)))
        progress(f"best of n: {i:,} of {len(chosen):,} questions", i == len(chosen))
    return best_of_figures(*zip(*found))
