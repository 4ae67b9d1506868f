# `make demo` and `make test` need Python 3.10 or newer and make; each makes .venv if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_DIR ?= runs/demo

.PHONY: demo test lint format tensorboard clean

demo: $(VENV)/installed
	$(BIN)/python main.py --flagfile=flags/presets/demo.flags --run_dir=$(RUN_DIR)

test: $(VENV)/installed
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tensorboard: $(VENV)/installed
	$(BIN)/tensorboard --logdir=runs

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed; this is " + v + ". Another one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
