"""Makes an environment from plain settings."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from denoised_mdp.envs import video
from denoised_mdp.envs.env import Env
from denoised_mdp.envs.noise.button_noise import ButtonNoise
from denoised_mdp.envs.noise.camera_jitter import CameraJitter
from denoised_mdp.envs.noise.camera_walk import CameraWalk
from denoised_mdp.envs.noise.moving_lights import MovingLights
from denoised_mdp.envs.noise.noisy_sensor import NoisySensor, Sensor
from denoised_mdp.envs.noise.television import Television
from denoised_mdp.envs.noise.video_background import VideoBackground
from denoised_mdp.envs.render import backend as rendering
from denoised_mdp.envs.robodesk import scene as robodesk_scene
from denoised_mdp.envs.robodesk.stage import VIDEO
from denoised_mdp.envs.robodesk.tasks import TASKS as ROBODESK_TASKS
from denoised_mdp.envs.robodesk.tasks import TELEVISION
from denoised_mdp.envs.sunlight import Sunlight
from denoised_mdp.envs.video import Split
from denoised_mdp.envs.world import World
from denoised_mdp.errors import UserError, did_you_mean, with_place

ENVIRONMENTS = ("dmc", "robodesk", "sunlight", "custom")
ROBODESK_NOISE = ("television", "button_noise", "moving_lights", "camera_walk")

Settings = Mapping[str, Any]


def make(*, env: Settings, render: Settings, noise: Settings, seed: int, split: Split) -> Env:
    """Makes an environment: a world, and around it the parts of the noise that are switched on.

    Args:
        env, render, noise: settings by name, as in the groups of `configs/`; `config/sections.py` explains them.
        seed: of all randomness; the same seed gives the same physics with and without noise.
        split: train or eval; keeps videos and episodes of evaluation separate from those of training.

    Raises:
        UserError: as `check`; also a missing camera, or a custom environment without pictures or with actions of
            another kind.
    """
    check(env=env, render=render, noise=noise)
    root = np.random.SeedSequence((seed, video.SPLITS.index(split)))
    world_seed, clip_seed, pointer_seed, camera_seed, robodesk_seed = root.spawn(5)
    size = env["image_size"]
    if env["name"] == "robodesk":
        world = inside = _robodesk(env, render, noise, seed=world_seed, noise_seed=robodesk_seed, split=split)
    else:
        world = inside = _world(env, render, background=noise["video_background"], seed=world_seed)
    if noise["video_background"]:
        clip = video.load(
            noise["source"],
            seed=clip_seed,
            split=split,
            count=noise["clip_frames"],
            **_video_format(env, noise),
            cache=noise["cache"],
        )
        rng = np.random.default_rng(pointer_seed)
        world = background = VideoBackground(world, clip, on_reset=noise["on_reset"], rng=rng)
        if noise["noisy_sensor"]:
            assert isinstance(inside, Sensor)
            world = NoisySensor(background, inside, strength=noise["noisy_sensor_strength"])
    if noise["camera_jitter"]:
        rng = np.random.default_rng(camera_seed)
        world = CameraJitter(world, strength=noise["camera_jitter_strength"], image_size=size, rng=rng)
    return Env(world, image_size=size, action_repeat=env["action_repeat"])


def try_out(*, env: Settings, render: Settings, noise: Settings) -> None:
    """Resets a custom environment and takes a step in it, so that no run starts that would fail at once.

    Raises:
        UserError: it does not follow docs/custom_environment.md, or raises an error itself.
    """
    if env["name"] == "custom":
        _try_out(*(json.dumps(dict(group), sort_keys=True) for group in (env, render, noise)))


@functools.cache
def _try_out(*groups: str) -> None:
    """Tries an environment only once for all seeds, as the result is cached."""
    env, render, noise = map(json.loads, groups)
    try:
        made = make(env=env, render=render, noise=noise, seed=0, split="train")
        made.reset()
        made.step(np.zeros(made.action_size))
        made.close()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"env.constructor={env['constructor']}: tried before the run: {with_place(error)}") from error


def with_chosen_backend(env: Settings, render: Settings) -> Settings:
    """Returns `render` with `auto` replaced by the backend chosen here, if the world needs one."""
    return {**render, "backend": rendering.choose(render["backend"])} if env["name"] in ("dmc", "robodesk") else render


def check(*, env: Settings, render: Settings, noise: Settings) -> None:
    """Checks the settings for mistakes of the user, before anything is made.

    Raises:
        UserError: an unknown environment or task (with the nearest names), a rendering backend that does not work, a
            video source that cannot be read, or a part of the noise that this world does not support.
    """
    name = env["name"]
    if name not in ENVIRONMENTS:
        raise UserError(f"env.name={name} is none of {', '.join(ENVIRONMENTS)}")
    video.check(noise["source"], **_video_format(env, noise), cache=noise["cache"])
    if noise["noisy_sensor"] and not noise["video_background"]:
        raise UserError("noise.noisy_sensor=true needs noise.video_background=true: the noise is read off the video")
    for part in ROBODESK_NOISE:
        if noise[part] and name != "robodesk":
            raise UserError(f"noise.{part}=true is for env=robodesk, not for env.name={name}")
    if name == "robodesk":
        _check_robodesk(env["task"], render["backend"])
    if name == "dmc":
        _check_dmc(env["task"], render["backend"], noisy_sensor=noise["noisy_sensor"])
    elif noise["video_background"]:
        raise UserError(f"noise.video_background=true is for env=dmc: env.name={name} has no background to replace")
    if name == "custom":
        rendering.prepare_for_custom(render["backend"])
        from denoised_mdp.envs import custom  # imports gymnasium: only where it is used

        custom.check(env["constructor"], env["arguments"])


def _video_format(env: Settings, noise: Settings) -> dict[str, Any]:
    """Returns the side in pixels and whether in colour: backgrounds have the picture's size, a television its own."""
    if env["name"] == "robodesk":
        return {"size": VIDEO, "colour": True}
    return {"size": env["image_size"], "colour": noise["video_colour"]}


