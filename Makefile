# Needs Python 3.11 to 3.13, a C++ compiler and the package index; everything else is set up on first use and kept.
# The engine environment and the bundled model live under AUTELLIX_HOME (default: autellix in your cache folder).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Agent frameworks do not agree on an openai package, so their tests have two environments.
FRAMEWORKS := openai2 openai3
# Scripts that tests run as a user would are ours to keep tidy too.
SOURCES := autellix_sdk autellix_server kernels examples tests
# openai 3 is on httpx2, openai 2 on httpx alone: what the SDK does to the package is tested with both.
OPENAI2 := .venv-openai2

# What our gateway is compared with; each has an environment of its own.
ROUTERS := litellm sglang-router vllm-router
# LiteLLM would ask the internet for prices, and wants a word on starting without a key, which is on loopback here.
LITELLM := env LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY=true \
  LITELLM_LOG=ERROR OPENAI_API_KEY=none

.PHONY: help demo test check format lint types architecture unit clients slow sdk coverage kernels gpu test-frameworks
.PHONY: engine results api bench-gateway clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 25

demo: engine ## run agents on a fresh server and show where their time goes
	$(BIN)/autellix demo

test: lint types architecture clients engine kernels ## everything that must hold, the tests with the real engine included
	$(BIN)/python -m pytest

check: lint types architecture clients unit ## the same without the real engine: seconds, for every edit

format: $(STAMP) ## rewrite the sources in the house format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: $(STAMP) ## format and lint, without changing anything
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(STAMP) ## strict type check, by two checkers where users' own look
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	PYTHONPATH=$(CURDIR) $(BIN)/basedpyright --verifytypes autellix_sdk --ignoreexternal

architecture: $(STAMP) ## who may import whom
	$(BIN)/lint-imports

unit: $(STAMP) ## tests that need no engine
	$(BIN)/python -m pytest -m "not engine and not slow and not gpu"

clients: $(OPENAI2)/.installed ## tests of the SDK and the openai package, on openai 2; the others run on openai 3
	$(OPENAI2)/bin/python -m pytest $(addprefix tests/sdk/test_,clients.py intercept.py translate.py settings.py)

slow: engine ## tests that take too long for every change
	$(BIN)/python -m pytest -m slow

sdk: $(STAMP) ## the SDK's tests, slow ones too; elsewhere: make sdk PYTHON=python3.13 VENV=.venv3.13
	$(BIN)/python -m pytest -m "" tests/sdk tests/contracts

coverage: $(STAMP) ## branches of the SDK that its tests reach; fails unless they are all
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests/sdk tests/contracts
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

kernels: engine ## tests of the swap kernels, with the engine's torch and triton
	$(call kernel_tests,cpu)

gpu: $(STAMP) ## swap kernels and engine on a GPU, at 8B size (tests/gpu); SELECT="-k ..." runs a part
	$(BIN)/autellix engine install $(addprefix --device ,$(AUTELLIX_GPU_SUITE_DEVICE))
	$(call kernel_tests,$(or $(AUTELLIX_GPU_SUITE_DEVICE),cuda))
	$(BIN)/python -m pytest -m gpu -s -rs tests/gpu $(SELECT)

test-frameworks: $(FRAMEWORKS:%=.venv-frameworks-%/.installed) ## the SDK under real agent frameworks (docs/frameworks)
	@failed=; for name in $(FRAMEWORKS); do \
	  .venv-frameworks-$$name/bin/python -m pytest tests/frameworks/test_guard.py tests/frameworks/$$name || failed+=" $$name"; \
	done; \
	if [ "$$failed" ]; then echo "failed with$$failed" >&2; exit 1; fi

engine: $(STAMP) ## engine environment for the CPU and the bundled model
	$(BIN)/autellix engine install --device cpu

results: $(STAMP) ## docs/results.md from simulation: half an hour; TRACES="--trace NAME=FILE" adds yours
	$(BIN)/autellix study --output docs $(TRACES)

api: $(STAMP) ## docs/api.md from the docstrings of the SDK
	$(BIN)/python -m tests.sdk.api_reference

