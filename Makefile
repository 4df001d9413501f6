# Every target makes .venv when it is missing and is quick when it is not.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEV := .venv/.dev
export OMP_NUM_THREADS ?= 2

.PHONY: demo test slow soak lint bench docs clean

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[analysis]'
	touch $(READY)

# What tests, docs and linters need besides.
$(DEV): $(READY)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $(DEV)

demo: $(READY)
	$(BIN)/layergraft demo --out runs/demo

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -m "not slow and not soak"

slow: $(DEV)
	$(BIN)/pytest -m slow --durations=25

soak: $(DEV)
	$(BIN)/pytest -m soak

bench: $(READY)
	$(BIN)/layergraft bench step --objective mae
	$(BIN)/layergraft bench step --objective moco

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir runs/site

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
