# Two commands are all a newcomer needs: `make run` and `make test`. Both set up `.venv` first if it is missing or old.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test lint clean

run: $(READY)
	@embedmill run

test: $(READY)
	@python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -rs

lint: $(READY)
	@ruff check . && ruff format --check . && mypy

clean:
	rm -rf data models reports .embedmill .dvc/cache .dvc/tmp mlflow.db mlartifacts

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed; name it with: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Setting up .venv from constraints.txt (some minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[data,train,serve,pipeline,cluster,dev]'
	@touch $(READY)
