# Everything that developers and CI do. Needs make, Python 3.10 or newer and a package index; `backends` needs Go too.

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help venv demo test backends collector check lint types imports api bench wheel-test lock clean

help: ## List the targets
	@echo "Targets (PYTHON=$(PYTHON)):"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.stamp-check ## Create .venv with zupa (editable) and all tools

# The wheel's build backend comes first, pinned like the rest: pip would otherwise fetch one of its own for the build.
$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	    found=$$($(PYTHON) --version 2>&1) || found="not there"; \
	    echo "zupa needs Python 3.10 or newer, but $(PYTHON) is $$found."; \
	    echo "Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; } >&2
	@echo "venv: installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "$(PYTHON) cannot create virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PIP_INSTALL) hatchling
	@$(PIP_INSTALL) --no-build-isolation -e '.[test]'
	@touch $@

$(VENV)/.stamp-check: $(VENV)/.stamp
	@echo "venv: installing the checkers"
	@$(PIP_INSTALL) --no-build-isolation -e '.[test,check]'
	@touch $@

demo: $(VENV)/.stamp ## Run the demonstration
	@$(BIN)/zupa demo

test: $(VENV)/.stamp ## Run all tests; those that need a backend skip without `make backends`
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

backends: $(VENV)/.stamp ## Build the real Collector and Jaeger into a cache outside the clone
	@$(BIN)/python tests/integration/backends/build.py

collector: backends ## Run the Collector and Jaeger on their standard ports until Ctrl-C
	@$(BIN)/python scripts/run_backends.py

check: lint types imports api ## Run every static check

lint: $(VENV)/.stamp-check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.stamp-check
	@$(BIN)/mypy --strict

imports: $(VENV)/.stamp-check
	@$(BIN)/lint-imports

# Pyright runs on Node.js, which its extra brings as a wheel; on a platform without that wheel there may be none.
# It finds the package to verify by the `python` on PATH; --pythonpath has no effect on --verifytypes.
api: $(VENV)/.stamp-check
	@if $(BIN)/pyright --version >/dev/null 2>&1; then \
	    PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --verifytypes zupa --ignoreexternal; \
	else \
	    echo "api: SKIPPED, pyright does not start here (it needs Node.js); the public types are not verified"; \
	fi

bench: $(VENV)/.stamp ## Run the benchmarks
	@$(BIN)/python benchmarks $(BENCH_ARGS)

wheel-test: $(VENV)/.stamp ## Run the unit tests against the built wheel, in a new environment
	@$(BIN)/python scripts/wheel_test.py $(PYTEST_ARGS)

lock: ## Rewrite constraints.txt (with PYTHON=python3.10)
	@$(PYTHON) scripts/lock.py

clean: ## Remove all that these targets created in the clone
	@rm -rf $(VENV) dist build data .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
