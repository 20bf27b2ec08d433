"""The rows of a file of JSON: an object a line, one array of them, or objects over many lines."""

import json
import re
from collections.abc import Iterator

from pysft.errors import DataError, RowError

LONGEST_NUMBER = 400  # digits
MOST_FAULTS = 1000  # of JSON, in a file that is read as a whole
BLANK = " \t\r\n\ufeff"  # also a byte order mark, in the middle where files were joined
_BETWEEN = re.compile(f"[{BLANK},]*")  # what stands between two values
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # how surrogateescape shows bytes that are no text


class Place(int):
    """The number of the line on which a row begins. If other rows begin on the same line, it prints
    as "7, row 2"."""

    row = 0

    def __format__(self, spec: str) -> str:
        return format(int(self), spec) + (f", row {self.row}" if self.row else "")


def json_rows(
    file, path, example: str = '{"messages": [...]}'
) -> Iterator[tuple[int, dict | RowError]]:
    """(line number, object or its fault) of each row. file: of bytes. example: what a message says
    that a row should be.

    If the first line that is not empty holds an object, each line is a row. Otherwise the file is
    read as a whole: an array of rows, or rows one after the other, each over several lines. A
    DataError if what follows a fault cannot be read."""
    lines, decoder = enumerate(file, 1), _Decoder(example)
    for number, raw in lines:
        if not raw.strip():
            continue
        if _begins_a_longer_value(raw):
            text = _Text((raw + file.read()).decode("utf-8", "surrogateescape"))
            yield from _values(text, number, path, decoder)
            return
        yield number, _row(raw, f"{path}, line {number}", decoder, True)
        break
    for number, raw in lines:
        if raw.strip():
            yield number, _row(raw, f"{path}, line {number}", decoder, False)


def _begins_a_longer_value(raw: bytes) -> bool:
    """True if a first line begins an array, or an object that goes on in the next line."""
    line = raw.strip(b" \t\r\n\xef\xbb\xbf")
    is_open = line.startswith(b"{") and line.endswith((b"{", b"[", b",", b":"))
    return line.startswith(b"[") or is_open


def _row(raw: bytes, where: str, decoder: "_Decoder", is_first: bool) -> dict | RowError:
    """The object in a line, or the line's fault."""
    try:
        value = decoder.decode(raw.decode("utf-8").strip(BLANK))
    except UnicodeDecodeError as error:
        what = f"cannot be read as UTF-8 text ({error.reason} at byte {error.start})"
        return RowError(where, what, "save the file as UTF-8", "format")
    except (ValueError, RecursionError) as error:
        remedy = "write one object a line, or remove the line"
        if is_first:
            remedy += " (a table of two columns is read when its name ends with .csv)"
        return _not_json(error, where, remedy)
    return _object_in(value, where, decoder)


def _values(
    text: "_Text", line: int, path, decoder: "_Decoder"
) -> Iterator[tuple[int, dict | RowError]]:
    """(line number, object or its fault) of the values in a text that begins in this line: those of
    an array, and those that stand one after the other. After a fault of JSON the next value is
    sought on a line that begins like that of the faulty one."""
    at, depth, row, faults = 0, 0, 0, 0
    while True:
        begin = _BETWEEN.match(text, at).end()
        line += str.count(text, "\n", at, begin)
        at = begin
        if at == len(text):
            if depth:
                yield line, _not_json("the array has no end", f"{path}, line {line}", "end it by ]")
            return
        if text[at] == "[" and not depth or text[at] == "]" and depth:
            at, depth = at + 1, 1 - depth
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            at, wrong = _after_fault(text, at, line, error)
            faults += 1
            fault = _not_json(error, f"{path}, line {wrong}", "mend it, or remove it")
            if at is None or faults == MOST_FAULTS:
                raise DataError(f"{fault}. What follows cannot be read") from None
            yield wrong, fault
            line += str.count(text, "\n", begin, at)
            continue
        place, row = _place(text, line, row, begin, at)
        where = f"{path}, line {place}"
        if _NOT_UTF8.search(text, begin, at):
            what = "cannot be read as UTF-8 text"
            yield place, RowError(where, what, "save the file as UTF-8", "format")
        else:
            yield place, _object_in(value, where, decoder)
        line += str.count(text, "\n", begin, at)


def _place(text: str, line: int, row: int, begin: int, end: int) -> tuple[Place, int]:
    """(the place of the value text[begin:end], its number among the values that begin on its line).
    row: the number of the value before, 0 if that is alone on its line."""
    follows = _BETWEEN.match(text, end).end()
    is_last = follows == len(text) or text[follows] == "]"
    shares = not is_last and str.find(text, "\n", begin, follows) < 0
    place = Place(line)
    place.row = row + 1 if row or shares else 0
    return place, place.row if shares else 0


def _after_fault(text: str, at: int, line: int, error) -> tuple[int | None, int]:
    """(where the value after a faulty one begins, the line to name). The first is the end of the
    text if nothing follows, None if it cannot be found."""
    begins = text[str.rfind(text, "\n", 0, at) + 1 : at]
    found = str.find(text, f"\n{begins}{{", at) if not begins.strip(BLANK) else -1
    place = getattr(error, "pos", at)
    if 0 <= found < place:  # the value has no end before the next begins
        place = at
    wrong = line + str.count(text, "\n", at, place)
    if found < 0:
        found = len(text) if str.find(text, "{", place + 1) < 0 else None
    return found, wrong


def _object_in(value, where: str, decoder: "_Decoder") -> dict | RowError:
    """The value, if it is an object in which no key stands twice."""
    if decoder.twice:
        what = f"the key {decoder.twice[0]!r} stands twice in one object"
        decoder.twice.clear()
        return RowError(where, what, "keep one of the two", "format")
    if isinstance(value, dict):
        return value
    remedy = f"write {decoder.example}"
    if isinstance(value, list):
        remedy = "write each object of the array on a line of its own"
    return RowError(where, f"{json_kind(value)}, expected an object", remedy, "format")


def json_kind(value) -> str:
    """What JSON calls a value: "null", "a text", "an array"."""
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _not_json(error, where: str, remedy: str) -> RowError:
    reason = str(error).split(": line")[0].removesuffix(" at").removesuffix(" starting")
    return RowError(where, f"not JSON ({reason})", remedy, "format")


class _Text(str):
    """A text in which json finds no line numbers. It would count them anew for each fault, from the
    start of the text."""

    def count(self, *_):
        return 0

    def rfind(self, *_):
        return -1


class _Decoder(json.JSONDecoder):
    """Decodes JSON, and notes each key that stands twice in an object (`twice`), of which json
    keeps the last. Whole numbers that are too long for Python stay text. example: as json_rows()
    takes it."""

    def __init__(self, example: str):
        super().__init__(object_pairs_hook=self._object, parse_int=_whole)
        self.example, self.twice = example, []

    def _object(self, pairs: list[tuple]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen = set()
            self.twice += [key for key, _ in pairs if key in seen or seen.add(key)][:1]
        return found


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) <= LONGEST_NUMBER else digits
