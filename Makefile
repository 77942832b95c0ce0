# Needs only make and Python 3.11 or newer; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install extras demo test test-extras test-lowest reliability bench verdicts corpus docs lint format lock clean

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Fewer and smaller steps than in the demo presets, which `python -m experiments.compare` uses without these flags.
demo: install
	$(BIN)/python -m experiments.compare --output runs/demo --backbones efficientnet_b0 resnet18 \
		--classification.image_size 64 --classification.epochs 6 --classification.batch_size 16 \
		--detection.epochs 5 --detection.batch_size 8 \
		--segmentation.image_size 128 --segmentation.eval_size 160 --segmentation.epochs 4

# One thread per worker: workers that each use all cores would wait for each other most of the time.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

# Tests every fault in full, with dozens of kills and thousands of damaged inputs, and writes docs/reliability.md.
# About twelve minutes, and longer for the trainings in several processes and on a Ray cluster.
reliability: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --reliability=docs/reliability.md

# Compares the speed with other implementations and writes docs/performance.md. About 25 minutes on an idle machine.
bench: extras
	$(BIN)/python -W ignore -m tests.benchmarks

# Trains the same networks with many seeds, counts how often verdicts are wrong, and writes docs/verdicts-measured.md.
# Several hours on two cores; finished trainings are kept in runs/verdicts.
verdicts: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.verdicts

# Trains what results/corpus.csv lacks of results/plan.yaml for MINUTES, the oldest gaps first, and writes docs/corpus.md.
# DATA is the folder of the data sets. WEIGHTS names networks with weight files of your own, as BACKBONE=FILE. It can be
# stopped at any time; the same command resumes.
MINUTES ?= 60
corpus: install
	code=0; $(BIN)/python -m experiments.corpus fill --data "$(DATA)" --minutes $(MINUTES) \
		$(if $(WEIGHTS),--weights $(WEIGHTS)) || code=$$?; \
	$(BIN)/python -m experiments.corpus page && exit $$code

# Builds the documentation site in build/site. Needs no network once the packages are installed. Fails on warnings, and
# on pages that load anything from another host.
docs: extras
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m tests.docs.check_site build/site

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Locks the newest versions, with hashes. Commit both files after `make test` passes. requirements.lock is for the
# package, `make test` and `make lint`. requirements-extras.lock is for the extras, at the same versions.
LOCK := pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --quiet --custom-compile-command "make lock"

lock: install
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv $(LOCK) --upgrade --extra test --extra lint --output-file requirements.lock
	$(BIN)/uv $(LOCK) --upgrade --extra bench --extra track --extra docs --extra formats --extra formats-test \
		--extra slurm --extra export --extra serve --constraints requirements.lock \
		--output-file requirements-extras.lock

# Installs the additional packages for benchmarks, trackers, Hugging Face data sets and the documentation site.
extras: .venv/extras

.venv/extras: .venv/installed requirements-extras.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-extras.lock
	touch $@

# Tests that need extras; `make test` skips them.
test-extras: extras
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/engine/test_loggers.py tests/data/test_hub.py \
		tests/engine/test_export.py tests/experiments/test_deployed.py tests/experiments/test_slurm.py \
		tests/experiments/test_serve.py tests/experiments/test_shortlist.py tests/data/test_shards_s3.py \
		$(wildcard tests/data/formats/test_huggingface*.py)

# Runs the tests, or those named in TESTS, on the lowest versions that pyproject.toml allows, in a separate environment.
LOWEST := .venv-lowest/bin

test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/python -m pip install --quiet uv
	$(LOWEST)/uv pip compile pyproject.toml --extra test --resolution lowest-direct --python $(LOWEST)/python --quiet \
		--output-file .venv-lowest/requirements.txt
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python -r .venv-lowest/requirements.txt
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --no-deps --editable .
	OMP_NUM_THREADS=1 $(LOWEST)/python -m pytest -n auto $(TESTS)

clean:
	rm -rf .venv .venv-lowest build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
