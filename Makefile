# `make demo` and `make test` do their own set-up; both work from a clean clone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# Exact pins: the same libraries everywhere (torch's CPU build where the index offers one).
CONSTRAINTS = constraints.txt

.PHONY: help demo weights test test-cpus lint format install clean
help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): setup.cfg pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

install: $(STAMP)  ## virtual environment with everything in it

demo: $(STAMP)  ## draw the demo scenes, segment and score them, write a picture
	$(BIN)/python tools/demo.py

weights: $(STAMP)  ## train the demo's models anew (about half an hour on 3 free cores)
	$(BIN)/python tools/train_demo_vlm.py --out build/demo_vlm
	$(BIN)/python tools/train_demo_vlm.py --start build/demo_vlm --steps 200 --guided-steps 200 \
		--sharpness 7
	$(BIN)/python tools/train_demo_clip.py

test: $(STAMP)  ## the default tests
	$(BIN)/python -m pytest -n $${PYTEST_WORKERS:-2}

# Without TESTS the whole default suite, about seven times as long as `make test`.
test-cpus: $(STAMP)  ## the default tests as on other CPUs; TESTS="-m 'numerical and ...'" for some
	$(BIN)/python tools/instruction_sets.py test -n $${PYTEST_WORKERS:-2} $(TESTS)

lint: $(STAMP)  ## ruff, mypy and what may import what
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the virtual environment, drawn scenes and runs
	rm -rf $(VENV) data/scenes runs
