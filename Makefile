# Two commands do everything on a fresh machine: `make run` (the shipped suites, real packets) and `make test` (the harness's own
# tests). Both install what is missing first; see ci/bootstrap.

SHELL := /bin/sh
BIN := .venv/bin
# How many workers; two are enough to be quick and show that suites run side by side.
N ?= 2
# More words for pytest: make run ARGS="-k deny --cluster=memory"
ARGS ?=
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: run test test-kubernetes matrix-local check bench bench-kubernetes tools lock clean help runtime dev

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' Makefile

run: runtime  ## run the shipped suites in the netns lab, with real packets
	$(BIN)/pytest suites -n $(N) $(ARGS)

test: dev  ## run the harness's own tests
	$(BIN)/pytest tests -n $(N) $(ARGS)

test-kubernetes: dev  ## run the tests that need a cluster with Cilium: make test-kubernetes CONTEXT=kind-harness
	HARNESS_TEST_KUBE_CONTEXT=$(CONTEXT) $(BIN)/pytest tests/clusters/kubernetes tests/clusters/kind $(ARGS)

matrix-local: runtime  ## run CI's kind matrix here, one cluster after the other: make matrix-local ONLY=wireguard (needs docker, kind, helm)
	@mkdir -p build
	@$(BIN)/python ci/matrix --local $(if $(ONLY),--only "$(ONLY)") > build/matrix.sh || { rm -f build/matrix.sh; exit 1; }
	PATH="$(CURDIR)/$(BIN):$$PATH"; failed=0; while IFS= read -r job; do sh -xc "$$job" </dev/null || failed=1; done < build/matrix.sh; exit $$failed

check: dev  ## what CI runs beside the tests: ruff, mypy --strict, import contracts, links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python ci/check-links

bench: runtime  ## measure: prints a table, writes build/bench.json
	$(BIN)/python -m benchmarks $(ARGS)

bench-kubernetes: runtime  ## measure on a cluster with Cilium: make bench-kubernetes CONTEXT=kind-harness
	HARNESS_TEST_KUBE_CONTEXT=$(CONTEXT) $(BIN)/python -m benchmarks.kubernetes $(ARGS)

tools:  ## build the hubble client, Helm and actionlint (needs Go) into build/tools, for the tests that use them
	mkdir -p build/tools && cd ci/tools/hubble && go build -o ../../../build/tools/hubble .
	GOBIN="$(CURDIR)/build/tools" go install helm.sh/helm/v3/cmd/helm@v3.22.0
	GOBIN="$(CURDIR)/build/tools" go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

lock: dev  ## renew the lock files from pyproject.toml and requirements/dev.in
	$(BIN)/pip-compile -q --upgrade --generate-hashes --no-emit-index-url --no-emit-trusted-host --allow-unsafe --strip-extras --no-header --build-deps-for editable -o requirements/runtime.txt pyproject.toml
	$(BIN)/pip-compile -q --upgrade --generate-hashes --no-emit-index-url --no-emit-trusted-host --allow-unsafe --strip-extras --no-header -o requirements/dev.txt requirements/dev.in

clean:  ## remove everything that make made
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis allure-results *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

runtime:
	@ci/bootstrap runtime

dev:
	@ci/bootstrap dev
