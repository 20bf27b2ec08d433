"""From files to batches: conversations out of JSONL, windows out of a corpus, and Batch, the token
rows that the model sees.

A batch has no padding: its sequences lie end to end, cu_seqlens says where each begins. A label of
-100 means one thing only: this row is not graded."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pysft import IGNORE
from pysft.errors import DataError, MissingInput
from pysft.text.template import CHAT, Template, render
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

BASE, CONVERSATION = "base", "conversation"  # where a sequence comes from, for the log


# ------------------------------------------------------------------------------------- reading

@dataclass(frozen=True)
class Conversation:
    """`messages` as the file has them, and where they stand in it."""
    messages: list[dict]
    path: str
    line: int
    category: str = ""

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.line}"


def read_lines(path, what: str) -> list[tuple[int, dict]]:
    """(line number, object) of each line of a JSONL file that is not empty."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file; expected {what} in JSON lines") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: a JSON {type(row).__name__}, expected an object "
                            '{"messages": [...]}')
        rows.append((number, row))
    return rows


def check_messages(messages, where: str, template: Template = CHAT) -> None:
    """Raise a DataError, naming the turn, unless `messages` can be trained on."""
    roles = " or ".join(f'"{r}"' for r in template.turns)
    if not isinstance(messages, list) or not messages:
        raise DataError(f'{where}: "messages" must be a list of turns, each '
                        '{"role": ..., "content": ...}')
    expected = "user"
    for turn, message in enumerate(messages, 1):
        here = f"{where}, turn {turn}"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f'{here}: expected an object with "role" and "content"')
        role, content = message["role"], message["content"]
        if not isinstance(role, str) or role not in template.turns:
            raise DataError(f"{here}: unknown role {role!r}; this template has {roles}")
        if role != expected:
            raise DataError(f"{here}: role {role!r}, expected {expected!r} (turns alternate, and the "
                            "user begins)")
        expected = "assistant" if role == "user" else "user"
        if isinstance(content, list) and role == "assistant":
            kinds = " or ".join(f'"{k}"' for k in ["text", *template.parts])
            for part in content:
                if (not isinstance(part, dict) or not isinstance(part.get("type"), str)
                        or part["type"] not in ("text", *template.parts)
                        or not isinstance(part.get("text"), str)):
                    raise DataError(f'{here}: a part must be {{"type": {kinds}, "text": ...}}')
            text = "".join(part["text"] for part in content if part["type"] != "result")
        elif isinstance(content, str):
            text = content
        else:
            raise DataError(f'{here}: "content" is {type(content).__name__}, expected text'
                            + (" or a list of parts" if role == "assistant" else ""))
        if not text.strip():
            raise DataError(f"{here}: empty {'reply' if role == 'assistant' else 'text'}; write one or "
                            "remove the line")
    if messages[-1]["role"] != "assistant":
        raise DataError(f"{where}, turn {len(messages)}: no reply follows; end with an assistant turn")


def read_conversations(path, template: Template = CHAT) -> list[Conversation]:
    """Every conversation of a JSONL file of {"messages": [...]} objects, each checked."""
    found = []
    for number, row in read_lines(path, "conversations"):
        where = f"{path}, line {number}"
        if "messages" not in row:
            raise DataError(f'{where}: no "messages" in it, only {", ".join(map(repr, row)) or "an empty object"}')
        check_messages(row["messages"], where, template)
        found.append(Conversation(row["messages"], str(path), number, str(row.get("category", ""))))
    if not found:
        raise DataError(f"{path}: no conversation in it")
    return found


def read_prompts(path) -> list[dict]:
    """[{"prompt": text, "domain": "in" | "near" | "out"}] of a JSONL file."""
    prompts = []
    for number, row in read_lines(path, "prompts"):
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise DataError(f'{path}, line {number}: expected {{"prompt": text, "domain": ...}}')
        prompts.append({"prompt": row["prompt"], "domain": str(row.get("domain", ""))})
    return prompts


