"""The pre-flight check of a data set: everything that would train wrongly, named with file, line,
turn and remedy, all in one run, and the figures by which to judge the rest.

An *error* is a row that cannot be trained on; training refuses it too. A *warning* is a row that
trains, but perhaps not what its author meant. Rows are read one after the other and not kept: what
stays of each is some numbers and the characters of its texts, packed."""

import hashlib
import json
import math
import os
import re
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pysft import IGNORE
from pysft.errors import DataError, RowError, UsageError
from pysft.text.dataset import encode_conversation, prompt_key
from pysft.text.formats import (
    Conversation,
    check_messages,
    plain,
    read_conversations,
    read_prompts,
    read_table,
    replaced,
    scan,
)
from pysft.text.template import CHAT, CHATML, Template
from pysft.text.tokenizer import CharTokenizer

NEAR = 0.8  # from this share of common shingles on, two conversations are near duplicates
SHINGLE = 5  # characters
CROWD = 1000  # of texts that agree in a band, how many before one are looked at
COPIED = 32  # so many characters in a row that stand in the corpus are worth a warning
GRAM = 16  # overlaps with the corpus are found from this length on
ENDS = ".!?:'\")]"  # a whole reply ends with one of these, where most replies do


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


# -------------------------------------------------------------------------------------- personal da

_PERHAPS = re.compile(r"[\d@]")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_DIGITS = re.compile(r"(?<![\d.])[+(]?\d[\d ()./-]{6,}\d")
_TELEPHONE = re.compile(
    r"[+(0].*|1?[-. ]?\d{3}[-. ]\d{3}[-. ]\d{4}"
)  # a prefix, or groups of three, three and four
_NO_TELEPHONE = re.compile(
    r"\d+\.\d+|\d{1,3}(?:\.\d{1,3}){3}|"
    r"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4})(?!\d).*"
)  # a decimal, an address, a date
_STREET = re.compile(
    r"\b\d{1,5} (?:[A-Z][a-z]+"
    r" ){1,3}(?:Street|St|Road|Rd|Avenue|Ave|Lane|Drive|Boulevard|Blvd|Square|Court)\b"
)


def personal(text: str) -> list[tuple[str, str]]:
    """(kind, what) of each thing in a text that looks like an e-mail or street address, a telephone
    number (8 to 15 digits that begin with +, 0 or a bracket, or in groups of three, three and four)
    or a payment card's number (13 to 19 digits whose check digit is right)."""
    if not _PERHAPS.search(text):
        return []
    found = [("e-mail address", m.group()) for m in _EMAIL.finditer(text)]
    found += [("street address", m.group()) for m in _STREET.finditer(text)]
    for m in _DIGITS.finditer(text):
        digits = [int(c) for c in m.group() if c.isdigit()]
        if 13 <= len(digits) <= 19 and _luhn(digits):
            found.append(("card number", m.group()))
        elif (
            8 <= len(digits) <= 15
            and _TELEPHONE.fullmatch(m.group())
            and not _NO_TELEPHONE.fullmatch(m.group())
        ):
            found.append(("telephone number", m.group()))
    return found


