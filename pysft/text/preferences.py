"""Readers of preferences: prompts with replies in an order, from the formats that people have.

A row says by its keys what it is (FORMATS, or a message of a tree whose replies have ranks). Every
row becomes a Ranking. As in formats.py, a format takes the keys that it reads out of the row, and
what is left must carry no meaning. scan_rankings() yields a row that cannot be used as a RowError.

A row whose replies all tie is left out and counted. It is no fault: whoever gave the ranks saw no
difference. But it has no pair to learn from."""

import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from pysft.errors import DataError, RowError
from pysft.text.conversation import SURROGATE, LeftOut, refuse_faults
from pysft.text.files import refuse_name, with_line_ends
from pysft.text.formats import EVERYTHING
from pysft.text.json_rows import json_kind
from pysft.text.keys import MARKS, OF_ROWS, PREFERENCES, Reading, is_empty, preference_keys
from pysft.text.ranking import Ranking, check_ranking, ranks_of
from pysft.text.replies import is_number, read_prompt, read_reply, read_side, taken
from pysft.text.rows import all_rows, rows_beside_trees, unknown_format
from pysft.text.spreadsheet import ASKED, SIDES
from pysft.text.template import Template
from pysft.text.templates import CHAT
from pysft.text.trees import KEYS as TREE
from pysft.text.trees import Trees
from pysft.text.turns import (
    behind_system,
    roles_of,
    take_system,
    texts_of,
    turns_with_line_ends,
)

EXAMPLE = '{"prompt": ..., "chosen": ..., "rejected": ...}'
LABELERS = ("labeler", "annotator", "annotator_id", "rater", "worker_id")  # the first is read
# Scores of the two replies of a pair. Each pair of names is read together.
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
# Of a completion in UltraFeedback. In some published rows an overall score of 10 was meant as 1, so
# the other, the mean of four marks, is taken first.
COMPLETION_SCORES = ("fine-grained_score", "overall_score")
# Keys of such rows that say nothing about the order of the replies. (Each completion of
# UltraFeedback was sampled behind a system text of its own, and judged without it.)
ABOUT = OF_ROWS | frozenset(
    """
    chosen_model rejected_model chosen-model rejected-model models num_completions
    correct_answers incorrect_answers ended
    """.split()
)
ABOUT_COMPLETION = OF_ROWS | frozenset(
    "annotations critique custom_system_prompt principle".split()
)


def holds_preferences(path, reading: Reading = EVERYTHING) -> bool:
    """True if the first row of a file that can be read is one of preferences. False for message
    trees, which are conversations too, and for a pipe, which can be read only once. Raises
    MissingInput or a DataError if the file as a whole cannot be read."""
    refuse_name(path)
    if os.path.exists(path) and not os.path.isfile(path):
        return False
    rows = (row for _, row in all_rows(Path(path)) if isinstance(row, dict))
    first = next(rows, {})
    return bool(preference_keys(reading.without_ignored(first)))


def scan_rankings(
    path, template: Template = CHAT, reading: Reading = EVERYTHING
) -> Iterator[Ranking | RowError | LeftOut]:
    """Every row of a file in its order: a Ranking that `template` can render, a RowError that says
    why not, or a LeftOut. The rankings of message trees come last. Raises MissingInput or a
    DataError if the file as a whole cannot be read."""
    refuse_name(path)
    path = Path(path)
    roles = roles_of(template)
    trees = Trees(str(path), roles, reading)
    for found in rows_beside_trees(path, trees, reading, example=EXAMPLE):
        if isinstance(found, (RowError, LeftOut)):
            yield found
            continue
        line, row = found
        try:
            ranking = _ranking(row, str(path), line, roles, reading)
        except RowError as error:
            yield error
        else:
            yield _checked(ranking, template)
    for found in trees.rankings():
        if isinstance(found, (RowError, LeftOut)):
            yield found
            continue
        ranks = ranks_of([-rank for rank in found.ranks])
        ranking = Ranking(found.prompt, tuple(found.replies), tuple(ranks), str(path), found.line)
        yield _checked(ranking, template)


def _checked(ranking: Ranking, template: Template) -> Ranking | RowError | LeftOut:
    """The ranking, its fault, or what is counted in its place if no pair can be learnt from."""
    try:
        check_ranking(ranking, template)
    except RowError as error:
        return error
    return ranking if len(set(ranking.ranks)) > 1 else LeftOut("whose replies all tie")


