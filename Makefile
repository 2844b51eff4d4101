# The commands: `make demo`, `make campaign` and `make test`. Each installs what is missing and can be run again.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PARAMS ?= params.yaml
WORKSPACE ?= workspace
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin

# Only the commands that build the stack run as root: what `make setup` installs belongs to the user.
define need_root
[ "$$(id -u)" -eq 0 ] || command -v sudo >/dev/null || { \
    echo "make $@: needs root for network namespaces, cgroups and faults; without it you can score and report recorded cases: rcarena score, rcarena report" >&2; exit 1; }
endef
define as_root
as_root=(); [ "$$(id -u)" -eq 0 ] || as_root=(sudo -E env "PATH=$$PATH"); "$${as_root[@]}"
endef

setup_tests = if [ "$$(id -u)" -eq 0 ]; then scripts/setup system tasks serve airflow; else scripts/setup tasks airflow; fi

# DVC asks for the user's name, which a container's user may not have.
fetch = LOGNAME="$${LOGNAME:-$$(id -un 2>/dev/null || id -u)}" dvc pull --quiet --remote shipped

.PHONY: help setup demo data campaign airflow airflow-down test test-all test-fast lint clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## Install system packages and both Python environments
	@scripts/setup

demo: ## Score and report 12 recorded cases that come with the repository: no root, no stack
	@scripts/setup tasks
	@$(fetch) data/demo/cases.dvc
	@rcarena score --params data/demo/params.yaml --workspace data/demo
	@rcarena report --params data/demo/params.yaml --workspace data/demo

data: ## Fetch the cases of every campaign that comes with the repository (data/)
	@scripts/setup tasks
	@$(fetch) $$(find data -name cases.dvc)

campaign: ## Run the campaign of params.yaml on this machine (PARAMS=file WORKSPACE=dir)
	@$(need_root)
	@scripts/setup
	@$(as_root) rcarena campaign --params "$(PARAMS)" --workspace "$(WORKSPACE)"

airflow: ## Start Airflow here, with the pods of KUBECONFIG's cluster or, without one, as processes of this machine
	@scripts/setup tasks airflow
	@if [ "$$(id -u)" -eq 0 ] && [ -z "$$KUBECONFIG" ]; then scripts/setup system serve; fi
	@.venv-airflow/bin/python scripts/airflow_local.py up $(if $(PORT),--port $(PORT))

airflow-down: ## End Airflow, its pods and the stack they left
	@.venv-airflow/bin/python scripts/airflow_local.py down

test: ## Run the tests that can run here but slow ones; without root, no real stack
	@$(setup_tests)
	@scripts/run-tests "not slow"

test-all: ## Run every test that can run here
	@$(setup_tests)
	@scripts/run-tests

test-fast: ## Run the unit tests only: no root, no stack, no Airflow
	@scripts/setup tasks
	@.venv/bin/python -m pytest -m "not slow and not privileged and not local_stack and not airflow" -n auto

lint: ## Check style and types
	@scripts/setup tasks
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

clean: ## Take the stack down and undo faults; keeps recorded cases
	@$(need_root)
	@$(as_root) rcarena inject --recover --workspace "$(WORKSPACE)"; \
	"$${as_root[@]}" rcarena deploy down --workspace "$(WORKSPACE)"
