"""Chat templates, and the loss mask that rendering makes.

A template is a table: what opens a segment, what closes it, and which of opener, text and closer
the model is graded on. Text becomes (tokens, trained) segment by segment, so the mask is known
where each token is made; nothing is ever searched for among the ids."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pysft.errors import DataError, MissingInput, RowError, UsageError
from pysft.text.tokenizer import CharTokenizer

# What of a conversation is graded. "everything" is no mask at all: the user's words too.
GRADES = ("all", "last", "flags", "everything")
TEXT = (  # the role of a row that is no conversation but plain text, every character of it graded
    "text"
)


@dataclass(frozen=True)
class Segment:
    """`opens` and `closes` are sequences of special tokens and plain words; `graded` says whether
    the model is graded on the opener, the text and the closer. `joins`: the turn that follows
    stands inside this one and has no opener of its own."""

    opens: tuple[str, ...]
    closes: tuple[str, ...]
    graded: tuple[bool, bool, bool]
    joins: bool = False


NOTHING, REPLY, ALL = (False, False, False), (False, True, True), (True, True, True)


@dataclass(frozen=True)
class Template:
    """`turns`: a segment for each role. `parts`: what may stand inside an assistant's turn beside
    plain text. `tokens` and `tool_tokens`: the special tokens a vocabulary grows by.

    A template that would train wrongly is refused when it is made (_prove)."""

    name: str
    turns: dict[str, Segment]
    parts: dict[str, Segment]
    tokens: tuple[str, ...]
    tool_tokens: tuple[str, ...] = ()

    def __post_init__(self):
        if not {"user", "assistant"} <= set(self.turns) <= {"system", "user", "assistant"}:
            raise UsageError(
                f"template {self.name!r}: its turns are {', '.join(self.turns)}, expected user and "
                "assistant, and perhaps system"
            )
        for kind, s in {**self.turns, **self.parts}.items():
            if len(s.graded) != 3 or not all(isinstance(g, bool) for g in s.graded):
                raise UsageError(
                    f"template {self.name!r}: {kind} needs three grades: opener, text, closer"
                )
            if not all(isinstance(word, str) and word for word in s.opens + s.closes):
                raise UsageError(
                    f"template {self.name!r}: {kind} opens or closes with something that is no word"
                )
            if s.joins and kind != "system":
                raise UsageError(
                    f"template {self.name!r}: {kind} cannot hold the turn that follows; only"
                    " system can"
                )
        for kind, s in self.parts.items():
            if not s.opens or not s.closes or not set(s.opens + s.closes) <= self.marks:
                raise UsageError(
                    f"template {self.name!r}: {kind} must open and close with tokens of the"
                    " template"
                )
            if kind in ("text", *self.turns):
                raise UsageError(f"template {self.name!r}: a part cannot be called {kind!r}")
            if s.graded != (NOTHING if kind == "result" else ALL):
                raise UsageError(
                    f"template {self.name!r}: "
                    + (
                        "nothing of a result may be graded: the system writes it"
                        if kind == "result"
                        else f"all of {kind} must be graded: the model chooses to call it"
                    )
                )
        if self.parts and "result" not in self.parts:
            raise UsageError(
                f"template {self.name!r}: it has calls ({', '.join(self.parts)}) and no part"
                ' "result" for what they give'
            )
        for words in (
            [s.opens[0] for s in self.parts.values()],
            [s.closes[-1] for s in self.parts.values()],
        ):
            if len(set(words)) < len(words):
                raise UsageError(
                    f"template {self.name!r}: two of its parts begin or end with the same token;"
                    " give each its own"
                )
        end = self.turns["assistant"].closes
        if len(end) != 1 or end[0] not in self.marks:
            raise UsageError(
                f"template {self.name!r}: a reply must close with one special token, at which"
                " generation stops"
            )
        if any(end[0] in s.opens for s in [*self.turns.values(), *self.parts.values()]) or any(
            end[0] in s.closes for s in self.parts.values()
        ):
            raise UsageError(
                f"template {self.name!r}: {end[0]!r} ends a reply, so nothing else of it may be"
                " written with it"
            )
        if not self.turns["user"].closes and not self.turns["assistant"].opens:
            raise UsageError(
                f"template {self.name!r}: nothing stands between a question and its answer"
            )
        _prove(self)

    @cached_property
    def marks(self) -> frozenset[str]:
        """Every special token of the template."""
        return frozenset(self.tokens + self.tool_tokens)

    @property
    def end(self) -> str:
        """The token at which the model's turn, and so generation, stops."""
        return self.turns["assistant"].closes[0]

    @cached_property
    def forgeable(self) -> tuple[str, ...]:
        """Openers and closers without any special token: whoever typed them would forge a turn, so
        no content may hold them."""
        return tuple(
            "".join(words)
            for s in self.turns.values()
            for words in (s.opens, s.closes)
            if words and not self.marks & set(words)
        )

    def characters(self) -> str:
        """The plain characters that its words are written with."""
        words = [
            w
            for s in [*self.turns.values(), *self.parts.values()]
            for w in s.opens + s.closes
            if w not in self.marks
        ]
        return "".join(sorted(set("".join(words))))

    def written_with(self, characters: str) -> None:
        """Raise a UsageError unless the template's own words can be written with these."""
        lacking = sorted(set(self.characters()) - set(characters))
        if lacking:
            raise UsageError(
                f"template {self.name!r} writes its words with {', '.join(map(repr, lacking))},"
                " which the corpus lacks; choose another template, or --unknown grow"
            )

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> "Template":
        """The template of a JSON object as to_json gives it; a UsageError says what is wrong with
        another."""

        def take(table, key, kind, default=None):
            value = table.get(key, default)
            if not isinstance(value, kind):
                raise UsageError(
                    f"{key!r} is {value!r}, expected"
                    f" {'a list' if kind is list else 'text' if kind is str else 'an object'}"
                )
            return tuple(value) if kind is list else value

        def segments(key):
            found = {}
            for kind, s in take(data, key, dict).items():
                if not isinstance(s, dict) or not isinstance(s.get("joins", False), bool):
                    raise UsageError(
                        f"{kind!r} in {key!r} must be an object with opens, closes, graded, and"
                        " perhaps joins"
                    )
                found[kind] = Segment(
                    take(s, "opens", list),
                    take(s, "closes", list),
                    take(s, "graded", list),
                    s.get("joins", False),
                )
            return found

        if not isinstance(data, dict):
            raise UsageError(f"a JSON {type(data).__name__}, expected an object")
        name, tokens, tools = (
            take(data, "name", str),
            take(data, "tokens", list),
            take(data, "tool_tokens", list, []),
        )
        if not name.isprintable() or not all(
            isinstance(t, str) and t.isprintable() for t in tokens + tools
        ):
            raise UsageError("its name and tokens must be printable text")
        return cls(name, segments("turns"), segments("parts"), tokens, tools)


