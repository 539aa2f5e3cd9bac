# `make demo` and `make test` do their own set-up; both work from a clean clone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUNTIME = $(VENV)/.runtime
STAMP = $(VENV)/.installed
DOCS_STAMP = $(VENV)/.docs
# Exact pins: the same libraries everywhere (torch's CPU build where the index offers one).
CONSTRAINTS = constraints.txt

.PHONY: help demo demo-table weights test test-cpus lint format docs install clean
help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# The demo waits for no linters and test tools.
$(RUNTIME): setup.cfg pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable .
	touch $@

$(STAMP): $(RUNTIME)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

$(DOCS_STAMP): $(RUNTIME)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[docs]'
	touch $@

install: $(STAMP)  ## virtual environment with everything in it

demo: $(RUNTIME)  ## draw the demo scenes, segment and score them, write a picture
	$(BIN)/python tools/demo.py

demo-table: $(RUNTIME)  ## the demo with all rows of the README's table
	$(BIN)/python tools/demo.py --table

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

docs: $(DOCS_STAMP)  ## the docs site in build/docs; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/docs

clean:  ## remove the virtual environment, drawn scenes and runs
	rm -rf $(VENV) data/scenes runs
