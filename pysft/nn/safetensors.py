"""The safetensors format: a JSON table of names, types, shapes and offsets, then the data.

https://huggingface.co/docs/safetensors describes it. This reader is stricter than the format: every
byte of the data must belong to exactly one tensor. It compares every size with that of the file
before it allocates memory for it. Nothing in such a file can run code."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pysft import disk
from pysft.errors import DataError, MissingInput

DTYPES = {"F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64}
NAMES = {np.dtype(t): name for name, t in DTYPES.items()}
METADATA = "__metadata__"
HEADER_LIMIT = 16 << 20  # bytes


# ----------------------------------------------------------------------------------- writing


def save(path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write tensors of the types in DTYPES to a file, with checksums of each and of the metadata.

    A crash leaves the old file or the new one (pysft/disk.py)."""
    arrays = {name: np.asarray(a, order="C") for name, a in tensors.items()}
    metadata = metadata or {}
    sums = {name: _sha256(a.data) for name, a in arrays.items()}
    sums[METADATA] = _sha256(_metadata_bytes(metadata))
    table, offset = {METADATA: {**metadata, "sha256": json.dumps(sums)}}, 0
    for name, a in arrays.items():
        table[name] = {
            "dtype": NAMES[a.dtype],
            "shape": list(a.shape),
            "data_offsets": [offset, offset + a.nbytes],
        }
        offset += a.nbytes
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    start = len(header).to_bytes(8, "little") + header
    disk.replace(Path(path), [start, *(a.data for a in arrays.values())])


def _sha256(data) -> str:
    return hashlib.sha256(data).hexdigest()


def _metadata_bytes(metadata: dict[str, str]) -> bytes:
    """Return the bytes whose checksum is the checksum of the metadata."""
    return json.dumps(metadata, sort_keys=True).encode()


# ----------------------------------------------------------------------------------- reading


