"""Learning a policy by back-propagation through the x-dynamics (Dreamer; Appendix B.1.3), on x alone.

Shapes: H = horizon, N = imagined roll-outs, A = action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from denoised_mdp.agent.critic import VALUES, Critic, Twins, value
from denoised_mdp.model.chunks import mean_over_chunks
from denoised_mdp.model.distributions import ClippedNormal, TanhNormal
from denoised_mdp.model.latent import Factor
from denoised_mdp.model.nets import MLP, PLAIN, Style
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.model.protocol import Batch, WorldModel
from denoised_mdp.model.sharding import spread

MEAN_SCALE = 5.0  # of the tanh-normal, as the next two
INITIAL_STDDEV = 5.0
MIN_STDDEV = 1e-4
STDDEV_RANGE = (0.1, 1.0)  # of the clipped normal (DreamerV3)
RAW_INITIAL_STDDEV = 2.0  # before the sigmoid: it starts at 0.89
RETURN_QUANTILES = (0.05, 0.95)  # the ends of the range of returns (DreamerV3, Eq. 7)
RETURN_RANGE_RATE = 0.01  # of its moving average
ROLLOUTS_IN_CACHE = 500  # of a CPU, with layers as wide as the paper's


class Actor(nnx.Module):
    """pi(a|x), a Gaussian whose samples are squashed or clipped to [-1, 1].

    kind: `tanh_normal`, the paper's, which starts so wide that actions are near -1 or 1 and may become deterministic;
        or `clipped_normal`, DreamerV3's, whose standard deviation stays between 0.1 and 1.
    """

    def __init__(
        self,
        inputs: int,
        widths: list[int],
        action: int,
        rngs: nnx.Rngs,
        *,
        kind: Literal["tanh_normal", "clipped_normal"] = "tanh_normal",
        style: Style = PLAIN,
        output_scale: float = 1.0,
    ):
        self.action, self.kind = action, kind
        self.net = MLP(inputs, widths, 2 * action, rngs, style=style, output_scale=output_scale)

    def __call__(self, x: Factor) -> TanhNormal | ClippedNormal:
        mean, stddev = jnp.split(self.net(x.features), 2, axis=-1)
        if self.kind == "clipped_normal":
            low, high = STDDEV_RANGE
            return ClippedNormal(jnp.tanh(mean), low + (high - low) * jax.nn.sigmoid(stddev + RAW_INITIAL_STDDEV))
        raw_initial = jnp.log(jnp.expm1(INITIAL_STDDEV))
        return TanhNormal(MEAN_SCALE * jnp.tanh(mean / MEAN_SCALE), jax.nn.softplus(stddev + raw_initial) + MIN_STDDEV)


class Dream(NamedTuple):
    """Roll-outs imagined in x; row t holds the state that action[t] led to."""

    x: Factor  # [H, N, ...]
    action: jax.Array  # [H, N, A]
    score: jax.Array  # [H, N], the log-density of that action, without gradients through the action
    entropy: jax.Array  # [H, N], of the action's distribution, in nats


def lambda_return(rewards: jax.Array, values: jax.Array, discounts: jax.Array, lambda_: float) -> jax.Array:
    """Returns the lambda-returns [H-1, N] of rewards, values and discounts [H, N]; the last value is the bootstrap.

    R_t = r_t + d_t ((1 - lambda) v_{t+1} + lambda R_{t+1}),  R_{H-1} = v_{H-1}.
    """

    def body(following, inputs):
        reward, discount, next_value = inputs
        following = reward + discount * ((1 - lambda_) * next_value + lambda_ * following)
        return following, following

    return jax.lax.scan(body, values[-1], (rewards[:-1], discounts[:-1], values[1:]), reverse=True)[1]


def discount_weights(discounts: jax.Array) -> jax.Array:
    """Returns 1, d_0, d_0 d_1, ... [H-1, N]: the weights of imagined states."""
    shifted = jnp.concatenate([jnp.ones_like(discounts[:1]), discounts[:-2]])
    return jax.lax.stop_gradient(jnp.cumprod(shifted, axis=0))


def dream(actor: Actor, world_model: WorldModel, x: Factor, action_noise: jax.Array, state_noise: jax.Array) -> Dream:
    """Imagines x forward under the actor from x [N]; both noises are standard normals, [H, N, A] and [H, N, S].

    The actor gets its state with the gradient stopped, so that gradients reach it only through later states.
    """

    def body(x, noise):
        policy = actor(jax.tree.map(jax.lax.stop_gradient, x))
        action, _ = policy.sample_and_log_prob(noise[0])
        belief, prior = world_model.transition.x_step(x, action)
        x = Factor(belief, prior.at(noise[1]))
        return x, Dream(x, action, policy.score(noise[0]), policy.entropy(noise[0]))

    return jax.lax.scan(body, x, (action_noise, state_noise))[1]


class ActorCritic(NamedTuple):
    """Actor and critic, their optimisers' moments, and slow averages."""

    actor: Actor
    critic: Critic
    actor_moments: optax.OptState
    critic_moments: optax.OptState
    slow_critic: Critic | None = None  # a moving average of the critic; None: there is none
    return_range: jax.Array | None = None  # [], a moving average; None: returns are not normalised


