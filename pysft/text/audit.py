"""The check of a data set before training: everything in it that would train wrongly, with file,
line, turn and remedy, all in one run; and figures by which to judge the rest.

An *error* is a row that cannot be trained on; training refuses it too. A *warning* is a row that
trains, but perhaps not as its author meant. Rows are read one after the other and not kept. Some
numbers and the characters of the texts, packed, are all that stays of each."""

import re
from array import array
from collections import Counter
from pathlib import Path

from pysft import IGNORE
from pysft.text.conversation import Conversation, plain, short, visible_text
from pysft.text.encoder import Encoder
from pysft.text.files import refuse_name
from pysft.text.findings import Findings, Places
from pysft.text.fixed import Fixed
from pysft.text.formats import EVERYTHING, scan
from pysft.text.heldout import heldout_prompts, overlap_with
from pysft.text.keys import Reading
from pysft.text.near_duplicates import Texts, near_duplicates
from pysft.text.odd import is_mark
from pysft.text.overlap import GRAM, Overlap
from pysft.text.repeats import Repeats
from pysft.text.scripts import words_of
from pysft.text.spread import diversity, spread
from pysft.text.spreadsheet import sheets_of
from pysft.text.template import Template
from pysft.text.templates import CHAT
from pysft.text.tokenizer import Tokenizer

COPIED = 32  # characters in a row that stand in the corpus too; from here on worth a warning
ENDS = ".!?:'\")]"  # a complete reply ends with one of these, if most replies of the data do
UNENDED = 100_000  # replies with another end that are remembered


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
    paths = [str(Path(path)) for path in paths]
    with Fixed(fix) as fixed:
        work = _Audit(
            Findings(paths, template, reading),
            Encoder(tokenizer, template, unknown, tokens, context),
            grade,
            max_new,
            corpus,
            heldout_prompts(heldout, template, reading) if heldout else {},
            fixed,
        )
        work.findings.read(lambda path: scan(path, template, reading), work.add, "conversation")
        work.compare_headers()
        work.compare()
        return work.document()


