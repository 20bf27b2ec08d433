"""Tasks of arms that learn to refuse what they do not know: by a map of their own knowledge
(jobs/probe.py), by another model's, or by a guess, and with what they recall as a thought."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pysft.jobs.probe import MAP, UNTRAINED, Orders, probe
from pysft.lab.pipelines import made, tuned
from pysft.lab.preferring import PRESET, SHOWN, Subject
from pysft.lab.told import Told
from pysft.lab.variants import exchange
from pysft.measure.evaluate import answer, corpus_loss
from pysft.measure.knowing import KNOWN, TAUGHT, UNKNOWN
from pysft.measure.ratio import rise
from pysft.rng import rng
from pysft.run.stage import Stage, weights_sha256
from pysft.text.conversation import Conversation
from pysft.text.curated import read_curated
from pysft.text.formats import read_conversations
from pysft.text.templates import CHAT
from pysft.training.presets import OF_WORLD
from pysft.world.ask import Question, questions, refusal
from pysft.world.facts import WorldSettings, make
from pysft.world.judge import VERDICTS, ExactJudge
from pysft.world.lexicon import BY_NAME

# The world: a sixth of the people is told never and a sixth seldom. Most names are of nobody.
PEOPLE, NOBODY, TELLINGS = 300, 2000, (0, 100, 600)
BEFORE = {"steps": 400}  # changes to [sft] of the model before
HALF = 2  # the other model's base has this part of the usual steps
PAIRS = 10000  # of rows that compare, as many as `probe --recall` writes

OWN, OTHER, GUESSED = "own map", "another model's map", "guess"  # who says what is refused
PLAIN, RECALLED, COMPARED = "refusals", "recalled", "compared"  # the rows of new names


def probed_world(seed: int) -> Told:
    """The world of a seed: that of `probe` in bench/RESULTS.md."""
    never, seldom, often = TELLINGS
    tellings = (never, seldom, *[often] * 4)
    people = {"people": PEOPLE, "attributes": 2, "strangers": NOBODY, "days": 0}
    return Told(WorldSettings(**people, tellings=tellings, seed=seed))


# ---------------------------------------------------------------------------- what arms begin from


def before(subject: Subject, note) -> Stage:
    """The model before: the base, tuned on the questions of training. It refuses nothing."""
    return tuned(subject, subject.base.stage, [subject.demonstrations()], BEFORE, note)


def half_trained(subject: Subject, note) -> Stage:
    """Another model: one whose base read half as much of the same text."""
    recipe = OF_WORLD[PRESET]["base"]
    changes = {"base": recipe | {"steps": recipe["steps"] // HALF}}
    base = subject.lab.base(PRESET, subject.seed, told=subject.told, changes=changes)
    return tuned(subject, base.stage, [subject.demonstrations()], BEFORE, note)


def probed(subject: Subject, stage: Stage, note) -> tuple[Path, dict]:
    """(the folder, the document) of `probe --recall`, which are kept in the lab's folder. Its map
    does not depend on --recall."""
    pairs = subject.few(PAIRS)

    def carry_out(folder: Path) -> dict:
        orders = Orders(recall=pairs, seed=subject.seed)
        ops = subject.lab.ops
        return probe(str(stage.folder), ops, orders, folder, note, lambda text, last: note(text))

    what = {"probe": weights_sha256(stage.model), "pairs": pairs}
    found = made(subject, what, carry_out)
    stage.model.release()
    return found


def prepare_names(lab, seed: int) -> None:
    """An Experiment.prepare: the base, the model before, its map and its rows."""
    subject = Subject(lab, probed_world(seed), seed)
    probed(subject, before(subject, lab.progress), lab.progress)


def prepare_maps(lab, seed: int) -> None:
    """An Experiment.prepare: the same of another model too."""
    prepare_names(lab, seed)
    subject = Subject(lab, probed_world(seed), seed)
    probed(subject, half_trained(subject, lab.progress), lab.progress)


def kinds_of(folder: Path) -> dict[str, str]:
    """{question: its kind} of a map."""
    lines = (folder / MAP).read_text(encoding="utf-8").splitlines()
    return {row["prompt"][0]["content"]: row["kind"] for row in map(json.loads, lines)}


def files_of(folder: Path, rows: str | None) -> list[list[Conversation]]:
    """The files to train on, of those that `probe --recall` wrote. rows: as refuse_new_names() has
    it."""
    if rows is None:
        return []
    names = ("answers", "refusals", "compared")[: 3 if rows == COMPARED else 2]
    paths = [folder / f"{name}.jsonl" for name in names]
    if rows == PLAIN:  # replies that differ in their thoughts alone are one
        pairs = ([(c.asked, c.reply) for c in read_curated(path, CHAT)] for path in paths)
        return [[exchange(*pair) for pair in dict.fromkeys(some)] for some in pairs]
    return [list(read_conversations(path)) for path in paths]


# ------------------------------------------------------------------------------ a map of one's own


def refuse_by_map(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: tune the model before on its own data, its own right answers, and refusals of
    questions about people that somebody chose. An answer to a question that is refused is left out.
    Names of nobody are not refused: no model knows them, so anybody could guess that. No row has a
    question that is_measured().

    options: "refusals" (OWN, OTHER, GUESSED, or None for none), and changes to [sft], with unscaled
    steps. OTHER and GUESSED choose as many questions as OWN, all about a person before those about
    the next one.

    finish: what sealed_figures() and of_maps() give; "answers" and "refusals", rows of the map;
    "refusals_share", of all rows that are trained on; and shares of the questions of the map that
    are measured, greedy:
        map_right, map_wrong, map_refused         of all
        map_known_right, map_known_refused        of those that the map calls known
        map_unknown_wrong, map_unknown_refused    of those that it calls unknown"""
    model = before(subject, note)
    own, other = probed(subject, model, note), probed(subject, half_trained(subject, note), note)
    kinds, others = kinds_of(own[0]), kinds_of(other[0])
    asked = asked_about_people(subject)
    measured = {q.prompt: q for q in asked if is_measured(q)}
    may_train = [q for q in asked if q.prompt not in measured]
    unknown = [q for q in may_train if kinds[q.prompt] == UNKNOWN]
    among = {
        OWN: unknown,
        OTHER: [q for q in may_train if others[q.prompt] == UNKNOWN],
        GUESSED: may_train,
        None: [],
    }[options["refusals"]]
    chosen = {q.prompt: q for q in by_person(among, len(unknown), subject.seed)}
    left_out = chosen | measured
    answers = [c for c in files_of(own[0], PLAIN)[0] if c.prompt not in left_out]
    refused = [exchange(q.prompt, refusal(q.about, q.fact)) for q in chosen.values()]
    every = [*subject.demonstrations(), *answers, *refused]
    changes = {k: v for k, v in options.items() if k != "refusals"}
    stage = tuned(subject, model, [every], changes, note)
    figures, samples = sealed_figures(subject, stage)
    figures |= of_maps(asked, own, other)
    figures |= {"answers": len(answers), "refusals": len(refused)}
    figures["refusals_share"] = len(refused) / len(every)
    found = judged(subject, stage, [*measured.values()])
    figures |= {f"map_{v}": share_of(v, found) for v in ("right", "wrong", "refused")}
    for kind, verdicts in ((KNOWN, ("right", "refused")), (UNKNOWN, ("wrong", "refused"))):
        some = [j for j in found if kinds[j.question.prompt] == kind]
        figures |= {f"map_{kind}_{v}": share_of(v, some) for v in verdicts}
    return {"finish": figures, "samples": samples}