def read_rankings(path, template: Template = CHAT, reading: Reading = EVERYTHING) -> list[Ranking]:
    """Every ranking of a file that is not left out. A DataError if a row of it cannot be used, or
    if it has none."""
    return read_many([path], template, reading)


def read_many(paths, template: Template = CHAT, reading: Reading = EVERYTHING) -> list[Ranking]:
    """The rankings of several files, in their order. A DataError that counts the faults of all, or
    names a file that has no ranking."""
    files = [(path, list(scan_rankings(path, template, reading))) for path in paths]
    refuse_faults([row for _, rows in files for row in rows if isinstance(row, RowError)])
    for path, rows in files:
        if not any(isinstance(row, Ranking) for row in rows):
            ties = sum(isinstance(row, LeftOut) for row in rows)
            why = "no ranking in it. The guide's page 'data' shows how a row looks"
            if ties:
                why = f"no ranking in it puts two replies in an order ({ties:,} tie, or have one"
                why += " reply); rank some replies above others"
            raise DataError(f"{path}: {why}")
    return [row for _, rows in files for row in rows if isinstance(row, Ranking)]


# ---------------------------------------------------------------------------------- the formats
#
# Each takes what it reads out of the row: (row, where, roles, reading) -> (prompt, replies, ranks).


def _ranking(row: dict, path: str, line: int, roles, reading: Reading) -> Ranking:
    """The ranking of a row, not yet checked. A RowError if the format is unknown, or if the row has
    a key that would be lost."""
    where, whole = f"{path}, line {line}", row
    row = reading.without_ignored(row)
    named = {key for key, value in row.items() if value is not None}
    make = next((make for keys, make in FORMATS if named.intersection(keys)), None)
    if make is None:
        raise unknown_format(row, where, "ranking", NAMED)
    labeler, source = _labeler(row, where), row.get("source")
    prompt, replies, ranks = make(row, where, roles, reading)
    prompt, first = behind_system(prompt, take_system(row))
    rest = {key: value for key, value in row.items() if key not in MARKS}
    texts = [*texts_of(prompt), *replies]
    reading.refuse_rest(rest, where, ABOUT, texts, "the prompt")
    return Ranking(
        turns_with_line_ends(prompt),
        tuple(map(with_line_ends, replies)),
        tuple(ranks),
        path,
        line,
        labeler,
        SURROGATE.sub("?", source) if isinstance(source, str) else "",
        whole,
        first,
    )


def labeler_key(row: dict) -> str:
    """The key of a row that names its labeler; "" if there is none."""
    return next((key for key in LABELERS if not is_empty(row.get(key))), "")


def _labeler(row: dict, where: str) -> str:
    key = labeler_key(row)
    if not key:
        return ""
    if isinstance(row[key], bool) or not isinstance(row[key], (str, int, float)):
        what = f'"{key}" is {json_kind(row[key])}'
        raise RowError(where, what, f"write a name, or give --ignore {key}", "format")
    return SURROGATE.sub("?", str(row[key]))


def _ranked(row, where, roles, reading):
    """A prompt, its replies and their ranks."""
    asked, replies, ranks = (taken(row, key, where) for key in ("prompt", "replies", "ranks"))
    for key, value in (("replies", replies), ("ranks", ranks)):
        if not isinstance(value, list):
            raise RowError(where, f'"{key}" is {json_kind(value)}', "write a list", "format")
    if len(ranks) != len(replies):
        what = f"{len(ranks):,} rank{'s' * (len(ranks) != 1)} for {len(replies):,} replies"
        raise RowError(where, what, "write one for each reply", "ranks")
    texts, numbers = [], []
    for n, (reply, rank) in enumerate(zip(replies, ranks), 1):
        here = f"{where}, reply {n}"
        texts.append(read_reply(reply, here, roles, reading))
        numbers.append(_rank(rank, here))
    return read_prompt(asked, where, roles, reading), texts, numbers


def _rank(rank, here: str) -> int:
    is_whole = is_number(rank) and rank % 1 == 0
    if not is_whole or rank < 1:
        shown = rank if is_number(rank) else json_kind(rank)
        remedy = "write a whole number: 1 for the best, the same number for replies that tie"
        raise RowError(here, f"its rank is {shown}", remedy, "ranks")
    return int(rank)