def _check_dmc(task: str, backend: str, *, noisy_sensor: bool) -> None:
    rendering.choose(backend)
    from denoised_mdp.envs.dmc import SENSORS, TASKS  # dm_control: only once MUJOCO_GL is set

    if task not in TASKS:
        raise UserError(f"env.task={task} is no task of the dm_control suite{did_you_mean(task, TASKS)}")
    if noisy_sensor and TASKS[task][0] not in SENSORS:
        raise UserError(f"noise.noisy_sensor=true is for the tasks of {', '.join(SENSORS)}, not for env.task={task}")


def _check_robodesk(task: str, backend: str) -> None:
    robodesk_scene.folder()
    rendering.choose(backend)
    if task not in ROBODESK_TASKS:
        raise UserError(f"env.task={task} is no task of RoboDesk{did_you_mean(task, ROBODESK_TASKS)}")


def _world(env: Settings, render: Settings, *, background: bool, seed: np.random.SeedSequence) -> World:
    if env["name"] == "dmc":
        return _dmc(env, render, background=background, seed=seed)
    if env["name"] == "custom":
        from denoised_mdp.envs import custom

        own = ("constructor", "arguments", "image_size", "episode_frames")
        return custom.Custom(**{name: env[name] for name in own}, seed=seed)
    own = ("curtain", "bird", "weather", "plane", "curtain_reward", "weather_reward", "pixel_noise", "episode_frames")
    return Sunlight(**{name: env[name] for name in own}, seed=seed)


def _robodesk(
    env: Settings,
    render: Settings,
    noise: Settings,
    *,
    seed: np.random.SeedSequence,
    noise_seed: np.random.SeedSequence,
    split: Split,
) -> World:
    """Makes RoboDesk with its own parts of the noise, which all change its scene."""
    backend = _backend(render)
    from denoised_mdp.envs.robodesk.world import RoboDesk  # dm_control: only once MUJOCO_GL is set

    own = ("task", "reward", "television_hue", "episode_frames", "image_size")
    inside = RoboDesk(**{name: env[name] for name in own}, seed=seed, backend=backend, quality=render["quality"])
    left, right, *seeds = noise_seed.spawn(6)
    television, buttons, lights, camera = map(np.random.default_rng, seeds)
    stage, rewarded = inside.stage, env["task"] == TELEVISION
    world: World = inside
    if noise["camera_walk"]:
        world = CameraWalk(world, stage, strength=noise["camera_walk_strength"], rng=camera)
    if noise["moving_lights"]:
        world = MovingLights(world, stage, rng=lights)
    if noise["button_noise"]:
        strength, read = noise["button_noise_strength"], rewarded and env["television_hue"]
        world = ButtonNoise(world, stage, strength=strength, rewarded=read, rng=buttons)
    if noise["television"]:
        kind = {"split": split, "count": noise["clip_frames"], "cache": noise["cache"], **_video_format(env, noise)}
        clips = [video.load(noise["source"], seed=clip_seed, **kind) for clip_seed in (left, right)]
        on_reset = noise["on_reset"]
        world = Television(world, stage, (clips[0], clips[1]), on_reset=on_reset, rewarded=rewarded, rng=television)
    return world


def _dmc(env: Settings, render: Settings, *, background: bool, seed: np.random.SeedSequence) -> World:
    backend = _backend(render)
    from denoised_mdp.envs.dmc import TASKS, DeepMindControl  # dm_control: only once MUJOCO_GL is set

    return DeepMindControl(
        *TASKS[env["task"]],
        seed=int(seed.generate_state(1)[0]),
        backend=backend,
        quality=render["quality"],
        camera=env["camera"],
        image_size=env["image_size"],
        background=background,
    )


def _backend(render: Settings) -> rendering.Backend:
    backend = rendering.choose(render["backend"])
    if render["backend"] == "auto":
        rendering.announce(backend)
    return backend
