"""Message trees: each path is a conversation, and every message that is on none is named."""

import time

from texts import node, say, write

from pysft.errors import RowError
from pysft.text.conversation import Conversation
from pysft.text.formats import scan


def test_every_path_of_a_message_tree_is_a_conversation_and_the_best_come_first(tmp_path):
    path = write(
        tmp_path,
        "x.jsonl",
        node("a", None, "prompter", "Hi"),
        node("c", "a", "assistant", "Hm", 1),
        node("b", "a", "assistant", "Ho", 0),
        node("d", "b", "prompter", "Go"),
        node("e", "d", "assistant", "No"),
        node("f", "b", "prompter", "unanswered"),
        node("r", None, "prompter", "alone"),
        node("x", "nowhere", "assistant", "lost"),
    )
    found = list(scan(path))
    talks = [c for c in found if isinstance(c, Conversation)]
    assert [c.messages for c in talks] == [say("Hi", "Ho", "Go", "No"), say("Hi", "Hm")]
    assert [c.line for c in talks] == [5, 2]
    one, other = sorted(str(c) for c in found if isinstance(c, RowError))
    assert "line 7: nobody answers it" in one and "line 8: its parent 'nowhere'" in other


def test_a_question_after_a_question_is_a_fault(tmp_path):
    tree = [node("a", None, "prompter", "Hi"), node("b", "a", "prompter", "Hello again")]
    found = [str(row).split(": ", 1)[1] for row in scan(write(tmp_path, "x.jsonl", *tree))]
    assert found == ["nobody answers it; add a reply, or remove the message"]


def test_a_tree_with_faults_names_each_of_them(tmp_path):
    path = write(
        tmp_path,
        "x.jsonl",
        node("a", None, "prompter", "Hi"),
        node("a", None, "prompter", "again"),
        node("b", "a", "robot", "Ho"),
        node("c", "a", "assistant", " "),
        node(5, "a", "assistant", "Ho"),
        node("y", "z", "assistant", "1"),
        node("z", "y", "prompter", "2"),
        node("g", "a", "prompter", "Hi"),
        node("h", "g", "assistant", "Ho"),
    )
    text = "\n".join(map(str, scan(path)))
    for named in (
        "line 2: message_id 'a' stands in line 1",
        "line 3: unknown role 'robot'",
        "line 4: empty text",
        'line 5: "message_id" and "parent_id" must be text',
        "line 6: no root leads to it",
        "line 7: no root leads to it",
        "line 9, turn 2: role 'user', expected 'assistant'",
    ):
        assert named in text


def test_a_very_deep_tree_is_refused_in_time(tmp_path):
    """A copy of each path to its end would take minutes."""
    roles = ["prompter", "assistant"]
    chain = [node(str(i), str(i - 1) if i else None, roles[i % 2], "x") for i in range(50_000)]
    path = write(tmp_path, "x.jsonl", *chain)
    began = time.process_time()
    faults = [str(row) for row in scan(path) if isinstance(row, RowError)]
    assert any("more than 1,000 messages deep" in fault for fault in faults)
    assert time.process_time() - began < 10
