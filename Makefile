# The project's commands; `make help` lists them. Each first sets up what it needs in .venv, once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUESTION ?= examples/question.wav
COVERAGE ?= 90# per cent of aqaa that the tests must reach
WORKERS ?= 2# test processes, each with one thread
FAULTS ?= --kills 200 --others 6# what `make faults` does: docs/operations/faults.md

# What each command installs besides the client's dependencies.
demo_extras := models,serve
test_extras := models,serve,checkpoints,train,dev
train_extras := models,train
eval_extras := models,eval
bench_extras := models,serve,bench

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.ready-demo ## ask the services a bundled spoken question: answer.wav, answer.png
	@$(BIN)/aqaa ask $(QUESTION) --out answer.wav --picture answer.png

.PHONY: test
test: lint ## run lint, types and tests with coverage
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --cov --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE)

.PHONY: lint
lint: $(VENV)/.ready-test ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: eval
eval: $(VENV)/.ready-eval ## reproduce the tables of quality
	$(BIN)/python -m evaluation

.PHONY: bench
bench: $(VENV)/.ready-bench ## reproduce the figures of speed
	$(BIN)/python -m benchmarks

.PHONY: faults
faults: $(VENV)/.ready-test ## shoot processes in the middle of turns, and say what became of each turn
	OMP_NUM_THREADS=1 GRPC_VERBOSITY=ERROR $(BIN)/python -m tests.faults $(FAULTS)

.PHONY: protos
protos: $(VENV)/.ready-test ## make aqaa/v1 again from protos/
	PATH="$(abspath $(BIN)):$$PATH" buf format --write
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=protos \
		--python_out=. --mypy_out=. --grpc_python_out=. --mypy_grpc_out=. protos/aqaa/v1/*.proto

.PHONY: clean
clean: ## remove what the commands made, the environment too
	rm -rf $(VENV) answer.wav answer.png .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

# One stamp a set of extras: pip runs again only when a dependency changes.
$(VENV)/.ready-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up $(VENV) for 'make $*', once; a minute or two"
	@$(BIN)/python -m pip install --disable-pip-version-check \
		--constraint constraints.txt --editable '.[$($*_extras)]'
	@touch $@

$(BIN)/python:
	@version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none); \
	case "$$version" in 3.11|3.12) ;; *) \
		echo "error: $(PYTHON) is version $$version, expected 3.11 or 3.12; on Debian 12: apt-get install python3 python3-venv," \
			"or name another: make PYTHON=/path/to/python3.11" >&2; exit 1;; esac
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
