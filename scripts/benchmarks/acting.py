"""The speed of acting: a frame goes from the host to the device, is encoded and filtered, and an action comes back."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.table import Row
from benchmarks.timing import timed
from denoised_mdp.agent import Agent
from denoised_mdp.config import Config

ENVIRONMENTS = (1, 4, 16)
CALLS = 20  # in one measurement


def measure(config: Config, *, action_size: int, repeats: int) -> list[Row]:
    """Measures agent steps per second of all environments together, with exploration."""
    agent, key, size = Agent(config, action_size), jax.random.key(0), config.env.image_size
    parameters = agent.acting(agent.create(key))
    rows = []
    for count in ENVIRONMENTS:
        observation = np.zeros((count, size, size, 3), np.uint8)
        is_first = np.zeros(count, bool)

        def act(count=count, observation=observation, is_first=is_first):
            memory = agent.initial(count)
            for _ in range(CALLS):
                memory = agent.act(parameters, memory, observation, is_first, key, explore=True)
                np.asarray(memory.action)

        act()
        seconds = float(np.median([timed(act)[0].wall for _ in range(repeats)])) / CALLS
        rows.append(Row(f"environments_{count}", count / seconds, "agent steps/s", f"{1000 * seconds:.3g} ms a call"))
    return rows
