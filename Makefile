# `make train` and `make test` work from a fresh clone. They make a virtual environment in .venv,
# install what they need, and build the C part. They need Python 3.11 or newer with venv and
# headers, make, and a C compiler with OpenMP. `make check` says what is missing and how to get it.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -q --disable-pip-version-check
TORCH ?= torch==2.13.0
RUFF ?= ruff==0.17.6
SOURCES := $(wildcard csrc/*) pysft/nn/_build.py setup.py pyproject.toml
LINTED := pysft tests bench setup.py
HEAVY := PY='$(CURDIR)/$(PY)' bash tests/heavy

.PHONY: help train figures lab test test-torch lint gradcheck bench build debug clean check
.PHONY: test-isa test-wheel torture fuzz faults learners coverage asan tsan
.DEFAULT_GOAL := help

help:
	@echo "make train       train a base model and fine-tune it into a chatbot (ARGS='--preset mini')"
	@echo "make lab         measure every claim of the source text, in some three and a half hours"
	@echo "                 (ARGS='first-token --seeds 3' measures one)"
	@echo "make test        run the tests (ARGS='-k name' chooses some)"
	@echo "make test-torch  compare with PyTorch and the safetensors package; installs them in .venv"
	@echo "make lint        check the format of Python and C, and Python for mistakes (ruff)"
	@echo "make gradcheck   check every derivative against finite differences"
	@echo "make bench       measure the speed of kernels and training steps, in under 5 minutes"
	@echo "make build       make the environment and build the C part"
	@echo "make debug       build the C part with -O1 -g"
	@echo "make clean       remove .venv and everything that was built"
	@echo
	@echo "Longer checks, to run before a release:"
	@echo "make test-isa    run the model's tests on each instruction set that this processor has"
	@echo "make test-wheel  build one wheel and try it with every Python from 3.11 on"
	@echo "make torture     kill trainings, damage checkpoints, fail disk calls, send hostile messages"
	@echo "make fuzz        read files and arrays with random content, 20,000 of each kind"
	@echo "make faults      plant faults in the sources one by one, count those that a test notices"
	@echo "                 (ARGS='--random 60 --seed 1' draws them at random)"
	@echo "make learners    check exercises of learners, and mutants of them: which mistakes are named?"
	@echo "make coverage    list the lines of Python and C that no test runs"
	@echo "make asan        run the C part under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make tsan        run the C part under ThreadSanitizer (needs clang)"

train: build figures
	$(PY) -m pysft train $(ARGS)

# matplotlib draws the figures of the report. Without it the report has tables alone.
figures: build
	@$(PY) -c 'import matplotlib' 2>/dev/null || $(PIP) 'matplotlib>=3.6' || \
	echo "pysft: matplotlib could not be installed. The report will have tables and no figures."

lab: build figures
	$(PY) -m pysft lab $(or $(ARGS),all)

gradcheck: build
	$(PY) -m pysft gradcheck $(ARGS)

# The short form of each benchmark; bench/RESULTS.md has the full ones. PyTorch is compared with if
# it is installed (make test-torch installs it).
bench: build
	$(PY) bench/bench_ops.py --short $(ARGS)
	$(PY) bench/bench_scale.py --short $(ARGS)
	$(PY) bench/bench_step.py --short $(ARGS)
	$(PY) bench/bench_decode.py --short
	$(PY) bench/bench_data.py --short --rounds 1

# ------------------------------------------------------------------------------ everyday checks

test: build
	$(PY) tests/suite.py $(ARGS)

test-torch: build
	$(PIP) '$(TORCH)' safetensors
	$(PY) -m pytest tests/test_torch.py tests/test_value_head.py tests/test_preferences.py \
	    tests/test_ppo_optimum.py tests/test_safetensors.py tests/test_living.py $(ARGS)

lint: $(VENV)/ready
	@$(PIP) '$(RUFF)'
	$(PY) -m ruff format --check $(LINTED)
	$(PY) -m ruff check $(LINTED)
	@awk 'length > 100 { print FILENAME ":" FNR ": more than 100 columns"; bad = 1 } \
	END { exit bad }' csrc/* bench/*.c tests/heavy/*.c

# -------------------------------------------------------------------------------- longer checks

# The tests that depend on the instruction set. Kernels, gate and gradients run on each of them in
# `make test`.
ISA_TESTS := tests/test_model.py tests/test_lora.py tests/test_decode.py tests/test_training.py
ISA_TESTS += tests/test_generate.py tests/test_evaluate.py tests/test_runner.py tests/test_run.py
ISA_TESTS += tests/test_cli.py tests/test_cli_train.py tests/test_cli_data.py tests/test_cli_mask.py
ISA_TESTS += tests/test_cli_chat.py tests/test_cli_resume.py
test-isa: build
	@for isa in $$($(PY) -c 'from pysft.nn.gate import ISAS; print(*ISAS)'); do \
		echo "PYSFT_ISA=$$isa"; \
		PYSFT_ISA=$$isa $(PY) -m pytest $(ISA_TESTS) $(ARGS) || exit 1; \
	done

test-wheel: build
	$(HEAVY)/wheel.sh

# PYSFT_EVERY=1: refuse each disk call of a run in turn, and stop the disk after each; check the
# derivatives of all models in NumPy too; look through all transcripts that a recipe trains on;
# put each wrong value at each place of a run's files; look at all pairs of mistakes of a lesson.
torture: build
	$(PY) tests/heavy/torture.py 200
	$(PY) tests/heavy/mutate.py 100000
	PYSFT_EVERY=1 $(PY) -m pytest tests/test_resume.py tests/test_gradcheck.py \
	    tests/test_tooltest.py tests/test_report.py tests/test_lessons.py
	PYSFT_HOSTILE=10000 $(PY) -m pytest tests/test_hostile.py
	PYSFT_PROVOKE=1 $(PY) -m pytest tests/test_diagnose.py

# The same 20,000 examples of each kind every time; 1,000 of run folders.
MUTATED := tests/test_formats.py::test_a_mutated_file_gives_data_or_one_line_errors_and_nothing_else
fuzz: build
	PYSFT_FUZZ=20000 $(PY) -m pytest tests/test_fuzz.py
	PYSFT_FUZZ=20000 $(PY) -m pytest $(MUTATED)

faults: build
	@$(PY) -c 'import coverage' 2>/dev/null || $(PIP) 'coverage>=7.10'
	$(PY) tests/heavy/faults.py $(ARGS)

learners: build
	$(PY) tests/heavy/learners.py
	$(PY) tests/heavy/learner_mutants.py 50

coverage: build
	@$(PY) -c 'import coverage' 2>/dev/null || $(PIP) 'coverage>=7.10'
	$(HEAVY)/coverage.sh $(ARGS)

asan: build
	$(HEAVY)/asan.sh

tsan:
	$(HEAVY)/tsan.sh

# ---------------------------------------------------------------------------------- the build

build: $(VENV)/built

debug: $(VENV)/ready
	rm -f $(VENV)/built
	PYSFT_DEBUG=1 $(PIP) --no-build-isolation --no-deps -e .
	@echo "built with -O1 -g; the next make build, train, test or bench builds the fast kernels again"

clean:
	rm -rf $(VENV) build dist *.egg-info pysft/nn/*.so pysft/nn/_c_*.c
	rm -rf .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/built: $(SOURCES) $(VENV)/ready
	$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/ready: pyproject.toml | check
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'setuptools>=77' 'cffi>=1.16' 'numpy>=1.26' 'pytest>=8' 'hypothesis>=6.90'
	@touch $@

# What each line of `check` runs in the Python that makes the environment.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
HAS_VENV := import venv, ensurepip
HAS_HEADERS := import os, sys, sysconfig; \
	sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
OPENMP_PROGRAM := \#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n

# One sentence for each thing that can be missing.
check:
	@command -v $(PYTHON) >/dev/null || { echo "pysft: no $(PYTHON). Install Python 3.11 or newer" \
	"(apt-get install python3 python3-venv python3-dev), or name one: make PYTHON=python3.12" >&2; \
	exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "pysft: $(PYTHON) is older than 3.11." \
	"Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c '$(HAS_VENV)' 2>/dev/null || { echo "pysft: $(PYTHON) has no venv." \
	"Install it (apt-get install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c '$(HAS_HEADERS)' || { echo "pysft: $(PYTHON) has no C headers." \
	"Install them (apt-get install python3-dev)" >&2; exit 1; }
	@command -v $(CC) >/dev/null || { echo "pysft: no C compiler ($(CC)). Install one" \
	"(apt-get install gcc libc6-dev), or name one: make CC=gcc-12" >&2; exit 1; }
	@folder=$$(mktemp -d); printf '$(OPENMP_PROGRAM)' > $$folder/a.c; \
	$(CC) -fopenmp $$folder/a.c -o $$folder/a 2>/dev/null; status=$$?; rm -rf $$folder; \
	[ $$status = 0 ] || { echo "pysft: $(CC) cannot build with OpenMP. Install gcc with libgomp" \
	"(apt-get install gcc libc6-dev), or name such a compiler: make CC=gcc" >&2; exit 1; }
