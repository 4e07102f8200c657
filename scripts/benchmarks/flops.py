"""The arithmetic of one update: counted by hand from the widths, and in a traced program.

A multiplication counts 1, and so does a sum. The count by hand contains only the necessary matrix products and
convolutions: forward, and backward to weights and inputs that need a gradient. A traced program may do more, such as
products with the zeros that pad a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
from jax.extend import core

from denoised_mdp.agent.critic import VALUES
from denoised_mdp.config import Config
from denoised_mdp.config.sections import DenoisedModel, DynamicsPolicy, Train
from denoised_mdp.model.nets import CONV_DECODER, CONV_ENCODER, LAST, PATCHES

FORWARD, TO_WEIGHTS, TO_INPUTS = 1, 1, 1  # each pass has as many products as the first
ALL = FORWARD + TO_WEIGHTS + TO_INPUTS


def of_update(config: Config, action_size: int) -> dict[str, int]:
    """Returns the FLOP of one update of model and policy, by part; their sum is the update's.

    Raises:
        ValueError: the model is not x, xy or xyz, or the policy is not dynamics; others are not counted by hand.
    """
    return of_model(config, action_size) | of_policy(config, action_size)


def of_model(config: Config, action_size: int) -> dict[str, int]:
    """Returns the FLOP of one update of the world model, by part."""
    model, rows = config.model, config.train.batch_size * config.train.batch_length
    if not isinstance(model, DenoisedModel):
        raise ValueError(f"model={model.name}: the arithmetic is counted only for model=x, xy and xyz")
    first, others = encoder_products(config)
    heads = _dense(model.x.belief + model.x.state, *model.reward_widths, 1) * (2 if model.continue_head else 1)
    if model.y.belief:
        heads += _dense(model.y.belief + model.y.state, *model.reward_widths, 1)
    return {
        "encoder": 2 * rows * ((FORWARD + TO_WEIGHTS) * first + ALL * others),
        "transition": 2 * rows * ALL * _transition(model, action_size),
        "decoder": 2 * (rows // model.decode_every) * ALL * decoder_products(config),
        "reward": 2 * rows * ALL * heads,
    }


def of_policy(config: Config, action_size: int) -> dict[str, int]:
    """Returns the FLOP of one update of actor and critic, by part: imagination with its gradients, and the critic."""
    policy, model, train = config.policy, config.model, config.train
    if not isinstance(policy, DynamicsPolicy):
        raise ValueError(f"policy={policy.name}: the arithmetic is counted only for policy=dynamics")
    if policy.gradient != "dynamics":
        raise ValueError(f"policy.gradient={policy.gradient}: the arithmetic is counted only for dynamics")
    starts = -(-train.batch_size * (train.batch_length - policy.burn_in) // policy.start_every)
    x = model.x.belief + model.x.state
    actor = [x, *policy.actor_widths, 2 * action_size]
    critic = [x, *policy.critic_widths, VALUES[policy.critic].outputs]
    outputs = policy.critics * _dense(*critic)
    value = outputs + policy.critics * (critic[-1] if policy.critic == "two_hot" else 0)  # the mean over bins too
    head = _dense(x, *model.reward_widths, 1)
    heads, at_the_start = (2 * head, head) if model.continue_head else (head, 0)
    fixed = _prior(model.x.state + action_size, 1, model.x.belief, model.x.state) + heads + value
    # The gradient of an MLP's first product to its input, a stopped latent, is not needed.
    of_actor = ALL * _dense(*actor) - TO_INPUTS * actor[0] * actor[1]
    # The values exist already.
    of_critic = (TO_WEIGHTS + TO_INPUTS) * outputs - policy.critics * TO_INPUTS * critic[0] * critic[1]
    of_slow = value if policy.slow_critic_weight else 0
    return {
        "imagination": 2 * starts * (policy.horizon * (of_actor + (FORWARD + TO_INPUTS) * fixed) + at_the_start),
        "critic": 2 * starts * (policy.horizon - 1) * (of_critic + of_slow),
    } | (
        {"replay_critic": _replay_critic(train, value, heads, outputs + of_critic)}
        if policy.replay_critic_weight
        else {}
    )


def _replay_critic(train: Train, value: int, heads: int, of_critic: int) -> int:
    """Returns the FLOP of the critic's loss on replayed states; the last row needs only the value and x's reward."""
    return 2 * train.batch_size * (train.batch_length * (value + heads) + (train.batch_length - 1) * of_critic)


def encoder_products(config: Config) -> tuple[int, int]:
    """Returns the products for one picture: those of the first layer, and those of the others."""
    model, side = config.model, config.env.image_size
    if model.encoder == "patch":
        channels = [3, *model.patch_channels]
        layers = []
        for (inputs, outputs), size in zip(pairwise(channels), PATCHES, strict=True):
            side //= size
            layers.append(side * side * size * size * inputs * outputs)
        outputs = channels[-1]
    else:
        layers, outputs = [], 3
        for width, kernel, stride in CONV_ENCODER[side]:
            inputs, outputs = outputs, width * model.conv_features
            side = (side - kernel) // stride + 1
            layers.append(side * side * kernel * kernel * inputs * outputs)
    layers.append(side * side * outputs * model.embedding)
    return layers[0], sum(layers[1:])


def decoder_products(config: Config) -> int:
    """Returns the products for one picture."""
    model, size = config.model, config.env.image_size
    latents = sum(part.belief + part.state for part in (model.x, model.y, model.z))
    if model.decoder == "patch":
        side = size // math.prod(PATCHES)
        channels = [3, *model.patch_channels]
        products = _dense(latents, model.decoder_hidden, side * side * channels[-1])
        for (outputs, inputs), patch in zip(list(pairwise(channels))[::-1], PATCHES[::-1], strict=True):
            products += side * side * inputs * outputs * patch * patch
            side *= patch
        return products
    products, inputs, side = _dense(latents, model.decoder_hidden), model.decoder_hidden, 1
    layers = [(width * model.conv_features, kernel, stride) for width, kernel, stride in CONV_DECODER[size]]
    for outputs, kernel, stride in [*layers, (3, *LAST)]:
        products += side * side * inputs * kernel * kernel * outputs
        inputs, side = outputs, (side - 1) * stride + kernel
    return products


def of_program(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the FLOP of the matrix products and convolutions of a traced function, with all iterations of loops.

    The zeros of dilated and padded convolutions count like other numbers.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _transition(model: DenoisedModel, action_size: int) -> int:
    """Returns the products of one step of filtering, for one sequence, including the embedding's share."""
    x, y, z = model.x, model.y, model.z
    seen_by_z = x.belief + x.state + z.state + action_size + (y.belief + y.state if model.z_prior_uses_y else 0)
    priors = _prior(x.state + action_size, 1, x.belief, x.state) + _prior(y.state, 1, y.belief, y.state)
    priors += _prior(seen_by_z, 2, z.belief, z.state)
    both = x.belief + y.belief
    xy_inputs = both + z.belief + z.state + model.embedding
    z_inputs = both + x.state + y.state + z.belief + model.embedding
    return priors + _dense(xy_inputs, both, 2 * (x.state + y.state)) + _dense(z_inputs, z.belief, 2 * z.state)


def _prior(inputs: int, layers: int, belief: int, state: int) -> int:
    gru = 2 * belief * 3 * belief
    return _dense(inputs, *[belief] * layers) + gru + _dense(belief, belief, 2 * state)


def _dense(*widths: int) -> int:
    return sum(n * m for n, m in pairwise(widths))


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
        return 2 * math.prod(lengths) * equation.outvars[0].aval.size
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        outputs = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * kernel.size // outputs
    times = parameters["length"] if name == "scan" else 1
    return times * sum(map(_of_jaxpr, _inner(parameters.values())))


def _inner(values: Sequence[Any] | Any) -> list[core.Jaxpr]:
    """Returns the programs among the parameters of an equation."""
    programs = []
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            programs.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            programs.append(value)
        elif isinstance(value, tuple | list):
            programs += _inner(value)
    return programs
