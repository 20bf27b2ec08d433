"""Words and letters of texts in any script.

A word is a run of letters with the marks that belong to them: the accents of Latin, the vowel signs
of Hindi. An apostrophe within a word is part of it. Invisible characters of form (the joiners of
Persian, soft hyphens, direction marks) do not end a word. Some scripts put no spaces between words;
their words cannot be told apart here, and unspaced() names them."""

import re
import unicodedata

# The letters of scripts without spaces between words, by name: ranges as in a regular expression.
UNSPACED = {
    "Han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "Hiragana": "\u3041-\u309f\U0001b001-\U0001b11f",
    "Katakana": "\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9d",
    "Thai": "\u0e01-\u0e4e",
    "Lao": "\u0e81-\u0eb9\u0ebb-\u0ecd\u0edc-\u0edf",
    "Khmer": "\u1780-\u17d3",
    "Myanmar": "\u1000-\u103f\u1050-\u108f\ua9e0-\ua9ef\uaa60-\uaa7f",
}
MANY = 0.1  # share of such letters from which the words of some texts are not counted
ZERO_WIDTH_SPACE = "\u200b"  # ends a word, unlike other invisible characters
_ANY = re.compile(f"[{''.join(UNSPACED.values())}]")
_EACH = {name: re.compile(f"[{letters}]") for name, letters in UNSPACED.items()}
_ASCII_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_WORD = re.compile(r"[^ ']+(?:'[^ ']+)*")


class _Letters(dict):
    """What str.translate() writes for each character before words are sought: the character itself
    if it is a letter or a mark, nothing for an invisible character of form, a blank for others."""

    def __missing__(self, code: int):
        c = chr(code)
        category = unicodedata.category(c)
        kept = c.isalpha() or category[0] == "M"
        invisible = category == "Cf" and c != ZERO_WIDTH_SPACE
        self[code] = c if kept else None if invisible else " "
        return self[code]


_LETTERS = _Letters({ord("'"): "'", ord("\u2019"): "'"})


def compose(text: str) -> str:
    """The text with each letter and its accents as one character, where there is one (NFC)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def words_of(text: str) -> list[str]:
    """The words of a text as they are written, composed, with their inner apostrophes."""
    if text.isascii():
        return _ASCII_WORD.findall(text)
    found = _WORD.findall(compose(text).translate(_LETTERS))
    return [word for word in found if any(c.isalpha() for c in word)]


def folded(word: str) -> str:
    """A word in the form in which it is compared.

    Upper and lower case are the same, and so are a ligature and its letters, letters of full and of
    half width, the sharp s and ss, the dotted and the dotless i of Turkish."""
    if word.isascii():
        return word.lower()
    word = unicodedata.normalize("NFKC", word).casefold()
    word = word.replace("i\u0307", "i").replace("\u0131", "i")
    return unicodedata.normalize("NFC", word)


def letters_in(word: str) -> int:
    """The number of letters of a word, apostrophes counted and marks not. A syllable of Korean has
    two or three."""
    if word.isascii():
        return len(word)
    return sum(unicodedata.category(c)[0] != "M" for c in unicodedata.normalize("NFD", word))


def unspaced(texts) -> list[str]:
    """The scripts without spaces between words in some texts, the most frequent first. The list is
    empty unless MANY of all letters, as a share, are in such scripts."""
    counts, letters = dict.fromkeys(UNSPACED, 0), 0
    for text in texts:
        letters += sum(map(str.isalpha, text))
        if not text.isascii() and _ANY.search(text):
            for name, pattern in _EACH.items():
                counts[name] += sum(map(str.isalpha, pattern.findall(text)))
    if not letters or sum(counts.values()) < MANY * letters:
        return []
    return [name for name in sorted(counts, key=counts.get, reverse=True) if counts[name]]
