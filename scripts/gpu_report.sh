#!/usr/bin/env bash
# Measures the paper's networks on this machine's GPU and trains for real, within a time box; writes docs/results/gpu.
#
#   bash scripts/gpu_report.sh                             ten minutes: the most important measurements, then a run
#   bash scripts/gpu_report.sh 240 env.task=walker_walk    four hours; other arguments are settings of pipeline and run
#   OUT=dry bash scripts/gpu_report.sh --dry-run 5         every step at size=debug, on any device of jax
#
# Needs a jax with GPU support, in the active environment or in .venv. OUT=folder writes the results to another folder.
# Each result is written at once and kept, so that the same command continues after a stop.
# The script reports and leaves out a step that fails, or for which no time is left; its exit code is then 1.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
dry=
[[ ${1:-} != --dry-run ]] || { dry=1; shift; }
minutes=10
[[ ! ${1:-} =~ ^[0-9]+$ ]] || { minutes=$1; shift; }
python="$(command -v python3 || command -v python)"
[[ -n ${VIRTUAL_ENV:-} || ! -x .venv/bin/python ]] || python="$root/.venv/bin/python"
out="${OUT:-docs/results/gpu}"
run_dir="${RUN_DIR:-runs/gpu}"
cores="$(nproc)"
workers=$((cores > 9 ? 8 : cores > 2 ? cores - 1 : 1))
size=paper seeds="5 16" chunk=10 precisions="float32 bfloat16" convolutions=(size=paper) golden=(tests/golden/*.npz)
if [[ -n $dry ]]; then # size=debug has no convolutions: take the paper's, as thin as possible
    size=debug seeds=2 chunk=2 precisions=float32 convolutions=(size=paper model.conv_features=1 --repeats 1)
    golden=(tests/golden/xyz_64.npz)
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
say() { echo "[gpu] $(printf '%3d' $SECONDS) s: $*" >&2; }
left() { echo $((60 * minutes - SECONDS)); }
failures=()

backend="$("$python" -c 'import jax; print(jax.default_backend())')"
[[ -n $dry || $backend == gpu ]] || { say "jax sees no GPU here, only: $backend; see docs/scaling.md"; exit 2; }
mkdir -p "$out"

# measure NAME SECONDS COMMAND...: writes the command's output to NAME.txt, if that many seconds are left.
measure() {
    local name=$1 needs=$2 file
    shift 2
    file="$out/$name.txt"
    [[ ! -f $file ]] || return 0
    if (($(left) < needs)); then
        say "$name: left out, it may take $needs s and $(left) are left"
        failures+=("$name (no time)")
        return 0
    fi
    say "$name"
    if timeout "$(left)" "$@" >"$file.partial" 2>"$file.log"; then
        mv "$file.partial" "$file"
        rm -f "$file.log"
        grep -E '^  (iteration|share_of_peak|temporary_memory|all_|env_steps|updates|.*_waits) |agree' "$file" >&2 || true
    else
        say "$name failed ($?): $(tail -n 1 "$file.log")"
        failures+=("$name")
    fi
}
benchmark=("$python" scripts/benchmark.py)

for precision in $precisions; do
    measure "update-$precision" 60 "${benchmark[@]}" update size=$size precision="$precision" --chunk $chunk --out "$out/update-$precision.json"
done
measure convolutions 40 "${benchmark[@]}" convolutions "${convolutions[@]}" --out "$out/convolutions.json"
measure parity 60 env JAX_PLATFORMS= JAX_DEFAULT_MATMUL_PRECISION=highest "$python" scripts/check_parity.py "${golden[@]}"
for count in $seeds; do
    measure "update-seeds$count" 60 "${benchmark[@]}" update size=$size seeds="$count" --chunk $chunk --out "$out/update-seeds$count.json"
done
together=(size=$size noise=video_background train.envs=4 train.workers=$((workers < 4 ? workers : 4)) train.staleness=1 replay.device=true replay.memory_mb=8192)
[[ -z $dry ]] || together=(size=$size noise=video_background train.staleness=1 replay.device=true)
measure pipeline 90 "${benchmark[@]}" pipeline "${together[@]}" "$@" --out "$out/pipeline.json"

seconds=$(($(left) - 20))
if ((seconds > 60)); then
    say "a run of $seconds s"
    status=0
    timeout --signal=TERM "$seconds" "$python" scripts/train.py "${together[@]}" evaluate.workers="$workers" run_dir="$run_dir" \
        logger.tensorboard=false "$@" 2>&1 | tee "$out/run.log" >&2 || status=$?
    if [[ $status == 0 || $status == 124 ]]; then # 124: the time was over, and the run has saved
        mkdir -p "$out/run"
        cp "$run_dir/config.yaml" "$run_dir/metrics.jsonl" "$out/run"
        cp "$run_dir"/videos/*.png "$out/run" 2>/dev/null || true
        "$python" scripts/report.py "$run_dir" --out "$out/curve.png" || failures+=("curve")
    else
        failures+=("run")
    fi
else
    say "no time is left for a run"
    failures+=("run (no time)")
fi
if ((${#failures[@]})); then
    say "done but for: ${failures[*]}; results in $out"
    exit 1
fi
say "done: $out"
