PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready

.PHONY: demo test slow claims lint lock clean

demo: $(READY)  ## prepare -> train -> evaluate on the offline recipe
	$(PY) jobs/evaluate.py mini

claims: $(READY)  ## what the paper claims, in miniature: three synthetic worlds, three seeds, tables and pictures
	$(PY) jobs/claims.py mini

test: $(READY)
	$(PY) -m pytest

slow: $(READY)  ## the tests that `make test` leaves out
	$(PY) -m pytest -m slow

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# The lock is complete, so --no-deps keeps pip from resolving anything by itself.
$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else \
	"found Python %d.%d, expected 3.11 or 3.12: run e.g. make PYTHON=python3.12 " % v)'
	$(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock:  ## resolve pyproject.toml anew for both Pythons; the lock names packages only, no hosts
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/pip install --quiet uv
	.venv-lock/bin/uv pip compile --universal --upgrade --extra dev --no-annotate --no-header \
	  pyproject.toml -o requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv artifacts
