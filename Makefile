# All targets share one environment, .venv, made by `make install`. `make help` lists them.

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
WORKERS ?= 2

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# Two test processes on two cores: one thread each, or they fight.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-full soak lint format bench bench-federated clean

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## .venv with everything, once (about 3 minutes, mostly torch)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3"; exit 2; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## the main job on real data: export, simulate 20 devices, report in runs/demo
	$(BIN)/ravan demo

test: install  ## what must pass before a commit: at most 10 minutes on 2 cores
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not soak" --cov --cov-report=term

test-full: install  ## the slow tests, which `make test` leaves out
	$(BIN)/python -m pytest -m "slow and not soak"

soak: install  ## the tests that take many minutes
	$(BIN)/python -m pytest -m soak

lint: install  ## ruff, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## rewrite to the house format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: install  ## how fast and how large: step, export, simulation (about half an hour)
	for what in step export simulation; do $(BIN)/python -m bench.$$what || exit $$?; done

bench-federated: install  ## how good: all methods and plain torch, 3 seeds (hours; resumable)
	$(BIN)/python -m bench.federated

clean:  ## caches and builds; .venv and runs stay
	rm -rf build dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