class _Writer:
    """Collects words, texts and their grades; all the text becomes ids at once."""

    def __init__(self, tokenizer: CharTokenizer, template: Template):
        self.tokenizer, self.template = tokenizer, template
        self.texts, self.pieces = (
            [],
            [],
        )  # pieces: (text's length or the special's id, special?, graded)

    def words(self, words: tuple[str, ...], graded: bool, where: str) -> None:
        for word in words:
            if word not in self.template.marks:
                self.text(word, graded, where)
            elif word in self.tokenizer.special:
                self.pieces.append((self.tokenizer.special[word], True, graded))
            else:
                raise RowError(
                    where,
                    f"this vocabulary has no token {word}",
                    "grow it by the template's tokens",
                    "tokens",
                )

    def text(self, text: str, graded: bool, where: str) -> None:
        self.texts.append((text, where))
        self.pieces.append((len(text), False, graded))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        try:
            ids = self.tokenizer.encode("".join([text for text, _ in self.texts]))
        except DataError:
            for text, where in self.texts:
                try:
                    self.tokenizer.encode(text)
                except DataError as error:
                    what, _, remedy = str(error).removeprefix("text: ").partition("; ")
                    raise RowError(
                        where, what, f"{remedy} (--unknown replace or grow does)", "characters"
                    ) from None
            raise
        size = sum(1 if special else n for n, special, _ in self.pieces)
        tokens, trained = np.empty(size, np.int32), np.empty(size, bool)
        at = read = 0
        for n, special, graded in self.pieces:
            if special:
                tokens[at], trained[at] = n, graded
                at += 1
            else:
                tokens[at : at + n], trained[at : at + n] = ids[read : read + n], graded
                at, read = at + n, read + n
        return tokens, trained


