# make demo: from a fresh clone to a report. make test: the suite CI runs. Both install first.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin
CORES ?= all

.PHONY: install demo locked-demo test test-all test-cluster lint clean docs bench gpu mini mini-bundle

install: $(STAMP)

# -c pins every package, so torch is never upgraded behind our back.
$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "novelview needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(RUN)/python -m pip check
	touch $@

# The lock makes it safe to clear what a killed run left behind: no other `make demo` can be at work here.
demo: $(STAMP)
	@flock --nonblock --close --conflict-exit-code 75 $(VENV)/.demo.lock $(MAKE) --no-print-directory locked-demo || \
	  { status=$$?; [ $$status -ne 75 ] || echo "error: another make demo is running in this folder; wait for it"; exit $$status; }

locked-demo:
	@[ -z "$$(ls .snakemake/locks 2>/dev/null)" ] || $(RUN)/snakemake --unlock --quiet all 2>/dev/null
	$(RUN)/snakemake --cores $(CORES) --quiet rules --config study=less3depend scale=demo
	@echo "The report: results/demo/less3depend/report/index.html"

test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(STAMP)
	$(RUN)/python -m pytest

# Needs root and the Debian packages slurm-wlm and munge, and says so where they are missing; test-all skips these tests there.
test-cluster: $(STAMP)
	NOVELVIEW_REQUIRE_CLUSTER=1 $(RUN)/python -m pytest tests/cluster

lint: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/snakefmt --check Snakefile workflow
	git ls-files -z | xargs -0 $(RUN)/codespell
	$(RUN)/pyright
	$(RUN)/snakemake --lint

docs: $(STAMP)
	$(RUN)/python tools/config_reference.py > docs/config.md
	$(RUN)/python tools/dvc_yaml.py > dvc.yaml

bench: $(STAMP)
	$(RUN)/python bench/preprocess.py
	$(RUN)/python bench/rooms.py
	$(RUN)/python bench/training.py
	$(RUN)/python bench/rasterizer.py

# On a machine with a GPU: training steps, kernels against float64, bits repeated 200 times, times against the alternatives;
# 9 minutes. GPU_PYTHON may be any Python with torch, triton and numpy (whole models then need BUNDLE, see mini-bundle).
# TABLE=1 replaces the dispatch table by what was measured.
GPU_PYTHON ?= $(RUN)/python
gpu:
	$(GPU_PYTHON) bench/kernels_gpu.py $(if $(BUNDLE),--bundle '$(BUNDLE)') $(if $(TABLE),--write-table)

# The mini scale within a budget; docs/mini.md. STATE: a folder that carries what is done to the next call, on any machine.
# BUNDLE: wheels of `make mini-bundle`, for a PYTHON that has torch, triton and numpy and nothing else.
BUDGET_MINUTES ?= 0
STATE ?=
SET ?=
BUNDLE ?=
BUNDLE_PYTHON ?= 3.12
BUNDLE_PLATFORM ?= x86_64
# Snakemake wants a home, which a user without an entry in the password file has not.
export HOME ?= $(CURDIR)/.venv
MINI = --minutes $(BUDGET_MINUTES) --cores $(CORES) $(if $(STATE),--state '$(STATE)') $(if $(SET),--set '$(SET)')
mini: $(if $(BUNDLE),,$(STAMP))
	@PYTHONPATH=src:kernels:workflow:tools $(if $(BUNDLE),$(PYTHON) -m carry.bare '$(BUNDLE)' .bare --,$(RUN)/python -m carry) $(MINI)

mini-bundle: $(STAMP)
	PYTHONPATH=tools $(RUN)/python -m carry.bundle $(or $(BUNDLE),bundle) --python $(BUNDLE_PYTHON) --platform $(BUNDLE_PLATFORM)

# Results, data and caches; the environment and downloaded weights stay.
clean:
	rm -rf data results checkpoints logs benchmarks .snakemake

environment.yml: constraints.txt
	$(RUN)/python tools/config_reference.py --environment constraints.txt > $@
