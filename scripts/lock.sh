#!/usr/bin/env bash
# Writes requirements.lock anew: the newest versions within requirements.txt and pyproject.toml, in a fresh environment.
#
# Run it with the oldest Python that is supported (PYTHON=python3.11), then test with every one.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check --quiet)
# Of robodesk only the files are used, not the gym that it asks for.
without=(--exclude pip --exclude denoised-mdp --exclude gym --exclude gym-notices)
pinned() { "${pip[@]}" freeze --all --exclude-editable "${without[@]}" | LC_ALL=C sort -f; }

"${pip[@]}" install --upgrade "setuptools>=77,<81"
"${pip[@]}" install -r "$root/requirements.txt"
pinned >"$work/core"
"${pip[@]}" install --no-build-isolation -e "$root[dev,robodesk]"
pinned >"$work/all"
{
    echo "# Every package at the version that was tested, for Python 3.11 and newer; scripts/setup.sh installs them with"
    echo "# --no-deps. Written by scripts/lock.sh from requirements.txt and pyproject.toml."
    # dm_control asks for labmaze, which has no wheels for Python 3.13; the suite does not use it.
    sed 's/^labmaze==.*/& ; python_version < "3.13"/' "$work/core"
    echo "# --- dev extra ---"
    LC_ALL=C comm -13 <(LC_ALL=C sort "$work/core") <(LC_ALL=C sort "$work/all") | LC_ALL=C sort -f
} >"$work/lock"
mv "$work/lock" "$root/requirements.lock"
