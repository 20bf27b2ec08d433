"""Map what a model knows, and write the conversations that teach it to refuse the rest: ask every
question several times, let somebody judge, and sort the questions (measure/knowing.py)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pysft import IGNORE, disk
from pysft.errors import DataError, MissingInput, UsageError
from pysft.inference.thoughts import thought_tokens
from pysft.jobs.collect import ASKED, WORLD, as_typed, refuse_callers, sample_replies, talking_stage
from pysft.jobs.curate.judging import judge_of, refuse_sealed, truth_of
from pysft.measure.knowing import (
    LEAST_KNOWN,
    MOST_UNKNOWN,
    Asked,
    Probed,
    key,
    map_figures,
    probed,
    taught_rows,
)
from pysft.measure.recalling import compared, recalled
from pysft.measure.world import nll_sums
from pysft.run.stage import Stage, load_stage, read_json
from pysft.run.tree import base_of, lineage
from pysft.text.characters import typed
from pysft.text.corpora import shipped
from pysft.text.curated import read_curated, write_curated
from pysft.text.examples import question_example
from pysft.text.files import suffix
from pysft.text.sampled import MOST, is_usable, read_asked
from pysft.training.settings import Data
from pysft.world.ask import questions, refusal
from pysft.world.facts import World, make

UNTRAINED = ("reward", "ppo")  # splits of a world that no fine-tuning asks about
REFUSAL = "I do not know that."
MAP, ROWS = "map.jsonl", "rows.jsonl"
# How a model of `tiny`'s size learns to recall; bench/RESULTS.md has what was tried.
RECIPE = (
    *("sft.steps=1600", "sft.lr=3e-3", "sft.decay=0.1", "sft.pairs=0", "sft.tokens=6000"),
    *("sft.windows=[[256,1]]", "sft.world=[[256,4]]"),
)


@dataclass(frozen=True)
class Orders:
    """What is asked of probe(). questions: a file, or "world" or "world:SPLIT". judge: "world",
    FILE.py or the URL of an endpoint. model, budget, cache: of an endpoint. k: replies to each
    question. least_known, most_unknown: shares of right replies. refusal: for questions of a file.
    share: of refusals among all that will be trained on. recall: pairs of rows that compare what is
    recalled; 0 writes rows without thoughts. against: another map."""

    questions: str = WORLD
    judge: str = WORLD
    model: str | None = None
    budget: int | None = None
    cache: Path | None = None
    k: int = 8
    least_known: float = LEAST_KNOWN
    most_unknown: float = MOST_UNKNOWN
    refusal: str = REFUSAL
    share: float = 0.08
    recall: int = 0
    against: Path | None = None
    seed: int = 0


def probe(run: str, ops, orders: Orders, out: Path, say, progress) -> dict:
    """Probe the newest stage of a run that talks. Write the map and the rows to the new folder
    `out`, and return the --json document: map_figures(), and

    questions, k, seed   as they were
    rows               {"answers", "refusals", "wanted", "share"} of taught_rows()
    judge              its name
    map, data          the two files
    trained            how many conversations the run was tuned on, which count in the share

    With orders.recall the rows have thoughts (measure/recalling.py), "rows" is {"answers",
    "refusals", "compared"}, and "data" is a list of three files, for a mixture."""
    _refuse(orders, out)
    stage = talking_stage(run, ops)
    refuse_callers(stage)
    if thought_tokens(stage.tokenizer, stage.template):
        say(f"{stage.folder}: it can think before it answers; the rows have no thoughts of its own")
    other = None if orders.against is None else _read_map(orders.against)
    asked, judge, by = _asked(stage, orders, say)
    if other is not None and not any(key(a.prompt) in other for a in asked):
        raise DataError(
            f"{orders.against}: no question of this map is asked here; ask both models the same"
        )
    written = sample_replies(
        stage, [a.prompt for a in asked], orders.k, orders.seed, progress=progress
    )
    found, surprise = [], _surprise(stage, asked)
    for number, (a, replies) in enumerate(zip(asked, written), 1):
        verdicts = [judge(a, text, ended) for text, ended in replies]
        texts = [text for text, _ in replies]
        limits = orders.least_known, orders.most_unknown
        found.append(probed(a, texts, verdicts, *limits, float(surprise[number - 1])))
        progress(f"judged the replies to {number:,} of {len(asked):,} questions", False)
    trained = _trained(stage)
    files, counts = _rows(stage, found, orders, trained, by)
    _refuse_useless(found, by, files)
    disk.make_folder(out)
    lines = [json.dumps(p.to_row(), ensure_ascii=False) + "\n" for p in found]
    disk.replace(out / MAP, [line.encode() for line in lines])
    for name, rows in files.items():
        write_curated(out / name, rows)
    data = [str(out / name) for name in files]
    return {
        **map_figures(found, other),
        "questions": len(found),
        "k": orders.k,
        "seed": orders.seed,
        "judge": by,
        "rows": counts,
        "trained": trained,
        "map": str(out / MAP),
        "data": data if orders.recall else data[0],
    }


def _rows(
    stage: Stage, found: list[Probed], orders: Orders, trained: int, by: str
) -> tuple[dict[str, list], dict]:
    """Return ({file: rows}, their counts)."""
    if not orders.recall:
        rows, counts = taught_rows(found, trained, orders.share, orders.seed, by)
        return {ROWS: rows}, counts
    answers, refusals = recalled(found, by)
    pairs = compared(found, _people(make(stage.world)), orders.recall, orders.seed, by)
    files = {"answers.jsonl": answers, "refusals.jsonl": refusals, "compared.jsonl": pairs}
    reasons = (
        "nothing is known",
        "nothing is unknown, so there is nothing to refuse",
        "no right reply names whom its question asks about",
    )
    for rows, why in zip(files.values(), reasons):
        if not rows:
            raise DataError(f"--recall: {why}; leave it out, or ask other questions")
    return files, {name.removesuffix(".jsonl"): len(rows) for name, rows in files.items()}


def _people(world: World) -> set[str]:
    """Names of people and of nobody that rows may hold: all but those of sealed questions."""
    people = {e.name for e in world.entities if e.kind == "person" and e.split != "sealed"}
    return people | {name for name, split in world.strangers.items() if split != "sealed"}


def _refuse(orders: Orders, out: Path) -> None:
    """Raise a UsageError for numbers that mean nothing, and for a folder that is not new."""
    if not 1 <= orders.k <= MOST:
        raise UsageError(f"-k {orders.k}: expected 1 to {MOST} replies to each question")
    if not 0 <= orders.most_unknown < orders.least_known <= 1:
        raise UsageError(
            f"--unknown {orders.most_unknown:g} and --known {orders.least_known:g}: expected 0 <="
            " unknown < known <= 1"
        )
    if orders.recall and orders.questions.partition(":")[0] != WORLD:
        raise UsageError(
            f"--recall is for questions of a world, and --questions names {orders.questions}, where"
            " nobody says whom a question asks about; leave one of the two out"
        )
    if orders.recall and orders.share != Orders.share:
        raise UsageError("--share is for rows without --recall; leave one of the two out")
    if not 0 < orders.share <= 0.5:
        raise UsageError(
            f"--share {orders.share:g}: expected a share above 0 and at most 0.5. Where more than"
            " half of the rows refuse, a model learns to refuse everybody"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: it is not empty; name a new folder")


# -------------------------------------------------------------------------------- what is asked


def _asked(stage: Stage, orders: Orders, say) -> tuple[list[Asked], Callable, str]:
    """Return (the questions, judge(asked, reply, ended) -> a verdict or None, the judge's name)."""
    is_of_world = orders.questions.partition(":")[0] == WORLD
    if not is_of_world and orders.judge == WORLD:
        raise UsageError(
            f"--questions {orders.questions}: the exact judge knows questions of an invented world"
            " alone; name another by --judge: FILE.py, or the URL of an endpoint"
        )
    asked = _of_world(stage, orders.questions) if is_of_world else _of_file(stage, orders)
    endpoint = orders.model, orders.budget, orders.cache, say
    judge = judge_of(orders.judge, stage, *endpoint, "--judge")

    def verdict(a: Asked, reply: str, ended: bool) -> str | None:
        found = judge(a.prompt, reply, ended, a.answer)
        # Where nothing can be known, to refuse is right, and shows no knowledge.
        return "refused" if found == "right" and a.answer == a.refusal else found

    return asked, verdict, judge.by


def _of_world(stage: Stage, name: str) -> list[Asked]:
    _, colon, split = name.partition(":")
    if stage.world is None:
        raise UsageError(
            f"{stage.folder} learned no invented world; name a file by --questions (a question on"
            " each line, or conversations whose replies are true) and somebody by --judge"
        )
    if colon and split not in ASKED:
        known = ", ".join(f"{WORLD}:{s}" for s in ASKED)
        sealed = "; the sealed questions are for reports alone" if split == "sealed" else ""
        raise UsageError(f"--questions {name}: expected {known}{sealed}")
    world = make(stage.world)
    every = [q for s in ((split,) if split else UNTRAINED) for q in questions(world, s)]
    asked = {}
    for q in every:
        if q.hops != 2:
            prompt = [{"role": "user", "content": q.prompt}]
            about = refusal(q.about, q.fact)
            asked[q.prompt] = Asked(prompt, q.answer, about, q.about, q.tellings)
    return list(asked.values())


def _of_file(stage: Stage, orders: Orders) -> list[Asked]:
    refused = typed(orders.refusal, stage.tokenizer)
    if not is_usable(refused) or not stage.tokenizer.can_write(refused):
        raise UsageError(
            f"--refusal {orders.refusal!r}: the vocabulary of {stage.folder} cannot write it, or it"
            " is no text"
        )
    if suffix(orders.questions) == ".txt":
        rows = [(p, "") for p, _, _ in read_asked(orders.questions, stage.template)]
    else:
        rows = [(row.prompt, row.reply) for row in read_curated(orders.questions, stage.template)]
    refuse_sealed([(prompt, orders.questions) for prompt, _ in rows], truth_of(stage))
    return [Asked(as_typed(prompt, stage), answer, refused) for prompt, answer in rows]


def _surprise(stage: Stage, asked: list[Asked]) -> np.ndarray:
    """The mean loss of the text of each question, in nats per token."""
    examples = [question_example(a.prompt, stage.tokenizer, stage.template) for a in asked]
    tokens = [int((e.labels != IGNORE).sum()) for e in examples]
    # A template without an opener leaves nothing to grade of a question of one token.
    return nll_sums(stage.model, examples) / np.maximum(tokens, 1)


def _trained(stage: Stage) -> int:
    """How many conversations a stage was tuned on; 0 if it does not say."""
    path = stage.folder / "data.json"
    if not path.is_file():
        return 0
    data = read_json(path)
    return int(data.get("conversations", 0)) + int(data.get("pairs", 0))


def recalling(folder: Path, document: dict) -> list:
    """The arguments of `train` that tune the stage in `folder` on the rows that recall, by the
    recipe of bench/RESULTS.md: in each step a quarter of answers, a quarter of refusals and half of
    rows that compare. document: as probe() returns it."""
    data = document["data"]
    return ["--base", folder, "--data", *data, "--mix", *"112", "--set", *RECIPE]


def beside(folder: Path, document: dict) -> list:
    """The arguments of `train` that tune the base under the stage in `folder` once more, as that
    stage was tuned, with the rows beside its own data. document: as probe() returns it."""
    begun = read_json(folder.parent / "run.json")
    settings, old = begun["settings"]["data"], begun["data"]
    if not old:
        names = {"conversations": "conversations.jsonl", "pairs": "pairs40.jsonl"}
        old = [shipped(names[part]) for part in settings["shipped"].split("+")]
    base = base_of(lineage(load_stage(folder)))
    found = ["--base", base.folder if base else folder, "--data", *old, document["data"]]
    if mix := settings["mix"]:
        rows = document["rows"]["answers"] + document["rows"]["refusals"]
        found += ["--mix", *mix, f"{sum(mix) * rows / max(1, document['trained']):.3g}"]
    for name in ("grade", "template", "unknown", "too_long"):
        if settings[name] != getattr(Data, name):
            found += [f"--{name.replace('_', '-')}", settings[name]]
    return found


def _refuse_useless(found: list[Probed], by: str, files: dict[str, list]) -> None:
    """Raise a DataError if there is nothing to train on."""
    if not any(p.kind for p in found):
        raise DataError(
            f"there is no question of which the judge {by} gave a verdict on all replies; ask"
            " another one, or for fewer replies by -k"
        )
    if not any(p.right for p in found):
        shown = next(p for p in found if p.kind)
        raise DataError(
            f"the judge {by} called no reply right, so nothing is known and all would be refused."
            f" Of {shown.replies[0][:60]!r} it said {shown.verdicts[0]}; look at the replies, or at"
            " the judge"
        )
    if not any(files.values()):
        raise DataError("no row to train on came out; ask more questions")


def _read_map(path: Path) -> dict[str, str]:
    """{key(prompt): kind} of a map that this job wrote. A DataError for another file."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {key(row["prompt"]): row["kind"] for row in rows}
    except FileNotFoundError:
        kind, why = MissingInput, "no such file"
    except (OSError, ValueError, KeyError, TypeError):
        kind, why = DataError, "it is no map"
    raise kind(f"--against {path}: {why}; name the {MAP} of another probe")
