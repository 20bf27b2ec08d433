"""Full-text search in documents: an index in memory, made from files."""

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from pysft.errors import DataError, MissingInput, PysftError, RowError
from pysft.text.files import open_data, read_text, suffix, unpacked_name
from pysft.text.json_rows import json_rows
from pysft.world.lexicon import NOTHING

DOCS = (
    '--docs takes a folder of .txt and .md files, one such file, or a .jsonl of {"title": ...,'
    ' "text": ...}'
)
DOCUMENT = '{"title": text, "text": text}; the title may be left out'
# Words that most questions contain. They would match a document about anything, so they are ignored
# unless a query has no other words.
QUESTION_WORDS = frozenset(
    "a about an and are at by can could did do does for from had has have he her him his how i in"
    " is it its know me my of on or our please she tell that the their them there they this to us"
    " was we were what when where which who whom whose why will with would you your".split()
)
MAX_QUERY = 1000  # characters of a query that are read


@dataclass(frozen=True, slots=True)
class Document:
    """A text that the search can find, and its title, which may be ""."""

    title: str
    text: str


class Search:
    """An index of documents in memory (SQLite's FTS5), ranked by BM25 (Robertson and Zaragoza
    2009). A Python whose SQLite has no FTS5 raises a PysftError that says so."""

    def __init__(self, documents: list[Document]):
        self.documents = documents
        self._titled = {}  # the words of a title -> the first document that has them
        for i, document in enumerate(documents):
            self._titled.setdefault(_words(document.title), i)
        try:
            import sqlite3  # here, because a Python can be built without it

            self._index = sqlite3.connect(":memory:", check_same_thread=False)
            # content='': the index keeps no copy of the texts, because `documents` has them.
            self._index.execute("CREATE VIRTUAL TABLE docs USING fts5(title, text, content='')")
        except Exception as error:  # ImportError, or an sqlite3.Error: no such module
            raise PysftError(
                f"search needs SQLite with FTS5, which this Python does not have ({error}); use"
                " another Python, or chat with --no-tools"
            ) from None
        self._index.executemany(
            "INSERT INTO docs(rowid, title, text) VALUES (?, ?, ?)",
            ((i, d.title, d.text) for i, d in enumerate(documents)),
        )

    @classmethod
    def of(cls, paths: list[str]) -> "Search":
        """Index the files and folders that DOCS describes. A MissingInput, DataError or RowError
        names what cannot be used."""
        documents = [document for path in paths for document in _read(path)]
        if not documents:
            raise DataError(f"{', '.join(paths) or 'no path'}: no text to search in; {DOCS}")
        return cls(documents)

    def find(self, query: str, most: int = 1) -> list[Document]:
        """Return up to `most` documents that hold a word of the query, the best first.

        A document whose title has the words of the query and no others comes first. Equally good
        documents come in the order of the index. A word in a title counts four times a word in the
        text. QUESTION_WORDS in the query are ignored unless it has no others. Words are runs of
        letters and digits, and each is quoted, so no query can hold an operator of SQLite's query
        language."""
        words = _words(query)
        if not words:
            return []
        rows = self._index.execute(
            "SELECT rowid FROM docs WHERE docs MATCH ? ORDER BY bm25(docs, 4.0, 1.0), rowid"
            " LIMIT ?",
            (
                " OR ".join(f'"{word}"' for word in dict.fromkeys(words)),
                min(max(most, 0), len(self.documents)),
            ),
        )
        found = [i for (i,) in rows]
        if words in self._titled:
            exact = self._titled[words]
            found = [exact, *(i for i in found if i != exact)][: max(most, 0)]
        return [self.documents[i] for i in found]

    def answer(self, query: str) -> str:
        """Return the text of the best document, or NOTHING."""
        return next((document.text for document in self.find(query)), NOTHING)


def _words(text: str) -> tuple[str, ...]:
    """The words of a query or a title that a search looks for."""
    composed = unicodedata.normalize("NFC", text[:MAX_QUERY]).lower()
    words = tuple(re.findall(r"[^\W_]+", composed))
    return tuple(word for word in words if word not in QUESTION_WORDS) or words


def _read(path: str) -> list[Document]:
    """The documents of a file, or of a folder's files in the order of their paths."""
    kind = suffix(path)
    if os.path.isdir(path):
        files = sorted(p for p in Path(path).rglob("*") if suffix(p) in (".txt", ".md"))
        return [document for file in files if file.is_file() for document in _read(str(file))]
    if not os.path.exists(path):
        raise MissingInput(f"{path}: no such file or folder; {DOCS}")
    if kind not in (".jsonl", ".txt", ".md"):
        raise DataError(f"{path}: search cannot read this kind of file; {DOCS}")
    if kind == ".jsonl":
        with open_data(path) as file:
            return [
                _document(row, f"{path}, line {n}") for n, row in json_rows(file, path, DOCUMENT)
            ]
    text = read_text(path)
    if kind == ".md":
        # A heading names the subject of the paragraph below it, so the two become one document.
        text = re.sub(r"^#+[ \t]+(\S.*)\n\s*(?=\S)", r"\1: ", text, flags=re.M)
    return [
        Document(unpacked_name(path).stem, " ".join(paragraph.split()))
        for paragraph in re.split(r"\n\s*\n", text)
        if paragraph.strip()
    ]


def _document(row: dict | RowError, where: str) -> Document:
    """The document in a row of a .jsonl file. Keys other than title and text are ignored."""
    if isinstance(row, RowError):
        raise row
    if not all(isinstance(row.get(key, ""), str) for key in ("title", "text")):
        raise RowError(where, "not a document", f"write {DOCUMENT}", "format")
    title, text = row.get("title", ""), row.get("text", "")
    if not text.strip():
        raise RowError(
            where, 'its "text" is missing or empty', "write some, or remove the line", "empty"
        )
    if re.search("[\ud800-\udfff]", title + text):
        raise RowError(
            where,
            "half of a character (a lone surrogate)",
            "write the whole character",
            "characters",
        )
    return Document(title, text)
