# The commands people type. Meson does the building; `make help` lists what there is.
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
ARM64_SUITES ?= --suite unit --suite kernels --suite golden

# Ninja shows its status line to a person and nothing but errors to a log.
NINJA := ninja $(shell [ -t 2 ] || echo --quiet)
VENV := build/venv/$(shell cksum <tests/requirements.txt | cut -d' ' -f1)
PYTHON := $(CURDIR)/build/venv/bin/python
# Warnings stop the build in CI and in lint, not at a user's with a newer compiler.
WERROR := $(if $(CI),-Dwerror=true)
# Meson's test output is a line a test; what failed is shown in full.
MESON_TEST := meson test --no-rebuild --print-errorlogs --timeout-multiplier
# setup FOLDER OPTION…: configures once; quiet unless it fails.
SETUP = setup() { [ -e "$$1/build.ninja" ] || out=$$(meson setup "$$@") || { echo "$$out"; exit 1; }; }; setup
LOG := meson-logs/testlog.json
DEMO := build/flash-moe run models/ember --memory 20M --context 1024 --temp 0

all: build/build.ninja ## build the program and the library into build/
	@$(NINJA) -C build

demo: all ## a story and an answer from the small model that comes with the sources
	$(DEMO) -n 120 --raw --stats -p "Once upon a time"
	$(DEMO) -n 60 -p "What is the capital of Norway?"

test: build/test.ninja ## all tests that need no GPU and no big model; the last line counts them
	@$(NINJA) -C build
	@rm -f build/$(LOG) build-arm64/$(LOG)
	@$(MESON_TEST) 4 -C build || true
	@if command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64-static >/dev/null; then \
	    make --no-print-directory arm64 ARM64_SUITES='--suite kernels --suite golden' || true; python3 tools/test_summary.py build/$(LOG) build-arm64/$(LOG); \
	else \
	    python3 tools/test_summary.py --skipped "arm64: no cross compiler or no qemu-user; tools/deps.sh cross installs them" build/$(LOG); \
	fi

lint: ## formatting, static analysis, layering, sizes, and a build with clang
	@tools/deps.sh lint
	@tools/lint.sh

format: ## let clang-format rewrite src, include and tests
	@tools/deps.sh lint
	@git ls-files -co --exclude-standard 'src/*.[ch]' 'include/*.h' 'tests/*.[ch]' 'examples/*.c*' | xargs clang-format -i

# clang, because gcc takes minutes to instrument the kernels' inlined bodies for addresses.
asan: ## the tests with the address and undefined-behaviour sanitizers
	@tools/deps.sh test fuzz
	@export CC=clang; $(SETUP) build-asan -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1
	@$(NINJA) -C build-asan
	@$(MESON_TEST) 10 -C build-asan --no-suite cli --no-suite serve --no-suite tree

tsan: ## the tests that use threads with the thread sanitizer
	@tools/deps.sh test
	@$(SETUP) build-tsan -Db_sanitize=thread -Doptimization=1
	@$(NINJA) -C build-tsan
	@$(MESON_TEST) 10 -C build-tsan --no-suite cli --no-suite serve --no-suite tree --no-suite fuzz --no-suite kernels --no-suite demo --no-suite serial

arm64: ## cross-build for arm64 and run the unit, kernel and golden tests under QEMU
	@tools/deps.sh cross
	@tools/arm64_sysroot.sh build-arm64-sysroot
	@$(SETUP) build-arm64 --cross-file build-arm64-sysroot/paths.ini --cross-file cross/arm64.ini -Dpull=disabled $(WERROR)
	@$(NINJA) -C build-arm64
	@$(MESON_TEST) 10 -C build-arm64 $(ARM64_SUITES)

fuzz: ## libFuzzer on every parser, FUZZ_SECONDS each (60)
	@tools/deps.sh fuzz
	@tools/fuzz.sh $(FUZZ_SECONDS)

reference: all ## compare with transformers and others; downloads them into a virtual environment
	@tools/reference/run.sh

# The demo model as it was trained, in bf16: tools/ember/train.py writes it.
EMBER_BF16 ?= ../shared/demo-model/ember
quality: all ## what fewer bits and experts cost, into docs/quality.md; needs EMBER_BF16, the demo model in bf16
	@[ -e "$(EMBER_BF16)/config.json" ] || { echo "EMBER_BF16=$(EMBER_BF16) is no model: make quality needs the demo model in bf16 (tools/ember/train.py)"; exit 1; }
	@python3 tools/quality.py "$(EMBER_BF16)"

plots: build/test.ninja ## draw bench/*.csv into bench/plots
	@$(PYTHON) tools/plot.py

screenshots: build/test.ninja ## pictures of the server's page, by Chromium, into docs/
	@$(NINJA) -C build
	@$(PYTHON) tools/page_screenshots.py build/flash-moe models/ember docs

install: all ## into PREFIX (/usr/local), below DESTDIR
	@meson setup --reconfigure build -Dprefix=$(abspath $(PREFIX)) >/dev/null
	@$(NINJA) -C build
	@meson install -C build --no-rebuild

wheel: ## the Python package as a wheel for manylinux, in build/wheels
	@tools/deps.sh test
	@tools/wheel.sh build

python-docs: wheel ## docs/python.md from the package's docstrings
	@tools/wheel.sh docs

clean: ## remove everything that was built
	rm -rf build build-*

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/make \1:\2/p' Makefile | awk -F: '{printf "%-16s %s\n", $$1, $$2}'

# deps runs first and each time: it is quick when nothing is missing.
deps-build:
	@tools/deps.sh build
deps-test:
	@tools/deps.sh test
build/build.ninja: | deps-build
	@$(SETUP) build $(WERROR)

# build/ with the Python that has pytest.
build/test.ninja: $(VENV) | build/build.ninja
	@meson setup --reconfigure build -Dpython=$(PYTHON) >/dev/null
	@touch $@
$(VENV): | deps-test build/build.ninja
	@echo "installing tests/requirements.txt into build/venv"
	@rm -rf build/venv
	@python3 -m venv build/venv
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

.PHONY: all demo test lint format asan tsan arm64 fuzz reference quality plots screenshots install wheel python-docs clean help deps-build deps-test
