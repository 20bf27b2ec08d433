"""Characters that a vocabulary lacks: what is put in their place, or how the vocabulary grows."""

import unicodedata
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from pysft.errors import RowError
from pysft.text.conversation import Conversation, check_messages, plain
from pysft.text.template import Template
from pysft.text.tokenizer import CharTokenizer

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


@lru_cache(10_000)
def replacement(character: str, known: frozenset[str]) -> str | None:
    """What is written for a character that the vocabulary `known` lacks.

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
            and set(found) <= known
            and (found or character in LOOKALIKES)
        ):
            return found
    return None


def replaced(text: str, known: frozenset[str]) -> str:
    """A text with every character that the vocabulary lacks replaced. Characters without a
    replacement stay. A letter and its accent are first made one character, however they came."""
    if known.issuperset(text):
        return text
    out = []
    for c in unicodedata.normalize("NFC", text):
        new = c if c in known else replacement(c, known)
        out.append(c if new is None else new)
    return "".join(out)


class Written(NamedTuple):
    """What write_with() gives."""

    conversations: list[Conversation]  # as many as before, in the same order
    tokenizer: CharTokenizer
    changed: Counter  # (character, what is written for it) -> how often
    faults: list[RowError]  # conversations with a text that is empty now


def write_with(
    conversations: list[Conversation], tokenizer: CharTokenizer, template: Template, unknown: str
) -> Written:
    """Prepare conversations and a vocabulary to be rendered, by a policy for characters that the
    vocabulary lacks.

    unknown: "refuse" leaves everything as it is, and rendering names such characters. "replace"
    puts similar characters in their place. "grow" adds them to the vocabulary, and those of the
    template's words too; special tokens stay behind the characters. A UsageError if the vocabulary
    cannot write the template's words."""
    changed, faults = Counter(), []
    if unknown == "refuse":
        template.require(tokenizer.characters)
        return Written(conversations, tokenizer, changed, faults)
    known = frozenset(tokenizer.characters)
    lacking = _lacking(conversations, known, unknown == "replace")
    instead = {c: c if unknown == "grow" else replacement(c, known) for c in lacking}
    changed.update({(c, instead[c]): n for c, n in lacking.items() if instead[c] is not None})
    if unknown == "grow":
        tokenizer = _grown(_grown(tokenizer, lacking), template.characters)
    else:
        conversations = [c.mapped(lambda text: replaced(text, known)) for c in conversations]
        for c in conversations:
            try:
                check_messages(c.messages, c.where, template)
            except RowError as error:
                faults.append(error)
    template.require(tokenizer.characters)
    return Written(conversations, tokenizer, changed, faults)


def _lacking(conversations, known: frozenset[str], composed: bool) -> Counter:
    """How often each character outside `known` comes; composed: with letter and accent as one."""
    texts = (plain(m["content"]) for c in conversations for m in c.messages)
    if composed:
        texts = (unicodedata.normalize("NFC", text) for text in texts)
    return Counter(
        c for text in texts if not known.issuperset(text) for c in text if c not in known
    )


def _grown(tokenizer: CharTokenizer, characters) -> CharTokenizer:
    """The tokenizer with new characters, sorted, behind the old ones and before special tokens."""
    if set(characters) <= set(tokenizer.characters):
        return tokenizer
    bare = CharTokenizer(tokenizer.characters).grow_characters("".join(characters))
    return bare.grow(tokenizer.specials)
