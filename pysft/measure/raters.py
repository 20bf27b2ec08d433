"""Whoever puts the replies to a prompt in an order: the exact judge of an invented world, simulated
labelers, a reward model, a function in a user's file, or a model behind an endpoint. A person does
it in orders.py.

All of them are a Rater, so what is done with the orders does not depend on who gave them."""

import json
import re
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np

from pysft.errors import DataError, PysftError, UsageError
from pysft.measure.user_file import function_of
from pysft.rng import rng
from pysft.text.conversation import plain, visible_text
from pysft.text.ranking import ranks_of
from pysft.world.ask import Question, questions
from pysft.world.facts import SPLITS, WorldSettings, make
from pysft.world.judge import ExactJudge
from pysft.world.labelers import LABELERS, gold, scores, turn

WORLD, ALL_LABELERS = "world", "labelers"
SEALED = "sealed"  # the split whose questions are for reports alone
LETTERS = "ABCDEFGHI"  # of replies
FORMAT = """

Answer with one line that has the letter of every reply, the best first: > between a better and a
worse one, = between replies that tie. For example: B > A = C"""
TOKENS = 512  # that an answer of an endpoint may take; one that thinks aloud takes more than a line
GUIDE = Path(__file__).resolve().parents[1] / "guide" / "labelers.md"

Ranks = tuple[int, ...]  # of replies: 1 is best, equal numbers tie


@dataclass(frozen=True)
class Rater:
    """names(number): the labelers who rank prompt `number`, counted from 0.

    rank(prompt, replies, ended, number): [(labeler, ranks)] of each of them; [] if the prompt is
    left out. prompt: messages. replies: texts. ended: False for one that was cut off.

    is_costly: an order is worth saving at once."""

    names: Callable[[int], tuple[str, ...]]
    rank: Callable[[list[dict], Sequence[str], Sequence[bool], int], list[tuple[str, Ranks]]]
    is_costly: bool = False


def instructions() -> str:
    """Return what labelers are told: the first section of the guide's page."""
    return GUIDE.read_text(encoding="utf-8").split("\n## ")[1].partition("\n\n")[2].strip()


def is_endpoint(by: str) -> bool:
    return by.startswith(("http://", "https://"))


def is_simulated(by: str) -> bool:
    """True for `world`, `labelers`, and names of labelers, such as "ann,lena"."""
    return by in (WORLD, ALL_LABELERS) or set(by.split(",")) <= set(LABELERS)


def is_function(by: str) -> bool:
    """True for FILE.py:function, or a FILE.py whose function is forgotten."""
    path, colon, name = by.rpartition(":")
    return by.endswith(".py") or (colon == ":" and path.endswith(".py") and "/" not in name)


def rater_named(
    by: str,
    world: WorldSettings | None = None,
    score: Callable | None = None,
    seed: int = 0,
    model: str | None = None,
    budget: int | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] = print,
) -> Rater:
    """Return the Rater of a name.

    by       `world`, `labelers` or names of some of them, FILE.py:function, the URL of an endpoint,
             or what `score` is called
    world    for the first two: the world that the prompts ask about
    score    of a reward model: score(prompts, replies) -> an array of as many numbers
    seed     of the labelers' errors, and of the order in which an endpoint sees the replies
    model, budget, cache   of an endpoint: its model, the most calls, and where answers are kept"""
    if is_endpoint(by):
        if not model:
            raise UsageError("--by URL needs the model's name too: --judge-model NAME")
        from pysft.measure.endpoint import Asker, Endpoint  # with the modules of HTTP

        asker = Asker(Endpoint(by, model, budget=budget, cache=cache), say)
        return _one(model, lambda *given: _asked(asker, seed, *given), is_costly=True)
    if model or budget:
        raise UsageError("--judge-model and --judge-budget are for the URL of an endpoint")
    if is_simulated(by):
        if world is None:
            raise UsageError(
                f"--by {by} needs the run that learned the world which is asked about: --run RUN"
            )
        return _of_world(by, Truth(world), seed)
    if score is not None:
        return _one(by, lambda prompt, replies, _: ranks_of(_scored(by, score, prompt, replies)))
    path, _, name = by.rpartition(":")
    if not (is_function(by) and path.endswith(".py") and name):
        raise UsageError(
            f"--by {by}: name {WORLD}, {ALL_LABELERS}, a run's folder, FILE.py:function, or the URL"
            " of an endpoint"
        )
    function = function_of(Path(path), name, "prompt, replies", "--by")
    return _one(
        f"{Path(path).name}:{name}",
        lambda prompt, replies, _: ranks_of(called(by, function, prompt, replies)),
        is_costly=True,  # it may be slow, or call a paid service
    )


