"""Tasks of arms that learn from traces of reasoning. Questions of two hops are asked, and a trace
writes down both steps before the answer:

    What pet has the neighbour of Ada Brook?
    thought   Ada Brook lives next to Ivo Finch. Ivo Finch keeps a toad.
    answer    The neighbour of Ada Brook keeps a toad.

A teacher writes the traces, the student itself, or the world. `curate distil` keeps those that led
to an answer that the exact judge calls right."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pysft.inference.tool_calls import content_parts
from pysft.jobs.curate.distil import distil
from pysft.lab.pipelines import known, made, tuned
from pysft.lab.preferring import SHOWN, Subject
from pysft.lab.thoughts import THINKING, Size, rewritten, thought_of
from pysft.lab.told import Told
from pysft.lab.worlds import conversations_of
from pysft.measure.evaluate import answer
from pysft.measure.raters import WORLD
from pysft.run.stage import Stage, weights_sha256
from pysft.text.conversation import THOUGHT, Conversation
from pysft.text.formats import read_conversations
from pysft.text.templates import CHAT
from pysft.world.ask import Question, questions
from pysft.world.facts import World, WorldSettings, make
from pysft.world.judge import ExactJudge
from pysft.world.lexicon import BY_NAME
from pysft.world.tell import statement

PEOPLE, OFTEN = 100, 850  # of the world; a base reads its text once, so each fact so often
RELATION = "neighbour"


def neighbours(seed: int) -> Told:
    """The world of a seed: people with a trade, a street and a neighbour."""
    world = WorldSettings(
        people=PEOPLE, days=0, attributes=2, relations=1, tellings=(OFTEN,), seed=seed
    )
    return Told(world)


# ------------------------------------------------------------------------------------- the rows


def of_one_hop(world: World, split: str) -> list[Question]:
    """The questions of a split for a fact that somebody has, in wordings of training."""
    return [q for q in questions(world, split) if q.hops == 1 and not q.new_wording]


def of_two_hops(world: World, split: str) -> list[Question]:
    """The questions of a split for an attribute of somebody's neighbour, in wordings of training.
    Their answers do not name the neighbour, and their thoughts are whole traces."""
    found = []
    for asked, traced in zip(*(questions(world, split, form) for form in ("hidden", "thought"))):
        if asked.hops == 2 and BY_NAME[asked.fact].values and not asked.new_wording:
            found.append(replace(asked, thought=traced.thought))
    return found


def size(subject: Subject, rows: Sequence[Conversation]) -> Size:
    """The size of some rows, in the vocabulary of a model that thinks."""
    tokenizer = subject.lab.chat.grow(CHAT.tokens_for({THOUGHT}))
    return Size.of(rows, tokenizer, subject.base.stage.model.config.context)


# ------------------------------------------------------------------------------- who writes traces


def teacher(subject: Subject, recipe: dict, note: Callable) -> Stage:
    """The teacher: the base tuned on traces that the world writes, and on questions of one hop.
    recipe: {"steps", "times"} of Size.changes()."""
    world = make(subject.told.world)
    rows = conversations_of(of_one_hop(world, "train") + of_two_hops(world, "train"))
    changes = size(subject, rows).changes(**recipe)
    return tuned(subject, subject.base.stage, [rows], changes, note)


def traces_of(
    subject: Subject, writer: Stage, prompts: Sequence[str], k: int, note: Callable
) -> tuple[list[Conversation], dict]:
    """(rows, the document of `curate distil`): for each prompt the first of k replies of a model
    that thinks and is right, by the exact judge. They are kept in the lab's folder."""
    what = {"distil": weights_sha256(writer.model), "prompts": list(prompts), "k": k}

    def written(folder: Path) -> dict:
        asked = folder / "prompts.txt"
        asked.write_text("".join(f"{prompt}\n" for prompt in prompts))
        return distil(
            str(asked), str(writer.folder), WORLD, folder / "traces.jsonl", k, subject.seed,
            ops=subject.lab.ops, say=note, progress=lambda text, last: note(text),
        )  # fmt: skip

    folder, document = made(subject, what, written)
    return read_conversations(folder / "traces.jsonl"), document


# ---------------------------------------------------------------------------------- the measures


def solved(subject: Subject, stage: Stage) -> tuple[dict, list]:
    """(figures, samples) of a model's greedy answers to sealed questions in wordings of training.

    attributes, neighbours   shares of the questions of one hop that are answered right: those for
                             an attribute, and those for the neighbour
    two_hops                 share of the questions for an attribute of the neighbour that are
    first, traced            shares of these whose thought begins with the true first step, and
                             whose thought is the true trace
    founded                  share of these that are right after the true trace
    length                   mean tokens of a reply to these"""
    world = make(subject.told.world)
    one, two = of_one_hop(world, "sealed"), of_two_hops(world, "sealed")
    words_of = stage.tokenizer, stage.template
    found = answer(stage.model, *words_of, [q.prompt for q in (*one, *two)])
    stage.model.release()
    judge = ExactJudge(world)
    verdicts = [
        judge.judge(q, text, reply.stop == "end") for q, (text, reply) in zip((*one, *two), found)
    ]
    right = np.array(verdicts) == "right"
    asks_neighbour = np.array([q.fact == RELATION for q in one])
    direct, indirect = right[: len(one)], right[len(one) :]
    replies = found[len(one) :]
    thoughts = [thought_of(content_parts(reply.ids, *words_of)) for _, reply in replies]
    firsts = [statement(RELATION, q.about, q.through) for q in two]
    began = [thought.startswith(first) for thought, first in zip(thoughts, firsts)]
    both = np.array([thought == q.thought for thought, q in zip(thoughts, two)])
    figures = {
        "attributes": direct[~asks_neighbour].mean(),
        "neighbours": direct[asks_neighbour].mean(),
        "two_hops": indirect.mean(),
        "first": np.mean(began),
        "traced": both.mean(),
        "founded": (indirect & both).mean(),
        "length": np.mean([len(reply.ids) for _, reply in replies]),
    }
    rows = [
        (q.prompt, f"[{thought}] {text}" if thought else text, reply.stop)
        for q, thought, (text, reply) in zip(two, thoughts, replies)
    ]
    some = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
    return {name: float(x) for name, x in figures.items()}, some


