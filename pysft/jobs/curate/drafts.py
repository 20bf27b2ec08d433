"""Answers on their way to a revision: what the model writes of each, and what the exact judge of
its world finds in it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pysft.inference.tool_calls import content_parts
from pysft.jobs.collect import AT_ONCE, MOST, prompts_named, sample_replies
from pysft.jobs.curate.judging import truth_of
from pysft.measure.evaluate import answer
from pysft.measure.raters import Truth
from pysft.measure.violations import PRINCIPLES, Critique, Found, found_in
from pysft.rng import rng
from pysft.run.stage import Stage, weights_sha256
from pysft.text.constitution import Principle
from pysft.text.conversation import THOUGHT
from pysft.text.curated import FORM, NO_END
from pysft.text.sampled import is_usable
from pysft.world.ask import compared_questions
from pysft.world.violations import finds_fault

REASONS = (NO_END, FORM)  # why a draft is dropped
Progress = Callable[[str, bool], None]


@dataclass(frozen=True)
class Task:
    """What all answers of a command share. about: the entries of the --json document that say who
    answered what."""

    stage: Stage
    asked: list[tuple[list[dict], str, str]]  # (prompt, source, where)
    truth: Truth | None
    seed: int
    about: dict
    progress: Progress

    @classmethod
    def of(cls, stage: Stage, prompts: str, splits, k: int, seed: int, progress) -> "Task":
        """prompts: a file, "world" or "world:SPLIT". splits: those that may be asked. Of a world
        only those questions are asked that have an answer, or whose refusal is taught."""
        asked = prompts_named(
            prompts, stage, splits, lambda world, split: compared_questions(world, [split])
        )
        about = {
            "by": str(stage.folder),
            "weights_sha256": weights_sha256(stage.model),
            "prompts": len(asked),
            "k": k,
            "seed": seed,
        }
        return cls(stage, asked, truth_of(stage), seed, about, progress)


@dataclass
class Draft:
    """An answer on its way. number: of its random draws. text: the answer, then its last revision,
    without thoughts. content: that of the last revision, with them. fault: why the answer could not
    be criticised. dropped: why the draft is left out. Both are one of REASONS, or "". found,
    found_last: what the exact judge finds in the answer and in `text`; None where no truth is
    known."""

    prompt: list[dict]
    source: str
    number: int
    answer: str
    fault: str
    found: Found | None
    dropped: str = field(init=False)
    text: str = field(init=False)
    content: str | list[dict] = field(init=False)
    found_last: Found | None = field(init=False)
    steps: list[dict] = field(default_factory=list)

    def __post_init__(self):
        self.dropped, self.found_last = self.fault, self.found
        self.text = self.content = self.answer


def answered(task: Task, k: int) -> list[Draft]:
    """Sample k answers to each prompt. One that cannot be criticised is dropped."""
    prompts = [prompt for prompt, _, _ in task.asked]
    replies = sample_replies(task.stage, prompts, k, task.seed, progress=task.progress)
    drafts = []
    for i, ((prompt, source, _), some) in enumerate(zip(task.asked, replies)):
        for j, (text, ended) in enumerate(some):
            found = found_in(task.truth, prompt, text, ended)
            reason = fault(text, ended, task.stage)
            drafts.append(Draft(prompt, source, i * MOST + j, text, reason, found))
    return drafts


def criticise(
    task: Task, drafts: list[Draft], principles: tuple[Principle, ...], number: int
) -> list[Critique]:
    """Criticise and revise the drafts, each by a principle that no round before had. number: of
    the round, from 0. Return all critiques by principles of which the judge knows what violates
    them, those that cannot be used too."""
    chats, critiques = [], []
    for draft in (draft for draft in drafts if not draft.dropped):
        g = rng(task.seed, "revise", "principles", draft.number)
        principle = principles[g.permutation(len(principles))[number]]
        turns = [turn("assistant", draft.text), turn("user", principle.question)]
        chats.append((draft, principle, [*draft.prompt, *turns]))
    replies = _replies(task, [(draft, chat) for draft, _, chat in chats], "critiques")
    revised = []
    for (draft, principle, chat), (critique, _) in zip(chats, replies):
        if draft.found_last is not None and principle.name in PRINCIPLES:
            is_violated = principle.name in draft.found_last.violates
            says = None if draft.dropped else finds_fault(critique, principle.question)
            critiques.append(Critique(principle.name, is_violated, says))
        if draft.dropped:
            continue
        step = {key: task.about[key] for key in ("by", "weights_sha256", "seed")}
        step |= {"principle": principle.name, "answer": draft.text, "critique": critique}
        draft.steps.append({"step": "revise", **step})
        turns = [turn("assistant", critique), turn("user", principle.revise)]
        revised.append((draft, [*chat, *turns]))
    replies = _replies(task, revised, "revisions")
    for (draft, _), (draft.text, draft.content) in zip(revised, replies):
        draft.found_last = found_in(task.truth, draft.prompt, draft.text)
    return critiques


def _replies(task: Task, chats: list[tuple[Draft, list[dict]]], what: str) -> list[tuple]:
    """Return [(text, content)] of the greedy reply to each of the chats, without and with its
    thoughts. The draft of one that cannot be used is dropped. A chat that leaves no room in the
    context gets an empty reply without an end."""
    stage, found = task.stage, []
    for first in range(0, len(chats), AT_ONCE):
        some = chats[first : first + AT_ONCE]
        messages = [chat for _, chat in some]
        replies = answer(stage.model, stage.tokenizer, stage.template, messages)
        for (draft, _), (text, reply) in zip(some, replies):
            content = content_of(text, reply.ids, stage)
            draft.dropped = fault(text, reply.stop == "end", stage) or ("" if content else FORM)
            found.append((text, content))
        task.progress(f"{what}: {len(found):,} of {len(chats):,}", False)
    return found


def content_of(text: str, ids: np.ndarray, stage: Stage) -> str | list[dict]:
    """Return the content of a reply: its text, or its parts if it thinks. [] if a part cannot be
    used, as a thought that holds a control token."""
    parts = content_parts(ids, stage.tokenizer, stage.template)
    thoughts = sum(part["type"] == THOUGHT for part in parts)
    if not thoughts:
        return text
    is_clean = stage.tokenizer.is_special(ids).sum() == 2 * thoughts
    return parts if is_clean and all(is_usable(part["text"]) for part in parts) else []


def fault(text: str, ended: bool, stage: Stage) -> str:
    """Return why a reply cannot be used, one of REASONS; "" if it can."""
    if not ended:
        return NO_END
    return "" if is_usable(text, stage.template) else FORM


def turn(role: str, text: str) -> dict:
    return {"role": role, "content": text}
