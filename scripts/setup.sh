#!/usr/bin/env bash
# Makes .venv beside the sources and installs the versions of requirements.lock, or on Python 3.12 and newer those of
# requirements-3.12.lock; re-uses what already exists.
#
#   bash scripts/setup.sh         the packages for training
#   bash scripts/setup.sh dev     also those for the tests, the linters and RoboDesk
#
# PYTHON=/path/to/python chooses the interpreter, VENV=folder another place.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv}"
kind="${1:-core}"
say() { echo "[setup] $*" >&2; }
die() { say "$*"; exit 1; }
[[ $kind == core || $kind == dev ]] || die "unknown kind of set-up '$kind': it is core or dev"

# The version of an interpreter, as "3.11"; empty if it is missing or does not start.
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }
new_enough() { [[ $1 =~ ^3\.([0-9]+)$ ]] && ((BASH_REMATCH[1] >= 11)); }

find_python() {
    local candidate found seen=""
    for candidate in "$@"; do
        found="$(version_of "$candidate")"
        if new_enough "$found"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
        seen+="${found:+, $candidate is $found}"
    done
    die "Python 3.11 or newer is needed${seen:-, none was found}: sudo apt install python3.11 python3.11-venv"
}

# A hash of everything that an installation depends on: the pins, our metadata, the interpreter and the folder.
stamp() {
    {
        cat "$pins" "$root/requirements.txt" "$root/pyproject.toml"
        "$venv/bin/python" -VV
        echo "$root"
    } | sha256sum
}
installed() { [[ -f "$venv/installed-$1" && "$(<"$venv/installed-$1")" == "$(stamp)" ]]; }

# Shows pip's progress, from its output, on one line that is overwritten; prints nothing without a terminal.
show_progress() {
    local word name rest count=0
    while read -r word name rest; do
        [[ -t 2 ]] || continue
        case $word in
            Collecting | Processing) printf '\r\e[K[setup] fetching %d of %d: %s' $((count += 1)) "$1" "$name" >&2 ;;
            Installing) printf '\r\e[K[setup] unpacking; this takes as long again\n' >&2 ;;
        esac
    done
}

usable() { new_enough "$(version_of "$venv/bin/python")" && "$venv/bin/python" -c 'import pip' 2>/dev/null; }

if ! usable; then
    if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); else candidates=(python3 python3.14 python3.13 python3.12 python3.11); fi
    python="$(find_python "${candidates[@]}")"
    version="$(version_of "$python")"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "Python $version has no venv module: sudo apt install python$version-venv"
    say "making $venv with $python ($version)"
    "$python" -m venv --clear "$venv"
fi
pins="$root/requirements-3.12.lock"
[[ $(version_of "$venv/bin/python") != 3.11 ]] || pins="$root/requirements.lock"
if installed "$kind"; then
    say "$venv is up to date"
    exit 0
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check)
lock="$pins"
if [[ $kind == core ]]; then
    lock="$venv/core.lock"
    sed '/^# --- dev extra/,$d' "$pins" >"$lock"
fi
say "installing $(grep -c '==' "$lock") packages, about 1.5 GB, into $venv: a minute or a few"
SECONDS=0
rm -f "$venv"/installed-*
"${pip[@]}" install --no-deps --progress-bar off -r "$lock" | show_progress "$(grep -c '==' "$lock")"
"${pip[@]}" install --quiet --no-deps --no-build-isolation -e "$root"
stamp >"$venv/installed-core"
[[ $kind == core ]] || cp "$venv/installed-core" "$venv/installed-dev"
say "done in $SECONDS s"
