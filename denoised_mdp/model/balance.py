"""The gradients of a KL: they train the prior to predict, and the posterior to stay predictable."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from denoised_mdp.model.distributions import StateDistribution


class Balance(NamedTuple):
    """Weights of a KL's gradients (KL balancing: DreamerV2, Algorithm 2; DreamerV3, Eq. 5).

    Weights of 1 and a floor on both sides give the KL with free nats of Eq. 4.
    """

    prior: float = 1.0  # of KL(sg(q) || p), which trains the prior
    posterior: float = 1.0  # of KL(q || sg(p)), which trains the posterior
    floor_prior: bool = True  # whether the prior, too, gets no gradient below the free nats

    def kl(self, q: StateDistribution, p: StateDistribution, free_nats: jax.typing.ArrayLike) -> jax.Array:
        """Returns max(free_nats, KL(q || p)) [B] in nats, with separate weights on the gradients towards q and p."""
        stop = jax.lax.stop_gradient
        to_prior, to_posterior = stopped(q).kl(p), q.kl(stopped(p))
        to_posterior = jnp.maximum(free_nats, to_posterior)
        if self.floor_prior:
            to_prior = jnp.maximum(free_nats, to_prior)
        value = stop(to_posterior)
        return value + self.posterior * (to_posterior - value) + self.prior * (to_prior - stop(to_prior))


def stopped(distribution: StateDistribution) -> StateDistribution:
    """Returns the same distribution with its gradients stopped."""
    return jax.tree.map(jax.lax.stop_gradient, distribution)