def _one(name: str, ranks: Callable, is_costly: bool = False) -> Rater:
    """Return the Rater of one labeler. ranks(prompt, replies, ended): None if it gives none."""

    def rank(prompt, replies, ended, number=0):
        found = ranks(prompt, replies, ended)
        return [] if found is None else [(name, tuple(found))]

    return Rater(lambda number: (name,), rank, is_costly)


# ------------------------------------------------------------------------------ who knows the truth


class Truth:
    """What is true of a world, and so what the exact judge says of replies to its questions. world:
    its settings. judge: its exact judge."""

    def __init__(self, settings: WorldSettings):
        self.world, world = settings, make(settings)
        self.judge = ExactJudge(world)
        self._questions = {q.prompt: q for split in SPLITS for q in questions(world, split)}
        sealed = {re.escape(q.about) for q in questions(world, SEALED)}
        self._sealed = re.compile(rf"(?<![\w-])({'|'.join(sorted(sealed))})(?!\w)", re.IGNORECASE)

    def golds(self, prompt: list[dict], replies, ended) -> list[int]:
        """Return the points of each reply, 0 to 3. A DataError if the prompt is no question of the
        world."""
        has_answer = bool(self._known(prompt).value)
        return [
            gold(self.verdict(prompt, reply, end), has_answer) for reply, end in zip(replies, ended)
        ]

    def verdict(self, prompt: list[dict], reply: str, ended: bool = True) -> str:
        """Return the exact judge's verdict about a reply. Errors as in golds()."""
        return self.judge.judge(self._known(prompt), reply, ended)

    def about(self, prompt: list[dict]) -> str:
        """Return the name or the day that a question asks about. Errors as in golds()."""
        return self._known(prompt).about

    def question(self, prompt: list[dict]) -> Question | None:
        """Return the question that a prompt asks; None if it is no question of the world."""
        return self._questions.get(plain(prompt[0]["content"])) if len(prompt) == 1 else None

    def is_sealed(self, prompt: list[dict]) -> bool:
        """True for a sealed question, which nobody may train on, and for a prompt that is no
        question of the world and names somebody or something that only sealed questions ask
        about."""
        question = self.question(prompt)
        if question is not None:
            return question.split == SEALED
        return any(self._sealed.search(plain(m["content"])) for m in prompt)

    def _known(self, prompt: list[dict]) -> Question:
        question = self.question(prompt)
        if question is None:
            raise DataError(
                f"{plain(prompt[-1]['content'])[:60]!r} is no question of this world, so nobody"
                " knows what is true; name the run that learned the world by --run, or rate the"
                " file by somebody else"
            )
        return question


def _of_world(by: str, truth: Truth, seed: int) -> Rater:
    if by == WORLD:
        return _one(WORLD, lambda *given: ranks_of(truth.golds(*given)))
    people = LABELERS if by == ALL_LABELERS else tuple(dict.fromkeys(by.split(",")))

    def rank(prompt, replies, ended, number=0):
        golds, lengths = truth.golds(prompt, replies, ended), list(map(len, replies))
        return [
            (name, tuple(ranks_of(scores(name, golds, lengths, seed, number))))
            for name in turn(people, number)
        ]

    return Rater(lambda number: turn(people, number), rank)


# -------------------------------------------------------------------------------------- who scores


