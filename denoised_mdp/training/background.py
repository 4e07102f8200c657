"""Updates beside collecting (`train.staleness=1`)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from denoised_mdp.runs.replay import Replay
from denoised_mdp.training.learner import AgentSnapshot, Learner, Made


def copied_to_cpu(tree: Any) -> Any:
    """Copies the arrays of a pytree to the CPU, into memory of their own.

    An accelerator runs one program after another, so an actor there would wait for updates at every step.
    """
    return jax.device_put(tree, jax.local_devices(backend="cpu")[0], may_alias=False)


class BackgroundLearner:
    """Runs the updates of another learner in a thread, while the caller acts with its last published parameters.

    (A CPU needs the other thread too: a device runs the programs of one thread in order.)
    """

    def __init__(self, learner: Learner):
        self._learner = learner
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="updates")
        self._block: Future[Made] | None = None
        self._next: tuple[Mapping[int, int], Mapping[int, Replay]] = {}, {}
        self.in_flight: Mapping[int, int] = {}

    def learn(self, owed: Mapping[int, int], contents: Mapping[int, Replay]) -> Made:
        """Waits for the updates in flight and returns them; the new ones begin at the next `publish_parameters`."""
        self._next = owed, contents
        block, self._block, self.in_flight = self._block, None, {}
        return {} if block is None else block.result()

    def publish_parameters(self) -> None:
        """Lets `act` use the parameters learned so far, and starts the next updates.

        They sample from the replays' present contents.
        """
        self._learner.publish_parameters()
        (owed, contents), self._next = self._next, ({}, {})
        if owed:
            snapshots = {seed: replay.snapshot() for seed, replay in contents.items()}
            self.in_flight = owed
            self._block = self._thread.submit(self._learner.learn, owed, snapshots)

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """See `Learner`."""
        return self._learner.act(observation, is_first, env_step)

    def snapshot(self, seed: int) -> AgentSnapshot:
        """See `Learner`."""
        return self._learner.snapshot(seed)

    def close(self) -> None:
        """Waits until the thread is done."""
        self._thread.shutdown()
