"""The video falsifies a sensor, and through it the reward (Appendix B.1.1). Pictures and physics stay as they are."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import dm_env
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.noise.video_background import VideoBackground
from denoised_mdp.envs.video import Frames
from denoised_mdp.envs.world import Layer


@runtime_checkable
class Sensor(Protocol):
    """The wrapped world: its reward reads a sensor that accepts noise."""

    def set_sensor_noise(self, noise: float) -> None:
        """Adds `noise` to the reading, in units of the sensor's own scale, from the next step on."""
        ...


class NoisySensor(Layer):
    """Adds the brightness of a patch of the current video frame to the sensor before each control step.

    Its factor `sensor_noise` comes from the current frame: the next control step will add it to the reading. So the
    video becomes rewarded without being controlled (Table 2).
    """

    def __init__(self, world: VideoBackground, sensor: Sensor, *, strength: float):
        """Args: `strength`: 1 is the paper's."""
        super().__init__(world)
        self._video, self._sensor = world, sensor
        self._noise = strength * patch_means(world.clip.frames)
        for name in ("video_clip", "video_frame", "video_brightness", "sensor_noise"):
            self.factor_kinds[name] = "rewarded"

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        self._sensor.set_sensor_noise(float(self._noise[self._video.pointer]))
        return super().step(action)

    def factors(self) -> dict[str, np.ndarray]:
        return {**super().factors(), "sensor_noise": np.array(self._noise[self._video.pointer])}


def patch_means(frames: Frames) -> NDArray[np.float64]:
    """Returns the brightness [N], in [-0.5, 0.5], of a patch near the upper left of frames [N, H, W] or [N, H, W, 3].

    The sides of the patch are a quarter of the frame's.
    """
    frames = np.asarray(frames)
    height, width = (side // 4 for side in frames.shape[1:3])
    patch = frames[:, height // 2 : height // 2 + height, width // 2 : width // 2 + width]
    return patch.mean(tuple(range(1, frames.ndim))) / 255 - 0.5
