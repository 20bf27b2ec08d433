"""A chat with a model: the history, the exchanges that are dropped from it when the context is
full, and the reply as it is written."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pysft.errors import DataError, UsageError
from pysft.inference.candidates import Best, best_reply
from pysft.inference.engine import SLOTS, Event
from pysft.inference.generate import Reply, stream
from pysft.inference.repetition import repeated_words
from pysft.inference.sampling import Sampling
from pysft.inference.thoughts import visible_parts, visible_reply
from pysft.inference.tool_calls import answer_calls, content_parts, free_text, result_ids
from pysft.inference.tools import Tool
from pysft.run.stage import Stage
from pysft.text.characters import replaced, typed
from pysft.text.conversation import THOUGHT
from pysft.text.render import render_prompt
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer

MAX_NEW = 120  # maximum tokens that the model writes for a reply, unless another number is given
ROOM = 32  # minimum tokens reserved for a reply; old turns are dropped to make room
# Share of the context reserved for a reply if there are tools, because a call, its result and the
# answer are long. A longer result leaves the history out. Without history, ROOM is enough.
ROOM_WITH_TOOLS = 3 / 8


@dataclass
class Session:
    """A conversation with a tuned model.

    model, tokenizer, template: those of the run.
    max_new: the most tokens that the model may choose for one reply.
    messages: the history, oldest first, as [{"role": ..., "content": ...}]; user and assistant
        alternate. The model sees its earlier thoughts in it, as training renders them.
    system: the system message in front of the history, which is never dropped.
    replace_unknown: replace characters that the vocabulary lacks, as the run's training did;
        otherwise they raise a DataError.
    tools: the tools that answer calls.
    text_history: show the model its earlier replies without their calls, results and thoughts, as
        the made transcripts do. A model that learned from other transcripts sees them as it wrote
        them.
    best_of, reward: draw so many replies to each message, and answer with the one that this reward
        model (candidates.py) scores highest. 0 is one reply, drawn as `sampling` says. Of the
        sampling, only the seed counts for them, and no tool may run.

    A system message that is empty, or that the template has no role for, raises a UsageError, and
    one with an unknown character a DataError."""

    model: object
    tokenizer: Tokenizer
    template: Template
    sampling: Sampling = Sampling()
    max_new: int = MAX_NEW
    messages: list[dict] = field(default_factory=list)
    system: str | None = None
    replace_unknown: bool = False
    tools: dict[str, Tool] = field(default_factory=dict)
    text_history: bool = False
    best_of: int = 0
    reward: Stage | None = None
    dropped: int = field(default=0, init=False)  # exchanges that the last reply left out
    best: Best | None = field(default=None, init=False)  # what the last reply was chosen from
    # Made for the first reply and used for all later ones, because the weights do not change.
    _decoder: object = field(default=None, init=False, repr=False)

    def __post_init__(self):
        self._again = lambda written: ()
        if self.sampling.repetition > 1:
            self._again = repeated_words(self.tokenizer)
        if self.system is not None and not self.system.strip():
            raise UsageError("--system is empty; write some words, or leave it out")
        if self.system is not None and "system" not in self.template.turns:
            raise UsageError(
                f"this run's template {self.template.name!r} has no system role; leave --system out"
            )
        if self.best_of and self.tools:
            raise UsageError(
                "--best-of scores replies that the model writes alone, and this model calls tools;"
                " add --no-tools, or leave --best-of out"
            )
        self._system_turn()  # raises now what every message would raise

    def prompt(self, text: str) -> tuple[np.ndarray, int]:
        """Return (ids, dropped): the prompt for a message after the history, and the number of the
        oldest exchanges that it leaves out.

        Exchanges are left out until ROOM tokens (or max_new, if that is less) remain for the reply;
        with tools, until ROOM_WITH_TOOLS of the context remain or no exchange is left. A message
        with an unknown character, or one that does not fit even alone, raises a DataError."""
        self.tokenizer.encode(text, "the message")
        context = self.model.config.context
        least = min(ROOM, self.max_new) + bool(self.best_of)  # its end is read too
        system = self._system_turn()
        turn = {"role": "user", "content": text}
        history = [self._seen(message) for message in self.messages]
        for first in range(0, len(history) + 1, 2):
            ids = render_prompt([*system, *history[first:], turn], self.tokenizer, self.template)
            room = least
            if self.tools and first < len(history):
                room = max(least, int(context * ROOM_WITH_TOOLS))
            if len(ids) + room <= context:
                return ids, first // 2
        excess = len(ids) + least - context
        raise DataError(
            f"the prompt takes {len(ids)} tokens and a reply needs {least}, but the context holds"
            f" {context}; shorten the prompt by {excess} token{'s' * (excess > 1)}"
        )

    def _system_turn(self) -> list[dict]:
        """The system message as a list of one turn, or of none."""
        if self.system is None:
            return []
        text = self._known(self.system)
        self.tokenizer.encode(text, "--system")
        return [{"role": "system", "content": text}]

    def _seen(self, message: dict) -> dict:
        """A turn of the history as the model sees it."""
        content = message["content"]
        if not self.text_history or isinstance(content, str):
            return message
        text = free_text(content)
        return message | {"content": text} if text else message

    def _known(self, text: str) -> str:
        """A text that a person typed, as the model reads it."""
        text = typed(text, self.tokenizer)
        return replaced(text, self.tokenizer) if self.replace_unknown else text

    def stream(self, text: str) -> Iterator:
        """Answer a message. Yields (ids, dropped) as prompt() returns them, then the Events of the
        reply as it is written (engine.Event), and last the Reply. With best_of there are no Events,
        and self.best has all replies when the Reply is yielded.

        Just before the Reply is yielded, the exchange is added to the history, and exchanges that
        were left out, by the prompt or for a long result, are removed; self.dropped has their
        final number. A caller who stops earlier leaves the history unchanged."""
        text = self._known(text)
        if not text.strip():
            raise DataError("the message is empty; type some words")
        ids, dropped = self.prompt(text)
        yield ids, dropped
        if self.best_of:
            reply = self._best(text, dropped)
            self._remember(text, reply, dropped)
            self.dropped = dropped
            yield reply
            return
        self._decoder = self._decoder or self.model.decoder()
        written, chosen, long = [], [], []
        prompt = [*self._system_turn(), {"role": "user", "content": text}]
        alone = render_prompt(prompt, self.tokenizer, self.template)
        while True:
            history = len(ids) - len(alone)
            stop = yield from self._written(ids, written, chosen, long, history)
            if not long:
                break
            dropped, ids = len(self.messages) // 2, alone
            room = self.model.config.context - len(ids) - len(written)
            found, _ = result_ids(long.pop(), room, self.tokenizer, self.template)
            for i in found:
                yield Event(0, i)
            written += found
            chosen += [False] * len(found)
        reply = Reply(np.array(written, np.int32), stop, ~np.array(chosen, bool))
        self._remember(text, reply, dropped)
        self.dropped = dropped
        yield reply

    def _best(self, text: str, dropped: int) -> Reply:
        """Draw best_of replies to a message, and return the best of them."""
        self._decoder = self._decoder or self.model.decoder(min(SLOTS, self.best_of))
        history = [self._seen(message) for message in self.messages[2 * dropped :]]
        messages = [*self._system_turn(), *history, {"role": "user", "content": text}]
        talker = self.model, self.tokenizer, self.template, self.reward
        n, seed = self.best_of, self.sampling.seed
        self.best = best_reply(*talker, messages, n, seed, self.max_new, self._decoder)
        return self.best.reply

    def _written(self, ids, written: list[int], chosen: list[bool], long: list[str], history: int):
        """Write a reply from where it is, and return why it stopped. Yields its Events.

        ids: the prompt. written, chosen: the reply's ids, and which of them the model chose; they
        grow. long: takes a result that fits whole only if the history is left out, and then the
        reply stops. history: the tokens of the prompt that the history takes."""

        def cut(result: str, room: int) -> bool:
            if not history or not result_ids(result, room + history, *style)[1]:
                return False
            long.append(result)
            return True

        before, style = list(written), (self.tokenizer, self.template)
        inject = answer_calls(self.tokenizer, self.template, self.tools, cut=cut)
        for event in stream(
            self.model,
            [np.concatenate([ids, np.array(before, np.int32)])],
            self.max_new - sum(chosen),
            self.tokenizer.special[self.template.end],
            self.sampling,
            lambda new, room: inject(before + new, room),
            self._decoder,
            lambda new: self._again(before + new),
        ):
            if event.stop is None:
                written.append(event.token)
                chosen.append(event.logits is not None)
            elif long:
                return event.stop
            yield event
            if event.stop is not None:
                return event.stop

    def _remember(self, text: str, reply: Reply, dropped: int) -> None:
        """Add an exchange to the history, and remove the oldest ones that its prompt left out."""
        del self.messages[: 2 * dropped]
        content = content_parts(reply.ids, self.tokenizer, self.template)
        if all(part["type"] == "text" for part in content):
            content = "".join(part["text"] for part in content)
        self.messages += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": content},
        ]

    def say(self, text: str) -> tuple[str, Reply, int]:
        """Answer a message; return (text of the reply without its thoughts, Reply, number of
        dropped exchanges). The exchange is added to the history."""
        *_, reply = self.stream(text)
        return visible_reply(reply.ids, self.tokenizer, self.template), reply, self.dropped

    def undo(self) -> bool:
        """Forget the last exchange. Returns False if there is none."""
        had_any = bool(self.messages)
        del self.messages[-2:]
        return had_any


def answer_once(session: Session, text: str) -> dict:
    """Answer a message; return the document of `chat -p --json`.

    "reply" is the text alone. "calls" has the calls of tools and their results, and "thoughts" the
    texts of the thoughts; each is left out if there were none. "tokens" counts the tokens that the
    model chose. With best_of there is also what Best.to_json() gives."""
    began = time.monotonic()
    _, reply, _ = session.say(text)
    parts = content_parts(reply.ids, session.tokenizer, session.template)
    tokens = int((~reply.injected).sum())
    calls = [part for part in visible_parts(parts) if part["type"] != "text"]
    thoughts = [part["text"] for part in parts if part["type"] == THOUGHT]
    document = {
        "prompt": text,
        "reply": free_text(parts),
        "stop": reply.stop,
        "tokens": tokens,
        "tokens_per_s": tokens / max(time.monotonic() - began, 1e-9),
    }
    document |= {"calls": calls} if calls else {}
    document |= {"thoughts": thoughts} if thoughts else {}
    return document | (session.best.to_json() if session.best_of else {})
