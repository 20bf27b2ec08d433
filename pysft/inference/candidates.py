"""The best of n replies of a model, by the scores of a reward model."""

from dataclasses import dataclass

import numpy as np

from pysft.errors import MissingInput, UsageError
from pysft.inference.best import choose, kl_bound
from pysft.inference.engine import SLOTS
from pysft.inference.generate import Reply, generate
from pysft.inference.sampling import Sampling
from pysft.inference.score import scores
from pysft.inference.thoughts import visible_ids
from pysft.inference.tool_calls import answer_calls
from pysft.run.stage import Stage, load_stage, measured_stage, reward_model
from pysft.text.render import render_prompt
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer
from pysft.text.tokenizers import vocabulary_to_json


@dataclass(frozen=True)
class Best:
    """n replies to one prompt, one of which is the best.

    replies: the n of them, as they were drawn. scores: of each, higher is better; None for a reply
    that is empty or holds a control token, because a reward model learns from no such reply. sound:
    True for a reply with a score that came to its end. chosen: the index of the best one."""

    replies: list[Reply]
    scores: list[float | None]
    sound: list[bool]
    chosen: int

    @property
    def reply(self) -> Reply:
        return self.replies[self.chosen]

    def to_json(self) -> dict:
        """Return the entries of the --json document."""
        n = len(self.replies)
        return {
            "best_of": n,
            "scores": self.scores,
            "chosen": self.chosen,
            "kl_bound": kl_bound(n),
        }

    def line(self) -> str:
        """Return the figures as one line of text."""
        n, score = len(self.replies), self.scores[self.chosen]
        if score is None:
            text = "no score, because each is empty or holds a control token"
        else:
            known = [s for s in self.scores if s is not None]
            text = f"score {score:.2f}, all from {min(known):.2f} to {max(known):.2f}"
            text += "" if self.sound[self.chosen] else "; none came to its end"
        bound = f"at most ln n - (n-1)/n = {kl_bound(n):.2f} nats from the model"
        return f"best of {n}: {text}; {bound}"


def best_reply(
    model,
    tokenizer: Tokenizer,
    template: Template,
    reward: Stage,
    messages: list[dict],
    n: int,
    seed: int,
    max_new: int,
    decoder=None,
) -> Best:
    """Draw n replies to the messages as drawn() does, score them, and choose the best, the first of
    equal ones. A reply that was cut off, is empty or holds a control token comes after all others.

    reward: a reward model that refuse_other_words() lets pass. max_new: the most tokens of a reply.
    decoder: as Engine takes it. A UsageError if n < 1. A DataError if the messages leave no
    room."""
    prompt = render_prompt(messages, tokenizer, template)
    replies = drawn(model, tokenizer, template, prompt, n, seed, max_new, decoder)
    each, sound = scored(replies, tokenizer, template, reward, messages)
    has_score = [score is not None for score in each]
    for group in (sound, has_score):  # the cut-off ones only if there is no other
        numbers = [i for i, is_in in enumerate(group) if is_in]
        if numbers:
            return Best(replies, each, sound, numbers[choose([each[i] for i in numbers])])
    return Best(replies, each, sound, 0)


def drawn(
    model,
    tokenizer: Tokenizer,
    template: Template,
    prompt: np.ndarray,
    n: int,
    seed: int,
    max_new: int,
    decoder=None,
) -> list[Reply]:
    """Return n replies to a prompt, drawn at temperature 1 without cuts or penalties.

    So each has the probability that the model gives it, which kl_bound() needs. prompt: ids. Reply
    i depends on the seed, i, the prompt and the weights alone. Each leaves room for its end in the
    context, because a reward model reads a reply with its end. No tool runs: a call ends a
    reply."""
    if n < 1:
        raise UsageError(f"best of {n}: n must be 1 or more")
    return generate(
        model,
        [prompt] * n,
        min(max_new, model.config.context - 1 - len(prompt)),
        tokenizer.special[template.end],
        Sampling(1.0, seed=seed),
        answer_calls(tokenizer, template, {}),
        decoder=decoder or model.decoder(min(n, SLOTS)),
    )


def scored(
    replies: list[Reply],
    tokenizer: Tokenizer,
    template: Template,
    reward: Stage,
    messages: list[dict],
) -> tuple[list[float | None], list[bool]]:
    """Return (scores, sound) of replies to the messages, as in Best. A reply is scored without its
    thoughts."""
    visible = [visible_ids(reply.ids, tokenizer, template) for reply in replies]
    texts = [tokenizer.decode(ids) for ids in visible]
    is_text = [
        bool(text.strip())
        and not np.any(tokenizer.is_special(ids))
        and not any(mark in text for mark in template.forgeable)
        for text, ids in zip(texts, visible)
    ]
    some = [text for text, fits in zip(texts, is_text) if fits]
    found = iter(scores(reward, [messages] * len(some), some).tolist())
    each = [next(found) if fits else None for fits in is_text]
    return each, [fits and reply.stop == "end" for fits, reply in zip(is_text, replies)]


def reward_beside(stage: Stage, run: str | None) -> Stage:
    """Load the reward model of a run, or for None that of the run of the stage that talks.

    MissingInput if there is none, a UsageError if it reads other words than the stage writes."""
    if run is not None:
        folder = reward_model(run)
    else:
        own = measured_stage(stage.folder).parent
        try:
            folder = reward_model(own)
        except MissingInput:
            raise MissingInput(
                f"{own}: no reward model in it to score replies by; name the run that has one by"
                " --reward, or train one: python -m pysft reward"
            ) from None
    reward = load_stage(folder, stage.model.ops)
    refuse_other_words(reward, stage)
    return reward


def refuse_other_words(reward: Stage, stage: Stage) -> None:
    """Raise a UsageError unless a reward model reads every reply of a stage as the stage wrote it:
    with the same vocabulary and template, in a context that is as long."""
    tables = (
        ("vocabulary", vocabulary_to_json(reward.tokenizer), vocabulary_to_json(stage.tokenizer)),
        ("template", reward.template.to_json(), stage.template.to_json()),
    )
    for what, own, other in tables:
        if own != other:
            raise UsageError(
                f"{reward.folder}: this reward model has another {what} than {stage.folder}, whose"
                " replies it would score; name one that was trained from that model or from a"
                " parent of it"
            )
    own, other = reward.model.config.context, stage.model.config.context
    if own < other:
        raise UsageError(
            f"{reward.folder}: the context of this reward model holds {own:,} tokens, and that of"
            f" {stage.folder}, whose replies it would score, {other:,}; name one that holds as many"
        )
