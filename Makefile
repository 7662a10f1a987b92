# Everything a person or CI does here is one of these targets; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Where a run's models, data and results go (ignored by git).
ARTIFACTS ?= artifacts
# Downloads, the installer and the converted model are kept here, outside the checkout, and shared by checkouts.
SRR_CACHE ?= $(HOME)/.cache/selfrewarding
# The interpreter that the environment is made from: 3.11, as `requirements/environment.txt` is resolved for it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Processes of the unit tests.
JOBS ?= auto
# How long `make test-chaos` goes on.
MINUTES ?= 60
# Of the images, those that `make images` builds: all.
IMAGES ?=

export SRR_CACHE
export UV_CACHE_DIR ?= $(SRR_CACHE)/uv
export UV_PYTHON_DOWNLOADS := never
# A file from a hub is never wanted: models and data are local folders.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

BIN := .venv/bin
PY := $(BIN)/python
# The installer's folder is named by what is asked for, so a raised version never meets an old one.
BOOTSTRAP := $(SRR_CACHE)/bootstrap/$(shell sha256sum requirements/bootstrap.txt | cut -c1-16)
UV := $(BOOTSTRAP)/bin/uv
# Warm when nothing that the environment is made from has changed, by content: a clone's file times say nothing.
ENV_INPUTS := requirements/bootstrap.txt requirements/environment.txt pyproject.toml
ENV_STAMP := .venv/.installed-$(shell cat $(ENV_INPUTS) | sha256sum | cut -c1-16)

MODEL := $(ARTIFACTS)/models/smollm2-135m-instruct
REPORTS := $(ARTIFACTS)/reports
PYTEST := $(PY) -m pytest
# The chart's golden files need Helm, which the test cluster's parts bring: test-cluster has them.
UNIT_TESTS := $(wildcard tests/unit tests/controller tests/golden/manifests tests/golden/test_*.py)
# What `make lock` writes: the whole environment, what each image installs, and what images build with.
REQUIREMENTS = $(wildcard requirements/*.txt images/*/requirements.txt)
# Everything that `make generate` writes; `make check` fails where it is out of date.
GENERATED := crds/selfrewardingruns.yaml charts/selfrewarding-operator/files tests/golden

.PHONY: help
help: ## List the targets and settings
	@awk 'BEGIN {FS = ":.*## "; print "Targets:"} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nSettings (make TARGET NAME=value):\n'
	@awk '/^# / {why = substr($$0, 3)} /^[A-Z_]+ \?= / {name = $$1; sub(/^[^=]*= /, ""); printf "  %-10s %s\n  %-10s default: %s\n", name, why, "", $$0}' $(MAKEFILE_LIST)

## ---------------------------------------------------------------- environment

.PHONY: env
env: $(ENV_STAMP) ## Install the pinned environment into .venv (.venv/bin/srr)

$(UV):
	@echo "Fetching the installer …"
	@rm -rf '$(BOOTSTRAP).part' && mkdir -p '$(dir $(BOOTSTRAP))'
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-input --root-user-action ignore --no-deps --only-binary :all: \
	    --require-hashes --target '$(BOOTSTRAP).part' --requirement requirements/bootstrap.txt
	@rm -rf '$(BOOTSTRAP)' && mv '$(BOOTSTRAP).part' '$(BOOTSTRAP)'

$(ENV_STAMP): | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	    echo "The pinned environment is for Python 3.11; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Install Python 3.11, or name it: make env PYTHON=/path/to/python3.11" >&2; exit 2; }
	@rm -f .venv/.installed-*
	@[[ -x $(PY) ]] || '$(UV)' venv --quiet --clear --python '$(PYTHON)' .venv
	@echo "Installing the environment (the first time: some gigabytes, mostly PyTorch) …"
	@# The two source distributions build with the pinned setuptools: nothing comes in beside the list.
	@'$(UV)' pip install --quiet --python $(PY) --require-hashes --no-deps \
	    --requirement <(awk '/^(setuptools|wheel|packaging)==/ {on = 1; print; next} /^[^ ]/ {on = 0} on' requirements/environment.txt)
	@'$(UV)' pip sync --quiet --python $(PY) --require-hashes --no-build-isolation requirements/environment.txt
	@'$(UV)' pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: lock
