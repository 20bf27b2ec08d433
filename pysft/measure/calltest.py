"""Replies that call tools: how they are asked for and read, and how many are as they should be."""

from typing import NamedTuple

import numpy as np

from pysft.inference.generate import Reply, generate
from pysft.inference.repetition import repeated_words
from pysft.inference.sampling import GREEDY
from pysft.inference.table import Table
from pysft.inference.tool_calls import answer_calls, content_parts
from pysft.inference.tools import Tool, tools
from pysft.measure.evaluate import MAX_NEW
from pysft.text.characters import replaced
from pysft.text.render import render_prompt
from pysft.world.made import MADE
from pysft.world.transcripts import Transcript


class Answer(NamedTuple):
    parts: list[dict]  # of the reply: texts, calls and results
    ended: bool  # with the end token
    began_call: bool  # it holds a token that begins a call or a result

    def is_fact(self, text: str) -> bool:
        """True if the reply is one search, its result and this text."""
        kinds = [p["type"] for p in self.parts]
        return (
            self.ended and kinds == ["search", "result", "text"] and self.parts[2]["text"] == text
        )

    def states(self, text: str) -> bool:
        """True if the reply holds this text outside of calls and results."""
        return any(p["type"] == "text" and text in p["text"] for p in self.parts)

    def query(self) -> str | None:
        """The text of the first search; None without one."""
        return next((text for kind, text in self.calls() if kind == "search"), None)

    def calls(self) -> list[tuple[str, str]]:
        """(tool, text) of each call."""
        return [(p["type"], p["text"]) for p in self.parts if p["type"] not in ("text", "result")]


def answers(talk, questions: list[str], having: dict[str, Tool], before=None) -> list[Answer]:
    """The answers to questions. talk: (model, tokenizer, template, sampling). having: the tools
    that it can call. before: for each question the turns in front of it."""
    model, tokenizer, template, sampling = talk
    before = before or [[]] * len(questions)
    asked = [
        [*turns, {"role": "user", "content": replaced(q, tokenizer)}]
        for turns, q in zip(before, questions)
    ]
    replies = generate(
        model,
        [render_prompt(q, tokenizer, template) for q in asked],
        MAX_NEW,
        tokenizer.special[template.end],
        sampling,
        inject=answer_calls(tokenizer, template, having),
        again=repeated_words(tokenizer),
    )
    return [read_reply(reply, tokenizer, template) for reply in replies]


def read_reply(reply: Reply, tokenizer, template) -> Answer:
    opens = {s.opens[0] for s in template.parts.values()} & tokenizer.special.keys()
    began_call = bool({tokenizer.special[token] for token in opens} & set(reply.ids.tolist()))
    return Answer(content_parts(reply.ids, tokenizer, template), reply.stop == "end", began_call)


def made_figures(model, tokenizer, template, made: tuple[str, ...]) -> dict[str, dict]:
    """Measure the tools that a model was taught by made transcripts. made: their names in MADE.
    Returns call_figures() by name. Replies are greedy."""
    talk, having = (model, tokenizer, template, GREEDY), tools(table=Table.shipped())
    return {name: call_figures(talk, MADE[name].test(), having) for name in made}


def call_figures(talk, groups: dict[str, list[Transcript]], having: dict[str, Tool]) -> dict:
    """Return shares from 0 to 1 of the questions of all groups where

    called       the reply calls a tool
    right_call   its calls are those of the transcript, character by character
    right        so is its answer, behind as many calls, and it ends
    without      the reply states the answer although no tool can be called

    and "questions", their number, and "groups", {name: {"questions", "right"}}."""
    every = [shown for some in groups.values() for shown in some]
    questions = [shown.question for shown in every]
    tokenizer = talk[1]
    expected = [replaced(shown.answer, tokenizer) for shown in every]
    replies = answers(talk, questions, having)
    blind = answers(talk, questions, {})
    right = [
        a.ended and len(a.calls()) == len(shown.calls) and _text(a) == text
        for a, shown, text in zip(replies, every, expected)
    ]
    share = _mean([a.states(text) for a, text in zip(blind, expected)])
    calls = [[(tool, replaced(text, tokenizer)) for tool, text, _ in s.calls] for s in every]
    by_group, first = {}, 0
    for name, some in groups.items():
        by_group[name] = {
            "questions": len(some),
            "right": _mean(right[first : first + len(some)]),
        }
        first += len(some)
    return {
        "called": _mean([bool(a.calls()) for a in replies]),
        "right_call": _mean([a.calls() == texts for a, texts in zip(replies, calls)]),
        "right": _mean(right),
        "without": share,
        "questions": len(every),
        "groups": by_group,
    }


def _text(answer: Answer) -> str:
    return "".join(p["text"] for p in answer.parts if p["type"] == "text")


def _mean(flags) -> float:
    return float(np.mean(flags))


def call_rows(report: dict) -> list[tuple[str, str]]:
    """The figures of made_figures() in a report as rows of a table: (name, sentence)."""
    return [
        (
            f"tools: {name}",
            ", ".join(f"{row['right']:.0%} of {what}" for what, row in found["groups"].items())
            + f" right (of {found['questions']}); right call {found['right_call']:.0%},"
            f" {found['without']:.0%} without the tool",
        )
        for name, found in ((name, report[name]) for name in MADE if report.get(name))
    ]
