"""Learning a policy by soft actor-critic (SAC) on transitions of x from replay (Algorithm 1, Appendix B.1.3).

States are samples of x's posterior. Rewards are the world model's predictions from them, not those of the replay, which
also contain the reward of y.

Shapes: T = time, B = batch, N = T-1 times B transitions, A = action.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from denoised_mdp.agent.actor_critic import Actor
from denoised_mdp.model.latent import Factor
from denoised_mdp.model.nets import MLP, PLAIN, Style
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.model.protocol import Batch, WorldModel


class Critics(nnx.Module):
    """Two estimates of Q(x, a): the smaller of two independent estimates is less often too high."""

    def __init__(self, inputs: int, widths: list[int], action: int, rngs: nnx.Rngs, *, style: Style = PLAIN):
        self.first = MLP(inputs + action, widths, 1, rngs, style=style)
        self.second = MLP(inputs + action, widths, 1, rngs, style=style)

    def __call__(self, x: Factor, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns both values [N] of the actions [N, A]."""
        inputs = jnp.concatenate([x.features, action], axis=-1)
        return self.first(inputs)[..., 0], self.second(inputs)[..., 0]


class Transitions(NamedTuple):
    """Steps of the x-MDP: the action in x led to next_x, and earned the reward there."""

    x: Factor  # [N, ...]
    action: jax.Array  # [N, A]
    reward: jax.Array  # [N], E p(r_x|next_x)
    next_x: Factor  # [N, ...]
    goes_on: jax.Array  # [N], 0 where next_x is terminal: no reward follows
    weight: jax.Array  # [N], 0 where next_x begins another episode: no transition at all

    def mean(self, values: jax.Array) -> jax.Array:
        """[N] -> [], the mean over the transitions within episodes."""
        return jnp.sum(self.weight * values) / jnp.maximum(jnp.sum(self.weight), 1.0)


def transitions(world_model: WorldModel, x: Factor, batch: Batch) -> Transitions:
    """Returns the N steps between neighbouring rows of posterior states x [T, B]. Row t's action led to row t."""

    def rows(tree, part):
        return jax.tree.map(lambda v: jnp.asarray(v)[part].reshape(-1, *v.shape[2:]), tree)

    before, after = slice(None, -1), slice(1, None)
    next_x = rows(x, after)
    return Transitions(
        x=rows(x, before),
        action=rows(batch.action, after),
        reward=world_model.x_reward(next_x),
        next_x=next_x,
        goes_on=1.0 - rows(batch.is_terminal, after),
        weight=1.0 - rows(batch.is_first, after),
    )


class SoftActorCritic(NamedTuple):
    """Actor, critics and temperature, the target critics, and the optimisers' moments."""

    actor: Actor
    critics: Critics
    targets: Critics  # follow the critics slowly
    log_temperature: jax.Array  # []
    actor_moments: optax.OptState
    critic_moments: optax.OptState
    temperature_moments: optax.OptState


