"""The seeds of a data set: the conversations that people wrote."""

from collections import Counter
from dataclasses import replace

from pysft.errors import DataError, RowError
from pysft.jobs.collect import as_typed
from pysft.run.stage import Stage
from pysft.text.curated import Curated, answer_of, read_curated
from pysft.text.render import render
from pysft.text.template import Template


def read_seeds(path: str, template: Template, left_out: Counter | None = None) -> list[Curated]:
    """Read the seeds of a file. left_out: as in read_curated(). Errors as there, and a DataError
    for a file of one conversation."""
    read = read_curated(path, template, left_out=left_out)
    if len(read) < 2:
        raise DataError(f"{path}: it has one conversation; write two seeds or more")
    return read


def notes(path: str, seeds: list[Curated]) -> list[str]:
    """Return sentences that say what of the seeds no new row has."""
    found, all_of_them = [], f"{len(seeds):,} seeds"
    longer = sum(len(exchanges(row)) > 1 for row in seeds)
    if longer > len(seeds) / 2:
        found.append(
            f"{path}: {longer:,} of {all_of_them} have more than one exchange; a new row has one,"
            " like the first exchange of a seed"
        )
    before = sum(row.messages[0]["role"] != "user" for row in seeds)
    if before:
        found.append(
            f"{path}: {before:,} of {all_of_them} begin with a system text; new rows have none"
        )
    return found


def exchanges(row: Curated) -> list[tuple[str, str]]:
    """Return [(what the user says, what the assistant replies)] of a conversation."""
    said = [(m["role"], answer_of(m["content"])) for m in row.messages]
    return [(asked, reply) for (role, asked), (_, reply) in zip(said, said[1:]) if role == "user"]


def writable(row: Curated, stage: Stage) -> Curated:
    """Return a seed as a stage reads it. A DataError if its vocabulary cannot write it."""
    messages = as_typed(row.messages, stage)
    try:
        render(messages, stage.tokenizer, stage.template, row.where, "flags")
    except RowError as error:
        remedy = error.remedy.partition(", or give --unknown")[0]
        what = f"{stage.folder} cannot write it: {error.what}; {remedy}"
        raise DataError(f"{error.where}: {what}") from None
    return replace(row, messages=messages)
