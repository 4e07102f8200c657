"""Draws what the environments look like, over time and at one moment: python docs/environments.py

docs/environments.png has the paper's tasks in every variant, and sunlight; docs/suite.png all other tasks of the suite;
docs/robodesk.png RoboDesk with each of its distractors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from denoised_mdp.analysis.visualize import write_strip
from denoised_mdp.config.compose import compose
from denoised_mdp.envs import Env
from denoised_mdp.envs.render import backend
from denoised_mdp.runs.evaluation import make_env

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


def episode(*overrides: str, steps: int = STEPS, seed: int = 0, pressed: bool = False) -> np.ndarray:
    """The first pictures of an episode of slowly changing random actions, [steps, H, W, 3]."""
    config = compose([*overrides, f"noise.clip_frames={3 * steps}"])
    env, rng = make_env(config, seed=seed, split="train"), np.random.default_rng(0)
    frames, action = [env.reset().observation], np.zeros(env.action_size)
    for t in range(steps - 1):
        if pressed and t == steps // 2:
            hold_green_button(env)
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
    folder = Path(__file__).parent
    write_strip(folder / "environments.png", {name: episode(*how) for name, how in ROWS.items()}, columns=8)
    write_suite(folder / "suite.png")
    rows = {title: episode(*overrides) for title, overrides in ROBODESK_ROWS.items()}
    rows[PRESSED] = episode("env=robodesk", "noise=robodesk_all", pressed=True)
    write_strip(folder / "robodesk.png", rows, columns=8)
