# `make help` lists the targets. Everything happens in a virtual environment inside the tree.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.14.1 torchvision==0.29.1
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
PYTEST_ARGS ?=
MUTATE_ARGS ?=
# Half of the GPUs as machine code, the newer ones by PTX: a fifth of the time that all would take.
export TORCH_CUDA_ARCH_LIST ?= 8.0;9.0+PTX

PY := $(VENV)/bin/python
# Python compiles what it imports, not pip the thousands of files that nobody will.
INSTALL := $(PY) -m pip install --disable-pip-version-check --no-input --quiet --no-compile
CPP := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
EMULATOR := $(shell find tests/emulator tests/primitives -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
BUILD_INPUTS := $(CPP) setup.py pyproject.toml tools/cuda_toolkit.py

.DEFAULT_GOAL := help
.PHONY: help demo test sanitize emulator-asan emulator-tsan emulator-report mutate cuda-report cuda-budget
.PHONY: build lint lint-style lint-types lint-cpp format clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    install, build, train LeNet-5 on handwritten digits, check every operator"
	@echo "make test    install, build, run the tests, fast ones first; PYTEST_ARGS='-k conv2d'"
	@echo "make sanitize  a part of these tests on emulated CUDA kernels, under ASan and UBSan, then TSan"
	@echo "make emulator-report  what memory requests of the CUDA kernels cost, counted emulated"
	@echo "make cuda-report  what nvcc made of the CUDA kernels, against their promises and budget"
	@echo "make cuda-budget  the same, and make the budget what there is"
	@echo "make mutate  plant mistakes in the CUDA kernels, one at a time: do tests notice? An hour"
	@echo "make build   install into $(VENV) and build the library"
	@echo "make lint    ruff, mypy and clang-format, changing nothing"
	@echo "make format  ruff and clang-format, in place"
	@echo "make clean   remove what was built, but not $(VENV)"
	@echo
	@echo "Settings: PYTHON=$(PYTHON) VENV=$(VENV) JOBS=$(JOBS) TORCH='$(TORCH)'"
	@echo "An environment that has a torch already: make test VENV=/path TORCH='torch torchvision'"

demo: build
	$(VENV)/bin/cnnops demo
	$(VENV)/bin/cnnops check
	$(VENV)/bin/cnnops info

# As many tests at a time as there are processors, up to 8. Threads that wait for each other sleep,
# instead of keeping the other tests from running.
test: export OMP_WAIT_POLICY := passive
test: build
	$(PY) -m pytest --exitfirst --numprocesses=$(JOBS) --maxprocesses=8 $(PYTEST_ARGS)

# Side by side, a process each.
sanitize: build
	@$(MAKE) --jobs=$(JOBS) --output-sync=target emulator-asan emulator-tsan

emulator-asan emulator-tsan: emulator-%: build
	$(PY) tests/emulator/sanitize.py $*

emulator-report: build
	$(PY) tests/emulator/report.py

mutate: build
	$(PY) tests/emulator/mutate.py $(MUTATE_ARGS)

build: $(VENV)/cnnops-built

cuda-report: build
	$(PY) tools/cuda_report

cuda-budget: build
	$(PY) tools/cuda_report --update

$(PY):
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "cnnops needs Python 3.10")'
	@$(PYTHON) -m venv $(VENV)

# What setup.py itself imports; torch first, since the library is built against it.
$(VENV)/cnnops-torch: | $(PY)
	@echo "Installing $(TORCH): a large download, some minutes"
	@$(INSTALL) $(TORCH) 'setuptools>=77' ninja
	@touch $@

$(VENV)/cnnops-built: $(BUILD_INPUTS) | $(VENV)/cnnops-torch
	@echo "Building cnnops with $(JOBS) jobs and installing what the demo and the tests need"
	@MAX_JOBS=$(JOBS) $(INSTALL) --no-build-isolation --editable '.[demo,test,dev]'
	@touch $@

lint: lint-style lint-types lint-cpp

lint-style: build
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

lint-types: build
	$(PY) -m mypy

lint-cpp: build
	@$(VENV)/bin/clang-format --dry-run -Werror $(CPP) $(EMULATOR) && echo "clang-format: no findings"

format: build
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CPP) $(EMULATOR)

clean:
	rm -rf build dist *.egg-info cnnops/*.so $(VENV)/cnnops-built
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis demo.png
	find benchmarks cnnops tests -name __pycache__ -prune -exec rm -rf {} +
