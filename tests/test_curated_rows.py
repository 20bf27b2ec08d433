"""Rows of a pipeline of data: what is kept of a user's file, and which faults may be dropped."""

import json

import pytest

from pysft.errors import DataError
from pysft.text.curated import read_curated, write_curated
from pysft.text.formats import read_conversations
from pysft.text.templates import CHATML


def row_of(*texts, **more):
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts)], **more}


def file_of(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_other_keys_and_earlier_steps_are_kept(tmp_path):
    steps = [{"step": "expand", "by": "teacher"}]
    path = file_of(
        tmp_path,
        row_of("Hi", "Ho.", category="greeting", metadata={"steps": steps, "source": "me"}),
        row_of("Hi", "Ha.", metadata="mine", notes=None),
    )
    first, second = read_curated(path, CHATML)
    assert first.metadata == {"category": "greeting", "source": "me"}
    assert [*first.steps] == steps and second.metadata == {"metadata": "mine"}
    write_curated(tmp_path / "out.jsonl", [first.after("judge", by="x"), second])
    again, other = read_curated(tmp_path / "out.jsonl", CHATML)
    assert again.metadata == first.metadata and other.metadata == second.metadata
    assert [*again.steps] == [*steps, {"step": "judge", "by": "x"}]


@pytest.mark.parametrize("flag", ["train", "weight"])
def test_a_flag_is_still_one_in_the_written_file(tmp_path, flag):
    row = row_of("Hi", "Ho.", "And?", "No.")
    row["messages"][1][flag] = 0
    write_curated(tmp_path / "out.jsonl", read_curated(file_of(tmp_path, row), CHATML))
    [read] = read_conversations(tmp_path / "out.jsonl")
    assert [m.get("train") for m in read.messages] == [None, False, None, None]


def test_spoiled_rows_are_faults_unless_a_list_takes_them(tmp_path):
    path = file_of(
        tmp_path, row_of("Hi", "Ho."), row_of("Hi", " "), row_of("Hi"), row_of("\ud800", "Ho.")
    )
    with pytest.raises(DataError, match="line 2, turn 2: empty reply.*and 2 more"):
        read_curated(path, CHATML)
    spoiled = []
    assert len(read_curated(path, CHATML, spoiled)) == 1
    assert [(fault.kind, fault.line) for fault in spoiled] == [
        ("empty", 2), ("missing end", 3), ("characters", 4),
    ]  # fmt: skip
    spoiled.clear()
    assert read_curated(file_of(tmp_path, row_of("Hi", "")), CHATML, spoiled) == []


def test_a_row_that_is_read_wrongly_is_a_fault_all_the_same(tmp_path):
    path = file_of(tmp_path, row_of("Hi", "Ho."), {"question": "Hi", "chosen": "Ho"})
    with pytest.raises(DataError, match="line 2"):
        read_curated(path, CHATML, [])