def _write(out: _Writer, messages, template: Template, where: str, grade: str) -> None:
    if messages[0]["role"] == TEXT:
        return out.text(messages[0]["content"], True, where)
    everything = grade == "everything"
    last, joined = len(messages), False
    for turn, message in enumerate(messages, 1):
        role, content = message["role"], message["content"]
        here = f"{where}, turn {turn} ({role})"
        segment = template.turns[role]
        flag = message.get("train")
        if flag is not None and grade != "flags":
            raise RowError(
                here,
                f'it has a flag "train", but {_say(grade)}',
                "choose --grade flags, or take the flags out",
                "flags",
            )
        wanted = not (flag is False or (grade == "last" and turn < last))
        opener, text, closer = (everything,) * 3 if everything or not wanted else segment.graded
        if not joined:
            out.words(segment.opens, opener, here)
        joined = segment.joins
        for marker in template.forgeable:
            if marker in (
                content if isinstance(content, str) else "".join(part["text"] for part in content)
            ):
                raise RowError(
                    here,
                    f"the text holds {marker!r}, which begins a turn in template {template.name!r}",
                    "write it differently, or choose another template",
                    "markers",
                )
        if isinstance(content, str):
            out.text(content, text, here)
        else:
            for part in content:
                if part["type"] == "text":
                    out.text(part["text"], text, here)
                else:
                    inner = template.parts[part["type"]]
                    grades = (everything,) * 3 if everything or not wanted else inner.graded
                    out.words(inner.opens, grades[0], here)
                    out.text(part["text"], grades[1], here)
                    out.words(inner.closes, grades[2], here)
        out.words(segment.closes, closer, here)


def _say(grade: str) -> str:
    return {
        "all": "every assistant turn is graded",
        "last": "the last assistant turn is graded",
        "flags": "the turns' flags say what is graded",
        "everything": "everything is graded",
    }[grade]


def render(
    messages,
    tokenizer: CharTokenizer,
    template: Template,
    where: str = "conversation",
    grade: str = "all",
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens (L,) int32, trained (L,) bool) of a whole conversation.

    messages: [{"role": ..., "content": text or [{"type": ..., "text": ...}]}], as formats.py checks
    them. trained marks the tokens that the model should learn to write: of each assistant turn the
    text, calls of tools, and the closing token. grade: of all assistant turns, of the last one, of
    those that are not flagged {"train": false}, or of everything, the user's turns too (no
    mask)."""
    out = _Writer(tokenizer, template)
    _write(out, messages, template, where, grade)
    return out.result()


def render_prompt(
    messages, tokenizer: CharTokenizer, template: Template, where: str = "prompt"
) -> np.ndarray:
    """The ids (L,) int32 after which the model is to answer: the turns so far and the opener of the
    assistant's. An id-for-id prefix of what training renders."""
    out = _Writer(tokenizer, template)
    _write(out, messages, template, where, "flags")
    out.words(template.turns["assistant"].opens, False, where)
    return out.result()[0]


def graded_targets(messages, template: Template) -> int:
    """How many targets of a conversation the model is graded on when all assistant turns are, by
    the formula and not by the mask: of each assistant turn the text, the calls with what opens and
    closes them, and the closer."""

    def length(words):
        return sum(1 if word in template.marks else len(word) for word in words)

    if messages[0]["role"] == TEXT:  # every character but the first is a target
        return len(messages[0]["content"]) - 1
    total = 0
    for message in messages:
        if message["role"] == "assistant":
            content = message["content"]
            for part in (
                [{"type": "text", "text": content}] if isinstance(content, str) else content
            ):
                if part["type"] == "text":
                    total += len(part["text"])
                elif part["type"] != "result":
                    inner = template.parts[part["type"]]
                    total += len(part["text"]) + length(inner.opens) + length(inner.closes)
            total += length(template.turns["assistant"].closes)
    return total


