# etcpipe: make setup | run | test | test-all | lint | man | bench | sanitize | fuzz | test-kernels |
#   test-arm64 | deb | test-deb | test-systemd | docs | clean
PYTEST_ARGS ?=

.PHONY: setup run test test-all lint man bench sanitize fuzz test-kernels test-arm64 deb test-deb test-systemd docs \
	clean

setup:
	tools/setup

# The demo in its own network namespaces, or: make run DEV=eth0
run:
ifdef DEV
	tools/setup
	.venv/bin/etcpipe attach $(DEV)
else
	tools/setup lab
	.venv/bin/etcpipe demo
endif

test:
	tools/setup lab test
	tools/test $(PYTEST_ARGS)

# The same, and more cases of what a few show
test-all:
	tools/setup lab test
	tools/test --all $(PYTEST_ARGS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Man pages from the command's own help: man -l build/man/etcpipe.1
man: setup
	.venv/bin/python tools/man build/man

bench:
	tools/setup lab bench
	.venv/bin/etcpipe bench

# The native extension's tests under AddressSanitizer and UBSan, and a short fuzz. The parser reads headers
# unaligned on purpose, as the kernel programs do; padding makes the memory test meaningless.
SANITIZERS = -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=undefined \
	-fsanitize=address,undefined -fno-sanitize=alignment
BUILD_NATIVE = .venv/bin/python setup.py -q build_ext --inplace --force
sanitize:
	tools/setup lab test
	CFLAGS="$(SANITIZERS)" $(BUILD_NATIVE)
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc .venv/bin/python -m pytest -q \
	tests/test_ring.py tests/test_capture*.py tests/test_tracker.py tests/test_regroup*.py \
	tests/test_mask*.py tests/test_bpf_parsing.py tests/test_features.py tests/test_address.py \
	tests/test_bits.py tests/test_tokens.py tests/test_cascade_pool.py tests/test_cascade_steps.py \
	-k "not memory_of_a_pending_flow"; \
	status=$$?; $(BUILD_NATIVE); exit $$status
	tests/fuzz/run 20

# The packet parser under libFuzzer; what it found stays in build/fuzz.
FUZZ_SECONDS ?= 60
fuzz:
	tools/setup lab test
	tests/fuzz/run $(FUZZ_SECONDS)
	.venv/bin/python tests/fuzz/captures.py tests/data

# The kernel programs on Debian's kernels, and the native extension on arm64, both under qemu:
# see docs/kernels.md
test-kernels:
	tools/setup kernels
	tools/kernels/matrix

test-arm64:
	tools/setup arm64
	tools/arm64/test

# The documentation as a site: build/docs/site/index.html; a link into nothing fails
docs:
	tools/setup docs
	.venv/bin/python tools/site build/docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict -f build/docs/mkdocs.yml

# Debian packages in build/deb; then lintian, piuparts, autopkgtest and a first verdict in bare
# installations of Debian 12: docs/packages.md
deb:
	tools/setup deb
	tools/deb/build -b

test-deb: deb
	tools/deb/test

# The service of those packages under a systemd that is booted for it: docs/service.md
test-systemd: deb
	tools/systemd/test

clean:
	$(MAKE) -s -C bpf clean
	rm -rf .venv build dist *.egg-info etcpipe/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