def load(path, summed: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (tensors, metadata) of a file. The arrays are read-only.

    Every checksum in the file is compared. summed: there must be one for each tensor and one for
    the metadata. MissingInput if there is no file, DataError if it cannot be read or is damaged."""
    metadata, spans, data = _opened(path, _read)
    sums = _pop_sums(path, metadata)
    pieces = {METADATA: _metadata_bytes(metadata)}
    pieces |= {name: data[first:last] for (first, last, _, _), name in spans}
    for name, piece in pieces.items():
        if name not in sums and summed:
            raise DataError(
                f"{path}: no checksum of {name!r}; the file is damaged, or another program wrote it"
            )
        if name in sums and _sha256(piece) != sums[name]:
            raise DataError(f"{path}: the checksum of {name!r} does not match; the file is damaged")
    tensors = {
        name: np.frombuffer(pieces[name], DTYPES[dtype]).reshape(shape)
        for (_, _, dtype, shape), name in spans
    }
    return tensors, metadata


def load_metadata(path) -> dict[str, str]:
    """Return the metadata of a file, without reading its tensors. Errors as in load(), but nothing
    is compared with a checksum."""
    return _opened(path, _header)[0]


def _opened(path, read: Callable):
    """Return read(path, open file, its size). MissingInput if there is no file, DataError if it
    cannot be read."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as f:
            return read(path, f, size)
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _read(path, f, size: int):
    """Return (metadata, spans, data) of an open file of `size` bytes. spans is a list of ((first,
    last, dtype name, shape), tensor name) by rising offset; data are the bytes after the header."""
    metadata, spans, end = _header(path, f, size)
    data = f.read(end)
    if len(data) != end:
        raise DataError(f"{path}: cut short while it was read")
    return metadata, spans, memoryview(data)


def _header(path, f, size: int):
    """Return (metadata, spans, bytes of data) of an open file, as _read() does. f then stands at
    the data."""
    start = f.read(8)
    length = int.from_bytes(start, "little")
    if start == b"version ":
        raise DataError(
            f"{path}: a pointer of Git LFS in place of the file; get that: git lfs pull"
        )
    if len(start) < 8 or length > min(HEADER_LIMIT, size - 8):
        raise DataError(
            f"{path}: not a safetensors file, or cut short ({size} bytes; its "
            f"header would take {length + 8})"
        )
    table = _table(path, f.read(length))
    metadata = table.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise DataError(f"{path}: its metadata is not a table of texts")
    spans = sorted((_entry(path, name, entry), name) for name, entry in table.items())
    end = 0
    for (first, last, _, _), name in spans:
        if first != end:
            raise DataError(
                f"{path}: tensor {name!r} starts at byte {first} of the data, "
                f"expected {end} (a hole or an overlap)"
            )
        end = last
    if 8 + length + end != size:
        raise DataError(
            f"{path}: {size} bytes, but its tensors end at {8 + length + end}; the "
            "file was cut short or has grown"
        )
    return metadata, spans, end


def _table(path, header: bytes) -> dict:
    """Return the header's table: an entry for each tensor, and the metadata."""
    try:
        table = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its header is not JSON ({error})") from None
    if not isinstance(table, dict):
        raise DataError(f"{path}: its header is not a table of tensors")
    return table


def _unique(pairs):
    """Return a dict of the pairs. A ValueError if a name occurs twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entry(path, name, entry):
    """Return (first, last, dtype name, shape) of one tensor, checked. first and last are its
    data_offsets."""

    def is_size(x):
        return isinstance(x, int) and not isinstance(x, bool) and x >= 0

    is_valid = (
        isinstance(entry, dict)
        and isinstance(entry.get("dtype"), str)
        and entry["dtype"] in DTYPES
        and isinstance(entry.get("shape"), list)
        and len(entry["shape"]) <= 8
        and all(map(is_size, entry["shape"]))
        # The shape [0, 2**40, 2**40] has no elements, but NumPy cannot make such an array.
        and math.prod(n or 1 for n in entry["shape"]) < 1 << 48
        and isinstance(entry.get("data_offsets"), list)
        and len(entry["data_offsets"]) == 2
        and all(map(is_size, entry["data_offsets"]))
    )
    if not is_valid:
        raise DataError(
            f"{path}: tensor {name!r} is not described by dtype ({', '.join(DTYPES)}), "
            "shape and data_offsets"
        )
    first, last = entry["data_offsets"]
    if last - first != math.prod(entry["shape"]) * np.dtype(DTYPES[entry["dtype"]]).itemsize:
        raise DataError(
            f"{path}: tensor {name!r} has shape {entry['shape']} of {entry['dtype']}, but "
            f"{last - first} bytes"
        )
    return first, last, entry["dtype"], tuple(entry["shape"])


def _pop_sums(path, metadata) -> dict[str, str]:
    """Remove the checksums from the metadata and return them by name. The file of another program
    has none."""
    try:
        sums = json.loads(metadata.pop("sha256", "{}"))
    except (ValueError, RecursionError):
        sums = None
    if not isinstance(sums, dict):
        raise DataError(f"{path}: its checksums are not a table; the file is damaged")
    return sums


# ---------------------------------------------------------------------------------- checking


def check_tensors(
    path,
    tensors: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
    dtype=np.float32,
    *,
    prefix: str = "",
    source: str = "settings.json",
    remedy: str = "",
) -> None:
    """Raise a DataError unless the tensors of a file are exactly those of `shapes`: all of them,
    no other, of the right shape and dtype, and finite.

    prefix: comes before each name of `shapes` in the file; tensors with other names are not
    checked. For the error: source says where the shapes were taken from, and remedy is its end."""
    own = {name: a for name, a in tensors.items() if name.startswith(prefix)}
    for name in {prefix + name: None for name in shapes} | own:
        a, shape = own.get(name), shapes.get(name.removeprefix(prefix))
        if a is None:
            wrong = "is missing"
        elif shape is None:
            wrong = f"is not among those that {source} describes"
        elif a.shape != tuple(shape) or a.dtype != dtype:
            wrong = f"is {a.dtype} {a.shape}, expected {np.dtype(dtype)} {shape} by {source}"
        elif not np.isfinite(a).all():
            wrong = "holds numbers that are not finite"
        else:
            continue
        raise DataError(f"{path}: tensor {name!r} {wrong}{remedy}")
