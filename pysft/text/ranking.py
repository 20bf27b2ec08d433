"""Rankings: a prompt and several replies to it in an order of preference, and the check that
something can be learnt from it."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from pysft.errors import RowError
from pysft.text.conversation import Conversation, check_messages
from pysft.text.template import Template


@dataclass(frozen=True, slots=True)
class Ranking:
    """K replies to one prompt in an order of preference, with the file and line of their row.

    prompt: messages, the last of which is the user's. replies: K texts. ranks: K whole numbers, of
    which 1 is best; equal numbers are ties. labeler: who gave the ranks. source: who wrote the
    prompt, for example "plain", "few-shot", "persona" or "user". row: the row as it stands in the
    file; None if the ranking is from a message tree. first_turn: the number of the first message
    among the turns of the row, as in a Conversation."""

    prompt: list[dict]
    replies: tuple[str, ...]
    ranks: tuple[int, ...]
    path: str
    line: int
    labeler: str = ""
    source: str = ""
    row: dict | None = None
    first_turn: int = 1

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.line}"

    def name(self, i: int) -> str:
        """What reply i is called in the row: "chosen" or "rejected", or "reply 3"."""
        is_pair = self.row is not None and not {"replies", "completions"} & self.row.keys()
        return ("chosen", "rejected")[i] if is_pair else f"reply {i + 1}"

    def place(self, i: int) -> str:
        """Where reply i stands."""
        return f"{self.where}, {self.name(i)}"

    def to_row(self) -> dict:
        """The row of a file that holds the ranking: its own, if it has one."""
        if self.row is not None:
            return self.row
        return {"prompt": self.prompt, "replies": list(self.replies), "ranks": list(self.ranks)}

    @property
    def ended(self) -> tuple[bool, ...]:
        """Whether each reply came to its end, as the entry "ended" of the row says. False is one
        that was cut off. A row that says nothing has replies that did."""
        said = None if self.row is None else self.row.get("ended")
        is_known = isinstance(said, list) and [type(e) for e in said] == [bool] * len(self.replies)
        return tuple(said) if is_known else (True,) * len(self.replies)

    def pairs(self) -> list[tuple[int, int]]:
        """[(index of the better reply, index of the worse one)] of every two that do not tie."""
        numbered = enumerate(self.ranks)
        return [
            (i, j) if rank < other else (j, i)
            for (i, rank), (j, other) in combinations(numbered, 2)
            if rank != other
        ]

    def as_one(self) -> Conversation:
        """All texts as one conversation, the replies one after the other. It serves where texts
        are changed or counted, each once, and cannot be trained on."""
        replies = [{"role": "assistant", "content": reply} for reply in self.replies]
        return Conversation([*self.prompt, *replies], self.path, self.line)

    def with_texts_of(self, c: Conversation) -> "Ranking":
        """The same ranking with the texts of a conversation that was made by as_one()."""
        prompt, replies = c.messages[: len(self.prompt)], c.messages[len(self.prompt) :]
        return replace(self, prompt=prompt, replies=tuple(m["content"] for m in replies))

    def conversations(self) -> list[Conversation]:
        """The prompt with each of the K replies."""
        return [
            Conversation(
                [*self.prompt, {"role": "assistant", "content": reply}],
                self.path,
                self.line,
                first_turn=self.first_turn,
            )
            for reply in self.replies
        ]

    def located(self, error: RowError, i: int) -> RowError:
        """A fault that was found in conversation i of conversations(), at its place in the row."""
        where, place = self.place(i), error.where.removeprefix(self.where)
        turn = re.match(r", turn (\d+)", place)
        if turn and int(turn[1]) < self.first_turn + len(self.prompt):
            where = f"{self.where}, prompt{place}"
        return RowError(where, error.what, error.remedy, error.kind)


def ranks_of(scores: Sequence[float]) -> list[int]:
    """The rank of each score among all: 1 for the highest, and for each other one more than the
    number of higher scores. 7, 9, 7, 2 give 2, 1, 2, 4."""
    ordered = sorted(-score for score in scores)
    return [1 + bisect_left(ordered, -score) for score in scores]


def equal_replies(ranking: Ranking) -> list[tuple[int, int]]:
    """[(index, index of the first reply with the same text)] of replies that come again."""
    first = {}
    found = [(i, first.setdefault(reply, i)) for i, reply in enumerate(ranking.replies)]
    return [(i, same) for i, same in found if i != same]


def check_ranking(ranking: Ranking, template: Template) -> None:
    """Raise a RowError that names the prompt's turn or the reply, unless all of a ranking can be
    rendered and no reply is better than itself."""
    where, replies = ranking.where, ranking.replies
    if len(replies) < 2:
        what = f"{len(replies) or 'no'} repl{'y' if len(replies) == 1 else 'ies'}"
        raise RowError(where, what, "a ranking has two or more: add some, or remove it", "ranks")
    _check_end(ranking)
    for i, c in enumerate(ranking.conversations()):
        try:
            check_messages(c.messages, where, template, c.first_turn)
        except RowError as error:
            raise ranking.located(error, i) from None
    for i, same in equal_replies(ranking):
        if ranking.ranks[same] != ranking.ranks[i]:
            what = f"the same text as {ranking.name(same)}, with another rank"
            remedy = "no reply is better than itself: change one of them, or remove the row"
            raise RowError(ranking.place(i), what, remedy, "equal replies")


def _check_end(ranking: Ranking) -> None:
    """Raise a RowError unless the last message of the prompt is the user's."""
    prompt, remedy = ranking.prompt, "end the prompt with what the user says"
    where = f"{ranking.where}, prompt"
    if not prompt:
        raise RowError(where, "no turn in it", remedy, "format")
    role = prompt[-1].get("role") if isinstance(prompt[-1], dict) else "user"
    if role in ("assistant", "system"):
        what = f"its last turn is of role {role!r}"
        raise RowError(where, what, f"{remedy}, and put each reply among the replies", "roles")
