"""A chat: the turns so far, and the rule for when they no longer fit."""

import time
from dataclasses import dataclass, field

import numpy as np

from pysft.errors import DataError, UsageError
from pysft.inference.generate import Reply, Sampling, generate
from pysft.text.formats import replaced
from pysft.text.template import Template, render_prompt
from pysft.text.tokenizer import CharTokenizer

ROOM = 32  # tokens that a reply gets at the least: history makes way for it


@dataclass
class Session:
    """model, tokenizer, template: a tuned run's. messages: the history, oldest first; system: what the system says
    before it, which is never left out. replace: characters that the vocabulary lacks are replaced, as the run's training
    replaced them."""
    model: object
    tokenizer: CharTokenizer
    template: Template
    sampling: Sampling = Sampling()
    max_new: int = 120
    messages: list[dict] = field(default_factory=list)
    system: str | None = None
    replace: bool = False

    def __post_init__(self):
        if self.system is not None and not self.system.strip():
            raise UsageError("an empty --system; write some words, or leave it out")
        if self.system is not None and "system" not in self.template.turns:
            raise UsageError(f"this run's template {self.template.name!r} has no system role; leave --system out")

    def prompt(self, text: str) -> tuple[np.ndarray, int]:
        """(ids, dropped): the prompt for `text` after the history, and how many of the oldest
        exchanges had to be left out so that a reply has room. A text that cannot fit even alone is
        refused."""
        turn = {"role": "user", "content": text}
        context = self.model.config.context
        room = min(ROOM, self.max_new)
        said = self.system and replaced(self.system, frozenset(self.tokenizer.characters)) if self.replace else self.system
        before = [] if said is None else [{"role": "system", "content": said}]
        for first in range(0, len(self.messages) + 1, 2):
            ids = render_prompt([*before, *self.messages[first:], turn], self.tokenizer, self.template)
            if len(ids) + room <= context:
                return ids, first // 2
        raise DataError(f"the prompt takes {len(ids)} tokens and a reply needs {room}, but the context "
                        f"holds {context}; shorten the prompt by {len(ids) + room - context} characters")

    def say(self, text: str) -> tuple[str, Reply, int]:
        """(answer, Reply, dropped): the model's answer to `text`; both join the history."""
        if self.replace:
            text = replaced(text, frozenset(self.tokenizer.characters))
        if not text.strip():
            raise DataError("an empty message; type some words")
        ids, dropped = self.prompt(text)
        reply = generate(self.model, [ids], self.max_new, self.tokenizer.special[self.template.end],
                         self.sampling)[0]
        del self.messages[:2 * dropped]
        # Only characters are kept: a control token, or an opener in words, that slipped out must not become a turn.
        plain = self.tokenizer.decode(reply.ids[reply.ids < len(self.tokenizer.characters)])
        for marker in self.template.forgeable:
            plain = plain.partition(marker)[0]
        self.messages += [{"role": "user", "content": text},
                          {"role": "assistant", "content": plain}]
        return self.tokenizer.decode(reply.ids), reply, dropped


def once(session: Session, text: str) -> dict:
    """One answer, as `chat -p` prints it."""
    began = time.monotonic()
    answer, reply, _ = session.say(text)
    return {"prompt": text, "reply": answer, "stop": reply.stop, "tokens": len(reply.ids),
            "tokens_per_s": len(reply.ids) / max(time.monotonic() - began, 1e-9)}
