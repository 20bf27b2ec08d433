"""The loss mask: which tokens are graded, and the shift that makes inputs and labels."""

import numpy as np

from pysft import IGNORE
from pysft.lessons.problem import Problem

# ------------------------------------------------------------------- which tokens the model writes


def mark_trained(is_assistant, lengths):
    """Return trained (L,) bool: True for each token that the model should learn to write.

    is_assistant (T,) bool and lengths (T,) describe the turns. A turn is an opening token, the
    tokens of its text, lengths[t] of them, and <|end|>. The model writes the text of the
    assistant's turns and the <|end|> by which it stops. The system writes <|assistant|>, and the
    user everything else.

    Each flag is set when its token is written, so nothing is searched for afterwards, and any
    number of turns is right."""
    trained = []
    for graded, length in zip(is_assistant, lengths):
        trained += [False] + [bool(graded)] * (length + 1)
    return np.array(trained)


def mark_arguments(rng, sizes) -> dict:
    T = sizes["turns"]
    lengths = rng.permutation(np.arange(2, 2 + sizes["longest"]))[:T]
    return {"is_assistant": np.arange(T) % 2 == 1, "lengths": lengths}


def mark_answer(arguments: dict, wrong: frozenset) -> dict:
    """mark_trained, with these mistakes."""
    is_assistant, lengths = arguments.values()
    turn = np.repeat(np.arange(len(lengths)), lengths + 2)  # of each token
    replies = np.flatnonzero(is_assistant)
    is_opener = np.diff(turn, prepend=-1) > 0
    is_first = np.append(False, is_opener[:-1])  # the first token of a text
    is_end = np.append(is_opener[1:], True)
    is_reply = is_assistant[turn]
    if "only-the-first-reply" in wrong:
        is_reply = turn == replies[0]
    if "only-the-last-reply" in wrong:
        is_reply = turn == replies[-1]
    trained = is_reply & ~is_opener
    if "all-after-the-first-opener" in wrong:
        trained = np.arange(len(turn)) > np.flatnonzero(is_opener & is_assistant[turn])[0]
    if "everything-marked" in wrong:
        trained = np.ones(len(turn), bool)
    if "opener-marked" in wrong:
        trained = trained | is_reply & is_opener
    if "first-token-not-marked" in wrong:
        trained = trained & ~is_first
    if "end-not-marked" in wrong:
        trained = trained & ~is_end
    if "user-ends-marked" in wrong:
        trained = trained | is_end & ~is_assistant[turn]
    if "row-before-marked" in wrong:
        trained = np.append(trained[1:], False)
    return {"trained": ~trained if "flags-inverted" in wrong else trained}


MARK = Problem(
    function="mark_trained",
    skeleton='''def mark_trained(is_assistant, lengths):
    """Return trained (L,) bool, given is_assistant (T,) bool and the lengths (T,) of the texts."""
''',
    arguments=mark_arguments,
    answer=mark_answer,
    sizes=({"turns": 4, "longest": 5}, {"turns": 6, "longest": 8}),
    returns=("trained",),
    mistakes=(
        "first-token-not-marked",
        "end-not-marked",
        "opener-marked",
        "row-before-marked",
        "everything-marked",
        "user-ends-marked",
        "all-after-the-first-opener",
        "only-the-first-reply",
        "only-the-last-reply",
        "flags-inverted",
    ),
)

# --------------------------------------------------------------------------------------- the shift


def shift_arguments(rng, sizes) -> dict:
    """Different tokens; a question and a reply, twice. The last token is the end of a reply."""
    lengths = rng.permutation(np.arange(2, 2 + sizes["longest"]))[:4]
    trained = mark_answer({"_": np.arange(4) % 2 == 1, "lengths": lengths}, frozenset())["trained"]
    tokens = 1 + rng.permutation(sizes["V"] - 1)[: len(trained)]
    return {"tokens": tokens.astype(np.int32), "trained": trained}


def shift_answer(arguments: dict, wrong: frozenset) -> dict:
    """shift, with these mistakes."""
    tokens, trained = arguments.values()
    input_ids, labels, graded = tokens[:-1], tokens[1:], trained[1:]
    if "labels-not-shifted" in wrong:
        labels, graded = tokens[:-1], trained[:-1]
    if "shifted-twice" in wrong:
        labels, graded = np.append(tokens[2:], IGNORE), np.append(trained[2:], False)
    if "shifted-the-other-way" in wrong:
        input_ids, labels, graded = tokens[1:], tokens[:-1], trained[:-1]
    if "flags-not-shifted" in wrong:
        graded = trained[:-1]
    if "nothing-masked" in wrong:
        graded = np.ones_like(graded)
    if "mask-inverted" in wrong:
        graded = ~graded
    if "last-row-kept" in wrong:
        input_ids = np.append(input_ids, tokens[-1])
        labels, graded = np.append(labels, IGNORE), np.append(graded, False)
    if "inputs-masked" in wrong:
        input_ids = np.where(trained[: len(input_ids)], input_ids, IGNORE)
    ignored = 0 if "zero-for-minus-100" in wrong else IGNORE
    return {"input_ids": input_ids, "labels": np.where(graded, labels, ignored)}


SHIFT = Problem(
    function="shift",
    skeleton='''def shift(tokens, trained):
    """Return input_ids (L-1,) and labels (L-1,), given tokens (L,) and trained (L,) bool."""
''',
    arguments=shift_arguments,
    answer=shift_answer,
    sizes=({"V": 68, "longest": 5}, {"V": 97, "longest": 8}),
    returns=("input_ids", "labels"),
    mistakes=(
        "labels-not-shifted",
        "flags-not-shifted",
        "shifted-twice",
        "shifted-the-other-way",
        "last-row-kept",
        "nothing-masked",
        "mask-inverted",
        "zero-for-minus-100",
        "inputs-masked",
    ),
)

PROBLEMS = (MARK, SHIFT)
