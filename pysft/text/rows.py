"""The rows of a file, of a table or of JSON. Those that make message trees are collected."""

from collections.abc import Iterator
from pathlib import Path

from pysft.errors import RowError
from pysft.text.conversation import LeftOut
from pysft.text.files import is_sheet, open_data
from pysft.text.json_rows import json_rows
from pysft.text.keys import Reading
from pysft.text.spreadsheet import sheet_rows
from pysft.text.trees import KEYS as TREE
from pysft.text.trees import REPLIES, Trees

SHOWN = 8  # keys of a row of an unknown format that a message names


def all_rows(
    path: Path, example: str = '{"messages": [...]}'
) -> Iterator[tuple[int, dict | RowError]]:
    """(line number, row or its fault) of each row of a file. example: what a message says that a
    row should be. Raises MissingInput or a DataError if the file as a whole cannot be read."""
    with open_data(path) as file:
        yield from sheet_rows(file, path) if is_sheet(path) else json_rows(file, path, example)


def rows_beside_trees(
    path: Path, trees: Trees, reading: Reading, **options
) -> Iterator[tuple[int, dict] | RowError | LeftOut]:
    """(line number, row) of each row that is no message of a tree. Messages and whole trees are
    added to `trees`. Faulty rows, and those that `reading` leaves out, come in their places.
    options: those of all_rows()."""
    for line, row in all_rows(path, **options):
        try:
            if isinstance(row, RowError):
                raise row
            if all(key in row for key in TREE):
                trees.add(row, line)
            elif isinstance(row.get("prompt"), dict) and REPLIES in row["prompt"]:
                trees.add_tree(row, line)
            elif why := reading.left_out(row, f"{path}, line {line}"):
                yield LeftOut(why)
            else:
                yield line, row
        except RowError as error:
            yield error


def unknown_format(row: dict, where: str, lacks: str, formats) -> RowError:
    """The fault of a row that is of none of these formats, each a tuple of keys."""
    names = list(map(repr, row))
    shown = ", ".join(names[:SHOWN]) + " and others" * (len(names) > SHOWN)
    known = "; ".join(", ".join(f'"{key}"' for key in keys) for keys in formats)
    what = f"no {lacks} in it, only {shown or 'an empty object'}"
    return RowError(where, what, f"a row has one of these sets of keys: {known}", "format")
