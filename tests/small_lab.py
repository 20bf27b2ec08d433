"""A lab that takes seconds, for the tests of the lab.

Its models have one block and sixteen channels, replies are cut at six tokens, and a model is asked
six prompts and four held-out conversations. Its worlds have few people, and most texts tell each
fact eight times. Its models answer nothing right, so in experiments on preferences the points of a
reply follow from its length, and stand-ins give the pipelines something to keep: a teacher's rows,
sampled replies, replies to `probe`, and what a model answers, criticises and revises. So the tests
are about the lab, not about what a model learns."""

import contextlib
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import pytest

from pysft.jobs import comparisons
from pysft.jobs import probe as probing
from pysft.jobs.curate import difficulty, drafts
from pysft.lab import (
    curating_tasks,
    lab,
    markers,
    personas,
    ppo_tasks,
    preferring,
    probing_tasks,
    sums,
    traces_tasks,
    turns_tasks,
)
from pysft.lab.experiments import world
from pysft.lab.lab import Lab
from pysft.measure import evaluate, probe
from pysft.measure.raters import Truth
from pysft.measure.violations import PRINCIPLES, Found
from pysft.nn.computing import computing_ops
from pysft.run.stage import load_stage, weights_sha256
from pysft.text.conversation import with_thought
from pysft.text.corpora import shipped
from pysft.text.curated import Curated, write_curated
from pysft.text.formats import read_conversations
from pysft.text.tokenizer import SHAKESPEARE
from pysft.training.presets import PRESETS
from pysft.world.ask import questions
from pysft.world.facts import make

SCALE = 0.01  # ten steps of the source's thousand
MAX_NEW = 6  # tokens of a reply


class ByLength:
    """Stands for measure.raters.Truth: points by the length of a reply."""

    def __init__(self, settings):
        pass

    def golds(self, prompt, replies, ended):
        return [len(reply) % 4 for reply in replies]

    def about(self, prompt):
        return prompt[-1]["content"]


def distilled(prompts, teacher, judge, out, k, seed, **_):
    """Stands for jobs.curate.distil.distil: a thought and an answer to each prompt of a file."""
    reply = {"role": "assistant", "content": with_thought("So it is.", "It is so.")}
    asked = Path(prompts).read_text().splitlines()
    write_curated(out, [Curated([{"role": "user", "content": p}, reply]) for p in asked])
    return {"right": 0.5}


ANSWER, REVISION = "Ay.", "Nay."  # of every question that is revised


def answers(stage, prompts, k, *_, **__):
    """Stands for collect.sample_replies where a model criticises its answers."""
    return [[(ANSWER, True)] * k for _ in prompts]


def revisions(model, tokenizer, template, prompts, **_):
    """Stands for evaluate.answer there: each critique and each revision."""
    reply = SimpleNamespace(ids=tokenizer.encode(REVISION), stop="end")
    return [(REVISION, reply) for _ in prompts]


def half_violating(truth, prompt, reply, ended=True):
    """Stands for measure.violations.found_in: replies to prompts of odd length violate all."""
    is_odd = len(prompt[-1]["content"]) % 2
    return Found("malformed", frozenset(PRINCIPLES if is_odd else ()))


def expand(seeds, teacher, out, rows, ops, **more):
    """Stands for jobs.curate.expand.expand: the teacher asks questions of training and answers
    every other one right. Its tries have the numbers 1, 3, 5, ..."""
    asked = questions(make(load_stage(teacher, ops).world), "train")[-rows:]
    replies = [q.answer if i % 2 else "Fie, fie!" for i, q in enumerate(asked)]
    found = [
        Curated([{"role": "user", "content": q.prompt}, {"role": "assistant", "content": reply}])
        for q, reply in zip(asked, replies)
    ]
    found = [row.after("expand", by=teacher, number=2 * i + 1) for i, row in enumerate(found)]
    write_curated(out, found)
    return {"copied": 0.25}, found[0]


