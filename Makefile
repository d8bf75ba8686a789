# Two commands do everything: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test suites slurm lint

quickstart: $(VENV)/installed
	$(BIN)/python run_suite.py quickstart

test: $(VENV)/installed
	$(BIN)/python -m pytest

# The suites of papers, in the embedded world, with few epochs.
suites: $(VENV)/installed
	$(BIN)/python -m pytest -m suites

# Launches on the cluster that SLURM_CONF describes; without one these tests are skipped.
slurm: $(VENV)/installed
	$(BIN)/python -m pytest -m slurm

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch and torchvision are installed by one command, so that their builds match.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
