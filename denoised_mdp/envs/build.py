"""From plain settings to an environment."""

from __future__ import annotations

import numpy as np

from denoised_mdp.envs import video
from denoised_mdp.envs.env import Env
from denoised_mdp.envs.noise.video_background import OnReset, VideoBackground
from denoised_mdp.envs.render import Quality
from denoised_mdp.envs.render import backend as rendering
from denoised_mdp.envs.render.backend import Backend
from denoised_mdp.envs.video import Split
from denoised_mdp.envs.world import World
from denoised_mdp.errors import UserError, did_you_mean

ENVIRONMENTS = ("dmc",)


def make(
    *,
    name: str,
    task: str,
    image_size: int,
    action_repeat: int,
    camera: int,
    backend: str,
    quality: Quality,
    video_background: bool,
    source: str,
    clip_frames: int,
    on_reset: OnReset,
    seed: int,
    split: Split,
) -> Env:
    """An environment. The seed decides its episodes and its video; `split` keeps the videos of evaluation apart.

    Args:
        name: the kind of world, one of ENVIRONMENTS.
        task: domain_task, such as cheetah_run.
        image_size: H = W of the observations, pixels.
        action_repeat: control steps per agent step.
        camera: index of the model's camera.
        backend: auto, egl, osmesa or ray.
        quality: stock, lite or fast.
        video_background: whether a video replaces the background.
        source: pink, leaves, or a directory of videos or image folders.
        clip_frames: frames loaded once and played in a circle.
        on_reset: whether the video goes on in a new episode (continue) or starts anywhere (random).
        seed: of everything random; the physics is the same with and without noise.
        split: train or eval.

    Raises:
        UserError: what `check` raises, or a rendering backend or a camera that is not there.
    """
    chosen = check(name=name, task=task, backend=backend, source=source)
    if backend == "auto":
        rendering.announce(chosen)
    from denoised_mdp.envs.dmc import TASKS, DeepMindControl  # dm_control: only once MUJOCO_GL is set

    physics_seed, clip_seed, pointer_seed = np.random.SeedSequence((seed, video.SPLITS.index(split))).spawn(3)
    world: World = DeepMindControl(
        *TASKS[task],
        seed=int(physics_seed.generate_state(1)[0]),
        backend=chosen,
        quality=quality,
        camera=camera,
        image_size=image_size,
        background=video_background,
    )
    if video_background:
        clip = video.load(source, seed=clip_seed, split=split, count=clip_frames, size=image_size)
        world = VideoBackground(world, clip, on_reset=on_reset, rng=np.random.default_rng(pointer_seed))
    return Env(world, image_size=image_size, action_repeat=action_repeat)


def check(*, task: str, source: str, name: str = "dmc", backend: str = "auto") -> Backend:
    """Finds out, before anything is made, what a user may have got wrong. Returns the rendering backend to use.

    Raises:
        UserError: an unknown environment or task (with the nearest names), a rendering backend that does not work, or
            a video source that cannot be read.
    """
    if name not in ENVIRONMENTS:
        raise UserError(f"env.name={name} is none of {', '.join(ENVIRONMENTS)}")
    video.check(source)
    chosen = rendering.choose(backend)
    from denoised_mdp.envs.dmc import TASKS  # dm_control: only once MUJOCO_GL is set

    if task not in TASKS:
        raise UserError(f"env.task={task} is no task of the dm_control suite{did_you_mean(task, TASKS)}")
    return chosen
