"""Judges of replies to questions whose truth is known: the exact one, a function in a user's file,
and a model behind an endpoint. How far another judge agrees with the exact one says how far it can
be trusted where no truth is known."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pysft.errors import DataError, UsageError
from pysft.measure.user_file import function_of
from pysft.world.judge import VERDICTS

TASK = """You grade the reply of a small language model. You are given a question, the true
answer, and the reply. Answer with one word:
right if the reply states what is true, in any words, and nothing that is false;
wrong if it states or denies something else, or answers although nothing is known;
refused if it says that it does not know, or that there is no such name or day;
malformed if it does none of these: it is empty, cut off, babble, or repeats the question."""
# The same where nobody knows the true answer, which is so for most of what is no question.
ALONE = """You grade the reply of a small language model. You are given what the user said and the
reply. Answer with one word:
right if the reply fits what the user said and states nothing that is false; also if it says that it
does not know, where nobody can know, or that there is no such name or day, where there is none;
wrong if it states something that is false, contradicts itself, or speaks of something else;
refused if it says that it does not know, or that there is no such thing, where an answer is known;
malformed if it does none of these: it is empty, cut off, babble, or repeats what the user said."""
TOKENS = 512  # that an answer of a judge may take; one that thinks aloud takes more than a word


@dataclass(frozen=True)
class Judge:
    """judge(question, answer, reply) is a verdict, or None if the judge gave none. answer: a right
    one, "" if nobody knows it.

    name: that of its file, or of the endpoint's model. figures: those of the endpoint's Asker; {}
    for a file."""

    name: str
    ask: Callable[[str, str, str], str | None]
    figures: dict[str, int] = field(default_factory=dict)

    def __call__(self, question: str, answer: str, reply: str) -> str | None:
        return self.ask(question, answer, reply)


def judge_named(
    name: str, model: str | None, budget: int | None, cache: Path, say, flag: str = "--judge"
) -> Judge:
    """Return the Judge of a name.

    name: the path of a Python file that has such a function `judge`, or the URL of an endpoint.
    model: that of the endpoint. budget: the most calls. cache: the folder of its answers. flag:
    what the user named the judge by, for messages."""
    if name.startswith(("http://", "https://")):
        if not model:
            raise UsageError(f"{flag} URL needs the model's name too: --judge-model NAME")
        from pysft.measure.endpoint import Asker, Endpoint  # with the modules of HTTP

        asker = Asker(Endpoint(name, model, budget=budget, cache=cache), say)
        return Judge(model, lambda *texts: _asked(asker, *texts), asker.figures)
    if model or budget:
        raise UsageError("--judge-model and --judge-budget are for the URL of an endpoint")
    return Judge(Path(name).name, _of_file(Path(name), flag))


def _asked(asker, question: str, answer: str, reply: str) -> str | None:
    task, given = ALONE, f"What the user said: {question}\nReply: {reply}"
    if answer:
        task, given = TASK, f"Question: {question}\nTrue answer: {answer}\nReply: {reply}"
    messages = [{"role": "system", "content": task}, {"role": "user", "content": given}]
    text = asker.ask(messages, verdict_in, TOKENS)
    return None if text is None else verdict_in(text)


def verdict_in(text: str) -> str:
    """Return the verdict that a judge's answer ends with: the last line's only verdict. A
    ValueError if there is none, or more than one."""
    lines = text.strip().splitlines() or [""]
    words = "".join(c if c.isalpha() else " " for c in lines[-1].lower()).split()
    found = {word for word in words if word in VERDICTS}
    if len(found) != 1 or "not" in words:
        raise ValueError(f"expected one of {', '.join(VERDICTS)} in its last line")
    return found.pop()


def _of_file(path: Path, flag: str) -> Callable:
    """Return the function `judge` of a Python file."""
    function = function_of(path, "judge", "question, answer, reply", flag)

    def judge(question: str, answer: str, reply: str) -> str:
        try:
            verdict = function(question, answer, reply)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise DataError(f"{path}: judge({question!r}, ...) raised {what}") from None
        if verdict not in VERDICTS:
            raise DataError(
                f"{path}: judge({question!r}, ...) returned {verdict!r}, expected one of"
                f" {', '.join(VERDICTS)}"
            )
        return verdict

    return judge


def compared(judge: Callable, asked: list[dict]) -> dict:
    """Let a judge judge replies that the exact judge has judged, and compare.

    asked: the questions with their replies, as world_figures() returns them.

    judged      replies that it gave a verdict for
    left_out    those that it gave none for
    agreement   share of the judged replies with the exact verdict
    right, wrong, refused, malformed   shares of its verdicts
    differences  {"exact verdict -> its verdict": how many}"""
    pairs = []
    for row in asked:
        reply = row["reply"] + ("" if row["stop"] == "end" else " [cut off]")
        pairs.append((row["verdict"], judge(row["prompt"], row["answer"], reply)))
    judged = [(exact, verdict) for exact, verdict in pairs if verdict is not None]
    count = Counter(verdict for _, verdict in judged)
    n = len(judged) or None
    return {
        "judged": len(judged),
        "left_out": len(pairs) - len(judged),
        "agreement": sum(a == b for a, b in judged) / n if n else None,
        **{name: count[name] / n if n else None for name in VERDICTS},
        "differences": dict(Counter(f"{a} -> {b}" for a, b in judged if a != b).most_common()),
    }


def judge_rows(judged: dict) -> list[tuple[str, str]]:
    """Return the rows of the short table: (what, its value)."""
    n, agreement = judged["judged"], judged["agreement"]
    text = "-" if agreement is None else f"{agreement:.1%}"
    differ = [f"{count} {pair}" for pair, count in list(judged["differences"].items())[:3]]
    rows = [("the other judge", f"agrees with the exact one on {text} of {n:,} replies")]
    rows += [("  where not", ", ".join(differ))] if differ else []
    return rows + ([("  left out", f"{judged['left_out']:,}")] if judged["left_out"] else [])