def split_heldout(conversations: list, every: int = 10) -> tuple[list, list]:
    """(kept, held out): every tenth is held out, whatever the preset."""
    return ([c for i, c in enumerate(conversations, 1) if i % every],
            [c for i, c in enumerate(conversations, 1) if i % every == 0])


# ---------------------------------------------------------------------------------- the shift

def shift(tokens: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(input_ids, labels), both one shorter than tokens (L,): row i sees tokens[..i] and should
    predict tokens[i+1]; it is graded exactly if that token is one the model should write."""
    return tokens[:-1], np.where(trained[1:], tokens[1:], IGNORE).astype(np.int32)


@dataclass(frozen=True)
class Example:
    """One sequence: input_ids (L,), labels (L,) int32, and where it comes from."""
    input_ids: np.ndarray
    labels: np.ndarray
    where: str = "example"
    source: str = CONVERSATION


def encode_conversation(conversation: Conversation, tokenizer: CharTokenizer, context: int,
                        template: Template = CHAT) -> Example:
    """The training example of a conversation; a DataError if it does not fit or grades nothing.
    Nothing is ever cut: a reply without its end would teach the model not to stop."""
    tokens, trained = render(conversation.messages, tokenizer, template, conversation.where)
    input_ids, labels = shift(tokens, trained)
    if len(input_ids) > context:
        raise DataError(f"{conversation.where}: {len(input_ids)} tokens, the context holds {context}; make it "
                        f"{len(input_ids) - context} shorter, or train with a longer context")
    if not (labels != IGNORE).any():
        raise DataError(f"{conversation.where}: no token of it would be graded")
    return Example(input_ids, labels, conversation.where)


def prepare_sft_example(user: str, assistant: str, tokenizer: CharTokenizer | None = None,
                        off_by_one: bool = False) -> tuple[list[int], list[int]]:
    """(input_ids, labels) of one question and its answer, as the source text names it.

    The source's own code masks the label at the <|assistant|> position too, so the first token of
    the reply is never learnt; `off_by_one` does the same, for the comparison. The default
    vocabulary is the 65 characters of Shakespeare and <|user|> 65, <|assistant|> 66, <|end|> 67."""
    tokenizer = tokenizer or CharTokenizer(SHAKESPEARE, CHAT.tokens)
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    check_messages(messages, "example")
    input_ids, labels = shift(*render(messages, tokenizer))
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
            raise DataError(f"a batch of {len(examples)} sequences needs as many weights, none below 0; got {weight}")
        lengths = np.array([len(e.input_ids) for e in examples])
        tokens = np.concatenate([e.input_ids for e in examples])
        labels = np.concatenate([e.labels for e in examples])
        graded = labels != IGNORE
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        fine = (len(tokens) == len(labels) and lengths.min() > 0 and lengths.max() <= context
                and tokens.min() >= 0 and tokens.max() < vocab and labels.max() < vocab
                and (graded == (labels >= 0)).all() and np.logical_or.reduceat(graded, cu_seqlens[:-1]).all())
        if not fine or any(len(e.labels) != n for e, n in zip(examples, lengths)):
            for e in examples:
                _refuse(e, vocab, context)
        return cls(tokens.astype(np.int32), labels.astype(np.int32), cu_seqlens, graded,
                   weight, np.array([e.source for e in examples]))

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
        return Batch(self.tokens[a:b], self.labels[a:b],
                     (self.cu_seqlens[first:last + 1] - a).astype(np.int32), self.wanted[a:b],
                     self.weight[first:last], self.source[first:last])

    def split(self, pieces: int) -> list["Batch"]:
        """Micro-batches: `pieces` runs of whole sequences (as many as there are, if fewer), of about
        as many rows each."""
        S = len(self.weight)
        pieces = min(pieces, S)
        inner = np.searchsorted(self.cu_seqlens, np.arange(1, pieces) * (self.cu_seqlens[-1] / pieces))
        cuts = [0]
        for i, cut in enumerate(inner, 1):  # at least one sequence in each, before and after
            cuts.append(min(max(int(cut), cuts[-1] + 1), S - (pieces - i)))
        cuts.append(S)
        return [self.slice(a, b) for a, b in zip(cuts[:-1], cuts[1:])]


def _refuse(e: Example, vocab: int, context: int) -> None:
    """Say what is wrong with an example, if something is."""
    tokens, labels = e.input_ids, e.labels
    if len(tokens) != len(labels) or not len(tokens):
        raise DataError(f"{e.where}: {len(tokens)} tokens and {len(labels)} labels; expected as many, and at "
                        "least one")
    if len(tokens) > context:
        raise DataError(f"{e.where}: {len(tokens)} tokens, the context holds {context}")
    bad = np.flatnonzero((tokens < 0) | (tokens >= vocab))
    if len(bad):
        raise DataError(f"{e.where}: token {tokens[bad[0]]} at position {bad[0]} is not in 0..{vocab - 1}")
    bad = np.flatnonzero((labels != IGNORE) & ((labels < 0) | (labels >= vocab)))
    if len(bad):
        raise DataError(f"{e.where}: label {labels[bad[0]]} at position {bad[0]} is neither -100 nor in "
                        f"0..{vocab - 1}")
    if not (labels != IGNORE).any():
        raise DataError(f"{e.where}: every label is -100, so there is nothing to learn from it")


def window(corpus: np.ndarray, start: int, length: int) -> Example:
    """`length` rows of base text from `start`; every one is graded, on the character after it."""
    return Example(corpus[start:start + length], corpus[start + 1:start + length + 1],
                   f"corpus, character {start}", BASE)


def draw_windows(corpus: np.ndarray, count: int, length: int, rng: np.random.Generator) -> list[Example]:
    """`count` windows of `length` rows, drawn uniformly, with replacement."""
    return [window(corpus, int(s), length) for s in rng.integers(0, len(corpus) - length, count)]


def tile_windows(corpus: np.ndarray, length: int) -> list[Example]:
    """The whole text in windows that do not overlap: every target exactly once (the last is
    shorter)."""
    return [window(corpus, s, min(length, len(corpus) - 1 - s)) for s in range(0, len(corpus) - 1, length)]


def split_corpus(text: str, heldout: float = 0.1) -> tuple[str, str]:
    """(training text, held-out tail): the last tenth is held out."""
    cut = int(len(text) * (1 - heldout))
    return text[:cut], text[cut:]


# -------------------------------------------------------------------------------------- corpora

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def shipped(name: str) -> Path:
    """A file of the package's own data."""
    return Path(__file__).resolve().parents[1] / "data" / name


def read_corpus(name: str) -> str:
    """The text of a corpus: "plays" ships with the package, "shakespeare" comes from the user's cache
    or its public home, anything else is the path of a text file."""
    if name == "shakespeare":
        return _shakespeare()
    path = shipped("plays.txt") if name == "plays" else Path(name)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file; --corpus takes a text file, 'plays' or "
                           "'shakespeare'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    if len(text) < 1000:
        raise DataError(f"{path}: {len(text)} characters are too few to learn a language from; at least "
                        "1,000 are needed, a million are good")
    return text


def _shakespeare() -> str:
    import hashlib
    import http.client
    import os
    import urllib.request

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pysft" / "tinyshakespeare.txt"
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
        reason = " ".join(str(getattr(error, "reason", None) or error or type(error).__name__).split())
        raise MissingInput(f"the Shakespeare corpus could not be fetched from {url} ({reason}); copy the "
                           "file here and name it by --corpus PATH, or leave --corpus out to train on the "
                           "plays that ship") from None
    if not good(data):
        raise DataError(f"{url}: what came ({len(data)} bytes) is not the Shakespeare corpus (SHA-256 "
                        f"differs); it was not kept. Name your own copy by --corpus PATH")
    try:  # a cache that cannot be written only means fetching again
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
        temporary.write_bytes(data)
        os.replace(temporary, cache)
    except OSError:
        pass
    return data.decode()
