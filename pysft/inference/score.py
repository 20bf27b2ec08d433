"""What a model makes of replies: a number for each, of which higher is better. A reward model gives
its value, a model that talks the log-probability of the reply."""

import numpy as np

from pysft.batch import Example, in_batches
from pysft.errors import UsageError
from pysft.run.stage import Stage
from pysft.text.compared import scored_example
from pysft.text.conversation import Conversation


def scores(stage: Stage, prompts: list[list[dict]], replies: list[str]) -> np.ndarray:
    """Return the score (n,) float64 of each of n replies to its prompt.

    prompts: the messages before each reply. A UsageError if the stage is no reward model. A
    DataError (RowError) if its context or its vocabulary cannot hold a reply."""
    if stage.model.config.outputs != "value":
        raise UsageError(
            f"{stage.folder}: it is no reward model; name a run that `reward` or `train --stages"
            " base,sft,reward` trained"
        )
    context = stage.model.config.context
    examples = [
        scored_example(
            Conversation([*prompt, {"role": "assistant", "content": reply}], "replies", line),
            stage.tokenizer,
            context,
            stage.template,
        )
        for line, (prompt, reply) in enumerate(zip(prompts, replies), 1)
    ]
    return values(stage.model, examples)


def values(model, examples: list[Example]) -> np.ndarray:
    """Return the value (n,) float64 in the last row of each example."""
    found = [np.zeros(0)]
    for batch in in_batches(examples, model.config.vocab, model.config.context):
        out = model.forward(batch).value[batch.cu_seqlens[1:] - 1]
        found.append(out.astype(np.float64))
    return np.concatenate(found)


def log_probabilities(model, examples: list[Example]) -> np.ndarray:
    """Return the sum (n,) float64 of the log-probabilities of the graded tokens of each example, in
    nats."""
    found = [np.zeros(0)]
    for batch in in_batches(examples, model.config.vocab, model.config.context):
        nll = model.forward(batch).nll.astype(np.float64)
        found.append(-np.add.reduceat(nll, batch.cu_seqlens[:-1]))
    return np.concatenate(found)
