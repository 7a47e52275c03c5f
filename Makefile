# Sets up .venv as far as a target needs it, and runs the commands in it. `make help` lists what there is.

PYTHON     ?= python3
VENV       ?= .venv
MODEL      ?=
QUANT      ?= Q4_K_M
OUT        ?= models
FORCE      ?=
PROMPT     ?= Hello
MODEL_FILE ?=
JOBS       ?=
SIZE       ?= 0.8b
MINUTES    ?= 10
TARGETS    ?=
KINDS      ?=
ROUNDS     ?=
TARGET     ?=
CPU        ?=
IMAGE      ?=
STOCK      ?=
PORT       ?= 8080
CUDA       ?=
PYTEST     ?=
MACHINE    ?=
SYSTEM     ?=
LLAMA_CPP  ?=

BUILD_FLAGS = $(if $(filter-out 0,$(STOCK)),--stock) $(if $(CUDA),--cuda '$(CUDA)')

ifeq ($(OS),Windows_NT)
SCRIPTS := Scripts
EXE     := .exe
else
SCRIPTS := bin
EXE     :=
endif

BIN  := $(VENV)/$(SCRIPTS)
DEMO := examples/tiny-qwen3.5

# What the patched llama-cpp-python depends on, but for the Python that builds it.
KERNELS := ggml_ops/simd ggml_ops/attention ggml_ops/delta_net ggml_ops/quantized_matmul ggml_ops/float_matmul ggml_ops/llama_cpp
PATCHES := $(wildcard patches/*.patch patches/*.py $(foreach folder,$(KERNELS),$(folder)/*.h $(folder)/*/*.h $(folder)/*.cpp $(folder)/*.cmake))

# What an install depends on. Python files are not listed: the install is editable.
SOURCES := pyproject.toml CMakeLists.txt ggml_ops/CMakeLists.txt \
           $(wildcard ggml_ops/*.cpp ggml_ops/*/*.cmake ggml_ops/*/*.cpp ggml_ops/*/*.h ggml_ops/*/*/*.h)

# Through the environment, so that any character of the prompt arrives as typed.
export QWEN35_PROMPT := $(value PROMPT)

.DEFAULT_GOAL := help
.NOTPARALLEL:  # two installs in parallel would break the environment
.PHONY: help convert run serve runtime llama.cpp wheels test test-all test-unit test-lowest test-newest fuzz sanitize sanitize-model lint docs hooks bench-convert bench-quant bench-ops bench-runtime bench-wheel bench-types bench-chat bench-batch bench-busy bench-pictures bench-depth bench-structured bench-serve bench-gpu clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { \
	  line = sprintf("  make %-16s", $$1); \
	  count = split($$2, words, " "); \
	  for (i = 1; i <= count; i++) { \
	    if (length(line " " words[i]) > 80) { print line; line = sprintf("%23s", "") } \
	    line = line " " words[i]; \
	  } \
	  print line \
	}' Makefile
	@echo
	@echo '  make convert QUANT=Q4_K_M MODEL=Qwen/Qwen3.5-9B OUT=models'
	@echo '      MODEL may be a directory; FORCE=1 replaces files'
	@echo '  make run PROMPT="Hello" MODEL_FILE=models/NAME.gguf'
	@echo '      without MODEL_FILE: the last one converted'
	@echo '  make runtime CUDA=86'
	@echo '      for NVIDIA GPUs of that architecture; STOCK=1: no patches; CMAKE_ARGS counts'

convert: $(VENV)/.run  ## convert MODEL (without it: the tiny model in examples/) to GGUF files in OUT
ifeq ($(strip $(MODEL)),)
	@echo 'No MODEL given: converting $(DEMO), which knows little but says it well.'
	@'$(BIN)/qwen35' convert '$(DEMO)' -q '$(QUANT)' -o '$(OUT)' --force
	@echo 'This was the demo. A real model: make convert QUANT=$(QUANT) MODEL=Qwen/Qwen3.5-9B (or MODEL=a directory)'
