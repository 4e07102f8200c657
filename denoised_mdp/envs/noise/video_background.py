"""A gray video plays where the background was (Appendix B.1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import dm_env
import numpy as np
from dm_env import specs
from numpy.typing import NDArray

from denoised_mdp.envs.video import Clip
from denoised_mdp.envs.world import FactorKind, Picture, World

OnReset = Literal["continue", "random"]


class VideoBackground:
    """Shows frame `pointer mod length`. The pointer moves by one each control step, but not on the episode's last one.

    It starts at random, once. With `on_reset="continue"`, which is the paper's, an episode goes on where the last one
    stopped, so an episode of 1000 control steps and a clip of 1000 frames show nearly the same video at the same
    time, one frame earlier each episode. With `"random"` each episode draws a new start.
    """

    def __init__(self, world: World, clip: Clip, *, on_reset: OnReset, rng: np.random.Generator):
        self._world, self._clip, self._on_reset, self._rng = world, clip, on_reset, rng
        self._pointer = self._random_pointer()
        self.episode_frames = world.episode_frames
        self.factor_kinds: dict[str, FactorKind] = {
            **world.factor_kinds,
            "video_clip": "neither",
            "video_frame": "neither",
        }

    def reset(self) -> dm_env.TimeStep:
        if self._on_reset == "random":
            self._pointer = self._random_pointer()
        return self._world.reset()

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        timestep = self._world.step(action)
        if not timestep.last():
            self._pointer = (self._pointer + 1) % len(self._clip.frames)
        return timestep

    def action_spec(self) -> specs.BoundedArray:
        return self._world.action_spec()

    def render(self) -> Picture:
        rgb, background = self._world.render()
        return Picture(np.where(background[..., None], self._clip.frames[self._pointer][..., None], rgb), background)

    def factors(self) -> dict[str, np.ndarray]:
        """Those inside, the id of the clip that the frame comes from, and the index of the frame."""
        return {
            **self._world.factors(),
            "video_clip": np.array(self._clip.ids[self._pointer]),
            "video_frame": np.array(self._pointer),
        }

    def seed(self, seed: np.random.SeedSequence) -> None:
        """It also draws a new place in the video, as at the start."""
        inner, own = seed.spawn(2)
        self._world.seed(inner)
        self._rng = np.random.default_rng(own)
        self._pointer = self._random_pointer()

    def state(self) -> dict[str, Any]:
        return {"world": self._world.state(), "pointer": self._pointer, "random": self._rng.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._world.set_state(state["world"])
        self._pointer = state["pointer"]
        self._rng.bit_generator.state = state["random"]

    def close(self) -> None:
        self._world.close()

    def _random_pointer(self) -> int:
        return int(self._rng.integers(len(self._clip.frames)))
