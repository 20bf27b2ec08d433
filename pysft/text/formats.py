"""Readers: conversations out of the formats that people have, each row with its file and line.

A file of JSON lines says by its keys what each row is (FORMATS); a .csv or .tsv file has two
columns, what is asked and what is answered. Whatever it was, it becomes `messages`. A row that
cannot be used is not an end: scan() yields it as a RowError among the conversations, so that all of
them can be named at once."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from pysft.errors import DataError, MissingInput, RowError
from pysft.text.template import CHAT, TEXT, Template

ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}
# What columns of a table, and keys of a row, are called: what is asked, what is answered.
ASKED = ("prompt", "question", "user", "human", "instruction", "input", "request", "q", "frage")
ANSWERED = (
    "completion",
    "answer",
    "assistant",
    "response",
    "output",
    "reply",
    "bot",
    "a",
    "antwort",
)
UNREAD = (
    "system",
    "history",
    "context",
    "input",
    "text",
    "tools",
    "functions",
    "chosen",
    "rejected",
)  # keys that change a row's meaning
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Conversation:
    """`messages`: [{"role", "content"}], perhaps with a flag "train". ranked: turn -> [(rank,
    text)], the answers that people ranked in that turn's place (0 is best)."""

    messages: list[dict]
    path: str
    line: int
    category: str = ""
    ranked: dict = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.line}"

    @property
    def is_text(self) -> bool:
        """A row of plain text, not a conversation."""
        return self.messages[0]["role"] == TEXT

    @property
    def prompt(self) -> str:
        """What the user asks first ("" of plain text)."""
        return next((m["content"] for m in self.messages if m["role"] == "user"), "")

    def graded_turn(self, grade: str) -> int:
        """The place in messages of the first reply that is graded; -1 if none is."""
        places = [
            i
            for i, m in enumerate(self.messages)
            if m["role"] == "assistant" and m.get("train", True)
        ]
        return -1 if not places else places[-1] if grade == "last" else places[0]

    def replies(self) -> list[str]:
        """What the assistant says, turn by turn."""
        return [plain(m["content"]) for m in self.messages if m["role"] == "assistant"]

    def mapped(self, change: Callable[[str], str]) -> "Conversation":
        """The same with every text changed."""

        def content(c):
            return (
                change(c)
                if isinstance(c, str)
                else [{**part, "text": change(part["text"])} for part in c]
            )

        return replace(
            self, messages=[{**m, "content": content(m["content"])} for m in self.messages]
        )


