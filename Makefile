# Every target sets up what it needs; a second call finds it done.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

CASES ?= 10000
SEED ?= 0
RECORD ?= docs/results/fuzz/record.json

.PHONY: race test compatibility fuzz lint format clean

race: $(READY)
	$(BIN)/lngd race --default

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore=tests/compatibility
	JAXTYPING_DISABLE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/compatibility

compatibility: $(READY)
	JAXTYPING_DISABLE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/compatibility -k test_cell --write-page docs/compatibility.md

# Random models, settings and data; exit status 1 if a promise is broken.
fuzz: $(READY)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.run --cases $(CASES) --seed $(SEED) --out $(RECORD)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md docs src tests

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml bench/pyproject.toml constraints.txt tests/second-opinion.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' -e './bench[peers,tensorboard]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/second-opinion.txt
	@touch $@

clean:
	rm -rf .venv
