#!/usr/bin/env bash
# Kills training runs at random and at chosen moments; each must end with the bytes of an undisturbed one.
#
#   bash scripts/torture.sh --kills 50
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHONPATH="$root" exec "${PYTHON:-$root/.venv/bin/python}" "$root/scripts/torture.py" "$@"