lock: $(UV) ## Resolve pyproject.toml again into requirements/ (UPGRADE=1: to the newest versions)
	@# A list of versions and digests instead of a lock file: a lock file names the registry it was made from.
	@'$(UV)' pip compile --quiet pyproject.toml --all-extras --generate-hashes --no-emit-index-url \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command 'make lock' \
	    $(if $(UPGRADE),--upgrade) --output-file requirements/environment.txt
	@# What each image installs: the same versions, of one extra.
	@lock() { '$(UV)' pip compile --quiet --constraint requirements/environment.txt --generate-hashes --no-emit-index-url \
	    --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command 'make lock' "$$@"; }; \
	for image in operator sampler vllm-cpu; do \
	    lock pyproject.toml --extra $$image --output-file images/$$image/requirements.txt; done; \
	lock pyproject.toml --extra trainer --no-emit-package deepspeed --output-file images/trainer/requirements.txt; \
	for package in cyclonedx-bom hatchling torch; do echo "$$package" | lock - --output-file requirements/$$package.txt; done; \
	echo deepspeed | lock - --no-deps --output-file requirements/deepspeed.txt
	@# In an environment of their own: the project's versions are no constraint.
	@'$(UV)' pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11 \
	    --python-platform x86_64-manylinux_2_28 --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) \
	    requirements/benchmarks.in --output-file requirements/benchmarks.txt
	@! grep -nE '^(-|[^#]*(://|index-url|find-links))' $(REQUIREMENTS) || { \
	    echo 'A list of requirements names a place: only versions and digests belong there.' >&2; exit 1; }

## ---------------------------------------------------------------- the main job

.PHONY: quickstart
quickstart: env $(ARTIFACTS)/data/quickstart ## From M0 to M3 on this machine, with real vLLM, TRL and DeepSpeed
	@$(PY) -m selfrewarding.local.packaged_model $(MODEL)
	@$(BIN)/srr local -f crds/examples/quickstart.yaml --artifacts $(ARTIFACTS)

