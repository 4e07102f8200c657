"""Pictures per second of the environment; for a task of the suite, with every way of rendering that works here."""

from __future__ import annotations

import time

import numpy as np

from benchmarks import rendering
from benchmarks.table import Row
from denoised_mdp.config import Config
from denoised_mdp.envs import reset_all, step_all
from denoised_mdp.runs.evaluation import training_envs


def measure(config: Config, *, steps: int) -> list[Row]:
    """Times `steps` agent steps of random actions in `train.envs` environments, then with each backend and quality."""
    rows = [_configured(config, steps)]
    if config.env.name == "dmc":
        noise = "video_background" if config.noise.video_background else "none"
        for rate in rendering.rates([config.env.task], noises=[noise], frames=steps):
            note = f"{rate.frames_per_cpu_second:.4g} for a second of CPU time, 64 pixels, noise={noise}"
            rows.append(Row(f"{rate.backend}_{rate.quality}", rate.frames_per_second, "pictures/s", note))
    return rows


def _configured(config: Config, steps: int) -> Row:
    envs = training_envs(config)
    rng = np.random.default_rng(0)
    try:
        current = reset_all(envs, range(len(envs)))
        started = time.perf_counter()
        for _ in range(steps):
            over = [i for i, step in current.items() if step.is_last]
            actions = {i: rng.uniform(-1, 1, envs[0].action_size) for i in current if i not in over}
            current = reset_all(envs, over) | step_all(envs, actions)
        seconds = time.perf_counter() - started
    finally:
        for env in envs:
            env.close()
    note = f"train.envs={config.train.envs} train.workers={config.train.workers}, as configured"
    return Row("configured", steps * len(envs) / seconds, "pictures/s", note)
