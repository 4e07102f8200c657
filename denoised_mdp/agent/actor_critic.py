"""Learning a policy by back-propagation through the x-dynamics (Dreamer; Appendix B.1.3), on x alone.

Shapes: H = horizon, N = imagined roll-outs, A = action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from denoised_mdp.model.chunks import mean_over_parts
from denoised_mdp.model.distributions import HALF_LOG_2PI, TanhNormal
from denoised_mdp.model.latent import Factor
from denoised_mdp.model.nets import MLP
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.model.protocol import Batch, WorldModel
from denoised_mdp.model.sharding import spread

MEAN_SCALE = 5.0
INITIAL_STDDEV = 5.0
MIN_STDDEV = 1e-4
ROLLOUTS_IN_CACHE = 500  # of a CPU, with layers as wide as the paper's


class Actor(nnx.Module):
    """pi(a|x), a tanh-squashed Gaussian; it starts so wide that actions are near -1 or 1."""

    def __init__(self, inputs: int, widths: list[int], action: int, rngs: nnx.Rngs):
        self.action = action
        self.net = MLP(inputs, widths, 2 * action, rngs)

    def __call__(self, x: Factor) -> TanhNormal:
        mean, stddev = jnp.split(self.net(x.features), 2, axis=-1)
        raw_initial = jnp.log(jnp.expm1(INITIAL_STDDEV))
        return TanhNormal(MEAN_SCALE * jnp.tanh(mean / MEAN_SCALE), jax.nn.softplus(stddev + raw_initial) + MIN_STDDEV)


class Dream(NamedTuple):
    """Roll-outs imagined in x; row t is the state that action[t] led to."""

    x: Factor  # [H, N, ...]
    action: jax.Array  # [H, N, A]
    log_prob: jax.Array  # [H, N], of that action


def lambda_return(rewards: jax.Array, values: jax.Array, discounts: jax.Array, lambda_: float) -> jax.Array:
    """[H-1, N] lambda-returns of [H, N] rewards, values and discounts; the last value is the bootstrap.

    R_t = r_t + d_t ((1 - lambda) v_{t+1} + lambda R_{t+1}),  R_{H-1} = v_{H-1}.
    """

    def body(following, inputs):
        reward, discount, next_value = inputs
        following = reward + discount * ((1 - lambda_) * next_value + lambda_ * following)
        return following, following

    return jax.lax.scan(body, values[-1], (rewards[:-1], discounts[:-1], values[1:]), reverse=True)[1]


def discount_weights(discounts: jax.Array) -> jax.Array:
    """[H-1, N]: 1, d_0, d_0 d_1, ...: how much an imagined state still counts."""
    shifted = jnp.concatenate([jnp.ones_like(discounts[:1]), discounts[:-2]])
    return jax.lax.stop_gradient(jnp.cumprod(shifted, axis=0))


def dream(actor: Actor, world_model: WorldModel, x: Factor, action_noise: jax.Array, state_noise: jax.Array) -> Dream:
    """Imagines x forward under the actor from x [N]; both noises are standard normals, [H, N, A] and [H, N, S].

    The actor sees its state with the gradient stopped, so that gradients reach it only through what follows.
    """

    def body(x, noise):
        policy = actor(jax.tree.map(jax.lax.stop_gradient, x))
        action, log_prob = policy.sample_and_log_prob(noise[0])
        belief, prior = world_model.transition.x_step(x, action)
        x = Factor(belief, prior.at(noise[1]))
        return x, Dream(x, action, log_prob)

    return jax.lax.scan(body, x, (action_noise, state_noise))[1]


class ActorCritic(NamedTuple):
    """What is learned, and its optimisers' moments."""

    actor: Actor
    critic: MLP
    actor_moments: optax.OptState
    critic_moments: optax.OptState


