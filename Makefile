# `make demo` and `make test` do everything from a fresh clone; `make help` lists the rest.
# Plain POSIX sh and GNU make 3.81 (what macOS ships) are enough.

VENV ?= .venv
BIN := $(VENV)/bin
DEMO_ARGS ?=
PYTEST_ARGS ?=
# Two processes, a file's tests in one of them, so that its fixtures are made once. PyTorch's own
# threads would fight over the cores.
JOBS ?= 2
PYTEST := $(BIN)/pytest -q -n $(JOBS) --dist=loadfile --durations=10 -rs --timeout=600
CONSTRAINTS := constraints.txt

# The extras behind each stamp. The demo needs neither torch nor jax.
EXTRAS_demo := demo
EXTRAS_test := test,jax,torch

# Exits 0 on a Python that the pinned versions exist for and that can make environments, and prints
# its real path: pyenv's shims and Debian's stripped Python are there but fail, so try, don't look.
PROBE := import sys, venv, ensurepip; assert sys.version_info[:2] in ((3, 11), (3, 12)); print(sys.executable)
CANDIDATES := python3.12 python3.11 python3

export TF_CPP_MIN_LOG_LEVEL ?= 3

.DELETE_ON_ERROR:
.PHONY: help demo test lint format types clean distclean

help:
	@echo 'make demo       train, convert and verify BiRealNet18 on real images (DEMO_ARGS="--epochs 5 ...")'
	@echo 'make test       lint, types and the tests on three backends (PYTEST_ARGS="-k name")'
	@echo 'make lint       ruff: rules and format'
	@echo 'make format     ruff: repair what it can'
	@echo 'make types      mypy on an installed copy'
	@echo 'make clean      remove caches and build outputs, keep $(VENV) and build/demo'
	@echo 'make distclean  remove $(VENV) and all of build/ as well'
	@echo 'The environment is made in $(VENV) with Python 3.12 or 3.11; PYTHON=... chooses another one.'

demo: $(VENV)/.stamp-demo
	KERAS_BACKEND=tensorflow $(BIN)/bnnkeras demo $(DEMO_ARGS)

# Everything runs even when something fails; the exit status tells. The whole suite comes last, so
# that its closing lines end the output. Without the trap, Ctrl-C would only skip to the next step.
test: $(VENV)/.stamp-test
	@trap 'exit 130' INT TERM; failed=; \
	$(MAKE) --no-print-directory lint || failed="$$failed lint"; \
	$(MAKE) --no-print-directory types || failed="$$failed types"; \
	for backend in jax torch tensorflow; do \
	    case $$backend in tensorflow) set --;; *) set -- -m 'any_backend and not slow';; esac; \
	    case $$backend in torch) threads=OMP_NUM_THREADS=1;; *) threads=; esac; \
	    echo "== pytest on $$backend"; \
	    env JAX_ENABLE_X64=1 KERAS_BACKEND=$$backend $$threads $(PYTEST) "$$@" $(PYTEST_ARGS) \
	        || failed="$$failed $$backend"; \
	done; \
	if [ -n "$$failed" ]; then echo "make test: failed:$$failed" >&2; exit 1; fi

lint: $(VENV)/.stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.stamp-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# In the working tree zoo/ and converters/ lie beside bnnkeras/; installed, they are inside it. The
# copy is made anew each time, and without build/lib, where setuptools keeps files deleted since.
types: $(VENV)/.stamp-test
	@rm -rf build/types build/lib build/bdist.*
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/types .
	MYPYPATH=build/types $(BIN)/mypy -p bnnkeras

# The stamp is touched after the last command succeeded, so a stopped install is simply done again.
$(VENV)/.stamp-%: $(VENV)/.stamp-venv setup.cfg pyproject.toml $(CONSTRAINTS)
	$(BIN)/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS) \
	    --no-build-isolation -e '.[$(EXTRAS_$*)]'
	@touch $@

# An environment that is there and works is kept; one of another Python version is never replaced.
$(VENV)/.stamp-venv:
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    $(BIN)/python -c '$(PROBE)' >/dev/null 2>&1 || { \
	        echo "$(VENV) holds `$(BIN)/python --version 2>&1`, but the pinned versions need Python 3.11" \
	            "or 3.12. Remove $(VENV) (make distclean) or name another folder with VENV=..." >&2; exit 1; }; \
	else \
	    found=; \
	    for candidate in $(if $(PYTHON),"$(PYTHON)",$(CANDIDATES)); do \
	        found=`"$$candidate" -c '$(PROBE)' 2>/dev/null` && break; found=; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "No usable Python: tried $(if $(PYTHON),$(PYTHON),$(CANDIDATES)). Python 3.11 or 3.12 with" \
	            "venv and ensurepip is needed. Received: `$(if $(PYTHON),$(PYTHON),python3) --version 2>&1 | head -n 1`." \
	            "Name one with make PYTHON=/path/to/python3.12" >&2; exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$found"; \
	    "$$found" -m venv --clear $(VENV) || exit 1; \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) setuptools wheel
	@touch $@

clean:
	rm -rf build/types build/lib build/bdist.* dist .pytest_cache .ruff_cache .mypy_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) build bnnkeras.egg-info
