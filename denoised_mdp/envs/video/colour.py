"""Colour for procedural clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.video import pink

_COLOUR = 0.2  # share of each channel that is its own; three independent channels would look like confetti


def coloured(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Gray frames [N, H, H] in colour [N, H, H, 3], each channel with a little moving pink noise of its own."""
    count, size = frames.shape[:2]
    gray = (1 - _COLOUR) * frames.astype(np.float32)
    return np.stack([gray + _COLOUR * pink.frames(rng, count, size) for _ in range(3)], -1).astype(np.uint8)
