"""The value of x: as the mean of a Gaussian (the paper's), or as a distribution over bins (DreamerV3).

Shapes: B = any leading axes, K = outputs of the critic.
"""

from __future__ import annotations

from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from denoised_mdp.model.distributions import HALF_LOG_2PI

BINS = np.linspace(-8, 8, 63, dtype=np.float32)  # on the scale of symlog: values of +-2980; V3 has 255 on +-20


def symlog(value: jax.Array) -> jax.Array:
    """Returns sign(v) log(1 + |v|) (DreamerV3, Eq. 9)."""
    return jnp.sign(value) * jnp.log1p(jnp.abs(value))


def symexp(value: jax.Array) -> jax.Array:
    """Returns the inverse of `symlog`."""
    return jnp.sign(value) * jnp.expm1(jnp.abs(value))


def two_hot(value: jax.Array) -> jax.Array:
    """[B] -> [B, K]: weights of the two bins around symlog(value), with that value as mean (DreamerV3, Eq. 10)."""
    place = (symlog(value) - BINS[0]) / (BINS[1] - BINS[0])
    distance = jnp.abs(jnp.clip(place, 0, len(BINS) - 1)[..., None] - np.arange(len(BINS))[(None,) * value.ndim])
    return jnp.maximum(0.0, 1.0 - distance)


class Values(Protocol):
    """The meaning of a critic's outputs [B, K]."""

    outputs: int  # K

    def mean(self, outputs: jax.Array) -> jax.Array:
        """[B, K] -> [B], the expected return."""
        ...

    def nll(self, outputs: jax.Array, returns: jax.Array) -> jax.Array:
        """[B, K], [B] -> [B], -log p(return|x) in nats."""
        ...


class GaussianValues:
    """N(value, 1)."""

    outputs = 1

    def mean(self, outputs: jax.Array) -> jax.Array:
        """[B, 1] -> [B], the expected return."""
        return outputs[..., 0]

    def nll(self, outputs: jax.Array, returns: jax.Array) -> jax.Array:
        """[B, 1], [B] -> [B], -log p(return|x) in nats."""
        return 0.5 * (self.mean(outputs) - returns) ** 2 + HALF_LOG_2PI


class TwoHotValues:
    """A categorical distribution over bins on the scale of symlog: its gradients do not grow with the returns."""

    outputs = len(BINS)

    def mean(self, outputs: jax.Array) -> jax.Array:
        """[B, K] -> [B], the expected return: symexp of the mean bin."""
        return symexp(jax.nn.softmax(outputs) @ BINS)

    def nll(self, outputs: jax.Array, returns: jax.Array) -> jax.Array:
        """[B, K], [B] -> [B], the cross-entropy with the two bins around the return, in nats."""
        return -jnp.sum(two_hot(returns) * jax.nn.log_softmax(outputs), axis=-1)


VALUES: dict[Literal["gaussian", "two_hot"], Values] = {"gaussian": GaussianValues(), "two_hot": TwoHotValues()}
