# Every target does its own set-up. Needs: Python 3.11 or newer, pip, make, git.
# A CPU-only torch saves gigabytes; the first screen of README.md says how to get one. PIP_ARGS goes to pip:
# make demo PIP_ARGS="--extra-index-url <index>"

PYTHON ?= python3
PIP_ARGS ?=
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check dev bench mutate docs clean

$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.base  ## from nothing to the verdict of the support example, in ./demo
	test -e demo/metier.toml || $(BIN)/metier init demo --from support
	$(BIN)/metier run -C demo

dev: $(VENV)/.dev  ## everything that benchmarks, oracles and checks need

check: $(VENV)/.dev  ## lint, types, import contracts, house style, frozen surface, help pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python checks/style.py
	$(BIN)/python checks/surface.py
	$(BIN)/python checks/help_pages.py --check
	$(BIN)/python checks/cost_table.py --check

docs: $(VENV)/.dev  ## write the generated pages again
	$(BIN)/python checks/help_pages.py
	$(BIN)/python checks/schemas.py
	$(BIN)/python checks/cost_table.py

test: $(VENV)/.dev  ## the default suite: CPU, no network beyond the package index, about fifteen minutes on two cores
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

mutate: $(VENV)/.dev  ## every mutant must be caught by its own error
	$(BIN)/python -m pytest tests/mutants -p no:randomly

bench: $(VENV)/.dev  ## the long measurements; prints one JSON object each
	$(BIN)/python benchmarks/decision_rates.py --json
	$(BIN)/python benchmarks/curve_backtest.py --json
	$(BIN)/python benchmarks/curve_tuned.py --json
	$(BIN)/python benchmarks/loraland.py --json
	$(BIN)/python benchmarks/tune_speed.py --json
	$(BIN)/python benchmarks/preference.py --json
	$(BIN)/python benchmarks/plan_accuracy.py --json
	$(BIN)/python -m pytest -m quiet tests/tune/test_plan_holds.py
	$(BIN)/python benchmarks/trunk_cache.py --json
	$(BIN)/python checks/cost_table.py
	$(BIN)/python benchmarks/decode_speed.py --json
	$(BIN)/python benchmarks/ledger_speed.py --json
	$(BIN)/python benchmarks/split_speed.py --json
	$(BIN)/python benchmarks/private_recall.py --json
	$(BIN)/python benchmarks/reading.py --json
	$(BIN)/python benchmarks/annotators.py --json
	$(BIN)/python benchmarks/near_duplicates.py --json
	$(BIN)/python benchmarks/governed_rows.py --json
	$(BIN)/python benchmarks/label_errors.py --json

clean:  ## remove the virtual environment and tool caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build
