"""The agent: what is learned, how it acts, how it is updated. Pure functions over a `TrainState`, jitted.

Shapes: K = updates in a chunk, T = time, B = batch, H W = image, A = action.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from denoised_mdp import tia
from denoised_mdp.actor_critic import DynamicsLearner
from denoised_mdp.config import Config, Model, Policy, TIAModel
from denoised_mdp.device_replay import Gathered, per_update
from denoised_mdp.latent import Factor, Latent, zeros
from denoised_mdp.nets import MLP, ConvDecoder, ConvEncoder, PatchDecoder, PatchEncoder, set_precision
from denoised_mdp.optimizer import Adam
from denoised_mdp.sac import SACLearner
from denoised_mdp.transition import Transition
from denoised_mdp.world_model import Batch, DenoisedLearner, DenoisedMDP, Objective, WorldModel

# Of a program that runs once: compiling it well takes longer than running it.
COMPILED_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class TrainState(NamedTuple):
    """All that learning changes: one pytree, saved and restored as a whole."""

    world_model: Any  # a `WorldModel`: which one, the configuration says
    model_moments: Any  # of its optimisers
    policy: Any  # the state of a policy learner; it has an `actor`
    updates: jax.Array  # [], gradient updates so far


class ActingState(NamedTuple):
    """What an agent remembers between two steps of an episode, for N environments."""

    latent: Latent[Factor]  # [N, ...]
    action: jax.Array  # [N, A], the last one


class ModelLearner(Protocol):
    """How a world model is learned from experience."""

    @property
    def objective(self) -> Any: ...  # the weights of its loss

    def init(self, world_model: Any) -> Any:
        """The moments of its optimisers before the first update."""
        ...

    def update(
        self, world_model: Any, moments: Any, batch: Batch, noise: Latent[jax.Array]
    ) -> tuple[Any, Any, Latent[Factor], dict[str, jax.Array]]:
        """Model and moments after one step on a batch [T, B], the latents [T, B] that the old model filtered, metrics.

        noise: standard normals [T, B, S] of each part.
        """
        ...


class PolicyLearner(Protocol):
    """How a policy is learned from x: pure functions over a state that has an `actor`, a map from x to actions."""

    def init(self, inputs: int, action: int, rngs: nnx.Rngs) -> Any:
        """A fresh state; `inputs`: width of x's features, `action`: A."""
        ...

    def update(
        self, state: Any, world_model: WorldModel, x: Factor, batch: Batch, key: jax.Array
    ) -> tuple[Any, dict[str, jax.Array]]:
        """The state after one step on the posterior x [T, B] of a batch [T, B], and metrics."""
        ...


def model_learner(model: Model) -> ModelLearner:
    """The learner of the world model that the configuration names."""
    optimizer = Adam(model.learning_rate, epsilon=model.adam_epsilon, clip_norm=model.clip_norm)
    if isinstance(model, TIAModel):
        objective = tia.Objective(
            alpha=model.alpha,
            free_nats=Latent(model.free_nats_x, model.free_nats_y, 0.0),
            reward_weight=model.reward_weight,
            lambda_radv=model.lambda_radv,
            lambda_os=model.lambda_os,
        )
        adversary = Adam(model.dissociation_learning_rate, epsilon=model.adam_epsilon, clip_norm=model.clip_norm)
        return tia.TIALearner(objective, optimizer, adversary, model.dissociation_steps)
    split = model.beta_free_nats_x
    objective = Objective(
        alpha=model.alpha,
        beta=Latent(model.beta_x, model.beta_y, model.beta_z),
        free_nats=Latent(model.free_nats_x, model.free_nats_y, model.free_nats_z),
        beta_free_nats_x=model.beta_x if split is None else split,
        reward_weight=model.reward_weight,
    )
    return DenoisedLearner(objective, optimizer)


def new_world_model(model: Model, image_size: int, action: int, rngs: nnx.Rngs) -> WorldModel:
    """A freshly initialised world model of the kind that the configuration names. `action`: A."""
    if isinstance(model, TIAModel):
        return _new_tia(model, image_size, action, rngs)
    belief = Latent(model.x.belief, model.y.belief, model.z.belief)
    state = Latent(model.x.state, model.y.state, model.z.state)
    encoder = _encoder(model, image_size, rngs)
    decoder = _decoder(model, image_size, sum(belief) + sum(state), rngs)
    transition = Transition(
        belief=belief,
        state=state,
        action=action,
        embedding=model.embedding,
        min_stddev=model.min_stddev,
        z_prior_uses_y=model.z_prior_uses_y,
        rngs=rngs,
    )
    return DenoisedMDP(
        encoder,
        decoder,
        transition,
        reward_widths=model.reward_widths,
        continue_head=model.continue_head,
        rngs=rngs,
    )


def _new_tia(model: TIAModel, image_size: int, action: int, rngs: nnx.Rngs) -> tia.TIA:
    x, y = (
        tia.Stream(
            _encoder(model, image_size, rngs),
            belief=part.belief,
            state=part.state,
            action=action,
            embedding=model.embedding,
            min_stddev=model.min_stddev,
            rngs=rngs,
        )
        for part in (model.x, model.y)
    )
    of_x, of_y = model.x.belief + model.x.state, model.y.belief + model.y.state
    return tia.TIA(
        tia.Task(x, reward_widths=model.reward_widths, continue_head=model.continue_head, rngs=rngs),
        tia.Distractor(y, _decoder(model, image_size, of_y, rngs)),
        tia.Mixer(
            _decoder(model, image_size, of_x, rngs, colours=6), _decoder(model, image_size, of_y, rngs, colours=6), rngs
        ),
        adversary=MLP(of_y, model.reward_widths, 1, rngs),
    )


