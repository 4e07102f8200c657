"""Converts the weights of the authors' PyTorch code to ours, and back: the same numbers, other names and layouts.

The weights come as an `.npz` with `weight/<name>` for each entry of a state_dict and an optional `config` (tests/golden
has some), or as a `checkpoint_*.pth` of the authors' code, which needs PyTorch (the extra `reference`).

    theirs                                              ours
    Linear (out, in)                                    [in, out]
    GRUCell: gates reset, update, new; two biases       the same
    Conv2d (out, in, h, w)                              [h, w, in, out]
    ConvTranspose2d (in, out, h, w)                     [h, w, in, out], turned by 180 degrees
    the encoder's last map, flattened in C, H, W order  in H, W, C order
    a posterior's first layer, of latents and embedding one for each
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.config import Config
from denoised_mdp.errors import UserError, one_line
from denoised_mdp.model.nets import CONV_ENCODER
from denoised_mdp.runs import checkpoint, run_dir
from denoised_mdp.runs.checkpoint import named

Arrays = Mapping[str, np.ndarray]

# Their modules and ours, by the beginnings of the names; our names are those of a TrainState in a checkpoint.
MLPS = {
    "transition_model.x_state_action_pre_rnn.module": "world_model/transition/x_prior/embed",
    "transition_model.y_state_pre_rnn.module": "world_model/transition/y_prior/embed",
    "transition_model.z_state_action_x_pre_rnn.module": "world_model/transition/z_prior/embed",
    "transition_model.x_belief_to_state_prior.module": "world_model/transition/x_prior/head",
    "transition_model.y_belief_to_state_prior.module": "world_model/transition/y_prior/head",
    "transition_model.z_belief_to_state_prior.module": "world_model/transition/z_prior/head",
    "reward_model.x_network.net.module": "world_model/reward_x",
    "reward_model.y_network.net.module": "world_model/reward_y",
    "actor_model.net.module": "policy/actor/net",
    "value_model.net.module": "policy/critic",
    "q_model_0.net.module": "policy/critics/first",
    "q_model_1.net.module": "policy/critics/second",
    "q_model_0_target.net.module": "policy/targets/first",
    "q_model_1_target.net.module": "policy/targets/second",
}
PARTS = ("x", "y", "z")  # of the latent state, in the authors' code
GRUS = {f"transition_model.{part}_rnn": f"world_model/transition/{part}_prior/gru" for part in PARTS}
POSTERIORS = {
    f"transition_model.{parts}_belief_obs_to_state_posterior.module": f"world_model/transition/{parts}_posterior"
    for parts in ("xy", "z")
}
ENCODER, DECODER = "encoder_model.net.module", "observation_model"


class Layout(NamedTuple):
    """The conversion of one of their arrays to ours, and back."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
    """Our arrays for one entry of theirs: in this layout, joined along the first axis."""

    ours: tuple[str, ...]
    layout: Layout


SAME = Layout(lambda v: v, lambda v: v)
NUMBER = Layout(lambda v: v.reshape(1), lambda v: v.reshape(()))
LINEAR = Layout(lambda v: v.T, lambda v: v.T)
CONV = Layout(lambda v: v.transpose(2, 3, 1, 0), lambda v: v.transpose(3, 2, 0, 1))
CONV_TRANSPOSE = Layout(lambda v: v.transpose(2, 3, 0, 1)[::-1, ::-1], lambda v: v[::-1, ::-1].transpose(2, 3, 0, 1))


def flattened(side: int) -> Layout:
    """Returns the layout of a linear layer behind a map of side x side cells: inputs C, H, W there, H, W, C here."""
    return Layout(
        lambda v: v.reshape(len(v), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(v)),
        lambda v: v.reshape(side, side, -1, v.shape[-1]).transpose(3, 2, 0, 1).reshape(v.shape[-1], -1),
    )


def entries(ours: Arrays) -> dict[str, Entry]:
    """Returns the entries of their state_dicts with numbers of `ours`, by their names; missing parts have no entries.

    ours: arrays by their names in a TrainState, or some of them.
    """
    return {
        name: entry
        for name, entry in _all_entries(ours)
        if all(key in ours for key in entry.ours) and any(ours[key].size for key in entry.ours)
    }


