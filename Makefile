# make demo    the whole tool on real data, on this machine, in a few minutes
# make test    what CI runs: lint, types, imports, every test
# make lab     the notebooks, in JupyterLab
# make notebooks  run them and store them with their outputs
# make check   only lint, types and imports
# make chaos   kill workers, nodes and the server by the hundred, and count (long)
# make bench   how fast it is on this machine, beside what others take for the same: a quarter of an hour
# make peers   add to make bench what it compares with and nothing else here needs (Dask)
# make evaluate  how good predictions and advice are, beside others, on public data, simulated and on workers (long)
# make kernels the browser journeys with each supported release of ipykernel: 10 minutes
# make mutants every mutant of the ledger's functions, which the tests must kill: 10 minutes
# make faults  every pair of faults at every ledger call, its log cut at every byte: half an hour
# make clean   remove everything that make made
#
# Needs make and a Python from 3.11 to 3.13, nothing else. All is installed into .venv from pinned, hash-checked
# requirements: by uv where it is on PATH, else by pip. PYTHON=python3.12 picks the Python of a new .venv.

VENV := .venv
BIN := $(VENV)/bin
PYTHON := python3.13 python3.12 python3.11 python3
UV := $(shell command -v uv 2>/dev/null)

# The full installation has all that the demo needs, so the demo uses it where it is there.
DEV := $(VENV)/.installed-dev
DEMO := $(if $(wildcard $(DEV)),$(DEV),$(VENV)/.installed-demo)

# The pins decide alone. A caller's indexes, links, proxies and certificates stay; his constraints and places do not.
PINNED := env -u UV_CONSTRAINT -u UV_OVERRIDE -u UV_EXCLUDE_NEWER -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT \
	-u PYTHONPATH -u PYTHONHOME PIP_CONSTRAINT=/dev/null PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
	UV_PYTHON_DOWNLOADS=never
ifdef UV
INSTALL := $(PINNED) $(UV) pip install --quiet --python $(BIN)/python
else
INSTALL := $(PINNED) $(BIN)/python -m pip install --quiet --quiet --progress-bar off
endif

# Workers, kernels and servers are started by the hundred: each would compile all that it imports where bytecode is not kept.
export PYTHONDONTWRITEBYTECODE :=

SUITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

.PHONY: chaos help demo test check lab notebooks bench peers evaluate kernels mutants faults clean requirements

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

demo: $(DEMO)
	@$(BIN)/python -m toolkit.demo

# Three processes share the tests, file by file, since those with workers and browsers mostly wait. The longest files come first.
LONG := $(patsubst %,tests/acceptance/test_%.py,notebooks browser demo streams chaos cluster report limits client archive)
test: check
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(LONG) tests/acceptance tests/integration tests/unit

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

lab: $(DEV)
	$(BIN)/jupyter lab notebooks

# NOTEBOOKS=notebooks/01-quickstart.ipynb runs only that one.
notebooks: $(DEV)
	$(BIN)/python -m tests.notebooks $(NOTEBOOKS)

# BENCH="cpu sleep --rounds 3" measures less.
bench: $(DEV)
	$(BIN)/python -m tests.benchmarks $(BENCH)

peers: $(DEV)
	$(INSTALL) --no-build-isolation --editable '.[bench]'

# EVALUATE=--short takes a fraction of the draws. Public data are looked for in TOOLKIT_PUBLIC_DATA and in shared/data beside
# or above the checkout.
evaluate: $(DEV)
	$(BIN)/python -m tests.evaluation.bell --final $(EVALUATE)
	$(BIN)/python -m tests.evaluation.pollux --final $(EVALUATE)
	$(BIN)/python -m tests.evaluation.small --final $(EVALUATE)
	$(BIN)/python -m tests.evaluation.simulator $(EVALUATE)
	$(BIN)/python -m tests.evaluation.live $(if $(EVALUATE),--scale 0.1)

# SEED=2 picks another campaign, CHAOS="--minutes 2" a shorter one; CHAOS=--control runs plain Celery instead.
chaos: $(DEV)
	$(BIN)/python -m tests.chaos --seed $(or $(SEED),1) $(CHAOS)

# KERNELS="7.4.*" runs only those.
kernels: $(DEV)
	$(BIN)/python -m tests.kernels $(KERNELS)

mutants: $(DEV)
	$(BIN)/python -m tests.mutants

faults: $(DEV)
	LEDGER_FAULTS=all LEDGER_CUTS=all $(BIN)/python -m pytest tests/integration/test_ledger_faults.py \
		tests/integration/test_ledger_aof.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find toolkit tests notebooks -name __pycache__ -prune -exec rm -rf {} +

# The stamp is written last: an installation that failed or was interrupted is done again, and then puts every package
# anew, because one of them may be half there.
$(VENV)/.installed-%: requirements-%.txt pyproject.toml toolkit/_version.py
	@rm -f $(VENV)/.installed-*
	@$(call environment)
	@echo "Installing requirements-$*.txt into $(VENV)$(if $(UV), with uv,: a minute or two, with uv on PATH seconds) ..."
	@touch $(VENV)/.installing
	@$(INSTALL) $(if $(wildcard $(VENV)/.installing),--force-reinstall) --require-hashes --only-binary :all: -r $<
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@rm $(VENV)/.installing && touch $@

# An environment that works stays. One without a suitable Python, or whose making was interrupted, is made anew.
define environment
set -e; \
if $(BIN)/python -c '$(SUITS)' 2>/dev/null; then \
	if [ -n "$(UV)" ] || $(BIN)/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	if $(PINNED) $(BIN)/python -m ensurepip >/dev/null 2>&1; then exit 0; fi; \
fi; \
for candidate in $(PYTHON); do \
	$$candidate -c '$(if $(UV),,import ensurepip, venv; )$(SUITS)' 2>/dev/null || continue; \
	echo "Making $(VENV) with $$($$candidate --version) ..."; \
	if [ -n "$(UV)" ]; then \
		exec $(PINNED) $(UV) venv --quiet --clear --python "$$($$candidate -c 'import sys; print(sys.executable)')" $(VENV); \
	else \
		exec $(PINNED) $$candidate -m venv --clear $(VENV); \
	fi; \
done; \
echo "No Python from 3.11 to 3.13$(if $(UV),, with its venv module (Debian: apt install python3-venv)) among: $(PYTHON)." >&2; \
echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
exit 1
endef

# Pin what pyproject.toml asks for; UPGRADE=--upgrade takes newer releases too. The files name no index, so they install
# from whichever the reader uses.
COMPILE = $(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --group build \
	--no-emit-index-url --no-annotate --custom-compile-command "make requirements"

requirements:
ifndef UV
	$(error make requirements needs uv on PATH: pip install uv)
endif
	$(COMPILE) $(UPGRADE) --extra all --extra dev -o requirements-dev.txt
	$(COMPILE) --upgrade --extra cluster --extra tuning --extra demo --constraint requirements-dev.txt -o requirements-demo.txt
