"""Trains one long run of size=debug and records what its process holds: memory, open files, threads.

    python scripts/soak.py --env-steps 200000 --out soak.json

Episodes, updates, evaluations, videos, checkpoints and a replay that forgets all happen many times. Prints the means of
the second tenth and of the last tenth of the run; the JSON file holds every sample.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SETTINGS = [
    "size=debug", "noise=video_background", "render.backend=ray", "env.task=cartpole_balance", "env.action_repeat=10",
    "evaluate.every=2000", "evaluate.video_every=6000", "checkpoint.every=1000", "replay.capacity=5000",
    "logger.progress=false",
]  # fmt: skip
FIELDS = {"VmRSS": "memory_kib", "Threads": "threads"}


def main() -> None:
    """Trains, samples and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--env-steps", type=int, default=200_000)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--out", type=Path, default=Path("soak.json"))
    parser.add_argument("settings", nargs="*", help="further settings of the run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = [*SETTINGS, *options.settings, f"train.env_steps={options.env_steps}", f"run_dir={run}"]
        process = subprocess.Popen([sys.executable, str(Path(__file__).parent / "train.py"), *settings])
        samples = []
        while process.poll() is None:
            time.sleep(options.every)
            if (sample := _sample(process.pid, run)) is not None:
                samples.append(sample)
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    options.out.write_text(json.dumps({"settings": settings[:-1], "samples": samples}) + "\n")
    _print(samples, options.env_steps)


def _sample(pid: int, run: Path) -> dict[str, int] | None:
    """Returns what the process holds now, with the env step of the newest checkpoint; None once it has ended."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        held = {name: int(status[field].split()[0]) for field, name in FIELDS.items()}
        held["open_files"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (OSError, KeyError):
        return None
    steps = [int(path.name) for path in (run / "checkpoints").glob("[0-9]*")]
    return {"env_step": max(steps, default=0), **held}


def _print(samples: list[dict[str, int]], env_steps: int) -> None:
    step = np.array([sample["env_step"] for sample in samples])
    tenth = np.minimum(10 * step // env_steps, 9)
    for name in (*FIELDS.values(), "open_files"):
        values = np.array([sample[name] for sample in samples])
        early, late = (values[tenth == which].mean() for which in (1, 9))
        print(f"{name}: {early:,.1f} in the second tenth, {late:,.1f} in the last ({late / early - 1:+.1%})")


if __name__ == "__main__":
    main()