class _Audit:
    """What the audit knows of the rows read so far."""

    def __init__(self, findings, encoder, grade, max_new, corpus, heldout, fixed):
        self.findings, self.encoder, self.paths = findings, encoder, findings.paths
        self.grade, self.max_new, self.corpus, self.heldout = grade, max_new, corpus, heldout
        self.fixed, self.overlap = fixed, Overlap(corpus) if corpus else None
        self.duplicates = self.graded = self.targets = 0
        # Of each row that can be trained on: where it stands, and its text.
        self.places, self.repeats, self.texts = Places(self.paths), Repeats(), Texts()
        self.prompts, self.replies, self.copied = array("q"), array("q"), array("q")
        self.turns, self.openings, self.categories = Counter(), Counter(), Counter()
        self.identities, self.complete = Counter(), Counter()
        self.unended = []  # (where, end) of replies that do not end with one of ENDS

    # ------------------------------------------------------------------------------- each row

    def add(self, row: Conversation) -> None:
        """Check a row by itself, and count it. A RowError if it cannot be trained on."""
        for turn, m in enumerate(row.messages, row.first_turn):  # also of a row with errors
            self.findings.check_text(plain(m["content"]), f"{row.where}, turn {turn}")
        written = self.encoder.write(row)
        if written.faults:
            raise written.faults[0]
        [c] = written.conversations
        example = self.encoder.encode(c, self.grade)
        self.graded += int((example.labels != IGNORE).sum())
        self.targets += len(example.labels)
        self._compare_exactly(row, c)
        self.turns[len(c.messages)] += 1
        if c.category:
            self.categories[c.category] += 1
        self.findings.count_keys(c.row)
        for turn, m in enumerate(c.messages, c.first_turn):
            self._check_turn(f"{c.where}, turn {turn}", m["role"], m["content"])
        if not c.is_text and (found := overlap_with(self.heldout, c.prompt)):
            self.findings.warn("overlap with held-out", c.where, *found)

    def _compare_exactly(self, row: Conversation, c: Conversation) -> None:
        """Warn of a row that is the same as an earlier one; keep its text for compare()."""
        self.places.add(row.path, row.line)
        same = self.repeats.add(row)
        if same is not None:
            self.duplicates += 1
            self.texts.add("")
            what, remedy = f"the same as {self.places[same]}", "remove one of the two (--fix does)"
            self.findings.warn("exact duplicate", row.where, what, remedy)
        else:
            self.fixed.add(row.row or {"messages": row.messages})
            text = " ".join(plain(m["content"]) for m in c.messages)
            self.texts.add(" ".join(text.casefold().split()))

    def _check_turn(self, where: str, role: str, content) -> None:
        self.findings.check_marks(plain(content), where)
        if role == "user":
            self.openings[_opening(content)] += 1
            self.prompts.append(len(content))
        elif role == "assistant":
            self._check_reply(where, visible_text(content))

    def _check_reply(self, where: str, text: str) -> None:
        self.replies.append(len(text))
        end = text.rstrip()[-20:]
        is_complete = end[-1:] in ENDS or (not end.isascii() and is_mark(end[-1]))
        self.complete[is_complete] += 1
        if not is_complete and len(self.unended) < UNENDED:
            self.unended.append((where, end))
        tokens = len(self.encoder.grown.encode(text))
        self.findings.check_reply(text, where, tokens, self.max_new)
        for claim in re.findall(r"\bI am (?:a|an|the) [\w']+(?: [\w']+)?", text)[:1]:
            self.identities[claim] += 1
        if self.overlap:
            length, at = self.overlap.longest(text)
            self.copied.append(length)
            if length >= COPIED:
                what = f"{length} characters in a row stand in the corpus too (character {at:,}): "
                what += short(self.corpus[at : at + length])
                remedy = "write it in words of its own, unless quoting is meant"
                self.findings.warn("copied from the corpus", where, what, remedy)

    # ------------------------------------------------------------------------------- all rows

    def compare_headers(self) -> None:
        """Read the tables once more: what was taken for a header, and what may be one."""
        self.sheets = sheets_of(self.paths)
        for path, sheet in self.sheets.items():
            if cells := sheet.half_header:
                what = f"the first row, {cells[0]!r} and {cells[1]!r}, is taken for data"
                remedy = "if it is a header, name the columns prompt and completion"
                self.findings.warn("header", f"{path}, line {sheet.rows[0][0]}", what, remedy)

    def compare(self) -> None:
        """Check all rows together, when the last is read."""
        if self.complete[False] and self.complete[True] >= 9 * self.complete[False]:
            for where, end in self.unended:
                what = f"the reply ends with {end!r}, where {self.complete[True]:,} others end with"
                self.findings.warn(
                    "cut reply", where, f"{what} a mark", "complete it, if it was cut"
                )
        for first, second, similarity in near_duplicates(self.texts):
            self.findings.warn(
                "near duplicate",
                self.places[second],
                f"{similarity:.0%} of its pieces stand in {self.places[first]} too",
                "keep one, unless the difference matters",
            )
        for second, first in self.repeats.contradictions():
            self.findings.warn(
                "contradiction",
                self.places[second],
                f"its prompt has another answer at {self.places[first]}",
                "keep one answer, unless both are meant",
            )

    def document(self) -> dict:
        """Findings and figures by name."""
        encoder = self.encoder
        return {
            **self.findings.document(),
            "trainable": len(self.places),
            "characters_changed": encoder.changed(),
            "turns": dict(sorted(self.turns.items())),
            "context": encoder.context,
            "template": encoder.template.name,
            "grade": self.grade,
            "characters": len(encoder.tokenizer) - len(encoder.tokenizer.special),
            "tables": {path: str(sheet) for path, sheet in self.sheets.items()},
            "tokens": spread(encoder.lengths),
            "too_long": encoder.too_long,
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
            "fixed": self.fixed.figures(self.duplicates, self.findings.rows - len(self.places)),
        }


def _opening(prompt: str) -> str:
    """The first two words of a prompt, by which its type is known."""
    return " ".join(words_of(prompt.lower())[:2])
