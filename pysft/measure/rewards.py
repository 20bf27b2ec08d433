"""What a reply is worth while a policy is trained on it: the score of a reward model, of the exact
judge of an invented world, or of a function in a user's file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pysft.errors import DataError, RowError, UsageError
from pysft.inference.score import scores
from pysft.inference.tool_calls import free_text
from pysft.measure.raters import WORLD, Truth, called, is_function
from pysft.measure.tooltask import ToolTask
from pysft.measure.user_file import function_of
from pysft.run.stage import Stage

MODEL = "reward"  # the word for the reward model of a run


@dataclass(frozen=True)
class Reward:
    """score(prompts, replies, ended): the score (n,) float64 of each of n replies, each to the
    messages of its prompt. A reply is a text; where it may call tools, it is the list of its parts,
    as in the content of a message. Its thoughts are left out. name: for people."""

    name: str
    score: Callable[[list[list[dict]], Sequence, Sequence[bool]], np.ndarray]


def reward_named(
    by: str, truth: Truth | None, model: Stage | None, task: ToolTask | None = None
) -> Reward:
    """Return the Reward of a name: MODEL, WORLD, or FILE.py:function.

    truth: of the world that the prompts ask about; None without one. task: the questions that are
    answered with tools; their truth is then what WORLD says. model: the reward model, for
    MODEL. A UsageError if it needs what is not there. score() raises a DataError that names the
    prompt and the reply whose score is not a finite number."""
    if by == WORLD and task is not None:
        return Reward(WORLD, _finite(WORLD, task.golds))
    if by == WORLD:
        if truth is None:
            raise UsageError(
                "reward = 'world': no judge knows what is true of these prompts; begin from a run"
                " that learned an invented world (train --data world) and leave --prompts out, or"
                " name a reward model or FILE.py:function"
            )
        return Reward(WORLD, _finite(WORLD, lambda *given: _golds(truth, *given)))
    if by == MODEL:
        if model is None:
            raise UsageError(
                "reward = 'reward': no reward model is there to score replies; name the run of one"
                " by --reward, or FILE.py:function, or train one before: --stages reward,ppo"
            )
        name = str(model.folder)
        return Reward(name, _finite(name, lambda *given: _scored(model, *given)))
    path, _, name = by.rpartition(":")
    if not (is_function(by) and path.endswith(".py") and name):
        raise UsageError(
            f"--reward {by}: name {WORLD}, a run with a reward model, or FILE.py:function"
        )
    function = function_of(Path(path), name, "prompt, replies", "--reward")
    return Reward(
        f"{Path(path).name}:{name}", _finite(by, lambda *given: _called(by, function, *given))
    )


def _finite(by: str, score: Callable) -> Callable:
    """The same function, with a DataError for a score that is not finite."""

    def checked(prompts, replies, ended):
        found = np.asarray(score(prompts, replies, ended), np.float64)
        bad = np.flatnonzero(~np.isfinite(found))
        if len(bad):
            i = bad[0]
            raise DataError(
                f"{by}: the score of the reply {replies[i][:60]!r} to"
                f" {prompts[i][-1]['content'][:60]!r} is {found[i]}; it must be a finite number"
            )
        return found

    return checked


def _golds(truth: Truth, prompts, replies, ended) -> list[int]:
    texts = [reply if isinstance(reply, str) else free_text(reply) for reply in replies]
    each = zip(prompts, texts, ended)
    return [truth.golds(prompt, [text], [end])[0] for prompt, text, end in each]


def _scored(model: Stage, prompts, replies, ended) -> np.ndarray:
    try:
        return scores(model, prompts, list(replies))
    except RowError as error:
        raise DataError(
            f"{model.folder}: this reward model cannot read a reply ({error.what}); name one that"
            " was trained from this model or from a parent of it"
        ) from None


def _called(by: str, function: Callable, prompts, replies, ended) -> list[float]:
    """The scores of a user's function, which is called once for the replies to a prompt that stand
    next to each other."""
    found = []
    while len(found) < len(replies):
        first = len(found)
        last = first + 1
        while last < len(replies) and prompts[last] == prompts[first]:
            last += 1
        found += called(by, function, prompts[first], replies[first:last])
    return found
