"""Words: characters and ids, the mask that rendering makes, batches, and what is refused by
name."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysft import IGNORE
from pysft.errors import DataError, MissingInput, PysftError, UsageError
from pysft.text.dataset import (
    Batch,
    Example,
    draw_windows,
    encode_conversation,
    prepare_sft_example,
    read_corpus,
    shift,
    shipped,
    split_corpus,
    split_heldout,
    tile_windows,
    window,
)
from pysft.text.formats import Conversation, read_conversations, read_prompts
from pysft.text.template import CHAT, Template, render, render_prompt
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

PLAIN = CharTokenizer(SHAKESPEARE)
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


def one_line(error) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


# ----------------------------------------------------------------------------------- characters


def test_the_65_ids_of_shakespeare_and_the_three_new_ones_are_pinned():
    assert len(PLAIN) == 65 and len(TOKENIZER) == 68
    assert PLAIN.encode("Write").tolist() == [35, 56, 47, 58, 43]
    assert PLAIN.encode("\nTAGa").tolist() == [0, 32, 13, 19, 39]
    assert TOKENIZER.special == {"<|user|>": 65, "<|assistant|>": 66, "<|end|>": 67}


def test_the_vocabulary_of_the_shipped_plays_is_shakespeares():
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
    assert (
        "line 3" in text
        and "'8' (U+0038) at position 4" in text
        and "'@' (U+0040) at position 25" in text
    )
    assert PLAIN.unknown("a8b@") == [(1, "8"), (3, "@")]


def test_growing_keeps_every_old_id_and_can_be_repeated():
    assert TOOLS.special["<|search_start|>"] == 68 and len(TOOLS) == 74
    assert {n: i for n, i in TOOLS.special.items() if i < 68} == TOKENIZER.special
    assert TOOLS.encode("Write").tolist() == PLAIN.encode("Write").tolist()
    assert CharTokenizer.from_json(json.loads(json.dumps(TOOLS.to_json()))) == TOOLS


@pytest.mark.parametrize(
    "make",
    [
        lambda: CharTokenizer(""),
        lambda: CharTokenizer("aa"),
        lambda: PLAIN.grow(["x"]),
        lambda: TOKENIZER.grow(["<|end|>"]),
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
    special = HOSTILE.special
    expected = [
        special["<|user|>"],
        special["<|end|>"],
        special["<|assistant|>"],
        special["<|end|>"],
    ]
    assert [i for i in tokens if i >= len(HOSTILE.characters)] == expected
    assert trained.sum() == len(reply) + 1
    prompt = render_prompt(conversation[:1], HOSTILE, CHAT)
    assert [i for i in prompt if i >= len(HOSTILE.characters)] == expected[:3]


def test_the_worked_example_of_the_source_corrected_id_by_id():
    tokens = [
        65,
        35,
        56,
        47,
        58,
        43,
        1,
        39,
        1,
        45,
        56,
        43,
        43,
        58,
        47,
        52,
        45,
        67,
        66,  # Write a greeting
        19,
        53,
        53,
        42,
        1,
        51,
        53,
        56,
        56,
        53,
        61,
        1,
        58,
        53,
        1,
        58,
        46,
        43,
        43,
        6,  # Good morrow to thee,
        1,
        52,
        53,
        40,
        50,
        43,
        1,
        44,
        56,
        47,
        43,
        52,
        42,
        2,
        67,
    ]  # noble friend!
    input_ids, labels = prepare_sft_example(
        "Write a greeting", "Good morrow to thee, noble friend!"
    )
    assert input_ids == tokens[:-1]
    assert labels == [IGNORE] * 18 + tokens[19:]
    assert (
        input_ids[18] == ASSISTANT and labels[18] == 19
    )  # at <|assistant|> the first reply token is graded
    assert labels[17] == IGNORE  # the opening <|assistant|> itself is not


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
    openings = np.flatnonzero(input_ids == ASSISTANT)
    assert labels[openings].tolist() == [TOKENIZER.encode(reply[0])[0] for _, reply in exchanges]
    assert not {USER, ASSISTANT} & set(labels.tolist())  # openers are never graded
    assert [
        TOKENIZER.decode(labels[i : i + len(reply)]) for i, (_, reply) in zip(openings, exchanges)
    ] == [reply for _, reply in exchanges]
    assert np.array_equal(labels[graded], tokens[1:][graded])


def test_several_turns_alternate_between_masked_and_graded():
    tokens, trained = render(messages([("Hi", "Yes?"), ("Go", "No")]), TOKENIZER, CHAT)
    assert (
        TOKENIZER.decode(tokens)
        == "<|user|>Hi<|end|><|assistant|>Yes?<|end|><|user|>Go<|end|><|assistant|>No<|end|>"
    )
    assert "".join(".x"[t] for t in trained.tolist()) == "....." + "xxxxx" + "....." + "xxx"


def test_a_tools_result_is_never_graded_and_its_call_wholly_is():
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
    with pytest.raises(DataError, match="search_start"):
        render(
            [
                {"role": "user", "content": "Who"},
                {"role": "assistant", "content": [{"type": "search", "text": "kings"}]},
            ],
            TOKENIZER,
            CHAT,
        )


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


# --------------------------------------------------------------------------------------- batches


def example(tokens, labels=None, where="line 7"):
    tokens = np.array(tokens, np.int32)
    return Example(tokens, np.array(tokens if labels is None else labels, np.int32), where)


@pytest.mark.parametrize(
    "bad, named",
    [
        (example(range(9)), "line 7: 9 tokens, the context holds 8"),
        (example([1, 2], [IGNORE, IGNORE]), "line 7: every label is -100"),
        (example([1, 10], [1, 2]), "line 7: token 10 at position 1 is not in 0..9"),
        (example([-1, 1], [1, 2]), "line 7: token -1 at position 0"),
        (example([1, 2], [10, 2]), "line 7: label 10 at position 0"),
        (example([1, 2], [1, -99]), "line 7: label -99 at position 1"),
        (example([1, 2], [1]), "line 7: 2 tokens and 1 labels"),
        (example([], []), "line 7: 0 tokens and 0 labels"),
        (
            Example(np.array([2**32 + 1, 2]), np.array([1, 2]), "line 7"),
            f"line 7: token {2**32 + 1} at position 0",
        ),
        (
            Example(np.array([1, 2]), np.array([1, 2**32 + 2]), "line 7"),
            f"line 7: label {2**32 + 2} at position 1",
        ),
    ],
)
def test_a_batch_refuses_by_name(bad, named):
    with pytest.raises(DataError) as error:
        Batch.of([example([1, 2]), bad], vocab=10, context=8)
    assert named in one_line(error)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(DataError, match="at least one sequence"):
        Batch.of([], 10, 8)


def test_a_batch_lays_its_sequences_end_to_end():
    batch = Batch.of(
        [example([1, 2, 3], [IGNORE, 4, 5]), example([6], [7])], 10, 8, weight=[1, 0.5]
    )
    assert batch.tokens.tolist() == [1, 2, 3, 6] and batch.labels.tolist() == [IGNORE, 4, 5, 7]
    assert batch.cu_seqlens.tolist() == [0, 3, 4] and batch.wanted.tolist() == [
        False,
        True,
        True,
        True,
    ]
    assert batch.per_row(batch.weight).tolist() == [1, 1, 1, 0.5] and batch.lengths.tolist() == [
        3,
        1,
    ]
    assert {a.dtype for a in (batch.tokens, batch.labels, batch.cu_seqlens)} == {np.dtype(np.int32)}


@steady
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 15))
def test_splitting_covers_every_sequence_once_in_order(lengths, pieces):
    batch = Batch.of(
        [example(np.arange(n) + i, where=str(i)) for i, n in enumerate(lengths)],
        100,
        12,
        weight=np.arange(len(lengths)),
    )
    parts = batch.split(pieces)
    assert 1 <= len(parts) <= min(pieces, len(lengths))
    for name in ("tokens", "labels", "wanted", "weight", "source"):
        assert np.array_equal(
            np.concatenate([getattr(p, name) for p in parts]), getattr(batch, name)
        )
    assert np.concatenate([p.lengths for p in parts]).tolist() == lengths
    assert all(p.cu_seqlens[0] == 0 and p.cu_seqlens[-1] == len(p.tokens) > 0 for p in parts)


def test_an_even_batch_splits_evenly():
    batch = Batch.of([example(range(4)) for _ in range(8)], 10, 8)
    assert [len(p.weight) for p in batch.split(4)] == [2, 2, 2, 2]


@steady
@given(st.integers(2, 200), st.integers(1, 64))
def test_tiled_windows_grade_every_target_exactly_once(length, width):
    corpus = np.arange(length, dtype=np.int32)
    tiles = tile_windows(corpus, width)
    assert np.concatenate([t.labels for t in tiles]).tolist() == list(range(1, length))
    assert all(
        np.array_equal(t.labels, t.input_ids + 1) and 1 <= len(t.labels) <= width for t in tiles
    )


def test_drawn_windows_reach_every_start_and_never_beyond_the_end():
    corpus = np.arange(12, dtype=np.int32)
    drawn = draw_windows(corpus, 400, 8, np.random.default_rng(0))
    assert {int(e.input_ids[0]) for e in drawn} == {0, 1, 2, 3}
    assert all(len(e.labels) == 8 and np.array_equal(e.labels, e.input_ids + 1) for e in drawn)
    assert window(corpus, 3, 8).labels[-1] == 11


def test_every_tenth_shipped_conversation_and_the_last_tenth_of_a_text_are_held_out():
    kept, heldout = split_heldout(read_conversations(shipped("conversations.jsonl")))
    assert [c.line for c in heldout] == list(range(10, 2810, 10)) and len(kept) == 2529
    train, tail = split_corpus("a" * 90 + "b" * 10)
    assert train == "a" * 90 and tail == "b" * 10


# --------------------------------------------------------------------------------------- reading

GOOD = (
    '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}],'
    ' "category": "x"}\n'
)


def turn(role, content):
    return {"role": role, "content": content}


def line(*conversation):
    return json.dumps({"messages": list(conversation)})


@pytest.mark.parametrize(
    "bad, named",
    [
        ('{"messages": [', "not JSON"),
        ("[1, 2]", "JSON list"),
        ("3", "JSON int"),
        ('{"words": "x"}', '"messages"'),
        ('{"messages": []}', "must be a list of turns"),
        ('{"messages": "x"}', "must be a list of turns"),
        ('{"messages": ["x"]}', "turn 1"),
        (
            '{"messages": [{"role": "user"}]}',
            'turn 1: expected an object with "role" and "content"',
        ),
        (line(turn("user", "Hi"), turn("robot", "Yes")), "turn 2: unknown role 'robot'"),
        (line(turn("user", "Hi"), turn(["user"], "Yes")), "turn 2: unknown role"),
        (
            line(turn("assistant", "Yes"), turn("user", "Hi")),
            "turn 1: role 'assistant', expected 'user'",
        ),
        (line(turn("user", "Hi"), turn("user", "Hm")), "turn 2: role 'user', expected 'assistant'"),
        (line(turn("user", "Hi")), "turn 1: no reply"),
        (
            line(turn("user", "Hi"), turn("assistant", "Yes"), turn("user", "Go")),
            "turn 3: no reply",
        ),
        (line(turn("user", "Hi"), turn("assistant", " \n")), "turn 2: empty reply"),
        (line(turn("user", ""), turn("assistant", "Yes")), "turn 1: empty text"),
        (line(turn("user", "Hi"), turn("assistant", 5)), 'turn 2: "content" is int'),
        (line(turn("user", "Hi"), turn("assistant", None)), 'turn 2: "content" is NoneType'),
        (
            line(turn("user", [{"type": "text", "text": "Hi"}]), turn("assistant", "Yes")),
            'turn 1: "content" is list',
        ),
        (
            line(turn("user", "Hi"), turn("assistant", [{"type": "image", "text": "x"}])),
            "turn 2: a part must be",
        ),
        (
            line(turn("user", "Hi"), turn("assistant", [{"type": [], "text": "x"}])),
            "turn 2: a part must be",
        ),
        (line(turn("user", "Hi"), turn("assistant", [{"type": "text"}])), "turn 2: a part must be"),
        (line(turn("user", "Hi"), turn("assistant", [])), "turn 2: empty reply"),
        (
            line(turn("user", "Hi"), turn("assistant", [{"type": "result", "text": "x"}])),
            "turn 2: empty reply",
        ),
        ("[" * 100_000, "not JSON"),
    ],
    ids=range(25),
)
def test_a_broken_line_is_one_sentence_with_file_and_line(tmp_path, bad, named):
    path = tmp_path / "talk.jsonl"
    path.write_text(GOOD + "\n" + bad + "\n")
    with pytest.raises(DataError) as error:
        read_conversations(path)
    text = one_line(error)
    assert "talk.jsonl, line 3" in text and named in text


def test_a_missing_a_foreign_and_an_empty_file_are_one_sentence(tmp_path):
    with pytest.raises(MissingInput, match="none.jsonl: no such file"):
        read_conversations(tmp_path / "none.jsonl")
    path = tmp_path / "talk.jsonl"
    for content, named in ((b"\xff\xfe", "UTF-8"), (b"\n \n", "no conversation")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=named) as error:
            read_conversations(path)
        assert "talk.jsonl" in one_line(error)
    with pytest.raises(DataError, match="cannot be read"):
        read_conversations(tmp_path)


@pytest.mark.parametrize(
    "exchange, context, named",
    [
        (("Hi" * 9, "Yes"), 20, ["line 2", "24 tokens", "the context holds 20", "4 shorter"]),
        (("Hi", "a@b"), 20, ["line 2", "turn 2", "'@' (U+0040) at position 1"]),
        (("8", "Yes"), 20, ["line 2", "turn 1", "'8' (U+0038) at position 0"]),
    ],
)
def test_what_cannot_be_encoded_is_named_with_file_line_and_what_fits(
    tmp_path, exchange, context, named
):
    path = tmp_path / "talk.jsonl"
    path.write_text(GOOD + line(*messages([exchange])))
    with pytest.raises(DataError) as error:
        [encode_conversation(c, TOKENIZER, context) for c in read_conversations(path)]
    text = one_line(error)
    assert all(n in text for n in ["talk.jsonl", *named])


def test_a_conversation_of_exactly_the_context_fits():
    conversation = Conversation(messages([("Hi", "Yes")]), "talk.jsonl", 1)
    assert len(encode_conversation(conversation, TOKENIZER, 8).input_ids) == 8
    with pytest.raises(DataError, match="make it 1 shorter"):
        encode_conversation(conversation, TOKENIZER, 7)


def test_line_ends_and_blank_lines_do_not_matter(tmp_path):
    path = tmp_path / "talk.jsonl"
    path.write_bytes(b"\r\n" + GOOD.replace("\n", "\r\n").encode() + GOOD.strip().encode())
    assert [(c.line, c.category) for c in read_conversations(path)] == [(2, "x"), (3, "x")]


@settings(steady, max_examples=300)
@given(st.data())
def test_mutated_lines_give_data_or_one_sentence(tmp_path_factory, data):
    raw = bytearray((GOOD * 2).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 6))] = data.draw(
            st.binary(max_size=4)
            | st.sampled_from([b"null", b"[]", b"{}", b"1e999", b'"', b"\\ud800", b"NaN", b"user"])
        )
    path = tmp_path_factory.getbasetemp() / "mutated.jsonl"
    path.write_bytes(raw)
    try:
        for conversation in read_conversations(path):
            assert (encode_conversation(conversation, TOKENIZER, 64).labels != IGNORE).any()
    except PysftError as error:
        assert str(error) and "\n" not in str(error)


def test_prompts_need_a_text(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Hi", "domain": "in"}\n{"prompt": ""}\n')
    with pytest.raises(DataError, match="prompts.jsonl, line 2"):
        read_prompts(path)


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
    """The two ends at which masks are off by one elsewhere (the source's own code loses the
    first)."""
    input_ids, labels = prepare_sft_example("Write", "Good")
    opener = input_ids.index(66)  # <|assistant|>
    assert [TOKENIZER.decode([i]) for i in labels[opener:]] == ["G", "o", "o", "d", "<|end|>"]
    assert set(labels[:opener]) == {IGNORE}


def test_an_empty_text_moves_nothing_that_comes_after_it():
    """A tool may give nothing."""
    tokenizer = CharTokenizer(SHAKESPEARE, CHAT.tokens + CHAT.tool_tokens)
    content = [
        {"type": "search", "text": "Mall"},
        {"type": "result", "text": ""},
        {"type": "text", "text": "Nay, sir."},
    ]
    tokens, trained = render(
        [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": content}],
        tokenizer,
        CHAT,
    )
    assert (
        tokenizer.decode(tokens)
        == "<|user|>Who?<|end|><|assistant|><|search_start|>Mall<|search_end|><|result_start|><|result_end|>Nay,"
        " sir.<|end|>"
    )
    assert tokenizer.decode(tokens[trained]) == "<|search_start|>Mall<|search_end|>Nay, sir.<|end|>"
