"""The agent: its state, its actions and its updates. Pure functions over a `TrainState`, jitted.

Shapes: K = updates in a chunk, T = time, B = batch, H W = image, A = action.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from denoised_mdp.agent.batch import Gathered, gather
from denoised_mdp.agent.build import model_learner, new_world_model, policy_learner, widths
from denoised_mdp.agent.shift import shifted
from denoised_mdp.config import Config
from denoised_mdp.model import foresight
from denoised_mdp.model.latent import Factor, Latent, zeros
from denoised_mdp.model.nets import set_precision
from denoised_mdp.model.protocol import Batch

# For a program that runs once: optimising it takes longer than running it.
COMPILED_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class TrainState(NamedTuple):
    """All that learning changes: one pytree, saved and restored as a whole."""

    world_model: Any  # a `WorldModel`; the configuration chooses which one
    model_moments: Any  # of its optimisers
    policy: Any  # the state of a policy learner; it has an `actor`
    updates: jax.Array  # [], gradient updates so far


class ActingState(NamedTuple):
    """The memory of an agent between two steps of an episode, for N environments."""

    latent: Latent[Factor]  # [N, ...]
    action: jax.Array  # [N, A], the last one


Parameters = list[jax.Array]  # of the world model and the actor


def _acts_with(state: TrainState) -> tuple[Any, Any]:
    return state.world_model, state.policy.actor


class Agent:
    """The functions of one configuration. Holds numbers and optimisers, never parameters."""

    def __init__(self, config: Config, action_size: int):
        self.config, self.action_size = config, action_size
        self.model_learner = model_learner(config.model)
        self.policy_learner = policy_learner(config.policy)
        self._compiled_create = jax.jit(self._create, compiler_options=COMPILED_QUICKLY)
        self.train_chunk = jax.jit(self._train_chunk, donate_argnums=0)
        self.act = jax.jit(self._act, static_argnames="explore")

    def create(self, key: jax.Array) -> TrainState:
        """Returns freshly initialised parameters."""
        return self._compiled_create(key)

    def shapes(self) -> TrainState:
        """Returns the result of `create` with shapes and types in place of the arrays."""
        return jax.eval_shape(self._create, jax.random.key(0))

    def acting(self, state: TrainState) -> Parameters:
        """Returns the parameters that `act` takes: plain arrays, as modules take longer to pass than to compute."""
        return jax.tree.leaves(_acts_with(state))

    @functools.cached_property
    def _acting_structure(self) -> Any:
        return jax.tree.structure(_acts_with(self.shapes()))

    def _create(self, key: jax.Array) -> TrainState:
        rngs = nnx.Rngs(key)
        model = self.config.model
        world_model = new_world_model(model, self.config.env.image_size, self.action_size, rngs)
        policy = self.policy_learner.init(model.x.belief + model.x.state, self.action_size, rngs)
        moments = self.model_learner.init(world_model)
        state = TrainState(world_model, moments, policy, jnp.zeros((), jnp.int32))
        set_precision(state, self.config.precision)
        return state

    def train_step(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, Any]]:
        """Updates the world model on a batch [T, B], then the policy from the same latents.

        The policy's metrics are 0 while it waits for `train.policy_after` updates of the model. Shares of a variance
        are `foresight.Ratio`s.
        """
        noise_key, policy_key = jax.random.split(key)
        noise = state.world_model.transition.noise(noise_key, batch.reward.shape)
        world_model, model_moments, s, metrics = self.model_learner.update(
            state.world_model, state.model_moments, batch, noise
        )
        metrics: dict[str, Any] = metrics | foresight.figures(state.world_model, s, batch)

        def learned(policy: Any) -> tuple[Any, dict[str, jax.Array]]:
            return self.policy_learner.update(policy, world_model, s.x, batch, policy_key)

        def waiting(policy: Any) -> tuple[Any, dict[str, jax.Array]]:
            return policy, optax.tree.zeros_like(jax.eval_shape(learned, policy)[1])

        if after := self.config.train.policy_after:  # before, the predicted rewards are not good enough for a policy
            policy, policy_metrics = jax.lax.cond(state.updates >= after, learned, waiting, state.policy)
        else:
            policy, policy_metrics = learned(state.policy)
        metrics = {f"model/{name}": value for name, value in metrics.items()}
        metrics |= {f"policy/{name}": value for name, value in policy_metrics.items()}
        return TrainState(world_model, model_moments, policy, state.updates + 1), metrics

    def _train_chunk(self, state: TrainState, batches: Batch | Gathered, key: jax.Array):
        """Makes K updates [K, T, B] in one call: a scan of `train_step`. Metrics are the means over the chunk.

        Update number n of a run draws from fold_in(key, n), whatever the division into chunks.
        """

        def body(state, drawn):
            batch = gather(batches.rows, drawn) if isinstance(batches, Gathered) else drawn
            step_key = jax.random.fold_in(key, state.updates)
            if pixels := self.config.train.random_shift:
                moved = shifted(batch.observation, pixels, jax.random.fold_in(step_key, 2))  # train_step has 0 and 1
                batch = batch._replace(observation=moved)
            return self.train_step(state, batch, step_key)

        state, metrics = jax.lax.scan(body, state, batches.places if isinstance(batches, Gathered) else batches)
        return state, foresight.divided(jax.tree.map(jnp.mean, metrics))

    def initial(self, environments: int) -> ActingState:
        """Returns the memory before an episode."""
        latent = zeros(*widths(self.config.model), (environments,))
        return ActingState(latent, jnp.zeros((environments, self.action_size)))

    def _act(
        self,
        parameters: Parameters,
        memory: ActingState,
        observation: jax.Array,
        is_first: jax.Array,
        key: jax.Array,
        *,
        explore: bool,
    ) -> ActingState:
        """Filters observations [N, H, W, 3] uint8 and acts; the result's `action` [N, A] is in [-1, 1].

        While exploring it is a policy sample plus Gaussian noise, clipped; else the likeliest of several samples.
        """
        world_model, actor = jax.tree.unflatten(self._acting_structure, parameters)
        latent_key, action_key, noise_key = jax.random.split(key, 3)
        transition, policy = world_model.transition, self.config.policy
        evidence = world_model.evidence(observation)
        memory = jax.tree.map(lambda v: jnp.where(is_first[:, None], 0.0, v), memory)
        noise = transition.noise(latent_key, is_first.shape)
        latent, _, _ = transition.step(memory.latent, memory.action, evidence, noise)
        distribution = actor(latent.x)
        if explore:
            action, _ = distribution.sample_and_log_prob(jax.random.normal(action_key, distribution.mean.shape))
            action = action + policy.exploration_noise * jax.random.normal(noise_key, action.shape)
            action = jnp.clip(action, -1.0, 1.0)
        else:
            action = distribution.mode(action_key, policy.mode_samples)
        return ActingState(latent, action)
