# make demo    the main job on real models, side by side               make test    every test that needs no GPU
# make wheel   dist/spectralops-*.whl and the sdist                     make clean   back to the sources
#
# Both work in .venv, made here.  A torch that `python3` can already import is used as it is, never replaced.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt
TORCH_IS_NEW := import sys, torch; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9))
SITES := import site; print(*site.getsitepackages(), sep="\n")
SITE := import sysconfig; print(sysconfig.get_path("purelib"))
EXTRAS := import sys; from importlib.metadata import requires; \
  extra = lambda r: r.split("extra == ")[-1].strip("\"\x27 )"); \
  print(*[r.split(";")[0] for r in requires("spectralops") if extra(r) in sys.argv[1:]], sep="\n")
# Objects are kept, for the next build of the same sources: an editable install forgets its build folder.
ONCE := $(abspath $(PY));-I;-S;$(abspath tests/compile_once.py);$(abspath build/objects)
SOURCES := $(shell find csrc CMakeLists.txt setup.py pyproject.toml -type f -not -path '*/simt/*')

.DELETE_ON_ERROR:
.PHONY: demo test wheel clean

demo: $(VENV)/demo.stamp
	$(PY) -m spectralops.demo

# The tests of replace and of the demo run on the real packages too. Two workers share the cores: threads that wait must not spin.
test: $(VENV)/test.stamp $(VENV)/demo.stamp
	OMP_WAIT_POLICY=passive $(PY) -m pytest -q -m "not gpu" -n 2 --dist loadfile

wheel: $(VENV)/build.stamp
	rm -rf build/lib* build/bdist*
	SPECTRALOPS_CUDA_ARCHS="$${SPECTRALOPS_CUDA_ARCHS:-80;90;100;120}" \
	  $(PY) -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	$(PY) -c "from scikit_build_core.setuptools.build_meta import build_sdist; build_sdist('dist')" >build/sdist.log
	@ls -l dist

clean:
	rm -rf build dist $(VENV) python/*.egg-info python/spectralops/*.so .pytest_cache

# The virtual environment, with torch; where python3 is itself of a virtual environment, its packages by a path file.
$(VENV)/torch.stamp:
	@if $(PYTHON) -c '$(TORCH_IS_NEW)' 2>/dev/null; then \
	  echo "using the torch of $(PYTHON)"; $(PYTHON) -m venv --system-site-packages $(VENV); \
	  $(PY) -c 'import torch' 2>/dev/null || $(PYTHON) -c '$(SITES)' >"$$($(PY) -c '$(SITE)')/outer.pth"; \
	else \
	  $(PYTHON) -m venv $(VENV) && echo "installing torch" && \
	  { $(PY) -m pip install --quiet --disable-pip-version-check "$(TORCH)" numpy || \
	    $(PY) -m pip install --quiet --disable-pip-version-check "torch>=2.9" numpy; }; \
	fi
	@$(PY) -c 'import torch; print(f"torch=={torch.__version__}")' >$(VENV)/constraints.txt
	@touch $@

# What pyproject.toml asks of a build, so that no build needs isolation.
$(VENV)/build.stamp: $(VENV)/torch.stamp
	$(PIP) "scikit-build-core>=1.0.3" "setuptools>=77" "pybind11>=2.13" cmake ninja
	@touch $@

$(VENV)/package.stamp: $(VENV)/build.stamp $(SOURCES)
	@echo "building spectralops"
	CMAKE_CXX_COMPILER_LAUNCHER="$${CMAKE_CXX_COMPILER_LAUNCHER:-$(ONCE)}" $(PIP) --no-build-isolation --editable .
	@$(PY) -c "from spectralops._loader import core_status; print(core_status())"
	@touch $@

$(VENV)/test.stamp: $(VENV)/package.stamp
	@$(PY) -c '$(EXTRAS)' test triton >$(VENV)/test.txt
	$(PIP) --requirement $(VENV)/test.txt
	@touch $@

# rational-activations pins an old torch, compressed-tensors, pykan and neuraloperator pin what they like: their code alone,
# and what it imports.
$(VENV)/demo.stamp: $(VENV)/package.stamp
	@$(PY) -c '$(EXTRAS)' demo >$(VENV)/demo.txt
	$(PIP) --requirement $(VENV)/demo.txt
	$(PIP) scipy transformers pydantic loguru psutil pandas sympy pyyaml seaborn requests
	$(PIP) --no-deps rational-activations compressed-tensors pykan==0.2.8 neuraloperator==2.0.0 tensorly tensorly-torch opt_einsum \
	  peft==0.21.2 accelerate vocos==0.1.0
	@touch $@
