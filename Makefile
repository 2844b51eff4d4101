# The two commands: `make campaign` and `make test`. Each installs what is missing and can be run again.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PARAMS ?= params.yaml
WORKSPACE ?= workspace
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin

.PHONY: help setup campaign test test-fast lint clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## Install system packages and both Python environments
	@scripts/setup

campaign: ## Run the campaign of params.yaml on this machine (PARAMS=file WORKSPACE=dir)
	@if [ "$$(id -u)" -ne 0 ]; then \
	    if command -v sudo >/dev/null; then exec sudo -E env "PATH=$$PATH" $(MAKE) campaign PARAMS=$(PARAMS) WORKSPACE=$(WORKSPACE); fi; \
	    echo "make campaign: needs root for network namespaces, cgroups and faults; without it you can score and report recorded cases: rcarena score, rcarena report" >&2; exit 1; \
	fi
	@scripts/setup
	@rcarena campaign --params $(PARAMS) --workspace $(WORKSPACE)

test: setup ## Run every test that can run here
	@.venv/bin/python -m pytest

test-fast: ## Run the unit tests only: no root, no stack
	@scripts/setup tasks
	@.venv/bin/python -m pytest -m "not privileged and not local_stack" -n auto

lint: ## Check style and types
	@scripts/setup tasks
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

clean: ## Take the stack down and undo faults; keeps recorded cases
	@rcarena inject --recover --workspace $(WORKSPACE); rcarena deploy down --workspace $(WORKSPACE)
