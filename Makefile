# Every target sets up what it needs and works in a fresh clone; all that is required is Python 3.11 or newer.

PYTHON ?= python3
RUNS   ?= 1
SEEDS  ?= 10000
ARGS   ?=
WHAT   ?= embedded

# Tests wait more than they work: for leases, for servers. The tests of a file stay together, and share their servers.
PARALLEL ?= 3

BIN   := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo servers test check crash simulate reliability reliability-brokers brokers bench clean

help:  ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## a virtual environment in .venv with everything for development

demo: $(READY)  ## the shop works off real orders; BROKER=nats on that server, ARGS="--headless --json" passes flags on
	$(BIN)/tidings demo $(if $(BROKER),--broker $(BROKER)) $(ARGS)

servers: $(READY)  ## what real servers need: root gets RabbitMQ by apt-get, everybody Kafka by Maven
	$(BIN)/tidings dev install

# A test of a server that is missing is skipped, with the reason; with CI=true it fails.
test: $(READY)  ## all tests, a short crash run among them; ARGS="-k name" passes flags on
	@$(BIN)/tidings dev install || true
	$(BIN)/python -m pytest -n $(PARALLEL) --dist loadfile $(ARGS)

check: $(READY)  ## lint, format, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright --warnings

crash: $(READY)  ## kill -9 in the middle of the work, RUNS=1 times, and count what was lost or doubled
	$(BIN)/python -m tests.crash --runs $(RUNS) $(ARGS)

CORES = $(shell getconf _NPROCESSORS_ONLN)

simulate: $(READY)  ## the engine in SEEDS=10000 simulated worlds of each flow of tests/sim, on all cores
	$(BIN)/tidings simulate tests.sim.shop:day --seeds $(SEEDS) --workers $(CORES) $(ARGS)
	$(BIN)/tidings simulate tests.sim.contested:day --seeds $(SEEDS) --workers $(CORES) $(ARGS)

reliability: $(READY)  ## the fault matrix; writes docs/reliability.md
	$(BIN)/python -m tests.matrix --write docs/reliability.md $(ARGS)

reliability-brokers: $(READY)  ## its rows on NATS, Valkey, RabbitMQ, Kafka and PostgreSQL; writes docs/reliability.md
	$(BIN)/python -m tests.matrix.brokers --write docs/reliability.md $(ARGS)

brokers: $(READY)  ## the shop on every broker; writes the table of docs/guide/brokers.md
	$(BIN)/python -m bench.which_broker --write docs/guide/brokers.md $(ARGS)

bench: $(READY)  ## the embedded broker beside hand-written raw loops; WHAT=brokers: real servers beside plain clients
	$(BIN)/tidings bench $(WHAT) $(ARGS)

clean:  ## remove the environment, caches and builds
	rm -rf .venv dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made anew when pyproject.toml changes; otherwise it costs nothing.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo '$(PYTHON) is older than 3.11: say which to use, such as make setup PYTHON=python3.13' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