# --------------------------------------------------------------------------------- teacher's traces


def taught(subject: Subject, options: dict, note: Callable) -> tuple[list[Conversation], dict]:
    """traces_of() the teacher, of the questions of training."""
    asked = [q.prompt for q in of_two_hops(make(subject.told.world), "train")]
    return traces_of(
        subject, teacher(subject, options["teacher"], note), asked, options["tries"], note
    )


def student(subject: Subject, options: dict, note: Callable) -> dict:
    """A TaskArm.task: tune the base on the teacher's rows over two hops, and on questions of one
    hop beside them.

    options: "teacher" (its recipe), "tries" (of the teacher, at each prompt), "rows" (as
    rewritten() takes it), "steps" and "times" (of Size.changes()), and "as_many" ("questions": just
    so; "tokens": more steps, until as many tokens are graded as with the rows THINKING)."""
    rows, document = taught(subject, options, note)
    simple = conversations_of(of_one_hop(make(subject.told.world), "train"))
    own, traced = ([*simple, *rewritten(rows, kind)] for kind in (options["rows"], THINKING))
    asked, times = size(subject, own), options["times"]
    changes = asked.changes(options["steps"], times)
    if options["as_many"] == "tokens":
        ratio = size(subject, traced).graded / asked.graded
        changes["steps"], times = round(changes["steps"] * ratio), times * ratio
    stage = tuned(subject, subject.base.stage, [own], changes, note)
    figures, samples = solved(subject, stage)
    finish = (
        known(subject, stage)
        | figures
        | {
            "rows": len(rows),
            "taught": document["right"],
            "steps": changes["steps"],
            "times": times,
            "graded": times * asked.graded,
        }
    )
    return {"finish": finish, "samples": samples}


# ------------------------------------------------------------------------------------- own traces

ALONE, OWN, TEACHERS, WRITTEN = "none", "own", "teacher", "written"


def few_and_rest(world: World, few: int) -> tuple[list[Question], list[Question]]:
    """The questions of training over two hops: those about the first `few` people, for which traces
    are written, and those about the others."""
    asked = of_two_hops(world, "train")
    first = [*dict.fromkeys(q.about for q in asked)][:few]
    return [q for q in asked if q.about in first], [q for q in asked if q.about not in first]


def beginner(subject: Subject, options: dict, note: Callable) -> Stage:
    """The base after a short tuning on the few written traces and on questions of one hop."""
    world = make(subject.told.world)
    few, _ = few_and_rest(world, options["few"])
    rows = conversations_of(of_one_hop(world, "train") + few)
    changes = size(subject, rows).changes(**options["start"])
    return tuned(subject, subject.base.stage, [rows], changes, note)


def self_taught(subject: Subject, options: dict, note: Callable) -> dict:
    """A TaskArm.task: tune the base on the few written traces, on questions of one hop, and on
    traces for the other questions over two hops.

    options: "few" (people with written traces), "start" and "teacher" (recipes of beginner() and
    teacher()), "tries" at each prompt, "steps" and "tokens" of the training, and "rows": ALONE (no
    other traces), OWN (right ones of beginner()), TEACHERS (right ones of teacher()), or WRITTEN
    (all, as the world writes them)."""
    world = make(subject.told.world)
    few, rest = few_and_rest(world, options["few"])
    asked = [q.prompt for q in rest]
    more, document = [], {"right": None}
    if options["rows"] == WRITTEN:
        more = list(conversations_of(rest))
    elif options["rows"] != ALONE:
        writer = (
            beginner(subject, options, note)
            if options["rows"] == OWN
            else teacher(subject, options["teacher"], note)
        )
        more, document = traces_of(subject, writer, asked, options["tries"], note)
    rows = [*conversations_of(of_one_hop(world, "train") + few), *more]
    changes = {"steps": options["steps"], "tokens": options["tokens"]}
    stage = tuned(subject, subject.base.stage, [rows], changes, note)
    figures, samples = solved(subject, stage)
    truth = {q.prompt: q.thought for q in rest}
    written = [thought_of(row.messages[-1]["content"]) == truth[row.prompt] for row in more]
    finish = (
        known(subject, stage)
        | figures
        | {
            "rows": len(more),
            "right_tries": document["right"],
            "true_traces": sum(written) / len(written) if written else None,
        }
    )
    return {"finish": finish, "samples": samples}
