# make demo        a fleet of four systemd hosts on this machine, from bare to a streamed answer
# make demo-down   remove it (IMAGES=1: the host images too)
# make test        everything;  make test-fast: no containers;  make lint
# make test-gpu    what only a host with NVIDIA GPUs can show, on this one (OLLAMA_URL: its Ollama)
SHELL := /bin/bash
.DEFAULT_GOAL := help
export GPUFLEET_CACHE GPUFLEET_PYTHON GPUFLEET_GATEWAY_PORT GPUFLEET_PROMETHEUS_PORT OLLAMA

.PHONY: help demo demo-down test test-fast test-gpu lint docs dashboards

help:
	@sed -n 's/^# make/make/p' Makefile

demo:
	@tests/rig/bootstrap demo
	@.venv/bin/python tests/rig/demo.py up

# plain Python and docker: nothing is installed only to remove things
demo-down:
	@$(or $(GPUFLEET_PYTHON),python3) tests/rig/demo.py down $(if $(IMAGES),--images)

test:
	@tests/rig/bootstrap test
	@.venv/bin/python tests/rig/run_tests.py all

test-fast:
	@tests/rig/bootstrap fast
	@.venv/bin/python tests/rig/run_tests.py fast

test-gpu:
	@tests/rig/bootstrap fast
	@.venv/bin/python -m pytest -v -rs tests/gpu

lint:
	@tests/rig/bootstrap fast
	@.venv/bin/python tests/rig/run_tests.py lint

# the option tables of the roles' READMEs, from their argument_specs
docs:
	@tests/rig/bootstrap fast
	@.venv/bin/python tests/rig/role_docs.py

# the dashboards of Grafana, from tests/rig/dashboards.py
dashboards:
	@tests/rig/bootstrap fast
	@.venv/bin/python tests/rig/dashboards.py
