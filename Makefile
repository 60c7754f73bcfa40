# `make demo` and `make test` are all a newcomer needs; both make .venv first.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: demo test chaos soak test-thorough check fmt proto serve-fake test-gpu clean

demo: $(VENV)/.installed
	$(BIN)/sluice demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

# The faults of `make test`, thirty times as many: about ten minutes. Another SLUICE_CHAOS_SEED tries others.
chaos: $(VENV)/.installed
	SLUICE_CHAOS=30 $(BIN)/python -m pytest -q tests/service/test_mutations.py tests/service/test_abuse.py \
	  tests/service/test_overload.py tests/service/test_hang_ups.py tests/service/test_connections.py \
	  tests/end_to_end/test_broken_connections.py

# Mixed traffic for an hour, and how much memory, files and threads it took.
soak: $(VENV)/.installed
	SLUICE_SOAK_SECONDS=$${SLUICE_SOAK_SECONDS:-3600} $(BIN)/python -m pytest -q -s tests/soak

# `make test` with every combination: all shapes and targets compiled, all policies on all architectures, a
# million operations of the scheduler.
test-thorough: $(VENV)/.installed
	SLUICE_THOROUGH=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fmt: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(VENV)/.installed
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. \
	  protos/sluice/v1/sluice.proto

serve-fake: $(VENV)/.installed
	$(BIN)/sluice serve --model fake

test-gpu: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m gpu

# torch comes first and exactly: any looser request may pull gigabytes of another build.
# Compiling 18,000 files at once takes a minute; Python compiles what is imported.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-compile --disable-pip-version-check torch==2.13.0 -c constraints.txt
	$(BIN)/pip install -q --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) report .pytest_cache .mypy_cache .ruff_cache .hypothesis
