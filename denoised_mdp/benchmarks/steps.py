"""What each fast form of an update gains on a CPU: they are taken out one after another, from the last to the first."""

from __future__ import annotations

import functools
import sys
from contextlib import ExitStack
from typing import Any
from unittest import mock

import jax
import numpy as np

from denoised_mdp import actor_critic, convolutions, reconstruction
from denoised_mdp.agent import Agent
from denoised_mdp.benchmarks.table import Row
from denoised_mdp.benchmarks.timing import timed
from denoised_mdp.benchmarks.update import random_batches
from denoised_mdp.config import Config

TAKEN_OUT: dict[str, tuple[Any, str, Any]] = {  # name -> what is set to what
    "all_pictures_decoded_at_once": (reconstruction, "PICTURES_AT_A_TIME", sys.maxsize),
    "all_roll_outs_at_once": (actor_critic, "ROLLOUTS_IN_CACHE", sys.maxsize),
    "all_patches_at_once": (convolutions, "CACHE_BYTES", sys.maxsize),
    "plain_convolutions": (convolutions, "_on_cpu", lambda: False),
}


def measure(config: Config, *, action_size: int, repeats: int) -> list[Row]:
    """CPU seconds and temporary memory of an update with all fast forms, then without one more of them each time."""
    rows = _update(config, "as_it_is", action_size, repeats)
    with ExitStack() as changes:
        for name, (module, attribute, value) in TAKEN_OUT.items():
            changes.enter_context(mock.patch.object(module, attribute, value))
            rows += _update(config, name, action_size, repeats)
    return rows


def _update(config: Config, name: str, action_size: int, repeats: int) -> list[Row]:
    agent, key = Agent(config, action_size), jax.random.key(0)
    batches = jax.device_put(random_batches(config, action_size, 1))
    state = agent.create(key)
    program = agent.train_chunk.lower(state, batches, key).compile()
    seconds = []
    for _ in range(1 + repeats):
        taken, (state, _) = timed(functools.partial(program, state, batches, key))
        seconds.append(taken.cpu)
    memory = program.memory_analysis()
    return [
        Row(name, float(np.median(seconds[1:])), "s", f"of CPU time, median of {repeats}"),
        Row(f"{name}_memory", memory and memory.temp_size_in_bytes / 2**30, "GiB", "temporary"),
    ]
