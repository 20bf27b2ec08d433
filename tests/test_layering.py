"""The rules of the house, read from the sources: who may import whom, and what C may not do."""

import ast
import re
import sys
from functools import cache
from graphlib import TopologicalSorter
from itertools import permutations

import pytest
from conftest import ROOT

PACKAGE = ROOT / "pysft"
# Each room imports only from those to its right; nn, text and world, side by side, come next, and
# then the roots.
ROOMS = ("__main__", "cli", "lab", "jobs", "measure", "training", "inference", "run")
SIDE_BY_SIDE = ("nn", "text", "world")
# The lessons teach what the rooms do. They stand beside them, and only the command line knows them.
LESSONS = {"measure", "training", "nn", "text"}
# What each root may import of the others. "" is `from pysft import IGNORE`.
ROOTS = {
    "__init__": set(),
    "errors": set(),
    "rng": set(),
    "console": {"errors"},
    "disk": {"errors"},
    "batch": {"", "errors"},
}
EVERYWHERE = {"", *ROOTS} - {"__init__"}
# Packages beside NumPy and cffi: optional, imported only where they are used.
OPTIONAL = {"matplotlib": {"measure/figures.py"}}

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
C_FILES = sorted(path.name for path in (ROOT / "csrc").iterdir())


@cache
def nodes(name):
    """All that a module is made of."""
    return list(ast.walk(ast.parse((PACKAGE / name).read_text())))


@cache
def imports(name):
    """Every module that a file imports, wherever in it: "numpy", "pysft.nn.gate", ...

    An import by name, import_module("...") or __import__("..."), counts if the name is a string;
    where it is not, the name is "?"."""
    found = set()
    for node in nodes(name):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import hides where it leads"
            found |= {node.module} if not is_package(node.module) else set()
            found |= {
                f"{node.module}.{alias.name}" if is_module(f"{node.module}.{alias.name}")
                else node.module
                for alias in node.names
            }  # fmt: skip
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            first = node.args[0]
            found.add(first.value if isinstance(first, ast.Constant) else "?")
    return found