def plain(content) -> str:
    """A turn's content as one text."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


# -------------------------------------------------------------------------------- what a row must b


def check_messages(messages, where: str, template: Template = CHAT) -> None:
    """Raise a RowError, naming the turn, unless `messages` can be trained on."""
    if not isinstance(messages, list) or not messages:
        raise RowError(
            where,
            '"messages" must be a list of turns',
            'make each {"role": ..., "content": ...}',
            "format",
        )
    if len(messages) == 1 and isinstance(messages[0], dict) and messages[0].get("role") == TEXT:
        if not isinstance(messages[0].get("content"), str) or len(messages[0]["content"]) < 2:
            raise RowError(
                where,
                '"text" is no text of two characters or more',
                "write more, or remove the line",
                "empty",
            )
        if _SURROGATE.search(messages[0]["content"]):
            raise RowError(
                where,
                "half of a character (a lone surrogate)",
                "write the whole character",
                "characters",
            )
        return
    expected = "user"
    for turn, message in enumerate(messages, 1):
        here = f"{where}, turn {turn}"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise RowError(
                here,
                'expected an object with "role" and "content"',
                "add what is missing",
                "format",
            )
        role, content = message["role"], message["content"]
        if not isinstance(role, str) or role not in template.turns:
            known = " or ".join(f'"{r}"' for r in template.turns)
            if role == "system":
                raise RowError(
                    here,
                    f"template {template.name!r} has no system role",
                    "take the turn out, or choose --template chatml or llama2",
                    "roles",
                )
            raise RowError(
                here,
                f"unknown role {role!r}",
                f"this template has {known} (also accepted: "
                f"{', '.join(r for r in ROLES if r not in template.turns and ROLES[r] in template.turns)})",
                "roles",
            )
        if role == "system" and turn == 1:
            pass
        elif role != expected:
            raise RowError(
                here,
                f"role {role!r}, expected {expected!r}",
                "turns alternate, and the user begins"
                + (" (after the system, if there is one)" if "system" in template.turns else ""),
                "roles",
            )
        else:
            expected = "assistant" if role == "user" else "user"
        flag = message.get("train")
        if flag is not None and (not isinstance(flag, bool) or role != "assistant"):
            raise RowError(
                here,
                f'the flag "train" is {flag!r} in a turn of the {role}',
                "it is true or false, and stands in assistant turns only",
                "flags",
            )
        if isinstance(content, list) and role == "assistant":
            kinds = " or ".join(f'"{k}"' for k in ["text", *template.parts])
            for part in content:
                if (
                    not isinstance(part, dict)
                    or not isinstance(part.get("type"), str)
                    or part["type"] not in ("text", *template.parts)
                    or not isinstance(part.get("text"), str)
                ):
                    raise RowError(
                        here,
                        f'a part must be {{"type": {kinds}, "text": ...}}',
                        "write it so",
                        "format",
                    )
            text = "".join(part["text"] for part in content if part["type"] != "result")
        elif isinstance(content, str):
            text = content
        else:
            raise RowError(
                here,
                f'"content" is {type(content).__name__}',
                "it must be text" + (" or a list of parts" if role == "assistant" else ""),
                "format",
            )
        if _SURROGATE.search(plain(content)):
            raise RowError(
                here,
                "half of a character (a lone surrogate)",
                "write the whole character",
                "characters",
            )
        if not text.strip():
            raise RowError(
                here,
                f"empty {'reply' if role == 'assistant' else 'text'}",
                "write one, or remove the line",
                "empty",
            )
    if messages[-1]["role"] != "assistant":
        raise RowError(
            f"{where}, turn {len(messages)}",
            "no reply follows",
            "end with an assistant turn",
            "missing end",
        )


# ------------------------------------------------------------------------------------- the formats


def _turns(messages, where, who="role", says="content"):
    """Messages with the role's and the content's keys given, under our names for the roles."""
    if not isinstance(messages, list):
        return messages  # check_messages says what is wrong with it
    found = []
    for turn, m in enumerate(messages, 1):
        if not isinstance(m, dict) or who not in m or says not in m:
            if (who, says) != ("role", "content"):
                raise RowError(
                    f"{where}, turn {turn}",
                    f'expected an object with "{who}" and "{says}"',
                    "add what is missing",
                    "format",
                )
            found.append(m)
            continue
        role = m[who]
        new = {
            "role": ROLES.get(role, role) if isinstance(role, str) else role,
            "content": _parts(m[says]),
        }
        if m.get("train") is not None:
            new["train"] = m["train"]
        elif m.get("weight") is not None:  # the same under another name: 0 or 1
            if m["weight"] not in (0, 1):
                raise RowError(
                    f"{where}, turn {turn}",
                    f'the flag "weight" is {m["weight"]!r}',
                    "it is 0 or 1",
                    "flags",
                )
            new["train"] = bool(m["weight"])
        found.append(new)
    return found


def _parts(content):
    """A content's parts with nothing but what is read of them."""
    if isinstance(content, list) and all(
        isinstance(p, dict) and {"type", "text"} <= p.keys() for p in content
    ):
        return [{"type": p["type"], "text": p["text"]} for p in content]
    return content


def _exchange(asked, answered, where):
    """Two turns, or two lists of turns."""
    if isinstance(asked, list) and isinstance(answered, list):
        return _turns(asked + answered, where)
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _alpaca(row, where):
    more = row.get("input") or ""
    if not isinstance(row["instruction"], str) or not isinstance(more, str):
        raise RowError(where, '"instruction" and "input" must be text', "write them so", "format")
    return _exchange(
        f"{row['instruction']}\n\n{more}" if more.strip() else row["instruction"],
        row["output"] if "output" in row else row["response"],
        where,
    )


