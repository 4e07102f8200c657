"""The working times of the actor and the learner, the times in which each waits for the other, and what a run costs."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal


class Speeds:
    """Seconds of acting, of learning, of the actor's waiting for updates, and of processors, since the last `metrics`.

    Both clocks return seconds; `cpu_clock` counts those of all threads of this process, workers not included.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, cpu_clock: Callable[[], float] = time.process_time
    ):
        self._clock, self._cpu_clock = clock, cpu_clock
        self._cpu_seconds = cpu_clock()  # up to the last `metrics`
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
        cpu_seconds, self._cpu_seconds = self._cpu_seconds, self._cpu_clock()
        return {
            "speed/updates_per_second": updates / learning,
            "speed/actor_waits": 100 * waiting / total,
            "speed/learner_waits": 100 * max(0.0, total - learning) / total,
            "speed/cpu_seconds": self._cpu_seconds - cpu_seconds,
            "speed/memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    @contextmanager
    def _measure(self, what: Literal["acting", "learning", "waiting"]) -> Iterator[None]:
        started = self._clock()
        yield
        self._seconds[what] += self._clock() - started
