# Each target works from a fresh clone with nothing but Python: the virtual environment is made and filled as needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_QUIET ?= -q
# Processes that run the tests, with one thread each: small tensors gain nothing from a second one.
WORKERS ?= 2

.PHONY: demo test check docs bench clean

demo: $(VENV)/.run
	$(BIN)/feataug demo --output runs/demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest --doctest-modules --doctest-glob='*.md' feataug docs -q

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

# The quick set on a CPU: one script a claim, results in benchmarks/results/, the page docs/performance.md from them.
bench: $(VENV)/.test
	cd benchmarks && for script in label_conv mask_encoder mixed_step generator_step offered waiting growth import_time; do ../$(BIN)/python $$script.py || exit 1; done
	$(BIN)/python docs/draw_performance.py

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_QUIET) -e .
	touch $@

$(VENV)/.%: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_QUIET) -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) dist build docs/_build
