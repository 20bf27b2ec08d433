"""The build: one list of prototypes for two precisions, one module for each instruction set, and
one sentence where something is missing, stale or cannot be built."""

import re
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, python

from pysft.nn import _build, ops


def test_both_precisions_declare_the_same_functions():
    single, double = (_build.prototypes(p) for p in ("f32", "f64"))
    names = re.findall(r"(\w+)_f32\(", single)
    assert names == re.findall(r"(\w+)_f64\(", double) and len(set(names)) == len(names) >= 15
    assert single.count(";") == double.count(";") == len(names)
    for text in (single, double):
        assert not re.search(r"\breal\b|\bFN\b|[#*]/|/\*|#", text)
    assert re.sub(r"\bfloat\b", "double", single.replace("_f32", "_f64")) == double


def test_every_prototype_has_a_gate_and_every_gate_a_prototype():
    names = set(re.findall(r"(\w+)_f32\(", _build.prototypes("f32")))
    assert names == {kernel.__name__ for kernel in ops.KERNELS} | {
        "attention_scratch",
        "decode_packed",
        "decode_weights",
        "decode_cache",
        "decode_work",
        "decode_pack",
        "decode_forward",
    }


def test_no_flag_gives_up_ieee_arithmetic():
    assert not {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffinite-math-only"} & set(
        _build.FLAGS
    )
    assert (
        "-ffp-contract=fast" in _build.FLAGS
        and "-fopenmp" in _build.FLAGS
        and "-std=c11" not in _build.FLAGS
    )


def test_every_c_file_is_valid_c_on_its_own_without_a_warning_in_both_precisions():
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]

    def check(job):
        path, precision = job
        return subprocess.run(
            [
                compiler,
                *_build.FLAGS,
                *_build.ISAS[ops.ISA],
                *_build.PRECISIONS[precision],
                "-Werror",
                "-fsyntax-only",
                str(path),
            ],
            capture_output=True,
            text=True,
        )

    jobs = [(path, p) for path in sorted((ROOT / "csrc").glob("*.c")) for p in _build.PRECISIONS]
    with ThreadPoolExecutor(2) as pool:
        for job, done in zip(jobs, pool.map(check, jobs)):
            assert done.returncode == 0, (job, done.stderr)


def test_every_instruction_set_of_this_processor_passes_the_kernel_gate_and_gradient_tests():
    """This process runs one of them; each other one gets a process of its own."""

    def suite(isa):
        # What does not depend on the instruction set is not done again.
        return isa, python(
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "tests/test_kernels.py",
            "tests/test_gate.py",
            "tests/test_gradcheck.py",
            "tests/test_decode.py",
            "-k",
            "not numpy and not planted and not sentence",
            timeout=200,
            PYSFT_ISA=isa,
        )

    others = [isa for isa in ops.ISAS if isa != ops.ISA]
    with ThreadPoolExecutor(2) as pool:
        for isa, done in pool.map(suite, others):
            assert done.returncode == 0, f"{isa}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}"


# ---------------------------------------------------------------------- stale, missing, impossible


@pytest.fixture
def checkout(tmp_path):
    """A copy of this checkout: what it takes to run and to build."""
    for folder in ("csrc", "pysft"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "data")
        )
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def sentence(done, *words):
    """The process failed with one line on standard error, without a traceback, that holds
    `words`."""
    assert done.returncode == 1 and done.stdout == "", done
    lines = done.stderr.splitlines()
    assert (
        len(lines) == 1 and lines[0].startswith("pysft: ") and all(w in lines[0] for w in words)
    ), done.stderr


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
    sentence(
        python("-m", "pysft", "info", cwd=checkout),
        "C part",
        "not built",
        "make build",
        "--ops reference",
    )


def test_a_missing_module_of_one_instruction_set_is_named(checkout):
    for path in (checkout / "pysft" / "nn").glob(f"_c_{ops.ISA}.*"):
        path.unlink()
    sentence(python("-m", "pysft", "info", cwd=checkout, PYSFT_ISA=ops.ISA), ops.ISA, "make build")


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
def test_a_build_that_cannot_be_says_what_to_install(checkout, compiler, words):
    (checkout / "no-openmp").write_text("#!/bin/sh\necho 'a page of complaints' >&2\nexit 1\n")
    (checkout / "no-openmp").chmod(0o755)
    done = python(
        "setup.py",
        "-q",
        "build_ext",
        "--inplace",
        cwd=checkout,
        CC=compiler.format(folder=checkout),
    )
    assert (
        done.returncode == 1
        and "Traceback" not in done.stderr
        and "a page of complaints" not in done.stderr
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("pysft: ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), done.stderr
