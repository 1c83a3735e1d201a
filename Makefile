# `make` lists what there is.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
REAL ?= .venv-real
BIN := $(VENV)/bin
MINUTES ?= 60
OUT ?= toy-model

.PHONY: help install demo check format test test-all test-real bench toy wheel clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Make the environment and install everything for development

$(VENV)/.installed: EXTRAS := dev
$(REAL)/.installed: EXTRAS := dev,real
%/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --constraint constraints.txt torch
	$*/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	-$*/bin/python -m pip install --quiet --constraint constraints.txt --no-deps llama-models==0.3.0
	touch $@

demo: install ## Complete a prompt on the bundled toy
	$(BIN)/llama-cli complete "ROMEO:" --max-tokens 200 --seed 1

check: install ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: install ## Rewrite the sources as `check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: install ## Run the tests, about five minutes
	$(BIN)/python -m pytest -q -n 2

test-all: install ## Run the slow tests too; ends with the table of promises
	$(BIN)/python -m pytest -q -n 2 -m 'not real'

test-real: $(REAL)/.installed ## Build SmolLM2 and others, let other programs judge; in an environment of its own
	LLAMA_CLI_REAL=1 $(REAL)/bin/python -m pytest -q -n 2 -m '' --durations 10 tests/real

bench: install ## Measure the toy (or MODEL=folder), then compare with the peers that are installed
	$(BIN)/llama-cli bench $(if $(MODEL),--model "$(MODEL)")
	$(BIN)/python benchmarks/compare.py

toy: $(if $(TEXT),install) ## Train a toy model: make toy TEXT=file.txt [OUT=folder] [MINUTES=60]
	@test -n "$(TEXT)" || { echo 'usage: make toy TEXT=file.txt [OUT=folder] [MINUTES=60]' >&2; exit 2; }
	$(BIN)/python -m llama_cli.toy.train "$(TEXT)" --out "$(OUT)" --minutes $(MINUTES)

wheel: install ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove what was built; the environment stays
	rm -rf dist build .real .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
