# Everything runs in .venv, made here and made again when pyproject.toml or the constraints change.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
DEMO ?= demo -o demo

# pip is the installer the checks stand on. INSTALLER=uv is faster, but does not read pip's configuration, where a folder
# of CPU wheels is usually named: without UV_FIND_LINKS or the like it fetches the CUDA build of torch.
INSTALLER ?= pip
export PIP_CONSTRAINT := $(CURDIR)/constraints-ci.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONNOUSERSITE := 1
# glibc gives large blocks back to the system after each use and faults them in again; sampling on a CPU is nearly
# twice as fast when it keeps them.
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 1073741824
export OMP_NUM_THREADS ?= 1

ifeq ($(INSTALLER),uv)
install = uv pip install --quiet --python $(BIN)/python --constraint constraints-ci.txt
else
install = $(BIN)/python -m pip install --quiet --constraint constraints-ci.txt
endif

.PHONY: demo test lint slow gpu docs bench changelog clean

demo: .venv/installed
	$(BIN)/retrograde $(DEMO)

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not gpu"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m "slow and not gpu"

gpu: .venv/installed-dev
	$(BIN)/python -m pytest -m gpu

docs: .venv/installed-dev
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks

changelog: .venv/installed-dev
	$(BIN)/towncrier build --draft

clean:
	rm -rf .venv docs/_build docs/generated demo

.venv/made:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/made pyproject.toml constraints-ci.txt
	$(install) -e ".[plot]"
	touch $@

.venv/installed-dev: .venv/made pyproject.toml constraints-ci.txt
	$(install) -e '.[dev]'
	touch $@ .venv/installed
