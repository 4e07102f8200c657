"""The influence of the action on each latent part, and of each part on the predicted reward.

Shapes: N = rows of all episodes, T = rows of one episode, A = action, M = candidate actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict
from threadpoolctl import threadpool_limits

from denoised_mdp.analysis.factorization.probes import RIDGE, whole_repeats
from denoised_mdp.analysis.posterior import Filtered, present
from denoised_mdp.analysis.recordings import Recording
from denoised_mdp.model.latent import Factor, Latent
from denoised_mdp.model.protocol import WorldModel

CANDIDATES = 8


@jax.jit
def controllability(world_model: WorldModel, s: Latent[Factor], candidates: jax.Array) -> Latent[jax.Array]:
    """Returns the share of the action in the variance of each part's one-step prediction, between 0 and 1.

    s: latents [N, ...]; candidates: actions [M, N, A], all tried from each latent. By the graph the share is 0 for y.
    It is 0 too for a part that the model does not have, or whose prediction never varies.
    """
    transition = world_model.transition
    no_noise = jax.tree.map(jnp.zeros_like, Latent(*(part.state for part in s)))
    ahead = jax.vmap(lambda action: transition.imagine_step(s, action, no_noise))(candidates)

    def share(part: Factor) -> jax.Array:
        within = jnp.sum(jnp.var(part.features, axis=0).mean(0))
        total = jnp.sum(jnp.var(part.features, axis=(0, 1)))
        return within / jnp.maximum(total, 1e-12)

    return Latent(*(share(part) for part in ahead))


@threadpool_limits.wrap(limits=1)
def action_gain(filtered: Sequence[Filtered], recordings: Sequence[Recording], repeats: int) -> dict[str, float]:
    """Returns the gain in R^2 from the action, for a linear prediction of each part's next posterior from its last.

    This measures the model's inference, not its graph: it detects a y that follows the robot. The prediction is
    cross-validated as the probes are.
    """
    action = np.concatenate([recording.action[1:] for recording in recordings])
    episode = np.repeat(np.arange(len(recordings)), [len(recording.action) - 1 for recording in recordings])
    folds = whole_repeats(episode, repeats)

    def r_squared(inputs: NDArray[np.floating], outputs: NDArray[np.floating]) -> float:
        predicted = cross_val_predict(Ridge(alpha=RIDGE * len(inputs)), inputs, outputs, cv=folds)
        return float(1 - ((outputs - predicted) ** 2).sum() / ((outputs - outputs.mean(0)) ** 2).sum())

    gains = {}
    for name in present(filtered[0].s):
        rows = [np.asarray(getattr(f.s, name).features, np.float64) for f in filtered]
        before = np.concatenate([features[:-1] for features in rows])
        after = np.concatenate([features[1:] for features in rows])
        gains[name] = r_squared(np.concatenate([before, action], axis=-1), after) - r_squared(before, after)
    return gains


def random_actions(key: jax.Array, rows: int, action_size: int) -> jax.Array:
    """Returns uniform candidate actions [M, N, A] for `controllability`."""
    return jax.random.uniform(key, (CANDIDATES, rows, action_size), minval=-1, maxval=1)


@jax.jit
def reward_heads(world_model: WorldModel, s: Latent[Factor]) -> tuple[jax.Array, jax.Array]:
    """Returns each head's prediction of the reward, [N] from x and [N] from y; z has none."""
    of_x = world_model.x_reward(s.x)
    return of_x, world_model.reward(s.x, s.y) - of_x


def reward_relevance(
    world_model: WorldModel, filtered: Sequence[Filtered], recordings: Sequence[Recording]
) -> dict[str, float | None]:
    """Returns the share of the reward's variance that each head explains alone, and both; None if it never varies.

    A constant offset in a head does not count. A constant head explains 0; a wrong one less.
    """
    reward = np.concatenate([recording.reward[1:] for recording in recordings])
    heads = [reward_heads(world_model, f.s) for f in filtered]
    x_head, y_head = (np.concatenate([np.asarray(head[i])[1:] for head in heads]) for i in (0, 1))

    def explained(predicted: NDArray[np.floating]) -> float | None:
        return float(1 - np.var(reward - predicted) / np.var(reward)) if np.var(reward) > 1e-12 else None

    by_part = {"x": explained(x_head)}
    if world_model.reward_y is not None:
        by_part["y"] = explained(y_head)
    return by_part | {"all": explained(x_head + y_head)}
