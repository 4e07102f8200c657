#!/usr/bin/env bash
# Packs the missing packages for a machine without a network: this one, MuJoCo, dm_control's suite, Hydra, pydantic, ...
#
#   bash scripts/offline_kit.sh --python 3.12 --platform x86_64 --have jax,flax,optax,numpy --out kit.tar.xz
#
# Run it on a machine with a network and any Python with pip; it prints the commands that unpack and use the kit.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/offline_kit.py" "$@"
