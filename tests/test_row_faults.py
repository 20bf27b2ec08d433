"""What is said of each fault that a reader of rows finds: where, what, and what to do about it."""

import json

import pytest
from messages import note_messages, places_of_messages
from texts import node, one_line, write

from pysft.errors import DataError, PysftError, RowError, UsageError
from pysft.text import conversation, fixed, formats, json_rows, keys, trees, turns
from pysft.text import rows as text_rows
from pysft.text.fixed import Fixed
from pysft.text.formats import read_conversations, read_prompts, scan
from pysft.text.keys import checked_ignore

PAIR = {"prompt": "Hi", "completion": "Ho"}
USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
ROOT = node("a", None, "prompter", "Hi")


def talk(user, reply, **more):
    """A row of two turns. user, reply: what they have besides the usual."""
    return {"messages": [USER | user, REPLY | reply], **more}


def unknown(names):
    """The message about a row in which these keys alone stand."""
    return (
        f'line 1: no "messages" in it, only {names}; a row has one of these sets of keys:'
        ' "messages"; "prompt", "completion"; "instruction", "output"; "conversations"; "text";'
        ' "message_id", "role", "text"'
    )


CALLS = 'write each call and each result as a part of "content" (the guide\'s page tools shows it)'
MEANS_NOTHING = 'write it into "messages", take it out, or, if it means nothing, give --ignore'

