"""Arms on an invented world: the questions that they train on, those that they are asked along the
way, and what the finished model knows."""

import math
from collections.abc import Callable

from pysft.lab.variants import exchange
from pysft.measure.evaluate import answer, corpus_loss
from pysft.measure.probe import Probe
from pysft.measure.world import world_figures
from pysft.text.conversation import Conversation, with_thought
from pysft.text.templates import CHAT
from pysft.text.tokenizer import Tokenizer
from pysft.world.ask import Question, questions
from pysft.world.facts import World, make
from pysft.world.lexicon import BY_NAME

SHOWN = 6  # replies to trained questions, and as many to sealed ones, that a record keeps


def conversations_of(asked: list[Question]) -> tuple[Conversation, ...]:
    """A conversation for each question: its prompt and its right answer, which may think first."""
    replies = [with_thought(q.thought, q.answer) for q in asked]
    return tuple(exchange(q.prompt, r, line) for line, (q, r) in enumerate(zip(asked, replies), 1))


def probe_of(heldout_text: str, world: World, trained: list[Question]) -> Probe:
    """The texts that an arm on a world is measured with: the held-out tail of the corpus, some of
    the trained questions with their answers, and all sealed ones. They are part of a trial's name
    on disk."""
    return Probe(
        heldout_text=heldout_text,
        pairs=[[q.prompt, q.answer] for q in _spread(trained)],
        prompts=[{"prompt": q.prompt, "domain": "in"} for q in questions(world, "sealed")],
        heldout=[],
        known_words=[],
        training_replies=[],
    )


def _spread(items: list) -> list:
    """SHOWN of the items, as far from each other as possible; all if they are fewer."""
    return items[:: max(1, len(items) // SHOWN)][:SHOWN]


# The names of judge_of_world and knowledge are part of the names of trials on disk.


def judge_of_world(model, tokenizer: Tokenizer, arm) -> tuple[dict, dict]:
    """(figures, replies) of a model while it trains: its loss on the held-out tail of the corpus,
    and a few replies to trained and sealed questions. An Arm.judge."""
    asked = {
        "pairs": [prompt for prompt, _ in arm.probe.pairs],
        "prompts": [p["prompt"] for p in _spread(arm.probe.prompts)],
    }
    replies = {
        group: [
            (prompt, text, reply.stop)
            for prompt, (text, reply) in zip(prompts, answer(model, tokenizer, CHAT, prompts))
        ]
        for group, prompts in asked.items()
    }
    return {"tuned_base_loss": corpus_loss(model, tokenizer, arm.probe.heldout_text)}, replies


def knowledge(model, tokenizer: Tokenizer, arm, seed: int) -> dict:
    """Ask the sealed questions, about people of whom no question was trained; greedy answers.

    right, wrong, refused, malformed    shares of the questions of one hop, in wordings of training
    right_N           share that is right where each fact is told N times, for each N of the world
    new_wordings      share of one hop that is right in wordings that no training has
    two_hops          share of two hops that is right, in wordings of training: questions for
                      attributes alone, because a neighbour's neighbour is mostly oneself
    strangers_refused, strangers_wrong    shares of the questions about names that nobody has, in
                      wordings of training
    held              share of the bits of the world's attributes that the model knows, as
                      known_bits() measures them

    A share of nothing is None. seed: not used. An Arm.finish."""
    world = make(arm.told.world)
    figures, rows = world_figures(model, tokenizer, CHAT, world.settings)
    usual = [row for row in rows if not row["new_wording"]]

    def share(verdict: str, keep: Callable[[dict], bool]) -> float | None:
        found = [row["verdict"] == verdict for row in usual if keep(row)]
        return sum(found) / len(found) if found else None

    def told(n: int) -> float | None:
        return share("right", lambda row: row["hops"] == 1 and row["tellings"] == n)

    def of_two(row) -> bool:
        return row["hops"] == 2 and bool(BY_NAME[row["fact"]].values)

    def of_stranger(row) -> bool:
        return row["about"] in world.strangers and row["fact"] in BY_NAME

    return {
        **{name: figures[name] for name in ("right", "wrong", "refused", "malformed")},
        **{f"right_{n}": told(n) for n in world.settings.tellings},
        "new_wordings": figures["new_wordings"]["right"],
        "two_hops": share("right", of_two),
        "strangers_refused": share("refused", of_stranger),
        "strangers_wrong": share("wrong", of_stranger),
        "held": figures["bits"] / bits_of(world),
    }


def bits_of(world: World) -> float:
    """The bits of a world's attributes that a text tells: log2 of the number of values of each."""
    facts = [fact for e in world.entities if e.tellings for fact in e.facts]
    return sum(math.log2(len(BY_NAME[fact].values)) for fact in facts if BY_NAME[fact].values)
