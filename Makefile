# The only entry point: CI and the README call these targets and nothing else.
SHELL := /usr/bin/env bash -o pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
RUNTIME_VENV := .venv-runtime
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
# Select tests: make test K='queue and not slow'
K ?=
KFLAG = $(if $(K),-k "$(K)")

##@ General
help: ## Show this help
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*##/ {printf "  %-16s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Develop
venv: $(VENV)/.installed ## Create .venv: control plane, tests and tools
$(VENV)/.installed: hack/requirements-dev.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(VENV)/bin/python -m pip install --quiet uv
	$(UV) pip install --quiet --python $(PY) --requirements hack/requirements-dev.txt
	@touch $@

venv-runtime: $(RUNTIME_VENV)/.installed ## Create .venv-runtime: torch, vLLM, peft (about 6 GB)
$(RUNTIME_VENV)/.installed: runtime/requirements.txt runtime/requirements-cpu.txt | $(VENV)/.installed
	@test -x $(RUNTIME_VENV)/bin/python || $(PYTHON) -m venv $(RUNTIME_VENV)
	$(UV) pip install --python $(RUNTIME_VENV)/bin/python --requirements runtime/requirements-cpu.txt --override runtime/requirements-cpu-override.txt
	@touch $@

fmt: venv ## Format and sort imports
	$(VENV)/bin/ruff check --fix-only --quiet .
	$(VENV)/bin/ruff format .

vet: venv ## Type-check, lint, and check who imports what
	$(VENV)/bin/mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

manifests: venv ## Generate CRDs, RBAC and reference pages from the types in code
	$(PY) -m hack.generate

verify: vet ## Everything but the tests; fails if what is generated differs from what is committed
	$(PY) -m hack.generate --check

.PHONY: help venv venv-runtime fmt vet manifests verify
