PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: demo test slow claims chaos lint lock clean help

demo: $(READY)  ## make a synthetic corpus, train on it and evaluate: offline, no GPU, minutes
	$(PY) jobs/evaluate.py mini

claims: $(READY)  ## measure the paper's claims on three synthetic worlds with three seeds: an hour or so
	$(PY) jobs/claims.py mini

chaos: $(READY)  ## make every fault on real jobs, and write the table of docs/reliability.md: half an hour or so
	$(PY) jobs/chaos.py mini chaos.page=docs/reliability.md

# One process runs the tests of the shared Ray (tests/conftest.py), the other one the rest; the exit status counts both.
# Compiled modules are kept, whatever the environment says: some hundred processes import them.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(READY)  ## run the tests, in two processes
	@$(PY) -m pytest -m 'ray and not slow' & ray=$$!; $(PY) -m pytest -m 'not ray and not slow'; others=$$?; \
	wait $$ray && exit $$others

slow: $(READY)  ## run the tests that make test leaves out: killed nodes, workers, drivers; 10,000 clips; servers
	$(PY) -m pytest -m slow

lint: $(READY)  ## check style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# The lock is complete, so --no-deps keeps pip from resolving anything by itself.
$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else \
	"found Python %d.%d, expected 3.11 or 3.12: run e.g. make PYTHON=python3.12 " % v)'
	$(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock:  ## resolve pyproject.toml into requirements.lock for both Pythons; the lock names packages, no hosts
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/pip install --quiet uv
	.venv-lock/bin/uv pip compile --universal --upgrade --extra dev --no-annotate --no-header \
	  pyproject.toml -o requirements.lock
	rm -rf .venv-lock

clean:  ## delete .venv and artifacts
	rm -rf .venv artifacts

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' $(MAKEFILE_LIST) | while read -r name text; do printf '%-8s%s\n' "$$name" "$$text"; done
