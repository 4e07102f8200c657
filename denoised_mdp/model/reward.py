"""The weight of the reward's term in the loss of a world model. Shapes: T = time, B = batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from denoised_mdp.model.distributions import Array

LEAST_VARIANCE = 1e-3  # a standard deviation of 0.03: below it rewards count as constant


def importance(reward: Array, *, normalize: bool) -> jax.Array | float:
    """Returns a factor [] on `reward_weight`: 1, or 1 over the variance (at least `LEAST_VARIANCE`) of rewards [T, B].

    Normalised, the term is half the weight times the unexplained share of the variance, in nats, so small rewards at
    the start of a task teach as much as large ones later. This is ours; TD-MPC2 and DreamerV3 scale rewards too.
    """
    return 1.0 / jnp.maximum(jnp.var(jnp.asarray(reward)), LEAST_VARIANCE) if normalize else 1.0
