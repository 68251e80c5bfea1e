# make demo              score synthetic slides with the shipped bundles (core install, no torch)
# make demo SLIDES=DIR   score your own: one sub-folder a slide; OUT=DIR for another place of the results
# make web               the page on this machine: upload fields, see their cells (core and web extra, no torch)
# make test              everything that must pass before a change lands
# make test-long         kills, floods, browsers, real data
# make constraints       pin the dependencies anew
PYTHON ?= python3
SLIDES ?=
PORT ?= 8080
# Processes that run tests: one more than cores, since many wait for what they started; kills and floods a core each.
WORKERS ?= 3
LONG_WORKERS ?= 2
SHARED_OUT = --dist loadfile --no-loadscope-reorder
OUT ?=
PIP_FLAGS = --quiet --disable-pip-version-check --no-input

.PHONY: demo web test test-long lint types imports tests minimal constraints clean

demo: .venv-core/installed
ifeq ($(SLIDES),)
	@test -d demo/slides || { rm -rf demo/partial && .venv-core/bin/smear data synthesize --out demo/partial \
		--slides 7 --fields 6 --seed 1 --size 640 --px-per-um 11 --name demo && mv demo/partial demo/slides; }
	@out="$(OUT)"; .venv-core/bin/smear score demo/slides/images --out "$${out:-demo/results}" --overwrite
else
	@out="$(OUT)"; .venv-core/bin/smear score "$(SLIDES)" --overwrite \
		--out "$${out:-demo/results-$$(basename "$(SLIDES)")}" || test $$? -eq 3
endif

web: .venv-core/web
	@.venv-core/bin/smear web --port $(PORT)

test: lint types imports tests minimal

test-long: .venv/installed .venv-core/installed
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m long -n $(LONG_WORKERS) $(SHARED_OUT) --durations=15

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/installed
	.venv/bin/mypy

imports: .venv/installed
	.venv/bin/lint-imports

tests: .venv/installed
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m "not long" -n $(WORKERS) $(SHARED_OUT) --durations=15

# The core alone, with no torch near it, must score a field.
minimal: .venv-core/installed
	.venv-core/bin/python tools/check_minimal_install.py
	@$(MAKE) --no-print-directory .venv-core/web
	.venv-core/bin/python tools/check_web_install.py

.venv-core/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version.split()[0] if sys.version_info < (3, 11) else 0)"
	@echo "installing the core into .venv-core (once)"
	@.venv-core/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv-core
	@.venv-core/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

.venv-core/web: .venv-core/installed
	@.venv-core/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[web]"
	@touch $@

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version.split()[0] if sys.version_info < (3, 11) else 0)"
	@echo "installing everything into .venv (once)"
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt uv
	@.venv/bin/uv pip install --quiet --python .venv/bin/python -c constraints.txt -e ".[all,dev]"
	@touch $@

constraints: .venv/installed
	.venv/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links -o constraints.txt

clean:
	rm -rf .venv .venv-core demo build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
