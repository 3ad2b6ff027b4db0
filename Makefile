.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z ]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 24

check: ## lint, types, contracts and the fast tests (some 90 s; one folder: bin/test --fast tests/NAME)
	@bin/test --fast

test: ## the whole suite (bin/test --long adds the campaigns)
	@bin/test

lint types contracts: ## one of these steps alone
	@bin/test --only $@

fast: ## the fast tests alone
	@bin/test --fast --only tests

format: ## let ruff format and fix
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

.PHONY: help check test lint types contracts fast format
