"""The file that `audit --fix` writes: the rows that can be trained on, as JSON lines. Each stands
there as in its own file, with the keys that training does not read."""

import json
import os
from pathlib import Path

from pysft.errors import UsageError
from pysft.text.conversation import SURROGATE


class Fixed:
    """The file of --fix. It is written under a temporary name and moved to its own when a `with`
    block ends well, never onto another file. Without a path nothing is written."""

    def __init__(self, path: str | None):
        self.path, self.kept = None if path is None else Path(path), 0
        if self.path is not None and self.path.suffix != ".jsonl":
            raise UsageError(
                f"--fix {path}: JSON lines are written; give it a name that ends with .jsonl"
            )
        if self.path is not None and self.path.exists():
            raise UsageError(f"--fix {path}: this exists already; choose another name")

    def __enter__(self):
        if self.path is not None:
            temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            try:
                self.file = open(temporary, "x", encoding="utf-8")
            except OSError as error:
                raise UsageError(
                    f"--fix {self.path}: cannot be written ({error.strerror}); choose a place"
                    " that can"
                ) from None
        return self

    def add(self, row: dict) -> None:
        self.kept += 1
        if self.path is not None:
            text = json.dumps(row, ensure_ascii=False)
            if SURROGATE.search(text):  # in a key that is not read; no file can hold it unescaped
                text = json.dumps(row)
            self.file.write(text + "\n")

    def figures(self, duplicates: int, untrainable: int) -> dict | None:
        """What was written, and how many rows were not, for the document of an audit; None without
        a path."""
        if self.path is None:
            return None
        return {
            "path": str(self.path),
            "kept": self.kept,
            "removed_duplicates": duplicates,
            "removed_untrainable": untrainable,
        }

    def __exit__(self, kind, *_):
        if self.path is not None:
            temporary = Path(self.file.name)
            try:
                self.file.close()
                if kind is None:
                    temporary.rename(self.path)
            finally:
                temporary.unlink(missing_ok=True)
