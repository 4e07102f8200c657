"""What the tests of environments share: small ones to build, ways to play and to compare."""

from typing import Any

import numpy as np

from denoised_mdp.config.compose import compose
from denoised_mdp.envs import Env, Step, make
from denoised_mdp.envs.video import Split

ENV: dict[str, Any] = {"name": "dmc", "task": "cheetah_run", "image_size": 64, "action_repeat": 2, "camera": 0}
RENDER: dict[str, Any] = {"backend": "ray", "quality": "fast"}
NOISE: dict[str, Any] = {
    **compose(["noise=none"]).noise.model_dump(),
    "video_background": True,
    "source": "pink",
    "clip_frames": 50,
}
DOT: dict[str, Any] = {
    "name": "custom",
    "task": "dot",
    "constructor": "worker_world:make",
    "arguments": {},
    "image_size": 64,
    "action_repeat": 1,
    "episode_frames": 100,
}
RUN = [  # overrides: episodes of three dots that end at different times, and two updates every four agent steps
    *("size=debug", "env=custom", "env.constructor=worker_world:make", "train.envs=3"),
    *("train.env_steps=150", "train.prefill=60", "train.every=12", "train.updates=2", "train.batch_length=4"),
    "logger.tensorboard=false",
]
SHAKING: dict[str, Any] = {**NOISE, "video_background": False, "camera_jitter": True}


def build(seed: int = 1, split: Split = "train", **changes: Any) -> Env:
    groups = ({name: changes.pop(name, value) for name, value in group.items()} for group in (ENV, RENDER, NOISE))
    env, render, noise = groups
    assert not changes, changes
    return make(env=env, render=render, noise=noise, seed=seed, split=split)


def play(env: Env, steps: int, seed: int = 0) -> list[Step]:
    """Random actions from a reset on; resets wherever an episode ends."""
    rng = np.random.default_rng(seed)
    step = env.reset()
    found = [step]
    for _ in range(steps):
        step = env.reset() if step.is_last else env.step(rng.uniform(-1, 1, env.action_size))
        found.append(step)
    return found


def same(a: Step | None, b: Step | None) -> bool:
    assert a is not None and b is not None
    factors = a.info["factors"], b.info["factors"]
    return (
        (a.observation == b.observation).all()
        and a[1:5] == b[1:5]
        and factors[0].keys() == factors[1].keys()
        and all((factors[0][name] == factors[1][name]).all() for name in factors[0])
    )


def shorten(env: Env, frames: int) -> Env:
    """The same environment with shorter episodes, so that their ends are cheap to reach."""
    world = env._world
    while not hasattr(world, "_env"):
        world = world._world  # type: ignore[attr-defined]
    world._env._step_limit = frames  # type: ignore[attr-defined]
    return env
