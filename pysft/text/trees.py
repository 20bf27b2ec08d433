"""Message trees as OASST has them: each row is one message, which names its parent, or a whole
tree, in which each message holds its replies. Each path from a root to a leaf is a conversation.
The ranked replies to one message make a ranking."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pysft.errors import RowError
from pysft.text.conversation import Conversation, LeftOut
from pysft.text.files import with_line_ends
from pysft.text.keys import MARKS, OF_ROWS, Reading

KEYS = ("message_id", "role", "text")  # by which a row is known as a message of a tree
REPLIES = "replies"  # the key of a message that holds its replies
# Keys of a message, besides those that are read, which say nothing about its text.
ABOUT = ("review_count", "detoxify", "tree_state", "emojis", "labels", "events", "is_spam")
DEEPEST = 1000  # messages of a path


class Ranked(NamedTuple):
    """A message and the replies to it that have a rank, the best first. prompt: the messages from
    the root to it. ranks: those of the file, of which 0 is usually the best. line: the message's.
    """

    prompt: list[dict]
    replies: list[str]
    ranks: list[float]
    line: int


@dataclass(slots=True)
class _Node:
    message: dict
    parent: str | None
    line: int
    rank: float | None  # among the replies to its parent; 0 is best
    children: list = field(default_factory=list)
    has_lost: bool = False  # one of its replies is left out

    @property
    def is_reply(self) -> bool:
        return self.message["role"] == "assistant"


class Trees:
    """The messages of a file, and the conversations that they make.

    roles: the name of a role in the file -> its name in the template. reading: which messages are
    left out. Those that are marked as deleted, or that failed their review, always are."""

    def __init__(self, path: str, roles: dict[str, str], reading: Reading):
        self.path, self.roles, self.reading = path, roles, reading
        self.nodes: dict[str, _Node] = {}
        self.lines: dict[str, int] = {}  # of every message_id, also of messages that are faulty
        self.left_out: dict[str, str] = {}  # message_id -> why

    def add_tree(self, row: dict, line: int) -> None:
        """Take in a whole tree. A RowError names the first message that cannot be used."""
        rest = {key: value for key, value in row.items() if key not in ("prompt", *ABOUT)}
        self.reading.refuse_rest(rest, f"{self.path}, line {line}", OF_ROWS)
        self.add(row["prompt"], line)

    def add(self, message: dict, line: int) -> None:
        """Take in a message and the replies that it holds. A RowError if one cannot be used."""
        where, stack = f"{self.path}, line {line}", [message]
        while stack:
            message = stack.pop()
            if not isinstance(message, dict) or not all(key in message for key in KEYS):
                what = f"a message of the tree lacks one of {', '.join(KEYS)}"
                raise RowError(where, what, "add what is missing", "tree")
            replies = message.get(REPLIES)
            if replies is not None and not isinstance(replies, list):
                raise RowError(where, f'"{REPLIES}" is no list', "write it so", "tree")
            self._add({k: v for k, v in message.items() if k != REPLIES}, line)
            parent = {"parent_id": message["message_id"]}
            stack += [r | parent if isinstance(r, dict) else r for r in reversed(replies or [])]

    def _add(self, row: dict, line: int) -> None:
        """Take in one message. A RowError if it cannot be used."""
        where = f"{self.path}, line {line}"
        keys = ("message_id", "parent_id", "role", "text", "rank")
        name, parent, role, text, rank = (row.pop(key, None) for key in keys)
        if not isinstance(name, str) or not isinstance(parent, (str, type(None))):
            what = '"message_id" and "parent_id" must be text (a root has no parent)'
            raise RowError(where, what, "write them so", "tree")
        if name in self.lines:
            what = f"message_id {name!r} stands in line {self.lines[name]} already"
            raise RowError(where, what, "give each message its own", "tree")
        self.lines[name] = line
        if why := self.reading.left_out(row, where):
            self.left_out[name] = why
            self.nodes[name] = _Node({}, parent, line, None)
            return
        rest = {key: value for key, value in row.items() if key not in (*MARKS, *ABOUT)}
        self.reading.refuse_rest(rest, where)
        if not isinstance(text, str) or not text.strip():
            remedy = "write one, or remove the message and what answers it"
            raise RowError(where, "empty text", remedy, "empty")
        if not isinstance(role, str) or role not in self.roles:
            remedy = f"expected one of {', '.join(self.roles)}"
            raise RowError(where, f"unknown role {role!r}", remedy, "roles")
        # Not a number (NaN) is no rank, and neither is an infinite one.
        is_rank = isinstance(rank, (int, float)) and not isinstance(rank, bool)
        is_rank = is_rank and -math.inf < rank < math.inf
        message = {"role": self.roles[role], "content": with_line_ends(text)}
        self.nodes[name] = _Node(message, parent, line, rank if is_rank else None)

    def _leave_out(self) -> Iterator[LeftOut]:
        """Remove the messages that are left out, and all that hang below them. Yield each."""
        below = {}
        for name, node in self.nodes.items():
            below.setdefault(node.parent, []).append(name)
        names = list(self.left_out)
        for name in names:  # the list grows while it is read
            more = [n for n in below.get(name, ()) if n not in self.left_out]
            self.left_out |= dict.fromkeys(more, "that hang below those")
            names += more
        for name, why in self.left_out.items():
            parent = self.nodes.pop(name).parent
            if parent in self.nodes:
                self.nodes[parent].has_lost = True
            yield LeftOut(why)

    def conversations(self) -> Iterator[Conversation | RowError | LeftOut]:
        """Each path from a root to a leaf, the better ranked first, without a last question that
        nobody answered; the faults of messages that are on no such path; and what is left out."""
        for path in self._paths():
            if not isinstance(path, list):
                yield path
                continue
            node = path[-1]
            if node.is_reply:
                if not any(child.children for child in node.children):
                    yield Conversation([n.message for n in path], self.path, node.line)
            elif not node.children and node.has_lost:
                yield LeftOut("whose replies are all left out")
            elif not node.children and (len(path) == 1 or not path[-2].is_reply):
                remedy = "add a reply, or remove the message"
                yield self._fault(node, "nobody answers it", remedy, "missing end")

    def rankings(self) -> Iterator[Ranked | RowError | LeftOut]:
        """The ranked replies to each message that has two of them or more; the faults of messages
        that no root leads to; and what is left out, a reply without a rank too."""
        for path in self._paths():
            if not isinstance(path, list):
                yield path
                continue
            node = path[-1]
            replies = [child for child in node.children if child.is_reply]
            ranked = [child for child in replies if child.rank is not None]
            if node.is_reply:
                continue
            if len(ranked) < 2:
                yield LeftOut("with fewer than two ranked replies")
                continue
            for _ in range(len(replies) - len(ranked)):
                yield LeftOut("without a rank")
            texts = [child.message["content"] for child in ranked]
            yield Ranked(
                [n.message for n in path], texts, [child.rank for child in ranked], node.line
            )

    def _paths(self) -> Iterator[list[_Node] | RowError | LeftOut]:
        """The path from a root to each message; the faults of messages that no root leads to; and
        what is left out."""
        yield from self._leave_out()
        roots = yield from self._linked()
        reached, stack = set(), [[root] for root in reversed(roots)]
        while stack:
            path = stack.pop()
            node = path[-1]
            reached.add(id(node))
            if len(path) > DEEPEST:
                what = f"more than {DEEPEST:,} messages deep"
                yield self._fault(node, what, "no context holds so many: remove it")
                continue
            node.children.sort(key=lambda n: (n.rank is None, n.rank or 0, n.line))
            stack += [[*path, child] for child in reversed(node.children)]
            yield path
        for node in self.nodes.values():
            if id(node) not in reached and node.parent in self.nodes:
                remedy = "its first message must have no parent_id"
                yield self._fault(node, "no root leads to it", remedy)

    def _linked(self):
        """Yield the faults of messages without a parent in the file; return the roots."""
        roots = []
        for node in self.nodes.values():
            if node.parent is None:
                roots.append(node)
            elif node.parent in self.nodes:
                self.nodes[node.parent].children.append(node)
            else:
                what = f"its parent {node.parent!r} is not in the file, or cannot be used"
                yield self._fault(
                    node, what, "add the parent, or remove the message and what answers it"
                )
        return roots

    def _fault(self, node: _Node, what: str, remedy: str, kind: str = "tree") -> RowError:
        return RowError(f"{self.path}, line {node.line}", what, remedy, kind)
