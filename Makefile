# The common commands; each is one line that also works without make.
.PHONY: help setup test lint format hooks quickstart notebooks matrix lock clean

help: ## lists the commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

setup: ## makes .venv with everything that developing needs
	bash scripts/setup.sh dev

test: ## linters, type checker and tests, as continuous integration runs them
	bash scripts/test.sh

lint: ## linters and type checker alone
	.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/pyright --pythonpath .venv/bin/python

format: ## formats and mends what can be mended
	.venv/bin/ruff check --fix && .venv/bin/ruff format

hooks: ## runs the linters before each commit
	.venv/bin/pre-commit install

quickstart: ## trains, evaluates and draws the small preset
	bash scripts/quickstart.sh

notebooks: ## executes the notebooks, and keeps their pictures in them
	.venv/bin/python scripts/notebooks.py

matrix: ## tests on every Python that is here, each in a fresh environment
	bash scripts/test_matrix.sh

lock: ## writes both locks anew, from fresh environments
	bash scripts/lock.sh

clean: ## removes caches and the environment, never runs
	rm -rf .venv .cache .hypothesis .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
