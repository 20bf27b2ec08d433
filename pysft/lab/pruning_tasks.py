"""The task of arms that keep a share of the rows: the hardest, or others. `prune` is that of
`curate`."""

from pathlib import Path

from pysft.jobs.curate.prune import RANDOM, K, Order, prune
from pysft.lab.curating_tasks import conversations, measured
from pysft.lab.pipelines import made, tuned
from pysft.lab.preferring import Subject, user, world_of
from pysft.measure.raters import WORLD, Truth
from pysft.rng import rng
from pysft.run.stage import Stage, weights_sha256
from pysft.text.curated import Curated, read_curated, write_curated
from pysft.text.templates import CHAT
from pysft.world.ask import compared_questions
from pysft.world.facts import make
from pysft.world.lexicon import BY_NAME
from pysft.world.tell import statement

ROWS, KEPT = "rows.jsonl", "kept.jsonl"
SPLITS = ("train", "reward", "ppo")
EASY = 0.75  # a prompt is easy if at least this share of the replies is right


def before(subject: Subject, options: dict, note) -> Stage:
    """The model that says what is hard, and that is trained on what is kept: the base tuned on a
    few demonstrations. options: "seeds" (how many) and "before", what is changed in [sft]."""
    seeds = subject.demonstrations(options["seeds"])
    return tuned(subject, subject.base.stage, [seeds], options["before"], note)


def candidates(subject: Subject, noise: float) -> Path:
    """The file of the rows that some are kept of: all questions that are not sealed, in all their
    wordings of training, with answers. A share `noise` of these states a false value."""

    def make_rows(folder: Path) -> dict:
        asked = compared_questions(make(subject.told.world), SPLITS)
        rows = [
            Curated([*user(q.prompt), {"role": "assistant", "content": q.answer}]) for q in asked
        ]
        write_curated(folder / ROWS, falsified(subject, rows, noise))
        return {}

    return made(subject, {"candidates": list(SPLITS), "noise": noise}, make_rows)[0] / ROWS


def falsified(subject: Subject, rows: list[Curated], share: float) -> list[Curated]:
    """The rows, of which the seed draws a share whose replies then state another value of the same
    kind, in the same words as a right answer."""
    g = rng(subject.seed, "lab", "false answers")
    chosen = g.permutation(len(rows))[: round(share * len(rows))]
    found, truth = list(rows), Truth(subject.told.world)
    for i in chosen.tolist():
        question = truth.question(rows[i].prompt)
        others = [v for v in BY_NAME[question.fact].values if v != question.value]
        reply = statement(question.fact, question.about, others[int(g.integers(len(others)))])
        found[i] = Curated([*rows[i].prompt, {"role": "assistant", "content": reply}])
    return found


def pruning(subject: Subject, options: dict, note) -> dict:
    """A TaskArm.task: keep a share of the rows, and tune the model before on these alone.

    options: those of before(); "noise" (as candidates() takes it); "keep" and "by" (as prune.Order
    has them; "by" is not read where all are kept); and "sft", what is changed in [sft].

    finish: what pipelines.known() gives; "rows"; "false", the share of them whose answer is not
    true; and by the exact judge "difficulty" (the mean of what is kept), "difficulty_of_all" and
    "easy", the share of all rows of which at least EASY of the replies are right."""
    start, path = before(subject, options, note), candidates(subject, options["noise"])
    figures = {}
    if options["keep"] < 1:
        path, figures = kept(subject, path, start, options, note)
    rows = read_curated(path, CHAT)
    stage = tuned(subject, start, [conversations(rows)], options["sft"], note)
    truth = Truth(subject.told.world)
    false = [truth.verdict(row.prompt, row.reply) != "right" for row in rows]
    figures |= {"rows": len(rows), "false": sum(false) / len(rows)}
    return measured(subject, stage, figures)


def kept(subject: Subject, path: Path, start: Stage, options: dict, note) -> tuple[Path, dict]:
    """(the file of the rows that are kept, figures of pruning())."""
    run = None if options["by"] == RANDOM else str(start.folder)

    def make(folder: Path) -> dict:
        order = Order(options["keep"], options["by"], run, seed=subject.seed)
        quiet = {"say": lambda text: None, "progress": lambda text, last: note(text)}
        return prune(str(path), folder / KEPT, order, ops=subject.lab.ops, **quiet)

    what = {"prune": [options["keep"], options["by"]], "run": weights_sha256(start.model)}
    folder, document = made(subject, what | {"rows": path.parent.name}, make)
    figures = {}
    if options["by"] == WORLD:
        found, every = document["difficulty"], document["histogram"]
        easy = sum(every[-int((1 - EASY) * K) - 1 :]) / sum(every)
        figures = {"difficulty": found["of_kept"], "difficulty_of_all": found["mean"], "easy": easy}
    return folder / KEPT, figures


def prepare_before(options: dict):
    """Return an Experiment's prepare(), which makes the model before. options: as before() takes
    them."""

    def prepared(lab, seed: int) -> None:
        before(Subject(lab, world_of(seed), seed), options, lab.progress)

    return prepared
