"""Rows of a pipeline of data: what is kept of a user's file, and which faults may be dropped."""

import json
from collections import Counter

import pytest

from pysft.errors import DataError
from pysft.text.curated import Curated, left_out_words, read_curated, write_curated
from pysft.text.formats import read_conversations
from pysft.text.keys import Reading
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


def test_marks_stay_where_train_looks_for_them(tmp_path):
    marks = [{"lang": "en", "synthetic": True}, {"language": "de"}, {"review_result": True}]
    rows = [row_of("Hi", f"Ho {i}.", **some) for i, some in enumerate(marks)]
    write_curated(tmp_path / "out.jsonl", read_curated(file_of(tmp_path, *rows), CHATML))
    again = [row.after("judge") for row in read_curated(tmp_path / "out.jsonl", CHATML)]
    assert [row.marks for row in again] == marks and not any(row.metadata for row in again)
    write_curated(tmp_path / "again.jsonl", again)
    for reading, count in ((Reading(synthetic=False), 2), (Reading(lang="de"), 2), (Reading(), 3)):
        assert len(read_conversations(tmp_path / "again.jsonl", CHATML, reading)) == count


def test_what_a_mark_leaves_out_is_counted(tmp_path):
    left_out, gone = Counter(), row_of("Hi", "Ho.", deleted=True)
    failed = row_of("Hi", "Ho.", review_result=False)
    path = file_of(tmp_path, gone, row_of("Hi", "Ho."), failed, gone)
    assert len(read_curated(path, CHATML, left_out=left_out)) == 1
    assert left_out == {"deleted": 2, "that failed the review": 1}
    assert left_out_words(left_out) == "left out: 2 deleted, 1 that failed the review"
    with pytest.raises(DataError, match=r"no conversation in it \(left out: 1 deleted\)"):
        read_curated(file_of(tmp_path, gone), CHATML)


def test_a_reply_is_the_answer_without_thoughts_calls_and_results():
    kinds = ("thought", "calculator", "result", "text", "text")
    parts = [{"type": kind, "text": kind[0].upper()} for kind in kinds]
    row = Curated([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": parts}])
    assert row.reply == "TT"


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


@pytest.mark.parametrize(
    "row, said",
    [
        (row_of("Hi", "Ho.", foo=1, bar=2), 'write it into "messages", or take it out'),
        (row_of("Hi", "Ho.", foo=1), "or take it out"),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_no_remedy_is_named_that_the_steps_do_not_have(tmp_path, row, said, count):
    with pytest.raises(DataError) as caught:
        read_curated(file_of(tmp_path, *[row] * count), CHATML)
    assert said in str(caught.value) and "--ignore" not in str(caught.value)
    assert ("(and 1 more" in str(caught.value)) == (count == 2)
    row = row_of("Hi", "Ho.")
    row["messages"][1]["weight"] = 7
    with pytest.raises(DataError) as caught:
        read_curated(file_of(tmp_path, row), CHATML)
    assert str(caught.value).endswith("it is true or false, or 1 or 0")
