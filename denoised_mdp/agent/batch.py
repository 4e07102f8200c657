"""Experience in the form that compiled updates take: batches, or rows on the device and their places in batches.

Shapes: R = rows, K = updates in a chunk, T = time, B = batch, H W = image, A = action.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray


class Rows(NamedTuple):
    """Experience on the device, R rows in no order that matters."""

    observation: jax.Array  # [R, H W 3] uint8
    action: jax.Array  # [R, A]
    reward: jax.Array  # [R]
    is_first: jax.Array  # [R] bool
    is_terminal: jax.Array  # [R] bool


class Gathered(NamedTuple):
    """Replaces a `replay.Batch` where updates are compiled: the rows, and which of them form each sequence."""

    rows: Rows
    places: NDArray[np.int32]  # [K, T, B]


def gather(rows: Rows, places: jax.Array | NDArray[np.int32]) -> Rows:
    """Returns the rows at places [..., T, B], with pictures [..., T, B, H, W, 3]: a batch."""
    observation, *rest = (array.at[places].get(mode="promise_in_bounds") for array in rows)
    side = round((observation.shape[-1] / 3) ** 0.5)
    return Rows(observation.reshape(*places.shape, side, side, 3), *rest)
