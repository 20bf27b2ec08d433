"""Teachers: models that write replies with a thought. A run of ours learned to; a model behind an
endpoint is asked to.

    <|thought_start|>Ivo teaches Ada. Ivo keeps a toad.<|thought_end|>Ivo keeps a toad.
    Thought: Ivo teaches Ada. Ivo keeps a toad.
    Answer: Ivo keeps a toad."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pysft.console import command
from pysft.errors import UsageError
from pysft.inference.thoughts import thought_tokens
from pysft.jobs.collect import as_typed, rendered, sample_ids, talking_stage
from pysft.measure.raters import is_endpoint
from pysft.run.stage import Stage, weights_sha256
from pysft.text.curated import NO_END
from pysft.text.files import with_line_ends
from pysft.text.sampled import is_usable
from pysft.text.template import Template
from pysft.text.templates import CHATML
from pysft.text.tokenizer import Tokenizer

TASK = """Answer the last message of the user in two parts, and write nothing else.
Thought: what you know about it and how the answer follows, in a few short plain sentences.
Answer: the answer alone, in full sentences. A reader sees it without the thought.
Begin the first part with "Thought:" and the second, on a new line, with "Answer:"."""
CACHE = "taught"  # the folder of an endpoint's answers
TOKENS = 2048  # that an answer of an endpoint may take; some models think before they write
_THOUGHT = re.compile(r"[\s*#_]*Thought[*_]*:[*_]*\s*")
_ANSWER = re.compile(r"(?:^|(?<=\s))[*#_ ]*Answer[*_]*:[*_]*\s*")
NO_THOUGHT, MALFORMED = "no thought", "malformed"


class Draft(NamedTuple):
    """A reply of a teacher. fault: why nobody needs to judge it; "" if it is a thought and an
    answer, whole, and in a form that can be trained on."""

    thought: str = ""
    answer: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Teacher:
    """name: as the user named it. marks: what else a row says of it. template: by which prompts are
    read. run: its stage; None for an endpoint.

    read(messages, where): the messages as it reads them; a DataError if it cannot. write(prompts,
    k, seed, progress): k Drafts for each prompt, at temperature 1."""

    name: str
    marks: dict
    template: Template
    run: Stage | None
    read: Callable[[list[dict], str], list[dict]]
    write: Callable[..., list[list[Draft]]]


def teacher_named(
    name: str,
    model: str | None,
    budget: int | None,
    cache: str | None,
    ops,
    say: Callable[[str], None],
) -> Teacher:
    """The Teacher of a name: a run's folder, or the URL of an endpoint.

    model, budget, cache: of the endpoint, as asker_of() takes them. A UsageError if the run cannot
    talk or has learned no thoughts, and for flags that do not fit. Errors of load_stage() and of
    Endpoint."""
    if is_endpoint(name):
        return _of_endpoint(name, asker_of(name, model, budget, cache, say))
    refuse_flags(model, budget, cache)
    stage = talking_stage(name, ops, "--teacher", f"train one that thinks: {_how()}")
    return _of_run(name, stage)


def asker_of(url: str, model: str | None, budget: int | None, cache: str | None, say):
    """Return the Asker of a teacher behind an endpoint. model: its name. budget: the most calls;
    None for no limit. cache: the folder of its answers, None for CACHE. A UsageError without a
    model."""
    if not model:
        raise UsageError("--teacher URL needs the model's name too: --teacher-model NAME")
    from pysft.measure.endpoint import Asker, Endpoint  # with the modules of HTTP

    return Asker(Endpoint(url, model, budget=budget, cache=cache or CACHE), say)


def refuse_flags(model: str | None, budget: int | None, cache: str | None) -> None:
    """Raise a UsageError if a run is given flags of an endpoint."""
    if model or budget or cache:
        raise UsageError(
            "--teacher-model, --teacher-budget and --teacher-cache are for the URL of an endpoint;"
            " leave them out"
        )


# -------------------------------------------------------------------------------------- a run


def _of_run(name: str, stage: Stage) -> Teacher:
    if thought_tokens(stage.tokenizer, stage.template) is None:
        raise UsageError(
            f"--teacher {name}: {stage.folder}: this model has no tokens of a thought; train one"
            f" that has: {_how()}"
        )

    def read(messages, where):
        messages = as_typed(messages, stage)
        rendered(stage, messages, where)
        return messages

    def write(prompts, k, seed, progress):
        return [
            [draft_of_ids(ids, ended, stage.tokenizer, stage.template) for ids, ended in replies]
            for replies in sample_ids(stage, prompts, k, seed, progress=progress)
        ]

    marks = {"weights_sha256": weights_sha256(stage.model)}
    return Teacher(name, marks, stage.template, stage, read, write)


def _how() -> str:
    """How a teacher is trained."""
    settings = ("world.relations=3", "world.two_hops=thought")
    world = command("train", "--data", "world", "--set", *settings)
    return f'{world}, or on a file whose replies have a part of type "thought" (train --data FILE)'


def draft_of_ids(ids, ended: bool, tokenizer: Tokenizer, template: Template) -> Draft:
    """The Draft of a reply of a run, whose vocabulary has the tokens of a thought. ended: False if
    the reply was cut off. It must begin with its only thought, and have no other control token."""
    ids = np.array(ids, np.int32)
    marks = np.flatnonzero(tokenizer.is_special(ids))
    opener, closer = thought_tokens(tokenizer, template)
    if opener not in ids:
        return Draft(fault=NO_THOUGHT)
    if not ended:
        return Draft(fault=NO_END)
    if ids[marks].tolist() != [opener, closer] or marks[0] > 0:
        return Draft(fault=MALFORMED)
    begin, end = marks.tolist()
    thought, answer = ids[begin + 1 : end], ids[end + 1 :]
    return _checked(tokenizer.decode(thought), tokenizer.decode(answer), template)


def _checked(thought: str, answer: str, template: Template) -> Draft:
    """The Draft of two texts."""
    if not thought.strip():
        return Draft(fault=NO_THOUGHT)
    if not (is_usable(thought, template) and is_usable(answer, template)):
        return Draft(fault=MALFORMED)
    return Draft(thought, answer)


# -------------------------------------------------------------------------------- an endpoint


def _of_endpoint(name: str, asker) -> Teacher:
    def write(prompts, k, seed, progress):
        found = []
        for number, prompt in enumerate(prompts, 1):
            found.append([_asked(asker, prompt, f"{seed}:{j}") for j in range(k)])
            progress(f"replies to {number:,} of {len(prompts):,} prompts", False)
        return found

    marks = {"model": asker.endpoint.model}
    return Teacher(name, marks, CHATML, None, lambda messages, where: messages, write)


def _asked(asker, prompt: list[dict], draw: str) -> Draft:
    """One answer of an endpoint. It is asked once, whatever it writes."""
    systems = [m["content"] for m in prompt if m["role"] == "system"]
    messages = [{"role": "system", "content": "\n\n".join([TASK, *systems])}]
    messages += [m for m in prompt if m["role"] != "system"]
    cut = asker.figures["cut"]
    text = asker.ask(messages, None, TOKENS, 1, draw)
    return draft_of_text(text, asker.figures["cut"] == cut)


def draft_of_text(text: str, ended: bool = True) -> Draft:
    """The Draft of an endpoint's answer: "Thought: ..." and then "Answer: ...", each once. ended:
    False if the answer was cut off; "" is then one that had no room to begin."""
    if not (ended or text.strip()):
        return Draft(fault=NO_END)
    before, *answers = _ANSWER.split(with_line_ends(text))
    label = _THOUGHT.match(before)
    thought = before[label.end() :].strip() if label else ""
    if not thought:
        return Draft(fault=NO_THOUGHT)
    if not ended:
        return Draft(fault=NO_END)
    if len(answers) != 1:
        return Draft(fault=MALFORMED)
    return _checked(thought, answers[0].strip(), CHATML)
