"""A chat: the turns so far, the rule for when they no longer fit, the answer as it comes, and the tools it calls."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pysft.errors import DataError, UsageError
from pysft.inference.generate import Reply, Sampling, write
from pysft.inference.tools import Tool, use
from pysft.text.formats import replaced
from pysft.text.template import Template, render_prompt
from pysft.text.tokenizer import CharTokenizer

ROOM = 32  # tokens that a reply gets at the least: history makes way for it
ROOM_WITH_TOOLS = 5 / 8  # of the context: a call, its result and what is said of it are long, and half of them is worth nothing
REST = 8   # of them a result of a tool must leave for the reply to end with
CALLS = 3  # of tools in one reply: a further one stops it


def pause(tokenizer: CharTokenizer, template: Template, tools: dict[str, Tool], calls: int = CALLS):
    """What generation asks after each token (generate.write): when the model has closed a call, its tool runs and the
    result is injected between the result's tokens, as training rendered it. A call that no tool answers, one beyond
    `calls`, or one whose result has no room stops the reply."""
    special, known = tokenizer.special, frozenset(tokenizer.characters)
    closers = {special[s.closes[-1]]: (kind, special[s.opens[0]]) for kind, s in template.parts.items()
               if kind != "result" and {*s.opens, *s.closes} <= special.keys()}
    result = template.parts.get("result")

    def after(said: list[int], room: int):
        if said[-1] not in closers:
            return None
        kind, opener = closers[said[-1]]
        if opener not in said:
            return None  # a closer of nothing: only text
        start = len(said) - 1 - said[::-1].index(opener)
        call = tokenizer.decode([i for i in said[start + 1:-1] if i < len(tokenizer.characters)])
        space = room - len(result.opens) - len(result.closes) - REST
        if kind not in tools or sum(i in closers for i in said) > calls or space < 1:
            return False
        text = tokenizer.encode(use(tools[kind], call, space, known)).tolist()
        return [*(special[t] for t in result.opens), *text, *(special[t] for t in result.closes)]
    return after


def parts(ids, tokenizer: CharTokenizer, template: Template) -> list[dict]:
    """A reply's ids as the parts of a message's content: text, calls and results. Only characters are kept: a control
    token, or an opener in words, that slipped out must not become a turn."""
    opens = {tokenizer.special[s.opens[0]]: kind for kind, s in template.parts.items() if s.opens[0] in tokenizer.special}
    closes = {kind: tokenizer.special[s.closes[-1]] for kind, s in template.parts.items() if s.closes[-1] in tokenizer.special}
    found, kind, held = [], "text", []

    def flush(kind):
        text = tokenizer.decode(held)
        for marker in template.forgeable:
            text = text.partition(marker)[0]
        if text or kind != "text":
            found.append({"type": kind, "text": text})
        held.clear()

    for i in map(int, ids):
        if i < len(tokenizer.characters):
            held.append(i)
        elif kind == "text" and i in opens:
            flush("text")
            kind = opens[i]
        elif kind != "text" and i == closes[kind]:
            flush(kind)
            kind = "text"
    flush("text" if kind != "text" else kind)  # a call that was never closed is only text
    return found


@dataclass
class Session:
    """model, tokenizer, template: a tuned run's. messages: the history, oldest first; system: what the system says
    before it, which is never left out. replace: characters that the vocabulary lacks are replaced, as the run's training
    replaced them. tools: what calls are answered by."""
    model: object
    tokenizer: CharTokenizer
    template: Template
    sampling: Sampling = Sampling()
    max_new: int = 120
    messages: list[dict] = field(default_factory=list)
    system: str | None = None
    replace: bool = False
    tools: dict[str, Tool] = field(default_factory=dict)

    def __post_init__(self):
        if self.system is not None and not self.system.strip():
            raise UsageError("an empty --system; write some words, or leave it out")
        if self.system is not None and "system" not in self.template.turns:
            raise UsageError(f"this run's template {self.template.name!r} has no system role; leave --system out")

    def prompt(self, text: str) -> tuple[np.ndarray, int]:
        """(ids, dropped): the prompt for `text` after the history, and how many of the oldest
        exchanges had to be left out so that a reply has room: ROOM, and with tools ROOM_WITH_TOOLS as long as there is
        history. A text that cannot fit even alone is refused."""
        turn = {"role": "user", "content": text}
        context = self.model.config.context
        room = min(ROOM, self.max_new)
        said = self.system and replaced(self.system, frozenset(self.tokenizer.characters)) if self.replace else self.system
        before = [] if said is None else [{"role": "system", "content": said}]
        for first in range(0, len(self.messages) + 1, 2):
            ids = render_prompt([*before, *self.messages[first:], turn], self.tokenizer, self.template)
            alone = first == len(self.messages)
            if len(ids) + (room if alone or not self.tools else max(room, int(context * ROOM_WITH_TOOLS))) <= context:
                return ids, first // 2
        raise DataError(f"the prompt takes {len(ids)} tokens and a reply needs {room}, but the context "
                        f"holds {context}; shorten the prompt by {len(ids) + room - context} characters")

    def stream(self, text: str) -> Iterator:
        """Answer `text` as it comes: first the prompt (ids, dropped), then generate.Events, at last the Reply, with which
        the exchange joins the history. Whoever stops listening before leaves the history as it was."""
        if self.replace:
            text = replaced(text, frozenset(self.tokenizer.characters))
        if not text.strip():
            raise DataError("an empty message; type some words")
        ids, dropped = self.prompt(text)
        yield ids, dropped
        said, own, stop = [], [], "length"
        after = pause(self.tokenizer, self.template, self.tools)
        for event in write(self.model, [ids], self.max_new, self.tokenizer.special[self.template.end], self.sampling, after):
            if event.stop is not None:
                stop = event.stop
            else:
                said.append(event.token)
                own.append(event.logits is not None)
            yield event
        reply = Reply(np.array(said, np.int32), stop, ~np.array(own, bool))
        del self.messages[:2 * dropped]
        content = parts(reply.ids, self.tokenizer, self.template)
        if all(part["type"] == "text" for part in content):
            content = "".join(part["text"] for part in content)
        self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": content}]
        yield reply

    def say(self, text: str) -> tuple[str, Reply, int]:
        """(answer, Reply, dropped): the model's whole answer to `text`; both join the history."""
        (_, dropped), *_, reply = self.stream(text)
        return self.tokenizer.decode(reply.ids), reply, dropped

    def undo(self) -> bool:
        """Forget the last exchange; False if there is none."""
        there = bool(self.messages)
        del self.messages[-2:]
        return there


def once(session: Session, text: str) -> dict:
    """One answer, as `chat -p --json` prints it: what calls of tools and their results were stands apart from the reply."""
    began = time.monotonic()
    answer, reply, _ = session.say(text)
    found = parts(reply.ids, session.tokenizer, session.template)
    calls = [p for p in found if p["type"] != "text"]
    if calls:
        answer = "".join(p["text"] for p in found if p["type"] == "text")
    return {"prompt": text, "reply": answer, "stop": reply.stop, "tokens": len(reply.ids),
            "tokens_per_s": len(reply.ids) / max(time.monotonic() - began, 1e-9)} | ({"calls": calls} if calls else {})