.PHONY: $(ARTIFACTS)/data/quickstart
$(ARTIFACTS)/data/quickstart:
	@mkdir -p $@ && cp crds/examples/seeds/*.jsonl $@/

## ---------------------------------------------------------------- test cluster

# The test cluster that the cluster-* targets mean; several live side by side by name.
CLUSTER ?= default
TESTBED := $(PYTHON) -m tests.cluster.testbed

.PHONY: cluster-build
cluster-build: ## Build what the test cluster is made of: Kubernetes, etcd, containerd … (about 20 minutes, once for each version)
	@$(TESTBED) build

.PHONY: cluster-up
cluster-up: ## Start a real one-node Kubernetes in a network namespace (Debian, root, Go; prints KUBECONFIG)
	@$(TESTBED) up --name $(CLUSTER)

.PHONY: cluster-ready
cluster-ready: env ## All that test-cluster needs and that takes long: its parts and the images, built once for each version
	@if reason=$$($(TESTBED) missing); then echo "NO TEST CLUSTER: $$reason"; else \
	    $(TESTBED) build && $(PY) -m tests.cluster.testbed images --name '$(CLUSTER)'; fi

.PHONY: cluster-down
cluster-down: ## Stop it, or clean up what a killed one left; images stay
	@$(TESTBED) down --name $(CLUSTER)

.PHONY: cluster-status
cluster-status: ## Its parts, addresses and KUBECONFIG
	@$(TESTBED) status --name $(CLUSTER)

## ---------------------------------------------------------------- images

.PHONY: images
images: env ## Build the images into the test cluster's store, as far as they changed
	@$(PY) -m tests.cluster.testbed images --name '$(CLUSTER)' $(IMAGES)

SBOM_TOOL := $(SRR_CACHE)/sbom/$(shell cat requirements/cyclonedx-bom.txt | sha256sum | cut -c1-16)

$(SBOM_TOOL): | $(UV)
	@'$(UV)' venv --quiet --clear --python '$(PYTHON)' '$@.part'
	@'$(UV)' pip install --quiet --python '$@.part/bin/python' --no-deps --require-hashes --requirement requirements/cyclonedx-bom.txt
	@rm -rf '$@' && mv '$@.part' '$@'

.PHONY: sbom
sbom: $(SBOM_TOOL) ## What Python packages are in each image (CycloneDX 1.6), into artifacts/sbom
	@mkdir -p $(ARTIFACTS)/sbom
	@for image in operator sampler trainer vllm-cpu; do \
	    cat images/$$image/requirements.txt $$([[ $$image != trainer ]] || echo requirements/deepspeed.txt) \
	    | PYTHONWARNINGS=ignore '$(SBOM_TOOL)/bin/python' -m cyclonedx_py requirements --output-reproducible --mc-type application --pyproject pyproject.toml \
	        --output-file $(ARTIFACTS)/sbom/$$image.cdx.json - && echo $(ARTIFACTS)/sbom/$$image.cdx.json; done

## ---------------------------------------------------------------- tests

# alpaca_eval, lm_eval and MLflow, in an environment of their own that checkouts share.
BENCHMARKS := $(SRR_CACHE)/benchmarks/$(shell cat requirements/benchmarks.txt | sha256sum | cut -c1-16)

$(BENCHMARKS): | $(UV)
	@'$(UV)' venv --quiet --clear --relocatable --python '$(PYTHON)' '$@.part'
	@'$(UV)' pip install --quiet --python '$@.part/bin/python' --no-deps --require-hashes --requirement requirements/benchmarks.txt
	@rm -rf '$@' && mv '$@.part' '$@'

.PHONY: benchmarks
benchmarks: $(BENCHMARKS) ## Install the real benchmarks and trackers that test-local starts; prints their folder
	@echo '$(BENCHMARKS)'

.PHONY: test
test: env ## All checks and tests, with the seconds of each part
	@$(PYTHON) .ci/parts.py --reports $(REPORTS) --beside cluster-ready check test-unit test-local test-cluster

.PHONY: test-unit
test-unit: env ## Unit, controller and golden tests: about a minute, no torch, no S3 server (JOBS=n: processes)
	@$(PYTEST) -q -n $(JOBS) --dist worksteal --timeout 300 --junitxml $(REPORTS)/test-unit.xml $(UNIT_TESTS)

.PHONY: test-local
test-local: env ## What needs real programs, on this machine alone: S3 servers, processes as pods, training, vLLM, a small whole run
	@$(PY) -m selfrewarding.local.packaged_model $(MODEL)
	@! command -v go >/dev/null || $(TESTBED) build versitygw || true  # without it, the store's tests say so
	@$(PYTEST) -q --timeout 2400 --junitxml $(REPORTS)/test-local.xml tests/local

.PHONY: test-cluster
test-cluster: env ## The operator on a real Kubernetes node (skips, saying why, where none can run: Debian, root, Go)
	@$(PYTEST) -q --timeout 3600 --junitxml $(REPORTS)/test-cluster.xml tests/cluster tests/golden/chart

.PHONY: test-chaos
test-chaos: env cluster-up images ## Kill pods, the operator and containerd at random in one run after another (MINUTES=60)
	@$(PY) -m tests.cluster.end_to_end.chaos --minutes $(MINUTES)

.PHONY: versitygw
versitygw: ## Build the S3 server that tests/local/store then uses beside moto (needs Go)
	@$(TESTBED) build versitygw

.PHONY: bench
bench: env ## Benchmarks: ratios, and the operator's own numbers (about 25 minutes; see tests/bench/RESULTS.md)
	@$(PY) -m selfrewarding.local.packaged_model $(MODEL)
	@$(PY) tests/bench/rouge_filter.py
	@$(PY) tests/bench/store_transfer.py
	@$(PY) tests/bench/rollout_client.py --model $(MODEL)
	@$(PY) tests/bench/explain_speed.py
	@$(PY) tests/bench/operator_numbers.py
	@$(PY) tests/bench/report_build.py

.PHONY: bench-kill
bench-kill: env ## kill -9 in the middle of every stage of a small run, compared with an undisturbed one
	@$(PY) tests/bench/kill_every_stage.py

.PHONY: check
check: env ## Format, lint, types, import borders, and that generated files are up to date
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/deptry --no-ansi operator/selfrewarding images/trainer/srr_trainer images/sampler/srr_sampler
	@$(MAKE) generate
	@git diff --exit-code --stat -- $(GENERATED) || { \
	    echo 'Generated files were out of date: `make generate` has just written them. Look at the diff, then git add it.' >&2; exit 1; }

.PHONY: format
format: env ## Format and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: generate
generate: env ## Write the generated files again: CRD and golden files
	@$(BIN)/srr crd > crds/selfrewardingruns.yaml.part && mv crds/selfrewardingruns.yaml.part crds/selfrewardingruns.yaml
	@cp crds/selfrewardingruns.yaml charts/selfrewarding-operator/files/
	@$(PYTEST) -q -p no:cacheprovider --snapshot-update tests/golden

.PHONY: clean
clean: ## Remove caches and reports (not .venv, not runs)
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build $(REPORTS)
	@find operator images tests -name __pycache__ -type d -prune -exec rm -rf {} +
