"""The state that RoboDesk's distractors change: they set it before a reset or a step, and the world shows it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

VIDEO = 60  # pixels a side of each of the two pictures on the television


@dataclass
class Stage:
    """The defaults are the scene without distractors. Buttons come in the order red, green, blue."""

    video: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((VIDEO, 2 * VIDEO, 3), np.uint8))
    video_green: float = 0.0  # the mean of the video's green channel, from 0 to 1
    button_noise: NDArray[np.float64] | None = None  # [3], added to readings that are 0 at rest and 1 when pressed
    light_offset: NDArray[np.float64] | None = None  # [3, 2] metres, the three lights, to the right and back
    light_intensity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))  # of moving lights
    camera_offset: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 3)))  # metres: camera, its aim