def _pair(asked, answered):
    return (asked, answered), lambda row, where: _exchange(row[asked], row[answered], where)


# The keys that tell a format, and row -> messages. The first that fits is taken.
FORMATS = [
    (("messages",), lambda row, where: _turns(row["messages"], where)),
    _pair("prompt", "completion"),
    (("instruction", "output"), _alpaca),
    (("instruction", "response"), _alpaca),
    (("conversations",), lambda row, where: _turns(row["conversations"], where, "from", "value")),
    *(_pair(asked, answered) for asked in ASKED for answered in ANSWERED),
    (("text",), lambda row, where: [{"role": TEXT, "content": row["text"]}]),
]
TREE = ("message_id", "role", "text")  # OASST: each row is one message of a tree
DEEPEST = 1000  # messages of a tree's path


def scan(path, template: Template = CHAT) -> Iterator[Conversation | RowError]:
    """Every row of a file, in order, as a Conversation that `template` can render, or as a RowError
    that says why not. A file that is none raises."""
    path = Path(path)
    with _open(path) as file:
        rows = _csv(file, path) if path.suffix.lower() in (".csv", ".tsv") else _jsonl(file, path)
        nodes, ids = {}, {}
        for line, row in rows:
            where = f"{path}, line {line}"
            try:
                if isinstance(row, RowError):
                    raise row
                if all(key in row for key in TREE):
                    _node(row, line, where, nodes, ids)
                    continue
                messages = _messages(row, where)
                check_messages(messages, where, template)
            except RowError as error:
                yield error
                continue
            category = row.get("category")
            yield Conversation(
                messages,
                str(path),
                line,
                "" if category is None else _SURROGATE.sub("?", str(category)),
            )
        for found in _paths(nodes, str(path)):
            try:
                if isinstance(found, Conversation):
                    check_messages(found.messages, found.where, template)
            except RowError as error:
                found = error
            yield found


def _messages(row, where):
    for keys, make in FORMATS:
        if all(key in row for key in keys):
            for key in UNREAD:
                if row.get(key) and key not in keys and not (key == "input" and make is _alpaca):
                    raise RowError(
                        where,
                        f"its key {key!r} is not read, so the row would lose its meaning",
                        'write it into "messages", or take it out',
                        "format",
                    )
            return make(row, where)
    known = "; ".join(
        ", ".join(f'"{k}"' for k in keys)
        for keys in [*(k for k, _ in FORMATS[:5] + FORMATS[-1:] if k[-1] != "response"), TREE]
    )
    raise RowError(
        where,
        f'no "messages" in it, only {", ".join(map(repr, row)) or "an empty object"}',
        f"a row has one of these sets of keys: {known}",
        "format",
    )


