# make train | test do everything from a fresh clone: a virtual environment in .venv, what it needs,
# the C part, then the job. They need Python 3.11 or newer with venv and headers, make, and a C
# compiler with OpenMP, and say so where one is missing.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
TORCH ?= torch==2.13.0
SOURCES := $(wildcard csrc/*) pysft/nn/_build.py setup.py pyproject.toml

.PHONY: help train figures lab test test-torch test-isa test-wheel torture faults fuzz coverage asan tsan build gradcheck bench debug clean check
.DEFAULT_GOAL := help

help:
	@echo "make train      train a base model and turn it into a chatbot (ARGS='--preset mini' for options)"
	@echo "make lab        every claim of the source text as an experiment, under an hour (ARGS='first-token --seeds 3')"
	@echo "make test       the tests"
	@echo "make test-torch the tests against PyTorch and the safetensors package (installs $(TORCH) and that into .venv)"
	@echo "make test-isa   the model's tests under every instruction set;  make test-wheel: one wheel, every Python"
	@echo "make torture    trainings killed and checkpoints damaged at random, hostile messages;  make asan, make tsan: the C part under sanitizers"
	@echo "make faults     faults planted one by one in the sources: does a test notice?  make coverage: which lines the tests run;  make fuzz"
	@echo "make gradcheck  every derivative against finite differences"
	@echo "make bench      how fast kernels and steps are, in short (under 5 minutes; with PyTorch, where installed)"
	@echo "make build      only the environment and the C part;  make debug: with -O1 -g"
	@echo "make clean      remove .venv and everything built"

train: build figures
	$(PY) -m pysft train $(ARGS)

# matplotlib, for the figures of the report; whoever has no way to get it has the tables.
figures: build
	@$(PY) -c 'import matplotlib' 2>/dev/null || $(PY) -m pip install -q --disable-pip-version-check 'matplotlib>=3.6' || \
	echo "pysft: matplotlib could not be installed; the report will have tables and no figures"

lab: build figures
	$(PY) -m pysft lab $(or $(ARGS),all)

test: build
	$(PY) tests/suite.py $(ARGS)

test-torch: build
	$(PY) -m pip install -q '$(TORCH)' safetensors
	$(PY) -m pytest tests/test_torch.py tests/test_safetensors.py tests/test_living.py $(ARGS)

# What depends on the instruction set at all, under each that this processor has; and one wheel, built once,
# under every Python from 3.11 on that is called python3.N here.
test-isa: build
	@for isa in $$($(PY) -c 'from pysft.nn import ops; print(*ops.ISAS)'); do echo "PYSFT_ISA=$$isa"; \
	PYSFT_ISA=$$isa $(PY) -m pytest tests/test_model.py tests/test_lora.py tests/test_decode.py tests/test_training.py tests/test_generate.py \
	tests/test_evaluate.py tests/test_run.py tests/test_cli.py $(ARGS) || exit 1; done

# What takes too long for every day: trainings killed, checkpoints damaged, a disk that refuses each call of a run or stops after
# it, hostile messages by the ten thousand.
torture: build
	$(PY) tests/torture.py 200
	$(PY) tests/mutate.py 100000
	PYSFT_EVERY=1 $(PY) -m pytest tests/test_resume.py
	PYSFT_HOSTILE=10000 $(PY) -m pytest tests/test_hostile.py

# Files of any content, arrays of any kind: twenty thousand examples of each (of run folders a thousand), the same each time.
fuzz: build
	PYSFT_FUZZ=20000 $(PY) -m pytest tests/test_fuzz.py
	PYSFT_FUZZ=20000 $(PY) -m pytest tests/test_data.py -k mutated_file

faults: build
	$(PY) tests/faults.py $(ARGS)

# Which lines the tests run, in a copy, so that the fast build stays: of Python (coverage) by the suite but one test, whose time
# limit tracing breaks; of C (gcov, a slow build) by the tests of kernels and gate alone, on every instruction set.
coverage: build
	@$(PY) -c 'import coverage' 2>/dev/null || $(PY) -m pip install -q --disable-pip-version-check 'coverage>=7.10'
	rm -rf build/coverage && mkdir -p build/coverage && cp -r csrc pysft tests bench setup.py pyproject.toml Makefile README.md LICENSE build/coverage
	@test ! -d ../shared || ln -sfn ../../shared build/shared
	cd build/coverage && printf '[run]\nsource = pysft\nparallel = true\npatch = subprocess, _exit\n' > .coveragerc && \
	PYTHONPATH=$$PWD ../../$(PY) -m coverage run tests/suite.py --deselect tests/test_data.py::test_a_corpus_full_of_one_stretch_is_searched_in_time $(ARGS)
	cd build/coverage && ../../$(PY) -m coverage combine -q && ../../$(PY) -m coverage report --skip-covered --show-missing --fail-under=95
	cd build/coverage && rm pysft/nn/*.so && PYSFT_COVERAGE=1 ../../$(PY) setup.py -q build_ext --inplace
	isas=$$($(PY) -c 'from pysft.nn import ops; print(*ops.ISAS)') && cd build/coverage && for isa in $$isas; do \
	PYSFT_ISA=$$isa PYTHONPATH=$$PWD ../../$(PY) -m pytest tests/test_kernels.py tests/test_gate.py tests/test_decode.py || exit 1; done
	cd build/coverage && ../../$(PY) tests/lines.py build

# The C part under AddressSanitizer and UndefinedBehaviorSanitizer, in a copy, so that the fast build stays. First the
# control: a kernel that is told of one element too many must be caught.
ASAN = LD_PRELOAD="$$($(CC) -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
asan: build
	@test -f "$$($(CC) -print-file-name=libasan.so)" || { echo "pysft: $(CC) has no AddressSanitizer; install it (apt-get install libasan8 for gcc 12)" >&2; exit 1; }
	rm -rf build/asan && mkdir -p build/asan && cp -r csrc pysft tests setup.py pyproject.toml README.md LICENSE build/asan && rm -f build/asan/pysft/nn/*.so
	cd build/asan && PYSFT_SANITIZE=1 ../../$(PY) setup.py -q build_ext --inplace
	cd build/asan && $(ASAN) PYTHONPATH=. ../../$(PY) tests/guarded.py overrun 2>&1 | grep -q heap-buffer-overflow && echo "control: the planted overrun was caught"
	isas=$$($(PY) -c 'from pysft.nn import ops; print(*ops.ISAS)') && cd build/asan && for isa in $$isas; do echo "PYSFT_ISA=$$isa"; \
	PYSFT_ISA=$$isa $(ASAN) ../../$(PY) -m pytest tests/test_kernels.py tests/test_gate.py tests/test_decode.py tests/test_model.py || exit 1; done

# Data races, on a small driver in C: clang's ThreadSanitizer, told by Archer what OpenMP's barriers mean (gcc's is not, and
# would report every one of them). First the control: a planted race must be found.
CLANG ?= clang
tsan:
	@command -v $(CLANG) >/dev/null || { echo "pysft: no $(CLANG); install it (apt-get install clang libomp-dev)" >&2; exit 1; }
	@mkdir -p build/tsan; for precision in "" -DPYSFT_F64; do for plant in -DPLANT ""; do \
	$(CLANG) -std=gnu11 -O1 -g -march=native -fopenmp -fsanitize=thread -Wno-psabi -Icsrc $$precision $$plant csrc/*.c tests/races.c -lm -o build/tsan/races || exit 1; \
	TSAN_OPTIONS="ignore_noninstrumented_modules=1 exitcode=66" OMP_TOOL_LIBRARIES="$$($(CLANG) -print-resource-dir)/../../libarcher.so" \
	build/tsan/races > build/tsan/log 2>&1; code=$$?; \
	if [ -n "$$plant" ]; then [ $$code = 66 ] && echo "control: the planted race was found" || { cat build/tsan/log; echo "pysft: the planted race was not found" >&2; exit 1; }; \
	else [ $$code = 0 ] && tail -1 build/tsan/log || { cat build/tsan/log; exit 1; }; fi; done; done

PYTHONS ?= $(foreach n,11 12 13 14 15,$(shell for p in python3.$(n) $$HOME/.pyenv/versions/3.$(n).*/bin/python; do command -v $$p >/dev/null 2>&1 && $$p -c 'import venv, ensurepip' 2>/dev/null && echo $$p && break; done))
test-wheel: build
	rm -rf build/wheel && $(PY) -m pip wheel -q --no-build-isolation --no-deps -w build/wheel .
	@ls build/wheel
	@for p in $(PYTHONS); do rm -rf build/try && $$p -m venv build/try && \
	build/try/bin/python -m pip install -q --disable-pip-version-check build/wheel/*.whl && (cd build/try && bin/python --version && \
	bin/python -m pysft gradcheck | tail -1 && bin/python -m pysft info | head -3) || exit 1; done; rm -rf build/try

gradcheck: build
	$(PY) -m pysft gradcheck $(ARGS)

# The short forms; PyTorch is compared with where it is installed (make test-torch installs it). The full ones
# are in bench/RESULTS.md.
bench: build
	$(PY) bench/bench_ops.py --short $(ARGS)
	$(PY) bench/bench_scale.py --short $(ARGS)
	$(PY) bench/bench_step.py --short $(ARGS)
	$(PY) bench/bench_decode.py --short
	$(PY) bench/bench_data.py --short --rounds 1

build: $(VENV)/built

debug: $(VENV)/ready
	rm -f $(VENV)/built
	PYSFT_DEBUG=1 $(PY) -m pip install -q --no-build-isolation --no-deps -e .
	@echo "built with -O1 -g; the next make build, train, test or bench builds the fast kernels again"

clean:
	rm -rf $(VENV) build dist *.egg-info pysft/nn/*.so pysft/nn/_c_*.c .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/built: $(SOURCES) $(VENV)/ready
	$(PY) -m pip install -q --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/ready: pyproject.toml | check
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check 'setuptools>=77' 'cffi>=1.16' 'numpy>=1.26' 'pytest>=8' 'hypothesis>=6.90'
	@touch $@

# One sentence for each thing that can be missing.
check:
	@command -v $(PYTHON) >/dev/null || { echo "pysft: no $(PYTHON); install Python 3.11 or newer (apt-get install python3 python3-venv python3-dev), or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "pysft: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "pysft: $(PYTHON) has no venv; install it (apt-get install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "pysft: $(PYTHON) has no C headers; install them (apt-get install python3-dev)" >&2; exit 1; }
	@command -v $(CC) >/dev/null || { echo "pysft: no C compiler ($(CC)); install one (apt-get install gcc libc6-dev), or name one: make CC=gcc-12" >&2; exit 1; }
	@d=$$(mktemp -d); printf '#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n' > $$d/a.c; \
	$(CC) -fopenmp $$d/a.c -o $$d/a 2>/dev/null; s=$$?; rm -rf $$d; \
	[ $$s = 0 ] || { echo "pysft: $(CC) cannot build with OpenMP; install gcc with libgomp (apt-get install gcc libc6-dev), or name such a compiler: make CC=gcc" >&2; exit 1; }
