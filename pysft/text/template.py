"""Chat templates, and the loss mask that rendering makes.

A template is a table: what opens a segment, what closes it, and which of opener, text and closer
the model is graded on. Text becomes (tokens, trained) segment by segment, so the mask is known
where each token is made; nothing is ever searched for among the ids."""

from dataclasses import asdict, dataclass

import numpy as np

from pysft.errors import DataError, UsageError
from pysft.text.tokenizer import CharTokenizer


@dataclass(frozen=True)
class Segment:
    """`opens` and `closes` are sequences of special tokens and plain words; `graded` says whether
    the model is graded on the opener, the text and the closer."""
    opens: tuple[str, ...]
    closes: tuple[str, ...]
    graded: tuple[bool, bool, bool]


NOTHING, REPLY, ALL = (False, False, False), (False, True, True), (True, True, True)


@dataclass(frozen=True)
class Template:
    """`turns`: a segment for each role. `parts`: what may stand inside an assistant's turn beside
    plain text. `tokens` and `tool_tokens`: the special tokens a vocabulary grows by."""
    name: str
    turns: dict[str, Segment]
    parts: dict[str, Segment]
    tokens: tuple[str, ...]
    tool_tokens: tuple[str, ...] = ()

    def __post_init__(self):
        if set(self.turns) != {"user", "assistant"}:
            raise UsageError(f"template {self.name!r}: its turns are {', '.join(self.turns)}, expected user and "
                             "assistant")
        known = set(self.tokens + self.tool_tokens)
        for kind, s in {**self.turns, **self.parts}.items():
            if len(s.graded) != 3 or not all(isinstance(g, bool) for g in s.graded) or not s.opens or not s.closes:
                raise UsageError(f"template {self.name!r}: {kind} needs an opener, a closer and three grades")
            if s.closes[0] not in known:
                raise UsageError(f"template {self.name!r}: {kind} closes with {s.closes[0]!r}, which is no token of it")
        if not self.turns["assistant"].graded[2]:
            raise UsageError(f"template {self.name!r}: the token that ends a reply must be graded, or the model "
                             "never learns to stop")

    @property
    def end(self) -> str:
        """The token at which the model's turn, and so generation, stops."""
        return self.turns["assistant"].closes[0]

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> "Template":
        def segments(table):
            return {k: Segment(tuple(s["opens"]), tuple(s["closes"]), tuple(s["graded"]))
                    for k, s in table.items()}
        return cls(data["name"], segments(data["turns"]), segments(data["parts"]),
                   tuple(data["tokens"]), tuple(data["tool_tokens"]))


# The template of the source text. The model chooses to open a call, so all of a call is graded;
# the system writes the result, so nothing of a result ever is.
CHAT = Template(
    name="chat",
    turns={"user": Segment(("<|user|>",), ("<|end|>",), NOTHING),
           "assistant": Segment(("<|assistant|>",), ("<|end|>",), REPLY)},
    parts={"search": Segment(("<|search_start|>",), ("<|search_end|>",), ALL),
           "code": Segment(("<|code_start|>",), ("<|code_end|>",), ALL),
           "result": Segment(("<|result_start|>",), ("<|result_end|>",), NOTHING)},
    tokens=("<|user|>", "<|assistant|>", "<|end|>"),
    tool_tokens=("<|search_start|>", "<|search_end|>", "<|code_start|>", "<|code_end|>",
                 "<|result_start|>", "<|result_end|>"))


class _Writer:
    """Collects pieces of ids with their grade."""

    def __init__(self, tokenizer: CharTokenizer, template: Template):
        self.tokenizer, self.pieces = tokenizer, []
        self.marks = set(template.tokens + template.tool_tokens)

    def words(self, words: tuple[str, ...], graded: bool, where: str) -> None:
        for word in words:
            if word not in self.marks:
                self.text(word, graded, where)
            elif word in self.tokenizer.special:
                self.pieces.append((np.array([self.tokenizer.special[word]], np.int32), graded))
            else:
                raise DataError(f"{where}: this vocabulary has no token {word}")

    def text(self, text: str, graded: bool, where: str) -> None:
        self.pieces.append((self.tokenizer.encode(text, where), graded))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.concatenate([ids for ids, _ in self.pieces])
        trained = np.concatenate([np.full(len(ids), graded) for ids, graded in self.pieces])
        return tokens, trained


def _write(out: _Writer, messages, template: Template, where: str) -> None:
    for turn, message in enumerate(messages, 1):
        here = f"{where}, turn {turn} ({message['role']})"
        segment = template.turns[message["role"]]
        opener, text, closer = segment.graded
        out.words(segment.opens, opener, here)
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                out.text(part["text"], text, here)
            else:
                inner = template.parts[part["type"]]
                out.words(inner.opens, inner.graded[0], here)
                out.text(part["text"], inner.graded[1], here)
                out.words(inner.closes, inner.graded[2], here)
        out.words(segment.closes, closer, here)


def render(messages, tokenizer: CharTokenizer, template: Template = CHAT,
           where: str = "conversation") -> tuple[np.ndarray, np.ndarray]:
    """(tokens (L,) int32, trained (L,) bool) of a whole conversation.

    messages: [{"role": ..., "content": text or [{"type": ..., "text": ...}]}], as dataset.py checks
    them. trained marks the tokens that the model should learn to write: of each assistant turn the
    text, calls of tools, and the closing token."""
    out = _Writer(tokenizer, template)
    _write(out, messages, template, where)
    return out.result()


def render_prompt(messages, tokenizer: CharTokenizer, template: Template = CHAT,
                  where: str = "prompt") -> np.ndarray:
    """The ids (L,) int32 after which the model is to answer: the turns so far and the opener of the
    assistant's. An id-for-id prefix of what training renders."""
    out = _Writer(tokenizer, template)
    _write(out, messages, template, where)
    out.words(template.turns["assistant"].opens, False, where)
    return out.result()[0]