def _prove(template: Template) -> None:
    """Refuse a template that would train wrongly: render a conversation with it, and look. What is
    asked: the last graded token of an assistant turn is its stop token, a user's turn is never
    graded, k turns are a prefix of k + 1, and the prompt for an answer is an id-for-id prefix of
    the example that trains it."""

    def refuse(what):
        raise UsageError(f"template {template.name!r}: {what}")

    words = template.characters()
    a, b, c = [letter for letter in map(chr, range(0x61, 0x3000)) if letter not in words][
        :3
    ]  # in none of its words
    try:
        tokenizer = CharTokenizer(words + a + b + c, (*template.tokens, *template.tool_tokens))
    except UsageError as error:
        refuse(str(error))
    called = [
        {"type": "text", "text": a},
        *({"type": kind, "text": b + c} for kind in template.parts),
        {"type": "text", "text": b},
    ]
    messages = [{"role": "system", "content": a + b}] if "system" in template.turns else []
    messages += [
        {"role": role, "content": content}
        for role, content in (
            ("user", a + b),
            ("assistant", b + c + a),
            ("user", c),
            ("assistant", called),
        )
    ]
    shorter, graded = np.zeros(0, np.int32), 0
    for turn, message in enumerate(messages, 1):
        tokens, trained = render(messages[:turn], tokenizer, template)
        if tokens[: len(shorter)].tolist() != shorter.tolist():
            refuse(f"turn {turn} changes how the turns before it are written")
        new = trained[len(shorter) :]
        if message["role"] != "assistant":
            if new.any():
                refuse(f"a {message['role']} turn would be graded")
            prompt = render_prompt(messages[:turn], tokenizer, template)
        else:
            if not new.any() or tokens[len(shorter) :][new][-1] != tokenizer.special[template.end]:
                refuse(
                    "the last graded token of a reply is not the token that ends it, so the model"
                    " would never learn to stop"
                )
            if tokens[: len(prompt)].tolist() != prompt.tolist():
                refuse("the prompt for an answer is not how training begins the answer's turn")
            graded += new.sum()
            if graded != graded_targets(messages[:turn], template):
                refuse("not exactly the replies and their ends would be graded")
        shorter = tokens


_TOOLS = {
    "search": Segment(("<|search_start|>",), ("<|search_end|>",), ALL),
    "code": Segment(("<|code_start|>",), ("<|code_end|>",), ALL),
    "result": Segment(("<|result_start|>",), ("<|result_end|>",), NOTHING),
}
_TOOL_TOKENS = tuple(word for s in _TOOLS.values() for word in s.opens + s.closes)

# The template of the source text. The model chooses to open a call, so all of a call is graded;
# the system writes the result, so nothing of a result ever is.
CHAT = Template(
    name="chat",
    turns={
        "user": Segment(("<|user|>",), ("<|end|>",), NOTHING),
        "assistant": Segment(("<|assistant|>",), ("<|end|>",), REPLY),
    },
    parts=_TOOLS,
    tokens=("<|user|>", "<|assistant|>", "<|end|>"),
    tool_tokens=_TOOL_TOKENS,
)

# ChatML as the source text shows it: the role is a plain word between two tokens.
CHATML = Template(
    name="chatml",
    turns={
        role: Segment(
            ("<|im_start|>", role, "<|im_sep|>"),
            ("<|im_end|>",),
            REPLY if role == "assistant" else NOTHING,
        )
        for role in ("system", "user", "assistant")
    },
    parts=_TOOLS,
    tokens=("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    tool_tokens=_TOOL_TOKENS,
)

# Llama 2's form: a reply follows the question's end at once, and the system's words stand inside
# the first question. Llama writes [INST] in characters; here it is one token, so that nobody can
# type it.
LLAMA2 = Template(
    name="llama2",
    turns={
        "system": Segment(("<s>", "[INST]", "<<SYS>>"), ("<</SYS>>",), NOTHING, joins=True),
        "user": Segment(("<s>", "[INST]"), ("[/INST]",), NOTHING),
        "assistant": Segment((), ("</s>",), REPLY),
    },
    parts=_TOOLS,
    tokens=("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    tool_tokens=_TOOL_TOKENS,
)

# An old form in plain words; only the end of a reply is a token. Text with such a word in it is
# refused.
HUMAN = Template(
    name="human",
    turns={
        "user": Segment(("\n\nHuman: ",), (), NOTHING),
        "assistant": Segment(("\n\nAssistant: ",), ("<|end|>",), REPLY),
    },
    parts=_TOOLS,
    tokens=("<|end|>",),
    tool_tokens=_TOOL_TOKENS,
)

TEMPLATES = {t.name: t for t in (CHAT, CHATML, LLAMA2, HUMAN)}


def load_template(name: str) -> Template:
    """A template by its name, or from a JSON file like the template.json of a run."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if path.suffix != ".json":
        raise UsageError(
            f"template {name!r} is not one of {', '.join(TEMPLATES)}, nor a .json file like a run's"
            " template.json"
        )
    try:
        return Template.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such template") from None
    except UsageError as error:
        raise DataError(f"{path}: no template that can be used: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
