"""Spreadsheets: tables of two columns, as people and programs write them."""

import pytest
from texts import say, write

from pysft.errors import DataError, RowError
from pysft.text.conversation import Conversation
from pysft.text.formats import read_conversations, scan
from pysft.text.spreadsheet import read_sheet


@pytest.mark.parametrize(
    "name, text",
    [
        ("x.csv", "Hi,Ho\nGo,No\n"),
        ("x.csv", "prompt,completion\nHi,Ho\nGo,No\n"),
        ("x.csv", "Question;Answer\nHi;Ho\nGo;No\n"),
        ("x.tsv", "Hi\tHo\nGo\tNo\n"),
        ("x.csv", "\ufeffuser,assistant\r\nHi,Ho\r\n\r\nGo,No\r\n"),
        ("x.csv", '"Hi","Ho"\n"Go",No'),
    ],
)
def test_a_spreadsheet_of_two_columns_is_read_with_or_without_a_header(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert [c.messages for c in read_conversations(path)] == [say("Hi", "Ho"), say("Go", "No")]


@pytest.mark.parametrize(
    "name, header",
    [
        ("Frage;Antwort\n", True),
        ("Q;A\n", True),
        ("\nquestion;reply\n", True),
        ("Wer;Was\n", False),
    ],
)
def test_a_header_is_known_by_both_its_names_and_reported(tmp_path, name, header):
    path = write(tmp_path, "x.csv", name + "Hi;Ho.\nGo;No, not now")
    found = [c.messages for c in read_conversations(path)]
    assert found[-2:] == [say("Hi", "Ho."), say("Go", "No, not now")]
    assert len(found) == (2 if header else 3)
    text = str(read_sheet(path))
    assert "semicolons" in text and ("is a header" in text) is header


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Answer,Question\nHo.,Hi\n", [("Hi", "Ho.")]),  # the other way round
        # The line that tells Excel how to split.
        ("sep=;\r\nFrage;Antwort\r\nHi;Ho, you.\r\n", [("Hi", "Ho, you.")]),
        # A header decides.
        (
            "question,answer\nWhere, Tom?,x\nWho?,At home; asleep.\n",
            [("Who?", "At home; asleep.")],
        ),
        # An empty last column.
        ("Hi;Ho;\r\nGo;No;\r\n", [("Hi", "Ho"), ("Go", "No")]),
    ],
)
def test_a_table_is_read_as_spreadsheets_write_it(tmp_path, text, expected):
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode())
    found = [c.messages for c in scan(path) if isinstance(c, Conversation)]
    assert found == [say(*e) for e in expected]


@pytest.mark.parametrize(
    "text", ["Wer ist da?;Ja, ich.;\n", "Wer da?;Ich, Tom; sonst keiner.\nWer?;Du, ich.\n"]
)
def test_a_table_that_could_be_read_two_ways_is_refused(tmp_path, text):
    with pytest.raises(DataError, match="both split its rows"):
        read_conversations(write(tmp_path, "x.csv", text))


def test_a_third_column_is_a_fault(tmp_path):
    assert "3 columns" in str(next(scan(write(tmp_path, "x.csv", "a;b;c", "d;e;f"))))


def test_a_table_that_two_delimiters_split_is_refused_unless_a_header_decides(tmp_path):
    path = write(
        tmp_path,
        "x.csv",
        "Who keeps it?;Old Tom, and he sleeps",
        "What is it?;Bread, and cheese",
        "Who is he?;A king, I think",
    )
    with pytest.raises(DataError, match="',' and ';' both split its rows"):
        read_conversations(path)
    path.write_text("question;answer\n" + path.read_text())
    assert read_conversations(path)[2].messages == say("Who is he?", "A king, I think")


@pytest.mark.parametrize("commas, is_read", [(0, True), (8, True), (9, False), (10, False)])
def test_a_second_delimiter_is_a_doubt_if_it_splits_more_than_four_fifths_as_many_rows(
    tmp_path, commas, is_read
):
    rows = [f"Who is {i}{', Tom' * (i < commas)}?;A king." for i in range(10)]
    path = write(tmp_path, "x.csv", "no delimiter", *rows)
    if is_read:
        sheet = read_sheet(path)
        assert (sheet.delimiter, sheet.header, len(sheet.rows)) == (";", None, 11)
    else:
        with pytest.raises(DataError, match="both split its rows"):
            read_sheet(path)


@pytest.mark.parametrize(
    "first, half",
    [
        ("Question,Wer", ("Question", "Wer")),
        ("Wer,Reply", ("Wer", "Reply")),
        ("question,prompt", None),
        ("question,answer", None),
        ("wer,was", None),
        ("question,wer,was", None),
        ("question", None),
        ('"question', None),
    ],
)
def test_a_first_row_with_one_name_of_a_column_may_be_a_header(tmp_path, first, half):
    sheet = read_sheet(write(tmp_path, "x.csv", first, "Hi,Ho", "Go,No"))
    assert sheet.half_header == half
    assert (sheet.header is not None) == (first == "question,answer")


def test_the_rows_of_a_table_keep_their_lines_behind_what_is_no_row(tmp_path):
    for before, first in (((), 1), (("sep=;",), 2), (("sep=;", "", "", "q;a"), 5)):
        path = write(tmp_path, "x.csv", *before, "Hi;Ho", "", "Go;No;;", 'x;y"z"', "a;b;c")
        sheet = read_sheet(path)
        lines = [line for line, _ in sheet.rows]
        assert lines == [first, first + 2, first + 3, first + 4]
        assert sheet.rows[1][1] == ["Go", "No"] and len(sheet.rows[3][1]) == 3
        faults = [str(row) for row in scan(path) if isinstance(row, RowError)]
        assert [f.partition(": ")[0] for f in faults] == [f"{path}, line {first + 4}"]


def test_the_header_once_more_is_a_fault_in_either_order(tmp_path):
    path = write(
        tmp_path, "x.csv", "question,answer", "Hi,Ho", "question,answer", "answer,question"
    )
    found = list(scan(path))
    assert [str(row).partition(", ")[2] for row in found[1:]] == [
        f"line {n}: the header once more; remove the line: each row is a question and its answer"
        for n in (3, 4)
    ]


def test_blanks_around_a_cell_and_empty_rows_are_left_out(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'Hi , Ho there. \r\n"Go", "No,\r\nnot now"\r\n , \r\n')
    expected = [say("Hi", "Ho there."), say("Go", "No,\nnot now")]
    assert [c.messages for c in read_conversations(path)] == expected


def test_a_cell_that_is_too_long_for_csv_is_a_fault_in_any_line(tmp_path):
    for lines in (['Hi,"' + "x" * 200_000 + '"', "Go,No"], ["Go,No", 'Hi,"' + "x" * 200_000 + '"']):
        found = list(scan(write(tmp_path, "x.csv", *lines)))
        (fault,) = (row for row in found if isinstance(row, RowError))
        assert len(found) == 2 and "no context holds so much" in str(fault)


def test_a_cell_may_hold_commas_quotes_and_lines_and_rows_keep_their_line(tmp_path):
    path = write(
        tmp_path, "x.csv", '"Hi, you","Say ""ho""', 'twice"', "Go,No", "only one", "Up,Down"
    )
    found = list(scan(path))
    assert [(c.line, c.messages) for c in found if isinstance(c, Conversation)] == [
        (1, say("Hi, you", 'Say "ho"\ntwice')),
        (3, say("Go", "No")),
        (5, say("Up", "Down")),
    ]
    assert "line 4: 1 column; there must be two" in str(found[2])
