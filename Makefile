# make run: the main job · make test: the tests in minutes · make test-all: the long ones, too
# make coverage: what the tests in minutes reach · make check: format, lint, types, imports
# make bench: how fast · make quality: how good · make chaos: runs disturbed at random
# make image: the container image
VENV := .venv
BIN := $(VENV)/bin
EXTRA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
# The first interpreter that both starts and has a supported version; PYTHON=... overrides.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; done)
# Bytecode is written at installation: without it every start of TensorFlow takes seconds longer.
PIP := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
# Three share a machine of two cores, since who waits for Slurm leaves its core to another; 0: the tests run
# in one process, where -s and --pdb work.
WORKERS ?= 3
PYTEST = pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder
# dnnjob's peers, which the benchmark compares it with, have an environment of their own.
PEERS := .venv-peers
BENCH_ARGS ?=
QUALITY_ARGS ?=
CHAOS_ARGS ?=
# make image IMAGE_TARGET=gpu ENGINE=podman IMAGE_ARGS="--build-arg BASE_IMAGE=..."
IMAGE_TARGET ?= $(EXTRA)
IMAGE_ARGS ?=
ENGINE ?= $(shell docker version >/dev/null 2>&1 && echo docker || echo podman)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# What git does not know yet is copied into the image, too.
COPIED := dnnjob docker requirements pyproject.toml README.md LICENSE
COMMIT = $(shell git rev-parse HEAD 2>/dev/null)$(if $(shell git status --porcelain -- $(COPIED) 2>/dev/null),-dirty)

.PHONY: run test test-all coverage check format bench quality chaos image clean

run: $(VENV)/.runtime-$(EXTRA)
	$(BIN)/dnnjob run jobs/diabetes.toml

test: $(VENV)/.dev
	$(BIN)/python -m $(PYTEST) $(PYTEST_ARGS)

test-all: $(VENV)/.dev
	$(BIN)/python -m $(PYTEST) -m "not slow" $(PYTEST_ARGS)

coverage: $(VENV)/.dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m $(PYTEST) $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort cover

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# One stamp for each kind: where a GPU has come since, tensorflow-cpu must go first.
$(VENV)/.runtime-$(EXTRA): requirements/$(EXTRA).txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "dnnjob needs Python 3.11, 3.12 or 3.13 on the PATH, or make PYTHON=/path/to/python3.11" >&2; exit 4; }
	$(PYTHON) -m venv $(if $(filter-out %-$(EXTRA),$(wildcard $(VENV)/.runtime-*)),--clear) $(VENV)
	$(PIP) install --compile --require-hashes -r requirements/$(EXTRA).txt
	$(PIP) install --compile --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime-$(EXTRA) requirements/dev.txt
	$(PIP) install --compile --require-hashes -r requirements/dev.txt
	touch $@

$(PEERS)/.installed: requirements/peers.txt
	$(PYTHON) -m venv $(PEERS)
	env -u PYTHONDONTWRITEBYTECODE $(PEERS)/bin/python -m pip --disable-pip-version-check --quiet install --compile -r $<
	touch $@

bench: $(VENV)/.runtime-$(EXTRA) $(PEERS)/.installed
	$(BIN)/python tests/bench/bench.py $(BENCH_ARGS)

quality: $(VENV)/.runtime-$(EXTRA)
	$(BIN)/python tests/bench/quality.py $(QUALITY_ARGS)

chaos: $(VENV)/.runtime-$(EXTRA)
	$(BIN)/python tests/chaos/chaos.py $(CHAOS_ARGS)

image:
	$(ENGINE) build --file docker/Dockerfile --target $(IMAGE_TARGET) --tag dnnjob:$(IMAGE_TARGET) \
		--build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) $(IMAGE_ARGS) .

clean:
	rm -rf $(VENV) $(PEERS) build *.egg-info
