# make repro   the whole chain on the default configuration
# make test    all tests, but of the exports the quick ones
# make test-exports   every export format on every architecture
# make ui      MLflow on the results, http://127.0.0.1:5000
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# `python` in dvc.yaml is the one of the virtual environment.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: repro test test-exports ui lint docs clean
# A full disk cuts DVC's record of who reads and writes what, and DVC then refuses to run.
repro: $(STAMP) .dvc/config.local
	@python -m json.tool .dvc/tmp/rwlock > /dev/null 2>&1 || rm -f .dvc/tmp/rwlock
	dvc repro

# Two processes of one thread each; the longest files start first (tests/conftest.py).
test: $(STAMP) .dvc/config.local
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest -n 2 --dist loadfile -m "not exports"

# Each export is opened in a process of its own: minutes, where the light ones in `test` take seconds.
test-exports: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest -n 2 -m exports

ui: $(STAMP)
	python -m pipeline.tracking.ui --port 5000

lint: $(STAMP)
	ruff check .
	ruff format --check .
	mypy

# The zoo's timm and torchvision lie in a folder of their own (requirements-zoo.lock says why).
$(STAMP): requirements.lock requirements-zoo.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is too old: Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/zoo -r requirements-zoo.lock
	@touch $@

# Without Git (an unpacked archive) DVC must be told so; in a clone this file stays empty.
.dvc/config.local:
	@if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then : > $@; \
	else printf '[core]\n    no_scm = true\n' > $@; fi

# Pages and pictures that follow from the code.
docs: $(STAMP)
	python -m docs.make

clean:
	rm -rf out reports params.yaml .scratch outputs multirun
