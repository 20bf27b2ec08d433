"""A tuned model beside its parent: their replies to the same prompts, and the parent's figures."""

from dataclasses import asdict, dataclass, field, replace

from pysft.errors import DataError
from pysft.inference.generate import generate
from pysft.inference.sampling import CHAT, Sampling
from pysft.measure.evaluate import answer, finite, measure
from pysft.measure.probe import Probe
from pysft.measure.wording import COMPARED, ended
from pysft.run.stage import Stage
from pysft.text.render import render


@dataclass(frozen=True)
class Sides:
    """Replies of a tuned model and of its parent, for the screen and the report.

    parent: the parent's name. talks: whether the parent answers; else it completes the prompt.
    rows: [prompt, the parent's text, the tuned model's reply, why the reply stopped, True if the
    prompt was trained on]. chat: a chat about the town (town.py); [] without tools."""

    parent: str
    talks: bool
    rows: list[list]
    chat: list[dict] = field(default_factory=list)

    def to_json(self) -> dict:
        return asdict(self)


def compared(parent: Stage, tuned: Stage, replies: dict) -> Sides:
    """Return the parent's texts beside some replies of the tuned model. A base completes at
    temperature 0.8; a tuned model answers as `chat` writes.

    replies: those of measure(), for their prompts. One that the parent cannot read is left out."""
    room = parent.model.config.context - 1
    rows = []
    for group, count in (("pairs", 4), ("prompts", 6)):
        fits = [r for r in replies[group] if _can_read(parent, r[0], room)]
        rows += [(row, group == "pairs") for row in fits[:count]]
    prompts = [row[0] for row, _ in rows]
    said = answer(tuned.model, tuned.tokenizer, tuned.template, prompts, CHAT)
    tokenizer = parent.tokenizer
    if parent.can_talk:
        answers = answer(parent.model, tokenizer, parent.template, prompts, CHAT)
        texts = [ended(text, end.stop) for text, end in answers]
    else:
        ids = [tokenizer.encode(prompt) for prompt in prompts]
        ends = generate(parent.model, ids, 40, sampling=Sampling(temperature=0.8, seed=1))
        texts = [tokenizer.decode(end.ids) for end in ends]
    rows = [
        [prompt, text, reply, end.stop, trained]
        for prompt, text, (reply, end), (_, trained) in zip(prompts, texts, said, rows)
    ]
    return Sides(parent.name, parent.can_talk, rows)


def _can_read(stage: Stage, prompt: str, room: int) -> bool:
    can_write = stage.tokenizer.can_write(prompt)
    return can_write and 0 < len(stage.tokenizer.encode(prompt)) <= room


def parent_figures(parent: Stage, probe: Probe, grade: str) -> dict | None:
    """Return the figures of a parent that can talk, measured with its child's probe, and its name
    as "stage". None for a base.

    What the parent has no tokens for, such as calls of a tool that its child has learned, is left
    out."""
    if not parent.can_talk:
        return None
    readable = replace(
        probe,
        pairs=[pair for pair in probe.pairs if _can_render(parent, pair[0])],
        heldout=[messages for messages in probe.heldout if _can_render(parent, messages)],
    )
    figures, _ = measure(parent.model, parent.tokenizer, parent.template, readable, grade)
    parent.model.release()
    return {"stage": parent.name} | finite({name: figures[name] for name in COMPARED})


def _can_render(stage: Stage, messages) -> bool:
    """True if a stage can write a prompt, or the turns of a conversation, as tokens."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    try:
        render(messages, stage.tokenizer, stage.template, grade="flags")
    except DataError:
        return False
    return True
