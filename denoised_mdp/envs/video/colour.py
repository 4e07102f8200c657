"""Colour for procedural clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.video import pink

_COLOUR = 0.2  # share of independent noise in each channel; independent channels alone would look like confetti


def coloured(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns gray frames [N, H, H] as colour [N, H, H, 3], with separate moving pink noise in each channel."""
    count, size = frames.shape[:2]
    gray = (1 - _COLOUR) * frames.astype(np.float32)
    return np.stack([gray + _COLOUR * pink.frames(rng, count, size) for _ in range(3)], -1).astype(np.uint8)
