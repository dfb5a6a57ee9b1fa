# `make demo` shows Aurora at work, `make test` proves it. The rest: lint, test-long, bench, clean.
# Everything lands below this directory: .venv, .pg (PostgreSQL servers for the tests), .cache.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
# Every package is pinned by its hash. Aurora itself is installed from here, without a build of its
# own that would fetch something unpinned.
INSTALL := $(PIP) install --root-user-action=ignore --require-hashes
EDITABLE := $(PIP) install --root-user-action=ignore --no-deps --no-build-isolation --editable .

PYTEST := $(BIN)/python -m pytest
TESTS  := tests/unit tests/property tests/integration tests/faults

.PHONY: demo test test-long lint bench servers dev requirements clean help

help:
	@echo 'make demo       back up, destroy and recover a database, in about four minutes'
	@echo 'make test       unit, property, integration and fault tests, on real servers'
	@echo 'make test-long  the tests that take minutes'
	@echo 'make lint       ruff, mypy, import-linter'
	@echo 'make bench      measure'
	@echo 'make clean      remove what the above have made'

demo: $(VENV)/stamp-demo
	@$(BIN)/python -m aurora.demo

test: servers
	@$(PYTEST) -m 'not long' -n 3 --dist loadfile $(wildcard $(TESTS)) $(ARGS)

test-long: servers
	@$(PYTEST) -m long --timeout 3600 tests $(ARGS)

lint: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict src tests
	$(BIN)/lint-imports --no-logo

bench: dev
	@$(BIN)/python benchmarks/run.py $(ARGS)

# The servers that the tests run against; takes no time once they are there.
servers: dev
	@$(BIN)/python tools/servers.py

dev: $(VENV)/stamp-dev

$(VENV)/stamp-python: tools/venv.py
	@$(PYTHON) tools/venv.py $(VENV)
	@touch $@

$(VENV)/stamp-demo: $(VENV)/stamp-python requirements/demo.txt pyproject.toml
	@echo 'installing Aurora into $(VENV)'
	@$(INSTALL) -r requirements/demo.txt
	@$(EDITABLE)
	@touch $@

# The demo's packages are among the developer's: both stamps are served.
$(VENV)/stamp-dev: $(VENV)/stamp-python requirements/dev.txt pyproject.toml
	@echo 'installing Aurora and the tools of its developers into $(VENV)'
	@$(INSTALL) -r requirements/dev.txt
	@$(EDITABLE)
	@touch $@ $(VENV)/stamp-demo

# Pin again what pyproject.toml asks for. No address of a registry is written down.
PIN := $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe \
       --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
       --build-deps-for editable
requirements: dev
	@$(PIP) install pip-tools
	$(PIN) -o requirements/runtime.txt pyproject.toml
	$(PIN) -c requirements/runtime.txt --extra demo -o requirements/demo.txt pyproject.toml
	$(PIN) -c requirements/demo.txt --extra dev -o requirements/dev.txt pyproject.toml
	@for name in runtime demo dev; do \
	    printf '# Written by `make requirements`; %s, and hatchling to install a checkout.\n' \
	        "what Aurora needs ($$name)" | cat - requirements/$$name.txt > requirements/.new; \
	    mv requirements/.new requirements/$$name.txt; \
	done

clean:
	rm -rf $(VENV) .pg .cache build dist demo-run src/*.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
