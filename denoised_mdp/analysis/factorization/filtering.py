"""Recordings through a model's posterior, as arrays that the measures take.

Shapes: T = rows of an episode, E = episodes, N = their rows one after the other, D = width of a part's features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.analysis.recordings import Recording
from denoised_mdp.model.latent import Factor, Latent
from denoised_mdp.model.protocol import WorldModel


class Filtered(NamedTuple):
    """What a model makes of one episode."""

    s: Latent[Factor]  # [T, ...], a sample of the posterior
    kl: Latent[jax.Array]  # [T], of each part in nats


@jax.jit
def filter_episode(world_model: WorldModel, observation: jax.Array, action: jax.Array, key: jax.Array) -> Filtered:
    """Filters [T, H, W, 3] uint8 and [T, A]. One key is one draw of the posterior's noise, whatever is observed.

    A sample, not the mean: that is what policy and decoder see, and a part that has collapsed still has a mean in which
    a probe might read what is drowned in the noise of every sample.
    """
    first = jnp.zeros((len(action), 1), bool)
    noise = world_model.transition.noise(key, first.shape)
    s, q, p = world_model.observe(observation[:, None], action[:, None], first, noise)
    kl = Latent(*(q_i.kl(p_i) for q_i, p_i in zip(q, p, strict=True)))
    return jax.tree.map(lambda v: v[:, 0], Filtered(s, kl))


def filter_all(world_model: WorldModel, recordings: Sequence[Recording], key: jax.Array) -> list[Filtered]:
    """Filters each recording, with a draw of its own."""
    return [
        filter_episode(world_model, recording.observation, recording.action, jax.random.fold_in(key, i))
        for i, recording in enumerate(recordings)
    ]


def present(s: Latent[Factor]) -> list[str]:
    """The names of the parts that a model has."""
    return [name for name in Latent._fields if getattr(s, name).state.shape[-1]]


def part_features(filtered: Sequence[Filtered]) -> dict[str, NDArray[np.float32]]:
    """The features [N, D] of each part that is there, by name, and under "all" of all of them together."""
    parts = {
        name: np.concatenate([np.asarray(getattr(f.s, name).features) for f in filtered])
        for name in present(filtered[0].s)
    }
    return parts | {"all": np.concatenate(list(parts.values()), axis=-1)}


def mean_kl(filtered: Sequence[Filtered]) -> dict[str, float]:
    """The mean over all rows of the KL of each part that is there, nats per agent step."""
    return {
        name: float(np.mean(np.concatenate([np.asarray(getattr(f.kl, name)) for f in filtered])))
        for name in present(filtered[0].s)
    }


def episode_of_row(recordings: Sequence[Recording]) -> NDArray[np.int64]:
    """[N], the number of the episode that a row belongs to."""
    return np.repeat(np.arange(len(recordings)), [len(recording.reward) for recording in recordings])
