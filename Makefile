# Two commands on a fresh machine: `make up` runs the platform, `make test` checks everything.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PORT ?= 8000
HOST ?= 127.0.0.1
STATE ?= state
PYTHON ?= python3
VENV := .venv
# Each test starts processes of ours: compiled once, they start at once.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
# Folders without a fast test are not even read for them.
# Fast and slow tests share the cores; of those of a whole platform, one in a browser and one on a cluster go on at a time.
FAST := -n logical --dist worksteal -m "not slow and not e2e and not cluster" $(patsubst %,--ignore=tests/%,chart cluster e2e web)
SLOW := -n logical --dist worksteal -m "slow and not e2e and not cluster and not gpu_image"
UPSTREAM := tests/cluster/kubespawner_suite/sources $(BIN)/uv $(BIN)/python

.PHONY: help up test test-browser test-cluster test-kubespawner test-gpu-image sweeps test-fast lint explore chaos attack bench mutations images lock published clean

help:            ## say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/installed: requirements.lock pyproject.toml example-notebooks/pyproject.toml
	@scripts/check-tools
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e ./example-notebooks
	touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

node_modules/installed: package.json package-lock.json
	@scripts/check-tools
	npm ci --silent
	touch $@

up: $(VENV)/installed node_modules/installed   ## run the platform: PORT=8000 STATE=state
	@exec $(BIN)/meridian up --host "$(HOST)" --port "$(PORT)" --state "$(STATE)"

lint: $(VENV)/installed-dev                    ## check format, style, types and scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file example-notebooks/pyproject.toml example-notebooks/roman_access example-notebooks/roman_synthetic
	scripts/install-test-tools shellcheck
	shellcheck scripts/* .ci/run tests/cluster/scripts/* tests/cluster/stand_ins/*-* tests/cluster/kubespawner_suite/sources images/{build,lock,pip-install,project-install}

test-fast: $(VENV)/installed-dev               ## unit and property tests, in a minute or two
	$(BIN)/pytest -q $(FAST)

test: $(VENV)/installed-dev node_modules/installed lint   ## everything, in a real browser, on real databases and a real Kubernetes
	scripts/install-test-tools btrfs-progs chromium postgresql xfsprogs
	@# What the tests leave of the processors builds the cluster's programs, which those at the end wait for.
	test -n "$${KUBECONFIG:-}" || { chrt --idle 0 tests/cluster/scripts/build >/dev/null 2>&1 & }
	$(BIN)/pytest $(FAST)
	$(BIN)/pytest $(SLOW)
	@# Both wait for browsers, kernels and pods more than they compute.
	$(MAKE) --jobs=2 --output-sync=target test-browser test-cluster

test-browser: $(VENV)/installed-dev node_modules/installed   ## whole platforms on this machine, in a real browser
	scripts/install-test-tools chromium postgresql
	$(BIN)/pytest -m "e2e and not cluster"

test-cluster: $(VENV)/installed-dev node_modules/installed   ## servers as pods on a real Kubernetes, built here unless KUBECONFIG names one
	scripts/install-test-tools chromium postgresql
	test -n "$${KUBECONFIG:-}" || tests/cluster/scripts/build >/dev/null
	$(BIN)/pytest -m "cluster and not upstream"
	@if $(UPSTREAM) >/dev/null; then $(BIN)/pytest -m upstream; else echo 'left out: make test-kubespawner, see above' >&2; fi

test-kubespawner: $(VENV)/installed-dev        ## KubeSpawner's own tests with our class, on a Kubernetes: needs its repository on GitHub
	$(UPSTREAM) >/dev/null
	$(BIN)/pytest -m upstream

sweeps: $(VENV)/installed-dev                  ## sweeps through kills at full size: 200 runs on this machine, 50 on a Kubernetes
	MERIDIAN_SWEEP_RUNS=200 $(BIN)/pytest tests/batch/test_sweep_local.py
	test -n "$${KUBECONFIG:-}" || tests/cluster/scripts/build >/dev/null
	MERIDIAN_CLUSTER_SWEEP_RUNS=50 $(BIN)/pytest tests/cluster/test_kube_sweep.py

test-gpu-image: $(VENV)/installed-dev          ## build the gpu lab and import what is in it: a quarter of an hour, 8 GB; not part of make test
	$(BIN)/pytest -m gpu_image

explore: $(VENV)/installed-dev                 ## look for examples that break the property tests, other ones each time: ONLY=words of their names
	$(BIN)/pytest -q $(FAST) --hypothesis-profile=explore $(if $(ONLY),-k "$(ONLY)")

chaos: $(VENV)/installed-dev node_modules/installed   ## kill parts of the platform and the cluster at random: MINUTES=30 SEED=1
	scripts/install-test-tools postgresql
	test -n "$${KUBECONFIG:-}" || tests/cluster/scripts/build >/dev/null
	MERIDIAN_CHAOS_MINUTES="$(MINUTES)" MERIDIAN_CHAOS_SEED="$(SEED)" $(BIN)/pytest -s -q --basetemp="$${TMPDIR:-/tmp}/meridian-chaos" tests/cluster/chaos

attack: $(VENV)/installed-dev                  ## purge an area whose owner does all to have more purged (as root): ROUNDS=10000 SEED=1
	MERIDIAN_ATTACK_ROUNDS="$(or $(ROUNDS),10000)" MERIDIAN_ATTACK_SEED="$(or $(SEED),1)" $(BIN)/pytest -s -q tests/storage/attack

bench: $(VENV)/installed-dev node_modules/installed       ## compare with the alternatives, in the same run
	scripts/install-test-tools postgresql zstd
	$(BIN)/python -m benchmarks

mutations: $(VENV)/installed-dev               ## take away one lock or condition at a time and see the tests notice: long
	scripts/install-test-tools btrfs-progs postgresql xfsprogs
	$(BIN)/python -m tests.mutations

images: node_modules/installed                 ## build the container images with buildah or docker: BASE=image TAG=tag
	@BASE="$(BASE)" TAG="$(TAG)" images/build

lock: $(VENV)/installed-dev                    ## resolve the locked requirements anew
	scripts/lock $(BIN)/uv
	images/lock $(BIN)/uv

published: $(VENV)/installed                   ## write what is published from the code: policy schema, table of the API
	$(BIN)/meridian policy schema > policies/schema.json
	$(BIN)/meridian api-reference > docs/reference/api.md

clean:                                         ## remove what was installed (not what the platform wrote)
	rm -rf $(VENV) node_modules
