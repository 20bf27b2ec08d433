"""A table that a reply can ask: whose, and what. It is kept by SQLite in memory.

Table([("Ada Brook", "pet", "toad")]).answer("Ada Brook, pet")      "toad" """

from pysft.errors import DataError, MissingInput, PysftError, RowError
from pysft.text.files import suffix
from pysft.text.spreadsheet import read_columns
from pysft.world.lexicon import NOTHING
from pysft.world.table import facts_in, truth

FORM = (
    "--table takes a .csv or .tsv: the first line names the columns, and the first column is whose,"
    " such as name,pet"
)


class Table:
    """Facts, (whose, what, value), in a table of SQLite. Letter case and the number of blanks do
    not count in whose and in what. A Python without SQLite raises a PysftError that says so."""

    def __init__(self, facts: list[tuple[str, str, str]]):
        try:
            import sqlite3  # here, because a Python can be built without it
        except ImportError as error:
            raise PysftError(
                f"the table needs SQLite, which this Python does not have ({error}); use another"
                " Python, or do without the table"
            ) from None
        self._facts = sqlite3.connect(":memory:", check_same_thread=False)
        self._facts.execute("CREATE TABLE facts (whose TEXT, what TEXT, value TEXT)")
        self._facts.execute("CREATE INDEX found ON facts (whose, what)")
        rows = ((_key(whose), _key(what), value) for whose, what, value in facts)
        self._facts.executemany("INSERT INTO facts VALUES (?, ?, ?)", rows)

    @classmethod
    def shipped(cls) -> "Table":
        """Return the table of an invented world that models learn to ask (world/table.py)."""
        return cls(facts_in(truth()))

    @classmethod
    def of(cls, path: str) -> "Table":
        """Read a table as FORM describes it. Empty cells are no facts. A MissingInput or a
        DataError names what cannot be used."""
        if suffix(path) not in (".csv", ".tsv"):
            raise DataError(f"{path}: no table; {FORM}")
        try:
            rows = read_columns(path)
        except MissingInput:
            raise MissingInput(f"{path}: no such file; {FORM}") from None
        for line, cells in rows:
            if isinstance(cells, RowError):
                raise DataError(str(cells))
            if any("\udc80" <= c <= "\udcff" for cell in cells for c in cell):
                raise DataError(
                    f"{path}, line {line}: cannot be read as UTF-8 text; save the file as UTF-8"
                )
        (_, head), *rows = rows or [(1, [])]
        keys = [_key(name) for name in head]
        for name, key in zip(head[1:], keys[1:]):
            if "," in name or not key or keys.count(key) > 1:
                raise DataError(
                    f"{path}: the column {name!r}: a column needs a name of its own without commas"
                )
        facts = []
        for line, cells in rows:
            if len(cells) > len(head):
                raise DataError(
                    f"{path}, line {line}: it has more cells than the first line, which names"
                    f" {len(head)}; {FORM}"
                )
            facts += [(cells[0], *fact) for fact in zip(head[1:], cells[1:]) if fact[1]]
        if not facts:
            raise DataError(f"{path}: no fact in it; {FORM}")
        return cls(facts)

    def answer(self, call: str) -> str:
        """Return the value that a call "whose, what" asks for, or NOTHING. If there are several,
        they stand with commas between them. A call without a comma raises a DataError."""
        whose, comma, what = call.rpartition(",")
        if not comma:
            raise DataError("the table is asked for whose and what, such as Ada Brook, pet")
        rows = self._facts.execute(
            "SELECT value FROM facts WHERE whose = ? AND what = ?", (_key(whose), _key(what))
        )
        return ", ".join(value for (value,) in rows) or NOTHING


def _key(text: str) -> str:
    """A name or a column as it is compared."""
    return " ".join(text.split()).casefold()
