# Each target sets up .venv by itself; all it needs is Python >= 3.10 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= results/demo
READY := $(VENV)/.ready

# two workers with one thread each beat one with two on two cores
export OMP_NUM_THREADS ?= 1

.PHONY: demo test quick learning lint conformance compat wheel clean

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (a few minutes, once)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "sb3_mirl needs Python >= 3.10, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $(READY)

# The main job: the gridworlds of Figure 1, then MIRL on Breakout with progress bar and TensorBoard
demo: $(READY)
	$(BIN)/python examples/reproduce_gridworlds.py --out $(OUT)/gridworlds
	OMP_NUM_THREADS=2 $(BIN)/python examples/quickstart.py --out $(OUT)/breakout

test: $(READY) lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not learning" --durations=12
	$(BIN)/python tests/conformance/run.py

quick: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not slow and not learning"

# The one-liners of the README with their defaults, three seeds each (a quarter of an hour)
learning: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m learning --durations=0

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

# SB3's own tests of DQN, SAC, A2C and DDPG, with our classes in their place
conformance: $(READY)
	$(BIN)/python tests/conformance/run.py

# The oldest and the newest versions that pyproject.toml allows, and other Pythons (half an hour)
compat: $(READY)
	$(BIN)/python .ci/compat.py

wheel: $(READY)
	$(BIN)/python -m build --wheel --outdir dist

clean:
	rm -rf $(VENV) dist build results
