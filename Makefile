# `make demo` and `make test` need Python 3.10 to 3.13 and make; each creates .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_DIR ?= runs/demo
PYTEST ?=

.PHONY: demo test test-addons package docs lint format tensorboard clean

demo: $(VENV)/installed
	$(BIN)/python main.py --flagfile=flags/presets/demo.flags --run_dir=$(RUN_DIR)

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-addons: $(VENV)/installed $(VENV)/dev
	$(BIN)/nox -s addons -- $(PYTEST)

package: $(VENV)/installed $(VENV)/dev
	$(BIN)/nox -s package

docs: $(VENV)/installed $(VENV)/dev
	$(BIN)/nox -s docs

lint: $(VENV)/installed $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tensorboard: $(VENV)/installed
	$(BIN)/tensorboard --logdir=runs

$(VENV)/dev: $(VENV)/installed
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[dev]"
	@touch $@

$(VENV)/installed: pyproject.toml requirements/base.txt requirements/tensorflow.txt
	@$(PYTHON) -c 'import runpy, sys; check = runpy.run_path("mcl_tf/version.py")["check_python"]; exec("try: check()\nexcept ImportError as e: sys.exit(str(e) + \". For make: make PYTHON=python3.11\")")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
