"""The check of preferences before a reward model is trained on them, or a policy directly.

It is to rankings what audit.py is to conversations: errors are rows that cannot be used, warnings
are rows that are perhaps not as their author meant. Besides, it shows how far the order can be
trusted: whether labelers agree, and whether the longer reply is the better one too often."""

import json
from array import array
from collections import Counter
from pathlib import Path

from pysft.errors import RowError
from pysft.text.agreement import Judgements
from pysft.text.conversation import plain
from pysft.text.encoder import Encoder
from pysft.text.files import refuse_name
from pysft.text.findings import Findings, Places
from pysft.text.fixed import Fixed
from pysft.text.formats import EVERYTHING, first_text
from pysft.text.heldout import heldout_prompts, overlap_with
from pysft.text.keys import Reading
from pysft.text.preferences import ABOUT, labeler_key, scan_rankings
from pysft.text.ranking import Ranking, check_ranking, equal_replies
from pysft.text.repeats import digest
from pysft.text.spread import diversity, spread
from pysft.text.spreadsheet import sheets_of
from pysft.text.template import Template
from pysft.text.templates import CHAT
from pysft.text.tokenizer import Tokenizer

# Share of pairs in which the longer reply is the better one, from which on a warning is worth it.
# People prefer the longer one in about 62 % of pairs.
LONGER = 0.65
INSTRUCTGPT = (0.73, 0.77)  # the agreement of its labelers: of those it trained, and of others
HARDLY = 0.6  # agreement with the others that is hardly more than chance, which is 0.5
COMPARED = 30  # comparisons with others from which a labeler is judged; fewer say too little


def audit_rankings(
    paths: list[str],
    tokenizer: Tokenizer,
    template: Template = CHAT,
    context: int = 256,
    max_new: int = 120,
    heldout: str | None = None,
    fix: str | None = None,
    unknown: str = "refuse",
    tokens: tuple[str, ...] = (),
    reading: Reading = EVERYTHING,
) -> dict:
    """Check some files of preferences. The arguments are those of audit(). The document has
    "findings" (Finding, in the order of the files) and figures by name."""
    for path in paths:
        refuse_name(path)
    paths = [str(Path(path)) for path in paths]
    with Fixed(fix) as fixed:
        work = _Audit(
            Findings(paths, template, reading),
            Encoder(tokenizer, template, unknown, tokens, context),
            max_new,
            heldout_prompts(heldout, template, reading) if heldout else {},
            fixed,
        )
        work.findings.read(lambda path: scan_rankings(path, template, reading), work.add, "ranking")
        return work.document()


