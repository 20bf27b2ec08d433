"""The rows of a file of JSON: an object a line, one array of them, or objects over many lines."""

import json
from collections.abc import Iterator

from pysft.errors import RowError

LONGEST_NUMBER = 400  # digits
BLANK = " \t\r\n\ufeff"  # also a byte order mark, in the middle where files were joined


def json_rows(file, path) -> Iterator[tuple[int, dict | RowError]]:
    """(line number, object or its fault) of each row. file: of bytes.

    If the first line that is not empty is whole, each line is a row. Otherwise the file is read as
    a whole: an array of rows, or rows one after the other, each over several lines."""
    lines = enumerate(file, 1)
    for number, raw in lines:
        if not raw.strip():
            continue
        if not _begins_a_longer_value(raw):
            yield number, _row(raw, f"{path}, line {number}", True)
            break
        yield from _values(raw + file.read(), number, path)
        return
    for number, raw in lines:
        if raw.strip():
            yield number, _row(raw, f"{path}, line {number}", False)


def _begins_a_longer_value(raw: bytes) -> bool:
    """True if a first line begins an array, or an object that goes on in the next line."""
    line = raw.strip()
    return line.startswith(b"[") or (line.startswith(b"{") and line.endswith((b"{", b"[", b",")))


def _row(raw: bytes, where: str, is_first: bool) -> dict | RowError:
    """The object in a line, or the line's fault."""
    try:
        return _object_in(_DECODER.decode(raw.decode("utf-8").strip(BLANK)), where)
    except UnicodeDecodeError as error:
        return _not_text(error, where)
    except (ValueError, RecursionError) as error:
        remedy = "write one object a line, or remove the line"
        if is_first:
            remedy += " (a table of two columns is read when its name ends with .csv)"
        return _not_json(error, where, remedy)


def _values(raw: bytes, first: int, path) -> Iterator[tuple[int, dict | RowError]]:
    """(line number, object or its fault) of the values in a text that begins in line `first`: those
    of arrays, and those that stand one after the other. After a fault of JSON the next value is
    sought on a line that begins like that of the faulty one."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first + raw.count(b"\n", 0, error.start)
        yield line, _not_text(error, f"{path}, line {line}")
        return
    at, counted, line, is_open = 0, 0, first, False
    while True:
        at = _skip(text, at, BLANK)
        line, counted = line + text.count("\n", counted, at), at
        where = f"{path}, line {line}"
        if at == len(text):
            if is_open:
                yield line, _not_json("the array has no end", where, "end it with ]")
            return
        if text[at] == "[" and not is_open:
            at, is_open = at + 1, True
            continue
        if text[at] == "]" and is_open:
            at, is_open = at + 1, False
            continue
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            begins = text[text.rfind("\n", 0, at) + 1 : at]
            found = text.find(f"\n{begins}{{", at) if not begins.strip(BLANK) else -1
            remedy = "mend it, or remove it"
            if found < 0:
                remedy = "mend it: what follows cannot be read"
            place = getattr(error, "pos", at)
            if 0 <= found < place:  # the value has no end before the next begins
                place = at
            wrong = line + text.count("\n", at, place)
            yield wrong, _not_json(error, f"{path}, line {wrong}", remedy)
            if found < 0:
                return
            at = found
            continue
        yield line, _object_in(value, where)
        at = _skip(text, at, BLANK)
        if is_open and text[at : at + 1] == ",":
            at += 1


def _skip(text: str, at: int, characters: str) -> int:
    """The first place from `at` on where none of these characters stands."""
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _object_in(value, where: str) -> dict | RowError:
    """The value, if it is an object."""
    if isinstance(value, dict):
        return value
    remedy = 'write {"messages": [...]}'
    if isinstance(value, list):
        remedy = "write each object of the array on a line of its own"
    return RowError(where, f"{json_kind(value)}, expected an object", remedy, "format")


def json_kind(value) -> str:
    """What JSON calls a value: "null", "a text", "an array"."""
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _not_text(error: UnicodeDecodeError, where: str) -> RowError:
    what = f"cannot be read as UTF-8 text ({error.reason} at byte {error.start})"
    return RowError(where, what, "save the file as UTF-8", "format")


def _not_json(error, where: str, remedy: str) -> RowError:
    if isinstance(error, _Twice):
        what = f"the key {error.key!r} stands twice in one object"
        return RowError(where, what, "keep one of the two", "format")
    return RowError(where, f"not JSON ({str(error).split(': line')[0]})", remedy, "format")


class _Twice(ValueError):
    """A key that stands twice in an object."""

    def __init__(self, key: str):
        super().__init__(key)
        self.key = key


def _object(pairs: list[tuple]) -> dict:
    """An object. JSON libraries keep the last of two equal keys; here they are a fault."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for key in keys if keys.count(key) > 1))
    return found


def _whole(digits: str) -> int | str:
    """A whole number. Python refuses very long ones; they stay text."""
    return int(digits) if len(digits) <= LONGEST_NUMBER else digits


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole)