# (kind, the rows of a file, its only faults).
FAULTS = [
    # formats.py
    ("format", [{"messages": [{"role": "user"}, REPLY]}],
     ['line 1, turn 1: expected an object with "role" and "content"; add what is missing']),
    ("format", [{"conversations": [{"from": "human"}, REPLY]}],
     ['line 1, turn 1: expected an object with "from" and "value"; add what is missing']),
    ("format", [talk({"content": [{"type": "text", "text": "x"}, {"type": "image"}]}, {})],
     ["line 1, turn 1, part 2: a part of type 'image'; the model reads text alone: take the row"
      " out"]),
    ("format", [{"instruction": "Hi", "input": 5, "output": "Ho"}],
     ['line 1: "instruction", "input" and "context" must be text; write them so']),
    ("format", [PAIR | {"completion": None}], ['line 1: "completion" is null; it must be text']),
    ("format", [PAIR | {"prompt": 5}], ['line 1: "prompt" is a number; it must be text']),
    ("preferences", [PAIR | {"rejected": "x"}],
     ['line 1: a row of preferences ("chosen", "rejected"), from which fine-tuning cannot learn; to'
      ' train on the better reply alone, write it into "messages"']),
    ("format", [{}], [unknown("an empty object")]),
    ("format", [dict.fromkeys("abcdefgh", 1)],
     [unknown("'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'")]),
    ("format", [dict.fromkeys("abcdefghi", 1)],
     [unknown("'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and others")]),
    # keys.py
    ("format", [PAIR | {"deleted": "yes"}],
     ["line 1: its mark 'deleted' is 'yes'; write true or false"]),
    ("flags", [talk({}, {"weight": 2})],
     ["line 1, turn 2: the flag 'weight' is 2; it is true or false, or 1 or 0; if it is no flag,"
      " give --ignore weight"]),
    ("flags", [talk({"train": True}, {})],
     ["line 1, turn 1: the flag 'train' asks to grade a turn that is no reply; only assistant turns"
      " are graded: take the flag out"]),
    ("flags", [talk({}, {"train": True, "weight": 0})],
     ["line 1, turn 2: the flags 'train' and 'weight' contradict each other; keep one of them"]),
    ("flags", [{"messages": [USER, {"role": "assistant", "content": [
        {"type": "text", "text": "Ho.", "train": False}]}]}],
     ["line 1, turn 2, part 1: the flag 'train' stands in a part of type 'text'; only thoughts have"
      " a flag of their own; flag the turn"]),
    ("unread key", [PAIR | {"mine": "x"}],
     ["line 1: its key 'mine' is not read, so the row could lose its meaning;"
      f" {MEANS_NOTHING} mine"]),
    ("unread key", [PAIR | {"\nmine": "x"}],
     ["line 1: its key '\\nmine' is not read, so the row could lose its meaning;"
      f" {MEANS_NOTHING} '\\nmine'"]),
    ("unread key", [PAIR | {"mine": "x", "yours": "y"}],
     ["line 1: its keys 'mine', 'yours' are not read, so the row could lose its meaning;"
      f" {MEANS_NOTHING} mine,yours"]),
    ("unread key", [PAIR | {"mine": "x", "tools": "y"}],
     ["line 1: its key 'tools' describes tools, which is not read; describe them in a system turn,"
      " or take the key out"]),
    # trees.py
    ("tree", [{"prompt": {"message_id": "a", "role": "prompter", "replies": []}}],
     ["line 1: a message of the tree lacks one of message_id, role, text; add what is missing"]),
    ("tree", [ROOT | {"replies": 5}], ['line 1: "replies" is no list; write it so']),
    ("tree", [ROOT | {"message_id": 5}],
     ['line 1: "message_id" and "parent_id" must be text (a root has no parent); write them so']),
    ("tree", [ROOT, node("b", "a", "assistant", "Ho"), node("b", "a", "assistant", "Ha")],
     ["line 3: message_id 'b' stands in line 2 already; give each message its own"]),
    ("empty", [ROOT | {"text": " "}],
     ["line 1: empty text; write one, or remove the message and what answers it"]),
    ("roles", [ROOT | {"role": "robot"}],
     ["line 1: unknown role 'robot'; expected one of user, human, prompter, assistant, gpt, bot,"
      " model, chatgpt, ai, bard, bing, system, developer"]),
    ("missing end", [ROOT], ["line 1: nobody answers it; add a reply, or remove the message"]),
    ("tree", [node("a", "b", "prompter", "Hi"), node("b", "a", "assistant", "Ho")],
     [f"line {n}: no root leads to it; its first message must have no parent_id" for n in (1, 2)]),
    ("tree", [node("b", "a", "assistant", "Ho")],
     ["line 1: its parent 'a' is not in the file, or cannot be used; add the parent, or remove the"
      " message and what answers it"]),
    # conversation.py
    ("format", [{"messages": []}],
     ['line 1: "messages" must be a list of turns; make each {"role": ..., "content": ...}']),
    ("missing end", [{"messages": [USER]}],
     ["line 1, turn 1: no reply follows; end with an assistant turn"]),
    ("empty", [{"text": "A"}],
     ['line 1: "text" is no text of two characters or more; write more, or remove the line']),
    ("characters", ['{"text": "a\\udc00"}'],
     ["line 1: half of a character (a lone surrogate); write the whole character"]),
    ("format", [{"messages": ["x", REPLY]}],
     ['line 1, turn 1: expected an object with "role" and "content"; add what is missing']),
    ("roles", [{"messages": [{"role": "system", "content": "Be"}, USER, REPLY]}],
     ["line 1, turn 1: template 'chat' has no system role; take the turn out, or choose --template"
      " chatml or llama2"]),
    ("roles", [talk({}, {"role": "tool"})],
     ["line 1, turn 2: a turn of role 'tool'; calls of tools and their results are parts of a"
      " reply; write them into its \"content\" (the guide's page tools shows it)"]),
    ("roles", [talk({}, {"role": "robot"})],
     ["line 1, turn 2: unknown role 'robot'; this template has \"user\" or \"assistant\" (also"
      " accepted: human, prompter, gpt, bot, model, chatgpt, ai, bard, bing)"]),
    ("roles", [talk({}, {"role": "user"})],
     ["line 1, turn 2: role 'user', expected 'assistant'; turns alternate, and the user begins"]),
    ("format", [talk({"content": 5}, {})],
     ['line 1, turn 1: "content" is a number; it must be text']),
    ("format", [talk({}, {"content": None})],
     ['line 1, turn 2: "content" is null; it must be text or a list of parts']),
    ("empty", [talk({"content": " "}, {})],
     ["line 1, turn 1: empty text; write one, or remove the line"]),
    ("empty", [talk({}, {"content": []})],
     ["line 1, turn 2: empty reply; write one, or remove the line"]),
    ("format", [talk({}, {"content": [{"type": "image", "text": "x"}]})],
     ['line 1, turn 2: a part must be {"type": "text" or "search" or "code" or "result" or "table"'
      ' or "thought",'
      ' "text": ...}; write it so']),
    # json_rows.py
    ("format", [PAIR, '{"prompt": "\udcff"}'],
     ["line 2: cannot be read as UTF-8 text (invalid start byte at byte 12); save the file as"
      " UTF-8"]),
    ("format", ["[", '"\udcff"', "]"],
     ["line 2: cannot be read as UTF-8 text; save the file as UTF-8"]),
    ("format", ['{"prompt"}', PAIR],
     ["line 1: not JSON (Expecting ':' delimiter); write one object a line, or remove the line (a"
      " table of two columns is read when its name ends with .csv)"]),
    ("format", [PAIR, '{"prompt"}'],
     ["line 2: not JSON (Expecting ':' delimiter); write one object a line, or remove the line"]),
    ("format", [PAIR, "[1]"],
     ["line 2: an array, expected an object; write each object of the array on a line of its own"]),
    ("format", [PAIR, "3"],
     ['line 2: a number, expected an object; write {"messages": [...]}']),
    ("format", [PAIR, '{"prompt": "Hi", "prompt": "Ho"}'],
     ["line 2: the key 'prompt' stands twice in one object; keep one of the two"]),
    ("format", ["[", json.dumps(PAIR)],
     ["line 2: not JSON (the array has no end); end it by ]"]),
    ("format", ["[", '{"prompt"},', json.dumps(PAIR), "]"],
     ["line 2: not JSON (Expecting ':' delimiter); mend it, or remove it"]),
    # The line of the fault in a value of several lines; that of its beginning if it has no end.
    ("format", ["{", '"prompt": "Hi",', '"completion" 3}'],
     ["line 3: not JSON (Expecting ':' delimiter); mend it, or remove it"]),
    ("format", ["[", "{", '"prompt": "Hi",', '"completion" 3},', json.dumps(PAIR), "]"],
     ["line 4: not JSON (Expecting ':' delimiter); mend it, or remove it"]),
    ("format", ["[", "{", '"prompt": "Hi",', json.dumps(PAIR), "]"],
     ["line 2: not JSON (Expecting property name enclosed in double quotes); mend it, or remove"
      " it"]),
    ("format", ["[", "{", '"prompt": "Hi", "completion"},', "{", '"prompt": "Ho"},', "3]"],
     ["line 3: not JSON (Expecting ':' delimiter); mend it, or remove it",
      unknown("'prompt'").replace("line 1", "line 4"),
      'line 6: a number, expected an object; write {"messages": [...]}']),
]  # fmt: skip

