"""Readers: every format becomes conversations, and every fault is named with its file and line."""

import copy
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from situations.formats import FORMATS
from texts import grown, node, one_line, say, steady, write

from pysft import IGNORE
from pysft.errors import DataError, MissingInput, PysftError, RowError
from pysft.text.audit import audit
from pysft.text.conversation import Conversation
from pysft.text.examples import encode_conversation
from pysft.text.files import foreign
from pysft.text.formats import last_text, read_conversations, read_prompts, scan
from pysft.text.keys import FLAGS, MEANINGLESS, OF_ROWS
from pysft.text.templates import CHAT, CHATML, TEMPLATES

# ------------------------------------------------------------------------------- lines and turns

# A line that is right, with its end.
GOOD = (
    '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}],'
    ' "category": "x"}\n'
)


def line(*conversation):
    return json.dumps({"messages": list(conversation)})


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


HI, YES = user("Hi"), assistant("Yes")


@pytest.mark.parametrize(
    "bad, named",
    [
        ('{"messages": [', "not JSON"),
        ("[1, 2]", "an array"),
        ("3", "a number"),
        ('{"words": "x"}', '"messages"'),
        ('{"messages": []}', "must be a list of turns"),
        ('{"messages": "x"}', "must be a list of turns"),
        (line("x"), "turn 1"),
        (line({"role": "user"}), 'turn 1: expected an object with "role" and "content"'),
        (line(HI, {**YES, "role": "robot"}), "turn 2: unknown role 'robot'"),
        (line(HI, {**YES, "role": ["user"]}), "turn 2: unknown role"),
        (line(YES, HI), "turn 1: role 'assistant', expected 'user'"),
        (line(HI, user("Hm")), "turn 2: role 'user', expected 'assistant'"),
        (line(HI), "turn 1: no reply"),
        (line(HI, YES, user("Go")), "turn 3: no reply"),
        (line(HI, assistant(" \n")), "turn 2: empty reply"),
        (line(user(""), YES), "turn 1: empty text"),
        (line(HI, assistant(5)), 'turn 2: "content" is a number'),
        (line(HI, assistant(None)), 'turn 2: "content" is null'),
        (
            line(user([{"type": "search", "text": "Hi"}]), YES),
            "turn 1, part 1: a part of type 'search'",
        ),
        (line(HI, assistant([{"type": "image", "text": "x"}])), "turn 2: a part must be"),
        (line(HI, assistant([{"type": [], "text": "x"}])), "turn 2: a part must be"),
        (line(HI, assistant([{"type": "text"}])), "turn 2: a part must be"),
        (line(HI, assistant([])), "turn 2: empty reply"),
        (line(HI, assistant([{"type": "result", "text": "x"}])), "turn 2: empty reply"),
        ("[" * 100_000, "not JSON"),
    ],
    ids=range(25),
)
def test_a_broken_line_is_one_sentence_with_file_and_line(tmp_path, bad, named):
    path = write(tmp_path, "talk.jsonl", GOOD, bad)
    with pytest.raises(DataError) as error:
        read_conversations(path)
    text = one_line(error)
    assert "talk.jsonl, line 3" in text and named in text


def test_a_missing_a_foreign_and_an_empty_file_are_refused_in_one_sentence(tmp_path):
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
            assert (encode_conversation(conversation, grown(CHAT), 64).labels != IGNORE).any()
    except PysftError as error:
        assert str(error) and "\n" not in str(error)


TURN = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " \n",
        None,
        3,
        {"role": "user", "content": "Hi"},
        [],
        ["Hi"],
        [{"role": "user"}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": [TURN]}],
        [TURN | {"train": True}],
        [TURN, None],
        [TURN, {"role": "assistant", "content": "Ho"}],
    ],
)
def test_prompts_need_a_text_in_each_turn(tmp_path, prompt):
    path = write(tmp_path, "prompts.jsonl", {"prompt": "Hi", "domain": "in"}, {"prompt": prompt})
    with pytest.raises(DataError, match="prompts.jsonl, line 2"):
        read_prompts(path)