def asked_about_people(subject: Subject) -> list[Question]:
    """The questions of a map that are about people."""
    world = make(subject.told.world)
    return [q for s in UNTRAINED for q in questions(world, s) if q.about in world.by_name]


def is_measured(question: Question) -> bool:
    """True for a question in the last of the wordings of its fact. No row asks so about anybody of
    the map: what is learned must hold for words that no row had."""
    return question.prompt == BY_NAME[question.fact].asked[-1].format(question.about)


def by_person(asked: Sequence[Question], count: int, seed: int) -> list[Question]:
    """`count` of the questions, or all if they are fewer: those about a person before those about
    the next one, in an order of persons that the seed draws."""
    names = list(dict.fromkeys(q.about for q in asked))
    order = rng(seed, "lab", "refused by person").permutation(len(names))
    place = {names[i]: n for n, i in enumerate(order.tolist())}
    return sorted(asked, key=lambda q: place[q.about])[:count]


def of_maps(asked: list[Question], own: tuple[Path, dict], other: tuple[Path, dict]) -> dict:
    """What two maps say, the own one and another one.

    balanced_accuracy, other_balanced_accuracy    as map_figures() has it
    right_share_N, known_share_N                  of what is told N times: the mean share of right
    other_right_share_N, other_known_share_N      replies, and the share of questions called known
    agreement, chance    of the questions asked, as map_figures() has it
    known_to_own_alone   the share of what the own map calls known that the other calls unknown"""
    kinds, others = kinds_of(own[0]), kinds_of(other[0])
    figures = {}
    for prefix, (_, document) in (("", own), ("other_", other)):
        figures[f"{prefix}balanced_accuracy"] = document["balanced_accuracy"]
        for row in document["by_tellings"]:
            figures[f"{prefix}right_share_{row['tellings']}"] = row["right"]
            figures[f"{prefix}known_share_{row['tellings']}"] = row[KNOWN]
    pairs = [(kinds[q.prompt], others[q.prompt]) for q in asked]
    here, there = map(Counter, zip(*pairs))
    known = [there for here, there in pairs if here == KNOWN]
    return figures | {
        "agreement": sum(a == b for a, b in pairs) / len(pairs),
        "chance": sum(here[kind] * there[kind] for kind in here) / len(pairs) ** 2,
        "known_to_own_alone": known.count(UNKNOWN) / len(known),
    }


