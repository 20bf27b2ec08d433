"""The check of a data set before training: everything in it that would train wrongly, with file,
line, turn and remedy, all in one run; and figures by which to judge the rest.

An *error* is a row that cannot be trained on; training refuses it too. A *warning* is a row that
trains, but perhaps not as its author meant. Rows are read one after the other and not kept. Some
numbers and the characters of the texts, packed, are all that stays of each."""

import re
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pysft import IGNORE
from pysft.errors import RowError
from pysft.text.characters import changed_note, write_with
from pysft.text.conversation import Conversation, LeftOut, plain, short
from pysft.text.examples import encode_conversation, length_fault
from pysft.text.files import is_sheet, refuse_name
from pysft.text.fixed import Fixed
from pysft.text.formats import EVERYTHING, scan
from pysft.text.heldout import heldout_prompts, prompt_key
from pysft.text.keys import OF_ROWS, Reading, is_empty
from pysft.text.near_duplicates import Texts, near_duplicates
from pysft.text.odd import is_mark, odd_characters
from pysft.text.overlap import GRAM, Overlap
from pysft.text.personal import personal
from pysft.text.repeats import Repeats
from pysft.text.scripts import words_of
from pysft.text.spread import diversity, spread
from pysft.text.spreadsheet import read_sheet
from pysft.text.template import Template
from pysft.text.templates import CHAT
from pysft.text.tokenizer import Tokenizer

COPIED = 32  # characters in a row that stand in the corpus too; from here on worth a warning
ENDS = ".!?:'\")]"  # a complete reply ends with one of these, if most replies of the data do
UNENDED = 100_000  # replies with another end that are remembered
ANY_LENGTH = 1 << 62  # a context that holds every row, so that a long one is measured too


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


def audit(
    paths: list[str],
    tokenizer: Tokenizer,
    template: Template = CHAT,
    context: int = 256,
    grade: str = "all",
    max_new: int = 120,
    corpus: str | None = None,
    heldout: str | None = None,
    fix: str | None = None,
    unknown: str = "refuse",
    tokens: tuple[str, ...] = (),
    reading: Reading = EVERYTHING,
) -> dict:
    """Check some files. The document has "findings" (Finding, in the order of the files, errors and
    warnings) and figures by name.

    tokenizer: that of the training, before it grows by `tokens`, the special tokens of the template
    that it does not have yet. max_new: the tokens that a reply may have at inference.
    corpus: a text; the longest stretches that replies share with it are sought. heldout: a file of
    prompts or conversations that these should not repeat. fix: a file to write, which must not
    exist; it gets what can be trained on, without exact duplicates, as it was written. unknown: the
    policy of the training for characters that the vocabulary lacks (characters.py); with "refuse"
    they are errors. reading: what of the files is read."""
    for path in paths:
        refuse_name(path)
    with Fixed(fix) as fixed:
        work = _Audit(
            [str(Path(path)) for path in paths],
            tokenizer,
            template,
            context,
            grade,
            max_new,
            corpus,
            heldout_prompts(heldout, template, reading) if heldout else {},
            fixed,
            unknown,
            tokens,
            reading,
        )
        for path in work.paths:
            before, left_out = work.rows, work.left_out.total()
            for row in scan(path, template, reading):
                if isinstance(row, LeftOut):
                    work.left_out[row.reason] += 1
                else:
                    work.add(row)
            if work.rows == before:
                what, remedy = "no conversation in it", "write some, or leave the file out"
                if work.left_out.total() > left_out:
                    what, remedy = "all of its rows are left out", "ask for fewer to be left out"
                work.findings.append(Finding("error", "empty", path, what, remedy))
        work.compare_headers()
        work.compare()
        return work.document()