def test_a_prompt_is_a_text_or_turns_of_which_the_last_is_to_be_answered(tmp_path):
    turns = say("Who is he?", "A king.", "And she?")
    path = write(tmp_path, "p.jsonl", {"prompt": "Hi", "domain": "in"}, {"prompt": turns})
    assert read_prompts(path) == [{"prompt": "Hi", "domain": "in"}, {"prompt": turns, "domain": ""}]
    assert [last_text(row["prompt"]) for row in read_prompts(path)] == ["Hi", "And she?"]


# --------------------------------------------------------------------- formats, known by their keys


@pytest.mark.parametrize(
    "row",
    [
        {"messages": say("Hi", "Ho")},
        {"messages": [{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Ho"}]},
        {"prompt": "Hi", "completion": "Ho"},
        {"prompt": say("Hi"), "completion": [{"role": "assistant", "content": "Ho"}]},
        {"instruction": "Hi", "input": "", "output": "Ho"},
        {"instruction": "Hi", "output": "Ho"},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
    ],
    ids=range(7),
)
def test_each_format_is_known_by_its_keys_and_becomes_messages(tmp_path, row):
    path = write(tmp_path, "x.jsonl", "", row)
    (found,) = read_conversations(path)
    assert found.messages == say("Hi", "Ho") and found.line == 2 and found.path == str(path)


@pytest.mark.parametrize("answered", ["output", "response"])
def test_alpacas_input_follows_its_instruction(tmp_path, answered):
    (found,) = read_conversations(
        write(tmp_path, "x.jsonl", {"instruction": "Sum up", "input": "A tale", answered: "Ho"})
    )
    assert found.messages == say("Sum up\n\nA tale", "Ho")


@pytest.mark.parametrize(
    "content, named",
    [
        (b"PK\x03\x04rest", "a workbook"),
        (b"\x28\xb5\x2f\xfd\x24", "packed with zstd"),
        (b"PAR1\x15", "a Parquet file"),
        (b"\x1f\x8b\x08\x00", "cannot be unpacked"),
        (b"BZh91AY", "cannot be unpacked"),
        (b"\xfd7zXZ\x00\x00", "cannot be unpacked"),
        (b"\xff\xfeH\x00", "UTF-16"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_sentence(tmp_path, content, named):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=named):
        list(scan(path))


def test_bytes_of_which_every_second_is_often_zero_are_utf_16():
    """Latin letters are a zero and another byte there; other letters are two."""
    utf_16, other = "UTF-16 text", "not text, but bytes of another kind"
    for size in (8, 63, 64):
        least = size // 4 + 1
        for first in (0, 1):
            for zeros, said in ((least, utf_16), (least - 1, other), (1, other), (0, "")):
                start = bytearray(b"x" * size)
                start[first : first + 2 * zeros : 2] = bytes(zeros)
                found = foreign(bytes(start))
                assert found.startswith(said) and bool(found) == bool(zeros)
                if zeros:
                    start[1 - first] = 0  # one in the other half too
                    assert foreign(bytes(start)).startswith(other)
    assert foreign("Hi, Ho".encode("utf-16-le")) == foreign("Hi, Ho".encode("utf-16-be"))


def test_the_kind_of_a_file_is_known_by_its_first_64_bytes(tmp_path):
    path = tmp_path / "x.jsonl"
    for blanks, is_known in ((49, True), (50, False)):
        path.write_bytes(b" " * blanks + b"SQLite format 3")
        with pytest.raises(DataError) as error:
            read_conversations(path)
        assert ("a database of SQLite" in str(error.value)) is is_known


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Hi", "output": "Ho", "history": [["a", "b"]]},
        {"question": "Hi", "answer": "Ho", "context": "A tale"},
        {"prompt": "Hi", "completion": "Ho", "input": "x"},
        {"question": "Hi", "answer": "Ho", "text": "A tale"},
    ],
)
def test_a_key_that_would_change_what_a_row_means_is_never_ignored(tmp_path, row):
    (fault,) = scan(write(tmp_path, "x.jsonl", row))
    assert "is not read" in str(fault) and "messages" in fault.remedy


@pytest.mark.parametrize(
    "key, text, is_read",
    [
        ("text", "Hi\n\nHi\n\nHo you", True),
        ("text", "<s>Hi \n Hi then Ho you</s>", True),
        ("text", " Ho you\n", True),  # one of the texts alone
        ("other", " Ho you\n", True),
        ("other", "Hi\n\nHi\n\nHo you", False),
        ("text", "Hi, Ho you", False),  # "Hi" comes once, and is said twice
        ("text", "Ho you, Hi, Hi", False),  # another order
        ("text", "Hi, Hi, Ho", False),
        ("text", "Ho", False),
    ],
)
def test_a_key_may_repeat_a_text_of_the_row_and_text_all_of_them_in_their_order(
    tmp_path, key, text, is_read
):
    row = {"messages": say("Hi", "Ho you"), "system": "Hi", key: text}
    (found,) = scan(write(tmp_path, "x.jsonl", row), CHATML)
    assert isinstance(found, Conversation) is is_read


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Hi", "answer": "Ho"},
        {"prompt": "Hi", "response": "Ho", "system": "", "id": 7, "category": None},
    ],
)
def test_the_usual_names_of_two_keys_are_known(tmp_path, row):
    (found,) = read_conversations(write(tmp_path, "x.jsonl", row))
    assert found.messages == say("Hi", "Ho") and found.category == ""


def test_half_a_character_is_refused(tmp_path):
    for row in ('{"prompt": "\\ud800 hi", "completion": "Ho"}', '{"text": "a\\udc00"}'):
        (fault,) = scan(write(tmp_path, "x.jsonl", row))
        assert "half of a character" in str(fault)


@pytest.mark.parametrize(
    "row, named",
    [
        ({"text": "A"}, "no text of two characters or more"),
        ({"text": 5}, "no text of two characters or more"),
        (
            {"instruction": ["Hi"], "output": "Ho"},
            '"instruction", "input" and "context" must be text',
        ),
        ({"instruction": "Hi", "input": 5, "output": "Ho"}, "must be text"),
    ],
)
def test_a_row_without_a_usable_text_is_a_fault(tmp_path, row, named):
    (fault,) = scan(write(tmp_path, "x.jsonl", row))
    assert isinstance(fault, RowError) and named in str(fault)


# ------------------------------------------------------------------------------ files with damage

CALL = {"role": "assistant", "content": [{"type": "search", "text": "x"}]}
# Rows that a mutated file is made of, and pieces that are put into it.
GRAINS = [
    json.dumps({"messages": say("Hi", "Ho", "Go", "No")}),
    json.dumps({"prompt": "Hi", "completion": "Ho"}),
    json.dumps({"instruction": "Hi", "input": "x", "output": "Ho"}),
    json.dumps({"text": "A tale"}),
    json.dumps(
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}
    ),
    json.dumps(node("a", None, "prompter", "Hi", 0)),
    json.dumps(node("b", "a", "assistant", "Ho", 0)),
    json.dumps({"messages": [say("Hi")[0], {**CALL, "train": True}]}),
]
SPLINTERS = [
    *(b"null", b"[]", b"{}", b"1e999", b'"', b"\\ud800", b"NaN", b"user", b",", b"\n", b"\r"),
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b";", b"\t", b'"parent_id": "b"', b"true", b"-1"),
    *(b"[[[[", b"\\u0000", b'""'),
]


