"""Writes the skeletons of an exercise into a learner's file."""

import ast
from pathlib import Path

from pysft import disk
from pysft.errors import DataError
from pysft.lessons import book
from pysft.lessons.check import read

HEAD = '"""Exercises of the lessons: `python -m pysft lesson` lists them."""\n'
IMPORT = "import numpy as np\n"


def start(exercise: str, path: Path) -> list[str]:
    """Append to a file the functions of an exercise that it lacks. Return their names.

    What the file holds stays as it is. The file is made if there is none. DataError if it is no
    Python, because then nobody can tell which functions it has."""
    if path.suffix != ".py":  # gradcheck --ops takes no other
        raise DataError(f"{path}: expected a Python file, whose name ends with .py")
    old = read(path) if path.exists() else b""
    names = _names(old, path)
    missing = [p for p in book.problems(exercise) if p.function not in names]
    if not missing:
        return []
    if not old:
        pieces = [HEAD + "\n" + IMPORT]
    else:
        pieces = ["" if old.endswith(b"\n") else "\n"]
        pieces += [] if "np" in names else ["\n" + IMPORT]
    pieces += [f"\n\n{p.skeleton.rstrip()}\n    raise NotImplementedError\n" for p in missing]
    disk.append(path, "".join(pieces))
    return [p.function for p in missing]


def _names(content: bytes, path: Path) -> set[str]:
    """The names that a file binds at its top: functions, imports and variables."""
    try:
        tree = ast.parse(content)
    except SyntaxError as error:
        raise DataError(f"{path}, line {error.lineno}: {error.msg}. Mend this line first") from None
    except ValueError as error:
        raise DataError(f"{path}: no Python file ({error})") from None
    found = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        else:
            found |= {
                n.id
                for n in ast.walk(node)
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
    return found
