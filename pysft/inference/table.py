"""A table that a reply can ask: whose, and what. It is kept by SQLite in memory.

Table([("Ada Brook", "pet", "toad")]).answer("Ada Brook, pet")      "toad" """

import csv
import io

from pysft.errors import DataError, MissingInput, PysftError
from pysft.text.files import read_text, suffix
from pysft.world.lexicon import NOTHING
from pysft.world.table import facts_in, truth

FORM = (
    "--table takes a .csv: the first line names the columns, and the first column is whose, such as"
    " name,pet"
)


class Table:
    """Facts, (whose, what, value), in a table of SQLite. Letter case does not count in whose and in
    what. A Python without SQLite raises a PysftError that says so."""

    def __init__(self, facts: list[tuple[str, str, str]]):
        try:
            import sqlite3  # here, because a Python can be built without it
        except ImportError as error:
            raise PysftError(
                f"the table needs SQLite, which this Python does not have ({error}); use another"
                " Python, or chat with --no-tools"
            ) from None
        self._facts = sqlite3.connect(":memory:", check_same_thread=False)
        self._facts.execute(
            "CREATE TABLE facts (whose TEXT COLLATE NOCASE, what TEXT COLLATE NOCASE, value TEXT)"
        )
        self._facts.execute("CREATE INDEX found ON facts (whose, what)")
        self._facts.executemany("INSERT INTO facts VALUES (?, ?, ?)", facts)

    @classmethod
    def shipped(cls) -> "Table":
        """Return the table of an invented world that models learn to ask (world/table.py)."""
        return cls(facts_in(truth()))

    @classmethod
    def of(cls, path: str) -> "Table":
        """Read a .csv as FORM describes it. Empty cells are no facts. A MissingInput or a DataError
        names what cannot be used."""
        if suffix(path) != ".csv":
            raise DataError(f"{path}: no table; {FORM}")
        try:
            text = read_text(path)
        except FileNotFoundError:
            raise MissingInput(f"{path}: no such file; {FORM}") from None
        try:
            head, *rows = [row for row in csv.reader(io.StringIO(text), strict=True) if any(row)]
        except (ValueError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as a table ({error}); {FORM}") from None
        facts = []
        for number, row in enumerate(rows, 2):
            if len(row) != len(head):
                raise DataError(
                    f"{path}, row {number}: {len(row)} cells, but the first line names"
                    f" {len(head)} columns"
                )
            named = zip(head[1:], row[1:])
            facts += [
                (row[0].strip(), what.strip(), value.strip())
                for what, value in named
                if value.strip()
            ]
        if not facts:
            raise DataError(f"{path}: no fact in it; {FORM}")
        return cls(facts)

    def answer(self, call: str) -> str:
        """Return the value that a call "whose, what" asks for, several after each other with commas
        between them, or NOTHING. A call without a comma raises a DataError."""
        whose, comma, what = call.rpartition(",")
        if not comma:
            raise DataError("the table is asked for whose and what, such as Ada Brook, pet")
        rows = self._facts.execute(
            "SELECT value FROM facts WHERE whose = ? AND what = ?", (whose.strip(), what.strip())
        )
        return ", ".join(value for (value,) in rows) or NOTHING
