# Every target sets up what it needs: Python 3.11 or newer, git and make are enough.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: setup demo test test-slow coverage lowest check format bench docs figures dist check-dist stress stress-long audit runtimes dataset-tools pins clean

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $(READY)

# Generates a dataset, trains a small Libra R-CNN on it, evaluates it and draws its detections.
demo: $(READY)
	$(BIN)/python -c "import shutil; shutil.rmtree('runs/demo', ignore_errors=True)"
	$(BIN)/libradet data synthesize runs/demo/data --size 256 192 --train 320 --val 60
	$(BIN)/libradet train --config configs/demo.yaml --data runs/demo/data --output_dir runs/demo/run

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

# Line coverage of the default test suite.
coverage: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov=libradet --cov-report=term

# Smoke test with the oldest dependencies that pyproject.toml allows, in an environment of its own.
LOWEST := .venv-lowest/bin

lowest:
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct -e . \
		"pytest>=8.3" "hypothesis>=6.100" "beartype>=0.20"
	$(LOWEST)/python -m pytest tests/balance tests/geometry tests/models/test_zoo.py tests/models/test_detector.py \
		tests/cli/test_app.py

check: $(READY)
	$(BIN)/ruff format --check src tests benchmarks examples stress docs/figures.py
	$(BIN)/ruff check src tests benchmarks examples stress docs/figures.py
	$(BIN)/pyrefly check

format: $(READY)
	$(BIN)/ruff format src tests benchmarks examples stress docs/figures.py
	$(BIN)/ruff check --fix src tests benchmarks examples stress docs/figures.py

# Compares speed and memory with torchvision, at most 40 minutes; BENCH="--publish" also updates docs/results/speed.md.
bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH)

# Documentation site in build/site, without external resources; it can be opened from the folder.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

# Figures of the documentation.
figures: $(READY)
	$(BIN)/python docs/figures.py

dist: $(READY)
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist

# Tests the wheel in an empty environment.
check-dist: dist
	packaging/check_dist.sh dist requirements.txt $(BIN)/uv $(BIN)/python

# Stress tests and fuzzing, a quarter of an hour on two cores; recorded attempts are not repeated.
STRESS_TESTS := kills files bad_data numbers long

stress: $(READY)
	@failed=0; for name in $(STRESS_TESTS); do $(BIN)/python -m stress.$$name $(STRESS) || failed=1; done; exit $$failed

# The long forms, several hours.
stress-long: $(READY)
	@failed=0; for name in $(STRESS_TESTS); do $(BIN)/python -m stress.$$name --long $(STRESS) || failed=1; done; exit $$failed

# Known vulnerabilities of the pinned packages; needs the network.
audit: $(READY)
	$(BIN)/python -m stress.audit

# Runs exported detectors in other runtimes and writes the table of docs/runtimes.md; needs the network, node and g++.
runtimes: $(READY)
	$(BIN)/python -m benchmarks.runtimes $(RUNTIMES)

# Exports a dataset with other tools, reads the exports and writes the table of docs/dataset_tools.md; needs the network.
dataset-tools: $(READY)
	$(BIN)/python -m benchmarks.dataset_tools $(DATASET_TOOLS)

# Updates the pins from the ranges in pyproject.toml.
pins: $(READY)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-header --no-annotate \
		--no-emit-index-url --upgrade pyproject.toml -o requirements.txt

clean:
	rm -rf .venv .venv-lowest runs build dist src/*.egg-info