def _all_entries(ours: Arrays) -> Iterator[tuple[str, Entry]]:
    for theirs, mine in MLPS.items():
        for i in range(_layers(ours, mine)):
            yield from _layer(f"{theirs}.{2 * i}", f"{mine}/layers/{i}", LINEAR)
    for theirs, mine in GRUS.items():
        for end, side in (("ih", "input"), ("hh", "hidden")):
            yield f"{theirs}.weight_{end}", Entry((f"{mine}/{side}/kernel/value",), LINEAR)
            yield f"{theirs}.bias_{end}", Entry((f"{mine}/{side}/bias/value",), SAME)
    for theirs, mine in POSTERIORS.items():
        kernels = (f"{mine}/latents/kernel/value", f"{mine}/embedding/kernel/value")
        yield f"{theirs}.0.weight", Entry(kernels, LINEAR)
        yield f"{theirs}.0.bias", Entry((f"{mine}/latents/bias/value",), SAME)
        yield from _layer(f"{theirs}.2", f"{mine}/output", LINEAR)

    encoder, decoder = "world_model/encoder", "world_model/decoder"
    count = _layers(ours, encoder)
    for i in range(count):
        yield from _layer(f"{ENCODER}.{2 * i}", f"{encoder}/layers/{i}", CONV)
    if count:
        channels = len(ours[f"{encoder}/layers/{count - 1}/bias/value"])
        side = math.isqrt(len(ours[f"{encoder}/output/kernel/value"]) // channels)
        yield from _layer(f"{ENCODER}.{2 * count + 1}", f"{encoder}/output", flattened(side))
    yield from _layer(f"{DECODER}.fc1", f"{decoder}/input", LINEAR)
    for i in range(_layers(ours, decoder)):
        yield from _layer(f"{DECODER}.conv_head.module.{2 * i + 1}", f"{decoder}/layers/{i}", CONV_TRANSPOSE)
    yield "log_ent_coef", Entry(("policy/log_temperature",), NUMBER)


def _layer(theirs: str, ours: str, layout: Layout) -> Iterator[tuple[str, Entry]]:
    yield f"{theirs}.weight", Entry((f"{ours}/kernel/value",), layout)
    yield f"{theirs}.bias", Entry((f"{ours}/bias/value",), SAME)


def _layers(ours: Arrays, module: str) -> int:
    return sum(name.startswith(f"{module}/layers/") and name.endswith("/kernel/value") for name in ours)


def to_theirs(state: Any) -> dict[str, np.ndarray]:
    """Returns the parameters with the authors' names and layouts.

    state: a TrainState with convolutional encoder and decoder, or a tree whose arrays have the same names, such as
        {"world_model": gradient}.
    """
    ours = named(state)
    return {
        name: entry.layout.to_theirs(np.concatenate([np.atleast_1d(ours[key]) for key in entry.ours]))
        for name, entry in entries(ours).items()
    }


def to_ours(weights: Arrays, like: TrainState) -> TrainState:
    """Returns the state `like` with the authors' weights; the optimisers' moments do not change.

    Raises:
        UserError: an entry is missing, left over or of another shape; the message names them.
    """
    ours, expected = named(like), to_theirs(like)
    problems = [f"{name} is missing" for name in expected.keys() - weights.keys()]
    problems += [f"{name} does not belong to this model" for name in weights.keys() - expected.keys()]
    problems += [
        f"{name} is {weights[name].shape}, not {expected[name].shape}"
        for name in expected.keys() & weights.keys()
        if weights[name].shape != expected[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError("; ".join(sorted(problems)[:5]) + more)
    for name, entry in entries(ours).items():
        lengths = [len(np.atleast_1d(ours[key])) for key in entry.ours]
        pieces = np.split(entry.layout.to_ours(weights[name]), np.cumsum(lengths)[:-1])
        ours.update(zip(entry.ours, pieces, strict=True))
    leaves, structure = jax.tree.flatten(like)
    arrays = [
        jnp.asarray(array, leaf.dtype).reshape(leaf.shape) for array, leaf in zip(ours.values(), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, arrays)


def sizes(weights: Arrays) -> tuple[int, dict[str, Any]]:
    """Returns the size of the action, and the settings, by dotted name, that follow from the arrays' shapes.

    Raises:
        UserError: an array that decides a setting is missing or has a wrong shape.
    """

    def shape(name: str, axes: int = 2) -> tuple[int, ...]:
        if name not in weights:
            raise UserError(f"{name} is missing")
        if weights[name].ndim != axes:
            raise UserError(f"{name} is {weights[name].shape}, but should have {axes} axes")
        return weights[name].shape

    def widths(module: str) -> list[int]:
        return [shape(f"{module}.{i}.weight")[0] for i in range(0, _last_layer(weights, module) + 1, 2)][:-1]

    part_widths = {}
    for part in PARTS:
        if part == "x" or any(name.startswith(f"transition_model.{part}_") for name in weights):
            belief = shape(f"transition_model.{part}_rnn.weight_hh")[1]
            state = shape(f"transition_model.{part}_belief_to_state_prior.module.2.weight")[0] // 2
            part_widths[part] = (belief, state)
    (hx, sx), (hy, sy), (hz, sz) = (part_widths.get(part, (0, 0)) for part in PARTS)
    seen_by_x = shape("transition_model.x_state_action_pre_rnn.module.0.weight")[1]
    actions = seen_by_x - sx
    if actions < 1:
        raise UserError(f"the prior of x has {seen_by_x} inputs, too few for its state of {sx} and an action")
    image_sizes = {2 * len(layers) + 1: size for size, layers in CONV_ENCODER.items()}
    linear = _last_layer(weights, ENCODER)
    if linear not in image_sizes:
        layer_numbers = " or ".join(f"{number} for {size} pixels" for number, size in image_sizes.items())
        raise UserError(f"the last layer of {ENCODER} should be number {layer_numbers}, not {linear}")
    policy, critic = ("sac", "q_model_0") if "log_ent_coef" in weights else ("dynamics", "value_model")
    settings = {
        "policy": policy,
        "model": "xyz" if hz else "xy" if hy else "x",
        "model.x.belief": hx,
        "model.x.state": sx,
        "model.y.belief": hy,
        "model.y.state": sy,
        "model.z.belief": hz,
        "model.z.state": sz,
        "model.encoder": "conv",
        "model.decoder": "conv",
        "model.embedding": shape(f"{ENCODER}.{linear}.weight")[0],
        "model.decoder_hidden": shape(f"{DECODER}.fc1.weight")[0],
        "model.conv_features": shape(f"{ENCODER}.0.weight", 4)[0],
        "model.reward_widths": widths("reward_model.x_network.net.module"),
        "policy.actor_widths": widths("actor_model.net.module"),
        "policy.critic_widths": widths(f"{critic}.net.module"),
        "env.image_size": image_sizes[linear],
    }
    if hy and hz:
        seen_by_z = shape("transition_model.z_state_action_x_pre_rnn.module.0.weight")[1]
        settings["model.z_prior_uses_y"] = seen_by_z != hx + sx + sz + actions
    return actions, settings


def _last_layer(weights: Arrays, module: str) -> int:
    numbers = [name.removeprefix(f"{module}.").split(".")[0] for name in weights if name.startswith(f"{module}.")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Returns settings in the form of a command line."""
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def described(config: Mapping[str, Any], weights: Arrays) -> dict[str, Any]:
    """Returns the settings, by dotted name, that the `config` of an `.npz` adds to its weights.

    Raises:
        UserError: a key is missing, contradicts the arrays, or needs an option that this code does not have.
    """
    actions, settings = sizes(weights)
    stated = {
        "action_size": actions,
        "image_size": settings["env.image_size"],
        "embedding_size": settings["model.embedding"],
        "decoder_hidden_size": settings["model.decoder_hidden"],
        "filter_base": settings["model.conv_features"],
        "dense_activation": "elu",
        "conv_activation": "relu",
        "observation_stddev": 1.0,
        "reward_stddev": 1.0,
        **{
            f"{part}.{width}_size": settings[f"model.{part}.{width}"] for part in PARTS for width in ("belief", "state")
        },
    }
    if "model.z_prior_uses_y" in settings:
        stated["z_prior_uses_y"] = settings["model.z_prior_uses_y"]
    for name, value in stated.items():
        if (stated_value := _value(config, name)) != value:
            raise UserError(f"config: {name} is {stated_value}, but these weights and this code have {value}")
    kl = ("alpha", "beta_x", "beta_y", "beta_z", "free_nats_x", "free_nats_y", "free_nats_z", "beta_free_nats_x")
    return {
        "model.min_stddev": _value(config, "min_stddev"),
        **{f"model.{name}": _value(config, f"kl.{name}") for name in kl},
        **{f"policy.{name}": _value(config, name) for name in ("discount", "lambda_", "horizon")},
    }


def _value(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise UserError(f"config: {name} is missing")
        value = value[key]
    return value


class Source(NamedTuple):
    """The contents of a file."""

    weights: dict[str, np.ndarray]
    settings: dict[str, Any]  # by dotted name: those that the file decides, including shapes
    actions: int
    env_step: int


def read(path: Path) -> Source:
    """Reads an `.npz` or a `checkpoint_*.pth`.

    Raises:
        UserError: the file cannot be read, or is something else.
    """
    if path.suffix not in (".npz", ".pth"):
        raise UserError(f"{path} is neither an .npz nor a .pth")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        if path.suffix == ".pth":
            return _read_checkpoint(path)
        arrays = read_arrays(path)
        weights = weights_of(arrays)
        actions, settings = sizes(weights)
        if "config" in arrays:
            settings |= described(read_config(arrays), weights)
        return Source(weights, settings, actions, env_step=0)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns all arrays of an `.npz`.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        zipfile.ZipFile(path).close()  # np.load would accept other files too
        with np.load(path) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot be read: {one_line(error)}") from None


def weights_of(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns the arrays under `weight/` in an `.npz`."""
    return {name.removeprefix("weight/"): array for name, array in arrays.items() if name.startswith("weight/")}


def read_config(arrays: Arrays) -> dict[str, Any]:
    """Returns the `config` of an `.npz`.

    Raises:
        UserError: the config is missing, or not a JSON object.
    """
    if "config" not in arrays:
        raise UserError("config is missing")
    try:
        config = json.loads(str(arrays["config"]))
    except json.JSONDecodeError as error:
        raise UserError(f"config is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError("config is not a JSON object")
    return config


def _read_checkpoint(path: Path) -> Source:
    """Reads a file of the authors' `main.py`: state_dicts of world model and policy learner, among other things."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("a .pth needs PyTorch: pip install -e '.[reference]'") from None
    try:
        zipfile.ZipFile(path).close()  # a clearer error for other files than torch's
        with torch.serialization.safe_globals(_plain_data()):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise UserError(f"cannot be read: {one_line(error)}") from None
    try:
        tensors = saved["world_model"] | saved["policy_learning"]["module"]
        env_step = int(saved["num_env_steps"])
    except (KeyError, TypeError):
        raise UserError(
            "is not a checkpoint of the reference, which has world_model, policy_learning.module and num_env_steps"
        ) from None
    weights = {name: tensor.numpy() for name, tensor in tensors.items()}
    discounts = weights.pop("plan_horizon_discount", None)  # [horizon - 1, 1]: powers of the discount
    actions, settings = sizes(weights)
    if discounts is not None:
        settings |= {"policy.horizon": len(discounts) + 1, "policy.discount": round(float(discounts[1, 0]), 6)}
    return Source(weights, settings, actions, env_step)


def _plain_data() -> list[Any]:
    """Returns the types in their checkpoints beside tensors (metrics, random states), which torch does not trust."""
    kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64, np.uint32, np.bool_)]
    array, number = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    before_numpy_2 = [(array, "numpy.core.multiarray._reconstruct"), (number, "numpy.core.multiarray.scalar")]
    return [
        (_plain_dict, "collections.defaultdict"),
        list,
        np.ndarray,
        np.dtype,
        *kinds,
        array,
        number,
        *before_numpy_2,
    ]


def _plain_dict(_: type) -> dict[Any, Any]:
    """Replaces defaultdict, which torch's reader would not fill."""
    return {}


def save(source: Source, config: Config, *, imported_from: Path) -> Path:
    """Makes `config.run_dir` a run with one checkpoint, for evaluation and analysis; returns the checkpoint's folder.

    The run cannot resume, because the weights come without a replay and without Adam's moments.

    Raises:
        UserError: an entry is missing, left over or of another shape, or the folder is not free.
    """
    agent = Agent(config, source.actions)
    state = to_ours(source.weights, agent.create(jax.random.key(0)))
    folder = run_dir.claim(config)
    progress = {"env_step": source.env_step, "finished": True, "imported_from": str(imported_from)}
    return checkpoint.save(folder, source.env_step, (state, agent.initial(1)), progress, keep=1)
