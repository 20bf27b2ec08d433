"""From conversations and a corpus to batches: examples, windows, and Batch, the token rows that the
model sees.

A batch has no padding: its sequences lie end to end, cu_seqlens says where each begins. A label of
-100 means one thing only: this row is not graded."""

import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pysft import IGNORE, disk
from pysft.errors import DataError, MissingInput, RowError
from pysft.text.formats import Conversation, check_messages, plain, replaced, replacement
from pysft.text.template import CHAT, Template, render
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

BASE, CONVERSATION = "base", "conversation"  # where a sequence comes from, for the log


# ------------------------------------------------------------------------- conversations to example


def prompt_key(text: str) -> str:
    """The same for prompts that differ in case, spaces and the marks at their end only."""
    return " ".join(text.casefold().split()).rstrip(" .!?,;:-")


def split_heldout(
    conversations: list[Conversation], every: int = 10, shuffled: bool = False
) -> tuple[list, list]:
    """(kept, held out): of the different prompts that conversations begin with, every tenth is held
    out, with all that begin so; rows of plain text are kept. The tenth in the order of the file,
    which is every tenth line where no prompt comes twice; or, `shuffled`, in an order by hash, for
    files whose order has a pattern."""
    keys = list(dict.fromkeys(prompt_key(c.prompt) for c in conversations if not c.is_text))
    if shuffled:
        keys.sort(key=lambda key: hashlib.sha256(key.encode()).digest())
    out = set(keys[every - 1 :: every])
    held = [not c.is_text and prompt_key(c.prompt) in out for c in conversations]
    return (
        [c for c, h in zip(conversations, held) if not h],
        [c for c, h in zip(conversations, held) if h],
    )


def write_with(
    conversations: list[Conversation], tokenizer: CharTokenizer, unknown: str
) -> tuple[list, CharTokenizer, Counter]:
    """(conversations, tokenizer, what was done) under a policy for characters that the vocabulary
    lacks: "refuse" (all stays as it is), "replace" (by look-alikes, Counter of (character,
    replacement)), or "grow" (the vocabulary by them, Counter of (character, character))."""
    if unknown == "refuse":
        return conversations, tokenizer, Counter()
    known = frozenset(tokenizer.characters)
    texts = (
        (
            unicodedata.normalize("NFC", plain(m["content"]))
            if unknown == "replace"
            else plain(m["content"])
        )
        for c in conversations
        for m in c.messages
    )
    lacking = Counter(
        c for text in texts if not known.issuperset(text) for c in text if c not in known
    )
    if unknown == "grow":
        return (
            conversations,
            tokenizer.grow_characters("".join(lacking)),
            Counter({(c, c): n for c, n in lacking.items()}),
        )
    done = Counter(
        {
            (c, replacement(c, known)): n
            for c, n in lacking.items()
            if replacement(c, known) is not None
        }
    )
    return [c.mapped(lambda text: replaced(text, known)) for c in conversations], tokenizer, done


# ---------------------------------------------------------------------------------- the shift


