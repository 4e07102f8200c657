"""The value of x: as the mean of a Gaussian (the paper's), or as a distribution over bins (DreamerV3).

Shapes: B = any leading axes, K = outputs of the critic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from denoised_mdp.model.distributions import HALF_LOG_2PI
from denoised_mdp.model.nets import MLP

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


class Twins(nnx.Module):
    """Two critics that learn apart (Fujimoto et al. 2018, arXiv 1802.09477): [B, D] -> [2, B, K].

    An error of one alone does not raise the smaller of both values, and so the policy cannot exploit it.
    """

    def __init__(self, new: Callable[[], MLP]):
        self.first, self.second = new(), new()

    def __call__(self, features: jax.Array) -> jax.Array:
        return jnp.stack([self.first(features), self.second(features)])


Critic = MLP | Twins


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


def value(values: Values, critic: Critic, features: jax.Array) -> jax.Array:
    """[B, D] -> [B], the expected return; of twins the smaller one."""
    expected = values.mean(critic(features))
    return jnp.min(expected, axis=0) if isinstance(critic, Twins) else expected


VALUES: dict[Literal["gaussian", "two_hot"], Values] = {"gaussian": GaussianValues(), "two_hot": TwoHotValues()}
