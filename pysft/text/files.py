"""Files of data as people have them: opened, and JSON lines read one by one."""

import json
from collections.abc import Iterator
from pathlib import Path

from pysft.errors import DataError, MissingInput, RowError


def open_data(path: Path):
    """The open file, behind its byte order mark if it has one. It may be a pipe.

    MissingInput if there is none; a DataError if it cannot be read or is plainly no UTF-8 text."""
    try:
        file = open(path, "rb")
        start = file.peek(4)[:4]
    except FileNotFoundError:
        raise MissingInput(
            f"{path}: no such file; expected conversations in JSON lines, or a .csv of two columns"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    problem = None
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        problem = "UTF-16 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)"
    elif start == b"PK\x03\x04":
        problem = "a workbook or an archive, not text; save the sheet as CSV UTF-8"
    if problem:
        file.close()
        raise DataError(f"{path}: {problem}")
    if start[:3] == b"\xef\xbb\xbf":
        file.read(3)
    return file


def json_lines(file, path) -> Iterator[tuple[int, dict | RowError]]:
    """(line number, object or its fault) of each line that is not empty."""
    is_first = True
    for number, raw in enumerate(file, 1):
        if not raw.strip():
            continue
        if is_first and raw.strip() == b"[":
            raise DataError(
                f"{path}: one JSON array over many lines; write each of its objects on a line of"
                " its own"
            )
        yield number, _json_line(raw, f"{path}, line {number}", is_first)
        is_first = False


def _json_line(raw: bytes, where: str, is_first: bool) -> dict | RowError:
    """The object in a line, or the line's fault."""
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        what = f"cannot be read as UTF-8 text ({error.reason} at byte {error.start})"
        return RowError(where, what, "save the file as UTF-8", "format")
    except (ValueError, RecursionError) as error:
        what = f"not JSON ({str(error).split(': line')[0]})"
        remedy = "write one object a line, or remove the line"
        if is_first:
            remedy += " (a table of two columns is read when its name ends with .csv)"
        return RowError(where, what, remedy, "format")
    if isinstance(row, dict):
        return row
    remedy = 'write {"messages": [...]}'
    if isinstance(row, list):
        remedy = "write each object of the array on a line of its own"
    return RowError(where, f"a JSON {type(row).__name__}, expected an object", remedy, "format")
