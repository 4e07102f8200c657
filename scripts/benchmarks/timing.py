"""Times against the machine's own matrix products: on a busy machine, only their ratio is meaningful."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Row

Result = TypeVar("Result")
PEAK_SIDES = {"cpu": (1024, 2048)}  # of square matrices; the faster of two sizes counts
PEAK_SIDES_OF_AN_ACCELERATOR = (4096, 8192)
PEAK_SECONDS = 0.2  # duration of one measurement, at least


class Time(NamedTuple):
    """Seconds of one execution."""

    wall: float
    cpu: float  # user and system, of all threads of this process


def timed(function: Callable[[], Result]) -> tuple[Time, Result]:
    """Returns the time until a function's result is ready, and the result."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = jax.block_until_ready(function())
    return Time(time.perf_counter() - wall, time.process_time() - cpu), result


def spread(name: str, seconds: list[float], *, note: str = "") -> list[Row]:
    """Returns the median of some durations, and their quartiles."""
    low, median, high = (float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
    return [
        Row(name, median, "s", note or f"median of {len(seconds)}"),
        Row(f"{name}_low", low, "s", "quartile"),
        Row(f"{name}_high", high, "s", "quartile"),
    ]


class MatmulPeak:
    """The fastest square matrix product in a precision; its rate can be measured again and again."""

    def __init__(self, precision: str):
        self._products = []
        for side in PEAK_SIDES.get(jax.default_backend(), PEAK_SIDES_OF_AN_ACCELERATOR):
            # Random, because a GPU multiplies equal numbers faster; scaled so that no power overflows.
            a = (jax.random.normal(jax.random.key(0), (side, side)) * side**-0.5).astype(precision)
            product = jax.jit(jnp.matmul).lower(a, a).compile()
            flop = 2 * side**3
            once = min(timed(lambda p=product, a=a: p(a, a))[0].wall for _ in range(3))
            self._products.append((product, a, flop, max(1, round(PEAK_SECONDS / once))))

    def measure(self) -> Time:
        """Returns seconds per FLOP, in wall and CPU time."""
        rates = []
        for product, a, flop, count in self._products:

            def chain(product=product, a=a, count=count):
                result = a
                for _ in range(count):
                    result = product(result, a)
                return result

            taken, _ = timed(chain)
            rates.append(Time(taken.wall / (flop * count), taken.cpu / (flop * count)))
        return Time(min(rate.wall for rate in rates), min(rate.cpu for rate in rates))
