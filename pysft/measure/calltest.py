"""Replies that call tools: how they are asked for and read, and how many are as they should be."""

from typing import NamedTuple

import numpy as np

from pysft.inference.generate import Reply, generate
from pysft.inference.repetition import repeated_words
from pysft.inference.sampling import GREEDY
from pysft.inference.table import Table
from pysft.inference.thoughts import visible_parts
from pysft.inference.tool_calls import answer_calls, content_parts
from pysft.inference.tools import Tool, tools
from pysft.measure.evaluate import MAX_NEW, longest_reply
from pysft.text.characters import replaced
from pysft.text.conversation import THOUGHT, is_call
from pysft.text.formats import last_text
from pysft.text.render import render_prompt
from pysft.world.made import MADE
from pysft.world.table import TABLE
from pysft.world.transcripts import Transcript


class Answer(NamedTuple):
    parts: list[dict]  # of the reply: texts, calls and results, without thoughts
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

    def skeleton(self) -> list[tuple[str, str]]:
        """(type, text) of each part, without the texts of results."""
        return [(p["type"], "" if p["type"] == "result" else p["text"]) for p in self.parts]

    def calls(self) -> list[tuple[str, str]]:
        """(tool, text) of each call."""
        return [(p["type"], p["text"]) for p in self.parts if is_call(p["type"])]


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
        longest_reply(tokenizer, template, MAX_NEW),
        tokenizer.special[template.end],
        sampling,
        inject=answer_calls(tokenizer, template, having),
        again=repeated_words(tokenizer),
    )
    return [read_reply(reply, tokenizer, template) for reply in replies]


def read_reply(reply: Reply, tokenizer, template) -> Answer:
    opens = {s.opens[0] for kind, s in template.parts.items() if kind != THOUGHT}
    begun = {tokenizer.special[token] for token in opens & tokenizer.special.keys()}
    began_call = bool(begun & set(reply.ids.tolist()))
    parts = visible_parts(content_parts(reply.ids, tokenizer, template))
    return Answer(parts, reply.stop == "end", began_call)


def made_figures(model, tokenizer, template, probe, made: tuple[str, ...]) -> dict[str, dict]:
    """Measure the tools that a model was taught by made transcripts. made: their names in MADE.
    Returns {name: figures} with those of call_figures() and

    quiet       the share of the probe's prompts, which need no tool, without a call
    quiet_of    how many these are

    Replies are greedy."""
    talk = model, tokenizer, template, GREEDY
    table = Table.shipped() if TABLE in made else None
    found = {name: call_figures(talk, MADE[name].test(), tools(table=table)) for name in made}
    prompts = [last_text(p["prompt"]) for p in probe.prompts]
    quiet = _mean([not a.began_call for a in answers(talk, prompts, {})])
    return {name: f | {"quiet": quiet, "quiet_of": len(prompts)} for name, f in found.items()}


def call_figures(talk, groups: dict[str, list[Transcript]], having: dict[str, Tool]) -> dict:
    """Return shares from 0 to 1 of the questions of all groups where

    called       the reply calls a tool
    right_call   its calls are those of the transcript, character by character
    right        the whole reply is that of the transcript: its calls, each with a result, and then
                 the answer
    without      the reply states the answer although no tool can be called, or although the tool
                 gives the result of another question

    and "questions", their number, and "groups", {name: {"questions", "right", "right_call",
    "without"}}."""
    every = [shown for some in groups.values() for shown in some]
    questions, tokenizer = [shown.question for shown in every], talk[1]

    def written(text):
        return replaced(text, tokenizer)

    expected = [
        [part for tool, call, _ in shown.calls for part in ((tool, written(call)), ("result", ""))]
        + [("text", written(shown.answer))]
        for shown in every
    ]
    replies = answers(talk, questions, having)
    blind = answers(talk, questions, {})
    misled = answers(talk, questions, _mixed_up(every, having))
    figures = {
        "called": [bool(a.calls()) for a in replies],
        "right_call": [
            a.calls() == [part for part in parts if part[0] not in ("result", "text")]
            for a, parts in zip(replies, expected)
        ],
        "right": [a.ended and a.skeleton() == parts for a, parts in zip(replies, expected)],
        "without": [
            a.states(parts[-1][1]) or b.states(parts[-1][1])
            for a, b, parts in zip(blind, misled, expected)
        ],
    }
    by_group, first = {}, 0
    for name, some in groups.items():
        rows = slice(first, first + len(some))
        shares = {key: _mean(figures[key][rows]) for key in ("right", "right_call", "without")}
        by_group[name] = {"questions": len(some), **shares}
        first += len(some)
    means = {key: _mean(flags) for key, flags in figures.items()}
    return means | {"questions": len(every), "groups": by_group}


def _mixed_up(every: list[Transcript], having: dict[str, Tool]) -> dict[str, Tool]:
    """Return the tools with the results of other questions: each call of a transcript gets the
    first result of a later one that differs. Other calls get what the tool gives."""
    calls = [call for shown in every for call in shown.calls]
    results = [result for _, _, result in calls]
    other = {}
    for i, (tool, call, result) in enumerate(calls):
        later = results[i + 1 :] + results[:i]
        other[tool, call] = next((r for r in later if r != result), result)

    def lying(tool):
        return Tool(
            tool.name,
            lambda call: other[tool.name, call] if (tool.name, call) in other else tool.run(call),
        )

    return {name: lying(tool) for name, tool in having.items()}


def _mean(flags) -> float:
    return float(np.mean(flags))


def call_rows(report: dict) -> list[tuple[str, str]]:
    """The figures of made_figures() in a report as rows of a table: (name, sentence)."""
    return [
        (
            f"tools: {name}",
            ", ".join(f"{row['right']:.0%} of {what}" for what, row in found["groups"].items())
            + f" right (of {found['questions']}); right call {found['right_call']:.0%},"
            f" {found['without']:.0%} without the tool; {found['quiet']:.0%} of"
            f" {found['quiet_of']} ordinary prompts without a call",
        )
        for name, found in ((name, report[name]) for name in MADE if report.get(name))
    ]
