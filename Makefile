# Everything that one does here. `make help` lists it. Needs Python 3.11 or newer, git, make and a C++ compiler.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# What `make look` looks at: a sentence that repeats itself, so that heads which look for repeats show.
export TEXT ?= It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of \
	foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, \
	it was the season of Darkness, it was the spring of hope, it was the winter of despair.

.PHONY: help look picture test test-all bench check format clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

look: $(READY)  ## look inside a real model, SmolLM2-135M: a picture here, and look.html  (TEXT="..." for other words)
	$(BIN)/clearhead look "$$TEXT"

picture: look  ## the README's picture of look.html, taken again; needs Chromium and its driver
	$(BIN)/python docs/picture.py look.html docs/look.png 'theme=light&layer=17&head=5&by=induction&query=24'

test: $(READY)  ## the tests, without the slow ones
	$(BIN)/pytest -m "not slow"

test-all: $(READY)  ## every test
	$(BIN)/pytest

bench: $(READY)  ## attention() beside PyTorch's own, as ratios measured in the same run
	$(BIN)/python benchmarks/attention.py

check: $(READY)  ## lint, format and types, of the page's scripts too where there is Node.js
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory check-page; \
	else echo "No npm on this machine: the types of the page's scripts (src/clearhead/view/web) go unchecked."; fi

.PHONY: check-page
check-page: node_modules/.package-lock.json
	node_modules/.bin/tsc

format: $(READY)  ## mend what `make check` would say of layout and imports
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove what the targets above made, .venv included
	rm -rf .venv node_modules build dist look.html .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -r {} +

# The stamp is written last, and renewed when a lock file or pyproject.toml is newer.
$(READY): requirements.lock requirements-no-deps.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Clearhead needs Python 3.11 or newer; \
	$(PYTHON) is {sys.version.split()[0]}. Name another one: make PYTHON=python3.12 ...")'
	@echo "Setting up .venv from requirements.lock. The first time, this takes a few minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --requirement requirements-no-deps.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@
