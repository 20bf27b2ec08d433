"""The stations of `curate judge` that need no judge. Each looks at a row and says why it would drop
it, or nothing.

form       a turn is empty, holds a control token of a known template or half of a character, or
           cannot be written with the run's template and vocabulary
length     the reply is too long or too short, or the row does not fit the run's context
words      too few words of the reply are known
topic      the reply names no content word of its prompt
duplicate  an earlier row has the same prompt and reply, apart from white space
copy       the row is a near copy of a seed or of one of its exchanges, or of an earlier row that
           was kept"""

from collections.abc import Callable
from dataclasses import dataclass

from pysft.errors import RowError, UsageError
from pysft.jobs.curate.seeds import exchanges
from pysft.measure.near_copies import NearCopies
from pysft.measure.probe import stored_probe
from pysft.measure.words import subjects, words
from pysft.run.stage import Stage, measured_stage
from pysft.text.characters import typed
from pysft.text.conversation import Conversation, plain
from pysft.text.corpora import read_corpus, shipped
from pysft.text.curated import FORM, Curated
from pysft.text.examples import encode_conversation
from pysft.text.formats import read_conversations
from pysft.text.near_duplicates import NEAR
from pysft.text.sampled import is_usable
from pysft.text.scripts import unspaced
from pysft.world.facts import make

LENGTH, WORDS, TOPIC = "length", "words", "topic"
DUPLICATE, COPY = "duplicate", "copy"
# Least share of a reply's words that are known: none may be new in a reply of fewer than ten words,
# one in ten in a longer one.
KNOWN = 0.9

# A station: its reason, and what says of a row why it is dropped (None: it stays).
Station = tuple[str, Callable[[Curated], str | None]]


@dataclass(frozen=True)
class Limits:
    """What rows are dropped for.

    longest, shortest: of a reply, in tokens with a run and else in characters; None: no limit.
    known: the least share of known words; None does not look at words. topic: False does not look
    at topics. near: from which two texts are near copies (measure/near_copies.py). A UsageError if
    a number is not possible."""

    longest: int | None = None
    shortest: int | None = None
    known: float | None = KNOWN
    topic: bool = True
    near: float = NEAR

    def __post_init__(self):
        for name, value in (("known", self.known), ("near", self.near)):
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"--{name} {value}: expected a share above 0 and at most 1")
        if None not in (self.longest, self.shortest) and self.longest < self.shortest:
            raise UsageError(
                f"--longest {self.longest} is below --shortest {self.shortest}, so no reply fits"
            )


def stations_of(
    rows: list[Curated],
    limits: Limits,
    stage: Stage | None = None,
    seeds: list[Curated] = (),
    say: Callable[[str], None] = print,
) -> tuple[list[Station], Callable[[Curated], None]]:
    """Return (the stations in their order, keep). keep(row) must be called for each row that was
    kept, at the last, before the next row is looked at.

    rows: all that will come. stage: of the run that the rows are for. MissingInput if it stored no
    known words."""
    stations = [(FORM, lambda row: _off_form(row, stage))]
    stations.append((LENGTH, lambda row: _off_length(row, limits, stage)))
    scripts = unspaced(row.reply for row in rows)
    if scripts and (limits.known is not None or limits.topic):
        say(
            f"the replies are written in {' and '.join(scripts)}, without spaces between words, so"
            " words and topics are not looked at"
        )
    elif not scripts:
        if limits.known is not None:
            known = known_words(stage, seeds)
            stations.append((WORDS, lambda row: _off_words(row, known, limits.known)))
        if limits.topic:
            stations.append((TOPIC, _off_topic))
    seen = {}

    def duplicate(row):
        turns = tuple((m["role"], *plain(m["content"]).split()) for m in row.messages)
        if turns in seen:
            return f"like {seen[turns]}"
        seen[turns] = row.where
        return None

    # A short row may copy one exchange of a seed, and a longer row the seed as a whole.
    sown = [(texts, s.where) for s in seeds for texts in {_texts(s), *exchanges(s)}]
    copies = NearCopies([*(texts for texts, _ in sown), *map(_texts, rows)], limits.near)
    for texts, where in sown:
        copies.add(*texts, where)

    def copy(row):
        first = copies.of(*_texts(row))
        return None if first is None else f"nearly like {first}"

    stations += [(DUPLICATE, duplicate), (COPY, copy)]
    return stations, lambda row: copies.add(*_texts(row), row.where)


def known_words(stage: Stage | None, seeds: list[Curated] = ()) -> set[str]:
    """Return the words that are known: those of the run's corpus and of the conversations that it
    was trained on, with the names and values of its world; without a run those of the shipped
    corpus and conversations; and those of the seeds."""
    if stage is None:
        known = set(words(read_corpus("plays")))
        for chat in read_conversations(shipped("conversations.jsonl")):
            known |= {w for m in chat.messages for w in words(plain(m["content"]))}
    else:
        known = set(stored_probe(measured_stage(stage.folder), stage.template).known_words)
        if stage.world is not None:
            world = make(stage.world)
            told = (text for e in world.entities for text in (e.name, *e.facts.values()))
            known |= {word for text in told for word in words(text)}
    return known | {word for seed in seeds for text in _texts(seed) for word in words(text)}


def _texts(row: Curated) -> tuple[str, str]:
    """The prompt and the reply of a row, as one text each."""
    return "\n".join(plain(m["content"]) for m in row.prompt), row.reply


def _off_form(row: Curated, stage: Stage | None) -> str | None:
    for number, message in enumerate(row.messages, 1):
        if not is_usable(plain(message["content"])):
            return f"turn {number} is empty or holds a control token"
    fault = _fault(row, stage)
    return None if fault is None or fault.kind == "length" else fault.what


def _off_length(row: Curated, limits: Limits, stage: Stage | None) -> str | None:
    size, unit = len(row.reply), "characters"
    if stage is not None:
        size, unit = len(stage.tokenizer.encode(typed(row.reply, stage.tokenizer))), "tokens"
    if limits.longest is not None and size > limits.longest:
        return f"{size:,} {unit}, more than {limits.longest:,}"
    if limits.shortest is not None and size < limits.shortest:
        return f"{size:,} {unit}, fewer than {limits.shortest:,}"
    fault = _fault(row, stage)
    return None if fault is None else fault.what


def _fault(row: Curated, stage: Stage | None) -> RowError | None:
    """Why the run could not be trained on a row."""
    if stage is None:
        return None
    # Without flags: what is graded of a row changes nothing about its form and its length.
    bare = [{"role": m["role"], "content": m["content"]} for m in row.messages]
    c = Conversation(bare, row.where, 0).mapped(lambda text: typed(text, stage.tokenizer))
    try:
        context = stage.model.config.context
        encode_conversation(c, stage.tokenizer, context, stage.template, "last")
    except RowError as error:
        return error
    return None


def _off_words(row: Curated, known: set[str], least: float) -> str | None:
    prompt, reply = _texts(row)
    own, said = {*words(prompt)}, words(reply)
    strange = [word for word in said if word not in known and word not in own]
    if len(said) - len(strange) >= least * len(said):
        return None
    shown = ", ".join(dict.fromkeys(strange[:3]))
    return f"{len(strange)} of {len(said)} words are not known: {shown}"


def _off_topic(row: Curated) -> str | None:
    said = [plain(m["content"]) for m in row.prompt if m["role"] == "user"]
    asked = subjects("\n".join(said))
    if not asked or asked & subjects(row.reply):
        return None
    return f"it names none of {', '.join(sorted(asked)[:5])}"
