"""The error of decoded pictures, and its gradient, computed for a few pictures at a time.

A decoder's layers are the largest arrays of an update. The loss is a mean over pictures, so a few of them at a time can
be decoded, compared and differentiated, and their layers freed: the same mean in a fraction of the memory.

Shapes: L = latent features, H W = image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from denoised_mdp.model.chunks import mean_over_chunks
from denoised_mdp.model.distributions import Array

Rows = TypeVar("Rows")

PICTURES_AT_A_TIME = 256  # on a CPU


def pixels(observation: Array) -> jax.Array:
    """uint8 in 0..255 -> float in -0.5..0.5, the units of encoder and decoder."""
    return jnp.asarray(observation, jnp.float32) / 255 - 0.5


def one_in(rows: Rows, every: int) -> Rows:
    """Returns the rows [N, ...] on each `every`-th diagonal of arrays [T, B, ...]; with 1 the arrays unchanged.

    All sequences are drawn alike, and each time step is chosen in the same share of them if `every` divides B.
    """
    if every == 1:
        return rows
    time, batch = jax.tree.leaves(rows)[0].shape[:2]
    chosen = np.flatnonzero(np.add.outer(np.arange(time), np.arange(batch)) % every == 0)
    return jax.tree.map(lambda v: v.reshape(time * batch, *v.shape[2:])[chosen], rows)


@jax.custom_vjp
def squared_error(decoder: Callable[[jax.Array], jax.Array], features: jax.Array, observation: Array) -> jax.Array:
    """Returns the squared error [] of a picture, summed over its pixels, as a mean over all pictures.

    decoder: a pytree of parameters, [B, L] -> [B, H, W, 3]; features: [..., L]; observation: [..., H, W, 3] uint8.
    """
    return _in_chunks(lambda *some: (_mean_error(decoder, *some), None), features, observation)[0]


def _mean_error(decoder: Any, features: jax.Array, observation: jax.Array) -> jax.Array:
    return jnp.sum((pixels(observation) - decoder(features)) ** 2) / len(features)


def _forward(decoder, features, observation):
    """Computes the gradients already, while the decoder's layers are in memory; `_backward` only scales them."""

    def both(features, observation):
        error, (to_decoder, to_features) = jax.value_and_grad(_mean_error, (0, 1))(decoder, features, observation)
        return (error, to_decoder), to_features * len(features)

    (error, to_decoder), to_features = _in_chunks(both, features, observation)
    return error, (to_decoder, to_features.reshape(features.shape) / len(to_features))


def _backward(saved, gradient):
    return *jax.tree.map(lambda v: gradient * v, saved), None


squared_error.defvjp(_forward, _backward)


def _in_chunks(function, features: jax.Array, observation: Array):
    arrays = (features.reshape(-1, features.shape[-1]), jnp.asarray(observation).reshape(-1, *observation.shape[-3:]))
    return mean_over_chunks(function, arrays, (0, 0), at_a_time=PICTURES_AT_A_TIME)
