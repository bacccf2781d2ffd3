# One command a job; `make help` lists them. `.ci/run` calls the same ones.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test unit e2e check format bench gpu locales

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp  ## install into .venv, start supervisor and panel, print the address
	@$(VENV)/bin/autoglm up

test: unit e2e  ## all tests: parts first, then the walk in a real browser with the demo model

unit: $(VENV)/dev.stamp  ## tests that need neither browser nor model
	$(PY) -m pytest tests/unit tests/contract tests/ui -n 2 --dist loadfile

e2e: $(VENV)/dev.stamp  ## tests with a real browser and the real demo model
	@PY=$(PY) bash tests/e2e/install-chromium.sh
	$(PY) -m pytest tests/e2e

check: $(VENV)/dev.stamp  ## lint, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright --pythonpath $(PY)

format: $(VENV)/dev.stamp  ## put the code into its standard form
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/dev.stamp  ## our engine beside transformers' generate: same machine, same run, ratios
	$(PY) -m tests.bench.engine_vs_transformers

gpu: $(VENV)/dev.stamp  ## tests that need an NVIDIA GPU (skipped with the reason where there is none)
	$(PY) -m pytest tests/gpu

locales: $(VENV)/dev.stamp  ## collect the texts of the pages and compile the catalogues
	$(PY) -m panel.ui.locales

$(VENV)/pip.stamp: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 run" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "The venv module is missing. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PIP) install -q -c constraints.txt pip
	@touch $@

$(VENV)/run.stamp: pyproject.toml $(VENV)/pip.stamp
	@echo "Installing into $(VENV) (once; a few minutes on a slow line) ..."
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	@touch $@
