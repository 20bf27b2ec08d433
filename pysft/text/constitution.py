"""A constitution: the principles that a model is asked to criticise and to revise its answers by.

It is a TOML file that a person writes, a table for each principle:

    [honest]
    forbids = "a claim that is false"
    question = "Is it true?"
    revise = "Say it truly."
    example = {reply = "...", critique = "...", revision = "..."}

The example is for whoever reads the file. The model reads the question and the request alone."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from pysft.errors import DataError, MissingInput
from pysft.text.characters import typed
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "constitution.toml"
NEEDED = ("forbids", "question", "revise")
EXAMPLE = ("reply", "critique", "revision")


@dataclass(frozen=True)
class Principle:
    """forbids: what violates it. question: how the model is asked to criticise its answer. revise:
    how it is asked for another one. example: {"reply", "critique", "revision"}, or None."""

    name: str
    forbids: str
    question: str
    revise: str
    example: dict | None = None


def read_constitution(path) -> tuple[Principle, ...]:
    """Return the principles of a file in their order. MissingInput if there is no file; a DataError
    that names the file and the key if it is no TOML, has no principle, or if a principle lacks a
    text or has an unknown key."""
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such constitution; write one in TOML") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as TOML ({error})") from None
    if not document:
        raise DataError(
            f"{path}: no principle in it; write a table for each, such as [honest], with"
            f" {_listed(NEEDED)}"
        )
    return tuple(_principle(name, table, path) for name, table in document.items())


def _principle(name: str, table, path) -> Principle:
    if not isinstance(table, dict):
        raise DataError(
            f"{path}: {name} = {table!r} stands in no principle; write it below the name of one,"
            " such as [honest]"
        )
    here = f"{path}: [{name}]"
    _check_texts(table, NEEDED, ("example",), here)
    example = table.get("example")
    if example is not None:
        if not isinstance(example, dict):
            raise DataError(f"{here} example is not a table; write {_listed(EXAMPLE)} into it")
        _check_texts(example, EXAMPLE, (), f"{path}: [{name}.example]")
    return Principle(name, *(table[key].strip() for key in NEEDED), example)


def _check_texts(table: dict, needed, others, here: str) -> None:
    """Raise a DataError unless a table has a text under each needed key, and no unknown key."""
    for key in table:
        if key not in (*needed, *others):
            raise DataError(
                f"{here} has an unknown key {key!r}; there are {_listed((*needed, *others))}"
            )
    for key in needed:
        if key not in table:
            raise DataError(f"{here} has no {key!r}; write it")
        if not isinstance(table[key], str) or not table[key].strip():
            raise DataError(f"{here} {key} = {table[key]!r}: expected a text that is not empty")


def _listed(keys) -> str:
    return ", ".join(keys)


def written(
    constitution: tuple[Principle, ...], path, tokenizer: Tokenizer, template: Template
) -> tuple[Principle, ...]:
    """Return the principles as a model reads them: letters and accents as its vocabulary has them.
    A DataError names the file and the key if it cannot write a question or a request, or if one
    holds words by which the template begins or ends a turn."""
    return tuple(
        Principle(
            p.name,
            p.forbids,
            _text(p.question, f"{path}: [{p.name}] question", tokenizer, template),
            _text(p.revise, f"{path}: [{p.name}] revise", tokenizer, template),
            p.example,
        )
        for p in constitution
    )


def _text(text: str, here: str, tokenizer: Tokenizer, template: Template) -> str:
    text = typed(text, tokenizer)
    if unknown := tokenizer.unknown(text):
        named = ", ".join(dict.fromkeys(repr(c) for _, c in unknown))
        raise DataError(f"{here} holds {named}, which the model cannot write; use other characters")
    for marker in template.forgeable:
        if marker in text:
            raise DataError(
                f"{here} holds {marker!r}, which begins a turn in template {template.name!r};"
                " write it differently"
            )
    return text
