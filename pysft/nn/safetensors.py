"""The safetensors format: a JSON table of names, types, shapes and offsets, then the bytes.

https://huggingface.co/docs/safetensors describes it. This reader is stricter than the format's own:
every byte of the file must belong to exactly one tensor, and every size is checked against the
file's before anything is allocated. Nothing in such a file can run code."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np

from pysft import disk
from pysft.errors import DataError, MissingInput

DTYPES = {"F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64}
NAMES = {np.dtype(t): name for name, t in DTYPES.items()}
METADATA = "__metadata__"
HEADER_LIMIT = 16 << 20  # bytes


def save(path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write tensors to path, with a checksum of each and of the metadata; a crash leaves the old
    file or the new one (pysft/disk.py)."""
    arrays, metadata = (
        {name: np.asarray(a, order="C") for name, a in tensors.items()},
        metadata or {},
    )
    sums = {name: _sha256(a.data) for name, a in arrays.items()} | {
        METADATA: _sha256(_told(metadata))
    }
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
    disk.replace(
        Path(path), [len(header).to_bytes(8, "little") + header, *(a.data for a in arrays.values())]
    )


def _sha256(data) -> str:
    return hashlib.sha256(data).hexdigest()


def _told(metadata: dict[str, str]) -> bytes:
    return json.dumps(metadata, sort_keys=True).encode()


def _no_twins(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def load(path, summed: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, metadata) of a file, or a DataError that says what is wrong with it. Checksums are
    checked where there are some; summed: there must be."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as f:
            start = f.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(HEADER_LIMIT, size - 8):
                raise DataError(
                    f"{path}: not a safetensors file, or cut short ({size} bytes; its "
                    f"header would take {length + 8})"
                )
            header = f.read(length)
            table = _table(path, header)
            metadata = table.pop(METADATA, {})
            if not isinstance(metadata, dict) or not all(
                isinstance(v, str) for v in metadata.values()
            ):
                raise DataError(f"{path}: its metadata is no table of texts")
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
            data = f.read(end)
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) != end:
        raise DataError(f"{path}: cut short while it was read")
    sums, whole = _sums(path, metadata), memoryview(data)
    pieces = {METADATA: _told(metadata)} | {
        name: whole[first:last] for (first, last, _, _), name in spans
    }
    for name, piece in pieces.items():
        if name not in sums and summed:
            raise DataError(
                f"{path}: no checksum of {name!r}; the file is damaged, or of another program"
            )
        if name in sums and _sha256(piece) != sums[name]:
            raise DataError(f"{path}: the checksum of {name!r} does not match; the file is damaged")
    return {
        name: np.frombuffer(whole[first:last], DTYPES[dtype]).reshape(shape)
        for (first, last, dtype, shape), name in spans
    }, metadata


def _sums(path, metadata) -> dict[str, str]:
    """The checksums that the metadata holds; taken out of it. Files of other programs have none."""
    try:
        sums = json.loads(metadata.pop("sha256", "{}"))
    except (ValueError, RecursionError):
        sums = None
    if not isinstance(sums, dict):
        raise DataError(f"{path}: its checksums are no table; the file is damaged")
    return sums


def _table(path, header):
    try:
        table = json.loads(header.decode("utf-8"), object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its header is not JSON ({error})") from None
    if not isinstance(table, dict):
        raise DataError(f"{path}: its header is no table of tensors")
    return table


def _entry(path, name, entry):
    """(first, last, dtype name, shape) of one tensor, checked."""

    def whole(x):
        return isinstance(x, int) and not isinstance(x, bool) and x >= 0

    ok = (
        isinstance(entry, dict)
        and isinstance(entry.get("dtype"), str)
        and entry["dtype"] in DTYPES
        and isinstance(entry.get("shape"), list)
        and len(entry["shape"]) <= 8
        and all(map(whole, entry["shape"]))
        and math.prod(n or 1 for n in entry["shape"]) < 1 << 48  # [0, 2**40, 2**40] too is no array
        and isinstance(entry.get("data_offsets"), list)
        and len(entry["data_offsets"]) == 2
        and all(map(whole, entry["data_offsets"]))
    )
    if not ok:
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
