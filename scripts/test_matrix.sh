#!/usr/bin/env bash
# Sets up and tests on every supported Python of this machine, each in a fresh environment, and prints a table.
#
#   bash scripts/test_matrix.sh                everything, on 3.11 to 3.14
#   bash scripts/test_matrix.sh -k replay      arguments go to pytest
#
# PYTHONS="python3.12 /path/to/python" selects the interpreters. The environments are in a temporary folder, take 1.5 GB
# each, and are removed after their tests; the logs stay in OUT, by default .cache/matrix.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="${OUT:-$root/.cache/matrix}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$root"
say() { echo "[matrix] $*" >&2; }
row() { printf '%-8s %-10s %-9s %-8s %-44s %s\n' "$@"; }

# The interpreters in PYTHONS; without it, for each version the one on the path, or else pyenv's newest.
interpreters() {
    local minor candidate
    if [[ -n ${PYTHONS:-} ]]; then tr ' ' '\n' <<<"$PYTHONS"; return; fi
    for minor in 11 12 13 14; do
        for candidate in "python3.$minor" $(printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor."*/bin/python | sort -rV); do
            if "$candidate" -c '' 2>/dev/null; then echo "$candidate"; break; fi
        done
    done
}

# on PYTHON ARGUMENTS...: prints a line of the table; false if something failed.
on() {
    local python=$1 version venv packages log status=0
    shift
    if ! version="$("$python" -c 'import platform; print(platform.python_version())')"; then
        row "$python" - - - "this interpreter does not run" -
        return 1
    fi
    venv="$work/$version" log="$out/$version.log"
    say "$version: setting up, then testing; $log"
    SECONDS=0
    if ! VENV="$venv" PYTHON="$python" bash scripts/setup.sh dev >"$log" 2>&1; then
        row "$version" - - - "set-up failed: $(tail -n 1 "$log")" "$SECONDS s"
        return 1
    fi
    packages="import importlib.metadata as m; print(*map(m.version, ('jax', 'flax', 'numpy')))"
    read -r -a packages <<<"$("$venv/bin/python" -c "$packages")"
    SECONDS=0
    PATH="$venv/bin:$PATH" JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" "$venv/bin/python" -m pytest -n 2 --dist worksteal "$@" \
        >>"$log" 2>&1 || status=$?
    # pytest's last line, without the time (the last column has it) and without colours
    row "$version" "${packages[@]}" "$(tail -n 1 "$log" | sed 's/ in [0-9.]*s.*//; s/^=* *//')" "$SECONDS s"
    rm -rf "$venv"
    return $status
}

{
    row Python jax flax numpy tests time
    failed=0
    for python in $(interpreters); do on "$python" "$@" || failed=1; done
    exit $failed
} | tee "$out/table.txt"