# What a key of a turn is said to mean, and the remedy.
KNOWN_KEYS = {
    "tool_calls": ("calls a tool", CALLS),
    "function_call": ("calls a tool", CALLS),
    "tool_call_id": ("is the result of a tool", CALLS),
    "functions": ("describes tools", "describe them in a system turn, or take the key out"),
    "thinking": (
        "keeps the reasoning apart from the reply",
        'write it into "content" if it should be learnt, or take the key out',
    ),
    "mask": (
        "means that a turn is graded in some programs, and that it is not in others",
        'write "train": true or false instead',
    ),
    "label": (
        "says which rows or replies are good, or of which kind they are",
        "keep the good ones alone, and take the key out",
    ),
    "audio": ("holds more than text", "take the row out: the model reads text alone"),
}
FAULTS += [
    ("unread key", [talk({}, {key: "x"})],
     [f"line 1, turn 2: its key {key!r} {what}, which is not read; {remedy}"])
    for key, (what, remedy) in KNOWN_KEYS.items()
]  # fmt: skip


def faults_in(folder, rows):
    """The RowErrors of a file of these rows."""
    path = folder / "x.jsonl"
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_bytes("\n".join(texts).encode("utf-8", "surrogateescape"))
    return [row for row in scan(path) if isinstance(row, RowError)]


@pytest.mark.parametrize("kind, rows, said", FAULTS, ids=range(len(FAULTS)))
def test_each_fault_of_a_row_is_named_with_its_kind_and_its_remedy(tmp_path, kind, rows, said):
    found = faults_in(tmp_path, rows)
    assert [str(fault) for fault in found] == [f"{tmp_path / 'x.jsonl'}, {text}" for text in said]
    assert {fault.kind for fault in found} == {kind}
    assert all(text.endswith(f"; {fault.remedy}") for fault, text in zip(found, said))


