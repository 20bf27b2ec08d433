"""The material of a run: all its text, read and checked before anything trains."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from pysft.errors import DataError, PysftError, RowError, UsageError
from pysft.inference.search import Search
from pysft.inference.table import Table
from pysft.measure.probe import Probe, make_probe
from pysft.text.characters import changed_note, replaced, write_with
from pysft.text.conversation import (
    Conversation,
    LeftOut,
    made_conversation,
    refuse_faults,
    with_thought,
)
from pysft.text.corpora import read_corpus, shipped, split_corpus
from pysft.text.examples import encode_all
from pysft.text.files import is_sheet
from pysft.text.formats import scan
from pysft.text.heldout import split_heldout
from pysft.text.repeats import quick_check
from pysft.text.spreadsheet import read_sheet
from pysft.text.template import Template
from pysft.text.templates import load_template
from pysft.text.tokenizer import Tokenizer
from pysft.text.tokenizers import vocabulary_of
from pysft.training.settings import Settings
from pysft.world.ask import trained_questions
from pysft.world.facts import make
from pysft.world.made import MADE
from pysft.world.sums import CHARACTERS, SUMS
from pysft.world.table import TABLE
from pysft.world.tell import tell
from pysft.world.town import Words, town
from pysft.world.transcripts import transcripts

TOOLS = "tools"  # the category of made transcripts
WORLD = "world"  # the name that stands for questions about the world in a list of files
FEW = 50  # with fewer conversations of one's own, all are trained on and none is held out


@dataclass
class Material:
    """All the text of a run.

    train_text, heldout_text: the two parts of the corpus. tokenizer: the base's, which can write
    the corpus. grown: the tuned model's, which also has the template's tokens and,
    with --unknown grow, the new characters of the conversations.
    conversations, pairs: what is trained on. examples: (those of the conversations, those of the
    pairs). heldout: conversations that are only measured on. files: for a mixture, the number of
    each conversation's file. probe: what the model is measured with. notes: sentences that tell the
    user what was done to the data. is_altered: conversations were composed or left out while they
    were read. world_text: the text that tells of an invented world; "" without one."""

    train_text: str
    heldout_text: str
    tokenizer: Tokenizer
    template: Template
    grown: Tokenizer | None = None
    conversations: list = field(default_factory=list)
    pairs: list = field(default_factory=list)
    heldout: list = field(default_factory=list)
    examples: tuple[list, list] = ((), ())
    files: list | None = None
    probe: Probe | None = None
    notes: list[str] = field(default_factory=list)
    is_altered: bool = False
    world_text: str = ""

    def world_ids(self, tokenizer: Tokenizer) -> np.ndarray | None:
        """Return the world's text as ids; None without one."""
        return tokenizer.encode(self.world_text) if self.world_text else None


def text_alone(
    settings: Settings, corpus: str, template: Template, tokenizer: Tokenizer | None = None
) -> Material:
    """Return the material of a run that learns from no conversations. tokenizer: that of a model to
    begin from."""
    text = read_corpus(corpus, tokenizer)
    tokenizer = tokenizer or vocabulary_of(settings.data.tokenizer, text)
    tokenizer.encode(text, corpus)  # a given tokenizer may lack some of its characters
    return Material(
        *split_corpus(text), tokenizer, template, world_text=_world_text(settings, tokenizer)
    )


def _world_text(settings: Settings, tokenizer: Tokenizer) -> str:
    """Return the text that tells of the settings' world, "" without one. A DataError if the
    vocabulary lacks characters of it."""
    if settings.world is None:
        return ""
    text = tell(make(settings.world))
    tokenizer.encode(text, "the invented world")
    return text


