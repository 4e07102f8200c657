#!/usr/bin/env bash
# Writes the two locks anew, in fresh environments: the newest versions that requirements.txt and pyproject.toml allow.
#
#   bash scripts/lock.sh                 requirements.lock with python3.11, requirements-3.12.lock with python3.12
#   bash scripts/lock.sh python3.12      the lock of that interpreter alone
#
# Then test with every Python: bash scripts/test_matrix.sh
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# We use only the files of robodesk, not the gym that it requires.
without=(--exclude pip --exclude denoised-mdp --exclude gym --exclude gym-notices)

# lock PYTHON: writes the lock of that interpreter.
lock() {
    local python=$1 work file about
    case "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" in
        3.11) file=requirements.lock about="Python 3.11" ;;
        3.12) file=requirements-3.12.lock about="Python 3.12 and newer" ;;
        *) echo "error: $python: locks are made with the oldest Python that they are for, 3.11 or 3.12" >&2; exit 2 ;;
    esac
    work="$(mktemp -d)"
    "$python" -m venv "$work/venv"
    local pip=("$work/venv/bin/python" -m pip --disable-pip-version-check --quiet)
    pinned() { "${pip[@]}" freeze --all --exclude-editable "${without[@]}" | LC_ALL=C sort -f; }

    "${pip[@]}" install --upgrade "setuptools>=77,<81"
    "${pip[@]}" install -r "$root/requirements.txt"
    pinned >"$work/core"
    "${pip[@]}" install --no-build-isolation -e "${root}[dev,robodesk]"
    pinned >"$work/all"
    {
        echo "# Every package at the version that was tested, for $about; scripts/setup.sh installs them with"
        echo "# --no-deps. Written by scripts/lock.sh from requirements.txt and pyproject.toml."
        # dm_control requires labmaze, which has no wheels for Python 3.13; the suite does not use it.
        sed 's/^labmaze==.*/& ; python_version < "3.13"/' "$work/core"
        echo "# --- dev extra ---"
        LC_ALL=C comm -13 <(LC_ALL=C sort "$work/core") <(LC_ALL=C sort "$work/all") | LC_ALL=C sort -f
    } >"$work/lock"
    mv "$work/lock" "$root/$file"
    rm -rf "$work"
}

(($#)) || set -- python3.11 python3.12
for python in "$@"; do lock "$python"; done
