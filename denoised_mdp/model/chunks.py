"""Means over a long axis, chunk by chunk: on a CPU the arrays of one chunk stay in the cache and are then freed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def mean_over_chunks(
    function: Callable[..., tuple[Any, Any]], arrays: tuple[Any, ...], axes: tuple[int, ...], *, at_a_time: int
) -> tuple[Any, Any]:
    """Applies a function to N items along `axes` of `arrays`, chunk by chunk; returns its mean and its rows [N, ...].

    function: chunks of the arrays -> (a mean over items, rows with one item each, or None). The mean over all items is
    exact. Only a CPU uses several chunks: equal ones of at most `at_a_time` items, the largest size that divides N.
    """
    count = jax.tree.leaves(arrays[0])[0].shape[axes[0]]
    size = max(n for n in range(1, min(count, at_a_time) + 1) if count % n == 0)
    if jax.default_backend() != "cpu" or 4 * size < at_a_time or size == count:
        return function(*arrays)

    def cut(array: jax.Array, axis: int) -> jax.Array:
        chunks = array.reshape(*array.shape[:axis], count // size, size, *array.shape[axis + 1 :])
        return jnp.moveaxis(chunks, axis, 0)

    def one(total, some):
        mean, rows = function(*some)
        return jax.tree.map(jnp.add, total, mean), rows

    chunks = tuple(jax.tree.map(lambda v, i=i: cut(v, i), tree) for tree, i in zip(arrays, axes, strict=True))
    shapes, _ = jax.eval_shape(function, *jax.tree.map(lambda v: v[0], chunks))
    total, rows = jax.lax.scan(one, jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes), chunks)
    mean = jax.tree.map(lambda v: v * (size / count), total)
    return mean, jax.tree.map(lambda v: v.reshape(count, *v.shape[2:]), rows)
