# `make demo` and `make test` set up everything themselves: a virtual environment in .venv, from pinned versions.
PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=

bin := .venv/bin
tiny := examples/exaone4-tiny
javascript := examples/javascript
pytest_two := -m pytest --quiet --numprocesses 2 --dist worksteal
# Of 20,000 files a tenth is imported: compiling them all would take as long as unpacking them. Python keeps what it
# compiles when it imports it, unless it is told not to.
pip_flags = --quiet --disable-pip-version-check $(PIP_FLAGS)
pip_install = install --no-compile $(pip_flags)
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lean floor newest lint wheel environments editor bench ray soak gpu docs docs-examples docs-terminal clean

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv

.venv/.ready: pyproject.toml constraints.txt | .venv/bin/pip
	# What is pinned needs no resolver, so that three processes can fetch and unpack it, 25 packages at a time. The pin of
	# torch keeps pip from another build with gigabytes of CUDA libraries.
	xargs -n 25 -P 3 $(bin)/pip $(pip_install) --no-deps < constraints.txt
	$(bin)/pip $(pip_install) --constraint constraints.txt --editable '.[cpu,dev]'
	touch $@

# All that `lint`, `test`, `lean` and `floor` install, side by side with `make --jobs`.
environments: .venv/.ready build/floor/.ready build/lean/.ready \
  $(if $(shell command -v node > /dev/null && command -v npm),$(javascript)/node_modules/.ready)

demo: .venv/.ready
	$(bin)/python examples/demo.py

test: .venv/.ready $(if $(shell command -v node > /dev/null && command -v npm),$(javascript)/node_modules/.ready)
	$(bin)/python $(pytest_two) $(PYTEST_FLAGS)

# For the runner in JavaScript. The library for the CPU is in the package; its install script, which downloads CUDA's, is
# not run. Without a registry the runner's test is skipped.
$(javascript)/node_modules/.ready: $(javascript)/package-lock.json
	if npm ci --prefix $(javascript) --ignore-scripts --no-audit --no-fund --silent; then touch $@; fi

# The package as users install it, for `lint` and `lean`. setuptools packs what an earlier layout left in build/lib.
wheel: .venv/.ready
	rm -rf build/lib build/wheel
	$(bin)/pip wheel $(pip_flags) --no-deps --no-build-isolation --wheel-dir build/wheel .

