# Everything a clone needs: make demo, make test. README.md says more.
SHELL := /bin/bash
PYTHON ?= python3
# What pip installs as PyTorch; TORCH=system uses the one that PYTHON already has.
TORCH ?= torch==2.13.0
# How long `make soak` runs.
MINUTES ?= 10
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find include src bindings python cmake -type f -not -name '*.pyc') \
           CMakeLists.txt pyproject.toml

# How long `make fuzz` runs, all targets together.
SECONDS ?= 60

.PHONY: setup demo test test-full coverage fuzz faults soak bench wheel lint format clean

setup: $(VENV)/.installed

$(VENV)/.tools: tools/setup.sh
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" tools/setup.sh $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.tools $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --config-settings=build-dir=build/python .
	touch $@

demo: setup
	$(BIN)/waybill demo

test: setup
	$(BIN)/python tools/run_tests.py

test-full: setup
	$(BIN)/python tools/run_tests.py --full

# Lines of src/ that no C++ test runs, and errors of the contract that none produces.
coverage: setup
	PATH="$(BIN):$$PATH" $(BIN)/python tools/coverage.py --lines

fuzz: setup
	PATH="$(BIN):$$PATH" cmake --preset fuzz --log-level=WARNING
	PATH="$(BIN):$$PATH" cmake --build --preset fuzz
	$(BIN)/python tools/fuzz.py --seconds $(SECONDS)

# Every fault at every point of every operator, on one host, over two, and of links: an hour and a half.
faults: setup
	$(BIN)/python tests/python/fault_matrix.py --jobs 2

# Random calls and a fault every 5 seconds.
soak: setup
	$(BIN)/python tools/soak.py --minutes $(MINUTES)

# The library and the operators beside other ways to move the same rows, for docs/benchmarks. Less
# than ten minutes; a program that cannot be built is left out.
bench: setup
	PATH="$(BIN):$$PATH" cmake --preset release --log-level=WARNING
	-PATH="$(BIN):$$PATH" cmake --build --preset release --target waybill-bench waybill-stages
	$(BIN)/python bench/standard.py

wheel: $(VENV)/.tools
	$(BIN)/pip wheel --quiet --no-build-isolation --no-deps --config-settings=build-dir=build/wheel -w dist .

lint: setup
	$(BIN)/python tools/run_tests.py --only lint,tidy

format: setup
	clang-format-19 -i $$(git ls-files '*.h' '*.cc')
	$(BIN)/ruff format python tests examples bench tools
	$(BIN)/ruff check --fix python tests examples bench tools

clean:
	rm -rf build dist $(VENV)
