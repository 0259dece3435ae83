# rarelens in two commands: `make reproduce` and `make test`. `make help` lists all.
PYTHON ?=#     the interpreter to build .venv with (default: python3)
PRESET ?=#     a file of presets/, without .yaml
PORT ?= 8000#  where `make api` listens, on 127.0.0.1
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Without cached bytecode each of the twenty-odd processes of a run would compile torch anew, for ten seconds.
export PYTHONDONTWRITEBYTECODE :=
.DEFAULT_GOAL := help
.PHONY: help reproduce proof folds test app api lint bench lock

# .venv is built while this file is read: a failed check then ends make with status 1 and that check's one line
# (--question runs nothing), where a failed recipe would end it with status 2 and a line of make's own.
ifneq (,$(filter-out help,$(MAKECMDGOALS)))
ifeq (,$(findstring n,$(firstword -$(MAKEFLAGS))))
ifneq (ready,$(shell NEED_GB=$(NEED_GB) sh stages/runtime/setup.sh "$(PYTHON)" && echo ready))
MAKEFLAGS += --question
endif
endif
endif

help: ## list the targets
	@echo "rarelens: does synthetic data improve detection of a rare disease?"
	@sed -n 's/^\([a-z]*\):.* ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "Every target prepares .venv first, with python3 or with PYTHON=... (3.11, 3.12 or 3.13)."

reproduce: ## build everything that is not built: the default, or PRESET=smoke, ham10000-cpu, ... (presets/)
	@python -m stages.runtime.launch $(PRESET)

proof: ## the default's answer on other drawings, with ten seeds and twice the steps (presets/proof.yaml)
	@python -m stages.runtime.launch proof

folds: ## test on every lesion, fold by fold: PRESET=ham10000-folds
	@python -m stages.folds $(PRESET)

test: ## run the tests
	@python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

app: ## open the clinician's page
	@python -m streamlit run app/main.py

api: ## serve the same predictor over HTTP on 127.0.0.1, PORT=8000
	@python -m app.api $(PORT)

lint: ## check style and types
	@ruff check .
	@ruff format --check .
	@mypy

bench: ## measure speed and the base model's bars; writes reports/bench.md
	@python -m tests.bench

lock: ## resolve requirements.lock anew from pyproject.toml
	@.venv/uv/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock
