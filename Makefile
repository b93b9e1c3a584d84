# The two commands of README.md, and what CI runs.
PYTHON ?= python3
FAST ?= fast
BIN := .venv/bin

.PHONY: demo test fast lint types torture check docs clean

demo: .venv/installed  ## install, then the main job on the embedded phantom
	$(BIN)/ssl4seg-train method=uamt labeled_ratio=0.19

test: .venv/installed-dev  ## install, then the tests
	$(BIN)/pytest

fast: .venv/installed-dev  ## install, then the tests that start no process and train nothing
	$(BIN)/pytest -m "$(FAST)"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

torture: .venv/installed-dev  ## install, then attack the program for two minutes
	scripts/torture.sh 2

check: lint types test torture  ## all that CI asks for

docs: .venv/installed-dev  ## install, then build the site in site/
	$(BIN)/mkdocs build --strict

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	touch $@ .venv/installed

clean:
	rm -rf .venv build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
