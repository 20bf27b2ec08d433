#!/usr/bin/env bash
# List the lines that no test runs (make coverage): of Python, run by the whole suite (coverage.py);
# of C, run by the tests of kernels, gate and decoder on every instruction set (gcov).
#
# It works in build/coverage, a copy of the project, so that the fast build of the C part stays. It
# fails if less than 95 % of the lines of Python are run, or if a line of C is not. PY is the Python
# of the environment; arguments are for pytest.
set -eu
cd "$(dirname "$0")/../.."
rm -rf build/coverage
mkdir -p build/coverage
cp -r csrc pysft tests bench setup.py pyproject.toml Makefile README.md LICENSE build/coverage
isas=$("$PY" -c 'from pysft.nn.gate import ISAS; print(*ISAS)')
cd build/coverage
export PYTHONPATH=$PWD

printf '[run]\nsource = pysft\nparallel = true\npatch = subprocess, _exit\n' > .coveragerc
# Tracing makes these tests exceed their time limits.
slow=(
    --deselect tests/test_audit.py::test_a_corpus_that_repeats_one_stretch_is_searched_in_time
    --deselect tests/test_cli_process.py::test_python_starts_with_the_package_in_under_0_3_seconds
)
"$PY" -m coverage run tests/suite.py "${slow[@]}" "$@"
"$PY" -m coverage combine -q
"$PY" -m coverage report --skip-covered --show-missing --fail-under=95

rm pysft/nn/*.so
PYSFT_COVERAGE=1 "$PY" setup.py -q build_ext --inplace
for isa in $isas; do
    PYSFT_ISA=$isa "$PY" -m pytest tests/test_kernels.py tests/test_gate.py tests/test_decode.py
done
"$PY" tests/heavy/lines.py build
