"""Spreadsheets: .csv and .tsv files of two columns, what is asked and what is answered, or of three
for preferences: what is asked, the chosen reply and the rejected one."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pysft.errors import DataError, RowError
from pysft.text.files import is_sheet, open_data, suffix, with_line_ends

# Names of the two columns, and of the two keys of a row of JSON: what is asked, what is answered.
ASKED = ("prompt", "question", "user", "human", "instruction", "input", "request", "q", "frage")
ANSWERED = (
    *("completion", "answer", "assistant", "response", "output", "reply", "bot", "a", "antwort"),
)
SIDES = ("chosen", "rejected")  # of the two replies of a preference
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}  # of the delimiters


@dataclass(frozen=True)
class Sheet:
    """What a .csv or .tsv file was taken for. header: the names of the columns, if the first row
    has them. rows: (line, cells or their fault) of each row that is not empty."""

    delimiter: str
    header: tuple[str, ...] | None
    rows: list

    @property
    def half_header(self) -> tuple[str, str] | None:
        """The first row, if it is taken for data and just one of its cells is a column's name."""
        cells = self.rows[0][1] if self.rows and self.header is None else None
        if not isinstance(cells, list) or len(cells) != 2:
            return None
        known = [cell.lower() in ASKED + ANSWERED for cell in cells]
        return tuple(cells) if sum(known) == 1 else None

    def __str__(self):
        header = "no header: the first row is data too"
        if self.header:
            *names, last = map(repr, self.header)
            header = f"the first row, {', '.join(names)} and {last}, is a header"
        return f"columns separated by {NAMES[self.delimiter]}; {header}"


def read_sheet(path, file=None) -> Sheet:
    """Read a table of two columns. The first is what is asked, the second what is answered, unless
    a header names them the other way round. A table of three columns, for preferences, must have a
    header: nothing else says which reply is the better one. The columns are then put in the order
    asked, chosen, rejected. Blanks around cells, empty cells at the end of a row and empty rows are
    left out.

    The delimiter is a comma, semicolon or tab, or in a .tsv file a tab. It is the one in a first
    line "sep=;"; else the one under which there is a header; else the only one that stands in every
    row; else the one that splits most rows in two. A DataError if that leaves a doubt."""
    path = Path(path)
    found = _by_delimiter(path, file)
    delimiter = _best(found, path)
    rows, header = found[delimiter], _header(found[delimiter])
    if header:
        order = sorted(range(len(header)), key=lambda i: _column(header[i]))
        rows = [(line, _ordered(cells, order)) for line, cells in rows[1:]]
    return Sheet(delimiter, header, rows)


def _by_delimiter(path: Path, file=None) -> dict[str, list]:
    """{delimiter: (line, cells or their fault) of each row}, of each that the file may have."""
    with file or open_data(path) as opened:
        text = with_line_ends(opened.read().decode("utf-8", "surrogateescape"))
    delimiters, start = "\t" if suffix(path) == ".tsv" else "".join(NAMES), 1
    if declared := re.match(r"sep=([,;\t])\n", text, re.IGNORECASE):
        delimiters, text, start = declared[1], text[declared.end() :], 2
    return {d: list(_cells(text, d, path, start)) for d in delimiters}


def read_columns(path) -> list[tuple[int, list[str] | RowError]]:
    """(line, cells or their fault) of each row of a table of any number of columns. Blanks around
    cells, empty cells at the end of a row and empty rows are left out. The delimiter is declared,
    or the one that splits the first row into the most cells."""
    found = _by_delimiter(Path(path))

    def columns(rows):
        return len(rows[0][1]) if rows and isinstance(rows[0][1], list) else 0

    return max(found.values(), key=columns)


def sheets_of(paths: list[str]) -> dict[str, Sheet]:
    """The tables among some files. A pipe, which can be read only once, is not read again."""
    return {path: read_sheet(path) for path in paths if is_sheet(path) and Path(path).is_file()}


def _column(name: str) -> int:
    """The place of a column of this name among those of a table."""
    return [*SIDES, *ANSWERED].index(name.lower()) + 1 if name.lower() not in ASKED else 0


