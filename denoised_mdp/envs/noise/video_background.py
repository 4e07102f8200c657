"""A gray video plays where the background was (Appendix B.1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import dm_env
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.video import Clip, Frames
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
        self.factor_kinds |= {"video_clip": "neither", "video_frame": "neither", "video_brightness": "neither"}
        self.factor_periods["video_frame"] = len(clip.frames)
        self._brightness = grid_means(clip.frames)

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
        """Those inside, the id of the clip that the frame comes from, the frame's index, and what it looks like."""
        return {
            **self._world.factors(),
            "video_clip": np.array(self.clip.ids[self.pointer]),
            "video_frame": np.array(self.pointer),
            "video_brightness": self._brightness[self.pointer].copy(),
        }

    def seed(self, seed: np.random.SeedSequence) -> None:
        """It also draws a new place in the video, as at the start."""
        super().seed(seed)
        self._start_anew(seed)

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        super().seed_noise(seed)
        self._start_anew(seed)

    def state(self) -> dict[str, Any]:
        return {"world": self._world.state(), "pointer": self.pointer, "random": self._rng.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._world.set_state(state["world"])
        self.pointer = state["pointer"]
        self._rng.bit_generator.state = state["random"]

    def _start_anew(self, seed: np.random.SeedSequence) -> None:
        self._rng = np.random.default_rng(stream(seed, "video"))
        self.pointer = self._random_pointer()

    def _random_pointer(self) -> int:
        return int(self._rng.integers(len(self.clip.frames)))


def grid_means(frames: Frames, cells: int = 4) -> NDArray[np.float32]:
    """The mean brightness [N, cells^2], 0 to 1, of each cell of a grid on frames [N, H, W]; tiny ones have fewer cells.

    What a frame looks like in a few numbers: those of another clip mean the same, as an index of a frame does not.
    """
    frames = np.asarray(frames)
    rows, columns = (np.array_split(np.arange(side), min(cells, side)) for side in frames.shape[1:])
    means = [frames[:, r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean((1, 2), np.float32) for r in rows for c in columns]
    return (np.stack(means, -1) / 255).astype(np.float32)
