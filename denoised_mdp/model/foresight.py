"""The share of the reward that a model explains, now and a few steps ahead: the basis on which a policy learns.

The cheap figures of `analysis/diagnosis.py`, computed on training batches. Shapes: T = time, B = batch, A = action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from denoised_mdp.model.latent import Factor, Latent
from denoised_mdp.model.protocol import Batch, WorldModel

MOST_STEPS = 10  # of the open-loop prediction
LEAST = -1.0  # a lower R2 carries no more information


class Ratio(NamedTuple):
    """A share of a variance before the division: means over batches are of both terms.

    Where rewards are rare, most batches have no variance, and a mean of their shares would say nothing.
    """

    part: jax.Array
    whole: jax.Array

    @property
    def share(self) -> jax.Array:
        """The quotient."""
        return self.part / jnp.maximum(self.whole, 1e-6)


def figures(world_model: WorldModel, s: Latent[Factor], batch: Batch) -> dict[str, Ratio]:
    """Returns terms of: R2 of the reward from filtered latents [T, B], R2 of r_x open-loop, variance share of r_y."""
    reward, predicted = jnp.asarray(batch.reward), world_model.reward(s.x, s.y)
    of_y = predicted - world_model.x_reward(s.x)
    return {
        "reward_r2": unexplained(predicted, reward, jnp.ones(reward.shape)),
        "reward_r2_ahead": unexplained(*ahead(world_model, s.x, batch)),
        "reward_y_share": Ratio(jnp.var(of_y), jnp.var(reward)),
    }


def divided(metrics: Mapping[str, jax.Array | Ratio]) -> dict[str, jax.Array]:
    """Returns metrics with the value [] of each `Ratio` in its place: an R2, at least `LEAST`, or a share."""

    def value(name: str, metric: jax.Array | Ratio) -> jax.Array:
        if not isinstance(metric, Ratio):
            return metric
        return jnp.maximum(1.0 - metric.share, LEAST) if "r2" in name else metric.share

    return {name: value(name, metric) for name, metric in metrics.items()}


def ahead(world_model: WorldModel, x: Factor, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns r_x, the reward, and 1 where both belong to one episode, [K, B] each, for the later half of the steps.

    From the row at a quarter of T on, x follows the means of its priors under the recorded actions, without pictures.
    """
    start = batch.reward.shape[0] // 4
    stop = min(batch.reward.shape[0], start + 1 + MOST_STEPS)
    rows = slice(start + 1, stop)

    predicted = open_loop(world_model, jax.tree.map(lambda v: v[start], x), jnp.asarray(batch.action)[rows])
    same_episode = 1.0 - jnp.minimum(1.0, jnp.cumsum(jnp.asarray(batch.is_first)[rows].astype(jnp.float32), axis=0))
    late = slice(predicted.shape[0] // 2, None)
    return predicted[late], jnp.asarray(batch.reward)[rows][late], same_episode[late]


def open_loop(world_model: WorldModel, x: Factor, action: jax.Array) -> jax.Array:
    """Returns r_x [K, ...] where x follows the means of its priors from x [...] on, under actions [K, ..., A]."""

    def body(x: Factor, action: jax.Array) -> tuple[Factor, jax.Array]:
        belief, prior = world_model.transition.x_step(x, action)
        x = Factor(belief, prior.mean)
        return x, world_model.x_reward(x)

    return jax.lax.scan(body, x, action)[1]


def unexplained(predicted: jax.Array, true: jax.Array, weight: jax.Array) -> Ratio:
    """Returns the mean squared error [] and the variance []; all arguments are [K, B]."""
    total = jnp.maximum(jnp.sum(weight), 1.0)
    mean = jnp.sum(weight * true) / total
    return Ratio(*(jnp.sum(weight * (true - v) ** 2) / total for v in (predicted, mean)))
