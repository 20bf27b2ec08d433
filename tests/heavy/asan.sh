#!/usr/bin/env bash
# Run the tests of the C part under AddressSanitizer and UndefinedBehaviorSanitizer, on every
# instruction set (make asan). It works in build/asan, a copy of the project, so that the fast build
# of the C part stays. PY is the Python of the environment.
set -eu
cd "$(dirname "$0")/../.."
library=$("${CC:-cc}" -print-file-name=libasan.so) # the bare name if there is none
if [ ! -f "$library" ]; then
    echo "pysft: ${CC:-cc} has no AddressSanitizer. Install it" \
        "(apt-get install libasan8 for gcc 12)" >&2
    exit 1
fi
rm -rf build/asan
mkdir -p build/asan
cp -r csrc pysft tests setup.py pyproject.toml README.md LICENSE build/asan
isas=$("$PY" -c 'from pysft.nn.gate import ISAS; print(*ISAS)')
cd build/asan
export PYTHONPATH=$PWD
rm -f pysft/nn/*.so
PYSFT_SANITIZE=1 "$PY" setup.py -q build_ext --inplace

sanitized() {
    LD_PRELOAD=$library ASAN_OPTIONS=detect_leaks=0 \
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 "$PY" "$@"
}

# The control: a kernel that is given too large a size must be caught.
if ! sanitized tests/guarded.py overrun 2>&1 | grep -q heap-buffer-overflow; then
    echo "pysft: the planted overrun was not caught" >&2
    exit 1
fi
echo "control: the planted overrun was caught"
for isa in $isas; do
    echo "PYSFT_ISA=$isa"
    PYSFT_ISA=$isa sanitized -m pytest \
        tests/test_kernels.py tests/test_gate.py tests/test_decode.py tests/test_model.py
done
