# etcpipe: make setup | run | test | lint | bench | clean
PYTEST_ARGS ?=

.PHONY: setup run test lint bench sanitize clean

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
	.venv/bin/python -m pytest $(PYTEST_ARGS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench:
	tools/setup lab bench
	.venv/bin/etcpipe bench

clean:
	$(MAKE) -s -C bpf clean
	rm -rf .venv build dist *.egg-info etcpipe/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