else
	@'$(BIN)/qwen35' convert '$(MODEL)' -q '$(QUANT)' -o '$(OUT)' $(if $(filter-out 0,$(FORCE)),--force) $(if $(JOBS),--jobs '$(JOBS)')
endif

run: $(VENV)/.run  ## generate text for PROMPT with the file converted last, or with MODEL_FILE
	@file='$(MODEL_FILE)'; \
	if [ -z "$$file" ]; then file=$$(ls -t '$(OUT)'/*.gguf 2>/dev/null | grep -Ev '/((mmproj|mtp)-[^/]*|[^/]*(imatrix|moments|LoRA)[^/]*)$$' | head -n 1); fi; \
	if [ -z "$$file" ]; then echo 'No GGUF file in $(OUT): run make convert first, or name one with MODEL_FILE=' >&2; exit 2; fi; \
	echo "$$file" >&2; \
	'$(BIN)/qwen35' run "$$file" "$$QWEN35_PROMPT" $(if $(IMAGE),--image '$(IMAGE)')

serve: $(VENV)/.run  ## serve the models in OUT on PORT (without any: the demo), or MODEL_FILE
	@if [ -z '$(MODEL_FILE)' ] && ! ls '$(OUT)'/*.gguf >/dev/null 2>&1; then \
	  echo 'No GGUF file in $(OUT): converting $(DEMO), which knows little but says it well.' >&2; \
	  '$(BIN)/qwen35' convert '$(DEMO)' -q '$(QUANT)' -o '$(OUT)' --quiet; \
	fi
	@'$(BIN)/qwen35' serve '$(or $(MODEL_FILE),$(OUT))' --port '$(PORT)'

runtime: $(VENV)/.run  ## build llama-cpp-python with the patches and install it
ifneq ($(strip $(BUILD_FLAGS)),)
	'$(BIN)/python' patches/build.py $(BUILD_FLAGS)
endif
	@'$(BIN)/qwen35' doctor

llama.cpp: | $(BIN)/python$(EXE)  ## build llama-server, llama-cli, llama-bench, ... with the patches into llama.cpp/; LLAMA_CPP=DIR patches a checkout
	'$(BIN)/python' patches/llama_tools.py $(if $(LLAMA_CPP),--checkout '$(LLAMA_CPP)')

wheels: $(VENV)/.wheels  ## write into dist/ what `pip install 'qwen35-gguf[runtime]'` takes from us; MACHINE=aarch64 for ARM, SYSTEM=windows
	'$(BIN)/python' patches/wheels.py $(if $(MACHINE),--machine '$(MACHINE)') $(if $(SYSTEM),--system '$(SYSTEM)')

test: $(VENV)/.dev  ## run the tests that take seconds
	'$(BIN)/python' -m pytest -m 'not slow'

test-all: $(VENV)/.dev  ## run all tests (or those of PYTEST); lists the system packages without which some are skipped
	@missing=''; \
	for pair in qemu-aarch64:qemu-user aarch64-linux-gnu-g++:g++-aarch64-linux-gnu go:golang-go chromium:chromium node:nodejs; do \
	  command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair#*:}"; \
	done; \
	if [ -n "$$missing" ]; then echo "Some tests will be skipped; what they need: sudo apt-get install$$missing" >&2; fi
	'$(BIN)/python' -m pytest $(PYTEST)

test-unit: $(VENV)/.unit  ## run the tests that need neither llama.cpp nor torch: less than a minute
	'$(BIN)/python' -m pytest -m unit

# In environments of their own, made again each time.
test-lowest:  ## run the unit tests with the oldest dependencies that pyproject.toml allows (Python 3.10 to 3.12)
	$(PYTHON) -m venv --clear .venv-lowest
	'.venv-lowest/$(SCRIPTS)/python' -m pip install --quiet -c tests/constraints-lowest.txt -e '.[unit]'
	'.venv-lowest/$(SCRIPTS)/python' -m pytest -m unit -p no:cacheprovider

test-newest:  ## run the unit tests with the newest dependencies that there are
	$(PYTHON) -m venv --clear .venv-newest
	'.venv-newest/$(SCRIPTS)/python' -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[unit]'
	'.venv-newest/$(SCRIPTS)/python' -m pytest -m unit -p no:cacheprovider

fuzz: $(VENV)/.fuzz  ## look for inputs that the parsers do not refuse as they must, for MINUTES in all; TARGETS names some
	'$(BIN)/python' tests/fuzz/run.py --minutes '$(MINUTES)' $(TARGETS)

sanitize-model: $(VENV)/.run  ## evaluate the demo model with a ggml that has ASan, UBSan, TSan; TARGETS=native: for this processor
	'$(BIN)/python' tests/faults/sanitize_model.py $(KINDS) $(if $(TARGETS),--targets '$(TARGETS)')

sanitize:  ## run the kernels with random inputs under ASan, UBSan, TSan and valgrind; TARGETS=native: those of this processor
	$(PYTHON) tests/faults/sanitize.py $(KINDS) $(if $(TARGETS),--targets '$(TARGETS)')

lint: $(VENV)/.dev  ## check style, format, types, layers, sizes of modules, words and generated pages
	'$(BIN)/ruff' check .
	'$(BIN)/ruff' format --check .
	'$(BIN)/clang-format' --dry-run --Werror $$(git ls-files '*.cpp' '*.h')
	'$(BIN)/mypy' -p qwen35_gguf
	'$(BIN)/lint-imports' --no-logo
	'$(BIN)/python' tests/lint/structure.py
	'$(BIN)/python' tests/lint/words.py
	'$(BIN)/python' docs/generate.py --check

docs: $(VENV)/.dev  ## write the generated pages of docs/
	'$(BIN)/python' docs/generate.py

.PHONY: audit
# CVE-2025-69872 is of diskcache, which llama-cpp-python brings: see SECURITY.md.
audit: $(VENV)/.dev  ## compare the installed versions with the database of known vulnerabilities
	$(PYTHON) -m venv .venv-audit
	'.venv-audit/$(SCRIPTS)/python' -m pip install --quiet 'pip-audit>=2.9'
	'$(BIN)/python' -m pip list --format=freeze --exclude-editable > .venv-audit/installed.txt
	'.venv-audit/$(SCRIPTS)/pip-audit' --strict --no-deps --disable-pip --ignore-vuln CVE-2025-69872 -r .venv-audit/installed.txt

hooks: $(VENV)/.dev  ## run the quick checks of lint before each git commit
	'$(BIN)/pre-commit' install

bench-convert: $(VENV)/.dev  ## convert a checkpoint of SIZE with the stock tools and with ours: cost, ratios, every byte
	'$(BIN)/python' bench/convert.py --size '$(SIZE)' --quant '$(QUANT)' $(if $(JOBS),--jobs '$(JOBS)') $(if $(ROUNDS),--rounds '$(ROUNDS)')

bench-quant: $(VENV)/.dev  ## million weights/s for every native format, ours and ggml's; TARGET=avx2 forces one
	'$(BIN)/python' bench/quant.py $(if $(TARGET),--target '$(TARGET)')

bench-ops: $(VENV)/.dev  ## the gated delta rule: ours and the operation of a stock llama.cpp, at several lengths
	'$(BIN)/python' bench/ops.py $(if $(TARGET),--targets '$(TARGET)')

bench-runtime: $(VENV)/.dev  ## prefill and decode of a model of SIZE on a stock and on a patched llama.cpp, in turns; CPU=avx2 builds without AVX-512
	'$(BIN)/python' bench/runtime.py --size '$(SIZE)' $(if $(ROUNDS),--rounds '$(ROUNDS)') $(if $(CPU),--cpu '$(CPU)')

bench-wheel: $(VENV)/.dev  ## the engine of dist/ and the build for this machine, in turns
	'$(BIN)/python' bench/wheel/wheel.py --size '$(SIZE)' $(if $(ROUNDS),--rounds '$(ROUNDS)')

bench-types: $(VENV)/.dev  ## the same by the type of the weights, Q2_K to Q8_0
	'$(BIN)/python' bench/matmul/by_type.py --size '$(SIZE)' $(if $(ROUNDS),--rounds '$(ROUNDS)') $(if $(CPU),--cpu '$(CPU)')

bench-chat: $(VENV)/.dev  ## ten turns behind 8,000 tokens: stock llama_cpp.Llama and Qwen35, and what drafts gain
	'$(BIN)/python' bench/chat.py --size '$(SIZE)'
	'$(BIN)/python' bench/speculation.py --size '$(SIZE)'

bench-depth: $(VENV)/.dev  ## prefill and decode behind up to 131,072 tokens, and calls of n tokens behind 8,192; CPU=avx2 builds without AVX-512
	'$(BIN)/python' bench/depth/depth.py --size '$(SIZE)' $(if $(ROUNDS),--rounds '$(ROUNDS)') $(if $(CPU),--cpu '$(CPU)')

bench-batch: $(VENV)/.dev  ## a call of 1 to 64 tokens of one sequence, and of as many sequences, stock and patched; CPU=avx2 builds without AVX-512
	'$(BIN)/python' bench/matmul/batch.py --size '$(SIZE)' $(if $(ROUNDS),--rounds '$(ROUNDS)') $(if $(CPU),--cpu '$(CPU)')

bench-busy: $(VENV)/.dev  ## decode on a quiet machine and beside two busy processes, by how threads wait
	'$(BIN)/python' bench/threads/busy.py --size '$(SIZE)' $(if $(ROUNDS),--rounds '$(ROUNDS)')

bench-pictures: $(VENV)/.dev  ## seconds for an image in the vision encoders of 0.8B and 9B, stock and patched; CPU=avx2 builds without AVX-512
	'$(BIN)/python' bench/matmul/images.py $(if $(ROUNDS),--rounds '$(ROUNDS)') $(if $(CPU),--cpu '$(CPU)')

bench-structured: $(VENV)/.dev  ## masks of structured output at 248,320 tokens: time per token, and of what is made once
	'$(BIN)/python' bench/structured.py

bench-serve: $(VENV)/.dev  ## llama-server of a stock build and qwen35 serve: chats of 1, 4 and 8 clients behind one system prompt
	'$(BIN)/python' bench/serving/serve.py --size '$(SIZE)'

bench-gpu: $(VENV)/.dev  ## a GPU: parity of splits with the CPU, memory against the plan, speed, kernels, tuning of a mixture of experts
	'$(BIN)/python' bench/gpu/gpu.py

clean:  ## remove .venv, build products, and caches; keep OUT
	rm -rf '$(VENV)' .venv-audit .venv-lowest .venv-newest build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python$(EXE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'Python 3.10 or newer is needed: make PYTHON=python3.12 ...' >&2; exit 2; }
	$(PYTHON) -m venv '$(VENV)'

# llama-cpp-python is published as source only, so that a patched build costs no more than an install; it is kept.
$(VENV)/.llama: $(PATCHES) | $(BIN)/python$(EXE)
	'$(BIN)/python' patches/build.py $(BUILD_FLAGS)
	@touch '$@'

# One stamp for each set of extras.
$(VENV)/.run: $(SOURCES) $(VENV)/.llama
	'$(BIN)/python' -m pip install --quiet -e '.[http,llama-cpp,vision,examples]'
	@touch '$@'

$(VENV)/.dev: $(SOURCES) $(VENV)/.llama
	'$(BIN)/python' -m pip install --quiet -e '.[dev]'
	@touch '$(VENV)/.run' '$(VENV)/.unit' '$@'  # .dev contains all of them

$(VENV)/.fuzz: $(VENV)/.dev
	'$(BIN)/python' -m pip install --quiet -e '.[dev,fuzz]'
	@touch '$@'

$(VENV)/.unit: $(SOURCES) | $(BIN)/python$(EXE)
	'$(BIN)/python' -m pip install --quiet -e '.[unit]'
	@touch '$@'

$(VENV)/.wheels: $(SOURCES) | $(BIN)/python$(EXE)
	'$(BIN)/python' -m pip install --quiet -e '.[wheels]'
	@touch '$@'
