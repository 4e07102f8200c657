#!/usr/bin/env bash
# Checks that two versions of this code make the same runs, byte for byte: for a change that should change no number.
#
#   git worktree add ../before main && bash scripts/same_numbers.sh ../before .
#
# Trains runs of size=debug with both: every model with every learner, several seeds, environments in workers,
# staleness, the replay on the device, two processes, sunlight. The first version also begins each run, and the second
# one finishes it. Compares parameters, replay and progress byte for byte, and metrics except speed/*. RUNS="xy sac"
# trains only the runs whose names match a word; OUT=folder keeps the runs, and does not train finished ones again.
set -euo pipefail

(($# == 2)) || { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
before="$(cd "$1" && pwd)" after="$(cd "$2" && pwd)"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
out="${OUT:-$(mktemp -d)}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
say() { echo "[same numbers] $*" >&2; }

declare -A settings=(
    [sunlight]="env=sunlight model=xyz"
    [workers]="train.envs=2 train.workers=2 train.prefill=2000 train.env_steps=4000"
    [staleness]="train.staleness=1"
    [device]="replay.device=true"
    [processes]="distributed=true"
    [seeds]="seeds=2"
)
for model in x xy xyz tia; do
    for policy in dynamics sac; do settings[$model-$policy]="model=$model policy=$policy noise=video_background"; done
done

train() { # train FOLDER_OF_CODE RUN_DIR SETTINGS...
    local code=$1 run=$2 processes=() failed=0 i
    shift 2
    if [[ " $* " == *" distributed=true "* ]]; then # two processes of a made-up SLURM job
        export SLURM_JOB_ID=1 SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=1
        for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i one "$code" "$run" "$@" & processes+=($!); done
        for i in "${processes[@]}"; do wait "$i" || failed=1; done
        unset SLURM_JOB_ID SLURM_STEP_NODELIST SLURM_NTASKS SLURM_STEP_NUM_NODES
    else
        one "$code" "$run" "$@" || failed=1
    fi
    ((failed == 0)) || { say "failed: $run.log"; tail -n 3 "$run.log" >&2; exit 1; }
}

one() { # one FOLDER_OF_CODE RUN_DIR SETTINGS...: one process
    local code=$1 run=$2
    shift 2
    (cd "$code" && PYTHONPATH="$code" "$python" scripts/train.py size=debug logger.tensorboard=false logger.progress=false \
        run_dir="$run" "$@") >>"$run.log" 2>&1
}

different=0
for name in $(printf '%s\n' "${!settings[@]}" | sort); do
    wanted=${RUNS:-}
    if [[ -n $wanted ]] && ! grep -qE "${wanted// /|}" <<<"$name"; then continue; fi
    read -ra given <<<"${settings[$name]}"
    say "$name: ${given[*]}"
    train "$before" "$out/$name-before" "${given[@]}"
    train "$after" "$out/$name-after" "${given[@]}"
    # No halves with staleness: after a finished run is extended, it acts for one block with newer parameters.
    pairs=("$out/$name-before $out/$name-after")
    if [[ $name != staleness ]]; then
        half=$([[ $name == workers ]] && echo 3000 || echo 1500)
        train "$before" "$out/$name-halves" "${given[@]}" train.env_steps=$half
        train "$after" "$out/$name-halves" "${given[@]}"
        pairs+=("$out/$name-before $out/$name-halves --finished-later")
    fi
    for pair in "${pairs[@]}"; do
        # shellcheck disable=SC2086
        "$python" "$root/scripts/same_run.py" $pair || different=1
    done
done
((different)) && say "not the same; the runs are in $out" || say "the same; the runs are in $out"
exit $different
