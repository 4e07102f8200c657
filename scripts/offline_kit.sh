#!/usr/bin/env bash
# Packs what a machine without a network lacks: this package, MuJoCo, the suite part of dm_control, Hydra, pydantic, ...
#
#   bash scripts/offline_kit.sh --python 3.12 --platform x86_64 --have jax,flax,optax,numpy --out kit.tar.xz
#
# Runs here, where there is a network, with any Python that has pip; prints the lines that unpack and use the kit there.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/offline_kit.py" "$@"
