"""A short run with a watch on each part: the share of the time in which the part works, and in which it waits."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from benchmarks import machine
from benchmarks.table import Row
from denoised_mdp.config import Config
from denoised_mdp.runs.device_replay import DeviceReplay
from denoised_mdp.runs.replay import Replay
from denoised_mdp.training import loop
from denoised_mdp.training.learner import SequentialLearner
from denoised_mdp.training.vectorized import VectorizedLearner

PARTS = {
    "environment": "simulating and rendering, of all environments together",
    "acting": "encoding, filtering, choosing actions",
    "write": "into the replay",
    "sample": "out of the replay; onto the device, if the replay is there",
    "learn": "updates of model and policy, from dispatch until their metrics are ready",
}
Interval = tuple[float, float]


class Watch:
    """The intervals in which each part worked. Thread-safe."""

    def __init__(self) -> None:
        self.intervals: dict[str, list[Interval]] = defaultdict(list)
        self._lock = threading.Lock()
        self._waiter = ThreadPoolExecutor(1)
        self._unwatched: list[tuple[Any, str, Any]] = []

    def on(self, holder: Any, name: str, part: str) -> None:
        """Watches a method from now on; it returns no later than before."""
        self._replace(holder, name, self._watched(getattr(holder, name), part, wait=False))

    def on_dispatch(self, holder: Any, name: str, part: str) -> None:
        """Watches a jitted function until its last result is ready, in another thread: the caller does not wait."""
        self._replace(holder, name, self._watched(getattr(holder, name), part, wait=True))

    def on_compiled(self, holder: Any, name: str, part: str) -> None:
        """Watches, as `on_dispatch`, each function that a method returns."""
        compile = getattr(holder, name)
        self._replace(holder, name, lambda function: self._watched(compile(function), part, wait=True))

    def close(self) -> None:
        """Waits until the last result is ready, and ends the watch."""
        self._waiter.shutdown()
        for holder, name, function in self._unwatched:
            setattr(holder, name, function)

    def _replace(self, holder: Any, name: str, watched: Callable[..., Any]) -> None:
        self._unwatched.append((holder, name, getattr(holder, name)))
        setattr(holder, name, watched)

    def _watched(self, function: Callable[..., Any], part: str, *, wait: bool) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments, **options)
            if wait:
                # Not the first of a chunk's results, the state: it is donated to the next chunk.
                self._waiter.submit(lambda: (jax.block_until_ready(result[-1]), self._note(part, started)))
            else:
                self._note(part, started)
            return result

        return watched

    def _note(self, part: str, started: float) -> None:
        with self._lock:
            self.intervals[part].append((started, time.perf_counter()))


def measure(configs: Sequence[Config], *, blocks: int) -> list[Row]:
    """Makes a run of all seeds: one episode of prefill per environment, then `blocks` + 1 blocks of updates.

    The time until the end of the first block, which compiles, is left out.
    """
    with tempfile.TemporaryDirectory(prefix="denoised-mdp-pipeline-") as folder:
        shortened = [_short(config, Path(folder) / str(config.seed), blocks) for config in configs]
        training = loop.Training(*shortened)
        watch = Watch()
        watch.on(loop, "reset_all", "environment")
        watch.on(loop, "step_all", "environment")
        watch.on(Replay, "add", "write")
        watch.on(Replay, "sample", "sample")  # of snapshots too
        watch.on(DeviceReplay, "update", "sample")
        watch.on(DeviceReplay, "sample", "sample")
        watch.on(SequentialLearner, "act", "acting")
        watch.on(VectorizedLearner, "act", "acting")
        for run in training.runs:
            run.progress = run.progress._replace(evaluated_at=0)  # no evaluation before the first step
        if training.vectorized is not None:
            watch.on_dispatch(training.vectorized, "train_chunk", "learn")
        elif training.devices.several:
            watch.on_compiled(training.devices, "compiled", "learn")
        else:
            watch.on_dispatch(training.agent, "train_chunk", "learn")
        try:
            training.train()
        finally:
            watch.close()
            training.close()
    learn = watch.intervals["learn"]
    started, ended = learn[len(learn) // (blocks + 1) - 1][1], learn[-1][1]
    wall = ended - started
    busy = {part: _covered(watch.intervals[part], started, ended) / wall for part in PARTS}
    train, seeds = configs[0].train, len(configs)
    rows = [
        Row("time", wall, "s", f"{blocks} blocks of {train.updates} updates; no evaluation, no checkpoint"),
        Row("seeds", seeds, "", "rates are for all together"),
    ]
    for part, meaning in PARTS.items():
        rows.append(Row(f"{part}_works", 100 * busy[part], "%", meaning))
        rows.append(Row(f"{part}_waits", 100 * (1 - busy[part]), "%"))
    everything = [interval for part in PARTS for interval in watch.intervals[part]]
    rows += [
        Row("none_works", 100 * (1 - _covered(everything, started, ended) / wall), "%", "time in between"),
        Row("env_steps", seeds * train.every * blocks / wall, "env steps/s"),
        Row("updates", seeds * train.updates * blocks / wall, "updates/s"),
        machine.resident(),
        machine.on_device(),
    ]
    return rows


def _short(config: Config, folder: Path, blocks: int) -> Config:
    """Returns the configuration of the same run, without evaluation, checkpoints and logging, just long enough."""
    episodes = config.train.envs * config.env.episode_frames
    prefill = -(-episodes // config.train.every) * config.train.every
    env_steps = prefill + blocks * config.train.every
    never = 10 * env_steps
    changes = {
        "run_dir": str(folder),
        "train": config.train.model_copy(update={"prefill": prefill, "env_steps": env_steps}),
        "evaluate": config.evaluate.model_copy(update={"every": never, "video_every": never, "episodes": 1}),
        "checkpoint": config.checkpoint.model_copy(update={"every": never}),
        "logger": config.logger.model_copy(update={"tensorboard": False, "wandb": "disabled", "progress": False}),
    }
    return config.model_copy(update=changes)


def _covered(intervals: Sequence[Interval], started: float, ended: float) -> float:
    """Returns the seconds of [started, ended] in at least one interval."""
    total, reached = 0.0, started
    for begin, end in sorted(intervals):
        begin, end = max(begin, reached), min(end, ended)
        if end > begin:
            total, reached = total + end - begin, end
    return total
