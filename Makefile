# `make demo`: the core alone, then the whole chain on a bundled clip.
# `make test`: every extra, then lint, types and tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP = $(VENV)/bin/pip install --quiet --constraint constraints.txt

.PHONY: demo test lint types clean

demo: $(VENV)/.core
	$(VENV)/bin/gslm demo

test: $(VENV)/.all lint types
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.all
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.all
	$(VENV)/bin/mypy

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) --editable .
	touch $@

$(VENV)/.all: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) --editable '.[all,dev]'
	touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) build *.egg-info
