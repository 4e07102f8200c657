"""The error of the reconstruction on the robot and off it, with some parts of the latent state frozen.

Shapes: T = rows of an episode, H W = image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from denoised_mdp.analysis.posterior import Filtered, present
from denoised_mdp.analysis.recordings import Recording
from denoised_mdp.analysis.visualize import freeze
from denoised_mdp.model.latent import NOISE_PARTS, Factor, Latent
from denoised_mdp.model.protocol import WorldModel
from denoised_mdp.model.reconstruction import pixels

ON, OFF = "on_robot", "off_robot"


@jax.jit
def squared_error(world_model: WorldModel, s: Latent[Factor], observation: jax.Array) -> jax.Array:
    """Returns the squared error [T, H, W] of decoded pictures, a mean over the channels; black to white is 1."""
    return jnp.mean((pixels(observation) - world_model.decode(s)) ** 2, axis=-1)


def reconstruction(
    world_model: WorldModel, filtered: Sequence[Filtered], recordings: Sequence[Recording]
) -> dict[str, dict[str, float]] | None:
    """Returns mean squared errors on the robot and off it, by the moving parts; None without masks of the robot.

    Frozen parts stay as they are in the middle of the episode: `all` is the full reconstruction, `x` alone and `noise`
    (y and z) alone show the contribution of each, `nothing` is the error of a still picture. `x_share` and
    `noise_share` are the reductions of that error, as shares of the reduction by the full reconstruction.
    """
    if any(recording.robot is None for recording in recordings):
        return None
    noise = [name for name in present(filtered[0].s) if name in NOISE_PARTS]
    frozen = {"all": [], "x": noise, "noise": ["x"], "nothing": ["x", *noise]}
    sums = {name: np.zeros(2) for name in frozen}
    counts = np.zeros(2)
    for f, recording in zip(filtered, recordings, strict=True):
        robot = recording.robot
        assert robot is not None
        counts += robot.sum(), (~robot).sum()
        for name, parts in frozen.items():
            error = np.asarray(
                squared_error(world_model, freeze(f.s, parts, len(robot) // 2), recording.observation), np.float64
            )
            sums[name] += error[robot].sum(), error[~robot].sum()
    result: dict[str, dict[str, Any]] = {}
    for place, i in ((ON, 0), (OFF, 1)):
        errors = {name: float(total[i] / max(counts[i], 1)) for name, total in sums.items()}
        gained = errors["nothing"] - errors["all"]
        shares = {f"{name}_share": (errors["nothing"] - errors[name]) / gained for name in ("x", "noise")}
        result[place] = errors | (shares if gained > 0 else {})
    return result
