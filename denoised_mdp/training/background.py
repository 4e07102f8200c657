"""Blocks of updates and the actor: one after the other, or side by side, and how long each waits for the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

Result = TypeVar("Result")


def two_at_most(under_way: Iterator[Result]) -> Iterator[Result]:
    """What a jitted function returns while the device still works, of so many calls at a time.

    Drawing the batches of the next call so takes no time. Without a limit, as many batches would wait in memory as the
    device is slower than the sampling.
    """
    before = None
    for result in under_way:
        jax.block_until_ready(before)
        before = result
        yield result


def copied(tree: Any) -> Any:
    """The arrays of a pytree on the CPU, in memory of their own.

    An accelerator computes one thing after another, so that there an actor would wait for updates at every step.
    """
    return jax.device_put(tree, jax.local_devices(backend="cpu")[0], may_alias=False)


class Blocks:
    """One block of updates at a time.

    Args:
        beside: compute it in a thread, while the caller goes on acting; else here, before `begin` returns. (On a CPU
            too it takes another thread: what one thread asks of a device is computed in that order.)
    """

    def __init__(self, *, beside: bool, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="updates") if beside else None
        self._block: Future | None = None
        self._acted = self._waited = self._learned = 0.0  # seconds since `speeds`

    @property
    def under_way(self) -> bool:
        """Whether a block has begun that nobody has waited for."""
        return self._block is not None

    def begin(self, block: Callable[[], Any]) -> None:
        """Starts a block. Nothing that it changes may be touched before `end`."""
        if self._thread is not None:
            self._block = self._thread.submit(self._timed, block)
            return
        done = Future()
        with self._watch_waiting():
            done.set_result(self._timed(block))
        self._block = done

    def end(self) -> Any:
        """Waits for the block that is under way, and returns what it returned or raises what it raised."""
        assert self._block is not None, "no block has begun"
        block, self._block = self._block, None
        with self._watch_waiting():
            return block.result()

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Around what the actor does."""
        started = self._clock()
        yield
        self._acted += self._clock() - started

    def speeds(self, updates: int) -> dict[str, float]:
        """Metrics of the last block, of so many updates, and of what was acted since the one before."""
        total = self._acted + self._waited
        speeds = {
            "speed/updates_per_second": updates / self._learned,
            "speed/actor_waits": 100 * self._waited / total,
            "speed/learner_waits": 100 * max(0.0, total - self._learned) / total,
        }
        self._acted = self._waited = self._learned = 0.0
        return speeds

    def close(self) -> None:
        """Waits until the thread is done."""
        if self._thread is not None:
            self._thread.shutdown()

    def _timed(self, block: Callable[[], Any]) -> Any:
        started = self._clock()
        result = jax.block_until_ready(block())
        self._learned += self._clock() - started
        return result

    @contextmanager
    def _watch_waiting(self) -> Iterator[None]:
        started = self._clock()
        yield
        self._waited += self._clock() - started