def _open(path: Path):
    """The file, behind its byte order mark if it has one. Pipes can be read too."""
    try:
        file = open(path, "rb")
        start = file.peek(4)[:4]
    except FileNotFoundError:
        raise MissingInput(
            f"{path}: no such file; expected conversations in JSON lines, or a .csv of two columns"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    problem = (
        "UTF-16 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)"
        if start[:2] in (b"\xff\xfe", b"\xfe\xff")
        else (
            "a workbook or an archive, not text; save the sheet as CSV UTF-8"
            if start == b"PK\x03\x04"
            else None
        )
    )
    if problem:
        file.close()
        raise DataError(f"{path}: {problem}")
    if start[:3] == b"\xef\xbb\xbf":
        file.read(3)
    return file


def _jsonl(file, path) -> Iterator[tuple[int, dict | RowError]]:
    """(line number, object or what is wrong) of each line that is not empty."""
    first = True
    for number, raw in enumerate(file, 1):
        if not raw.strip():
            continue
        where = f"{path}, line {number}"
        if first and raw.strip() == b"[":
            raise DataError(
                f"{path}: one JSON array over many lines; write each of its objects on a line of"
                " its own"
            )
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield (
                number,
                RowError(
                    where,
                    f"cannot be read as UTF-8 text ({error.reason} at byte {error.start})",
                    "save the file as UTF-8",
                    "format",
                ),
            )
        except (ValueError, RecursionError) as error:
            yield (
                number,
                RowError(
                    where,
                    f"not JSON ({str(error).split(': line')[0]})",
                    "write one object a line, or remove the line"
                    + (
                        " (a table of two columns is read when its name ends with .csv)"
                        if first
                        else ""
                    ),
                    "format",
                ),
            )
        else:
            if not isinstance(row, dict):
                row = RowError(
                    where,
                    f"a JSON {type(row).__name__}, expected an object",
                    (
                        'write {"messages": [...]}'
                        if not isinstance(row, list)
                        else "write each object of the array on a line of its own"
                    ),
                    "format",
                )
            yield number, row
        first = False


@dataclass(frozen=True)
class Table:
    """What a .csv or .tsv file was taken for. rows: (line, cells or what is wrong) of those that
    are not empty."""

    delimiter: str
    header: tuple[str, ...] | None
    rows: list

    def __str__(self):
        named = {",": "commas", ";": "semicolons", "\t": "tabs"}[self.delimiter]
        return f"columns apart by {named}; " + (
            f"the first row, {' and '.join(map(repr, self.header))}, is a header"
            if self.header
            else "no header: the first row is data too"
        )


def read_table(path, file=None) -> Table:
    """A table of two columns: what is asked, what is answered (or the other way round, where a
    header says so). Cells are taken without blanks at their ends, rows without empty cells at
    theirs. The delimiter is comma, semicolon or tab: the one under which there is a header, else
    the only one that stands in every row, else the one that splits most rows in two; a DataError
    where that leaves a doubt. A first line "sep=;" decides too."""
    path = Path(path)
    with file or _open(path) as opened:
        text = (
            opened.read()
            .decode("utf-8", "surrogateescape")
            .replace("\r\n", "\n")
            .replace("\r", "\n")
        )
    delimiters, skipped = "\t" if path.suffix.lower() == ".tsv" else ",;\t", 0
    if said := re.match(r"sep=([,;\t])\n", text, re.IGNORECASE):
        delimiters, text, skipped = said[1], text[said.end() :], 1
    found = {d: list(_cells(text, d, path, skipped + 1)) for d in delimiters}

    def count(d, least, most):
        return sum(least <= len(cells) <= most for _, cells in found[d] if isinstance(cells, list))

    named = [d for d in found if _names(found[d])]
    everywhere = [d for d in found if found[d] and count(d, 2, 1 << 30) == len(found[d])]
    likely = named or everywhere or sorted(found, key=lambda d: -count(d, 2, 2))
    best, names = likely[0], _names(found[likely[0]])
    if len(likely) > 1 and (
        named or everywhere or count(likely[1], 2, 2) > 0.8 * count(best, 2, 2) > 0
    ):
        raise DataError(
            f"{path}: {best!r} and {likely[1]!r} both split its rows into columns; put cells that"
            ' hold one of them into "...", give it a header like question,answer, or save the'
            " sheet as .tsv"
        )
    rows = found[best]
    if names:
        swapped = names[0].lower() in ANSWERED
        rows = [
            (
                line,
                cells[::-1] if swapped and isinstance(cells, list) and len(cells) == 2 else cells,
            )
            for line, cells in rows[1:]
        ]
    return Table(best, names, rows)


def _names(rows) -> tuple[str, ...] | None:
    """The names of the columns, if the first row is a header."""
    cells = rows[0][1] if rows else None
    if (
        isinstance(cells, list)
        and len(cells) == 2
        and any(cells[i].lower() in ASKED and cells[1 - i].lower() in ANSWERED for i in (0, 1))
    ):
        return tuple(cells)
    return None


def _cells(text: str, delimiter: str, path, start: int) -> Iterator[tuple[int, list | RowError]]:
    """(line number, cells or what is wrong) of each row that is not empty; the text begins in line
    `start`."""
    reader, line = (
        csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
        ),
        start,
    )
    while True:
        where = f"{path}, line {line}"
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            remedy = (
                "shorten it: no context holds so much"
                if "field limit" in str(error)
                else (
                    'put a cell that holds quotes or line breaks into "...", and write a quote in'
                    ' it as ""'
                )
            )
            yield line, RowError(where, f"not CSV ({error})", remedy, "format")
            if reader.line_num + start - 1 < line:  # nothing was read: it would not end
                return
        else:
            if any(cells):
                while len(cells) > 2 and not cells[-1]:
                    cells.pop()
                yield line, cells
        line = reader.line_num + start


