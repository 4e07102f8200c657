"""Compares our functions with the reference's numbers in golden files (tests/golden has some), array by array.

A file's weights, inputs and noise go into the functions that training calls (`model_loss`, `DenoisedMDP.observe`,
`DynamicsLearner.actor_loss` and `critic_loss`), and every output is compared. The only formula here is that of the
relative error.

Shapes: T = time, B = batch, H = horizon, N = imagined roll-outs, A = action.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.agent.actor_critic import DynamicsLearner
from denoised_mdp.agent.build import policy_learner
from denoised_mdp.config.compose import compose
from denoised_mdp.errors import UserError
from denoised_mdp.model.distributions import Normal
from denoised_mdp.model.latent import Factor, Latent, by_name
from denoised_mdp.model.reconstruction import pixels
from denoised_mdp.model.world_model import DenoisedMDP, Objective, model_loss
from denoised_mdp.reference import weights
from denoised_mdp.reference.weights import to_theirs
from denoised_mdp.runs.replay import Batch

VALUES, GRADIENTS = 1e-5, 1e-4  # the largest relative errors
NEGLIGIBLE = 1e-6  # an array whose values are all smaller is compared absolutely, with this limit
OPTIONAL = ("plain/out/embedding", "reset/out/embedding")


class Check(NamedTuple):
    """The comparison of one array of a file with ours."""

    name: str
    group: str  # the quantity that the array belongs to
    error: float  # relative, or absolute where the limit is NEGLIGIBLE; infinite if the shapes differ
    limit: float

    @property
    def agrees(self) -> bool:
        """Whether the error is within the limit; False for NaN."""
        return self.error <= self.limit


class Report(NamedTuple):
    """All results for one file."""

    checks: list[Check]
    missing: list[str]  # computed here, absent in the file
    unchecked: list[str]  # in the file, without a counterpart here

    @property
    def agrees(self) -> bool:
        """Whether no array is missing or unchecked, and all agree."""
        return not (self.missing or self.unchecked) and all(check.agrees for check in self.checks)


def check(path: Path) -> Report:
    """Computes our version of a file's arrays, and compares them.

    Raises:
        UserError: the file cannot be read, or a weight, an input or a setting is missing or wrong.
    """
    try:
        arrays = weights.read_arrays(path)
        inputs = Inputs(arrays)
        with jax.default_matmul_precision("highest"):  # an accelerator would round the factors
            ours = dict(computed(inputs))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    used = {"config", *(f"weight/{name}" for name in weights.weights_of(arrays)), *inputs.read, *ours}
    return Report(
        checks=[_compare(name, value, arrays[name]) for name, value in ours.items() if name in arrays],
        missing=[name for name in ours if name not in arrays and name not in OPTIONAL],
        unchecked=[name for name in arrays if name not in used],
    )


def table(report: Report, *, every_array: bool) -> str:
    """Returns a report as text: a line for each quantity with its worst array, or one for each array."""
    groups: dict[str, list[Check]] = {}
    for check in report.checks:
        groups.setdefault(check.name if every_array else check.group, []).append(check)
    width = max((len(name) for name in groups), default=0)
    lines = []
    for name, checks in groups.items():
        worst = max(checks, key=lambda check: (not check.agrees, check.error / check.limit))
        line = f"  {name:<{width}}  {worst.error:8.1e} of {worst.limit:.0e}  {'' if worst.agrees else 'DIFFERS'}"
        lines.append(line if every_array else f"{line:<{width + 33}}{len(checks):>4} arrays, worst {worst.name}")
    lines += [f"  {name}  MISSING from the file" for name in report.missing]
    lines += [f"  {name}  NOT CHECKED: nothing here computes it" for name in report.unchecked]
    bad = sum(not check.agrees for check in report.checks) + len(report.missing) + len(report.unchecked)
    lines.append(f"  {len(report.checks)} arrays compared, {bad or 'no'} failure{'' if bad == 1 else 's'}")
    return "\n".join(line.rstrip() for line in lines)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, bool]:
    """Returns max|a - b| / max|b|; or max|a - b| and True if all of b is below NEGLIGIBLE; inf if the shapes differ."""
    if ours.shape != theirs.shape:
        return np.inf, False
    distance = float(np.max(np.abs(ours.astype(np.float64) - theirs), initial=0.0))
    scale = float(np.max(np.abs(theirs), initial=0.0))
    return (distance, True) if scale < NEGLIGIBLE else (distance / scale, False)


def _compare(name: str, ours: np.ndarray, theirs: np.ndarray) -> Check:
    error, absolute = relative_error(ours, theirs)
    limit = NEGLIGIBLE if absolute else GRADIENTS if "/grad/" in name else VALUES
    return Check(name, _group(name), error, limit)


def _group(name: str) -> str:
    """Returns plain/out/x/prior_mean -> x prior; plain/grad/encoder_model.net.0.bias -> gradient of encoder_model."""
    section, kind, quantity = name.split("/", 2)
    last = quantity.rpartition("/")[2]
    if kind == "grad":
        return f"gradient of {quantity.split('.')[0]}"
    if "/" in quantity:
        return f"{quantity[0]} {last.split('_')[0]}"
    if section in ("plain", "reset"):
        return {"observation_mean": "image", "reward_mean": "reward", "reward_x_mean": "reward"}.get(last, last)
    return last if last in ("lambda_return", "actor_loss", "value_loss") else "imagination"


class Inputs:
    """The arrays of a file, and a record of the used ones."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays
        self.read: set[str] = set()
        self.config = weights.read_config(arrays)
        self.weights = weights.weights_of(arrays)

    def __call__(self, name: str, *shape: int | None) -> np.ndarray:
        """Returns an array of a shape, in which None is any length.

        Raises:
            UserError: the array is missing or has another shape.
        """
        if name not in self._arrays:
            raise UserError(f"{name} is missing")
        array = self._arrays[name]
        if len(array.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
            raise UserError(f"{name} is {array.shape}, not {shape}".replace("None", "any"))
        self.read.add(name)
        return array

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an array to compare with; () if it is missing."""
        return self._arrays[name].shape if name in self._arrays else ()


def computed(inputs: Inputs) -> Iterator[tuple[str, np.ndarray]]:
    """Yields our version of every array that a file should have, by name, in the reference's layout."""
    actions, settings = weights.sizes(inputs.weights)
    described = weights.described(inputs.config, inputs.weights)
    settings |= {name: described[name] for name in ("model.min_stddev", "policy.discount", "policy.lambda_")}
    config = compose(["size=paper", *weights.overrides(settings)])
    state = weights.to_ours(inputs.weights, Agent(config, actions).create(jax.random.key(0)))
    learner = policy_learner(config.policy)
    assert isinstance(learner, DynamicsLearner)
    for section in ("plain", "reset"):
        yield from _learning(section, state.world_model, _objective(described), inputs, actions)
    yield from _imagination(learner, state, inputs, actions)
    yield from _behaviour(learner, state, inputs, actions)


def _objective(described: Mapping[str, Any]) -> Objective:
    """Returns the objective with a file's own numbers, which may lie outside a configuration's ranges."""

    def of_parts(name: str) -> Latent[float]:
        return by_name(lambda part: described[f"model.{name}_{part}"] if part in weights.PARTS else 0.0)

    beta, free_nats = of_parts("beta"), of_parts("free_nats")
    split = described["model.beta_free_nats_x"]
    return Objective(described["model.alpha"], beta, free_nats, beta.x if split is None else split, reward_weight=1.0)


def _learning(
    section: str, model: DenoisedMDP, objective: Objective, inputs: Inputs, actions: int
) -> Iterator[tuple[str, np.ndarray]]:
    side = inputs.config["image_size"]
    frames = inputs("in/observation_uint8", None, None, 3, side, side)
    length, batch_size = shape = frames.shape[:2]
    is_first = np.zeros(shape, bool)  # the first row counts as one in either case
    if section == "reset":
        is_first = inputs("in/next_observation_nonfirststep", *shape) == 0
    batch = Batch(
        observation=np.moveaxis(frames, 2, -1),
        action=inputs("in/action", *shape, actions),
        reward=inputs("in/reward", *shape),
        is_first=is_first,
        is_terminal=np.zeros(shape, bool),
        factors={},
    )

    def noise(kind: str) -> Latent[np.ndarray]:
        return Latent(
            *(
                inputs(f"{section}/in/{part}/{kind}_noise", length, batch_size, width)
                if width
                else np.zeros((*shape, 0), np.float32)
                for part, width in zip(Latent._fields, model.transition.state, strict=True)
            )
        )

    outputs, gradient = _learn(model, batch, noise("posterior"), noise("prior"), objective)
    if objective.beta_free_nats_x >= objective.beta.x:
        del outputs["kl_x_no_free_nats_loss"]
    for name, value in outputs.items():
        kept = inputs.shape(f"{section}/out/{name}")[:2] if (section, name) == ("reset", "observation_mean") else ()
        yield (
            f"{section}/out/{name}",
            np.asarray(value)[tuple(slice(n) for n in kept)],
        )  # the file keeps one image of `reset`
    for name, value in to_theirs({"world_model": gradient}).items():
        yield f"{section}/grad/{name}", value


@functools.partial(jax.jit, static_argnames="objective")
def _learn(
    model: DenoisedMDP, batch: Batch, noise: Latent, prior_noise: Latent, objective: Objective
) -> tuple[dict[str, jax.Array], DenoisedMDP]:
    (loss, (s, metrics)), gradient = jax.value_and_grad(model_loss, has_aux=True)(model, batch, noise, objective)
    _, q, p = model.observe(batch.observation, batch.action, batch.is_first, noise)
    outputs = {"embedding": model.encoder(pixels(batch.observation))}
    for part, s_i, q_i, p_i, prior_noise_i in zip(Latent._fields, s, q, p, prior_noise, strict=True):
        assert isinstance(q_i, Normal) and isinstance(p_i, Normal), "the reference's states are Gaussian"
        if s_i.state.shape[-1]:
            outputs |= {
                f"{part}/belief": s_i.belief,
                f"{part}/prior_mean": p_i.mean,
                f"{part}/prior_stddev": p_i.stddev,
                f"{part}/prior_state": p_i.at(prior_noise_i),
                f"{part}/posterior_mean": q_i.mean,
                f"{part}/posterior_stddev": q_i.stddev,
                f"{part}/posterior_state": s_i.state,
            }
    outputs |= {
        "observation_mean": jnp.moveaxis(model.decode(s), -1, -3),
        "reward_mean": model.reward(s.x, s.y),
        "reward_x_mean": model.x_reward(s.x),
        **{name: value for name, value in metrics.items() if name.endswith("_loss")},
        "kl_x_no_free_nats_loss": metrics["kl_x"],
        "total_loss": loss,
    }
    return outputs, gradient


class _GivenActions:
    """Replaces an actor if the actions are given: they are passed as its noise."""

    def __call__(self, x: Factor) -> _GivenActions:
        return self

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        return noise, self.score(noise)

    def score(self, noise: jax.Array) -> jax.Array:
        return jnp.zeros(noise.shape[:-1])

    def entropy(self, noise: jax.Array) -> jax.Array:
        return jnp.zeros(noise.shape[:-1])


def _roll_out_inputs(
    section: str, first: str, state: TrainState, inputs: Inputs, actions: int
) -> tuple[Factor, np.ndarray, np.ndarray]:
    """Returns the initial states [N], the actions or their noise [H, N, A], and the noise of x [H, N, S]."""
    transition = state.world_model.transition
    belief = inputs("imagine/in/x_belief", None, transition.belief.x)
    stochastic = inputs("imagine/in/x_state", len(belief), transition.state.x)
    action = inputs(f"{section}/in/{first}", None, len(belief), actions)
    noise = inputs(f"{section}/in/x_prior_noise", len(action), *stochastic.shape)
    return Factor(jnp.asarray(belief), jnp.asarray(stochastic)), action, noise


def _imagination(
    learner: DynamicsLearner, state: TrainState, inputs: Inputs, actions: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields a roll-out with given actions, and the outputs of actor and critic for its states."""

    @jax.jit
    def imagine(world_model, actor, critic, x, action, noise):
        loss, (dreamt, returns, discounts, _) = learner.actor_loss(
            _GivenActions(), critic, world_model, x, action, noise
        )
        policy = actor(dreamt.x)
        return {
            "x_belief": dreamt.x.belief,
            "x_state": dreamt.x.state,
            "reward_mean": world_model.x_reward(dreamt.x),
            "value": critic(dreamt.x.features)[..., 0],
            "actor_mean": policy.mean,
            "actor_stddev": policy.stddev,
            "action_log_prob": policy.log_prob(action),
            "discount_weight": discounts[:, :1],
            "lambda_return": returns,
            "actor_loss": loss,
            "value_loss": learner.critic_loss(critic, dreamt.x, returns, discounts),
        }

    given = _roll_out_inputs("imagine", "action", state, inputs, actions)
    for name, value in imagine(state.world_model, state.policy.actor, state.policy.critic, *given).items():
        yield f"imagine/out/{name}", np.asarray(value)


def _behaviour(
    learner: DynamicsLearner, state: TrainState, inputs: Inputs, actions: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the losses and gradients of one policy update, without the optimisers."""

    @jax.jit
    def learn(world_model, actor, critic, x, action_noise, noise):
        (loss, (dreamt, returns, discounts, _)), actor_gradient = jax.value_and_grad(learner.actor_loss, has_aux=True)(
            actor, critic, world_model, x, action_noise, noise
        )
        value_loss, critic_gradient = jax.value_and_grad(learner.critic_loss)(critic, dreamt.x, returns, discounts)
        outputs = {
            "action": dreamt.action,
            "reward_mean": world_model.x_reward(dreamt.x),
            "value": critic(dreamt.x.features)[..., 0],
            "lambda_return": returns,
            "actor_loss": loss,
            "value_loss": value_loss,
        }
        return outputs, {"policy": {"actor": actor_gradient, "critic": critic_gradient}}

    given = _roll_out_inputs("behaviour", "action_noise", state, inputs, actions)
    outputs, gradients = learn(state.world_model, state.policy.actor, state.policy.critic, *given)
    for name, value in outputs.items():
        yield f"behaviour/out/{name}", np.asarray(value)
    for name, value in to_theirs(gradients).items():
        yield f"behaviour/grad/{name}", value
