"""Which rows copy a seed: word for word always, near ones only without a new word."""

import pytest

from pysft.text.copies import Copies
from pysft.text.near_duplicates import jaccard

PET = ("What pet has Ada Brook?", "Ada Brook keeps a toad.")
MOON = ("Sing of the moon", "The moon is fair, and the moon is far away from thee and me.")


@pytest.mark.parametrize("near", [0.01, 0.8, 1])
def test_a_seed_word_for_word_is_a_copy(near):
    copies = Copies([PET, MOON, ("A", "B")], near)  # the last has no five characters
    assert copies.has(*PET) and copies.has(*MOON) and copies.has("A", "B")
    assert copies.has(PET[0] + " ", "\n" + PET[1])
    assert not copies.has(PET[0], "Pelicans.") and not copies.has("Pelicans?", PET[1])


@pytest.mark.parametrize(
    "prompt, reply",
    [
        (MOON[0] + ".", MOON[1]),
        (MOON[0], MOON[1].replace(",", " -")),
        (MOON[0].upper(), MOON[1].lower()),
        (MOON[0], MOON[1].replace(" is far", " is so far")),  # "so" has two letters
    ],
)
def test_a_near_row_without_a_new_word_is_a_copy(prompt, reply):
    assert Copies([PET, MOON], 0.7).has(prompt, reply)


@pytest.mark.parametrize(
    "old, new",
    [("Ada Brook", "Ada Broom"), ("Ada", "Ava"), ("toad", "newt")],
)
def test_one_new_word_makes_a_row_new_however_near_it_is(old, new):
    seed = tuple(text * 5 for text in PET)
    prompt, reply = (text.replace(old, new, 1) for text in seed)
    near = jaccard("\n".join(seed).casefold(), f"{prompt}\n{reply}".casefold())
    assert near > 0.7
    assert not Copies([seed], 0.7).has(prompt, reply)


def test_a_new_number_makes_a_row_new_and_one_or_two_letters_do_not():
    copies = Copies([("How much is 12 + 5, I ask thee?", "It is 17, o friend of mine.")], 0.5)
    assert not copies.has("How much is 12 + 6, I ask thee?", "It is 18, o friend of mine.")
    assert copies.has("How much is 12 + 5, we ask thee?", "It is 17, o friend of mine.")


def test_a_row_of_a_seed_s_words_that_is_not_near_to_it_is_new():
    copies = Copies([MOON], 0.8)
    assert not copies.has("The far moon", "Away from thee, sing of the moon and of the fair.")
    assert not Copies([("Hi there all", "Ho")], 1).has("Hi all there", "Ho")
