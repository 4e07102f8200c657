"""Draws what the environments look like, over time and at one moment: python docs/environments.py

docs/environments.png has the paper's tasks in every variant, and sunlight; docs/suite.png all other tasks of the suite.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from denoised_mdp import cli
from denoised_mdp.envs.render import backend
from denoised_mdp.evaluation import make_env
from denoised_mdp.visualize import write_strip

STEPS = 70
CAMERAS = {"dog_fetch": 2}  # its camera 0 lies on the ball
TASKS = ("cheetah_run", "walker_walk", "reacher_easy")
VARIANTS = ("none", "video_background", "video_background_noisy_sensor", "video_background_camera_jitter")
ROWS = {
    **{f"{task}, {noise}": [f"env.task={task}", f"noise={noise}"] for task in TASKS for noise in VARIANTS},
    "sunlight": ["env=sunlight"],
    "sunlight, camera_jitter": ["env=sunlight", "noise.camera_jitter=true"],
    "sunlight, pixel_noise=20": ["env=sunlight", "env.pixel_noise=20"],
}


def episode(*overrides: str, steps: int = STEPS, seed: int = 0) -> np.ndarray:
    """The first pictures of an episode of slowly changing random actions, [steps, H, W, 3]."""
    config = cli.compose([*overrides, f"noise.clip_frames={3 * steps}"])
    env, rng = make_env(config, seed=seed, split="train"), np.random.default_rng(0)
    frames, action = [env.reset().observation], np.zeros(env.action_size)
    for _ in range(steps - 1):
        action = 0.8 * action + 0.6 * rng.normal(size=env.action_size)
        frames.append(env.step(action).observation)
    env.close()
    return np.stack(frames)


def write_suite(path: Path, *, columns: int = 8, side: int = 128) -> None:
    """A PNG: the sixth picture of each other task of the suite behind a video, under it its name."""
    backend.choose("auto")
    from denoised_mdp.envs.dmc import TASKS as SUITE

    tasks = [task for task in SUITE if task not in TASKS]
    height, font = side + 18, ImageFont.load_default(10)
    sheet = Image.new("RGB", (columns * (side + 2), -(-len(tasks) // columns) * height), "white")
    for i, task in enumerate(tasks):
        overrides = [f"env.task={task}", "noise=video_background", f"env.camera={CAMERAS.get(task, 0)}"]
        picture = episode(*overrides, steps=6, seed=i)[-1]
        left, top = i % columns * (side + 2), i // columns * height
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), (left, top))
        ImageDraw.Draw(sheet).text((left + side // 2, top + side + 2), task, "black", font, "ma")
    sheet.save(path)


if __name__ == "__main__":
    write_strip(Path(__file__).with_suffix(".png"), {name: episode(*how) for name, how in ROWS.items()}, columns=8)
    write_suite(Path(__file__).with_name("suite.png"))
