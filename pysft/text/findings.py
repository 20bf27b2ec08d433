"""What an audit finds in a data set, and what it counts on the way."""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pysft.errors import RowError
from pysft.text.conversation import LeftOut
from pysft.text.keys import OF_ROWS, Reading, is_empty
from pysft.text.odd import odd_characters
from pysft.text.personal import personal
from pysft.text.template import Template


@dataclass(frozen=True)
class Finding:
    """severity: "error" or "warning". kind: a word or two by which findings are counted."""

    severity: str
    kind: str
    where: str
    what: str
    remedy: str

    def __str__(self):
        return f"{self.where}: {self.what}; {self.remedy}"


class Findings:
    """The findings of an audit of some files so far, and counts of their rows.

    found: the findings. rows: how many rows were read, faulty ones too. left_out: how many were
    left out, by the reason. unread: in how many rows that can be used each key without meaning has
    a value."""

    def __init__(self, paths: list[str], template: Template, reading: Reading):
        self.paths, self.reading = paths, reading
        marks = "|".join(map(re.escape, sorted(template.marks)))
        self._marks = re.compile(marks) if marks else None
        self.found: list[Finding] = []
        self.rows, self.left_out, self.unread = 0, Counter(), Counter()

    def read(self, scan: Callable[[str], Iterable], add: Callable, thing: str) -> None:
        """Read all files. scan: gives the rows of a file, each a RowError, a LeftOut or something
        else. add: takes in a row of something else, and may raise a RowError. thing: what it is
        called."""
        for path in self.paths:
            before, left_out = self.rows, self.left_out.total()
            for row in scan(path):
                if isinstance(row, LeftOut):
                    self.left_out[row.reason] += 1
                    continue
                self.rows += 1
                try:
                    if isinstance(row, RowError):
                        raise row
                    add(row)
                except RowError as e:
                    self.found.append(Finding("error", e.kind, e.where, e.what, e.remedy))
            if self.rows == before:
                what, remedy = f"no {thing} in it", "write some, or leave the file out"
                if self.left_out.total() > left_out:
                    what, remedy = "all of its rows are left out", "ask for fewer to be left out"
                self.found.append(Finding("error", "empty", path, what, remedy))

    def warn(self, kind: str, where: str, what: str, remedy: str) -> None:
        self.found.append(Finding("warning", kind, where, what, remedy))

    def count_keys(self, row: dict | None, known=OF_ROWS) -> None:
        """Count the keys of a row that have a value and carry no meaning: those in `known`, and
        those that the user ignores."""
        for key, value in (row or {}).items():
            if (key in known or key in self.reading.ignore) and not is_empty(value):
                self.unread[key] += 1

    def check_text(self, text: str, where: str) -> None:
        """Warn of personal data, and of characters that a reader does not see or expect."""
        for kind, what in personal(text):
            article = "an" if kind[0] in "aeiou" else "a"
            what = f"{what!r} looks like {article} {kind}"
            self.warn("personal data", where, what, "take it out, or invent one")
        for kind, what, remedy in odd_characters(text):
            self.warn(kind, where, what, remedy)

    def check_marks(self, text: str, where: str) -> None:
        """Warn of the name of a control token."""
        if self._marks is not None and (typed := self._marks.search(text)):
            what = f"the text spells {typed.group()!r}, which stays mere text"
            remedy = "take it out: the template writes its tokens itself"
            self.warn("control token", where, what, remedy)

    def check_reply(self, text: str, where: str, tokens: int, max_new: int) -> None:
        """Warn of blanks around a reply, and of one that is longer than replies may be at
        inference, max_new tokens with its end. tokens: its length without the end."""
        if text != text.strip():
            what = "the reply begins or ends with blanks, which the model would learn"
            self.warn("blanks", where, what, "take them out")
        if tokens >= max_new:
            what = f"a reply of {tokens} tokens and its end; at inference at most {max_new}"
            remedy = "shorten it, or allow more tokens when you chat (--tokens)"
            self.warn("long reply", where, what, remedy)

    def document(self) -> dict:
        """The findings in the order of the files, and the counts, by name."""
        numbers = {path: i for i, path in enumerate(self.paths)}
        findings = sorted(self.found, key=lambda finding: _position(finding.where, numbers))
        kinds = Counter((f.severity, f.kind) for f in findings)
        severities = Counter(f.severity for f in findings)
        return {
            "files": self.paths,
            "rows": self.rows,
            "left_out": dict(sorted(self.left_out.items())),
            "keys_not_read": dict(self.unread.most_common()),
            "errors": severities["error"],
            "warnings": severities["warning"],
            "kinds": [
                {"severity": s, "kind": k, "count": n} for (s, k), n in sorted(kinds.items())
            ],
            "findings": findings,
        }


class Places:
    """Where each of many rows stands, in little memory. Item i is "mine.jsonl, line 7"."""

    def __init__(self, paths: list[str]):
        self._paths, self._numbers = paths, {path: i for i, path in enumerate(paths)}
        self._lines, self._files = array("q"), array("i")
        self._in_line: dict[int, str] = {}  # of rows that share their line: how the place prints

    def add(self, path: str, line: int) -> None:
        if getattr(line, "row", 0):  # a Place among others on its line
            self._in_line[len(self)] = f"{line}"
        self._lines.append(line)
        self._files.append(self._numbers[path])

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, i: int) -> str:
        line = self._in_line.get(i) or self._lines[i]
        return f"{self._paths[self._files[i]]}, line {line}"


_WHERE = re.compile(r"(.*), line (\d+)(?:, row (\d+))?(?:, turn (\d+))?")


def _position(where: str, numbers: dict[str, int]) -> tuple[int, ...]:
    """(number of the file, line, row, turn) of a place, to sort by."""
    m = _WHERE.match(where)
    return (numbers.get(m[1], 0), *(int(n or 0) for n in m.groups()[1:])) if m else (0, 0, 0, 0)
