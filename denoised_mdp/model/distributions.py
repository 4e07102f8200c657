"""Diagonal Gaussians, plain, squashed by a tanh or clipped, and categorical variables, as pytrees.

Shapes: B = any leading axes, S = width of the event, over which log-probabilities and KLs are summed.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

Array = jax.Array | np.ndarray
HALF_LOG_2PI = 0.5 * float(np.log(2 * np.pi))


class StateDistribution(Protocol):
    """The distribution of a stochastic state [B, S]: a pytree, whatever its arrays are."""

    @property
    def mean(self) -> jax.Array:
        """[B, S], the expected state."""
        ...

    def at(self, noise: jax.Array) -> jax.Array:
        """Returns the sample [B, S] for standard normal `noise` [B, S]."""
        ...

    def kl(self, other: Self) -> jax.Array:
        """Returns KL(self || other) [B] in nats."""
        ...


class Normal(NamedTuple):
    """N(mean, stddev^2) with a diagonal covariance."""

    mean: jax.Array  # [B, S]
    stddev: jax.Array  # [B, S], positive

    def at(self, noise: jax.Array) -> jax.Array:
        """Returns the sample [B, S] for standard normal `noise` [B, S] (reparameterised)."""
        return self.mean + self.stddev * noise

    def log_prob(self, value: Array) -> jax.Array:
        """Returns the log-density [B] in nats."""
        standard = (value - self.mean) / self.stddev
        return jnp.sum(-0.5 * standard**2 - jnp.log(self.stddev) - HALF_LOG_2PI, axis=-1)

    def kl(self, other: Normal) -> jax.Array:
        """Returns KL(self || other) [B] in nats."""
        ratio = self.stddev / other.stddev
        distance = (self.mean - other.mean) / other.stddev
        return jnp.sum(0.5 * (ratio**2 + distance**2 - 1) - jnp.log(ratio), axis=-1)


class Categorical(NamedTuple):
    """V independent variables of C classes; a state is their one-hot vectors side by side, S = V C (DreamerV2)."""

    log_probs: jax.Array  # [B, V, C]

    @property
    def mean(self) -> jax.Array:
        """[B, S], the probabilities."""
        return self._flat(jnp.exp(self.log_probs))

    def at(self, noise: jax.Array) -> jax.Array:
        """Returns the sample [B, S] for standard normal `noise` [B, S], by the Gumbel-max trick.

        The noise is mapped to the Gumbel distribution by its own distribution function. Gradients are those of the
        probabilities (straight-through; DreamerV2, Algorithm 1).
        """
        gumbel = -jnp.log(-log_ndtr(noise.reshape(self.log_probs.shape)))
        one_hot = jax.nn.one_hot(jnp.argmax(self.log_probs + gumbel, axis=-1), self.log_probs.shape[-1])
        probabilities = jnp.exp(self.log_probs)
        return self._flat(one_hot + probabilities - jax.lax.stop_gradient(probabilities))

    def kl(self, other: Categorical) -> jax.Array:
        """Returns KL(self || other) [B] in nats."""
        return jnp.sum(jnp.exp(self.log_probs) * (self.log_probs - other.log_probs), axis=(-2, -1))

    @staticmethod
    def _flat(values: jax.Array) -> jax.Array:
        return values.reshape(*values.shape[:-2], math.prod(values.shape[-2:]))


def _log_tanh_slope(u: jax.Array) -> jax.Array:
    """Returns log |d tanh(u) / du| [B], summed over [B, A], in a form that stays finite where tanh saturates."""
    return jnp.sum(2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u)), axis=-1)


class TanhNormal(NamedTuple):
    """tanh(u), u ~ N(mean, stddev^2): actions in (-1, 1)."""

    mean: jax.Array  # [B, A], before the tanh
    stddev: jax.Array  # [B, A], before the tanh

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the action [B, A] for standard normal `noise` [B, A], and its log-density [B] in nats."""
        base = Normal(self.mean, self.stddev)
        u = base.at(noise)
        return jnp.tanh(u), base.log_prob(u) - _log_tanh_slope(u)

    def log_prob(self, action: jax.Array, limit: float = 0.999) -> jax.Array:
        """Returns the log-density [B] in nats of an action [B, A], clipped to +-`limit` for a finite pre-image."""
        u = jnp.arctanh(jnp.clip(action, -limit, limit))
        return Normal(self.mean, self.stddev).log_prob(u) - _log_tanh_slope(u)

    def score(self, noise: jax.Array) -> jax.Array:
        """Returns the log-density [B] of the sample for `noise` [B, A], without gradients through the sample."""
        base = Normal(self.mean, self.stddev)
        u = jax.lax.stop_gradient(base.at(noise))
        return base.log_prob(u) - _log_tanh_slope(u)

    def entropy(self, noise: jax.Array) -> jax.Array:
        """Returns the entropy [B] in nats, estimated from the sample for `noise` [B, A]."""
        return -self.sample_and_log_prob(noise)[1]

    def mode(self, key: jax.Array, samples: int) -> jax.Array:
        """Returns the likeliest of `samples` samples, [B, A] (the reference's evaluation action)."""
        noise = jax.random.normal(key, (samples, *self.mean.shape))
        candidates, log_probs = jax.vmap(self.sample_and_log_prob)(noise)
        best = jnp.argmax(log_probs, axis=0)
        return jnp.take_along_axis(candidates, best[None, ..., None], axis=0)[0]


class ClippedNormal(NamedTuple):
    """N(mean, stddev^2), clipped to [-1, 1]; densities are those before the clip."""

    mean: jax.Array  # [B, A], in [-1, 1]
    stddev: jax.Array  # [B, A]

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the action [B, A] for standard normal `noise` [B, A], and its log-density [B] in nats.

        Gradients pass the clip as if it were not there, so that an action at the bound can leave it.
        """
        base = Normal(self.mean, self.stddev)
        u = base.at(noise)
        return u + jax.lax.stop_gradient(jnp.clip(u, -1, 1) - u), base.log_prob(u)

    def score(self, noise: jax.Array) -> jax.Array:
        """Returns the log-density [B] of the sample for `noise` [B, A], without gradients through the sample."""
        base = Normal(self.mean, self.stddev)
        return base.log_prob(jax.lax.stop_gradient(base.at(noise)))

    def entropy(self, noise: jax.Array) -> jax.Array:
        """Returns the exact entropy [B] in nats; `noise` [B, A] is not used."""
        del noise
        return jnp.sum(jnp.log(self.stddev) + HALF_LOG_2PI + 0.5, axis=-1)

    def mode(self, key: jax.Array, samples: int) -> jax.Array:
        """Returns the mean [B, A], without sampling."""
        del key, samples
        return self.mean
