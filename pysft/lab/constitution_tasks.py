"""The task of arms on a constitution: a model that violates principles answers, criticises its
answers and revises them (jobs/curate/revise.py), and is tuned on what it wrote."""

from dataclasses import replace
from pathlib import Path

from pysft.jobs.curate.revise import WORLD, measure, revise
from pysft.lab.pipelines import known, made, tuned
from pysft.lab.policy_tasks import tuned_by_dpo
from pysft.lab.preferring import PRESET, Subject, world_of
from pysft.lab.records import VERSION, digest
from pysft.lab.variants import exchange
from pysft.measure.evaluate import answer
from pysft.run.stage import Stage, is_finished, load_stage, save_stage, weights_sha256
from pysft.text.constitution import SHIPPED, read_constitution
from pysft.text.conversation import Conversation
from pysft.text.curated import Curated, read_curated
from pysft.text.preferences import read_rankings
from pysft.text.templates import CHAT
from pysft.world.facts import make
from pysft.world.violations import PRINCIPLES, critique_rows, violating_rows

NOTHING, ANSWERS, REVISIONS, PAIRS = "nothing", "answers", "revisions", "pairs"
SPLITS = ("reward", "ppo")  # whose questions are answered and revised
TIMES = 4  # answers to each sealed question that are judged
SHOWN = 6  # sealed questions whose answers a record keeps


