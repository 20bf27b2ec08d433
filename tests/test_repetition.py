"""Which tokens would repeat a word that a reply holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_tokenizer import PairTokenizer
from texts import grown, steady

from pysft.inference.repetition import repeated_words
from pysft.text.templates import CHAT

CHARACTERS = grown(CHAT)
PAIRS = PairTokenizer.of("the then he's he teeth, 'tis theirs tie\nThe its").grow(CHAT.tokens)


def words(text):
    """The words of a text in lower case. The last is not finished, or ""."""
    found = [""]
    for before, c, after in zip(" " + text, text, text[1:] + " "):
        if c.isalpha() or (c == "'" and before.isalpha() and after.isalpha()):
            found[-1] += c.lower()
        elif found[-1]:
            found.append("")
    return found


def is_repeated(text, token):
    """True if a text with the letters of this token ends in the beginning of an earlier word."""
    letters = [i for i, c in enumerate(token, 1) if c.isalpha()]
    *earlier, last = words(text + token[: letters[-1]] if letters else "")
    return any(word.startswith(last) for word in earlier)


def given_again(tokenizer, text):
    """The tokens that would repeat a word behind a text."""
    ids = repeated_words(tokenizer)(tokenizer.encode(text).tolist())
    assert len(ids) == len(set(ids))
    return {tokenizer.decode([i]) for i in ids}


def assert_exact(tokenizer, text):
    tokens = {tokenizer.decode([i]) for i in range(len(tokenizer))} - set(tokenizer.special)
    assert given_again(tokenizer, text) == {t for t in tokens if is_repeated(text, t)}


@steady
@given(st.text("abAB' ,-3\n", max_size=16))
def test_a_letter_repeats_a_word_if_the_text_with_it_ends_in_the_beginning_of_an_earlier_one(text):
    assert_exact(CHARACTERS, text)


@steady
@given(st.text("thesin' ,T\n", max_size=16))
def test_so_does_a_token_of_two_characters_by_its_letters(text):
    assert_exact(PAIRS, text)


@pytest.mark.parametrize(
    "text, letters",
    {
        "": "",
        "the": "",  # no blank or mark is behind it
        "the ": "t",
        "the t": "h",
        "the th": "e",
        "the the": "",
        "The tHE, ": "t",
        "the then t": "h",
        "the then the": "n",
        "the x": "",
        "the xt": "",  # "t" is not the beginning here
        "the cat ": "tc",
        "I can't stop, I can'": "t",
        "the 3": "t",
        "the\n": "t",
        "the\nt": "h",
    }.items(),
)
def test_the_letters_that_repeat_a_word_go_on_along_it(text, letters):
    assert given_again(CHARACTERS, text) == {*letters, *letters.upper()}


@pytest.mark.parametrize("tokenizer", [CHARACTERS, PAIRS], ids=["characters", "pairs"])
def test_behind_a_special_token_nothing_counts_as_repeated(tokenizer):
    said = tokenizer.encode("the the ").tolist()
    again = repeated_words(tokenizer)
    assert again(said) and not again([])
    for special in tokenizer.special.values():
        assert again([special, *said]) == again([*said, special]) == []
        assert special not in again(said)
