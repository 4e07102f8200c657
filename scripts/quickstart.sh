#!/usr/bin/env bash
# Trains the small preset on a noisy task, then evaluates it and draws its signal and noise.
#
#   bash scripts/quickstart.sh                          needs Python 3.11 or newer, no GPU; resumes after a stop
#   bash scripts/quickstart.sh train.env_steps=100000   arguments are overrides of the configuration
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
run_dir="$root/runs/quickstart"
say() { echo "[quickstart] $*" >&2; }

bash "$root/scripts/setup.sh" core
python="$root/.venv/bin/python"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
cd "$root"

trap 'say "stopped; run the same command to resume"; exit 130' INT
say "training into $run_dir (Ctrl-C saves; the same command resumes)"
"$python" scripts/train.py experiment=quickstart run_dir="$run_dir" "$@"
say "drawing what the agent believes"
"$python" scripts/visualize.py run_dir="$run_dir"

say "open these:"
find "$run_dir" -type f \( -name '*.png' -o -name '*.mp4' -o -name 'eval*.json' -o -name 'metrics.jsonl' \) | sort | sed 's/^/  /'
say "curves: $root/.venv/bin/pip install tensorboard && $root/.venv/bin/tensorboard --logdir $run_dir"
say "what the return is worth:"
"$python" scripts/evaluate.py run_dir="$run_dir" baselines=true
