"""What a model knows of the invented world that it read of: its replies to the sealed questions, as
the exact judge finds them, and the bits of its knowledge."""

import math
from collections import defaultdict

import numpy as np

from pysft import IGNORE
from pysft.batch import ROWS, Batch, Example
from pysft.measure.evaluate import answer
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer
from pysft.world.ask import Question, questions
from pysft.world.facts import World, WorldSettings, make
from pysft.world.judge import VERDICTS, ExactJudge
from pysft.world.lexicon import BY_NAME
from pysft.world.tell import statement

KINDS = ("person", "place", "thing", "day")  # of entities


def world_figures(
    model, tokenizer: Tokenizer, template: Template, settings: WorldSettings
) -> tuple[dict, list]:
    """Return (figures, the sealed questions). Replies are greedy. A question is a dict: what
    Question.to_json() gives, "reply", "stop" (why the reply ended), and "verdict".

    right, wrong, refused, malformed   shares of the sealed questions of one hop whose answer a text
                                       tells, in wordings of training
    questions        how many these are
    by_kind          {"person", "place", "thing", "day": the same for questions about one}, those
                     that the world has
    new_wordings     the same shares for wordings that no question of training has
    two_hops         the same for questions of two hops, in wordings of training; None without any
    unknown          the same for questions without an answer, all of whose right replies refuse
    by_tellings      [{"tellings", "questions", and the shares}]: questions of one hop, in any
                     wording, by how often a text tells the fact; 0 if none does
    bits             bits of what is told that the model knows: known_bits()
    bits_per_weight  bits by the number of weights. Allen-Zhu and Li (Physics of Language Models:
                     Part 3.3, 2024) find that models hold up to 2, where names count too"""
    world = make(settings)
    asked = questions(world, "sealed")
    found = answer(model, tokenizer, template, [q.prompt for q in asked])
    judge = ExactJudge(world)
    verdicts = [judge.judge(q, text, end.stop == "end") for q, (text, end) in zip(asked, found)]
    rows = list(zip(asked, verdicts))
    told = [(q, v) for q, v in rows if q.hops == 1]
    usual = [(q, v) for q, v in told if not q.new_wording]
    by_tellings = defaultdict(list)
    for q, verdict in rows:
        if q.hops == 1 or (q.hops == 0 and q.about in world.by_name):  # nobody could know the last
            by_tellings[q.tellings].append((q, verdict))
    bits = known_bits(model, tokenizer, world)
    figures = {
        **(_shares(usual) or dict.fromkeys(VERDICTS)),
        "questions": len(usual),
        "by_kind": {
            kind: _shares(some)
            for kind in KINDS
            if (some := [(q, v) for q, v in usual if world.by_name[q.about].kind == kind])
        },
        "new_wordings": _shares([(q, v) for q, v in told if q.new_wording]),
        "two_hops": _shares([(q, v) for q, v in rows if q.hops == 2 and not q.new_wording]),
        "unknown": _shares([(q, v) for q, v in rows if q.hops == 0]),
        "by_tellings": [
            {"tellings": n, "questions": len(some), **_shares(some)}
            for n, some in sorted(by_tellings.items())
        ],
        "bits": bits,
        "bits_per_weight": bits / model.params.size,
    }
    replies = [
        {**q.to_json(), "reply": text, "stop": end.stop, "verdict": verdict}
        for (q, verdict), (text, end) in zip(rows, found)
    ]
    return figures, replies


def _written(shares: dict | None) -> str:
    """The four shares as text."""
    if not shares or shares["right"] is None:
        return "-"
    return ", ".join(f"{shares[name]:.0%} {name}" for name in VERDICTS)


def _shares(rows: list[tuple[Question, str]]) -> dict | None:
    """Return the share of each verdict; None if there are no rows."""
    if not rows:
        return None
    return {name: sum(v == name for _, v in rows) / len(rows) for name in VERDICTS}


def known_bits(model, tokenizer: Tokenizer, world: World) -> float:
    """Return how many bits of the world's attributes a model knows.

    An attribute of 16 values has 4 bits. The model gives each value a probability, as the end of
    the sentence that states it; the probabilities of the 16 are made to add up to 1. If the true
    one has the probability p, the model knows 4 + log2(p) bits of it. Relations and names do not
    count, nor do entities of which no text tells. The sum is 0 at least."""
    examples, groups = [], []
    for entity in (e for e in world.entities if e.tellings):
        for name in (n for n in entity.facts if BY_NAME[n].values):
            values = BY_NAME[name].values
            groups.append((len(values), values.index(entity.facts[name])))
            examples += [_ending(tokenizer, entity.name, name, value) for value in values]
    total, first = 0.0, 0
    nll = nll_sums(model, examples)
    for count, true in groups:
        some = -nll[first : first + count]
        total += math.log2(count) + (some[true] - np.logaddexp.reduce(some)) / math.log(2)
        first += count
    return max(0.0, float(total))


def _ending(tokenizer: Tokenizer, name: str, fact: str, value: str) -> Example:
    """Return the sentence that states a fact, graded from the value on."""
    text = "\n\n" + statement(fact, name, value)
    head, _, _ = text.rpartition(value)
    ids = tokenizer.encode(text)
    labels = ids[1:].copy()
    labels[: len(tokenizer.encode(head)) - 1] = IGNORE
    return Example(ids[:-1], labels)


def nll_sums(model, examples: list[Example]) -> np.ndarray:
    """Return the loss of each example in nats: the sum over its graded tokens."""
    found, per_batch = [], max(1, ROWS // 64)
    for first in range(0, len(examples), per_batch):
        some = examples[first : first + per_batch]
        batch = Batch.of(some, model.config.vocab, model.config.context)
        nll = model.forward(batch).nll.astype(np.float64)
        found.append(np.add.reduceat(nll, batch.cu_seqlens[:-1]))
    return np.concatenate(found)


def world_rows(world: dict) -> list[tuple[str, str]]:
    """Return the rows of the short table: (what, its value)."""

    by_kind = world.get("by_kind", {})  # reports of earlier versions have none
    rows = [
        ("the world", f"{_written(world)} ({world['questions']:,} sealed questions)"),
        *((f"  about a {k}", _written(s)) for k, s in by_kind.items() if len(by_kind) > 1),
        ("  in new wordings", _written(world["new_wordings"])),
        *([("  of two hops", _written(world["two_hops"]))] if world["two_hops"] else []),
        ("  without an answer", _written(world["unknown"])),
    ]
    if len(world["by_tellings"]) > 1:
        known = [row for row in world["by_tellings"] if row["tellings"]]
        curve = [f"{row['tellings']:,} times {row['right']:.0%}" for row in known]
        never = [row for row in world["by_tellings"] if not row["tellings"]]
        curve += [f"never (refused) {row['refused']:.0%}" for row in never]
        rows.append(("  right by tellings", ", ".join(curve)))
    bits = f"{world['bits']:,.0f} bits, {world['bits_per_weight']:.4f} a weight"
    return [*rows, ("  known of it", bits)]
