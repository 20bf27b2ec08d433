"""An arm of an experiment: one way of fine-tuning, and how its result is measured."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pysft.batch import Example
from pysft.lab.told import Told
from pysft.measure.evaluate import measure
from pysft.measure.probe import Probe
from pysft.text.conversation import Conversation
from pysft.text.examples import encode_conversation
from pysft.text.templates import CHAT
from pysft.text.tokenizer import Tokenizer
from pysft.training.settings import Settings


def standard(conversation: Conversation, tokenizer: Tokenizer, settings: Settings) -> Example:
    """The Example that `train` makes of a conversation."""
    return encode_conversation(
        conversation, tokenizer, settings.model.context, CHAT, settings.data.grade
    )


# The names of the functions in an arm's fields `judge` and `finish` are part of the names of trials
# on disk (Trial.description). After a function is renamed, its trials are trained again.


def judge(model, tokenizer: Tokenizer, arm: "Arm") -> tuple[dict, dict]:
    """(figures, replies) of a model, as measure() gives them."""
    return measure(model, tokenizer, CHAT, arm.probe)


@dataclass(frozen=True)
class Arm:
    """One way of fine-tuning a preset's base.

    name           unique within its experiment; not part of the trial's file name
    preset         the preset whose base and settings it starts from
    probe          the texts that it is measured with
    settings       those of the fine-tuning and of its data that differ from the preset's, with
                   unscaled steps
    conversations  training data that is drawn by tokens (the setting tokens)
    pairs          training data that is drawn by number (the setting pairs)
    at             unscaled steps to measure after, besides step 0 and the last step
    encode         (conversation, tokenizer, settings) -> Example
    tokenizer      None: the lab's, which can write the corpus, and the template's tokens
    judge          (model, tokenizer, arm) -> (figures, replies)
    lora           (rank, matrices); None: all weights are trained
    finish         (model, tokenizer, arm, seed) -> further figures of the finished model
    by_kind        also record each step's loss on first tokens, on end tokens and on the rest
    matched        also measure the base trained on the replayed windows alone
    precision      that of the products, in the base and in the fine-tuning
    told           the invented world that the base reads of beside the corpus, and the fine-tuning
                   too if it has windows of it; None: no world
    base           {table: {name: value}}: settings of the base that differ from the preset's, with
                   unscaled steps; [model] holds for the fine-tuning too"""

    name: str
    preset: str
    probe: Probe
    settings: dict = field(default_factory=dict)
    conversations: tuple[Conversation, ...] = ()
    pairs: tuple[Conversation, ...] = ()
    at: tuple[int, ...] = ()
    encode: Callable = standard
    tokenizer: Tokenizer | None = None
    judge: Callable = judge
    lora: tuple[int, tuple[str, ...]] | None = None
    finish: Callable | None = None
    by_kind: bool = False
    matched: bool = False
    precision: str = "float32"
    told: Told | None = None
    base: dict = field(default_factory=dict)
