"""A video replaces the background (Appendix B.1.1); it is gray in the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import dm_env
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.noise.random_layer import RandomLayer
from denoised_mdp.envs.video import Clip, Frames
from denoised_mdp.envs.world import Picture, World

OnReset = Literal["continue", "random"]


class VideoBackground(RandomLayer):
    """Shows frame `pointer mod length`. The pointer moves by one at each control step except the episode's last one.

    It starts at a random frame, once. With `on_reset="continue"` (the paper) an episode goes on from the frame where
    the last one stopped, so episodes of 1000 control steps with a clip of 1000 frames show nearly the same video at the
    same time, one frame earlier each episode. With `"random"` each episode draws a new start.

    Attributes:
        clip: the video that it plays.
        pointer: index of the current frame.
    """

    stream = "video"
    pointer: int

    def __init__(self, world: World, clip: Clip, *, on_reset: OnReset, rng: np.random.Generator):
        super().__init__(world, rng)
        self.clip, self._on_reset = clip, on_reset
        self._begin()
        self.factor_kinds |= {"video_clip": "neither", "video_frame": "neither", "video_brightness": "neither"}
        self.factor_periods["video_frame"] = len(clip.frames)
        self._brightness = grid_means(clip.frames)

    def reset(self) -> dm_env.TimeStep:
        if self._on_reset == "random":
            self._begin()
        return self._world.reset()

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        timestep = self._world.step(action)
        if not timestep.last():
            self.pointer = (self.pointer + 1) % len(self.clip.frames)
        return timestep

    def render(self) -> Picture:
        rgb, background = self._world.render()
        frame = self.clip.frames[self.pointer]
        video = frame if frame.ndim == 3 else frame[..., None]
        return Picture(np.where(background[..., None], video, rgb), background)

    def factors(self) -> dict[str, np.ndarray]:
        """Adds the id of the clip that the frame comes from, the frame's index, and its brightness in a grid."""
        return {
            **self._world.factors(),
            "video_clip": np.array(self.clip.ids[self.pointer]),
            "video_frame": np.array(self.pointer),
            "video_brightness": self._brightness[self.pointer].copy(),
        }

    def _begin(self) -> None:
        """Draws a frame of the video."""
        self.pointer = int(self._rng.integers(len(self.clip.frames)))

    def _kept(self) -> dict[str, Any]:
        return {"pointer": self.pointer}

    def _keep(self, state: Mapping[str, Any]) -> None:
        self.pointer = state["pointer"]


def grid_means(frames: Frames, cells: int = 4) -> NDArray[np.float32]:
    """Returns the mean brightness [N, cells^2], 0 to 1, in a grid on frames; tiny ones have fewer cells.

    frames: [N, H, W], or in colour [N, H, W, 3].

    It describes a frame in a few numbers with the same meaning for every clip; a frame's index has no such meaning.
    """
    frames = np.asarray(frames)
    rows, columns = (np.array_split(np.arange(side), min(cells, side)) for side in frames.shape[1:3])
    pixels = tuple(range(1, frames.ndim))
    means = [frames[:, r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean(pixels, np.float32) for r in rows for c in columns]
    return (np.stack(means, -1) / 255).astype(np.float32)
