"""The tools that a reply may call, and how one is run.

A tool takes the text of a call and returns the text of the result. No shipped tool (search,
arithmetic, a table) can execute the text that it is given. A new
tool needs a function and a row in tools() below, and more: the guide's page own-tool goes through
all of it."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pysft.errors import DataError, PysftError
from pysft.inference.calculator import calculate
from pysft.inference.search import Search
from pysft.inference.table import Table
from pysft.text.characters import replaced
from pysft.text.tokenizer import Tokenizer

LONGEST = 20_000  # characters of a result that are read


@dataclass(frozen=True, slots=True)
class Tool:
    """name: the template's name for its calls. run: text of a call -> text of the result;
    run_tool() turns any exception that it raises into words."""

    name: str
    run: Callable[[str], str]


def tools(search: Search | None = None, table: Table | None = None) -> dict[str, Tool]:
    """Return the tools by name. Without a Search there is no search among them, without a Table no
    table."""
    rows = [Tool("code", calculate)]
    if search:
        rows.append(Tool("search", search.answer))
    if table:
        rows.append(Tool("table", table.answer))
    return {tool.name: tool for tool in rows}


def run_tool(tool: Tool, call: str, tokenizer: Tokenizer) -> str:
    """Run a tool and return the text of its result: words that the vocabulary can write, on one
    line. An error is a result too ("error: ...")."""
    try:
        text = tool.run(call)
        if not isinstance(text, str):
            raise DataError(f"{tool.name} gave no text")
    except PysftError as error:
        text = f"error: {error}"
    except Exception as error:  # whatever is wrong with a tool must not end the chat
        text = f"error: {tool.name} failed ({type(error).__name__})"
    # A huge result stays cheap. The last of so many characters may cut a word.
    text = replaced(" ".join(text[:LONGEST].split()), tokenizer)
    return " ".join("".join(c for c in text if tokenizer.can_write(c)).split())


def fitted(text: str, room: int, tokenizer: Tokenizer) -> np.ndarray:
    """The ids of a result, at most `room` of them. The name of a control token stays text.

    Words are never cut, because half a number or half a name would be another one, so there may be
    none."""
    words = text.split(" ")

    def ids(count):
        return tokenizer.encode(" ".join(words[:count]))

    return ids(bisect_right(range(len(words) + 1), max(room, 0), key=lambda n: len(ids(n))) - 1)
