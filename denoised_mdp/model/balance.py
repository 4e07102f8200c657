"""How a KL teaches its two sides: the prior to predict, the posterior to say nothing that could not be predicted."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from denoised_mdp.model.distributions import Normal


class Balance(NamedTuple):
    """Weights of a KL's gradients (KL balancing: DreamerV2, Algorithm 2; DreamerV3, Eq. 5).

    1, 1 and a floor on both sides is the KL with free nats of Eq. 4.
    """

    prior: float = 1.0  # how strongly KL(sg(q) || p) teaches the prior
    posterior: float = 1.0  # and KL(q || sg(p)) the posterior
    floor_prior: bool = True  # whether the prior too learns nothing below the free nats

    def kl(self, q: Normal, p: Normal, free_nats: jax.typing.ArrayLike) -> jax.Array:
        """[B], max(free_nats, KL(q || p)) in nats, whose gradients towards q and p have their own weights."""
        stop = jax.lax.stop_gradient
        to_prior, to_posterior = stopped(q).kl(p), q.kl(stopped(p))
        to_posterior = jnp.maximum(free_nats, to_posterior)
        if self.floor_prior:
            to_prior = jnp.maximum(free_nats, to_prior)
        value = stop(to_posterior)
        return value + self.posterior * (to_posterior - value) + self.prior * (to_prior - stop(to_prior))


def stopped(distribution: Normal) -> Normal:
    """The same distribution, through which no gradient goes."""
    return jax.tree.map(jax.lax.stop_gradient, distribution)
