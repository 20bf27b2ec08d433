"""Who says whether a reply is right: the exact judge of an invented world, a function in a user's
file, or a model behind an endpoint. The steps of `curate` that need a verdict share them.

judge = judge_of("world", load_stage("runs/world"))
judge([{"role": "user", "content": "What pet has Ada Brook?"}], "Ada Brook keeps a toad.")
"right"

The last two judges are told the true answer where it is known: the one of the world that a run
learned, else a reference that the caller has. Where nobody knows it they get ""."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pysft.errors import DataError, UsageError
from pysft.measure.judges import judge_named
from pysft.measure.raters import SEALED, WORLD, Truth, is_endpoint
from pysft.run.stage import Stage
from pysft.text.conversation import plain, short
from pysft.text.sampled import is_usable
from pysft.world.ask import Question

RIGHT = "right"  # the verdict that keeps a row
NOT_JUDGED = "not judged"  # why a row without a verdict is dropped


@dataclass(frozen=True)
class RowJudge:
    """Judges replies. Called with a prompt (messages), a reply, whether the reply ended, and a
    right answer ("" if none is known), it returns one of judge.VERDICTS, or None if it has no
    verdict. Of a question of the world, the world's answer counts.

    A refusal counts as right where the world says that the question has no answer.

    by: its name: "world", the name of a file, or that of the endpoint's model. truth: who knows the
    questions of the run's world; None without a run that learned one. ask: as a measure.judges.
    Judge is called; None: the exact one judges. figures: those of the endpoint's Asker; {} for
    other judges."""

    by: str
    truth: Truth | None
    ask: Callable[[str, str, str], str | None] | None = None
    figures: dict[str, int] = field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        return self.ask is None

    def question(self, prompt: list[dict]) -> Question | None:
        """Return the question of the world that a prompt asks; None if there is no such question,
        or no world."""
        return None if self.truth is None else self.truth.question(prompt)

    def is_sealed(self, prompt: list[dict]) -> bool:
        """True if a prompt asks about what only sealed questions ask about (Truth.is_sealed)."""
        return self.truth is not None and self.truth.is_sealed(prompt)

    def exact(self, prompt: list[dict], reply: str, ended: bool = True) -> str | None:
        """Return the exact judge's verdict; None if the prompt is no question of the world."""
        question = self.question(prompt)
        if question is None:
            return None
        return _fair(self.truth.verdict(prompt, reply, ended), question)

    def __call__(
        self, prompt: list[dict], reply: str, ended: bool = True, answer: str = ""
    ) -> str | None:
        if self.is_exact:
            return self.exact(prompt, reply, ended)
        if not ended or not is_usable(reply):  # plain to see, so nobody is asked
            return "malformed"
        question = self.question(prompt)
        known = answer if question is None else question.answer
        return _fair(self.ask(as_text(prompt), known, reply), question)


def _fair(verdict: str | None, question: Question | None) -> str | None:
    """The verdict; "right" for a refusal where nothing is known."""
    is_fit = question is not None and not question.value
    return "right" if verdict == "refused" and is_fit else verdict


def judge_of(
    by: str,
    stage: Stage | None = None,
    model: str | None = None,
    budget: int | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] = print,
    flag: str = "--by",
) -> RowJudge:
    """Return the judge that --by names.

    by       `world`: the exact judge of the world that `stage` learned; FILE.py, which has a
             function judge(question, answer, reply); or the URL of an OpenAI-compatible endpoint
    stage    of a run; None if there is none
    model, budget, cache   of an endpoint: its model, the most calls, and where answers are kept
    flag     what the user named the judge by, for messages

    UsageError for another name, without a world for `world`, and for flags that do not fit;
    MissingInput or a DataError for a file without that function."""
    truth = truth_of(stage)
    if by == WORLD:
        if model or budget:
            raise UsageError("--judge-model and --judge-budget are for the URL of an endpoint")
        if truth is None:
            learned = "" if stage is None else f"; {stage.folder} learned none (train --data world)"
            raise UsageError(
                f"{flag} world needs the run that learned the world which is asked about: --run RUN"
                + learned
            )
        return RowJudge(WORLD, truth)
    if not (is_endpoint(by) or by.endswith(".py")):
        raise UsageError(
            f"{flag} {by}: name {WORLD}, a Python file with a function judge (FILE.py), or the URL"
            " of an endpoint"
        )
    named = judge_named(by, model, budget, cache, say, flag)
    return RowJudge(named.name, truth, named.ask, named.figures)


def as_text(prompt: list[dict]) -> str:
    """Return a prompt as one text: what the user said, or, if there are more turns, each with its
    speaker."""
    texts = [plain(m["content"]) for m in prompt]
    if len(prompt) == 1:
        return texts[0]
    return "\n".join(f"{m['role'].capitalize()}: {text}" for m, text in zip(prompt, texts))


def truth_of(stage: Stage | None) -> Truth | None:
    """Return what is true in the world that a stage learned; None without a stage or a world."""
    return None if stage is None or stage.world is None else Truth(stage.world)


def refuse_sealed(
    prompts: Iterable[tuple[list[dict], str]], truth: Truth | None, remedy: str = "take it out"
) -> None:
    """Raise a DataError if one of the prompts asks about what is sealed (Truth.is_sealed), because
    nobody may train on what comes of it. It names the first place, and how many there are.

    prompts: [(messages, where)]. truth: of the world that counts; None if there is none. remedy:
    the end of the message."""
    if truth is None:
        return
    sealed = [(prompt, where) for prompt, where in prompts if truth.is_sealed(prompt)]
    if sealed:
        prompt, where = sealed[0]
        raise DataError(
            f"{where}: {short(plain(prompt[-1]['content']))} asks about what is {SEALED}, and those"
            f" questions are for reports alone (such prompts: {len(sealed):,}); {remedy}"
        )