@dataclass(frozen=True)
class DynamicsLearner:
    """Hyperparameters of the learner, and the two functions that the training step calls: `init` and `update`.

    Additions to the paper are off by default: style, actor_kind and output scales of the networks; gradient=reinforce;
    values=two_hot, critics=2; normalize_returns, slow_critic_weight, replay_critic_weight, burn_in.
    """

    actor_widths: list[int]
    critic_widths: list[int]
    actor_optimizer: Adam
    critic_optimizer: Adam
    discount: float
    lambda_: float
    horizon: int
    start_every: int
    entropy: float
    style: Style = PLAIN
    actor_kind: Literal["tanh_normal", "clipped_normal"] = "tanh_normal"
    actor_output_scale: float = 1.0
    critic_output_scale: float = 1.0
    gradient: Literal["dynamics", "reinforce"] = "dynamics"
    values: Literal["gaussian", "two_hot"] = "gaussian"
    critics: Literal[1, 2] = 1
    normalize_returns: bool = False
    slow_critic_weight: float = 0.0
    slow_critic_rate: float = 0.02
    replay_critic_weight: float = 0.0
    burn_in: int = 0

    def init(self, inputs: int, action: int, rngs: nnx.Rngs) -> ActorCritic:
        """Returns a fresh state; `inputs`: width of x's features."""
        actor = Actor(
            inputs,
            self.actor_widths,
            action,
            rngs,
            kind=self.actor_kind,
            style=self.style,
            output_scale=self.actor_output_scale,
        )
        outputs = VALUES[self.values].outputs

        def new_critic() -> MLP:
            scale = self.critic_output_scale
            return MLP(inputs, self.critic_widths, outputs, rngs, style=self.style, output_scale=scale)

        critic = new_critic() if self.critics == 1 else Twins(new_critic)
        return ActorCritic(
            actor,
            critic,
            self.actor_optimizer.init(actor),
            self.critic_optimizer.init(critic),
            slow_critic=jax.tree.map(jnp.copy, critic) if self.slow_critic_weight else None,
            return_range=jnp.ones(()) if self.normalize_returns else None,
        )

    def update(
        self, state: ActorCritic, world_model: WorldModel, x: Factor, batch: Batch, key: jax.Array
    ) -> tuple[ActorCritic, dict[str, jax.Array]]:
        """Takes one step of actor and critic, with roll-outs from every `start_every`-th posterior state x [T, B].

        No roll-out starts from a row before `burn_in`: beliefs there rest on too few pictures. Only the ends of
        episodes in the batch matter, and only for `replay_critic_loss`: all else happens in imagination.
        """
        x = jax.lax.stop_gradient(x)
        starts = jax.tree.map(lambda v: v[self.burn_in :].reshape(-1, v.shape[-1])[:: self.start_every], x)
        starts = jax.tree.map(spread, starts)
        count, action_size = starts.state.shape[0], state.actor.action
        action_key, state_key = jax.random.split(key)
        action_noise = jax.random.normal(action_key, (self.horizon, count, action_size))
        state_noise = jax.random.normal(state_key, (self.horizon, count, starts.state.shape[-1]))

        def gradients(starts, action_noise, state_noise):
            of_actor, (dreamt, returns, weights, metrics) = jax.grad(self.actor_loss, has_aux=True)(
                state.actor, state.critic, world_model, starts, action_noise, state_noise, state.return_range
            )
            critic_loss, of_critic = jax.value_and_grad(self.critic_loss)(
                state.critic, dreamt.x, returns, weights, state.slow_critic
            )
            return (of_actor, of_critic, metrics | {"critic_loss": critic_loss}), None

        (of_actor, of_critic, metrics), _ = mean_over_chunks(
            gradients, (starts, action_noise, state_noise), (0, 1, 1), at_a_time=ROLLOUTS_IN_CACHE
        )
        if self.replay_critic_weight:
            of_replay = jax.grad(self.replay_critic_loss)(
                state.critic, world_model, x, jnp.asarray(batch.is_first), state.slow_critic
            )
            of_critic = jax.tree.map(lambda g, r: g + self.replay_critic_weight * r, of_critic, of_replay)
        actor, actor_moments, actor_norm = self.actor_optimizer.step(state.actor, of_actor, state.actor_moments)
        critic, critic_moments, critic_norm = self.critic_optimizer.step(state.critic, of_critic, state.critic_moments)
        metrics |= {"actor_grad_norm": actor_norm, "critic_grad_norm": critic_norm}
        slow_critic, return_range = state.slow_critic, state.return_range
        if slow_critic is not None:
            slow_critic = jax.tree.map(lambda s, c: s + self.slow_critic_rate * (c - s), slow_critic, critic)
        if return_range is not None:
            return_range = return_range + RETURN_RANGE_RATE * (metrics["return_range"] - return_range)
        return ActorCritic(actor, critic, actor_moments, critic_moments, slow_critic, return_range), metrics

    def actor_loss(self, actor, critic, world_model, starts, action_noise, state_noise, return_range=None):
        """Returns minus the mean of the discounted lambda-returns of imagined states, and of the entropy.

        gradient=dynamics differentiates the returns through the dynamics of x (Appendix B.1.3); reinforce weights the
        score of each action with its advantage. A `return_range` [] above 1 divides either, so that the entropy keeps
        its relative weight at any scale of rewards (DreamerV3, Eq. 6).
        """
        dreamt = dream(actor, world_model, starts, action_noise, state_noise)
        rewards = world_model.x_reward(dreamt.x)  # [H, N]
        values = value(VALUES[self.values], critic, dreamt.x.features)
        discounts = self.discount * world_model.continuation(dreamt.x)
        returns = lambda_return(rewards, values, discounts, self.lambda_)
        alive = jax.lax.stop_gradient(world_model.continuation(starts))  # nothing follows an ended episode
        weights = alive[None] * discount_weights(discounts)
        aim = returns
        if self.gradient == "reinforce":
            first = value(VALUES[self.values], critic, starts.features), world_model.x_reward(starts)
            before, earned = (jnp.concatenate([v[None], w[:-2]]) for v, w in zip(first, (values, rewards), strict=True))
            advantage = earned + self.discount * returns - before  # the action's return minus the expected one
            aim = jax.lax.stop_gradient(advantage) * dreamt.score[:-1]
        if return_range is not None:
            aim = aim / jnp.maximum(1.0, return_range)
        metrics = {
            "actor_loss": -jnp.mean(weights * (aim + self.entropy * dreamt.entropy[:-1])),
            "entropy": jnp.mean(dreamt.entropy),
            "imagined_reward": jnp.mean(rewards),
            "imagined_value": jnp.mean(values),
            "action_saturation": jnp.mean(jnp.abs(dreamt.action) > 0.99),
        }
        if return_range is not None:
            low, high = jnp.quantile(jax.lax.stop_gradient(returns), jnp.array(RETURN_QUANTILES))
            metrics["return_range"] = high - low
        dreamt, returns = jax.tree.map(jax.lax.stop_gradient, (dreamt, returns))
        return metrics["actor_loss"], (dreamt, returns, weights, metrics)

    def critic_loss(self, critic, x, returns, weights, slow_critic=None):
        """Returns -log p(return | x) of each imagined state but the last, weighted as in the actor's loss.

        With a slow critic, its value is a second target (DreamerV3, "critic learning").
        """
        values = VALUES[self.values]
        # Of the last state too, so that XLA can share the outputs with the actor's loss.
        outputs = critic(x.features)[..., :-1, :, :]  # [H-1, N, K], of twins [2, H-1, N, K]
        shape = outputs.shape[:-1]
        nll = values.nll(outputs, jnp.broadcast_to(returns, shape))
        if slow_critic is not None:
            slow = jax.lax.stop_gradient(values.mean(slow_critic(x.features)[..., :-1, :, :]))
            nll = nll + self.slow_critic_weight * values.nll(outputs, slow)
        return jnp.mean(jnp.broadcast_to(weights, shape) * nll)

    def replay_critic_loss(self, critic, world_model, x, is_first, slow_critic):
        """Returns -log p(return | x) of replayed states x [T, B], with lambda-returns of x's reward in the sequence.

        This ties values to real states, such as those of a fallen robot, and not to imagined ones alone. Another
        episode ends before a row that is_first [T, B]: its last value replaces later rewards, and is no target.
        """
        values = VALUES[self.values]
        met = value(values, critic if slow_critic is None else slow_critic, x.features)
        discounts = self.discount * world_model.continuation(x)
        ends = jnp.concatenate([is_first[1:], jnp.zeros_like(is_first[:1])])
        rewards = jnp.where(ends, met, world_model.x_reward(x))
        returns = lambda_return(rewards, met, jnp.where(ends, 0.0, discounts), self.lambda_)
        outputs = critic(x.features)[..., :-1, :, :]
        nll = values.nll(outputs, jnp.broadcast_to(jax.lax.stop_gradient(returns), outputs.shape[:-1]))
        return jnp.mean(jnp.where(jnp.broadcast_to(ends[:-1], nll.shape), 0.0, nll))
