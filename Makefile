# Every target makes its own virtual environment when there is none, or completes the one that is there.
#   make demo    the compiler at work on the zoo; results in demo-out/
#   make test    the tests, with coverage
#   make check   lint, format, types, import contracts
#   make bench   the benchmarks
# PYTHON chooses the interpreter of a new environment; PYTEST_ARGS is added to pytest's command line.

PYTHON ?= python3
PYTEST_ARGS ?=
WORKERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt
RUNTIME := .venv/.graphopt-runtime
DEV := .venv/.graphopt-dev

.PHONY: demo test check bench lint types imports tree clean
.NOTPARALLEL:

# torch comes first and pinned: a bare range would pull a CUDA build where an index offers one.
define install
	@test -x $(BIN)/python || { echo "making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing graphopt[$(EXTRAS)] into .venv"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) -e ".[$(EXTRAS)]"
endef

$(RUNTIME): EXTRAS := train
$(RUNTIME): pyproject.toml constraints.txt
	$(install)
	@touch $@

$(DEV): EXTRAS := train,dev
$(DEV): pyproject.toml constraints.txt
	$(install)
	@touch $(RUNTIME) $@

demo: $(RUNTIME)
	@$(BIN)/python -m graphopt.models.demo --out demo-out

test: export OMP_NUM_THREADS := 1
test: $(DEV)
	@$(BIN)/pytest --no-header -n $(WORKERS) --dist worksteal \
		--cov=graphopt --cov=passes --cov-report=term --cov-fail-under=90 $(PYTEST_ARGS)

bench: export OMP_NUM_THREADS := 1
bench: $(DEV)
	@test -d tests/bench || { echo "tests/bench has no benchmarks yet"; exit 1; }
	@$(BIN)/pytest --no-header tests/bench $(PYTEST_ARGS)

check: lint types imports

lint: $(DEV)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@echo "ruff: clean"

types: $(DEV) tree
	@$(BIN)/mypy

imports: $(DEV) tree
	@cd build/tree && ../../$(BIN)/lint-imports ../../pyproject.toml --no-cache --no-logo

# graphopt as it installs, in links, for tools that cannot follow an editable install's package-dir map.
tree:
	@rm -rf build/tree && mkdir -p build/tree/graphopt
	@ln -s "$(CURDIR)"/graphopt/* "$(CURDIR)/passes" "$(CURDIR)/models" build/tree/graphopt/

clean:
	@rm -rf build dist demo-out htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
