#!/usr/bin/env bash
# Sets up .venv, then runs the linters, the type checker and the tests; arguments go to pytest (with paths from the top).
#
#   bash scripts/test.sh                 everything
#   bash scripts/test.sh -k replay       the tests with "replay" in their names
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh" dev
export PATH="$root/.venv/bin:$PATH" JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

say() { echo "[test] $*" >&2; }
cd "$root"
say "ruff check"
ruff check
say "ruff format --check"
ruff format --check
say "pyright"
pyright --pythonpath "$root/.venv/bin/python"
say "pytest"
pytest -n 2 --dist worksteal "$@"
