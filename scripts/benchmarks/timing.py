"""Time beside the machine's matrix products: on a machine that does other things too, only their ratio means much."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Row

Result = TypeVar("Result")
PEAK_SIDES = {"cpu": (1024, 2048)}  # of square matrices; of two sizes the faster counts
PEAK_SIDES_OF_AN_ACCELERATOR = (4096, 8192)
PEAK_SECONDS = 0.2  # of matrix products, at least, for one measurement


class Time(NamedTuple):
    """Seconds of one execution."""

    wall: float
    cpu: float  # user and system, of all threads of this process


def timed(function: Callable[[], Result]) -> tuple[Time, Result]:
    """How long it takes until its result is there, and the result."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = jax.block_until_ready(function())
    return Time(time.perf_counter() - wall, time.process_time() - cpu), result


def spread(name: str, seconds: list[float], *, note: str = "") -> list[Row]:
    """The median of some durations, and their quartiles."""
    low, median, high = (float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
    return [
        Row(name, median, "s", note or f"median of {len(seconds)}"),
        Row(f"{name}_low", low, "s", "quartile"),
        Row(f"{name}_high", high, "s", "quartile"),
    ]


class MatmulPeak:
    """The fastest square matrix product in a precision, as a rate that can be measured again and again."""

    def __init__(self, precision: str):
        self._products = []
        for side in PEAK_SIDES.get(jax.default_backend(), PEAK_SIDES_OF_AN_ACCELERATOR):
            # Random, as a GPU multiplies equal numbers faster than any data; scaled so that no power overflows.
            a = (jax.random.normal(jax.random.key(0), (side, side)) * side**-0.5).astype(precision)
            product = jax.jit(jnp.matmul).lower(a, a).compile()
            flop = 2 * side**3
            once = min(timed(lambda p=product, a=a: p(a, a))[0].wall for _ in range(3))
            self._products.append((product, a, flop, max(1, round(PEAK_SECONDS / once))))

    def measure(self) -> Time:
        """Seconds for each FLOP, of wall and of CPU time."""
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
