# `make repro` and `make test` need Python 3.11 or newer, git and make, and nothing else.
PYTHON ?= python3
PORT ?= 5000
# Stages at a time; nothing: as tools/repro.py chooses.
JOBS ?=
# A folder of grids/; nothing: the grid at the top.
GRID ?=
AT = cd "$(if $(GRID),grids/$(GRID),.)" &&
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check
# What stages and DVC import, in two halves.
IMPORTED = 'trl.trainer.grpo_trainer, trl.trainer.sft_trainer, transformers.models.qwen2_vl.modeling_qwen2_vl' \
	'mlflow.store.tracking.sqlalchemy_store, mlflow.tracking.client, dvc.cli, dvc.repo, pandas, scipy.stats, matplotlib.pyplot'
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help repro mine verify test test-grid test-all torture bench bench-dag operators lint setup ui report docs setup-docs publish lock

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

repro: setup ## Run the pipeline on the grid of params.yaml, or GRID=, JOBS= stages at a time (none: 2, with a GPU 1)
	$(AT) python -m tools.repro $(if $(JOBS),--jobs $(JOBS))

mine: setup ## From IMAGES= (a folder per class) to a verdict; MODEL=embedded, laptop or gpu, QUESTION=, SHOTS=, FOLDS=
	@python -m tools.mine $(if $(MODEL),--model $(MODEL)) $(if $(NAME),--name $(NAME)) $(if $(QUESTION),--question "$(QUESTION)") \
		$(if $(SHOTS),--shots $(SHOTS)) $(if $(FOLDS),--folds $(FOLDS)) $(if $(JOBS),--jobs $(JOBS)) "$(IMAGES)"

verify: setup ## Rebuild CELL= (none: all) from nothing in a clone of HEAD, compare with dvc.lock; RECORD=1 notes it
	$(AT) python -m tools.verify $(if $(JOBS),--jobs $(JOBS)) $(if $(RECORD),--record) $(CELL)

test: setup ## Run the tests
	python -m pytest -n 2 --dist loadfile

test-grid: setup ## Run the tests that run a small grid by DVC
	python -m pytest -n 2 --dist loadfile -m "grid and not slow and not torture"

test-all: setup ## Run all tests but the torture: those of grids and the slow ones too
	python -m pytest -n 2 --dist loadfile -m "not torture"

torture: setup ## Kill stages fifty times at random moments; their bytes must not change
	python -m pytest -m "torture or not torture" tests/test_torture.py

bench: setup ## Time the shared-prefix trainer against TRL's own, side by side
	python -m benchmarks.shared_prefix

bench-dag: setup ## Time DVC on a grid of the paper's size, with commands that do nothing
	python -m benchmarks.dag_size --way "tools.dvc repro" --way "tools.repro --jobs 2"

operators: setup ## Note anew which operators of PyTorch the stages call, and their bits (tests/operators.json)
	python -m tools.operators record

lint: setup ## Check format and style
	ruff check .
	ruff format --check .

setup: .venv/.complete ## Create .venv with the exact versions of requirements.lock

ui: setup ## Open the MLflow UI on 127.0.0.1 (PORT=5000)
	@echo "http://127.0.0.1:$(PORT)/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=cells (Ctrl-C stops it)"
	$(AT) MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 \
		--backend-store-uri "sqlite:///$$PWD/mlflow.db" --default-artifact-root "$$PWD/mlruns" \
		--host 127.0.0.1 --port $(PORT)

report: setup ## Build what the report lacks, and the report: metrics/report/report.html, to look at and to send
	$(AT) python -m tools.repro $(if $(JOBS),--jobs $(JOBS)) html_report
	@echo "$(if $(GRID),grids/$(GRID)/)metrics/report/report.html"

docs: setup-docs ## Build the documentation site: site/index.html, to look at and to serve
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build --strict
	@echo "site/index.html"

setup-docs: .venv/docs/.complete ## Create .venv/docs with the exact versions of extra `docs` of pyproject.toml

publish: setup ## Write to MLflow what it could not take while stages ran
	$(AT) python -m tools.publish

lock: setup ## Write the versions in .venv to requirements.lock
	python -m pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+cpu$$/\1/' > requirements.lock

.venv/.complete: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("error: PYTHON: %d.%d is invalid; valid: 3.11 or newer, for instance make PYTHON=python3.11" % v[:2])'
	$(PYTHON) -m venv .venv
	@# pip unpacks one package after the other: two at a time, then what the lock does not name (torch's own libraries).
	xargs -P 2 -n 32 $(PIP) --no-deps --no-compile < requirements.lock
	$(PIP) --no-compile --constraint requirements.lock torch
	@# Compiled now, on two cores; all else when it is first imported.
	printf '%s\n' $(IMPORTED) | xargs -P 2 -I{} env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -W ignore -c 'import {}'
	touch $@

.venv/docs/.complete: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv/docs
	.venv/docs/bin/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*project["optional-dependencies"]["docs"], sep="\n")' > .venv/docs/requirements
	.venv/docs/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --requirement .venv/docs/requirements
	touch $@
