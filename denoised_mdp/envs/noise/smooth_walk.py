"""The smooth random walk of a shaking camera (Appendix B.1.1 calls it jitter; the numbers are those of the code)."""

from __future__ import annotations

import numpy as np

RADIUS = 0.075  # beyond this distance from the origin the walk is pulled back
_PULL = 0.1  # acceleration towards the origin, per unit of distance
_ACCELERATION = 0.005  # standard deviation per axis, of the acceleration inside and of the first velocity
_DECAY = 0.9  # of the velocity in a unit of time
_TIME = 0.5  # units of time in a step


class SmoothWalk:
    """A point with inertia and random pushes that stays roughly within RADIUS of the origin.

    Attributes:
        position: [D]; the origin before the first `restart`.
    """

    def __init__(self, dimensions: int, rng: np.random.Generator):
        self.rng = rng
        self.position = np.zeros(dimensions)
        self._velocity = np.zeros(dimensions)

    def restart(self) -> None:
        """Draws a new position and velocity."""
        size = len(self.position)
        self.position = self.rng.normal(0, RADIUS / size**0.5, size)
        self._velocity = self.rng.normal(0, _ACCELERATION, size)

    def step(self) -> None:
        """Advances the walk by `_TIME`."""
        push = self.rng.normal(0, _ACCELERATION, len(self.position))
        if np.linalg.norm(self.position) >= RADIUS:
            push = -_PULL * self.position
        self._velocity = (self._velocity + _TIME * push) * _DECAY**_TIME
        self.position = self.position + _TIME * self._velocity