bench-gateway: $(STAMP) $(ROUTERS:%=.venv-routers-%/.installed) ## our gateway beside other gateways; OPTIONS="--json"
	$(BIN)/autellix gateway-bench $(OPTIONS) \
	  --server "litellm=$(LITELLM) .venv-routers-litellm/bin/litellm --model openai/fixed --api_base {engine}/v1 \
	    --host 127.0.0.1 --port {port}" \
	  --server "sglang-router=.venv-routers-sglang-router/bin/sglang-router launch --worker-urls {engine} \
	    --host 127.0.0.1 --port {port}" \
	  --server "vllm-router=.venv-routers-vllm-router/bin/vllm-router --worker-urls {engine} --host 127.0.0.1 --port {port}"

clean: ## remove environments and caches; `autellix engine remove` removes engines and model
	rm -rf $(VENV) $(OPENAI2) .venv-kernels-* $(FRAMEWORKS:%=.venv-frameworks-%) $(ROUTERS:%=.venv-routers-%) .coverage* \
	  .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Makes the environment $(1) unless its pip is there.
define environment
@if [ ! -x $(1)/bin/pip ]; then \
  for candidate in $(PYTHON) python3.13 python3.12 python3.11; do \
    if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
      echo "creating $(1) with $$candidate"; \
      "$$candidate" -m venv --clear $(1); \
      break; \
    fi; \
  done; \
fi
@if [ ! -x $(1)/bin/pip ]; then \
  echo "Autellix needs Python 3.11, 3.12 or 3.13 with venv; name one: make PYTHON=/path/to/python3.11" >&2; \
  exit 1; \
fi
endef

# Runs the tests of the swap kernels on the device $(1). Where the engine is may change from one time to the next.
define kernel_tests
@python=$$($(BIN)/python -c 'from autellix_server.engine import home; \
  print(home.Home.from_environment().engine_python("$(1)"))'); \
environment=.venv-kernels-$(1); \
if [ ! -x $$environment/bin/pip ]; then "$$python" -m venv --clear $$environment; fi; \
$$environment/bin/pip install -qq --disable-pip-version-check --no-deps -r constraints/kernels.txt; \
{ echo "$(CURDIR)/kernels"; "$$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; } \
  > "$$($$environment/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/engine.pth"; \
AUTELLIX_KERNELS_DEVICE=$(1) $$environment/bin/python -m pytest -rs tests/kernels/test_*.py
endef

# Rebuilt when the project file or a version changes; the environment itself is kept unless its pip is missing.
$(STAMP): pyproject.toml constraints/dev.txt
	$(call environment,$(VENV))
	@echo "installing Autellix and its development tools into $(VENV)"
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints/dev.txt -e ".[dev]"
	@touch $@

# The list is all there is: nothing that it does not name is installed, httpx2 least of all.
$(OPENAI2)/.installed: constraints/openai2.txt
	$(call environment,$(@D))
	@echo "installing openai 2 into $(@D)"
	@$(@D)/bin/pip install -qq --disable-pip-version-check --no-deps -r constraints/openai2.txt
	@$(@D)/bin/pip check --disable-pip-version-check
	@touch $@

# Likewise; LiteLLM's takes 0.7 GB, and none has torch.
.venv-routers-%/.installed: constraints/routers-%.txt
	$(call environment,$(@D))
	@echo "installing $* into $(@D)"
	@$(@D)/bin/pip install -qq --disable-pip-version-check --no-deps -r constraints/routers-$*.txt
	@$(@D)/bin/pip check --disable-pip-version-check
	@touch $@

# Likewise, and torch least of all.
.venv-frameworks-%/.installed: pyproject.toml constraints/frameworks-%.txt
	$(call environment,$(@D))
	@echo "installing Autellix and agent frameworks into $(@D)"
	@$(@D)/bin/pip install -qq --disable-pip-version-check --no-deps -r constraints/frameworks-$*.txt -e .
	@$(@D)/bin/pip check --disable-pip-version-check
	@touch $@