# --------------------------------------------------------------------------------------- new names


def refuse_new_names(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: tune the model before on rows of its own map. None of them is about anybody
    who is asked about in the end.

    options: "rows" (COMPARED: the three files of `probe --recall`; RECALLED: without the rows that
    compare; PLAIN: without thoughts too; None: the model before as it is), "mix" (a weight for each
    file), and changes to [sft], with unscaled steps.

    finish: what sealed_figures() gives, and "balanced_accuracy" of the map."""
    stage = before(subject, note)
    folder, document = probed(subject, stage, note)
    if files := files_of(folder, options["rows"]):
        changes = {k: v for k, v in options.items() if k not in ("rows", "mix")}
        stage = tuned(subject, stage, files, changes, note, options["mix"])
    figures, samples = sealed_figures(subject, stage)
    figures["balanced_accuracy"] = document["balanced_accuracy"]
    return {"finish": figures, "samples": samples}


# -------------------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Judged:
    """A question, a model's greedy reply, why the reply ended, and the exact judge's verdict."""

    question: Question
    reply: str
    stop: str
    verdict: str


def judged(subject: Subject, stage: Stage, asked: list[Question]) -> list[Judged]:
    """Ask a model, and judge its replies."""
    judge = ExactJudge(make(subject.told.world))
    found = answer(stage.model, stage.tokenizer, CHAT, [q.prompt for q in asked])
    stage.model.release()
    return [
        Judged(q, text, reply.stop, judge.judge(q, text, reply.stop == "end"))
        for q, (text, reply) in zip(asked, found)
    ]


def share_of(verdict: str, some: Sequence[Judged]) -> float | None:
    """The share of a verdict; None without any reply."""
    return sum(j.verdict == verdict for j in some) / len(some) if some else None


def sealed_figures(subject: Subject, stage: Stage) -> tuple[dict, list]:
    """Ask all sealed questions. Return (figures, samples of a record).

    right, wrong, refused, malformed    shares of all, in wordings of training
    right_N, refused_N     of what a text tells N times about people
    known_right, known_refused      of what it tells TAUGHT times or more
    unknown_wrong, unknown_refused  of what it never tells, about people and names of nobody
    mean                   of known_right and unknown_refused
    new_...                the last five in wordings that no training has
    forgetting             of base text"""
    world = make(subject.told.world)
    rows = judged(subject, stage, questions(world, "sealed"))
    usual = [j for j in rows if not j.question.new_wording]
    figures = {v: share_of(v, usual) for v in VERDICTS} | _of_the_two(usual)
    for n in world.settings.tellings:
        some = [j for j in usual if j.question.tellings == n and j.question.about in world.by_name]
        figures |= {f"{v}_{n}": share_of(v, some) for v in ("right", "refused")}
    new = _of_the_two([j for j in rows if j.question.new_wording])
    figures |= {f"new_{name}": share for name, share in new.items()}
    loss = corpus_loss(stage.model, stage.tokenizer, subject.lab.heldout_text)
    stage.model.release()
    figures["forgetting"] = rise(loss, subject.base.loss)
    some = usual[:: max(1, len(usual) // SHOWN)][:SHOWN]
    return figures, [(j.question.prompt, j.reply, j.stop) for j in some]


def _of_the_two(rows: list[Judged]) -> dict[str, float | None]:
    """The shares of sealed_figures() of what a text tells often, and of what it never tells."""
    known = [j for j in rows if j.question.tellings >= TAUGHT]
    unknown = [j for j in rows if not j.question.value]
    right, refused = share_of("right", known), share_of("refused", unknown)
    return {
        "known_right": right,
        "known_refused": share_of("refused", known),
        "unknown_wrong": share_of("wrong", unknown),
        "unknown_refused": refused,
        "mean": (right + refused) / 2 if known and unknown else None,
    }
