"""Who may know whom, and what C may not do, read from the sources themselves."""

import ast
import re

import pytest
from conftest import ROOT

PACKAGE = ROOT / "pysft"
ROOMS = [
    "__main__",
    "cli",
    "recipe",
    "lab",
    "training",
    "inference",
    "run",
]  # then nn and text, side by side
EVERYWHERE = {"errors", "rng", "disk", ""}  # "" is `from pysft import IGNORE`
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
C_FILES = sorted(path.name for path in (ROOT / "csrc").iterdir())


def imports(name):
    """Every module that a file imports, wherever in it: "numpy", "pysft.nn.ops", ..."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import hides where it leads"
            found.add(node.module)
            if (
                PACKAGE.parent / node.module.replace(".", "/")
            ).is_dir():  # from pysft.nn import ops
                submodules = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {
                    s
                    for s in submodules
                    if (PACKAGE.parent / (s.replace(".", "/") + ".py")).is_file()
                }
    return found


def room(module):
    """ "pysft.nn.ops" or "nn/ops.py" -> "nn"."""
    return (
        module.removeprefix("pysft")
        .removeprefix(".")
        .replace("/", ".")
        .removesuffix(".py")
        .split(".")[0]
    )


def allowed(here):
    """The rooms to the right of this one."""
    if here in ROOMS:
        return set(ROOMS[ROOMS.index(here) + 1 :]) | {"nn", "text"}
    return set()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_rooms_to_its_right(name):
    here = room(name)
    roots = (
        {"errors"}
        if here in ("disk",)
        else set()
        if here in ("errors", "rng", "__init__")
        else EVERYWHERE
    )
    assert here in {
        *ROOMS,
        "nn",
        "text",
        "errors",
        "rng",
        "disk",
        "__init__",
    }, "a room that the design does not know"
    for module in imports(name):
        if module.split(".")[0] == "pysft" and room(module) != here:
            assert room(module) in allowed(here) | roots, f"{name} imports {module}"


def test_no_module_of_the_package_is_in_a_circle():
    graph = {
        "pysft." + name.removesuffix(".py").replace("/", "."): imports(name) for name in MODULES
    }

    def walk(module, path):
        assert module not in path, " -> ".join([*path, module])
        for other in graph.get(module, ()):
            walk(other, [*path, module])

    for module in graph:
        walk(module, [])


def test_nn_and_text_do_not_know_each_other():
    for name in MODULES:
        for here, other in (("nn", "text"), ("text", "nn")):
            if room(name) == here:
                assert not any(room(m) == other for m in imports(name) if m.startswith("pysft")), (
                    name
                )


def test_ops_and_reference_never_import_each_other():
    assert "pysft.nn.reference" not in imports("nn/ops.py")
    assert not any(module.startswith("pysft") for module in imports("nn/reference.py"))


def test_objectives_import_numpy_only():
    assert imports("training/objectives.py") == {"numpy"}


@pytest.mark.parametrize("name", MODULES)
def test_only_the_gate_and_the_builder_touch_ffi(name):
    if name not in ("nn/ops.py", "nn/_build.py"):
        text = (PACKAGE / name).read_text()
        assert not re.search(
            r"\bc?ffi\b|_cffi_backend|\bctypes\.(CDLL|c_|cast)|_c_(base|avx)", text
        )


def test_running_needs_nothing_but_numpy_and_cffi():
    import sys

    for name in MODULES:
        for module in imports(name):
            top = module.split(".")[0]
            assert top in sys.stdlib_module_names | {
                "pysft",
                "numpy",
                "cffi",
            }, f"{name} imports {module}"


def test_what_is_not_graded_is_one_number_everywhere():
    from pysft import IGNORE
    from pysft.nn import reference
    from pysft.training import loop

    assert IGNORE == reference.IGNORE == loop.IGNORE == -100
    assert re.search(r"IGNORE = -100\b", (ROOT / "csrc" / "cross_entropy.c").read_text())


# ------------------------------------------------------------------------------------------- in C


def code(name):
    """A C file without its comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", (ROOT / "csrc" / name).read_text(), flags=re.S)


@pytest.mark.parametrize("name", C_FILES)
def test_no_sum_runs_across_threads(name):
    text = code(name)
    assert not re.search(r"omp\s+(atomic|critical|ordered)|__atomic|__sync|stdatomic|_Atomic", text)
    assert not re.search(
        r"#pragma omp (?!simd)[^\n]*reduction", text
    )  # across lanes of one thread it may


@pytest.mark.parametrize("name", C_FILES)
def test_every_parallel_region_says_how_many_threads_and_shares_statically(name):
    for pragma in re.findall(r"#pragma omp parallel[^\n]*", code(name)):
        assert "num_threads(threads)" in pragma and "schedule(static)" in pragma


@pytest.mark.parametrize("name", C_FILES)
def test_c_does_arithmetic_only(name):
    text = code(name)
    calls = (
        r"\b(malloc|calloc|realloc|free|alloca|aligned_alloc|posix_memalign|\w*printf|puts|putchar|fopen|open|"
        r"read|write|exit|_exit|abort|assert|getenv|system|omp_set_\w+|time|clock|rand)\s*\("
    )
    assert not re.search(calls, text)
    # State: a static or global variable that is not const. Functions have a parenthesis on their
    # line.
    for line in re.findall(
        r"^\s*(?:static|extern|_Thread_local|__thread)\b[^\n]*", text, flags=re.M
    ):
        assert "const" in line or "(" in line, line


def test_every_c_file_says_at_its_top_what_it_does():
    for name in C_FILES:
        assert (ROOT / "csrc" / name).read_text().startswith("/*"), name