class _Audit:
    """What the audit knows of the rows read so far."""

    def __init__(self, findings, encoder, max_new, heldout, fixed):
        self.findings, self.encoder, self.max_new = findings, encoder, max_new
        self.heldout, self.fixed = heldout, fixed
        self.places, self.judgements = Places(findings.paths), Judgements()
        self.seen: dict[int, int] = {}  # hash of a ranking -> its number
        self.prompts: set[int] = set()  # hashes
        self.replies, self.sources = Counter(), Counter()  # replies of a ranking; who wrote it
        self.pairs = self.ties = self.duplicates = self.longer = self.compared = 0
        self.prompt_lengths, self.reply_lengths = array("q"), array("q")

    # ------------------------------------------------------------------------------- each row

    def add(self, row: Ranking) -> None:
        """Check a ranking by itself, and count it. A RowError if it cannot be used."""
        for where, text in _texts(row):  # also of a row with errors
            self.findings.check_text(text, where)
        ranking = self._written(row)
        self._compare_exactly(row)
        for i, same in equal_replies(ranking):
            what = f"the same text as {ranking.name(same)}, and the same rank"
            remedy = "keep one of them: each pair with it counts twice"
            self.findings.warn("equal replies", ranking.place(i), what, remedy)
        for where, text in _texts(ranking):
            self.findings.check_marks(text, where)
        for i, reply in enumerate(ranking.replies):
            tokens = len(self.encoder.grown.encode(reply))
            self.findings.check_reply(reply, ranking.place(i), tokens, self.max_new)
        if found := overlap_with(self.heldout, first_text(row.prompt)):
            self.findings.warn("overlap with held-out", row.where, *found)
        self._count(row)

    def _written(self, row: Ranking) -> Ranking:
        """The ranking as the vocabulary can write it. A RowError if training would refuse it."""
        [c] = self.encoder.write(row.as_one()).conversations
        ranking = row.with_texts_of(c)
        check_ranking(ranking, self.encoder.template)
        for i, c in enumerate(ranking.conversations()):
            try:
                self.encoder.encode(c, "last")
            except RowError as error:
                raise ranking.located(error, i) from None
        return ranking

    def _compare_exactly(self, row: Ranking) -> None:
        """Warn of a ranking that is the same as an earlier one."""
        self.places.add(row.path, row.line)
        number = len(self.places) - 1
        prompt = json.dumps(row.prompt, sort_keys=True)
        order = json.dumps(sorted(zip(row.ranks, row.replies)))
        same = self.seen.setdefault(digest(prompt, order, row.labeler), number)
        self.prompts.add(digest(prompt))
        if same == number:
            self.fixed.add(row.to_row())
            return
        self.duplicates += 1
        what, remedy = f"the same as {self.places[same]}", "remove one of the two (--fix does)"
        self.findings.warn("exact duplicate", row.where, what, remedy)

    def _count(self, row: Ranking) -> None:
        is_read = {"source", labeler_key(row.row or {})}
        self.findings.count_keys(row.row, ABOUT - is_read)
        self.judgements.add(row)
        pairs, replies = row.pairs(), len(row.replies)
        self.replies[replies] += 1
        self.pairs += len(pairs)
        self.ties += replies * (replies - 1) // 2 - len(pairs)
        if row.source:
            self.sources[row.source] += 1
        for better, worse in pairs:
            more = len(row.replies[better]) - len(row.replies[worse])
            self.compared += more != 0
            self.longer += more > 0
        self.prompt_lengths.extend(len(m["content"]) for m in row.prompt if m["role"] == "user")
        self.reply_lengths.extend(map(len, row.replies))

    # ------------------------------------------------------------------------------- all rows

    def _compare(self, agreement: dict) -> None:
        """Check all rows together, when the last is read."""
        for number, first in self.judgements.contradictions():
            what = f"it puts two replies in another order than {self.places[first]} does"
            remedy = "keep one of the two, or name their labelers if two people judged"
            self.findings.warn("contradiction", self.places[number], what, remedy)
        paths = self.findings.paths
        where = paths[0] if len(paths) == 1 else f"all {len(paths)} files"
        share = self.longer / self.compared if self.compared else 0.5
        # Two standard errors. The pairs of a ranking hang together, so rankings are counted.
        doubt = 1 / max(1, len(self.places)) ** 0.5
        if abs(share - 0.5) > max(LONGER - 0.5, doubt):
            kind, most = ("longer", share) if share > 0.5 else ("shorter", 1 - share)
            what = f"the {kind} reply is the better one in {most:.0%} of {self.compared:,} pairs"
            remedy = f"add pairs in which it is not, or replies would be trained to be {kind}"
            self.findings.warn("length", where, what, remedy)
        for labeler in agreement["labelers"]:
            share = _share(labeler["agreed"], labeler["comparisons"])
            if labeler["comparisons"] >= COMPARED and share < HARDLY:
                what = f"labeler {labeler['labeler']!r} agrees with others in {share:.0%} of"
                what += f" {labeler['comparisons']:,} comparisons, where chance gives 50%"
                remedy = "read some of these rows; leave them out if they were not judged with care"
                self.findings.warn("labeler", where, what, remedy)

    def document(self) -> dict:
        """Findings and figures by name."""
        agreement, encoder = self.judgements.agreement(), self.encoder
        self._compare(agreement)
        for part in (agreement, *agreement["labelers"]):
            part["share"] = _share(part["agreed"], part["comparisons"])
        longer = {"share": _share(self.longer, self.compared), "pairs": self.compared}
        return {
            "data": "preferences",
            **self.findings.document(),
            "rankings": len(self.places),
            "prompts": len(self.prompts),
            "replies": dict(sorted(self.replies.items())),
            "pairs": self.pairs,
            "ties": self.ties,
            "best_and_worst": self.judgements.best_and_worst(),
            "longer_is_better": longer,
            "agreement": {**agreement, "instructgpt": INSTRUCTGPT},
            "sources": diversity(self.sources) if self.sources else None,
            "characters_changed": encoder.changed(),
            "context": encoder.context,
            "template": encoder.template.name,
            "characters": len(encoder.tokenizer) - len(encoder.tokenizer.special),
            "tables": {path: str(sheet) for path, sheet in sheets_of(self.findings.paths).items()},
            "tokens": spread(encoder.lengths),
            "too_long": encoder.too_long,
            "prompt_length": spread(self.prompt_lengths),
            "reply_length": spread(self.reply_lengths),
            "max_new": self.max_new,
            "fixed": self.fixed.figures(self.duplicates, self.findings.rows - len(self.places)),
        }


def _texts(ranking: Ranking) -> list[tuple[str, str]]:
    """[(where, text)] of the turns of the prompt and of the replies."""
    turns = enumerate(ranking.prompt, ranking.first_turn)
    found = [(f"{ranking.where}, prompt, turn {turn}", plain(m["content"])) for turn, m in turns]
    return found + [(ranking.place(i), reply) for i, reply in enumerate(ranking.replies)]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
