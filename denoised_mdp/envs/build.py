"""From plain settings to an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from denoised_mdp.envs import video
from denoised_mdp.envs.env import Env
from denoised_mdp.envs.noise.camera_jitter import CameraJitter
from denoised_mdp.envs.noise.noisy_sensor import NoisySensor
from denoised_mdp.envs.noise.video_background import VideoBackground
from denoised_mdp.envs.render import backend as rendering
from denoised_mdp.envs.render.backend import Backend
from denoised_mdp.envs.video import Split
from denoised_mdp.envs.world import World
from denoised_mdp.errors import UserError, did_you_mean

ENVIRONMENTS = ("dmc",)
NO_NOISE = {"video_background": False, "noisy_sensor": False, "camera_jitter": False, "source": "pink"}


def make(
    *, env: Mapping[str, Any], render: Mapping[str, Any], noise: Mapping[str, Any], seed: int, split: Split
) -> Env:
    """An environment: a world, and around it the parts of noise that are switched on.

    Args:
        env, render, noise: settings by name, as in the groups of `configs/`; their meaning is in `config.py`.
        seed: of everything random; the same seed is the same physics with and without noise.
        split: train or eval; keeps the videos and episodes of evaluation apart.

    Raises:
        UserError: what `check` raises, or a camera that is not there.
    """
    chosen = check(env=env, render=render, noise=noise)
    if render["backend"] == "auto":
        rendering.announce(chosen)
    from denoised_mdp.envs.dmc import TASKS, DeepMindControl  # dm_control: only once MUJOCO_GL is set

    root = np.random.SeedSequence((seed, video.SPLITS.index(split)))
    world_seed, clip_seed, pointer_seed, camera_seed = root.spawn(4)
    suite_world = DeepMindControl(
        *TASKS[env["task"]],
        seed=int(world_seed.generate_state(1)[0]),
        backend=chosen,
        quality=render["quality"],
        camera=env["camera"],
        image_size=env["image_size"],
        background=noise["video_background"],
    )
    world: World = suite_world
    if noise["video_background"]:
        clip = video.load(
            noise["source"], seed=clip_seed, split=split, count=noise["clip_frames"], size=env["image_size"]
        )
        world = background = VideoBackground(
            world, clip, on_reset=noise["on_reset"], rng=np.random.default_rng(pointer_seed)
        )
        if noise["noisy_sensor"]:
            world = NoisySensor(background, suite_world, strength=noise["noisy_sensor_strength"])
    if noise["camera_jitter"]:
        world = CameraJitter(
            world,
            strength=noise["camera_jitter_strength"],
            image_size=env["image_size"],
            rng=np.random.default_rng(camera_seed),
        )
    return Env(world, image_size=env["image_size"], action_repeat=env["action_repeat"])


def check(*, env: Mapping[str, Any], render: Mapping[str, Any], noise: Mapping[str, Any]) -> Backend:
    """Finds out, before anything is made, what a user may have got wrong. Returns the rendering backend to use.

    Raises:
        UserError: an unknown environment or task (with the nearest names), a rendering backend that does not work, a
            video source that cannot be read, or a part of noise that the task cannot have.
    """
    if env["name"] not in ENVIRONMENTS:
        raise UserError(f"env.name={env['name']} is none of {', '.join(ENVIRONMENTS)}")
    video.check(noise["source"])
    chosen = rendering.choose(render["backend"])
    from denoised_mdp.envs.dmc import SENSORS, TASKS  # dm_control: only once MUJOCO_GL is set

    task = env["task"]
    if task not in TASKS:
        raise UserError(f"env.task={task} is no task of the dm_control suite{did_you_mean(task, TASKS)}")
    if noise["noisy_sensor"] and not noise["video_background"]:
        raise UserError("noise.noisy_sensor=true needs noise.video_background=true: the noise is read off the video")
    if noise["noisy_sensor"] and TASKS[task][0] not in SENSORS:
        raise UserError(f"noise.noisy_sensor=true is for the tasks of {', '.join(SENSORS)}, not for env.task={task}")
    return chosen
