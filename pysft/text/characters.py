"""How a text is written with a vocabulary: with letters and accents composed, and with characters
that the vocabulary lacks replaced, or added to it."""

import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from pysft.errors import RowError, UsageError
from pysft.text.conversation import Conversation, check_messages, plain
from pysft.text.scripts import compose
from pysft.text.template import Template
from pysft.text.tokenizer import CharTokenizer, Tokenizer

# fmt: off
LOOKALIKES = {
    # letters
    "\u0131": "i", "\u0142": "l", "\u0141": "L", "\u0111": "d", "\u0110": "D",
    "\u00d8": "O", "\u00f8": "o", "\u00c6": "AE", "\u00e6": "ae", "\u0152": "OE", "\u0153": "oe",
    "\u1e9e": "SS", "\u00df": "ss",
    # quotation marks
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u00b4": "'", "`": "'",
    "\u201c": '"', "\u201d": '"', "\u201e": '"', '"': "'",
    # dashes, dots and brackets
    "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-",
    "\u2026": "...", "(": ",", ")": ",",
    # blanks
    "\u00a0": " ", "\t": " ", "\r": "",
}
# fmt: on


def replacement(character: str, tokenizer: Tokenizer) -> str | None:
    """What is written for a character that the vocabulary lacks.

    The first of these that the vocabulary can write: the letter and its accent apart, a similar
    character, the letter without its accent, "?". For an invisible character (a soft hyphen, a
    joiner) or a mere accent it is "". None if the vocabulary has not even "?"."""
    if unicodedata.category(character) in ("Cf", "Mn"):
        return ""
    letters = unicodedata.normalize("NFKD", character)
    for found in (
        unicodedata.normalize("NFD", character),
        LOOKALIKES.get(character),
        LOOKALIKES.get(LOOKALIKES.get(character)),
        "".join(c for c in letters if not unicodedata.combining(c)),
        "?",
    ):
        if (
            found is not None
            and found != character
            and tokenizer.can_write(found)
            and (found or character in LOOKALIKES)
        ):
            return found
    return None


def composed(text: str, tokenizer: Tokenizer) -> str:
    """A text in the form in which the vocabulary knows it.

    A letter and its accent can be one character or two. This is the first of these forms that can
    be written: composed, as it came, decomposed. If none can, it is the text as it came, so that an
    error names the characters that somebody typed."""
    if text.isascii():
        return text
    for form in (compose(text), text, unicodedata.normalize("NFD", text)):
        if tokenizer.can_write(form):
            return form
    return text


def typed(text: str, tokenizer: Tokenizer) -> str:
    """A message or prompt as the model reads it: composed, without the carriage returns and the
    byte order mark that a file or another system puts around its lines."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").removesuffix("\r")
    return composed(text, tokenizer)


def replaced(text: str, tokenizer: Tokenizer) -> str:
    """A text with every character that the vocabulary lacks replaced. Characters without a
    replacement stay. A letter and its accent are first made one character, however they came."""
    text = composed(text, tokenizer)
    if tokenizer.can_write(text):
        return text
    text = compose(text)
    instead = {c: replacement(c, tokenizer) for _, c in tokenizer.unknown(text)}
    return text.translate({ord(c): new for c, new in instead.items() if new is not None})


SHOWN = 8  # how many replaced or new characters a note names


def changed_note(changed: Counter, unknown: str) -> str:
    """The note about characters that were replaced or are new: (character, what is written for it)
    -> how often."""
    shown = ", ".join(
        f"{c!r}" + (f" by {new!r}" if new != c else "") + f" ({n:,} times)"
        for (c, new), n in changed.most_common(SHOWN)
    )
    more = len(changed) - SHOWN
    kind = "new" if unknown == "grow" else "replaced"
    return f"{kind} characters: {shown}" + (f" and {more} more" if more > 0 else "")


class Written(NamedTuple):
    """What write_with() gives."""

    conversations: list[Conversation]  # as many as before, in the same order
    tokenizer: Tokenizer
    changed: Counter  # (character, what is written for it) -> how often
    faults: list[RowError]  # conversations with a text that is empty now
    composed: int  # conversations in which letters and accents were composed


def write_with(
    conversations: list[Conversation], tokenizer: Tokenizer, template: Template, unknown: str
) -> Written:
    """Prepare conversations and a vocabulary to be rendered, by a policy for characters that the
    vocabulary lacks. Whatever the policy, letters and their accents are composed if the vocabulary
    can write that.

    unknown: "refuse" leaves unknown characters, and rendering names them. "replace" puts similar
    characters in their place. "grow" adds them, composed, to the vocabulary, and those of the
    template's words too; the template's tokens come later, behind the characters. A UsageError if
    the vocabulary cannot grow so, or cannot write the template's words."""
    changed, faults = Counter(), []
    form = compose if unknown == "grow" else lambda text: composed(text, tokenizer)
    conversations, composed_ones = _in_form(conversations, form)
    if unknown == "refuse":
        template.require(tokenizer)
        return Written(conversations, tokenizer, changed, faults, composed_ones)
    lacking = _lacking(conversations, tokenizer)
    instead = {c: c if unknown == "grow" else replacement(c, tokenizer) for c in lacking}
    changed.update({(c, instead[c]): n for c, n in lacking.items() if instead[c] is not None})
    if unknown == "grow":
        tokenizer = _grown(_grown(tokenizer, lacking), template.characters)
    else:
        conversations = [c.mapped(lambda text: replaced(text, tokenizer)) for c in conversations]
        for c in conversations:
            try:
                check_messages(c.messages, c.where, template)
            except RowError as error:
                faults.append(error)
    template.require(tokenizer)
    return Written(conversations, tokenizer, changed, faults, composed_ones)


def _in_form(
    conversations: list[Conversation], form: Callable[[str], str]
) -> tuple[list[Conversation], int]:
    """(the conversations with every text in a form, how many of them that changed). It is the same
    list if that changes nothing."""

    def changes(c: Conversation) -> bool:
        texts = (plain(m["content"]) for m in c.messages)
        return any(not text.isascii() and form(text) != text for text in texts)

    changed = [changes(c) for c in conversations]
    if not any(changed):
        return conversations, 0
    made = [c.mapped(form) if changes else c for c, changes in zip(conversations, changed)]
    return made, sum(changed)


def _lacking(conversations: list[Conversation], tokenizer: Tokenizer) -> Counter:
    """How often each character comes that the vocabulary lacks, letter and accent counted as
    one."""
    texts = (plain(m["content"]) for c in conversations for m in c.messages)
    return Counter(
        c
        for text in texts
        if not tokenizer.can_write(text)
        for _, c in tokenizer.unknown(compose(text))
    )


def _grown(tokenizer: Tokenizer, characters) -> Tokenizer:
    """The tokenizer with new characters, sorted, behind the old ones. A UsageError if it lacks some
    and cannot take them: if it is not one of characters, or has special tokens already, whose ids
    would move."""
    text = "".join(characters)
    if tokenizer.can_write(text):
        return tokenizer
    why = None
    if not isinstance(tokenizer, CharTokenizer):
        why = f"is of {tokenizer.kind}, which take no new characters"
    elif tokenizer.special:
        why = "has special tokens already, whose ids would move"
    if why:
        named = ", ".join(f"{c!r}" for c in sorted({c for _, c in tokenizer.unknown(text)})[:5])
        raise UsageError(
            f"--unknown grow: this vocabulary lacks {named} and cannot grow by characters, because"
            f" it {why}; use --unknown replace, or start from a base whose corpus has them"
        )
    return tokenizer.grow_characters(text)