# The runtime for the CPU as `pip install 'exaone-export[cpu]'` installs it, without torch, transformers and onnx, on
# artifacts that .venv exports.
lean: build/lean/.ready wheel
	rm -rf build/lean-artifacts
	$(bin)/python -c 'from exaone_export import export; [export(f"examples/exaone4-{name}", f"build/lean-artifacts/{name}", \
	  max_length=512) for name in ("tiny", "tiny-router")]'
	$(lean_pip) $(pip_install) --no-deps --force-reinstall build/wheel/*.whl
	$(lean_pip) check
	LEAN_ARTIFACTS=$(CURDIR)/build/lean-artifacts build/lean/bin/python -m pytest --quiet --confcutdir tests/lean \
	  tests/lean $(PYTEST_FLAGS)

# A pip of its own would take longer to install than all that it would install.
lean_pip := $(bin)/pip --python build/lean/bin/python

build/lean/.ready: pyproject.toml constraints.txt | .venv/bin/pip
	rm -rf build/lean
	$(PYTHON) -m venv --without-pip build/lean
	$(PYTHON) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*project["dependencies"], *project["optional-dependencies"]["cpu"], "pytest", sep="\n")' \
	  > build/lean/requirements.txt
	$(lean_pip) $(pip_install) --constraint constraints.txt --requirement build/lean/requirements.txt
	! build/lean/bin/python -c 'import torch' 2>/dev/null
	touch $@

# The tests of what calls transformers, on the oldest versions that pyproject.toml allows. torch, ONNX Runtime and Jinja
# are the pinned ones, whose oldest versions are theirs. Of the three sessions behind generate() the default target's is enough,
# and what the cache does at a window's edges does not depend on transformers. In one process: importing takes a third of
# the time, and `.ci/run` has other jobs for the second core.
floor: build/floor/.ready .venv/.ready
	PYTHONPATH=$(CURDIR)/build/floor $(bin)/python -c 'import transformers; print("transformers", transformers.__version__)'
	PYTHONPATH=$(CURDIR)/build/floor $(bin)/python -m pytest --quiet $(floor_tests) \
	  -k 'not onnx and not engine and not tensorrt' $(PYTEST_FLAGS)

floor_tests := $(addprefix tests/runtime/,text/test_chat_templates.py::test_a_prompt_is_the_one_of_transformers \
  text/test_text.py $(addprefix mirror/test_,forward.py generation.py options.py prompt_lookup.py heads.py)) \
  tests/parity/test_positions.py
floors = $(shell $(bin)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
  print(*(each.split(",")[0].replace(">=", "==") for each in project["dependencies"] \
  + project["optional-dependencies"]["export"] if not each.startswith("torch>")))')

build/floor/.ready: pyproject.toml | .venv/bin/pip
	rm -rf build/floor
	$(bin)/pip $(pip_install) --ignore-installed --target build/floor $(floors)
	touch $@

# The runtime on what pip installs today, without constraints.txt. torch alone keeps its pin, without which pip would take
# a build with gigabytes of CUDA libraries.
newest:
	rm -rf build/newest
	$(PYTHON) -m venv build/newest
	build/newest/bin/pip $(pip_install) $(shell grep '^torch==' constraints.txt)
	build/newest/bin/pip $(pip_install) --editable '.[cpu,dev]' \
	  $(shell grep '^torch==' constraints.txt)
	build/newest/bin/pip list | grep -i -E '^(transformers|tokenizers|huggingface|onnx|numpy|torch)'
	build/newest/bin/python $(pytest_two) tests/runtime tests/parity $(PYTEST_FLAGS)

# mypy and import-linter read the installed package, where the rooms stand under one name.
lint: wheel
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	rm -rf build/lint
	$(bin)/pip $(pip_install) --no-deps --target build/lint build/wheel/*.whl
	cd build/lint && ../../$(bin)/lint-imports --config ../../pyproject.toml --no-logo --cache-dir ../import-linter
	cd build/lint && ../../$(bin)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy

# Links the rooms under their import name, for editors and type checkers that read a checkout.
editor:
	mkdir -p build/editor/exaone_export
	ln -sfn $(CURDIR)/exaone_export/* $(addprefix $(CURDIR)/,cli exporter graphs calibration runtime) build/editor/exaone_export/

# Makes the tables of docs/explanation/performance.md: installs the peers, exports, and measures in turn; 60 to 90 minutes, 35 GB of disk and
# 12 GB of memory.
bench: .venv/.ready
	$(bin)/python benchmarks/compare_peers.py --exports 5

# What several processes of the server promise: no answer is lost with one of them. Two minutes on a quiet machine.
ray: .venv/.ready
	$(bin)/pip $(pip_install) --constraint constraints.txt --editable '.[cpu,ray]'
	$(bin)/python benchmarks/serving/ray_replicas.py

# The server under load for a quarter of an hour: no answer, no slot and no memory is lost.
soak: .venv/.ready
	$(bin)/python benchmarks/serving/serve_soak.py

# Everything that needs a GPU, in eight minutes, with the Python that $(PYTHON) is and the packages that it has.
gpu:
	@if $(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then \
	  $(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --editable . && $(PYTHON) benchmarks/gpu.py; \
	else echo "$(PYTHON) has no PyTorch that sees an NVIDIA GPU, so there is nothing to run."; fi

# Writes what the documentation takes from the code.
docs: .venv/.ready
	$(bin)/python -m exaone_export.cli.reference > docs/reference/command-line.md

# Runs the examples of the documentation and writes what they print into the pages; four minutes.
docs-examples: .venv/.ready
	$(bin)/python docs/run_examples.py

# Records the sessions in docs/images/, one minute; names in SESSIONS record those alone.
docs-terminal: .venv/.ready
	$(bin)/python docs/record_terminal.py $(SESSIONS)

clean:
	rm -rf .venv build *.egg-info $(javascript)/node_modules
