# make demo: set up, train Mask R-CNN on built-in data, show its AP and pictures.
# make test: set up, run the tests.
# make drills: runs that are killed, full disks, hostile files.
# make sanitize: the CPU kernels under AddressSanitizer, UndefinedBehaviorSanitizer, ThreadSanitizer, and fuzzed.
# make lock: the newest releases of everything into requirements.lock.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv pip install --quiet --python $(PY)
# Not empty: the newest releases that requirements.txt allows, instead of those of requirements.lock.
NEWEST ?=
# Their own requirements are old, or name what Python has.
WITHOUT_DEPENDENCIES := cityscapesscripts>=2.2 lvis>=0.5.3
# The lock stays with the PyTorch that the figures of docs/ were measured with.
LOCKED := torch==2.11.0 torchvision==0.26.0
COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate
DETECTRON2 := pb1-detectron2==0.6 --hash=sha256:5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29
FORMATTED_SOURCES = $(NATIVE_SOURCES) $(shell find tests/cuda_host tests/sanitize benchmarks examples -name '*.h' -o -name '*.cuh' \
	-o -name '*.cu' -o -name '*.cpp')
NATIVE_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h')

.PHONY: setup lock demo test test-all drills sanitize lint format clean
.DELETE_ON_ERROR:

setup: $(VENV)/.built

# Each stamp is written last, so an interrupted step is simply done again.
$(VENV)/.uv: requirements.lock
	@echo "mrcnn_plugin: setting up $(VENV) (torch, torchvision and Detectron2; a few minutes the first time)"
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.txt
	$(PY) -m pip install --quiet --require-hashes -r $(VENV)/uv.txt
	@touch $@

$(VENV)/.requirements: $(VENV)/.uv requirements.txt
ifeq ($(NEWEST),)
	$(UV) --no-deps --require-hashes --build-constraints requirements.lock -r requirements.lock
else
	$(UV) --upgrade -r requirements.txt
	$(UV) --upgrade --no-deps $(patsubst %,'%',$(WITHOUT_DEPENDENCIES))
endif
	@touch $@

# Hashes of every file of a release, so that the lock holds for every Python and processor.
lock: $(VENV)/.uv
	printf '%s\n' $(LOCKED) > $(VENV)/locked.txt
	printf '%s\n' $(patsubst %,'%',$(WITHOUT_DEPENDENCIES)) > $(VENV)/without_dependencies.txt
	$(COMPILE) --custom-compile-command "make lock" -c $(VENV)/locked.txt requirements.txt > $(VENV)/lock.part
	$(COMPILE) --no-header --no-deps $(VENV)/without_dependencies.txt >> $(VENV)/lock.part
	mv $(VENV)/lock.part requirements.lock

# A Detectron2 that is already importable is kept. Otherwise the unofficial upload of 0.6, pinned by its
# hash: its Python files are those of the v0.6 tag. pip refuses its metadata; uv takes it.
$(VENV)/.detectron2: $(VENV)/.requirements
	@if $(PY) -c "import importlib.util as u, sys; sys.exit(u.find_spec('detectron2') is None)"; then \
		echo "mrcnn_plugin: keeping the Detectron2 that is installed"; \
	else \
		echo "$(DETECTRON2)" > $(VENV)/detectron2.txt && \
		$(UV) --no-build-isolation --no-deps --require-hashes \
			--config-settings=--global-option=build_py --config-settings=--build-option=--skip-build \
			-r $(VENV)/detectron2.txt; \
	fi
	@touch $@

$(VENV)/.installed: $(VENV)/.detectron2 setup.py pyproject.toml
	@echo "mrcnn_plugin: installing the plugin in editable mode"
	MRCNN_PLUGIN_NO_CSRC=1 $(UV) --offline --no-build-isolation --no-deps -e .
	@touch $@

# The stamp bears the time of the start: a source that changes meanwhile is compiled the next time.
$(VENV)/.built: $(VENV)/.installed $(NATIVE_SOURCES)
	@echo "mrcnn_plugin: compiling csrc"
	@touch $@.part
	$(PY) setup.py --quiet build_ext --inplace
	@mv $@.part $@

demo: setup
	$(PY) train_net.py --config-file configs/Shapes/mask_rcnn_R_18_FPN.py train.output_dir=output/demo

test: setup
	$(PY) -m pytest -n auto -m "not slow and not cuda"

test-all: setup
	$(PY) -m pytest -n auto

# Faults, hostile input and memory at length: about 30 minutes of two cores. The file systems are mounted, as root.
drills: setup
	MRCNN_PLUGIN_KILLS=50 MRCNN_PLUGIN_MUTATIONS=2000 $(PY) -m pytest -n auto -m "not cuda" tests/drills tests/hostile

# Needs the sanitizers' libraries of g++, and clang for libFuzzer; half an hour.
sanitize: setup
	$(PY) tests/sanitize/run.py

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(FORMATTED_SOURCES)

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(FORMATTED_SOURCES)

clean:
	rm -rf build *.egg-info mrcnn_plugin/*.so $(VENV)/.built
