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
            "video_brightness": "neither",
        }
        self.factor_periods = {**world.factor_periods, "video_frame": len(clip.frames)}
        self._brightness = grid_means(clip.frames)

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
        """Those inside, the id of the clip that the frame comes from, the frame's index, and what it looks like."""
        return {
            **self._world.factors(),
            "video_clip": np.array(self._clip.ids[self._pointer]),
            "video_frame": np.array(self._pointer),
            "video_brightness": self._brightness[self._pointer].copy(),
        }

    def robot_mask(self) -> NDArray[np.bool_] | None:
        return self._world.robot_mask()

    def seed(self, seed: np.random.SeedSequence) -> None:
        """It also draws a new place in the video, as at the start."""
        inner, own = seed.spawn(2)
        self._world.seed(inner)
        self._start_anew(own)

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        inner, own = seed.spawn(2)
        self._world.seed_noise(inner)
        self._start_anew(own)

    def state(self) -> dict[str, Any]:
        return {"world": self._world.state(), "pointer": self._pointer, "random": self._rng.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._world.set_state(state["world"])
        self._pointer = state["pointer"]
        self._rng.bit_generator.state = state["random"]

    def close(self) -> None:
        self._world.close()

    def _start_anew(self, seed: np.random.SeedSequence) -> None:
        self._rng = np.random.default_rng(seed)
        self._pointer = self._random_pointer()

    def _random_pointer(self) -> int:
        return int(self._rng.integers(len(self._clip.frames)))


def grid_means(frames: NDArray[np.uint8], cells: int = 4) -> NDArray[np.float32]:
    """The mean brightness [N, cells^2], 0 to 1, of each cell of a grid on frames [N, H, W]; tiny ones have fewer cells.

    What a frame looks like in a few numbers: those of another clip mean the same, as an index of a frame does not.
    """
    rows, columns = (np.array_split(np.arange(side), min(cells, side)) for side in frames.shape[1:])
    means = [frames[:, r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean((1, 2), np.float32) for r in rows for c in columns]
    return np.stack(means, -1) / 255
