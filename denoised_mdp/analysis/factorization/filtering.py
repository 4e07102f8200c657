"""Filters recordings with a model's posterior, and returns arrays for the measures.

Shapes: T = rows of an episode, E = episodes, N = their rows one after the other, D = width of a part's features.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.analysis.posterior import Filtered, filter_episode, present
from denoised_mdp.analysis.recordings import Recording
from denoised_mdp.model.protocol import WorldModel


def filter_all(world_model: WorldModel, recordings: Sequence[Recording], key: jax.Array) -> list[Filtered]:
    """Filters each recording, with its own draw of the posterior's noise."""
    return [
        filter_episode(world_model, recording.observation, recording.action, jax.random.fold_in(key, i))
        for i, recording in enumerate(recordings)
    ]


def part_features(filtered: Sequence[Filtered]) -> dict[str, NDArray[np.float32]]:
    """Returns the features [N, D] of each part of the model by name, and of all parts together as "all"."""
    parts = {
        name: np.concatenate([np.asarray(getattr(f.s, name).features) for f in filtered])
        for name in present(filtered[0].s)
    }
    return parts | {"all": np.concatenate(list(parts.values()), axis=-1)}


def mean_kl(filtered: Sequence[Filtered]) -> dict[str, float]:
    """Returns the KL of each part of the model, a mean over all rows, in nats per agent step."""
    return {
        name: float(np.mean(np.concatenate([np.asarray(getattr(f.kl, name)) for f in filtered])))
        for name in present(filtered[0].s)
    }


def episode_of_row(recordings: Sequence[Recording]) -> NDArray[np.int64]:
    """Returns the number [N] of each row's episode."""
    return np.repeat(np.arange(len(recordings)), [len(recording.reward) for recording in recordings])
