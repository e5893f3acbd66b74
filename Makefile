# Everything a newcomer needs: `make demo`, then `make test`. Each does its own set-up.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench clean

UV := $(shell command -v uv 2>/dev/null || echo .tools/uv/bin/uv)
# As pip does: a company's own certificate authority counts.
export UV_SYSTEM_CERTS ?= true
RUN := $(UV) run --frozen --no-sync

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv/ready ## Make the virtual environment, with the models the tests and the demo use

.venv/ready: pyproject.toml uv.lock $(filter .tools/%,$(UV))
	@echo "==> Installing Ragline and its models into .venv (the first time about 540 MB to download, 1.9 GB on the disk)"
	@$(UV) sync --quiet --frozen --all-groups --all-extras --compile-bytecode
	@$(RUN) python -m compileall -q src
	@touch $@

.tools/uv/bin/uv:
	@echo "==> uv is not installed; putting it into .tools/uv by pip"
	@python3 -m venv .tools/uv && .tools/uv/bin/pip install --quiet uv

demo: setup ## Ingest real documents, ask, show cited answers
	@$(RUN) python demo/run.py

TEST_WORKERS ?= 2

test: setup ## All tests; a missing engine is skipped here and fails with CI=true
	@echo "==> Running the tests"
	@$(RUN) pytest --durations=15 --durations-min=20 $(if $(filter-out 1,$(TEST_WORKERS)),-n $(TEST_WORKERS) --dist loadscope)

check: setup ## Format, lint, types, import layers
	@$(RUN) ruff format --check --quiet .
	@$(RUN) ruff check --quiet .
	@$(RUN) mypy
	@$(RUN) lint-imports

format: setup ## Rewrite the format
	@$(RUN) ruff format . && $(RUN) ruff check --fix .

bench: setup ## The benchmarks: BENCH="name …", DATA=folder of BEIR collections
	@$(RUN) python -m bench.run $(BENCH) $(if $(DATA),--data $(DATA))

clean: ## Remove what was built
	@rm -rf .venv .tools dist .mypy_cache .ruff_cache .pytest_cache
