"""Camera shake: the whole picture, noise included, moves on a smooth random walk (Appendix B.1.1)."""

from __future__ import annotations

import dm_env
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.noise.random_layer import RandomLayer
from denoised_mdp.envs.noise.smooth_walk import SmoothWalk
from denoised_mdp.envs.world import Picture, World

_PIXELS = 120  # shift of a picture of 64 pixels for one unit of the walk (code)


class CameraJitter(RandomLayer):
    """Takes a step of the walk at each control step except an episode's last one, and restarts it in each episode.

    Its factor `camera_offset` [2] is the shift of the picture: pixels to the right and down.
    """

    stream = "camera"

    def __init__(self, world: World, *, strength: float, image_size: int, rng: np.random.Generator):
        """Args: `strength`: 1 is the paper's."""
        super().__init__(world, rng)
        self._walk, self._scale = SmoothWalk(2, rng), strength * _PIXELS * image_size / 64
        self.factor_kinds["camera_offset"] = "neither"

    def reset(self) -> dm_env.TimeStep:
        self._walk.restart()
        return super().reset()

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        timestep = super().step(action)
        if not timestep.last():
            self._walk.step()
        return timestep

    def render(self) -> Picture:
        """Returns the moved picture; the uncovered border is black and counts as background."""
        rgb, background = super().render()
        return Picture(moved(rgb, self._offset), ~moved_mask(~background, self._offset))

    def factors(self) -> dict[str, np.ndarray]:
        return {**super().factors(), "camera_offset": self._offset}

    def robot_mask(self) -> NDArray[np.bool_] | None:
        mask = super().robot_mask()
        return None if mask is None else moved_mask(mask, self._offset)

    @property
    def _offset(self) -> NDArray[np.float64]:
        return self._scale * self._walk.position


def moved(picture: NDArray[np.uint8], offset: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Returns a picture [H, W, C] moved by `offset` [2] pixels, right and down; interpolated, black at the border."""
    whole = np.floor(offset).astype(int)
    right, down = (offset - whole).astype(np.float32)
    height, width, channels = picture.shape
    left, top = np.clip(whole, (-width - 1, -height - 1), (width, height))
    # The picture moved by whole pixels, with one more row above and one more column to the left for interpolation.
    canvas = np.zeros((height + 1, width + 1, channels), np.float32)
    there = canvas[max(top + 1, 0) : top + 1 + height, max(left + 1, 0) : left + 1 + width]
    from_row, from_column = max(-top - 1, 0), max(-left - 1, 0)
    there[:] = picture[from_row : from_row + there.shape[0], from_column : from_column + there.shape[1]]
    rows = (1 - down) * canvas[1:] + down * canvas[:-1]
    return ((1 - right) * rows[:, 1:] + right * rows[:, :-1] + np.float32(0.5)).astype(np.uint8)


def moved_mask(mask: NDArray[np.bool_], offset: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns a mask [H, W] moved as `moved` moves the picture: true where at least half of a pixel is in it."""
    return moved(np.where(mask, 255, 0).astype(np.uint8)[..., None], offset)[..., 0] >= 128
