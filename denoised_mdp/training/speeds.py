"""The working times of the actor and the learner, and the times in which each waits for the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal


class Speeds:
    """Seconds of acting, of learning, and of the actor's waiting for updates, since the last `metrics`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._seconds = {"acting": 0.0, "learning": 0.0, "waiting": 0.0}

    def acting(self) -> AbstractContextManager[None]:
        """Measures the actor's work."""
        return self._measure("acting")

    def learning(self) -> AbstractContextManager[None]:
        """Measures updates, in any thread."""
        return self._measure("learning")

    def waiting(self) -> AbstractContextManager[None]:
        """Measures the actor's wait for updates."""
        return self._measure("waiting")

    def metrics(self, updates: int) -> dict[str, float]:
        """Returns metrics of the updates since the last call, and of the acting meanwhile."""
        acting, learning, waiting = self._seconds.values()
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        total = acting + waiting
        return {
            "speed/updates_per_second": updates / learning,
            "speed/actor_waits": 100 * waiting / total,
            "speed/learner_waits": 100 * max(0.0, total - learning) / total,
        }

    @contextmanager
    def _measure(self, what: Literal["acting", "learning", "waiting"]) -> Iterator[None]:
        started = self._clock()
        yield
        self._seconds[what] += self._clock() - started
