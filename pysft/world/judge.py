"""The exact judge: it knows the truth, so its verdict about a reply needs no model.

    right        the reply states the true value, in any wording, and nothing that is false
    wrong        it states or denies something else, or speaks of somebody else
    refused      it says that the answer is not known, or that there is no such name or day
    malformed    it does none of these: it is empty, cut off, babble, or repeats the question

It reads a reply as a list of mentions: names and values, each with the clause that it stands in
(reading.py). A value belongs to the name before it. The verdict depends on the words alone, not on
spaces, on the final stop, or on the case of the first letter. The time is linear in the length."""

from pysft.world.ask import Question
from pysft.world.facts import World
from pysft.world.lexicon import BY_NAME, FACTS, MONTHS
from pysft.world.reading import DENYING, Index, Mention, Reading

VERDICTS = ("right", "wrong", "refused", "malformed")
# What refuses in so many words, even beside a value.
_REFUSALS = (
    "i know not; i do not know; i don't know; i cannot say; i can't say; i cannot tell; i can't"
    " tell; i have no idea; no such name; no such person; no such day; never heard of"
)
# A refusal denies something (DENYING) and speaks of knowing, telling or being there.
_KNOWING = set(
    "know knows knew known say says said tell tells told hear heard write writes written find found"
    " record records text texts book books story stories tale tales information answer answers"
    " mention mentions mentioned exist exists name named names person called speak speaks spoken"
    " remember read learned learn met seen appear appears such believe idea sure date day days"
    " calendar word ears clue knowledge notes blank bell wot there".split()
)
# These refuse by themselves.
_UNKNOWING = set("unknown strange stranger silent dunno naught nought clueless forget".split())
_OF_PEOPLE = {fact.name for fact in FACTS if "person" in fact.of and fact.values}
_ASKING_BACK = (
    "who can say; who can tell; who knows; making it up; search me; a blank to me; rings no bell"
)
_OF_DAYS = {"day", "days", "date", "dates", "calendar", "month", "months"}
_OF_NAMES = {"name", "names", "person"}
_ENDING = {"days", "end", "ends", "stops", "last"}  # "September ends on the thirtieth"
# Verbs of a relation: those whose subject is the person to whom it leads, and those whose subject
# is the one that it leads from.
_BACKWARD = {
    "seller": {"sells", "sell", "supplies"},
    "teacher": {"teaches", "teach", "instructs"},
    "keeper": {"keeps", "owns", "holds"},
}
_FORWARD = {"seller": {"buys", "buy", "pays"}, "teacher": {"learns", "taught"}, "keeper": {"kept"}}
# Words by which a sentence speaks of a relation.
SAID_BY = {
    "neighbour": {"neighbour", "next", "beside", "wall"},
    "seller": {"seller", "sells", "buys", "flour", "served"},
    "teacher": {"teacher", "teaches", "taught", "learns", "lesson", "master"},
    "keeper": {"keeper", "keeps", "kept", "belongs", "keys"},
}
_OBJECTS = {"her", "him", "it", "them"}  # "the one who teaches her" is the right way round
_MONTHS = {month.lower() for month in MONTHS}


