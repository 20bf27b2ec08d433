"""The build: one list of prototypes for two precisions, one module for each instruction set, and
one sentence if something is missing, stale or cannot be built."""

import re
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, python

from pysft.nn import _build, gate, kernels


def test_both_precisions_declare_the_same_functions():
    single, double = (_build.prototypes(p) for p in ("f32", "f64"))
    names = re.findall(r"(\w+)_f32\(", single)
    assert names == re.findall(r"(\w+)_f64\(", double) and len(set(names)) == len(names) >= 15
    assert single.count(";") == double.count(";") == len(names)
    for text in (single, double):
        assert not re.search(r"\breal\b|\bFN\b|[#*]/|/\*|#", text)
    assert re.sub(r"\bfloat\b", "double", single.replace("_f32", "_f64")) == double


def test_every_prototype_has_a_wrapper_and_every_wrapper_a_prototype():
    names = set(re.findall(r"(\w+)_f32\(", _build.prototypes("f32")))
    decoding = {f"decode_{n}" for n in "packed weights cache work pack keep forward".split()}
    wrapped = {kernel.__name__ for kernel in kernels.KERNELS}
    assert names == wrapped | decoding | {"sample", "attention_scratch", "matmul_scratch"}


def test_the_functions_with_products_are_declared_for_bf16_too():
    single, bf16 = (_build.prototypes(p) for p in ("f32", "bf16"))
    names = re.findall(r"(\w+)_bf16\(", bf16)
    decoding = [name for name in re.findall(r"(\w+)_f32\(", single) if name.startswith("decode_")]
    assert names == ["matmul_scratch", "matmul_forward", "matmul_backward", *decoding]
    for line in bf16.replace("_bf16", "_f32").split(";")[:-1]:  # the same arguments as in float32
        assert " ".join(line.split()) in " ".join(single.split())
    assert [isa for isa in _build.ISAS if "bf16" in _build.precisions(isa)] in ([], ["avx512"])


def test_no_flag_gives_up_ieee_arithmetic():
    flags = set(_build.FLAGS)
    assert (
        not {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffinite-math-only"} & flags
    )
    assert {"-ffp-contract=fast", "-fopenmp"} <= flags and "-std=c11" not in flags


def test_every_c_file_is_valid_c_on_its_own_without_a_warning_in_each_precision():
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]

    def check(job):
        path, precision = job
        flags = [*_build.FLAGS, *_build.ISAS[gate.ISA], *_build.PRECISIONS[precision]]
        command = [compiler, *flags, "-Werror", "-fsyntax-only", str(path)]
        return subprocess.run(command, capture_output=True, text=True)

    jobs = [(path, p) for p in _build.precisions(gate.ISA) for path in _build.sources(p)]
    with ThreadPoolExecutor(2) as pool:
        for job, done in zip(jobs, pool.map(check, jobs)):
            assert done.returncode == 0, (job, done.stderr)


def test_every_instruction_set_of_this_processor_passes_the_kernel_gate_and_gradient_tests():
    """This process runs on one instruction set. Each other one gets a process of its own."""
    files = [f"tests/test_{name}.py" for name in ("kernels", "gate", "gradcheck", "decode")]
    # Tests that do not depend on the instruction set are left out, and the slowest of those that
    # threads share, whose bits are tested in test_kernels.py too. Of a decoding that threads share,
    # one precision is tested here, and both by `make test-isa`.
    other = "numpy planted sentence whole_model any_arguments two_threads_share".split()
    other.append("(threads_share_large and f64)")
    chosen = ["-k", " and ".join(f"not {name}" for name in other)]

    def suite(isa):
        options = ["-q", "-x", "-p", "no:cacheprovider", *chosen]
        return isa, python("-m", "pytest", *options, *files, timeout=200, PYSFT_ISA=isa)

    others = [isa for isa in gate.ISAS if isa != gate.ISA]
    with ThreadPoolExecutor(2) as pool:
        for isa, done in pool.map(suite, others):
            assert done.returncode == 0, f"{isa}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}"


# ------------------------------------------------------------------ stale, missing, impossible


@pytest.fixture
def checkout(tmp_path):
    """A copy of this checkout, with all that is needed to run and to build."""
    for folder in ("csrc", "pysft"):  # with what is compiled, which takes most of the time
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("data"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def sentence(done, *words):
    """The process failed, and printed one line to standard error, which has all `words`."""
    assert done.returncode == 1 and done.stdout == "", done
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("pysft: "), done.stderr
    assert all(word in lines[0] for word in words), done.stderr


def test_a_copied_checkout_runs(checkout):
    done = python("-m", "pysft", "info", cwd=checkout)
    assert done.returncode == 0 and done.stderr == "", done.stderr


@pytest.mark.parametrize("file", ["csrc/gelu.c", "csrc/tile.h", "pysft/nn/_build.py"])
def test_a_changed_source_is_noticed(checkout, file):
    with open(checkout / file, "a") as f:
        f.write("/* changed */\n" if file.startswith("csrc") else "# changed\n")
    sentence(python("-m", "pysft", "info", cwd=checkout), "csrc/ have changed", "make build")


def test_a_new_source_is_noticed(checkout):
    (checkout / "csrc" / "decode.c").write_text("/* new */\n")
    sentence(python("-m", "pysft", "info", cwd=checkout), "csrc/ have changed", "make build")


def test_a_missing_c_part_is_one_sentence(checkout):
    for path in (checkout / "pysft" / "nn").glob("_c_*"):
        path.unlink()
    done = python("-m", "pysft", "info", cwd=checkout)
    sentence(done, "C part", "not built", "make build", "--ops reference")


def test_a_missing_module_of_one_instruction_set_is_named(checkout):
    for path in (checkout / "pysft" / "nn").glob(f"_c_{gate.ISA}.*"):
        path.unlink()
    done = python("-m", "pysft", "info", cwd=checkout, PYSFT_ISA=gate.ISA)
    sentence(done, gate.ISA, "make build")


def test_a_c_part_that_cannot_be_loaded_is_one_sentence(checkout):
    for path in (checkout / "pysft" / "nn").glob("_c_*"):
        path.write_bytes(b"built for another machine")
    sentence(python("-m", "pysft", "info", cwd=checkout), "make build")


@pytest.mark.parametrize(
    "compiler, words",
    [
        ("no-such-compiler", ["no C compiler", "no-such-compiler", "install"]),
        ("{folder}/no-openmp", ["OpenMP", "no-openmp", "install"]),
    ],
    ids=["no compiler", "no OpenMP"],
)
def test_an_impossible_build_says_what_to_install(checkout, compiler, words):
    (checkout / "no-openmp").write_text("#!/bin/sh\necho 'a page of complaints' >&2\nexit 1\n")
    (checkout / "no-openmp").chmod(0o755)
    named = compiler.format(folder=checkout)
    done = python("setup.py", "-q", "build_ext", "--inplace", cwd=checkout, CC=named)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "a page of complaints" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("pysft: ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), done.stderr
