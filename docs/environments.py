"""Draws docs/environments.png, what the environments look like over time: python docs/environments.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from denoised_mdp import cli
from denoised_mdp.evaluation import make_env
from denoised_mdp.visualize import write_strip

STEPS = 70
TASKS = ("cheetah_run", "walker_walk", "reacher_easy")
VARIANTS = ("none", "video_background", "video_background_camera_jitter")  # the noisy sensor changes no picture
ROWS = {
    **{f"{task}, {noise}": [f"env.task={task}", f"noise={noise}"] for task in TASKS for noise in VARIANTS},
    "sunlight": ["env=sunlight"],
    "sunlight, camera_jitter": ["env=sunlight", "noise.camera_jitter=true"],
    "sunlight, pixel_noise=20": ["env=sunlight", "env.pixel_noise=20"],
}


def episode(*overrides: str) -> np.ndarray:
    """The first pictures of an episode of slowly changing random actions, [STEPS, H, W, 3]."""
    config = cli.compose([*overrides, "noise.clip_frames=200"])
    env, rng = make_env(config, seed=0, split="train"), np.random.default_rng(0)
    frames, action = [env.reset().observation], np.zeros(env.action_size)
    for _ in range(STEPS - 1):
        action = 0.8 * action + 0.6 * rng.normal(size=env.action_size)
        frames.append(env.step(action).observation)
    env.close()
    return np.stack(frames)


if __name__ == "__main__":
    rows = {title: episode(*overrides) for title, overrides in ROWS.items()}
    write_strip(Path(__file__).with_suffix(".png"), rows, columns=8)
