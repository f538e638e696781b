# Each target does all its own set-up on a fresh machine. VENV, PYTHON and MARK can be given.
VENV ?= .venv
PYTHON ?= python3
MARK ?= not gpu
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# torch's CPU threads spin while they wait for each other, which on a shared machine can cost a run tenfold
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lint

RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
demo: $(STAMP)
	$(BIN)/accelerate launch --num_processes 1 --mixed_precision no -m sfda_engine.adapt --run.output $(RUN) --run.export true
	$(BIN)/sfda-infer verify $(RUN)/bundle
	$(BIN)/sfda-infer run $(RUN)/bundle synthetic:640x480@100 --output $(RUN)/stream --save index,overlay,entropy

test: $(STAMP) lint
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m "$(MARK)" tests/kernels/triton
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$(MARK)"

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $(STAMP)