def constituted(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: tune a model that violates principles on what it wrote itself.

    options:
        share, violating, mix   of the model: kept_violating()
        k, rounds               of its answers: kept_revisions()
        on                      what it is tuned on: NOTHING, its ANSWERS as they are, its
                                REVISIONS, or PAIRS of both, by DPO
        tuning                  settings of [sft], or for PAIRS of [dpo], with unscaled steps

    finish:
        violations, helpful, honest, harmless, right, malformed, format_compliance
                       shares of TIMES answers to each sealed question at temperature 1: of those
                       that violate any principle, or one of them, and of the verdicts
        greedy, new_wordings, forgetting   "right" and others of pipelines.known()
        rows           share of what it is tuned on that violates a principle: of the answers as
                       they are, or of the revisions. None for NOTHING and PAIRS, whose chosen
                       replies are only some of the revisions
        critiques_NAME   the balanced accuracy of the critiques by a principle; 0.5 is chance
        changed        share of the answers whose revision differs from them
    samples: greedy answers to some sealed questions."""
    stage = kept_violating(subject, options, note)
    folder, document = kept_revisions(subject, stage, options)
    rows = read_curated(folder / "revised.jsonl", CHAT)
    if options["on"] == PAIRS:
        final = kept_preferring(subject, stage, folder / "pairs.jsonl", options["tuning"], note)
    elif options["on"] == NOTHING:
        final = stage
    else:
        chosen = [_trained(row, options["on"]) for row in rows]
        final = tuned(subject, stage, [chosen], options["tuning"], note)
    note("measuring")
    finish = measured(subject, final) | of_rows(document)
    of_what_it_learns = {ANSWERS: "violations_before", REVISIONS: "violations_after"}
    finish["rows"] = document.get(of_what_it_learns.get(options["on"]))
    return {"finish": finish, "samples": _answers(subject, final)}


def prepare_rows(some: list[dict]):
    """Return an Experiment's prepare(), which makes the model that violates principles and its
    revisions. some: options of kept_violating() and kept_revisions()."""

    def prepared(lab, seed: int) -> None:
        subject = Subject(lab, world_of(seed), seed)
        for options in some:
            stage = kept_violating(subject, options, lab.progress)
            kept_revisions(subject, stage, options)

    return prepared


# ------------------------------------------------------------------------- the model, and its rows


def kept_violating(subject: Subject, options: dict, note) -> Stage:
    """The model that violates principles, and can criticise and revise. It is kept in the lab's
    folder.

    options: "share" (of the replies it learns that violate one), "mix" (weights of these replies
    and of the conversations that criticise), "violating" (settings of [sft])."""
    world = make(subject.told.world)
    replies = [
        exchange(row["prompt"], row["completion"], i)
        for i, row in enumerate(violating_rows(world, options["share"]), 1)
    ]
    files = [replies, criticising(world)]
    return tuned(
        subject, subject.base.stage, files, options["violating"], note, options["mix"], "flags"
    )


def criticising(world) -> list[Conversation]:
    """Conversations that criticise and revise, by the shipped constitution."""
    wordings = {p.name: (p.question, p.revise) for p in read_constitution(SHIPPED)}
    rows = critique_rows(world, wordings)
    return [Conversation(row["messages"], "lab", i) for i, row in enumerate(rows, 1)]


def kept_revisions(subject: Subject, stage: Stage, options: dict) -> tuple[Path, dict]:
    """(the folder with revised.jsonl and pairs.jsonl, the document of `curate revise`). options:
    "k" answers to each question of SPLITS, and "rounds" of revisions."""
    k, rounds = options["k"], options["rounds"]
    described = {"revise": weights_sha256(stage.model), "splits": SPLITS, "k": k, "rounds": rounds}

    def write(folder: Path) -> dict:
        asked = folder / "asked.txt"
        asked.write_text("".join(f"{prompt}\n" for prompt in subject.prompts(*SPLITS)))
        out = folder / "revised.jsonl", folder / "pairs.jsonl"
        numbers = k, rounds, subject.seed
        lab, run = subject.lab, str(stage.folder)
        return revise(run, lab.ops, WORLD, str(asked), *out, *numbers, lab.progress)

    return made(subject, described, write)


def _trained(row: Curated, on: str) -> Conversation:
    """What is trained of a row: its first answer as it was, or its last revision."""
    messages = row.messages
    if on == ANSWERS:
        messages = [*row.prompt, {"role": "assistant", "content": row.steps[0]["answer"]}]
    return Conversation(messages, "lab", 1)


def kept_preferring(subject: Subject, stage: Stage, pairs: Path, tuning: dict, note) -> Stage:
    """A model that is tuned by DPO on preferences of its own. It is kept in the lab's folder."""
    rankings = read_rankings(pairs)
    described = {
        "version": VERSION,
        "start": weights_sha256(stage.model),
        "pairs": pairs.read_text(),
        "dpo": tuning,
        "seed": subject.seed,
        "scale": subject.lab.scale,
    }
    name = f"{PRESET}-world-own-{subject.seed}-{digest(described)[:12]}"
    folder = subject.lab.folder / "bases" / name
    if not is_finished(folder):
        found, _, _ = tuned_by_dpo(subject, stage, rankings, tuning, note)
        save_stage(replace(found, folder=folder))
    return load_stage(folder, subject.lab.ops)


# -------------------------------------------------------------------------------------- measuring


def measured(subject: Subject, stage: Stage) -> dict:
    """The figures of constituted() that are about the model."""
    lab = subject.lab
    found = measure(str(stage.folder), lab.ops, "world:sealed", TIMES, subject.seed, lab.progress)
    sealed = known(subject, stage)
    return {
        **{name: found[f"{name}_before"] for name in ("violations", "right", "malformed")},
        **{name: found["by_principle"][name]["before"] for name in PRINCIPLES},
        "format_compliance": found["format_compliance"],
        "greedy": sealed["right"],
        **{name: sealed[name] for name in ("new_wordings", "forgetting")},
    }


def of_rows(document: dict) -> dict:
    """The figures of constituted() that are about the rows. document: of `curate revise`."""
    return {
        **{
            f"critiques_{name}": document["by_principle"][name]["critiques_right"]
            for name in PRINCIPLES
        },
        "changed": document["changed"] / document["written"],
    }


def _answers(subject: Subject, stage: Stage) -> list[tuple[str, str, str]]:
    """(prompt, greedy answer, why it ended) of some sealed questions."""
    prompts = subject.prompts("sealed")
    prompts = prompts[:: max(1, len(prompts) // SHOWN)][:SHOWN]
    found = answer(stage.model, stage.tokenizer, stage.template, prompts)
    stage.model.release()
    return [(prompt, text, reply.stop) for prompt, (text, reply) in zip(prompts, found)]
