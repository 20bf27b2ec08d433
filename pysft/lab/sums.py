"""Sums of two numbers, answered at once or after a thought that adds digit by digit from the right,
each step with the carry of the one before:

    How much is 472 plus 385?
    thought   2+5=7, 7+8=15, 4+3+1=8
    answer    It is 857.

No tool runs. A base of the plays has never read a digit but 3, so its vocabulary grows."""

import re

import numpy as np

from pysft.inference.tool_calls import content_parts
from pysft.lab.arm import Arm
from pysft.lab.thoughts import thought_of
from pysft.lab.variants import exchange
from pysft.measure.evaluate import answer, corpus_loss
from pysft.measure.probe import Probe
from pysft.rng import rng
from pysft.text.characters import write_with
from pysft.text.conversation import THOUGHT, Conversation, with_thought
from pysft.text.templates import CHAT
from pysft.text.tokenizer import Tokenizer

LEAST, MOST = 100, 999  # the numbers that are added
TRAINED = 20_000  # sums
SEALED = 300  # sums that no training has, in neither order
ASKED = ("What is {a}+{b}?", "How much is {a} plus {b}?", "Add {a} and {b}.", "{a}+{b}")
ANSWER = "It is {}."
FOLLOWED = 100  # sealed sums that are asked along the way
SHOWN = 6  # replies that a record keeps


def steps_of(a: int, b: int) -> str:
    """The steps of the sum of two numbers with as many digits."""
    written, carry = [], 0
    for x, y in zip(reversed(str(a)), reversed(str(b))):
        total = int(x) + int(y) + carry
        written.append(f"{x}+{y}{'+1' * carry}={total}")
        carry = total // 10
    return ", ".join(written)


def asked_sums(seed: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(TRAINED pairs of numbers, SEALED pairs). No two have the same numbers, in either order."""
    g, found = rng(seed, "lab", "sums"), {}
    while len(found) < TRAINED + SEALED:
        a, b = g.integers(LEAST, MOST + 1, 2).tolist()
        found.setdefault((min(a, b), max(a, b)), (a, b))
    pairs = list(found.values())
    return pairs[SEALED:], pairs[:SEALED]


def prompts_of(pairs: list[tuple[int, int]]) -> list[str]:
    """The questions for some sums. The wordings take turns."""
    return [ASKED[i % len(ASKED)].format(a=a, b=b) for i, (a, b) in enumerate(pairs)]


def rows_of(pairs: list[tuple[int, int]]) -> list[Conversation]:
    """A conversation for each pair, whose thought is the steps."""
    replies = [with_thought(steps_of(a, b), ANSWER.format(a + b)) for a, b in pairs]
    asked = enumerate(zip(prompts_of(pairs), replies), 1)
    return [exchange(prompt, reply, line) for line, (prompt, reply) in asked]


def vocabulary(rows: list[Conversation], tokenizer: Tokenizer, thinks: bool) -> Tokenizer:
    """The vocabulary of a base with the characters of all rows and the tokens of a chat. thinks:
    with those of a thought."""
    tokens = CHAT.tokens_for({THOUGHT}) if thinks else ()
    grown = write_with(rows, tokenizer, CHAT, "grow").tokenizer
    return grown.grow([*CHAT.tokens, *tokens])


def probe_of(heldout_text: str, trained: list, sealed: list) -> Probe:
    """The texts that an arm on sums is measured with: the held-out tail of the corpus, some of the
    trained sums with their answers, and the sealed ones."""
    shown = trained[:SHOWN]
    return Probe(
        heldout_text=heldout_text,
        pairs=[[p, ANSWER.format(a + b)] for p, (a, b) in zip(prompts_of(shown), shown)],
        prompts=[{"prompt": prompt, "domain": "in"} for prompt in prompts_of(sealed)],
        heldout=[],
        known_words=[],
        training_replies=[],
    )


# ---------------------------------------------------------------------------------- the measures


def numbers_in(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def is_right(prompt: str, reply: str) -> bool:
    """True if the only number in a reply is the sum of the numbers in the prompt."""
    return numbers_in(reply) == [sum(numbers_in(prompt))]


# The names of judge_of_sums and adding are part of the names of trials on disk.


def judge_of_sums(model, tokenizer: Tokenizer, arm: Arm) -> tuple[dict, dict]:
    """(figures, replies) of a model while it trains: its loss on the held-out tail of the corpus,
    "right", the share of FOLLOWED sealed sums that it adds right, and a few replies to trained and
    sealed sums. An Arm.judge."""
    asked = {
        "pairs": [prompt for prompt, _ in arm.probe.pairs],
        "prompts": [p["prompt"] for p in arm.probe.prompts[:FOLLOWED]],
    }
    replies = {
        group: [
            (prompt, text, reply.stop)
            for prompt, (text, reply) in zip(prompts, answer(model, tokenizer, CHAT, prompts))
        ]
        for group, prompts in asked.items()
    }
    figures = {
        "tuned_base_loss": corpus_loss(model, tokenizer, arm.probe.heldout_text),
        "right": float(np.mean([is_right(p, text) for p, text, _ in replies["prompts"]])),
    }
    return figures, replies


def adding(model, tokenizer: Tokenizer, arm: Arm, seed: int) -> dict:
    """What a model answers to the sealed sums, greedily.

    right     share of the sums that are right
    steps     share whose thought has all steps as they should be
    founded   share that is right after such a thought
    length    mean tokens of a reply

    seed: not used. An Arm.finish."""
    prompts = [p["prompt"] for p in arm.probe.prompts]
    found = answer(model, tokenizer, CHAT, prompts)
    right = np.array([is_right(p, text) for p, (text, _) in zip(prompts, found)])
    thoughts = [thought_of(content_parts(r.ids, tokenizer, CHAT)) for _, r in found]
    true = [steps_of(*numbers_in(prompt)) for prompt in prompts]
    steps = np.array([thought == whole for thought, whole in zip(thoughts, true)])
    figures = {
        "right": right.mean(),
        "steps": steps.mean(),
        "founded": (right & steps).mean(),
        "length": np.mean([len(r.ids) for _, r in found]),
    }
    return {name: float(x) for name, x in figures.items()}
