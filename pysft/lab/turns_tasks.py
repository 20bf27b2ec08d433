"""The task of arms on conversations of several turns: a base that read of an invented world learns
to answer questions, each by itself, or three in a row of which the later ones name nobody.

    user        What is the trade of Ada Brook?
    assistant   Ada Brook is a smith by trade.
    user        And what pet has this one?
    assistant   Ada Brook keeps a toad.
    user        And where is this one to be found?
    assistant   Ada Brook is to be found in Mill Lane."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from pysft import IGNORE
from pysft.inference.sampling import GREEDY, Sampling
from pysft.lab.pipelines import tuned
from pysft.lab.preferring import MAX_NEW, Subject, world_of
from pysft.measure.evaluate import answer, corpus_loss
from pysft.measure.ratio import rise
from pysft.rng import rng
from pysft.run.stage import Stage
from pysft.text.conversation import SPEAKERS, Conversation
from pysft.text.examples import encode_conversation
from pysft.text.sampled import is_usable
from pysft.text.templates import CHAT
from pysft.world.ask import Question, questions
from pysft.world.facts import World, make
from pysft.world.judge import ExactJudge

TURNS = 3  # of a conversation
CONTEXT = 256  # tokens that a conversation must fit
THIS = "this one"  # stands for the name in a later turn
PLACES = ("first", "second", "third")
SHOWN = 2  # conversations that a record keeps


def conversed(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: tune the base on questions about people, each by itself or TURNS in a row.

    options:
        several   the share of the conversations that are asked as TURNS in a row; the questions of
                  the others are asked one by one, with the name in each
        changing  the share of the conversations whose second turn names somebody else
        grade     as --grade has it: "all" or "last"
        graded    tokens of replies that a step is graded on, in the mean
        tuning    settings of [sft], with unscaled steps and without tokens
    At the same steps all arms are graded on as many tokens, of the same answers.

    finish:
        first, second, third   the share of greedy answers that is right, in that turn, about sealed
                     people. The later turns name nobody. Before them stand right answers
        named        the same for a second turn that names somebody else
        format_first, ..., format_named   the share of replies at temperature 1 that end, have
                     content and hold no control token
        forgetting   the rise of the loss on the held-out tail of the corpus from the base's
        step_tokens  of conversations in a step, in the mean
        conversations   how many there are
    samples: whole conversations with the model's own replies."""
    world = make(subject.told.world)
    rows = taught(world, options["several"], options["changing"], subject.seed)
    tokens, longest = tokens_for(subject, rows, options["grade"], options["graded"])
    changes = options["tuning"] | {"tokens": tokens + longest}
    stage = tuned(subject, subject.base.stage, [rows], changes, note, grade=options["grade"])
    note("measuring")
    finish = measured(subject, stage, world)
    finish |= {"step_tokens": tokens, "conversations": len(rows)}
    loss = corpus_loss(stage.model, stage.tokenizer, subject.lab.heldout_text)
    stage.model.release()
    finish["forgetting"] = rise(loss, subject.base.loss)
    return {"finish": finish, "samples": shown(subject, stage, world)}


def prepare_base(lab, seed: int) -> None:
    """An Experiment's prepare(): make the base that all arms begin from."""
    Subject(lab, world_of(seed), seed).base  # noqa: B018  it is kept in the lab's folder


# --------------------------------------------------------------------------------- what is asked


def follow_up(question: Question) -> Question:
    """The same question, as a later turn asks it: "And what pet has this one?"."""
    said = question.prompt.replace(question.about, THIS)
    return replace(question, prompt=f"And {said[:1].lower()}{said[1:]}")


def asked_in_a_row(world: World, split: str, count: int | None, seed: int) -> list[list[Question]]:
    """TURNS questions about one person, each for another fact, for each person of a split. They
    name the person. Their wordings are of training. count: how many such rows about a person, of
    orders that the seed draws; None is every order once."""
    g, found = rng(seed, "lab", f"turns {split}"), []
    each = [q for q in questions(world, split) if q.hops == 1 and not q.new_wording]
    for entity in (e for e in world.of_split(split) if e.kind == "person"):
        of = {
            fact: [q for q in each if (q.about, q.fact) == (entity.name, fact)]
            for fact in entity.facts
        }
        orders = list(permutations(of, TURNS))
        for i in g.permutation(len(orders))[:count].tolist():
            found.append([of[fact][int(g.integers(len(of[fact])))] for fact in orders[i]])
    return found


def chat(some: Sequence[Question]) -> list[dict]:
    """The messages of some questions in a row with their right answers. All are as they stand."""
    texts = [text for q in some for text in (q.prompt, q.answer)]
    return [{"role": role, "content": t} for role, t in zip(SPEAKERS * len(some), texts)]


