"""What a reader of a text does not see or expect: invisible characters, letters that are not
composed, entities of HTML, and text that was decoded wrongly."""

import re
import unicodedata
from bisect import bisect_left
from functools import lru_cache

from pysft.text.scripts import compose

KINDS = 3  # kinds of invisible characters that one finding names
_NAMED = {
    "non-breaking space": "\u00a0\u2007\u202f",
    "soft hyphen": "\u00ad",
    "direction mark": "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    "byte order mark": "\ufeff",
    "zero-width character": "\u034f\u115f\u1160\u3164\uffa0",  # and all others of category Cf
}
_KIND = {c: kind for kind, characters in _NAMED.items() for c in characters}
_CATEGORIES = {
    "Cc": "control character",
    "Cf": "zero-width character",
    "Cn": "unassigned character",
    "Co": "private-use character",
    "Zl": "line separator",
    "Zp": "paragraph separator",
}
_ENTITY = re.compile("&(?:amp|lt|gt|quot|apos|nbsp|#[0-9]{2,6}|#x[0-9a-fA-F]{2,6});")
# The first byte of a character of two, three or four bytes, and those that follow it.
_MISREAD = re.compile(
    "[\u00c2\u00c3\u00d0\u00d1][^\x00-\x7f]|\u00e2[^\x00-\x7f]{2}|\u00f0[^\x00-\x7f]{3}"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# Joiners that belong to the writing: behind a letter of Arabic, of the scripts of India or of
# Mongolian, between two pictures of one emoji, and the tags behind the black flag.
_JOINERS = re.compile(
    "(?<=[\u0600-\u08ff\u0900-\u0dff\u1780-\u18af])[\u200c\u200d]"
    "|(?<=[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])\u200d(?=[\u2190-\u2bff\U0001f000-\U0001faff])"
    "|(?<=\U0001f3f4)[\U000e0020-\U000e007f]+"
)


@lru_cache(4096)
def _kind_of(c: str) -> str:
    """The kind of an invisible character; "" for a visible one, a line break and a tab."""
    if c in "\n\t":
        return ""
    return _KIND.get(c) or _CATEGORIES.get(unicodedata.category(c), "")


def invisible(text: str) -> list[tuple[str, int]]:
    """[(kind, position)] of the first character of each kind that a reader does not see, in the
    order of the text. Positions count from 0."""
    if text.isascii() and not _CONTROL.search(text):
        return []
    if not any(map(_kind_of, set(text))):
        return []
    belongs = {i for m in _JOINERS.finditer(text) for i in range(*m.span())}
    first = {}
    for i, c in enumerate(text):
        if i not in belongs and (kind := _kind_of(c)):
            first.setdefault(kind, i)
    return list(first.items())


def named(text: str, found: list[tuple[str, int]]) -> str:
    """What an audit says of the characters that invisible() found in a text."""
    shown = ", ".join(
        f"a {kind} (U+{ord(text[i]):04X}) at position {i}" for kind, i in found[:KINDS]
    )
    shown = shown.replace("a unassigned", "an unassigned")
    more = len(found) - KINDS
    return shown + (f" and {more} more kind{'s' * (more > 1)}" if more > 0 else "")


def uncomposed(text: str) -> tuple[int, str, str] | None:
    """(position, characters, how they are composed) of the first characters of a text that NFC
    writes otherwise, mostly a letter and its accent. None if there are none."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return None
    sizes = range(1, len(text) + 1)
    end = 1 + bisect_left(
        sizes, True, key=lambda size: not unicodedata.is_normalized("NFC", text[:size])
    )
    start = next(
        i for i in range(end - 1, -1, -1) if not unicodedata.is_normalized("NFC", text[i:end])
    )
    return start, text[start:end], compose(text[start:end])


def odd_characters(text: str) -> list[tuple[str, str, str]]:
    """[(kind, what, remedy)] of the findings of an audit about the characters of one turn."""
    findings = []
    if found := invisible(text):
        remedy = "take such characters out, or put plain ones in their place"
        findings.append(("invisible character", named(text, found), remedy))
    if pair := uncomposed(text):
        position, characters, one = pair
        codes, whole = (" ".join(f"U+{ord(c):04X}" for c in t) for t in (characters, one))
        what = f"{codes} at position {position} is {one!r} ({whole}) when it is composed"
        remedy = (
            "save the file in Unicode form NFC; training composes what its vocabulary can write"
        )
        findings.append(("not composed", what, remedy))
    if found := _ENTITY.search(text):
        what = f"{found.group()!r} at position {found.start()} is HTML, which would be learnt"
        findings.append(("entity of HTML", what, "decode it (Python: html.unescape)"))
    if (found := misread(text)) is not None:
        position, characters, meant = found
        what = f"{characters!r} at position {position} was decoded wrongly; it was {meant!r}"
        findings.append(("decoded wrongly", what, "read the original once more, as UTF-8"))
    return findings


def misread(text: str) -> tuple[int, str, str] | None:
    """(position, characters, what they were) of the first characters of a text in UTF-8 that were
    read as if each byte was a character of Windows-1252. None if there are none."""
    if text.isascii():
        return None
    read = []
    for found in _MISREAD.finditer(text):
        try:
            meant = found.group().encode("cp1252").decode("utf-8")
        except UnicodeError:
            continue
        read.append((found.start(), found.group(), meant))
    # Two characters in a row can be meant, as in "IRMÃ»"; three, or two pairs, hardly.
    return (
        read[0] if len(read) > 1 or any(len(characters) > 2 for _, characters, _ in read) else None
    )


def is_mark(character: str) -> bool:
    """True for a punctuation mark of any script, or a symbol such as an emoji, which may end with
    the sign that it is drawn in colour."""
    return character == "\ufe0f" or unicodedata.category(character)[0] in "PS"
