"""Mutate the right files of tests/learners/ at random, and see what the checker says of them.

    python tests/heavy/learner_mutants.py [COUNT (50)] [SEED (1)]

A file is drawn first, then a kind of change, then one change of its syntax tree: an operator, an
axis, a number, a name or a sign exchanged, a term or a factor dropped, a transpose added or taken
away, a sum made a mean, a result added for written or written for added, a statement deleted.

Each file that the checker calls right, or whose mistake it names from the catalogue, is then run on
inputs that the checker has not used. What it computes there is compared with the right results, or
with those of the mistakes that were named. So a name that fits by chance shows. A name can fit in
part: one result has the mistake, and another result is wrong in a way that nothing explains. The
checker names the part that it knows.

All mutants are printed, with what was said of them, because one thing is left to a reader: do the
words of a finding describe the change? Of 250 mutants of seed 2, 36 were named at first. Every name
fitted, and seven described no change that was made: a result that was never written, or negated,
was called two forgotten terms. So the checker now looks for such plain reasons first. Seed 3 was
drawn after that. Of its 200 mutants 15 were called right, and were. 21 were named, every name
fitted, and all 21 described the change.

The exit status is 1 if a file is called right that is not,
or if 5 in a hundred of the names or more do not fit."""

import ast
import builtins
import copy
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from learners import learners

from pysft.lessons import book, check, worker
from pysft.lessons.cases import cases_of
from pysft.lessons.judging import judge
from pysft.nn.gradcheck import TOLERANCE

OTHER_SEEDS = (101, 102)  # of inputs that the checker does not use
BAR = 0.05
OPERATORS = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.MatMult: (ast.Mult,),
}
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
SUMS = {"sum": "mean", "mean": "sum", "max": "min", "log": "exp", "tril": "triu"}


@dataclass(frozen=True)
class Mutant:
    """A right file with one change. before, after: the line that was changed."""

    name: str
    exercise: str
    kind: str
    before: str
    after: str
    text: str


# -------------------------------------------------------------------------------------- mutating


@cache
def places(text: str) -> list[tuple[str, int, int]]:
    """All changes of a file: (kind, place of the node in ast.walk(), number of its change)."""
    nodes = list(ast.walk(ast.parse(text)))
    kept = {id(x) for node in nodes for part in _left_alone(node) for x in ast.walk(part)}
    return [
        (kind, place, number)
        for place, node in enumerate(nodes)
        if id(node) not in kept
        for number, (kind, _) in enumerate(_changes(node))
    ]


def planted(name: str, exercise: str, text: str, kind: str, place: int, number: int) -> Mutant:
    """The file with one of these changes."""
    tree = ast.parse(text)
    before, node = _lines(tree), list(ast.walk(tree))[place]
    _replace(tree, node, list(_changes(node))[number][1])
    after = _lines(tree)
    old, new = next(((x, y) for x, y in zip(before, after) if x != y), ("", ""))
    return Mutant(name, exercise, kind, old.strip(), new.strip(), "\n".join(after))


def _left_alone(node) -> Iterator[ast.AST]:
    """Parts of a node in which nothing is changed: signatures, docstrings, and what is imported."""
    if isinstance(node, ast.FunctionDef):
        yield node.args
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node


def _changes(node) -> Iterator[tuple[str, ast.AST]]:
    """(kind of change, what stands in the place of a node afterwards)."""
    if isinstance(node, ast.BinOp):
        for new in OPERATORS.get(type(node.op), ()):
            yield "operator", ast.BinOp(node.left, new(), node.right)
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield "dropped term", node.left
            yield "dropped term", node.right
        if isinstance(node.op, (ast.Mult, ast.Div)):
            yield "dropped factor", node.left
        if isinstance(node.op, ast.Mult):
            yield "dropped factor", node.right
        if isinstance(node.op, ast.MatMult):
            for left, right in ((_turned(node.left), node.right), (node.left, _turned(node.right))):
                yield "transpose", ast.BinOp(left, ast.MatMult(), right)
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield (
            "comparison",
            ast.Compare(
                node.left, [COMPARISONS[type(node.ops[0])](), *node.ops[1:]], node.comparators
            ),
        )
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign", node.operand
    elif isinstance(node, ast.keyword) and node.arg == "axis":
        if isinstance(node.value, ast.Constant):
            yield "axis", ast.keyword("axis", ast.Constant(1 - node.value.value % 2))
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in SUMS:
        func = ast.Attribute(node.func.value, SUMS[node.func.attr], ast.Load())
        yield "sum or mean", ast.Call(func, node.args, node.keywords)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "number", ast.Constant(node.value + 1)
        yield "number", ast.Constant(2 * node.value)
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        written = _everything(node.target)
        yield "written for added", ast.Assign([written], node.value, lineno=node.lineno)
        yield "sign", ast.AugAssign(node.target, ast.Sub(), node.value)
        yield "deleted statement", ast.Pass()
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        yield "added for written", ast.AugAssign(node.targets[0], ast.Add(), node.value)
        yield "deleted statement", ast.Pass()
    elif isinstance(node, ast.stmt) and not hasattr(node, "body"):
        called = {id(x.func) for x in ast.walk(node) if isinstance(x, ast.Call)}
        names = [x for x in ast.walk(node) if _is_read(x) and id(x) not in called]
        for x in names:
            for other in sorted({y.id for y in names} - {x.id}):
                yield "name", _renamed(node, x, other)


