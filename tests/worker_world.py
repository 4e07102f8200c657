"""A small environment that worker processes make in the tests: a dot that walks, in episodes of random length."""

import os
import signal
import sys
from typing import Any

import dm_env
import numpy as np
from dm_env import specs


class Dot(dm_env.Environment):
    """Its place changes by a tenth of the action. `ending`: what becomes of the process at the third step."""

    factor_kinds = {"place": "controlled_rewarded"}  # noqa: RUF012  as the page of custom environments has it

    def __init__(self, random: np.random.RandomState, ending: str = ""):
        if ending == "make":
            raise ZeroDivisionError("made of nothing")
        self._random, self._ending = random, ending
        self._place = self._left = 0.0

    def reset(self) -> dm_env.TimeStep:
        self._place, self._left = self._random.uniform(-1, 1), self._random.randint(5, 12)
        self._t = 0
        return dm_env.restart(self._picture())

    def step(self, action: Any) -> dm_env.TimeStep:
        self._t += 1
        if self._t == 3 and self._ending:
            {"raise": lambda: 1 / 0, "exit": lambda: os._exit(3), "kill": _kill}[self._ending]()
        self._place += 0.1 * float(action[0])
        self._left -= 1
        make = dm_env.transition if self._left > 0 else dm_env.truncation
        return make(reward=self._place, observation=self._picture())

    def _picture(self) -> np.ndarray:
        return np.full((64, 64, 3), int(128 + 20 * self._place) % 256, np.uint8)

    def factors(self) -> dict[str, Any]:
        return {"place": np.float64(self._place)}

    def action_spec(self) -> specs.BoundedArray:  # type: ignore[override]
        return specs.BoundedArray((1,), np.float64, -1, 1)

    def observation_spec(self) -> specs.Array:  # type: ignore[override]
        return specs.Array((64, 64, 3), np.uint8)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def make(random: np.random.RandomState, ending: str = "") -> Dot:
    """The constructor."""
    return Dot(random, ending)


def make_without_jax(random: np.random.RandomState) -> Dot:
    """In a process that has jax, it is an error."""
    assert "jax" not in sys.modules
    return Dot(random)
