"""A world as plain files, which other programs can read.

world.json         the settings that made it, and how many there are of everything
entities.jsonl     an entity on each line: its name, kind, split, number of tellings and facts
table.csv          the same facts as a table: a line for each entity, a column for each fact
strangers.jsonl    a name that nobody has on each line, and its split
text.txt           the text that tells of it
train.jsonl        questions, one on each line: "prompt", "completion" (a right reply) and what
reward.jsonl       is true; a file for each split
ppo.jsonl
sealed.jsonl

With violations of principles (violations.py) also

violating.jsonl    questions of training, each with a reply that is right or violates a principle
critiques.jsonl    conversations that criticise and revise such replies"""

import csv
import io
import json
from pathlib import Path

from pysft import disk
from pysft.errors import UsageError
from pysft.world.ask import questions, trained_questions
from pysft.world.facts import SPLITS, World
from pysft.world.tell import tell


def write_world(world: World, folder: Path, more: dict[str, list[dict]] | None = None) -> dict:
    """Write a world to a folder that is new or empty. Return what world.json holds: "settings", and
    how many "entities", "strangers", "characters" of text and "questions" of each split there
    are. A UsageError if the folder holds anything.

    more: {name: rows}, for each of which a file NAME.jsonl is written too. world.json then has the
    number of rows under the name."""
    more = more or {}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out {folder}: it is not empty; name a new folder")
    disk.make_folder(folder)
    text = tell(world)
    asked = {split: questions(world, split) for split in SPLITS}
    asked["train"] = trained_questions(world)
    _write(folder / "text.txt", text)
    _write_lines(folder / "entities.jsonl", [e.to_json() for e in world.entities])
    _write(folder / "table.csv", _table(world))
    strangers = [{"name": name, "split": split} for name, split in world.strangers.items()]
    _write_lines(folder / "strangers.jsonl", strangers)
    for split, some in asked.items():
        _write_lines(folder / f"{split}.jsonl", [_row(q.to_json()) for q in some])
    for name, rows in more.items():
        _write_lines(folder / f"{name}.jsonl", rows)
    document = {
        "settings": world.settings.to_json(),
        "entities": len(world.entities),
        "strangers": len(strangers),
        "characters": len(text),
        "questions": {split: len(some) for split, some in asked.items()},
        **{name: len(rows) for name, rows in more.items()},
    }
    _write(folder / "world.json", json.dumps(document, indent=1) + "\n")  # last: all is there
    return document


def _table(world: World) -> str:
    columns = list(dict.fromkeys(fact for e in world.entities for fact in e.facts))
    rows = [["name", *columns]]
    rows += [[e.name, *(e.facts.get(fact, "") for fact in columns)] for e in world.entities]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _row(question: dict) -> dict:
    """Name a right reply as files of conversations do."""
    return {"prompt": question.pop("prompt"), "completion": question.pop("answer"), **question}


def _write(path: Path, text: str) -> None:
    disk.replace(path, [text.encode()])


def _write_lines(path: Path, rows: list[dict]) -> None:
    _write(path, "".join(json.dumps(row) + "\n" for row in rows))
