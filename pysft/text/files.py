"""Files of data as people have them: plain or compressed, with or without a byte order mark."""

import io
import os
import re
import stat
import zlib
from pathlib import Path

from pysft.errors import DataError, MissingInput, UsageError

SHEETS = (".csv", ".tsv")
PACKED = (".gz", ".bz2", ".xz")
# How files begin that are no text, in lower case, and what is said of them.
FOREIGN = {
    b"\xff\xfe": "UTF-16 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)",
    b"pk\x03\x04": "a workbook or an archive, not text; save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old workbook, not text; save the sheet as CSV UTF-8",
    b"\x28\xb5\x2f\xfd": "packed with zstd, which cannot be read; unpack it: zstd -d FILE",
    b"par1": "a Parquet file, not text; write it as JSON lines (datasets: to_json)",
    b"arrow1": "an Arrow file, not text; write it as JSON lines (datasets: to_json)",
    b"sqlite format 3": "a database of SQLite, not text; write its rows as JSON lines",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file; get that: git lfs pull",
    b"<!doctype html": "a page of the web (HTML), not data; download the file itself",
    b"<html": "a page of the web (HTML), not data; download the file itself",
}
LOOKED_AT = 64  # bytes at the start of a file by which its kind is known


def open_data(path: Path):
    """The open file of bytes, unpacked if it is packed with gzip, bzip2 or xz, behind its byte
    order mark if it has one. It may be a pipe.

    MissingInput if there is none; a DataError if it cannot be read or is plainly no UTF-8 text."""
    refuse_name(path)
    try:
        file = open(path, "rb")
        if not file.seekable():  # a pipe, which may give a few bytes at a time
            with file:
                file = io.BufferedReader(io.BytesIO(file.read()))
        start = file.peek(LOOKED_AT)[:LOOKED_AT]
    except FileNotFoundError:
        raise MissingInput(
            f"{path}: no such file; expected conversations in JSON lines, or a .csv of two columns"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    unpack = _unpacker(start)
    if unpack:
        with file:
            file = io.BufferedReader(io.BytesIO(_unpacked(file, unpack, path)))
        start = file.peek(LOOKED_AT)[:LOOKED_AT]
    if problem := foreign(start):
        file.close()
        raise DataError(f"{path}: {problem}")
    if start.startswith(b"\xef\xbb\xbf"):
        file.read(3)
    return file


def refuse_name(path) -> None:
    """Raise an error for a name that is no path of a file: an empty one, an address of the web, or
    - for standard input."""
    name = str(path)
    if not name:
        raise UsageError("the name of a file is empty; name one (an unset variable leaves '')")
    if re.match(r"[a-z][a-z0-9+]*:/", name):
        raise MissingInput(f"{path}: an address, not a file; download it first, and name the file")
    if name == "-":
        raise MissingInput("-: no such file; standard input is called /dev/stdin")


def foreign(start: bytes) -> str:
    """What is said of a file that begins so and is no UTF-8 text; "" if it may be one."""
    for first, problem in FOREIGN.items():
        if start.lstrip().lower().startswith(first):
            return problem
    even, odd = start[::2].count(0), start[1::2].count(0)
    if max(even, odd) > len(start) // 4 and not min(even, odd):  # of ASCII, every second is zero
        return FOREIGN[b"\xff\xfe"]
    return "not text, but bytes of another kind; name a text file" if even + odd else ""


def _unpacker(start: bytes):
    """The function that unpacks a file with these first bytes; None if it is not packed."""
    if start.startswith(b"\x1f\x8b"):
        import gzip

        return gzip.decompress
    if start.startswith(b"BZh"):
        import bz2

        return bz2.decompress
    if start.startswith(b"\xfd7zXZ\x00"):
        import lzma

        return lzma.decompress
    return None


def _unpacked(file, unpack, path) -> bytes:
    """All of a packed file. A DataError if it is damaged or not complete."""
    try:
        return unpack(file.read())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = str(error)
    except Exception as error:  # lzma.LZMAError, where Python has lzma
        reason = str(error)
    raise DataError(f"{path}: cannot be unpacked ({reason}); fetch or pack it again")


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark, its lines ended by "\\n". Errors as in
    open_data()."""
    with open_data(path) as file:
        try:
            return with_line_ends(file.read().decode("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8"
            ) from None


def with_line_ends(text: str) -> str:
    """The text with "\\n" at the ends of its lines, where Windows or an old Mac wrote others."""
    if "\r" not in text:
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")


def unpacked_name(path) -> Path:
    """The path of a file without the suffix of a packed one."""
    path = Path(path)
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def suffix(path) -> str:
    """The suffix of a file's name in lower case, of a packed file that of what it holds."""
    return unpacked_name(path).suffix.lower()


def is_sheet(path) -> bool:
    """True for the name of a table."""
    return suffix(path) in SHEETS


def refuse_pipe(path, flag: str) -> None:
    """Raise a UsageError if `path` is a pipe or a device, which cannot be read twice: a training
    reads its inputs again to prove that they are the same."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # the reader explains it
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or str(path).startswith(("/dev/", "/proc/")):
        raise UsageError(
            f"{flag} {path}: a pipe or device, which --resume could not read again; write it to a"
            " file, and name that"
        )
