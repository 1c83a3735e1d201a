# `make` lists what there is.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
REAL ?= .venv-real
BIN := $(VENV)/bin
MINUTES ?= 60
OUT ?= toy-model
OLDEST ?= python3.10
NEWEST ?= python3.13
COMPILER := $(shell command -v $(CXX) 2>/dev/null)

.PHONY: help install lock demo check reference docs format test test-all test-real test-floors bench toy wheel clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Make the environment and install everything for development

$(REAL)/.installed: EXTRAS := [real]
%/.installed: pyproject.toml constraints.txt requirements-build.txt requirements-ci.txt
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --require-hashes --no-deps --requirement requirements-build.txt
	$*/bin/python -m pip install --quiet --require-hashes --no-deps --no-build-isolation --requirement requirements-ci.txt
	$*/bin/python -m pip install --quiet --constraint constraints.txt torch
	$*/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.$(EXTRAS)'
	touch $@

# What torch brings along for NVIDIA's cards; it comes with torch, at the versions that torch names.
OF_TORCH := torch cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton
COMPILE := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' --constraint constraints.txt

lock: ## Write the hashes of what `install` installs, at the versions of constraints.txt
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv==0.13.9
	printf '%s\n' $(filter-out torch,$(OF_TORCH)) > .venv-lock/excluded.txt
	$(COMPILE) --excludes .venv-lock/excluded.txt --no-emit-package torch --extra dev --output-file requirements-ci.txt \
		pyproject.toml
	echo llama-models | $(COMPILE) --no-deps --no-header - >> requirements-ci.txt
	$(COMPILE) --group build --output-file requirements-build.txt
	rm -rf .venv-lock

demo: install ## Complete a prompt on the bundled toy
	$(BIN)/llama-cli complete "ROMEO:" --max-tokens 200 --seed 1

# GCC only tells by -Wpsabi that its version 4 passed vectors in another way.
KERNELS := llama_cli/backends/native/kernels.cpp
STRICT := -std=c++17 -fopenmp -march=native -Wall -Wextra -Werror -Wno-psabi -fsyntax-only

check: install ## Format, lint, types, layers, warnings about the kernels, whether docs/reference is up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/reference.py --check
	$(if $(COMPILER),$(COMPILER) $(STRICT) $(KERNELS),@echo 'no C++ compiler $(CXX): the kernels are not checked')

reference: install ## Write docs/reference from the commands
	$(BIN)/python tools/reference.py

docs: $(VENV)/.docs ## Make the site of docs/ in site/
	$(BIN)/zensical build --clean --strict

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[docs]'
	touch $@

format: install ## Rewrite the sources as `check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: install ## Run the tests, about two and a half minutes on two cores
	$(BIN)/python -m pytest -q -n 2

test-all: install ## Run every case, the slow ones too; ends with the table of promises
	$(BIN)/python -m pytest -q -n 2 -m 'not real'

test-real: $(REAL)/.installed ## Build SmolLM2 and others, let other programs judge; in an environment of its own
	LLAMA_CLI_REAL=1 $(REAL)/bin/python -m pytest -q -n 2 -m '' --durations 10 tests/real

# uv takes the lowest version that pyproject.toml allows of what it names; what those bring along is at its newest.
# --seed gives the environment what Python's own venv would: on 3.10 setuptools too, which torch.compile imports there.
test-floors: ## Run the tests with the lowest versions allowed on OLDEST=python3.10, and on NEWEST=python3.13
	$(PYTHON) -m venv .venv-floors/uv
	.venv-floors/uv/bin/python -m pip install --quiet uv==0.13.9
	$(call tested_on,lowest,$(OLDEST),--resolution lowest-direct)
	$(call tested_on,newest,$(NEWEST),--constraint constraints.txt)

tested_on = .venv-floors/uv/bin/uv venv --quiet --clear --seed --python $(2) .venv-floors/$(1) \
	&& .venv-floors/uv/bin/uv pip install --quiet --python .venv-floors/$(1)/bin/python $(3) --editable '.[dev]' \
	&& .venv-floors/$(1)/bin/python -m pytest -q -n 2

bench: install ## Measure the toy (or MODEL=folder), then compare with the peers that are installed
	$(BIN)/llama-cli bench $(if $(MODEL),--model "$(MODEL)")
	$(BIN)/python benchmarks/compare.py

toy: $(if $(TEXT),install) ## Train a toy model: make toy TEXT=file.txt [OUT=folder] [MINUTES=60]
	@test -n "$(TEXT)" || { echo 'usage: make toy TEXT=file.txt [OUT=folder] [MINUTES=60]' >&2; exit 2; }
	$(BIN)/python -m llama_cli.toy.train "$(TEXT)" --out "$(OUT)" --minutes $(MINUTES)

wheel: install ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean: ## Remove what was built; the environment stays
	rm -rf dist build site .real .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
