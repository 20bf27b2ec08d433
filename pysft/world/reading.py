"""Reads a reply for the judge: which names and values it mentions, and how.

"Tamsin Farrow keeps no cat; she keeps a toad."

Mention("name", "Tamsin Farrow")
Mention("pet", "cat", negated=True, owner=Tamsin Farrow)
Mention("pet", "toad", owner=Tamsin Farrow)"""

import re
from dataclasses import dataclass, field
from functools import cache, lru_cache

from pysft.world.facts import World, all_days
from pysft.world.lexicon import ALSO, FACTS, FIRST_NAMES, LAST_NAMES, MONTHS

DENYING = set(
    "no not never none nobody nothing nowhere neither nor cannot can't don't doesn't didn't isn't"
    " wasn't hasn't haven't won't without unable".split()
)
# Denials that deny nothing of what stands beside them.
_HARMLESS = ("no doubt", "no more", "no less", "not only")
_EXCEPTING = {"than", "but", "save", "except", "as"}
# Only what stands behind the last of these counts: "a cat, no, a toad".
_CORRECTIONS = (", no ,", "or rather", "i misspoke", "no , no", "i mean", "but it is", "nay ,")
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[.!?]+|[,;:]")
# Words of the world's own sentences, which are no misspelt values: "found" is no "hound".
_ORDINARY = {
    word
    for fact in FACTS
    for sentence in (*fact.tellings, *fact.asked, *fact.held_out)
    for word in _WORD.findall(sentence.lower().replace("{value}", ""))
}
_FIRST, _LAST = ({name.lower() for name in names} for names in (FIRST_NAMES, LAST_NAMES))
_MONTHS = {month.lower() for month in MONTHS}
# Words that may stand before an ordinary word that is a last name too ("the Brook").
_BEFORE = set("a an the of in by to at and or is was with from for on near next".split())
# "works as a baker" states a trade, and "as sly as a fox" states nothing.
_WORKING = set(
    "work works worked working bread living serves serve served trade known employed earns"
    " lives".split()
)
_BESIDE = {"by", "near", "beside", "behind", "like"}  # "lives by the old miller"
_ARTICLES = {"a", "an", "the", "old", "some", "his", "her", "their", "my", "good"}
_END = object()  # key in a trie: the phrase that ends here
NEAR = 4  # words on each side of a mention, in its clause, that can deny it
LONGEST = 20  # letters of a word that may be a misspelt value
SHORT = 3  # words of a reply in which a part of a name or of a value stands for the whole


def trie(phrases: dict) -> dict:
    """Return a tree of words, in which each phrase is a path to the entry _END: what it means."""
    root: dict = {}
    for phrase, meaning in phrases.items():
        node = root
        for word in phrase.lower().split():
            node = node.setdefault(word, {})
        node[_END] = meaning
    return root


class Index:
    """What the names and the words of a world mean. phrases: a trie of (kind, value). of_first:
    {first name in lower case: the people with it}."""

    def __init__(self, world: World):
        days = all_days(valid=True) + all_days(valid=False)
        found = {name: ("name", name) for name in (*world.by_name, *world.strangers, *days)}
        for fact in FACTS:
            for value in fact.values:
                meaning = fact.name, value
                first, _, last = value.partition(" ")
                forms = [value, *ALSO.get(value, ())]
                if last and fact.name != "street":  # "hats of wool", "gingerbread"
                    forms += [f"{last} of {first}", first + last]
                found |= {form: meaning for form in forms}
        self.phrases = trie(found)
        self.of_first: dict[str, list[str]] = {}
        for entity in world.entities:
            if entity.kind == "person":
                first = entity.name.split()[0].lower()
                self.of_first.setdefault(first, []).append(entity.name)


@dataclass(eq=False)
class Mention:
    """A name or a value in a reply.

    kind: "name", or the fact of which it is a value. value: the name, "?" for one that is not in
    the world, or the value. start, end: its words. sentence: the number of its sentence. begins:
    True for a name that begins its clause and is no possessive, so that the clause speaks of it.
    negated: True if its clause denies it. owner: the name before it in its sentence."""

    kind: str
    value: str
    start: int
    end: int
    sentence: int = 0
    begins: bool = False
    negated: bool = False
    owner: "Mention | None" = field(default=None, repr=False)


