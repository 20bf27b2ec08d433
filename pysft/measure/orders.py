"""Put the sampled replies of a file in order, by a person or by a Rater, and keep the orders in a
file of rankings that text/preferences.py reads.

The file has a row for each order: "prompt", "replies", "ended", "ranks", "labeler", and "source" if
it is known. Rows are only added, and a person may take the last one back. What stands in the file
is not asked again, so a session or a command that was stopped goes on where it stopped."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from pysft import disk
from pysft.errors import UsageError
from pysft.measure.rate import FULL_WIDTH
from pysft.measure.raters import LETTERS, Rater, instructions, ranks_typed
from pysft.rng import rng
from pysft.text.agreement import Judgements
from pysft.text.conversation import SURROGATE, visible_text
from pysft.text.preference_audit import INSTRUCTGPT
from pysft.text.ranking import Ranking
from pysft.text.sampled import LEAST, Sampled, is_usable

HELP = """Type the letters of all replies, the best first: B > A = C, or shorter b a=c; = is a tie.
s skips a prompt, u takes the last order back, q stops. Every order is saved at once."""
START = b'{"prompt": '  # of each line
ALSO = 256  # orders that are saved together, if they cost little


class Rankings:
    """The rows of a file of rankings, which is made with the first one.

    A UsageError if there is a file of something else. A last line that a crash cut off is completed
    or removed when the next row is added."""

    def __init__(self, path: Path):
        self.path, self.rows = path, []
        self._named: dict[str, set[str]] = {}  # key of prompt and replies -> who ranked them
        self._torn, self._torn_is_row = b"", False  # the last line, if it has no end
        if not path.exists():
            if not path.parent.is_dir():
                raise UsageError(f"{path}: there is no such folder; make it, or choose --out")
            return
        content = path.read_bytes() if path.is_file() else b"\0"
        *lines, self._torn = content.split(b"\n")
        faulty = [line for line in lines if line.strip() and not self._take(line)]
        self._torn_is_row = self._take(self._torn)
        is_begun = self._torn_is_row or START.startswith(self._torn[: len(START)])
        if faulty or not is_begun:
            raise UsageError(
                f"{path}: it holds something else than rankings that this command wrote; choose"
                " another file by --out"
            )

    def _take(self, line: bytes) -> bool:
        """Take in a line of the file. False if it is no row."""
        try:
            row = json.loads(line)
            replies, ranks = row["replies"], row["ranks"]
            key = _key(row["prompt"], replies)
            is_row = len(ranks) == len(replies) and all(type(rank) is int for rank in ranks)
            if not is_row or not isinstance(row["labeler"], str):
                return False
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        self.rows.append(row)
        self._named.setdefault(key, set()).add(row["labeler"])
        return True

    def has(self, item: Sampled, names) -> bool:
        """True if all these labelers have ranked the replies."""
        return set(names) <= self._named.get(_key(item.prompt, item.replies), set())

    def add(self, rows: list[dict]) -> None:
        """Add rows, and save them. OSError if they cannot be written."""
        if self._torn:
            self._mend()
        disk.append(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        for row in rows:
            self._take(json.dumps(row).encode())

    def _mend(self) -> None:
        """Complete the last line, or remove what a crash left of it."""
        with open(self.path, "rb+") as file:
            start = max(0, file.seek(0, os.SEEK_END) - len(self._torn))
            file.seek(start)
            if file.read() == self._torn:  # else another process has mended it
                file.write(b"\n") if self._torn_is_row else file.truncate(start)
        self._torn = b""

    def take_back(self) -> bool:
        """Remove the last row. False if another process has written to the file since."""
        line = json.dumps(self.rows[-1]).encode() + b"\n"
        with open(self.path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(line)))
            if file.read() != line:
                return False
            file.truncate(size - len(line))
            os.fsync(file.fileno())
        row = self.rows.pop()
        self._named[_key(row["prompt"], row["replies"])].discard(row["labeler"])
        return True

    def rankings(self) -> list[Ranking]:
        """The rows as rankings."""
        return [
            Ranking(
                row["prompt"], tuple(row["replies"]), tuple(row["ranks"]), str(self.path), number,
                row["labeler"],
            )
            for number, row in enumerate(self.rows, 1)
        ]  # fmt: skip


def _key(prompt, replies) -> str:
    """What a row is known by. The order of the replies does not count."""
    return json.dumps([prompt, sorted(replies)])


def _row(item: Sampled, labeler: str, ranks) -> dict:
    return item.to_row() | {"ranks": list(ranks), "labeler": labeler}


# ------------------------------------------------------------------------------- by somebody else


def rank_all(
    sampled: list[Sampled],
    out: Path,
    rater: Rater,
    progress: Callable[[str, bool], None] = lambda text, last: None,
) -> dict:
    """Let a Rater rank the replies to each prompt that it has not ranked yet. Return the --json
    document (as document() says). progress(text, last) shows a line.

    Orders that came before an error or an interrupt are kept."""
    file, items = Rankings(out), [row.usable() for row in sampled]
    rated, left_out, unsaved = 0, 0, []
    try:
        for number, item in enumerate(items):
            if len(item.replies) < LEAST or file.has(item, rater.names(number)):
                continue
            found = rater.rank(item.prompt, item.replies, item.ended, number)
            new = [(labeler, ranks) for labeler, ranks in found if not file.has(item, (labeler,))]
            unsaved += [_row(item, labeler, ranks) for labeler, ranks in new]
            rated, left_out = rated + bool(found), left_out + (not found)
            if rater.is_costly or len(unsaved) >= ALSO:
                file.add(unsaved)
                unsaved = []
            progress(f"prompt {number + 1:,} of {len(items):,}", False)
    finally:
        if unsaved:
            file.add(unsaved)
    return document(file, sampled, rated, left_out, rater.names)


# ------------------------------------------------------------------------------------ by a person


def rank_by_person(
    sampled: list[Sampled],
    out: Path,
    labeler: str = "person",
    seed: int | None = None,
    ask: Callable[[str], str] = input,
    say: Callable[[str], None] = print,
) -> dict:
    """Let a person put the replies to each prompt in an order. Return the --json document.

    Prompts and replies come in random orders, which the seed decides (default: a new one).
    ask(prompt) returns what the person types; say(text) shows a text. The session ends after the
    last prompt, with q, at the end of the input, or with an interrupt."""
    file, seed = Rankings(out), secrets.randbits(31) if seed is None else seed
    items = [row.usable() for row in sampled]
    # The same replies to the same prompt are asked about once.
    once = {_key(item.prompt, item.replies): n for n, item in enumerate(items)}
    todo = [n for n in once.values() if _is_open(items[n], file, labeler)]
    order = [todo[i] for i in rng(seed, "raters", "prompts").permutation(len(todo))]
    say(f"{instructions()}\n\n{HELP}")
    if len(todo) < len(items):
        say(f"{len(items) - len(todo)} of {len(items)} prompts are done, or have nothing to order.")
    at, done, shown = 0, [], None
    try:
        while at < len(order):
            number = order[at]
            item, mixed = items[number], _mixed(items[number], seed, number)
            if shown != at:
                say(f"\n{at + 1} of {len(order)}\n{_shown(item, mixed)}")
                shown = at
            typed = ask("order> ").translate(FULL_WIDTH).strip().lower()
            if typed == "s":
                at += 1
            elif typed == "q":
                break
            elif typed == "u" and not done:
                say("This session has no order to take back.")
            elif typed == "u" and not file.take_back():
                say(f"Another program has written to {out}, so the last order stays.")
            elif typed == "u":
                at = done.pop()
            else:
                try:
                    found = ranks_typed(typed, len(mixed))
                except ValueError:
                    letters = LETTERS[: len(mixed)]
                    say(f"Type each of {', '.join(letters)} once, the best first, with = for ties;"
                        " s skips, u takes the last order back, q stops.")  # fmt: skip
                    continue
                ranks = [rank for _, rank in sorted(zip(mixed, found))]
                file.add([_row(item, labeler, ranks)])
                done.append(at)
                at += 1
    except (EOFError, KeyboardInterrupt):
        say("")
    return document(file, sampled, len(done), 0, lambda number: (labeler,))


def _is_open(item: Sampled, file: Rankings, labeler: str) -> bool:
    return len(item.replies) >= LEAST and not file.has(item, (labeler,))


def _mixed(item: Sampled, seed: int, number: int) -> list[int]:
    """The numbers of the replies in the order in which they are shown."""
    return rng(seed, "raters", "replies", number).permutation(len(item.replies)).tolist()


def _shown(item: Sampled, mixed: list[int]) -> str:
    """A prompt and its replies for the screen, without half characters, which it cannot show."""
    said = {"user": "you", "assistant": "bot"}
    lines = [f"{said.get(m['role'], m['role'])}> {visible_text(m['content'])}" for m in item.prompt]
    for letter, i in zip(LETTERS, mixed):
        reply = item.replies[i] + ("" if item.ended[i] else " [cut off]")
        lines.append(f"  {letter}  " + reply.replace("\n", "\n     "))
    return SURROGATE.sub("?", "\n".join(lines))


# ------------------------------------------------------------------------------------- the result


def document(file: Rankings, sampled: list[Sampled], rated: int, left_out: int, names) -> dict:
    """The --json document.

    rankings   the file
    rated      prompts that were ranked now
    left       prompts that are still to be ranked
    left_out   prompts that cannot be: they have fewer than two different replies that are usable,
               or the endpoint gave no order
    unusable   replies that are empty or hold a control token
    all_tie    rankings in the file whose replies all tie, so that nothing can be learnt from them
    pairs, comparisons, agreed   pairs of replies that two labelers ordered; the comparisons of each
               two of them; in how many of these they agree
    labelers   [{"labeler", "judged", "comparisons", "agreed"}] of all rankings in the file"""
    items = [row.usable() for row in sampled]
    too_few = sum(len(item.replies) < LEAST for item in items)
    missing = sum(
        len(item.replies) >= LEAST and not file.has(item, names(number))
        for number, item in enumerate(items)
    )
    judgements = Judgements()
    for ranking in file.rankings():
        judgements.add(ranking)
    return {
        "rankings": str(file.path),
        "rated": rated,
        "left": missing - left_out,
        "left_out": too_few + left_out,
        "unusable": sum(not is_usable(reply) for row in sampled for reply in row.replies),
        "all_tie": sum(len(set(row["ranks"])) == 1 for row in file.rows),
        **judgements.agreement(),
    }


def document_lines(found: dict) -> list[str]:
    """Return the lines that are printed of a document."""
    lines = [
        f"{found['rankings']}: {found['rated']:,} prompts rated now, {found['left']:,} left,"
        f" {found['left_out']:,} left out"
    ]
    if found["unusable"]:
        lines.append(f"unusable replies: {found['unusable']:,} are empty or hold a control token")
    if found["all_tie"]:
        lines.append(f"no difference: in {found['all_tie']:,} rankings all replies tie")
    if found["comparisons"]:
        least, most = INSTRUCTGPT
        lines.append(
            f"labelers agree: {found['agreed'] / found['comparisons']:.0%} of"
            f" {found['comparisons']:,} comparisons on {found['pairs']:,} pairs (InstructGPT's"
            f" labelers: {least:.0%} to {most:.0%})"
        )
    for row in found["labelers"]:
        agreed = (
            f", agrees with others on {row['agreed'] / row['comparisons']:.0%} of"
            f" {row['comparisons']:,}"
            if row["comparisons"]
            else ""
        )
        lines.append(f"  {row['labeler']}: {row['judged']:,} pairs{agreed}")
    return lines
