"""What is to run on the first GPU at hand has run before, every line of it, on this CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
QUICK = ["env.task=cartpole_balance", "env.action_repeat=10", "render.backend=ray", "train.env_steps=1500"]


@pytest.mark.timeout(1200)  # two or three minutes, if nothing else computes
def test_the_dry_run_leaves_every_result_and_goes_on_where_it_stopped(tmp_path):
    out, run = tmp_path / "out", tmp_path / "run"
    places = {"OUT": str(out), "RUN_DIR": str(run), "VIRTUAL_ENV": sys.prefix}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", str(ROOT / "scripts" / "gpu_report.sh"), "--dry-run", "20", *QUICK]

    def dry_run() -> str:
        environment = os.environ | places | {"PATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    told = dry_run()
    for name in ("update-float32", "convolutions", "update-seeds2", "pipeline"):
        assert name in told and json.loads((out / f"{name}.json").read_text())["settings"]
    assert "no failures" in (out / "parity.txt").read_text()
    assert {path.name for path in (out / "run").iterdir()} >= {"config.yaml", "metrics.jsonl"}
    assert (out / "curve.png").exists() and not list(out.glob("*.txt.*"))  # of a step that failed
    (out / "parity.txt").write_text("kept")
    again = dry_run()
    assert "update-float32" not in again and (out / "parity.txt").read_text() == "kept" and "done: " in again
