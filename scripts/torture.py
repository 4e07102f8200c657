"""Kills training runs again and again, and checks that each ends with the bytes of a run that nobody disturbed.

A run of size=debug is trained undisturbed; then the same run is started, killed with SIGKILL, started again, until all
kills are spent, and trained to its end. Parameters, replay, progress and metrics (but for speed) must be the same.
Kills come at random moments, from the start of the process on, and at chosen ones: while a checkpoint is written, while
the replay deletes episodes, after a line of metrics has been written.

    bash scripts/torture.sh --kills 50 --out /tmp/torture
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from same_run import differences

TRAIN = Path(__file__).resolve().parent / "train.py"
SETTINGS = [
    "size=debug", "noise=video_background", "render.backend=ray", "env.task=cartpole_balance", "env.action_repeat=10",
    "train.env_steps=6000", "evaluate.every=2000", "evaluate.video_every=6000", "checkpoint.every=250",
    "replay.capacity=250", "logger.tensorboard=false", "logger.progress=false",
]  # fmt: skip
VARIANTS = {  # small: the pieces of size=small that keep a state, or draw at random
    "small": [
        "policy.critics=2",
        "policy.slow_critic_weight=1",
        "policy.normalize_returns=true",
        "replay.recent_share=0.5",
        "replay.recent_episodes=3",
    ],
    "workers": ["train.envs=2", "train.workers=2", "train.prefill=2000"],
    "staleness": ["train.staleness=1"],
    "seeds": ["seeds=2"],
    "sac": ["policy=sac", "model=xyz"],
}


class Killing(NamedTuple):
    """One process of a run that is about to be killed."""

    process: subprocess.Popen
    run: Path
    rng: random.Random
    seconds: float  # that the undisturbed run took

    def until(self, condition: Callable[[], bool], timeout: float = 600.0) -> None:
        """Waits for a condition, for the end of the process, or for `timeout` seconds."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.process.poll() is None and not condition():
            time.sleep(0.0005)


def at_random(killing: Killing) -> None:
    """Waits for a time drawn evenly from that of a whole run: imports, compilation, prefill, updates, evaluation."""
    killing.until(lambda: False, timeout=killing.rng.uniform(0, killing.seconds))


def while_saving(killing: Killing) -> None:
    """Waits until a checkpoint is half written, the first or a later one, and for up to 5 ms more."""
    for _ in range(killing.rng.randrange(1, 5)):
        killing.until(lambda: not _is_saving(killing.run))
        killing.until(lambda: _is_saving(killing.run))
    time.sleep(killing.rng.uniform(0, 0.005))


def while_forgetting(killing: Killing) -> None:
    """Waits until the file of an episode has been deleted."""
    before: set[str] = set()

    def deleted() -> bool:
        nonlocal before
        now = {str(path) for seed in _folders(killing.run) for path in (seed / "replay").glob("episode-*.bin")}
        gone, before = before - now, now
        return bool(gone)

    killing.until(deleted)


def after_a_metric(killing: Killing) -> None:
    """Waits until some lines of metrics have been written: updates, returns, evaluations."""
    size = _size(killing.run) + killing.rng.randrange(1, 4000)
    killing.until(lambda: _size(killing.run) > size)


MOMENTS = (at_random, while_saving, while_forgetting, after_a_metric)


def main() -> None:
    """Prints each kill and each comparison; ends with 1 if a run differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="kills in all, divided among the variants")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="some of %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="folder for the runs; a temporary one otherwise")
    parser.add_argument("settings", nargs="*", help="further settings of all runs")
    options = parser.parse_args()
    variants = options.variants.split(",")
    if unknown := set(variants) - set(VARIANTS):
        parser.error(f"--variants: there is no {', '.join(sorted(unknown))}")
    SETTINGS.extend(options.settings)
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        wrong = [
            name
            for i, name in enumerate(variants)
            if not torture(name, out, _share(options.kills, len(variants), i), random.Random(f"{options.seed} {name}"))
        ]
    print(
        f"differ: {', '.join(wrong)}" if wrong else "every run ended with the bytes of the undisturbed one", flush=True
    )
    raise SystemExit(bool(wrong))


def torture(name: str, out: Path, kills: int, rng: random.Random) -> bool:
    """Trains one variant undisturbed and with `kills` kills; returns whether the results are the same.

    If a run ends before all kills are used, it is compared, and a new run gets the remaining kills.
    """
    whole, spent, same, landed = out / f"{name}-whole", 0, True, Counter[str]()
    _finish(name, whole)
    begun = time.monotonic()
    _finish(name, out / f"{name}-again")  # without compilation, as in the runs to be killed
    seconds = time.monotonic() - begun
    for number in range(1, 3 * kills + 1):
        run, left = out / f"{name}-killed{number}", kills - spent
        for _ in range(left):
            moment = MOMENTS[spent % len(MOMENTS)]
            killing = Killing(_start(name, run), run, rng, seconds)
            moment(killing)
            if killing.process.poll() is not None:  # too late: it has ended
                break
            killing.process.kill()
            killing.process.wait()
            spent += 1
            landed[moment.__name__] += 1
            print(f"{name}: kill {spent} of {kills}, {moment.__name__}: {_standing(run)}", flush=True)
        _finish(name, run)
        found = [
            text
            for a, b in zip(_folders(whole), _folders(run), strict=True)
            for text in differences(a, b, finished_later=False)
        ]
        print(f"{run.name}: {'; '.join(found) if found else 'the same bytes'}", flush=True)
        same &= not found
        if spent == kills:
            break
    print(f"{name}: {dict(landed)}", flush=True)
    if spent < kills:
        raise SystemExit(f"{name}: only {spent} of {kills} kills came in time")
    return same


def _folders(run: Path) -> list[Path]:
    """Returns the run's folder, or those of its seeds."""
    return sorted(run.glob("seed*")) or [run]


def _share(total: int, parts: int, i: int) -> int:
    return total * (i + 1) // parts - total * i // parts


def _start(name: str, run: Path) -> subprocess.Popen:
    with Path(f"{run}.log").open("ab") as log:
        command = [sys.executable, str(TRAIN), *SETTINGS, *VARIANTS[name], f"run_dir={run}"]
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _finish(name: str, run: Path) -> None:
    process = _start(name, run)
    if process.wait() != 0:
        raise SystemExit(f"{name}: the run ended with {process.returncode}: {run}.log")


def _is_saving(run: Path) -> bool:
    return any((seed / "checkpoints" / "partial").exists() for seed in _folders(run))


def _size(run: Path) -> int:
    """Returns the bytes of metrics written so far."""
    return sum(file.stat().st_size for seed in _folders(run) if (file := seed / "metrics.jsonl").exists())


def _standing(run: Path) -> str:
    checkpoints = [path for seed in _folders(run) for path in (seed / "checkpoints").glob("[0-9]*")]
    newest = max((int(path.name) for path in checkpoints), default=None)
    return "no checkpoint yet" if newest is None else f"newest checkpoint of env step {newest}"


if __name__ == "__main__":
    main()