class _Audit:
    """What the audit knows of the rows read so far."""

    def __init__(
        self, paths, tokenizer, template, context, grade, max_new, corpus, heldout, fixed, unknown,
        tokens, reading,
    ):  # fmt: skip
        self.paths, self.template, self.context, self.grade = paths, template, context, grade
        self.max_new, self.corpus, self.heldout = max_new, corpus, heldout
        self.fixed, self.unknown, self.tokens, self.reading = fixed, unknown, tokens, reading
        self._take(write_with([], tokenizer, template, unknown).tokenizer)
        self.overlap = Overlap(corpus) if corpus else None
        marks = "|".join(map(re.escape, sorted(template.marks)))
        self.marks = re.compile(marks) if marks else None
        self.findings: list[Finding] = []
        self.rows = self.untrainable = self.too_long = self.duplicates = 0
        self.graded = self.targets = 0
        # Of each row that can be trained on: its text, its line and the number of its file.
        self.repeats, self.texts = Repeats(), Texts()
        self.lines, self.sources = array("q"), array("i")
        self.in_line: dict[int, str] = {}  # of rows that share their line: how the place prints
        self.numbers = {path: i for i, path in enumerate(paths)}
        self.lengths, self.prompts, self.replies = array("q"), array("q"), array("q")
        self.copied = array("q")
        self.turns, self.openings, self.categories = Counter(), Counter(), Counter()
        self.identities, self.complete, self.left_out = Counter(), Counter(), Counter()
        self.changed, self.unread = Counter(), Counter()  # characters; keys of rows without meaning
        self.unended = []  # (where, end) of replies that do not end with one of ENDS

    def _take(self, tokenizer: Tokenizer) -> None:
        """Read on with this vocabulary. grown: the same with the template's tokens."""
        self.tokenizer, self.grown = tokenizer, tokenizer.grow(self.tokens)

    def place(self, number: int) -> str:
        """Where the trainable row of this number stands."""
        line = self.in_line.get(number) or self.lines[number]
        return f"{self.paths[self.sources[number]]}, line {line}"

    def warn(self, kind: str, where: str, what: str, remedy: str) -> None:
        self.findings.append(Finding("warning", kind, where, what, remedy))

    def warn_of_turn(self, kind: str, c: Conversation, turn: int, what: str, remedy: str) -> None:
        self.warn(kind, f"{c.where}, turn {turn}", what, remedy)

    # ------------------------------------------------------------------------------- each row

    def add(self, row: Conversation | RowError) -> None:
        """Check a row by itself, and count it."""
        self.rows += 1
        try:
            if isinstance(row, RowError):
                raise row
            self._check_personal(row)
            self._check_characters(row)
            c = self._written(row)
            example = self._encoded(c)
        except RowError as error:
            self.findings.append(
                Finding("error", error.kind, error.where, error.what, error.remedy)
            )
            self.untrainable += 1
            return
        self.lengths.append(len(example.input_ids))
        self.graded += int((example.labels != IGNORE).sum())
        self.targets += len(example.labels)
        self._compare_exactly(row, c)
        self.turns[len(c.messages)] += 1
        if c.category:
            self.categories[c.category] += 1
        for key, value in (c.row or {}).items():
            if (key in OF_ROWS or key in self.reading.ignore) and not is_empty(value):
                self.unread[key] += 1
        for turn, m in enumerate(c.messages, c.first_turn):
            self._check_turn(c, turn, m["role"], plain(m["content"]))
        if not c.is_text and (key := prompt_key(c.prompt)) in self.heldout:
            self.warn(
                "overlap with held-out",
                c.where,
                f"the prompt {short(c.prompt)} is held out at {self.heldout[key]}",
                "remove one of the two: a prompt that was trained on measures nothing",
            )

    def _check_personal(self, c: Conversation) -> None:
        """Warn of personal data, also in a row that cannot be trained on."""
        for turn, m in enumerate(c.messages, c.first_turn):
            for kind, what in personal(plain(m["content"])):
                article = "an" if kind[0] in "aeiou" else "a"
                self.warn_of_turn(
                    "personal data",
                    c,
                    turn,
                    f"{what!r} looks like {article} {kind}",
                    "take it out, or invent one",
                )

    def _check_characters(self, c: Conversation) -> None:
        """Warn of characters that a reader does not see, also in a row that cannot be trained
        on."""
        for turn, m in enumerate(c.messages, c.first_turn):
            for finding in odd_characters(plain(m["content"])):
                self.warn_of_turn(finding[0], c, turn, *finding[1:])

    def _written(self, c: Conversation) -> Conversation:
        """The row as the vocabulary can write it. A RowError if a text of it is empty then."""
        written = write_with([c], self.tokenizer, self.template, self.unknown)
        if written.faults:
            raise written.faults[0]
        self.changed += written.changed
        if written.tokenizer is not self.tokenizer:
            self._take(written.tokenizer)
        return written.conversations[0]

    def _encoded(self, c: Conversation):
        """The row's training example. A RowError if training would refuse it."""
        example = encode_conversation(c, self.grown, ANY_LENGTH, self.template, self.grade)
        tokens = len(example.input_ids)
        if tokens > self.context:
            self.too_long += 1
            self.lengths.append(tokens)
            raise length_fault(c.where, tokens, self.context)
        return example

    def _compare_exactly(self, row: Conversation, c: Conversation) -> None:
        """Warn of a row that is the same as an earlier one; keep its text for compare()."""
        if getattr(row.line, "row", 0):  # a Place among others on its line
            self.in_line[len(self.lines)] = f"{row.line}"
        self.lines.append(row.line)
        self.sources.append(self.numbers[row.path])
        same = self.repeats.add(row)
        if same is not None:
            self.duplicates += 1
            self.texts.add("")
            what, remedy = f"the same as {self.place(same)}", "remove one of the two (--fix does)"
            self.warn("exact duplicate", row.where, what, remedy)
        else:
            self.fixed.add(row)
            text = " ".join(plain(m["content"]) for m in c.messages)
            self.texts.add(" ".join(text.casefold().split()))

    def _check_turn(self, c: Conversation, turn: int, role: str, text: str) -> None:
        if self.marks is not None and (typed := self.marks.search(text)):
            what = f"the text spells {typed.group()!r}, which stays mere text"
            remedy = "take it out: the template writes its tokens itself"
            self.warn_of_turn("control token", c, turn, what, remedy)
        if role == "user":
            self.openings[_opening(text)] += 1
            self.prompts.append(len(text))
        elif role == "assistant":
            self._check_reply(c, turn, text)

    def _check_reply(self, c: Conversation, turn: int, text: str) -> None:
        self.replies.append(len(text))
        end = text.rstrip()[-20:]
        is_complete = end[-1:] in ENDS or (not end.isascii() and is_mark(end[-1]))
        self.complete[is_complete] += 1
        if not is_complete and len(self.unended) < UNENDED:
            self.unended.append((f"{c.where}, turn {turn}", end))
        if text != text.strip():
            what = "the reply begins or ends with blanks, which the model would learn"
            self.warn_of_turn("blanks", c, turn, what, "take them out")
        tokens = len(self.grown.encode(text))
        if tokens >= self.max_new:
            what = f"a reply of {tokens} tokens and its end; at inference at most {self.max_new}"
            remedy = "shorten it, or allow more tokens when you chat (--tokens)"
            self.warn_of_turn("long reply", c, turn, what, remedy)
        for claim in re.findall(r"\bI am (?:a|an|the) [\w']+(?: [\w']+)?", text)[:1]:
            self.identities[claim] += 1
        if self.overlap:
            length, at = self.overlap.longest(text)
            self.copied.append(length)
            if length >= COPIED:
                what = f"{length} characters in a row stand in the corpus too (character {at:,}): "
                what += short(self.corpus[at : at + length])
                remedy = "write it in words of its own, unless quoting is meant"
                self.warn_of_turn("copied from the corpus", c, turn, what, remedy)

    # ------------------------------------------------------------------------------- all rows

    def compare_headers(self) -> None:
        """Read the tables once more: what was taken for a header, and what may be one."""
        # A pipe can be read only once.
        paths = [path for path in self.paths if is_sheet(path) and Path(path).is_file()]
        self.sheets = {path: read_sheet(path) for path in paths}
        for path, sheet in self.sheets.items():
            if cells := sheet.half_header:
                what = f"the first row, {cells[0]!r} and {cells[1]!r}, is taken for data"
                remedy = "if it is a header, name the columns prompt and completion"
                self.warn("header", f"{path}, line {sheet.rows[0][0]}", what, remedy)

    def compare(self) -> None:
        """Check all rows together, when the last is read."""
        if self.complete[False] and self.complete[True] >= 9 * self.complete[False]:
            for where, end in self.unended:
                what = f"the reply ends with {end!r}, where {self.complete[True]:,} others end with"
                self.warn("cut reply", where, f"{what} a mark", "complete it, if it was cut")
        for first, second, similarity in near_duplicates(self.texts):
            self.warn(
                "near duplicate",
                self.place(second),
                f"{similarity:.0%} of its pieces stand in {self.place(first)} too",
                "keep one, unless the difference matters",
            )
        for second, first in self.repeats.contradictions():
            self.warn(
                "contradiction",
                self.place(second),
                f"its prompt has another answer at {self.place(first)}",
                "keep one answer, unless both are meant",
            )
        self.findings.sort(key=lambda finding: _position(finding.where, self.numbers))

    def document(self) -> dict:
        """Findings and figures by name."""
        kinds = Counter((f.severity, f.kind) for f in self.findings)
        severities = Counter(f.severity for f in self.findings)
        return {
            "files": self.paths,
            "rows": self.rows,
            "trainable": len(self.lines),
            "left_out": dict(sorted(self.left_out.items())),
            "keys_not_read": dict(self.unread.most_common()),
            "characters_changed": changed_note(self.changed, self.unknown)
            if self.changed
            else None,
            "turns": dict(sorted(self.turns.items())),
            "errors": severities["error"],
            "warnings": severities["warning"],
            "kinds": [
                {"severity": s, "kind": k, "count": n} for (s, k), n in sorted(kinds.items())
            ],
            "context": self.context,
            "template": self.template.name,
            "grade": self.grade,
            "characters": len(self.tokenizer) - len(self.tokenizer.special),
            "tables": {path: str(sheet) for path, sheet in self.sheets.items()},
            "tokens": spread(self.lengths),
            "too_long": self.too_long,
            "prompt_length": spread(self.prompts),
            "reply_length": spread(self.replies),
            "max_new": self.max_new,
            "graded_targets": self.graded,
            "targets": self.targets,
            "graded_share": self.graded / self.targets if self.targets else None,
            "prompt_types": diversity(self.openings),
            "categories": diversity(self.categories) if self.categories else None,
            "identities": self.identities.most_common(5),
            "corpus_overlap": {**spread(self.copied), "from": GRAM} if self.overlap else None,
            "fixed": self._fixed_figures(),
            "findings": self.findings,
        }

    def _fixed_figures(self) -> dict | None:
        if self.fixed.path is None:
            return None
        return {
            "path": str(self.fixed.path),
            "kept": len(self.lines) - self.duplicates,
            "removed_duplicates": self.duplicates,
            "removed_untrainable": self.untrainable,
        }


def _opening(prompt: str) -> str:
    """The first two words of a prompt, by which its type is known."""
    return " ".join(words_of(prompt.lower())[:2])


_WHERE = re.compile(r"(.*), line (\d+)(?:, row (\d+))?(?:, turn (\d+))?")


def _position(where: str, numbers: dict[str, int]) -> tuple[int, ...]:
    """(number of the file, line, row, turn) of a place, to sort by."""
    m = _WHERE.match(where)
    return (numbers.get(m[1], 0), *(int(n or 0) for n in m.groups()[1:])) if m else (0, 0, 0, 0)