def gather(
    settings: Settings,
    corpus: str,
    data: list[str] | None,
    tokenizer: Tokenizer | None = None,
    template: Template | None = None,
) -> Material:
    """Read the corpus and the conversations, and render them.

    data: files that replace the shipped conversations. tokenizer: that of a model to begin from.
    template: that of a resumed run, or of a model that was tuned before. A DataError names every
    row that cannot be trained on. A UsageError if the settings do not fit the data."""
    text = read_corpus(corpus, tokenizer)
    template = template or load_template(settings.data.template)
    tokenizer = tokenizer or vocabulary_of(settings.data.tokenizer, text)
    told = _world_text(settings, tokenizer)
    material = Material(*split_corpus(text), tokenizer, template, world_text=told)
    material.tokenizer.encode(text, corpus)  # a given tokenizer may lack some of its characters
    _refuse_mixture(settings, data)
    files = data or [str(shipped("conversations.jsonl"))]
    faults = _read(material, settings, files, bool(data))
    made = _made(material, settings)
    faults += _write(material, settings, made)
    _hold_out(material, settings, bool(data))
    _add_transcripts(material, settings)
    material.conversations += made
    more, dropped = _render(material, settings, bool(data))
    refuse_faults(faults + more)
    if dropped:
        material.notes.append(
            f"left out: {dropped:,} conversations that are longer than the context of"
            f" {settings.model.context}"
        )
    if not material.conversations and not material.pairs:
        fits = " that fits" if dropped else ""
        raise DataError(
            f"{', '.join(map(str, files))}: no conversation in it{fits}. The guide's page 'data'"
            " shows how a row looks"
        )
    material.files = _mixed_files(material, settings, data)
    sheets = [path for path in files if is_sheet(path)]
    material.notes += [f"{path}: {read_sheet(path)}" for path in sheets]
    read = [c for c in material.conversations if not c.last_only]
    material.notes += quick_check(read + material.pairs)
    material.probe = make_probe(
        material.train_text,
        material.heldout_text,
        trained=material.conversations + material.pairs,
        recalled=material.pairs or material.conversations,
        heldout=material.heldout,
        can_ask=lambda prompt: material.grown.can_write(prompt),
        grade=settings.data.grade,
        own_data=bool(data),
    )
    return material


def no_transcripts(corpus: str) -> str:
    """Return why no transcripts of tool use can be made from the words of a corpus, or nothing can
    be searched on this machine; "" if they can."""
    parts = split_corpus(read_corpus(corpus))
    try:
        Search([])
        for part in parts:  # the tool test needs words as well
            Words(part)
    except PysftError as error:
        return str(error).partition(";")[0]
    return ""


def _refuse_mixture(settings: Settings, data: list[str] | None) -> None:
    """Raise a UsageError if the settings mix data that are not there."""
    has_made = bool(settings.data.transcripts or settings.data.made)
    if has_made and data:
        raise UsageError(
            "transcripts of tool use are mixed with the shipped conversations; leave --data"
            " FILE out"
        )
    count = 2 if has_made else len(data or ())
    if settings.data.mix and len(settings.data.mix) != count:
        parts = f"{count} files of --data"
        if has_made:
            parts = "conversations and transcripts of tool use"
        raise UsageError(
            f"mix has {len(settings.data.mix)} weights for {parts}; give each a weight"
        )


def _read(
    material: Material, settings: Settings, files: list[str], own_data: bool
) -> list[RowError]:
    """Read the conversations and pairs. Return the faults."""
    template = material.template
    rows = []
    if files.count(WORLD) > 1:
        raise UsageError("--data names world twice; name it once")
    for path in files:
        if path == WORLD:
            rows += _asked_of_world(settings)
        else:
            rows += scan(path, template, settings.data.reading())
    left_out = Counter(row.reason for row in rows if isinstance(row, LeftOut))
    if left_out:
        counts = ", ".join(f"{n:,} {reason}" for reason, n in sorted(left_out.items()))
        material.notes.append(f"left out: {counts}")
        material.is_altered = True
    pairs = []
    if not own_data and "pairs" in settings.data.shipped:
        pairs = list(scan(shipped("pairs40.jsonl"), template))
    material.conversations = [row for row in rows if isinstance(row, Conversation)]
    material.pairs = [row for row in pairs if isinstance(row, Conversation)]
    return [row for row in rows + pairs if isinstance(row, RowError)]


def _asked_of_world(settings: Settings) -> list[Conversation]:
    """Return the questions about the world that are trained on, with their answers."""
    asked = trained_questions(make(settings.world))
    return [
        Conversation(
            [
                {"role": "user", "content": question.prompt},
                {"role": "assistant", "content": with_thought(question.thought, question.answer)},
            ],
            WORLD,
            line,
            WORLD,
        )
        for line, question in enumerate(asked, 1)
    ]


def _made(material: Material, settings: Settings) -> list[Conversation]:
    """Return the made transcripts of other tools than the search. A UsageError if the vocabulary
    cannot get the digits of sums, a PysftError if this Python cannot ask a table."""
    if TABLE in settings.data.made:
        Table([])
    if SUMS in settings.data.made and not material.tokenizer.can_write(CHARACTERS):
        if settings.data.unknown != "grow":
            raise UsageError(
                'sums are written in digits, by which the vocabulary grows: set unknown = "grow"'
            )
        if material.tokenizer.special:
            raise UsageError(
                "sums are written in digits, which the vocabulary of this model lacks, and the"
                " vocabulary of a tuned model takes no new characters; begin from its base"
            )
    return [
        made_conversation(name, line, *row)
        for name in settings.data.made
        for line, row in enumerate(MADE[name].transcripts(seed=settings.seed), 1)
    ]


