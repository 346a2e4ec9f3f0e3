# make demo runs the workflow on generated scenes, make test runs the tests; both set up .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CORES ?= 2
DATASET ?= voc2012
GPU_BENCHMARKS := cuda_extraction cuda_programs cuda_training

.PHONY: help setup demo new plan stale test kills bench photos test-gpu bench-gpu lint format clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(VENV)/complete  ## Set up .venv with pinned versions

$(VENV)/complete: envs/requirements-cpu.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r $<
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## Run the whole workflow on generated scenes (CPU, a few minutes)
	$(BIN)/snakemake --profile profiles/local --cores $(CORES) --config datasets='[demo]' --quiet rules host -- all
	@cat logs/demo/metrics.log
	@echo "report: results/demo/report.html"

new: setup  ## Look at a folder and write its config: make new NAME=mine FOLDER=/data/photos
	@$(BIN)/python -m workflow_scripts.new_dataset $(NAME) "$(FOLDER)" $(ARGS)

plan: setup  ## Print what a run of DATASET would do and need: make plan DATASET=voc2012
	@$(BIN)/python -m workflow_scripts.plan --dataset $(DATASET)

# Waiting OpenMP threads sleep instead of spinning, see rules/run.smk.
test: export GOMP_SPINCOUNT = 1000
test: setup  ## Lint, then run the tests, three at a time, because the tests of SLURM mostly wait
	@failed=""; \
	$(MAKE) --no-print-directory lint || failed="$$failed lint"; \
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder || failed="$$failed tests"; \
	if [ -n "$$failed" ]; then echo "make test: failed:$$failed" >&2; exit 1; fi

stale: setup  ## Print which jobs would run again, and why; ARGS are options for Snakemake
	@$(BIN)/python -m workflow_scripts.stale $(ARGS)

kills: setup  ## Kill jobs and Snakemake fifty times at random, and compare the outputs (an hour)
	$(BIN)/python -m tests.rules.kills $(ARGS)

bench: setup  ## Run the benchmarks and print a table
	$(BIN)/python -m tests.bench $(ARGS)

photos: setup  ## Measure on photographs with labels: make photos DATA=/data/voc WEIGHTS=name=file
	@$(if $(and $(DATA),$(WEIGHTS)),,echo "make photos: give DATA=FOLDER and WEIGHTS=NAME=FILE, see docs/tests.md" >&2; exit 2)
	$(BIN)/python -m tests.bench.photos --data "$(DATA)" $(WEIGHTS:%=--backbone "%") --cores $(CORES) $(ARGS)

test-gpu: setup  ## Compare every stage on a GPU with the CPU; ARGS: parts to run, see docs/tests.md
	$(BIN)/python -m tests.gpu $(ARGS)

bench-gpu: setup  ## Measure all stages on a GPU; ARGS: parts to run, see docs/tests.md
	$(BIN)/python -m tests.bench $(or $(ARGS),$(GPU_BENCHMARKS)) --json benchmarks/gpu.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules

format: setup  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

clean:  ## Remove all outputs of runs, including checkpoints, but not the downloads in data/
	rm -rf results logs benchmarks checkpoints data/demo .snakemake
