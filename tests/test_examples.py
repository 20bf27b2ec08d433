"""From conversations to examples: what fits, characters that the vocabulary lacks, and what is held
out."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import PLAIN, grown, one_line, say, steady, write

from pysft import IGNORE
from pysft.errors import DataError, UsageError
from pysft.text.characters import write_with
from pysft.text.conversation import Conversation, short
from pysft.text.corpora import shipped
from pysft.text.examples import encode_all, encode_conversation, question_example
from pysft.text.formats import read_conversations
from pysft.text.heldout import split_heldout
from pysft.text.render import render_prompt
from pysft.text.templates import CHAT, HUMAN, TEMPLATES
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer


def talk(*texts, line=1):
    return Conversation(say(*texts), "x", line)


# ----------------------------------------------------------------------------------- what fits


@pytest.mark.parametrize(
    "question, answer, named",
    [
        ("Hi" * 9, "Yes", ["line 2", "24 tokens", "the context holds 20", "4 shorter"]),
        ("Hi", "a@b", ["line 2", "turn 2", "'@' (U+0040) at position 1"]),
        ("8", "Yes", ["line 2", "turn 1", "'8' (U+0038) at position 0"]),
    ],
)
def test_what_cannot_be_encoded_is_named_with_file_line_and_remedy(
    tmp_path, question, answer, named
):
    rows = [{"messages": say("Hi", "Yes")}, {"messages": say(question, answer)}]
    found = read_conversations(write(tmp_path, "talk.jsonl", *rows))
    with pytest.raises(DataError) as error:
        [encode_conversation(c, grown(CHAT), 20) for c in found]
    text = one_line(error)
    assert all(n in text for n in ["talk.jsonl", *named])


def test_a_conversation_of_exactly_the_context_fits():
    assert len(encode_conversation(talk("Hi", "Yes"), grown(CHAT), 8).input_ids) == 8
    with pytest.raises(DataError, match="make it 1 shorter"):
        encode_conversation(talk("Hi", "Yes"), grown(CHAT), 7)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("before", [(), ("Hi", "Yes")])
@pytest.mark.parametrize("system", [None, "Be kind"])
def test_of_a_question_its_own_text_alone_is_graded(template, before, system):
    """Also where the template writes around it with letters, and where it says what a turn before
    it says."""
    system = system if "system" in template.turns else None
    prompt, tokenizer = say(*before, "Hi", system=system), grown(template)
    example = question_example(prompt, tokenizer, template)
    ids = render_prompt(prompt, tokenizer, template)
    assert example.input_ids.tolist() == ids[:-1].tolist()
    graded = example.labels != IGNORE
    assert tokenizer.decode(example.labels[graded]) == "Hi"
    assert example.labels[graded].tolist() == ids[1:][graded].tolist()
    rest = tokenizer.decode(ids[1:][graded.nonzero()[0][-1] + 1 :])
    assert "Hi" not in rest and graded.nonzero()[0][-1] == graded.nonzero()[0][0] + 1


def test_a_row_of_text_is_graded_throughout_and_is_base_text(tmp_path):
    (found,) = read_conversations(write(tmp_path, "x.jsonl", {"text": "A tale"}))
    example = encode_conversation(found, grown(CHAT), 64)
    assert found.is_text and example.source == "base" and (example.labels != IGNORE).all()
    assert grown(CHAT).decode(example.labels) == " tale"


def test_a_conversation_too_long_is_a_fault_or_is_left_out_and_never_cut():
    some = [talk("Hi", "Ho"), talk("Hi", "x" * 90, line=2), talk("8", "Ho", line=3)]
    kept, examples, faults = encode_all(some, grown(CHAT), 64)
    assert [f.kind for f in faults] == ["length", "characters"] and len(kept) == len(examples) == 1
    kept, examples, faults = encode_all(some, grown(CHAT), 64, too_long="drop")
    assert [f.kind for f in faults] == ["characters"] and [c.line for c in kept] == [1]


# ----------------------------------------------------------- characters that the vocabulary lacks


@pytest.mark.parametrize(
    "texts, expected",
    [
        (
            ("Caf\u00e9 \u201cau lait\u201d \u2014 8?", "O\u2019Neill\u2026"),
            ("Cafe 'au lait' - ??", "O'Neill..."),
        ),
        # An accent as a character of its own, and characters that cannot be seen.
        (("Cafe\u0301", "co\u00adop\u200b"), ("Cafe", "coop")),
        (
            ("\u0141\u00d8 x\u0302 \u1eb9\u0301", "don\u00b4t well\u2011known"),
            ("LO x e", "don't well-known"),
        ),
    ],
)
def test_unknown_characters_are_replaced_by_similar_ones(texts, expected):
    written = write_with([talk(*texts)], PLAIN, CHAT, "replace")
    assert [c.messages for c in written.conversations] == [say(*expected)]
    assert written.tokenizer == PLAIN and written.faults == []


def test_replaced_characters_are_counted_and_refused_ones_stay():
    some = [talk("\u00e9 8 8", "Ho")]
    assert write_with(some, PLAIN, CHAT, "replace").changed == {("8", "?"): 2, ("\u00e9", "e"): 1}
    assert write_with(some, PLAIN, CHAT, "refuse") == (some, PLAIN, {}, [], 0)


def test_a_vocabulary_with_an_accent_keeps_it():
    marks = CharTokenizer(SHAKESPEARE + "\u0301")
    written = write_with([talk("caf\u00e9 8", "e\u0301")], marks, CHAT, "replace")
    assert written.conversations[0].messages == say("cafe\u0301 ?", "e\u0301")


def test_a_text_that_is_empty_after_replacing_is_a_fault():
    some = [talk("Hi", "Ho"), talk("Hi", "\u00ad", line=2)]
    (fault,) = write_with(some, PLAIN, CHAT, "replace").faults
    assert str(fault).startswith("x, line 2, turn 2: empty reply")


def test_a_vocabulary_grown_by_characters_keeps_every_old_id():
    some = [talk("At 8", "\u00e9")]
    same, tokenizer, changed, *_ = write_with(some, PLAIN, CHAT, "grow")
    assert same is some and tokenizer.characters == SHAKESPEARE + "8\u00e9"
    assert changed == {("8", "8"): 1, ("\u00e9", "\u00e9"): 1}
    assert tokenizer.encode("Write").tolist() == [35, 56, 47, 58, 43]
    assert tokenizer.grow(CHAT.tokens).special["<|user|>"] == 67
    with pytest.raises(UsageError, match="their ids would move"):
        tokenizer.grow(CHAT.tokens).grow_characters("9")


def test_a_grown_vocabulary_writes_the_templates_words():
    few = CharTokenizer("Hio")
    for policy in ("refuse", "replace"):
        with pytest.raises(UsageError, match="writes its words with .* which the corpus lacks"):
            write_with([], few, HUMAN, policy)
    tokenizer = write_with([talk("8", "Ho")], few, HUMAN, "grow").tokenizer
    assert set(HUMAN.characters) | set("8") <= set(tokenizer.characters)
    assert tokenizer.characters.startswith("Hio8") and not tokenizer.special


@pytest.mark.parametrize("policy", ["refuse", "replace", "grow"])
def test_conversations_with_composed_letters_are_counted_and_the_others_stay(policy):
    accents = CharTokenizer(SHAKESPEARE + "\u00e9")
    some = [
        talk("Hi", "Ho"),
        talk("cafe\u0301", "\u00e9"),
        talk("A", "e\u0301"),
        talk("\u00e9", "B"),
    ]
    written = write_with(some, accents, CHAT, policy)
    assert (written.composed, written.changed, written.faults) == (2, {}, [])
    expected = [("Hi", "Ho"), ("caf\u00e9", "\u00e9"), ("A", "\u00e9"), ("\u00e9", "B")]
    assert [c.messages for c in written.conversations] == [say(*texts) for texts in expected]
    assert policy == "replace" or [a is b for a, b in zip(some, written.conversations)] == [
        *(True, False, False, True)
    ]


def test_a_vocabulary_that_cannot_grow_names_five_of_the_characters_that_it_lacks():
    tuned = PLAIN.grow(CHAT.tokens)
    for digits, named in (
        ("98765", "'5', '6', '7', '8', '9'"),
        ("998 7650", "'0', '5', '6', '7', '8'"),
    ):
        with pytest.raises(UsageError, match=f"vocabulary lacks {named} and cannot grow"):
            write_with([talk(digits, "Ho")], tuned, CHAT, "grow")


@pytest.mark.parametrize("size, shown", [(47, 47), (48, 48), (49, 45), (99, 45)])
def test_a_text_of_48_characters_is_quoted_whole_and_a_longer_one_cut(size, shown):
    assert short("a" * size) == repr("a" * shown + "..." * (size > 48))


def test_a_vocabulary_with_special_tokens_grows_by_no_character_because_their_ids_would_move():
    tuned = PLAIN.grow(CHAT.tokens)
    assert write_with([talk("Hi", "Ho")], tuned, CHAT, "grow").tokenizer is tuned
    with pytest.raises(UsageError, match="lacks '8' and cannot grow .* --unknown replace") as error:
        write_with([talk("At 8", "Ho")], tuned, CHAT, "grow")
    one_line(error)


# -------------------------------------------------------------------------- what is held out


@steady
@given(st.lists(st.sampled_from(["Hi", "hi!", "Go", "Sing", "sing  ", "Who", "What"]), max_size=60))
def test_conversations_with_the_same_prompt_are_all_held_out_or_none_is(prompts):
    some = [talk(prompt, "Ho", line=i) for i, prompt in enumerate(prompts, 1)]
    kept, out = split_heldout(some, every=3)

    def asked(conversations):
        return {re.sub(r"\W", "", c.prompt.lower()) for c in conversations}

    assert not asked(kept) & asked(out)
    assert sorted(c.line for c in kept + out) == list(range(1, len(some) + 1))


def test_a_pattern_in_a_file_does_not_choose_what_is_held_out():
    openings = ["Tell of", "Where is"]
    some = [talk(f"{openings[i % 2]} the {i}", "Ho", line=i) for i in range(1, 201)]
    out = split_heldout(some, shuffled=True)[1]
    assert len(out) == 20 and 4 < sum(c.prompt.startswith("Where") for c in out) < 16
    again = split_heldout(some[::-1], shuffled=True)[1]  # the order does not matter
    assert {c.line for c in again} == {c.line for c in out}


def test_rows_of_text_are_never_held_out():
    some = [Conversation([{"role": "text", "content": "A tale"}], "x", i) for i in range(60)]
    assert split_heldout(some) == (some, [])


def test_every_tenth_line_is_held_out_if_no_prompt_comes_twice():
    some = [talk(f"Sing {'x' * i}", "Ho", line=i) for i in range(1, 41)]
    assert [c.line for c in split_heldout(some)[1]] == [10, 20, 30, 40]


def test_every_tenth_shipped_conversation_is_held_out():
    kept, heldout = split_heldout(read_conversations(shipped("conversations.jsonl")))
    assert [c.line for c in heldout] == list(range(10, 2810, 10)) and len(kept) == 2529
