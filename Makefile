# make demo    a shop's data, a trained model, recommendations out of Postgres
# make test    linters, types and tests on a real Postgres
# Both set themselves up: .venv holds Python packages, .recsys the embedded Postgres.

SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# A preset's data folder, such as ../shared/data/online_retail; none: the synthetic shop.
DATA ?=
# Wheels of torch without CUDA, a tenth of the size; empty: the default index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# Options of 'make bench-quality', such as "--data-set gowalla --set dim=128 --seeds 3".
QUALITY ?=
# Options of 'make bench-peers', such as "--seconds 60 --method recsys".
PEERS ?=
# Length of 'make soak'.
MINUTES ?= 10

.PHONY: help demo test lint tools shop-django shop-flask \
	bench bench-live bench-compression bench-web bench-quality bench-updates \
	bench-peers aa soak schema clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' $(MAKEFILE_LIST)
	@echo "make demo DATA=DIR    the same on the files of DIR (see examples/)"
	@echo "make shop-django, make shop-flask   a web shop to click through; PORT=8080"
	@echo "make bench   the measurements of docs/, as ratios within one run"
	@echo "make bench-live  live versions: a roll under load, freshness, capture, switches"
	@echo "make bench-compression  shorter indexes and vectors, eight bits: recall, latency, bytes"
	@echo "make bench-web   recommend() in gunicorn workers against bare SQL and libraries"
	@echo "make bench-quality  what the default trainer reaches, beside floors; QUALITY=OPTIONS"
	@echo "make bench-updates  full and incremental updates day by day, and the cost of publishing"
	@echo "make bench-peers  training speed and quality beside implicit, TFRS, RecBole; PEERS=OPTIONS"
	@echo "make aa      false alarms of A/A experiments that are looked at every day"
	@echo "make soak    changes, workers, backfills and crashes at random; MINUTES=10"
	@echo "make schema  rewrite sql/schema.sql after a change of the SQL"
	@echo "make lint    ruff and basedpyright only"
	@echo "make tools   PgBouncer and Chromium for the tests, with apt where it may"
	@echo "make clean   stop the embedded Postgres; remove .venv, .recsys and caches"

demo: $(STAMP)
	@$(BIN)/recsys demo $(if $(DATA),--data "$(DATA)")

# Tools first: what cannot be installed should be known at once.
# Half of the tests wait for Postgres: two at once. Threads of two that train at the
# same time would only wait for each other. What reads the clock runs alone.
test: tools lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not alone"
	$(BIN)/pytest -m alone

tools:
	@bash tests/tools.sh

shop-django: $(STAMP)
	@mkdir -p .recsys
	@$(BIN)/python examples/django_shop/run.py $(if $(PORT),--port $(PORT))

shop-flask: $(STAMP)
	@mkdir -p .recsys
	@$(BIN)/python examples/flask_shop/run.py $(if $(PORT),--port $(PORT))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: $(STAMP)
	$(BIN)/python -m benchmarks --part process --part serving --part reading \
		--part vocabulary --part memory
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=200000000 \
		OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks --part training --part catalogue

bench-live: $(STAMP)
	$(BIN)/python -m benchmarks --part roll --part freshness --part capture

bench-compression: $(STAMP)
	$(BIN)/python -m benchmarks --part compression --epochs 20
	$(BIN)/python -m benchmarks.eight_bits

bench-web: $(STAMP)
	$(BIN)/python -m benchmarks.web

bench-quality: $(STAMP)
	$(BIN)/python -m benchmarks.quality $(QUALITY)

bench-updates: $(STAMP)
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=200000000 \
		OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.updates

bench-peers: $(STAMP)
	@TORCH_INDEX="$(TORCH_INDEX)" $(BIN)/python -m benchmarks.peers $(PEERS)

aa: $(STAMP)
	$(BIN)/python -m benchmarks --part aa

soak: $(STAMP)
	$(BIN)/python tests/live/soak.py --minutes $(MINUTES)

schema: $(STAMP)
	$(BIN)/python tests/schema_dump.py

clean:
	@[ ! -x $(BIN)/python ] || $(BIN)/python -c \
		"from recsys import embedded; embedded.stop()" 2>/dev/null || true
	rm -rf $(VENV) .recsys .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@python=; for p in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$p; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Error: Python 3.11 or newer is needed; found: $$(python3 --version 2>&1)" >&2; \
		echo "Hint: install one and run 'make $(MAKECMDGOALS) PYTHON=/path/to/python3.11'" >&2; \
		exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "Error: $$python cannot make virtual environments" >&2; \
		echo "Hint: on Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$python" --version): torch, onnxruntime and an" \
		"embedded Postgres, once; a few minutes on a slow line"; \
	"$$python" -m venv $(VENV)
	@$(BIN)/pip install --disable-pip-version-check --retries 2 \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) 'torch==2.13.0'
	@$(BIN)/pip install --disable-pip-version-check -q -e '.[dev]'
	@touch $@
