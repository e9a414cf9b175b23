# Everything here works on a bare clone with nothing but Python 3.11 and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := -m pip -qq --disable-pip-version-check
# `make test ARGS="-k journal"` hands arguments on to pytest, demo and bench.
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help demo localstack test test-heavy chaos lint format bench bench-s3 clean

help: ## list what can be made
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.installed ## eight sums of primes, one after the other and in parallel
	@$(BIN)/python examples/sum_primes.py $(ARGS)

# In Docker if there is a daemon, else in an environment of its own in .bench/localstack.
LOCALSTACK_PORT ?= 4566
localstack: $(VENV)/.installed ## S3 and SQS on this machine, until Ctrl-C; LOCALSTACK_PORT=4566
	@exec $(BIN)/python localstack/start.py --port $(LOCALSTACK_PORT) $(ARGS)

# Most tests wait for processes more than they compute, so a few run side by side.
test: lint ## lint, type-check and run every test
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile $(ARGS)

test-heavy: .bench/heavy/.installed ## run the tests that need torch, pandas, Arrow and PIL
	@.bench/heavy/bin/python -m pytest tests/heavy $(ARGS)

chaos: $(VENV)/.installed-dev ## 50 rounds of kills, pauses and cuts on LocalStack; ARGS="--store radosgw --rounds 20"
	@$(BIN)/python -m tests.chaos.rounds --rounds 50 $(ARGS)

lint: $(VENV)/.installed-dev ## ruff and strict mypy
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || \
	    { echo "Some files are not formatted: run 'make format'." >&2; exit 1; }
	@$(BIN)/mypy

format: $(VENV)/.installed-dev ## sort imports, mend what ruff can mend, format
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

bench: $(VENV)/.installed .bench/ray/.installed ## measure CloudRay beside Ray 2.60, write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.run $(ARGS)

bench-s3: $(VENV)/.installed-dev .bench/lithops/.installed ## measure CloudRay beside Lithops and boto3 on LocalStack
	@$(BIN)/python -m benchmarks.storage.run $(ARGS)

clean: ## remove what these commands made
	@rm -rf $(VENV) .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment: made once, and again when pyproject.toml changes. The demo needs only the
# package; --group needs a newer pip than Python 3.11 brings.

$(VENV)/.pip:
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	    { echo "There is no '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "CloudRay needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python $(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.pip
	@echo "Installing CloudRay into $(VENV) ..."
	@$(BIN)/python $(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	@echo "Installing the development tools into $(VENV) ..."
	@$(BIN)/python $(PIP) install --group dev
	@touch $@

# Ray lives in an environment of its own, under the same Python as CloudRay.
.bench/ray/.installed: pyproject.toml | $(VENV)/.pip
	@echo "Installing Ray into .bench/ray ..."
	@$(BIN)/python -m venv .bench/ray
	@.bench/ray/bin/python $(PIP) install --upgrade 'pip>=25.1'
	@.bench/ray/bin/python $(PIP) install --group bench-ray
	@touch $@

.bench/lithops/.installed: pyproject.toml | $(VENV)/.pip
	@echo "Installing Lithops into .bench/lithops ..."
	@$(BIN)/python -m venv .bench/lithops
	@.bench/lithops/bin/python $(PIP) install --upgrade 'pip>=25.1'
	@.bench/lithops/bin/python $(PIP) install --group bench-lithops
	@touch $@

# So do torch, pandas, Arrow and PIL. PyPI's torch for Linux brings all of CUDA along; without it:
# make test-heavy TORCH="--extra-index-url https://download.pytorch.org/whl/cpu torch"
TORCH ?= torch
.bench/heavy/.installed: pyproject.toml | $(VENV)/.pip
	@echo "Installing torch, pandas, Arrow and PIL into .bench/heavy ..."
	@$(BIN)/python -m venv .bench/heavy
	@.bench/heavy/bin/python $(PIP) install --upgrade 'pip>=25.1'
	@.bench/heavy/bin/python $(PIP) install --editable . --group test $(TORCH) pandas pyarrow pillow
	@touch $@