def _ordered(cells, order: list[int]):
    """The cells of a row in an order; unchanged if it has another number of them, or is a fault."""
    is_whole = isinstance(cells, list) and len(cells) == len(order)
    return [cells[i] for i in order] if is_whole else cells


def _best(found: dict[str, list], path) -> str:
    """The delimiter to take, of {delimiter: the rows it gives}."""

    def count(d, least, most):
        return sum(least <= len(cells) <= most for _, cells in found[d] if isinstance(cells, list))

    named = [d for d in found if _header(found[d])]
    everywhere = [d for d in found if found[d] and count(d, 2, 1 << 30) == len(found[d])]
    likely = named or everywhere or sorted(found, key=lambda d: -count(d, 2, 2))
    if len(likely) > 1:
        best, second = likely[:2]
        close = count(second, 2, 2) > 0.8 * count(best, 2, 2) > 0
        if named or everywhere or close:
            raise DataError(
                f"{path}: {best!r} and {second!r} both split its rows into columns; put cells that"
                ' hold one of them into "...", give it a header like question,answer, or save the'
                " sheet as .tsv"
            )
    return likely[0]


def _header(rows: list) -> tuple[str, ...] | None:
    """The names of the columns, if the first row has them."""
    cells = rows[0][1] if rows else None
    if not isinstance(cells, list):
        return None
    names = [cell.lower() for cell in cells]
    asked = [name for name in names if name in ASKED]
    others = [name for name in names if name not in ASKED]
    is_pair = len(others) == 1 and others[0] in ANSWERED
    is_header = len(asked) == 1 and (is_pair or sorted(others) == list(SIDES))
    return tuple(cells) if is_header else None


def _cells(text: str, delimiter: str, path, start: int) -> Iterator[tuple[int, list | RowError]]:
    """(line number, cells or their fault) of each row that is not empty. start: the number of the
    text's first line."""
    file = io.StringIO(text, newline="")
    reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
    line = start
    while True:
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            remedy = 'put a cell that holds quotes or line breaks into "...", and write a quote in'
            remedy += ' it as ""'
            if "field limit" in str(error):
                remedy = "shorten it: no context holds so much"
            yield line, RowError(f"{path}, line {line}", f"not CSV ({error})", remedy, "format")
            if reader.line_num + start - 1 < line:  # nothing was read, so this would not end
                return
        else:
            if any(cells):
                while len(cells) > 2 and not cells[-1]:
                    cells.pop()
                yield line, cells
        line = reader.line_num + start


def sheet_rows(file, path) -> Iterator[tuple[int, dict | RowError]]:
    """(line number, {"prompt", "completion"} or {"prompt", "chosen", "rejected"} or its fault) of
    each row of a table."""
    sheet = read_sheet(path, file)
    is_preferences = len(sheet.header or ()) == 3
    keys = ("prompt", *(SIDES if is_preferences else ("completion",)))
    for line, cells in sheet.rows:
        where = f"{path}, line {line}"
        if isinstance(cells, RowError):
            yield line, cells
        elif sheet.header and sorted(cells) == sorted(sheet.header):
            holds = "two replies to it" if is_preferences else "its answer"
            remedy = f"remove the line: each row is a question and {holds}"
            yield line, RowError(where, "the header once more", remedy, "format")
        elif len(cells) != len(keys):
            remedy = "there must be two: what is asked, what is answered"
            if is_preferences:
                remedy = "there must be three: the prompt, the chosen reply, the rejected reply"
            elif len(cells) == 3:
                remedy += ' (preferences need a header: "prompt,chosen,rejected")'
            columns = f"{len(cells)} column{'s' * (len(cells) != 1)}"
            yield line, RowError(where, columns, remedy, "format")
        elif any("\udc80" <= c <= "\udcff" for cell in cells for c in cell):
            remedy = "save the file as UTF-8 (in a spreadsheet: CSV UTF-8)"
            yield line, RowError(where, "cannot be read as UTF-8 text", remedy, "format")
        else:
            yield line, dict(zip(keys, cells))
