"""The clean-pair test: a part without noise information does not move between several noises under one physics.

Shapes: P = physics, Q = noises, T = rows, D = features of a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.analysis.factorization.headline import Estimate
from denoised_mdp.analysis.posterior import filter_episode, present
from denoised_mdp.analysis.recordings import Recording
from denoised_mdp.model.protocol import WorldModel

RESAMPLES = 1000  # of physics


class Movement(NamedTuple):
    """The movement of a part: root mean squares over its dimensions, each in units of its spread."""

    by_noise: float  # between noises, under one physics
    by_physics: float  # between physics, under one noise
    noise_share: Estimate  # by_noise^2 / (by_noise^2 + by_physics^2): 0 is no noise, 1 is nothing but noise


def clean_pairs(world_model: WorldModel, pairs: Sequence[Sequence[Recording]], key: jax.Array) -> dict[str, Movement]:
    """Returns the movement of each part; an empty dict if no noise changes a picture.

    It compares whole episodes step by step, not single pictures, because a filter has a memory. All are filtered with
    one draw of the posterior's noise, so that equal pictures give equal latents.
    `pairs`: [P][Q], of at least two physics and two noises.
    """
    if not any(np.any(row[0].observation != other.observation) for row in pairs for other in row[1:]):
        return {}
    length = min(len(recording.reward) for row in pairs for recording in row)
    latents = [[filter_episode(world_model, r.observation, r.action, key).s for r in row] for row in pairs]
    return {
        name: movement(np.stack([[np.asarray(getattr(s, name).features)[:length] for s in row] for row in latents]))
        for name in present(latents[0][0])
    }


def movement(features: NDArray[np.floating]) -> Movement:
    """Returns the movement of features [P, Q, T, D]. The interval is over physics."""
    spread = features.std((0, 1, 2))
    moving = features[..., spread > 1e-6].astype(np.float64) / spread[spread > 1e-6]
    by_noise = np.array([_squared_distances(row).mean() for row in moving])  # [P]
    between = np.mean([_squared_distances(column) for column in np.swapaxes(moving, 0, 1)], axis=0)  # [P, P - 1]
    by_physics = between.mean(-1)
    rows = np.random.default_rng(0).integers(len(features), size=(RESAMPLES, len(features)))

    def share(noise: NDArray[np.float64], physics: NDArray[np.float64]) -> NDArray[np.float64]:
        return noise / np.maximum(noise + physics, 1e-12)

    low, high = np.percentile(share(by_noise[rows].mean(-1), by_physics[rows].mean(-1)), [2.5, 97.5])
    value = float(share(by_noise.mean(), by_physics.mean()))
    return Movement(by_noise.mean() ** 0.5, by_physics.mean() ** 0.5, Estimate(value, float(low), float(high)))


def _squared_distances(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean squared distances [K, K - 1] of each of K series [K, T, D] to every other."""
    others = [[j for j in range(len(series)) if j != i] for i in range(len(series))]
    return np.array([[np.mean((series[i] - series[j]) ** 2) for j in row] for i, row in enumerate(others)])
