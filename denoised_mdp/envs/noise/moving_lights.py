"""RoboDesk's three lights swing in circles and flicker (Appendix B.1.1, code)."""

from __future__ import annotations

import dm_env
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.noise.random_layer import RandomLayer
from denoised_mdp.envs.robodesk.stage import Stage
from denoised_mdp.envs.world import World

_RADIUS = np.array([0.5, 0.5**0.5, 1.0])  # metres
_SPEED = np.array([5**0.5, 1.0, 3**-0.5]) / 30  # mean, radians per step; the standard deviation is half of it
_FASTEST = 0.8
_PITCH = np.array([1.0, 8**0.5, 28**0.5]) / 15  # radians per step, of the flicker
_SWING, _DIM, _FLICKER = 0.3, 0.15, 0.15  # the intensity's amplitude, subtracted offset, standard deviation


class MovingLights(RandomLayer):
    """Each light circles around its place in one direction; its intensity is a noisy sine, clipped to [0, 1].

    The headlight is brighter meanwhile. The reference draws an intensity for each picture; this layer draws one for
    each control step, so that a picture changes nothing.
    """

    stream = "lights"

    def __init__(self, world: World, stage: Stage, *, rng: np.random.Generator):
        super().__init__(world, rng)
        self._stage = stage
        self._angle, self._phase, self._t = np.zeros(3), np.zeros(3), 0
        self._shine()
        self.factor_kinds |= {"light_angle": "neither", "light_intensity": "neither"}
        self.factor_periods["light_angle"] = 2 * np.pi

    def reset(self) -> dm_env.TimeStep:
        self._angle, self._phase = self._rng.standard_normal((2, 3))
        self._t = 0
        self._shine()
        return super().reset()

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        self._angle = self._angle + np.clip(self._rng.normal(_SPEED, _SPEED / 2), 0, _FASTEST)
        self._t += 1
        self._shine()
        return super().step(action)

    def factors(self) -> dict[str, np.ndarray]:
        """Adds the angles (radians) and intensities (0 to 1) of the lights on the left, on the right and behind."""
        here = {"light_angle": self._angle % (2 * np.pi), "light_intensity": self._stage.light_intensity.copy()}
        return {**super().factors(), **here}

    def _shine(self) -> None:
        self._stage.light_offset = _RADIUS[:, None] * np.stack([np.sin(self._angle), np.cos(self._angle)], -1)
        mean = _SWING * np.sin(self._phase + self._t * _PITCH) - _DIM
        self._stage.light_intensity = np.clip(self._rng.normal(mean, _FLICKER), 0, 1)
