# Two commands do all the set-up:   make demo     make test
# Without a GPU, on Linux, take torch's CPU build:
#   make demo PIP_TORCH_FLAGS="--index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
VENV ?= .venv
PIP_TORCH_FLAGS ?=
BIN = $(VENV)/bin
DEMO_PROMPT ?= a penguin
# One test process a processor, each with one thread.
TEST_PROCESSES ?= logical

.PHONY: demo test test-all fuzz fuzz-parsers lint install sanitize clean
.DELETE_ON_ERROR:

install: $(VENV)/.installed

# torch first: the tested version decides what everything else is resolved against.
$(VENV)/.installed: pyproject.toml constraints.txt CMakeLists.txt $(wildcard threedgen/kernels/*.cpp threedgen/kernels/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_TORCH_FLAGS) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

demo: install
	rm -rf runs/demo
	$(BIN)/threedgen text-to-3d "$(DEMO_PROMPT)" --out runs/demo
	@echo "Open runs/demo/asset.glb in Blender; runs/demo/contact_sheet.png shows it from eight sides."

test: install node_modules/gltf-validator lint
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --maxprocesses 8 --dist loadfile

# Everything: also the sanitizers, and the programs that open what is exported, as far as they are installed.
# Blender as a Python module needs Python's version that it was built for: python3 -m venv blender, pip install bpy.
BLENDER ?= blender/bin/python
# Open3D needs system libraries that are not everywhere, and much space: python3 -m venv open3d, pip install open3d.
OPEN3D ?= open3d/bin/python
CHROMIUM ?= chromium
ANIMATION = build/animation
STILL = build/still
test-all: test sanitize
	if [ "$$(uname)" = Linux ]; then $(MAKE) fuzz-parsers MINUTES=1; fi
	if [ "$$(uname)" = Linux ] && command -v c++ >/dev/null; then \
	  rm -rf build/pretend-cuda && mkdir -p build && OMP_NUM_THREADS=1 $(BIN)/python tests/devices/pretend_cuda_runs.py build/pretend-cuda \
	    2>build/pretend-cuda.txt || { tail -n 3 build/pretend-cuda.txt; exit 1; }; \
	else echo "no runs on a pretend GPU: they need a C++ compiler, on Linux (see tests/devices)"; fi
	if $(BLENDER) -c "import bpy" 2>/dev/null; then \
	  mkdir -p $(ANIMATION) && $(BIN)/python benchmarks/animation_files.py --out $(ANIMATION) && \
	  $(BLENDER) benchmarks/play_in_blender.py $(ANIMATION)/anim.glb $(ANIMATION)/anim.usdz && \
	  $(BIN)/python benchmarks/still_files.py --out $(STILL) && $(BLENDER) benchmarks/still_in_blender.py $(STILL); \
	else echo "not tested in Blender: '$(BLENDER)' has no bpy (see benchmarks/play_in_blender.py)"; fi
	if $(OPEN3D) -c "import open3d" 2>/dev/null; then \
	  $(BIN)/python benchmarks/still_files.py --out $(STILL) && $(OPEN3D) benchmarks/still_in_open3d.py $(STILL); \
	else echo "not tested in Open3D: '$(OPEN3D)' has none (see benchmarks/still_in_open3d.py)"; fi
	if command -v $(CHROMIUM) >/dev/null && test -d node_modules/three; then \
	  $(BIN)/python benchmarks/play_in_browser.py --chromium $(CHROMIUM) && \
	  $(BIN)/python benchmarks/still_in_browser.py --chromium $(CHROMIUM); \
	else echo "not tested in a browser: $(CHROMIUM) or node_modules/three is missing (see benchmarks/play_in_browser.py)"; fi
	if command -v $(CHROMIUM) >/dev/null && test -d node_modules/babylonjs; then \
	  $(BIN)/python benchmarks/still_in_viewers.py --chromium $(CHROMIUM); \
	else echo "not tested in further viewers: $(CHROMIUM) or babylonjs is missing (see benchmarks/still_in_viewers.py)"; fi
	if command -v $(CHROMIUM) >/dev/null && test -d node_modules/three; then \
	  $(BIN)/python benchmarks/show_splats.py --chromium $(CHROMIUM); \
	else echo "splats not shown in a browser: $(CHROMIUM) or node_modules/three is missing (see benchmarks/show_splats.py)"; fi
	if test -d node_modules/@playcanvas/splat-transform; then $(BIN)/python benchmarks/splat_files.py; \
	else echo "splat files not read by splat-transform, which is missing (see benchmarks/splat_files.py)"; fi

# Damaged inputs of all kinds with new seeds. Those that end badly are kept in runs/fuzz; SEED=N repeats a session, and
# OMP_NUM_THREADS=1 PYTHONPATH=tests python -m fuzz --kinds KIND --replay SEED one try.
MINUTES ?= 10
fuzz: install
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# The pure parsers, with atheris, which has wheels for Linux.
fuzz-parsers: install
	$(BIN)/python -m pip install --quiet -c constraints.txt atheris
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz.parsers --minutes $(MINUTES)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer (GCC or Clang, Linux). The second install puts
# the ordinary build back.
SANITIZERS = -fsanitize=address,undefined -fno-sanitize-recover=undefined -g
sanitize: install
	$(BIN)/python -m pip install --quiet --no-deps -e . -C cmake.define.CMAKE_CXX_FLAGS="$(SANITIZERS)"
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  $(BIN)/python -m pytest -q tests/kernels tests/parity tests/datasets/test_rasterize.py tests/renderers; \
	  status=$$?; $(BIN)/python -m pip install --quiet --no-deps -e .; exit $$status

# The Khronos validator checks the exported files. Without npm its tests are skipped and say so.
node_modules/gltf-validator:
	-command -v npm >/dev/null && npm install --silent --no-save --no-audit --no-fund gltf-validator@2.0.0-dev.3.10

clean:
	rm -rf $(VENV) build node_modules
