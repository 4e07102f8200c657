"""Noise on the readings of RoboDesk's buttons; their lamps and the television show it (Appendix B.1.1, code)."""

from __future__ import annotations

import dm_env
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.noise.random_layer import RandomLayer
from denoised_mdp.envs.robodesk.stage import Stage
from denoised_mdp.envs.world import World

_SLOW, _FAST = 0.295, 0.0125  # standard deviations of the correlated noise and of the white noise
_CORRELATION = 0.96**0.5
_BUTTONS = ("red_button_noise", "green_button_noise", "blue_button_noise")


class ButtonNoise(RandomLayer):
    """Adds a slow process and white noise to each reading, which is 0 at rest and 1 for a pressed button.

    The slow process starts with a standard deviation of 1. The weight of each new draw is 1 - a, not the
    (1 - a^2)^(1/2) that would keep that deviation. So the noise fades from 0.295 at a reset to 0.03 (code).
    """

    stream = "buttons"

    def __init__(self, world: World, stage: Stage, *, strength: float, rewarded: bool, rng: np.random.Generator):
        """Wraps a world that shows the stage.

        Args:
            strength: 1 is the paper's.
            rewarded: whether the reward depends on the reading of the green button.
        """
        super().__init__(world, rng)
        self._stage, self._strength = stage, strength
        self._slow = np.zeros(3)
        self._noise = stage.button_noise = np.zeros(3)
        self.factor_kinds |= {name: "neither" for name in _BUTTONS}
        if rewarded:
            self.factor_kinds["green_button_noise"] = "rewarded"

    def reset(self) -> dm_env.TimeStep:
        self._slow = self._rng.standard_normal(3)
        self._read()
        return super().reset()

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        self._slow = _CORRELATION * self._slow + (1 - _CORRELATION) * self._rng.standard_normal(3)
        self._read()
        return super().step(action)

    def factors(self) -> dict[str, np.ndarray]:
        noise = {name: np.array(value) for name, value in zip(_BUTTONS, self._noise, strict=True)}
        return {**super().factors(), **noise}

    def _read(self) -> None:
        noise = _SLOW * self._slow + _FAST * self._rng.standard_normal(3)
        self._noise = self._stage.button_noise = self._strength * noise
