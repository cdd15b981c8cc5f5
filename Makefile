# What a newcomer needs: `make run` and `make test`. Both set up .venv first if it isn't there.
# Every path is relative, so that the folder may be anywhere, also below a name with spaces.

MAKEFLAGS += --no-print-directory
# The first Python that the course supports; `make PYTHON=/path/to/python` overrides it.
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 14) and print("$(name)")' 2>/dev/null)))
READY := .venv/.ready

.PHONY: run test quick lab check notebooks colab clean setup

run: $(READY)
	@.venv/bin/course run

# Two files at a time, a thread each, in the order of conftest.py: the long ones first.
PYTEST := .venv/bin/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

# One pytest for the unit tests and, cell by cell, for every notebook.
test: $(READY)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PYTEST) --nbval-lax --nbval-current-env

# The unit tests alone.
quick: $(READY)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PYTEST) tests

lab: $(READY)
	@.venv/bin/course lab

check: $(READY)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/course links --check
	@.venv/bin/course notebooks --check
	@.venv/bin/python -m course_utils.workshop.density

notebooks: $(READY)
	@.venv/bin/course notebooks

# The unit tests under Colab's Python and versions, in an environment of its own. As there, the course is not installed.
COLAB_PYTHON ?= python3.13
colab: .venv-colab/.ready
	@PYTHONPATH="$(CURDIR)" OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} .venv-colab/bin/python -m pytest tests

.venv-colab/.ready: pyproject.toml data/colab-freeze.gpu.txt
	@echo "Setting up .venv-colab with $(COLAB_PYTHON): several GB, a few minutes."
	@$(COLAB_PYTHON) -m venv .venv-colab
	@.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check packaging
	@.venv-colab/bin/python -m course_utils.workshop.colab_list constraints > .venv-colab/keep.txt
	@.venv-colab/bin/python -m course_utils.workshop.colab_list requirements > .venv-colab/wanted.txt
	@.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check \
		-c .venv-colab/keep.txt -r .venv-colab/wanted.txt
	@touch .venv-colab/.ready

clean:
	rm -rf .venv .venv-colab build .pytest_cache .ruff_cache *.egg-info
	find course_utils notebooks tests -name __pycache__ -prune -exec rm -rf {} +

setup: $(READY)

# Where the home folder is read-only, pip has to do without its cache: a build from source fails otherwise.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "The course needs Python 3.11 to 3.14 as python3. Found: $$(python3 --version 2>&1)"; exit 1; }
	@echo "Setting up .venv with $(PYTHON). The first time this downloads several GB and takes a few minutes."
	@"$(PYTHON)" -m venv .venv || { rm -rf .venv; \
		echo "Python can't make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@cache=$$(.venv/bin/python -m pip cache dir 2>/dev/null); \
	{ mkdir -p "$$cache" && test -w "$$cache"; } 2>/dev/null || export PIP_NO_CACHE_DIR=1; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)
	@echo "Ready."