def _pair(row, where, roles, reading):
    """A chosen and a rejected reply, each alone or as the end of a whole conversation."""
    sides = [taken(row, key, where) for key in SIDES]
    if row.get("messages") == sides[0]:  # as UltraFeedback repeats the chosen conversation
        del row["messages"]
    asked = next((row.pop(key) for key in ASKED if not is_empty(row.get(key))), None)
    asked = None if asked is None else read_prompt(asked, where, roles, reading)
    (before, better), (other, worse) = (
        read_side(side, f"{where}, {key}", roles, reading) for key, side in zip(SIDES, sides)
    )
    if (before is None) != (other is None):
        what = "one of chosen and rejected is a whole conversation, and the other a reply alone"
        raise RowError(where, what, "write both in the same way", "format")
    if before is None and asked is None:
        what = 'no "prompt" in it, and "chosen" is no whole conversation'
        raise RowError(where, what, 'add the "prompt" that both replies answer', "format")
    if before is not None:
        _refuse_different(before, other, asked, where)
    return before or asked, [better, worse], _ranks_of_pair(row, where)


def _refuse_different(before: list, other: list, asked: list | None, where: str) -> None:
    """Raise a RowError unless both conversations of a pair are the same before the last reply, and
    "prompt", if there is one, is that or a text of it."""
    turns = enumerate(zip_longest(before, other), 1)
    if turn := next((turn for turn, (a, b) in turns if a != b), None):
        what = f'"chosen" and "rejected" answer different prompts: turn {turn} differs'
        remedy = "give both the same turns before the last reply"
        raise RowError(where, what, remedy, "different prompts")
    if asked is None or asked == before:
        return
    texts = {text.strip() for text in texts_of(before)}
    if len(asked) > 1 or not texts.issuperset(text.strip() for text in texts_of(asked)):
        what = '"prompt" is not what "chosen" and "rejected" answer'
        remedy = "write the turns before the replies into it, or take it out"
        raise RowError(where, what, remedy, "different prompts")


def _ranks_of_pair(row: dict, where: str) -> tuple[int, int]:
    """(1, 2), or (1, 1) if the row gives both replies the same score: then whoever gave it saw no
    difference. A RowError if the rejected reply has the higher score."""
    ranks = (1, 2)
    for keys in SCORES:
        scores = [row.pop(key, None) for key in keys]
        if None in scores:
            continue
        for key, score in zip(keys, scores):
            if not is_number(score):
                what = f'"{key}" is {json_kind(score)}'
                raise RowError(where, what, "write a number, or take it out", "format")
        if scores[0] < scores[1]:
            what = f'"{keys[0]}" is {scores[0]}, and "{keys[1]}" is {scores[1]}'
            remedy = "the chosen reply has the higher score: swap them, or take the scores out"
            raise RowError(where, what, remedy, "ranks")
        ranks = (1, 1) if scores[0] == scores[1] else ranks
    return ranks


def _scored(row, where, roles, reading):
    """An instruction and completions with scores (UltraFeedback)."""
    asked, completions = taken(row, "instruction", where), taken(row, "completions", where)
    if not isinstance(completions, list) or not all(isinstance(c, dict) for c in completions):
        what = '"completions" must be a list of objects'
        raise RowError(where, what, 'make each {"response": ..., "overall_score": ...}', "format")
    key = next(
        (key for key in COMPLETION_SCORES if all(is_number(c.get(key)) for c in completions)), None
    )
    if key is None:
        named = " or ".join(f'"{key}"' for key in COMPLETION_SCORES)
        what = f"not every completion has a number as {named}"
        raise RowError(where, what, "add what is missing, or remove the line", "ranks")
    texts = []
    for n, completion in enumerate(map(reading.without_ignored, completions), 1):
        here = f"{where}, reply {n}"
        texts.append(read_reply(taken(completion, "response", here), here, roles, reading))
        rest = {k: v for k, v in completion.items() if k not in COMPLETION_SCORES}
        reading.refuse_rest(rest, here, ABOUT_COMPLETION, (), "the prompt")
    prompt = read_prompt(asked, where, roles, reading)
    return prompt, texts, ranks_of([completion[key] for completion in completions])


# The keys of which each format needs one to be known, and what takes them. The first that fits is
# taken.
FORMATS = [(SIDES, _pair), (("replies", "ranks"), _ranked), (("completions",), _scored)]
# Those that a message names.
NAMED = [("prompt", *SIDES), *PREFERENCES[:1], ("prompt", "replies", "ranks"), PREFERENCES[2], TREE]
