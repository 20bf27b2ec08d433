"""Rendering: messages become tokens, and the loss mask is made on the way.

Each piece of a conversation is written by itself, by the row of the template's table that it
belongs to. So it is known for each token, when it is written, whether the model should learn to
write it, and no token spans two pieces. Nothing is ever searched for among the ids.

The template that a function takes is a Template (template.py). That module imports this one, to
prove each template when it is made."""

import numpy as np

from pysft.errors import DataError, RowError
from pysft.text.conversation import TEXT, plain
from pysft.text.grades import GRADES
from pysft.text.tokenizer import Tokenizer


def render(
    messages,
    tokenizer: Tokenizer,
    template,
    where: str = "conversation",
    grade: str = "all",
    first: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens (L,) int32, trained (L,) bool) of a whole conversation.

    messages: as conversation.py describes them, and checked. trained marks the tokens that the
    model should learn to write: of each assistant turn the text, the thoughts, the calls of tools,
    and the closing token. Earlier turns keep their thoughts. grade: of all assistant turns ("all"),
    of the last one ("last"), of those without the flag {"train": false} ("flags"), or "everything",
    the user's turns too, which is no mask. A flag that contradicts this is a RowError, which names
    the turn; first: the number of the first one."""
    out = _Writer(tokenizer, template)
    _write_turns(out, messages, template, where, grade, first)
    return out.result()


def render_prompt(messages, tokenizer: Tokenizer, template, where: str = "prompt") -> np.ndarray:
    """The ids (L,) int32 after which the model should answer: the turns so far, and what opens an
    assistant turn. They are an id-for-id prefix of what training renders."""
    out = _Writer(tokenizer, template)
    _write_turns(out, messages, template, where, "flags")
    out.words(template.turns["assistant"].opens, False, where)
    return out.result()[0]


def render_words(words: tuple[str, ...], tokenizer: Tokenizer, template) -> np.ndarray:
    """The ids (L,) int32 of words of the template, such as those that open a turn."""
    out = _Writer(tokenizer, template)
    out.words(words, False, "template")
    return out.result()[0]


def graded_targets(messages, template, tokenizer: Tokenizer) -> int:
    """The number of graded targets of a conversation under --grade all, by a formula instead of the
    mask: for each assistant turn the tokens of its text, the calls and thoughts with the tokens
    that open and close them, and the closing token."""

    def tokens(text):
        return len(tokenizer.encode(text))

    if messages[0]["role"] == TEXT:  # every token but the first is a target
        return tokens(messages[0]["content"]) - 1
    total = 0
    for message in messages:
        if message["role"] != "assistant":
            continue
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                total += tokens(part["text"])
            elif part["type"] != "result" and part.get("train", True):
                row = template.parts[part["type"]]
                total += len(row.opens) + tokens(part["text"]) + len(row.closes)
        total += 1
    return total


# ------------------------------------------------------------------------------------ the writing


class _Writer:
    """Collects texts and special tokens, each graded or not. All texts become ids in one call,
    which encodes each by itself."""

    def __init__(self, tokenizer: Tokenizer, template):
        self.tokenizer, self.marks = tokenizer, template.marks
        self.texts = []  # (text, where)
        self.pieces = []  # (id of the special token, or None for the next text; graded)

    def words(self, words: tuple[str, ...], graded: bool, where: str) -> None:
        """Add words of the template: a special token each, or plain text."""
        for word in words:
            if word not in self.marks:
                self.text(word, graded, where)
            elif word in self.tokenizer.special:
                self.pieces.append((self.tokenizer.special[word], graded))
            else:
                what = f"this vocabulary has no token {word}"
                raise RowError(where, what, "grow it by the template's tokens", "tokens")

    def text(self, text: str, graded: bool, where: str) -> None:
        self.texts.append((text, where))
        self.pieces.append((None, graded))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(tokens (L,) int32, trained (L,) bool) of all pieces in their order."""
        ids, lengths = self._encoded()
        size = len(ids) + len(self.pieces) - len(lengths)
        tokens, trained = np.empty(size, np.int32), np.empty(size, bool)
        at, read, length = 0, 0, iter(lengths)
        for special, graded in self.pieces:
            if special is not None:
                tokens[at], trained[at] = special, graded
                at += 1
            else:
                n = next(length)
                tokens[at : at + n], trained[at : at + n] = ids[read : read + n], graded
                at, read = at + n, read + n
        return tokens, trained

    def _encoded(self) -> tuple[np.ndarray, list[int]]:
        """(the ids of all texts end to end, the number of each). A RowError names the first turn
        with an unknown character."""
        try:
            return self.tokenizer.encode_pieces([text for text, _ in self.texts])
        except DataError:
            for text, where in self.texts:
                try:
                    self.tokenizer.encode(text)
                except DataError as error:
                    what, _, remedy = str(error).removeprefix("text: ").partition("; ")
                    remedy += ", or give --unknown replace or --unknown grow"
                    raise RowError(where, what, remedy, "characters") from None
            raise


def _write_turns(out: _Writer, messages, template, where: str, grade: str, first: int = 1) -> None:
    if messages[0]["role"] == TEXT:
        return out.text(messages[0]["content"], True, where)
    everything = grade == "everything"
    joined = False  # this turn stands inside the one before
    for turn, message in enumerate(messages, first):
        role, content, flag = message["role"], message["content"], message.get("train")
        is_wanted = not (grade == "last" and message is not messages[-1])
        here = f"{where}, turn {turn} ({role})"
        if flag is not None and grade != "flags":
            _check_flag(message, everything or (role == "assistant" and is_wanted), grade, here)
        _refuse_forged(content, template, here)
        row = template.turns[role]
        by_row = is_wanted and flag is not False and not everything
        opener, text, closer = row.graded if by_row else (everything,) * 3
        if not joined:
            out.words(row.opens, opener, here)
        if isinstance(content, str):
            out.text(content, text, here)
        else:
            for part in content:
                if part["type"] == "text":
                    out.text(part["text"], text, here)
                else:
                    inner = template.parts[part["type"]]
                    read_only = not part.get("train", True)
                    if read_only and everything:
                        what = f"its thought is flagged out, but --grade {grade} grades all"
                        raise RowError(here, what, "choose another --grade", "flags")
                    by_part = by_row and not read_only
                    grades = inner.graded if by_part else (everything,) * 3
                    out.words(inner.opens, grades[0], here)
                    out.text(part["text"], grades[1], here)
                    out.words(inner.closes, grades[2], here)
        out.words(row.closes, closer, here)
        joined = row.joins


def _check_flag(message: dict, is_graded: bool, grade: str, here: str) -> None:
    """Raise a RowError if a turn's flag says something else than the choice of --grade."""
    if message["train"] != is_graded:
        name, says = message.get("flag", "train"), "graded" if message["train"] else "not graded"
        what = f"its flag {name!r} says {says}, but --grade {grade} grades {GRADES[grade]}"
        raise RowError(here, what, "choose --grade flags, or take the flags out", "flags")


def _refuse_forged(content, template, here: str) -> None:
    """Raise a RowError if a content holds words by which the template begins or ends a turn."""
    for marker in template.forgeable:
        if marker in plain(content):
            what = f"the text holds {marker!r}, which begins a turn in template {template.name!r}"
            raise RowError(
                here, what, "write it differently, or choose another template", "markers"
            )