@settings(steady, max_examples=max(250, int(os.environ.get("PYSFT_FUZZ", "0"))))  # make fuzz
@given(
    st.data(),
    st.sampled_from(["m.jsonl", "m.csv", "m.tsv"]),
    st.sampled_from(list(TEMPLATES.values())),
)
def test_a_mutated_file_gives_data_or_one_line_errors_and_nothing_else(
    tmp_path_factory, data, name, template
):
    if name == "m.jsonl":
        lines = data.draw(st.lists(st.sampled_from(GRAINS), min_size=1, max_size=4))
        raw = bytearray("\n".join(lines).encode())
    elif name == "m.csv":
        raw = bytearray(b'prompt,completion\nHi,"Ho, ""ho"""\nGo,"No\nno"\n')
    else:
        raw = bytearray(b"Hi\tHo\nGo\tNo\n")
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, max(0, len(raw) - 1)))
        raw[at : at + data.draw(st.integers(0, 6))] = data.draw(
            st.binary(max_size=4) | st.sampled_from(SPLINTERS)
        )
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(raw)
    tokenizer = grown(template)
    try:
        report = audit([str(path)], tokenizer, template, grade="flags")
        for row in scan(path, template):
            if isinstance(row, RowError):
                assert row.where.startswith(str(path) + ", line ") and row.remedy
            else:
                for m in row.messages:
                    assert isinstance(m["content"], (str, list))
        assert all("\n" not in str(f) and f.where.startswith(str(path)) for f in report["findings"])
        # A file without a row is an error too.
        assert report["trainable"] + report["errors"] == max(1, report["rows"])
    except PysftError as error:
        assert str(error) and "\n" not in str(error)