def in_a_row(some: Sequence[Question]) -> list[Question]:
    """The questions as a chat asks them: one about the same person as the one before names
    nobody."""
    later = zip(some, some[1:])
    return [some[0], *(follow_up(q) if q.about == before.about else q for before, q in later)]


def taught(world: World, several: float, changing: float, seed: int) -> list[Conversation]:
    """The conversations that are trained: each order of facts of each person of "train", in a row
    or one by one, as conversed() says. A conversation that does not fit the context is left out of
    all arms alike."""
    rows = [some for some in asked_in_a_row(world, "train", None, seed) if _fits(some)]
    chosen = _drawn("in a row", several, len(rows), seed)
    changed = _drawn("changing", changing, len(rows), seed)
    partners = rng(seed, "lab", "turns partners").permutation(len(rows))
    found = []
    for i, some in enumerate(rows):
        other = [some[0], *rows[partners[i]][1:]]
        if i in changed and other[0].about != other[1].about and _fits(other):
            some = other
        found += [chat(in_a_row(some))] if i in chosen else [chat([q]) for q in some]
    return [Conversation(messages, "lab", line) for line, messages in enumerate(found, 1)]


def _drawn(purpose: str, share: float, count: int, seed: int) -> set[int]:
    """The numbers below `count` that make a share of them, drawn."""
    order = rng(seed, "lab", f"turns {purpose}").permutation(count)
    return {*order[: round(share * count)].tolist()}


def _fits(some: Sequence[Question]) -> bool:
    """True if the context holds the questions in a row with their answers: their characters, and
    two tokens around each turn, of which the last is only predicted."""
    return sum(len(m["content"]) + 2 for m in chat(in_a_row(some))) - 1 <= CONTEXT


def tokens_for(subject: Subject, rows: list[Conversation], grade: str, graded: float):
    """(tokens that a step should have in the mean, the tokens of the longest conversation), so that
    a step is graded on `graded` tokens in the mean. The setting `tokens` is their sum."""
    context = subject.settings({}).model.context
    examples = [encode_conversation(c, subject.lab.chat, context, CHAT, grade) for c in rows]
    lengths = [len(e.labels) for e in examples]
    share = sum(int((e.labels != IGNORE).sum()) for e in examples) / sum(lengths)
    return round(graded / share), max(lengths)


# -------------------------------------------------------------------------------------- measuring


def measured(subject: Subject, stage: Stage, world: World) -> dict:
    """The figures of conversed() that the model's replies give."""
    asked = behind_right_answers(world, subject.seed)
    judge, figures = ExactJudge(world), {}
    seed = int(rng(subject.seed, "lab", "turns replies").integers(2**31))
    for name, some in asked.items():
        messages = [m for m, _ in some]
        greedy, drawn = (_replies(stage, messages, s) for s in (GREEDY, Sampling(1.0, seed=seed)))
        right = [
            judge.judge(q, text, reply.stop == "end") == "right"
            for (_, q), (text, reply) in zip(some, greedy)
        ]
        fine = [is_usable(text) and reply.stop == "end" for text, reply in drawn]
        figures |= {name: float(np.mean(right)), f"format_{name}": float(np.mean(fine))}
    stage.model.release()
    return figures


def behind_right_answers(world: World, seed: int) -> dict[str, list[tuple[list[dict], Question]]]:
    """{a turn: [(the messages before the reply, the question)]} about sealed people."""
    rows = asked_in_a_row(world, "sealed", None, seed)
    found = {
        place: [(chat(in_a_row(some)[: n + 1])[:-1], in_a_row(some)[n]) for some in rows]
        for n, place in enumerate(PLACES)
    }
    each = len(rows) // len({some[0].about for some in rows})
    others = rows[each:] + rows[:each]  # about the next person
    found["named"] = [(chat([a[0], b[1]])[:-1], b[1]) for a, b in zip(rows, others)]
    return found


def _replies(stage: Stage, messages: list[list[dict]], sampling: Sampling = GREEDY) -> list:
    """(text, Reply) behind each of the messages."""
    read = stage.model, stage.tokenizer, stage.template
    return answer(*read, messages, sampling, tokens=MAX_NEW)


def shown(subject: Subject, stage: Stage, world: World) -> list[tuple[str, str, str]]:
    """Some sealed conversations in which the model reads its own replies: (prompt, reply, why it
    ended) of each turn. One ends where a reply cannot be read."""
    found = []
    for some in asked_in_a_row(world, "sealed", 1, subject.seed)[:SHOWN]:
        messages = []
        for q in in_a_row(some):
            messages.append({"role": "user", "content": q.prompt})
            [(text, reply)] = _replies(stage, [messages])
            found.append((q.prompt, text, reply.stop))
            if not is_usable(text):
                break
            messages.append({"role": "assistant", "content": text})
    stage.model.release()
    return found
