# Two commands matter: `make dev` and `make test`. Each installs what it needs, given Python >= 3.12.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help dev test test-all lint types format bench docs sbom sync clean

# A uv on the PATH, or our own copy below .uv/; the interpreter is the first one that is new enough.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
PYTHON := $(shell for p in python3.13 python3 python3.14 python3.12 python; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null \
	  && $$p -c 'import sys; print(sys.executable)' && break; done)
export UV_PYTHON := $(PYTHON)
export UV_PYTHON_DOWNLOADS := never
# The tests start hundreds of processes; without stored bytecode each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
RUN := $(UV) run --frozen --all-extras

ARGS ?=

help:
	@echo "make dev     start everything on this machine: http://127.0.0.1:8080"
	@echo "make test    run the tests against real NATS and PostgreSQL servers (about 5 minutes on 2 cores)"
	@echo "make test-all  run the slow tests that make test leaves out (about 15 minutes more)"
	@echo "make docs    build the documentation site into site/"
	@echo "make sbom    list what the images contain, in CycloneDX format, in dist/"
	@echo "make lint | types | format | bench | clean"

dev: sync
	@$(RUN) rejoin dev $(ARGS)

PYTEST := $(RUN) pytest --dist loadfile
# One more process than processors: these tests wait for servers and clients for a third of their time.
TEST_PROCESSES := $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')

test: sync
	@echo "about 5 minutes on 2 cores; the tests start their own NATS and PostgreSQL servers" >&2
	@$(PYTEST) --numprocesses $(TEST_PROCESSES) -m "not slow" $(ARGS)

# Chaos, clusters, long fault tests, schemathesis, browsers, and the AI SDK in all versions.
test-all: sync
	@echo "about 15 minutes on 2 cores: the slow tests only; make test runs the others" >&2
	@$(PYTEST) --numprocesses $(TEST_PROCESSES) --longest-first --no-loadscope-reorder -m slow $(ARGS)

lint: sync
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) lint-imports --no-logo

types: sync
	@$(RUN) mypy

format: sync
	@$(RUN) ruff check --fix
	@$(RUN) ruff format

bench: sync
	@$(RUN) python -m bench $(ARGS)

docs: $(UV)
	@NO_MKDOCS_2_WARNING=1 $(RUN) --group docs mkdocs build --strict

# From uv.lock: every package of an image with its version and hashes. The features are those of the Dockerfile.
FEATURES_gateway := images api-docs mcp
FEATURES_runner := anthropic mcp
SBOM_DIR := dist
sbom: $(UV)
	@mkdir -p $(SBOM_DIR)
	@$(foreach image,gateway runner,file=$(SBOM_DIR)/sbom-$(image).cdx.json; \
	  $(UV) export --quiet --frozen --no-dev $(patsubst %,--extra %,$(image) $(FEATURES_$(image))) \
	    --format cyclonedx1.5 --output-file $$file >/dev/null && echo $$file || exit 1; )

sync: $(UV)
	@$(UV) sync --frozen --inexact --all-extras --quiet

.uv/bin/uv:
	@test -n "$(PYTHON)" || { echo "Rejoin needs Python 3.12 or newer on the PATH." >&2; exit 1; }
	@echo "fetching uv into .uv/" >&2
	@"$(PYTHON)" -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# A uv that the PATH has needs no rule of ours.
ifneq ($(UV),.uv/bin/uv)
$(UV):
endif

clean:
	rm -rf site .venv .uv .rejoin .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
