# Everything runs in .venv, which is made when it is not there or pyproject.toml is newer.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := bitsnn_jax configs docs/hooks.py docs/notebooks.py docs/tables examples tests benchmarks experiments train.py convert.py compare.py export.py
DEMO := runs/digits_resnet

.PHONY: demo test test-all fuzz kill check format lint types doctest docs notebooks wheel clean

demo: .venv/ready
	$(BIN)/python train.py --config configs/digits_resnet.py --workdir $(DEMO)
	$(BIN)/python convert.py --ckpt $(DEMO)

test: check
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: check
	$(BIN)/python -m pytest -n 2

fuzz: .venv/ready # thousands of damaged files, read by every reader: ten minutes
	$(BIN)/python -m pytest -n 0 -s tests/fuzz

kill: .venv/ready # commands killed at random moments, some ten minutes
	$(BIN)/python -m pytest -s tests/kill

check: lint types doctest

lint: .venv/ready
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

format: .venv/ready
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

types: .venv/ready
	$(BIN)/pyrefly check

doctest: .venv/ready
	$(BIN)/python -m pytest --doctest-modules --doctest-ignore-import-errors bitsnn_jax

docs: .venv/docs # the site, in site/
	$(BIN)/mkdocs build

notebooks: .venv/docs # those of examples/, run from top to bottom
	$(BIN)/python docs/notebooks.py

wheel: .venv/wheel # and the sdist, in dist/
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

.venv/wheel: .venv/ready
	$(BIN)/python -m pip install --quiet build twine
	touch $@

.venv/ready: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
	'bitsnn_jax needs Python 3.11 or newer: make PYTHON=python3.11')"
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[digits,nir,stablehlo,test]'
	touch $@

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache
