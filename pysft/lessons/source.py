"""What the text of a learner's file says about one of its functions, without running it."""

import ast


def tree_of(source: bytes) -> ast.Module | None:
    """The file's syntax tree, or None if it is no Python."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None


def function_of(source: bytes, name: str) -> ast.FunctionDef | None:
    """The last definition of a function at the top of the file, or None."""
    tree = tree_of(source)
    found = (
        [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == name] if tree else []
    )
    return found[-1] if found else None


def is_empty(source: bytes, name: str) -> bool:
    """True if a function has nothing but a docstring, `pass` and `...`."""
    function = function_of(source, name)
    return function is not None and all(
        isinstance(line, ast.Pass)
        or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        for line in function.body
    )


def bound_at(source: bytes, function: str, name: str) -> int | None:
    """The first line of a function that binds a name to something new, as `dx = ...` does."""
    lines = [
        node.lineno
        for node in _nodes(source, function)
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
    ]
    # `dx += ...` stores the name too, and changes the array in place.
    in_place = {
        node.target.lineno
        for node in _nodes(source, function)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    }
    return min((line for line in lines if line not in in_place), default=None)


def changed_at(source: bytes, function: str, name: str) -> int | None:
    """The first line of a function that changes an array in place: `x += ...`, `x[...] = ...`,
    `x.sort()`, or `out=x`."""
    lines = []
    for node in _nodes(source, function):
        if isinstance(node, ast.AugAssign):
            lines += [node.lineno] * (_base(node.target) == name)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            lines += [node.lineno] * (_base(node) == name)
        elif isinstance(node, ast.Call):
            is_out = any(k.arg == "out" and _base(k.value) == name for k in node.keywords)
            is_sort = isinstance(node.func, ast.Attribute) and node.func.attr in ("sort", "fill")
            lines += [node.lineno] * (is_out or (is_sort and _base(node.func.value) == name))
    return min(lines, default=None)


def line(source: bytes, number: int | None) -> str:
    """The text of a line, without its indentation; "" if there is none of this number."""
    lines = source.decode("utf-8", errors="replace").splitlines()
    return lines[number - 1].strip() if number and 0 < number <= len(lines) else ""


def _nodes(source: bytes, name: str) -> list:
    function = function_of(source, name)
    return list(ast.walk(function)) if function else []


def _base(node) -> str | None:
    """The name at the bottom of `x`, `x[0]`, `x.T[:, 1]`."""
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
