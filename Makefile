# Two commands are all a newcomer needs: `make run` and `make test`. Both set up `.venv` first if it is missing or old.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DOCKER ?= docker
# Where a build has no network of its own: make images BUILD_FLAGS="--network host"; docker/Dockerfile says what can be built otherwise.
BUILD_FLAGS ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
READY := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test lint images clean

run: $(READY)
	@embedmill run

test: $(READY)
	@python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -rs

lint: $(READY)
	@ruff check . && ruff format --check . && mypy && hadolint --config docker/hadolint.yaml docker/Dockerfile

images:
	@set -e; for target in data train serve; do \
	  DOCKER_BUILDKIT=1 $(DOCKER) build --quiet --file docker/Dockerfile --target $$target --tag embedmill-$$target:$(VERSION) \
	    --build-arg VERSION=$(VERSION) --build-arg GIT_SHA=$$(git rev-parse HEAD) $(BUILD_FLAGS) .; \
	done

clean:
	rm -rf data models reports .embedmill .dvc/cache .dvc/tmp mlflow.db mlartifacts

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed; name it with: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Setting up .venv from constraints.txt (some minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[data,train,serve,pipeline,cluster,dev]'
	@touch $(READY)
