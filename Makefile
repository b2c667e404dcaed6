# `make demo` and `make test` are all that a fresh machine with python3 >= 3.11 needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Not quietly: TensorFlow alone has more than half a gigabyte, and its bar shows that it comes.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-full test-slow lint docs docs-refresh wheel golden benchmark clean

demo: $(VENV)/installed-export
	$(BIN)/keras-resnet quickstart --output demo-output --overwrite

# Tests and package are compiled once, not in each of the many processes of the tests.
unexport PYTHONDONTWRITEBYTECODE

# A file's tests run one after the other, so that they share what they have set up; files in their
# order, as the one with the fewest tests, which would be the last one, is not the shortest.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15
EVERYWHERE := not reference and not network and not gpu and not tpu

# What to run after a change: every behaviour of the package, once.
test: $(VENV)/installed-dev
	$(PYTEST)

# These, and then the longer proofs.
test-full: test
	$(PYTEST) -m "full and $(EVERYWHERE)"

# What takes longer still. Two of them are of examples for KerasHub, which nothing else here needs.
test-slow: $(VENV)/installed-dev
	$(INSTALL) keras-hub
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Builds the documentation into build/site; every warning is an error.
docs: $(VENV)/installed-dev
	$(BIN)/python -m docs.build

# Renews the outputs and pictures of README, docs and notebooks; review them as a diff.
docs-refresh: $(VENV)/installed-dev
	$(BIN)/python -m docs.refresh demo outputs pictures notebooks

# Prints how long building, importing and predicting take, beside Keras' own.
benchmark: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks.build_and_import
	$(BIN)/python -m tests.benchmarks.predict

# Regenerates the golden files that the package itself is the source of; review them as a diff.
golden: $(VENV)/installed-dev
	KERAS_RESNET_GOLDEN=write $(BIN)/python -m pytest -k golden -m "not slow and $(EVERYWHERE)"

# Builds the wheel and imports it where the source tree is not.
wheel: $(VENV)/installed-dev
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/python tests/check_wheel.py dist

# The pinned TensorFlow exists for these versions of Python only. A half-made environment would
# be taken for a whole one by the next run.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "Expected Python 3.11, 3.12 or 3.13. Received: $$($(PYTHON) --version 2>&1)." \
			"Run: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "Python's venv module does not work here; on Debian: apt install python3-venv" >&2; \
		exit 1; }

$(VENV)/installed-export: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV): TensorFlow is large, this takes some minutes."
	$(INSTALL) -e '.[export]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV): TensorFlow is large, this takes some minutes."
	$(INSTALL) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist demo-output *.egg-info
