"""Who acts before there is a policy. Actions follow from the run's key and the env step, so that a resumed run goes on."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

HOLD = 10  # agent steps that a force is held for

Prefill = Callable[[jax.Array, int, int, tuple[int, int]], np.ndarray]


def uniform(key: jax.Array, env_step: int, stretch: int, shape: tuple[int, int]) -> np.ndarray:
    """Independent uniform actions [N, A] in [-1, 1]."""
    return np.asarray(jax.random.uniform(jax.random.fold_in(key, env_step), shape, minval=-1, maxval=1))


def mixed(key: jax.Array, env_step: int, stretch: int, shape: tuple[int, int]) -> np.ndarray:
    """In half of the stretches `uniform`; in the others each component [N, A] has full force, one way or the other.

    Uniform actions cancel out: what they move hardly leaves its place. `stretch`: env steps in one.
    """
    coin_key, sign_key = jax.random.split(jax.random.fold_in(key, env_step // stretch))
    held = jax.random.bernoulli(coin_key, shape=(shape[0], 1))
    force = jax.random.rademacher(sign_key, shape, jnp.float32)
    return np.where(held, force, uniform(key, env_step, stretch, shape))


PREFILLS: dict[str, Prefill] = {"uniform": uniform, "mixed": mixed}
