#!/usr/bin/env bash
# What the paper's networks cost on this machine's GPU, one seed and many, and one real run; all into docs/results/gpu.
#
#   bash scripts/gpu_report.sh                                30 minutes of training after the measurements
#   bash scripts/gpu_report.sh 240 env.task=walker_walk       four hours; the rest are settings of the run
#
# Needs jax for the GPU in the environment that is active, or in .venv: pip install 'jax[cuda12]>=0.10.2,<0.11'. What is measured
# already is kept, and the run goes on: the same command again, after a stop, does what is missing.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
minutes=30
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    minutes=$1
    shift
fi
python="$(command -v python || true)"
[[ -n ${VIRTUAL_ENV:-} || ! -x .venv/bin/python ]] || python="$root/.venv/bin/python"
out=docs/results/gpu
say() { echo "[gpu] $*" >&2; }

backend="$("$python" -c 'import jax; print(jax.default_backend())')"
[[ $backend == gpu ]] || { say "jax sees no GPU here, only: $backend; pip install 'jax[cuda12]>=0.10.2,<0.11'"; exit 1; }
mkdir -p "$out"

for precision in float32 bfloat16; do
    for seeds in 1 5 16; do
        name="$out/$precision-seeds$seeds"
        if [[ -f $name.md ]]; then continue; fi
        say "$precision, $seeds seeds: an update, and a run in little with environments beside it"
        "$python" scripts/benchmark.py update pipeline size=paper noise=video_background train.workers=1 \
            replay.memory_mb=8192 precision=$precision seeds=$seeds --out "$name.json" | tee "$name.md.partial"
        mv "$name.md.partial" "$name.md"
    done
done

say "a run of $minutes minutes"
run_dir=runs/gpu
status=0
timeout --signal=TERM "${minutes}m" "$python" scripts/train.py size=paper noise=video_background train.workers=1 \
    evaluate.workers=5 replay.memory_mb=8192 run_dir=$run_dir "$@" || status=$?
[[ $status == 0 || $status == 124 ]] || exit $status # 124: its time was up, and it has saved
mkdir -p "$out/run"
cp $run_dir/config.yaml $run_dir/metrics.jsonl "$out/run"
"$python" scripts/report.py $run_dir --out "$out/curve.png"
say "done: $out"
