# make repro   the whole chain on the default configuration
# make test    all tests, but of the exports the quick ones
# make test-exports   every export format on every architecture
# make coverage       branches of pipeline/lowrank that its tests run
# make mutate         changes of the code of bounds, policies and methods that its tests notice
# make test-lowest, test-highest   with the lowest and the highest versions that pyproject.toml allows
# make audit, lock    known vulnerabilities of requirements.lock; the lock itself, of requirements.in
# make ui      MLflow on the results, http://127.0.0.1:5000
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# `python` in dvc.yaml is the one of the virtual environment.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: repro test test-exports coverage mutate audit lock ui lint docs clean
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

# Of the releases that a machine has no wheel of: make test-lowest TORCH=torch==2.13.0
RESOLUTION_lowest := lowest-direct
RESOLUTION_highest := highest
test-lowest test-highest: test-%: $(STAMP)
	uv venv --quiet --clear --python $(BIN)/python $(VENV)-$*
	uv pip install --quiet --python $(VENV)-$*/bin/python --resolution $(RESOLUTION_$*) \
		--editable '.[transformers,dev]' $(TORCH)
	PATH=$(abspath $(VENV)-$*/bin):$$PATH OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE \
		python -m pytest -n 2 --dist loadfile -m "not e2e and not exports" $(TESTS)

coverage: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest -n 2 --dist loadfile tests/lowrank \
		-m "not exports" --cov=pipeline/lowrank --cov-branch --cov-report=term-missing:skip-covered

# Some 2,000 mutants, hours: make mutate MUTANTS='pipeline.lowrank.bounds.norms*' takes a part. What
# is done is kept in mutants/; `mutmut results` names those that no test noticed.
mutate: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m mutmut run $(MUTANTS)
	python -m mutmut results

# A package that could not be asked about is a failure, too. Needs pypi.org itself: mirrors of its
# files do not answer.
audit: $(STAMP)
	uvx --from pip-audit==2.10.1 pip-audit --strict --disable-pip --no-deps -r requirements.in

# torch stays without a checksum: its build for CPUs, of PyTorch's own index, and those of PyPI are
# different files of one release.
lock: $(STAMP)
	uv pip compile --quiet --no-deps --no-annotate --generate-hashes --python-version 3.11 \
		--no-emit-package torch --custom-compile-command "make lock" \
		--output-file requirements.lock requirements.in

ui: $(STAMP)
	python -m pipeline.tracking.ui --port 5000

lint: $(STAMP)
	ruff check .
	ruff format --check .
	mypy

# The zoo's timm and torchvision lie in a folder of their own (requirements-zoo.lock says why).
$(STAMP): requirements.in requirements.lock requirements-zoo.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is too old: Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	python -m pip install --quiet --disable-pip-version-check --constraint requirements.in torch
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
