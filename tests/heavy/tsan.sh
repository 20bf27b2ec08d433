#!/usr/bin/env bash
# Look for data races in the C part (make tsan): races.c runs every kernel under clang's
# ThreadSanitizer, in both precisions. Archer tells it what OpenMP's barriers mean; gcc has no such
# library and would report a race at every one of them. CLANG names another clang.
set -eu
cd "$(dirname "$0")/../.."
clang=${CLANG:-clang}
if ! command -v "$clang" > /dev/null; then
    echo "pysft: no $clang. Install it (apt-get install clang libomp-dev)" >&2
    exit 1
fi
mkdir -p build/tsan
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 exitcode=66"
export OMP_TOOL_LIBRARIES="$("$clang" -print-resource-dir)/../../libarcher.so"

# Build races.c with these definitions and run it, its output in build/tsan/log. The status is 66 if
# a race was found.
races() {
    "$clang" -std=gnu11 -O1 -g -march=native -fopenmp -fsanitize=thread -Wno-psabi -Icsrc "$@" \
        csrc/*.c tests/heavy/races.c -lm -o build/tsan/races || exit 1
    build/tsan/races > build/tsan/log 2>&1
}

for precision in "" -DPYSFT_F64; do
    # The control: a planted race must be found.
    status=0
    races $precision -DPLANT || status=$?
    if [ $status != 66 ]; then
        cat build/tsan/log
        echo "pysft: the planted race was not found" >&2
        exit 1
    fi
    echo "control: the planted race was found"
    if ! races $precision; then
        cat build/tsan/log
        exit 1
    fi
    tail -1 build/tsan/log
done