def _luhn(digits: list[int]) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812)."""
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


# ------------------------------------------------------------------------------------- near duplica


def _grams(codes: np.ndarray, size: int) -> np.ndarray:
    """A 64-bit hash of each stretch of `size` characters: (len - size + 1,)."""
    n = len(codes) - size + 1
    out, codes = np.zeros(max(0, n), np.uint64), codes.astype(np.uint64) + np.uint64(1)
    for i in range(size if n > 0 else 0):
        out = out * np.uint64(0x9E3779B97F4A7C15) + codes[i : i + n]
    out ^= out >> np.uint64(29)
    return out * np.uint64(0xBF58476D1CE4E5B9)


def near_duplicates(
    texts: "Texts", threshold: float = NEAR, bands: int = 10, rows: int = 4
) -> list[tuple[int, int, float]]:
    """(first, second, similarity) of pairs of texts that share `threshold` or more of their
    shingles (Jaccard), each text beside one earlier text like it.

    MinHash (Broder 1997): the smallest of all shingles' hashes is the same in two texts with the
    probability of their similarity. `bands` times `rows` such hashes: who agrees in a whole band is
    compared, character by character. At 0.8 a pair is missed with a probability of 0.5 %, at 0.9
    with less than 1e-4 (in a crowd that agrees in a band, each is compared with the four of the
    CROWD before it that agree in most bands). Deterministic."""
    long_enough = np.flatnonzero(texts.lengths() >= SHINGLE)
    hashes = _min_hashes(texts, bands, rows)
    pairs, placed, compared = [], set(), set()
    for band in hashes[:, long_enough]:
        for members in _runs_of_equals(band):
            members = long_enough[members]
            for i, second in enumerate(members.tolist()[1:], 1):
                if second in placed:
                    continue
                earlier = members[max(0, i - CROWD) : i]
                if i > 4:  # the four of them that agree with it most
                    agree = (hashes[:, earlier] == hashes[:, second : second + 1]).sum(axis=0)
                    earlier = earlier[np.argsort(-agree, kind="stable")[:4]]
                for first in earlier.tolist():
                    if second not in placed and (first, second) not in compared:
                        compared.add((first, second))
                        alike = _jaccard(texts[first], texts[second])
                        if alike >= threshold:
                            placed.add(second)
                            pairs.append((first, second, alike))
    return sorted(pairs)


def _min_hashes(texts: "Texts", bands: int, rows: int) -> np.ndarray:
    """(bands, n): for each text, `rows` smallest hashes of its shingles mixed into one number, so
    many times."""
    multipliers = np.random.default_rng(1).integers(
        1, 2**63, bands * rows, dtype=np.uint64
    ) * np.uint64(2) + np.uint64(1)
    out = np.zeros((bands, len(texts)), np.uint64)
    for first, last in texts.pieces(1 << 20):
        codes, starts = texts.codes(first, last)
        ends = np.append(starts[1:], len(codes))
        outside = np.arange(len(codes)) + SHINGLE > np.repeat(
            ends, ends - starts
        )  # shingles that leave their text
        grams = np.zeros(len(codes), np.uint64)
        grams[: max(0, len(codes) - SHINGLE + 1)] = _grams(codes, SHINGLE)
        for i, m in enumerate(multipliers if len(codes) else ()):
            mixed = grams * m
            mixed ^= mixed >> np.uint64(32)
            mixed[outside] = np.iinfo(np.uint64).max
            least = np.minimum.reduceat(mixed, np.minimum(starts, len(codes) - 1))
            out[i // rows, first:last] = (
                out[i // rows, first:last] * np.uint64(0x100000001B3) ^ least
            )
    return out


def _runs_of_equals(values: np.ndarray):
    """The places of equal values, rising, for each value that comes twice or more."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    edges = (
        np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1], [True]]))
        if len(values)
        else np.zeros(1, int)
    )
    for k in np.flatnonzero(np.diff(edges) > 1).tolist():
        yield order[edges[k] : edges[k + 1]]


def _jaccard(a: str, b: str) -> float:
    x, y = ({t[i : i + SHINGLE] for i in range(len(t) - SHINGLE + 1)} for t in (a, b))
    return len(x & y) / max(1, len(x | y))