def chain(messages):
    """A tree that is one path of so many messages."""
    roles = ("prompter", "assistant")
    return [node(f"{i}", f"{i - 1}" if i else None, roles[i % 2], "x") for i in range(messages)]


def test_a_path_of_a_thousand_messages_is_read_and_a_longer_one_refused(tmp_path):
    assert faults_in(tmp_path, chain(1000)) == []
    [fault] = faults_in(tmp_path, chain(1001))
    said = "more than 1,000 messages deep; no context holds so many: remove it"
    assert str(fault) == f"{tmp_path / 'x.jsonl'}, line 1001: {said}" and fault.kind == "tree"


def faulty(rows):
    """An array of so many rows that are not JSON, and of one that is."""
    return ["[", *['{"prompt"},'] * rows, json.dumps(PAIR), "]"]


def test_a_file_with_a_thousand_faults_of_json_is_read_no_further(tmp_path):
    """They stand in an array. After each of them the next row can be found."""
    assert len(faults_in(tmp_path, faulty(999))) == 999
    with pytest.raises(DataError) as error:
        faults_in(tmp_path, faulty(1000))
    assert one_line(error) == (
        f"{tmp_path / 'x.jsonl'}, line 1001: not JSON (Expecting ':' delimiter); mend it, or remove"
        " it. What follows cannot be read"
    )


def test_a_whole_number_of_400_digits_is_a_number_and_a_longer_one_stays_text(tmp_path):
    for digits, kind in ((400, int), (401, str)):
        rows = [f'{{"id": {"9" * digits}}}'.encode()]
        [(_, row)] = json_rows.json_rows(iter(rows), "x.jsonl")
        assert type(row["id"]) is kind and str(row["id"]) == "9" * digits


def refusals(folder):
    """[(what is refused, what is said of it)] of what is no row: files, and arguments."""
    path = write(folder, "x.jsonl", "")
    bare = write(folder, "bare.jsonl", {"prompt": ""})
    bad = write(folder, "bad.jsonl", '{"a": 1, "a": 2}', {"text": "A"})
    away = folder / "none" / "x.jsonl"
    return [
        (lambda: read_conversations(path),
         f"{path}: no conversation in it. The guide's page 'data' shows how a row looks"),
        (lambda: read_conversations(bad),
         f"{bad}, line 1: the key 'a' stands twice in one object; keep one of the two (and 1 more;"
         f" python -m pysft audit {bad} names them all)"),
        (lambda: read_prompts(bare),
         f'{bare}, line 1: no "prompt" in it; write {{"prompt": text, "domain": ...}}'),
        (lambda: Fixed(folder / "x.txt"),
         f"--fix {folder / 'x.txt'}: JSON lines are written; give it a name that ends with"
         " .jsonl"),
        (lambda: Fixed(path), f"--fix {path}: this exists already; choose another name"),
        (lambda: Fixed(away).__enter__(),
         f"--fix {away}: cannot be written (No such file or directory); choose a place that can"),
        (lambda: checked_ignore(["id", "role"]),
         "--ignore role: this key is read, so it cannot be ignored"),
    ]  # fmt: skip


def test_each_refused_file_or_argument_is_named_with_its_remedy(tmp_path):
    for refused, said in refusals(tmp_path):
        with pytest.raises((DataError, UsageError)) as error:
            refused()
        assert one_line(error) == said


def test_every_place_that_makes_a_message_is_reached_by_the_messages_above(tmp_path, monkeypatch):
    """So a new fault needs its line in a table."""
    modules = (formats, text_rows, turns, keys, trees, fixed, conversation, json_rows)
    places, reached = places_of_messages(modules), note_messages(monkeypatch)
    assert len(places) > 30
    for _, rows, _ in FAULTS:
        faults_in(tmp_path, rows)
    faults_in(tmp_path, chain(1001))
    with pytest.raises(DataError):
        faults_in(tmp_path, faulty(1000))
    for refused, _ in refusals(tmp_path):
        with pytest.raises(PysftError):
            refused()
    assert places - reached == set()
