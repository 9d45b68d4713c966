# Each target works from a fresh clone with nothing but Python: the virtual environment is made and filled as needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_QUIET ?= -q
# Processes that run the tests, with one thread each: small tensors gain nothing from a second one.
WORKERS ?= 2

.PHONY: demo test check docs bench gpu-day-dry release-check release-demo clean

demo: $(VENV)/.run
	$(BIN)/feataug demo --output runs/demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest --doctest-modules --doctest-glob='*.md' feataug docs -q

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

# The quick benchmarks on a CPU. Results go to benchmarks/results/; docs/performance.md is drawn from them.
bench: $(VENV)/.test
	for name in kernels_per_step label_conv mask_encoder mixed_step generator_step adam_and_compile data_loading growth import_time; do \
		$(BIN)/python -m benchmarks.$$name || exit 1; done
	$(BIN)/python -m docs.drawing.performance

# All that benchmarks/gpu_day.py runs on a GPU, on a CPU for a moment each.
gpu-day-dry: $(VENV)/.test
	$(BIN)/python -m benchmarks.gpu_day --dry --results runs/gpu-day-dry

# The archives of a release: what is in them, what they say of themselves, how the README is shown, how to cite.
release-check: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python .ci/check_release.py dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/cffconvert --validate

# As a user meets it: the wheel and all that it asks for in an empty environment, and the demo there. Takes gigabytes, and minutes.
release-demo: release-check
	$(PYTHON) -m venv --clear dist/empty
	dist/empty/bin/python -m pip install $(PIP_QUIET) dist/*.whl
	cd / && $(CURDIR)/dist/empty/bin/feataug demo --output $(CURDIR)/dist/demo

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_QUIET) -e .
	touch $@

$(VENV)/.%: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_QUIET) -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) dist build docs/_build docs/jupyter_execute docs/notebooks
