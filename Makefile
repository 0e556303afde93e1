# Two doors: `make run` starts the server, `make test` checks it. Each target does all of its own set-up in .venv, once.
PYTHON ?= python3
ARGS ?=
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test bench clients check clean
.DEFAULT_GOAL := run

run: .venv/.run
	@exec .venv/bin/titans3 run $(ARGS)

test: .venv/.dev
	.venv/bin/python tools/dev.py test

# Beside other servers: make bench ARGS="--peers minio --rows" (docs/performance.md).
bench: .venv/.dev
	.venv/bin/python tools/dev.py bench peers $(ARGS)

# The S3 clients of other makers that tests/clients drives; without them those tests skip, in CI they fail.
clients: .venv/.dev
	.venv/bin/python tools/clients.py

check: .venv/.dev
	.venv/bin/python tools/dev.py check

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "TitanS3 needs Python 3.11 or newer; name one with: make run PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is not here. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@rm -rf .venv
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml | .venv/bin/python
	@echo "Setting up .venv (once; some ten seconds)" >&2
	$(PIP) -e .
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@echo "Setting up .venv with the development tools (once; half a minute)" >&2
	$(PIP) -e '.[dev]'
	@touch $@ .venv/.run

clean:
	rm -rf .venv .clients build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
