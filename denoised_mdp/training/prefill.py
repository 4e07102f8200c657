"""Random policies of the prefill. Actions depend on key and env step alone, so a resumed run continues them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

HOLD = 10  # agent steps that a force is held for
LENGTHS = (2, 4, 8, 16)  # agent steps that a varied force is held for
LONGEST = max(LENGTHS)

Prefill = Callable[[jax.Array, int, int, tuple[int, int]], np.ndarray]


def uniform(key: jax.Array, env_step: int, stretch: int, shape: tuple[int, int]) -> np.ndarray:
    """Draws independent uniform actions [N, A] in [-1, 1]."""
    return np.asarray(jax.random.uniform(jax.random.fold_in(key, env_step), shape, minval=-1, maxval=1))


def held(key: jax.Array, env_step: int, stretch: int, shape: tuple[int, int]) -> np.ndarray:
    """Draws full force of either sign in every component [N, A], for a `stretch` of env steps.

    Uniform actions cancel out: a robot hardly moves from its place.
    """
    return np.asarray(jax.random.rademacher(jax.random.fold_in(key, env_step // stretch), shape, np.float32))


def varied(key: jax.Array, env_step: int, stretch: int, shape: tuple[int, int]) -> np.ndarray:
    """Draws a random force in every component [N, A], full half of the time, held for 2, 4, 8 or 16 agent steps.

    Slow forces move a robot far, fast ones excite its short motions: the model sees both.
    """
    agent_step = env_step * HOLD // stretch
    block = jax.random.fold_in(key, agent_step // LONGEST)
    length = int(jax.random.choice(block, np.array(LENGTHS)))
    force = jax.random.uniform(
        jax.random.fold_in(block, 1 + agent_step % LONGEST // length), shape, minval=-2, maxval=2
    )
    return np.clip(force, -1, 1)


PREFILLS: dict[str, Prefill] = {"uniform": uniform, "held": held, "varied": varied}
