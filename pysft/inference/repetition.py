"""Which tokens would repeat a word that a reply holds already.

A penalty on repeated tokens does not help where tokens are characters: every reply needs its
letters again. So a token is made less likely only where it would begin or continue a word that the
reply already has (Sampling.repetition)."""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from itertools import chain

from pysft.text.tokenizer import Tokenizer

LETTER = r"[^\W\d_]"


def repeated_words(tokenizer: Tokenizer) -> Callable[[list[int]], list[int]]:
    """Return again(written): the ids that would begin or continue a word that the reply has.

    written: the ids of a reply so far. A word counts from the blank or mark behind it; upper and
    lower case are the same. The marks of a script (the vowel signs of Hindi) belong to the word.
    After a call of a tool, or any other special token, the list is empty,
    because an answer has to copy what the tool found."""
    special = set(tokenizer.special.values())
    texts = {i: tokenizer.decode([i]).lower() for i in set(range(len(tokenizer))) - special}
    marks = {c for text in texts.values() for c in text if unicodedata.category(c)[0] == "M"}
    letter = f"(?:{LETTER}|[{''.join(sorted(marks))}])" if marks else LETTER
    word = re.compile(rf"{letter}+(?:'{letter}+)*")
    # The word, perhaps empty, that a text ends with, from its last character to its first: a search
    # for it from the text's beginning takes the square of the time.
    begun_backwards = re.compile(rf"{letter}*(?:'{letter}+)*")
    # The tokens with letters: what stands before their first word -> [(this word, its tokens)].
    tokens = {}
    for i, text in texts.items():
        if found := word.search(text):
            words = tokens.setdefault(text[: found.start()], {})
            words.setdefault(found.group(), []).append(i)
    tokens = {mark: list(words.items()) for mark, words in tokens.items()}

    @lru_cache(256)
    def beginnings(text: str) -> frozenset[str]:
        """All beginnings of the words of a text, the whole words too."""
        return frozenset(w[:n] for w in word.findall(text) for n in range(1, len(w) + 1))

    def again(written: list[int]) -> list[int]:
        if not special.isdisjoint(written):
            return []
        text = "".join(map(texts.__getitem__, written))
        begun = begun_backwards.match(text[::-1]).group()[::-1]
        begins = beginnings(text[: len(text) - len(begun)])
        within = begun[-1:].isalpha() or begun[-1:] in marks
        goes_on = {"": begun, "'": begun + "'"} if within else {"": begun}
        found = []
        for mark, words in tokens.items():
            if mark in goes_on:
                now = goes_on[mark]
                repeated = (ids for letters, ids in words if now + letters in begins)
            else:  # the word ends here, and counts as well
                repeated = (
                    ids for letters, ids in words if letters in begins or begun.startswith(letters)
                )
            found.extend(chain.from_iterable(repeated))
        return found

    return again
