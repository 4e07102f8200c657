"""What the reward's term weighs in the loss of a world model. Shapes: T = time, B = batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from denoised_mdp.model.distributions import Array

LEAST_VARIANCE = 1e-3  # a standard deviation of 0.03: below it rewards are taken for constant


def importance(reward: Array, *, normalize: bool) -> jax.Array | float:
    """[], times `reward_weight`: 1, or one over the variance of a batch's rewards [T, B] (at least `LEAST_VARIANCE`).

    Normalised, the term is half of the weight times the share of the variance that is not explained, in nats: small
    rewards at the start of a task teach as much as large ones later. Ours; TD-MPC2 and DreamerV3 scale rewards too.
    """
    return 1.0 / jnp.maximum(jnp.var(jnp.asarray(reward)), LEAST_VARIANCE) if normalize else 1.0
