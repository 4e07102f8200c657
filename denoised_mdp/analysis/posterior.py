"""Filters one episode with a model's posterior.

Shapes: T = rows of the episode, H W = image, A = action, S = width of a state.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from denoised_mdp.errors import UserError
from denoised_mdp.model.distributions import Normal, StateDistribution
from denoised_mdp.model.latent import Factor, Latent
from denoised_mdp.model.protocol import WorldModel


class Filtered(NamedTuple):
    """The latents of one episode."""

    s: Latent[Factor]  # [T, ...], a sample of the posterior
    kl: Latent[jax.Array]  # [T], of each part in nats


@jax.jit
def filter_episode(world_model: WorldModel, observation: jax.Array, action: jax.Array, key: jax.Array) -> Filtered:
    """Filters observations [T, H, W, 3] uint8 and actions [T, A]. The key alone decides the posterior's noise.

    The result is a sample, not the mean, because policy and decoder see samples. A probe might read from the mean of a
    collapsed part information that the noise hides in every sample.
    """
    s, q, p = _observe(world_model, observation, action, key)
    kl = Latent(*(q_i.kl(p_i) for q_i, p_i in zip(q, p, strict=True)))
    return jax.tree.map(lambda v: v[:, 0], Filtered(s, kl))


@jax.jit
def information(
    world_model: WorldModel, observation: jax.Array, action: jax.Array, key: jax.Array
) -> Latent[jax.Array]:
    """Returns KL(q || p) for each dimension [S] of each part's state, in nats per step: a mean over an episode [T].

    Raises:
        UserError: the states are categorical; a class has no KL of its own.
    """
    _, q, p = _observe(world_model, observation, action, key)
    if not isinstance(q.x, Normal):
        raise UserError("a walk through single dimensions needs model.states=gaussian")
    each = jax.tree.map(lambda v: v[..., None], (q, p))
    return Latent(*(q_i.kl(p_i).mean((0, 1)) for q_i, p_i in zip(*each, strict=True)))


def _observe(
    world_model: WorldModel, observation: jax.Array, action: jax.Array, key: jax.Array
) -> tuple[Latent[Factor], Latent[StateDistribution], Latent[StateDistribution]]:
    """Returns s, q and p of every part, [T, 1, ...]: the episode is a batch of one sequence."""
    first = jnp.zeros((len(action), 1), bool)
    noise = world_model.transition.noise(key, first.shape)
    return world_model.observe(observation[:, None], action[:, None], first, noise)


def present(s: Latent[Factor]) -> list[str]:
    """Returns the names of a model's parts."""
    return [name for name in Latent._fields if getattr(s, name).state.shape[-1]]