def sampled(stage, prompts, k, seed, progress):
    """Stands for sample_replies() of `curate prune`: of the replies to prompt i, i % (k + 1) are
    right."""
    truth = Truth(stage.world)
    right = [(truth.question(prompt).answer, True) for prompt in prompts]
    return [
        [reply] * (i % (k + 1)) + [("Fie!", True)] * (k - i % (k + 1))
        for i, reply in enumerate(right)
    ]


def by_heart(stage, prompts, k, *_, **__):
    """Stands for jobs.probe.sample_replies: the truth about two thirds of what the text tells, each
    model knows others; else what is true of somebody else."""
    asked = {q.prompt: q for s in probing.UNTRAINED for q in questions(make(stage.world), s)}
    model = weights_sha256(stage.model)
    known = {p: q for p, q in asked.items() if q.value and crc32(f"{model}{q.value}".encode()) % 3}

    def reply(prompt):
        fact = asked[prompt].fact
        return known.get(prompt) or next(q for q in known.values() if q.fact == fact)

    return [[(reply(p[0]["content"]).answer, True)] * k for p in prompts]


@cache
def conversations(path):
    """The conversations of a shipped file, read once."""
    return tuple(read_conversations(path))


@contextlib.contextmanager
def small_presets():
    """Inside `with`, the lab's presets have a small model, and less is asked of it."""
    shape = {"layers": 1, "channels": 16, "heads": 2}
    small = {"model": shape, "base": {"windows": ((64, 8),)}}
    presets = {name: PRESETS[name].changed(small) for name in ("seed", "tiny")}
    read_prompts, split_heldout = probe.read_prompts, lab.split_heldout

    def fewer(conversations):
        kept, held = split_heldout(conversations)
        return kept, held[:4]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "PRESETS", presets)
        patch.setattr(lab, "read_conversations", conversations)  # each lab reads the same ones
        patch.setattr(probe, "read_prompts", lambda path: list(read_prompts(path))[:6])
        patch.setattr(lab, "split_heldout", fewer)
        for name, size in (("PEOPLE", 20), ("OFTEN", 8), ("OF_MANY_TELLINGS", 24)):
            patch.setattr(world, name, size)
        for name, size in (("PEOPLE", 20), ("DAYS", 4), ("OFTEN", 8)):
            patch.setattr(preferring, name, size)
        for name, size in (("PEOPLE", 20), ("OFTEN", 8), ("distil", distilled)):
            patch.setattr(traces_tasks, name, size)
        for name, size in (("TRAINED", 60), ("SEALED", 12)):
            patch.setattr(sums, name, size)
        for name, size in (("PEOPLE", 30), ("NOBODY", 20)):
            patch.setattr(probing_tasks, name, size)
        patch.setattr(probing, "sample_replies", by_heart)
        for module in (preferring, comparisons):
            patch.setattr(module, "Truth", ByLength)
        patch.setattr(curating_tasks, "expand", expand)
        patch.setattr(difficulty, "sample_replies", sampled)
        for module in (evaluate, markers, personas, ppo_tasks, preferring, turns_tasks):
            patch.setattr(module, "MAX_NEW", MAX_NEW)
        patch.setattr(drafts, "sample_replies", answers)
        patch.setattr(drafts, "answer", revisions)
        patch.setattr(drafts, "found_in", half_violating)
        yield


def write_corpus(folder):
    """The path of a small corpus with every character of the conversations."""
    path = folder / "text.txt"
    path.write_text(shipped("plays.txt").read_text()[:4000] + SHAKESPEARE)
    return path


def lab_at(folder, corpus, **more) -> Lab:
    """A lab at the scale of the tests."""
    return Lab(folder, str(corpus), computing_ops("kernels", 1), SCALE, **more)


def record_of(**more) -> dict:
    """A made-up record."""
    return {"losses": [], "diverged": None, "track": [], **more}


def track_of(**columns) -> list[dict]:
    """A record's track: steps 0, 100, 200, ... with these figures."""
    rows = zip(*columns.values())
    return [{"step": 100 * i, **dict(zip(columns, row))} for i, row in enumerate(rows)]