def _csv(file, path) -> Iterator[tuple[int, dict | RowError]]:
    """(line number, {"prompt", "completion"} or what is wrong) of each row of a table."""
    for line, cells in read_table(path, file).rows:
        where = f"{path}, line {line}"
        if isinstance(cells, RowError):
            yield line, cells
        elif len(cells) != 2:
            yield (
                line,
                RowError(
                    where,
                    f"{len(cells)} columns",
                    "there must be two: what is asked, what is answered",
                    "format",
                ),
            )
        elif any("\udc80" <= c <= "\udcff" for cell in cells for c in cell):
            yield (
                line,
                RowError(
                    where,
                    "cannot be read as UTF-8 text",
                    "save the file as UTF-8 (in a spreadsheet: CSV UTF-8)",
                    "format",
                ),
            )
        else:
            yield line, {"prompt": cells[0], "completion": cells[1]}


# ------------------------------------------------------------------------------------ message trees


@dataclass(slots=True)
class _Node:
    message: dict
    parent: str | None
    line: int
    rank: int | None
    children: list = field(default_factory=list)


def _node(row, line, where, nodes, ids) -> None:
    """Take in one message of a tree."""
    name, parent, role, text, rank = (
        row.get(k) for k in ("message_id", "parent_id", "role", "text", "rank")
    )
    if not isinstance(name, str) or not isinstance(parent, (str, type(None))):
        raise RowError(
            where,
            '"message_id" and "parent_id" must be text (a root has no parent)',
            "write them so",
            "tree",
        )
    if name in ids:
        raise RowError(
            where,
            f"message_id {name!r} stands in line {ids[name]} already",
            "give each message its own",
            "tree",
        )
    ids[name] = line
    if not isinstance(text, str) or not text.strip():
        raise RowError(
            where, "empty text", "write one, or remove the message and what answers it", "empty"
        )
    if not isinstance(role, str) or role not in ROLES:
        raise RowError(
            where, f"unknown role {role!r}", f"expected one of {', '.join(ROLES)}", "roles"
        )
    nodes[name] = _Node(
        {"role": ROLES[role], "content": text},
        parent,
        line,
        rank if isinstance(rank, int) and not isinstance(rank, bool) else None,
    )


def _paths(nodes: dict[str, _Node], path: str) -> Iterator[Conversation | RowError]:
    """Each path from a root to a leaf, without a last question that nobody answered."""
    roots = []
    for node in nodes.values():
        if node.parent is None:
            roots.append(node)
        elif node.parent in nodes:
            nodes[node.parent].children.append(node)
        else:
            yield RowError(
                f"{path}, line {node.line}",
                f"its parent {node.parent!r} is not in the file, or cannot be used",
                "add the parent, or remove the message and what answers it",
                "tree",
            )
    reached, stack = set(), [[root] for root in reversed(roots)]
    while stack:
        walk = stack.pop()
        node = walk[-1]
        reached.add(id(node))
        if len(walk) > DEEPEST:
            yield RowError(
                f"{path}, line {node.line}",
                f"more than {DEEPEST:,} messages deep",
                "no context holds so many: remove it",
                "tree",
            )
            continue
        node.children.sort(key=lambda n: (n.rank is None, n.rank or 0, n.line))
        stack += [[*walk, child] for child in reversed(node.children)]
        if node.message["role"] == "assistant" and not any(c.children for c in node.children):
            ranked = {}
            for turn, (parent, child) in enumerate(zip(walk, walk[1:]), 2):
                answers = [
                    (c.rank, c.message["content"]) for c in parent.children if c.rank is not None
                ]
                if child.message["role"] == "assistant" and len(answers) > 1:
                    ranked[turn] = answers
            yield Conversation([n.message for n in walk], path, node.line, ranked=ranked)
        elif (
            not node.children
            and node.message["role"] != "assistant"
            and (len(walk) == 1 or walk[-2].message["role"] != "assistant")
        ):
            yield RowError(
                f"{path}, line {node.line}",
                "nobody answers it",
                "add a reply, or remove the message",
                "missing end",
            )
    for node in nodes.values():
        if id(node) not in reached and node.parent in nodes:
            yield RowError(
                f"{path}, line {node.line}",
                "no root leads to it",
                "its first message must have no parent_id",
                "tree",
            )