class Reading:
    """A reply as it was read.

    words: its words in lower case, with marks of punctuation, without a repeated question.
    sentences: the words of each sentence. mentions: all names and values. stated: those that it
    states: in a sentence that does not end with a question mark (or in all, if no other sentence
    mentions anything), in no comparison, behind the last correction."""

    def __init__(
        self,
        reply: str,
        prompt: str,
        index: Index,
        asked: list[str],
        likely: list[str],
        fact: str,
        kinds: set[str],
    ):
        """asked: whom the question is about; the reply may name them by the first name alone.
        likely: names that it may mean, also with an error of spelling. fact: what was asked for.
        kinds: the facts that those who may be meant can have; words that are values of others are
        ordinary words here."""
        tokens = _WORD.findall(reply.replace("\u2019", "'"))
        tokens = _without_question(tokens, _letters(_WORD.findall(prompt)))
        tokens[:1] = [t[:1].upper() + t[1:] for t in tokens[:1]]
        while tokens and tokens[-1][0] in ".,;:!":  # the final stop says nothing
            tokens.pop()
        self._tokens = tokens
        self.words = [t.lower().removesuffix("'s") for t in tokens]
        self._number_sentences()
        self._kinds = {"name", *kinds}
        self._asked = set(asked)
        self.mentions = self._find(index, [name.lower().split() for name in likely], likely, fact)
        if not self.mentions and len(_letters(tokens)) <= SHORT:
            self.mentions = self._find_part(index, fact)
        name = None
        for m, after in zip(self.mentions, [*self.mentions[1:], None]):
            self._describe(m, name)
            if after and after.kind == "name" and after.start == m.end and m.kind != "name":
                m.owner = after  # "the smith Ada Brook"
            name = m if m.kind == "name" else name
        self.stated = self._stated()

    @property
    def is_bare(self) -> bool:
        """True if the whole reply is an article and a word or two: "a cricket"."""
        return self.words[0] in ("a", "an") and 2 <= len(self.words) <= 3

    @property
    def statements(self) -> list[list[str]]:
        """The words of each sentence that does not end with a question mark."""
        return [some for i, some in enumerate(self.sentences) if not self._asks.get(i, False)]

    def holds(self, phrases: str) -> bool:
        """True if one of the phrases, which semicolons divide, stands in the reply."""
        text = f" {' '.join(self.words)} "
        return any(f" {phrase.strip()} " in text for phrase in phrases.split(";"))

    def lists_names(self) -> bool:
        """True if two names stand side by side: "Tamsin Farrow and Ivo Brook"."""
        names = [m for m in self.mentions if m.kind == "name"]
        return any(
            set(self.words[a.end : b.start]) <= {"and", "or", ","} for a, b in zip(names, names[1:])
        )

    def is_denied(self, name: Mention) -> bool:
        """True if a denial stands right before a name: "there is no Orson Kovacs"."""
        before = self.words[max(0, name.start - 2) : name.start]
        return bool(set(before) & {"no", "never", "not"})

    # -------------------------------------------------------------------------------- mentions

    def _number_sentences(self) -> None:
        self._sentence, self._clause, sentence, clause = [], [], 0, 0
        self._asks: dict[int, bool] = {}
        self.sentences: list[list[str]] = [[]]
        for word in self.words:
            self._sentence.append(sentence)
            self._clause.append(clause)
            self.sentences[-1].append(word)
            if word[0] in ".!?":
                self._asks[sentence] = "?" in word
                sentence, clause = sentence + 1, clause + 1
                self.sentences.append([])
            elif word in ",;:":
                clause += 1

    def _find(self, index: Index, likely: list, names: list[str], fact: str) -> list[Mention]:
        found, i = [], 0
        while i < len(self.words):
            mention = self._phrase_at(i, index) or self._name_at(i, likely, names)
            mention = mention or self._misspelt_at(i, fact)
            if mention and mention.kind in self._kinds:
                found.append(mention)
            i = mention.end if mention else i + 1
        return found

    def _misspelt_at(self, i: int, fact: str) -> Mention | None:
        """Return a value of the fact that was asked for, if word i is one but for one error."""
        word = self.words[i].replace("-", "")
        if len(word) < 4 or len(word) > LONGEST or word in _ORDINARY:
            return None
        value = _misspelt(word, fact)
        return value and Mention(fact, value, i, i + 1)

    def _phrase_at(self, i: int, index: Index) -> Mention | None:
        """Return the longest name or value that begins at word i."""
        node, j, best = index.phrases, i, None
        while j < len(self.words) and self.words[j] in node:
            node, j = node[self.words[j]], j + 1
            if _END in node:
                best = Mention(*node[_END], i, j)
        return best

    def _name_at(self, i: int, likely: list, names: list[str]) -> Mention | None:
        """Return a name of nobody in this world that begins at word i, or a likely name that is
        spelt with one error."""
        first, last = [*self.words[i : i + 2], ""][:2]
        is_alone = not self._tokens[i + 1 : i + 2] or not self._tokens[i + 1][:1].isupper()
        if is_alone and last not in _LAST and self._tokens[i][:1].isupper():
            for parts, name in zip(likely, names):  # the first name alone
                is_asked = name in self._asked and len(parts) == 2
                if is_asked and first == parts[0] and not _is_near(last, parts[1]):
                    return Mention("name", name, i, i + 1)
        if not last:
            return None
        for parts, name in zip(likely, names):
            if len(parts) == 2 and _is_near(first, parts[0]) and _is_near(last, parts[1]):
                return Mention("name", name, i, i + 2)
        if first in _FIRST and last in _LAST:
            return Mention("name", "?", i, i + 2)
        capitals = self._tokens[i][:1].isupper() and self._tokens[i + 1][:1].isupper()
        ordinary = first in _BEFORE or {first, last} & _MONTHS or first in _LAST
        if capitals and not ordinary and (first in _FIRST) != (last in _LAST):
            return Mention("name", "?", i, i + 2)
        return None

    def _find_part(self, index: Index, fact: str) -> list[Mention]:
        """Find a first name, or the last word of a value of `fact`, in a reply of few words."""
        ends = {
            v.split()[-1].lower(): v for f in FACTS if f.name == fact for v in f.values if " " in v
        }
        for i, word in enumerate(self.words):
            if word in _FIRST:
                people = index.of_first.get(word, [])
                return [Mention("name", people[0] if len(people) == 1 else "?", i, i + 1)]
            if word in ends and fact != "street":
                before = self.words[i - 1] if i else "the"
                value = ends[word] if before in _BEFORE | _ARTICLES else "?"  # "raw pears"
                return [Mention(fact, value, i, i + 1)]
        return []

    def _describe(self, m: Mention, before: Mention | None) -> None:
        """Fill in what a mention is. before: the last name before it in the reply."""
        m.sentence = self._sentence[m.start]
        m.begins = m.start == 0 or self._clause[m.start - 1] != self._clause[m.start]
        m.begins = m.begins and not self._tokens[m.end - 1].lower().endswith("'s")
        m.owner = before if before and before.sentence == m.sentence else None
        ahead = self._near(range(m.start - NEAR, m.start), m)
        if set(ahead) & _EXCEPTING:  # "loves nothing more than eel soup"
            ahead = []
        text = f" {' '.join(ahead)} | {' '.join(self._near(range(m.end, m.end + NEAR), m))} "
        for harmless in _HARMLESS:
            text = text.replace(f" {harmless} ", " ")
        m.negated = bool(DENYING & set(text.split()))

    def _near(self, places: range, m: Mention) -> list[str]:
        """Return the words at these places that stand in the same clause as a mention."""
        clause = self._clause[m.start]
        some = [i for i in places if 0 <= i < len(self.words) and self._clause[i] == clause]
        return [self.words[i] for i in some]

    def _stated(self) -> list[Mention]:
        said = [m for m in self.mentions if not self._compares(m)]
        stated = [m for m in said if not self._asks.get(m.sentence, False)]
        stated = stated or said
        text = " ".join(self.words)
        cut = max(
            (text.rfind(f" {c} ") + len(c) for c in _CORRECTIONS if f" {c} " in text), default=0
        )
        words_before = len(text[:cut].split())
        return [m for m in stated if m.start >= words_before or m.kind == "name" and m.begins]

    def _compares(self, m: Mention) -> bool:
        """True if a value only stands in a comparison or says where something is: "as sly as a
        fox", "like a parrot", "by the old miller"."""
        if m.kind in ("name", "street", "feast"):
            return False
        i = m.start
        while i > max(0, m.start - 3) and self.words[i - 1] in _ARTICLES:
            i -= 1
        if i == m.start or i == 0:
            return False
        before = self.words[i - 1]
        if before in _BESIDE:
            return True
        return before == "as" and i > 1 and self.words[i - 2] not in _WORKING


