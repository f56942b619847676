# `make` lists the targets. Everything runs in .venv, which the first target that needs it installs.

.POSIX:
.PHONY: help install demo test lint types ci clean

BIN = .venv/bin
# Two processes with one thread each: the tests are many and small. The idle one takes over what waits.
# `make test PYTEST=-x` replaces the options.
PYTEST = -n 2 --dist worksteal

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

install: .venv/.installed  ## make .venv and install the pinned versions (a second run does nothing)

demo: .venv/.installed  ## meta-train on CartPole and show how fast a new task is learned
	@$(BIN)/python experiments/demo.py

test: .venv/.installed  ## run the tests
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q $(PYTEST)

lint: .venv/.installed  ## check the style
	@$(BIN)/ruff check --quiet .

types: .venv/.installed  ## check the types
	@$(BIN)/mypy

ci: lint types test  ## all of the above checks, as on the server

clean:  ## remove the environment and the caches (never runs/ or results/)
	@rm -rf .venv .venv.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

# The stamp is the last thing written, by renaming a marker that lies in the environment while pip works. A marker found
# at the start therefore means an interrupted install, and the environment is made anew. The lock is a symbolic link
# whose target is the owner's process id: made atomically, and taken over when that process is gone.
.venv/.installed: pyproject.toml constraints.txt
	@set -eu; \
	say() { echo "metarl: $$*" >&2; }; \
	python=; \
	for candidate in $${PYTHON:-} python3.11 python3; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then say "Python 3.11 or newer is needed; install it or run 'make PYTHON=/path/to/python3'"; exit 1; fi; \
	told=; \
	until ln -s "pid-$$$$" .venv.lock 2>/dev/null; do \
	    owner=$$(readlink .venv.lock 2>/dev/null || true); \
	    if [ -z "$$owner" ]; then \
	        [ -w . ] || { say "this folder is read-only; work in a copy that you may write to"; exit 1; }; \
	    elif kill -0 "$${owner#pid-}" 2>/dev/null; then \
	        [ -n "$$told" ] || { say "another install is at work (process $${owner#pid-}); waiting for it"; told=yes; }; \
	        sleep 1; \
	    else \
	        rm -f .venv.lock; \
	    fi; \
	done; \
	trap 'rm -f .venv.lock' EXIT; \
	trap 'exit 130' INT; \
	trap 'exit 143' HUP TERM; \
	if [ -n "$$told" ] && [ -e .venv/.installed ]; then exit 0; fi; \
	if [ -e .venv/.installing ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
	    say "making .venv with $$("$$python" --version 2>&1)"; \
	    "$$python" -m venv --clear .venv || { \
	        say "could not make .venv; on Debian or Ubuntu 'apt install python3-venv' is needed first"; exit 1; }; \
	fi; \
	: > .venv/.installing; \
	rm -f .venv/.installed; \
	say "installing the pinned packages (a few minutes the first time)"; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' || { \
	    say "the install did not finish (see above); run the same command again"; exit 1; }; \
	: > .venv/.installing; \
	mv .venv/.installing .venv/.installed
