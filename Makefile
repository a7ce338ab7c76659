# Each target sets up .venv by itself; all it needs is Python >= 3.10 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= results/demo
READY := $(VENV)/.ready
PIP := $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt

# two workers with one thread each beat one with two on two cores
export OMP_NUM_THREADS ?= 1

.PHONY: demo test quick learning lint docs conformance compat wheel clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "sb3_mirl needs Python >= 3.10, this is " + sys.version)'
	@echo "Setting up $(VENV), once; about three minutes, most of them for downloads"
	@echo "  1/5 virtual environment, $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "  2/5 PyTorch"
	@$(PIP) torch
	@echo "  3/5 sb3_mirl and Stable-Baselines3"
	@$(PIP) -e .
	@echo "  4/5 Atari, the RL Zoo, plots"
	@$(PIP) -e '.[all]'
	@echo "  5/5 tools of the tests and the documentation"
	@$(PIP) -e '.[all,dev,docs]'
	@touch $(READY)

# The main job, five minutes: Figure 1, an agent that learns beside DQN, a minute of Atari (examples/demo.py)
demo: $(READY)
	@$(BIN)/python examples/demo.py --out $(OUT)

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

# The site, with its notebooks executed, in docs/_build/html; DOCS_EXECUTE=cache executes only those that have changed, off none
DOCS_EXECUTE ?= force
docs: $(READY)
	DOCS_EXECUTE=$(DOCS_EXECUTE) $(BIN)/python -m sphinx -W -n -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

# SB3's own tests of DQN, SAC, A2C and DDPG, with our classes in their place
conformance: $(READY)
	$(BIN)/python tests/conformance/run.py

# The oldest and the newest versions that pyproject.toml allows, and other Pythons (half an hour)
compat: $(READY)
	$(BIN)/python .ci/compat.py

wheel: $(READY)
	$(BIN)/python -m build --wheel --outdir dist

clean:
	rm -rf $(VENV) dist build results docs/_build