def _encoder(model: Model, image_size: int, rngs: nnx.Rngs) -> nnx.Module:
    if model.encoder == "conv":
        return ConvEncoder(image_size, model.conv_features, model.embedding, rngs)
    return PatchEncoder(image_size, model.patch_channels, model.embedding, rngs)


def _decoder(model: Model, image_size: int, inputs: int, rngs: nnx.Rngs, *, colours: int = 3) -> nnx.Module:
    if model.decoder == "conv":
        return ConvDecoder(image_size, inputs, model.decoder_hidden, model.conv_features, rngs, colours=colours)
    return PatchDecoder(image_size, inputs, model.decoder_hidden, model.patch_channels, rngs, colours=colours)


def policy_learner(policy: Policy) -> PolicyLearner:
    """The learner that the configuration names."""
    actor_optimizer = Adam(policy.actor_learning_rate, epsilon=policy.adam_epsilon, clip_norm=policy.clip_norm)
    critic_optimizer = Adam(policy.critic_learning_rate, epsilon=policy.adam_epsilon, clip_norm=policy.clip_norm)
    if policy.name == "sac":
        return SACLearner(
            actor_widths=policy.actor_widths,
            critic_widths=policy.critic_widths,
            actor_optimizer=actor_optimizer,
            critic_optimizer=critic_optimizer,
            temperature_optimizer=Adam(policy.temperature_learning_rate, epsilon=policy.adam_epsilon, clip_norm=None),
            discount=policy.discount,
            tau=policy.tau,
            initial_temperature=policy.initial_temperature,
            target_entropy=policy.target_entropy,
        )
    return DynamicsLearner(
        actor_widths=policy.actor_widths,
        critic_widths=policy.critic_widths,
        actor_optimizer=actor_optimizer,
        critic_optimizer=critic_optimizer,
        discount=policy.discount,
        lambda_=policy.lambda_,
        horizon=policy.horizon,
        start_every=policy.start_every,
        entropy=policy.entropy,
    )


class Agent:
    """The functions of one configuration. Holds numbers and optimisers, never parameters."""

    def __init__(self, config: Config, action_size: int):
        self.config, self.action_size = config, action_size
        self.model_learner = model_learner(config.model)
        self.learner = policy_learner(config.policy)
        self._compiled_create = jax.jit(self._create, compiler_options=COMPILED_QUICKLY)
        self.train_chunk = jax.jit(self._train_chunk, donate_argnums=0)
        self.act = jax.jit(self._act, static_argnames="explore")

    def create(self, key: jax.Array) -> TrainState:
        """Freshly initialised parameters."""
        return self._compiled_create(key)

    def shapes(self) -> TrainState:
        """What `create` makes, with the shapes and types alone in place of the arrays."""
        return jax.eval_shape(self._create, jax.random.key(0))

    def _create(self, key: jax.Array) -> TrainState:
        rngs = nnx.Rngs(key)
        model = self.config.model
        world_model = new_world_model(model, self.config.env.image_size, self.action_size, rngs)
        policy = self.learner.init(model.x.belief + model.x.state, self.action_size, rngs)
        moments = self.model_learner.init(world_model)
        state = TrainState(world_model, moments, policy, jnp.zeros((), jnp.int32))
        set_precision(state, self.config.precision)
        return state

    def train_step(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update of the world model on a batch [T, B], then one of the policy from the same latents."""
        noise_key, policy_key = jax.random.split(key)
        noise = state.world_model.transition.noise(noise_key, batch.reward.shape)
        world_model, model_moments, s, metrics = self.model_learner.update(
            state.world_model, state.model_moments, batch, noise
        )
        policy, policy_metrics = self.learner.update(state.policy, world_model, s.x, batch, policy_key)
        metrics = {f"model/{name}": value for name, value in metrics.items()}
        metrics |= {f"policy/{name}": value for name, value in policy_metrics.items()}
        return TrainState(world_model, model_moments, policy, state.updates + 1), metrics

    def _train_chunk(self, state: TrainState, batches: Batch | Gathered, key: jax.Array):
        """K updates [K, T, B] in one call: a scan of `train_step`. Metrics are the means over the chunk.

        Update number n of a run draws from fold_in(key, n), however updates are cut into chunks.
        """
        slices, batch_of = per_update(batches)

        def body(state, part):
            return self.train_step(state, batch_of(part), jax.random.fold_in(key, state.updates))

        state, metrics = jax.lax.scan(body, state, slices)
        return state, jax.tree.map(jnp.mean, metrics)

    def initial(self, environments: int) -> ActingState:
        """Before an episode."""
        x, y, z = self.config.model.x, self.config.model.y, self.config.model.z
        belief, state = Latent(x.belief, y.belief, z.belief), Latent(x.state, y.state, z.state)
        latent = zeros(belief, state, (environments,))
        return ActingState(latent, jnp.zeros((environments, self.action_size)))

    def _act(
        self,
        world_model: WorldModel,
        actor: Any,
        memory: ActingState,
        observation: jax.Array,
        is_first: jax.Array,
        key: jax.Array,
        *,
        explore: bool,
    ) -> ActingState:
        """Filters observations [N, H, W, 3] uint8 and acts; the result's `action` [N, A] is in [-1, 1].

        While exploring, a policy sample plus Gaussian noise, clipped; else the likeliest of several samples.
        """
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
