# `make demo` and `make test` need only Python 3.11 or newer and make: they create .venv themselves.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?=
BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed
RUNNABLE = $(VENV)/runnable

# Nothing where $(PYTHON) is new enough, else what is wrong with it.
TOO_OLD = $(shell $(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.stdout.write(sys.version.split()[0])' \
    2>/dev/null || echo absent)

.PHONY: demo test test-all fast lint types tests docs wheel bench bench-checkers lowest clean

demo: $(RUNNABLE)
	$(BIN)/jaxnet train --data digits --eval-every 500 --out runs/demo --overwrite
	@echo 'pictures: runs/demo/loss.png, runs/demo/accuracy.png'
	@echo 'next: $(BIN)/jaxnet evaluate runs/demo, or $(BIN)/jaxnet --help'

test: lint types tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# One thread of BLAS in each of pytest's two processes: more would spin against each other.
PYTEST = OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest
# Most of the tests' time is XLA's, for programs that run once: compiled so, they take two thirds of it. A flag
# that this jaxlib does not have, as 0.12 has none for the emitters, would end every process.
FLAGS = --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false
KNOWN = $(foreach flag,$(FLAGS),$(shell XLA_FLAGS=$(flag) $(BIN)/python -c 'import jax; jax.devices()' 2>/dev/null && echo $(flag)))
QUICKLY = XLA_FLAGS="$(XLA_FLAGS) $(KNOWN)"

tests: $(INSTALLED)
	$(QUICKLY) $(PYTEST)

# All of the long tables, of which `make test` runs a part, compiled as for users: an hour on two cores.
test-all: $(INSTALLED)
	JAXNET_ALL=1 $(PYTEST)

# A verdict in a minute: what needs no long training, no other process and no large catalogue.
FAST = activations checkpoints datasets datasets_npz differentiation losses plots reference
fast: lint types
	$(QUICKLY) $(PYTEST) $(FAST:%=tests/test_%.py) tests/gradcheck/test_judge.py \
	    tests/gradcheck/test_testing.py

docs: $(INSTALLED)
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going docs docs/_build/html

# Build what is published, and run it as who installs it does: alone, with all extras, in an empty folder.
wheel: $(INSTALLED)
	rm -rf dist build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd build && empty/bin/jaxnet --version
	cd build && empty/bin/jaxnet train --data digits 2>&1 | grep "pip install 'jaxnet\["
	build/empty/bin/python -m pip install --quiet --disable-pip-version-check "$$(ls dist/*.whl)[all]"
	cd build && empty/bin/jaxnet train --data digits --steps 200

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks

bench-checkers: $(INSTALLED)
	$(BIN)/python -m benchmarks.checkers

# The whole suite with the oldest releases that pyproject.toml admits.
lowest:
	$(MAKE) tests VENV=.venv-lowest CONSTRAINTS=tests/lowest.txt

# Of the package, with extras, into an environment of its own.
define install
	$(if $(TOO_OLD),$(error jaxnet needs Python 3.11 or newer and $(PYTHON) is $(TOO_OLD): name another, as in make demo PYTHON=python3.12))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(1)]' $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
	touch $(RUNNABLE) $@
endef

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	$(call install,dev)

# What the tests need takes longer to install than a demonstration may.
$(RUNNABLE): pyproject.toml $(CONSTRAINTS)
	$(call install,all)

clean:
	rm -rf .venv .venv-lowest build dist docs/_build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
