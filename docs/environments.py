"""Draws docs/environments.png and robodesk.png, what environments look like over time: python docs/environments.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from denoised_mdp import cli
from denoised_mdp.envs import Env
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


ROBODESK_PARTS = ("television", "button_noise", "moving_lights", "camera_walk")
ROBODESK_ROWS = {
    "robodesk": ["env=robodesk"],
    **{f"robodesk, {part}": ["env=robodesk", f"noise.{part}=true"] for part in ROBODESK_PARTS},
    "robodesk, robodesk_all": ["env=robodesk", "noise=robodesk_all"],
}
PRESSED = "robodesk_all, green button\nheld down from the middle on"


def hold_green_button(env: Env) -> None:
    """Pushes it from now on."""
    world = env._world
    while hasattr(world, "_world"):
        world = world._world
    physics = world._physics  # type: ignore[attr-defined]
    physics.named.data.qfrc_applied["green_button"] = -0.2  # newton


def episode(*overrides: str, pressed: bool = False) -> np.ndarray:
    """The first pictures of an episode of slowly changing random actions, [STEPS, H, W, 3]."""
    config = cli.compose([*overrides, "noise.clip_frames=200"])
    env, rng = make_env(config, seed=0, split="train"), np.random.default_rng(0)
    frames, action = [env.reset().observation], np.zeros(env.action_size)
    for t in range(STEPS - 1):
        if pressed and t == STEPS // 2:
            hold_green_button(env)
        action = 0.8 * action + 0.6 * rng.normal(size=env.action_size)
        frames.append(env.step(action).observation)
    env.close()
    return np.stack(frames)


if __name__ == "__main__":
    folder = Path(__file__).parent
    rows = {title: episode(*overrides) for title, overrides in ROBODESK_ROWS.items()}
    rows[PRESSED] = episode("env=robodesk", "noise=robodesk_all", pressed=True)
    write_strip(folder / "robodesk.png", rows, columns=8)
    rows = {title: episode(*overrides) for title, overrides in ROWS.items()}
    write_strip(folder / "environments.png", rows, columns=8)
