"""Message trees as OASST has them: each row is one message, which names its parent. Each path from
a root to a leaf is a conversation."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pysft.errors import RowError
from pysft.text.conversation import Conversation

KEYS = ("message_id", "role", "text")  # by which a row is known as a message of a tree
DEEPEST = 1000  # messages of a path


@dataclass(slots=True)
class _Node:
    message: dict
    parent: str | None
    line: int
    rank: int | None  # among the replies to its parent; 0 is best
    children: list = field(default_factory=list)

    @property
    def is_reply(self) -> bool:
        return self.message["role"] == "assistant"


class Trees:
    """The messages of a file, and the conversations that they make.

    roles: the name of a role in the file -> its name in the template."""

    def __init__(self, path: str, roles: dict[str, str]):
        self.path, self.roles = path, roles
        self.nodes: dict[str, _Node] = {}
        self.lines: dict[str, int] = {}  # of every message_id, also of messages that are faulty

    def add(self, row: dict, line: int) -> None:
        """Take in the message of a row. A RowError if it cannot be used."""
        where = f"{self.path}, line {line}"
        keys = ("message_id", "parent_id", "role", "text", "rank")
        name, parent, role, text, rank = (row.get(key) for key in keys)
        if not isinstance(name, str) or not isinstance(parent, (str, type(None))):
            what = '"message_id" and "parent_id" must be text (a root has no parent)'
            raise RowError(where, what, "write them so", "tree")
        if name in self.lines:
            what = f"message_id {name!r} stands in line {self.lines[name]} already"
            raise RowError(where, what, "give each message its own", "tree")
        self.lines[name] = line
        if not isinstance(text, str) or not text.strip():
            remedy = "write one, or remove the message and what answers it"
            raise RowError(where, "empty text", remedy, "empty")
        if not isinstance(role, str) or role not in self.roles:
            remedy = f"expected one of {', '.join(self.roles)}"
            raise RowError(where, f"unknown role {role!r}", remedy, "roles")
        is_rank = isinstance(rank, int) and not isinstance(rank, bool)
        message = {"role": self.roles[role], "content": text}
        self.nodes[name] = _Node(message, parent, line, rank if is_rank else None)

    def conversations(self) -> Iterator[Conversation | RowError]:
        """Each path from a root to a leaf, the better ranked first, without a last question that
        nobody answered; and the faults of messages that are on no such path."""
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
            if node.is_reply:
                if not any(child.children for child in node.children):
                    yield Conversation([n.message for n in path], self.path, node.line)
            elif not node.children and (len(path) == 1 or not path[-2].is_reply):
                remedy = "add a reply, or remove the message"
                yield self._fault(node, "nobody answers it", remedy, "missing end")
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