def _turned(node):
    """The transpose of an expression, or what was transposed."""
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return node.value
    return ast.Attribute(node, "T", ast.Load())


def _everything(target):
    """All elements of what is assigned to."""
    if isinstance(target, ast.Name):
        return ast.Subscript(ast.Name(target.id, ast.Load()), ast.Slice(), ast.Store())
    return target


def _is_read(x) -> bool:
    """True for the name of an array or a number that is read."""
    is_name = isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load)
    return is_name and x.id != "np" and not hasattr(builtins, x.id)


def _renamed(node, name, other: str):
    place = [x is name for x in ast.walk(node)].index(True)
    renamed = copy.deepcopy(node)
    list(ast.walk(renamed))[place].id = other
    return renamed


def _replace(tree, old, new) -> None:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
                return
            if isinstance(value, list) and any(x is old for x in value):
                value[[x is old for x in value].index(True)] = new
                return


def _lines(tree) -> list[str]:
    return ast.unparse(ast.fix_missing_locations(tree)).splitlines()


def drawn(count: int, seed: str) -> list[Mutant]:
    """Return so many different mutants, drawn at random."""
    dice, chosen = random.Random(seed), {}
    right = [x for x in learners() if x.row is None]
    while len(chosen) < count:
        learner = dice.choice(right)
        text = learner.path.read_text()
        every = places(text)
        kind = dice.choice(sorted({kind for kind, *_ in every}))
        mutant = planted(
            learner.name, learner.exercise, text, *dice.choice([x for x in every if x[0] == kind])
        )
        if mutant.before != mutant.after:
            chosen.setdefault(mutant.text, mutant)
    return list(chosen.values())


# --------------------------------------------------------------------------------------- judging


def results_of(mutant: Mutant, problem, cases) -> list[dict]:
    """What the function of a mutant computes in these cases, in this process."""
    function = worker.load(mutant.text.encode(), f"{mutant.name}.py", problem.function)
    found = []
    for case in cases:
        before = {name: x.copy() for name, x in case.before.items()}
        found.append(worker.call(function, before, case.passed(), list(problem.returns))["results"])
    return found


def gap(found: np.ndarray, right: np.ndarray) -> float:
    """The largest difference, relative to the largest element of the right result."""
    if found.shape != right.shape or found.dtype.kind in "US":
        return 0.0 if np.array_equal(found, right) else np.inf
    found, right = found.astype(float), right.astype(float)
    is_equal = (found == right) | (np.isnan(found) & np.isnan(right))
    if is_equal.all():
        return 0.0
    difference = np.abs(np.where(is_equal, 0, found - right)).max()
    scale = max(np.abs(right[np.isfinite(right)]).max(initial=0), 1e-6)
    return float(difference / scale) if np.isfinite(difference) else np.inf


def is_right(mutant: Mutant) -> bool:
    """True if all results are the right ones, for the checker's inputs and for others."""
    for problem in book.problems(mutant.exercise):
        cases = cases_of(problem, (0, 1, *OTHER_SEEDS))
        for case, found in zip(cases, results_of(mutant, problem, cases)):
            for name, right in case.answer().items():
                if problem.outputs.get(name) == "added":
                    right = right + case.before[name]
                if not gap(found[name], right) <= TOLERANCE:
                    return False
    return True


def name_fits(mutant: Mutant, finding) -> str:
    """For inputs of other seeds: does a name from the catalogue fit? "wholly", "in part" or
    "wrongly"."""
    problem = next(p for p in book.problems(mutant.exercise) if p.function == finding.function)
    cases = cases_of(problem, OTHER_SEEDS)
    verdict = judge(problem, cases, results_of(mutant, problem, cases))
    if check.name_of(problem, verdict.mistakes) not in (finding.mistake, *finding.also):
        return "wrongly"
    return "in part" if verdict.unexplained else "wholly"


def main(count: int, seed: str) -> int:
    said, lied, names = Counter(), [], Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.py"
        for number, mutant in enumerate(drawn(count, seed), 1):
            path.write_text(mutant.text)
            finding = check.check(mutant.exercise, path, time_limit=5)
            kind = finding.kind
            if finding.passed and not is_right(mutant):
                lied.append(mutant)
                kind = "RIGHT, AND IS NOT"
            if finding.mistake:
                fits = name_fits(mutant, finding)
                names[fits] += 1
                kind = f"catalogue, {fits}"
            said[kind] += 1
            print(f"{number:>3}. {mutant.name}, {mutant.kind}")
            print(f"     - {mutant.before}\n     + {mutant.after}")
            print(f"     {kind}: {finding.finding}", flush=True)
    print(f"\n{count} mutants, seed {seed}. Said of them:")
    for kind, times in said.most_common():
        print(f"{times:>5}  {kind}")
    wrong, total = names["wrongly"], sum(names.values())
    print(f"Called right and not right: {len(lied)}. Names that do not fit: {wrong} of {total}.")
    return 1 if lied or wrong > BAR * total else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(int(given[0]) if given else 50, given[1] if len(given) > 1 else "1"))
