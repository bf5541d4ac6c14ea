# Every target sets up what it needs: Python 3.11 or newer, git and make are enough.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: setup demo test test-slow check format bench stress stress-long audit pins clean

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $(READY)

# Draws a data set, trains a small Libra R-CNN on it, measures it and draws what it sees.
demo: $(READY)
	$(BIN)/python -c "import shutil; shutil.rmtree('runs/demo', ignore_errors=True)"
	$(BIN)/libradet data synthesize runs/demo/data --size 256 192 --train 320 --val 60
	$(BIN)/libradet train --config configs/demo.yaml --data runs/demo/data --out runs/demo/run

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

check: $(READY)
	$(BIN)/ruff format --check src tests benchmarks stress
	$(BIN)/ruff check src tests benchmarks stress
	$(BIN)/pyrefly check

format: $(READY)
	$(BIN)/ruff format src tests benchmarks stress
	$(BIN)/ruff check --fix src tests benchmarks stress

# Side by side with torchvision, less than half an hour on two cores; BENCH="--all --out docs/results/all" for more.
bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH)

# Campaigns that attack the system, a quarter of an hour on two cores; what is done already is not repeated.
CAMPAIGNS := kills files bad_data numbers long

stress: $(READY)
	@failed=0; for name in $(CAMPAIGNS); do $(BIN)/python -m stress.$$name $(STRESS) || failed=1; done; exit $$failed

# The same for a night.
stress-long: $(READY)
	@failed=0; for name in $(CAMPAIGNS); do $(BIN)/python -m stress.$$name --long $(STRESS) || failed=1; done; exit $$failed

# Asks a public database about the pinned packages, so it needs the network.
audit: $(READY)
	$(BIN)/python -m stress.audit

# Renews the pins from the ranges in pyproject.toml.
pins: $(READY)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-header --no-annotate \
		--no-emit-index-url --upgrade pyproject.toml -o requirements.txt

clean:
	rm -rf .venv runs build dist src/*.egg-info
