"""Whether an episode goes on: an optional head on x predicts it.

Shapes: B = any leading axes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from denoised_mdp.model.distributions import Array
from denoised_mdp.model.latent import Factor
from denoised_mdp.model.nets import MLP


def probability(head: MLP | None, x: Factor) -> jax.Array:
    """[B], the probability that the episode goes on; 1 without a head."""
    return jnp.ones(x.state.shape[:-1]) if head is None else jax.nn.sigmoid(head(x.features)[..., 0])


def nll(head: MLP, x: Factor, is_terminal: Array) -> jax.Array:
    """[B], -log p(the episode goes on or not|x), in nats. is_terminal: [B] bool."""
    logit = head(x.features)[..., 0]
    return jax.nn.softplus(logit) - (1.0 - is_terminal) * logit
