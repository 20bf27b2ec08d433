#!/usr/bin/env bash
# Build one wheel and try it with every Python from 3.11 on that is found here (make test-wheel).
# PYTHONS='python3.12 python3.13' names them instead. PY is the Python of the environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -z "${PYTHONS:-}" ]; then
    PYTHONS=
    for n in 11 12 13 14 15; do
        for python in "python3.$n" "$HOME"/.pyenv/versions/3."$n".*/bin/python; do
            if "$python" -c 'import venv, ensurepip' 2> /dev/null; then
                PYTHONS="$PYTHONS $python"
                break
            fi
        done
    done
fi
rm -rf build/wheel
"$PY" -m pip wheel -q --no-build-isolation --no-deps -w build/wheel .
ls build/wheel
for python in $PYTHONS; do
    rm -rf build/try
    "$python" -m venv build/try
    build/try/bin/python -m pip install -q --disable-pip-version-check build/wheel/*.whl
    (
        cd build/try # not the checkout, whose own package would be imported
        bin/python --version
        bin/python -m pysft gradcheck | tail -1
        bin/python -m pysft info | sed -n 1,3p
    )
done
rm -rf build/try