def _write(material: Material, settings: Settings, made: list[Conversation]) -> list[RowError]:
    """Apply the policy for characters that the vocabulary lacks, and grow the vocabulary by the
    template's tokens. made: further conversations, which are changed in place. Return the
    faults."""
    template = material.template
    groups = [material.conversations, material.pairs, made]
    every = [c for group in groups for c in group]
    written = write_with(every, material.tokenizer, template, settings.data.unknown)
    rest = iter(every := written.conversations)
    for group in groups:
        group[:] = islice(rest, len(group))
    if written.composed:
        material.notes.append(
            f"composed: letters and accents of {written.composed:,} conversations (Unicode NFC)"
        )
        material.is_altered = True
    if written.changed:
        material.notes.append(changed_note(written.changed, settings.data.unknown))
    kinds = {kind for c in every for kind in c.parts}
    kinds |= {"search", "result"} if settings.data.transcripts else set()
    material.grown = written.tokenizer.grow(template.tokens + template.tokens_for(kinds))
    return written.faults


def _hold_out(material: Material, settings: Settings, own_data: bool) -> None:
    """Move some conversations to material.heldout.

    If the setting `shipped` is "pairs", only the held-out part of the shipped conversations is
    kept, and none is trained on."""
    if not own_data or len(material.conversations) >= FEW:
        read = material.conversations
        material.conversations, material.heldout = split_heldout(read, shuffled=own_data)
    if not own_data and settings.data.shipped == "pairs":
        material.conversations = []


def _add_transcripts(material: Material, settings: Settings) -> None:
    """Make the transcripts of tool use. None of them is held out, because other questions test what
    was learnt from them."""
    if not settings.data.transcripts:
        return
    Search([])  # the tool test needs one, and words of the held-out text: raise now without them
    Words(material.heldout_text)
    read = [c for c in material.conversations if len(c.messages) == 2]
    made = transcripts(
        settings.data.transcripts,
        town(trained=True),
        Words(material.train_text),
        settings.seed,
        ordinary=[(c.prompt, c.replies()[0]) for c in read],
    )
    made = [made_conversation(TOOLS, line, *row) for line, row in enumerate(made, 1)]
    if settings.data.unknown == "replace":
        made = [c.mapped(lambda text: replaced(text, material.grown)) for c in made]
    material.conversations += made


def _render(material: Material, settings: Settings, own_data: bool) -> tuple[list[RowError], int]:
    """Make the examples. Return (faults, number of conversations that are left out because they are
    too long). With a fault, the number is too high, but training does not begin."""
    before = len(material.conversations) + len(material.heldout) + len(material.pairs)

    def encoded(conversations, context=settings.model.context, too_long=settings.data.too_long):
        policies = (material.template, settings.data.grade, too_long)
        return encode_all(conversations, material.grown, context, *policies)

    made = [c for c in material.conversations if c.last_only]
    read = [c for c in material.conversations if not c.last_only]
    read, examples, faults = encoded(read)
    fits, of_fits, _ = encoded(made, too_long="drop")
    lost = len(made) - len(fits)
    if lost:  # the template has many tokens, or the corpus few characters
        material.notes.append(
            f"left out: {lost:,} of {len(made):,} made transcripts, which this context or"
            " vocabulary cannot hold"
        )
    material.conversations, examples = read + fits, examples + of_fits
    # Held-out conversations are checked too. Only shipped ones may be too long for a short context.
    heldout_context = settings.model.context if own_data else sys.maxsize
    material.heldout, _, of_heldout = encoded(material.heldout, heldout_context)
    material.pairs, pair_examples, of_pairs = encoded(material.pairs)
    material.examples = examples, pair_examples
    kept = len(material.conversations) + len(material.heldout) + len(material.pairs)
    return faults + of_heldout + of_pairs, before - kept - lost


def _mixed_files(
    material: Material, settings: Settings, data: list[str] | None
) -> list[int] | None:
    """Return the number of each conversation's file, or None if data are not mixed. Transcripts of
    tool use count as file 1.

    A DataError if no conversation of a file is left, a UsageError if a file is named twice."""
    if not settings.data.mix:
        return None
    if settings.data.transcripts or settings.data.made:
        return [int(c.last_only) for c in material.conversations]
    numbers = {str(Path(path)): i for i, path in enumerate(data)}
    if len(numbers) < len(data):
        raise UsageError("--data names a file twice; a mixture weighs each file once")
    files = [numbers[c.path] for c in material.conversations]
    for path, number in numbers.items():
        if number not in files:
            is_heldout = any(c.path == path for c in material.heldout)
            raise DataError(
                f"{path}: no conversation of it is left to train on"
                + (" (its prompts are held out)" if is_heldout else "")
                + "; leave the file out, or put more into it"
            )
    return files
