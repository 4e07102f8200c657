"""Who acts before there is a policy. Actions follow from key and env step: a resumed run goes on with them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

HOLD = 10  # agent steps that a force is held for

Prefill = Callable[[jax.Array, int, int, tuple[int, int]], np.ndarray]


def uniform(key: jax.Array, env_step: int, stretch: int, shape: tuple[int, int]) -> np.ndarray:
    """Independent uniform actions [N, A] in [-1, 1]."""
    return np.asarray(jax.random.uniform(jax.random.fold_in(key, env_step), shape, minval=-1, maxval=1))


def held(key: jax.Array, env_step: int, stretch: int, shape: tuple[int, int]) -> np.ndarray:
    """Full force in every component [N, A], one way or the other, for a `stretch` of env steps.

    Uniform actions cancel out: what they move hardly leaves its place.
    """
    return np.asarray(jax.random.rademacher(jax.random.fold_in(key, env_step // stretch), shape, np.float32))


PREFILLS: dict[str, Prefill] = {"uniform": uniform, "held": held}