@dataclass(frozen=True)
class SACLearner:
    """Hyperparameters of the learner, and the two functions that the training step calls: `init` and `update`."""

    actor_widths: list[int]
    critic_widths: list[int]
    actor_optimizer: Adam
    critic_optimizer: Adam
    temperature_optimizer: Adam
    discount: float
    tau: float
    initial_temperature: float
    target_entropy: float  # nats per dimension of the action
    style: Style = PLAIN

    def init(self, inputs: int, action: int, rngs: nnx.Rngs) -> SoftActorCritic:
        """Returns a fresh state; `inputs`: width of x's features."""
        actor = Actor(inputs, self.actor_widths, action, rngs, style=self.style)
        critics = Critics(inputs, self.critic_widths, action, rngs, style=self.style)
        log_temperature = jnp.asarray(math.log(self.initial_temperature), jnp.float32)
        return SoftActorCritic(
            actor=actor,
            critics=critics,
            targets=jax.tree.map(jnp.copy, critics),
            log_temperature=log_temperature,
            actor_moments=self.actor_optimizer.init(actor),
            critic_moments=self.critic_optimizer.init(critics),
            temperature_moments=self.temperature_optimizer.init(log_temperature),
        )

    def update(
        self, state: SoftActorCritic, world_model: WorldModel, x: Factor, batch: Batch, key: jax.Array
    ) -> tuple[SoftActorCritic, dict[str, jax.Array]]:
        """Takes one step of the critics, then the actor, the temperature and the targets, on a batch's transitions.

        x: posterior states [T, B]; T must be at least 2.
        """
        steps = transitions(world_model, x, batch)
        key, next_key = jax.random.split(key)
        noise, next_noise = (jax.random.normal(k, steps.action.shape) for k in (key, next_key))
        temperature = jnp.exp(state.log_temperature)

        target = self.target(state.actor, state.targets, temperature, steps, next_noise)
        gradients, metrics = jax.grad(self.critic_loss, has_aux=True)(state.critics, steps, target)
        critics, critic_moments, critic_norm = self.critic_optimizer.step(
            state.critics, gradients, state.critic_moments
        )
        gradients, (log_prob, actor_metrics) = jax.grad(self.actor_loss, has_aux=True)(
            state.actor, critics, temperature, steps, noise
        )
        actor, actor_moments, actor_norm = self.actor_optimizer.step(state.actor, gradients, state.actor_moments)

        temperature_loss, gradients = jax.value_and_grad(self.temperature_loss)(state.log_temperature, steps, log_prob)
        log_temperature, temperature_moments, _ = self.temperature_optimizer.step(
            state.log_temperature, gradients, state.temperature_moments
        )
        targets = jax.tree.map(lambda old, new: (1 - self.tau) * old + self.tau * new, state.targets, critics)
        metrics |= actor_metrics | {
            "temperature": temperature,
            "temperature_loss": temperature_loss,
            "actor_grad_norm": actor_norm,
            "critic_grad_norm": critic_norm,
        }
        state = SoftActorCritic(
            actor, critics, targets, log_temperature, actor_moments, critic_moments, temperature_moments
        )
        return state, metrics

    def target(self, actor, targets, temperature, steps, noise):
        """[N], r + discount (min_i Q_i(x', a') - temperature log pi(a'|x')),  a' ~ pi(.|x').

        Action and log-probability come from one sample. The reference scores the current state's action instead.
        """
        action, log_prob = actor(steps.next_x).sample_and_log_prob(noise)
        value = jnp.minimum(*targets(steps.next_x, action)) - temperature * log_prob
        return steps.reward + self.discount * steps.goes_on * value

    def critic_loss(self, critics, steps, target):
        """Returns half the squared error of both critics, on the recorded actions."""
        first, second = critics(steps.x, steps.action)
        loss = steps.mean(0.5 * (first - target) ** 2) + steps.mean(0.5 * (second - target) ** 2)
        return loss, {
            "critic_loss": loss,
            "q_value": steps.mean(jnp.minimum(first, second)),
            "predicted_reward": steps.mean(steps.reward),
        }

    def actor_loss(self, actor, critics, temperature, steps, noise):
        """Returns the mean of temperature log pi(a|x) - min_i Q_i(x, a),  a ~ pi(.|x); also log pi(a|x) [N]."""
        action, log_prob = actor(steps.x).sample_and_log_prob(noise)
        loss = steps.mean(temperature * log_prob - jnp.minimum(*critics(steps.x, action)))
        metrics = {
            "actor_loss": loss,
            "entropy": steps.mean(-log_prob),
            "action_saturation": steps.mean(jnp.mean(jnp.abs(action) > 0.99, axis=-1)),
        }
        return loss, (log_prob, metrics)

    def temperature_loss(self, log_temperature, steps, log_prob):
        """Returns a loss whose gradient raises the temperature while the policy's entropy is below the target."""
        target_entropy = self.target_entropy * steps.action.shape[-1]
        return -log_temperature * steps.mean(log_prob + target_entropy)
