# Everything a clone needs: make demo, make test. README.md says more.
SHELL := /bin/bash
PYTHON ?= python3
# What pip installs as PyTorch; TORCH=system uses the one that PYTHON already has.
TORCH ?= torch==2.13.0
# How long `make soak` and `make soak-alone` run.
MINUTES ?= 10
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find include src bindings python cmake -type f -not -name '*.pyc') \
           CMakeLists.txt pyproject.toml

# How long `make fuzz` runs, all targets together.
SECONDS ?= 60

.PHONY: setup demo test sanitize test-full coverage fuzz faults soak soak-alone bench wheel lint format clean

setup: $(VENV)/.installed

$(VENV)/.tools: tools/setup.sh tools/requirements.txt
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" tools/setup.sh $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.tools $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --config-settings=build-dir=build/python .
	touch $@

demo: setup
	$(BIN)/waybill demo

test: setup
	$(BIN)/python tools/run_tests.py

sanitize: setup
	$(BIN)/python tools/run_tests.py --only asan,tsan --name sanitize

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
	$(BIN)/python tests/python/faults/fault_matrix.py --jobs 2

# Random calls and a fault every 5 seconds.
soak: setup
	$(BIN)/python tools/soak.py --minutes $(MINUTES)

# Programs that go on after every exception, and ranks that fail alone.
soak-alone: setup
	$(BIN)/python tools/soak_alone.py --minutes $(MINUTES)

# The library and the operators beside other ways to move the same rows, into build/benchmarks. Less
# than ten minutes; a program that cannot be built is left out.
bench: setup
	PATH="$(BIN):$$PATH" cmake --preset release --log-level=WARNING
	-PATH="$(BIN):$$PATH" cmake --build --preset release --target waybill-bench waybill-stages
	$(BIN)/python bench/standard.py

# For every Python >= 3.10 and torch >= 2.11 on a Linux that is no older than the compiler's.
wheel: $(VENV)/.tools
	$(BIN)/python tools/make_wheel.py dist

lint: setup
	$(BIN)/python tools/run_tests.py --only lint,tidy

format: setup
	clang-format-19 -i $$(git ls-files '*.h' '*.cc')
	$(BIN)/ruff format python tests examples bench tools
	$(BIN)/ruff check --fix python tests examples bench tools

clean:
	rm -rf build dist $(VENV)