@dataclass(frozen=True)
class DynamicsLearner:
    """Numbers of the learner, and the two functions that the training step calls: `init` and `update`."""

    actor_widths: list[int]
    critic_widths: list[int]
    actor_optimizer: Adam
    critic_optimizer: Adam
    discount: float
    lambda_: float
    horizon: int
    start_every: int
    entropy: float

    def init(self, inputs: int, action: int, rngs: nnx.Rngs) -> ActorCritic:
        """`inputs`: width of x's features."""
        actor = Actor(inputs, self.actor_widths, action, rngs)
        critic = MLP(inputs, self.critic_widths, 1, rngs)
        return ActorCritic(actor, critic, self.actor_optimizer.init(actor), self.critic_optimizer.init(critic))

    def update(
        self, state: ActorCritic, world_model: WorldModel, x: Factor, batch: Batch, key: jax.Array
    ) -> tuple[ActorCritic, dict[str, jax.Array]]:
        """One step of actor and critic from posterior states x [T, B], imagined from every `start_every`-th.

        The batch itself is not used: all that counts happens in imagination.
        """
        del batch
        starts = jax.tree.map(lambda v: jax.lax.stop_gradient(v.reshape(-1, v.shape[-1])[:: self.start_every]), x)
        starts = jax.tree.map(spread, starts)
        count, action_size = starts.state.shape[0], state.actor.action
        action_key, state_key = jax.random.split(key)
        action_noise = jax.random.normal(action_key, (self.horizon, count, action_size))
        state_noise = jax.random.normal(state_key, (self.horizon, count, starts.state.shape[-1]))

        def gradients(starts, action_noise, state_noise):
            of_actor, (dreamt, returns, weights, metrics) = jax.grad(self.actor_loss, has_aux=True)(
                state.actor, state.critic, world_model, starts, action_noise, state_noise
            )
            critic_loss, of_critic = jax.value_and_grad(self.critic_loss)(state.critic, dreamt.x, returns, weights)
            return (of_actor, of_critic, metrics | {"critic_loss": critic_loss}), None

        (of_actor, of_critic, metrics), _ = mean_over_parts(
            gradients, (starts, action_noise, state_noise), (0, 1, 1), at_a_time=ROLLOUTS_IN_CACHE
        )
        actor, actor_moments, actor_norm = self.actor_optimizer.step(state.actor, of_actor, state.actor_moments)
        critic, critic_moments, critic_norm = self.critic_optimizer.step(state.critic, of_critic, state.critic_moments)
        metrics |= {"actor_grad_norm": actor_norm, "critic_grad_norm": critic_norm}
        return ActorCritic(actor, critic, actor_moments, critic_moments), metrics

    def actor_loss(self, actor, critic, world_model, starts, action_noise, state_noise):
        """-mean of the discounted lambda-returns of imagined states, and of the entropy; through the dynamics."""
        dreamt = dream(actor, world_model, starts, action_noise, state_noise)
        rewards = world_model.x_reward(dreamt.x)  # [H, N]
        values = critic(dreamt.x.features)[..., 0]
        discounts = self.discount * world_model.continuation(dreamt.x)
        returns = lambda_return(rewards, values, discounts, self.lambda_)
        alive = jax.lax.stop_gradient(world_model.continuation(starts))  # of an ended episode nothing follows
        weights = alive[None] * discount_weights(discounts)
        entropy = -dreamt.log_prob
        metrics = {
            "actor_loss": -jnp.mean(weights * (returns + self.entropy * entropy[:-1])),
            "entropy": jnp.mean(entropy),
            "imagined_reward": jnp.mean(rewards),
            "imagined_value": jnp.mean(values),
            "action_saturation": jnp.mean(jnp.abs(dreamt.action) > 0.99),
        }
        dreamt, returns = jax.tree.map(jax.lax.stop_gradient, (dreamt, returns))
        return metrics["actor_loss"], (dreamt, returns, weights, metrics)

    def critic_loss(self, critic, x, returns, weights):
        """-log N(return | value, 1) of each imagined state but the last, weighted as in the actor's loss."""
        values = critic(x.features)[:-1, ..., 0]  # of the last too: so XLA finds in it what the actor's loss computes
        return jnp.mean(weights * (0.5 * (values - returns) ** 2 + HALF_LOG_2PI))