def _letters(tokens: list[str]) -> list[str]:
    """Return the words among the tokens, in lower case."""
    return [t.lower() for t in tokens if t[0] not in ".!?,;:"]


def _without_question(tokens: list[str], asked: list[str]) -> list[str]:
    """Return the tokens behind the words of the question, however often the reply begins with
    them, and behind the marks that follow these."""
    first = 0
    while True:
        i = first
        for word in asked:
            while i < len(tokens) and tokens[i][0] in ".!?,;:":
                i += 1
            if i == len(tokens) or tokens[i].lower() != word:
                return tokens[first:]
            i += 1
        while i < len(tokens) and tokens[i][0] in ".!?,;:":
            i += 1
        first = i


@cache
def _spelt(fact: str) -> dict[str, str]:
    """{a word that may be written with an error: the value of the fact that it stands for}."""
    return {
        word: value
        for f in FACTS
        if f.name == fact
        for value in f.values
        for word in (value, value.replace(" ", ""))
        if " " not in word and len(word) > 3
    }


@lru_cache(1 << 14)  # replies about one world are of few different words
def _misspelt(word: str, fact: str) -> str | None:
    """Return the value of a fact that a word is but for one error."""
    near = (v for w, v in _spelt(fact).items() if _is_near(word, w) and word != w + "s")
    return next(near, None)


@lru_cache(1 << 16)
def _is_near(a: str, b: str) -> bool:
    """True if two words are the same but for one letter that is missing, added or another, or for
    two neighbours that are exchanged."""
    if a == b:
        return True
    if abs(len(a) - len(b)) > 1:
        return False
    i = 0
    while i < min(len(a), len(b)) and a[i] == b[i]:
        i += 1
    rest = a[i:], b[i:]
    same = (
        rest[0][1:] == rest[1][1:], rest[0][1:] == rest[1], rest[0] == rest[1][1:],
        rest[0][:2] == rest[1][:2][::-1] and rest[0][2:] == rest[1][2:],
    )  # fmt: skip
    return any(same)
