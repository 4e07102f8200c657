"""The latent state of the paper: three parts, each a deterministic belief and a stochastic state (Fig. 2, Table 5).

Shapes: B = any leading axes ([batch], or [time, batch]); N = width of a belief h; S = width of a state s.
A part of width zero is absent: its arrays are [B, 0], its KL is 0 and nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


class Factor(NamedTuple):
    """One part of the latent state."""

    belief: jax.Array  # [B, N] deterministic, carried by a GRU
    state: jax.Array  # [B, S] stochastic

    @property
    def features(self) -> jax.Array:
        """[B, N + S], the form in which networks take a part."""
        return jnp.concatenate([self.belief, self.state], axis=-1)


class Latent(NamedTuple, Generic[T]):
    """One value for each of the three parts: a `Factor`, a distribution, an array of noise."""

    x: T  # controllable and reward-relevant: the signal, the only part that a policy sees
    y: T  # moves on its own
    z: T  # controllable, never rewarded


NOISE_PARTS = Latent._fields[1:]  # the parts that the policy does not see


def by_name(value_of: Callable[[str], T]) -> Latent[T]:
    """Returns one value for each part, made from the part's name."""
    return Latent(*map(value_of, Latent._fields))


def features(latent: Latent[Factor]) -> jax.Array:
    """Returns the decoder's input [B, sum of all widths]."""
    return jnp.concatenate([part.features for part in latent], axis=-1)


def standard_normals(key: jax.Array, state: Latent[int], batch: tuple[int, ...]) -> Latent[jax.Array]:
    """Draws the noise [batch, S] of each part, for states of these widths."""
    keys = jax.random.split(key, len(state))
    return Latent(*(jax.random.normal(k, (*batch, s)) for k, s in zip(keys, state, strict=True)))


def zeros(belief: Latent[int], state: Latent[int], batch: tuple[int, ...]) -> Latent[Factor]:
    """Returns a latent [batch, width] of zeros, for parts of these widths: the state before the first observation."""
    widths = zip(belief, state, strict=True)
    return Latent(*(Factor(jnp.zeros((*batch, n)), jnp.zeros((*batch, m))) for n, m in widths))
