"""A gray video plays where the background was (Appendix B.1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import dm_env
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.video import Clip
from denoised_mdp.envs.world import Layer, Picture, World, stream

OnReset = Literal["continue", "random"]


class VideoBackground(Layer):
    """Shows frame `pointer mod length`. The pointer moves by one each control step, but not on the episode's last one.

    It starts at random, once. With `on_reset="continue"`, which is the paper's, an episode goes on where the last one
    stopped, so an episode of 1000 control steps and a clip of 1000 frames show nearly the same video at the same
    time, one frame earlier each episode. With `"random"` each episode draws a new start.

    Attributes:
        clip: what it plays.
        pointer: index of the frame now showing.
    """

    def __init__(self, world: World, clip: Clip, *, on_reset: OnReset, rng: np.random.Generator):
        super().__init__(world)
        self.clip, self._on_reset, self._rng = clip, on_reset, rng
        self.pointer = self._random_pointer()
        self.factor_kinds |= {"video_clip": "neither", "video_frame": "neither"}

    def reset(self) -> dm_env.TimeStep:
        if self._on_reset == "random":
            self.pointer = self._random_pointer()
        return self._world.reset()

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        timestep = self._world.step(action)
        if not timestep.last():
            self.pointer = (self.pointer + 1) % len(self.clip.frames)
        return timestep

    def render(self) -> Picture:
        rgb, background = self._world.render()
        return Picture(np.where(background[..., None], self.clip.frames[self.pointer][..., None], rgb), background)

    def factors(self) -> dict[str, np.ndarray]:
        """Those inside, the id of the clip that the frame comes from, and the index of the frame."""
        return {
            **self._world.factors(),
            "video_clip": np.array(self.clip.ids[self.pointer]),
            "video_frame": np.array(self.pointer),
        }

    def seed(self, seed: np.random.SeedSequence) -> None:
        """It also draws a new place in the video, as at the start."""
        super().seed(seed)
        self._rng = np.random.default_rng(stream(seed, "video"))
        self.pointer = self._random_pointer()

    def state(self) -> dict[str, Any]:
        return {"world": self._world.state(), "pointer": self.pointer, "random": self._rng.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._world.set_state(state["world"])
        self.pointer = state["pointer"]
        self._rng.bit_generator.state = state["random"]

    def _random_pointer(self) -> int:
        return int(self._rng.integers(len(self.clip.frames)))
