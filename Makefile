# The study's commands. `make repro` needs Python 3.11 to 3.14, git and make; everything else is installed into .venv.

PYTHON := .venv/bin/python
IN_VENV := PATH="$(CURDIR)/.venv/bin:$$PATH"
ECGLIB := $(IN_VENV) $(PYTHON) -m ecglib
.DEFAULT_GOAL := help
.PHONY: help repro test lab data real draw compare site bench lint lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile

repro: .venv/.ready  ## the whole study: data, every stage of dvc.yaml, report (JOBS=4: stages at once; V=1: all they print)
	@$(ECGLIB) repro
	@$(ECGLIB) where

test: .venv/.ready  ## all tests (TESTS=tests/zoo: some of them)
	@OMP_NUM_THREADS=1 $(IN_VENV) $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

lab: .venv/.ready data  ## JupyterLab on copies of the notebooks (LAB="--no-browser --ip=0.0.0.0": options of Jupyter)
	@$(ECGLIB) lab $(LAB)

data: .venv/.ready  ## the simulated hospitals, as data.dvc pins them
	@$(ECGLIB) data

real: .venv/.ready  ## the same study on real recordings: make real DATA=FOLDER
	@if [ -z "$(DATA)" ]; then echo "name the folder that holds the corpora: make real DATA=FOLDER" >&2; exit 2; fi
	@$(ECGLIB) real --data "$(DATA)"
	@$(ECGLIB) where --results results/real

draw: .venv/.ready  ## after repro: networks that draw ECGs, and how far these are from recorded ones (six minutes)
	@$(ECGLIB) run notebooks/16_generation.ipynb --params generation --out results/generation
	@$(ECGLIB) where

compare: .venv/.ready  ## what `dvc exp run -S NAME=NUMBER` changed: numbers and scores, without the files between them
	@$(IN_VENV) dvc exp show --only-changed --drop '/|Created' --no-pager

site: .venv/.ready  ## the reports and executed notebooks as one static folder, docs/site
	@$(ECGLIB) site

bench: .venv/.ready  ## speed against what a user would pick; writes docs/benchmarks.md
	@$(IN_VENV) $(PYTHON) -m benchmarks

lint: .venv/.ready  ## ruff
	@$(IN_VENV) ruff check . && $(IN_VENV) ruff format --check .

# After `.venv/bin/pip install --upgrade ...`: pins what is installed now. Packages of one family go in one command, so
# that pip resolves them together. Left out: pip itself, the CUDA libraries that torch brings where it finds a GPU.
lock: .venv/.ready  ## requirements.lock from .venv
	@$(PYTHON) -m pip check
	@$(PYTHON) -m pip freeze --all --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' \
	  | grep -viE '^(pip|wheel|triton|nvidia-.*|cuda-.*)==' | sed 's/+[a-z0-9.]*$$//' > requirements.lock.tmp
	@mv requirements.lock.tmp requirements.lock

clean:  ## what exploring and interrupted runs left (data/, results, your copies of notebooks and DVC's cache stay)
	@rm -rf .pytest_cache .ruff_cache build .data.part .data.old
	@if [ -d results/scratch ]; then find results/scratch -mindepth 1 -maxdepth 1 ! -name notebooks -exec rm -rf {} +; fi
	@if [ -d results ]; then find results -depth \( -name '*.part' -o -name '.*.old' \) -exec rm -rf {} +; fi

# An interrupted installation leaves .venv/.installing: the next call starts again from nothing.
.venv/.ready: requirements.lock pyproject.toml
	@if [ -e .venv/.installing ] || ! $(PYTHON) -m pip --version >/dev/null 2>&1; then rm -rf .venv; fi
	@if [ ! -d .venv ]; then \
	  for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then \
	      found=$$python; break; fi; done; \
	  if [ -z "$$found" ]; then \
	    echo "No Python 3.11 to 3.14 with venv here (on Debian: apt install python3-venv)." >&2; exit 1; fi; \
	  echo "Installing into .venv with $$($$found --version); this takes some minutes once."; \
	  mkdir .venv && touch .venv/.installing && $$found -m venv .venv; fi
	@touch .venv/.installing
	@$(PYTHON) -m pip install --disable-pip-version-check -r requirements.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm .venv/.installing
	@touch $@
