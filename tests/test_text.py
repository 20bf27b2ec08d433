"""Characters and ids, the loss mask that rendering makes, and what ships with the package."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import PLAIN, one_line

from pysft import IGNORE
from pysft.errors import DataError, UsageError
from pysft.text.corpora import read_corpus, shipped
from pysft.text.examples import encode_conversation, prepare_sft_example, shift
from pysft.text.formats import read_conversations, read_prompts
from pysft.text.render import render, render_prompt
from pysft.text.template import Template
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

TOKENIZER = PLAIN.grow(CHAT.tokens)
TOOLS = TOKENIZER.grow(CHAT.tool_tokens)
USER, ASSISTANT, END = 65, 66, 67

steady = settings(max_examples=100, deadline=None, derandomize=True, database=None)
texts = st.text(SHAKESPEARE, max_size=30)
turns = st.text(SHAKESPEARE, min_size=1, max_size=30).filter(str.strip)
conversations = st.lists(st.tuples(turns, turns), min_size=1, max_size=4)


def messages(exchanges):
    return [
        {"role": role, "content": content}
        for pair in exchanges
        for role, content in zip(("user", "assistant"), pair)
    ]


# ----------------------------------------------------------------------------------- characters


def test_the_65_ids_of_shakespeare_and_the_three_new_ones_are_pinned():
    assert len(PLAIN) == 65 and len(TOKENIZER) == 68
    assert PLAIN.encode("Write").tolist() == [35, 56, 47, 58, 43]
    assert PLAIN.encode("\nTAGa").tolist() == [0, 32, 13, 19, 39]
    assert TOKENIZER.special == {"<|user|>": 65, "<|assistant|>": 66, "<|end|>": 67}


def test_the_shipped_plays_have_the_vocabulary_of_shakespeare():
    assert CharTokenizer.of(read_corpus("plays")) == PLAIN


@steady
@given(texts)
def test_decode_undoes_encode(text):
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.int32 and len(ids) == len(text)
    assert TOKENIZER.decode(ids) == text


@steady
@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_any_alphabet_decodes_what_it_encodes_and_names_what_it_lacks(alphabet, text):
    tokenizer = CharTokenizer("".join(dict.fromkeys(alphabet)))  # in any order
    missing = [c for c in text if c not in alphabet]
    if not missing:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    else:
        with pytest.raises(DataError) as error:
            tokenizer.encode(text)
        assert f"U+{ord(missing[0]):04X}) at position {text.index(missing[0])}" in str(error.value)


def test_an_unknown_character_is_named_with_its_position():
    with pytest.raises(DataError) as error:
        PLAIN.encode("The 8th of May: 88 ducks @ sea", "line 3")
    text = one_line(error)
    assert "line 3" in text
    assert "'8' (U+0038) at position 4" in text and "'@' (U+0040) at position 25" in text
    assert PLAIN.unknown("a8b@") == [(1, "8"), (3, "@")]


@pytest.mark.parametrize("lacking, named", [(4, 4), (5, 5), (6, 5), (8, 5)])
def test_five_unknown_characters_are_named_at_their_first_places_and_the_others_counted(
    lacking, named
):
    digits = "98765421"[:lacking]
    shown = ", ".join(f"{d!r} (U+00{ord(d):X}) at position {2 * i}" for i, d in enumerate(digits))
    shown = ", ".join(shown.split(", ")[:named]) + f" and {lacking - 5} more" * (lacking > 5)
    with pytest.raises(DataError) as error:
        PLAIN.encode("a".join(digits) + digits, "here")
    assert str(error.value) == (
        f"here: outside the 65 characters of this vocabulary: {shown}; write it with other"
        " characters, or train on a corpus that has them"
    )


def test_a_special_token_has_a_name_of_two_characters_or_more():
    assert CharTokenizer("a", ["bc"]).special == {"bc": 1}
    with pytest.raises(UsageError, match="special token 'b' is a single character"):
        CharTokenizer("a", ["bc", "b"])


def test_growing_keeps_every_old_id_and_can_be_repeated():
    assert TOOLS.special["<|search_start|>"] == 68 and len(TOOLS) == 78
    assert {n: i for n, i in TOOLS.special.items() if i < 68} == TOKENIZER.special
    assert TOOLS.grow(["<|end|>", "<|new|>"]).special == {**TOOLS.special, "<|new|>": 78}
    assert TOOLS.encode("Write").tolist() == PLAIN.encode("Write").tolist()
    assert CharTokenizer.from_json(json.loads(json.dumps(TOOLS.to_json()))) == TOOLS


@pytest.mark.parametrize(
    "make",
    [
        lambda: CharTokenizer(""),
        lambda: CharTokenizer("aa"),
        lambda: PLAIN.grow(["x"]),
        lambda: CharTokenizer("ab", ["<|end|>", "<|end|>"]),
    ],
)
def test_an_ambiguous_vocabulary_is_refused(make):
    with pytest.raises(UsageError) as error:
        make()
    one_line(error)


def test_ids_outside_the_vocabulary_are_refused():
    for bad in (-1, 68):
        with pytest.raises(DataError, match=f"id {bad} is not in 0..67"):
            TOKENIZER.decode([bad])


# ------------------------------------------------------------------------------------- the mask

HOSTILE = CharTokenizer("<>_| abdeinrstu").grow(CHAT.tokens + CHAT.tool_tokens)
hostile = (
    st.lists(
        st.sampled_from(
            [*CHAT.tokens, *CHAT.tool_tokens, "<|", "|>", "<", ">", "|", "_", "user", " ", "a"]
        ),
        min_size=1,
        max_size=8,
    )
    .map("".join)
    .map(lambda text: "".join(c for c in text if c in HOSTILE.characters))
    .filter(str.strip)
)


@steady
@given(hostile, hostile)
def test_a_typed_control_token_never_becomes_a_control_id(user, reply):
    conversation = messages([(user, reply)])
    tokens, trained = render(conversation, HOSTILE, CHAT)
    names = ("<|user|>", "<|end|>", "<|assistant|>", "<|end|>")
    expected = [HOSTILE.special[name] for name in names]
    assert [i for i in tokens if i >= len(HOSTILE.characters)] == expected
    assert trained.sum() == len(reply) + 1
    prompt = render_prompt(conversation[:1], HOSTILE, CHAT)
    assert [i for i in prompt if i >= len(HOSTILE.characters)] == expected[:3]


def test_the_worked_example_of_the_source_corrected_id_by_id():
    # fmt: off
    tokens = [
        65, 35, 56, 47, 58, 43, 1, 39, 1, 45, 56, 43, 43, 58, 47, 52, 45, 67,  # Write a greeting
        66, 19, 53, 53, 42, 1, 51, 53, 56, 56, 53, 61, 1, 58, 53, 1, 58, 46, 43, 43, 6,  # Good ...,
        1, 52, 53, 40, 50, 43, 1, 44, 56, 47, 43, 52, 42, 2, 67,  # noble friend!
    ]
    # fmt: on
    input_ids, labels = prepare_sft_example(
        "Write a greeting", "Good morrow to thee, noble friend!"
    )
    assert input_ids == tokens[:-1]
    assert labels == [IGNORE] * 18 + tokens[19:]
    # At <|assistant|> the first token of the reply is graded; <|assistant|> itself is not.
    assert input_ids[18] == ASSISTANT and labels[18] == 19 and labels[17] == IGNORE


def test_the_sources_off_by_one_masks_the_first_reply_token_and_nothing_else():
    ids, labels = prepare_sft_example("Write a greeting", "Good morrow to thee, noble friend!")
    same_ids, other = prepare_sft_example(
        "Write a greeting", "Good morrow to thee, noble friend!", off_by_one=True
    )
    assert same_ids == ids
    assert [i for i, (a, b) in enumerate(zip(labels, other)) if a != b] == [18]
    assert other[18] == IGNORE


@pytest.mark.parametrize(
    "user, assistant", [("", "yes"), ("yes", " "), ("a@b", "yes"), ("yes", "a|b")]
)
def test_an_example_that_cannot_be_made_is_refused(user, assistant):
    with pytest.raises(DataError) as error:
        prepare_sft_example(user, assistant)
    one_line(error)


@steady
@given(conversations)
def test_graded_targets_are_each_reply_and_its_end_token(exchanges):
    tokens, trained = render(messages(exchanges), TOKENIZER, CHAT)
    input_ids, labels = shift(tokens, trained)
    graded = labels != IGNORE
    assert graded.sum() == sum(len(reply) + 1 for _, reply in exchanges)
    assert len(input_ids) == sum(len(user) + len(reply) + 4 for user, reply in exchanges) - 1
    assert (labels == END).sum() == len(exchanges)  # every reply's end token, no user turn's
    openings = np.flatnonzero(input_ids == ASSISTANT)  # the first reply token is graded there
    assert labels[openings].tolist() == [TOKENIZER.encode(reply[0])[0] for _, reply in exchanges]
    assert not {USER, ASSISTANT} & set(labels.tolist())  # openers are never graded
    assert [
        TOKENIZER.decode(labels[i : i + len(reply)]) for i, (_, reply) in zip(openings, exchanges)
    ] == [reply for _, reply in exchanges]
    assert np.array_equal(labels[graded], tokens[1:][graded])


def test_several_turns_alternate_between_masked_and_graded():
    tokens, trained = render(messages([("Hi", "Yes?"), ("Go", "No")]), TOKENIZER, CHAT)
    text = "<|user|>Hi<|end|><|assistant|>Yes?<|end|><|user|>Go<|end|><|assistant|>No<|end|>"
    assert TOKENIZER.decode(tokens) == text
    assert "".join(".x"[t] for t in trained.tolist()) == "....." + "xxxxx" + "....." + "xxx"


def test_all_of_a_call_is_graded_and_nothing_of_its_result():
    conversation = [
        {"role": "user", "content": "Who"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Hm "},
                {"type": "search", "text": "kings"},
                {"type": "result", "text": "Lear"},
                {"type": "text", "text": "He"},
            ],
        },
    ]
    tokens, trained = render(conversation, TOOLS, CHAT)
    pieces = [
        ("<|user|>", 0),
        ("Who", 0),
        ("<|end|>", 0),
        ("<|assistant|>", 0),
        ("Hm ", 1),
        ("<|search_start|>", 1),
        ("kings", 1),
        ("<|search_end|>", 1),
        ("<|result_start|>", 0),
        ("Lear", 0),
        ("<|result_end|>", 0),
        ("He", 1),
        ("<|end|>", 1),
    ]
    ids = [
        [TOOLS.special[text]] if text in TOOLS.special else TOOLS.encode(text).tolist()
        for text, _ in pieces
    ]
    assert tokens.tolist() == sum(ids, [])
    assert trained.tolist() == [
        bool(grade) for piece, (_, grade) in zip(ids, pieces) for _ in piece
    ]
    labels = shift(tokens, trained)[1]
    assert (labels != IGNORE).sum() == len("Hm ") + 1 + len("kings") + 1 + len("He") + 1


def test_a_tool_call_needs_its_tokens_in_the_vocabulary():
    call = {"role": "assistant", "content": [{"type": "search", "text": "kings"}]}
    with pytest.raises(DataError, match="search_start"):
        render([{"role": "user", "content": "Who"}, call], TOKENIZER, CHAT)


@steady
@given(conversations)
def test_every_prompt_is_an_id_for_id_prefix_of_the_training_example(exchanges):
    conversation = messages(exchanges)
    tokens, _ = render(conversation, TOKENIZER, CHAT)
    for n in range(1, len(conversation), 2):
        prompt = render_prompt(conversation[:n], TOKENIZER, CHAT)
        assert prompt[-1] == ASSISTANT
        assert prompt.tolist() == tokens[: len(prompt)].tolist()


def test_a_template_survives_json():
    assert Template.from_json(json.loads(json.dumps(CHAT.to_json()))) == CHAT
    assert CHAT.end == "<|end|>"


def test_the_shift_pairs_each_token_with_its_successor():
    ids, labels = shift(np.array([5, 6, 7, 8], np.int32), np.array([True, False, True, True]))
    assert (
        ids.tolist() == [5, 6, 7] and labels.tolist() == [IGNORE, 7, 8] and labels.dtype == np.int32
    )


# ---------------------------------------------------------------------------------- what ships

TALK = read_conversations(shipped("conversations.jsonl"))
PAIRS = read_conversations(shipped("pairs40.jsonl"))
PROMPTS = read_prompts(shipped("heldout_prompts.jsonl"))


def test_the_shipped_counts():
    assert (len(TALK), len(PAIRS), len(PROMPTS)) == (2809, 40, 61)
    assert sum(len(c.messages) > 2 for c in TALK) == 69
    assert all(c.category for c in TALK) and all(len(c.messages) == 2 for c in PAIRS)
    assert {p["domain"] for p in PROMPTS} == {"in", "near", "out"}


def test_the_shipped_plays_use_all_65_characters():
    text = read_corpus("plays")
    assert len(text) == 242186 and "".join(sorted(set(text))) == SHAKESPEARE


def test_every_shipped_conversation_and_prompt_encodes_at_context_256():
    for conversation in TALK + PAIRS:
        encode_conversation(conversation, TOKENIZER, 256)
    assert not any(TOKENIZER.unknown(p["prompt"]) for p in PROMPTS)


def test_the_forty_pairs_fit_the_sources_context():
    assert max(len(encode_conversation(c, TOKENIZER, 64).input_ids) for c in PAIRS) <= 64


def test_no_pair_and_no_heldout_prompt_is_among_the_conversations_prompts():
    asked = {m["content"] for c in TALK for m in c.messages if m["role"] == "user"}
    assert not asked & {c.messages[0]["content"] for c in PAIRS}
    assert not asked & {p["prompt"] for p in PROMPTS}
    assert not {c.messages[0]["content"] for c in PAIRS} & {p["prompt"] for p in PROMPTS}


def test_the_sources_five_pairs_lead_the_forty():
    assert [(c.messages[0]["content"], c.messages[1]["content"]) for c in PAIRS[:5]] == [
        ("Write a greeting", "Good morrow to thee, noble friend!"),
        ("Say goodbye", "Farewell, and may fortune smile upon thee."),
        ("Who are you", "A humble player upon this stage of words."),
        ("Speak of love", "Love is a smoke raised with the fume of sighs."),
        ("I am sad", "Take heart, for sorrow fades as morning comes."),
    ]


def test_the_first_reply_token_is_graded_and_so_is_the_end():
    """At either end a mask can be off by one; the source's own code loses the first token."""
    input_ids, labels = prepare_sft_example("Write", "Good")
    opener = input_ids.index(66)  # <|assistant|>
    assert [TOKENIZER.decode([i]) for i in labels[opener:]] == ["G", "o", "o", "d", "<|end|>"]
    assert set(labels[:opener]) == {IGNORE}


def test_an_empty_text_moves_nothing_that_comes_after_it():
    """A tool may give an empty result."""
    content = [
        {"type": "search", "text": "Mall"},
        {"type": "result", "text": ""},
        {"type": "text", "text": "Nay, sir."},
    ]
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": content}]
    tokens, trained = render(talk, TOOLS, CHAT)
    assert TOOLS.decode(tokens) == (
        "<|user|>Who?<|end|><|assistant|><|search_start|>Mall<|search_end|>"
        "<|result_start|><|result_end|>Nay, sir.<|end|>"
    )
    assert TOOLS.decode(tokens[trained]) == "<|search_start|>Mall<|search_end|>Nay, sir.<|end|>"
