"""Chunks of updates one after another: while the device computes one, the next is sampled and sent to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax

State = TypeVar("State")


def run_chunks(
    state: State,
    sample: Callable[[], Any],
    update: Callable[[State, Any], tuple[State, dict[str, Any]]],
    *,
    chunks: int,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[State, list[dict[str, Any]]]:
    """The state after so many chunks, fewer if `stopped` says so between two, and the metrics of each.

    A jitted `update` returns while the device still works. That is left to overlap with drawing the next batches, but
    not further: without a limit, as many batches wait in memory as the device is slower than the sampling. So the
    batches of two chunks are there at most, and no more is drawn from a generator than has been learned from.
    """
    metrics: list[dict[str, Any]] = []
    while len(metrics) < chunks and not stopped():
        state, found = update(state, sample())
        jax.block_until_ready(metrics[-1:])
        metrics.append(found)
    return state, metrics