def called(node):
    """The last name of what a call calls: "import_module" of importlib.import_module(...)."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def is_package(module):
    return (ROOT / module.replace(".", "/")).is_dir()


def is_module(module):
    return (ROOT / (module.replace(".", "/") + ".py")).is_file()


def room(module):
    """The room of "pysft.nn.gate" or "nn/gate.py": "nn"."""
    path = module.removeprefix("pysft").removeprefix(".").replace("/", ".").removesuffix(".py")
    return path.split(".")[0]


def allowed(here):
    """The rooms and roots that a room may import from."""
    if here in ROOTS:
        return ROOTS[here]
    if here == "lessons":
        return LESSONS | EVERYWHERE
    if here == "cli":
        return {*ROOMS[2:], *SIDE_BY_SIDE, *EVERYWHERE, "lessons"}
    if here in ROOMS:
        return {*ROOMS[ROOMS.index(here) + 1 :], *SIDE_BY_SIDE, *EVERYWHERE}
    return EVERYWHERE


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_rooms_to_its_right(name):
    here = room(name)
    assert here in {*ROOMS, *SIDE_BY_SIDE, *ROOTS, "lessons"}, (
        "a room that the design does not know"
    )
    for module in imports(name):
        if module.split(".")[0] == "pysft" and room(module) != here:
            assert room(module) in allowed(here), f"{name} imports {module}"


def test_no_module_imports_itself_through_others():
    graph = {
        "pysft." + name.removesuffix(".py").replace("/", "."): imports(name) for name in MODULES
    }
    list(TopologicalSorter(graph).static_order())  # a CycleError names the modules of a circle


def test_nn_text_and_world_do_not_know_each_other():
    for name in MODULES:
        for here, other in permutations(SIDE_BY_SIDE, 2):
            if room(name) == here:
                assert not [m for m in imports(name) if m.startswith(f"pysft.{other}")], name


def test_only_text_knows_that_a_token_may_be_a_character():
    """What is outside of text/ reads no alphabet. The lab has one experiment on characters."""
    for name in MODULES:
        if room(name) != "text":
            read = {node.attr for node in nodes(name) if isinstance(node, ast.Attribute)}
            read |= {a.name for n in nodes(name) if isinstance(n, ast.ImportFrom) for a in n.names}
            found = read & {"CharTokenizer", "characters", "specials", "grow_characters"}
            is_experiment = name == "lab/experiments/vocabulary.py"
            assert found == ({"grow_characters"} if is_experiment else set()), name


def test_kernels_and_reference_never_import_each_other():
    for name in ("nn/gate.py", "nn/kernels.py", "nn/calls.py"):
        assert "pysft.nn.reference" not in imports(name)
    assert not [module for module in imports("nn/reference.py") if module.startswith("pysft")]


def test_objectives_import_numpy_only():
    assert imports("training/objectives.py") == {"dataclasses", "numpy"}


def test_benchmarks_import_no_job_and_no_command_line():
    for path in (ROOT / "bench").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("pysft."):
                assert room(node.module) not in ("cli", "jobs", "lab"), (
                    f"{path.name}: {node.module}"
                )


@pytest.mark.parametrize("name", MODULES)
def test_only_the_gate_and_the_builder_touch_ffi(name):
    if name not in ("nn/gate.py", "nn/_build.py"):
        text = (PACKAGE / name).read_text()
        assert not re.search(
            r"\bc?ffi\b|_cffi_backend|\bctypes\.(CDLL|c_|cast)|_c_(base|avx)", text
        )


@pytest.mark.parametrize("name", MODULES)
def test_what_is_imported_beside_numpy_and_cffi_is_optional_and_named(name):
    for module in imports(name):
        top = module.split(".")[0]
        if name in OPTIONAL.get(top, ()):
            continue
        if module == "?":  # the module of an instruction set; an exercise, a function to quote
            by_name = ("nn/gate.py", "lessons/book.py")
            assert name in by_name, f"{name} imports a module by a computed name"
            continue
        assert top in sys.stdlib_module_names | {"pysft", "numpy", "cffi"}, f"imports {module}"


@pytest.mark.parametrize("package", OPTIONAL)
def test_an_optional_package_is_not_imported_when_its_module_is(package):
    for name in OPTIONAL[package]:
        for node in ast.parse((PACKAGE / name).read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert package not in ast.unparse(node)


def test_imports_by_name_in_a_string_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("test_layering.PACKAGE", tmp_path)
    (tmp_path / "a.py").write_text(
        "import importlib\nimportlib.import_module('scipy.linalg')\n__import__('torch')\n"
        "importlib.import_module(f'x{1}')\n"
    )
    assert imports("a.py") == {"importlib", "scipy.linalg", "torch", "?"}


def test_the_label_that_is_not_graded_is_the_same_everywhere():
    from pysft import IGNORE, batch
    from pysft.nn import reference

    assert IGNORE == reference.IGNORE == batch.IGNORE == -100
    assert re.search(r"IGNORE = -100\b", (ROOT / "csrc" / "cross_entropy.c").read_text())


# ------------------------------------------------------------------------------------------- in C


def code(name):
    """A C file without its comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", (ROOT / "csrc" / name).read_text(), flags=re.S)


@pytest.mark.parametrize("name", C_FILES)
def test_no_sum_runs_across_threads(name):
    text = code(name)
    assert not re.search(r"omp\s+(atomic|critical|ordered)|__atomic|__sync|stdatomic|_Atomic", text)
    # Across the lanes of one thread's vector it may.
    assert not re.search(r"#pragma omp (?!simd)[^\n]*reduction", text)


@pytest.mark.parametrize("name", C_FILES)
def test_every_parallel_region_says_how_many_threads_and_shares_statically(name):
    for pragma in re.findall(r"#pragma omp parallel[^\n]*", code(name)):
        assert "num_threads(threads)" in pragma and "schedule(static)" in pragma


FORBIDDEN_CALLS = (
    r"\b(malloc|calloc|realloc|free|alloca|aligned_alloc|posix_memalign|\w*printf|puts|putchar|"
    r"fopen|open|read|write|exit|_exit|abort|assert|getenv|system|omp_set_\w+|time|clock|rand)"
    r"\s*\("
)


@pytest.mark.parametrize("name", C_FILES)
def test_c_does_arithmetic_only(name):
    text = code(name)
    assert not re.search(FORBIDDEN_CALLS, text)
    # No state: each static or global name is const, or a function (its line has a parenthesis).
    static = r"^\s*(?:static|extern|_Thread_local|__thread)\b[^\n]*"
    for line in re.findall(static, text, flags=re.M):
        assert "const" in line or "(" in line, line


def test_every_c_file_begins_with_a_comment_that_describes_it():
    for name in C_FILES:
        assert (ROOT / "csrc" / name).read_text().startswith("/*"), name
