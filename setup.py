"""Builds the C part: one extension module for each instruction set. Every file of csrc/ is in it
twice, compiled for float32 and for float64, and those with products may be in it for bf16 too. The
flags are in pysft/nn/_build.py, everything else in pyproject.toml."""

import os
import subprocess
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
scope = {"__file__": str(ROOT / "pysft/nn/_build.py")}
exec((ROOT / "pysft/nn/_build.py").read_text(), scope)  # the package cannot be imported yet
CSRC, FLAGS, ISAS, PRECISIONS = (scope[k] for k in ("CSRC", "FLAGS", "ISAS", "PRECISIONS"))
precisions, sources = scope["precisions"], scope["sources"]


def isa_of(ext) -> str:
    """The instruction set of an extension module."""
    return ext.name.rpartition("_c_")[2]


class BuildKernels(build_ext):
    """build_ext that first compiles csrc/, once for each precision of each module."""

    def build_extensions(self):
        self._require_openmp()
        # First all objects, which do not depend on each other, then the modules.
        jobs = [
            (ext, precision, source)
            for ext in self.extensions
            for precision in precisions(isa_of(ext))
            for source in sources(precision)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: self._compile(*job), jobs))
        for (ext, _, _), names in zip(jobs, objects):
            ext.extra_objects += names
        super().build_extensions()

    def _compile(self, ext, precision, source):
        """The objects of one source. Those that are newer than all they depend on are kept."""
        isa = isa_of(ext)
        flags = FLAGS + ISAS[isa] + PRECISIONS[precision]
        source = source.relative_to(ROOT)
        # Objects of other flags (make debug) have a folder of their own.
        flags_hash = f"{zlib.crc32(' '.join(flags).encode()):08x}"
        folder = Path(self.build_temp) / isa / precision / flags_hash
        made = folder / source.with_suffix(".o")
        inputs = [source, *CSRC.glob("*.h"), ROOT / "setup.py", ROOT / "pysft/nn/_build.py"]
        newest = max(p.stat().st_mtime for p in inputs)
        if not self.force and made.is_file() and made.stat().st_mtime > newest:
            return [str(made)]
        return self.compiler.compile(
            [str(source)],
            output_dir=str(folder),
            include_dirs=[str(CSRC)],
            depends=ext.depends,
            extra_preargs=flags,
        )

    def _require_openmp(self):
        """End with one sentence if there is no C compiler, or it cannot build with OpenMP."""
        source = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
        compiler = self.compiler.compiler
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder) / "probe.c"
            probe.write_text(source)
            try:
                done = subprocess.run(
                    [*compiler, "-fopenmp", str(probe), "-o", f"{folder}/probe"],
                    capture_output=True,
                )
            except OSError:
                raise SystemExit(
                    f"pysft: no C compiler ({compiler[0]!r} cannot be run); install one, for"
                    " example with 'apt-get install gcc libc6-dev' or 'dnf install gcc', and try"
                    " again"
                ) from None
            if done.returncode:
                raise SystemExit(
                    f"pysft: {compiler[0]!r} cannot build with OpenMP (-fopenmp); install gcc and"
                    " its libgomp, for example with 'apt-get install gcc libc6-dev', or name such"
                    " a compiler in CC, and try again"
                )


setup(
    cffi_modules=[f"pysft/nn/_build.py:build_{isa}" for isa in ISAS],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
