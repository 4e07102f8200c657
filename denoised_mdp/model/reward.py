"""The weight of the reward's term in the loss of a world model. Shapes: T = time, B = batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from denoised_mdp.model.distributions import Array
from denoised_mdp.model.latent import Factor, Latent
from denoised_mdp.model.protocol import Batch

LEAST_VARIANCE = 1e-3  # a standard deviation of 0.03: below it rewards count as constant


def importance(reward: Array, *, normalize: bool) -> jax.Array | float:
    """Returns a factor [] on `reward_weight`: 1, or 1 over the variance (at least `LEAST_VARIANCE`) of rewards [T, B].

    Normalised, the term is half the weight times the unexplained share of the variance, in nats, so small rewards at
    the start of a task teach as much as large ones later. This is ours; TD-MPC2 and DreamerV3 scale rewards too.
    """
    return 1.0 / jnp.maximum(jnp.var(jnp.asarray(reward)), LEAST_VARIANCE) if normalize else 1.0


class RewardMoments(NamedTuple):
    """Sums [] over the rewards of all batches, those of the batch n updates ago times decay^n."""

    batches: jax.Array
    mean: jax.Array
    square: jax.Array

    @staticmethod
    def zeros() -> RewardMoments:
        """Returns the sums before the first batch."""
        return RewardMoments(*jnp.zeros(3))

    def after(self, reward: Array, decay: float) -> RewardMoments:
        """Returns the sums after a batch of rewards [T, B]."""
        reward = jnp.asarray(reward)
        new = (jnp.ones(()), jnp.mean(reward), jnp.mean(reward**2))
        return RewardMoments(*(decay * old + term for old, term in zip(self, new, strict=True)))

    @property
    def variance(self) -> jax.Array:
        """The variance [], at least `LEAST_VARIANCE`, of the batches by their weights."""
        mean, square = self.mean / self.batches, self.square / self.batches
        return jnp.maximum(square - mean**2, LEAST_VARIANCE)


class Moments(NamedTuple):
    """What a learner remembers from update to update."""

    of_learner: Any
    of_reward: RewardMoments


@dataclass(frozen=True)
class NormalizedLearner:
    """A learner of a world model whose weight of the reward is divided by a variance that remembers earlier batches.

    `importance` divides by the variance of one batch. Where rewards are rare, a batch without any has almost no
    variance, and its weight would teach the model that there are none. The running variance alone gives small
    differences of low rewards little weight. So the variance of the batch counts between a share of the running one,
    `floor`, and all of it.
    """

    learner: Any  # an agent.build.ModelLearner
    decay: float
    floor: float = 1.0  # 1: the running variance alone

    @property
    def objective(self) -> Any:
        """The weights of the loss, before the division."""
        return self.learner.objective

    def init(self, world_model: Any) -> Moments:
        """Returns the moments before the first update."""
        return Moments(self.learner.init(world_model), RewardMoments.zeros())

    def update(
        self, world_model: Any, moments: Moments, batch: Batch, noise: Latent[jax.Array]
    ) -> tuple[Any, Moments, Latent[Factor], dict[str, jax.Array]]:
        """Returns the learner's results; the running variance includes this batch."""
        of_reward = moments.of_reward.after(batch.reward, self.decay)
        running = of_reward.variance
        variance = jnp.clip(jnp.var(jnp.asarray(batch.reward)), self.floor * running, running)
        objective = self.objective._replace(reward_weight=self.objective.reward_weight / variance)
        learner = dataclasses.replace(self.learner, objective=objective)
        world_model, of_learner, s, metrics = learner.update(world_model, moments.of_learner, batch, noise)
        return world_model, Moments(of_learner, of_reward), s, metrics
