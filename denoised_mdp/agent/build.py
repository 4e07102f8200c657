"""From the configuration to the parts of an agent: a world model, its learner, and the policy's learner.

Shapes: T = time, B = batch, S = width of the noise, A = action.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
from flax import nnx

from denoised_mdp.agent.actor_critic import DynamicsLearner
from denoised_mdp.agent.sac import SACLearner
from denoised_mdp.config.sections import Model, Policy, TIAModel
from denoised_mdp.model import tia
from denoised_mdp.model.balance import Balance
from denoised_mdp.model.latent import Factor, Latent, by_name
from denoised_mdp.model.nets import (
    MLP,
    CategoricalStates,
    ConvDecoder,
    ConvEncoder,
    GaussianStates,
    PatchDecoder,
    PatchEncoder,
    States,
    Style,
)
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.model.protocol import Batch, WorldModel
from denoised_mdp.model.reward import NormalizedLearner
from denoised_mdp.model.transition import Transition
from denoised_mdp.model.world_model import DenoisedLearner, DenoisedMDP, Objective


class ModelLearner(Protocol):
    """The learning of a world model from experience.

    The contract: a learner is a frozen dataclass. Its `objective` is a named tuple with a field `reward_weight`, which
    `NormalizedLearner` replaces. `update` is a pure function. It filters the batch from a zero latent with the given
    noise, and returns the latents of the model before the step. Each of its metrics is a scalar; `runs/metrics.py`
    lists its name with the prefix `model/`. `loss` is among them, because a run ends where it is not finite. The world
    model has the methods of `model/protocol.py`.
    """

    @property
    def objective(self) -> Any: ...  # the weights of its loss

    def init(self, world_model: Any) -> Any:
        """Returns the moments of its optimisers before the first update."""
        ...

    def update(
        self, world_model: Any, moments: Any, batch: Batch, noise: Latent[jax.Array]
    ) -> tuple[Any, Any, Latent[Factor], dict[str, jax.Array]]:
        """Returns model and moments after one step on a batch [T, B], the old model's latents [T, B], and metrics.

        noise: standard normals [T, B, S] of each part.
        """
        ...


class PolicyLearner(Protocol):
    """The learning of a policy from x: pure functions over a state.

    The contract: the state has an `actor`, which maps x [N] to a distribution over actions. Acting needs its `mean`
    [N, A], `sample_and_log_prob(noise)` and `mode(key, samples)`, `scripts/diagnose.py` its `entropy(noise)`, as in
    `model/distributions.py`; actions lie in [-1, 1]. Each metric of `update` is a scalar; `runs/metrics.py` lists its
    name with the prefix `policy/`. `actor_loss` and `critic_loss` are among them, because a run ends where one is not
    finite.
    """

    def init(self, inputs: int, action: int, rngs: nnx.Rngs) -> Any:
        """Returns a fresh state; `inputs`: width of x's features, `action`: A."""
        ...

    def update(
        self, state: Any, world_model: WorldModel, x: Factor, batch: Batch, key: jax.Array
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Returns the state after one step on the posterior x [T, B] of a batch [T, B], and metrics."""
        ...


def model_learner(model: Model) -> ModelLearner:
    """Returns the learner of the world model that the configuration names."""
    running = model.normalize_reward and model.reward_variance_decay > 0
    learner = _learner(model, normalize_reward=model.normalize_reward and not running)
    return NormalizedLearner(learner, model.reward_variance_decay, model.reward_variance_floor) if running else learner


def _learner(model: Model, *, normalize_reward: bool) -> ModelLearner:
    optimizer = Adam(
        model.learning_rate,
        epsilon=model.adam_epsilon,
        clip_norm=model.clip_norm,
        warmup=model.learning_rate_warmup,
    )
    balance = Balance(model.kl_prior_weight, model.kl_posterior_weight, model.free_nats_on_prior)
    if isinstance(model, TIAModel):
        objective = tia.Objective(
            alpha=model.alpha,
            balance=balance,
            free_nats=by_name(lambda part: getattr(model, f"free_nats_{part}", 0.0)),
            reward_weight=model.reward_weight,
            normalize_reward=normalize_reward,
            lambda_radv=model.lambda_radv,
            lambda_os=model.lambda_os,
            decode_every=model.decode_every,
        )
        adversary = Adam(model.dissociation_learning_rate, epsilon=model.adam_epsilon, clip_norm=model.clip_norm)
        return tia.TIALearner(objective, optimizer, adversary, model.dissociation_steps)
    split = model.beta_free_nats_x
    objective = Objective(
        alpha=model.alpha,
        beta=by_name(lambda part: getattr(model, f"beta_{part}")),
        free_nats=by_name(lambda part: getattr(model, f"free_nats_{part}")),
        beta_free_nats_x=model.beta_x if split is None else split,
        reward_weight=model.reward_weight,
        normalize_reward=normalize_reward,
        reward_y_penalty=model.reward_y_penalty,
        balance=balance,
        decode_every=model.decode_every,
    )
    return DenoisedLearner(objective, optimizer)


def new_world_model(model: Model, image_size: int, action: int, rngs: nnx.Rngs) -> WorldModel:
    """Returns a freshly initialised world model of the kind that the configuration names. `action`: A."""
    if isinstance(model, TIAModel):
        return _new_tia(model, image_size, action, rngs)
    belief, state = widths(model)
    encoder = _encoder(model, image_size, rngs)
    decoder = _decoder(model, image_size, sum(belief) + sum(state), rngs)
    transition = Transition(
        belief=belief,
        state=state,
        action=action,
        embedding=model.embedding,
        states=_states(model),
        z_prior_uses_y=model.z_prior_uses_y,
        rngs=rngs,
        style=_style(model),
    )
    return DenoisedMDP(
        encoder,
        decoder,
        transition,
        reward_widths=model.reward_widths,
        reward_output_scale=model.reward_output_scale,
        continue_head=model.continue_head,
        rngs=rngs,
        style=_style(model),
    )


def widths(model: Model) -> tuple[Latent[int], Latent[int]]:
    """Returns the widths of the deterministic beliefs and of the stochastic states of all parts."""
    return by_name(lambda part: getattr(model, part).belief), by_name(lambda part: getattr(model, part).state)


def _states(model: Model) -> States:
    return CategoricalStates(model.classes) if model.states == "categorical" else GaussianStates(model.min_stddev)


def _style(settings: Model | Policy) -> Style:
    return Style(settings.norm, settings.activation)


def _new_tia(model: TIAModel, image_size: int, action: int, rngs: nnx.Rngs) -> tia.TIA:
    x, y = (
        tia.Stream(
            _encoder(model, image_size, rngs),
            belief=part.belief,
            state=part.state,
            action=action,
            embedding=model.embedding,
            states=_states(model),
            rngs=rngs,
            style=_style(model),
        )
        for part in (model.x, model.y)
    )
    of_x, of_y = model.x.belief + model.x.state, model.y.belief + model.y.state
    return tia.TIA(
        tia.Task(
            x,
            reward_widths=model.reward_widths,
            reward_output_scale=model.reward_output_scale,
            continue_head=model.continue_head,
            rngs=rngs,
            style=_style(model),
        ),
        tia.Distractor(y, _decoder(model, image_size, of_y, rngs)),
        tia.Mixer(
            _decoder(model, image_size, of_x, rngs, colours=6), _decoder(model, image_size, of_y, rngs, colours=6), rngs
        ),
        adversary=MLP(of_y, model.reward_widths, 1, rngs, style=_style(model)),
    )


def _encoder(model: Model, image_size: int, rngs: nnx.Rngs) -> nnx.Module:
    if model.encoder == "conv":
        return ConvEncoder(image_size, model.conv_features, model.embedding, rngs)
    return PatchEncoder(image_size, model.patch_channels, model.embedding, rngs)


def _decoder(model: Model, image_size: int, inputs: int, rngs: nnx.Rngs, *, colours: int = 3) -> nnx.Module:
    if model.decoder == "conv":
        return ConvDecoder(image_size, inputs, model.decoder_hidden, model.conv_features, rngs, colours=colours)
    return PatchDecoder(
        image_size, inputs, model.decoder_hidden, model.patch_channels, rngs, colours=colours, style=_style(model)
    )


def policy_learner(policy: Policy) -> PolicyLearner:
    """Returns the policy learner that the configuration names."""
    actor_optimizer, critic_optimizer = (
        Adam(rate, epsilon=policy.adam_epsilon, clip_norm=policy.clip_norm, warmup=policy.learning_rate_warmup)
        for rate in (policy.actor_learning_rate, policy.critic_learning_rate)
    )
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
            style=_style(policy),
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
        style=_style(policy),
        actor_kind=policy.actor,
        actor_output_scale=policy.actor_output_scale,
        critic_output_scale=policy.critic_output_scale,
        gradient=policy.gradient,
        values=policy.critic,
        critics=policy.critics,
        normalize_returns=policy.normalize_returns,
        slow_critic_weight=policy.slow_critic_weight,
        slow_critic_rate=policy.slow_critic_rate,
        replay_critic_weight=policy.replay_critic_weight,
        burn_in=policy.burn_in,
    )