# ----------------------------------------------------------------------------------- all of a file


def read_conversations(path, template: Template = CHAT) -> list[Conversation]:
    """Every conversation of a file; a DataError if a row of it cannot be used, or if it has
    none."""
    found = list(scan(path, template))
    refuse_faults([row for row in found if isinstance(row, RowError)])
    if not found:
        raise DataError(f"{path}: no conversation in it")
    return found


def refuse_faults(faults: list[RowError]) -> None:
    """Raise the first, with the number of the others, if there are any."""
    if faults:
        more = (
            f" (and {len(faults) - 1:,} more; python -m pysft audit names them all)"
            if len(faults) > 1
            else ""
        )
        raise DataError(f"{faults[0]}{more}")


def read_prompts(path) -> list[dict]:
    """[{"prompt": text, "domain": "in" | "near" | "out"}] of a JSONL file."""
    prompts = []
    with _open(Path(path)) as file:
        for number, row in _jsonl(file, path):
            if isinstance(row, RowError):
                raise row
            if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
                raise RowError(
                    f"{path}, line {number}",
                    'no "prompt" in it',
                    'write {"prompt": text, "domain": ...}',
                    "format",
                )
            prompts.append({"prompt": row["prompt"], "domain": str(row.get("domain", ""))})
    return prompts


# ------------------------------------------------------------------------------------ unknown chara

LOOKALIKES = {
    "\u0131": "i",
    "\u0142": "l",
    "\u0141": "L",
    "\u0111": "d",
    "\u0110": "D",
    "\u00d8": "O",
    "\u00c6": "AE",
    "\u0152": "OE",
    "\u1e9e": "SS",
    "\u2010": "-",
    "\u2011": "-",
    "\u00b4": "'",
    "`": "'",
    "\u00df": "ss",
    "\u00e6": "ae",
    "\u00f8": "o",
    "\u0153": "oe",
    "\u2018": "'",
    "\u2019": "'",
    "\u201a": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u201e": '"',
    "\u2013": "-",
    "\u2014": "-",
    "\u2212": "-",
    "\u2026": "...",
    "\u00a0": " ",
    "\t": " ",
    "\r": "",
    '"': "'",
    "(": ",",
    ")": ",",
}


@lru_cache(10_000)
def replacement(character: str, known: frozenset[str]) -> str | None:
    """What stands for a character that the vocabulary lacks: the letter and its accent apart, a
    look-alike, the letter without its accent, else "?"; "" for what cannot be seen (a soft hyphen,
    a joiner) or is a mere accent, None where the vocabulary has not even "?"."""
    if unicodedata.category(character) in ("Cf", "Mn"):
        return ""
    for found in (
        unicodedata.normalize("NFD", character),
        LOOKALIKES.get(character),
        LOOKALIKES.get(LOOKALIKES.get(character)),
        "".join(
            c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c)
        ),
        "?",
    ):
        if (
            found is not None
            and found != character
            and set(found) <= known
            and (found or character in LOOKALIKES)
        ):
            return found
    return None


def replaced(text: str, known: frozenset[str]) -> str:
    """A text with what the vocabulary lacks replaced, where there is something to put in its place.
    A letter and its accent are one character first, however they came."""
    if known.issuperset(text):
        return text
    found = (
        (c, c if c in known else replacement(c, known)) for c in unicodedata.normalize("NFC", text)
    )
    return "".join(c if new is None else new for c, new in found)
