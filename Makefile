# The only entry point: CI and the README call these targets and nothing else.
SHELL := /usr/bin/env bash -o pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
RUNTIME_VENV := .venv-runtime
BENCH_VENV := .venv-bench
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
UV_VERSION := $(shell sed -n "s/^ARG UV_VERSION=//p" Dockerfile)
# Where hack.local puts a kubectl that it had to build itself.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/aks-in-a-box/bin
# Select tests: make test K='queue and not slow'
K ?=
KFLAG = $(if $(K),-k "$(K)")
# Exit status 5 is "no test selected": right when K selects tests of one environment only, an error otherwise.
SELECTED = || test "$(K)" -a $$? -eq 5

##@ General
help: ## Show this help
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*##/ {printf "  %-16s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Develop
venv: $(VENV)/.installed ## Create .venv: control plane, tests and tools
$(VENV)/.installed: hack/requirements-dev.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(VENV)/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(UV) pip install --quiet --python $(PY) --requirements hack/requirements-dev.txt
	@touch $@

venv-runtime: $(RUNTIME_VENV)/.installed ## Create .venv-runtime: torch, vLLM, peft (about 6 GB)
RUNTIME_PINS := runtime/requirements-cpu.txt runtime/requirements-test.txt
$(RUNTIME_VENV)/.installed: $(RUNTIME_PINS) runtime/requirements-cpu-override.txt | $(VENV)/.installed
	@test -x $(RUNTIME_VENV)/bin/python || $(PYTHON) -m venv $(RUNTIME_VENV)
	$(UV) pip install --python $(RUNTIME_VENV)/bin/python $(foreach pins,$(RUNTIME_PINS),--requirements $(pins)) --override runtime/requirements-cpu-override.txt
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

##@ Test
test: venv venv-runtime ## Unit and integration tests: real etcd + kube-apiserver, no containers, no GPU. K=expr selects
	$(PY) -m hack.local assets
	@echo "Four suites, side by side; each is shown when it has ended."
	@$(MAKE) --no-print-directory --jobs=4 --output-sync=target test-controller test-provisioner test-others test-runtime

PYTEST := PATH="$(TOOLS):$$PATH" $(PY) -m pytest
test-controller test-provisioner: test-%:
	$(PYTEST) test/$* $(KFLAG) $(SELECTED)

test-others:
	$(PYTEST) test --ignore=test/controller --ignore=test/provisioner --ignore=test/runtime $(KFLAG) $(SELECTED)

# One thread: those of OpenMP wait by spinning, on cores that the other suites need.
test-runtime:
	OMP_NUM_THREADS=1 $(RUNTIME_VENV)/bin/python -m pytest --confcutdir=test/runtime test/runtime $(KFLAG) $(SELECTED)

mutants: venv ## Break each invariant of kube/ in a copy; its named test must fail
	$(PY) -m hack.mutants

# The long searches: as many examples as the design asks for, and what takes real minutes.
nightly: venv mutants ## The long searches: 10,000 fault scripts, 100,000 steps of election, ten idle minutes, mutants
	$(PY) -m hack.local assets
	$(PYTEST) test/kube test/controller test/provisioner --hypothesis-profile=nightly $(KFLAG)

bench-kube: venv $(BENCH_VENV)/.installed ## kube/ beside kopf, SharedInformer and lightkube: docs/performance.md
	$(PY) -m hack.bench.kube
$(BENCH_VENV)/.installed: hack/bench/requirements.txt | $(VENV)/.installed
	@test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(UV) pip install --quiet --python $(BENCH_VENV)/bin/python --requirements hack/bench/requirements.txt
	@touch $@

e2e: root-on-linux venv venv-runtime ## The demo's session and its failures as user stories on AKS in a box (root). K=expr selects
	$(PY) -m pytest e2e -x -p no:cacheprovider $(KFLAG)

##@ AKS in a box
# Before 6 GB are fetched: a box needs Linux and root. Standard library only, since nothing is installed yet.
root-on-linux:
	@$(PYTHON) -m hack.local.machine

demo: root-on-linux venv venv-runtime ## The seed's session on real Kubernetes on this machine (root, Linux)
	$(PY) -m hack.local demo

up: root-on-linux venv venv-runtime ## Start AKS in a box; export KUBECONFIG=build/local/kubeconfig
	$(PY) -m hack.local up

down: venv ## End AKS in a box and everything that it started
	$(PY) -m hack.local down

images: root-on-linux venv venv-runtime ## Build the control and the runtime image with buildah
	$(PY) -m hack.local images

# ARGS: --authfile FILE, --cert-dir DIR, --plain-http
model-image: venv ## Pack a folder of weights as an image: make model-image FOLDER=dir IMAGE=registry/kaito-preset:tag ARGS=
	$(PY) -m hack.model_image $(FOLDER) $(IMAGE) $(ARGS)

##@ Deploy (to the cluster of your KUBECONFIG)
OVERLAY ?= aks
# What an overlay says in place of a name that only its user knows.
PLACEHOLDER := REGISTRY(\.azurecr\.io)?/|: (SUBSCRIPTION_ID|RESOURCE_GROUP|CLUSTER_NAME|LOCATION|CLIENT_ID)$$
deploy: ## Install both controllers: make deploy OVERLAY=aks|byo|local
	@! kubectl kustomize manifests/overlays/$(OVERLAY) | grep --extended-regexp '$(PLACEHOLDER)' || \
		{ echo "error: these are placeholders: put your names into manifests/overlays/$(OVERLAY) (docs/install-aks.md)" >&2; exit 1; }
	kubectl apply -k manifests/overlays/$(OVERLAY)

undeploy: venv ## Remove both controllers, once no Workspace and no NodeClaim of theirs is left
	$(PY) -m hack.undeploy --overlay $(OVERLAY)

# What a running box needs to end stands in build/, and so it ends first.
clean: ## Remove what was built here (not the caches, not the environments); ends a box that runs
	@test ! -e build/local/network-before.json || $(MAKE) --no-print-directory down
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: root-on-linux test test-controller test-provisioner test-others test-runtime mutants nightly bench-kube e2e demo up down images model-image deploy undeploy clean
