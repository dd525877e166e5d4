# Two commands need nothing but python3 (3.11 or newer) and a C toolchain:
#   make demo    watch the story          make test    run every check that can run here

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: demo test lint bench specs clean

demo: .venv/ready
	@$(BIN)/dkey demo

test: .venv/ready
	$(BIN)/python -m pytest -n auto

lint: .venv/lint-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python specs/draw.py --check

bench: .venv/ready
	$(BIN)/python bench/access.py
	$(BIN)/python bench/ble.py
	$(BIN)/python bench/lifecycle.py
	$(BIN)/python bench/ranging.py
	$(BIN)/python bench/attacks.py --quick

specs: .venv/ready
	$(BIN)/python specs/draw.py

.venv/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found"; \
		echo "  try: install python3.11, or run make PYTHON=/path/to/python3"; exit 2; }
	@echo "making .venv with the packages that dkey needs (once)"
	@$(PYTHON) -m venv .venv || { echo "error: Python cannot make a virtual environment"; \
		echo "  try: install the venv module (Debian: sudo apt install python3-venv)"; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

.venv/lint-ready: .venv/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lint]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
