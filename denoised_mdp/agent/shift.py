"""Random shifts of training pictures: what a model learns about a robot then holds wherever the robot stands.

Shapes: T = time, B = batch, H W = image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from denoised_mdp.model.distributions import Array


def shifted(observation: Array, pixels: int, key: jax.Array) -> jax.Array:
    """Moves each sequence of pictures [T, B, H, W, 3] by up to so many pixels in both directions.

    All pictures of a sequence move alike, so its dynamics stay as they are. The border is repeated (DrQ, Kostrikov et
    al. 2021, Sec. 4.1, which shifts each observation by itself).
    """
    height, width = observation.shape[-3:-1]
    margin = (pixels, pixels)
    padded = jnp.pad(observation, ((0, 0), (0, 0), margin, margin, (0, 0)), mode="edge")
    corners = jax.random.randint(key, (observation.shape[1], 2), 0, 2 * pixels + 1)

    def cut(sequence: jax.Array, corner: jax.Array) -> jax.Array:
        down, right = corner
        return jax.lax.dynamic_slice(sequence, (0, down, right, 0), (len(sequence), height, width, 3))

    return jax.vmap(cut, in_axes=(1, 0), out_axes=1)(padded, corners)
