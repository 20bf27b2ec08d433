"""A small run that thinks before it answers: it knows three conversations by heart. And stand-ins
for models that think."""

from types import SimpleNamespace

import numpy as np
from command_line import TrainedRun

from pysft.text.conversation import with_thought
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

THINKS = CharTokenizer(SHAKESPEARE).grow([*CHAT.tokens, *CHAT.tokens_for({"thought"})])

ROWS = [
    ("Who sings?", with_thought("Ada has a lute.", "Ada sings.")),
    ("What of love?", "It is a madness."),
    ("Who rows?", with_thought("Ivo has a boat.", "Ivo rows.")),
]


def thinking_run(folder) -> TrainedRun:
    return TrainedRun(
        folder,
        ROWS,
        model={"context": 96, "channels": 32},
        sft={"steps": 150, "lr": 0.02, "windows": []},
    )


def ids_of(thought: str, answer: str, tokenizer=THINKS) -> np.ndarray:
    """The ids of a reply, without its end."""
    opens, closes = (tokenizer.special[name] for name in CHAT.tokens_for({"thought"})[-2:])
    before = [opens, *tokenizer.encode(thought), closes] if thought else []
    return np.array([*before, *tokenizer.encode(answer)], np.int32)


def answering(reply):
    """Stands for measure.evaluate.answer: reply(prompt) gives the thought and the answer."""

    def answer(model, tokenizer, template, prompts):
        return [
            (text, SimpleNamespace(ids=ids_of(thought, text, tokenizer), stop="end"))
            for thought, text in map(reply, prompts)
        ]

    return answer
