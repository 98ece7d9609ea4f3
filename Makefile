# Every target sets up what it needs; a second call finds it done.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Processes of the tests. Each of them computes with one thread.
JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

CASES ?= 10000
SEED ?= 0
RECORD ?= results/fuzz.json

GPU_METHODS = sgd,adamw,muon,soap,shampoo,lngd,lngd-spectral

FINDINGS = $(wildcard findings/*.sh)

.PHONY: race gpu test test-all docs compatibility fuzz zoo findings lint format clean

race: $(READY)
	$(BIN)/lngd race --default

test: $(READY)
	$(PYTEST) -m "not slow and not browser"

# The rest: the whole tables, compilers, processes, a browser, many random cases.
# Compiled models have a process to themselves: the wrappers that check shapes in the others reach dynamo's recompile limit.
test-all: $(READY)
	$(PYTEST) -m "slow or browser" --ignore=tests/test_compiled.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_compiled.py

# The documentation site, in .site/index.html. A warning, such as a link that leads nowhere, is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean

# On a machine with a GPU: the numerics on it, launches and waits, then seconds of a step beside other optimizers, and of a run.
gpu: $(READY)
	LNGD_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/gpu
	$(BIN)/lngd overhead --device cuda --precision bfloat16 --models gpt2,resnet50-224,vit --methods $(GPU_METHODS) --out results/gpu
	$(BIN)/lngd race stdlib-charlm --device cuda --optimizers adamw,muon,lngd,lngd-spectral --out results/gpu/race

compatibility: $(READY)
	JAXTYPING_DISABLE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/compatibility -k test_cell --write-page docs/compatibility.md

# Random models, settings and data; exit status 1 if a promise is broken.
fuzz: $(READY)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.run --cases $(CASES) --seed $(SEED) --out $(RECORD)

# Every model type of transformers that can be made tiny; half an hour. Types that the archive has are not tried again.
zoo: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m lngd_bench.studies.zoo --out results

# What surprised us about other people's software: is it still so? Each downloads what it pins; no test runs them.
findings:
	@changed=; for finding in $(FINDINGS); do \
		echo "== $$finding"; \
		bash "$$finding" || changed="$$changed $$finding"; \
	done; \
	if [ -n "$$changed" ]; then echo "changed:$$changed"; exit 1; fi; \
	echo "none has changed"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md docs src tests bench findings

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
