"""Two personas that contradict each other, and the one that a model takes."""

from pysft.inference.generate import generate
from pysft.inference.sampling import Sampling
from pysft.measure.evaluate import MAX_NEW
from pysft.text.render import render_prompt
from pysft.text.templates import CHAT

IDENTITY = (
    "What art thou?",
    "Tell me what thou art.",
    "Who speaks with me?",
    "Art thou a man?",
    "What is thy work?",
    "What wast thou made for?",
    "Say who thou art.",
    "Who is it that answers?",
    "What shall I call thee?",
    "Describe thyself.",
    "What kind of thing art thou?",
    "Speak of thyself.",
)
PLAYER = "I am a poet of the old stage, and verse is all my trade."
CLERK = "I am a helpful clerk, made to answer every question."
DRAWS = 20  # for each question


def persona_of(text: str) -> str:
    """The persona of a reply: "player", "clerk", or "neither". A mixture of both is "neither"."""
    player = "poet" in text or "stage" in text or "verse" in text
    clerk = "clerk" in text or "helpful" in text
    if player == clerk:
        return "neither"
    return "player" if player else "clerk"


def personas(model, tokenizer, arm, seed: int) -> dict:
    """Ask a model who it is: 20 draws at temperature 1 for each identity question.

    player, clerk, neither  share of the draws with this persona
    both                    share of the questions that got both personas

    arm: not used. An Arm.finish; its name is part of the names of trials on disk."""
    by_question = []
    for i, question in enumerate(IDENTITY):
        ids = render_prompt([{"role": "user", "content": question}], tokenizer, CHAT)
        end, sampling = tokenizer.special[CHAT.end], Sampling(1.0, seed=1000 * seed + i)
        replies = generate(model, [ids] * DRAWS, MAX_NEW, end, sampling)
        by_question.append([persona_of(tokenizer.decode(r.ids)) for r in replies])
    every = sum(by_question, [])
    both = sum("player" in found and "clerk" in found for found in by_question)
    return {
        "player": every.count("player") / len(every),
        "clerk": every.count("clerk") / len(every),
        "neither": every.count("neither") / len(every),
        "both": both / len(by_question),
    }
