"""Two videos play side by side on RoboDesk's television (Appendix B.1.1, code)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dm_env
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.noise.random_layer import RandomLayer
from denoised_mdp.envs.noise.video_background import OnReset, grid_means
from denoised_mdp.envs.robodesk.stage import VIDEO, Stage
from denoised_mdp.envs.video import Clip
from denoised_mdp.envs.world import World

_CONTRAST, _DARKER = 1.366, 46.5  # gray levels are multiplied by 1.366, then reduced by 46.5
_SHARPEN = 0.5  # weight of each of the four neighbours, subtracted from three times the pixel


class Television(RandomLayer):
    """Both videos advance by a frame at each control step, and the whole screen rolls by a pixel to the right.

    With `on_reset="random"` (the paper) both start at a random frame in each episode; with `"continue"` they go on from
    the last frame. The screen starts unrolled.
    """

    stream = "television"
    _pointers: NDArray[np.int64]

    def __init__(
        self,
        world: World,
        stage: Stage,
        clips: tuple[Clip, Clip],
        *,
        on_reset: OnReset,
        rewarded: bool,
        rng: np.random.Generator,
    ):
        """Wraps a world that shows the stage.

        Args:
            clips: the left and the right one, in colour, VIDEO pixels a side and equally long.
            rewarded: whether the reward depends on the videos.
        """
        super().__init__(world, rng)
        self._stage, self._on_reset = stage, on_reset
        self._frames = [vivid(np.asarray(clip.frames)) for clip in clips]
        self._ids = [clip.ids for clip in clips]
        self._green = [frames[..., 1].mean((1, 2)) / 255 for frames in self._frames]
        self._brightness = [grid_means(frames.mean(-1, np.float32)) for frames in self._frames]
        self._shift = 0
        self._begin()
        kind = "rewarded" if rewarded else "neither"
        self.factor_kinds |= {name: kind for name in ("video_clip", "video_frame", "video_brightness", "video_green")}
        self.factor_kinds["video_shift"] = "neither"
        self.factor_periods |= {"video_frame": len(clips[0].frames), "video_shift": 2 * VIDEO}

    def reset(self) -> dm_env.TimeStep:
        if self._on_reset == "random":
            self._begin()
        self._shift = 0
        self._play()
        return super().reset()

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        """Advances the videos first: the reward depends on the frames shown after the step."""
        self._pointers = (self._pointers + 1) % len(self._frames[0])
        self._shift = (self._shift + 1) % (2 * VIDEO)
        self._play()
        return super().step(action)

    def factors(self) -> dict[str, np.ndarray]:
        """Adds each video's clip, frame, brightness in a grid and mean green, and the roll of the screen in pixels."""
        return {
            **super().factors(),
            "video_clip": np.array(self._at(self._ids)),
            "video_frame": self._pointers.copy(),
            "video_brightness": np.concatenate(self._at(self._brightness)),
            "video_green": np.array(self._at(self._green)),
            "video_shift": np.array(self._shift),
        }

    def _play(self) -> None:
        self._stage.video = np.roll(np.concatenate(self._at(self._frames), 1), self._shift, 1)
        self._stage.video_green = float(np.mean(self._at(self._green)))

    def _at(self, streams: list[NDArray[Any]]) -> list[Any]:
        """Returns the rows of two streams at their pointers."""
        return [stream[pointer] for stream, pointer in zip(streams, self._pointers, strict=True)]

    def _begin(self) -> None:
        """Draws a frame of each video."""
        self._pointers = self._rng.integers(len(self._frames[0]), size=2)

    def _kept(self) -> dict[str, Any]:
        return {"pointers": self._pointers.tolist()}

    def _keep(self, state: Mapping[str, Any]) -> None:
        self._pointers = np.array(state["pointers"])


def vivid(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns frames [N, H, W, 3] with more contrast, sharpened."""
    found = np.empty_like(frames)
    for i, frame in enumerate(frames):
        x = np.clip(frame * np.float32(_CONTRAST) - np.float32(_DARKER), 0, 255)
        around = np.pad(x, ((1, 1), (1, 1), (0, 0)), "reflect")
        neighbours = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
        found[i] = np.clip((1 + 4 * _SHARPEN) * x - _SHARPEN * neighbours, 0, 255)
    return found
