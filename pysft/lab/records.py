"""Records on disk. A record's file is named by a digest of everything that determines its content,
so an interrupted lab continues where it stopped, and experiments share the trials that they have in
common."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pysft.batch import Example
from pysft.run.stage import read_json, write_json
from pysft.training.settings import Settings

VERSION = 1  # of the meaning of a record; part of every name, so raising it trains everything again


def sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(description) -> str:
    """SHA-256 of a JSON document, in hexadecimal. A value that is not JSON is written by str()."""
    return sha256(json.dumps(description, sort_keys=True, default=str))


def digest_of_examples(examples: list[Example]) -> str:
    """SHA-256 of the examples' lengths, tokens and labels, in hexadecimal."""
    h = hashlib.sha256()
    for e in examples:
        h.update(np.int64(len(e.labels)).tobytes())
        h.update(e.input_ids.astype(np.int32).tobytes())
        h.update(e.labels.astype(np.int32).tobytes())
    return h.hexdigest()


def relevant(settings: Settings) -> dict:
    """The settings that can change a result of the lab. It reads no files and makes its own
    examples, so `transcripts`, `tokenizer`, `lang`, `synthetic` and `ignore` do not count. It never
    skips a step and never resumes, so `on_nan` and `save_every` do not count. A precision of
    float32, and no windows of a world, are left out, so records of versions that had nothing else
    keep their names."""
    others = ("transcripts", "tokenizer", "lang", "synthetic", "ignore", "on_nan", "save_every")
    tables = settings.to_json()
    for name, table in tables.items():
        if isinstance(table, dict):
            kept = ((k, v) for k, v in table.items() if k not in others)
            usual = (("precision", "float32"), ("world", ()), ("made", ()))
            tables[name] = {k: v for k, v in kept if (k, v) not in usual}
    return tables


def stored(folder: Path, description: dict, make: Callable[[], dict]) -> dict:
    """The record that `folder` holds under this description. If there is none, call make() and
    write its result there."""
    path = folder / f"{digest(description)}.json"
    if path.is_file():
        return read_json(path)
    record = make()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return record