class ExactJudge:
    """Judges replies to questions about one world."""

    def __init__(self, world: World):
        self.world = world
        self._index = Index(world)

    def read(self, question: Question, reply: str) -> Reading:
        """Return what a reply mentions, as it is read for the verdict."""
        likely = [n for n in (question.about, question.through, question.value) if n]
        kinds = {fact for entity in self._subjects(question) for fact in entity.facts}
        kinds |= {question.fact, *_OF_PEOPLE} if question.fact != "feast" else {"feast"}
        asked = [question.about, question.through]
        return Reading(reply, question.prompt, self._index, asked, likely, question.fact, kinds)

    def judge(self, question: Question, reply: str, ended: bool = True) -> str:
        """Return the verdict about a reply. ended: False if the reply was cut off."""
        reading = self.read(question, reply)
        if not ended or not reading.words:
            return "malformed"
        answers, others = self._answers(question, reading)
        if any(m.negated for m in answers):
            if any(m.negated and m.value == question.value for m in answers):
                return "wrong"
            answers = [m for m in answers if not m.negated]
            if not answers:
                return "wrong"
        if answers:
            return self._verdict_on(question, reading, answers, others)
        if self._refuses(question, reading):
            named = {m.value for m in reading.mentions if m.kind == "name"}
            fine = named <= {question.about, question.through} and self._fits(question, reading)
            true = question.value and all(self._is_true(question, m) for m in others)
            return "refused" if fine and (true or not others) else "wrong"
        denies = any(DENYING & set(some) for some in reading.statements)
        says_something = reading.mentions or denies or reading.is_bare
        return "wrong" if says_something else "malformed"

    def _subjects(self, question: Question) -> list:
        """The entities that a reply may speak about."""
        names = (question.about, question.through)
        return [self.world.by_name[name] for name in names if name in self.world.by_name]

    # ------------------------------------------------------------------------ what is answered

    def _answers(self, question: Question, reading: Reading) -> tuple[list, list]:
        """Return (mentions of a value that was asked for, all other mentions of values)."""
        if BY_NAME.get(question.fact) and not BY_NAME[question.fact].values:
            subjects = {question.about, question.through} - {question.value}
            found = [m for m in reading.stated if m.kind == "name" and m.value not in subjects]
            return found, [m for m in reading.stated if m.kind != "name"]
        found, others = [], []
        for m in (m for m in reading.stated if m.kind != "name"):
            is_asked = m.kind == question.fact and self._is_of(question, m)
            (found if is_asked else others).append(m)
        return found, others

    def _is_of(self, question: Question, mention: Mention) -> bool:
        """True if a value is said of the one that was asked about."""
        owner = mention.owner
        if owner is None or owner.value == (question.through or question.about):
            return True
        # "The teacher of Tamsin Farrow keeps a toad" speaks of the teacher.
        return owner.value == question.about and not owner.begins

    def _verdict_on(self, question, reading, answers: list, others: list) -> str:
        values = {m.value for m in answers}
        subject = self.world.by_name.get(question.through or question.about)
        if not question.value or reading.holds(_REFUSALS):
            return "wrong"
        if all(m.kind == "name" for m in answers) and not reading.lists_names():
            values -= {m.value for m in answers if self._is_another(question, subject, m, reading)}
            if {*answers} <= self._reversed(question, reading):
                return "wrong"
        elif self._strange(question, reading.stated):
            return "wrong"
        goes_on = any(reading.words[m.end : m.end + 2] == ["and", "of"] for m in answers)
        if values != {question.value} or goes_on:  # "the feast of lanterns and of boats"
            return "wrong"
        return "right" if all(self._is_true(question, m) for m in others) else "wrong"

    def _is_another(self, question: Question, subject, mention: Mention, reading: Reading) -> bool:
        """True if a name beside the answer is that of somebody to whom another relation leads, and
        its sentence says so: "her neighbour is Ada Brook, and her teacher ..."."""
        words = set(reading.sentences[mention.sentence])
        return mention.value != question.value and any(
            subject.facts[relation] == mention.value and words & SAID_BY[relation]
            for relation in SAID_BY.keys() & subject.facts.keys() - {question.fact}
        )

    def _is_true(self, question: Question, mention: Mention) -> bool:
        """True if a value beside the answer is true of whom it is said, or says nothing of them."""
        if mention.negated:
            return True
        names = [mention.owner.value] if mention.owner else [question.about, question.through]
        known = [self.world.by_name[name] for name in names if name in self.world.by_name]
        having = [entity for entity in known if mention.kind in entity.facts]
        if mention.owner and not known:
            return False
        return not having or any(e.facts[mention.kind] == mention.value for e in having)

    def _reversed(self, question: Question, reading: Reading) -> set[Mention]:
        """Return the names that a relation leads to the wrong way round: Ada, if the reply says
        that Ivo teaches Ada, and Ada teaches Ivo."""
        subject = question.through or question.about
        names = [m for m in reading.stated if m.kind == "name"]
        backward, forward = (verbs.get(question.fact, set()) for verbs in (_BACKWARD, _FORWARD))
        found = set()
        for a, b in zip(names, names[1:]):
            if a.sentence != b.sentence or subject not in (a.value, b.value):
                continue
            between = reading.words[a.end : b.start]
            verbs = {v for v, next_ in zip(between, [*between[1:], ""]) if next_ not in _OBJECTS}
            if verbs & (backward if a.value == subject else forward):
                found.add(b if a.value == subject else a)
        return found

    # -------------------------------------------------------------------------------- refusals

    def _strange(self, question: Question, mentions: list) -> bool:
        """True if somebody is named whom a reply to this question has no reason to name."""
        fine = {question.about, question.through, question.value}
        for name in (question.about, question.through):
            if name in self.world.by_name:
                fine |= set(self.world.by_name[name].facts.values())
        return any(m.kind == "name" and m.value not in fine for m in mentions)

    def _refuses(self, question: Question, reading: Reading) -> bool:
        words = set(reading.words)
        if words & _UNKNOWING or reading.holds(_ASKING_BACK):
            return True
        if words & _MONTHS and words & _ENDING:
            return True
        if any(reading.is_denied(m) for m in reading.mentions if m.kind == "name"):
            return True  # "there is no Orson Kovacs"
        return any(set(some) & DENYING and set(some) & _KNOWING for some in reading.sentences)

    def _fits(self, question: Question, reading: Reading) -> bool:
        """True if the reason of a refusal fits the question: a day for a day, a name for a name."""
        words = set(reading.words)
        months = words & _MONTHS
        if question.fact != "feast":
            return not months and not words & _OF_DAYS
        if months - {question.about.split()[-1].lower()} or words & _OF_NAMES:
            return False
        return not (question.value and "days" in words)  # it does have that many
