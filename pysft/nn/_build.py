"""The cffi builders: one extension module for each instruction set.

The text of kernels.h is read once for each precision, so every prototype stands in one place.
setup.py executes this file alone, so it imports nothing from pysft."""

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sysconfig
from functools import lru_cache
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"

# -ffp-contract=fast makes a * b + c one fused multiply-add. -ffast-math is not used: merely loading
# a library that was linked with it flushes denormals in the whole process, and in its code isnan
# does not work. gnu11, because the sources use GNU C's vectors.
FLAGS = "-std=gnu11 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast".split()
FLAGS += "-fopenmp -fvisibility=hidden -fPIC -Wall -Wextra -Wno-psabi".split()
LINK = ["-fopenmp"]
SLOW = ["-O1", "-g", "-fno-omit-frame-pointer"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
if os.environ.get("PYSFT_DEBUG"):  # make debug
    FLAGS += SLOW
if os.environ.get("PYSFT_SANITIZE"):  # make asan
    FLAGS, LINK = [*FLAGS, *SLOW, *SANITIZE], [*LINK, *SANITIZE]
if os.environ.get("PYSFT_COVERAGE"):  # make coverage
    FLAGS, LINK = [*FLAGS, "-O1", "--coverage"], [*LINK, "--coverage"]

# The compiler's flags for each instruction set, from the least to the best, and for each precision.
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS = {
        "base": [],
        "avx2": ["-mavx2", "-mfma"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"],
    }
else:  # one module, for the machine that builds it
    ISAS = {"base": ["-mcpu=native"] if platform.machine() == "aarch64" else []}
PRECISIONS = {
    "f32": [],
    "f64": ["-DPYSFT_F64"],
    "bf16": ["-DPYSFT_BF16", "-mavx512bf16"],
}
# The module that also holds products in bf16, and the files of csrc/ that have products. The names
# of their functions begin with those of the files.
BF16_ISA = "avx512"
BF16_SOURCES = ("decode", "matmul")

# The gate calls these: each module describes itself, and _c_base describes the processor too.
ABOUT = """
const char *pysft_sources(void);
const char *pysft_compiler(void);
int pysft_openmp(void);
int pysft_cpu_has(const char *isa);
"""
ABOUT_C = """
#include <string.h>
static const char *pysft_sources(void) { return "%s"; }
#ifdef __clang__
static const char *pysft_compiler(void) { return __VERSION__; }
#else
static const char *pysft_compiler(void) { return "gcc " __VERSION__; }
#endif
static int pysft_openmp(void) { return _OPENMP; }
static int pysft_cpu_has(const char *isa) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (!strcmp(isa, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
    if (!strcmp(isa, "bf16")) return __builtin_cpu_supports("avx512bf16");
#endif
    return !strcmp(isa, "base");
}
"""


def source_hash() -> str:
    """Return the SHA-256 of the C sources and this file. A module keeps the one that it was built
    from, so the gate can tell whether it is stale."""
    digest = hashlib.sha256()
    for path in sorted(CSRC.glob("*.[ch]")) + [Path(__file__)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@lru_cache(None)
def _compiles_bf16() -> bool:
    """True if the compiler knows the instructions of bf16. gcc does from version 10 on."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    command = [*shlex.split(compiler), "-mavx512bf16", "-fsyntax-only", "-x", "c", os.devnull]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def precisions(isa: str) -> list[str]:
    """Return the precisions for which a module is built."""
    return [p for p in PRECISIONS if p != "bf16" or (isa == BF16_ISA and _compiles_bf16())]


def sources(precision: str) -> list[Path]:
    """Return the files of csrc/ that are compiled for a precision."""
    found = sorted(CSRC.glob("*.c"))
    return [p for p in found if precision != "bf16" or p.stem in BF16_SOURCES]


def prototypes(precision: str) -> str:
    """Return the prototypes of kernels.h for one precision ("f32", "f64" or "bf16"), in the form
    that cffi reads.

    Comments and preprocessor lines are removed. FN(name) becomes name_f32 and `real` becomes float,
    or name_f64 and double, or name_bf16 and float."""
    text = (CSRC / "kernels.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"^#.*$", "", text, flags=re.M)
    if precision == "bf16":
        products = rf"^.*FN\((?:{'|'.join(BF16_SOURCES)})_[^;]*;"
        text = "\n".join(re.findall(products, text, flags=re.M))
    text = re.sub(r"FN\((\w+)\)", rf"\1_{precision}", text)
    return re.sub(r"\breal\b", "double" if precision == "f64" else "float", text)


def builder(isa: str):
    """Return the cffi builder from which setuptools makes the module pysft.nn._c_<isa>."""
    from cffi import FFI

    ffi = FFI()
    declared = "\n".join(prototypes(p) for p in precisions(isa))
    ffi.cdef(declared + ABOUT)
    ffi.set_source(
        f"pysft.nn._c_{isa}",
        "#include <stdint.h>\n" + declared + ABOUT_C % source_hash(),
        extra_compile_args=FLAGS,
        extra_link_args=LINK,
        libraries=["m"],
        depends=[str(p.relative_to(CSRC.parent)) for p in sorted(CSRC.glob("*"))],
    )
    return ffi


def build_base():
    return builder("base")


def build_avx2():
    return builder("avx2")


def build_avx512():
    return builder("avx512")