# -------------------------------------------------------------------- a key that is not read


@pytest.mark.parametrize("f", FORMATS, ids=[f.what for f in FORMATS])
def test_each_format_becomes_its_messages(tmp_path, f):
    template = TEMPLATES["chatml" if "chatml" in f.flags else "chat"]
    (found,) = read_conversations(write(tmp_path, "x.jsonl", f.example), template)
    assert found.messages == f.messages


def objects_in(value):
    """Every JSON object in a value, but those that stand under a key without a meaning."""
    if isinstance(value, dict):
        yield value
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, (dict, list)) and key not in OF_ROWS:
            yield from objects_in(inner)


def texts_in(value) -> list:
    """Every text that a row's format may read."""
    found = [v for o in objects_in(value) for k, v in o.items() if isinstance(v, str)]
    return [text for text in found if text not in ("user", "assistant", "human", "gpt", "text")]


def rendering(row, path, template, grade):
    """What a training would see of a row; None if it refuses it."""
    path.write_text(json.dumps(row), encoding="utf-8")
    shown = []
    for found in scan(path, template):
        if isinstance(found, RowError):
            return None
        if isinstance(found, Conversation):
            try:
                example = encode_conversation(found, grown(template), 512, template, grade)
            except DataError:
                return None
            shown.append((example.input_ids.tolist(), example.labels.tolist()))
    return shown or None


def says_nothing(owner, key, row, grade) -> bool:
    """True if a key of an object of a row may be removed: if it is known to carry no meaning, is
    empty, repeats a text of the row, or asks for what happens anyway."""
    value = owner[key]
    meaningless = OF_ROWS if owner is row else MEANINGLESS
    if key in meaningless or value in (None, "", [], {}):
        return True
    if key in FLAGS:
        is_reply = owner.get("role", owner.get("from")) in ("assistant", "gpt")
        return bool(value) or not is_reply or grade == "last"
    if key in ("deleted", "synthetic", "review_result") and isinstance(value, bool):
        return bool(value) == (key != "deleted")
    others = texts_in(row)
    others.remove(value) if value in others else None
    return isinstance(value, str) and (value in others or key == "text")


KEYS = [
    *("system", "system_prompt", "context", "input", "history", "text", "prompt", "instruction"),
    *("name", "tool_calls", "reasoning_content", "mask", "tools", "chosen", "label", "persona"),
    *("output", "completion", "answer", "role", "from", "type", "id", "source", "lang", "deleted"),
    *("review_result", "replies", "refusal", "content", "value", "messages", "parent_id", "rank"),
    *FLAGS,
]
VALUES = [None, "", "Hi", "Ho.", "A tale.", 0, 1, True, False, [], {}, ["x"], {"x": 1}]


@settings(steady, max_examples=max(150, int(os.environ.get("PYSFT_FUZZ", "0"))))  # make fuzz
@given(st.data())
def test_every_key_of_a_row_that_is_read_means_something_or_is_known_not_to(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "keys.jsonl"
    row = copy.deepcopy(data.draw(st.sampled_from(FORMATS)).example)
    for _ in range(data.draw(st.integers(0, 3))):
        owner = data.draw(st.sampled_from(list(objects_in(row))))
        key, value = data.draw(st.sampled_from(KEYS)), data.draw(st.sampled_from(VALUES))
        owner[key] = copy.deepcopy(value)
    template = TEMPLATES[data.draw(st.sampled_from(["chat", "chatml"]))]
    grade = data.draw(st.sampled_from(["all", "flags", "last", "everything"]))
    whole = rendering(row, path, template, grade)
    if whole is None:
        return
    for owner in list(objects_in(row)):
        for key in list(owner):
            if not says_nothing(owner, key, row, grade):
                value = owner.pop(key)
                assert rendering(row, path, template, grade) != whole, (key, value, row)
                owner[key] = value