def _scored(by: str, score: Callable, prompt, replies) -> list[float]:
    """The scores that a reward model gives."""
    found = np.asarray(score([prompt] * len(replies), list(replies)), float)
    if found.shape != (len(replies),) or not np.isfinite(found).all():
        raise DataError(f"{by}: its scores are not all finite; train the reward model again")
    return found.tolist()


def called(by: str, function: Callable, prompt, replies) -> list[float]:
    """The scores that a user's function gives. A DataError if it fails, or gives something else."""
    shown = f"{by}({prompt[-1]['content'][:40]!r}, ...)"
    try:
        returned = function([dict(m) for m in prompt], list(replies))
    except PysftError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise DataError(
            f"{shown} raised {type(error).__name__}{_line_of(error, by)}: {error}"
        ) from None
    try:
        found = [float(x) for x in returned if isinstance(x, Real)]
        is_whole = len(found) == len(returned) == len(replies)
    except (TypeError, OverflowError):
        found, is_whole = [], False
    if is_whole and not np.isfinite(found).all():
        bad = np.flatnonzero(~np.isfinite(found))[0]
        raise DataError(
            f"{shown} returned {found[bad]} for the reply {replies[bad][:60]!r}; it must return a"
            " finite number for each reply"
        )
    if not is_whole:
        raise DataError(
            f"{shown} returned {str(returned)[:60]}; it must return a list with a finite number for"
            f" each of the {len(replies)} replies"
        )
    return found


def _line_of(error: Exception, by: str) -> str:
    """Return " in line N of FILE.py": the last line of the user's file that an error went through;
    "" if it went through none."""
    path = by.rpartition(":")[0]
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).name == Path(path).name]
    return f" in line {lines[-1]} of {Path(path).name}" if lines else ""


# ------------------------------------------------------------------------------------ who is asked


def _asked(asker, seed: int, prompt, replies, ended) -> Ranks | None:
    """The ranks that a model behind an endpoint gives; None if it gives none.

    The replies are shown in a random order, which their texts and the seed decide: so the same
    question is asked again after a stop, wherever in its file it stands."""
    texts = json.dumps([prompt, list(replies)])
    shown = rng(seed, "raters", "order", zlib.crc32(texts.encode())).permutation(len(replies))
    parts = [f"{m['role'].capitalize()}: {visible_text(m['content'])}" for m in prompt]
    for letter, i in zip(LETTERS, shown.tolist()):
        cut = "" if ended[i] else " [cut off]"
        parts.append(f"Reply {letter}: {replies[i]}{cut}")
    messages = [
        {"role": "system", "content": instructions() + FORMAT},
        {"role": "user", "content": "\n\n".join(parts)},
    ]
    answer = asker.ask(messages, lambda text: ranks_in(text, len(replies)), TOKENS)
    if answer is None:
        return None
    found = np.empty(len(replies), int)
    found[shown] = ranks_in(answer, len(replies))
    return tuple(found.tolist())


def ranks_in(text: str, count: int) -> Ranks:
    """Return the ranks of replies A, B, ... from the order in the last line of a text, such as
    "B > A = C": 2, 1, 2. A ValueError if the line is something else, or if a letter is missing,
    unknown or there twice."""
    letters = LETTERS[:count]
    line = (text.strip().splitlines() or [""])[-1].strip().strip("*`.").strip()
    if not re.fullmatch(r"[A-Z](\s*[>=]\s*[A-Z])*", line):
        raise ValueError("expected an order in its last line, such as B > A = C")
    groups = [re.findall("[A-Z]", group) for group in line.split(">")]
    named = [letter for group in groups for letter in group]
    if sorted(named) != list(letters):
        raise ValueError(f"expected each of {', '.join(letters)} once in its last line")
    ranks, better = {}, 0
    for group in groups:
        ranks |= dict.fromkeys(group, better + 1)
        better += len(group)
    return tuple(ranks[letter] for letter in letters)


def ranks_typed(text: str, count: int) -> Ranks:
    """Return the ranks that a person typed, who may leave the > out and the letters small:
    "b a=c". Otherwise as ranks_in()."""
    return ranks_in(re.sub(r"(?<=[A-Z])[\s,]*(?=[A-Z])", " > ", text.strip().upper()), count)