def shift(tokens: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(input_ids, labels), both one shorter than tokens (L,): row i sees tokens[..i] and should
    predict tokens[i+1]; it is graded exactly if that token is one the model should write."""
    return tokens[:-1], np.where(trained[1:], tokens[1:], IGNORE).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence: input_ids (L,), labels (L,) int32, and where it comes from."""

    input_ids: np.ndarray
    labels: np.ndarray
    where: str = "example"
    source: str = CONVERSATION


def encode_conversation(
    conversation: Conversation,
    tokenizer: CharTokenizer,
    context: int,
    template: Template = CHAT,
    grade: str = "all",
) -> Example:
    """The training example of a conversation; a RowError if it does not fit or grades nothing.
    Nothing is ever cut: a reply without its end would teach the model not to stop."""
    where = conversation.where
    input_ids, labels = shift(*render(conversation.messages, tokenizer, template, where, grade))
    if len(input_ids) > context:
        raise RowError(
            where,
            f"{len(input_ids)} tokens, the context holds {context}",
            f"make it {len(input_ids) - context} shorter, or train with a longer context",
            "length",
        )
    if not (labels != IGNORE).any():
        raise RowError(
            where,
            "no token of it would be graded",
            "flag a reply, or remove the line",
            "nothing graded",
        )
    return Example(input_ids, labels, where, BASE if conversation.is_text else CONVERSATION)


def encode_all(
    conversations: list[Conversation],
    tokenizer: CharTokenizer,
    context: int,
    template: Template = CHAT,
    grade: str = "all",
    too_long: str = "refuse",
) -> tuple[list[Conversation], list[Example], list[RowError]]:
    """(kept, their examples, faults). too_long: conversations that the context cannot hold are
    faults ("refuse"), or silently not kept ("drop"; whoever asks for that counts them)."""
    kept, examples, faults = [], [], []
    for c in conversations:
        try:
            examples.append(encode_conversation(c, tokenizer, context, template, grade))
        except RowError as error:
            if error.kind != "length" or too_long == "refuse":
                faults.append(error)
        else:
            kept.append(c)
    return kept, examples, faults


def prepare_sft_example(
    user: str, assistant: str, tokenizer: CharTokenizer | None = None, off_by_one: bool = False
) -> tuple[list[int], list[int]]:
    """(input_ids, labels) of one question and its answer, as the source text names it.

    The source's own code masks the label at the <|assistant|> position too, so the first token of
    the reply is never learnt; `off_by_one` does the same, for the comparison. The default
    vocabulary is the 65 characters of Shakespeare and <|user|> 65, <|assistant|> 66, <|end|> 67."""
    tokenizer = tokenizer or CharTokenizer(SHAKESPEARE, CHAT.tokens)
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    check_messages(messages, "example")
    input_ids, labels = shift(*render(messages, tokenizer, CHAT))
    if off_by_one:
        labels[np.flatnonzero(labels != IGNORE)[0]] = IGNORE
    return input_ids.tolist(), labels.tolist()


# -------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Batch:
    """N token rows of S sequences laid end to end.

    tokens (N,) int32; labels (N,) int32, -100 where not graded; cu_seqlens (S+1,) int32, the rising
    offsets; wanted (N,) bool, the rows whose nll somebody reads; weight (S,) float, what a graded
    token of a sequence counts; source (S,) names, for the log.
    """

    tokens: np.ndarray
    labels: np.ndarray
    cu_seqlens: np.ndarray
    wanted: np.ndarray
    weight: np.ndarray
    source: np.ndarray

    @classmethod
    def of(cls, examples: list[Example], vocab: int, context: int, weight=None) -> "Batch":
        """Pack examples whole. Token and label ranges are checked here, once; a sequence longer
        than the context or without a graded token is refused by name."""
        if not examples:
            raise DataError("a batch needs at least one sequence")
        weight = np.ones(len(examples)) if weight is None else np.asarray(weight, np.float64)
        if weight.shape != (len(examples),) or not (weight >= 0).all():
            raise DataError(
                f"a batch of {len(examples)} sequences needs as many weights, none below 0; got"
                f" {weight}"
            )
        lengths = np.array([len(e.input_ids) for e in examples])
        tokens = np.concatenate([e.input_ids for e in examples])
        labels = np.concatenate([e.labels for e in examples])
        graded = labels != IGNORE
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        fine = (
            len(tokens) == len(labels)
            and lengths.min() > 0
            and lengths.max() <= context
            and tokens.min() >= 0
            and tokens.max() < vocab
            and labels.max() < vocab
            and (graded == (labels >= 0)).all()
            and np.logical_or.reduceat(graded, cu_seqlens[:-1]).all()
        )
        if not fine or any(len(e.labels) != n for e, n in zip(examples, lengths)):
            for e in examples:
                _refuse(e, vocab, context)
        return cls(
            tokens.astype(np.int32),
            labels.astype(np.int32),
            cu_seqlens,
            graded,
            weight,
            np.array([e.source for e in examples]),
        )

    @property
    def lengths(self) -> np.ndarray:
        """(S,) rows of each sequence."""
        return np.diff(self.cu_seqlens)

    @cached_property
    def counts(self) -> np.ndarray:
        """(N,) float64: what each row counts, its sequence's weight if it is graded, else 0."""
        return np.where(self.labels != IGNORE, self.per_row(self.weight), 0.0)

    def per_row(self, values: np.ndarray) -> np.ndarray:
        """(S,) values, one a sequence, spread over its rows: (N,)."""
        return np.repeat(values, self.lengths)

    def slice(self, first: int, last: int) -> "Batch":
        """Sequences first..last-1 alone."""
        a, b = self.cu_seqlens[first], self.cu_seqlens[last]
        return Batch(
            self.tokens[a:b],
            self.labels[a:b],
            (self.cu_seqlens[first : last + 1] - a).astype(np.int32),
            self.wanted[a:b],
            self.weight[first:last],
            self.source[first:last],
        )

    def split(self, pieces: int) -> list["Batch"]:
        """Micro-batches: `pieces` runs of whole sequences (as many as there are, if fewer), of
        about as many rows each."""
        S = len(self.weight)
        pieces = min(pieces, S)
        inner = np.searchsorted(
            self.cu_seqlens, np.arange(1, pieces) * (self.cu_seqlens[-1] / pieces)
        )
        cuts = [0]
        for i, cut in enumerate(inner, 1):  # at least one sequence in each, before and after
            cuts.append(min(max(int(cut), cuts[-1] + 1), S - (pieces - i)))
        cuts.append(S)
        return [self.slice(a, b) for a, b in zip(cuts[:-1], cuts[1:])]


def _refuse(e: Example, vocab: int, context: int) -> None:
    """Say what is wrong with an example, if something is."""
    tokens, labels = e.input_ids, e.labels
    if len(tokens) != len(labels) or not len(tokens):
        raise DataError(
            f"{e.where}: {len(tokens)} tokens and {len(labels)} labels; expected as many, and at "
            "least one"
        )
    if len(tokens) > context:
        raise DataError(f"{e.where}: {len(tokens)} tokens, the context holds {context}")
    bad = np.flatnonzero((tokens < 0) | (tokens >= vocab))
    if len(bad):
        raise DataError(
            f"{e.where}: token {tokens[bad[0]]} at position {bad[0]} is not in 0..{vocab - 1}"
        )
    bad = np.flatnonzero((labels != IGNORE) & ((labels < 0) | (labels >= vocab)))
    if len(bad):
        raise DataError(
            f"{e.where}: label {labels[bad[0]]} at position {bad[0]} is neither -100 nor in "
            f"0..{vocab - 1}"
        )
    if not (labels != IGNORE).any():
        raise DataError(f"{e.where}: every label is -100, so there is nothing to learn from it")


def window(corpus: np.ndarray, start: int, length: int) -> Example:
    """`length` rows of base text from `start`; every one is graded, on the character after it."""
    return Example(
        corpus[start : start + length],
        corpus[start + 1 : start + length + 1],
        f"corpus, character {start}",
        BASE,
    )


def draw_windows(
    corpus: np.ndarray, count: int, length: int, rng: np.random.Generator
) -> list[Example]:
    """`count` windows of `length` rows, drawn uniformly, with replacement."""
    return [window(corpus, int(s), length) for s in rng.integers(0, len(corpus) - length, count)]


def tile_windows(corpus: np.ndarray, length: int) -> list[Example]:
    """The whole text in windows that do not overlap: every target exactly once (the last is
    shorter)."""
    return [
        window(corpus, s, min(length, len(corpus) - 1 - s))
        for s in range(0, len(corpus) - 1, length)
    ]


def split_corpus(text: str, heldout: float = 0.1) -> tuple[str, str]:
    """(training text, held-out tail): the last tenth is held out."""
    cut = int(len(text) * (1 - heldout))
    return text[:cut], text[cut:]


# -------------------------------------------------------------------------------------- corpora

SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def shipped(name: str) -> Path:
    """A file of the package's own data."""
    return Path(__file__).resolve().parents[1] / "data" / name


CORPORA = ("plays", "shakespeare")  # names that are no path


def read_corpus(name: str) -> str:
    """The text of a corpus: "plays" ships with the package, "shakespeare" comes from the user's
    cache or its public home, anything else is the path of a text file."""
    if name == "shakespeare":
        return _shakespeare()
    path = shipped("plays.txt") if name == "plays" else Path(name)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise MissingInput(
            f"{path}: no such file; --corpus takes a text file, 'plays' or 'shakespeare'"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    if len(text) < 1000:
        raise DataError(
            f"{path}: {len(text)} characters are too few to learn a language from; at least "
            "1,000 are needed, a million are good"
        )
    return text


def _shakespeare() -> str:
    import http.client
    import os
    import urllib.request

    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "pysft"
        / "tinyshakespeare.txt"
    )
    url = os.environ.get("PYSFT_SHAKESPEARE_URL", SHAKESPEARE_URL)

    def good(data):
        return hashlib.sha256(data).hexdigest() == SHAKESPEARE_SHA256

    try:
        if good(data := cache.read_bytes()):
            return data.decode()
    except OSError:
        pass
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            data = answer.read(8 << 20)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(
            str(getattr(error, "reason", None) or error or type(error).__name__).split()
        )
        raise MissingInput(
            f"the Shakespeare corpus could not be fetched from {url} ({reason}); copy the "
            "file here and name it by --corpus PATH, or leave --corpus out to train on the "
            "plays that ship"
        ) from None
    if not good(data):
        raise DataError(
            f"{url}: what came ({len(data)} bytes) is not the Shakespeare corpus (SHA-256 "
            "differs); it was not kept. Name your own copy by --corpus PATH"
        )
    try:  # a cache that cannot be written only means fetching again
        cache.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(cache, [data])
    except OSError:
        pass
    return data.decode()
