# Needs nothing but python3 with venv: uv is taken from the PATH, or installed into .tools/ on first use.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
PYTHON := .venv/bin/python
DVC := $(PYTHON) -m dvc

# Stages start `python` by name: the environment's comes first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
# Byte code is kept from the first start on: every stage would otherwise spend seconds on compiling.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup reproduce drift test lint format ui report clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

reproduce: .venv/main  ## train, measure and compare everything that is not up to date; mirror it into MLflow
	$(PYTHON) -m randomz.params
	$(DVC) repro
	$(PYTHON) -m pipeline.publish
	@echo "The comparison: reports/index.html (or report.md)    Runs: make ui"

drift: .venv/main  ## say whether dvc.lock and reports match code and params; needs no data
	$(PYTHON) -m pipeline.drift

# A file's tests share what is slow to make, so each file stays with one process, which keeps to one core; the files that
# take longest come early.
test: .venv/dev  ## run the tests, a process a core
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: .venv/dev  ## style, types, what CI reads
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	$(PYTHON) -m check_jsonschema --builtin-schema vendor.gitlab-ci .gitlab-ci.yml
	@if command -v actionlint; then actionlint; else echo "no actionlint on the PATH: of the workflow only the schema was checked"; fi

format: .venv/dev  ## put the code into the form that lint wants
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

ui: .venv/main  ## MLflow's pages at http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(PYTHON) -m mlflow ui --workers 1 --backend-store-uri sqlite:///mlflow.db

report:  ## say where the report is
	@echo "$(CURDIR)/reports/index.html"

setup: .venv/dev  ## the environment with test and lint tools

clean:  ## remove the environment, data, models and scratch files; committed results stay
	rm -rf .venv .tools data artifacts scratch

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/python -m pip install --quiet uv

.venv/main: pyproject.toml uv.lock | $(filter .tools/bin/uv,$(UV))
	$(UV) sync --frozen --no-default-groups --inexact --quiet
	@touch $@

.venv/dev: pyproject.toml uv.lock | $(filter .tools/bin/uv,$(UV))
	$(UV) sync --frozen --group test --group lint --quiet
	@touch $@ .venv/main
