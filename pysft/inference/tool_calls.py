"""Calls of tools in a reply: recognised while it is written, answered, and stored as the parts of a
message.

A call stands between its start and its end token, a result between its own two, and so does a
thought (thoughts.py), which calls nothing. The template names them in its table of parts
(text/templates.py):

    <|search_start|>Elka<|search_end|><|result_start|>Elka swims.<|result_end|>She swims.<|end|>
    |---------- the model -----------||--------------- injected --------------||-- the model --|"""

from collections.abc import Callable

from pysft.inference.tools import Tool, fitted, run_tool
from pysft.text.conversation import THOUGHT, is_call
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer

MAX_CALLS = 3  # calls of tools in one reply; another one ends it
SPARE = 8  # tokens left for a reply beyond a result and its repetition


class ReplyReader:
    """Reads the ids of a reply, finished or not, part by part.

    finished: [(kind, ids)], the parts that are complete.
    kind, held: the kind of the part that is still open, and its ids so far. Outside of calls,
        results and thoughts the kind is "text".
    closers: {closing token: the kind that it closes}.

    Only ids of text are kept, so a control token in the wrong place is left out."""

    def __init__(self, ids, tokenizer: Tokenizer, template: Template):
        special, ids = tokenizer.special, list(map(int, ids))
        segments = {
            kind: s for kind, s in template.parts.items() if {*s.opens, *s.closes} <= special.keys()
        }
        openers = {special[s.opens[0]]: kind for kind, s in segments.items()}
        self.closers = {special[s.closes[-1]]: kind for kind, s in segments.items()}
        self.finished, self.kind, self.held = [], "text", []
        for i, is_special in zip(ids, tokenizer.is_special(ids)):
            if not is_special:
                self.held.append(i)
            elif self.kind == "text" and i in openers:
                self._begin(openers[i])
            elif self.kind != "text" and self.closers.get(i) == self.kind:
                self._begin("text")

    def _begin(self, kind: str) -> None:
        """Finish the open part and begin another. A text of no tokens is no part."""
        if self.held or self.kind != "text":
            self.finished.append((self.kind, self.held))
        self.kind, self.held = kind, []


def answer_calls(
    tokenizer: Tokenizer,
    template: Template,
    tools: dict[str, Tool],
    max_calls: int = MAX_CALLS,
    cut: Callable[[str, int], bool] | None = None,
):
    """Return the function that answers calls while a reply is written (`inject` of stream()).

    When the model closes a call, its tool runs, and the result is injected between the tokens of
    a result, exactly as training rendered it. The result takes at most half of the tokens that are
    left, so that the reply can repeat it. A call ends the reply if there is no tool for it, if
    max_calls were made before it, or if there is no room for a result.
    cut(result, room): called before a result is cut. If it returns True, the call ends the
        reply."""
    special = tokenizer.special
    call_closers = {
        special[s.closes[-1]]
        for kind, s in template.parts.items()
        if is_call(kind) and {*s.opens, *s.closes} <= special.keys()
    }

    def inject(written: list[int], room: int):
        if written[-1] not in call_closers:
            return None
        reader = ReplyReader(written[:-1], tokenizer, template)
        if reader.kind == "text" or reader.closers[written[-1]] != reader.kind:
            return None  # it closes no part, or one of another kind: the model goes on
        calls = sum(is_call(kind) for kind, _ in reader.finished)
        if reader.kind not in tools or calls >= max_calls:
            return False
        text = run_tool(tools[reader.kind], tokenizer.decode(reader.held), tokenizer)
        ids, is_whole = result_ids(text, room, tokenizer, template)
        if not is_whole and cut is not None and cut(text, room):
            return False
        return ids or False

    return inject


def result_ids(
    text: str, room: int, tokenizer: Tokenizer, template: Template
) -> tuple[list[int], bool]:
    """(ids, whole): a result between its tokens, as it is injected where `room` tokens are left,
    and True if nothing of it was cut. Without room there are no ids."""
    result = template.parts["result"]
    space = (room - len(result.opens) - len(result.closes) - SPARE) // 2
    if space < 1:
        return [], False
    special, inner = tokenizer.special, fitted(text, space, tokenizer)
    opener, closer = ([special[token] for token in s] for s in (result.opens, result.closes))
    return [*opener, *inner.tolist(), *closer], len(inner) == len(tokenizer.encode(text))


def free_text(parts: list[dict]) -> str:
    """The text of the parts of a reply, without calls of tools, their results and thoughts."""
    return "".join(part["text"] for part in parts if part["type"] == "text")


def content_parts(ids, tokenizer: Tokenizer, template: Template) -> list[dict]:
    """Return a reply's ids as the parts of a message's content: {"type": kind, "text": text} for
    each text, call, result and thought.

    A call that was never closed is only text. A thought that was never closed is a thought. A text
    ends before the first words that would begin or end a turn (template.forgeable), so that a reply
    cannot forge a turn in the history."""
    reader = ReplyReader(ids, tokenizer, template)
    last = THOUGHT if reader.kind == THOUGHT else "text"
    rest = [(last, reader.held)] if reader.held else []
    parts = []
    for kind, held in [*reader.finished, *rest]:
        text = tokenizer.decode(held)
        for marker in template.forgeable:
            text = text.partition(marker)[0]
        if text or kind != "text":
            parts.append({"type": kind, "text": text})
    return parts
