"""Noise of the exploring policy that is correlated in time."""

from __future__ import annotations

import jax

OCTAVES = 5  # the slowest is held for 16 agent steps


def pink(key: jax.Array, agent_step: int | jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws standard normals whose power falls with their frequency, from the key and the step alone.

    They are sums of octaves, of which number i is held for 2^i steps (the algorithm of Voss). Independent noise cancels
    out before a robot has moved. Eberhard et al. 2023 ("Pink noise is all you need") explore with such noise.
    """
    held = [
        jax.random.normal(jax.random.fold_in(octave, agent_step >> i), shape)
        for i, octave in enumerate(jax.random.split(key, OCTAVES))
    ]
    return sum(held[1:], start=held[0]) / OCTAVES**0.5
