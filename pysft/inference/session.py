"""A chat: the turns so far, the rule for when they no longer fit, the answer as it comes, and the
tools it calls."""

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
ROOM_WITH_TOOLS = (
    5 / 8
)  # of the context, where there are tools: a call, its result and what is said of it are long
REST = 8  # tokens that a reply has beyond a result and its repetition
CALLS = 3  # of tools in one reply: a further one stops it


class _Walk:
    """Through a reply's ids, part by part: found [(kind, ids of characters)], then the kind that is
    open ("text" outside of calls and results) and what it holds so far. Only characters are kept: a
    control token that slipped out is none of them."""

    def __init__(self, ids, tokenizer: CharTokenizer, template: Template):
        special = tokenizer.special
        marked = {
            kind: s for kind, s in template.parts.items() if {*s.opens, *s.closes} <= special.keys()
        }
        opens, closes = (
            {special[tokens(s)]: kind for kind, s in marked.items()}
            for tokens in (lambda s: s.opens[0], lambda s: s.closes[-1])
        )
        self.found, self.kind, self.held, characters = [], "text", [], len(tokenizer.characters)
        for i in map(int, ids):
            if i < characters:
                self.held.append(i)
            elif self.kind == "text" and i in opens:
                self._close(opens[i])
            elif self.kind != "text" and closes.get(i) == self.kind:
                self._close("text")
        self.closes = closes

    def _close(self, then):
        if self.held or self.kind != "text":
            self.found.append((self.kind, self.held))
        self.kind, self.held = then, []


def pause(tokenizer: CharTokenizer, template: Template, tools: dict[str, Tool], calls: int = CALLS):
    """What generation asks after each token (generate.write): when the model has closed a call, its
    tool runs and the result is injected between the result's tokens, as training rendered it. It
    takes at most half of the room that is left, so that the reply can repeat it. A call that no
    tool answers, one beyond `calls`, or one whose result has no room stops the reply."""
    special, known = tokenizer.special, frozenset(tokenizer.characters)
    closers = {
        special[s.closes[-1]]
        for kind, s in template.parts.items()
        if kind != "result" and {*s.opens, *s.closes} <= special.keys()
    }
    result = template.parts.get("result")

    def after(said: list[int], room: int):
        if said[-1] not in closers:
            return None
        before = _Walk(said[:-1], tokenizer, template)
        if before.kind == "text" or before.closes[said[-1]] != before.kind:
            return None  # a closer of nothing, or of something else: only text
        made = sum(kind not in ("text", "result") for kind, _ in before.found)
        space = (room - len(result.opens) - len(result.closes) - REST) // 2
        if before.kind not in tools or made >= calls or space < 1:
            return False
        text = tokenizer.encode(
            use(tools[before.kind], tokenizer.decode(before.held), space, known)
        ).tolist()
        return [*(special[t] for t in result.opens), *text, *(special[t] for t in result.closes)]

    return after


def parts(ids, tokenizer: CharTokenizer, template: Template) -> list[dict]:
    """A reply's ids as the parts of a message's content: text, calls and results. A control token,
    or an opener in words, that slipped out must not become a turn, and a call that was never closed
    is only text."""
    walk = _Walk(ids, tokenizer, template)
    found = []
    for kind, held in [*walk.found, *([("text", walk.held)] if walk.held else [])]:
        text = tokenizer.decode(held)
        for marker in template.forgeable:
            text = text.partition(marker)[0]
        if text or kind != "text":
            found.append({"type": kind, "text": text})
    return found


@dataclass
class Session:
    """model, tokenizer, template: a tuned run's. messages: the history, oldest first; system: what
    the system says before it, which is never left out. replace: characters that the vocabulary
    lacks are replaced, as the run's training replaced them. tools: what calls are answered by."""

    model: object
    tokenizer: CharTokenizer
    template: Template
    sampling: Sampling = Sampling()
    max_new: int = 120
    messages: list[dict] = field(default_factory=list)
    system: str | None = None
    replace: bool = False
    tools: dict[str, Tool] = field(default_factory=dict)
    _decoder: object = field(
        default=None, init=False, repr=False
    )  # made for the first reply; the weights stay as they are

    def __post_init__(self):
        if self.system is not None and not self.system.strip():
            raise UsageError("an empty --system; write some words, or leave it out")
        if self.system is not None and "system" not in self.template.turns:
            raise UsageError(
                f"this run's template {self.template.name!r} has no system role; leave --system out"
            )

    def prompt(self, text: str) -> tuple[np.ndarray, int]:
        """(ids, dropped): the prompt for `text` after the history, and how many of the oldest
        exchanges had to be left out so that a reply has room: ROOM, and with tools ROOM_WITH_TOOLS
        as long as there is history. A text that cannot fit even alone is refused."""
        turn = {"role": "user", "content": text}
        context = self.model.config.context
        room = min(ROOM, self.max_new)
        said = (
            replaced(self.system, frozenset(self.tokenizer.characters))
            if self.replace and self.system
            else self.system
        )
        before = [] if said is None else [{"role": "system", "content": said}]
        for first in range(0, len(self.messages) + 1, 2):
            ids = render_prompt(
                [*before, *self.messages[first:], turn], self.tokenizer, self.template
            )
            alone = first == len(self.messages)
            if (
                len(ids)
                + (room if alone or not self.tools else max(room, int(context * ROOM_WITH_TOOLS)))
                <= context
            ):
                return ids, first // 2
        raise DataError(
            f"the prompt takes {len(ids)} tokens and a reply needs {room}, but the context "
            f"holds {context}; shorten the prompt by {len(ids) + room - context} characters"
        )

    def stream(self, text: str) -> Iterator:
        """Answer `text` as it comes: first the prompt (ids, dropped), then generate.Events, at last
        the Reply, with which the exchange joins the history. Whoever stops listening before leaves
        the history as it was."""
        if self.replace:
            text = replaced(text, frozenset(self.tokenizer.characters))
        if not text.strip():
            raise DataError("an empty message; type some words")
        ids, dropped = self.prompt(text)
        yield ids, dropped
        said, own, stop = [], [], "length"
        after = pause(self.tokenizer, self.template, self.tools)
        self._decoder = self._decoder or self.model.decoder()
        for event in write(
            self.model,
            [ids],
            self.max_new,
            self.tokenizer.special[self.template.end],
            self.sampling,
            after,
            self._decoder,
        ):
            if event.stop is not None:
                stop = event.stop
            else:
                said.append(event.token)
                own.append(event.logits is not None)
            yield event
        reply = Reply(np.array(said, np.int32), stop, ~np.array(own, bool))
        del self.messages[: 2 * dropped]
        content = parts(reply.ids, self.tokenizer, self.template)
        if all(part["type"] == "text" for part in content):
            content = "".join(part["text"] for part in content)
        self.messages += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": content},
        ]
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
    """One answer, as `chat -p --json` prints it: calls of tools and their results are listed apart
    from the reply. tokens: those that the model wrote."""
    began = time.monotonic()
    _, reply, _ = session.say(text)
    found, own = parts(reply.ids, session.tokenizer, session.template), int((~reply.injected).sum())
    calls = [p for p in found if p["type"] != "text"]
    return {
        "prompt": text,
        "reply": "".join(p["text"] for p in found if p["type"] == "text"),
        "stop": reply.stop,
        "tokens": own,
        "tokens_per_s": own / max(time.monotonic() - began, 1e-9),
    } | ({"calls": calls} if calls else {})