class Texts:
    """Many short texts in one piece of memory."""

    def __init__(self):
        self._data, self._ends = bytearray(), array("q", [0])

    def add(self, text: str) -> None:
        self._data += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        return self._data[self._ends[i] : self._ends[i + 1]].decode("utf-8", "surrogatepass")

    def lengths(self) -> np.ndarray:
        """(n,) bytes of each."""
        return np.diff(self._ends)

    def pieces(self, size: int):
        """(first, last) of runs of texts of about `size` bytes."""
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self._ends, self._ends[first] + size, side="right")) - 1
            last = min(max(last, first + 1), len(self))
            yield first, last
            first = last

    def codes(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """(bytes, where each text starts) of texts first..last-1."""
        return (
            np.frombuffer(bytes(self._data[self._ends[first] : self._ends[last]]), np.uint8),
            np.array(self._ends[first:last], np.int64) - self._ends[first],
        )


# -------------------------------------------------------------------------------- overlap with a co


class Overlap:
    """Longest common substrings with a corpus, from GRAM characters on."""

    def __init__(self, corpus: str):
        self.text = corpus
        self._codes = _code_points(corpus)
        grams = _grams(self._codes, GRAM)
        self._order = np.argsort(grams, kind="stable")
        self._grams = grams[self._order]

    def longest(self, text: str) -> tuple[int, int]:
        """(characters, where in the corpus) of the longest stretch of `text` that stands in it; (0,
        0) if none has GRAM characters."""
        best, at = 0, 0
        codes = _code_points(text)
        grams = _grams(codes, GRAM)
        lows, highs = (np.searchsorted(self._grams, grams, side) for side in ("left", "right"))
        for i in np.flatnonzero(lows < highs).tolist():
            places = self._order[lows[i] : highs[i]]
            if i:  # a stretch that the characters before lengthen was met there
                places = places[(places == 0) | (self._codes[places - 1] != codes[i - 1])]
            for where in places.tolist():
                length = 0
                while (
                    i + length < len(text)
                    and where + length < len(self.text)
                    and text[i + length] == self.text[where + length]
                ):
                    length += 1
                if length >= GRAM and length > best:
                    best, at = length, where
        return best, at


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


# -------------------------------------------------------------------------------------------- figur


def census(values) -> dict:
    """min, median, p95 and max of some numbers."""
    values = np.asarray(values)
    if not len(values):
        return {"min": None, "median": None, "p95": None, "max": None}
    return {
        "min": int(values.min()),
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": int(values.max()),
    }


def diversity(counts: Counter, top: int = 5) -> dict:
    """How concentrated a distribution is. effective: exp of its entropy, as many equally frequent
    kinds would have it; top: the most frequent with their shares."""
    total = sum(counts.values())
    shares = [n / total for n in counts.values()]
    return {
        "kinds": len(counts),
        "effective": math.exp(-sum(p * math.log(p) for p in shares)) if total else 0.0,
        "top": [[kind, n / total] for kind, n in counts.most_common(top)],
    }


def _opening(prompt: str) -> str:
    """The first two words of a prompt, by which its type is told."""
    return " ".join(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", prompt.lower())[:2])


def _digest(*texts: str) -> int:
    """64 bits, never 0; among a million texts two are taken for the same once in forty million
    runs."""
    h = hashlib.blake2b(digest_size=8)
    for text in texts:
        h.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return int.from_bytes(h.digest(), "little") or 1


class _Repeats:
    """Exact duplicates, and prompts with several answers, met one conversation after the other. Of
    each conversation three 64-bit hashes are kept: of all of it, of the first prompt and of its
    answer."""

    def __init__(self):
        self.whole, self.prompts, self.answers = {}, array("Q"), array("Q")

    def meet(self, c: Conversation) -> int | None:
        """The number of an earlier conversation that is the same."""
        number = len(self.prompts)
        if c.is_text:
            self.prompts.append(0)
            self.answers.append(0)
        else:
            system = c.messages[0]["content"] if c.messages[0]["role"] == "system" else ""
            self.prompts.append(_digest(system, prompt_key(c.prompt)))
            self.answers.append(_digest(prompt_key(c.replies()[0])))
        same = self.whole.setdefault(
            _digest(json.dumps(c.messages, sort_keys=True)), number
        )  # flags and parts too
        return None if same == number else same

    def contradictions(self) -> list[tuple[int, int]]:
        """(conversation, the first with the same prompt), where the answers differ."""
        prompts, answers = np.array(self.prompts, np.uint64), np.array(self.answers, np.uint64)
        _, first, which = np.unique(prompts, return_index=True, return_inverse=True)
        first = first[which]
        different = np.flatnonzero((answers != answers[first]) & (prompts != 0))
        return [(int(i), int(first[i])) for i in different]


def quick(conversations: list[Conversation]) -> list[str]:
    """The part of the audit that is cheap enough for every training: what it found, in
    sentences."""
    repeats = _Repeats()
    same = sum(repeats.meet(c) is not None for c in conversations)
    other = len(repeats.contradictions())
    found = [f"{same:,} exact duplicate{'s' * (same > 1)}"] if same else []
    found += (
        [f"{other:,} answer{'s' * (other > 1)} to a prompt that has another answer"]
        if other
        else []
    )
    return (
        [f"{' and '.join(found)} among the conversations (python -m pysft audit names them)"]
        if found
        else []
    )


# ---------------------------------------------------------------------------------------------- aud


def audit(
    paths: list[str],
    tokenizer: CharTokenizer,
    template: Template = CHAT,
    context: int = 256,
    grade: str = "all",
    max_new: int = 120,
    corpus: str | None = None,
    heldout: str | None = None,
    fix: str | None = None,
    unknown: str = "refuse",
) -> dict:
    """The whole check of some files, as one document: `findings` (Finding, in the order of the
    files, errors and warnings) and figures by name.

    tokenizer: with the template's tokens. max_new: tokens that a reply may have at inference.
    corpus: a text whose longest common substrings with the replies are sought. heldout: a file of
    prompts or conversations that none of these should repeat. fix: a file to write, that must not
    exist: what can be trained on, without exact duplicates, as it was written. unknown: as in
    training, characters that the vocabulary lacks are errors ("refuse"), or are taken as what
    replaces them, or join the vocabulary ("grow")."""
    with _Fixed(fix) as fixed:
        return _audit(
            [str(Path(path)) for path in paths],
            tokenizer,
            template,
            context,
            grade,
            max_new,
            corpus,
            heldout,
            fixed,
            unknown,
        )


def _audit(paths, tokenizer, template, context, grade, max_new, corpus, heldout, fixed, unknown):
    findings: list[Finding] = []
    repeats, texts, lines, sources = _Repeats(), Texts(), array("q"), array("i")
    if unknown == "grow":
        tokenizer = CharTokenizer(
            tokenizer.characters
            + "".join(sorted(set(template.characters()) - set(tokenizer.characters))),
            tokenizer.specials,
        )
    template.written_with(tokenizer.characters)
    names, known = {path: i for i, path in enumerate(paths)}, frozenset(tokenizer.characters)
    lengths, too_long, graded, targets = array("q"), 0, 0, 0
    prompts, replies, turns = array("q"), array("q"), Counter()
    openings, categories, endings, identities = Counter(), Counter(), Counter(), Counter()
    kept = rows = removed_same = removed_bad = 0
    asked_elsewhere = _heldout_prompts(heldout) if heldout else {}
    overlap, copied = Overlap(corpus) if corpus else None, array("q")
    marks = re.compile("|".join(map(re.escape, sorted(template.marks)))) if template.marks else None
    unended = []

    def place(number):
        return f"{paths[sources[number]]}, line {lines[number]}"

    def warn(kind, where, what, remedy):
        findings.append(Finding("warning", kind, where, what, remedy))

    def every_row():
        for path in paths:
            before = rows
            yield from scan(path, template)
            if rows == before:
                findings.append(
                    Finding(
                        "error",
                        "empty",
                        path,
                        "no conversation in it",
                        "write some, or leave the file out",
                    )
                )

    for c in every_row():
        rows += 1
        try:
            if isinstance(c, RowError):
                raise c
            for turn, m in enumerate(c.messages, 1):  # also of what cannot be trained on
                for kind, what in personal(plain(m["content"])):
                    article = "an" if kind[0] in "aeiou" else "a"
                    warn(
                        "personal data",
                        f"{c.where}, turn {turn}",
                        f"{what!r} looks like {article} {kind}",
                        "take it out, or invent one",
                    )
            written = c
            if unknown == "replace":
                c = c.mapped(lambda text: replaced(text, known))
                check_messages(c.messages, c.where, template)  # a text may be empty now
            elif (
                unknown == "grow"
                and (new := "".join(plain(m["content"]) for m in c.messages))
                and not known.issuperset(new)
            ):
                tokenizer = CharTokenizer(
                    tokenizer.characters + "".join(sorted(set(new) - known)), tokenizer.specials
                )
                known = frozenset(tokenizer.characters)
            example = encode_conversation(c, tokenizer, 1 << 62, template, grade)
            if len(example.input_ids) > context:
                too_long += 1
                lengths.append(len(example.input_ids))
                raise RowError(
                    c.where,
                    f"{len(example.input_ids)} tokens, the context holds {context}",
                    f"make it {len(example.input_ids) - context} shorter, or train with a longer"
                    " context",
                    "length",
                )
        except RowError as error:
            findings.append(Finding("error", error.kind, error.where, error.what, error.remedy))
            removed_bad += 1
            continue
        kept += 1
        lengths.append(len(example.input_ids))
        graded, targets = (
            graded + int((example.labels != IGNORE).sum()),
            targets + len(example.labels),
        )
        lines.append(c.line)
        sources.append(names[c.path])
        twin = repeats.meet(written)
        if twin is not None:
            removed_same += 1
            warn(
                "exact duplicate",
                c.where,
                f"the same as {place(twin)}",
                "remove one of the two (--fix does)",
            )
        else:
            fixed.add(written)
        texts.add(
            ""
            if twin is not None
            else " ".join(" ".join(plain(m["content"]) for m in c.messages).casefold().split())
        )
        turns[len(c.messages)] += 1
        if c.category:
            categories[c.category] += 1
        for turn, m in enumerate(c.messages, 1):
            said = plain(m["content"])
            if marks is not None and (typed := marks.search(said)):
                warn(
                    "control token",
                    f"{c.where}, turn {turn}",
                    f"the text spells {typed.group()!r}, which stays mere text",
                    "take it out: the template writes its tokens itself",
                )
            if m["role"] == "user":
                openings[_opening(said)] += 1
                prompts.append(len(said))
            elif m["role"] == "assistant":
                replies.append(len(said))
                endings[said.rstrip()[-1:] in ENDS] += 1
                if said.rstrip()[-1:] not in ENDS and len(unended) < 100_000:
                    unended.append((f"{c.where}, turn {turn}", said.rstrip()[-20:]))
                if said != said.strip():
                    warn(
                        "blanks",
                        f"{c.where}, turn {turn}",
                        "the reply begins or ends with blanks, which the model would learn",
                        "take them out",
                    )
                if len(said) >= max_new:
                    warn(
                        "long reply",
                        f"{c.where}, turn {turn}",
                        f"a reply of {len(said)} tokens and its end; at inference at most"
                        f" {max_new}",
                        "shorten it, or allow more tokens when you chat (--tokens)",
                    )
                for claim in re.findall(r"\bI am (?:a|an|the) [\w']+(?: [\w']+)?", said)[:1]:
                    identities[claim] += 1
                if overlap:
                    length, at = overlap.longest(said)
                    copied.append(length)
                    if length >= COPIED:
                        warn(
                            "copied from the corpus",
                            f"{c.where}, turn {turn}",
                            f"{length} characters in a row stand in the "
                            f"corpus too (character {at:,}): {_short(corpus[at : at + length])}",
                            "write it in words of its own, unless quoting is meant",
                        )
        if not c.is_text and (key := prompt_key(c.prompt)) in asked_elsewhere:
            warn(
                "overlap with held-out",
                c.where,
                f"the prompt {_short(c.prompt)} is held out at {asked_elsewhere[key]}",
                "remove one of the two: what was trained on measures nothing",
            )
    if (
        endings[False] and endings[True] >= 9 * endings[False]
    ):  # where most replies end so, the others look cut
        for where, end in unended:
            warn(
                "cut reply",
                where,
                f"the reply ends with {end!r}, where {endings[True]:,} others end with a mark",
                "complete it, if it was cut",
            )
    for first, second, alike in near_duplicates(texts):
        warn(
            "near duplicate",
            place(second),
            f"{alike:.0%} of its pieces stand in {place(first)} too",
            "keep one, unless the difference matters",
        )
    for second, first in repeats.contradictions():
        warn(
            "contradiction",
            place(second),
            f"its prompt has another answer at {place(first)}",
            "keep one answer, unless both are meant",
        )
    findings.sort(key=lambda f: _place(f.where, names))
    kinds = Counter((f.severity, f.kind) for f in findings)
    return {
        "files": [str(p) for p in paths],
        "rows": rows,
        "trainable": kept,
        "turns": dict(sorted(turns.items())),
        "errors": sum(n for (s, _), n in kinds.items() if s == "error"),
        "warnings": sum(n for (s, _), n in kinds.items() if s == "warning"),
        "kinds": [{"severity": s, "kind": k, "count": n} for (s, k), n in sorted(kinds.items())],
        "context": context,
        "template": template.name,
        "grade": grade,
        "characters": len(tokenizer.characters),
        "tables": {
            path: str(read_table(path))
            for path in paths
            if Path(path).suffix.lower() in (".csv", ".tsv")
        },
        "tokens": census(lengths),
        "too_long": too_long,
        "prompt_length": census(prompts),
        "reply_length": census(replies),
        "max_new": max_new,
        "graded_targets": graded,
        "targets": targets,
        "graded_share": graded / targets if targets else None,
        "prompt_types": diversity(openings),
        "categories": diversity(categories) if categories else None,
        "identities": identities.most_common(5),
        "corpus_overlap": {**census(copied), "from": GRAM} if overlap else None,
        "fixed": (
            {
                "path": str(fixed.path),
                "kept": kept - removed_same,
                "removed_duplicates": removed_same,
                "removed_untrainable": removed_bad,
            }
            if fixed.path
            else None
        ),
        "findings": findings,
    }


def _short(text: str, most: int = 48) -> str:
    return repr(text if len(text) <= most else text[: most - 3] + "...")


_PLACE = re.compile(r"(.*), line (\d+)(?:, turn (\d+))?")


def _place(where: str, order: dict):
    m = _PLACE.match(where)
    return (order.get(m[1], 0), int(m[2]), int(m[3] or 0)) if m else (0, 0, 0)


def _heldout_prompts(path: str) -> dict[str, str]:
    """prompt_key -> where, of a file of {"prompt": ...} or of conversations in any format and with
    any role; a DataError if it is neither."""
    try:
        found = {
            prompt_key(p["prompt"]): f"{path} ({_short(p['prompt'])})" for p in read_prompts(path)
        }
    except RowError:
        found = {
            prompt_key(c.prompt): c.where for c in read_conversations(path, CHATML) if not c.is_text
        }
    if not found:
        raise DataError(f"{path}: no prompt in it")
    return found


class _Fixed:
    """The file of --fix: written beside its place, moved there at the end of a `with` that went
    well, never onto something."""

    def __init__(self, path: str | None):
        self.path = None if path is None else Path(path)
        if self.path is not None and self.path.suffix != ".jsonl":
            raise UsageError(
                f"--fix {path}: JSON lines are written; give it a name that ends with .jsonl"
            )
        if self.path is not None and self.path.exists():
            raise UsageError(f"--fix {path}: there is something already; choose another name")

    def __enter__(self):
        if self.path is not None:
            try:
                self.file = open(
                    self.path.with_name(f"{self.path.name}.{os.getpid()}"), "x", encoding="utf-8"
                )
            except OSError as error:
                raise UsageError(
                    f"--fix {self.path}: cannot be written ({error.strerror}); choose a place"
                    " that can"
                ) from None
        return self

    def add(self, c: Conversation) -> None:
        if self.path is not None:
            row = {"text": c.messages[0]["content"]} if c.is_text else {"messages": c.messages}
            self.file.write(
                json.dumps(
                    row | ({"category": c.category} if c.category else {}), ensure_ascii=False
                )
                + "\n"
            )

    def __exit__(self, kind, *_):
        if self.path is not None:
            temporary = Path(self.file.name)
            try:
                self.file.close()
                if kind is None:
                    temporary.rename(self.path)
            finally:
                temporary.unlink(missing_ok=True)
