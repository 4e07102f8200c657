"""Counterfactual pictures: parts swapped between episodes, one dimension varied, x imagined under other actions.

Shapes: T = rows of an episode, H W = image, A = action, V = values, S = width of a state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.analysis.posterior import filter_episode, information
from denoised_mdp.analysis.visualize import decode, predict
from denoised_mdp.errors import UserError, one_line
from denoised_mdp.model.latent import Factor, Latent
from denoised_mdp.model.protocol import WorldModel

REACH = 3.0  # standard deviations to each side, in a walk


class Seen(NamedTuple):
    """The pictures and actions of an episode."""

    observation: NDArray[np.uint8]  # [T, H, W, 3]
    action: NDArray[np.float32]  # [T, A]


def swap(a: Latent[Factor], b: Latent[Factor], parts: Collection[str]) -> tuple[Latent[Factor], Latent[Factor]]:
    """Returns `a` with the named parts of `b`, and `b` with those of `a`; both [T, ...], step by step."""
    of_a, of_b = ({name: getattr(s, name) for name in parts} for s in (a, b))
    return a._replace(**of_b), b._replace(**of_a)


def walk(s: Latent[Factor], part: str, dimension: int, values: jax.Array) -> Latent[Factor]:
    """Sets one dimension of a part's state to each of `values` [V] in one latent [...]: latents [V, ...]."""
    copies = jax.tree.map(lambda v: jnp.broadcast_to(v, (len(values), *v.shape)), s)
    factor: Factor = getattr(copies, part)
    return copies._replace(**{part: factor._replace(state=factor.state.at[:, dimension].set(values))})


def imagine(world_model: WorldModel, s: Latent[Factor], action: jax.Array, key: jax.Array) -> Latent[Factor]:
    """Predicts x from one latent [...] under actions [T, A], by the prior; other parts do not change: [T, ...]."""
    x = predict(world_model, s, action, key).x  # in the graph it depends on x and the actions alone
    return jax.tree.map(lambda v: jnp.broadcast_to(v, (len(action), *v.shape)), s)._replace(x=x)


def swap_rows(
    world_model: WorldModel, a: Seen, b: Seen, parts: Collection[str], key: jax.Array
) -> dict[str, NDArray[np.uint8]]:
    """Returns rows of pictures [T, H, W, 3] by title: two episodes, and each with parts of the other at the same step.

    Raises:
        UserError: the model has no such part.
    """
    length = min(len(a.action), len(b.action))
    of_a, of_b = (
        filter_episode(world_model, *_cut(seen, length), jax.random.fold_in(key, i)).s for i, seen in enumerate((a, b))
    )
    _check(of_a, parts)
    named = " and ".join(parts)
    with_b, with_a = swap(of_a, of_b, parts)
    return {
        "episode A": a.observation[:length],
        "episode B": b.observation[:length],
        f"A with {named} of B": np.asarray(decode(world_model, with_b)),
        f"B with {named} of A": np.asarray(decode(world_model, with_a)),
    }


def walk_rows(
    world_model: WorldModel,
    seen: Seen,
    part: str,
    key: jax.Array,
    *,
    dimensions: Sequence[int] | None = None,
    at: int | None = None,
    steps: int = 9,
) -> tuple[dict[str, NDArray[np.uint8]], list[str]]:
    """Returns rows of pictures [V, H, W, 3] by title, one per varied dimension, and a label per picture, V = `steps`.

    A dimension goes from -3 to 3 standard deviations around its mean over the episode; all else is as in row `at` (the
    middle one if None). dimensions: of the part's state; the six with the most information if None.

    Raises:
        UserError: the model has no such part or dimension, or `at` lies outside the episode.
    """
    s = filter_episode(world_model, *seen, key).s
    _check(s, part)
    at = len(seen.action) // 2 if at is None else at
    if not at < len(seen.action):
        raise UserError(f"the walk cannot begin in row {at}: the episode has {len(seen.action)} rows")
    state = getattr(s, part).state
    nats = np.asarray(getattr(information(world_model, *seen, key), part))
    chosen = np.argsort(-nats)[:6].tolist() if dimensions is None else list(dimensions)
    if beyond := [d for d in chosen if d >= len(nats)]:
        raise UserError(f"{part} has no dimension {beyond[0]}, only 0 to {len(nats) - 1}")
    deviations = jnp.linspace(-REACH, REACH, steps)
    here = jax.tree.map(lambda v: v[at], s)
    rows = {
        f"{part}[{d}], {nats[d]:.2f} nats": np.asarray(
            decode(world_model, walk(here, part, d, state[:, d].mean() + deviations * state[:, d].std()))
        )
        for d in chosen
    }
    return rows, [f"{deviation:+.1f} sd" for deviation in deviations.tolist()]


def imagine_rows(
    world_model: WorldModel, seen: Seen, plans: Mapping[str, NDArray[np.float32]], context: int, key: jax.Array
) -> dict[str, NDArray[np.uint8]]:
    """Returns rows of pictures [T', H, W, 3] by title: the episode after `context` rows, and x under each plan [T', A].

    All begin in the same latent, and the noise parts stay as they are there. The shortest plan decides T'.

    Raises:
        UserError: `context` leaves nothing of the episode, or a plan has another number of actions.
    """
    if not 0 < context < len(seen.action):
        raise UserError(f"context is {context}, but the episode has {len(seen.action)} rows")
    for name, plan in plans.items():
        if plan.ndim != 2 or plan.shape[1] != seen.action.shape[1] or not len(plan):
            raise UserError(f"the actions {name} have the shape {plan.shape}, not [T, {seen.action.shape[1]}]")
    length = min(len(seen.action) - context, *(len(plan) for plan in plans.values()))
    infer_key, imagine_key = jax.random.split(key)
    s = jax.tree.map(lambda v: v[context - 1], filter_episode(world_model, *_cut(seen, context), infer_key).s)
    ahead = {name: imagine(world_model, s, jnp.asarray(plan[:length]), imagine_key) for name, plan in plans.items()}
    return {"what happened": seen.observation[context : context + length]} | {
        f"x under {name} actions": np.asarray(decode(world_model, latents)) for name, latents in ahead.items()
    }


def actions(name: str, recorded: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns actions [T, A] by name: `recorded` [T, A], zero, reversed (the recorded ones, negated), or a .npy file.

    Raises:
        UserError: the name is none of these, or the file holds no array.
    """
    choices = {"recorded": recorded, "zero": np.zeros_like(recorded), "reversed": -recorded}
    if name in choices:
        return choices[name]
    if not name.endswith(".npy"):
        raise UserError(f"imagine={name} is neither {', '.join(choices)} nor a .npy file")
    try:
        return np.load(name, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"imagine={name} cannot be read: {one_line(error)}") from error


def _cut(seen: Seen, length: int) -> Seen:
    return Seen(seen.observation[:length], seen.action[:length])


def _check(s: Latent[Factor], parts: Collection[str]) -> None:
    for name in parts:
        if not getattr(s, name).state.shape[-1]:
            raise UserError(f"this model has no {name}")
