# Two commands do everything: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-fast contract suites prints slurm attacks bench lint

quickstart: $(VENV)/installed
	$(BIN)/python run_suite.py quickstart

# Two processes of one thread each; the tests of a file stay together and share what they have made. Eleven minutes.
TWO := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --variants one
test: $(VENV)/installed
	$(TWO)

# What trains, decodes in processes or runs whole suites is left out: a minute and a half.
test-fast: $(VENV)/installed
	$(TWO) -m 'not (slow or suites)'

# What every method keeps, under all variants; the other tests take one of each method.
contract: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/contract

# The suites of papers, in the embedded world, with few epochs.
suites: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m suites -n 2

# The figures of every shipped suite, drawn as planned: no text is cut, touches another or covers a mark. Ten minutes.
prints: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m prints -n 2 tests/reports/test_print.py

# Launches on the cluster that SLURM_CONF describes; without one these tests are skipped.
slurm: $(VENV)/installed
	$(BIN)/python -m pytest -m slurm

# What a cluster may do to a launch, one attack after the other: twenty minutes (docs/attacks.md).
attacks: $(VENV)/installed
	$(BIN)/python -m pytest -m 'attacks or slurm' -s tests/integration/test_slurm_attacks.py

# All benchmarks, saved below .benchmarks and compared with the last run on this machine; a quarter of an hour.
bench: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/benchmarks --benchmark-only --benchmark-autosave; \
	status=$$?; $(BIN)/python -m tests.benchmarks.compare; exit $$status

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# torch and torchvision are installed by one command, so that their builds match.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
