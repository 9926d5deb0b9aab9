# Needs Python 3.11 to 3.13, a C compiler and the package index; everything else is set up on first use and kept.
# The engine environment and the bundled model live under AUTELLIX_HOME (default: autellix in your cache folder).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Scripts that tests run as a user would are ours to keep tidy too.
SOURCES := autellix_sdk autellix_server examples tests

.PHONY: help demo test check format lint types architecture unit slow sdk coverage gpu engine results clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 22

demo: engine ## run agents on a fresh server and show where their time goes
	$(BIN)/autellix demo

test: lint types architecture engine ## everything that must hold, the tests with the real engine included
	$(BIN)/python -m pytest

check: lint types architecture unit ## the same without the real engine: seconds, for every edit

format: $(STAMP) ## rewrite the sources in the house format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: $(STAMP) ## format and lint, without changing anything
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(STAMP) ## strict type check
	$(BIN)/mypy

architecture: $(STAMP) ## who may import whom
	$(BIN)/lint-imports

unit: $(STAMP) ## tests that need no engine
	$(BIN)/python -m pytest -m "not engine and not slow and not gpu"

slow: engine ## tests that take too long for every change
	$(BIN)/python -m pytest -m slow

sdk: $(STAMP) ## the SDK's tests, slow ones too; elsewhere: make sdk PYTHON=python3.13 VENV=.venv3.13
	$(BIN)/python -m pytest -m "" tests/sdk tests/contracts

coverage: $(STAMP) ## branches of the SDK that its tests reach; fails unless they are all
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests/sdk tests/contracts
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

gpu: $(STAMP) ## what the engine promises, on a GPU at 8B size (tests/gpu); SELECT="-k ..." runs a part
	$(BIN)/autellix engine install $(addprefix --device ,$(AUTELLIX_GPU_SUITE_DEVICE))
	$(BIN)/python -m pytest -m gpu -s -rs tests/gpu $(SELECT)

engine: $(STAMP) ## engine environment for the CPU and the bundled model
	$(BIN)/autellix engine install --device cpu

results: $(STAMP) ## docs/results.md from simulation: half an hour; TRACES="--trace NAME=FILE" adds yours
	$(BIN)/autellix study --output docs $(TRACES)

clean: ## remove .venv and caches; `autellix engine remove` removes engines and model
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Rebuilt when the project file or a version changes; the environment itself is kept unless its pip is missing.
$(STAMP): pyproject.toml constraints/dev.txt
	@if [ ! -x $(BIN)/pip ]; then \
	  for candidate in $(PYTHON) python3.13 python3.12 python3.11; do \
	    if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	      echo "creating $(VENV) with $$candidate"; \
	      "$$candidate" -m venv --clear $(VENV); \
	      break; \
	    fi; \
	  done; \
	fi
	@if [ ! -x $(BIN)/pip ]; then \
	  echo "Autellix needs Python 3.11, 3.12 or 3.13 with venv; name one: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi
	@echo "installing Autellix and its development tools into $(VENV)"
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints/dev.txt -e ".[dev]"
	@touch $@
